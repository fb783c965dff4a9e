//! What must hold of the whole platform, whatever failed meanwhile: legal lifecycles, one live ride for a person, one winner
//! of an offer, money that adds up, mailboxes without a gap, every event handled.
//!
//! A test collects a [`History`] by its own means, and each method returns the violations, one sentence each with the ids. The
//! methods read JSON alone and share nothing with the handlers: not the lifecycle, not the hash, not the sums.

mod commands;
mod delivery;
mod history;
mod rides;

pub use commands::AckedCommand;
pub use delivery::{Mailbox, MailboxEntry};
pub use history::{Event, History, text};
pub use rides::{fee_or_fare, hash};
