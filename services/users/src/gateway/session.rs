//! One socket's life: welcome, what was missed, then commands in and events out until one side has enough.
//!
//! Generic over its stream and sink of frames, so that a test or a simulation runs it over a pipe in memory. It spawns
//! nothing; all its queues are bounded. Frames are judged by `frame.rs`, commands by `command.rs`.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use platform::{Problem, StoreError, kill_point};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use streams::bus::{CoreMessage, Subscription};
use streams::{RideId, UserId};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::Users;
use crate::gateway::frame::{self, Command, Frame, Id, Passing, Refusal};
use crate::gateway::rate_limit::Bucket;
use crate::gateway::{Arrival, Full, Seat};
use crate::handlers::wake_subject;
use crate::mailbox::{self, Letter};

/// Frames that wait for a slow reader before no more is read from it.
const QUEUE_MAX: usize = 64;
/// The time in which a reader must take at least one frame; also the wait for what is in hand at the end.
const SEND_WAIT: Duration = Duration::from_secs(5);
/// Events of one read of the mailbox.
const PAGE: usize = 100;
/// The pause after a read of the mailbox that failed.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// Frames with positions of one socket that are on their way to the stream.
const PUBLISHES_MAX: usize = 64;
const PING_EVERY: Duration = Duration::from_secs(20);
/// A client from which nothing comes for so long, not even a pong, is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The wait for the last frames to leave, and for the other side to close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// What comes from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A text frame.
    Text(String),
    /// A binary frame, which the contract does not know.
    Binary,
    /// A ping or pong: the client is there.
    Alive,
    /// A frame so large that it was not read; nothing can be read after it.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client is gone, or cannot be reached.
    Gone,
    /// The client is told.
    Close(u16, &'static str),
}

const SHUTDOWN: End = End::Close(1001, "the server stops");
const SILENT: End = End::Close(1001, "nothing came for 60 s");
const TOO_LARGE: End = End::Close(1009, "a frame may have at most 64 KiB");
const TRY_LATER: End = End::Close(1013, "try again later");
const TOO_SLOW: End = End::Close(4008, "reading too slowly");
const TOO_FAST: End = End::Close(4009, "sending too fast");
const TOO_MANY: End = End::Close(4010, "too many sockets of one user");

impl Users {
    /// Serves one signed-in client until it goes, is closed, or the program stops: the gateway over a WebSocket, a
    /// simulation over a pipe in memory. `incoming` ends when the client is gone. `last_seq` is the newest event that the
    /// client has; without it only what comes from now on is sent.
    pub async fn serve_session<S, K>(&self, user: UserId, last_seq: Option<u64>, mut incoming: S, outgoing: K)
    where
        S: Stream<Item = Incoming> + Unpin + Send,
        K: Sink<Outgoing> + Unpin + Send,
    {
        let mut out = Outbound::new(self, outgoing);
        let id = self.platform.world.id();
        let seat = match self.sockets.admit(user, id, &self.config) {
            Ok(seat) => seat,
            Err(full) => {
                let (code, end) = match full {
                    Full::Closing => ("unavailable", SHUTDOWN),
                    Full::User => ("too_many_sockets", TOO_MANY),
                    Full::Pod => ("unavailable", TRY_LATER),
                };
                out.push_error(None, &Refusal::new(code, "there is no room for this socket"));
                return out.close(&mut incoming, end).await;
            }
        };
        self.platform.metrics.sockets.inc();
        match self.begin(&seat, user).await {
            Ok((wakes, arrival)) => {
                out.push(frame::welcome(user, id, arrival.head));
                let session = Session::new(self, seat.head.clone(), user, arrival, last_seq, out);
                session.serve(&mut incoming, wakes).await;
            }
            Err(error) => {
                tracing::warn!(error, "a socket cannot be served now");
                out.push_error(None, &Refusal::unavailable());
                out.close(&mut incoming, TRY_LATER).await;
            }
        }
        // Off the registry first, so that no touch brings the row back.
        seat.leave();
        if let Err(error) = self.depart(&[user], Some(id)).await {
            // The row is not touched any more: a sweep finds it.
            tracing::warn!(%error, "a closed socket was not noted");
        }
        self.platform.metrics.sockets.dec();
    }

