//! What the fuzz targets in `fuzz/` call. Nothing else does.

use crate::bus::{Headers, StoredMessage};
use crate::nats::message_api;

/// Decodes a reply of JetStream's message API; `None` if it is none.
pub fn decode_reply(reply: &[u8]) -> Option<StoredMessage> {
    message_api::decode_reply(reply)
}

/// Parses a block of headers, whatever it holds.
pub fn parse_headers(block: &[u8]) -> Headers {
    message_api::parse_headers(block)
}
