//! Tests of match: its rules as tables, its invariants under random events, its rows and its lease on both stores, and the
//! whole service on the memory bus.
#![allow(clippy::unwrap_used)]

mod assign;
mod engine_harness;
mod evaluate;
mod explain;
mod flow;
mod lease;
mod random_walk;
mod record;
mod rezone;
mod road_times;
mod rows;
mod rules;
mod service_harness;
mod zones_record;
