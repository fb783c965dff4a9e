//! The bus in memory: JetStream's semantics in one process, without a server. What `nats.rs` gets by asking, this does.
//!
//! Time is tokio's clock on top of a wall time at the start, so that a test which pauses the clock holds all of it. There
//! is no randomness and no iteration whose order is left to chance: the same calls at the same times give the same answers.
//! One lock holds everything, is held for one operation, and never across an `await`.

mod consumer;
mod core;
mod server;
mod stream;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::task::{JoinHandle, coop::consume_budget};
use tokio::time::{Instant, timeout_at};

use self::server::{Reconcile, Sent, Server};
use self::stream::{NotStored, Taken, Verdict};
use crate::bus::{
    self, BusError, ConsumerInfo, CoreMessage, Delivery, Message, Published, ReplayStart, StoredMessage, StreamInfo,
};
#[cfg(debug_assertions)]
use crate::simulation::{Fault, Faults};
use crate::topology::{Consumer, Topology};

/// How long a publisher waits for room in a stream.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// The bus of one process; clones share it.
#[derive(Clone)]
pub struct MemoryBus(Arc<Shared>, #[cfg(debug_assertions)] Option<Faults>);

struct Shared {
    server: Mutex<Server>,
    /// Told when something is due earlier than was thought.
    earlier: Arc<Notify>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for MemoryBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBus").finish_non_exhaustive()
    }
}

/// When something is next due: never later than the truth, and the truth once that moment has come.
#[derive(Debug, Default)]
struct Alarm {
    next: Option<Instant>,
    moved_forward: bool,
}

impl Alarm {
    fn at(&mut self, due: Instant) {
        if self.next.is_none_or(|next| due < next) {
            self.next = Some(due);
            self.moved_forward = true;
        }
    }

    fn set(&mut self, next: Option<Instant>) {
        self.next = next;
    }

    fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|next| next <= now)
    }
}

impl Shared {
    /// Everything that the bus does passes here: what is due by now is done first.
    fn with<T>(self: &Arc<Self>, operation: impl FnOnce(&mut Server, Instant) -> T) -> T {
        let now = Instant::now();
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        server.advance(now);
        let result = operation(&mut server, now);
        let moved_forward = std::mem::take(&mut server.alarm.moved_forward);
        drop(server);
        if moved_forward {
            self.keep_time();
        }
        result
    }

    /// Has a task do what is due even when nobody calls. Without a runtime the next call does it.
    fn keep_time(self: &Arc<Self>) {
        self.earlier.notify_one();
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.as_ref().is_none_or(JoinHandle::is_finished)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            *keeper = Some(runtime.spawn(keep_time(Arc::downgrade(self), self.earlier.clone())));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.earlier.notify_one();
    }
}

async fn keep_time(bus: Weak<Shared>, earlier: Arc<Notify>) {
    loop {
        let next = match bus.upgrade() {
            None => return,
            Some(bus) => bus.with(|server, _| server.alarm.next),
        };
        match next {
            None => earlier.notified().await,
            // Either way the loop looks again.
            Some(next) => drop(timeout_at(next, earlier.notified()).await),
        }
    }
}

/// Waits for what `notified` tells, at most until `until`. False if that moment came.
async fn woken(notified: impl Future<Output = ()>, until: Instant) -> bool {
    Instant::now() < until && timeout_at(until, notified).await.is_ok()
}

impl MemoryBus {
    /// An empty bus. Wall time is `started_at` plus tokio's clock since now; `queue_size` is the number of messages that a
    /// stream may hold before publishers wait (or, on a stream that drops what is old, before it does).
    pub fn new(started_at: DateTime<Utc>, queue_size: usize) -> Self {
        let shared = Shared {
            server: Mutex::new(Server::new(started_at, queue_size)),
            earlier: Arc::default(),
            keeper: Mutex::default(),
        };
        Self(
            Arc::new(shared),
            #[cfg(debug_assertions)]
            None,
        )
    }

    /// The same bus as one process of a simulation sees it.
    #[cfg(debug_assertions)]
    pub fn seen_with(&self, faults: &Faults) -> Self {
        Self(self.0.clone(), Some(faults.clone()))
    }

    /// Streams that keep nothing but what is wanted forget which ids they have seen, as a restarted server does.
    #[cfg(debug_assertions)]
    pub fn forget_ids(&self) {
        self.0.with(|server, _| server.streams.values_mut().for_each(stream::Stream::forget_ids));
    }

    pub(crate) fn apply(&self, topology: &Topology) -> Result<Vec<String>, BusError> {
        self.0.with(|server, now| server.reconcile(topology, Reconcile::Apply, now))
    }

