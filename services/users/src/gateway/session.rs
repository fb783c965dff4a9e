//! The life of one socket: a welcome, the events that the client missed, then commands in and events out until one side
//! ends it.
//!
//! It is generic over its stream and sink of frames, so that a test or a simulation runs it over a pipe in memory. It spawns
//! no task, and all its queues are bounded. `frame` parses what comes in, and `commands` executes it.

use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::{Sink, Stream, StreamExt};
use platform::StoreError;
use platform::limits::Limit;
use platform::token::Access;
use serde_json::value::RawValue;
use streams::UserId;
use streams::event::rfc3339;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tracing::{Instrument, info_span};
use uuid::Uuid;

use super::connection::{self, Role, SessionStart};
use super::delivery::Delivery;
use super::frame::{self, AccessToken, Frame, Id, Request, Welcome};
use super::in_flight::{Finished, InFlight, Reply};
use super::inbox::{Signal, WrittenFrame};
use super::live::{LiveInput, LiveLane};
use super::outbound::Outbound;
use super::pod_link;
use super::rate_limit::{Bucket, REFUSALS};
use super::sockets::{AdmissionError, SocketSlot};
use super::transport::{
    FRAME_MAX, Incoming, NOT_UTF8, NOT_WEBSOCKET, Outgoing, SHUTDOWN, SIGN_IN_ENDED, SILENCE_MAX, SILENT, SessionEnd,
    SocketRequest, TOKEN_EXPIRED, TOO_FAST, TOO_LARGE, TOO_SLOW, TRY_LATER,
};
use crate::commands::ack::RefreshAck;
use crate::commands::command::{self, Answer, Command, NotBegun, Refusal};
use crate::commands::sender::{Sender, Via};
use crate::context::Context;
use crate::mailbox::Entry;
use crate::state::{self, StateView};

/// A client that takes no frame for this long reads too slowly. Also the wait for unfinished commands at the end.
const SEND_WAIT: Duration = Duration::from_secs(5);
/// The wait for unfinished commands of somebody who is not signed in any more.
const SIGNED_OUT_WAIT: Duration = Duration::from_millis(500);
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Serves one signed-in client until it goes, is closed, or the pod stops. `incoming` ends when the client is gone.
///
/// An idle socket costs little more than this future and the buffers of its WebSocket. So what runs once, at the start or the end,
/// is in a box, and no function takes a session by value: an async function holds such an argument twice.
pub(crate) fn serve<S, K>(
    context: &Context,
    request: SocketRequest,
    incoming: S,
    outgoing: K,
) -> impl Future<Output = ()> + Send
where
    S: Stream<Item = Incoming> + Unpin + Send,
    K: Sink<Outgoing> + Unpin + Send,
{
    let id = context.platform.world.id();
    let span = info_span!("socket", session_id = %id, user_id = %request.access.user);
    admit_and_serve(context, id, request, incoming, outgoing).instrument(span)
}

async fn admit_and_serve<S, K>(context: &Context, id: Uuid, request: SocketRequest, mut incoming: S, outgoing: K)
where
    S: Stream<Item = Incoming> + Unpin + Send,
    K: Sink<Outgoing> + Unpin + Send,
{
    let mut out = Outbound::new(&context.platform, outgoing);
    let Access { user, sign_in, .. } = request.access;
    let points = context.platform.limiter.limits().quota(Limit::Points);
    let slot = match context.sockets.admit(user, id, request.device.clone(), sign_in, &context.config, points) {
        Ok(admitted) => admitted,
        Err(error) => {
            let end = match error {
                AdmissionError::Closing => SHUTDOWN,
                AdmissionError::PodLimit => TRY_LATER,
            };
            out.push_error(None, &Refusal::new("unavailable", "there is no room for this socket"));
            return out.close(&mut incoming, end).await;
        }
    };
    if sign_in.is_some_and(|sign_in| context.tokens.ended().contains(sign_in)) {
        // It ended after the token was verified, and before the slot could be found by it.
        return out.close(&mut incoming, SIGN_IN_ENDED).await;
    }
    context.platform.metrics.sockets.inc();
    match Box::pin(start(context, &slot, &request)).await {
        Ok((start, state)) => {
            let mut session = Session::new(context, &slot, &request, start, &state, out);
            drop(state);
            session.run(&mut incoming).await;
        }
        Err(error) => {
            tracing::warn!(error, "a socket cannot be served now");
            out.push_error(None, &Refusal::unavailable());
            out.close(&mut incoming, TRY_LATER).await;
        }
    }
    // First out of the registry: what it says becomes the row.
    let located = slot.driver().located();
    slot.unregister();
    if let Err(error) = Box::pin(connection::close(context, user, located)).await {
        tracing::warn!(%error, "a closed socket was not recorded; it is tried again");
        context.sockets.add_unrecorded(user);
    }
    context.platform.metrics.sockets.dec();
}

