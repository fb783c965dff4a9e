//! A stream: its messages, limits, retention, duplicate window and consumers. It takes the time as an argument and knows neither
//! subscriptions nor other streams.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::alarm::Alarm;
use super::consumer::{Consumer, GivenUp};
use crate::bus::message::{BusError, MESSAGE_ID, Message, Published, StoredMessage, StreamInfo};
use crate::topology::{self, Discard, Retention, Storage};

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) config: topology::Stream,
    pub(super) name: Arc<str>,
    /// Distinguishes this stream from a deleted one of the same name.
    pub(super) incarnation: u64,
    pub(super) created_at: Instant,
    pub(super) consumers: BTreeMap<String, Consumer>,
    /// Notifies replays: a message was stored, or the stream is gone.
    pub(super) stored: Arc<Notify>,
    /// Notifies waiting publishers: a message was removed, or the stream is gone.
    pub(super) room: Arc<Notify>,
    messages: BTreeMap<u64, Entry>,
    bytes: u64,
    last: u64,
    /// The sequence of each message id in the duplicate window.
    ids: HashMap<Arc<str>, u64>,
    /// The same ids, oldest first.
    ids_by_age: VecDeque<(Instant, Arc<str>)>,
}

#[derive(Debug)]
struct Entry {
    message: StoredMessage,
    stored_at: Instant,
    bytes: u64,
}

/// Why a message was not stored.
pub(super) enum NotStored {
    /// The stream has as many messages as it may; an acknowledgement may make room.
    NoRoom,
    /// Waiting would not help.
    Error(BusError),
}

/// What a process sends about a delivery.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum AckKind {
    /// Acknowledged or terminated: to the stream that is the same.
    Done,
    /// Redeliver after so long.
    Retry(Duration),
    InProgress,
}

/// What the server does with it.
pub(super) enum AckResult {
    Recorded,
    /// The consumer never delivered that message, so the server does not even reply.
    Ignored,
}

impl Stream {
    pub(super) fn new(config: topology::Stream, incarnation: u64, created_at: Instant) -> Self {
        Self {
            name: config.name.as_str().into(),
            config: with_defaults(config),
            incarnation,
            created_at,
            consumers: BTreeMap::new(),
            stored: Arc::default(),
            room: Arc::default(),
            messages: BTreeMap::new(),
            bytes: 0,
            last: 0,
            ids: HashMap::new(),
            ids_by_age: VecDeque::new(),
        }
    }

    pub(super) fn captures(&self, subject: &str) -> bool {
        self.config.subjects.iter().any(|s| s == subject || topology::subject_matches(s, subject))
    }

    /// Changes the configuration. JetStream must allow the change: the server checks that before.
    pub(super) fn update(&mut self, config: topology::Stream, now: Instant, alarm: &mut Alarm) {
        // By the old window: a longer one does not bring ids back.
        self.expire_ids(now);
        let retention = self.config.retention;
        self.config = with_defaults(config);
        if retention != self.config.retention && self.config.retention == Retention::Interest {
            self.remove_unneeded();
        }
        self.enforce_limits(u64::MAX);
        if let Some(due) = self.next_due() {
            alarm.at(due);
        }
        self.room.notify_waiters();
    }

    /// Stores a message, unless it is a duplicate, or no consumer of an interest stream matches its subject.
    pub(super) fn store(
        &mut self,
        message: &Message,
        queue_size: usize,
        now: Instant,
        stored_at: DateTime<Utc>,
        alarm: &mut Alarm,
    ) -> Result<Published, NotStored> {
        self.expire_ids(now);
        let published = |sequence, duplicate| Published { stream: self.config.name.clone(), sequence, duplicate };
        let id = message.headers.find(MESSAGE_ID).filter(|id| !id.is_empty());
        if let Some(&sequence) = id.and_then(|id| self.ids.get(id)) {
            return Ok(published(sequence, true));
        }
        let largest = topology::message_max(&self.config.name);
        if largest >= 0 && message.headers.wire_bytes() + message.payload.len() > largest.unsigned_abs() as usize {
            let text = format!("{}: message size exceeds maximum allowed", self.config.name);
            return Err(NotStored::Error(BusError::Refused(text)));
        }
        let bytes = size(self.config.storage, message);
        let has_interest = self.config.retention != Retention::Interest
            || self.consumers.values().any(|c| c.matches(&message.subject));
        if has_interest && self.config.discard == Discard::New {
            if self.config.max_bytes > 0 && self.bytes + bytes > self.config.max_bytes.unsigned_abs() {
                let text = format!("{}: maximum bytes exceeded", self.config.name);
                return Err(NotStored::Error(BusError::Full(text)));
            }
            if self.messages.len() >= queue_size {
                return Err(NotStored::NoRoom);
            }
        }
        let published = published(self.last + 1, false);
        self.last += 1;
        if let Some(id) = id {
            let id: Arc<str> = id.into();
            self.ids.insert(id.clone(), self.last);
            self.ids_by_age.push_back((now, id));
        }
        if !has_interest {
            return Ok(published);
        }
        let Message { subject, headers, payload } = message.clone();
        if self.messages.is_empty() && !self.config.max_age.is_zero() {
            alarm.at(now + self.config.max_age);
        }
        for consumer in self.consumers.values_mut().filter(|c| c.matches(&subject)) {
            consumer.on_stored(self.last);
        }
        let message = StoredMessage { subject, headers, payload, sequence: self.last, stored_at };
        self.messages.insert(self.last, Entry { message, stored_at: now, bytes });
        self.bytes += bytes;
        self.enforce_limits(queue_size as u64);
        self.stored.notify_waiters();
        Ok(published)
    }

