//! The way in for WebSockets: who may open one, how large frames may be, which sockets are open on this pod, and the
//! timers that belong to them. The life of a socket is `session.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::{SinkExt, StreamExt, future};
use platform::{Problem, Shutdown, StoreError};
use streams::UserId;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::frame::FRAME_MAX;
use crate::session::{Incoming, Outgoing};
use crate::{Config, Users, finder, live_ride, mailbox, offer, presence};

/// A socket's buffers: the library's defaults cost 133 KiB for each.
const READ_BUFFER: usize = 4_096;
const WRITE_BUFFER_MAX: usize = 256 * 1024;
const TOUCH_EVERY: Duration = Duration::from_secs(20);
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// The sockets of this pod; clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sockets {
    open: Arc<(Mutex<Open>, Notify)>,
}

/// Sockets by user and session.
type Open = BTreeSet<(UserId, Uuid)>;

impl Sockets {
    fn open_ones(&self) -> MutexGuard<'_, Open> {
        self.open.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(open: &Open, user: UserId) -> usize {
        open.range((user, Uuid::nil())..=(user, Uuid::max())).count()
    }

    /// False, and nothing noted, if the user or the pod has too many.
    pub(crate) fn open(&self, user: UserId, session: Uuid, config: &Config) -> bool {
        let mut open = self.open_ones();
        let room = open.len() < config.sockets_max && Self::count(&open, user) < config.sockets_per_user;
        room && open.insert((user, session))
    }

    /// By session, never by user: an old socket that closes leaves the new one alone.
    pub(crate) fn close(&self, user: UserId, session: Uuid) {
        self.open_ones().remove(&(user, session));
        self.open.1.notify_waiters();
    }

    fn has_room(&self, user: UserId, config: &Config) -> bool {
        let open = self.open_ones();
        open.len() < config.sockets_max && Self::count(&open, user) < config.sockets_per_user
    }

    fn all(&self) -> Vec<(UserId, Uuid)> {
        self.open_ones().iter().copied().collect()
    }

    /// Returns once none is open, or after 10 s.
    pub(crate) async fn closed(&self) {
        let all = async {
            loop {
                let changed = self.open.1.notified();
                if self.open_ones().is_empty() {
                    return;
                }
                changed.await;
            }
        };
        if timeout(CLOSE_WAIT, all).await.is_err() {
            tracing::warn!("sockets did not close in time");
        }
    }
}

pub(crate) fn router() -> Router<Users> {
    Router::new().route("/v1/ws", get(upgrade))
}

/// The token of the header, or of a browser's subprotocols `bearer, <token>`.
fn token(headers: &HeaderMap) -> Option<(&str, bool)> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    if let Some((scheme, token)) = text(header::AUTHORIZATION).and_then(|v| v.split_once(' ')) {
        return scheme.eq_ignore_ascii_case("bearer").then_some((token.trim(), false));
    }
    let (scheme, token) = text(header::SEC_WEBSOCKET_PROTOCOL)?.split_once(',')?;
    scheme.trim().eq_ignore_ascii_case("bearer").then_some((token.trim(), true))
}

fn last_seq(query: Option<&str>) -> Result<Option<u64>, Problem> {
    let pairs = query.unwrap_or_default().split('&');
    let Some(text) = pairs.filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == "last_seq").map(|(_, v)| v)
    else {
        return Ok(None);
    };
    let wrong = |_| Problem::field("last_seq", "must be a whole number, 0 or more");
    text.parse().map(Some).map_err(wrong)
}

async fn upgrade(
    State(users): State<Users>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    socket: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let missing = "the header `Authorization: Bearer <access token>` is missing";
    let (token, by_protocol) = token(&headers).ok_or_else(|| Problem::unauthorized(missing))?;
    let user = users.tokens.verify(token)?;
    let last_seq = last_seq(query.as_deref())?;
    let not_one = |_| Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "this route is a WebSocket");
    let socket = socket.map_err(not_one)?;
    if users.platform.shutdown.has_begun() {
        return Err(Problem::unavailable());
    }
    if !users.sockets.has_room(user, &users.config) {
        return Err(Problem::too_many_requests("you have too many open sockets: close one first", 1));
    }
    let socket = socket
        .max_message_size(FRAME_MAX)
        .max_frame_size(FRAME_MAX)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_MAX);
    let socket = if by_protocol { socket.protocols(["bearer"]) } else { socket };
    Ok(socket.on_upgrade(move |socket| Box::pin(serve(users, user, last_seq, socket))).into_response())
}

