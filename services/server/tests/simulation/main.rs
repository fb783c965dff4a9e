//! The real program under faults, in one thread and without a clock: the four services with their own handlers, two
//! processes of each on one memory bus and the same memory stores, clients over in-memory pipes, and everything that can go
//! wrong going wrong by a seed. Independent checks look at what the clients and the streams saw; the same seed gives the
//! same run.

#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checks;
mod client;
mod driver;
mod nemesis;
mod passenger;
mod processes;
mod scene;
mod seeds;
