//! Push: what a phone shows on its lock screen when no socket is open.
//!
//! An event for a user is committed with a row for each device of theirs (`rows`), if it matters there (`notice`). A socket that takes
//! it within a second deletes the rows (`taken`); else a process sends them (`sender`), each device by the protocol of its platform.
//! Devices come and go by `routes`, with the sign-in that registered them.

mod apns;
pub(crate) mod cleaner;
pub(crate) mod config;
pub(crate) mod device;
pub(crate) mod due;
mod fcm;
mod jwt;
pub(crate) mod notice;
pub(crate) mod outcome;
pub(crate) mod queue;
pub(crate) mod routes;
pub(crate) mod rows;
pub(crate) mod sender;
pub(crate) mod sinks;
pub(crate) mod taken;
#[cfg(test)]
mod tests;
mod webhook;
mod webpush;
