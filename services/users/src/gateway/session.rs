//! The life of one socket: a welcome, the events that the client missed, then commands in and events out until one side
//! ends it.
//!
//! It is generic over its stream and sink of frames, so that a test or a simulation runs it over a pipe in memory. It spawns
//! no task, and all its queues are bounded. `frame` parses what comes in, and `commands` executes it.

use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Sink, Stream, StreamExt};
use platform::StoreError;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use streams::bus::{CoreMessage, Subscription};
use streams::{RideId, UserId};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tracing::field::Empty;
use tracing::{Instrument, info_span};
use uuid::Uuid;

use super::connection::{self, Role, SessionStart};
use super::frame::{self, EventFrame, Frame, Id};
use super::outbound::Outbound;
use super::rate_limit::TokenBucket;
use super::sockets::{AdmissionError, SocketSlot};
use super::transport::{
    Incoming, Outgoing, SHUTDOWN, SILENT, SessionEnd, TOO_FAST, TOO_LARGE, TOO_MANY, TOO_SLOW, TRY_LATER,
};
use crate::commands;
use crate::commands::command::{Command, Refusal, RowCommand};
use crate::context::Context;
use crate::mailbox::{self, Entry};

/// A client that takes no frame for this long reads too slowly. Also the wait for unfinished commands at the end.
const SEND_WAIT: Duration = Duration::from_secs(5);
/// The most entries of one read of the mailbox.
const PAGE: usize = 100;
/// The pause after a read of the mailbox that failed.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// Frames with positions of one socket that await the stream's acknowledgement at once.
const PUBLISHES_MAX: usize = 64;
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// A client that sends nothing for this long, not even a pong, is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Serves one signed-in client until it goes, is closed, or the pod stops.
///
/// `incoming` ends when the client is gone. `last_seq` is the newest event that the client has; without it the client gets
/// only events from now on.
pub(crate) async fn serve<S, K>(context: &Context, user: UserId, last_seq: Option<u64>, incoming: S, outgoing: K)
where
    S: Stream<Item = Incoming> + Unpin + Send,
    K: Sink<Outgoing> + Unpin + Send,
{
    let id = context.platform.world.id();
    let span = info_span!("socket", session_id = %id, user_id = %user);
    admit_and_serve(context, user, id, last_seq, incoming, outgoing).instrument(span).await;
}

async fn admit_and_serve<S, K>(
    context: &Context,
    user: UserId,
    id: Uuid,
    last_seq: Option<u64>,
    mut incoming: S,
    outgoing: K,
) where
    S: Stream<Item = Incoming> + Unpin + Send,
    K: Sink<Outgoing> + Unpin + Send,
{
    let mut out = Outbound::new(&context.platform.metrics, outgoing);
    let slot = match context.sockets.admit(user, id, &context.config) {
        Ok(slot) => slot,
        Err(error) => {
            let (code, end) = match error {
                AdmissionError::Closing => ("unavailable", SHUTDOWN),
                AdmissionError::UserLimit => ("too_many_sockets", TOO_MANY),
                AdmissionError::PodLimit => ("unavailable", TRY_LATER),
            };
            out.push_error(None, &Refusal::new(code, "there is no room for this socket"));
            return out.close(&mut incoming, end).await;
        }
    };
    context.platform.metrics.sockets.inc();
    match subscribe_and_start(context, &slot, user).await {
        Ok((notifications, start)) => {
            out.push_text(frame::welcome(user, id, start.last_seq));
            let session = Session::new(context, slot.polled_seq.clone(), user, start, last_seq, out);
            session.run(&mut incoming, notifications).await;
        }
        Err(error) => {
            tracing::warn!(error, "a socket cannot be served now");
            out.push_error(None, &Refusal::unavailable());
            out.close(&mut incoming, TRY_LATER).await;
        }
    }
    // First out of the registry: the timer that touches the rows of registered sockets would insert the row again.
    slot.unregister();
    if let Err(error) = connection::close(context, &[user], Some(id)).await {
        // Nobody touches the row any more, so that a sweep finds it stale.
        tracing::warn!(%error, "the row of a closed socket was not deleted; a sweep will delete it");
    }
    context.platform.metrics.sockets.dec();
}

async fn subscribe_and_start(
    context: &Context,
    slot: &SocketSlot,
    user: UserId,
) -> Result<(Subscription, SessionStart), String> {
    // The subscription begins before the mailbox is read, so that no event in between is missed.
    let subject = mailbox::notify_subject(user);
    let notifications = context.platform.bus.subscribe(&subject, None).await.map_err(|e| e.to_string())?;
    let start = connection::open(context, user, slot.session).await.map_err(|e| e.to_string())?;
    Ok((notifications, start))
}

