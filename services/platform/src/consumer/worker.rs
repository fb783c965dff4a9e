//! The transactional consumer: the one mechanism that all handlers share.
//!
//! Pull a batch → one transaction: note the message ids in the inbox (what was noted before is passed over), let the handler
//! change rows and put events into the outbox → commit → acknowledge. A batch that fails is tried again one message at a
//! time, so that a poisoned message delays no other. A message that fails comes again after a delay that grows; after the
//! last try, or at once if it can never succeed, it goes to the dead letters. While the database is away nothing is pulled,
//! what is held is kept alive, and no try is used up: that is not the message's fault.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use streams::bus::Puller;
use streams::topology::{Consumer, MAX_DELIVER, TRIES};
use streams::{BusError, Delivery, Event, EventError, Service};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::requeue::{self, Asked};
use crate::store::{Store, StoreError, Tables, Transaction};
use crate::world::Trace;
use crate::{CancellationToken, Platform, dead_letters, kill_point, retry};
use dead_letters::Failed;

/// The wait of one pull for a first message.
const PULL_WAIT: Duration = Duration::from_secs(5);
/// The most that one try may take; well inside every ack wait.
pub(super) const TRY_WAIT: Duration = Duration::from_secs(20);
/// Tries of a batch that met another transaction before it is taken apart.
pub(super) const MEETINGS: u32 = 5;
/// Messages whose failed tries are counted; beyond that the oldest begins anew, and the server's own count ends it.
const FAILURES_MAX: usize = 10_000;
/// The pause before a message is tried again whose dead letter finds the stream full.
pub(crate) const FULL_WAIT: Duration = Duration::from_secs(60);

/// An event as a handler gets it.
#[derive(Debug, Clone)]
pub struct Received {
    /// What happened.
    pub event: Event,
    /// The message id: the same for each repeat.
    pub id: String,
    /// What the inbox notes: the id, or, for a message without one, its place and the time of its storage, because the
    /// sequences of a stream made anew begin again.
    pub(super) note: String,
    /// The trace to which what follows belongs.
    pub trace: Trace,
    /// The consumer that it came by.
    pub consumer: String,
    /// When the stream stored it.
    pub stored_at: DateTime<Utc>,
    /// How often it was delivered, this time included.
    pub deliveries: u64,
}

/// Why a handler did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// May work later: tried again after a delay.
    #[error("{0}")]
    Transient(String),
    /// Will never work: dead-lettered at once.
    #[error("{0}")]
    Permanent(String),
    /// Another process has taken over this one's part: it must stop, and what it holds goes back.
    #[error("another process has taken over")]
    Fenced,
    /// The store's answer says which it is.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a service does with events. All work of one handler goes through one task, one transaction at a time.
pub trait Handler: Send + 'static {
    /// The service's own tables in memory.
    type Tables: crate::store::Tables;

    /// Whether repeats are told by the inbox. False only where the rows themselves tell them.
    const INBOX: bool = true;

    /// Whether this batch changes rows at all; if not, `committed` is called at once, without a transaction.
    fn writes(&self, _batch: &[&Received]) -> bool {
        true
    }

    /// Changes rows and publishes, through `tx` only, for a batch that holds no repeats. Called with an empty batch when
    /// the time of [`wake_at`](Self::wake_at) has come. The same batch may come again after a rollback.
    fn handle(
        &mut self,
        tx: &mut Transaction<Self::Tables>,
        batch: &[&Received],
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The transaction of `handle` is committed: change what is cached in memory, tell who waits.
    fn committed(&mut self, _batch: &[&Received]) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// The transaction of `handle` was rolled back, or its outcome is not known: forget what was prepared.
    fn rolled_back(&mut self) {}

    /// When to call `handle` although nothing has arrived.
    fn wake_at(&self) -> Option<DateTime<Utc>> {
        None
    }
}

/// Why a worker returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// Its handler said that another process has taken over.
    Fenced,
}

/// A handler with the consumers that feed it.
#[derive(Debug)]
pub struct Worker<H: Handler> {
    pub(super) platform: Platform,
    service: Service,
    store: Store<H::Tables>,
    consumers: Vec<Consumer>,
    batch_max: usize,
    pub(super) handler: H,
    /// Tries that failed here, by consumer and sequence, of messages that will come again.
    failures: BTreeMap<(String, u64), u64>,
}

