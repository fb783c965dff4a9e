//! The tests of the users service against both stores.

#[path = "../../../platform/tests/database.rs"]
mod database;

mod accounts;
