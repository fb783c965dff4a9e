//! The registry of the sockets that are open on this pod, with its limits. It knows nothing of the database: the rows of
//! sockets are `presence`.
//!
//! A socket has a name for the positions that it sends: that of its device, or else the empty name; a second socket without a name
//! that is open at the same time is `~2`, a third `~3`: two phones of an app that names none are two devices. A phone that opens its next
//! socket before the old one is gone is one: its name waits for it until the old socket, of the same sign-in, has closed or is silent.

use std::collections::{BTreeMap, BTreeSet, Bound};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use geospatial::device_clock::DeviceClock;
use platform::CancellationToken;
use platform::limits::Quota;
use streams::connected_drivers::ConnectedDriver;
use streams::event::UserBeacon;
use streams::{MatchId, SignInId, UserId};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::inbox::{Inbox, WrittenFrame};
use super::transport::{SIGN_IN_ENDED, SessionEnd};
use crate::commands::publish_lane::PublishLane;
use crate::config::Config;
use crate::mailbox::{Device, MailboxCursor};
use crate::presence::Located;
use crate::presence::known::KnownDriver;

/// The wait for all sockets to close when the pod stops.
const CLOSE_WAIT: Duration = Duration::from_secs(10);
/// A socket from which nothing came for so long has missed a ping.
const GONE_AFTER_MS: u64 = 25_000;
/// How long what belongs to a user without a socket is remembered after a request over HTTP.
const CALLER_REMEMBERED: Duration = Duration::from_secs(60);
/// How long the clock of a device is remembered after its last socket has closed.
const CLOCK_REMEMBERED: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub(crate) struct Sockets {
    registry: Mutex<Registry>,
    /// Sessions that have not finished. A session finishes after its transaction for the closed socket.
    open: watch::Sender<usize>,
    /// Cancelled when the pod stops: it admits no more sockets, and the open ones close.
    pub(crate) closing: CancellationToken,
    /// Core subscriptions that bring frames.
    links: watch::Sender<usize>,
    /// Notified of users in `Registry::uncounted`.
    uncounted: Notify,
    /// The beginning of the times of [`Slot::received_ms`].
    started: Instant,
}

/// A device's clock, and when it was last used.
type RememberedClock = (Arc<Mutex<DeviceClock>>, Instant);

#[derive(Debug, Default)]
struct Registry {
    /// By user and session.
    slots: BTreeMap<(UserId, Uuid), Slot>,
    /// Users with a socket here.
    users: BTreeMap<UserId, OfUser>,
    /// Users without a socket here who sent commands over HTTP, and when they sent the last one.
    callers: BTreeMap<UserId, (Shared, Instant)>,
    /// The clocks of devices, by name. Those that are wrong are remembered for a while after the last socket has closed.
    clocks: BTreeMap<(UserId, Arc<str>), RememberedClock>,
    /// Drivers of whom a beacon may be due.
    moved: BTreeSet<UserId>,
    /// Users with a new socket here who have others at other pods.
    uncounted: BTreeSet<UserId>,
    /// Users whose sockets here are not as their row says.
    unrecorded: BTreeSet<UserId>,
}

/// What the sockets of a user, and requests over HTTP, share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) publish_lane: Arc<PublishLane>,
    pub(crate) known_driver: Arc<Mutex<KnownDriver>>,
}

#[derive(Debug)]
struct OfUser {
    sockets: usize,
    shared: Shared,
}

impl Shared {
    fn new(points: Quota) -> Self {
        Self { publish_lane: Arc::new(PublishLane::new(points, Instant::now())), known_driver: Arc::default() }
    }
}

#[derive(Debug)]
struct Slot {
    inbox: Arc<Inbox>,
    device: Device,
    device_name: Arc<str>,
    /// The lowest name of an unnamed socket of the same sign-in that was open before this one, if it is lower.
    awaited_name: Option<Arc<str>>,
    /// The sign-in of the access token, if it names one.
    sign_in: Option<SignInId>,
    /// When the client last sent anything, in milliseconds since the registry began.
    received_ms: Arc<AtomicU64>,
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
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) publish_lane: Arc<PublishLane>,
    /// What this pod knows of the user as a driver.
    pub(crate) known_driver: Arc<Mutex<KnownDriver>>,
    name: Mutex<SlotName>,
    /// The clock of the socket's device.
    pub(crate) clock: Arc<Mutex<DeviceClock>>,
    received_ms: Arc<AtomicU64>,
}