/// What the session must know of a command when its result comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CommandKind {
    Positions,
    Beacon,
    Other,
}

impl CommandKind {
    fn of(command: &Command) -> Self {
        match command {
            Command::Positions(_) => Self::Positions,
            Command::Rows(RowCommand::Beacon(_)) => Self::Beacon,
            Command::Rows(_) | Command::Ride(..) => Self::Other,
        }
    }
}

/// The result of a command.
struct Reply {
    /// What the client gets, if anything.
    frame: Option<String>,
    /// The role of the user, if the result proves it.
    role: Option<Role>,
}

impl Reply {
    fn new(id: Option<Id>, result: Result<Value, Refusal>, kind: CommandKind) -> Self {
        // Only drivers may send positions and beacons.
        let role = (kind != CommandKind::Other && result.is_ok()).then_some(Role::Driver);
        let frame = match result {
            // The contract acknowledges positions only if they have an id.
            Ok(_) if kind == CommandKind::Positions && id.is_none() => None,
            Ok(data) => Some(frame::ack(id.as_deref(), &data)),
            Err(refusal) => Some(frame::error(id.as_deref(), &refusal)),
        };
        Self { frame, role }
    }
}

/// What the session reacts to.
enum Input {
    Stop,
    /// All frames have left, or (false) the sink is broken.
    Drained(bool),
    /// `None` if the subscription has ended.
    Notification(Option<CoreMessage>),
    /// The poll of mailboxes found a new `last_seq`.
    PolledSeq,
    Entries(Result<Vec<Entry>, StoreError>),
    /// A frame of positions without an id was published, or refused.
    Published(Option<Refusal>),
    Reply(Reply),
    /// `None` if the client is gone.
    Incoming(Option<Incoming>),
    Timer,
}

struct Session<'a, K> {
    context: &'a Context,
    user: UserId,
    out: Outbound<'a, K>,
    role: Role,
    /// The ride to which positions belong.
    ride: Option<RideId>,
    /// The newest `seq` when the session began. `ride` was read after it, and already reflects all events up to it.
    start_seq: u64,
    /// The newest `seq` sent to the client.
    sent_seq: u64,
    /// The newest `seq` known to exist.
    newest_seq: u64,
    polled_seq: watch::Receiver<u64>,
    rate: TokenBucket,
    received_at: Instant,
    ping_at: Instant,
    /// The mailbox is not read before this time.
    read_at: Instant,
    reading: Option<BoxFuture<'a, Result<Vec<Entry>, StoreError>>>,
    /// `newest_seq` when the read began.
    read_until_seq: u64,
    command: Option<BoxFuture<'a, Reply>>,
    publishes: FuturesUnordered<BoxFuture<'a, Option<Refusal>>>,
}

impl<'a, K: Sink<Outgoing> + Unpin + Send> Session<'a, K> {
    fn new(
        context: &'a Context,
        polled_seq: watch::Receiver<u64>,
        user: UserId,
        start: SessionStart,
        last_seq: Option<u64>,
        out: Outbound<'a, K>,
    ) -> Self {
        let now = Instant::now();
        let SessionStart { last_seq: start_seq, role, ride } = start;
        Self {
            context,
            user,
            out,
            role,
            ride,
            start_seq,
            sent_seq: last_seq.map_or(start_seq, |seq| seq.min(start_seq)),
            newest_seq: start_seq,
            polled_seq,
            rate: TokenBucket::full(context.config.frames_per_s, now),
            received_at: now,
            ping_at: now + PING_INTERVAL,
            read_at: now,
            reading: None,
            read_until_seq: 0,
            command: None,
            publishes: FuturesUnordered::new(),
        }
    }

    async fn run<S: Stream<Item = Incoming> + Unpin + Send>(
        mut self,
        incoming: &mut S,
        mut notifications: Subscription,
    ) {
        let end = self.react_until_end(incoming, &mut notifications).await;
        drop(notifications);
        // Commands that have begun are finished, even if the client does not receive their result.
        let _ = timeout(SEND_WAIT, self.finish_commands()).await;
        self.out.close(incoming, end).await;
    }

