//! The bus: JetStream's promises, kept by a NATS cluster or by memory. Services see only this file.
//!
//! What is published is acknowledged when it is stored; a delivery stays pending until it is acknowledged, put back with a
//! delay, or terminated. Core messages (notices, requests) are delivered at most once. It knows nothing of events' bodies.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::memory::{self, MemoryBus};
use crate::nats::{self, NatsBus};
use crate::topology::{Consumer, Topology};

/// The header by which a stream recognises a duplicate.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";

/// The headers of a message; names are compared without case.
#[derive(Clone, Default)]
pub struct Headers {
    own: Vec<Header>,
    /// As a NATS client handed them out, until somebody wants to see or change them all: consumers look at two of nine.
    received: Option<Box<(async_nats::HeaderMap, OnceLock<Vec<Header>>)>>,
}

/// Name and value.
type Header = (Cow<'static, str>, String);

impl Headers {
    pub(crate) fn of_nats(map: async_nats::HeaderMap) -> Self {
        Self { own: Vec::new(), received: Some(Box::new((map, OnceLock::new()))) }
    }

    fn list(&self) -> &[Header] {
        match &self.received {
            // The client keeps them in a hash map; here they have an order that everybody can rely on.
            Some(received) => received.1.get_or_init(|| {
                let all = received.0.iter();
                let all =
                    all.flat_map(|(name, values)| values.iter().map(|v| (name.to_string(), v.as_str().to_owned())));
                let mut list: Vec<Header> = all.map(|(name, value)| (name.into(), value)).collect();
                list.sort();
                list
            }),
            None => &self.own,
        }
    }

    fn own(&mut self) -> &mut Vec<Header> {
        if self.received.is_some() {
            self.own = self.list().to_vec();
            self.received = None;
        }
        &mut self.own
    }

    /// The first value of `name`.
    pub fn find(&self, name: &str) -> Option<&str> {
        if let Some(received) = &self.received
            && let Some(value) = received.0.get(name)
        {
            return Some(value.as_str());
        }
        self.list().iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Sets `name`, replacing what it was.
    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        let own = self.own();
        own.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        own.push((Cow::Borrowed(name), value.into()));
    }

    /// Adds a value of `name` beside those that it has.
    pub fn add(&mut self, name: &str, value: impl Into<String>) {
        self.own().push((Cow::Owned(name.to_owned()), value.into()));
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list().iter().map(|(n, v)| (n.as_ref(), v.as_str()))
    }

    /// All, by value: for the one who sends them.
    pub(crate) fn into_list(mut self) -> Vec<Header> {
        std::mem::take(self.own())
    }

    /// Puts them in the order of their names: the one in which both buses hand them out.
    pub(crate) fn sort(&mut self) {
        self.own().sort();
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list().is_empty()
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.list() == other.list()
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Headers").field(&self.list()).finish()
    }
}

/// What is published to a stream, or sent on the core bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub subject: String,
    /// Headers; [`MESSAGE_ID`] makes a repeat within the duplicate window harmless.
    pub headers: Headers,
    /// The body.
    pub payload: Bytes,
}

/// A stream stored the message, or had stored it before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The stream.
    pub stream: String,
    /// Its sequence there; that of the first one for a duplicate.
    pub sequence: u64,
    /// Whether the stream had this message id already, and stored nothing.
    pub duplicate: bool,
}

/// Why the bus did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// No answer, no connection, no leader: the outcome is unknown; ask again later, with the same message id.
    #[error("the bus is not available: {0}")]
    Unavailable(String),
    /// The stream is at its limit and refuses what is new; nothing was stored.
    #[error("stream is full: {0}")]
    Full(String),
    /// The stream or the consumer does not exist (any more).
    #[error("not found on the bus: {0}")]
    NotFound(String),
    /// Nobody listens on the subject of a request.
    #[error("nobody answers on {0}")]
    NoResponders(String),
    /// The server said no, and will say it again.
    #[error("the bus refused: {0}")]
    Refused(String),
}

