//! One run of the city: everybody comes, rides, winds down and goes; then the books are compared. It owns the tasks and
//! the phases of the day.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::city::{City, Phase};
use crate::clock;
use crate::config::Config;
use crate::driver::Driver;
use crate::passenger::Passenger;
use crate::progress::Progress;
use crate::ride_comparison::audit;
use crate::statistics::Count;
use crate::summary::Summary;

/// How often the run looks at the city.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After the last ride, for both parties to have seen everything.
const QUIET_LIMIT: Duration = Duration::from_secs(20);
/// At the end, what one of a ride's two people has seen the other must have seen within this.
const OTHER_PARTY_LIMIT: Duration = Duration::from_secs(10);
/// For everybody to close the connection.
const GOODBYE_LIMIT: Duration = Duration::from_secs(15);

/// Lets the city live until so many rides are completed, the requests are used up, or the time is over; winds down and
/// compares what everybody has seen. Violations of the platform's invariants are in the summary, not an error.
///
/// # Errors
/// Settings that cannot work, and a platform that nobody can sign in to. Dropping the future ends the run at once.
pub async fn run(config: Config) -> Result<Summary> {
    let start = clock::now();
    let end = start + config.time_limit;
    let closing_at = end - config.reserve();
    let skipped = config.requests.as_ref().map_or(0, |trips| trips.skipped as u64);
    let (phase, phases) = watch::channel(Phase::Open);
    let city = Arc::new(City::new(config, phases, start)?);
    let mut progress = Progress::new(city.config.progress, start);
    let mut people = JoinSet::new();
    for index in 0..city.config.drivers {
        people.spawn(Driver::live(Arc::clone(&city), index));
    }
    for index in 0..city.config.passengers {
        people.spawn(Passenger::live(Arc::clone(&city), city.config.drivers + index));
    }

    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut day = Day { closing_at, end, quiet_since: None };
    loop {
        tokio::select! {
            biased;
            Some(ended) = people.join_next() => {
                ended.context("a simulated person panicked")?.context("a simulated person could not live here")?;
                bail!("a simulated person left before the day was over");
            }
            _ = look.tick() => {}
        }
        let now = clock::now();
        city.checks().sweep(now);
        if let Some(progress) = &mut progress {
            progress.show(&city, now);
        }
        let next = day.phase(&city, now);
        if next != city.phase() {
            tracing::info!(phase = ?next, "the city's phase changes");
            phase.send_replace(next);
        }
        if next == Phase::Over {
            break;
        }
    }

    let now = clock::now();
    // Nobody has to wait for what was under way when the time was over.
    city.checks().finish(now, OTHER_PARTY_LIMIT);
    let leaving = async {
        while let Some(ended) = people.join_next().await {
            ended.context("a simulated person panicked")??;
        }
        anyhow::Ok(())
    };
    if timeout(GOODBYE_LIMIT, leaving).await.map(|left| left.context("while leaving")).is_err() {
        tracing::warn!("some simulated people did not leave in time");
    }
    people.shutdown().await;
    let audited = audit(&city).await;
    if let Some(progress) = &mut progress {
        progress.end(&city, clock::now());
    }
    let mut summary = Summary::new(clock::now().duration_since(start), &city.tally(), &city.checks());
    summary.rides_compared = audited;
    summary.skipped_requests = skipped;
    Ok(summary)
}

/// When which phase is.
struct Day {
    closing_at: Instant,
    end: Instant,
    quiet_since: Option<Instant>,
}

impl Day {
    fn phase(&mut self, city: &City, now: Instant) -> Phase {
        if now >= self.end {
            return Phase::Over;
        }
        if city.phase() == Phase::Open {
            let enough = city.tally().count(Count::Completed) >= city.config.rides as u64;
            let used_up = city.idle.value() >= city.config.passengers as i64;
            let closing = enough || used_up || now >= self.closing_at;
            return if closing { Phase::Closing } else { Phase::Open };
        }
        if city.busy.value() > 0 {
            self.quiet_since = None;
            return Phase::Closing;
        }
        let since = *self.quiet_since.get_or_insert(now);
        let quiet = city.checks().is_quiet(now);
        // The first look after the last ride may come before its last events.
        let settled = now.duration_since(since) >= 2 * LOOK_EVERY;
        let over = (quiet && settled) || now.duration_since(since) >= QUIET_LIMIT + city.config.outage;
        if over { Phase::Over } else { Phase::Closing }
    }
}
