//! Positions of drivers and the distance of a ride: `location.update` and `location.aggregate`.

use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{RideId, UserId};
use super::position::Position;
use super::rfc3339;
use super::subject::Subject;
use super::validation::{EventError, Fields};

/// One position of a driver. A field that may be null must still be present: a missing field is malformed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LocationUpdate {
    /// The driver; the entity of the message id.
    pub user_id: UserId,
    /// The driver's live ride; null between rides.
    #[serde(deserialize_with = "Option::deserialize")]
    pub ride_id: Option<RideId>,
    /// The position that the device measured.
    pub location: Position,
    /// Radius of the position's uncertainty, metres.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schemars(range(min = 0))]
    pub accuracy_m: Option<f64>,
    /// Speed over ground, metres a second.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schemars(range(min = 0))]
    pub speed_mps: Option<f64>,
    /// Course over ground, degrees from true north, 0 to 360.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schemars(range(min = 0))]
    pub heading_deg: Option<f64>,
    /// When the device measured it, by the server's clock as far as users knows the device's: up to 24 h old, and out of order.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub recorded_at: DateTime<Utc>,
    /// How it came. Absent from a foreign producer's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reception: Option<Reception>,
}

/// How users received a position: enough to compare times of one clock only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reception {
    /// The installation of the app, as users tells them apart: at most 64 characters, empty for the unnamed one.
    #[schemars(length(max = 64))]
    pub device: String,
    /// Whether this device accepted the live ride. False between rides.
    pub ride_device: bool,
    /// When the device measured it, by its own clock.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub device_at: DateTime<Utc>,
    /// When the device sent it, by its own clock; absent if it does not say.
    #[serde(default, with = "rfc3339::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<chrono::DateTime<chrono::Utc>>")]
    pub sent_at: Option<DateTime<Utc>>,
    /// When users received it, by the server's clock.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub received_at: DateTime<Utc>,
}

/// A position that is received so long after it was measured is late: the device held it back.
const LATE_AFTER: TimeDelta = TimeDelta::seconds(10);

/// Bytes of a body, so that its buffer need not grow.
const BODY_ABOUT: usize = 512;

impl LocationUpdate {
    /// Whether it may belong to a ride that has ended since; `received_at` is when users received it, or the stream stored it.
    pub fn is_late(&self, received_at: DateTime<Utc>) -> bool {
        received_at - self.recorded_at > LATE_AFTER
    }

    /// The message id of its event: see [`Event::message_id`](super::Event::message_id).
    pub fn message_id(&self) -> String {
        let (entity, at) = self.identity();
        format!("{}-{entity}-{}", Subject::LocationUpdate, at.timestamp_micros())
    }

    /// The body of its event.
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(BODY_ABOUT);
        serde_json::to_writer(&mut body, self).expect("it has string keys and no failing serializer");
        body
    }

    /// What its message id is made of: the device's own time, which is the same on every repeat, and the device's name, because
    /// two devices of a driver often measure in the same second.
    pub(super) fn identity(&self) -> (String, DateTime<Utc>) {
        match &self.reception {
            Some(from) if from.device.is_empty() => (self.user_id.to_string(), from.device_at),
            Some(from) => (format!("{}.{}", self.user_id, from.device), from.device_at),
            None => (self.user_id.to_string(), self.recorded_at),
        }
    }

    pub(super) fn validate(&self, fields: &Fields) -> Result<(), EventError> {
        fields.position("location", &self.location)?;
        fields.measure("accuracy_m", self.accuracy_m)?;
        fields.measure("speed_mps", self.speed_mps)?;
        fields.measure("heading_deg", self.heading_deg)
    }
}

/// A point of a track.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrackPoint {
    /// The position that the device measured.
    pub location: Position,
    /// When the device measured it.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub recorded_at: DateTime<Utc>,
}

/// The distance of a ride so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LocationAggregate {
    /// The entity of the message id.
    pub ride_id: RideId,
    /// The driver whose positions make the track.
    pub driver_id: UserId,
    /// Since the ride started, cumulative, metres.
    #[schemars(range(min = 0))]
    pub distance_m: f64,
    /// Points on which the distance rests; GPS jumps do not count.
    pub points: u64,
    /// The newest of them; null if there is none.
    #[serde(deserialize_with = "Option::deserialize")]
    pub last: Option<TrackPoint>,
    /// True for the one after the ride arrived; none follows it.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// The part of the time between start and arrival that the positions show, 0 to 1. Only with the final one; absent from
    /// producers that do not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub covered: Option<f64>,
}

impl LocationAggregate {
    pub(super) fn validate(&self, fields: &Fields) -> Result<(), EventError> {
        fields.measure("distance_m", Some(self.distance_m))?;
        fields.measure("covered", self.covered)?;
        self.last.map_or(Ok(()), |last| fields.position("last.location", &last.location))
    }
}
