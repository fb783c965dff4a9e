//! A command on a ride. users passes it on to rides as a NATS request with a deadline, because the client waits for the answer of
//! the ride's owner. It is the only call between two services; everything else is an event.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::ids::{RideId, UserId};

/// The subject of the request; rides subscribes in the queue group of the same name.
pub const RIDE_COMMANDS: &str = "rides.command";
/// How long users waits for the reply. Without one the client gets the error `unavailable`, and repeats the command.
pub const RIDE_COMMAND_WAIT: Duration = Duration::from_secs(5);

/// The request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RideCommand {
    /// The caller, authenticated by users; rides checks that it is the ride's driver or passenger.
    pub user_id: UserId,
    /// The ride to change.
    pub ride_id: RideId,
    /// In JSON the fields `type`, and `pin` or `reason`.
    #[serde(flatten)]
    pub action: RideAction,
    /// W3C trace context of the client's command.
    pub traceparent: String,
}

/// The change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum RideAction {
    /// The passenger is in the vehicle, which the driver proves by the passenger's PIN.
    #[serde(rename = "ride.start")]
    Start {
        /// Four digits.
        pin: String,
    },
    /// The vehicle is at the dropoff.
    #[serde(rename = "ride.arrive")]
    Arrive,
    /// Driver or passenger ends the ride.
    #[serde(rename = "ride.cancel")]
    Cancel {
        /// Free text of the caller; becomes the event's `reason`.
        reason: String,
    },
}

/// The reply. `Ok` is sent after the commit, so the change is durable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RideReply {
    /// The data of the client's `ack`: `{"ride_id", "status", "version"}`.
    Ok(Value),
    /// The client's `error`.
    Error {
        /// Stable, for programs.
        code: String,
        /// For people.
        message: String,
        /// The field of the client's command that is wrong, if it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        field: Option<String>,
    },
}
