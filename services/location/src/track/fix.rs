//! What a track is made of, and what is known of it. Pure.

use chrono::{DateTime, Duration, Utc};
use geospatial::device_clock::Reading;
use streams::Position;
use streams::event::TrackPoint;

/// So long before the start and after the arrival, fixes help to find the places at these moments.
pub(super) const AROUND: Duration = Duration::seconds(120);
/// One position as a device of the driver sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The installation of the app; empty for the unnamed one and for a foreign producer.
    pub device: String,
    /// Whether this device accepted the ride. True if nobody says which device it is.
    pub ride_device: bool,
    /// When the device measured it, by its own clock. `None` from a foreign producer, whose time needs no correction.
    pub device_at: Option<DateTime<Utc>>,
    /// When the device sent it, by its own clock, if it says so.
    pub sent_at: Option<DateTime<Utc>>,
    /// When the platform received it, by the server's clock.
    pub received_at: DateTime<Utc>,
    /// When the device measured it, by the server's clock as far as users knew the device's.
    pub recorded_at: DateTime<Utc>,
    pub position: Position,
    /// Radius of uncertainty; `None` if the device does not say.
    pub accuracy_m: Option<f64>,
    pub speed_mps: Option<f64>,
}

impl Point {
    pub(super) fn reading(&self) -> Option<Reading> {
        let device_at = self.device_at?;
        Some(Reading { device_at, sent_at: self.sent_at, received_at: self.received_at })
    }
}

/// A place at a time of the server's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fix {
    pub(super) recorded_at: DateTime<Utc>,
    pub(super) position: Position,
    /// Radius of uncertainty; `None` if the device does not say.
    pub(super) accuracy_m: Option<f64>,
}

/// What the events of a ride say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RideTimes {
    pub started_at: DateTime<Utc>,
    /// `None` while the ride is under way.
    pub arrived_at: Option<DateTime<Utc>>,
    /// Where the passenger wanted to get in and out, if the events said so.
    pub pickup: Option<Position>,
    pub dropoff: Option<Position>,
}

impl RideTimes {
    pub(super) fn contains(&self, at: DateTime<Utc>) -> bool {
        self.started_at <= at && self.arrived_at.is_none_or(|to| at <= to)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TrackSummary {
    /// To the centimetre.
    pub distance_m: f64,
    /// Fixes on the track from start to arrival; jumps, repeated places and fixes of other devices are not.
    pub points: u64,
    /// The newest of them.
    pub last: Option<TrackPoint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measured {
    pub summary: TrackSummary,
    /// The part of the time between start and arrival that the fixes show, 0 to 1.
    pub covered: f64,
    /// The points of the devices that count show the ride up to the arrival: they hold nothing more of it.
    pub is_complete: bool,
    /// They reach the arrival, whatever is missing before it.
    pub reaches_arrival: bool,
}

/// The place at `part` of the way from `a` to `b`, for ways short enough to be flat; across the antimeridian too.
pub(super) fn between(a: Position, b: Position, part: f64) -> Position {
    let wrapped = |lng: f64| (lng + 540.0).rem_euclid(360.0) - 180.0;
    Position { lat: a.lat + (b.lat - a.lat) * part, lng: wrapped(a.lng + wrapped(b.lng - a.lng) * part) }
}
