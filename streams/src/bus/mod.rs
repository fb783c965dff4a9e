//! The bus: JetStream's promises, on a NATS server or in memory. Services use nothing else.
//!
//! A publish is acknowledged once the message is stored. A delivery stays pending until it is acknowledged, put back with a
//! delay, or terminated. Core messages and requests are delivered at most once. Bodies are bytes here: this file knows no event.

pub(crate) mod message;
pub(crate) mod open;

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};

pub use message::{
    BusError, ConsumerInfo, CoreMessage, Delivered, Headers, MESSAGE_ID, Message, Published, ReplayStart,
    StoredMessage, StreamInfo,
};

use crate::memory::{self, MemoryBus};
use crate::nats::{self, NatsBus};
use crate::topology::{Consumer, Topology, TopologyState};

/// A message delivered by a consumer. Answer it exactly once, by [`ack`](Self::ack), [`retry`](Self::retry) or
/// [`terminate`](Self::terminate); without an answer it is redelivered after the ack wait.
pub type Delivery = Delivered<AckHandle>;

/// Acknowledges a delivery on the bus from which it came.
#[derive(Debug)]
pub enum AckHandle {
    /// On a NATS server.
    Nats(nats::AckHandle),
    /// In memory.
    Memory(memory::AckHandle),
}

impl Delivery {
    fn from_nats(delivery: Delivered<nats::AckHandle>) -> Self {
        let Delivered { message, stream, consumer, deliveries, pending, ack_handle } = delivery;
        Self { message, stream, consumer, deliveries, pending, ack_handle: AckHandle::Nats(ack_handle) }
    }

    fn from_memory(delivery: Delivered<memory::AckHandle>) -> Self {
        let Delivered { message, stream, consumer, deliveries, pending, ack_handle } = delivery;
        Self { message, stream, consumer, deliveries, pending, ack_handle: AckHandle::Memory(ack_handle) }
    }

    /// Acknowledges without waiting for the server. If the acknowledgement is lost, the message is redelivered.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] if it could not even be sent.
    pub async fn ack(&self) -> Result<(), BusError> {
        match &self.ack_handle {
            AckHandle::Nats(a) => a.ack().await,
            AckHandle::Memory(a) => a.ack().await,
        }
    }

    /// Acknowledges, and returns once the server has confirmed it.
    ///
    /// # Errors
    /// [`BusError`] if it did not confirm in time or the consumer is gone.
    pub async fn ack_confirmed(&self) -> Result<(), BusError> {
        match &self.ack_handle {
            AckHandle::Nats(a) => a.ack_confirmed().await,
            AckHandle::Memory(a) => a.ack_confirmed().await,
        }
    }

    /// Has the message redelivered after `delay` (zero: at once), to whichever process pulls: a `nak`.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] if it could not be sent.
    pub async fn retry(&self, delay: Duration) -> Result<(), BusError> {
        match &self.ack_handle {
            AckHandle::Nats(a) => a.retry(delay).await,
            AckHandle::Memory(a) => a.retry(delay).await,
        }
    }

    /// Ends the message for this consumer without success, and returns once the server has confirmed it. Publish the dead
    /// letter before.
    ///
    /// # Errors
    /// [`BusError`] if it did not confirm in time or the consumer is gone.
    pub async fn terminate(&self) -> Result<(), BusError> {
        match &self.ack_handle {
            AckHandle::Nats(a) => a.terminate().await,
            AckHandle::Memory(a) => a.terminate().await,
        }
    }

    /// Restarts the ack wait of a message whose handling takes long.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] if it could not be sent.
    pub async fn in_progress(&self) -> Result<(), BusError> {
        match &self.ack_handle {
            AckHandle::Nats(a) => a.in_progress().await,
            AckHandle::Memory(a) => a.in_progress().await,
        }
    }
}

/// Pulls the messages of one durable consumer. Several pullers, in any number of processes, share the work.
#[derive(Debug)]
pub enum Puller {
    /// From a NATS server.
    Nats(Box<nats::Puller>),
    /// From memory.
    Memory(memory::Puller),
}

