//! The fault rig and the kill points: the platform as processes, with servers of its own, and what must hold whatever dies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checks;
mod duplicates;
mod failover;
mod fleet;
mod injection;
mod kill_points;
mod nemesis;
mod outage;
mod pooler;
mod processes;
mod proxy;
mod receivers;
mod records;
mod restore;
mod rig;
mod rotation;
mod runbook;
mod script;
mod secured;
mod servers;