async fn serve(users: Users, user: UserId, last_seq: Option<u64>, socket: WebSocket) {
    let (sink, stream) = socket.split();
    // After an error nothing can be read any more; only of a frame that is too large is the client told.
    let mut ended = false;
    let incoming = stream.scan((), move |(), message| {
        if ended {
            return future::ready(None);
        }
        future::ready(match message {
            Ok(Message::Text(text)) => Some(Incoming::Text(text.as_str().to_owned())),
            Ok(Message::Binary(_)) => Some(Incoming::Binary),
            Ok(Message::Ping(_) | Message::Pong(_)) => Some(Incoming::Alive),
            Ok(Message::Close(_)) => None,
            Err(error) => {
                ended = true;
                error.to_string().contains("too long").then_some(Incoming::TooLarge)
            }
        })
    });
    let outgoing = sink.with(|frame| {
        future::ready(Ok::<_, axum::Error>(match frame {
            Outgoing::Text(text) => Message::Text(text.into()),
            Outgoing::Ping => Message::Ping(axum::body::Bytes::new()),
            Outgoing::Close(code, reason) => Message::Close(Some(CloseFrame { code, reason: reason.into() })),
        }))
    });
    users.serve_session(user, last_seq, incoming, outgoing).await;
}

impl Users {
    /// Until `stop` has begun: keeps the rows of open sockets alive, takes note of those that died with their pod, and ends
    /// searches whose time is over.
    pub(crate) async fn timers(self, stop: Shutdown) {
        let mut next_touch = tokio::time::Instant::now() + TOUCH_EVERY;
        loop {
            tokio::select! {
                biased;
                () = stop.begun() => return,
                () = sleep(EXPIRE_EVERY) => {}
            }
            let done = async {
                self.expire_searches().await?;
                if tokio::time::Instant::now() >= next_touch {
                    next_touch = tokio::time::Instant::now() + TOUCH_EVERY;
                    self.touch().await?;
                    self.sweep().await?;
                }
                Ok::<_, StoreError>(())
            };
            if let Err(error) = done.await {
                tracing::warn!(%error, "timed work of users waits for the next round");
            }
        }
    }

    async fn expire_searches(&self) -> Result<(), StoreError> {
        let now = self.platform.world.now();
        let mut tx = self.store.begin().await?;
        let expired = finder::expire(&mut tx, now).await?;
        if expired.is_empty() {
            return Ok(());
        }
        for search in &expired {
            self.publish(&mut tx, Some(search.ended(now)));
        }
        tx.commit().await
    }

    async fn touch(&self) -> Result<(), StoreError> {
        let open = self.sockets.all();
        if open.is_empty() {
            return Ok(());
        }
        let now = self.platform.world.now();
        let mut tx = self.store.begin().await?;
        let known: BTreeSet<Uuid> = presence::touch(&mut tx, &open, now).await?.into_iter().collect();
        tx.commit().await?;
        // This pod stood still for so long that another has taken its sockets for dead.
        for (user, session) in open.into_iter().filter(|(_, session)| !known.contains(session)) {
            self.arrive(user, session).await?;
        }
        Ok(())
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        let now = self.platform.world.now();
        let mut tx = self.store.begin().await?;
        let users = presence::stale(&mut tx, now).await?;
        if users.is_empty() {
            return Ok(());
        }
        let beacons: BTreeMap<UserId, presence::Beacon> =
            presence::beacons(&mut tx, &users).await?.into_iter().map(|b| (b.user_id, b)).collect();
        let left: BTreeSet<UserId> = presence::close(&mut tx, &users, None, now).await?.into_iter().collect();
        for (beacon, event) in
            beacons.values().filter(|b| !left.contains(&b.user_id)).filter_map(|b| b.moved(false, now))
        {
            presence::put(&mut tx, &beacon).await?;
            self.publish(&mut tx, event);
        }
        tx.commit().await
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
