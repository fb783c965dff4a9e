//! The registry of the sockets that are open on this pod, with its limits. It knows nothing of the database: the rows of
//! sockets are `presence`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use platform::CancellationToken;
use platform::limits::Quota;
use streams::{SignInId, UserId};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::transport::{SIGN_IN_ENDED, SessionEnd};
use crate::commands::publish_lane::PublishLane;
use crate::config::Config;
use crate::mailbox::{Device, MailboxCursor};

/// The wait for all sockets to close when the pod stops.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Sockets {
    registry: Mutex<Registry>,
    /// Sessions that have not finished. A session finishes after its transaction for the closed socket.
    open: watch::Sender<usize>,
    /// Cancelled when the pod stops: it admits no more sockets, and the open ones close.
    pub(crate) closing: CancellationToken,
    /// The beginning of the times of [`Slot::received_ms`].
    started: Instant,
}

#[derive(Debug, Default)]
struct Registry {
    /// By user and session.
    slots: BTreeMap<(UserId, Uuid), Slot>,
    /// Of each user with a socket here: how many, and the lane of positions, which they share.
    users: BTreeMap<UserId, (usize, Arc<PublishLane>)>,
}

#[derive(Debug)]
struct Slot {
    signal: watch::Sender<Signal>,
    device: Device,
    /// The sign-in of the access token, if it names one.
    sign_in: Option<SignInId>,
    /// When the client last sent anything, in milliseconds since the registry began.
    received_ms: Arc<AtomicU64>,
}

/// What the pod has for a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Signal {
    /// The newest `seq` of the mailbox, as the poll of mailboxes found it.
    pub(crate) last_seq: u64,
    /// The session is to end, and why.
    pub(crate) end: Option<SessionEnd>,
}

/// A socket as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenSocket {
    pub(crate) user: UserId,
    pub(crate) session: Uuid,
    pub(crate) device: Device,
    /// For how long its client has sent nothing.
    pub(crate) silence: Duration,
}

/// Why a socket is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdmissionError {
    /// The pod is about to stop.
    Closing,
    /// The pod has reached `sockets_max`.
    PodLimit,
}

/// A session's place in the registry, freed on drop.
#[derive(Debug)]
pub(crate) struct SocketSlot {
    sockets: Arc<Sockets>,
    user: UserId,
    pub(crate) session: Uuid,
    pub(crate) signal: watch::Receiver<Signal>,
    pub(crate) publish_lane: Arc<PublishLane>,
    received_ms: Arc<AtomicU64>,
}

impl SocketSlot {
    /// Removes the session from the registry. It still counts as open until the slot is dropped.
    pub(crate) fn unregister(&self) {
        self.sockets.registry().remove(self.user, self.session);
    }

    /// The client has sent something.
    pub(crate) fn received(&self, at: Instant) {
        self.received_ms.store(self.sockets.millis(at), Ordering::Relaxed);
    }

    /// The session goes by this sign-in from now on. Returns the one before.
    pub(crate) fn set_sign_in(&self, sign_in: Option<SignInId>) -> Option<SignInId> {
        let mut registry = self.sockets.registry();
        registry
            .slots
            .get_mut(&(self.user, self.session))
            .and_then(|slot| std::mem::replace(&mut slot.sign_in, sign_in))
    }
}

impl Drop for SocketSlot {
    fn drop(&mut self) {
        self.unregister();
        self.sockets.open.send_modify(|open| *open -= 1);
    }
}

impl Registry {
    fn insert(&mut self, user: UserId, session: Uuid, slot: Slot, points: Quota) -> Arc<PublishLane> {
        self.slots.insert((user, session), slot);
        let new = || (0, Arc::new(PublishLane::new(points, Instant::now())));
        let (count, lane) = self.users.entry(user).or_insert_with(new);
        *count += 1;
        lane.clone()
    }

