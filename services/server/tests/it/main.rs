//! The whole platform, from outside: one binary of tests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod audit;
mod dead_letters;
mod failures;
mod harness;
mod named_failures;
mod program;
mod ride;
mod transcript;
