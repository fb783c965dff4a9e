//! One person's WebSocket: commands with their answers and repeats, events, lost connections and resumes. It owns the
//! socket and the last `seq`; it decides nothing about rides.

mod socket;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use self::socket::{Read, Socket};
use crate::account::Account;
use crate::checker::{Mailbox, Verdict};
use crate::city::City;
use crate::clock;
use crate::frame::{self, Event, Frame, text};
use crate::observation::Observation;
use crate::statistics::Count;

/// A command without an answer is sent again after this.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// A command that was not answered after this is given up, which is a violation.
const GIVE_UP: Duration = Duration::from_secs(120);
/// So many answers are remembered, to compare the answers to repeats.
const REMEMBERED: usize = 256;
/// So many frames without an id may wait for a connection.
const WAITING_FRAMES: usize = 64;
/// The mailbox is acked after so many events.
const EVENTS_AN_ACK: u64 = 25;

/// Something that was asked of the platform.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    pub(crate) data: Value,
}

/// What a person has to react to.
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
    /// Never answered.
    Lost {
        command: Command,
    },
    /// The time that the person wanted to wait for.
    Time,
}

#[derive(Debug)]
struct Pending {
    command: Command,
    made: Instant,
    sent: Option<Instant>,
    attempts: u32,
    due: Instant,
}

/// A person's end of the wire.
#[derive(Debug)]
pub(crate) struct Client {
    city: Arc<City>,
    account: Arc<Account>,
    rng: StdRng,
    socket: Option<Socket>,
    connected_since: Option<Instant>,
    connects: u64,
    failures: u32,
    retry_at: Instant,
    next_url: usize,
    mailbox: Mailbox,
    events: u64,
    id_prefix: String,
    next_id: u64,
    pending: Vec<Pending>,
    answered: VecDeque<(String, Option<String>)>,
    frames: VecDeque<String>,
}

impl Client {
    pub(crate) fn new(city: Arc<City>, account: Arc<Account>, index: usize) -> Self {
        let seed = city.config.seed.wrapping_add(index as u64).wrapping_mul(3).wrapping_add(1);
        Self {
            id_prefix: format!("{:x}-{index}", city.run_id),
            city,
            account,
            rng: StdRng::seed_from_u64(seed),
            socket: None,
            connected_since: None,
            connects: 0,
            failures: 0,
            retry_at: clock::now(),
            next_url: index,
            mailbox: Mailbox::default(),
            events: 0,
            next_id: 0,
            pending: Vec::new(),
            answered: VecDeque::new(),
            frames: VecDeque::new(),
        }
    }

    pub(crate) fn user_id(&self) -> &str {
        &self.account.user_id
    }

    /// Since when there is a connection without a break.
    pub(crate) fn connected_since(&self) -> Option<Instant> {
        self.connected_since
    }

    /// How many connections there have been.
    pub(crate) fn connects(&self) -> u64 {
        self.connects
    }

    /// Asks for something; the answer comes as an [`Input`] with the id that is returned here.
    pub(crate) fn command(&mut self, kind: &'static str, data: Value) -> String {
        self.next_id += 1;
        let id = format!("{}-{}", self.id_prefix, self.next_id);
        let now = clock::now();
        let command = Command { id: id.clone(), kind, data };
        self.pending.push(Pending { command, made: now, sent: None, attempts: 0, due: now });
        id
    }

    /// Says something that is not answered. The oldest is forgotten if too much waits.
    pub(crate) fn say(&mut self, kind: &'static str, data: &Value) {
        if self.frames.len() >= WAITING_FRAMES {
            self.frames.pop_front();
        }
        self.frames.push_back(frame::command(None, kind, data));
    }

    /// Waits for what comes next, until `until` at the latest; keeps the connection and repeats commands meanwhile.
    pub(crate) async fn next(&mut self, until: Instant) -> Input {
        loop {
            let now = clock::now();
            if now >= until {
                return Input::Time;
            }
            if let Some(place) =
                self.pending.iter().position(|p| now.duration_since(p.made) >= GIVE_UP + self.city.config.outage)
            {
                let command = self.pending.remove(place).command;
                let text = format!("{}: {} {} was never answered", self.user_id(), command.kind, command.data);
                self.city.checks().violation(text);
                return Input::Lost { command };
            }
            if self.socket.is_none() && now >= self.retry_at {
                Box::pin(self.connect()).await;
                continue;
            }
            self.send_due(now).await;
            let Some(socket) = &mut self.socket else {
                sleep_until(until.min(self.retry_at)).await;
                continue;
            };
            let sendable = self.pending.iter().enumerate().filter(|(n, _)| !is_held_back(&self.pending, *n));
            let due = sendable.map(|(_, pending)| pending.due).min();
            let wake = due.unwrap_or(until).min(until);
            let read = tokio::select! {
                biased;
                read = socket.read() => read,
                () = sleep_until(wake) => continue,
            };
            if let Some(input) = self.received(read) {
                return input;
            }
        }
    }

