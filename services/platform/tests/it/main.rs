//! The store, the transactional consumer and the relay, on memory and on PostgreSQL, and on both buses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../database.rs"]
mod database;
#[path = "../../../../streams/tests/conformance/server.rs"]
mod nats_server;

mod accounts;
mod consumer;
mod dead_letters;
mod lost_streams;
mod store;
