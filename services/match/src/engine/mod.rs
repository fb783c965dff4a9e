//! The match engine. `state.rs` is the state, `rules.rs` how it changes, `assign.rs` who gets whom, `rows.rs` the rows.

pub mod assign;
pub mod rows;
pub mod rules;
mod state;

pub use state::*;
