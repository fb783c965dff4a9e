//! What sockets took: no push is sent of it.
//!
//! A session knows from the frame of an entry that pushes of it wait. It sends a ping behind the frame, and what the client sends after
//! both have left shows that the socket is alive: the client has the frame. (A network may swallow what is written to a phone
//! that is gone, and the write succeeds.) Then the rows up to that `seq` are deleted, for all sockets of this pod in one statement.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use streams::UserId;
use tokio::sync::Notify;

/// The newest `seq` that a socket of each user took, until the rows are deleted. One for each connected user at most.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    seqs: Mutex<BTreeMap<UserId, u64>>,
    added: Notify,
}

impl Taken {
    pub(crate) fn add(&self, user: UserId, seq: u64) {
        let mut seqs = self.seqs.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = seqs.entry(user).or_insert(seq);
        *newest = seq.max(*newest);
        drop(seqs);
        self.added.notify_one();
    }

    pub(super) async fn wait(&self) {
        self.added.notified().await;
    }

    /// What was taken since the last call.
    pub(super) fn take(&self) -> Vec<(UserId, u64)> {
        std::mem::take(&mut *self.seqs.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }
}
