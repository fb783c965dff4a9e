//! What the server's refusals have said of its limits.

use std::sync::atomic::{AtomicI64, AtomicU64};

/// 0: nothing is known. A limit that is raised counts for the next process.
#[derive(Debug, Default)]
pub(super) struct ServerLimits {
    pub(super) max_ack_pending: AtomicI64,
    /// Nanoseconds.
    pub(super) duplicate_window: AtomicU64,
}
