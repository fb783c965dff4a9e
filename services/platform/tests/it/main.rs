//! The store, the transactional consumer and the relay, on memory and on PostgreSQL, and on both buses.

#[path = "../database.rs"]
mod database;

mod accounts;
mod consumer;
mod store;
