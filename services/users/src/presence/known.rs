//! What this pod knows of a driver who has a socket here: the newest place, from beacons and positions, the live ride, and the device
//! that accepted an offer. Pure. It is a hint: the rows decide, and another pod may know more.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use geospatial::newest::{Fix, Newest};
use streams::connected_drivers::ConnectedDriver;
use streams::event::{LocationUpdate, UserBeacon};
use streams::{MatchId, Position, RideId, UserId};

use super::{KnownPlaces, Located, MOVED_M};

#[derive(Debug, Default)]
pub(crate) struct KnownDriver {
    newest: Newest,
    /// The newest place that came with an event.
    published: Option<Position>,
    /// The place of the last beacon of an available driver.
    beacon_at: Option<Position>,
    ride: Option<RideId>,
    /// The newest offer that was accepted, and the device that accepted it.
    accepted: Option<(MatchId, Arc<str>)>,
}

impl KnownDriver {
    /// A beacon that was published, or its row.
    pub(crate) fn record_beacon(&mut self, beacon: &UserBeacon) {
        if self.newest.beacon(beacon, beacon.recorded_at) {
            self.published = Some(beacon.location);
        }
        self.beacon_at = beacon.active.then_some(beacon.location);
    }

    /// Whether the last beacon that this pod knows is active. Only an approved driver's is, until a suspension.
    pub(crate) fn is_on_duty(&self) -> bool {
        self.beacon_at.is_some()
    }

    /// A `beacon.update` that was too near to the last one to be published.
    pub(crate) fn record_place(&mut self, beacon: &UserBeacon, now: DateTime<Utc>) {
        self.newest.beacon(beacon, now);
    }

    /// Positions that the stream has stored. True if a beacon is due.
    pub(crate) fn record_positions(&mut self, updates: &[LocationUpdate], received_at: DateTime<Utc>) -> bool {
        for update in updates {
            if self.newest.update(&Fix::of(update, received_at)) {
                self.published = Some(update.location);
            }
        }
        self.is_due()
    }

    /// The ride to which the driver's positions belong. True if a beacon is due, because the ride is over.
    pub(crate) fn set_ride(&mut self, ride: Option<RideId>) -> bool {
        let changed = std::mem::replace(&mut self.ride, ride) != ride;
        changed && self.is_due()
    }

    /// Whether an available driver without a ride is farther from the last beacon than [`MOVED_M`].
    fn is_due(&self) -> bool {
        let (Some(beacon_at), None, Some(position)) = (self.beacon_at, self.ride, self.newest.position()) else {
            return false;
        };
        beacon_at.distance_m(&position) > MOVED_M
    }

    /// The place of which a beacon is due.
    pub(crate) fn due(&self) -> Option<Located> {
        self.is_due().then(|| self.located()).flatten()
    }

    /// Where the driver is, for other services; `None` if the driver is neither on duty nor in a ride, or no place is known.
    pub(crate) fn connected(&self, user_id: UserId) -> Option<ConnectedDriver> {
        let position = self.newest.newest_position().filter(|_| self.is_on_duty() || self.ride.is_some())?;
        let ride_id = self.newest.place().and_then(|place| place.ride_id).filter(|ride| self.ride == Some(*ride));
        Some(ConnectedDriver { user_id, ride_id, position })
    }

    pub(crate) fn located(&self) -> Option<Located> {
        self.newest.place().map(|place| Located { location: place.position, at: place.received_at })
    }

    pub(crate) fn places(&self) -> KnownPlaces {
        KnownPlaces { newest: self.located(), published: self.published }
    }

    pub(crate) fn set_accepted(&mut self, id: MatchId, device: Arc<str>) {
        self.accepted = Some((id, device));
    }

    /// The device that accepted the offer.
    pub(crate) fn accepted_on(&self, id: MatchId) -> Option<Arc<str>> {
        self.accepted.as_ref().filter(|(accepted, _)| *accepted == id).map(|(_, device)| device.clone())
    }
}
