//! An event as the stream has it, in the few bytes that a comparison needs.

use aws_lc_rs::digest;
use serde::Deserialize;
use streams::RideId;
use streams::bus::{MESSAGE_ID, StoredMessage};

/// SHA-256 of what identifies an event: subject, message id and body.
pub type Digest = [u8; 32];

pub(super) fn digest_of(subject: &str, message_id: &str, body: &[u8]) -> Digest {
    let mut sha = digest::Context::new(&digest::SHA256);
    for part in [subject.as_bytes(), message_id.as_bytes(), body] {
        sha.update(&(part.len() as u64).to_be_bytes());
        sha.update(part);
    }
    sha.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// An event as the stream has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamCopy {
    pub sequence: u64,
    pub version: u32,
    pub digest: Digest,
}

impl StreamCopy {
    /// `None` if the body does not say to which ride and version it belongs. That is a finding of the stream's own audit, and the event is
    /// missing.
    pub(super) fn of(stored: &StoredMessage) -> Option<(RideId, Self)> {
        #[derive(Deserialize)]
        struct Key {
            ride_id: RideId,
            version: u32,
        }
        let key: Key = serde_json::from_slice(&stored.payload).ok()?;
        let digest = digest_of(&stored.subject, message_id(stored), &stored.payload);
        Some((key.ride_id, Self { sequence: stored.sequence, version: key.version, digest }))
    }
}

pub(super) fn message_id(stored: &StoredMessage) -> &str {
    stored.headers.find(MESSAGE_ID).unwrap_or_default()
}