/// How a stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    /// Messages stored.
    pub messages: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// The oldest sequence stored; `last_sequence` + 1 if there is none.
    pub first_sequence: u64,
    /// The newest sequence ever given.
    pub last_sequence: u64,
    /// Durable and other consumers.
    pub consumers: u64,
}

/// How a consumer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerInfo {
    /// Messages not delivered yet.
    pub pending: u64,
    /// Messages delivered and neither acknowledged nor given up.
    pub ack_pending: u64,
    /// Of those, the ones delivered more than once.
    pub redelivered: u64,
    /// The stream sequence up to which all is acknowledged or given up.
    pub ack_floor: u64,
    /// The highest stream sequence delivered.
    pub delivered: u64,
}

/// Where a replay begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayStart {
    /// At this stream sequence or the next one stored; 0 and 1 are the beginning.
    Sequence(u64),
    /// At the first message stored at this time or later.
    Time(DateTime<Utc>),
}

/// A message as a stream has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub payload: Bytes,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When the stream stored it.
    pub stored_at: DateTime<Utc>,
}

/// A message that a consumer handed out and that wants an answer: exactly one of [`ack`](Self::ack),
/// [`retry`](Self::retry), [`terminate`](Self::terminate). Without one it comes again after the ack wait.
#[derive(Debug)]
pub struct Delivery {
    /// The message as stored.
    pub message: StoredMessage,
    /// The stream.
    pub stream: String,
    /// The consumer.
    pub consumer: String,
    /// How often it was handed out, this time included: 1, 2, 3 …
    pub deliveries: u64,
    /// Messages after this one that wait for the consumer.
    pub pending: u64,
    pub(crate) answer: Answer,
}

#[derive(Debug)]
pub(crate) enum Answer {
    Nats(nats::Answer),
    Memory(memory::Answer),
}

impl Delivery {
    /// Done. Sent without waiting for the server: if it is lost, the message comes again.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] if it could not even be sent.
    pub async fn ack(&self) -> Result<(), BusError> {
        match &self.answer {
            Answer::Nats(a) => a.ack().await,
            Answer::Memory(a) => a.ack().await,
        }
    }

    /// Done, and the server knows: returns after it confirmed.
    ///
    /// # Errors
    /// [`BusError`] if it did not confirm in time or the consumer is gone.
    pub async fn ack_confirmed(&self) -> Result<(), BusError> {
        match &self.answer {
            Answer::Nats(a) => a.ack_confirmed().await,
            Answer::Memory(a) => a.ack_confirmed().await,
        }
    }

    /// Not now: hand it out again after `delay` (which may be zero), to whichever process asks.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] if it could not be sent.
    pub async fn retry(&self, delay: Duration) -> Result<(), BusError> {
        match &self.answer {
            Answer::Nats(a) => a.retry(delay).await,
            Answer::Memory(a) => a.retry(delay).await,
        }
    }

    /// Never again for this consumer; returns after the server confirmed. Publish the dead letter first.
    ///
    /// # Errors
    /// [`BusError`] if it did not confirm in time or the consumer is gone.
    pub async fn terminate(&self) -> Result<(), BusError> {
        match &self.answer {
            Answer::Nats(a) => a.terminate().await,
            Answer::Memory(a) => a.terminate().await,
        }
    }

    /// It comes again after `delay` whatever is done with it until then: for a simulation.
    #[cfg(debug_assertions)]
    pub(crate) fn redeliver_after(&self, delay: Duration) {
        if let Answer::Memory(answer) = &self.answer {
            answer.redeliver_after(delay);
        }
    }

    /// Still at work: the ack wait begins anew.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] if it could not be sent.
    pub async fn in_progress(&self) -> Result<(), BusError> {
        match &self.answer {
            Answer::Nats(a) => a.in_progress().await,
            Answer::Memory(a) => a.in_progress().await,
        }
    }
}

/// Pulls the messages of one durable consumer. Several, in any number of processes, share the work.
#[derive(Debug)]
pub enum Puller {
    /// From a NATS server.
    Nats(Box<nats::Puller>),
    /// From memory.
    Memory(memory::Puller),
}

