//! The tests of the users service against both stores.

#![allow(clippy::unwrap_used)]

#[path = "../../../platform/tests/database.rs"]
mod database;

mod accounts;
mod app;
mod commands;
mod mailboxes;
mod pods;
mod sockets;
mod websocket;