struct Item {
    delivery: Delivery,
    received: Received,
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
        Self {
            platform: platform.clone(),
            service,
            store: store.clone(),
            consumers,
            batch_max,
            handler,
            failures: BTreeMap::new(),
        }
    }

    /// Works until `stop` has begun; then finishes the batch in hand and puts back the rest.
    pub async fn run(mut self, stop: CancellationToken) -> Ended {
        let (to, mut from) = mpsc::channel::<Vec<Delivery>>(self.consumers.len().max(1));
        let mut pullers = JoinSet::new();
        for consumer in &self.consumers {
            pullers.spawn(pull(self.platform.clone(), consumer.clone(), self.batch_max, to.clone(), stop.clone()));
        }
        drop(to);
        // About dead letters; they end with this.
        let (ask, mut asked) = mpsc::channel(requeue::ASKED_MAX);
        let mut listeners = JoinSet::new();
        for consumer in &self.consumers {
            let (platform, store) = (self.platform.clone(), self.store.clone());
            listeners.spawn(requeue::listen::<H>(platform, store, consumer.clone(), ask.clone()));
        }
        drop(ask);
        let ended = self.work(&mut from, &mut asked, &mut pullers, &stop).await;
        from.close();
        while let Some(deliveries) = from.recv().await {
            put_back(&deliveries).await;
        }
        while let Some(puller) = pullers.join_next().await {
            if let Err(error) = puller
                && error.is_panic()
            {
                // Nobody would pull any more: let it be seen where the process can end for it.
                std::panic::resume_unwind(error.into_panic());
            }
        }
        for consumer in &self.consumers {
            self.platform.health.remove(&part(consumer));
        }
        ended
    }

    async fn work(
        &mut self,
        from: &mut mpsc::Receiver<Vec<Delivery>>,
        asked: &mut mpsc::Receiver<Asked>,
        pullers: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> Ended {
        loop {
            let wake = self.handler.wake_at().map(|at| self.platform.world.instant(at));
            let mut deliveries = tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Stopped,
                Some(Err(error)) = pullers.join_next() => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return Ended::Stopped,
                },
                // Asked for here and polled first, so that a stream of messages cannot starve the timer.
                () = sleep_until(wake) => Vec::new(),
                Some(asked) = asked.recv() => match self.requeue(asked).await {
                    Some(ended) => return ended,
                    None => continue,
                },
                next = from.recv() => match next {
                    Some(deliveries) => deliveries,
                    None => return Ended::Stopped,
                },
            };
            while deliveries.len() < self.batch_max
                && let Ok(more) = from.try_recv()
            {
                deliveries.extend(more);
            }
            if let Some(ended) = self.process(deliveries, stop).await {
                return ended;
            }
        }
    }

    /// Brings a batch to its end: each message acknowledged, put back with a delay, or dead-lettered.
    async fn process(&mut self, deliveries: Vec<Delivery>, stop: &CancellationToken) -> Option<Ended> {
        let tick = deliveries.is_empty();
        let mut good = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            if delivery.deliveries > 1 {
                self.platform.metrics.redelivered.with_label_values(&[&delivery.consumer]).inc();
            }
            match self.receive(&delivery) {
                Ok(received) => good.push(Item { delivery, received }),
                Err(error) => {
                    self.platform.metrics.failed.with_label_values(&[&delivery.consumer]).inc();
                    self.dead_letter(&delivery, &error.to_string(), stop).await;
                }
            }
        }
        if good.is_empty() && !tick {
            return None;
        }
        // Rows are always locked in the order of their ids, so that two workers do not wait for each other.
        good.sort_by_key(|item| item.received.event.entity_id());
        let mut groups = VecDeque::from([good]);
        while let Some(group) = groups.pop_front() {
            match self.settle(&group, &groups, stop).await {
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

    /// Brings `group` to its end, keeping `rest`, which waits behind it, alive.
    async fn settle(&mut self, group: &[Item], rest: &VecDeque<Vec<Item>>, stop: &CancellationToken) -> Settled {
        let mut away = retry::dependency();
        let mut meetings = 0;
        loop {
            let all: Vec<&Received> = group.iter().map(|item| &item.received).collect();
            let attempt = AssertUnwindSafe(self.attempt(&all)).catch_unwind();
            let failure = match timeout(TRY_WAIT, attempt).await {
                Ok(Ok(Ok(new))) => {
                    self.handler.committed(&new).await;
                    self.finish(group).await;
                    return Settled::Done;
                }
                Ok(Ok(Err(failure))) => failure,
                // A message that makes the handler panic must not take the process with it, and its neighbours.
                Ok(Err(_)) => Failure::Permanent("the handler panicked".to_owned()),
                // Handlers await nothing but the store. If it was the commit, the inbox will tell.
                Err(_) => StoreError::Unavailable(format!("not done in {TRY_WAIT:?}")).into(),
            };
            self.handler.rolled_back();
            match failure {
                Failure::Fenced => return Settled::Ended(Ended::Fenced),
                Failure::Store(StoreError::Unavailable(why)) => {
                    // The dependency is away: hold what we have, pull no more, use up no try.
                    let name = format!("database {}", self.service);
                    self.platform.health.set_unhealthy(&name, &why);
                    tracing::warn!(service = self.service.name(), why, "the database is away; holding");
                    for item in group.iter().chain(rest.iter().flatten()) {
                        let _ = item.delivery.in_progress().await;
                    }
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return Settled::Ended(Ended::Stopped),
                        () = sleep(away.next_delay()) => {}
                    }
                }
                Failure::Store(StoreError::Serialization(why)) if meetings < MEETINGS => {
                    meetings += 1;
                    tracing::debug!(service = self.service.name(), why, "met another transaction");
                    sleep(Duration::from_millis(u64::from(5 + self.platform.world.below(20)))).await;
                }
                failure => match group {
                    [] => {
                        tracing::error!(service = self.service.name(), %failure, "timed work failed");
                        sleep(Duration::from_secs(1)).await;
                        return Settled::Done;
                    }
                    [item] => {
                        self.fail(item, &failure, stop).await;
                        return Settled::Done;
                    }
                    _ => return Settled::Apart,
                },
            }
        }
    }

    /// One transaction; what in it was new.
    pub(super) async fn attempt<'a>(&mut self, all: &[&'a Received]) -> Result<Vec<&'a Received>, Failure> {
        if !all.is_empty() && !self.handler.writes(all) {
            return Ok(all.to_vec());
        }
        let began = self.platform.world.now();
        let mut tx = self.store.begin().await?;
        self.platform.health.set_healthy(&format!("database {}", self.service));
        let new = if H::INBOX { unseen(&mut tx, all).await? } else { all.to_vec() };
        if !all.is_empty() {
            kill_point::reached("consumer.before_handler");
        }
        if !new.is_empty() || all.is_empty() {
            self.handler.handle(&mut tx, &new).await?;
        }
        if !all.is_empty() {
            kill_point::reached("consumer.before_commit");
        }
        tx.commit().await?;
        if !all.is_empty() {
            kill_point::reached("consumer.before_ack");
        }
        let took = (self.platform.world.now() - began).as_seconds_f64();
        self.platform.metrics.handler_seconds.with_label_values(&[self.service.name()]).observe(took);
        Ok(new)
    }

    async fn finish(&self, group: &[Item]) {
        for item in group {
            if let Err(error) = item.delivery.ack().await {
                tracing::warn!(%error, consumer = item.delivery.consumer, "an acknowledgement was not sent; the message will come again");
            }
        }
        for consumer in &self.consumers {
            let count = group.iter().filter(|item| item.delivery.consumer == consumer.durable).count();
            self.platform.metrics.handled.with_label_values(&[&consumer.durable]).inc_by(count as u64);
        }
    }

    async fn fail(&mut self, item: &Item, failure: &Failure, stop: &CancellationToken) {
        let (delivery, consumer) = (&item.delivery, &item.delivery.consumer);
        self.platform.metrics.failed.with_label_values(&[consumer]).inc();
        // A delivery that was put back, or lost with a process, is no try of the message; but the server counts it.
        let place = (consumer.clone(), delivery.message.sequence);
        let tries = self.failures.get(&place).copied().unwrap_or(0) + 1;
        let last = tries >= TRIES || delivery.deliveries >= MAX_DELIVER.unsigned_abs() - 1;
        if last || matches!(failure, Failure::Permanent(_)) {
            self.failures.remove(&place);
            self.dead_letter(delivery, &failure.to_string(), stop).await;
            return;
        }
        if self.failures.len() >= FAILURES_MAX {
            self.failures.pop_first();
        }
        self.failures.insert(place, tries);
        let delay = retry::redelivery(tries);
        tracing::warn!(consumer, %failure, deliveries = delivery.deliveries, ?delay, message_id = item.received.id, "will be tried again");
        let _ = delivery.retry(delay).await;
    }

    fn receive(&self, delivery: &Delivery) -> Result<Received, EventError> {
        let message = &delivery.message;
        let event = Event::parse(&message.subject, &message.payload)?;
        let id = dead_letters::message_id(&delivery.stream, message);
        Ok(Received {
            event,
            note: dead_letters::note(&id, &delivery.stream, message.sequence, message.stored_at),
            id,
            trace: Trace::follow(message.headers.find("traceparent"), &self.platform.world),
            consumer: delivery.consumer.clone(),
            stored_at: message.stored_at,
            deliveries: delivery.deliveries,
        })
    }

    async fn dead_letter(&self, delivery: &Delivery, reason: &str, stop: &CancellationToken) {
        let consumer = &delivery.consumer;
        let (stream, message, deliveries) = (&delivery.stream, &delivery.message, delivery.deliveries);
        let failed = Failed { stream, consumer, message, deliveries, reason };
        let mut letter = failed.letter(self.platform.world.now());
        let mut delays = retry::dependency();
        kill_point::reached("consumer.before_letter");
        let new = loop {
            match dead_letters::store(&self.platform, &mut letter, message.stored_at).await {
                Ok(new) => break new,
                Err(BusError::Full(why)) => {
                    tracing::error!(consumer, why, "no room for a dead letter: empty DEAD_LETTER_STREAM");
                    let _ = delivery.retry(FULL_WAIT).await;
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, consumer, "a dead letter waits");
                    let _ = delivery.in_progress().await;
                }
            }
            tokio::select! {
                biased;
                // Not terminated, so it comes again, to this process or another.
                () = stop.cancelled() => return,
                () = sleep(delays.next_delay()) => {}
            }
        };
        kill_point::reached("consumer.before_term");
        // Only now that it is stored elsewhere.
        if let Err(error) = delivery.terminate().await {
            tracing::warn!(%error, consumer, "a dead-lettered message was not terminated; its repeat is a duplicate");
        }
        if new {
            self.platform.metrics.dead_lettered.with_label_values(&[consumer]).inc();
            tracing::error!(consumer, reason, sequence = message.sequence, deliveries, "dead letter");
        }
    }
}

