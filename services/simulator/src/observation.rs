//! What a simulated person received from the platform, for a checker outside this crate: each acked command and each
//! event. [`Config::observer`](crate::Config::observer) names the channel.

use serde_json::Value;

/// One answer or event that a person received.
#[derive(Debug, Clone)]
pub enum Observation {
    /// A command was acked; once for each command, however often it was sent.
    Acked {
        /// Whose command.
        user_id: String,
        /// The command's `type`.
        kind: &'static str,
        /// The command's `data`.
        command_data: Value,
        /// The ack's `data`.
        ack_data: Value,
    },
    /// An event arrived; once for each `seq`.
    Event {
        /// Whose mailbox.
        user_id: String,
        /// Its `seq` in that mailbox.
        seq: u64,
        /// Its `event_id`.
        event_id: String,
        /// Its subject.
        kind: String,
        /// Its body.
        data: Value,
    },
}
