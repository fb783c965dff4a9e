//! The store, the transactional consumer and the relay, on memory and on PostgreSQL, and on both buses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accounts;
mod consumer;
mod dead_letters;
mod fast_lane;
mod lost_streams;
mod metrics;
mod migrations;
mod store;
mod waiting;
