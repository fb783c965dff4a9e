//! The way in for WebSockets: who may open one, which are open on this pod, and the timers that belong to them. The life
//! of a socket is `session.rs`; this file never reads a frame.

pub(crate) mod frame;
mod rate_limit;
pub(crate) mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use futures_util::{SinkExt, StreamExt, future};
use platform::{CancellationToken, Problem, StoreError, Transaction};
use streams::{RideId, UserId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite;
use uuid::Uuid;

use crate::gateway::frame::FRAME_MAX;
use crate::gateway::session::{Incoming, Outgoing};
use crate::{Config, Tables, Users, account, live_ride, mailbox, offer, presence, search};

/// A browser brings its token as `Sec-WebSocket-Protocol: bearer, <token>`.
const SUBPROTOCOL: &str = "bearer";
/// A socket's buffers: the library's defaults cost 133 KiB for each.
const READ_BUFFER: usize = 4_096;
const WRITE_BUFFER_MAX: usize = 256 * 1024;
/// A frame somewhat too large is still read whole, so that the client hears why it is closed.
const READ_MAX: usize = 2 * FRAME_MAX;
/// Sockets or users of one statement.
const CHUNK: usize = 1_000;
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
/// How often the mailboxes of the users here are looked at for what a lost wake-up did not tell.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const TOUCH_EVERY: Duration = Duration::from_secs(20);
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// The open sockets of this pod.
#[derive(Debug)]
pub(crate) struct Sockets {
    seats: Mutex<Seats>,
    /// Sessions that have not finished, their goodbyes to the database included.
    open: watch::Sender<usize>,
    /// Begun when the pod takes no more sockets and closes those that it has.
    pub(crate) closing: CancellationToken,
}

/// By user and session, each with the way to tell it how far its mailbox has come.
type Seats = BTreeMap<(UserId, Uuid), watch::Sender<u64>>;

/// Why there is no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The pod is about to end.
    Closing,
    /// The user has as many sockets here as one may have.
    User,
    /// The pod has as many as it may have.
    Pod,
}

/// A session's place in the registry; gives it up when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    sockets: Arc<Sockets>,
    user: UserId,
    pub(crate) session: Uuid,
    /// The newest event of the mailbox, as the slow look found it.
    pub(crate) head: watch::Receiver<u64>,
}

impl Seat {
    /// Takes the session off the registry; it still counts as open until the seat is dropped.
    pub(crate) fn leave(&self) {
        self.sockets.seats().remove(&(self.user, self.session));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
        self.sockets.open.send_modify(|open| *open -= 1);
    }
}

impl Default for Sockets {
    fn default() -> Self {
        Self { seats: Mutex::default(), open: watch::Sender::new(0), closing: CancellationToken::new() }
    }
}

impl Sockets {
    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room(&self, seats: &Seats, user: UserId, config: &Config) -> Result<(), Full> {
        if self.closing.is_cancelled() {
            Err(Full::Closing)
        } else if *self.open.borrow() >= config.sockets_max {
            Err(Full::Pod)
        } else if seats.range((user, Uuid::nil())..=(user, Uuid::max())).count() >= config.sockets_per_user {
            Err(Full::User)
        } else {
            Ok(())
        }
    }

    /// A seat by session, never by user: an old socket that closes leaves the new one alone.
    pub(crate) fn admit(self: &Arc<Self>, user: UserId, session: Uuid, config: &Config) -> Result<Seat, Full> {
        let mut seats = self.seats();
        self.room(&seats, user, config)?;
        let (sender, head) = watch::channel(0);
        seats.insert((user, session), sender);
        self.open.send_modify(|open| *open += 1);
        Ok(Seat { sockets: self.clone(), user, session, head })
    }

    fn all(&self) -> Vec<(UserId, Uuid)> {
        self.seats().keys().copied().collect()
    }

    fn tell_heads(&self, heads: &[(UserId, mailbox::Head)]) {
        let seats = self.seats();
        for (user, head) in heads {
            for (_, seat) in seats.range((*user, Uuid::nil())..=(*user, Uuid::max())) {
                seat.send_if_modified(|known| std::mem::replace(known, head.last_seq) != head.last_seq);
            }
        }
    }

