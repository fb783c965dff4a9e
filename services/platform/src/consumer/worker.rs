//! The worker: brings every message that it pulls to its end, acknowledged, redelivered later, or dead-lettered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use streams::topology::{self, Consumer, MAX_DELIVER, TRIES};
use streams::{BusError, Delivery, Service};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{Instrument, Span};

use super::attempt::Executor;
use super::fast_lane::{self, FastMessage, Remembered};
use super::pull::{Pulling, health_part, put_back};
use super::requeue::{self, RequeueRequest};
use super::{Ended, Failure, Handler, LOOK_INTERVAL, Received, WAIT_MAX, WAITING_MAX, Waiting};
use crate::dead_letters::{self, FULL_STREAM_WAIT, FailedMessage};
use crate::event_metrics::{EventPath, LeftToStream};
use crate::store::{Retries, Retry, Store, StoreError};
use crate::{CancellationToken, Platform, kill_point, retry};

/// Messages whose failed attempts are counted. Beyond that the count of the one with the lowest sequence is forgotten and
/// begins again; the server's own count of deliveries still ends it.
const FAILED_ATTEMPTS_MAX: usize = 10_000;

/// A handler with the consumers that feed it.
pub struct Worker<H: Handler> {
    executor: Executor<H>,
    consumers: Vec<Consumer>,
    batch_max: usize,
    /// Of consumers with a fast lane.
    remembered: Remembered,
    /// Failed attempts of messages that will be redelivered, by consumer and sequence.
    failed_attempts: BTreeMap<(String, u64), u64>,
    /// Messages that wait for others, not acknowledged.
    waiting: Vec<Item>,
    /// What the handler is asked with of them; `None` if there are none.
    waiting_of: Option<Waiting>,
    /// See [`Self::woken_by`].
    wake: Option<Arc<Notify>>,
}

struct Item {
    delivery: Delivery,
    received: Received,
}

/// How it went with a group of messages.
enum Settled {
    Done,
    /// It failed as a group: its messages must be handled one by one.
    Apart,
    Ended(Ended),
}

impl<H: Handler> Worker<H> {
    /// A worker of `service` that hands batches of at most `batch_max` messages from `consumers` to `handler`.
    pub fn new(
        platform: &Platform,
        service: Service,
        store: &Store<H::Tables>,
        consumers: Vec<Consumer>,
        batch_max: usize,
        handler: H,
    ) -> Self {
        let executor = Executor { platform: platform.clone(), service, store: store.clone(), handler };
        let (remembered, failed_attempts) = (Remembered::default(), BTreeMap::new());
        let (waiting, waiting_of) = (Vec::new(), None);
        Self { executor, consumers, batch_max, remembered, failed_attempts, waiting, waiting_of, wake: None }
    }

    /// Calls the handler with an empty batch, as at [`Handler::wake_at`], whenever `wake` is notified: of a handler whose work does not
    /// come from a consumer.
    #[must_use]
    pub fn woken_by(self, wake: Arc<Notify>) -> Self {
        Self { wake: Some(wake), ..self }
    }

    fn platform(&self) -> &Platform {
        &self.executor.platform
    }