/// The name under which the positions of a socket go out, and whether it may become a lower one.
#[derive(Debug)]
struct SlotName {
    current: Arc<str>,
    is_waiting: bool,
}

impl SocketSlot {
    /// The name under which the positions of this socket go out now.
    pub(crate) fn device_name(&self) -> Arc<str> {
        let mut name = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        if name.is_waiting
            && let Some(lower) = self.sockets.take_awaited_name(self)
        {
            *name = SlotName { current: lower, is_waiting: false };
        }
        name.current.clone()
    }

    pub(crate) fn driver(&self) -> MutexGuard<'_, KnownDriver> {
        self.known_driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn clock(&self) -> MutexGuard<'_, DeviceClock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
    fn insert(&mut self, user: UserId, session: Uuid, slot: Slot, points: Quota) -> &OfUser {
        self.slots.insert((user, session), slot);
        let shared = self.callers.remove(&user).map(|(shared, _)| shared);
        let new = || OfUser { sockets: 0, shared: shared.unwrap_or_else(|| Shared::new(points)) };
        let of_user = self.users.entry(user).or_insert_with(new);
        of_user.sockets += 1;
        of_user
    }

    /// The unnamed sockets of the user that hold their names against one of this sign-in. A socket of the same sign-in that has not even
    /// answered a ping is gone: the other one is the same phone again.
    fn unnamed(
        &self,
        user: UserId,
        sign_in: Option<SignInId>,
        silent_since_ms: u64,
    ) -> impl Iterator<Item = (Uuid, &Slot)> {
        let is_open = move |slot: &Slot| {
            let is_silent = slot.received_ms.load(Ordering::Relaxed) < silent_since_ms;
            slot.device == Device::UNNAMED && !(is_silent && sign_in.is_some() && slot.sign_in == sign_in)
        };
        self.of(user).filter(move |(_, slot)| is_open(slot)).map(|((_, session), slot)| (*session, slot))
    }

    /// The name of a new socket of the user, and the one for which it waits.
    fn device_name(
        &self,
        user: UserId,
        device: &Device,
        sign_in: Option<SignInId>,
        silent_since_ms: u64,
    ) -> (Arc<str>, Option<Arc<str>>) {
        if *device != Device::UNNAMED {
            return (device.as_str().into(), None);
        }
        let open: Vec<&Slot> = self.unnamed(user, sign_in, silent_since_ms).map(|(_, slot)| slot).collect();
        let taken: BTreeSet<&str> = open.iter().map(|slot| &*slot.device_name).collect();
        if !taken.contains("") {
            return ("".into(), None);
        }
        let mut names = (2..).map(|n| format!("~{n}"));
        let name = names.find(|name| !taken.contains(name.as_str())).unwrap_or_default();
        let same =
            open.iter().filter(|slot| sign_in.is_some() && slot.sign_in == sign_in).map(|slot| &slot.device_name);
        let awaited = same
            .min_by_key(|name| (name.len(), (*name).clone()))
            .filter(|lower| lower.len() < name.len() || ***lower < *name);
        (name.into(), awaited.cloned())
    }

    /// The name for which this socket waits, once no other one holds it. From then on it is this one's.
    fn take_awaited_name(&mut self, user: UserId, session: Uuid, silent_since_ms: u64) -> Option<Arc<str>> {
        let Slot { sign_in, awaited_name, .. } = self.slots.get(&(user, session))?;
        let awaited = awaited_name.clone()?;
        let is_held = self
            .unnamed(user, *sign_in, silent_since_ms)
            .any(|(other, slot)| other != session && slot.device_name == awaited);
        if is_held {
            return None;
        }
        let slot = self.slots.get_mut(&(user, session))?;
        slot.awaited_name = None;
        slot.device_name = awaited.clone();
        Some(awaited)
    }

    fn clock(&mut self, user: UserId, device_name: &Arc<str>) -> Arc<Mutex<DeviceClock>> {
        let new = || (Arc::default(), Instant::now());
        self.clocks.entry((user, device_name.clone())).or_insert_with(new).0.clone()
    }

