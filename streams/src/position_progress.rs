//! How far the readers of `location.update` have read. They say it to users, which has only so many positions of free drivers under way: a
//! position that waits behind others is of no use once its driver has sent a newer one. A core message; if it is lost, the next one follows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The subject of a JSON [`PositionProgress`].
pub const POSITION_PROGRESS: &str = "location.progress";

/// What a process has read of LOCATION_STREAM for one of its consumers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PositionProgress {
    /// The name of the consumer.
    pub consumer: String,
    /// The newest sequence that it has read.
    pub sequence: u64,
    /// The time since the stream stored that message, milliseconds.
    pub age_ms: u64,
}
