//! The one thing that is asked and not told: a command on a ride, which users passes on to rides as a NATS request with a
//! deadline, because the client waits for the answer of the noun's owner.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::ids::{RideId, UserId};

/// The subject; rides answers in the queue group of the same name.
pub const RIDE_COMMANDS: &str = "rides.command";
/// The wait for an answer; then the client hears `unavailable` and repeats.
pub const RIDE_COMMAND_WAIT: Duration = Duration::from_secs(5);

/// Who wants what of which ride.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RideCommand {
    /// The caller, whom users has authenticated; rides checks that the ride is theirs.
    pub user_id: UserId,
    /// The ride.
    pub ride_id: RideId,
    /// What.
    #[serde(flatten)]
    pub action: RideAction,
    /// W3C trace context.
    pub traceparent: String,
}

/// What can be wanted of a ride.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum RideAction {
    /// The passenger is in; the driver gives the passenger's PIN.
    #[serde(rename = "ride.start")]
    Start {
        /// Four digits.
        pin: String,
    },
    /// The vehicle is at the dropoff.
    #[serde(rename = "ride.arrive")]
    Arrive,
    /// One of the two ends it.
    #[serde(rename = "ride.cancel")]
    Cancel {
        /// In the caller's words.
        reason: String,
    },
}

/// The answer: done (and durable), or why not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RideReply {
    /// The data of the client's `ack`: `{"ride_id", "status", "version"}`.
    Ok(Value),
    /// The client's `error`.
    Error {
        /// Stable.
        code: String,
        /// For people.
        message: String,
        /// The field at fault.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        field: Option<String>,
    },
}