    /// Closes every socket with 1001 and waits for their ends, 10 s at most.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        let mut open = self.open.subscribe();
        let all = timeout(CLOSE_WAIT, open.wait_for(|open| *open == 0)).await.is_ok();
        if !all {
            tracing::warn!(sockets = *self.open.borrow(), "sockets did not close in time");
        }
    }
}

/// What a session must know when it begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// The newest event of the mailbox.
    pub(crate) head: u64,
    /// Whether the user is a driver.
    pub(crate) driver: bool,
    /// The live ride that the user drives.
    pub(crate) ride: Option<RideId>,
}

impl Users {
    /// Notes an open socket; a driver who was active is online again.
    pub(crate) async fn arrive(&self, user: UserId, session: Uuid) -> Result<Arrival, StoreError> {
        let mut tx = self.store.begin().await?;
        let beacons = presence::beacons(&mut tx, &[user]).await?;
        presence::open(&mut tx, session, user, &self.platform.pod, self.platform.world.now()).await?;
        self.move_beacons(&mut tx, &beacons, true).await?;
        let driver = account::driver_of(&mut tx, user).await?.is_some();
        let ride = if driver { live_ride::of_driver(&mut tx, user).await? } else { None };
        let head = mailbox::head(&mut tx, user).await?.last_seq;
        tx.commit().await?;
        Ok(Arrival { head, driver, ride })
    }