    fn remove(&mut self, user: UserId, session: Uuid) {
        if self.slots.remove(&(user, session)).is_none() {
            return;
        }
        if let Some(of_user) = self.users.get_mut(&user) {
            of_user.sockets -= 1;
            if of_user.sockets == 0 {
                self.users.remove(&user);
                self.moved.remove(&user);
            }
        }
    }

    fn of(&self, user: UserId) -> impl Iterator<Item = (&(UserId, Uuid), &Slot)> {
        self.slots.range((user, Uuid::nil())..=(user, Uuid::max()))
    }
}

impl Default for Sockets {
    fn default() -> Self {
        Self {
            registry: Mutex::default(),
            open: watch::Sender::new(0),
            closing: CancellationToken::new(),
            links: watch::Sender::new(0),
            uncounted: Notify::new(),
            started: Instant::now(),
        }
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
        let inbox = Arc::<Inbox>::default();
        let received_ms = Arc::new(AtomicU64::new(self.millis(Instant::now())));
        let silent_since_ms = self.millis(Instant::now()).saturating_sub(GONE_AFTER_MS);
        let (device_name, awaited_name) = registry.device_name(user, &device, sign_in, silent_since_ms);
        let name = Mutex::new(SlotName { current: device_name.clone(), is_waiting: awaited_name.is_some() });
        let clock = registry.clock(user, &device_name);
        let received = received_ms.clone();
        let slot = Slot { inbox: inbox.clone(), device, device_name, awaited_name, sign_in, received_ms: received };
        let of_user = registry.insert(user, session, slot, points);
        let Shared { publish_lane, known_driver } = of_user.shared.clone();
        self.open.send_modify(|open| *open += 1);
        let sockets = self.clone();
        Ok(SocketSlot { sockets, user, session, inbox, publish_lane, known_driver, name, clock, received_ms })
    }

