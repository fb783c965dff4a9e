//! One run of the city: people sign in and ride, finish, and disconnect; then what they saw is checked. It owns their tasks
//! and the phase.

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
use crate::ride_comparison::compare_rides;
use crate::statistics::Counter;
use crate::summary::Summary;

/// How often the checker runs and the phase is decided.
const TICK: Duration = Duration::from_millis(250);
/// The wait after the last ride until both parties have received everything.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);
/// At the end, what one party of a ride received longer ago than this, the other must have received too.
const OTHER_PARTY_LIMIT: Duration = Duration::from_secs(10);
/// The wait until everybody has disconnected.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs the city until so many rides are completed, the requests are used up, or the time limit is near; finishes what is in
/// progress, and checks what everybody received. A violated invariant of the platform is in the summary, not an error.
/// Dropping the future ends the run at once.
///
/// # Errors
/// Settings that cannot work, or a platform at which nobody can sign in.
pub async fn run(config: Config) -> Result<Summary> {
    let start = clock::now();
    let end = start + config.time_limit;
    let closing_at = end - config.reserved_for_wind_down();
    let skipped_trips = config.requests.as_ref().map_or(0, |trips| trips.left_out.rows as u64);
    let (phase, phases) = watch::channel(Phase::Open);
    let city = Arc::new(City::new(config, phases, start)?);
    let mut progress = city.config.progress.then(|| Progress::new(start));
    let mut people = JoinSet::new();
    for index in 0..city.config.drivers {
        people.spawn(Driver::run(Arc::clone(&city), index));
    }
    for index in 0..city.config.passengers {
        people.spawn(Passenger::run(Arc::clone(&city), city.config.drivers + index));
    }
    run_phases(&city, &phase, &mut people, &mut progress, PhaseRule { closing_at, end, idle_since: None }).await?;
    // Checked now: what is in progress at the time limit may still be finished while people disconnect.
    city.checker().finish(clock::now(), OTHER_PARTY_LIMIT);
    check_billed(&city);
    disconnect(&mut people).await;
    let rides_compared = compare_rides(&city).await;
    if let Some(progress) = &mut progress {
        progress.end(&city, clock::now());
    }
    let mut summary = Summary::new(clock::now().duration_since(start), &city.statistics(), &city.checker());
    summary.rides_compared = rides_compared;
    summary.skipped_trips = skipped_trips;
    Ok(summary)
}

/// Checks and decides the phase every [`TICK`], until it is [`Phase::Over`].
async fn run_phases(
    city: &City,
    phase: &watch::Sender<Phase>,
    people: &mut JoinSet<Result<()>>,
    progress: &mut Option<Progress>,
    mut rule: PhaseRule,
) -> Result<()> {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            Some(ended) = people.join_next() => {
                ended.context("a simulated person panicked")?.context("a simulated person could not take part")?;
                bail!("a simulated person left before the run was over");
            }
            _ = ticks.tick() => {}
        }
        let now = clock::now();
        city.checker().report_overdue(now);
        if let Some(progress) = progress {
            progress.show(city, now);
        }
        let next = rule.phase(city, now);
        if next != city.phase() {
            tracing::debug!(phase = ?next, "the city enters a new phase");
            phase.send_replace(next);
        }
        if next == Phase::Over {
            return Ok(());
        }
    }
}

/// What is billed must be what was driven.
fn check_billed(city: &City) {
    let (rides, billed) = {
        let statistics = city.statistics();
        (statistics.billed_share.count(), statistics.billed_of_all())
    };
    if let (Some(tolerance), Some(billed)) = (city.config.billed_tolerance_of(rides), billed)
        && (billed - 1.0).abs() > tolerance
    {
        city.checker().violation(format!(
            "{rides} rides: {billed:.3} of the distance that was driven is billed, and not 1 ± {tolerance:.3}"
        ));
    }
}

async fn disconnect(people: &mut JoinSet<Result<()>>) {
    let ended = async {
        while let Some(ended) = people.join_next().await {
            ended.context("a simulated person panicked")??;
        }
        anyhow::Ok(())
    };
    match timeout(DISCONNECT_TIMEOUT, ended).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = format!("{error:#}"), "a simulated person failed while disconnecting"),
        Err(_) => tracing::warn!("some simulated people did not disconnect within {DISCONNECT_TIMEOUT:?}"),
    }
    people.shutdown().await;
}

/// Decides when which phase begins.
struct PhaseRule {
    closing_at: Instant,
    end: Instant,
    /// In [`Phase::Closing`]: since when no passenger searches or rides.
    idle_since: Option<Instant>,
}

impl PhaseRule {
    fn phase(&mut self, city: &City, now: Instant) -> Phase {
        if now >= self.end {
            return Phase::Over;
        }
        if city.phase() == Phase::Open {
            let completed = city.statistics().count(Counter::RidesCompleted) >= city.config.rides as u64;
            let used_up = city.without_request.value() >= city.config.passengers as i64;
            let closing = completed || used_up || now >= self.closing_at;
            return if closing { Phase::Closing } else { Phase::Open };
        }
        if city.busy.value() > 0 {
            self.idle_since = None;
            return Phase::Closing;
        }
        let idle_for = now.duration_since(*self.idle_since.get_or_insert(now));
        // The first tick after the last ride may come before its last events.
        let settled = city.checker().is_settled(now) && idle_for >= 2 * TICK;
        if settled || idle_for >= SETTLE_TIMEOUT + city.config.outage { Phase::Over } else { Phase::Closing }
    }
}
