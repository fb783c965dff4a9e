//! What a process repeats in the background, beside its services. The last outcome of each such task is a part of the
//! process's health.

mod reconciler;
mod sharing;
mod topology;

pub use reconciler::{apply_topology, reconcile_topology};
pub use topology::{OBSERVE_INTERVAL, Observation, RECENT, TopologyWatch};