    /// Takes away the socket `session`, and all stale ones, of `users`; drivers who have no other are offline.
    pub(crate) async fn depart(&self, users: &[UserId], session: Option<Uuid>) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        let mut beacons = presence::beacons(&mut tx, users).await?;
        let here = presence::close(&mut tx, users, session, self.platform.world.now()).await?;
        beacons.retain(|beacon| !here.contains(&beacon.user_id));
        self.move_beacons(&mut tx, &beacons, false).await?;
        tx.commit().await
    }

    async fn move_beacons(
        &self,
        tx: &mut Transaction<Tables>,
        beacons: &[presence::Beacon],
        connected: bool,
    ) -> Result<(), StoreError> {
        for beacon in beacons {
            if let Some((next, event)) = beacon.moved(connected, self.platform.world.now()) {
                presence::put(tx, &next).await?;
                self.publish(tx, event);
            }
        }
        Ok(())
    }

    /// Until `stop` has begun: ends searches whose time is over, heals lost wake-ups, keeps the rows of open sockets alive
    /// and takes away those that died with their pod.
    pub(crate) async fn timers(self, stop: CancellationToken) {
        let start = Instant::now();
        let (mut next_look, mut next_touch) = (start + LOOK_EVERY, start + TOUCH_EVERY);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(EXPIRE_EVERY) => {}
            }
            let now = Instant::now();
            waits("searches", self.expire_searches().await);
            if now >= next_look {
                next_look = now + LOOK_EVERY;
                waits("mailboxes", self.look_at_heads().await);
            }
            if now >= next_touch {
                next_touch = now + TOUCH_EVERY;
                waits("sockets", self.touch().await);
                waits("sockets of dead pods", self.sweep().await);
            }
        }
    }

    async fn expire_searches(&self) -> Result<(), StoreError> {
        loop {
            let now = self.platform.world.now();
            let mut tx = self.store.begin().await?;
            let expired = search::expire(&mut tx, now).await?;
            for search in &expired {
                self.publish(&mut tx, Some(search.ended(now)));
            }
            if !expired.is_empty() {
                tx.commit().await?;
            }
            if expired.len() < search::EXPIRE_MAX {
                return Ok(());
            }
        }
    }

    /// Looks how far the mailboxes of the users here have come, and tells their sessions.
    async fn look_at_heads(&self) -> Result<(), StoreError> {
        let mut users: Vec<UserId> = self.sockets.all().into_iter().map(|(user, _)| user).collect();
        users.dedup();
        for chunk in users.chunks(CHUNK) {
            let mut tx = self.store.begin().await?;
            let heads = mailbox::heads(&mut tx, chunk).await?;
            drop(tx);
            self.sockets.tell_heads(&heads);
        }
        Ok(())
    }

    /// Says that this pod's sockets are open still.
    async fn touch(&self) -> Result<(), StoreError> {
        for chunk in self.sockets.all().chunks(CHUNK) {
            let mut tx = self.store.begin().await?;
            let known = presence::touch(&mut tx, chunk, self.platform.world.now()).await?;
            tx.commit().await?;
            let known: BTreeSet<Uuid> = known.into_iter().collect();
            for (user, session) in chunk {
                // This pod stood still for so long that another has taken its sockets for dead.
                if !known.contains(session) && self.sockets.seats().contains_key(&(*user, *session)) {
                    self.arrive(*user, *session).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes away the sockets of dead pods.
    async fn sweep(&self) -> Result<(), StoreError> {
        loop {
            let mut tx = self.store.begin().await?;
            let users = presence::stale(&mut tx, self.platform.world.now()).await?;
            drop(tx);
            if !users.is_empty() {
                tracing::warn!(users = users.len(), "sockets that nobody touches any more are taken away");
                self.depart(&users, None).await?;
            }
            if users.len() < presence::SWEEP_MAX {
                return Ok(());
            }
        }
    }

    /// Deletes what nobody needs any more of mailboxes, offers and rides.
    pub(crate) async fn purge_gateway(&self) -> Result<(), StoreError> {
        let now = self.platform.world.now();
        loop {
            let mut tx = self.store.begin().await?;
            let gone = mailbox::purge(&mut tx, now).await?;
            tx.commit().await?;
            if gone < mailbox::PURGE_MAX {
                break;
            }
        }
        let mut tx = self.store.begin().await?;
        offer::purge(&mut tx, now).await?;
        live_ride::purge(&mut tx, now).await?;
        tx.commit().await
    }
}

fn waits(what: &str, done: Result<(), StoreError>) {
    if let Err(error) = done {
        tracing::warn!(%error, what, "timed work of users waits for the next round");
    }
}

pub(crate) fn router() -> Router<Users> {
    Router::new().route("/v1/ws", get(upgrade))
}

/// The token of the header, or of a browser's subprotocols `bearer, <token>`; and whether it is the latter.
fn token(headers: &HeaderMap) -> Option<(&str, bool)> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    if let Some((scheme, token)) = text(header::AUTHORIZATION).and_then(|v| v.split_once(' ')) {
        return scheme.eq_ignore_ascii_case("bearer").then_some((token.trim(), false));
    }
    let mut offered = text(header::SEC_WEBSOCKET_PROTOCOL)?.split(',').map(str::trim);
    match (offered.next(), offered.next()) {
        (Some(SUBPROTOCOL), Some(token)) => Some((token, true)),
        _ => None,
    }
}

fn last_seq(query: Option<&str>) -> Result<Option<u64>, Problem> {
    let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let wrong = |_| Problem::field("last_seq", "must be a whole number, 0 or more");
    pairs.find(|(name, _)| *name == "last_seq").map(|(_, text)| text.parse().map_err(wrong)).transpose()
}

async fn upgrade(
    State(users): State<Users>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let missing = "the header `Authorization: Bearer <access token>` is missing";
    let (token, by_protocol) = token(&headers).ok_or_else(|| Problem::unauthorized(missing))?;
    let user = users.tokens.verify(token)?;
    let last_seq = last_seq(query.as_deref())?;
    let not_one = |_| Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "this route is a WebSocket");
    let socket = socket.map_err(not_one)?;
    // Here a client that is no browser can still be told; the session asks once more.
    let room = users.sockets.room(&users.sockets.seats(), user, &users.config);
    match room {
        Ok(()) => {}
        Err(Full::User) => {
            return Err(Problem::too_many_requests("you have too many open sockets: close one first", 1));
        }
        Err(Full::Closing | Full::Pod) => return Err(Problem::unavailable()),
    }
    let socket = socket
        .max_message_size(READ_MAX)
        .max_frame_size(READ_MAX)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_MAX);
    let socket = if by_protocol { socket.protocols([SUBPROTOCOL]) } else { socket };
    Ok(socket.on_upgrade(move |socket| Box::pin(serve(users, user, last_seq, socket))))
}

