//! The registry of the sockets that are open on this pod, with its limits. It knows nothing of the database: the rows of
//! sockets are `presence`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use platform::CancellationToken;
use streams::UserId;
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use crate::config::Config;
use crate::mailbox::MailboxCursor;

/// The wait for all sockets to close when the pod stops.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Sockets {
    slots: Mutex<Slots>,
    /// Sessions that have not finished. A session finishes after its transaction for the closed socket.
    open: watch::Sender<usize>,
    /// Cancelled when the pod stops: it admits no more sockets, and the open ones close.
    pub(crate) closing: CancellationToken,
}

/// By user and session; each sender passes the `last_seq` of the user's mailbox to the session.
type Slots = BTreeMap<(UserId, Uuid), watch::Sender<u64>>;

/// Why a socket is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdmissionError {
    /// The pod is about to stop.
    Closing,
    /// The user has reached `sockets_per_user`.
    UserLimit,
    /// The pod has reached `sockets_max`.
    PodLimit,
}

/// A session's place in the registry, freed on drop.
#[derive(Debug)]
pub(crate) struct SocketSlot {
    sockets: Arc<Sockets>,
    user: UserId,
    pub(crate) session: Uuid,
    /// The newest `seq` of the mailbox, as the poll of mailboxes found it.
    pub(crate) polled_seq: watch::Receiver<u64>,
}

impl SocketSlot {
    /// Removes the session from the registry. It still counts as open until the slot is dropped.
    pub(crate) fn unregister(&self) {
        self.sockets.slots().remove(&(self.user, self.session));
    }
}

impl Drop for SocketSlot {
    fn drop(&mut self) {
        self.unregister();
        self.sockets.open.send_modify(|open| *open -= 1);
    }
}

impl Default for Sockets {
    fn default() -> Self {
        Self { slots: Mutex::default(), open: watch::Sender::new(0), closing: CancellationToken::new() }
    }
}

impl Sockets {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a socket of `user` would be admitted now.
    pub(crate) fn check_limits(&self, user: UserId, config: &Config) -> Result<(), AdmissionError> {
        self.check(&self.slots(), user, config)
    }

    fn check(&self, slots: &Slots, user: UserId, config: &Config) -> Result<(), AdmissionError> {
        if self.closing.is_cancelled() {
            Err(AdmissionError::Closing)
        } else if *self.open.borrow() >= config.sockets_max {
            Err(AdmissionError::PodLimit)
        } else if slots.range((user, Uuid::nil())..=(user, Uuid::max())).count() >= config.sockets_per_user {
            Err(AdmissionError::UserLimit)
        } else {
            Ok(())
        }
    }

    /// Slots are by session, not by user: an old socket that closes must not remove the new one of the same user.
    pub(crate) fn admit(
        self: &Arc<Self>,
        user: UserId,
        session: Uuid,
        config: &Config,
    ) -> Result<SocketSlot, AdmissionError> {
        let mut slots = self.slots();
        self.check(&slots, user, config)?;
        let (sender, polled_seq) = watch::channel(0);
        slots.insert((user, session), sender);
        self.open.send_modify(|open| *open += 1);
        Ok(SocketSlot { sockets: self.clone(), user, session, polled_seq })
    }

    /// In the order of users.
    pub(crate) fn all(&self) -> Vec<(UserId, Uuid)> {
        self.slots().keys().copied().collect()
    }

    pub(crate) fn contains(&self, user: UserId, session: Uuid) -> bool {
        self.slots().contains_key(&(user, session))
    }

    /// Passes polled cursors to the sessions of their users.
    pub(crate) fn send_cursors(&self, cursors: &[(UserId, MailboxCursor)]) {
        let slots = self.slots();
        for (user, cursor) in cursors {
            for (_, slot) in slots.range((*user, Uuid::nil())..=(*user, Uuid::max())) {
                slot.send_if_modified(|known| std::mem::replace(known, cursor.last_seq) != cursor.last_seq);
            }
        }
    }

    /// Closes every socket with 1001 and waits until their sessions have finished, 10 s at most.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        let mut open = self.open.subscribe();
        let all_closed = timeout(CLOSE_WAIT, open.wait_for(|open| *open == 0)).await.is_ok();
        if !all_closed {
            tracing::warn!(sockets = *self.open.borrow(), "sockets did not close in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slots_are_by_session_and_limited_by_user_and_pod() {
        let sockets = Arc::new(Sockets::default());
        let (ann, bob) = (UserId(Uuid::from_u128(8)), UserId(Uuid::from_u128(9)));
        let config = Config { sockets_per_user: 2, sockets_max: 3, ..Config::default() };
        let admit = |user, n| sockets.admit(user, Uuid::from_u128(n), &config);
        let [old, new] = [1, 2].map(|n| admit(ann, n).unwrap());
        assert_eq!(admit(ann, 3).unwrap_err(), AdmissionError::UserLimit);
        let bobs = admit(bob, 4).unwrap();
        assert_eq!(admit(bob, 5).unwrap_err(), AdmissionError::PodLimit);
        drop(old);
        assert_eq!(sockets.all(), [(ann, new.session), (bob, bobs.session)]);
        drop((new, bobs));
        sockets.close().await;
        assert_eq!(admit(ann, 6).unwrap_err(), AdmissionError::Closing);
    }
}
