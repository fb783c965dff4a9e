//! A server in memory: all streams, the core subscriptions, the subjects that JetStream itself reads, and the checks of a
//! configuration. Synchronous: the time is an argument, and an alarm says when something is next due.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::alarm::Alarm;
use super::consumer::{Assignment, Consumer, GivenUp};
use super::core::Core;
use super::stream::{AckKind, AckResult, NotStored, Stream};
use crate::bus::message::{BusError, CoreMessage, Headers, Message, Published, StoredMessage};
use crate::topology::{self, Mode, Retention, Topology, subject_matches};

/// The most bytes of one message, headers included; the server's default.
const MAX_PAYLOAD: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Server {
    pub(super) streams: BTreeMap<String, Stream>,
    pub(super) core: Core,
    pub(super) alarm: Alarm,
    origin: Instant,
    /// The wall time at `origin`.
    started_at: DateTime<Utc>,
    /// Messages that a stream may hold.
    queue_size: usize,
    incarnations: u64,
    advisories: u64,
}

/// Whether a core message reached anybody: a subscription, a stream, or JetStream itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendResult {
    Received,
    NoResponders,
}

impl Server {
    pub(super) fn new(started_at: DateTime<Utc>, queue_size: usize) -> Self {
        Self {
            streams: BTreeMap::new(),
            core: Core::default(),
            alarm: Alarm::default(),
            origin: Instant::now(),
            started_at,
            queue_size,
            incarnations: 0,
            advisories: 0,
        }
    }

    pub(super) fn wall_time(&self, now: Instant) -> DateTime<Utc> {
        self.started_at + now.duration_since(self.origin)
    }

    /// Does everything that is due by `now`.
    pub(super) fn advance(&mut self, now: Instant) {
        // A loop, because an advisory of a given-up message may be stored by a stream, which may make something else due.
        while self.alarm.is_due(now) {
            let mut given_up = Vec::new();
            for stream in self.streams.values_mut() {
                let name = &stream.name.clone();
                given_up.extend(stream.expire(now).into_iter().map(|(consumer, g)| (name.clone(), consumer, g)));
            }
            self.alarm.set(self.streams.values().filter_map(Stream::next_due).min());
            for (stream, consumer, given_up) in given_up {
                self.send_advisory(&stream, &consumer, &given_up, now);
            }
        }
    }

    /// Sends the server's max-deliveries advisory.
    fn send_advisory(&mut self, stream: &str, consumer: &str, given_up: &GivenUp, now: Instant) {
        self.advisories += 1;
        let body = json!({
            "type": "io.nats.jetstream.advisory.v1.max_deliver",
            "id": format!("memory-{}", self.advisories),
            "timestamp": self.wall_time(now).to_rfc3339_opts(SecondsFormat::Nanos, true),
            "stream": stream,
            "consumer": consumer,
            "stream_seq": given_up.sequence,
            "deliveries": given_up.deliveries,
        });
        let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.{consumer}");
        self.send(&subject, Bytes::from(body.to_string()), None, now);
    }

    /// Publishes to the stream that captures the subject, and to the subscribers of that subject.
    pub(super) fn publish(&mut self, message: &Message, now: Instant) -> Result<Published, NotStored> {
        if let Err(problem) = check_message(message) {
            return Err(NotStored::Error(BusError::Refused(problem)));
        }
        let subject = &message.subject;
        let stored_at = self.wall_time(now);
        let outcome = match self.streams.values_mut().find(|s| s.captures(subject)) {
            Some(stream) => stream.store(message, self.queue_size, now, stored_at, &mut self.alarm),
            None => Err(NotStored::Error(BusError::NotFound(format!("no stream captures {subject}")))),
        };
        if !matches!(outcome, Err(NotStored::NoRoom)) {
            self.send_copy(message);
        }
        outcome
    }

    /// Sends a message that was published to a stream to the subscribers of its subject, without the publisher's inbox.
    pub(super) fn send_copy(&mut self, message: &Message) {
        let Message { subject, headers, payload } = message.clone();
        self.core.send(&CoreMessage { subject, headers, payload, reply: None });
    }