    /// The lower name that the socket has from now on, with its own clock.
    fn take_awaited_name(&self, slot: &SocketSlot) -> Option<Arc<str>> {
        let now = Instant::now();
        let silent_since_ms = self.millis(now).saturating_sub(GONE_AFTER_MS);
        let mut registry = self.registry();
        let name = registry.take_awaited_name(slot.user, slot.session, silent_since_ms)?;
        registry.clocks.insert((slot.user, name.clone()), (slot.clock.clone(), now));
        Some(name)
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

    /// The sockets of a user that are open here.
    pub(crate) fn count(&self, user: UserId) -> usize {
        self.registry().users.get(&user).map_or(0, |of_user| of_user.sockets)
    }

    /// The users with a socket here, in their order.
    pub(crate) fn users(&self) -> Vec<UserId> {
        self.registry().users.keys().copied().collect()
    }

    /// Passes the frame of the entry `seq` of the user's mailbox to each of the user's sessions here.
    pub(crate) fn deliver(&self, user: UserId, seq: u64, frame: &WrittenFrame) {
        for (_, slot) in self.registry().of(user) {
            slot.inbox.put_frame(seq, frame);
        }
    }

    /// Pushes of the entry `seq` wait: the user's sessions here find out whether their clients take it.
    pub(crate) fn expect_answer(&self, user: UserId, seq: u64) {
        for (_, slot) in self.registry().of(user) {
            slot.inbox.expect_answer(seq);
        }
    }

    /// One more core subscription brings frames.
    pub(crate) fn add_link(&self) {
        self.links.send_modify(|links| *links += 1);
    }

    pub(crate) async fn wait_for_links(&self, all: usize) {
        // An error would mean that the sender is gone, and it is here.
        let _ = self.links.subscribe().wait_for(|links| *links >= all).await;
    }

    /// How many sockets of the user are open here was not stored.
    pub(crate) fn add_unrecorded(&self, user: UserId) {
        self.registry().unrecorded.insert(user);
    }

    pub(crate) fn take_unrecorded(&self) -> BTreeSet<UserId> {
        std::mem::take(&mut self.registry().unrecorded)
    }

    /// The user's sockets are to be counted, with those at other pods.
    pub(crate) fn add_uncounted(&self, user: UserId) {
        self.registry().uncounted.insert(user);
        self.uncounted.notify_one();
    }

    /// Waits until there are users whose sockets are to be counted. A cancelled call loses nothing.
    pub(crate) async fn take_uncounted(&self) -> BTreeSet<UserId> {
        loop {
            let users = std::mem::take(&mut self.registry().uncounted);
            if !users.is_empty() {
                return users;
            }
            self.uncounted.notified().await;
        }
    }

    pub(crate) fn of(&self, user: UserId) -> Vec<OpenSocket> {
        self.registry().of(user).map(|(key, slot)| self.open_socket(*key, slot)).collect()
    }

    /// A beacon of a driver was published, here or by another pod.
    pub(crate) fn record_beacon(&self, beacon: &UserBeacon) {
        if let Some(driver) = self.known_driver(beacon.user_id) {
            driver.lock().unwrap_or_else(PoisonError::into_inner).record_beacon(beacon);
        }
    }

    /// A driver accepted an offer on this device, at another pod.
    pub(crate) fn record_accepted(&self, user: UserId, offer: MatchId, device: &Arc<str>) {
        if let Some(driver) = self.known_driver(user) {
            driver.lock().unwrap_or_else(PoisonError::into_inner).set_accepted(offer, device.clone());
        }
    }

    /// What a request over HTTP shares with the user's sockets and other requests, and the clock of its device.
    pub(crate) fn caller(&self, user: UserId, device: &Arc<str>, points: Quota) -> (Shared, Arc<Mutex<DeviceClock>>) {
        let now = Instant::now();
        let mut registry = self.registry();
        let clock = registry.clock(user, device);
        if let Some(of_user) = registry.users.get(&user) {
            return (of_user.shared.clone(), clock);
        }
        let (shared, used_at) = registry.callers.entry(user).or_insert_with(|| (Shared::new(points), now));
        *used_at = now;
        (shared.clone(), clock)
    }

    /// Where this pod knows a driver.
    pub(crate) fn located(&self, user: UserId) -> Option<Located> {
        self.known_driver(user)?.lock().unwrap_or_else(PoisonError::into_inner).located()
    }

    /// Where a driver is who has a socket here.
    pub(crate) fn connected_driver(&self, user: UserId) -> Option<ConnectedDriver> {
        self.known_driver(user)?.lock().unwrap_or_else(PoisonError::into_inner).connected(user)
    }

    /// The drivers among the next `max` users with a socket here, and the last of these users if there may be more.
    pub(crate) fn connected_drivers(
        &self,
        after: Option<UserId>,
        max: usize,
    ) -> (Vec<ConnectedDriver>, Option<UserId>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let users: Vec<(UserId, Arc<Mutex<KnownDriver>>)> = {
            let registry = self.registry();
            let users = registry.users.range((from, Bound::Unbounded)).take(max);
            users.map(|(user, of_user)| (*user, of_user.shared.known_driver.clone())).collect()
        };
        let next = users.last().map(|(user, _)| *user).filter(|_| users.len() == max);
        let connected = |(user, driver): &(UserId, Arc<Mutex<KnownDriver>>)| {
            driver.lock().unwrap_or_else(PoisonError::into_inner).connected(*user)
        };
        (users.iter().filter_map(connected).collect(), next)
    }

    fn known_driver(&self, user: UserId) -> Option<Arc<Mutex<KnownDriver>>> {
        self.registry().users.get(&user).map(|of_user| of_user.shared.known_driver.clone())
    }

    /// A beacon of the driver may be due.
    pub(crate) fn add_moved(&self, user: UserId) {
        let mut registry = self.registry();
        if registry.users.contains_key(&user) {
            registry.moved.insert(user);
        }
    }

    /// The drivers of whom a beacon is due, with their places.
    pub(crate) fn take_moved(&self) -> Vec<(UserId, Located)> {
        let moved = std::mem::take(&mut self.registry().moved);
        let due = |user: UserId| {
            let driver = self.known_driver(user)?;
            let due = driver.lock().unwrap_or_else(PoisonError::into_inner).due()?;
            Some((user, due))
        };
        moved.into_iter().filter_map(due).collect()
    }

    /// Forgets callers without a socket after a while, and the clocks of devices that have no socket any more: those that are right at
    /// once, the others after a while.
    pub(crate) fn forget_clocks(&self) {
        let now = Instant::now();
        let mut registry = self.registry();
        registry.callers.retain(|_, (_, used_at)| now.saturating_duration_since(*used_at) < CALLER_REMEMBERED);
        registry.clocks.retain(|_, (clock, used_at)| {
            if Arc::strong_count(clock) > 1 {
                *used_at = now;
                return true;
            }
            let is_wrong = !clock.lock().unwrap_or_else(PoisonError::into_inner).offset().is_zero();
            is_wrong && now.saturating_duration_since(*used_at) < CLOCK_REMEMBERED
        });
    }

    /// Passes polled cursors to the sessions of their users.
    pub(crate) fn send_cursors(&self, cursors: &[(UserId, MailboxCursor)]) {
        let registry = self.registry();
        for (user, MailboxCursor { last_seq, .. }) in cursors {
            for (_, slot) in registry.of(*user) {
                slot.inbox.set_newest(*last_seq);
            }
        }
    }

    /// Ends this session, if it is on this pod.
    pub(crate) fn end(&self, user: UserId, session: Uuid, end: SessionEnd) -> bool {
        let registry = self.registry();
        let slot = registry.slots.get(&(user, session));
        slot.inspect(|slot| slot.inbox.end(end)).is_some()
    }

    /// Closes the sockets of these sign-ins with 4001. They have ended: [`platform::Tokens`] refuses their tokens already.
    pub(crate) fn end_sign_ins(&self, ended: &[SignInId]) {
        let ended: BTreeSet<SignInId> = ended.iter().copied().collect();
        for slot in self.registry().slots.values() {
            if slot.sign_in.is_some_and(|id| ended.contains(&id)) {
                slot.inbox.end(SIGN_IN_ENDED);
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
    use futures_util::FutureExt;

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

    #[tokio::test]
    async fn drivers_on_duty_are_listed_in_pages_of_users() {
        let sockets = Arc::new(Sockets::default());
        let (config, points) = (Config::default(), Quota { burst: 9, per_s: 1.0 });
        let user = |n: u128| UserId(Uuid::from_u128(n));
        let admit = |n| sockets.admit(user(n), Uuid::from_u128(n), Device::UNNAMED, None, &config, points).unwrap();
        let _slots: Vec<SocketSlot> = (1..=5).map(admit).collect();
        for (n, active) in [(2, true), (3, false), (5, true)] {
            sockets.record_beacon(&UserBeacon {
                user_id: user(n),
                active,
                vehicle_type: streams::VehicleType::Car,
                location: streams::Position { lat: n as f64, lng: 0.0 },
                recorded_at: chrono::DateTime::UNIX_EPOCH,
                located_at: None,
                device: None,
            });
        }
        let (mut after, mut pages) = (None, Vec::new());
        loop {
            let (drivers, next) = sockets.connected_drivers(after, 2);
            pages.push(drivers.iter().map(|driver| driver.user_id).collect::<Vec<_>>());
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(pages, [vec![user(2)], vec![], vec![user(5)]]);
        assert_eq!(sockets.connected_driver(user(2)).map(|driver| driver.position.location.lat), Some(2.0));
        assert!([1, 3, 9].iter().all(|n| sockets.connected_driver(user(*n)).is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn sockets_without_a_name_that_are_open_at_once_are_several_devices() {
        let sockets = Arc::new(Sockets::default());
        let config = Config::default();
        let points = Quota { burst: 9, per_s: 1.0 };
        let admit = |n: u128, device: Device, sign_in: Option<u128>| {
            let id = sign_in.map(sign_in_id);
            sockets.admit(ANN, Uuid::from_u128(n), device, id, &config, points).unwrap()
        };
        let one = admit(1, Device::UNNAMED, None);
        let two = admit(2, Device::UNNAMED, None);
        let named = admit(3, Device::named("phone").unwrap(), None);
        let three = admit(4, Device::UNNAMED, Some(1));
        let names = [&one, &two, &named, &three].map(|slot| slot.device_name().to_string());
        assert_eq!(names, ["", "~2", "phone", "~3"]);
        drop(one);
        assert_eq!(&*admit(5, Device::UNNAMED, None).device_name(), "");
        // The same phone again, after its connection was lost: nothing came from the old socket since a ping.
        tokio::time::advance(Duration::from_secs(26)).await;
        two.received(Instant::now());
        let back = admit(6, Device::UNNAMED, Some(1));
        assert_eq!(&*back.device_name(), "");
        assert_eq!(&*admit(7, Device::UNNAMED, Some(1)).device_name(), "~3");
    }

    #[tokio::test(start_paused = true)]
    async fn a_phone_that_reconnects_before_its_old_socket_is_gone_has_its_name_again_once_it_is() {
        let sockets = Arc::new(Sockets::default());
        let (config, points) = (Config::default(), Quota { burst: 9, per_s: 1.0 });
        let admit = |n: u128, sign_in: Option<u128>| {
            let id = sign_in.map(sign_in_id);
            sockets.admit(ANN, Uuid::from_u128(n), Device::UNNAMED, id, &config, points).unwrap()
        };
        let name = |slot: &SocketSlot| slot.device_name().to_string();
        // The old socket closes a moment later.
        let (old, next) = (admit(1, Some(1)), admit(2, Some(1)));
        assert_eq!((name(&old), name(&next)), (String::new(), "~2".to_owned()));
        drop(old);
        let clock = next.clock.clone();
        assert_eq!((name(&next), name(&next)), (String::new(), String::new()));
        assert!(Arc::ptr_eq(&clock, &sockets.caller(ANN, &"".into(), points).1), "with what it learned");
        // Or it is never closed, and answers no more. Meanwhile another device takes nothing over.
        let tablet = admit(3, Some(2));
        let third = admit(4, Some(1));
        assert_eq!((name(&tablet), name(&third)), ("~2".to_owned(), "~3".to_owned()));
        tokio::time::advance(Duration::from_secs(24)).await;
        [&tablet, &third].into_iter().for_each(|slot| slot.received(Instant::now()));
        assert_eq!(name(&third), "~3");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!((name(&tablet), name(&third)), ("~2".to_owned(), String::new()));
        // Without a sign-in nobody knows whether it is the same phone.
        drop((next, third));
        let (old, other) = (admit(5, None), admit(6, None));
        drop(old);
        assert_eq!((name(&other), name(&tablet)), ("~3".to_owned(), "~2".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_clock_is_remembered_for_a_while() {
        let sockets = Arc::new(Sockets::default());
        let at = |seconds: i64| chrono::DateTime::UNIX_EPOCH + chrono::Duration::seconds(seconds);
        let reading = |n: i64, offset: i64| geospatial::device_clock::Reading {
            device_at: at(n * 4 - offset),
            sent_at: None,
            received_at: at(n * 4),
        };
        for (user, offset) in [(ANN, 20), (BOB, 0)] {
            let slot = admit(&sockets, user, 1, None).unwrap();
            (10..15).for_each(|n| _ = slot.clock().read(&reading(n, offset)));
        }
        for (passed, expected) in [(0, [20, 0]), (3_000, [20, 0]), (3_700, [0, 0])] {
            tokio::time::advance(Duration::from_secs(passed)).await;
            sockets.forget_clocks();
            let offset = |user| admit(&sockets, user, 2, None).unwrap().clock().offset().num_seconds();
            assert_eq!([ANN, BOB].map(offset), expected, "after {passed} s");
            sockets.forget_clocks();
        }
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
        let ends = || slots.each_ref().map(|slot| slot.inbox.known().end);
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

    #[tokio::test]
    async fn frames_go_to_the_sessions_of_their_user() {
        let sockets = Arc::new(Sockets::default());
        let (ann, bob) = (admit(&sockets, ANN, 1, None).unwrap(), admit(&sockets, BOB, 2, None).unwrap());
        sockets.deliver(ANN, 7, &"seven".into());
        assert_eq!(&*ann.inbox.frame().await.text, "seven");
        assert!(bob.inbox.frame().now_or_never().is_none());
        assert_eq!((sockets.count(ANN), sockets.users()), (1, vec![ANN, BOB]));
        drop(ann);
        assert_eq!((sockets.count(ANN), sockets.users()), (0, vec![BOB]));
    }
}
