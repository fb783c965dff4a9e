//! Which rides are live, and of whom, as the newest event of each ride says. No command here changes them: the lifecycle of
//! a ride belongs to rides.

pub(crate) mod rows;

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use streams::event::RideEvent;
use streams::{RideId, RideStatus, UserId};

/// How long a ride is stored after its end, so that an older event that arrives late does not make it live again.
const RETENTION: Duration = Duration::hours(24);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LiveRide {
    pub(crate) driver_id: UserId,
    pub(crate) passenger_id: UserId,
    pub(crate) version: u32,
    pub(crate) status: RideStatus,
    pub(crate) changed_at: DateTime<Utc>,
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
