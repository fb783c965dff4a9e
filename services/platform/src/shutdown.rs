//! The one signal that ends the program gracefully.

use std::sync::Arc;

use tokio::sync::watch;

/// When to stop; clones share the signal.
#[derive(Clone, Debug)]
pub struct Shutdown {
    begun: Arc<watch::Sender<bool>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// Not begun.
    pub fn new() -> Self {
        Self { begun: Arc::new(watch::channel(false).0) }
    }

    /// Tells everybody to finish what is in hand and return.
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Returns once it has begun.
    pub async fn begun(&self) {
        let mut seen = self.begun.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = seen.wait_for(|begun| *begun).await;
    }
}