async fn start(
    context: &Context,
    slot: &SocketSlot,
    request: &SocketRequest,
) -> Result<(SessionStart, StateView), String> {
    // Frames come before the mailbox is read, so that no event in between is missed.
    if !pod_link::is_up(context).await {
        return Err("frames do not reach this pod".to_owned());
    }
    let user = request.access.user;
    let opened = connection::open(context, user, slot, &request.device, request.last_seq).await;
    let (start, rows) = opened.map_err(|error| error.to_string())?;
    let state = state::complete(context, user, rows).await.map_err(|error| error.to_string())?;
    Ok((start, state))
}

/// What the session reacts to.
enum Input {
    Stop,
    /// The pod has something for this session.
    Signal(Signal),
    /// All frames have left, or (false) the sink is broken.
    Drained(bool),
    /// A pod wrote it for a mailbox entry of the user.
    Frame(WrittenFrame),
    Entries(Result<Vec<Entry>, StoreError>),
    Live(LiveInput),
    Finished(Finished),
    /// `None` if the client is gone.
    Incoming(Option<Incoming>),
    Timer,
}

struct Session<'a, K> {
    context: &'a Context,
    user: UserId,
    slot: &'a SocketSlot,
    /// When the access token expires, and the session with it.
    expires_at: Instant,
    request: &'a SocketRequest,
    out: Outbound<'a, K>,
    role: Role,
    delivery: Delivery<'a>,
    live: LiveLane<'a>,
    in_flight: InFlight<'a>,
    /// Frames that the client may send.
    frames: Bucket,
    /// Refusals by a limit that the client may cause.
    refusals: Bucket,
    received_at: Instant,
    ping_at: Instant,
    /// The newest entry behind whose frame a ping was sent because pushes of it wait, and the newest that the client took.
    pinged_seq: u64,
    taken_seq: u64,
}

impl<'a, K: Sink<Outgoing> + Unpin + Send> Session<'a, K> {
    fn new(
        context: &'a Context,
        slot: &'a SocketSlot,
        request: &'a SocketRequest,
        start: SessionStart,
        state: &StateView,
        mut out: Outbound<'a, K>,
    ) -> Self {
        let (now, user) = (Instant::now(), request.access.user);
        out.push_text(frame::welcome(&Welcome {
            user_id: user,
            session_id: slot.session,
            last_seq: start.last_seq,
            missed: start.missed,
            server_time: rfc3339::text(&context.platform.world.now()),
            expires_at: rfc3339::text(&request.access.expires_at),
            limits: &context.limits,
            state,
        }));
        Self {
            context,
            user,
            slot,
            expires_at: context.platform.world.instant(request.access.expires_at),
            request,
            out,
            role: start.role,
            delivery: Delivery::new(context, slot, user, &start, request.last_seq),
            live: LiveLane::new(context),
            in_flight: InFlight::default(),
            frames: Bucket::full(context.frames_quota(), now),
            refusals: Bucket::full(REFUSALS, now),
            received_at: now,
            ping_at: now + PING_INTERVAL,
            pinged_seq: 0,
            taken_seq: 0,
        }
    }

    async fn run<S: Stream<Item = Incoming> + Unpin + Send>(&mut self, incoming: &mut S) {
        let end = self.react_until_end(incoming).await;
        self.slot.inbox.close();
        // Commands that have begun are finished, even if the client does not receive their result.
        let wait = if [SIGN_IN_ENDED, TOKEN_EXPIRED].contains(&end) { SIGNED_OUT_WAIT } else { SEND_WAIT };
        let _ = timeout(wait, self.finish_commands()).await;
        self.out.close(incoming, end).await;
    }

