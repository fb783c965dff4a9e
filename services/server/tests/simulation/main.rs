//! The real program under faults, in one thread and in simulated time: two processes of each service, with their own handlers, on
//! one memory bus and shared memory stores; the simulator's city over in-memory pipes; and every kind of fault, from a seed. The
//! checks read what clients and streams saw, independently of the handlers. The same seed gives the same run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checks;
mod city;
mod inbox;
mod nemesis;
mod processes;
mod scale;
mod scene;
mod seeds;