    async fn react_until_end<S: Stream<Item = Incoming> + Unpin + Send>(
        &mut self,
        incoming: &mut S,
        notifications: &mut Subscription,
    ) -> SessionEnd {
        let context = self.context;
        let mut stop = pin!(context.sockets.closing.cancelled());
        let mut timer = pin!(sleep_until(self.deadline()));
        loop {
            self.read_mailbox();
            self.reset_if_earlier(timer.as_mut());
            let accepts = self.command.is_none() && self.publishes.len() < PUBLISHES_MAX && self.out.has_room();
            let input = tokio::select! {
                biased;
                () = &mut stop => Input::Stop,
                ok = self.out.drain(), if self.out.is_busy() => Input::Drained(ok),
                message = notifications.next() => Input::Notification(message),
                Ok(()) = self.polled_seq.changed() => Input::PolledSeq,
                entries = poll_optional(&mut self.reading) => Input::Entries(entries),
                Some(refused) = self.publishes.next(), if !self.publishes.is_empty() => Input::Published(refused),
                reply = poll_optional(&mut self.command) => Input::Reply(reply),
                frame = incoming.next(), if accepts => Input::Incoming(frame),
                () = &mut timer => Input::Timer,
            };
            if let Some(end) = self.react(input) {
                return end;
            }
        }
    }

    fn react(&mut self, input: Input) -> Option<SessionEnd> {
        match input {
            Input::Stop => return Some(SHUTDOWN),
            Input::Drained(true) | Input::Published(None) => {}
            Input::Drained(false) | Input::Incoming(None) => return Some(SessionEnd::Disconnected),
            Input::Notification(Some(message)) => self.on_notification(&message.payload),
            // Without the bus this pod cannot serve the client. Another pod can, or this one after a restart.
            Input::Notification(None) => return Some(SHUTDOWN),
            Input::PolledSeq => self.newest_seq = self.newest_seq.max(*self.polled_seq.borrow_and_update()),
            Input::Entries(entries) => self.on_entries(entries),
            Input::Published(Some(refusal)) => self.out.push_error(None, &refusal),
            Input::Reply(reply) => self.on_reply(reply),
            Input::Incoming(Some(incoming)) => {
                self.received_at = Instant::now();
                return self.on_frame(incoming);
            }
            Input::Timer => return self.on_timer(Instant::now()),
        }
        None
    }

    /// The time by which the session must act even if no input comes.
    fn deadline(&self) -> Instant {
        let mut at = self.ping_at.min(self.received_at + SILENCE_MAX);
        if let Some(since) = self.out.blocked_since {
            at = at.min(since + SEND_WAIT);
        }
        if self.sent_seq < self.newest_seq && self.read_at > Instant::now() {
            at = at.min(self.read_at);
        }
        at
    }

    /// A deadline that has moved to later needs no reset: the timer fires at the earlier time and is set again then.
    fn reset_if_earlier(&self, timer: Pin<&mut Sleep>) {
        let at = self.deadline();
        if at < timer.deadline() || timer.is_elapsed() {
            timer.reset(at);
        }
    }

    fn on_timer(&mut self, now: Instant) -> Option<SessionEnd> {
        if self.out.blocked_since.is_some_and(|since| since + SEND_WAIT <= now) {
            let message = "frames are not read as fast as they come: resume with `last_seq`";
            self.out.push_error(None, &Refusal::new("too_slow", message));
            return Some(TOO_SLOW);
        }
        if self.received_at + SILENCE_MAX <= now {
            return Some(SILENT);
        }
        if self.ping_at <= now {
            self.ping_at = now + PING_INTERVAL;
            if self.out.has_room() {
                self.out.push(Outgoing::Ping);
            }
        }
        None
    }

    /// Begins to read the mailbox if it has entries that were not sent, once all frames before them have left.
    fn read_mailbox(&mut self) {
        let behind = self.sent_seq < self.newest_seq && self.reading.is_none();
        if behind && self.out.is_empty() && self.read_at <= Instant::now() {
            let (context, user, sent_seq) = (self.context, self.user, self.sent_seq);
            self.read_until_seq = self.newest_seq;
            let read = async move {
                let mut tx = context.store.begin().await?;
                mailbox::rows::entries_after(&mut tx, user, sent_seq, PAGE).await
            };
            self.reading = Some(read.boxed());
        }
    }

