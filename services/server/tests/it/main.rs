//! The whole platform, from outside: one binary of tests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod audit;
mod dead_letters;
mod failures;
mod harness;
mod never;
mod operators;
mod program;
mod ride;
mod stuck_stream;
mod transcript;