enum Settled {
    Done,
    Apart,
    Ended(Ended),
}

pub(crate) fn part(consumer: &Consumer) -> String {
    format!("consumer {}", consumer.durable)
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

pub(crate) async fn put_back(deliveries: &[Delivery]) {
    for delivery in deliveries {
        let _ = delivery.retry(Duration::ZERO).await;
    }
}

/// Those of `all` that were not handled before, each once.
async fn unseen<'a, T: Tables>(tx: &mut Transaction<T>, all: &[&'a Received]) -> Result<Vec<&'a Received>, StoreError> {
    let mut by_consumer: Vec<(&str, Vec<&str>)> = Vec::new();
    for received in all {
        match by_consumer.iter_mut().find(|(consumer, _)| *consumer == received.consumer) {
            Some((_, ids)) => ids.push(&received.note),
            None => by_consumer.push((&received.consumer, vec![&received.note])),
        }
    }
    let mut new: HashMap<&str, HashSet<String>> = HashMap::new();
    for (consumer, ids) in by_consumer {
        new.insert(consumer, tx.record_processed(consumer, &ids).await?);
    }
    let mut first = |r: &Received| new.get_mut(r.consumer.as_str()).is_some_and(|ids| ids.remove(&r.note));
    Ok(all.iter().copied().filter(|r| first(r)).collect())
}

