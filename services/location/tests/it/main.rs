//! location as a whole: events in, aggregates and `nearby` out; on the memory bus with both stores, and on NATS; in one process
//! and in several.
#![allow(clippy::unwrap_used)]

mod aggregates;
mod harness;
mod nearby;
mod zones;
