//! The whole platform, from outside: one binary of tests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod audit;
mod client;
mod failures;
mod letters;
mod named_failures;
mod platforms;
mod program;
mod ride;
mod transcript;
