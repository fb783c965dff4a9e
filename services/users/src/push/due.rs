//! When pushes are due that this process knows of. What another process knew, and died with, is found by a look at the table.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use tokio::sync::Notify;

/// When rows are due that this process knows of.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// In tenths of a second, and at most five minutes ahead: at most 3,000.
    times: Mutex<BTreeSet<DateTime<Utc>>>,
    added: Notify,
}

impl Due {
    pub(crate) fn add(&self, at: DateTime<Utc>) {
        let tenth = at.trunc_subsecs(1) + TimeDelta::milliseconds(100);
        let is_new = self.times.lock().unwrap_or_else(PoisonError::into_inner).insert(tenth);
        if is_new {
            self.added.notify_one();
        }
    }

    /// The first time, and forgets those up to `now`.
    pub(super) async fn wait(&self) {
        self.added.notified().await;
    }

    pub(super) fn next_after(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        *times = times.split_off(&(now + TimeDelta::microseconds(1)));
        times.first().copied()
    }
}
