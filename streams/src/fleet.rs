//! What match asks of location when it takes over: where the drivers on duty are. A hint: without an answer match begins with the
//! places in its own rows, and the drivers' next positions bring newer ones.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::ids::UserId;
use crate::event::{Position, rfc3339};

/// The subject of the request. location subscribes in the queue group of this name, [`FLEET_QUEUE_GROUP`].
pub const FLEET: &str = "location.service.fleet";
/// The queue group of all location processes.
pub const FLEET_QUEUE_GROUP: &str = "location";
/// How long match waits for one reply.
pub const FLEET_WAIT: Duration = Duration::from_millis(500);
/// The most drivers of one reply, which stays below the largest message of a NATS server.
pub const FLEET_PAGE: usize = 2_000;

/// The request: one page, in the order of drivers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FleetRequest {
    /// The last driver of the page before.
    pub after: Option<UserId>,
}

/// The reply.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FleetReply {
    /// In the order of their ids.
    pub drivers: Vec<FleetDriver>,
    /// There are more after the last one.
    pub more: bool,
}

/// Where a driver is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FleetDriver {
    /// The driver.
    pub user_id: UserId,
    /// The newest position.
    pub location: Position,
    /// The device that measured it, as users names it.
    pub device: String,
    /// Whether a beacon brought it: then the three times are that of its arrival.
    pub is_beacon: bool,
    /// By the clock of the device.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub device_at: DateTime<Utc>,
    /// By the server's clock, as far as users knows the device's.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub recorded_at: DateTime<Utc>,
    /// By the server's clock.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub received_at: DateTime<Utc>,
}