    /// Closes the connection as the protocol has it.
    pub(crate) async fn close(mut self) {
        self.city.checks().presence(&self.account.user_id, None);
        if let Some(socket) = self.socket.take() {
            socket.close().await;
        }
    }

    /// Loses the connection without a close frame.
    pub(crate) fn cut(&mut self) {
        if self.socket.is_some() {
            self.city.tally().add(Count::Cuts);
            let pause = Duration::from_millis(self.rng.random_range(0..1_500));
            self.disconnected(pause);
        }
    }

    fn disconnected(&mut self, pause: Duration) {
        self.socket = None;
        self.connected_since = None;
        self.next_url += 1;
        self.retry_at = clock::now() + pause;
        self.city.checks().presence(&self.account.user_id, None);
    }

    async fn connect(&mut self) {
        let http = &self.city.https[self.next_url % self.city.https.len()];
        match Socket::open(http, &self.account, self.mailbox.last_seq()).await {
            Ok((socket, user_id, newest)) => {
                let now = clock::now();
                self.socket = Some(socket);
                self.failures = 0;
                self.connects += 1;
                self.connected_since = Some(now);
                self.mailbox.welcomed(newest);
                self.pending.iter_mut().for_each(|pending| pending.due = now);
                self.city.tally().add(if self.connects == 1 { Count::Connects } else { Count::Reconnects });
                let mut checks = self.city.checks();
                checks.presence(&self.account.user_id, Some(now));
                if user_id != self.account.user_id {
                    checks.violation(format!("{} was welcomed as {user_id}", self.account.user_id));
                }
            }
            Err(error) => {
                tracing::debug!(user_id = %self.account.user_id, error = format!("{error:#}"), "no connection");
                self.failures += 1;
                let most_ms = (100_u64 << self.failures.min(6)).min(5_000);
                let pause = Duration::from_millis(self.rng.random_range(most_ms / 2..=most_ms));
                self.disconnected(pause);
            }
        }
    }

    /// Sends what waits and what is due.
    async fn send_due(&mut self, now: Instant) {
        let due: Vec<usize> = (0..self.pending.len())
            .filter(|n| self.pending[*n].due <= now && !is_held_back(&self.pending, *n))
            .collect();
        let Some(socket) = &mut self.socket else { return };
        let mut texts: Vec<String> = self.frames.drain(..).collect();
        let mut cut = false;
        {
            let mut tally = self.city.tally();
            for n in due {
                let pending = &mut self.pending[n];
                pending.attempts += 1;
                pending.sent.get_or_insert(now);
                pending.due = now + ANSWER_LIMIT;
                let frame = frame::command(Some(&pending.command.id), pending.command.kind, &pending.command.data);
                if pending.attempts > 1 {
                    tally.add(Count::Retries);
                } else {
                    if self.rng.random_bool(self.city.config.faults.repeat) {
                        tally.add(Count::RepeatsSent);
                        texts.push(frame.clone());
                    }
                    cut |= self.rng.random_bool(self.city.config.faults.cut);
                }
                texts.push(frame);
            }
        }
        for text in texts {
            if let Err(error) = socket.send(text).await {
                tracing::debug!(user_id = %self.account.user_id, %error, "connection lost while sending");
                return self.disconnected(Duration::from_millis(100));
            }
        }
        if cut {
            self.cut();
        }
    }

    fn received(&mut self, read: Read) -> Option<Input> {
        let frame = match read {
            Read::Text(frame) => frame,
            Read::Nothing => return None,
            Read::Closed(reason) => {
                self.city.tally().refused("socket closed", &reason);
                self.disconnected(Duration::from_millis(100));
                return None;
            }
        };
        match frame::parse(&frame) {
            Ok(Frame::Event(event)) => self.event(event),
            Ok(Frame::Ack { id, data }) => self.acked(&id, data),
            Ok(Frame::Error { id: Some(id), code, message }) => self.refused(&id, code, &message),
            Ok(Frame::Error { id: None, code, .. }) => {
                self.city.tally().refused("frame without id", &code);
                None
            }
            Ok(Frame::Welcome { .. }) => {
                self.city.checks().violation(format!("{}: welcomed twice on a connection", self.user_id()));
                None
            }
            Err(problem) => {
                self.city.checks().violation(format!("{}: a bad frame, {problem}", self.user_id()));
                None
            }
        }
    }

