//! Drivers' beacons and everybody's open sockets: they decide which drivers may be offered rides. A driver is available
//! while the beacon is active and a socket is open on any pod.
//!
//! A transaction that changes the sockets of a driver locks the beacon's row first, so that the last socket to close and
//! the next to open see each other.

pub(crate) mod rows;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Duration, Utc};
use streams::event::UserBeacon;
use streams::{Event, Position, UserId, VehicleType};

/// After this time an unchanged beacon is published again, which tells match that the driver is still there.
const REPEAT_AFTER: Duration = Duration::seconds(15);
/// Pods touch the rows of their sockets. A socket that was not touched for this long belongs to a dead pod.
const STALE_AFTER: Duration = Duration::seconds(60);

/// The newest beacon of a driver.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Beacon {
    pub(crate) user_id: UserId,
    /// Whether the driver wants to be offered rides.
    pub(crate) active: bool,
    /// Whether a socket of the driver is open on any pod.
    pub(crate) connected: bool,
    pub(crate) vehicle_type: VehicleType,
    pub(crate) location: Position,
    /// The time of the newest event. The next event has a later one, because message ids contain it.
    pub(crate) published_at: DateTime<Utc>,
}

/// The `beacon.update` of a driver.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum BeaconUpdate {
    Active(Position),
    /// Without a location the known one stays.
    Inactive(Option<Position>),
}

impl Beacon {
    fn is_available(&self) -> bool {
        self.active && self.connected
    }

    /// The event of the beacon as it is now.
    fn publish(&mut self, now: DateTime<Utc>) -> Event {
        self.published_at = now.max(self.published_at + Duration::microseconds(1));
        Event::UserBeacon(UserBeacon {
            user_id: self.user_id,
            active: self.is_available(),
            vehicle_type: self.vehicle_type,
            location: self.location,
            recorded_at: self.published_at,
            located_at: None,
        })
    }

    /// The beacon after a socket of the driver opened, with its event if it is active; `None` if one was open before.
    pub(crate) fn connect(&self, now: DateTime<Utc>) -> Option<(Self, Option<Event>)> {
        if self.connected { None } else { Some(Self { connected: true, ..*self }.publish_if_active(now)) }
    }

    /// The beacon after the last socket of the driver closed, with its event if it was active; `None` if none was open.
    pub(crate) fn disconnect(&self, now: DateTime<Utc>) -> Option<(Self, Option<Event>)> {
        if self.connected { Some(Self { connected: false, ..*self }.publish_if_active(now)) } else { None }
    }

    fn publish_if_active(mut self, now: DateTime<Utc>) -> (Self, Option<Event>) {
        let event = self.active.then(|| self.publish(now));
        (self, event)
    }
}

/// The beacon after an update over an open socket, with its event unless an equal one is less than [`REPEAT_AFTER`] old.
/// `None` for a driver who becomes inactive without a location and has no beacon yet.
pub(crate) fn updated(
    known: Option<&Beacon>,
    user_id: UserId,
    vehicle_type: VehicleType,
    update: BeaconUpdate,
    now: DateTime<Utc>,
) -> Option<(Beacon, Option<Event>)> {
    let (active, location) = match update {
        BeaconUpdate::Active(location) => (true, Some(location)),
        BeaconUpdate::Inactive(location) => (false, location),
    };
    let location = location.or(known.map(|k| k.location))?;
    let mut next =
        Beacon { user_id, active, connected: true, vehicle_type, location, published_at: DateTime::UNIX_EPOCH };
    let is_due = match known {
        None => true,
        Some(known) => {
            next.published_at = known.published_at;
            known.is_available() != active
                || known.location != location
                || known.vehicle_type != vehicle_type
                || now - known.published_at >= REPEAT_AFTER
        }
    };
    let event = is_due.then(|| next.publish(now));
    Some((next, event))
}
