//! Calls for help: a party of a ride raises one, operators learn of it through a webhook, and positions go to them until they close it, also
//! after the end of the ride. Pure; `rows` has the table, `routes` the route, `sink` what is sent.
//!
//! What is raised is a row first. A row is sent until the sink accepts it, for a day; then it is dead, which is an error in the log and in the
//! metric. One person's calls on one ride are one alert: a repeat brings a newer place, and after an operator has closed it, it is raised again as
//! the next round.

pub(crate) mod routes;
pub(crate) mod rows;
pub mod sink;

pub use routes::{close_alert, open_alerts};

use chrono::{DateTime, Duration, Utc};
use platform::{Problem, plain_text};
use streams::{Position, RideId, UserId};
use uuid::Uuid;

use crate::ride::Ride;

/// How long after the end of a ride its parties may call.
const AFTER_END: Duration = Duration::minutes(30);
/// An alert that nobody closes ends, and one that the sink does not accept is dead, after this time.
pub(crate) const OPEN_MAX: Duration = Duration::hours(24);
/// The time between two positions of one alert.
pub(crate) const POSITIONS_EVERY: Duration = Duration::seconds(5);
/// The most characters of a note.
const NOTE_MAX: usize = 500;

/// The row of an alert.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    pub sos_id: Uuid,
    pub ride_id: RideId,
    /// Who called.
    pub user: UserId,
    /// 1 when it was first raised; one more each time that it is raised after an operator has closed it.
    pub round: i32,
    pub raised_at: DateTime<Utc>,
    pub note: Option<String>,
    /// Where that person said they are, and when.
    pub place: Option<(Position, DateTime<Utc>)>,
    pub delivery: Delivery,
    pub positions_at: DateTime<Utc>,
    pub position_of: Option<DateTime<Utc>>,
    pub closed: Option<(DateTime<Utc>, String)>,
}

/// What became of an alert's round at the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    pub accepted_at: Option<DateTime<Utc>>,
    pub tries: i32,
    pub next_try_at: DateTime<Utc>,
    pub dead_at: Option<DateTime<Utc>>,
}

impl Delivery {
    fn due(now: DateTime<Utc>) -> Self {
        Self { accepted_at: None, tries: 0, next_try_at: now, dead_at: None }
    }
}

/// What a client calls with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) location: Option<Position>,
    pub(crate) note: Option<String>,
}

impl Call {
    /// # Errors
    /// A problem with the field `location` or `note`.
    pub(crate) fn new(location: Option<Position>, note: Option<&str>) -> Result<Self, Problem> {
        if location.is_some_and(|location| !location.is_valid()) {
            return Err(Problem::field(
                "location",
                "must be a latitude within ±90 and a longitude within ±180 degrees",
            ));
        }
        let note = note.and_then(plain_text::line);
        if note.as_ref().is_some_and(|note| note.chars().count() > NOTE_MAX) {
            return Err(Problem::field("note", format!("must have at most {NOTE_MAX} characters")));
        }
        Ok(Self { location, note })
    }
}

/// The alert after a call of `user`, a party of `ride`, who may have called before; `new_id` is that of a first one.
///
/// # Errors
/// `ride_over`, half an hour after its end, unless an alert is open.
pub(crate) fn raise(
    ride: &Ride,
    user: UserId,
    known: Option<Alert>,
    call: Call,
    new_id: Uuid,
    now: DateTime<Utc>,
) -> Result<Alert, Problem> {
    let place = call.location.map(|location| (location, now));
    match known {
        Some(open) if open.closed.is_none() => {
            Ok(Alert { place: place.or(open.place), note: open.note.clone().or(call.note), ..open })
        }
        _ if ride.status.is_final() && now > ride.updated_at + AFTER_END => {
            Err(Problem::conflict("ride_over", "the ride was over half an hour ago: call the emergency number"))
        }
        known => Ok(Alert {
            sos_id: known.as_ref().map_or(new_id, |closed| closed.sos_id),
            ride_id: ride.ride_id,
            user,
            round: known.as_ref().map_or(1, |closed| closed.round + 1),
            raised_at: now,
            note: call.note,
            place,
            delivery: Delivery::due(now),
            positions_at: now,
            position_of: None,
            closed: None,
        }),
    }
}

/// The pause after so many tries: 1 s, doubling, at most a minute. The first few are soon, because somebody waits.
pub(crate) fn pause_after(tries: i32) -> Duration {
    let doublings = u32::try_from(tries.clamp(1, 7) - 1).unwrap_or_default();
    Duration::seconds(i64::from(2_u32.pow(doublings)).min(60))
}

#[cfg(test)]
mod tests {
    use streams::RideStatus;

    use super::*;
    use crate::ride::tests::{accepted, at};

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn call(lat: f64, note: Option<&str>) -> Call {
        Call::new(Some(Position { lat, lng: 10.0 }), note).unwrap()
    }

    #[test]
    fn one_persons_calls_on_a_ride_are_one_alert_until_it_is_closed() {
        let live = Ride::create(&accepted(), RideId(id(9)), None, at(0)).ride;
        let over = Ride { status: RideStatus::Completed, ..live.clone() };
        let passenger = live.passenger_id;
        let first = raise(&live, passenger, None, call(60.0, Some("help")), id(1), at(1)).unwrap();
        assert_eq!((first.round, first.raised_at, first.delivery), (1, at(1), Delivery::due(at(1))));
        // A repeat brings a newer place, long after the end too, and no second alert.
        let late = AFTER_END.num_seconds() + 100;
        let again = raise(&over, passenger, Some(first.clone()), call(61.0, None), id(2), at(late)).unwrap();
        assert_eq!(
            (again.sos_id, again.round, again.raised_at, again.note.as_deref()),
            (id(1), 1, at(1), Some("help"))
        );
        assert_eq!(again.place, Some((Position { lat: 61.0, lng: 10.0 }, at(late))));
        // Closed: a new call is the next round of the same, as long as the ride is not long over.
        let closed = Alert { closed: Some((at(5), "safe".to_owned())), ..first };
        let next = raise(&live, passenger, Some(closed.clone()), call(62.0, None), id(3), at(6)).unwrap();
        assert_eq!((next.sos_id, next.round, next.closed, next.delivery.tries), (id(1), 2, None, 0));
        let refused = |known, now| raise(&over, passenger, known, call(60.0, None), id(4), at(now)).map_err(|p| p.code);
        assert!(refused(None, AFTER_END.num_seconds()).is_ok());
        assert_eq!(refused(None, AFTER_END.num_seconds() + 1), Err("ride_over".into()));
        assert_eq!(refused(Some(closed), AFTER_END.num_seconds() + 1), Err("ride_over".into()));
    }

    #[test]
    fn calls_are_checked_and_pauses_grow() {
        let wrong = Call::new(Some(Position { lat: 91.0, lng: 0.0 }), None).unwrap_err();
        assert_eq!(wrong.field.as_deref(), Some("location"));
        assert_eq!(Call::new(None, Some(&"x".repeat(NOTE_MAX + 1))).unwrap_err().field.as_deref(), Some("note"));
        assert_eq!(Call::new(None, Some(" a\n b ")).unwrap().note.as_deref(), Some("a b"));
        let pauses = [0, 1, 2, 3, 6, 7, 1_000].map(|tries| pause_after(tries).num_seconds());
        assert_eq!(pauses, [1, 1, 2, 4, 32, 60, 60]);
    }
}
