//! What a process does in the background, beside its services.

mod topology;

pub use topology::{apply_topology, reconcile_topology};
