//! Faults on the memory bus and in the memory stores, and parts of the platform that a test switches off, all from one seed.
//!
//! With the cargo feature `simulation` they are real, in any profile. Without it [`Faults`] is a zero-sized type whose methods
//! do nothing, and [`sabotage`] is a constant: the compiler removes both, so no call site needs a `cfg`. The choice is made
//! here and nowhere else.

mod fault;

#[cfg(feature = "simulation")]
mod cost;
#[cfg(not(feature = "simulation"))]
mod disabled;
#[cfg(feature = "simulation")]
mod enabled;

#[cfg(feature = "simulation")]
pub use cost::{Costs, Work};
#[cfg(not(feature = "simulation"))]
pub use disabled::{Faults, sabotage};
#[cfg(feature = "simulation")]
pub use enabled::{Dice, Faults, sabotage, set_sabotage};
pub use fault::{Fault, Sabotage};
