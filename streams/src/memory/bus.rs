//! The handle of the memory bus: the lock, the timer, publishers that wait for room, core messages and requests.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, coop::consume_budget};
use tokio::time::{Instant, timeout_at};

use super::server::{SendResult, Server};
use super::stream::{NotStored, Stream};
use crate::bus::message::{
    BusError, ConsumerInfo, CoreMessage, Headers, Message, Published, REPLIES_MAX, StoredMessage, StreamInfo,
};
use crate::bus::open::{OpenSubscription, OpenSubscriptions};
use crate::simulation::{Fault, Faults};
use crate::topology::{self, Consumer, ConsumerState, Mode, StreamState, Topology, TopologyState};

/// How long a publisher waits for room in a stream.
const ROOM_WAIT: Duration = Duration::from_secs(5);
/// The prefix of the subjects on which requests wait for their reply.
const INBOX: &str = "_INBOX";

/// The bus of one process; clones share it.
#[derive(Clone)]
pub struct MemoryBus {
    shared: Arc<Shared>,
    /// What this process meets on its way to the bus.
    pub(super) faults: Faults,
    pub(crate) subscriptions: OpenSubscriptions,
    pub(crate) is_shared: bool,
}

struct Shared {
    server: Mutex<Server>,
    /// Notified when something is due earlier than the timer knows.
    earlier: Arc<Notify>,
    timer: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for MemoryBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBus").finish_non_exhaustive()
    }
}

impl Shared {
    /// Runs one operation under the lock, after everything that is due by now. Every operation of the bus passes here.
    fn with<T>(self: &Arc<Self>, operation: impl FnOnce(&mut Server, Instant) -> T) -> T {
        let now = Instant::now();
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        server.advance(now);
        let result = operation(&mut server, now);
        let is_earlier = std::mem::take(&mut server.alarm.is_earlier);
        drop(server);
        if is_earlier {
            self.reset_timer();
        }
        result
    }

    /// Has a task do what is due even if no operation comes. Without a runtime, the next operation does it.
    fn reset_timer(self: &Arc<Self>) {
        self.earlier.notify_one();
        let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        if timer.as_ref().is_none_or(JoinHandle::is_finished)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            *timer = Some(runtime.spawn(run_timer(Arc::downgrade(self), self.earlier.clone())));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.earlier.notify_one();
    }
}

async fn run_timer(bus: Weak<Shared>, earlier: Arc<Notify>) {
    loop {
        let next = match bus.upgrade() {
            None => return,
            Some(bus) => bus.with(|server, _| server.alarm.next()),
        };
        match next {
            None => earlier.notified().await,
            // Due or earlier: either way the loop reads the alarm again.
            Some(next) => drop(timeout_at(next, earlier.notified()).await),
        }
    }
}

/// Waits for `notified`, at most until `until`. False if that moment came first.
pub(super) async fn notified_by(notified: impl Future<Output = ()>, until: Instant) -> bool {
    Instant::now() < until && timeout_at(until, notified).await.is_ok()
}

impl MemoryBus {
    /// An empty bus. Its wall time is `started_at` plus tokio's clock since now. `queue_size` is the number of messages that a
    /// stream may hold: beyond it, publishers wait, or the oldest message goes on a stream that discards the old.
    pub fn new(started_at: DateTime<Utc>, queue_size: usize) -> Self {
        let shared = Shared {
            server: Mutex::new(Server::new(started_at, queue_size)),
            earlier: Arc::default(),
            timer: Mutex::default(),
        };
        let (faults, subscriptions) = (Faults::default(), OpenSubscriptions::default());
        Self { shared: Arc::new(shared), faults, subscriptions, is_shared: false }
    }

    /// The same bus for several processes of a simulation, which say to each other what processes on NATS do.
    #[must_use]
    pub fn for_several_processes(self) -> Self {
        Self { is_shared: true, ..self }
    }

    /// The same bus for one process of a simulation, which meets these faults.
    pub fn with_faults(&self, faults: &Faults) -> Self {
        let subscriptions = OpenSubscriptions::default();
        Self { shared: self.shared.clone(), faults: faults.clone(), subscriptions, is_shared: self.is_shared }
    }

    /// Has interest streams and work queues lose their duplicate windows, as a restart of a server does. For a simulation.
    pub fn forget_message_ids(&self) {
        self.with(|server, _| server.streams.values_mut().for_each(Stream::forget_message_ids));
    }

    pub(super) fn with<T>(&self, operation: impl FnOnce(&mut Server, Instant) -> T) -> T {
        self.shared.with(operation)
    }