    /// Empties the duplicate window, as a restart does: the server rebuilds it from the stored messages. Only a limits stream
    /// still has them all.
    pub(super) fn forget_message_ids(&mut self) {
        if self.config.retention != Retention::Limits {
            self.ids.clear();
            self.ids_by_age.clear();
        }
    }

    /// Removes the ids that have left the duplicate window.
    fn expire_ids(&mut self, now: Instant) {
        while let Some((at, oldest)) = self.ids_by_age.front()
            && now.duration_since(*at) >= self.config.duplicate_window
        {
            self.ids.remove(oldest);
            self.ids_by_age.pop_front();
        }
    }

    /// Removes the oldest messages beyond the limits, if the stream discards the old.
    fn enforce_limits(&mut self, queue_size: u64) {
        let max_bytes = if self.config.max_bytes > 0 { self.config.max_bytes.unsigned_abs() } else { u64::MAX };
        while self.config.discard == Discard::Old
            && (self.bytes > max_bytes || self.messages.len() as u64 > queue_size)
            && let Some((&oldest, _)) = self.messages.first_key_value()
        {
            self.delete_message(oldest);
        }
    }

    /// Removes a message, for every consumer.
    pub(super) fn delete_message(&mut self, sequence: u64) {
        self.remove(sequence);
        for consumer in self.consumers.values_mut() {
            consumer.on_deleted(sequence);
        }
    }

    fn remove(&mut self, sequence: u64) {
        if let Some(entry) = self.messages.remove(&sequence) {
            self.bytes -= entry.bytes;
            self.room.notify_waiters();
        }
    }

