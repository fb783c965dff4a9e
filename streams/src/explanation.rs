//! What a process that serves the operators' API asks match: why a driver was offered a search. Nothing follows from it. The request is not
//! sealed as those of operators are, because match has no secret; the reply names drivers by their ids, and nobody else.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::ids::MatchId;

/// The subject of the request; match subscribes in the queue group of the same name.
pub const EXPLANATION: &str = "matching.explanation";

/// The request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplanationRequest {
    /// The offer.
    pub match_id: MatchId,
}

/// The reply. An explanation is a type of match; who asks passes it on as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ExplanationReply")]
pub enum ExplanationReply<E> {
    /// As `rideshare dispatch explain --format json` prints it.
    Explained(E),
    /// There is too much to run again at once.
    Busy,
}
