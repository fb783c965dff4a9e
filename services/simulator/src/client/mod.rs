//! One person's end of the WebSocket: sends commands and repeats them until they are answered, receives events, reconnects and
//! resumes. It decides nothing about rides.

mod commands;
mod socket;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

pub(crate) use self::commands::Command;
use self::commands::CommandQueue;
use self::socket::Welcome;
pub(crate) use self::socket::{PHONE, Socket, SocketInput, TABLET};
use crate::account::Account;
use crate::checker::{Delivery, MailboxChecker};
use crate::city::City;
use crate::clock;
use crate::frame::{self, Event, Frame, LivePosition};
use crate::observation::Observation;
use crate::statistics::Counter;

/// A command without an answer is sent again after this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A command without an answer after this is a violation, and no longer repeated.
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);
/// The most frames without an id that wait for a connection; the oldest are dropped.
const UNSENT_FRAMES_MAX: usize = 64;
/// `mailbox.ack` is sent after so many events.
const EVENTS_AN_ACK: u64 = 25;
/// Each sign-in takes a code, and the platform gives five for a number at once.
const REINSTALLS_MAX: u32 = 2;
/// The pause before a reconnect when the peer or the network closed the connection.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// What a person reacts to.
#[derive(Debug)]
pub(crate) enum Input {
    Event(Event),
    Acked {
        command: Command,
        data: Value,
    },
    Refused {
        command: Command,
        code: String,
    },
    /// The command was given up.
    Unanswered {
        command: Command,
    },
    /// The app was installed again and has forgotten everything: this is the state that the platform names. Events up to its `seq` do
    /// not come any more.
    Rebuilt {
        state: Value,
    },
    /// The deadline of [`Client::next`] has passed.
    Deadline,
}

#[derive(Debug)]
pub(crate) struct Client {
    city: Arc<City>,
    account: Arc<Account>,
    rng: StdRng,
    socket: Option<Socket>,
    connected_since: Option<Instant>,
    /// How many connections there have been.
    connects: u64,
    /// Failed attempts since the last connection.
    failures: u32,
    reconnect_at: Instant,
    next_url: usize,
    mailbox: MailboxChecker,
    events: u64,
    commands: CommandQueue,
    unsent_frames: VecDeque<String>,
    /// The `device` of the installation.
    device: String,
    /// How many times the app was installed again.
    reinstalls: u32,
    /// Set from the moment when the app is installed again until it has a connection: whether its person has signed out before.
    reinstalling: Option<SignsOut>,
    /// Whether an app that is installed again has another id of its device.
    device_changes: bool,
    reinstall_rng: StdRng,
    /// The `seq` of the state from which the screen was rebuilt: the person knows what the events up to it say.
    screen_seq: u64,
    /// The state of the last welcome, until all events up to its `seq` have been received.
    unchecked_state: Option<Value>,
}

/// Whether somebody signs out before the app is installed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignsOut {
    Yes,
    No,
}

impl Client {
    pub(crate) fn new(city: Arc<City>, account: Arc<Account>, index: usize) -> Self {
        let seed = city.config.seed.wrapping_add(index as u64).wrapping_mul(3).wrapping_add(1);
        Self {
            commands: CommandQueue::new(format!("{:x}-{index}", city.run_id)),
            city,
            account,
            rng: StdRng::seed_from_u64(seed),
            socket: None,
            connected_since: None,
            connects: 0,
            failures: 0,
            reconnect_at: clock::now(),
            next_url: index,
            mailbox: MailboxChecker::default(),
            events: 0,
            unsent_frames: VecDeque::new(),
            device: PHONE.to_owned(),
            reinstalls: 0,
            reinstalling: None,
            device_changes: true,
            reinstall_rng: StdRng::seed_from_u64(seed.wrapping_add(1)),
            screen_seq: 0,
            unchecked_state: None,
        }
    }

    pub(crate) fn user_id(&self) -> &str {
        &self.account.user_id
    }

    /// Since when the present connection is open; `None` without one.
    pub(crate) fn connected_since(&self) -> Option<Instant> {
        self.connected_since
    }

    /// How many connections there have been, the present one included.
    pub(crate) fn connects(&self) -> u64 {
        self.connects
    }

    /// An app that is installed again has the same id of its device as before.
    pub(crate) fn keep_device(&mut self) {
        self.device_changes = false;
    }

