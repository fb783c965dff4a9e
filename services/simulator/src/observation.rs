//! What the simulated people were told, for whoever keeps books beside the run: each command acked, each event taken in.
//! It decides nothing and keeps nothing.

use std::sync::mpsc::Sender;

use serde_json::Value;

/// Something that a person was told.
#[derive(Debug, Clone)]
pub enum Note {
    /// A command was acked.
    Acked {
        /// Whose command.
        user_id: String,
        /// Its type.
        kind: &'static str,
        /// What was asked.
        asked: Value,
        /// What was answered.
        answer: Value,
    },
    /// An event was taken in, once for each `seq`.
    Event {
        /// Whose mailbox.
        user_id: String,
        /// Its number there.
        seq: u64,
        /// Its id.
        event_id: String,
        /// Its subject.
        kind: String,
        /// Its body.
        data: Value,
    },
}

/// Where notes go.
#[derive(Debug, Clone)]
pub struct Ledger(pub Sender<Note>);

impl Ledger {
    /// A reader that has left misses nothing that it wants.
    pub(crate) fn note(&self, note: Note) {
        let _ = self.0.send(note);
    }
}