    /// Removes messages beyond the maximum age and ends ack waits that are over. Returns the messages given up thereby, each
    /// with its consumer.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(Arc<str>, GivenUp)> {
        while !self.config.max_age.is_zero()
            && let Some((&oldest, entry)) = self.messages.first_key_value()
            && now.duration_since(entry.stored_at) >= self.config.max_age
        {
            self.delete_message(oldest);
        }
        let mut given_up = Vec::new();
        for consumer in self.consumers.values_mut() {
            let name = &consumer.name.clone();
            given_up.extend(consumer.expire(now).into_iter().map(|g| (name.clone(), g)));
        }
        given_up
    }

    /// When [`expire`](Self::expire) next has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let oldest = self.messages.first_key_value().filter(|_| !self.config.max_age.is_zero());
        let age = oldest.map(|(_, entry)| entry.stored_at + self.config.max_age);
        self.consumers.values().filter_map(Consumer::next_due).chain(age).min()
    }

    /// Acts on an acknowledgement of a delivery of `consumer`; `None` if there is no such consumer.
    pub(super) fn acknowledge(
        &mut self,
        consumer: &str,
        sequence: u64,
        consumer_sequence: u64,
        kind: AckKind,
        now: Instant,
        alarm: &mut Alarm,
    ) -> Option<AckResult> {
        let found = self.consumers.get_mut(consumer)?;
        match kind {
            AckKind::Retry(delay) => found.retry(sequence, consumer_sequence, delay, now, alarm),
            AckKind::InProgress => found.in_progress(sequence, now, alarm),
            AckKind::Done => {
                if !found.done(sequence, consumer_sequence) {
                    return Some(AckResult::Ignored);
                }
                match self.config.retention {
                    Retention::Limits => {}
                    Retention::WorkQueue | Retention::Interest => self.remove_if_unneeded(sequence),
                }
            }
        }
        Some(AckResult::Recorded)
    }

    /// Removes the message unless a consumer still needs it.
    fn remove_if_unneeded(&mut self, sequence: u64) {
        let Some(entry) = self.messages.get(&sequence) else { return };
        let subject = &entry.message.subject;
        if !self.consumers.values().any(|c| c.needs(sequence) && c.matches(subject)) {
            self.delete_message(sequence);
        }
    }

    fn remove_unneeded(&mut self) {
        let all: Vec<u64> = self.messages.keys().copied().collect();
        all.into_iter().for_each(|sequence| self.remove_if_unneeded(sequence));
    }

    /// The sequences from `from` on whose subject `filter` matches.
    fn sequences(&self, filter: &str, from: u64) -> VecDeque<u64> {
        let matches = |e: &Entry| filter.is_empty() || topology::subject_matches(filter, &e.message.subject);
        self.messages.range(from..).filter(|(_, e)| matches(e)).map(|(s, _)| *s).collect()
    }

    pub(super) fn put_consumer(&mut self, config: topology::Consumer, now: Instant, alarm: &mut Alarm) {
        let from = self.consumers.get(&config.durable).map_or_else(|| self.first(), Consumer::cursor);
        let stored = self.sequences(&config.filter, from);
        match self.consumers.get_mut(&config.durable) {
            Some(consumer) => {
                consumer.update(config, stored, now);
                // A narrower filter ends an interest.
                if self.config.retention == Retention::Interest {
                    self.remove_unneeded();
                }
                if let Some(due) = self.next_due() {
                    alarm.at(due);
                }
            }
            None => {
                self.add_consumer(config, from, now);
            }
        }
    }

    /// A new consumer, which begins at the sequence `from`.
    pub(super) fn add_consumer(&mut self, config: topology::Consumer, from: u64, now: Instant) {
        let stored = self.sequences(&config.filter, from);
        let consumer = Consumer::new(&config, self.config.storage, stored, from, now);
        self.consumers.insert(config.durable.clone(), consumer);
    }

    /// Removes a consumer, and with it its interest. False if there is none.
    pub(super) fn delete_consumer(&mut self, durable: &str) -> bool {
        let Some(consumer) = self.consumers.remove(durable) else { return false };
        consumer.wake.notify_waiters();
        if self.config.retention == Retention::Interest {
            self.remove_unneeded();
        }
        true
    }

    pub(super) fn first(&self) -> u64 {
        self.messages.first_key_value().map_or(self.last + 1, |(first, _)| *first)
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn message(&self, sequence: u64) -> Option<&StoredMessage> {
        self.messages.get(&sequence).map(|e| &e.message)
    }

    /// The newest message whose subject `filter` matches.
    pub(super) fn last_message(&self, filter: &str) -> Option<&StoredMessage> {
        self.messages.values().rev().map(|e| &e.message).find(|m| topology::subject_matches(filter, &m.subject))
    }

    /// The first message from `from` on whose subject `filter` matches.
    pub(super) fn next_message(&self, from: u64, filter: Option<&str>) -> Option<&StoredMessage> {
        self.messages
            .range(from..)
            .map(|(_, e)| &e.message)
            .find(|m| filter.is_none_or(|f| f.is_empty() || topology::subject_matches(f, &m.subject)))
    }

    /// The sequence of the first message stored at `time` or later.
    pub(super) fn sequence_at(&self, time: DateTime<Utc>) -> u64 {
        self.messages.values().find(|e| e.message.stored_at >= time).map_or(self.last + 1, |e| e.message.sequence)
    }

    pub(super) fn info(&self) -> StreamInfo {
        StreamInfo {
            messages: self.messages.len() as u64,
            bytes: self.bytes,
            first_sequence: self.first(),
            last_sequence: self.last,
            consumers: self.consumers.len() as u64,
            max_bytes: self.config.max_bytes,
        }
    }

    /// Wakes all waiters: the stream is gone.
    pub(super) fn close(&self) {
        self.stored.notify_waiters();
        self.room.notify_waiters();
        self.consumers.values().for_each(|c| c.wake.notify_waiters());
    }
}

/// Bytes of a stored message as the server counts them: its record's overhead, subject, headers, payload.
fn size(storage: Storage, message: &Message) -> u64 {
    let headers = message.headers.wire_bytes();
    let record = match storage {
        Storage::Memory | Storage::MemoryOrFile => 16,
        Storage::File if headers > 0 => 34,
        Storage::File => 30,
    };
    (record + message.subject.len() + headers + message.payload.len()) as u64
}

/// Fills in the server's defaults.
fn with_defaults(mut config: topology::Stream) -> topology::Stream {
    if config.duplicate_window.is_zero() {
        let two_minutes = Duration::from_secs(120);
        config.duplicate_window = if config.max_age.is_zero() { two_minutes } else { config.max_age.min(two_minutes) };
    }
    config
}
