//! How far behind the readers of `location.update` are. They say it to users, which then publishes fewer positions of free drivers:
//! a position that waits behind others is of no use once its driver has sent a newer one. A core message; nothing depends on it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The subject of a JSON [`PositionLag`].
pub const POSITION_LAG: &str = "location.lag";
/// Each reader says so no more often than this, and only while positions come.
pub const POSITION_LAG_INTERVAL: Duration = Duration::from_millis(250);

/// How long positions have waited on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionLag {
    /// The time since the stream stored the newest position of a batch that the reader has just pulled, milliseconds.
    pub age_ms: u64,
}
