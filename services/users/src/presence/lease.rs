//! The lease of this pod: its row in `pods`, by which the others know that its sockets are open. It is one row for all of them.
//!
//! A pod that stood still for longer than [`STALE_AFTER`] finds its incarnation ended, and the rows of its sockets deleted, or being
//! deleted. It takes a new incarnation then, and inserts them again.

use std::sync::{Mutex, PoisonError};

use platform::{Platform, Store, StoreError};
use tokio::time::Instant;
use uuid::Uuid;

use super::{STALE_AFTER, rows};
use crate::tables::Tables;

#[derive(Debug)]
pub(crate) struct PodLease(Mutex<Held>);

#[derive(Debug, Clone, Copy)]
struct Held {
    incarnation: Uuid,
    /// The last two times that the row was touched.
    touched_at: [Option<Instant>; 2],
}

/// What a touch found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch {
    Held,
    /// The pod has a new incarnation: the rows of its sockets are to be inserted again.
    Renewed,
}

impl PodLease {
    pub(crate) fn new(platform: &Platform) -> Self {
        Self(Mutex::new(Held { incarnation: platform.world.id(), touched_at: [None; 2] }))
    }

    pub(crate) fn incarnation(&self) -> Uuid {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).incarnation
    }

    /// Touches the row, or inserts one with a new incarnation.
    pub(crate) async fn touch(&self, platform: &Platform, store: &Store<Tables>) -> Result<Touch, StoreError> {
        let now = platform.world.now();
        let mut tx = store.begin().await?;
        let mut incarnation = self.incarnation();
        let is_held = rows::touch_pod(&mut tx, incarnation, now).await?;
        if !is_held {
            incarnation = platform.world.id();
            rows::insert_pod(&mut tx, incarnation, &platform.pod, now).await?;
        }
        tx.commit().await?;
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.touched_at = [held.touched_at[1], Some(Instant::now())];
        held.incarnation = incarnation;
        Ok(if is_held { Touch::Held } else { Touch::Renewed })
    }

    /// Whether this pod may say that others are dead: it reached the database at its last two touches. After an outage each would
    /// else find the others stale before they can touch their rows.
    pub(crate) fn is_judge(&self) -> bool {
        let held = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.touched_at[0].is_some_and(|at| at.elapsed() < STALE_AFTER.to_std().unwrap_or_default())
    }
}