impl Puller {
    /// Waits up to `wait` for the first message, then takes what else is ready, `max` in all, in stream order
    /// (redeliveries first). Empty after `wait` without one. At most `max` more may be on their way to this puller.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if the consumer or its stream is gone, [`BusError::Unavailable`] if the server is away.
    pub async fn fetch(&mut self, max: usize, wait: Duration) -> Result<Vec<Delivery>, BusError> {
        match self {
            Self::Nats(p) => p.fetch(max, wait).await,
            Self::Memory(p) => p.fetch(max, wait).await,
        }
    }

    /// Stops pulling, and puts back at once what had arrived and was not handed out.
    pub async fn close(self) {
        match self {
            Self::Nats(p) => p.close().await,
            Self::Memory(_) => {}
        }
    }
}

/// Reads a stream in order without touching any durable consumer.
#[derive(Debug)]
pub enum Replay {
    /// From a NATS server.
    Nats(Box<nats::Replay>),
    /// From memory.
    Memory(memory::Replay),
}

impl Replay {
    /// The next message, waiting up to `wait` for it; `None` if none came.
    ///
    /// # Errors
    /// [`BusError`] if the stream is gone or the server is away.
    pub async fn next(&mut self, wait: Duration) -> Result<Option<StoredMessage>, BusError> {
        match self {
            Self::Nats(r) => r.next(wait).await,
            Self::Memory(r) => r.next(wait).await,
        }
    }

    /// Waits up to `wait` for the next message, then takes what else is ready, `max` in all. Empty if none came.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn batch(&mut self, max: usize, wait: Duration) -> Result<Vec<StoredMessage>, BusError> {
        let Some(first) = self.next(wait).await? else { return Ok(Vec::new()) };
        let mut batch = vec![first];
        while batch.len() < max
            && let Some(next) = match self {
                Self::Nats(r) => r.ready()?,
                Self::Memory(r) => r.ready()?,
            }
        {
            batch.push(next);
        }
        Ok(batch)
    }

    /// Whether nothing more of what it reads was stored when the last message was handed out.
    pub fn is_at_end(&self) -> bool {
        match self {
            Self::Nats(r) => r.is_at_end(),
            Self::Memory(r) => r.is_at_end(),
        }
    }
}

/// A core message: delivered at most once, to who is subscribed at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreMessage {
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub payload: Bytes,
    /// Where the sender waits for an answer. Never answer a copy of a stream's message: it is the publisher's inbox.
    pub reply: Option<String>,
}

/// A subscription to core messages; ends when dropped. Messages beyond its capacity are dropped and counted.
#[derive(Debug)]
pub enum Subscription {
    /// From a NATS server.
    Nats(nats::Subscription),
    /// From memory.
    Memory(memory::Subscription),
}

impl Subscription {
    /// The next message; `None` once the bus is closed.
    pub async fn next(&mut self) -> Option<CoreMessage> {
        match self {
            Self::Nats(s) => s.next().await,
            Self::Memory(s) => s.next().await,
        }
    }
}

/// The bus. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub enum Bus {
    /// A NATS server or cluster.
    Nats(NatsBus),
    /// This process.
    Memory(MemoryBus),
}

impl Bus {
    /// Creates or updates every stream and consumer of `topology`; safe to repeat and to run in many processes at once.
    /// Returns a sentence for each thing that was not as wanted: created, or changed from what to what.
    ///
    /// # Errors
    /// [`BusError::Refused`] if the server cannot have it (a change that it does not allow, an overlap on a work queue, a
    /// server too old), [`BusError::Unavailable`] if it does not answer.
    pub async fn apply(&self, topology: &Topology) -> Result<Vec<String>, BusError> {
        match self {
            Self::Nats(b) => b.apply(topology).await,
            Self::Memory(b) => b.apply(topology),
        }
    }