    fn event(&mut self, event: Event) -> Option<Input> {
        let cut = self.rng.random_bool(self.city.config.faults.cut);
        if cut && self.rng.random_bool(0.5) {
            // Lost between the socket and the person: it must come again after the resume.
            self.cut();
            return None;
        }
        let now = clock::now();
        let (verdict, problem) = self.mailbox.event(&event);
        {
            let mut tally = self.city.tally();
            tally.add(Count::Events);
            if verdict == Verdict::Repeat {
                tally.add(Count::RepeatedEvents);
            }
        }
        let mut checks = self.city.checks();
        if let Some(problem) = problem {
            checks.violation(format!("{}: {problem}", self.account.user_id));
        }
        if verdict == Verdict::Repeat {
            return None;
        }
        let seen = checks.event(&self.account.user_id, &event, now);
        drop(checks);
        if let Some(since_accept) = seen.since_accept {
            self.city.tally().took("match.accept → ride.pickup", since_accept);
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
            self.command("mailbox.ack", json!({"seq": seq}));
        }
        if cut {
            self.cut();
        }
        Some(Input::Event(event))
    }

    fn acked(&mut self, id: &str, data: Value) -> Option<Input> {
        let key = key(&data);
        if let Some(place) = self.pending.iter().position(|pending| pending.command.id == id) {
            let Pending { command, sent, attempts, .. } = self.pending.remove(place);
            if let (1, Some(sent)) = (attempts, sent) {
                self.city.tally().took(latency(command.kind), clock::now().duration_since(sent));
            }
            self.remember(id, Some(key));
            self.observe(|user_id| Observation::Acked {
                user_id,
                kind: command.kind,
                command_data: command.data.clone(),
                ack_data: data.clone(),
            });
            return Some(Input::Acked { command, data });
        }
        match self.answered.iter().find(|(known, _)| known == id) {
            // The end of a search that is over already names none.
            Some((_, Some(before))) if *before != key && key != NOTHING => {
                let text = format!("{}: repeat {id} was acked with {key}, before with {before}", self.user_id());
                self.city.checks().violation(text);
            }
            Some(_) => {}
            None => self.unasked(id),
        }
        None
    }

    fn refused(&mut self, id: &str, code: String, message: &str) -> Option<Input> {
        if let Some(place) = self.pending.iter().position(|pending| pending.command.id == id) {
            self.city.tally().refused(self.pending[place].command.kind, &code);
            if code == "unavailable" {
                let pending = &mut self.pending[place];
                let most_ms = (200_u64 << pending.attempts.min(5)).min(5_000);
                pending.due = clock::now() + Duration::from_millis(self.rng.random_range(most_ms / 2..=most_ms));
                return None;
            }
            let command = self.pending.remove(place).command;
            tracing::debug!(user_id = %self.account.user_id, kind = command.kind, code, message, "refused");
            self.remember(id, None);
            return Some(Input::Refused { command, code });
        }
        match self.answered.iter().find(|(known, _)| known == id) {
            Some((_, Some(_))) if code != "unavailable" => {
                let text = format!("{}: repeat {id} of an acked command was refused: {code} {message}", self.user_id());
                self.city.checks().violation(text);
            }
            Some(_) => {}
            None => self.unasked(id),
        }
        None
    }

    fn observe(&self, observation: impl FnOnce(String) -> Observation) {
        if let Some(observer) = &self.city.config.observer {
            // An observer that has gone needs nothing more.
            let _ = observer.send(observation(self.account.user_id.clone()));
        }
    }

    fn unasked(&self, id: &str) {
        // An answer may be older than what is remembered; an id of somebody else may not be seen at all.
        if !id.starts_with(&self.id_prefix) {
            self.city.checks().violation(format!("{}: an answer to {id}, which it never sent", self.user_id()));
        }
    }

    fn remember(&mut self, id: &str, key: Option<String>) {
        if self.answered.len() >= REMEMBERED {
            self.answered.pop_front();
        }
        self.answered.push_back((id.to_owned(), key));
    }
}

/// Whether the command at `place` must wait for the answer to another one. The platform tells a repeat by the search that is
/// open, so a search is not ended before its beginning is answered: both repeated, one after the other, would be another.
fn is_held_back(pending: &[Pending], place: usize) -> bool {
    let searches = |pending: &Pending| pending.command.kind == "finder.update";
    searches(&pending[place]) && pending[..place].iter().any(searches)
}

/// The [`key`] of an ack without ids.
const NOTHING: &str = "//";

/// The ids in an ack: what a repeat must be answered with again.
fn key(data: &Value) -> String {
    ["request_id", "match_id", "ride_id"].map(|field| text(data, field)).join("/")
}

fn latency(kind: &str) -> &'static str {
    match kind {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_waits_for_the_answer_to_the_search_before() {
        let now = clock::now();
        let pending = |kind| {
            let command = Command { id: String::new(), kind, data: Value::Null };
            Pending { command, made: now, sent: None, attempts: 0, due: now }
        };
        let all = ["mailbox.ack", "finder.update", "ride.cancel", "finder.update", "mailbox.ack"].map(pending);
        let held_back: Vec<usize> = (0..all.len()).filter(|place| is_held_back(&all, *place)).collect();
        assert_eq!(held_back, [3]);
    }
}
