//! What was driven of a ride so far: rides asks location when somebody cancels a started ride, because the client waits for the
//! fee. A core request, answered from rows; without an answer in time the estimate is billed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::ids::{RideId, UserId};
use crate::event::{Position, rfc3339};

/// The subject of the request, a JSON [`DrivenDistanceRequest`]; location subscribes in the queue group `location`. The reply is a
/// JSON [`DrivenDistance`].
pub const DRIVEN_DISTANCE: &str = "location.driven";
/// How long rides waits for the reply. The client waits longer for that of its command.
pub const DRIVEN_DISTANCE_WAIT: Duration = Duration::from_secs(3);

/// Asks how far a ride has come. It says all that the events of the ride say: they may still be on their way to location.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DrivenDistanceRequest {
    /// The ride.
    pub ride_id: RideId,
    /// Its driver, whose points count.
    pub driver_id: UserId,
    /// Where it began.
    pub pickup: Position,
    /// When it started.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub started_at: DateTime<Utc>,
    /// When it was cancelled.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub until: DateTime<Utc>,
}

/// What the positions show.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DrivenDistance {
    /// From the start until then, metres.
    #[schemars(range(min = 0))]
    pub distance_m: f64,
    /// The part of that time which the positions show, 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub covered: f64,
}
