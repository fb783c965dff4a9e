//! Tests of match: its rules as tables, its invariants under random events, its rows in both stores, and the whole service
//! on the memory bus.
#![allow(clippy::unwrap_used)]

mod city;
mod flow;
mod random;
mod rules;
mod store;
