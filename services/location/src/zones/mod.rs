//! Positions are owned by zone: each position is recorded by the process that read it from the stream and by the owner of its zone, and by
//! no other. So what a process does for positions does not grow with the number of processes.
//!
//! - `zone.rs`: the zone of a place, and those of a circle. Pure.
//! - `members.rs`: which processes there are, and which owns a zone. Pure.
//! - `exchange.rs`: sends positions to owners, and receives them.
//! - `questions.rs`: asks owners about drivers, and answers.
//!
//! Every process knows in which zone each driver is: the owner who records a driver in another zone than before says so to all. Where in it
//! a driver is, only the owner knows at once; the others know it as of what they read themselves, and of the rows.
//! Nothing here is a promise. Tracks and bills use rows only. A process that is alone sends nothing and asks nobody.

pub(crate) mod exchange;
pub(crate) mod members;
pub(crate) mod questions;
pub(crate) mod zone;