    /// Sends a command, and repeats it until it is answered; the answer comes as an [`Input`] with the returned id.
    pub(crate) fn send(&mut self, kind: &'static str, data: Value) -> String {
        let id = self.commands.push(kind, data, clock::now());
        if self.reinstalling.is_some() {
            // There is no app.
            self.commands.clear();
        }
        id
    }

    /// Sends a command without an id, which the platform does not answer.
    pub(crate) fn send_unanswered(&mut self, kind: &'static str, data: &Value) {
        if self.unsent_frames.len() >= UNSENT_FRAMES_MAX {
            self.unsent_frames.pop_front();
        }
        self.unsent_frames.push_back(frame::command(None, kind, data));
    }

    /// Waits for the next input, at most until `deadline`. Meanwhile it reconnects and repeats commands.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Input {
        loop {
            let now = clock::now();
            if now >= deadline {
                return Input::Deadline;
            }
            if let Some(command) = self.commands.remove_expired(now, GIVE_UP_AFTER + self.city.config.outage) {
                self.violation(&format!("{} {} was never answered", command.kind, command.data));
                return Input::Unanswered { command };
            }
            if self.socket.is_none() && now >= self.reconnect_at {
                if let Some(state) = Box::pin(self.connect()).await {
                    return Input::Rebuilt { state };
                }
                continue;
            }
            self.send_due(now).await;
            let Some(socket) = &mut self.socket else {
                sleep_until(deadline.min(self.reconnect_at)).await;
                continue;
            };
            let wake = self.commands.next_send_at().unwrap_or(deadline).min(deadline);
            let incoming = tokio::select! {
                biased;
                incoming = socket.read() => incoming,
                () = sleep_until(wake) => continue,
            };
            if let Some(input) = self.on_incoming(incoming) {
                return input;
            }
        }
    }

    /// Closes the WebSocket with a close frame.
    pub(crate) async fn close(mut self) {
        self.city.checker().disconnected(&self.account.user_id);
        if let Some(socket) = self.socket.take() {
            socket.close().await;
        }
    }

    /// Drops the connection without a close frame.
    fn cut(&mut self) {
        if self.socket.is_some() {
            self.city.statistics().increment(Counter::Cuts);
            let pause = Duration::from_millis(self.rng.random_range(0..1_500));
            self.disconnect(pause);
        }
    }

    fn disconnect(&mut self, pause: Duration) {
        self.socket = None;
        self.connected_since = None;
        self.next_url += 1;
        self.reconnect_at = clock::now() + pause;
        self.city.checker().disconnected(&self.account.user_id);
    }

    /// The app is installed again: it has forgotten its commands, its device's id and the screen. The checker forgets nothing: it
    /// still receives each event once.
    fn reinstall(&mut self) {
        self.city.statistics().increment(Counter::Reinstalls);
        self.reinstalls += 1;
        self.commands = CommandQueue::new(format!("{:x}-{}-{}", self.city.run_id, self.user_id(), self.reinstalls));
        self.unsent_frames.clear();
        if self.device_changes {
            self.device = format!("{PHONE}-{}", self.reinstalls);
        }
        let signs_out = if self.reinstall_rng.random_bool(0.5) { SignsOut::Yes } else { SignsOut::No };
        self.reinstalling = Some(signs_out);
        let pause = Duration::from_millis(self.reinstall_rng.random_range(0..3_000));
        self.disconnect(pause);
    }

    /// Whether the app is installed again now. Rolled for each event and each command.
    fn roll_reinstall(&mut self) -> bool {
        let probability = self.city.config.faults.reinstall;
        self.reinstalls < REINSTALLS_MAX && self.reinstalling.is_none() && self.reinstall_rng.random_bool(probability)
    }

    /// Signs in again, if the app was installed again, and opens a connection.
    async fn open(&mut self) -> Result<(Socket, Welcome)> {
        if let Some(signs_out) = self.reinstalling {
            self.account.sign_in_again(signs_out == SignsOut::Yes).await?;
        }
        let http = &self.city.users_clients[self.next_url % self.city.users_clients.len()];
        Socket::open(http, &self.account, Some(self.mailbox.last_seq()), &self.device).await
    }

    /// Returns the state of the welcome if the app was installed again.
    async fn connect(&mut self) -> Option<Value> {
        match self.open().await {
            Ok((socket, welcome)) => {
                let now = clock::now();
                self.city.learn_fastest(welcome.fastest_mps);
                self.socket = Some(socket);
                self.failures = 0;
                self.connects += 1;
                self.connected_since = Some(now);
                self.mailbox.resumed(welcome.last_seq);
                self.commands.send_all_at(now);
                if self.connects > 1 {
                    self.city.statistics().increment(Counter::Reconnects);
                }
                let mut checker = self.city.checker();
                checker.connected(&self.account.user_id, now);
                if welcome.user_id != self.account.user_id {
                    checker.violation(format!("{} was welcomed as {}", self.account.user_id, welcome.user_id));
                }
                checker.state_received(&self.account.user_id, &welcome.state, self.mailbox.last_seq());
                drop(checker);
                let rebuilt = self.reinstalling.take().map(|_| welcome.state.clone());
                if rebuilt.is_some() {
                    self.screen_seq = seq_of(&welcome.state);
                }
                self.unchecked_state = Some(welcome.state);
                self.compare_state();
                rebuilt
            }
            Err(error) => {
                tracing::debug!(user_id = %self.account.user_id, error = format!("{error:#}"), "no connection");
                self.failures += 1;
                let max_ms = (100_u64 << self.failures.min(6)).min(5_000);
                let pause = Duration::from_millis(self.rng.random_range(max_ms / 2..=max_ms));
                self.disconnect(pause);
                None
            }
        }
    }

    /// Compares the state of the last welcome with the events, once those up to its `seq` have been received.
    fn compare_state(&mut self) {
        let received = self.mailbox.last_seq();
        if let Some(state) = self.unchecked_state.take_if(|state| seq_of(state) <= received)
            && seq_of(&state) == received
        {
            self.city.checker().compare_state(&self.account.user_id, &state);
        }
    }

    /// Sends the frames that wait and the commands that are due.
    async fn send_due(&mut self, now: Instant) {
        let Some(socket) = &mut self.socket else { return };
        let faults = &self.city.config.faults;
        let mut frames: Vec<String> = self.unsent_frames.drain(..).collect();
        let mut cut = false;
        {
            let mut statistics = self.city.statistics();
            for pending in self.commands.due(now) {
                pending.attempts += 1;
                pending.first_sent_at.get_or_insert(now);
                pending.send_at = now + ANSWER_TIMEOUT;
                let frame = frame::command(Some(&pending.command.id), pending.command.kind, &pending.command.data);
                if pending.attempts > 1 {
                    statistics.increment(Counter::CommandsRetried);
                } else {
                    if self.rng.random_bool(faults.repeat) {
                        statistics.increment(Counter::CommandsRepeated);
                        frames.push(frame.clone());
                    }
                    cut |= self.rng.random_bool(faults.cut);
                }
                frames.push(frame);
            }
        }
        let sent = frames.len();
        for frame in frames {
            if let Err(error) = socket.send(frame).await {
                tracing::debug!(user_id = %self.account.user_id, %error, "connection lost while sending");
                return self.disconnect(RECONNECT_PAUSE);
            }
        }
        if sent > 0 && self.roll_reinstall() {
            self.reinstall();
        } else if cut {
            self.cut();
        }
    }

    fn on_incoming(&mut self, incoming: SocketInput) -> Option<Input> {
        let frame = match incoming {
            SocketInput::Text(frame) => frame,
            SocketInput::Control => return None,
            SocketInput::Closed(reason) => {
                self.city.statistics().refusal("socket closed", &reason);
                self.disconnect(RECONNECT_PAUSE);
                return None;
            }
        };
        match frame::parse(&frame) {
            Ok(Frame::Event(event)) => self.on_event(event),
            Ok(Frame::Live(live)) => {
                self.on_live(&live);
                None
            }
            Ok(Frame::Ack { id, data }) => self.on_ack(&id, data),
            Ok(Frame::Error { id: Some(id), code, message }) => self.on_error(&id, code, &message),
            Ok(Frame::Error { id: None, code, .. }) => {
                self.city.statistics().refusal("frame without id", &code);
                None
            }
            Ok(Frame::Welcome { .. }) => {
                self.violation("welcomed twice on a connection");
                None
            }
            Err(problem) => {
                self.violation(&format!("a bad frame, {problem}"));
                None
            }
        }
    }

    fn on_event(&mut self, event: Event) -> Option<Input> {
        let cut = self.rng.random_bool(self.city.config.faults.cut);
        if cut && self.rng.random_bool(0.5) {
            // As if the event had been lost on the way: after the resume it must come again.
            self.cut();
            return None;
        }
        let (delivery, problem) = self.mailbox.receive(&event);
        {
            let mut statistics = self.city.statistics();
            statistics.increment(Counter::EventsReceived);
            if delivery == Delivery::Repeated {
                statistics.increment(Counter::EventsRepeated);
            }
        }
        if let Some(problem) = problem {
            self.violation(&problem);
        }
        if delivery == Delivery::Repeated {
            return None;
        }
        let accept_to_pickup = self.city.checker().receive(&self.account.user_id, &event, clock::now());
        if let Some(latency) = accept_to_pickup {
            self.city.statistics().latency("match.accept → ride.pickup", latency);
        }
        self.observe(|user_id| Observation::Event {
            user_id,
            seq: event.seq,
            event_id: event.event_id.clone(),
            kind: event.kind.clone(),
            data: event.data.clone(),
        });
        self.events += 1;
        if self.events.is_multiple_of(EVENTS_AN_ACK) {
            let seq = self.mailbox.last_seq();
            self.send("mailbox.ack", json!({"seq": seq}));
        }
        self.compare_state();
        if self.roll_reinstall() {
            self.reinstall();
            return None;
        }
        if cut {
            self.cut();
        }
        if event.seq <= self.screen_seq {
            return None;
        }
        Some(Input::Event(event))
    }

    fn on_live(&mut self, live: &LivePosition) {
        let latency = self.city.checker().live_position(&self.account.user_id, live, clock::now());
        let mut statistics = self.city.statistics();
        statistics.increment(Counter::LivePositions);
        if let Some(latency) = latency {
            statistics.latency("location.update → location.live", latency);
        }
    }

    fn on_ack(&mut self, id: &str, data: Value) -> Option<Input> {
        let Some(acked) = self.commands.ack(id, &data) else {
            if let Some(problem) = self.commands.repeated_ack_problem(id, &data) {
                self.violation(&problem);
            }
            return None;
        };
        let command = acked.command;
        if let (1, Some(sent_at)) = (acked.attempts, acked.first_sent_at) {
            let latency = clock::now().duration_since(sent_at);
            self.city.statistics().latency(latency_name(command.kind), latency);
        }
        self.observe(|user_id| Observation::Acked {
            user_id,
            kind: command.kind,
            command_data: command.data.clone(),
            ack_data: data.clone(),
        });
        Some(Input::Acked { command, data })
    }

    fn on_error(&mut self, id: &str, code: String, message: &str) -> Option<Input> {
        let Some(pending) = self.commands.pending_mut(id) else {
            if let Some(problem) = self.commands.repeated_refusal_problem(id, &code, message) {
                self.violation(&problem);
            }
            return None;
        };
        let kind = pending.command.kind;
        self.city.statistics().refusal(kind, &code);
        if code == "unavailable" {
            let max_ms = (200_u64 << pending.attempts.min(5)).min(5_000);
            pending.send_at = clock::now() + Duration::from_millis(self.rng.random_range(max_ms / 2..=max_ms));
            return None;
        }
        tracing::debug!(user_id = %self.account.user_id, kind, code, message, "refused");
        let command = self.commands.refuse(id)?.command;
        Some(Input::Refused { command, code })
    }

    fn violation(&self, text: &str) {
        self.city.checker().violation(format!("{}: {text}", self.user_id()));
    }

    fn observe(&self, observation: impl FnOnce(String) -> Observation) {
        if let Some(observer) = &self.city.config.observer {
            // The observer may have stopped listening before the run is over.
            let _ = observer.send(observation(self.account.user_id.clone()));
        }
    }
}

/// The `seq` of a state.
fn seq_of(state: &Value) -> u64 {
    state.get("seq").and_then(Value::as_u64).unwrap_or(0)
}

fn latency_name(command: &str) -> &'static str {
    match command {
        "beacon.update" => "beacon.update → ack",
        "finder.update" => "finder.update → ack",
        "location.update" => "location.update → ack",
        "match.accept" => "match.accept → ack",
        "match.reject" => "match.reject → ack",
        "ride.start" => "ride.start → ack",
        "ride.arrive" => "ride.arrive → ack",
        "ride.cancel" => "ride.cancel → ack",
        "mailbox.ack" => "mailbox.ack → ack",
        _ => "other → ack",
    }
}