    fn on_entries(&mut self, read: Result<Vec<Entry>, StoreError>) {
        self.reading = None;
        let entries = match read {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, "a mailbox cannot be read; it is read again in a second");
                self.read_at = Instant::now() + READ_PAUSE;
                return;
            }
        };
        let is_last_page = entries.len() < PAGE;
        for Entry { seq, event_id, subject, time, body } in entries {
            self.update_ride(seq, &subject, &body);
            self.sent_seq = seq;
            self.out.push_text(frame::event(&subject, seq, &event_id, time, &body));
        }
        if is_last_page {
            // Entries that are missing up to here were acknowledged or purged: they will never come.
            self.sent_seq = self.sent_seq.max(self.read_until_seq);
        }
        self.newest_seq = self.newest_seq.max(self.sent_seq);
    }

    /// A notification is the frame of a new event. It is sent as it is if it is the next one; otherwise the mailbox is read.
    fn on_notification(&mut self, payload: &[u8]) {
        let text = std::str::from_utf8(payload).unwrap_or_default();
        let Ok(EventFrame { seq, subject, data }) = serde_json::from_str(text) else {
            return;
        };
        if seq == self.sent_seq + 1 && self.reading.is_none() && self.out.has_room() {
            self.update_ride(seq, &subject, data.get());
            self.sent_seq = seq;
            self.out.push_text(text.to_owned());
        }
        self.newest_seq = self.newest_seq.max(seq);
    }

    /// Learns from an event that is sent to a driver to which ride later positions belong.
    fn update_ride(&mut self, seq: u64, subject: &str, body: &str) {
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
        if seq <= self.start_seq {
            return;
        }
        match serde_json::from_str::<Ride>(body) {
            Ok(ride) if begins && ride.driver_id == self.user => self.ride = Some(ride.ride_id),
            Ok(ride) if !begins && self.ride == Some(ride.ride_id) => self.ride = None,
            _ => {}
        }
    }

    fn on_frame(&mut self, incoming: Incoming) -> Option<SessionEnd> {
        let text = match incoming {
            Incoming::Alive => return None,
            Incoming::TooLarge => return Some(self.refuse_too_large()),
            Incoming::Binary => None,
            Incoming::Text(text) => Some(text),
        };
        self.context.platform.metrics.frames.with_label_values(&["in"]).inc();
        if !self.rate.take(Instant::now()) {
            let message = format!("at most {} frames a second", self.context.config.frames_per_s);
            self.out.push_error(None, &Refusal::new("too_fast", message));
            return Some(TOO_FAST);
        }
        let Some(text) = text else {
            self.out.push_error(None, &Refusal::new("invalid_frame", "frames are JSON text, not binary"));
            return None;
        };
        if text.len() > frame::FRAME_MAX {
            return Some(self.refuse_too_large());
        }
        match frame::parse(&text, self.context.platform.world.now()) {
            Ok(Frame { id, command }) => self.begin_command(id, command),
            Err(refused) => self.out.push_error(refused.id.as_deref(), &refused.refusal),
        }
        None
    }

    fn refuse_too_large(&mut self) -> SessionEnd {
        let message = format!("a frame may have at most {} bytes", frame::FRAME_MAX);
        self.out.push_error(None, &Refusal::new("frame_too_large", message));
        TOO_LARGE
    }

    /// Begins a command. The session reads the next frame when it has finished, except that a driver's positions without an
    /// id are published while further frames are read.
    fn begin_command(&mut self, id: Option<Id>, command: Command) {
        let (context, user, ride) = (self.context, self.user, self.ride);
        let kind = CommandKind::of(&command);
        // The trace begins where the command publishes.
        let (kind_name, raw_id) = (command.kind(), id.as_deref().map(RawValue::get));
        let span = info_span!("command", "type" = kind_name, id = raw_id, trace_id = Empty);
        match (command, self.role) {
            (Command::Positions(points), Role::Driver) if id.is_none() => {
                let publish = async move { commands::positions::publish(context, user, ride, points).await.err() };
                self.publishes.push(publish.instrument(span).boxed());
            }
            (Command::Positions(points), Role::Driver) => {
                let publish = async move {
                    Reply::new(id, commands::positions::publish(context, user, ride, points).await, kind)
                };
                self.command = Some(publish.instrument(span).boxed());
            }
            (command, _) => {
                let execute =
                    async move { Reply::new(id, commands::execute(context, user, ride, command).await, kind) };
                self.command = Some(execute.instrument(span).boxed());
            }
        }
    }

    fn on_reply(&mut self, Reply { frame, role }: Reply) {
        self.command = None;
        self.role = role.unwrap_or(self.role);
        if let Some(frame) = frame {
            self.out.push_text(frame);
        }
    }

    async fn finish_commands(&mut self) {
        if self.command.is_some() {
            let reply = poll_optional(&mut self.command).await;
            self.on_reply(reply);
        }
        while let Some(refused) = self.publishes.next().await {
            if let Some(refusal) = refused {
                self.out.push_error(None, &refusal);
            }
        }
    }
}

/// Awaits the future if there is one; otherwise it is pending for ever.
async fn poll_optional<T>(future: &mut Option<BoxFuture<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
