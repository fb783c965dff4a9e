//! The fault rig and the kill points: the platform as processes, with servers of its own, and what must hold whatever dies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(debug_assertions)]
#[cfg(debug_assertions)]
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
