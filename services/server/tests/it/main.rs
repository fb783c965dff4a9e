//! The whole platform, from outside: one binary of tests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin;
mod audit;
mod compatibility;
mod databases;
mod dead_letters;
mod dispatch;
mod documents;
mod ended_searches;
mod evaluate;
mod exhaustion;
mod failures;
mod fuzz;
mod harness;
mod house;
mod ingress;
mod keda;
mod live_lane;
mod logs;
mod markets;
mod matrix;
mod memory_to_nats;
mod misbehave;
mod nats_permissions;
mod never;
mod operators;
mod problems;
mod program;
mod ride;
mod road_times;
mod roles;
mod row_writes;
mod runbook;
mod state;
mod stuck_stream;
mod traces;
mod transcript;
