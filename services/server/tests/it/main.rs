//! The whole platform, from outside: one binary of tests.

#[path = "../../../platform/tests/database.rs"]
mod database;

mod client;
mod failures;
mod platforms;
mod program;
mod ride;
mod transcript;