    async fn begin(&self, seat: &Seat, user: UserId) -> Result<(Subscription, Arrival), String> {
        // Subscribed before the head is read: what comes in between is heard.
        let wakes = self.platform.bus.subscribe(&wake_subject(user), None).await.map_err(|e| e.to_string())?;
        let arrival = self.arrive(user, seat.session).await.map_err(|e| e.to_string())?;
        Ok((wakes, arrival))
    }
}

/// What a finished command says: its frame, if it has one, and whether it proved that the user is a driver.
struct Reply {
    frame: Option<String>,
    is_driver: bool,
}

impl Reply {
    fn of(id: Option<Id>, done: Result<Value, Refusal>, what: What) -> Self {
        let is_driver = what != What::Other && done.is_ok();
        let frame = match done {
            // The contract acknowledges positions only if they have an id.
            Ok(_) if what == What::Positions && id.is_none() => None,
            Ok(data) => Some(frame::ack(id.as_deref(), &data)),
            Err(refusal) => Some(frame::error(id.as_deref(), &refusal)),
        };
        Self { frame, is_driver }
    }
}

/// What a session must know of a command whose result comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Positions,
    Beacon,
    Other,
}

enum Step {
    Stop,
    Sent(bool),
    Wake(Option<CoreMessage>),
    Head,
    Read(Result<Vec<Letter>, StoreError>),
    Published(Option<Refusal>),
    Reply(Reply),
    Incoming(Option<Incoming>),
    Timer,
}

struct Session<'a, K> {
    users: &'a Users,
    user: UserId,
    out: Outbound<'a, K>,
    driver: bool,
    /// The ride that positions belong to.
    ride: Option<RideId>,
    /// The newest event when the session began: `ride` knows of all up to it.
    began_at_seq: u64,
    /// The newest event sent.
    sent_seq: u64,
    /// The newest event of which is known.
    newest_seq: u64,
    heads: watch::Receiver<u64>,
    rate: Bucket,
    heard_at: Instant,
    ping_at: Instant,
    read_at: Instant,
    reading: Option<BoxFuture<'a, Result<Vec<Letter>, StoreError>>>,
    /// What `newest_seq` was when the read began.
    read_until_seq: u64,
    command: Option<BoxFuture<'a, Reply>>,
    publishes: FuturesUnordered<BoxFuture<'a, Option<Refusal>>>,
}

impl<'a, K: Sink<Outgoing> + Unpin + Send> Session<'a, K> {
    fn new(
        users: &'a Users,
        heads: watch::Receiver<u64>,
        user: UserId,
        arrival: Arrival,
        last_seq: Option<u64>,
        out: Outbound<'a, K>,
    ) -> Self {
        let now = Instant::now();
        let Arrival { head, driver, ride } = arrival;
        Self {
            users,
            user,
            out,
            driver,
            ride,
            began_at_seq: head,
            sent_seq: last_seq.map_or(head, |seq| seq.min(head)),
            newest_seq: head,
            heads,
            rate: Bucket::new(users.config.frames_per_s, now),
            heard_at: now,
            ping_at: now + PING_EVERY,
            read_at: now,
            reading: None,
            read_until_seq: 0,
            command: None,
            publishes: FuturesUnordered::new(),
        }
    }

    async fn serve<S: Stream<Item = Incoming> + Unpin + Send>(mut self, incoming: &mut S, mut wakes: Subscription) {
        let end = self.work(incoming, &mut wakes).await;
        drop(wakes);
        // What was asked is still done, if perhaps not told.
        let _ = timeout(SEND_WAIT, self.finish()).await;
        self.out.close(incoming, end).await;
    }

