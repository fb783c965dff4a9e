//! Where a driver is: users asks location when it begins to show a ride to its passenger, and has no point of it yet. A core request,
//! answered from memory; no promise depends on the answer, because the driver's next point says the same.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::ids::UserId;
use crate::event::{LocationUpdate, Position, rfc3339};

/// The subject of the request, a JSON [`NewestPositionRequest`]; location subscribes in the queue group `location`. The reply is a
/// JSON [`NewestPosition`], or `null` if location knows none.
pub const NEWEST_POSITION: &str = "location.newest";
/// How long users waits for the reply.
pub const NEWEST_POSITION_WAIT: Duration = Duration::from_secs(1);

/// Asks where a driver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewestPositionRequest {
    /// The driver of a live ride; users knows that the one who will be shown the position is its passenger.
    pub driver_id: UserId,
}

/// The newest position of a driver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NewestPosition {
    /// Where the driver is.
    pub location: Position,
    /// Course over ground, degrees from true north; null if it is unknown.
    #[schemars(range(min = 0))]
    pub heading_deg: Option<f64>,
    /// Speed over ground, metres a second; null if it is unknown.
    #[schemars(range(min = 0))]
    pub speed_mps: Option<f64>,
    /// When it was measured, by the server's clock.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub recorded_at: DateTime<Utc>,
    /// When users received it, or the stream stored it, by the server's clock.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub received_at: DateTime<Utc>,
    /// The device that measured it, or that sent the beacon; empty for the unnamed one.
    pub device: String,
    /// Whether this device accepted the live ride.
    pub ride_device: bool,
    /// When it was measured, by the device's own clock.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub device_at: DateTime<Utc>,
    /// Whether a beacon says so, and no point.
    pub is_beacon: bool,
}

impl NewestPosition {
    /// That of a point. `stored_at` stands for the reception of a point that does not say how users received it.
    pub fn of_point(point: &LocationUpdate, stored_at: DateTime<Utc>) -> Self {
        let LocationUpdate { location, heading_deg, speed_mps, recorded_at, reception, .. } = point;
        let (device, ride_device, device_at, received_at) = match reception {
            Some(from) => (from.device.clone(), from.ride_device, from.device_at, from.received_at),
            None => (String::new(), false, *recorded_at, stored_at),
        };
        Self {
            location: *location,
            heading_deg: *heading_deg,
            speed_mps: *speed_mps,
            recorded_at: *recorded_at,
            received_at,
            device,
            ride_device,
            device_at,
            is_beacon: false,
        }
    }
}