    async fn react_until_end<S: Stream<Item = Incoming> + Unpin + Send>(&mut self, incoming: &mut S) -> SessionEnd {
        let (context, inbox) = (self.context, &self.slot.inbox);
        let mut stop = pin!(context.sockets.closing.cancelled());
        let mut timer = pin!(sleep_until(self.deadline()));
        loop {
            if self.out.is_empty() {
                self.delivery.begin_read();
            }
            self.show_live_position();
            self.reset_if_earlier(timer.as_mut());
            let accepts = self.in_flight.has_room() && self.out.has_room();
            let input = tokio::select! {
                biased;
                () = &mut stop => Input::Stop,
                signal = inbox.signal() => Input::Signal(signal),
                ok = self.out.drain(), if self.out.is_busy() => Input::Drained(ok),
                frame = inbox.frame() => Input::Frame(frame),
                entries = self.delivery.read() => Input::Entries(entries),
                input = self.live.next() => Input::Live(input),
                finished = self.in_flight.next() => Input::Finished(finished),
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
            Input::Signal(Signal { last_seq, end }) => {
                self.delivery.on_newest(last_seq);
                return end;
            }
            Input::Drained(true) => {}
            Input::Drained(false) | Input::Incoming(None) => return Some(SessionEnd::Disconnected),
            Input::Frame(frame) if self.out.has_room() => {
                self.delivery.on_event(&frame).into_iter().for_each(|frame| self.out.push_event(frame));
                self.ping_if_pushed();
            }
            Input::Frame(frame) => self.delivery.on_event_later(&frame.text),
            Input::Entries(entries) => {
                self.delivery.on_read(entries).into_iter().for_each(|frame| self.out.push_event(frame));
                self.ping_if_pushed();
            }
            Input::Live(input) => self.live.on_input(input),
            Input::Finished(finished) => self.on_finished(finished),
            Input::Incoming(Some(incoming)) => {
                self.received_at = Instant::now();
                self.slot.received(self.received_at);
                self.on_alive();
                return self.on_incoming(incoming);
            }
            Input::Timer => return self.on_timer(Instant::now()),
        }
        None
    }

    /// The time by which the session must act even if no input comes.
    fn deadline(&self) -> Instant {
        let mut at = self.ping_at.min(self.received_at + SILENCE_MAX).min(self.expires_at);
        if let Some(since) = self.out.blocked_since {
            at = at.min(since + SEND_WAIT);
        }
        if self.may_show_live_position()
            && let Some(due_at) = self.live.deadline()
        {
            at = at.min(due_at);
        }
        self.delivery.deadline().map_or(at, |read_at| at.min(read_at))
    }

    /// A deadline that has moved to later needs no reset: the timer fires at the earlier time and is set again then.
    fn reset_if_earlier(&self, timer: Pin<&mut Sleep>) {
        let at = self.deadline();
        if at < timer.deadline() || timer.is_elapsed() {
            timer.reset(at);
        }
    }

    fn on_timer(&mut self, now: Instant) -> Option<SessionEnd> {
        if self.expires_at <= now {
            return Some(TOKEN_EXPIRED);
        }
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

    /// If pushes wait for one of the frames, the client is asked behind them whether it is there.
    fn ping_if_pushed(&mut self) {
        let sent_seq = self.delivery.sent_seq();
        if self.slot.inbox.pushed_seq() > self.pinged_seq && sent_seq > self.pinged_seq && self.out.has_room() {
            self.pinged_seq = sent_seq;
            self.out.push(Outgoing::Ping);
        }
    }

    /// The client has sent something. If all frames had left before, it has them: `push/taken.rs`.
    fn on_alive(&mut self) {
        if self.pinged_seq > self.taken_seq && !self.out.is_busy() {
            self.taken_seq = self.pinged_seq;
            self.context.taken.add(self.user, self.taken_seq);
        }
    }

    /// Sends a passenger the newest position of the driver, if it is due. While other frames wait, so does it, and while the client
    /// has not received the events that it missed.
    fn show_live_position(&mut self) {
        self.live.follow(self.delivery.rides().ridden.as_ref());
        if self.may_show_live_position()
            && let Some(view) = self.live.take_due()
        {
            self.out.push_text(frame::live(&view));
        }
    }

    fn may_show_live_position(&self) -> bool {
        !self.out.is_busy() && self.delivery.has_resumed()
    }

    fn on_incoming(&mut self, incoming: Incoming) -> Option<SessionEnd> {
        let is_message = matches!(incoming, Incoming::Text(_) | Incoming::Binary);
        if is_message {
            self.context.platform.metrics.frames.with_label_values(&["in"]).inc();
        }
        // Pings and pongs count as well: each costs as much as a frame that is refused.
        if incoming == Incoming::TooFast || !self.frames.take(Instant::now()) {
            self.context.platform.limit_reached(Limit::Frames);
            let message = format!("at most {} frames a second", self.context.frames_quota().per_s);
            self.out.push_error(None, &Refusal::new("too_fast", message));
            return Some(TOO_FAST);
        }
        match incoming {
            Incoming::Alive | Incoming::TooFast => None,
            Incoming::NotUtf8 => Some(NOT_UTF8),
            Incoming::NotWebSocket => Some(NOT_WEBSOCKET),
            Incoming::TooLarge => Some(self.refuse_too_large()),
            Incoming::Binary => {
                self.out.push_error(None, &Refusal::new("invalid_frame", "frames are JSON text, not binary"));
                None
            }
            Incoming::Text(text) if text.len() > FRAME_MAX => Some(self.refuse_too_large()),
            Incoming::Text(text) => self.on_text(&text),
        }
    }

    fn refuse_too_large(&mut self) -> SessionEnd {
        let message = format!("a frame may have at most {} bytes", FRAME_MAX);
        self.out.push_error(None, &Refusal::new("frame_too_large", message));
        TOO_LARGE
    }

    fn on_text(&mut self, text: &str) -> Option<SessionEnd> {
        match frame::parse(text, self.context.platform.world.now()) {
            Ok(Frame { id, request: Request::Command(command), traceparent }) => {
                return self.begin_command(id, command, traceparent.as_deref());
            }
            Ok(Frame { id, request: Request::Refresh(token), .. }) => self.refresh(id.as_deref(), &token),
            Err(refused) => self.out.push_error(refused.id.as_deref(), &refused.refusal),
        }
        None
    }

    fn begin_command(&mut self, id: Option<Id>, mut command: Command, traceparent: Option<&str>) -> Option<SessionEnd> {
        let answer = if id.is_some() { Answer::Ack } else { Answer::None };
        match command::begin(&self.context.platform, self.user, &mut command, &self.slot.clock, answer) {
            Ok(()) => {}
            Err(NotBegun::Refused(refusal)) => {
                self.out.push_error(id.as_deref(), &refusal);
                return None;
            }
            Err(NotBegun::Limited(refusal)) => {
                self.out.push_error(id.as_deref(), &refusal);
                // A client that takes no notice of the limit is no better than one that sends too many frames.
                return (!self.refusals.take(Instant::now())).then_some(TOO_FAST);
            }
        }
        let device_name = self.slot.device_name();
        let sender = Sender {
            via: Via::Socket,
            user: self.user,
            device: self.request.device.clone(),
            ride: self.delivery.rides().driven,
            ride_device: self.delivery.is_ride_device(&device_name),
            device_name,
            publish_lane: self.slot.publish_lane.clone(),
            known_driver: self.slot.known_driver.clone(),
        };
        let caller = traceparent.and_then(|text| self.context.platform.spans.of_client(text));
        self.in_flight.begin(self.context, sender, id, command, self.role, caller);
        None
    }

    /// From now on the session goes by another access token of the same user.
    fn refresh(&mut self, id: Option<&RawValue>, token: &AccessToken) {
        match self.accept_token(token) {
            Ok(access) => {
                self.expires_at = self.context.platform.world.instant(access.expires_at);
                self.out.push_text(frame::ack(id, &RefreshAck { expires_at: rfc3339::text(&access.expires_at) }));
            }
            Err(refusal) => self.out.push_error(id, &refusal),
        }
    }

    fn accept_token(&self, token: &AccessToken) -> Result<Access, Refusal> {
        let field = || Some("access_token".to_owned());
        let verify = || {
            let access = self.context.tokens.verify(&token.0);
            access.map_err(|problem| Refusal { field: field(), ..problem.into() })
        };
        let access = verify()?;
        if access.user != self.user {
            let refusal = Refusal::new("forbidden", "the access token is of another user");
            return Err(Refusal { field: field(), ..refusal });
        }
        let before = self.slot.set_sign_in(access.sign_in);
        // Its sign-in may have ended before the slot could be found by it.
        verify().inspect_err(|_| _ = self.slot.set_sign_in(before))
    }

    fn on_finished(&mut self, finished: Finished) {
        match finished {
            Finished::Published(None) => {}
            Finished::Published(Some(refusal)) => self.out.push_error(None, &refusal),
            Finished::Reply(Reply { frame, role }) => {
                self.role = role.unwrap_or(self.role);
                frame.into_iter().for_each(|frame| self.out.push_text(frame));
            }
        }
    }

    async fn finish_commands(&mut self) {
        while !self.in_flight.is_empty() {
            let finished = self.in_flight.next().await;
            self.on_finished(finished);
        }
    }
}