    async fn work<S: Stream<Item = Incoming> + Unpin + Send>(
        &mut self,
        incoming: &mut S,
        wakes: &mut Subscription,
    ) -> End {
        let users = self.users;
        let mut stop = pin!(users.sockets.closing.cancelled());
        let mut timer = pin!(sleep_until(self.deadline()));
        loop {
            self.read_mailbox();
            self.rearm(timer.as_mut());
            let listens = self.command.is_none() && self.publishes.len() < PUBLISHES_MAX && self.out.has_room();
            let step = tokio::select! {
                biased;
                () = &mut stop => Step::Stop,
                sent = self.out.progress(), if self.out.busy() => Step::Sent(sent),
                wake = wakes.next() => Step::Wake(wake),
                Ok(()) = self.heads.changed() => Step::Head,
                read = maybe(&mut self.reading) => Step::Read(read),
                Some(refused) = self.publishes.next(), if !self.publishes.is_empty() => Step::Published(refused),
                reply = maybe(&mut self.command) => Step::Reply(reply),
                frame = incoming.next(), if listens => Step::Incoming(frame),
                () = &mut timer => Step::Timer,
            };
            if let Some(end) = self.step(step) {
                return end;
            }
        }
    }

    fn step(&mut self, step: Step) -> Option<End> {
        match step {
            Step::Stop => return Some(SHUTDOWN),
            Step::Sent(true) | Step::Published(None) => {}
            Step::Sent(false) | Step::Incoming(None) => return Some(End::Gone),
            Step::Wake(Some(message)) => self.wake(&message.payload),
            // Nothing can be done without the bus: on another pod, or after a restart.
            Step::Wake(None) => return Some(SHUTDOWN),
            Step::Head => self.newest_seq = self.newest_seq.max(*self.heads.borrow_and_update()),
            Step::Read(read) => self.deliver(read),
            Step::Published(Some(refusal)) => self.out.push_error(None, &refusal),
            Step::Reply(reply) => self.reply(reply),
            Step::Incoming(Some(incoming)) => {
                self.heard_at = Instant::now();
                return self.hear(incoming);
            }
            Step::Timer => return self.tick(Instant::now()),
        }
        None
    }

    /// The next moment at which something must happen although nothing comes.
    fn deadline(&self) -> Instant {
        let mut at = self.ping_at.min(self.heard_at + SILENCE_MAX);
        if let Some(since) = self.out.blocked_since {
            at = at.min(since + SEND_WAIT);
        }
        if self.sent_seq < self.newest_seq && self.read_at > Instant::now() {
            at = at.min(self.read_at);
        }
        at
    }

    fn rearm(&self, timer: Pin<&mut Sleep>) {
        let at = self.deadline();
        // One that has moved to later is found when the earlier one has come.
        if at < timer.deadline() || timer.is_elapsed() {
            timer.reset(at);
        }
    }

    fn tick(&mut self, now: Instant) -> Option<End> {
        if self.out.blocked_since.is_some_and(|since| since + SEND_WAIT <= now) {
            let message = "frames are not read as fast as they come: resume with `last_seq`";
            self.out.push_error(None, &Refusal::new("too_slow", message));
            return Some(TOO_SLOW);
        }
        if self.heard_at + SILENCE_MAX <= now {
            return Some(SILENT);
        }
        if self.ping_at <= now {
            self.ping_at = now + PING_EVERY;
            if self.out.has_room() {
                self.out.push_frame(Outgoing::Ping);
            }
        }
        None
    }

    /// Begins to read the mailbox if there is more than was sent, and all that was sent has left.
    fn read_mailbox(&mut self) {
        let wanted = self.sent_seq < self.newest_seq && self.reading.is_none();
        if wanted && self.out.queue.is_empty() && self.read_at <= Instant::now() {
            let (users, user, sent) = (self.users, self.user, self.sent_seq);
            self.read_until_seq = self.newest_seq;
            let read = async move {
                let mut tx = users.store.begin().await?;
                mailbox::after(&mut tx, user, sent, PAGE).await
            };
            self.reading = Some(read.boxed());
        }
    }

