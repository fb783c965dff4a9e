//! The data of the `ack` of each command. Pure.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use streams::ride_command::RideAck;
use streams::{MatchId, RequestId};

use super::command::RefusedPoint;

/// The data of an `ack`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "AckData")]
pub(crate) enum Ack {
    Beacon(BeaconAck),
    Search(SearchAck),
    Positions(PositionsAck),
    Offer(OfferAck),
    /// As rides answered.
    #[schemars(with = "RideAck")]
    Ride(Value),
    Mailbox(MailboxAcked),
}

/// `beacon.update`
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BeaconAck {
    /// What the driver wants from now on.
    pub(crate) active: bool,
}

/// `finder.update`
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SearchAck {
    /// The search that has begun, goes on or has ended; null if there was none to end.
    pub(crate) request_id: Option<RequestId>,
}

/// `location.update`
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PositionsAck {
    /// How many were taken.
    pub(crate) points: usize,
    /// Points of a batch that are not good.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused: Vec<RefusedPoint>,
    /// How many were left out because a newer one took their place.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) left_out: usize,
}

/// `match.accept` and `match.reject`
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct OfferAck {
    pub(crate) match_id: MatchId,
}

/// `mailbox.ack`
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct MailboxAcked {
    pub(crate) seq: u64,
}

/// `auth.refresh`
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RefreshAck {
    /// When the access token expires, and with it the socket.
    #[schemars(extend("format" = "date-time"))]
    pub(crate) expires_at: String,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}
