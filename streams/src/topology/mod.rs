//! The topology: which streams and consumers a server must have, and the proof that they fit together.
//!
//! [`TABLE`] says which subject is on which stream, who writes it and who reads it; everything else follows from it. The JSON
//! files beside `Cargo.toml` say the same in the form that `nats stream add --config` and `nats consumer add --config` take;
//! a test holds them equal to the table. Nothing here talks to a server.

mod config;
mod proof;
mod state;
mod table;

pub use config::{
    ADMIN_STREAM, Consumer, DEAD_LETTER_STREAM, Discard, MESSAGE_MAX, MINIMUM_SERVER, Retention, Storage, Stream,
    subject_matches,
};
pub(crate) use config::{Mode, difference, message_max};
pub use proof::prove;
pub use state::{ConsumerState, StreamState, TopologyState};
pub use table::{GIVEN_UP_STREAM, MAX_DELIVER, Row, SWEEPER, TABLE, TRIES, Topology, durable, is_fast};

#[cfg(test)]
mod tests;