async fn serve(users: Users, user: UserId, last_seq: Option<u64>, socket: WebSocket) {
    let (sink, stream) = socket.split();
    // After an error nothing can be read any more; only of a frame that is far too large is the client told.
    let incoming = stream.scan(false, |ended, read| {
        future::ready(match read {
            _ if *ended => None,
            Ok(Message::Text(text)) => Some(Incoming::Text(text.as_str().to_owned())),
            Ok(Message::Binary(_)) => Some(Incoming::Binary),
            Ok(Message::Ping(_) | Message::Pong(_)) => Some(Incoming::Alive),
            Ok(Message::Close(_)) => None,
            Err(error) => {
                *ended = true;
                let error = error.into_inner().downcast::<tungstenite::Error>();
                error.is_ok_and(|e| matches!(*e, tungstenite::Error::Capacity(_))).then_some(Incoming::TooLarge)
            }
        })
    });
    let outgoing = sink.with(|frame| {
        future::ready(Ok::<_, axum::Error>(match frame {
            Outgoing::Text(text) => Message::Text(text.into()),
            Outgoing::Ping => Message::Ping(axum::body::Bytes::new()),
            Outgoing::Close(code, reason) => {
                Message::Close(Some(CloseFrame { code, reason: Utf8Bytes::from_static(reason) }))
            }
        }))
    });
    users.serve_session(user, last_seq, incoming, outgoing).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_by_header_or_by_subprotocol() {
        let by = |name: header::HeaderName, value: &str| {
            let headers = [(name, value.parse().unwrap())].into_iter().collect();
            token(&headers).map(|(token, by_protocol)| (token.to_owned(), by_protocol))
        };
        assert_eq!(by(header::AUTHORIZATION, "Bearer abc"), Some(("abc".to_owned(), false)));
        assert_eq!(by(header::AUTHORIZATION, "bearer  abc "), Some(("abc".to_owned(), false)));
        assert_eq!(by(header::AUTHORIZATION, "Basic abc"), None);
        assert_eq!(by(header::SEC_WEBSOCKET_PROTOCOL, "bearer, abc"), Some(("abc".to_owned(), true)));
        assert_eq!(by(header::SEC_WEBSOCKET_PROTOCOL, "bearer"), None);
        assert_eq!(by(header::SEC_WEBSOCKET_PROTOCOL, "chat, bearer"), None);
        assert_eq!(token(&HeaderMap::new()), None);
    }

    #[test]
    fn a_place_in_the_mailbox_is_a_number() {
        let told = |query| last_seq(query).map_err(|problem| problem.field);
        assert_eq!(told(None), Ok(None));
        assert_eq!(told(Some("a=1&b")), Ok(None));
        assert_eq!(told(Some("a=1&last_seq=7")), Ok(Some(7)));
        for wrong in ["last_seq=", "last_seq=-1", "last_seq=x", "last_seq=1.0"] {
            assert_eq!(told(Some(wrong)), Err(Some("last_seq".to_owned())), "{wrong}");
        }
    }

    #[tokio::test]
    async fn seats_are_by_session() {
        let sockets = Arc::new(Sockets::default());
        let (ann, bob) = (UserId(Uuid::from_u128(8)), UserId(Uuid::from_u128(9)));
        let config = Config { sockets_per_user: 2, sockets_max: 3, ..Config::default() };
        let admit = |user, n| sockets.admit(user, Uuid::from_u128(n), &config);
        let [old, new] = [1, 2].map(|n| admit(ann, n).unwrap());
        assert_eq!(admit(ann, 3).unwrap_err(), Full::User);
        let bobs = admit(bob, 4).unwrap();
        assert_eq!(admit(bob, 5).unwrap_err(), Full::Pod);
        drop(old);
        assert_eq!(sockets.all(), [(ann, new.session), (bob, bobs.session)]);
        drop((new, bobs));
        sockets.close().await;
        assert_eq!(admit(ann, 6).unwrap_err(), Full::Closing);
    }
}
