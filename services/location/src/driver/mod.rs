//! What is stored of a driver: the newest beacon, and a place that a restart begins with. Pure.
//!
//! A beacon is a row in the transaction that handles it. A place is written from time to time (`handlers.rs`), and only of drivers
//! who moved: a row may be a little older than what the processes know.

pub(crate) mod rows;

use chrono::{DateTime, SubsecRound, Utc};
use geospatial::newest::{Newest, Place};
use streams::event::UserBeacon;
use streams::{UserId, VehicleType};

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DriverRow {
    pub(crate) user_id: UserId,
    /// As the newest beacon says.
    pub(crate) active: bool,
    pub(crate) vehicle_type: VehicleType,
    /// When the newest beacon was recorded.
    pub(crate) beacon_at: DateTime<Utc>,
    /// The device of the newest active beacon, if its sender names it.
    pub(crate) beacon_device: Option<String>,
    pub(crate) place: Place,
    /// The device that measured the place.
    pub(crate) device: String,
    /// When a beacon last changed the row; positions do not.
    pub(crate) changed_at: DateTime<Utc>,
}

impl DriverRow {
    /// The row after a beacon that the stream stored at `stored_at`.
    pub(crate) fn after(
        known: Option<&Self>,
        beacon: &UserBeacon,
        stored_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let mut newest = known.map(Self::newest).unwrap_or_default();
        newest.beacon(beacon, stored_at);
        let says = match known {
            Some(known) if beacon.recorded_at < known.beacon_at => (known.active, known.vehicle_type, known.beacon_at),
            _ => (beacon.active, beacon.vehicle_type, micros(beacon.recorded_at)),
        };
        Some(Self {
            user_id: beacon.user_id,
            active: says.0,
            vehicle_type: says.1,
            beacon_at: says.2,
            beacon_device: newest.beacon_device().map(str::to_owned),
            place: stored(newest.place()?),
            device: newest.device().to_owned(),
            changed_at: micros(now),
        })
    }

    pub(crate) fn newest(&self) -> Newest {
        let mut newest = Newest::default();
        self.restore(&mut newest);
        newest
    }

    /// Adds what the row says to what is known.
    pub(crate) fn restore(&self, newest: &mut Newest) {
        newest.restore_beacon(self.beacon_at, self.beacon_device.as_deref());
        newest.restore(self.place, &self.device);
    }
}

/// The part of a place that is stored.
pub(crate) fn stored(place: &Place) -> Place {
    Place {
        position: place.position,
        speed_mps: None,
        heading_deg: None,
        ride_id: None,
        ride_device: false,
        device_at: micros(place.device_at),
        recorded_at: micros(place.recorded_at),
        received_at: micros(place.received_at),
        is_beacon: place.is_beacon,
    }
}

/// Cuts to the precision of PostgreSQL.
fn micros(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(6)
}