impl Puller {
    /// Waits up to `wait` for the first message, then takes what else is ready, `max` in all, redeliveries first, then in
    /// stream order. Empty if no message came. Up to `max` more may be on their way to this puller.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if the consumer or its stream is gone, [`BusError::Unavailable`] if the server is.
    pub async fn fetch(&mut self, max: usize, wait: Duration) -> Result<Vec<Delivery>, BusError> {
        Ok(match self {
            Self::Nats(p) => p.fetch(max, wait).await?.into_iter().map(Delivery::from_nats).collect(),
            Self::Memory(p) => p.fetch(max, wait).await?.into_iter().map(Delivery::from_memory).collect(),
        })
    }

    /// Stops pulling. Messages that arrived and were not fetched are redelivered at once.
    pub async fn close(self) {
        match self {
            Self::Nats(p) => p.close().await,
            Self::Memory(_) => {}
        }
    }
}

/// Reads a stream in order, without a durable consumer.
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
    /// [`BusError`] if the stream is gone or the server is.
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

    /// Whether the last message read was the newest one stored that the replay reads.
    pub fn is_at_end(&self) -> bool {
        match self {
            Self::Nats(r) => r.is_at_end(),
            Self::Memory(r) => r.is_at_end(),
        }
    }
}

/// A subscription to core messages; ends when dropped. It holds a bounded number of messages: what comes beyond is dropped
/// and counted in [`Bus::dropped`].
#[derive(Debug)]
pub enum Subscription {
    /// On a NATS server.
    Nats(nats::Subscription),
    /// In memory.
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

/// The bus. Cheap to clone; all clones share one connection.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub enum Bus {
    /// A NATS server or cluster.
    Nats(NatsBus),
    /// This process, for development, tests and simulation.
    Memory(MemoryBus),
}

impl Bus {
    /// Creates or updates every stream and consumer of `topology`; may be repeated, and run in many processes at once.
    /// Returns a sentence for each difference: created, or changed from what to what.
    ///
    /// # Errors
    /// [`BusError::Refused`] if the server cannot have it (a change that it does not allow, an overlap on a work queue),
    /// [`BusError::Unavailable`] if it does not answer.
    pub async fn apply(&self, topology: &Topology) -> Result<Vec<String>, BusError> {
        match self {
            Self::Nats(b) => b.apply(topology).await,
            Self::Memory(b) => b.apply(topology),
        }
    }