    pub(crate) fn apply(&self, topology: &Topology) -> Result<Vec<String>, BusError> {
        self.with(|server, now| server.reconcile(topology, Mode::Apply, now))
    }

    pub(crate) fn compare(&self, topology: &Topology) -> Result<Vec<String>, BusError> {
        self.with(|server, now| server.reconcile(topology, Mode::Compare, now))
    }

    pub(crate) fn observe(&self, topology: &Topology) -> Result<TopologyState, BusError> {
        self.with(|server, now| {
            let mut state = TopologyState::default();
            state.differences = server.reconcile(topology, Mode::Compare, now)?;
            for topology::Stream { name, .. } in &topology.streams {
                if let Ok(found) = server.stream(name) {
                    let created_at = server.wall_time(found.created_at);
                    state.set_stream(name, Ok(StreamState { created_at, info: found.info() }));
                }
            }
            for Consumer { stream, durable, .. } in &topology.consumers {
                if let Ok(found) = server.consumer(stream, durable) {
                    let created_at = server.wall_time(found.created_at);
                    state.set_consumer(stream, durable, Ok(ConsumerState { created_at, info: found.info() }));
                }
            }
            Ok(state)
        })
    }

    pub(crate) async fn publish(&self, message: Message) -> Result<Published, BusError> {
        self.faults.hops(1).await;
        let until = Instant::now() + ROOM_WAIT;
        self.faults.publish(self.publish_until(message, until)).await
    }

    pub(crate) async fn publish_all(&self, messages: Vec<Message>) -> Vec<Result<Published, BusError>> {
        self.faults.hops(messages.len()).await;
        // One wait for all of them: if a stream stays full, it refuses the later messages at once.
        let until = Instant::now() + ROOM_WAIT;
        let mut results = Vec::with_capacity(messages.len());
        for message in messages {
            results.push(self.faults.publish(self.publish_until(message, until)).await);
        }
        results
    }

    async fn publish_until(&self, mut message: Message, until: Instant) -> Result<Published, BusError> {
        consume_budget().await;
        message.headers.sort();
        loop {
            let outcome = self.with(|server, now| match server.publish(&message, now) {
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
                        && notified_by(room, until).await
                    {
                        continue;
                    }
                    self.with(|server, _| server.send_copy(&message));
                    let text = format!("{}: maximum messages exceeded, no room came in {ROOM_WAIT:?}", message.subject);
                    return Err(BusError::Full(text));
                }
            }
        }
    }

    pub(crate) fn stream_info(&self, stream: &str) -> Result<StreamInfo, BusError> {
        self.with(|server, _| Ok(server.stream(stream)?.info()))
    }

    pub(crate) fn consumer_info(&self, stream: &str, durable: &str) -> Result<ConsumerInfo, BusError> {
        self.with(|server, _| Ok(server.consumer(stream, durable)?.info()))
    }

    pub(crate) fn get_message(&self, stream: &str, sequence: u64) -> Result<StoredMessage, BusError> {
        self.with(|server, _| {
            let found = server.stream(stream)?.message(sequence).cloned();
            found.ok_or_else(|| BusError::NotFound(format!("message {sequence} of {stream}")))
        })
    }

    pub(crate) fn delete_message(&self, stream: &str, sequence: u64) -> Result<(), BusError> {
        self.with(|server, _| {
            let found = server.stream_mut(stream)?;
            if found.message(sequence).is_none() {
                return Err(BusError::NotFound(format!("message {sequence} of {stream}")));
            }
            found.delete_message(sequence);
            Ok(())
        })
    }

    pub(crate) fn last_message(&self, stream: &str, subject: &str) -> Result<StoredMessage, BusError> {
        self.with(|server, _| {
            let found = server.stream(stream)?.last_message(subject).cloned();
            found.ok_or_else(|| BusError::NotFound(format!("a message on {subject} of {stream}")))
        })
    }

    pub(crate) fn server_time(&self, stream: &str) -> Result<DateTime<Utc>, BusError> {
        self.with(|server, now| server.stream(stream).map(|_| server.wall_time(now)))
    }

    pub(crate) fn created_at(&self, stream: &str, durables: &[&str]) -> Result<DateTime<Utc>, BusError> {
        self.with(|server, _| {
            let mut created_at = server.stream(stream)?.created_at;
            for durable in durables {
                created_at = created_at.max(server.consumer(stream, durable)?.created_at);
            }
            Ok(server.wall_time(created_at))
        })
    }

    pub(crate) fn delete_stream(&self, stream: &str) -> Result<(), BusError> {
        self.with(|server, _| server.delete_stream(stream))
    }

