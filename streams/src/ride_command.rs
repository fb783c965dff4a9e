//! What users asks of rides in a NATS request with a deadline, because a client waits for the answer: a command on a ride, or
//! the end of a search that may be a ride already. It is the only call between two services on which anything depends; everything else is an event, or a hint.

use std::time::Duration;

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::event::ids::{RequestId, RideId, UserId};
use crate::event::{Position, RideStatus};

/// The subject of the request; rides subscribes in the queue group of the same name.
pub const RIDE_COMMANDS: &str = "rides.command";
/// How long users waits for the reply. Without one the client gets the error `unavailable`, and repeats the command.
pub const RIDE_COMMAND_WAIT: Duration = Duration::from_secs(5);

/// The request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
pub enum RideAction {
    /// The driver waits at the pickup.
    #[serde(rename = "ride.wait")]
    Wait {
        /// Where the driver is, by what users and location know; not by what the command says. `None`: they do not know.
        driver_at: Option<Position>,
    },
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
        /// A code or free text of the caller; becomes the event's `reason`.
        reason: String,
        /// Free text beside a code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
}

/// The data of the client's `ack` of a ride command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RideAck {
    /// The ride.
    pub ride_id: RideId,
    /// Its status now.
    pub status: RideStatus,
    /// That of its newest event.
    pub version: u32,
}

/// The code of the reply to an [`EndSearch`] whose search has become a ride.
pub const SEARCH_FULFILLED: &str = "search_fulfilled";

/// A passenger ends a search of which a driver has accepted an offer. rides decides whether the search has become a ride: `Ok`
/// says that it has not, and never will; [`SEARCH_FULFILLED`] that it has. Any other error leaves it open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename = "search.end")]
#[schemars(transform = with_type)]
pub struct EndSearch {
    /// The passenger, authenticated by users, which also knows that the search is this passenger's.
    pub user_id: UserId,
    /// The search.
    pub request_id: RequestId,
    /// W3C trace context of the client's command.
    pub traceparent: String,
}

/// The tag of a struct, which schemars leaves out.
fn with_type(schema: &mut Schema) {
    let object = schema.ensure_object();
    object["properties"]["type"] = json!({"const": "search.end"});
    if let Some(required) = object["required"].as_array_mut() {
        required.push("type".into());
    }
}

/// A request on [`RIDE_COMMANDS`].
#[derive(Debug, Clone, PartialEq)]
pub enum RidesRequest {
    /// `search.end`
    EndSearch(EndSearch),
    /// All others.
    Ride(RideCommand),
}

impl RidesRequest {
    /// # Errors
    /// `body` is no such request. (A rides process older than a type of request answers it with an error, too.)
    pub fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Kind {
            #[serde(rename = "type")]
            kind: String,
        }
        let Kind { kind } = serde_json::from_slice(body)?;
        if kind == "search.end" {
            return Ok(Self::EndSearch(serde_json::from_slice(body)?));
        }
        Ok(Self::Ride(serde_json::from_slice(body)?))
    }
}

/// The reply. `Ok` is sent after the commit, so the change is durable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RideReply {
    /// A [`RideAck`], the data of the client's `ack`; or of an [`EndSearch`] its `request_id`.
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
        /// When the same is allowed, if it is too early for it.
        #[serde(default, with = "crate::event::rfc3339::optional", skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<chrono::DateTime<chrono::Utc>>")]
        allowed_at: Option<chrono::DateTime<chrono::Utc>>,
    },
}