    /// What [`apply`](Self::apply) would change, changing nothing.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn compare(&self, topology: &Topology) -> Result<Vec<String>, BusError> {
        match self {
            Self::Nats(b) => b.compare(topology).await,
            Self::Memory(b) => b.compare(topology),
        }
    }

    /// Publishes to the stream that captures the subject; returns once it is stored.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if no stream captures it, [`BusError::Full`], [`BusError::Unavailable`].
    pub async fn publish(&self, message: Message) -> Result<Published, BusError> {
        match self {
            Self::Nats(b) => b.publish(message).await,
            Self::Memory(b) => b.publish(message).await,
        }
    }

    /// Publishes many with their acknowledgements in flight together; one result for each, in order. Messages are stored
    /// in their order as long as none fails.
    pub async fn publish_all(&self, messages: Vec<Message>) -> Vec<Result<Published, BusError>> {
        match self {
            Self::Nats(b) => b.publish_all(messages).await,
            Self::Memory(b) => b.publish_all(messages).await,
        }
    }

    /// A puller for a durable consumer that exists.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] if the server is away. A missing consumer shows at the first fetch.
    pub async fn pull(&self, consumer: &Consumer) -> Result<Puller, BusError> {
        match self {
            Self::Nats(b) => b.pull(consumer).await.map(|p| Puller::Nats(Box::new(p))),
            Self::Memory(b) => Ok(Puller::Memory(b.pull(consumer))),
        }
    }

    /// Reads `stream` from `start` on, all subjects or those that match `filter`.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if there is no such stream.
    pub async fn replay(&self, stream: &str, filter: Option<&str>, start: ReplayStart) -> Result<Replay, BusError> {
        match self {
            Self::Nats(b) => b.replay(stream, filter, start).await.map(|r| Replay::Nats(Box::new(r))),
            Self::Memory(b) => b.replay(stream, filter, start).map(Replay::Memory),
        }
    }

    /// How `stream` stands.
    ///
    /// # Errors
    /// [`BusError::NotFound`], [`BusError::Unavailable`].
    pub async fn stream_info(&self, stream: &str) -> Result<StreamInfo, BusError> {
        match self {
            Self::Nats(b) => b.stream_info(stream).await,
            Self::Memory(b) => b.stream_info(stream),
        }
    }

    /// How `durable` on `stream` stands.
    ///
    /// # Errors
    /// [`BusError::NotFound`], [`BusError::Unavailable`].
    pub async fn consumer_info(&self, stream: &str, durable: &str) -> Result<ConsumerInfo, BusError> {
        match self {
            Self::Nats(b) => b.consumer_info(stream, durable).await,
            Self::Memory(b) => b.consumer_info(stream, durable),
        }
    }

    /// When the newest of `stream` and these of its consumers was made: a later time than before says that it was lost and
    /// made again, or one of them was, without what the lost one held.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if it or one of them is missing, [`BusError::Unavailable`].
    pub async fn created_at(&self, stream: &str, durables: &[&str]) -> Result<DateTime<Utc>, BusError> {
        match self {
            Self::Nats(b) => b.created_at(stream, durables).await,
            Self::Memory(b) => b.created_at(stream, durables),
        }
    }

    /// The message with this sequence.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if it is not stored (any more).
    pub async fn get_message(&self, stream: &str, sequence: u64) -> Result<StoredMessage, BusError> {
        match self {
            Self::Nats(b) => b.get_message(stream, sequence).await,
            Self::Memory(b) => b.get_message(stream, sequence),
        }
    }

    /// The newest message on this subject, or of this pattern.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if there is none stored.
    pub async fn last_message(&self, stream: &str, subject: &str) -> Result<StoredMessage, BusError> {
        match self {
            Self::Nats(b) => b.last_message(stream, subject).await,
            Self::Memory(b) => b.last_message(stream, subject),
        }
    }

    /// Removes one message, for every consumer. Its id stays known for the rest of the duplicate window.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if it is not stored (any more).
    pub async fn delete_message(&self, stream: &str, sequence: u64) -> Result<(), BusError> {
        match self {
            Self::Nats(b) => b.delete_message(stream, sequence).await,
            Self::Memory(b) => b.delete_message(stream, sequence),
        }
    }

    /// What the clock says by which `stream` stores: the server's, not this process's.
    ///
    /// # Errors
    /// [`BusError::NotFound`], [`BusError::Unavailable`].
    pub async fn server_time(&self, stream: &str) -> Result<DateTime<Utc>, BusError> {
        match self {
            Self::Nats(b) => b.server_time(stream).await,
            Self::Memory(b) => b.server_time(stream),
        }
    }

    /// Acknowledges, for one consumer, a message that was delivered to it as often as allowed and that nobody holds any
    /// more: the stream keeps such a message for ever otherwise. Safe to repeat; returns once it is confirmed.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if the consumer is gone, [`BusError::Unavailable`] without a confirmation in 5 s: the server
    /// is away, or the message was never delivered to this consumer.
    pub async fn release(&self, stream: &str, consumer: &str, sequence: u64) -> Result<(), BusError> {
        // The subject to which every delivery is answered: deliveries, stream sequence, consumer sequence, time, pending. The
        // server looks at the stream sequence alone. No documented interface: cases of the conformance suite hold it.
        let subject = format!("$JS.ACK.{stream}.{consumer}.1.{sequence}.1.0.0");
        match self.request(&subject, Bytes::from_static(b"+ACK"), Duration::from_secs(5)).await {
            Ok(_) => Ok(()),
            Err(BusError::NoResponders(_)) => Err(BusError::NotFound(format!("consumer {consumer} on {stream}"))),
            Err(error) => Err(error),
        }
    }

    /// Deletes a stream with its messages and consumers.
    ///
    /// # Errors
    /// [`BusError::NotFound`], [`BusError::Unavailable`].
    pub async fn delete_stream(&self, stream: &str) -> Result<(), BusError> {
        match self {
            Self::Nats(b) => b.delete_stream(stream).await,
            Self::Memory(b) => b.delete_stream(stream),
        }
    }

    /// Deletes a consumer.
    ///
    /// # Errors
    /// [`BusError::NotFound`], [`BusError::Unavailable`].
    pub async fn delete_consumer(&self, stream: &str, durable: &str) -> Result<(), BusError> {
        match self {
            Self::Nats(b) => b.delete_consumer(stream, durable).await,
            Self::Memory(b) => b.delete_consumer(stream, durable),
        }
    }

    /// Sends a core message to whoever is subscribed now. Returns once it is on its way, not once it arrived. A stream
    /// that captures the subject stores it too.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] if it could not be sent.
    pub async fn publish_core(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        match self {
            Self::Nats(b) => b.publish_core(subject, payload).await,
            Self::Memory(b) => b.publish_core(subject, payload).await,
        }
    }

    /// Subscribes to core messages on a subject or pattern. Of all subscriptions with the same `queue` group one gets
    /// each message. Active once this returns.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, BusError> {
        match self {
            Self::Nats(b) => b.subscribe(subject, queue).await.map(Subscription::Nats),
            Self::Memory(b) => Ok(Subscription::Memory(b.subscribe(subject, queue))),
        }
    }

    /// Sends a request and waits up to `wait` for the first answer.
    ///
    /// # Errors
    /// [`BusError::NoResponders`] at once if nobody is subscribed, [`BusError::Unavailable`] without an answer in time.
    pub async fn request(&self, subject: &str, payload: Bytes, wait: Duration) -> Result<Bytes, BusError> {
        match self {
            Self::Nats(b) => b.request(subject, payload, wait).await,
            Self::Memory(b) => b.request(subject, payload, wait).await,
        }
    }

    /// Whether the bus can do its work at this moment: connected, and JetStream answers.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] says what does not.
    pub async fn check(&self) -> Result<(), BusError> {
        match self {
            Self::Nats(b) => b.check().await,
            Self::Memory(_) => Ok(()),
        }
    }

    /// Whether the connection is gone for good, so that only a new process can help: its client met something that it
    /// cannot read, and ended.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Nats(b) => b.is_closed(),
            Self::Memory(_) => false,
        }
    }

    /// How often the connection was made anew; when it grows, the topology must be applied again, for a restarted server
    /// has forgotten its memory streams.
    pub fn reconnects(&self) -> u64 {
        match self {
            Self::Nats(b) => b.reconnects(),
            Self::Memory(_) => 0,
        }
    }

    /// Core messages dropped because a subscription was full.
    pub fn dropped(&self) -> u64 {
        match self {
            Self::Nats(b) => b.dropped(),
            Self::Memory(b) => b.dropped(),
        }
    }
}