    pub(crate) fn compare(&self, topology: &Topology) -> Result<Vec<String>, BusError> {
        self.0.with(|server, now| server.reconcile(topology, Reconcile::Compare, now))
    }

    pub(crate) async fn publish(&self, message: Message) -> Result<Published, BusError> {
        self.publish_one(message, Instant::now() + ROOM_WAIT).await
    }

    async fn publish_one(&self, message: Message, until: Instant) -> Result<Published, BusError> {
        #[cfg(debug_assertions)]
        if let Some(faults) = &self.1 {
            return faults.publish(self.publish_until(message, until)).await;
        }
        self.publish_until(message, until).await
    }

    pub(crate) async fn publish_all(&self, messages: Vec<Message>) -> Vec<Result<Published, BusError>> {
        // One wait for all of them: if a stream stays full, those behind are refused at once.
        let until = Instant::now() + ROOM_WAIT;
        let mut results = Vec::with_capacity(messages.len());
        for message in messages {
            results.push(self.publish_one(message, until).await);
        }
        results
    }

    async fn publish_until(&self, mut message: Message, until: Instant) -> Result<Published, BusError> {
        consume_budget().await;
        message.headers.sort();
        loop {
            let outcome = self.0.with(|server, now| match server.publish(&message, now) {
                Ok(published) => Ok(Ok(published)),
                Err(NotStored::Error(e)) => Ok(Err(e)),
                Err(NotStored::NoRoom) => {
                    let full = server.streams.values().find(|s| s.captures(&message.subject));
                    Err(full.map(|s| s.room.clone().notified_owned()))
                }
            });
            match outcome {
                Ok(result) => return result,
                Err(room) => {
                    if let Some(room) = room
                        && woken(room, until).await
                    {
                        continue;
                    }
                    self.0.with(|server, _| server.copy(&message));
                    let text = format!("{}: maximum messages exceeded, no room came in {ROOM_WAIT:?}", message.subject);
                    return Err(BusError::Full(text));
                }
            }
        }
    }

    pub(crate) fn pull(&self, consumer: &Consumer) -> Puller {
        Puller { bus: self.clone(), stream: consumer.stream.clone(), durable: consumer.durable.clone() }
    }

    pub(crate) fn replay(&self, stream: &str, filter: Option<&str>, start: ReplayStart) -> Result<Replay, BusError> {
        self.0.with(|server, _| {
            let found = server.stream(stream)?;
            let next = match start {
                ReplayStart::Sequence(sequence) => sequence.clamp(1, found.last() + 1),
                ReplayStart::Time(time) => found.sequence_at(time),
            };
            let (stream, filter) = (stream.to_owned(), filter.map(str::to_owned));
            Ok(Replay { bus: self.clone(), stream, incarnation: found.incarnation, filter, next })
        })
    }

    pub(crate) fn stream_info(&self, stream: &str) -> Result<StreamInfo, BusError> {
        self.0.with(|server, _| Ok(server.stream(stream)?.info()))
    }

    pub(crate) fn consumer_info(&self, stream: &str, durable: &str) -> Result<ConsumerInfo, BusError> {
        self.0.with(|server, _| Ok(server.consumer(stream, durable)?.info()))
    }

    pub(crate) fn get_message(&self, stream: &str, sequence: u64) -> Result<StoredMessage, BusError> {
        self.0.with(|server, _| {
            let found = server.stream(stream)?.message(sequence).cloned();
            found.ok_or_else(|| BusError::NotFound(format!("message {sequence} of {stream}")))
        })
    }

    pub(crate) fn delete_message(&self, stream: &str, sequence: u64) -> Result<(), BusError> {
        self.0.with(|server, _| {
            let found = server.stream_mut(stream)?;
            if found.message(sequence).is_none() {
                return Err(BusError::NotFound(format!("message {sequence} of {stream}")));
            }
            found.drop_message(sequence);
            Ok(())
        })
    }

    pub(crate) fn last_message(&self, stream: &str, subject: &str) -> Result<StoredMessage, BusError> {
        self.0.with(|server, _| {
            let found = server.stream(stream)?.last_message(subject).cloned();
            found.ok_or_else(|| BusError::NotFound(format!("a message on {subject} of {stream}")))
        })
    }

    pub(crate) fn server_time(&self, stream: &str) -> Result<DateTime<Utc>, BusError> {
        self.0.with(|server, now| server.stream(stream).map(|_| server.wall_time(now)))
    }

    pub(crate) fn created_at(&self, stream: &str, durables: &[&str]) -> Result<DateTime<Utc>, BusError> {
        self.0.with(|server, _| {
            let mut made = server.stream(stream)?.made;
            for durable in durables {
                made = made.max(server.consumer(stream, durable)?.made);
            }
            Ok(server.wall_time(made))
        })
    }

