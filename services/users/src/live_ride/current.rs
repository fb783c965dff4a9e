//! The rides of one user at this moment, as a session knows them: from rows when it begins, then from the events that it sends. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use streams::{MatchId, Position, RideId, RideStatus, UserId};

/// Where a ride begins and ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Places {
    pub(crate) pickup: Position,
    pub(crate) dropoff: Position,
}

/// Where the vehicle of a live ride is going. A ride goes from the first to the second, and never back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Destination {
    /// Until `ride.started`.
    Pickup,
    Dropoff,
}

/// A live ride.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CurrentRide {
    pub(crate) ride_id: RideId,
    pub(crate) driver_id: UserId,
    pub(crate) passenger_id: UserId,
    pub(crate) version: u32,
    pub(crate) status: RideStatus,
    /// `None` in a row that a process of the version before wrote.
    pub(crate) places: Option<Places>,
}

impl CurrentRide {
    pub(crate) fn destination(&self) -> Destination {
        match self.status {
            RideStatus::Pickup | RideStatus::Waiting => Destination::Pickup,
            _ => Destination::Dropoff,
        }
    }

    /// How long the vehicle needs from `from` to there, in seconds, by the formula of `match.found`'s `pickup_eta_s`.
    pub(crate) fn eta_s(&self, from: &Position, to: Destination) -> Option<f64> {
        let Places { pickup, dropoff } = self.places?;
        let to = if to == Destination::Pickup { pickup } else { dropoff };
        Some(pricing::estimate(from, &to).1)
    }
}

/// What a session reads of the body of a `ride.*` event.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct RideChange {
    pub(crate) ride_id: RideId,
    pub(crate) match_id: MatchId,
    driver_id: UserId,
    passenger_id: UserId,
    version: u32,
    status: RideStatus,
    pickup: Position,
    dropoff: Position,
}

impl From<RideChange> for CurrentRide {
    fn from(change: RideChange) -> Self {
        let RideChange { ride_id, driver_id, passenger_id, version, status, pickup, dropoff, .. } = change;
        Self { ride_id, driver_id, passenger_id, version, status, places: Some(Places { pickup, dropoff }) }
    }
}

/// The live rides of one user, at most one of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct CurrentRides {
    /// The one that the user drives.
    pub(crate) driven: Option<CurrentRide>,
    /// The one in which the user is the passenger.
    pub(crate) ridden: Option<CurrentRide>,
    /// The last one that has ended: an older event of it may come late.
    ended: Option<RideId>,
}

impl CurrentRides {
    /// Those among `rides` that are the user's, of several the last.
    pub(crate) fn of(user: UserId, rides: impl IntoIterator<Item = CurrentRide>) -> Self {
        let mut current = Self::default();
        rides.into_iter().for_each(|ride| current.put(user, ride));
        current
    }

    fn put(&mut self, user: UserId, ride: CurrentRide) {
        if ride.driver_id == user {
            self.driven = Some(ride);
        }
        if ride.passenger_id == user {
            self.ridden = Some(ride);
        }
    }

    /// Applies an event. One that is older than what is known changes nothing. Only the pickup makes a ride current: nobody can start
    /// or end a ride before its parties have received that, so any other event of an unknown ride is one that comes after its end.
    pub(crate) fn apply(&mut self, user: UserId, change: RideChange) {
        let known = [self.driven, self.ridden].into_iter().flatten().find(|ride| ride.ride_id == change.ride_id);
        if self.ended == Some(change.ride_id) || known.is_some_and(|ride| ride.version >= change.version) {
            return;
        }
        if change.status.is_final() {
            self.ended = Some(change.ride_id);
            for ride in [&mut self.driven, &mut self.ridden] {
                ride.take_if(|ride| ride.ride_id == change.ride_id);
            }
        } else if known.is_some() || change.status == RideStatus::Pickup {
            self.put(user, change.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const DRIVER: UserId = UserId(Uuid::from_u128(1));
    const PASSENGER: UserId = UserId(Uuid::from_u128(2));

    fn change(ride: u128, version: u32, status: RideStatus) -> RideChange {
        let [pickup, dropoff] = [40.0, 41.0].map(|lat| Position { lat, lng: 0.0 });
        let (ride_id, match_id) = (RideId(Uuid::from_u128(ride)), MatchId(Uuid::from_u128(ride)));
        RideChange { ride_id, match_id, driver_id: DRIVER, passenger_id: PASSENGER, version, status, pickup, dropoff }
    }

    #[test]
    fn a_ride_is_current_from_its_pickup_to_its_end_for_both() {
        for user in [DRIVER, PASSENGER] {
            let mut rides = CurrentRides::default();
            let mut status = |version, status| {
                rides.apply(user, change(7, version, status));
                let (mine, none) =
                    if user == DRIVER { (rides.driven, rides.ridden) } else { (rides.ridden, rides.driven) };
                assert_eq!(none, None);
                mine.map(|ride| (ride.status, ride.destination()))
            };
            assert_eq!(status(1, RideStatus::Pickup), Some((RideStatus::Pickup, Destination::Pickup)));
            assert_eq!(status(2, RideStatus::Waiting), Some((RideStatus::Waiting, Destination::Pickup)));
            assert_eq!(status(3, RideStatus::Started), Some((RideStatus::Started, Destination::Dropoff)));
            // The older one comes again.
            assert_eq!(status(1, RideStatus::Pickup), Some((RideStatus::Started, Destination::Dropoff)));
            assert_eq!(status(4, RideStatus::Arrived), Some((RideStatus::Arrived, Destination::Dropoff)));
            assert_eq!(status(5, RideStatus::Completed), None);
            assert_eq!(status(2, RideStatus::Started), None, "it has ended");
        }
    }

    #[test]
    fn an_event_that_comes_after_the_end_makes_no_ride_current_in_a_later_session() {
        for status in [RideStatus::Started, RideStatus::Arrived, RideStatus::Completed] {
            let mut rides = CurrentRides::default();
            rides.apply(PASSENGER, change(7, 3, status));
            assert_eq!((rides.driven, rides.ridden), (None, None), "{status:?}");
        }
    }

    #[test]
    fn the_end_of_an_older_ride_leaves_the_next_one() {
        let mut rides = CurrentRides::default();
        rides.apply(PASSENGER, change(7, 1, RideStatus::Pickup));
        rides.apply(PASSENGER, change(8, 1, RideStatus::Pickup));
        rides.apply(PASSENGER, change(7, 2, RideStatus::Cancelled));
        assert_eq!(rides.ridden.map(|ride| ride.ride_id), Some(RideId(Uuid::from_u128(8))));
        rides.apply(UserId(Uuid::from_u128(3)), change(9, 1, RideStatus::Pickup));
        assert_eq!(rides.ridden.map(|ride| ride.ride_id), Some(RideId(Uuid::from_u128(8))), "of others");
    }

    #[test]
    fn the_eta_is_that_of_an_offer_and_unknown_without_places() {
        let ride = CurrentRide::from(change(7, 1, RideStatus::Pickup));
        let from = Position { lat: 40.01, lng: 0.0 };
        let [pickup, dropoff] = [Destination::Pickup, Destination::Dropoff].map(|to| ride.eta_s(&from, to).unwrap());
        assert!(
            (pickup - 1_111.95 * 1.3 / 7.0).abs() < 0.1 && (dropoff / pickup - 99.0).abs() < 0.1,
            "{pickup} {dropoff}"
        );
        assert_eq!(CurrentRide { places: None, ..ride }.eta_s(&from, Destination::Pickup), None);
    }
}
