//! The real program under faults, in one thread and without a clock: the four services with their own handlers, two
//! processes of each on one memory bus and the same memory stores, the simulator's city over in-memory pipes, and everything
//! that can go wrong going wrong by a seed. Independent checks look at what the people and the streams saw; the same seed
//! gives the same run.

#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checks;
mod city;
mod inbox;
mod nemesis;
mod processes;
mod scene;
mod seeds;