    /// Sends a core message. An acknowledgement of a delivery goes to JetStream. Anything else goes to the stream that captures
    /// the subject, which replies with its acknowledgement, and to the subscribers.
    pub(super) fn send(&mut self, subject: &str, payload: Bytes, reply: Option<&str>, now: Instant) -> SendResult {
        if subject.starts_with("$JS.ACK.") {
            return self.acknowledge_by_subject(subject, &payload, reply, now);
        }
        let mut result = SendResult::NoResponders;
        if self.streams.values().any(|s| s.captures(subject)) {
            let message =
                Message { subject: subject.to_owned(), headers: Headers::default(), payload: payload.clone() };
            let stored_at = self.wall_time(now);
            let stream = self.streams.values_mut().find(|s| s.captures(subject));
            let stored = stream.map(|s| s.store(&message, self.queue_size, now, stored_at, &mut self.alarm));
            if let (Some(Ok(published)), Some(reply)) = (stored, reply) {
                let body = json!({"stream": published.stream, "seq": published.sequence}).to_string();
                self.deliver(reply, body.into(), None);
            }
            result = SendResult::Received;
        }
        if self.deliver(subject, payload, reply) == SendResult::Received { SendResult::Received } else { result }
    }

    fn deliver(&mut self, subject: &str, payload: Bytes, reply: Option<&str>) -> SendResult {
        let (subject, reply) = (subject.to_owned(), reply.map(str::to_owned));
        match self.core.send(&CoreMessage { subject, headers: Headers::default(), payload, reply }) {
            0 => SendResult::NoResponders,
            _ => SendResult::Received,
        }
    }

    /// `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<timestamp>.<pending>`. The server reads only the
    /// sequences, so the acknowledgement of an older delivery, or of a message that it gave up, counts as well.
    fn acknowledge_by_subject(
        &mut self,
        subject: &str,
        payload: &[u8],
        reply: Option<&str>,
        now: Instant,
    ) -> SendResult {
        let tokens: Vec<&str> = subject.split('.').collect();
        let [_, _, stream, consumer, _, sequence, consumer_sequence, _, _] = tokens[..] else {
            return SendResult::NoResponders;
        };
        let (Ok(sequence), Ok(consumer_sequence)) = (sequence.parse(), consumer_sequence.parse()) else {
            return SendResult::NoResponders;
        };
        let kind = match payload {
            b"" | b"+ACK" | b"+TERM" => AckKind::Done,
            b"+WPI" => AckKind::InProgress,
            _ if payload.starts_with(b"+TERM ") => AckKind::Done,
            _ => match payload.strip_prefix(b"-NAK") {
                Some(options) => AckKind::Retry(
                    serde_json::from_slice::<Value>(options)
                        .ok()
                        .and_then(|v| v["delay"].as_u64())
                        .map_or(std::time::Duration::ZERO, std::time::Duration::from_nanos),
                ),
                None => return SendResult::NoResponders,
            },
        };
        match self.acknowledge(stream, consumer, sequence, consumer_sequence, kind, now) {
            None => SendResult::NoResponders,
            Some(AckResult::Recorded) => {
                if let Some(reply) = reply.filter(|_| kind == AckKind::Done) {
                    self.deliver(reply, Bytes::new(), None);
                }
                SendResult::Received
            }
            Some(AckResult::Ignored) => SendResult::Received,
        }
    }

    /// Acts on an acknowledgement of a delivery; `None` if the consumer is gone.
    pub(super) fn acknowledge(
        &mut self,
        stream: &str,
        consumer: &str,
        sequence: u64,
        consumer_sequence: u64,
        kind: AckKind,
        now: Instant,
    ) -> Option<AckResult> {
        let found = self.streams.get_mut(stream)?;
        found.acknowledge(consumer, sequence, consumer_sequence, kind, now, &mut self.alarm)
    }

    pub(super) fn stream(&self, name: &str) -> Result<&Stream, BusError> {
        self.streams.get(name).ok_or_else(|| BusError::NotFound(format!("stream {name}")))
    }

    pub(super) fn stream_mut(&mut self, name: &str) -> Result<&mut Stream, BusError> {
        self.streams.get_mut(name).ok_or_else(|| BusError::NotFound(format!("stream {name}")))
    }

    pub(super) fn consumer(&self, stream: &str, durable: &str) -> Result<&Consumer, BusError> {
        let found = self.stream(stream)?.consumers.get(durable);
        found.ok_or_else(|| BusError::NotFound(format!("consumer {durable} on {stream}")))
    }