    pub(crate) fn delete_consumer(&self, stream: &str, durable: &str) -> Result<(), BusError> {
        self.with(|server, _| server.delete_consumer(stream, durable))
    }

    pub(crate) fn recreate_consumer(&self, consumer: &Consumer, from: DateTime<Utc>) -> Result<(), BusError> {
        self.with(|server, now| server.recreate_consumer(consumer, from, now))
    }

    pub(crate) async fn publish_core(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        self.faults.reach_bus().await?;
        self.faults.hops(1).await;
        if !self.faults.occurs(Fault::CoreMessageLost) {
            self.with(|server, now| server.send(subject, payload, None, now));
        }
        Ok(())
    }

    pub(crate) async fn reply(&self, to: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        self.faults.reach_bus().await?;
        self.faults.hops(1).await;
        if !self.faults.occurs(Fault::CoreMessageLost) {
            // No stream captures an inbox.
            self.with(|server, _| server.send_copy(&Message { subject: to.to_owned(), headers, payload }));
        }
        Ok(())
    }

    pub(crate) fn subscribe(&self, subject: &str, queue: Option<&str>) -> Subscription {
        let id = self.with(|server, _| server.core.subscribe(subject, queue));
        Subscription { bus: self.clone(), id, _open: Some(self.subscriptions.open()) }
    }

    pub(crate) async fn request(&self, subject: &str, payload: Bytes, wait: Duration) -> Result<Bytes, BusError> {
        self.faults.request(self.send_request(subject, payload, wait)).await
    }

    async fn send_request(&self, subject: &str, payload: Bytes, wait: Duration) -> Result<Bytes, BusError> {
        let until = Instant::now() + wait;
        let id = self.with(|server, _| server.core.subscribe_inbox(INBOX));
        let mut replies = Subscription { bus: self.clone(), id, _open: None };
        let inbox = format!("{INBOX}.{id}");
        if self.with(|server, now| server.send(subject, payload, Some(&inbox), now)) == SendResult::NoResponders {
            return Err(BusError::NoResponders(subject.to_owned()));
        }
        match timeout_at(until, replies.next()).await {
            Ok(Some(reply)) => Ok(reply.payload),
            Ok(None) | Err(_) => Err(BusError::Unavailable(format!("request to {subject}: no answer in {wait:?}"))),
        }
    }

    pub(crate) async fn request_all(
        &self,
        subject: &str,
        payload: Bytes,
        waits: (Duration, Duration),
    ) -> Result<Vec<Bytes>, BusError> {
        self.faults.request(self.send_to_all(subject, payload, waits)).await
    }

    async fn send_to_all(
        &self,
        subject: &str,
        payload: Bytes,
        (wait, quiet): (Duration, Duration),
    ) -> Result<Vec<Bytes>, BusError> {
        let until = Instant::now() + wait;
        let id = self.with(|server, _| server.core.subscribe_inbox(INBOX));
        let mut incoming = Subscription { bus: self.clone(), id, _open: None };
        let inbox = format!("{INBOX}.{id}");
        if self.with(|server, now| server.send(subject, payload, Some(&inbox), now)) == SendResult::NoResponders {
            return Err(BusError::NoResponders(subject.to_owned()));
        }
        let mut replies = Vec::new();
        let mut next_by = until;
        while replies.len() < REPLIES_MAX
            && let Ok(Some(reply)) = timeout_at(next_by, incoming.next()).await
        {
            replies.push(reply.payload);
            next_by = until.min(Instant::now() + quiet);
        }
        Ok(replies)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.with(|server, _| server.core.dropped)
    }
}

/// A subscription to core messages; ends when dropped.
#[derive(Debug)]
pub struct Subscription {
    bus: MemoryBus,
    id: u64,
    /// None for the inbox of a request.
    _open: Option<OpenSubscription>,
}

impl Subscription {
    pub(crate) async fn next(&mut self) -> Option<CoreMessage> {
        consume_budget().await;
        // Not after a message was taken: whoever stops waiting then would lose it.
        self.bus.faults.not_busy().await;
        loop {
            match self.bus.with(|server, _| server.core.next(self.id)) {
                // A published message alone has headers. It comes from its stream as well.
                Ok(Some(copy)) if !copy.headers.is_empty() && self.bus.faults.occurs(Fault::CoreMessageLost) => {}
                Ok(message) => {
                    self.bus.faults.add_hops(message.iter().len());
                    return message;
                }
                Err(wake) => wake.notified().await,
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.bus.with(|server, _| server.core.unsubscribe(self.id));
    }
}