    fn remove(&mut self, user: UserId, session: Uuid) {
        if self.slots.remove(&(user, session)).is_none() {
            return;
        }
        if let Some((count, _)) = self.users.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&user);
            }
        }
    }

    fn of(&self, user: UserId) -> impl Iterator<Item = (&(UserId, Uuid), &Slot)> {
        self.slots.range((user, Uuid::nil())..=(user, Uuid::max()))
    }
}

impl Slot {
    /// The first reason to end is the one that the client sees.
    fn end(&self, end: SessionEnd) {
        self.signal.send_if_modified(|signal| signal.end.replace(signal.end.unwrap_or(end)).is_none());
    }
}

impl Default for Sockets {
    fn default() -> Self {
        let (registry, open, closing) = (Mutex::default(), watch::Sender::new(0), CancellationToken::new());
        Self { registry, open, closing, started: Instant::now() }
    }
}

impl Sockets {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether a socket would be admitted now. A user may always open one more: it takes the place of an older one.
    pub(crate) fn check_limits(&self, config: &Config) -> Result<(), AdmissionError> {
        if self.closing.is_cancelled() {
            Err(AdmissionError::Closing)
        } else if *self.open.borrow() >= config.sockets_max {
            Err(AdmissionError::PodLimit)
        } else {
            Ok(())
        }
    }

    /// Slots are by session, not by user: an old socket that closes must not remove the new one of the same user.
    pub(crate) fn admit(
        self: &Arc<Self>,
        user: UserId,
        session: Uuid,
        device: Device,
        sign_in: Option<SignInId>,
        config: &Config,
        points: Quota,
    ) -> Result<SocketSlot, AdmissionError> {
        let mut registry = self.registry();
        self.check_limits(config)?;
        let (sender, signal) = watch::channel(Signal::default());
        let received_ms = Arc::new(AtomicU64::new(self.millis(Instant::now())));
        let slot = Slot { signal: sender, device, sign_in, received_ms: received_ms.clone() };
        let publish_lane = registry.insert(user, session, slot, points);
        self.open.send_modify(|open| *open += 1);
        Ok(SocketSlot { sockets: self.clone(), user, session, signal, publish_lane, received_ms })
    }

    fn open_socket(&self, (user, session): (UserId, Uuid), slot: &Slot) -> OpenSocket {
        let now_ms = self.millis(Instant::now());
        let silence = Duration::from_millis(now_ms.saturating_sub(slot.received_ms.load(Ordering::Relaxed)));
        OpenSocket { user, session, device: slot.device.clone(), silence }
    }

    /// In the order of users.
    pub(crate) fn all(&self) -> Vec<OpenSocket> {
        self.registry().slots.iter().map(|(key, slot)| self.open_socket(*key, slot)).collect()
    }

    pub(crate) fn of(&self, user: UserId) -> Vec<OpenSocket> {
        self.registry().of(user).map(|(key, slot)| self.open_socket(*key, slot)).collect()
    }

    pub(crate) fn contains(&self, user: UserId, session: Uuid) -> bool {
        self.registry().slots.contains_key(&(user, session))
    }

    /// Passes polled cursors to the sessions of their users.
    pub(crate) fn send_cursors(&self, cursors: &[(UserId, MailboxCursor)]) {
        let registry = self.registry();
        for (user, MailboxCursor { last_seq, .. }) in cursors {
            for (_, slot) in registry.of(*user) {
                slot.signal.send_if_modified(|known| std::mem::replace(&mut known.last_seq, *last_seq) != *last_seq);
            }
        }
    }

    /// Ends this session, if it is on this pod.
    pub(crate) fn end(&self, user: UserId, session: Uuid, end: SessionEnd) -> bool {
        let registry = self.registry();
        let slot = registry.slots.get(&(user, session));
        slot.inspect(|slot| slot.end(end)).is_some()
    }

