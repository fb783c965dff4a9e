//! How many core subscriptions a process has open.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The count of one process; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct OpenSubscriptions(Arc<AtomicUsize>);

/// Counts as open until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenSubscription(Arc<AtomicUsize>);

impl OpenSubscriptions {
    pub(crate) fn open(&self) -> OpenSubscription {
        self.0.fetch_add(1, Ordering::Relaxed);
        OpenSubscription(self.0.clone())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for OpenSubscription {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
