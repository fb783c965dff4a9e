//! The one signal that ends the program gracefully.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// When to stop; clones share the signal.
///
/// Those who wait are woken in the order in which they began to: a seeded run repeats itself (tokio's `watch` wakes them by
/// chance).
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    begun: AtomicBool,
    waiting: Notify,
}

impl Shutdown {
    /// Not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells everybody to finish what is in hand and return.
    pub fn begin(&self) {
        self.inner.begun.store(true, Ordering::SeqCst);
        self.inner.waiting.notify_waiters();
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.inner.begun.load(Ordering::SeqCst)
    }

    /// Returns once it has begun.
    pub async fn begun(&self) {
        let mut told = pin!(self.inner.waiting.notified());
        // Waiting before the look: a begin in between is not missed.
        told.as_mut().enable();
        if !self.has_begun() {
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn all_who_wait_are_told_in_their_order_and_who_comes_later_at_once() {
        let (stop, order) = (Shutdown::new(), Arc::new(Mutex::new(Vec::new())));
        let mut tasks = JoinSet::new();
        for n in 0..100 {
            let (stop, order) = (stop.clone(), order.clone());
            tasks.spawn(async move {
                stop.begun().await;
                order.lock().unwrap().push(n);
            });
        }
        // The scheduler comes back here before it has polled so many.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!stop.has_begun() && order.lock().unwrap().is_empty());
        stop.begin();
        tasks.join_all().await;
        assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
        assert!(stop.has_begun());
        stop.begun().await;
    }
}