    /// Delivers up to `max` messages of a consumer.
    pub(super) fn assign(
        &mut self,
        stream: &str,
        durable: &str,
        max: usize,
        now: Instant,
    ) -> Result<Vec<(Assignment, StoredMessage)>, BusError> {
        self.consumer(stream, durable)?;
        let Some(found) = self.streams.get_mut(stream) else { return Ok(Vec::new()) };
        let last = found.last();
        let Some(consumer) = found.consumers.get_mut(durable) else { return Ok(Vec::new()) };
        let (assigned, given_up) = consumer.assign(max, last, now, &mut self.alarm);
        let assigned =
            assigned.into_iter().filter_map(|a| found.message(a.sequence).cloned().map(|m| (a, m))).collect();
        for given_up in given_up {
            self.send_advisory(stream, durable, &given_up, now);
        }
        Ok(assigned)
    }

    /// Creates or updates the streams and consumers of `topology`, and returns a sentence for each difference.
    pub(super) fn reconcile(&mut self, topology: &Topology, mode: Mode, now: Instant) -> Result<Vec<String>, BusError> {
        let mut changes = Vec::new();
        for wanted in &topology.streams {
            let what = format!("stream {}", wanted.name);
            let found = self.streams.get(&wanted.name);
            let json = found.map(|s| s.config.to_json(1));
            if let Some(config) = topology::difference(&what, json, &wanted.to_json(1), &mut changes)
                && mode == Mode::Apply
            {
                // A limit that is kept is in `config` only.
                let nanos = |key: &str| config[key].as_u64().map(std::time::Duration::from_nanos);
                let wanted = &topology::Stream {
                    max_bytes: config["max_bytes"].as_i64().unwrap_or(wanted.max_bytes),
                    max_age: nanos("max_age").unwrap_or(wanted.max_age),
                    duplicate_window: nanos("duplicate_window").unwrap_or(wanted.duplicate_window),
                    ..wanted.clone()
                };
                self.check_stream(wanted).map_err(|e| BusError::Refused(format!("{what}: {e}")))?;
                match self.streams.get_mut(&wanted.name) {
                    Some(stream) => stream.update(wanted.clone(), now, &mut self.alarm),
                    None => {
                        self.incarnations += 1;
                        self.streams.insert(wanted.name.clone(), Stream::new(wanted.clone(), self.incarnations, now));
                    }
                }
            }
        }
        for wanted in &topology.consumers {
            let what = format!("consumer {} on {}", wanted.durable, wanted.stream);
            let found = self.streams.get(&wanted.stream).and_then(|s| s.consumers.get(&wanted.durable));
            let json = found.map(|c| c.config.to_json());
            if let Some(config) = topology::difference(&what, json, &wanted.to_json(), &mut changes)
                && mode == Mode::Apply
            {
                let mut wanted = wanted.clone();
                wanted.max_ack_pending = config["max_ack_pending"].as_i64().unwrap_or(wanted.max_ack_pending);
                // A setting that the topology does not name stays as it is.
                if let Some(found) = found.filter(|_| wanted.backoff.is_empty()) {
                    wanted.backoff.clone_from(&found.config.backoff);
                }
                self.stream(&wanted.stream)?;
                self.check_consumer(&wanted).map_err(|e| BusError::Refused(format!("{what}: {e}")))?;
                if let Some(stream) = self.streams.get_mut(&wanted.stream) {
                    stream.put_consumer(wanted, now, &mut self.alarm);
                }
            }
        }
        Ok(changes)
    }

    /// Why the server refuses the configuration, in its words.
    fn check_stream(&self, wanted: &topology::Stream) -> Result<(), String> {
        check_name(&wanted.name)?;
        for (index, subject) in wanted.subjects.iter().enumerate() {
            if !is_subject(subject) {
                return Err("invalid subject".to_owned());
            }
            if subjects_overlap(subject, "$JS.API.>") {
                return Err("subjects that overlap with jetstream api require no-ack to be true".to_owned());
            }
            if let Some(other) = wanted.subjects[..index].iter().find(|other| subjects_overlap(other, subject)) {
                return Err(format!("subject \"{other}\" overlaps with \"{subject}\""));
            }
            let others = self.streams.values().filter(|s| s.config.name != wanted.name);
            if others.flat_map(|s| &s.config.subjects).any(|other| subjects_overlap(other, subject)) {
                return Err("subjects overlap with an existing stream".to_owned());
            }
        }
        let least = std::time::Duration::from_millis(100);
        if !wanted.max_age.is_zero() && wanted.max_age < least {
            return Err("max age needs to be >= 100ms".to_owned());
        }
        if !wanted.max_age.is_zero() && wanted.duplicate_window > wanted.max_age {
            return Err("duplicates window can not be larger then max age".to_owned());
        }
        if !wanted.duplicate_window.is_zero() && wanted.duplicate_window < least {
            return Err("duplicates window needs to be >= 100ms".to_owned());
        }
        if let Some(found) = self.streams.get(&wanted.name) {
            if found.config.storage != wanted.storage {
                return Err("stream configuration update can not change storage type".to_owned());
            }
            let (was, becomes) = (found.config.retention, wanted.retention);
            if was != becomes && (was == Retention::WorkQueue || becomes == Retention::WorkQueue) {
                let what = "stream configuration update can not change retention policy to/from workqueue";
                return Err(what.to_owned());
            }
        }
        Ok(())
    }

