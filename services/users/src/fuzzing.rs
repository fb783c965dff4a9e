//! What the fuzz target `frame` of `fuzz/` and the short run in the suite call. Nothing else does.

use chrono::DateTime;

use crate::gateway::frame;

/// Parses `input` as a client's frame at a fixed time, and writes the frame that answers a refusal. A socket delivers only UTF-8.
pub fn frame(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let now = DateTime::from_timestamp(1_767_312_000, 0).unwrap_or_default();
    if let Err(refused) = frame::parse(text, now) {
        frame::error(refused.id.as_deref(), &refused.refusal);
    }
}