    pub(crate) fn delete_stream(&self, stream: &str) -> Result<(), BusError> {
        self.0.with(|server, _| server.delete_stream(stream))
    }

    pub(crate) fn delete_consumer(&self, stream: &str, durable: &str) -> Result<(), BusError> {
        self.0.with(|server, _| server.delete_consumer(stream, durable))
    }

    pub(crate) async fn publish_core(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        #[cfg(debug_assertions)]
        if let Some(faults) = &self.1 {
            faults.to_bus().await?;
            if faults.strikes(Fault::NoticeLost) {
                return Ok(());
            }
        }
        self.0.with(|server, now| server.send(subject, payload, None, now));
        Ok(())
    }

    pub(crate) fn subscribe(&self, subject: &str, queue: Option<&str>) -> Subscription {
        let id = self.0.with(|server, _| server.core.subscribe(subject, queue));
        Subscription { bus: self.clone(), id }
    }

    pub(crate) async fn request(&self, subject: &str, payload: Bytes, wait: Duration) -> Result<Bytes, BusError> {
        #[cfg(debug_assertions)]
        if let Some(faults) = &self.1 {
            return faults.request(self.ask(subject, payload, wait)).await;
        }
        self.ask(subject, payload, wait).await
    }

    async fn ask(&self, subject: &str, payload: Bytes, wait: Duration) -> Result<Bytes, BusError> {
        let until = Instant::now() + wait;
        let mut answers = self.subscribe_inbox();
        let inbox = format!("{INBOX}.{}", answers.id);
        if self.0.with(|server, now| server.send(subject, payload, Some(&inbox), now)) == Sent::Nowhere {
            return Err(BusError::NoResponders(subject.to_owned()));
        }
        match timeout_at(until, answers.next()).await {
            Ok(Some(answer)) => Ok(answer.payload),
            Ok(None) | Err(_) => Err(BusError::Unavailable(format!("request to {subject}: no answer in {wait:?}"))),
        }
    }

    fn subscribe_inbox(&self) -> Subscription {
        let id = self.0.with(|server, _| server.core.subscribe_under(INBOX));
        Subscription { bus: self.clone(), id }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.0.with(|server, _| server.core.dropped)
    }
}

/// Where answers to requests go, a subject for each below it.
const INBOX: &str = "_INBOX";

/// What answers a delivery: its place in the stream and in the consumer.
#[derive(Debug)]
pub(crate) struct Answer {
    bus: MemoryBus,
    stream: Arc<str>,
    consumer: Arc<str>,
    sequence: u64,
    delivery: u64,
}

impl Answer {
    fn give(&self, verdict: Verdict) -> Option<Taken> {
        let Self { bus, stream, consumer, sequence, delivery } = self;
        bus.0.with(|server, now| server.answer(stream, consumer, *sequence, *delivery, verdict, now))
    }

    fn confirmed(&self, verdict: Verdict) -> Result<(), BusError> {
        match self.give(verdict) {
            Some(Taken::Noted) => Ok(()),
            // The server does not answer then.
            Some(Taken::Ignored) => Err(BusError::Unavailable(format!(
                "no confirmation: message {} of {} was not delivered to {}",
                self.sequence, self.stream, self.consumer
            ))),
            None => Err(BusError::NotFound(format!("consumer {} on {}", self.consumer, self.stream))),
        }
    }

    /// Says it, unless a simulation has it lost on the way.
    async fn send(&self, verdict: Verdict) -> Result<(), BusError> {
        #[cfg(debug_assertions)]
        if let Some(faults) = &self.bus.1
            && !faults.acknowledge().await?
        {
            return Ok(());
        }
        self.give(verdict);
        Ok(())
    }

    async fn send_confirmed(&self, verdict: Verdict) -> Result<(), BusError> {
        #[cfg(debug_assertions)]
        if let Some(faults) = &self.bus.1
            && !faults.acknowledge().await?
        {
            return Err(BusError::Unavailable("no confirmation".to_owned()));
        }
        self.confirmed(verdict)
    }

    pub(crate) async fn ack(&self) -> Result<(), BusError> {
        self.send(Verdict::Done).await
    }

    pub(crate) async fn ack_confirmed(&self) -> Result<(), BusError> {
        self.send_confirmed(Verdict::Done).await
    }

    pub(crate) async fn retry(&self, delay: Duration) -> Result<(), BusError> {
        self.send(Verdict::Retry(delay)).await
    }

    pub(crate) async fn terminate(&self) -> Result<(), BusError> {
        self.send_confirmed(Verdict::Done).await
    }

