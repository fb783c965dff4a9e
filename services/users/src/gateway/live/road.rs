//! By how much the driver of one live ride needs longer, or less long, by road than at the market's pace. Whoever shows the time never waits
//! for it: until the answer is there, and where there is none, it is that of the pace.
//!
//! Bounds: a ride is asked about once in [`ASK_INTERVAL`], and again when the vehicle has another destination; 16 questions of a
//! process are under way at once (`context.rs`). Who finds no place among them is asked about with a later frame.

use chrono::{DateTime, Duration, Utc};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use roads::{Road, Roads};
use streams::Position;
use tokio::sync::Semaphore;

use crate::live_ride::Destination;

/// Until the next question about the same ride and destination.
const ASK_INTERVAL: Duration = Duration::seconds(30);
/// Nearer than this to the destination, in seconds, the last answer goes on to count: the side of the street would decide.
const NEAR_S: f64 = 30.0;

/// Of one ride.
#[derive(Debug, Default)]
pub(super) struct RoadScale {
    asked: Option<(Destination, DateTime<Utc>)>,
    /// The time by road divided by that at the pace.
    scale: Option<(Destination, f64)>,
}

impl RoadScale {
    /// Whether it is to be asked how long the driver needs by road, who needs `eta_s` at the pace. It counts as asked.
    fn take_due(&mut self, to: Destination, eta_s: f64, now: DateTime<Utc>) -> bool {
        let is_due = self.asked.is_none_or(|(before, at)| before != to || at + ASK_INTERVAL <= now) && eta_s >= NEAR_S;
        if is_due {
            self.asked = Some((to, now));
        }
        is_due
    }

    /// Asks `roads`, if it is time to and there is a place among the questions under way.
    pub(super) fn ask<'a>(
        &mut self,
        (roads, permits): (&'a Roads, &'a Semaphore),
        (from, to): (Position, (Destination, Position)),
        eta_s: f64,
        now: DateTime<Utc>,
    ) -> Option<BoxFuture<'a, Option<(Destination, f64)>>> {
        let permit = permits.try_acquire().ok()?;
        let (destination, to) = to;
        if !self.take_due(destination, eta_s, now) {
            return None;
        }
        let asked = async move {
            let road = roads.way(from, to).await;
            drop(permit);
            match road {
                Some(Road::Leg(leg)) => Some((destination, leg.duration_s / eta_s)),
                Some(Road::None) | None => None,
            }
        };
        Some(asked.boxed())
    }

    /// What `roads` said. Without an answer the last one goes on to count.
    pub(super) fn receive(&mut self, answer: Option<(Destination, f64)>) {
        self.scale = answer.or(self.scale);
    }

    /// By road, what is `eta_s` at the pace.
    pub(super) fn scaled(&self, to: Destination, eta_s: f64) -> f64 {
        self.scale.filter(|(of, _)| *of == to).map_or(eta_s, |(_, scale)| eta_s * scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ride_is_asked_about_each_half_minute_and_at_once_for_another_destination() {
        use Destination::{Dropoff, Pickup};
        let at = |second| DateTime::UNIX_EPOCH + Duration::seconds(second);
        let mut scale = RoadScale::default();
        let asked: Vec<bool> = [(Pickup, 29.0, 0), (Pickup, 90.0, 1), (Pickup, 80.0, 30), (Pickup, 70.0, 31)]
            .map(|(to, eta_s, second)| scale.take_due(to, eta_s, at(second)))
            .into();
        assert_eq!(asked, [false, true, false, true]);
        assert_eq!(scale.scaled(Pickup, 70.0), 70.0, "no answer is there");
        scale.receive(Some((Pickup, 1.5)));
        assert_eq!(scale.scaled(Pickup, 60.0), 90.0);
        scale.receive(None);
        assert_eq!(scale.scaled(Pickup, 40.0), 60.0, "nobody can say: the last answer counts");
        assert!(scale.take_due(Dropoff, 600.0, at(32)));
        assert_eq!(scale.scaled(Dropoff, 600.0), 600.0, "the answer was of the way to the pickup");
        scale.receive(Some((Dropoff, 0.5)));
        assert_eq!(scale.scaled(Dropoff, 600.0), 300.0);
    }
}
