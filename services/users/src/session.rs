//! One socket's life, over any stream and sink of frames: a WebSocket outside, an in-memory pipe in a test. It passes on
//! what comes into the user's mailbox, does what the client asks, in order, and keeps to the limits. It decides nothing:
//! frames are judged by `frame.rs`, commands by `command.rs`.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use platform::{Problem, StoreError};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use streams::bus::Subscription;
use streams::{RideId, UserId};
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

use crate::events::wake_subject;
use crate::frame::{self, Command, Frame, Id, Passing, Refusal};
use crate::{Users, account, live_ride, mailbox, presence};

/// How often a client is pinged, and the silence after which it is given up.
const PING_EVERY: Duration = Duration::from_secs(20);
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often the mailbox is looked at for what a lost wake-up did not tell.
const POLL_EVERY: Duration = Duration::from_secs(10);
/// The wait for a client to take a frame, and its last ones.
const SEND_WAIT: Duration = Duration::from_secs(5);
const LAST_WAIT: Duration = Duration::from_secs(1);
/// Events read from the mailbox at once.
const PAGE: usize = 100;
/// Frames with positions of one socket that are on their way to the stream.
const POINTS_IN_FLIGHT: usize = 64;

/// Close codes of RFC 6455, and the contract's own.
const GOING_AWAY: u16 = 1001;
const TOO_LARGE: u16 = 1009;
const TRY_LATER: u16 = 1013;
const TOO_SLOW: u16 = 4008;
const TOO_FAST: u16 = 4009;

/// What comes from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A text frame.
    Text(String),
    /// A binary frame, which the contract does not know.
    Binary,
    /// A ping or pong: the client is there.
    Alive,
    /// A frame larger than the limit; nothing can be read after it.
    TooLarge,
}

/// What goes to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// A text frame.
    Text(String),
    /// A ping.
    Ping,
    /// The end, with its code and reason.
    Close(u16, &'static str),
}

/// Why a session ends.
enum End {
    /// The client went, or cannot be reached.
    Gone,
    /// We close it, after an error frame if there is something to say.
    Close(u16, &'static str, Option<Refusal>),
}

/// Frames of positions on their way: each one's id, and what became of it.
type Publishing = FuturesUnordered<Pin<Box<dyn Future<Output = (Option<Id>, Result<Value, Refusal>)> + Send>>>;

struct Session<K> {
    users: Users,
    user: UserId,
    sink: K,
    /// The newest event that was sent.
    sent_seq: u64,
    driver: bool,
    /// The ride that positions belong to.
    ride: Option<RideId>,
    allowance: Allowance,
    publishing: Publishing,
}

/// A token bucket for frames.
struct Allowance {
    left: f64,
    per_s: f64,
    burst: f64,
    at: Instant,
}

impl Allowance {
    fn new(per_s: u32) -> Self {
        let per_s = f64::from(per_s);
        Self { left: per_s * 4.0, per_s, burst: per_s * 4.0, at: Instant::now() }
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        self.left = (self.left + (now - self.at).as_secs_f64() * self.per_s).min(self.burst);
        self.at = now;
        self.left -= 1.0;
        self.left >= 0.0
    }
}

impl Users {
    /// Serves one signed-in client until it goes, is closed, or the program stops. `last_seq`: the newest event that the
    /// client has; without it only what is new is sent.
    pub async fn serve_session<S, K>(&self, user: UserId, last_seq: Option<u64>, mut incoming: S, mut outgoing: K)
    where
        S: Stream<Item = Incoming> + Unpin + Send,
        K: Sink<Outgoing> + Unpin + Send,
    {
        let id: Uuid = self.platform.world.id();
        if !self.sockets.open(user, id, &self.config) {
            let close = Outgoing::Close(TRY_LATER, "too many sockets");
            let _ = timeout(LAST_WAIT, outgoing.send(close)).await;
            return;
        }
        self.platform.metrics.sockets.inc();
        let wake = self.platform.bus.subscribe(&wake_subject(user), None).await;
        match (wake, self.arrive(user, id).await) {
            (Ok(wake), Ok(arrived)) => {
                let mut session = Session {
                    users: self.clone(),
                    user,
                    sink: outgoing,
                    sent_seq: last_seq.map_or(arrived.last_seq, |n| n.min(arrived.last_seq)),
                    driver: arrived.driver,
                    ride: arrived.ride,
                    allowance: Allowance::new(self.config.frames_per_s),
                    publishing: FuturesUnordered::new(),
                };
                let end = session.live(id, arrived.last_seq, wake, &mut incoming).await;
                session.finish(end).await;
            }
            (wake, arrived) => {
                tracing::warn!(wake = ?wake.err(), arrived = ?arrived.err(), "a socket cannot be served now");
                let close = Outgoing::Close(TRY_LATER, "not possible at the moment");
                let _ = timeout(LAST_WAIT, outgoing.send(close)).await;
            }
        }
        self.sockets.close(user, id);
        self.platform.metrics.sockets.dec();
        if let Err(error) = self.leave(user, id).await {
            // The row is not touched any more; a sweep finds it.
            tracing::warn!(%error, "a closed socket was not noted");
        }
    }