    pub(crate) async fn in_progress(&self) -> Result<(), BusError> {
        self.send(Verdict::InProgress).await
    }

    /// As if the ack wait were over after `delay`: it is out, and comes again.
    #[cfg(debug_assertions)]
    pub(crate) fn redeliver_after(&self, delay: Duration) {
        self.give(Verdict::Retry(delay));
    }
}

/// Pulls one durable consumer.
#[derive(Debug)]
pub struct Puller {
    bus: MemoryBus,
    stream: String,
    durable: String,
}

impl Puller {
    pub(crate) async fn fetch(&mut self, max: usize, wait: Duration) -> Result<Vec<Delivery>, BusError> {
        consume_budget().await;
        let until = Instant::now() + wait;
        loop {
            #[cfg(debug_assertions)]
            if let Some(faults) = &self.bus.1 {
                faults.to_bus().await?;
            }
            let more: Result<Vec<Delivery>, _> = self.bus.0.with(|server, now| {
                let taken = server.take(&self.stream, &self.durable, max, now)?;
                if taken.is_empty() {
                    let consumer = server.consumer(&self.stream, &self.durable)?;
                    return Ok(Err(consumer.wake.clone().notified_owned()));
                }
                let (stream, consumer) = server.names(&self.stream, &self.durable)?;
                let deliveries = taken.into_iter().map(|(handed_out, message)| Delivery {
                    message,
                    stream: self.stream.clone(),
                    consumer: self.durable.clone(),
                    deliveries: handed_out.deliveries,
                    pending: handed_out.pending,
                    answer: bus::Answer::Memory(Answer {
                        bus: self.bus.clone(),
                        stream: stream.clone(),
                        consumer: consumer.clone(),
                        sequence: handed_out.sequence,
                        delivery: handed_out.delivery,
                    }),
                });
                Ok(Ok(deliveries.collect()))
            })?;
            match more {
                Ok(deliveries) => {
                    #[cfg(debug_assertions)]
                    if let Some(faults) = &self.bus.1 {
                        return Ok(faults.hand_out(deliveries).await);
                    }
                    return Ok(deliveries);
                }
                Err(wake) => {
                    if !woken(wake, until).await {
                        return Ok(Vec::new());
                    }
                }
            }
        }
    }
}

/// Reads a stream in order.
#[derive(Debug)]
pub struct Replay {
    bus: MemoryBus,
    stream: String,
    incarnation: u64,
    filter: Option<String>,
    next: u64,
}

impl Replay {
    /// The next message, or how to hear of it.
    fn step(&mut self) -> Result<Result<StoredMessage, OwnedNotified>, BusError> {
        self.bus.0.with(|server, _| {
            let stream = server.stream(&self.stream)?;
            if stream.incarnation != self.incarnation {
                return Err(BusError::NotFound(format!("stream {}, which was made anew", self.stream)));
            }
            Ok(match stream.next_message(self.next, self.filter.as_deref()) {
                Some(message) => {
                    self.next = message.sequence + 1;
                    Ok(message.clone())
                }
                None => {
                    self.next = stream.last() + 1;
                    Err(stream.stored.clone().notified_owned())
                }
            })
        })
    }

    /// What is stored already.
    pub(crate) fn ready(&mut self) -> Result<Option<StoredMessage>, BusError> {
        Ok(self.step()?.ok())
    }

    pub(crate) fn is_at_end(&self) -> bool {
        let more = self.bus.0.with(|server, _| {
            let stream = server.stream(&self.stream)?;
            let same = stream.incarnation == self.incarnation;
            Ok::<_, BusError>(same && stream.next_message(self.next, self.filter.as_deref()).is_some())
        });
        !more.unwrap_or(false)
    }

    pub(crate) async fn next(&mut self, wait: Duration) -> Result<Option<StoredMessage>, BusError> {
        consume_budget().await;
        let until = Instant::now() + wait;
        loop {
            match self.step()? {
                Ok(message) => return Ok(Some(message)),
                Err(stored) => {
                    if !woken(stored, until).await {
                        return Ok(None);
                    }
                }
            }
        }
    }
}

/// A core subscription; ends when dropped.
#[derive(Debug)]
pub struct Subscription {
    bus: MemoryBus,
    id: u64,
}

impl Subscription {
    pub(crate) async fn next(&mut self) -> Option<CoreMessage> {
        consume_budget().await;
        loop {
            match self.bus.0.with(|server, _| server.core.next(self.id)) {
                Ok(message) => return message,
                Err(wake) => wake.notified().await,
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.bus.0.with(|server, _| server.core.unsubscribe(self.id));
    }
}