    fn check_consumer(&self, wanted: &topology::Consumer) -> Result<(), String> {
        check_name(&wanted.durable)?;
        if !wanted.filter.is_empty() && !is_subject(&wanted.filter) {
            return Err("consumer filter subject is not valid".to_owned());
        }
        if wanted.max_deliver > 0 && wanted.backoff.len() > wanted.max_deliver.unsigned_abs() as usize {
            return Err("max deliver is required to be > length of backoff values".to_owned());
        }
        let Some(stream) = self.streams.get(&wanted.stream) else { return Ok(()) };
        if stream.config.retention == Retention::WorkQueue {
            let mut others = stream.consumers.values().filter(|c| c.config.durable != wanted.durable);
            // (The server does not check an update that removes the filter.)
            if wanted.filter.is_empty() && stream.consumers.contains_key(&wanted.durable) {
                return Ok(());
            }
            if wanted.filter.is_empty() && others.next().is_some() {
                return Err("multiple non-filtered consumers not allowed on workqueue stream".to_owned());
            }
            let overlaps =
                |c: &Consumer| c.config.filter.is_empty() || subjects_overlap(&c.config.filter, &wanted.filter);
            if others.any(overlaps) {
                return Err("filtered consumer not unique on workqueue stream".to_owned());
            }
        }
        Ok(())
    }

    pub(super) fn delete_stream(&mut self, name: &str) -> Result<(), BusError> {
        let stream = self.streams.remove(name).ok_or_else(|| BusError::NotFound(format!("stream {name}")))?;
        stream.close();
        Ok(())
    }

    pub(super) fn delete_consumer(&mut self, stream: &str, durable: &str) -> Result<(), BusError> {
        if self.stream_mut(stream)?.delete_consumer(durable) {
            Ok(())
        } else {
            Err(BusError::NotFound(format!("consumer {durable} on {stream}")))
        }
    }

    pub(super) fn recreate_consumer(
        &mut self,
        consumer: &topology::Consumer,
        from: DateTime<Utc>,
        now: Instant,
    ) -> Result<(), BusError> {
        let stream = self.stream_mut(&consumer.stream)?;
        stream.delete_consumer(&consumer.durable);
        stream.add_consumer(consumer.clone(), stream.sequence_at(from), now);
        Ok(())
    }

    /// The names of a stream and of its consumer, to be shared by deliveries.
    pub(super) fn names(&self, stream: &str, durable: &str) -> Result<(Arc<str>, Arc<str>), BusError> {
        Ok((self.stream(stream)?.name.clone(), self.consumer(stream, durable)?.name.clone()))
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let bad = |c: char| c.is_whitespace() || matches!(c, '.' | '*' | '>' | '/' | '\\');
    if name.is_empty() || name.contains(bad) { Err(format!("`{name}` is no valid name")) } else { Ok(()) }
}

fn check_message(message: &Message) -> Result<(), String> {
    let Message { subject, payload, .. } = message;
    if !is_subject(subject) || subject.split('.').any(|t| t == "*" || t == ">") {
        return Err(format!("`{subject}` is no subject that can be published to"));
    }
    let bytes = payload.len() + message.headers.wire_bytes();
    if bytes > MAX_PAYLOAD {
        return Err(format!("{subject}: {bytes} bytes are more than the {MAX_PAYLOAD} of a message"));
    }
    Ok(())
}

/// Whether it is a subject, wildcards allowed: no token is empty or has white space, and `>` is only at the end.
fn is_subject(subject: &str) -> bool {
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        if token.is_empty() || token.contains(char::is_whitespace) || (token == ">" && tokens.peek().is_some()) {
            return false;
        }
    }
    true
}

/// Whether some subject matches both patterns.
fn subjects_overlap(a: &str, b: &str) -> bool {
    if subject_matches(a, b) || subject_matches(b, a) {
        return true;
    }
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(x), Some(y)) if x == y || x == "*" || y == "*" => {}
            _ => return false,
        }
    }
}
