//! Which positions go to the stream while its readers are behind: all of rides, and of a free driver one in a while, the newest.
//!
//! Without it a backlog grows to the bound of the stream, and then the oldest are dropped, points of rides among them. The readers say
//! how old what they read is (`location.lag`). If it is too old, the time between two positions of a free driver doubles with each
//! report; if it is fresh again, it shrinks.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use streams::event::LocationUpdate;
use tokio::time::Instant;

/// Positions that waited longer than this make the spacing grow.
const TOO_OLD: Duration = Duration::from_millis(500);
/// Positions that waited less than this make it shrink.
const FRESH: Duration = Duration::from_millis(250);
/// The first spacing; below half of it there is none.
const SPACING_MIN: Duration = Duration::from_millis(2);
/// A driver is in the index at least so often, whatever the load.
const SPACING_MAX: Duration = Duration::from_secs(10);
/// What of the spacing is left after a report that all is fresh.
const SHRINKS_TO: f64 = 0.9;
/// Several readers report one backlog: it makes the spacing grow once in this time.
const GROWS_EVERY: Duration = Duration::from_millis(400);
/// Without a report for so long nobody reads, and nothing is known.
const SILENCE: Duration = Duration::from_secs(5);

/// Of one pod.
#[derive(Debug, Default)]
pub(crate) struct Admission(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The time between two positions of a free driver; zero while all go out.
    spacing: Duration,
    grown_at: Option<Instant>,
    reported_at: Option<Instant>,
}

impl Admission {
    /// A reader of positions has just read one of this age.
    pub(crate) fn report(&self, age: Duration, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.reported_at = Some(now);
        if age > TOO_OLD {
            if state.grown_at.is_none_or(|at| now >= at + GROWS_EVERY) {
                state.grown_at = Some(now);
                state.spacing = (state.spacing * 2).clamp(SPACING_MIN, SPACING_MAX);
            }
        } else if age < FRESH {
            state.spacing = state.spacing.mul_f64(SHRINKS_TO);
            if state.spacing < SPACING_MIN / 2 {
                state.spacing = Duration::ZERO;
            }
        }
    }

    /// The time between two positions of a free driver.
    pub(crate) fn spacing(&self, now: Instant) -> Duration {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.reported_at {
            Some(at) if now < at + SILENCE => state.spacing,
            _ => Duration::ZERO,
        }
    }
}

/// Those of a free driver's `updates` that go out while others are left out: the newest, if `is_due`, and those that the device held
/// back, because they may belong to a ride that has ended since.
pub(crate) fn admitted(updates: &[LocationUpdate], is_due: bool) -> Vec<&LocationUpdate> {
    let is_late = |update: &LocationUpdate| update.reception.as_ref().is_some_and(|r| update.is_late(r.received_at));
    let newest = updates.iter().filter(|update| !is_late(update)).max_by_key(|update| update.recorded_at);
    let newest = newest.filter(|_| is_due);
    updates
        .iter()
        .filter(|update| is_late(update) || newest.is_some_and(|newest| std::ptr::eq(newest, *update)))
        .collect()
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};
    use streams::event::Reception;
    use streams::{Position, UserId};
    use uuid::Uuid;

    use super::*;

    const OLD: Duration = Duration::from_millis(501);
    const YOUNG: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn the_spacing_grows_while_positions_are_old_and_shrinks_when_they_are_fresh() {
        let admission = Admission::default();
        let mut now = Instant::now();
        let mut report = |age: Duration, after: Duration| {
            now += after;
            admission.report(age, now);
            admission.spacing(now)
        };
        assert_eq!(report(YOUNG, Duration::ZERO), Duration::ZERO);
        let ms = Duration::from_millis;
        let grown = [1, 2, 3].map(|_| report(OLD, GROWS_EVERY));
        assert_eq!(grown, [2, 4, 8].map(ms));
        assert_eq!(report(OLD, ms(1)), ms(8), "another reader says the same");
        assert_eq!(report(ms(300), ms(500)), ms(8), "neither old nor fresh");
        for _ in 0..100 {
            report(OLD, GROWS_EVERY);
        }
        assert_eq!(report(OLD, GROWS_EVERY), SPACING_MAX);
        assert_eq!(report(YOUNG, ms(250)), ms(9_000));
        for _ in 0..100 {
            report(YOUNG, ms(250));
        }
        assert_eq!(report(YOUNG, ms(250)), Duration::ZERO);
        report(OLD, GROWS_EVERY);
        assert_eq!(admission.spacing(now + GROWS_EVERY + SILENCE + SILENCE), Duration::ZERO, "nobody reads");
    }

    #[test]
    fn of_a_free_driver_the_newest_goes_out_and_what_the_phone_held() {
        let received_at: DateTime<Utc> = "2026-01-01T00:10:00Z".parse().unwrap();
        let update = |age_s: i64| LocationUpdate {
            user_id: UserId(Uuid::from_u128(1)),
            ride_id: None,
            location: Position { lat: 1.0, lng: 2.0 },
            accuracy_m: None,
            speed_mps: None,
            heading_deg: None,
            recorded_at: received_at - TimeDelta::seconds(age_s),
            reception: Some(Reception {
                device: String::new(),
                ride_device: false,
                device_at: received_at,
                sent_at: None,
                received_at,
            }),
        };
        let updates = [update(2), update(500), update(1), update(11), update(3)];
        let ages = |is_due| -> Vec<i64> {
            admitted(&updates, is_due).iter().map(|u| (received_at - u.recorded_at).num_seconds()).collect()
        };
        assert_eq!(ages(true), [500, 1, 11]);
        assert_eq!(ages(false), [500, 11]);
        assert!(admitted(&[], true).is_empty());
    }
}