    pub(crate) async fn arrive(&self, user: UserId, session: Uuid) -> Result<Arrived, StoreError> {
        let now = self.platform.world.now();
        let mut tx = self.store.begin().await?;
        let beacon = presence::beacons(&mut tx, &[user]).await?.pop();
        presence::open(&mut tx, session, user, &self.platform.pod, now).await?;
        if let Some((beacon, event)) = beacon.and_then(|b| b.moved(true, now)) {
            presence::put(&mut tx, &beacon).await?;
            self.publish(&mut tx, event);
        }
        let arrived = Arrived {
            last_seq: mailbox::head(&mut tx, user).await?.last_seq,
            driver: account::driver_of(&mut tx, user).await?.is_some(),
            ride: live_ride::of_driver(&mut tx, user).await?,
        };
        tx.commit().await?;
        Ok(arrived)
    }

    async fn leave(&self, user: UserId, session: Uuid) -> Result<(), StoreError> {
        let now = self.platform.world.now();
        let mut tx = self.store.begin().await?;
        let beacon = presence::beacons(&mut tx, &[user]).await?.pop();
        let left = presence::close(&mut tx, &[user], Some(session), now).await?;
        if left.is_empty()
            && let Some((beacon, event)) = beacon.and_then(|b| b.moved(false, now))
        {
            presence::put(&mut tx, &beacon).await?;
            self.publish(&mut tx, event);
        }
        tx.commit().await
    }
}

/// What a session knows at its start.
#[derive(Debug)]
pub(crate) struct Arrived {
    last_seq: u64,
    driver: bool,
    ride: Option<RideId>,
}

impl<K: Sink<Outgoing> + Unpin + Send> Session<K> {
    async fn live<S>(&mut self, id: Uuid, last_seq: u64, mut wake: Subscription, incoming: &mut S) -> End
    where
        S: Stream<Item = Incoming> + Unpin + Send,
    {
        match self.begin(id, last_seq).await {
            Ok(()) => {}
            Err(end) => return end,
        }
        let shutdown = self.users.platform.shutdown.clone();
        let mut heard = Instant::now();
        let mut next_ping = heard + PING_EVERY;
        let mut next_poll = heard + POLL_EVERY;
        let mut awake = true;
        loop {
            let done = tokio::select! {
                biased;
                () = shutdown.begun() => return End::Close(GOING_AWAY, "the server stops", None),
                Some((id, result)) = self.publishing.next(), if !self.publishing.is_empty() => {
                    self.answer(id, result).await
                }
                frame = incoming.next() => match frame {
                    None => return End::Gone,
                    Some(frame) => {
                        heard = Instant::now();
                        self.hear(frame).await
                    }
                },
                event = wake.next(), if awake => match event {
                    Some(event) => self.pass(&event.payload).await,
                    None => {
                        awake = false;
                        Ok(())
                    }
                },
                () = sleep_until(next_ping) => {
                    if heard.elapsed() >= SILENCE_MAX {
                        return End::Close(GOING_AWAY, "silence", None);
                    }
                    next_ping = Instant::now() + PING_EVERY;
                    self.send(Outgoing::Ping).await
                }
                () = sleep_until(next_poll) => {
                    next_poll = Instant::now() + POLL_EVERY;
                    self.catch_up().await
                }
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    async fn begin(&mut self, id: Uuid, last_seq: u64) -> Result<(), End> {
        self.send(Outgoing::Text(frame::welcome(self.user, id, last_seq))).await?;
        if self.sent_seq < last_seq { self.catch_up().await } else { Ok(()) }
    }

    async fn send(&mut self, frame: Outgoing) -> Result<(), End> {
        if matches!(frame, Outgoing::Text(_)) {
            self.users.platform.metrics.frames.with_label_values(&["out"]).inc();
        }
        match timeout(SEND_WAIT, self.sink.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => {
                let refusal = Refusal::new("too_slow", "frames are not read as fast as they come");
                Err(End::Close(TOO_SLOW, "too slow", Some(refusal)))
            }
        }
    }

    async fn finish(mut self, end: End) {
        // What was asked is still done, if not told.
        while self.publishing.next().await.is_some() {}
        let End::Close(code, reason, refusal) = end else { return };
        if let Some(refusal) = refusal {
            let _ = timeout(LAST_WAIT, self.sink.send(Outgoing::Text(frame::error(None, &refusal)))).await;
        }
        let _ = timeout(LAST_WAIT, self.sink.send(Outgoing::Close(code, reason))).await;
        let _ = timeout(LAST_WAIT, self.sink.close()).await;
    }

    /// An event of the mailbox, as its wake-up brings it: sent as it is if it is the next, read from the rows if not.
    async fn pass(&mut self, payload: &[u8]) -> Result<(), End> {
        let text = std::str::from_utf8(payload).unwrap_or_default();
        match serde_json::from_str::<Passing<'_>>(text) {
            Ok(event) if event.seq <= self.sent_seq => Ok(()),
            Ok(event) if event.seq == self.sent_seq + 1 => {
                self.note_ride(&event.subject, event.data);
                self.sent_seq = event.seq;
                self.send(Outgoing::Text(text.to_owned())).await
            }
            _ => self.catch_up().await,
        }
    }

    /// Sends what is in the mailbox after the last event sent.
    async fn catch_up(&mut self) -> Result<(), End> {
        loop {
            let letters = match self.letters().await {
                Ok(letters) => letters,
                Err(error) => {
                    tracing::warn!(%error, "a mailbox cannot be read; the next look is in {POLL_EVERY:?}");
                    return Ok(());
                }
            };
            let full = letters.len() == PAGE;
            for letter in letters {
                if let Ok(body) = serde_json::from_str::<&RawValue>(&letter.body) {
                    self.note_ride(&letter.subject, body);
                }
                self.sent_seq = letter.seq;
                let mailbox::Letter { seq, event_id, subject, time, body } = letter;
                self.send(Outgoing::Text(frame::event(&subject, seq, &event_id, time, &body))).await?;
            }
            if !full {
                return Ok(());
            }
        }
    }

    async fn letters(&mut self) -> Result<Vec<mailbox::Letter>, StoreError> {
        let mut tx = self.users.store.begin().await?;
        mailbox::after(&mut tx, self.user, self.sent_seq, PAGE).await
    }

    /// Keeps the driver's live ride current.
    fn note_ride(&mut self, subject: &str, body: &RawValue) {
        #[derive(Deserialize)]
        struct Ride {
            ride_id: RideId,
            driver_id: UserId,
        }
        if !subject.starts_with("ride.") {
            return;
        }
        let Ok(ride) = serde_json::from_str::<Ride>(body.get()) else { return };
        match subject {
            "ride.completed" | "ride.cancelled" if self.ride == Some(ride.ride_id) => self.ride = None,
            "ride.pickup" if ride.driver_id == self.user => self.ride = Some(ride.ride_id),
            _ => {}
        }
    }

    async fn hear(&mut self, incoming: Incoming) -> Result<(), End> {
        let text = match incoming {
            Incoming::Alive => return Ok(()),
            Incoming::TooLarge => {
                let refusal = Refusal::new("too_large", "a frame may have at most 64 KiB");
                return Err(End::Close(TOO_LARGE, "too large", Some(refusal)));
            }
            Incoming::Text(text) => Some(text),
            Incoming::Binary => None,
        };
        if !self.allowance.take() {
            let refusal = Refusal::new("too_fast", "more frames a second than are allowed");
            return Err(End::Close(TOO_FAST, "too fast", Some(refusal)));
        }
        self.users.platform.metrics.frames.with_label_values(&["in"]).inc();
        let Some(text) = text else {
            let refusal = Refusal::new("invalid_frame", "frames are JSON text, not binary");
            return self.send(Outgoing::Text(frame::error(None, &refusal))).await;
        };
        let Frame { id, command } = match frame::parse(&text, self.users.platform.world.now()) {
            Ok(frame) => frame,
            Err(refused) => {
                return self.send(Outgoing::Text(frame::error(refused.id.as_deref(), &refused.refusal))).await;
            }
        };
        drop(text);
        match command {
            Command::Location(points) if self.driver => {
                while self.publishing.len() >= POINTS_IN_FLIGHT {
                    if let Some((id, result)) = self.publishing.next().await {
                        self.answer(id, result).await?;
                    }
                }
                let (users, user, ride) = (self.users.clone(), self.user, self.ride);
                self.publishing.push(Box::pin(async move { (id, users.publish_points(user, ride, points).await) }));
                Ok(())
            }
            command => {
                // What comes after positions finds them published.
                while let Some((id, result)) = self.publishing.next().await {
                    self.answer(id, result).await?;
                }
                let result = self.users.execute(self.user, self.ride, command).await;
                if result.is_ok() && !self.driver {
                    self.driver = self.users.is_driver(self.user).await.unwrap_or(false);
                }
                let frame = match &result {
                    Ok(data) => frame::ack(id.as_deref(), data),
                    Err(refusal) => frame::error(id.as_deref(), refusal),
                };
                self.send(Outgoing::Text(frame)).await
            }
        }
    }

    /// The word on a frame of positions: an ack only if it has an id, an error always.
    async fn answer(&mut self, id: Option<Id>, result: Result<Value, Refusal>) -> Result<(), End> {
        match (&id, result) {
            (None, Ok(_)) => Ok(()),
            (Some(id), Ok(data)) => self.send(Outgoing::Text(frame::ack(Some(id), &data))).await,
            (id, Err(refusal)) => self.send(Outgoing::Text(frame::error(id.as_deref(), &refusal))).await,
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Problem::from(error).into()
    }
}