    fn service(&self) -> &'static str {
        self.executor.service.name()
    }

    /// Works until `stop` has begun; then finishes the batch in hand and puts back the rest.
    pub async fn run(mut self, stop: CancellationToken) -> Ended {
        let (to, mut from) = mpsc::channel::<Vec<Delivery>>(self.consumers.len().max(1));
        let mut pullers = JoinSet::new();
        for consumer in &self.consumers {
            let (platform, consumer) = (self.platform().clone(), consumer.clone());
            let pulling = Pulling { platform, consumer, batch_max: self.batch_max };
            pullers.spawn(pulling.run(to.clone(), stop.clone()));
        }
        // The channel stays open for a handler without consumers.
        let open = self.consumers.is_empty().then_some(to);
        let (to, mut requests) = mpsc::channel(requeue::REQUESTS_MAX);
        // Dropped, and so aborted, when this returns.
        let mut listeners = JoinSet::new();
        for consumer in &self.consumers {
            let (platform, store) = (self.platform().clone(), self.executor.store.clone());
            listeners.spawn(requeue::listen::<H>(platform, self.executor.service, store, consumer.clone(), to.clone()));
        }
        drop(to);
        let (to, mut fast) = mpsc::channel(fast_lane::WAITING_MAX);
        if let Some(group) = &self.platform().core_queue_group {
            let group = format!("{group}.{}", self.service());
            for consumer in self.consumers.iter().filter(|consumer| self.is_fast(&consumer.filter)) {
                let (platform, consumer) = (self.platform().clone(), consumer.clone());
                listeners.spawn(fast_lane::listen(platform, consumer, group.clone(), to.clone()));
            }
        }
        drop(to);
        let mut ended = self.work(&mut from, &mut fast, &mut requests, &mut pullers, &stop).await;
        if ended == Ended::Stopped {
            ended = self.handle_waiting(&stop).await.unwrap_or(ended);
        }
        for item in std::mem::take(&mut self.waiting) {
            // Fenced: another process handles it.
            let _ = item.delivery.retry(Duration::ZERO).await;
        }
        drop(open);
        from.close();
        while let Some(deliveries) = from.recv().await {
            put_back(&deliveries).await;
        }
        while let Some(puller) = pullers.join_next().await {
            if let Err(error) = puller
                && error.is_panic()
            {
                // Nothing would pull this consumer any more: the panic goes on, so that the process can end for it.
                std::panic::resume_unwind(error.into_panic());
            }
        }
        for consumer in &self.consumers {
            self.platform().health.remove(&health_part(consumer));
        }
        ended
    }

    async fn work(
        &mut self,
        from: &mut mpsc::Receiver<Vec<Delivery>>,
        fast: &mut mpsc::Receiver<FastMessage>,
        requests: &mut mpsc::Receiver<RequeueRequest>,
        pullers: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> Ended {
        loop {
            if self.is_waiting_over()
                && let Some(ended) = self.handle_waiting(stop).await
            {
                return ended;
            }
            let wake_at = self.executor.handler.wake_at().map(|at| self.platform().world.instant(at));
            let look_at = (!self.waiting.is_empty()).then(|| self.platform().world.now() + LOOK_INTERVAL);
            let look_at = look_at.map(|at| self.platform().world.instant(at));
            let mut deliveries = tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Stopped,
                Some(Err(error)) = pullers.join_next() => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return Ended::Stopped,
                },
                // Polled before the messages, so that a steady flow of them cannot starve the timer.
                () = sleep_until(wake_at) => Vec::new(),
                () = notified(self.wake.as_deref()) => Vec::new(),
                Some(request) = requests.recv() => match requeue::requeue(&mut self.executor, request).await {
                    Some(ended) => return ended,
                    None => continue,
                },
                next = from.recv() => match next {
                    Some(deliveries) => deliveries,
                    None => return Ended::Stopped,
                },
                // Last: a worker that has pulled messages is better off with these, in batches.
                Some(first) = fast.recv() => match self.process_fast(first, fast).await {
                    Some(ended) => return ended,
                    None => continue,
                },
                () = sleep_until(look_at) => continue,
            };
            while deliveries.len() < self.batch_max
                && let Ok(more) = from.try_recv()
            {
                deliveries.extend(more);
            }
            if let Some(ended) = self.process(deliveries, stop).await {
                return ended;
            }
            // What came by the fast lane meanwhile is left to its stream, so that nothing piles up.
            while let Ok(left) = fast.try_recv() {
                self.platform().metrics.events.left(&left.message.subject, LeftToStream::Busy);
            }
        }
    }

    /// Whether the fast lane brings the events of `subject` to this worker. Without an inbox they would have their effect twice.
    fn is_fast(&self, subject: &str) -> bool {
        H::INBOX && topology::is_fast(subject, self.executor.service)
    }

    /// Handles what came by the fast lane, at most a batch. What fails is left to its stream.
    async fn process_fast(&mut self, first: FastMessage, more: &mut mpsc::Receiver<FastMessage>) -> Option<Ended> {
        let mut messages = vec![first];
        while messages.len() < self.batch_max
            && let Ok(message) = more.try_recv()
        {
            messages.push(message);
        }
        let mut events = Vec::with_capacity(messages.len());
        for fast in messages {
            let metrics = &self.platform().metrics.events;
            let subject = fast.message.subject.clone();
            let read = fast_lane::received(fast, &self.platform().world);
            if !matches!(read, Ok(None)) {
                metrics.taken(&subject, EventPath::Core, 1);
            }
            match read {
                Ok(None) => metrics.left(&subject, LeftToStream::Unfit),
                Ok(Some(received)) if self.remembered.contains(&received) => {
                    metrics.duplicate(&subject, EventPath::Core);
                }
                Ok(Some(received)) => events.push(received),
                Err(error) => {
                    metrics.failed(&subject, EventPath::Core);
                    tracing::debug!(%error, subject, "an event of the fast lane is left to its stream");
                }
            }
        }
        if events.is_empty() {
            return None;
        }
        // As in `process`.
        events.sort_by_key(|received| received.event.entity_id());
        let batch: Vec<&Received> = events.iter().collect();
        let span = self.span(&batch);
        let mut retries = Retries::new(Retry::Serialization);
        match self.executor.execute(&batch, EventPath::Core, &mut retries).instrument(span).await {
            Ok(_) => events.iter().for_each(|received| self.remembered.insert(received)),
            Err(Failure::Fenced) => return Some(Ended::Fenced),
            Err(failure) => {
                for received in &events {
                    self.platform().metrics.events.failed(received.event.subject().as_str(), EventPath::Core);
                }
                tracing::debug!(%failure, events = events.len(), "events of the fast lane are left to their stream");
            }
        }
        None
    }

    /// Brings a batch to its end. An empty batch is the handler's timer.
    async fn process(&mut self, deliveries: Vec<Delivery>, stop: &CancellationToken) -> Option<Ended> {
        let is_timer = deliveries.is_empty();
        let mut items = Vec::with_capacity(deliveries.len());
        let mut done = Vec::new();
        // Counted together, because looking a counter up costs more than counting.
        let mut taken: Vec<(&'static str, u64)> = Vec::new();
        for delivery in deliveries {
            let metrics = &self.platform().metrics;
            if delivery.deliveries > 1 {
                metrics.redelivered.with_label_values(&[&delivery.consumer]).inc();
            }
            match Received::new(&delivery, &self.platform().world) {
                Ok(received) => {
                    let subject = received.event.subject().as_str();
                    match taken.iter_mut().find(|(of, _)| *of == subject) {
                        Some((_, count)) => *count += 1,
                        None => taken.push((subject, 1)),
                    }
                    if self.is_fast(subject) && self.remembered.contains(&received) {
                        metrics.events.duplicate(subject, EventPath::JetStream);
                        done.push(Item { delivery, received });
                    } else {
                        items.push(Item { delivery, received });
                    }
                }
                Err(error) => {
                    metrics.failed.with_label_values(&[&delivery.consumer]).inc();
                    let (id, headers) =
                        (dead_letters::message_id(&delivery.stream, &delivery.message), &delivery.message.headers);
                    let trace_id = headers.find("traceparent").and_then(|traceparent| traceparent.split('-').nth(1));
                    let span = tracing::info_span!("message", consumer = delivery.consumer, message_id = id, trace_id);
                    self.dead_letter(&delivery, &error.to_string(), stop).instrument(span).await;
                }
            }
        }
        for (subject, count) in taken {
            self.platform().metrics.events.taken(subject, EventPath::JetStream, count);
        }
        self.acknowledge(&done).await;
        if items.is_empty() && !is_timer {
            return None;
        }
        if !is_timer {
            let received: Vec<&Received> = items.iter().map(|item| &item.received).collect();
            self.executor.handler.arrived(&received).await;
            self.put_aside(&mut items);
            if items.is_empty() {
                return None;
            }
        }
        self.settle_all(VecDeque::from([items]), stop).await
    }

    /// Moves the messages that may wait for others from `items` to those that wait.
    fn put_aside(&mut self, items: &mut Vec<Item>) {
        let handler = &self.executor.handler;
        let may_wait = |item: &mut Item| item.received.deliveries <= 1 && handler.may_wait(&item.received);
        let now = self.platform().world.now();
        for item in items.extract_if(.., may_wait) {
            let sequence = item.received.sequence;
            let before = self.waiting_of.unwrap_or(Waiting { since: now, lowest_sequence: sequence });
            self.waiting_of = Some(Waiting { lowest_sequence: before.lowest_sequence.min(sequence), ..before });
            self.waiting.push(item);
        }
    }

    fn is_waiting_over(&mut self) -> bool {
        let Some(waiting) = self.waiting_of else { return false };
        let at = self.executor.handler.handle_waiting_at(&waiting).min(waiting.since + WAIT_MAX);
        self.waiting.len() >= WAITING_MAX || at <= self.platform().world.now()
    }

    /// Handles the messages that wait, in groups that are as large as a batch.
    async fn handle_waiting(&mut self, stop: &CancellationToken) -> Option<Ended> {
        self.waiting_of = None;
        let mut waiting = std::mem::take(&mut self.waiting);
        // All of an entity in one transaction, as far as possible.
        waiting.sort_by_key(|item| item.received.event.entity_id());
        let mut groups = VecDeque::new();
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(self.batch_max));
            groups.push_back(std::mem::replace(&mut waiting, rest));
        }
        self.settle_all(groups, stop).await
    }

    /// Brings each group to its end, as a whole or one by one. An empty group is the handler's timer.
    async fn settle_all(&mut self, mut groups: VecDeque<Vec<Item>>, stop: &CancellationToken) -> Option<Ended> {
        while let Some(mut group) = groups.pop_front() {
            // All workers lock rows in the order of ids, so that no two can deadlock.
            group.sort_by_key(|item| item.received.event.entity_id());
            let span = self.span(&group.iter().map(|item| &item.received).collect::<Vec<_>>());
            match self.settle(&group, &groups, stop).instrument(span).await {
                Settled::Done => {}
                Settled::Apart => groups.extend(group.into_iter().map(|item| vec![item])),
                Settled::Ended(ended) => {
                    for group in std::iter::once(group).chain(groups) {
                        for item in group {
                            let _ = item.delivery.retry(Duration::ZERO).await;
                        }
                    }
                    return Some(ended);
                }
            }
        }
        None
    }

    /// The span of all log lines about `group`, the handler's included.
    fn span(&self, group: &[&Received]) -> Span {
        match group {
            [] => tracing::info_span!("timer", service = self.service()),
            [received] => tracing::info_span!(
                "message",
                consumer = received.consumer,
                message_id = received.id,
                trace_id = received.trace.trace_id()
            ),
            _ => {
                let mut consumers: Vec<&str> = group.iter().map(|received| received.consumer.as_str()).collect();
                consumers.sort_unstable();
                consumers.dedup();
                tracing::info_span!("batch", service = self.service(), ?consumers, size = group.len())
            }
        }
    }

    /// Brings `group` to its end, and meanwhile reports `rest`, which waits behind it, as in progress.
    async fn settle(&mut self, group: &[Item], rest: &VecDeque<Vec<Item>>, stop: &CancellationToken) -> Settled {
        let mut hold_delays = retry::dependency();
        let mut retries = Retries::new(Retry::Serialization);
        let batch: Vec<&Received> = group.iter().map(|item| &item.received).collect();
        loop {
            let failure = match self.executor.execute(&batch, EventPath::JetStream, &mut retries).await {
                Ok(_) => {
                    for received in batch {
                        if self.is_fast(received.event.subject().as_str()) {
                            self.remembered.insert(received);
                        }
                    }
                    self.acknowledge(group).await;
                    return Settled::Done;
                }
                Err(failure) => failure,
            };
            match (failure, group) {
                (Failure::Fenced, _) => return Settled::Ended(Ended::Fenced),
                (failure @ (Failure::Store(StoreError::Unavailable(_)) | Failure::Busy(_)), _) => {
                    // The messages are not at fault: they stay in hand, nothing more is pulled, and no attempt is counted.
                    if let Failure::Store(StoreError::Unavailable(why)) = &failure {
                        let part = format!("database {}", self.service());
                        self.platform().health.set_unhealthy(&part, why);
                    }
                    tracing::warn!(service = self.service(), why = %failure, "messages are held");
                    for item in group.iter().chain(rest.iter().flatten()) {
                        let _ = item.delivery.in_progress().await;
                    }
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return Settled::Ended(Ended::Stopped),
                        () = sleep(hold_delays.next_delay()) => {}
                    }
                }
                (failure, []) => {
                    tracing::error!(service = self.service(), %failure, "the timer of the handler failed");
                    sleep(Duration::from_secs(1)).await;
                    return Settled::Done;
                }
                (failure, [item]) => {
                    self.fail(item, &failure, stop).await;
                    return Settled::Done;
                }
                (_, _) => return Settled::Apart,
            }
        }
    }

    async fn acknowledge(&self, group: &[Item]) {
        for item in group {
            if let Err(error) = item.delivery.ack().await {
                tracing::warn!(%error, consumer = item.delivery.consumer, "an acknowledgement was not sent; the message will be redelivered");
            }
        }
        for consumer in &self.consumers {
            let count = group.iter().filter(|item| item.delivery.consumer == consumer.durable).count();
            self.platform().metrics.handled.with_label_values(&[&consumer.durable]).inc_by(count as u64);
        }
    }

    /// Has a failed message redelivered, or dead-letters it.
    async fn fail(&mut self, item: &Item, failure: &Failure, stop: &CancellationToken) {
        let (delivery, consumer) = (&item.delivery, &item.delivery.consumer);
        self.platform().metrics.failed.with_label_values(&[consumer]).inc();
        self.platform().metrics.events.failed(item.received.event.subject().as_str(), EventPath::JetStream);
        // A delivery that was put back, or lost with its process, is no attempt. The server counts it all the same, so its
        // count is only the last resort.
        let key = (consumer.clone(), delivery.message.sequence);
        let attempts = self.failed_attempts.get(&key).copied().unwrap_or(0) + 1;
        let is_last = attempts >= TRIES || delivery.deliveries >= MAX_DELIVER.unsigned_abs() - 1;
        if is_last || matches!(failure, Failure::Permanent(_)) {
            self.failed_attempts.remove(&key);
            self.dead_letter(delivery, &failure.to_string(), stop).await;
            return;
        }
        if self.failed_attempts.len() >= FAILED_ATTEMPTS_MAX {
            self.failed_attempts.pop_first();
        }
        self.failed_attempts.insert(key, attempts);
        let delay = retry::redelivery(attempts);
        tracing::warn!(consumer, %failure, attempts, deliveries = delivery.deliveries, ?delay, "the message will be redelivered");
        let _ = delivery.retry(delay).await;
    }

    /// Stores the dead letter of a message, and then terminates the message.
    async fn dead_letter(&self, delivery: &Delivery, reason: &str, stop: &CancellationToken) {
        let consumer = &delivery.consumer;
        let (stream, message, deliveries) = (&delivery.stream, &delivery.message, delivery.deliveries);
        let failed = FailedMessage { stream, consumer, message, deliveries, reason };
        let mut letter = failed.dead_letter(self.platform().world.now());
        let mut delays = retry::dependency();
        kill_point::reached("consumer.before_letter");
        let is_new = loop {
            match dead_letters::store_once(self.platform(), &mut letter, message.stored_at).await {
                Ok(is_new) => break is_new,
                Err(BusError::Full(why)) => {
                    tracing::error!(consumer, why, "no room for a dead letter: empty DEAD_LETTER_STREAM");
                    let _ = delivery.retry(FULL_STREAM_WAIT).await;
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, consumer, "a dead letter could not be stored yet");
                    let _ = delivery.in_progress().await;
                }
            }
            tokio::select! {
                biased;
                // Not terminated, so the server redelivers it, to this process or to another.
                () = stop.cancelled() => return,
                () = sleep(delays.next_delay()) => {}
            }
        };
        kill_point::reached("consumer.before_term");
        if let Err(error) = delivery.terminate().await {
            tracing::warn!(%error, consumer, "a dead-lettered message was not terminated; its redelivery makes no second letter");
        }
        if is_new {
            self.platform().metrics.dead_lettered.with_label_values(&[consumer]).inc();
            tracing::error!(consumer, reason, sequence = message.sequence, deliveries, "dead letter");
        }
    }
}

async fn notified(wake: Option<&Notify>) {
    match wake {
        Some(wake) => wake.notified().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