    /// The sentences that [`apply`](Self::apply) would return, without a change.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn compare(&self, topology: &Topology) -> Result<Vec<String>, BusError> {
        match self {
            Self::Nats(b) => b.compare(topology).await,
            Self::Memory(b) => b.compare(topology),
        }
    }

    /// What the server has of a topology now: infos, creation times, and differences, in few requests. Not one moment: each
    /// stream is read before its consumers.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] if no stream answers. A stream or consumer that is missing, or that alone does not answer, is
    /// so in the state.
    pub async fn observe(&self, topology: &Topology) -> Result<TopologyState, BusError> {
        match self {
            Self::Nats(b) => b.observe(topology).await,
            Self::Memory(b) => b.observe(topology),
        }
    }

    /// Publishes to the stream that captures the subject; returns once the message is stored.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if no stream captures the subject, [`BusError::Full`], [`BusError::Unavailable`],
    /// [`BusError::Refused`] if the message is too large or its subject is none.
    pub async fn publish(&self, message: Message) -> Result<Published, BusError> {
        match self {
            Self::Nats(b) => b.publish(message).await,
            Self::Memory(b) => b.publish(message).await,
        }
    }

    /// Publishes many, without waiting for one acknowledgement before the next publish. One result for each, in order.
    /// Messages are stored in their order as long as none fails.
    pub async fn publish_all(&self, messages: Vec<Message>) -> Vec<Result<Published, BusError>> {
        match self {
            Self::Nats(b) => b.publish_all(messages).await,
            Self::Memory(b) => b.publish_all(messages).await,
        }
    }

    /// A puller for an existing durable consumer; reads only the consumer's stream and name.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] if the server is away. A missing consumer is an error of the first fetch.
    pub async fn pull(&self, consumer: &Consumer) -> Result<Puller, BusError> {
        match self {
            Self::Nats(b) => nats::Puller::open(b, consumer).await.map(|p| Puller::Nats(Box::new(p))),
            Self::Memory(b) => Ok(Puller::Memory(memory::Puller::open(b, consumer))),
        }
    }

    /// Reads `stream` from `start` on, all subjects or those that `filter` matches.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if there is no such stream.
    pub async fn replay(&self, stream: &str, filter: Option<&str>, start: ReplayStart) -> Result<Replay, BusError> {
        match self {
            Self::Nats(b) => nats::Replay::open(b, stream, filter, start).await.map(|r| Replay::Nats(Box::new(r))),
            Self::Memory(b) => memory::Replay::open(b, stream, filter, start).map(Replay::Memory),
        }
    }

    /// The state of `stream`.
    ///
    /// # Errors
    /// [`BusError::NotFound`], [`BusError::Unavailable`].
    pub async fn stream_info(&self, stream: &str) -> Result<StreamInfo, BusError> {
        match self {
            Self::Nats(b) => b.stream_info(stream).await,
            Self::Memory(b) => b.stream_info(stream),
        }
    }

    /// The state of the consumer `durable` of `stream`.
    ///
    /// # Errors
    /// [`BusError::NotFound`], [`BusError::Unavailable`].
    pub async fn consumer_info(&self, stream: &str, durable: &str) -> Result<ConsumerInfo, BusError> {
        match self {
            Self::Nats(b) => b.consumer_info(stream, durable).await,
            Self::Memory(b) => b.consumer_info(stream, durable),
        }
    }

    /// When the newest of `stream` and these of its consumers was created. If it is later than before, the stream or one of
    /// the consumers was lost and recreated, without the messages of the lost one.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if the stream or a consumer is missing, [`BusError::Unavailable`].
    pub async fn created_at(&self, stream: &str, durables: &[&str]) -> Result<DateTime<Utc>, BusError> {
        match self {
            Self::Nats(b) => b.created_at(stream, durables).await,
            Self::Memory(b) => b.created_at(stream, durables),
        }
    }

    /// The message with this sequence.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if it is not stored, or not any more; [`BusError::Unavailable`].
    pub async fn get_message(&self, stream: &str, sequence: u64) -> Result<StoredMessage, BusError> {
        match self {
            Self::Nats(b) => nats::message_api::get_message(b, stream, sequence).await,
            Self::Memory(b) => b.get_message(stream, sequence),
        }
    }

    /// The newest message stored on this subject; wildcards are allowed.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if none is stored, [`BusError::Unavailable`].
    pub async fn last_message(&self, stream: &str, subject: &str) -> Result<StoredMessage, BusError> {
        match self {
            Self::Nats(b) => nats::message_api::last_message(b, stream, subject).await,
            Self::Memory(b) => b.last_message(stream, subject),
        }
    }

    /// Removes one message, for every consumer. A republish of its id within the duplicate window is still a duplicate.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if it is not stored, or not any more; [`BusError::Unavailable`].
    pub async fn delete_message(&self, stream: &str, sequence: u64) -> Result<(), BusError> {
        match self {
            Self::Nats(b) => nats::message_api::delete_message(b, stream, sequence).await,
            Self::Memory(b) => b.delete_message(stream, sequence),
        }
    }

    /// The time by the clock of `stored_at`: the server's, not this process's.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if there is no such stream, [`BusError::Unavailable`].
    pub async fn server_time(&self, stream: &str) -> Result<DateTime<Utc>, BusError> {
        match self {
            Self::Nats(b) => nats::message_api::server_time(b, stream).await,
            Self::Memory(b) => b.server_time(stream),
        }
    }

    /// Acknowledges, for one consumer, a message that the server has given up: delivered to it as often as allowed, and no
    /// longer with any process. Without this, an interest stream or a work queue stores such a message until its maximum age.
    /// May be repeated; returns once the server has confirmed it.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if the consumer is gone, [`BusError::Unavailable`] without a confirmation in 5 s: the server is
    /// away, or it never delivered the message to this consumer.
    pub async fn release(&self, stream: &str, consumer: &str, sequence: u64) -> Result<(), BusError> {
        // The reply subject of a delivery: deliveries, stream sequence, consumer sequence, time, pending. The server reads only
        // the stream sequence. This is not documented; cases of the conformance suite (`give_up.rs`) hold it.
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

    /// Deletes a consumer, and with it its interest in stored messages.
    ///
    /// # Errors
    /// [`BusError::NotFound`], [`BusError::Unavailable`].
    pub async fn delete_consumer(&self, stream: &str, durable: &str) -> Result<(), BusError> {
        match self {
            Self::Nats(b) => b.delete_consumer(stream, durable).await,
            Self::Memory(b) => b.delete_consumer(stream, durable),
        }
    }

    /// Creates a durable consumer, in place of the one of its name if there is one: it delivers what was stored at `from` or later.
    ///
    /// # Errors
    /// [`BusError`]; if the consumer is gone then, a repetition creates it.
    pub async fn recreate_consumer(&self, consumer: &Consumer, from: DateTime<Utc>) -> Result<(), BusError> {
        match self {
            Self::Nats(b) => b.recreate_consumer(consumer, from).await,
            Self::Memory(b) => b.recreate_consumer(consumer, from),
        }
    }

    /// Sends a core message to the subscribers of this moment. Returns once it is sent, not once it has arrived. A stream
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

    /// Answers a request with headers: a core message to the inbox where its sender waits.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] if it could not be sent.
    pub async fn reply(&self, to: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        match self {
            Self::Nats(b) => b.reply(to, headers, payload).await,
            Self::Memory(b) => b.reply(to, headers, payload).await,
        }
    }

    /// Subscribes to core messages on a subject; wildcards are allowed. Of all subscriptions with the same `queue` group, one
    /// gets each message. Active once this returns.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, BusError> {
        match self {
            Self::Nats(b) => b.subscribe(subject, queue).await.map(Subscription::Nats),
            Self::Memory(b) => Ok(Subscription::Memory(b.subscribe(subject, queue))),
        }
    }

    /// Sends a request and waits up to `wait` for the first reply.
    ///
    /// # Errors
    /// [`BusError::NoResponders`] at once if nobody is subscribed, [`BusError::Unavailable`] without a reply in time.
    pub async fn request(&self, subject: &str, payload: Bytes, wait: Duration) -> Result<Bytes, BusError> {
        match self {
            Self::Nats(b) => b.request(subject, payload, wait).await,
            Self::Memory(b) => b.request(subject, payload, wait).await,
        }
    }

    /// Sends a request that several may answer. Returns their replies, in the order in which they came: until `wait` is over, or nothing
    /// more came for `quiet` after one; 10,000 at most.
    ///
    /// # Errors
    /// [`BusError::NoResponders`] at once if nobody is subscribed, [`BusError::Unavailable`] if it could not be sent.
    pub async fn request_all(
        &self,
        subject: &str,
        payload: Bytes,
        wait: Duration,
        quiet: Duration,
    ) -> Result<Vec<Bytes>, BusError> {
        match self {
            Self::Nats(b) => b.request_all(subject, payload, (wait, quiet)).await,
            Self::Memory(b) => b.request_all(subject, payload, (wait, quiet)).await,
        }
    }

    /// Whether the bus works at this moment: connected, and JetStream answers.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] says what does not.
    pub async fn check(&self) -> Result<(), BusError> {
        match self {
            Self::Nats(b) => b.check().await,
            Self::Memory(_) => Ok(()),
        }
    }

    /// Whether the bus is connected at this moment. It sends nothing.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub fn check_connection(&self) -> Result<(), BusError> {
        match self {
            Self::Nats(b) => b.check_connection(),
            Self::Memory(_) => Ok(()),
        }
    }

    /// Its name in traces, `messaging.system`.
    pub const fn messaging_system(&self) -> &'static str {
        match self {
            Self::Nats(_) => "nats",
            Self::Memory(_) => "memory",
        }
    }

    /// Whether the NATS client has closed the connection for good, because it received something that it cannot read. Only a
    /// new process can help.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Nats(b) => b.is_closed(),
            Self::Memory(_) => false,
        }
    }

    /// Connections made so far. When it rises, apply the topology again: a restarted server has lost its memory streams.
    pub fn reconnects(&self) -> u64 {
        match self {
            Self::Nats(b) => b.reconnects(),
            Self::Memory(_) => 0,
        }
    }

    /// Whether other processes may be on it.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Nats(_) => true,
            Self::Memory(b) => b.is_shared,
        }
    }

    /// Core subscriptions that this process has open.
    pub fn subscriptions(&self) -> usize {
        match self {
            Self::Nats(b) => b.subscriptions.count(),
            Self::Memory(b) => b.subscriptions.count(),
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