    /// Closes the sockets of these sign-ins with 4001. They have ended: [`platform::Tokens`] refuses their tokens already.
    pub(crate) fn end_sign_ins(&self, ended: &[SignInId]) {
        let ended: BTreeSet<SignInId> = ended.iter().copied().collect();
        for slot in self.registry().slots.values() {
            if slot.sign_in.is_some_and(|id| ended.contains(&id)) {
                slot.end(SIGN_IN_ENDED);
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
    use super::super::transport::TOO_MANY;
    use super::*;

    const ANN: UserId = UserId(Uuid::from_u128(8));
    const BOB: UserId = UserId(Uuid::from_u128(9));

    fn sign_in_id(n: u128) -> SignInId {
        SignInId(Uuid::from_u128(n))
    }

    fn admit(
        sockets: &Arc<Sockets>,
        user: UserId,
        n: u128,
        sign_in: Option<u128>,
    ) -> Result<SocketSlot, AdmissionError> {
        let (config, points) = (Config { sockets_max: 3, ..Config::default() }, Quota { burst: 9, per_s: 1.0 });
        sockets.admit(user, Uuid::from_u128(n), Device::UNNAMED, sign_in.map(sign_in_id), &config, points)
    }

    #[tokio::test]
    async fn slots_are_by_session_and_limited_by_pod() {
        let sockets = Arc::new(Sockets::default());
        let [old, new] = [1, 2].map(|n| admit(&sockets, ANN, n, None).unwrap());
        let bobs = admit(&sockets, BOB, 4, None).unwrap();
        assert_eq!(admit(&sockets, BOB, 5, None).unwrap_err(), AdmissionError::PodLimit);
        drop(old);
        let all: Vec<_> = sockets.all().into_iter().map(|socket| (socket.user, socket.session)).collect();
        assert_eq!(all, [(ANN, new.session), (BOB, bobs.session)]);
        drop((new, bobs));
        sockets.close().await;
        assert_eq!(admit(&sockets, ANN, 6, None).unwrap_err(), AdmissionError::Closing);
    }

    #[tokio::test(start_paused = true)]
    async fn the_sockets_of_a_user_share_a_lane_and_each_has_its_own_silence() {
        let sockets = Arc::new(Sockets::default());
        let (one, bobs) = (admit(&sockets, ANN, 1, None).unwrap(), admit(&sockets, BOB, 2, None).unwrap());
        tokio::time::advance(Duration::from_secs(3)).await;
        let two = admit(&sockets, ANN, 3, None).unwrap();
        assert!(Arc::ptr_eq(&one.publish_lane, &two.publish_lane));
        assert!(!Arc::ptr_eq(&one.publish_lane, &bobs.publish_lane));
        let silences = || sockets.of(ANN).into_iter().map(|socket| socket.silence.as_secs()).collect::<Vec<_>>();
        assert_eq!(silences(), [3, 0]);
        tokio::time::advance(Duration::from_secs(2)).await;
        one.received(Instant::now());
        assert_eq!(silences(), [0, 2]);
    }

    #[tokio::test]
    async fn a_session_ends_with_its_sign_in_or_by_name_and_the_first_reason_stays() {
        let sockets = Arc::new(Sockets::default());
        let slots = [(1, Some(10)), (2, Some(20)), (3, None)].map(|(n, id)| admit(&sockets, ANN, n, id).unwrap());
        let ends = || slots.each_ref().map(|slot| slot.signal.borrow().end);
        sockets.end_sign_ins(&[99, 10].map(sign_in_id));
        assert_eq!(ends(), [Some(SIGN_IN_ENDED), None, None]);
        // A socket whose token was refreshed goes by the new sign-in.
        assert_eq!(slots[1].set_sign_in(Some(sign_in_id(30))), Some(sign_in_id(20)));
        sockets.end_sign_ins(&[sign_in_id(20)]);
        assert_eq!(ends(), [Some(SIGN_IN_ENDED), None, None]);
        assert!(sockets.end(ANN, slots[2].session, TOO_MANY) && !sockets.end(BOB, slots[2].session, TOO_MANY));
        assert!(sockets.end(ANN, slots[0].session, TOO_MANY));
        assert_eq!(ends(), [Some(SIGN_IN_ENDED), None, Some(TOO_MANY)]);
    }
}
