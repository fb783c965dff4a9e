//! Entries for fuzz targets; not an API.

use chrono::DateTime;

use crate::gateway::frame;

/// Parses `text` as a client's frame at a fixed time, and writes the frame that answers a refusal.
pub fn parse_frame(text: &str) {
    let now = DateTime::from_timestamp(1_767_312_000, 0).unwrap_or_default();
    if let Err(refused) = frame::parse(text, now) {
        frame::error(refused.id.as_deref(), &refused.refusal);
    }
}
