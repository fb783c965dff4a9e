//! Which rides are live, and of whom, as the newest event of each ride says; and where their drivers are, on the live lane
//! (`position.rs`, `publish.rs`). No command here changes a ride: its lifecycle belongs to rides.

mod current;
pub(crate) mod position;
pub(crate) mod publish;
pub(crate) mod rows;

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use streams::event::RideEvent;
use streams::{RideId, RideStatus, UserId};

pub(crate) use current::{CurrentRide, CurrentRides, Destination, Places, RideChange};

/// How long a ride is stored after its end, so that an older event that arrives late does not make it live again.
const RETENTION: Duration = Duration::hours(24);

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LiveRide {
    pub(crate) driver_id: UserId,
    pub(crate) passenger_id: UserId,
    pub(crate) version: u32,
    pub(crate) status: RideStatus,
    pub(crate) changed_at: DateTime<Utc>,
    /// `None` in a row of the version before.
    pub(crate) places: Option<Places>,
}

impl LiveRide {
    pub(crate) fn current(&self, ride_id: RideId) -> CurrentRide {
        let Self { driver_id, passenger_id, version, status, places, .. } = *self;
        CurrentRide { ride_id, driver_id, passenger_id, version, status, places }
    }
}

/// The event with the highest version of each ride.
fn newest<'a>(events: &[&'a RideEvent]) -> BTreeMap<RideId, &'a RideEvent> {
    let mut newest: BTreeMap<RideId, &RideEvent> = BTreeMap::new();
    for event in events {
        let known = newest.entry(event.ride_id).or_insert(event);
        if known.version < event.version || streams::simulation::sabotage().no_version_check {
            *known = event;
        }
    }
    newest
}
