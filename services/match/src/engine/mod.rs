//! The match engine: who is offered to whom, who is held, who is locked.
//!
//! `state.rs`, `rules.rs` and `assign.rs`, and what they stand on, are pure and synchronous. [`Engine`] is a cache of rows with indexes over them;
//! [`step`] takes events and the time, and returns new events and changed rows; `assign.rs` decides which driver gets which
//! request. `rows.rs` loads and writes the rows.

pub mod assign;
mod marketplace;
pub mod pairing;
pub mod road_times;
pub mod rows;
mod rules;
mod state;

pub(crate) use marketplace::{Marketplace, Standing};
pub use rules::{Border, Input, StepOutput, step};
pub(crate) use rules::{Decision, step_observed};
pub(crate) use state::micros;
pub use state::{Driver, Engine, EngineRows, Exclusion, Offer, OfferOutcome, Request, Ride, Rules};
