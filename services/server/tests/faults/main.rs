//! The fault rig and the kill points: the platform as processes, with servers of its own, and what must hold whatever dies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(debug_assertions)]
#[path = "../../../platform/tests/database.rs"]
mod database;
#[cfg(debug_assertions)]
#[path = "../../../../streams/tests/conformance/server.rs"]
mod nats_server;

mod books;
mod checks;
mod checks_tests;
mod copies;
mod fleet;
// A release build has no kill points.
#[cfg(debug_assertions)]
mod kill_points;
mod nemesis;
mod proxy;
mod rig;
mod servers;
mod torment;