/// Pulls one consumer for ever, through restarts of the server and deletions of the consumer.
pub(crate) async fn pull(
    platform: Platform,
    consumer: Consumer,
    max: usize,
    to: mpsc::Sender<Vec<Delivery>>,
    stop: CancellationToken,
) {
    let part = part(&consumer);
    let mut delays = retry::dependency();
    let mut puller: Option<Puller> = None;
    platform.health.set_healthy(&part);
    loop {
        let fetched = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = to.closed() => break,
            fetched = fetch(&platform, &consumer, &mut puller, max) => fetched,
        };
        match fetched {
            Ok(deliveries) => {
                platform.health.set_healthy(&part);
                delays.reset();
                if deliveries.is_empty() {
                    continue;
                }
                if let Err(unsent) = to.send(deliveries).await {
                    put_back(&unsent.0).await;
                    break;
                }
            }
            Err(error) => {
                // The keeper creates anew what is missing as soon as a consumer is found wanting.
                platform.health.set_unhealthy(&part, error.to_string());
                tracing::warn!(%error, consumer = consumer.durable, "cannot pull");
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = to.closed() => break,
                    () = sleep(delays.next_delay()) => {}
                }
            }
        }
    }
    if let Some(puller) = puller {
        puller.close().await;
    }
}

async fn fetch(
    platform: &Platform,
    consumer: &Consumer,
    puller: &mut Option<Puller>,
    max: usize,
) -> Result<Vec<Delivery>, BusError> {
    if puller.is_none() {
        *puller = Some(platform.bus.pull(consumer).await?);
    }
    match puller {
        Some(puller) => puller.fetch(max, PULL_WAIT).await,
        None => Ok(Vec::new()),
    }
}