    fn deliver(&mut self, read: Result<Vec<Letter>, StoreError>) {
        self.reading = None;
        let letters = match read {
            Ok(letters) => letters,
            Err(error) => {
                tracing::warn!(%error, "a mailbox cannot be read; it is tried again");
                self.read_at = Instant::now() + READ_PAUSE;
                return;
            }
        };
        let all = letters.len() < PAGE;
        for Letter { seq, event_id, subject, time, body } in letters {
            self.note_ride(seq, &subject, &body);
            self.sent_seq = seq;
            self.out.push(frame::event(&subject, seq, &event_id, time, &body));
        }
        if all {
            // What is not there was acknowledged, or is older than a day.
            self.sent_seq = self.sent_seq.max(self.read_until_seq);
        }
        self.newest_seq = self.newest_seq.max(self.sent_seq);
    }

    /// A wake-up: the next event itself, or word of one that the mailbox must be read for.
    fn wake(&mut self, payload: &[u8]) {
        let text = std::str::from_utf8(payload).unwrap_or_default();
        let Ok(Passing { seq, subject, data }) = serde_json::from_str(text) else {
            return;
        };
        if seq == self.sent_seq + 1 && self.reading.is_none() && self.out.has_room() {
            self.note_ride(seq, &subject, data.get());
            self.sent_seq = seq;
            self.out.push(text.to_owned());
        }
        self.newest_seq = self.newest_seq.max(seq);
    }

    /// Looks at an event on its way to a driver: which ride positions belong to from here on.
    fn note_ride(&mut self, seq: u64, subject: &str, body: &str) {
        #[derive(Deserialize)]
        struct Ride {
            ride_id: RideId,
            driver_id: UserId,
        }
        let begins = match subject {
            "ride.pickup" => true,
            "ride.completed" | "ride.cancelled" => false,
            _ => return,
        };
        if seq <= self.began_at_seq {
            return;
        }
        match serde_json::from_str::<Ride>(body) {
            Ok(ride) if begins && ride.driver_id == self.user => self.ride = Some(ride.ride_id),
            Ok(ride) if !begins && self.ride == Some(ride.ride_id) => self.ride = None,
            _ => {}
        }
    }

    fn hear(&mut self, incoming: Incoming) -> Option<End> {
        let text = match incoming {
            Incoming::Alive => return None,
            Incoming::TooLarge => return Some(self.too_large()),
            Incoming::Binary => None,
            Incoming::Text(text) => Some(text),
        };
        self.users.platform.metrics.frames.with_label_values(&["in"]).inc();
        if !self.rate.take(Instant::now()) {
            let message = format!("at most {} frames a second", self.users.config.frames_per_s);
            self.out.push_error(None, &Refusal::new("too_fast", message));
            return Some(TOO_FAST);
        }
        let Some(text) = text else {
            self.out.push_error(None, &Refusal::new("invalid_frame", "frames are JSON text, not binary"));
            return None;
        };
        if text.len() > frame::FRAME_MAX {
            return Some(self.too_large());
        }
        match frame::parse(&text, self.users.platform.world.now()) {
            Ok(Frame { id, command }) => self.begin(id, command),
            Err(refused) => self.out.push_error(refused.id.as_deref(), &refused.refusal),
        }
        None
    }

    fn too_large(&mut self) -> End {
        let message = format!("a frame may have at most {} bytes", frame::FRAME_MAX);
        self.out.push_error(None, &Refusal::new("frame_too_large", message));
        TOO_LARGE
    }

    /// Begins a command; the next frame is heard when it is done. A driver's positions without an id are not waited for.
    fn begin(&mut self, id: Option<Id>, command: Command) {
        let (users, user, ride) = (self.users, self.user, self.ride);
        let what = match &command {
            Command::Location(_) => What::Positions,
            Command::Beacon { .. } => What::Beacon,
            _ => What::Other,
        };
        match command {
            Command::Location(points) if self.driver && id.is_none() => {
                self.publishes.push(async move { users.publish_points(user, ride, points).await.err() }.boxed());
            }
            Command::Location(points) if self.driver => {
                let publish = async move { Reply::of(id, users.publish_points(user, ride, points).await, what) };
                self.command = Some(publish.boxed());
            }
            command => {
                let execute = async move { Reply::of(id, users.execute(user, ride, command).await, what) };
                self.command = Some(execute.boxed());
            }
        }
    }

