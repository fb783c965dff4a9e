//! Drivers' beacons, and who is connected where: they decide which drivers may be offered rides. A driver is available
//! while the beacon is active and a socket is open on any pod. There is one row for each pod and user with a socket there, and one lease
//! for each pod; what comes over a socket touches neither.
//!
//! A beacon is published when something changes, not to say that the driver is still there: the socket says that.
//!
//! A transaction that changes the sockets of a driver locks the beacon's row first, so that the last socket to close and
//! the next to open see each other.

pub(crate) mod connected;
pub(crate) mod known;
pub(crate) mod lease;
pub(crate) mod rows;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use streams::event::UserBeacon;
use streams::{Event, Position, UserId, VehicleType};
use uuid::Uuid;

/// A beacon is published again when the driver is farther than this from the place of the last one. Positions say the rest.
pub(crate) const MOVED_M: f64 = 500.0;
/// A pod that did not touch its lease for this long is dead. (A process of the version before touches a row for each socket.)
const STALE_AFTER: Duration = Duration::seconds(60);

/// One start of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) incarnation: Uuid,
    /// POD_ID.
    pub(crate) id: Arc<str>,
}

/// Where frames for a user go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Route {
    /// The pod with this id.
    Pod(Arc<str>),
    /// A process of the version before: it subscribes to a subject of the user.
    PreviousVersion,
}

/// The newest beacon of a driver.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Beacon {
    pub(crate) user_id: UserId,
    /// Whether the driver wants to be offered rides.
    pub(crate) active: bool,
    /// Whether a socket of the driver is open on any pod.
    pub(crate) connected: bool,
    pub(crate) vehicle_type: VehicleType,
    pub(crate) location: Position,
    /// When the location was received.
    pub(crate) located_at: DateTime<Utc>,
    /// The device that sent the newest active beacon; `None` before there was one.
    pub(crate) device: Option<Arc<str>>,
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

/// Where a driver was, and when that was received.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Located {
    pub(crate) location: Position,
    pub(crate) at: DateTime<Utc>,
}

/// Where this pod knows a driver.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct KnownPlaces {
    /// The newest place.
    pub(crate) newest: Option<Located>,
    /// The newest place that was published: where all others know the driver.
    pub(crate) published: Option<Position>,
}

impl Beacon {
    fn is_available(&self) -> bool {
        self.active && self.connected
    }

    /// The beacon as the stream has it, if the last change was published.
    pub(crate) fn event(&self) -> UserBeacon {
        UserBeacon {
            user_id: self.user_id,
            active: self.is_available(),
            vehicle_type: self.vehicle_type,
            location: self.location,
            recorded_at: self.published_at,
            located_at: Some(self.located_at),
            device: self.device.as_deref().map(str::to_owned),
        }
    }

    /// The event of the beacon as it is now.
    fn publish(&mut self, now: DateTime<Utc>) -> Event {
        self.published_at = now.max(self.published_at + Duration::microseconds(1));
        Event::UserBeacon(self.event())
    }

    /// Takes over a newer place that this pod knows.
    fn at(&self, known: Option<Located>) -> Self {
        match known {
            Some(known) if known.at > self.located_at => {
                Self { location: known.location, located_at: known.at, ..self.clone() }
            }
            _ => self.clone(),
        }
    }

    /// The beacon after a socket of the driver opened, with its event if it is active; `None` if one was open before.
    pub(crate) fn connect(&self, known: Option<Located>, now: DateTime<Utc>) -> Option<(Self, Option<Event>)> {
        if self.connected { None } else { Some(Self { connected: true, ..self.at(known) }.publish_if_active(now)) }
    }

    /// The beacon after the last socket of the driver closed, with its event if it was active; `None` if none was open.
    pub(crate) fn disconnect(&self, known: Option<Located>, now: DateTime<Utc>) -> Option<(Self, Option<Event>)> {
        if self.connected { Some(Self { connected: false, ..self.at(known) }.publish_if_active(now)) } else { None }
    }

    /// The beacon of a driver who may not drive any more, with its event if it was available; `None` if it is inactive already.
    pub(crate) fn off_duty(&self, now: DateTime<Utc>) -> Option<(Self, Option<Event>)> {
        let was_available = self.is_available();
        let mut next = Self { active: false, ..self.clone() };
        let event = was_available.then(|| next.publish(now));
        self.active.then_some((next, event))
    }

    /// The beacon of another vehicle, with its event if it is available.
    pub(crate) fn with_vehicle(&self, vehicle_type: VehicleType, now: DateTime<Utc>) -> (Self, Option<Event>) {
        let mut next = Self { vehicle_type, ..self.clone() };
        let event = next.is_available().then(|| next.publish(now));
        (next, event)
    }

    fn publish_if_active(mut self, now: DateTime<Utc>) -> (Self, Option<Event>) {
        let event = self.active.then(|| self.publish(now));
        (self, event)
    }

    /// The beacon of an available driver at a new place, with its event; `None` if it is within [`MOVED_M`] of the last one.
    pub(crate) fn moved(&self, to: Located, now: DateTime<Utc>) -> Option<(Self, Event)> {
        let is_due = self.is_available() && to.at > self.located_at && self.location.distance_m(&to.location) > MOVED_M;
        is_due.then(|| {
            let mut next = self.at(Some(to));
            let event = next.publish(now);
            (next, event)
        })
    }
}

/// The beacon after an update over an open socket of `device`, with its event. `None` if nothing has changed: a repeat, or a move of
/// [`MOVED_M`] at most from the last beacon and from where others know the driver; or for a driver who becomes inactive without a location and
/// has no beacon yet.
pub(crate) fn updated(
    known: Option<&Beacon>,
    user_id: UserId,
    vehicle_type: VehicleType,
    update: BeaconUpdate,
    device: &Arc<str>,
    places: KnownPlaces,
    now: DateTime<Utc>,
) -> Option<(Beacon, Event)> {
    let (active, location) = match update {
        BeaconUpdate::Active(location) => (true, Some(location)),
        BeaconUpdate::Inactive(location) => (false, location),
    };
    let known_place = known.map(|k| k.at(places.newest)).map(|k| Located { location: k.location, at: k.located_at });
    let Located { location, at } = location.map(|location| Located { location, at: now }).or(known_place)?;
    let known_device = known.and_then(|k| k.device.clone());
    let is_due = known.is_none_or(|known| {
        known.is_available() != active
            || known.vehicle_type != vehicle_type
            || active && known.device.as_ref() != Some(device)
            || known.location.distance_m(&location) > MOVED_M
            || active && places.published.is_some_and(|published| published.distance_m(&location) > MOVED_M)
    });
    is_due.then(|| {
        let mut next = Beacon {
            user_id,
            active,
            connected: true,
            vehicle_type,
            location,
            located_at: at,
            device: if active { Some(device.clone()) } else { known_device },
            published_at: known.map_or(DateTime::UNIX_EPOCH, |k| k.published_at),
        };
        let event = next.publish(now);
        (next, event)
    })
}