    fn reply(&mut self, Reply { frame, is_driver }: Reply) {
        self.command = None;
        self.driver |= is_driver;
        if let Some(frame) = frame {
            self.out.push(frame);
        }
    }

    async fn finish(&mut self) {
        if self.command.is_some() {
            let reply = maybe(&mut self.command).await;
            self.reply(reply);
        }
        while let Some(refused) = self.publishes.next().await {
            if let Some(refusal) = refused {
                self.out.push_error(None, &refusal);
            }
        }
    }
}

/// The result of a future that may not be there.
async fn maybe<T>(future: &mut Option<BoxFuture<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Frames on their way out, in a bounded queue before a sink that may be slow.
struct Outbound<'a, K> {
    users: &'a Users,
    sink: K,
    queue: VecDeque<Outgoing>,
    unflushed: bool,
    /// Since when the reader takes nothing, if something waits for it.
    blocked_since: Option<Instant>,
}

impl<'a, K: Sink<Outgoing> + Unpin + Send> Outbound<'a, K> {
    fn new(users: &'a Users, sink: K) -> Self {
        Self { users, sink, queue: VecDeque::new(), unflushed: false, blocked_since: None }
    }

    fn push(&mut self, text: String) {
        self.push_frame(Outgoing::Text(text));
    }

    fn push_error(&mut self, id: Option<&RawValue>, refusal: &Refusal) {
        self.push(frame::error(id, refusal));
    }

    fn push_frame(&mut self, frame: Outgoing) {
        self.queue.push_back(frame);
        self.blocked_since.get_or_insert_with(Instant::now);
    }

    fn has_room(&self) -> bool {
        self.queue.len() < QUEUE_MAX
    }

    fn busy(&self) -> bool {
        self.unflushed || !self.queue.is_empty()
    }

    /// Returns true when all has left, false if the sink is broken. What was sent before a cancellation is sent.
    async fn progress(&mut self) -> bool {
        poll_fn(|cx| self.poll_progress(cx)).await.is_ok()
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), K::Error>> {
        while !self.queue.is_empty() {
            ready!(self.sink.poll_ready_unpin(cx))?;
            if let Some(frame) = self.queue.pop_front() {
                if matches!(frame, Outgoing::Text(_)) {
                    self.users.platform.metrics.frames.with_label_values(&["out"]).inc();
                }
                self.sink.start_send_unpin(frame)?;
                self.unflushed = true;
                self.blocked_since = Some(Instant::now());
            }
        }
        ready!(self.sink.poll_flush_unpin(cx))?;
        if self.unflushed {
            kill_point::reached("session.after_write");
        }
        self.unflushed = false;
        self.blocked_since = None;
        // An idle socket keeps no room for a burst.
        self.queue.shrink_to(4);
        Poll::Ready(Ok(()))
    }

    /// Says why it ends, as far as the other side still reads, and lets it close first: a connection closed with unread
    /// frames on it is reset, and the reason with it.
    async fn close<S: Stream<Item = Incoming> + Unpin + Send>(&mut self, incoming: &mut S, end: End) {
        let End::Close(code, reason) = end else {
            let _ = timeout(CLOSE_WAIT, self.sink.close()).await;
            return;
        };
        if end == TOO_SLOW {
            // What waits before the error was not read in time; it comes again on the next connection.
            let error = self.queue.pop_back();
            self.queue.clear();
            self.queue.extend(error);
        }
        self.push_frame(Outgoing::Close(code, reason));
        if timeout(CLOSE_WAIT, self.progress()).await == Ok(true) {
            let closed = async { while incoming.next().await.is_some() {} };
            let _ = timeout(CLOSE_WAIT, closed).await;
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Problem::from(error).into()
    }
}
