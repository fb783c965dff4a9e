//! The skeleton of every service: its relay, its parts, the hourly purge, and the order in which they end.

use std::time::Duration;

use streams::topology::{TABLE, durable};
use streams::{Service, Subject};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::consumer::{Handler, Worker};
use crate::event_metrics::EventPath;
use crate::relay::Relay;
use crate::store::{Store, StoreError, Tables};
use crate::{CancellationToken, Platform};

const PURGE_INTERVAL: Duration = Duration::from_secs(3_600);

/// Begins the series of what `service` publishes and handles with 0. A process that only stands by has them as well.
fn begin_series(platform: &Platform, service: Service) {
    let metrics = &platform.metrics;
    for row in TABLE {
        let subject = row.subject.as_str();
        if row.writers.contains(&service) {
            metrics.publishes.begin(subject);
        }
        if !row.readers.contains(&service) {
            continue;
        }
        metrics.events.begin(subject, EventPath::JetStream);
        if row.fast.contains(&service) && platform.core_queue_group.is_some() {
            metrics.events.begin(subject, EventPath::Core);
        }
        let consumer = durable(row.subject, service);
        for total in [&metrics.handled, &metrics.failed, &metrics.redelivered, &metrics.dead_lettered] {
            total.with_label_values(&[&consumer]);
        }
    }
    for total in [&metrics.published, &metrics.published_again] {
        total.with_label_values(&[service.name()]);
    }
}

/// The running tasks of one service: the relay, and the parts that were spawned. Dropping it aborts them.
///
/// ```ignore
/// let mut tasks = ServiceTasks::start(&self.platform, Service::Rides, &self.store, &stop);
/// tasks.spawn_worker(&[Subject::MatchAccepted], BATCH_MAX, AcceptedHandler::new(&self));
/// tasks.spawn(commands::serve(self.clone(), stop.clone()));
/// tasks.spawn_purge(|| async { Ok(()) });
/// tasks.until_stop().await;
/// tasks.drain().await;
/// ```
#[derive(Debug)]
pub struct ServiceTasks<T> {
    platform: Platform,
    service: Service,
    store: Store<T>,
    stop: CancellationToken,
    relay: JoinSet<()>,
    relay_stop: CancellationToken,
    parts: JoinSet<()>,
}

impl<T: Tables> ServiceTasks<T> {
    /// Spawns the relay of `service`. Parts are spawned after it; `stop` ends them.
    pub fn start(platform: &Platform, service: Service, store: &Store<T>, stop: &CancellationToken) -> Self {
        begin_series(platform, service);
        let relay_stop = CancellationToken::new();
        let mut relay = JoinSet::new();
        relay.spawn(Relay::new(platform, service, store).run(relay_stop.clone()));
        Self {
            platform: platform.clone(),
            service,
            store: store.clone(),
            stop: stop.clone(),
            relay,
            relay_stop,
            parts: JoinSet::new(),
        }
    }

    /// Spawns a part, which must not end before `stop` has begun.
    pub fn spawn(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.parts.spawn(part);
    }

    /// Spawns a worker that hands batches of at most `batch_max` messages of `subjects` to `handler`.
    pub fn spawn_worker<H>(&mut self, subjects: &[Subject], batch_max: usize, handler: H)
    where
        H: Handler<Tables = T> + Sync,
    {
        let consumer = |&subject| self.platform.topology.consumer(subject, self.service).clone();
        let consumers = subjects.iter().map(consumer).collect();
        let worker = Worker::new(&self.platform, self.service, &self.store, consumers, batch_max, handler);
        let stop = self.stop.clone();
        self.parts.spawn(async move {
            worker.run(stop).await;
        });
    }

    /// Spawns the hourly purge: of the inbox and the outbox, then of what `purge_own` deletes.
    pub fn spawn_purge<F, P>(&mut self, purge_own: F)
    where
        F: Fn() -> P + Send + 'static,
        P: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let (store, service, stop) = (self.store.clone(), self.service, self.stop.clone());
        self.parts.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = sleep(PURGE_INTERVAL) => {}
                }
                let purged = match store.purge().await {
                    Ok(()) => purge_own().await,
                    Err(error) => Err(error),
                };
                if let Err(error) = purged {
                    tracing::warn!(%error, service = service.name(), "old rows were not deleted; retried in an hour");
                }
            }
        });
    }

    /// Returns when `stop` has begun, or when a part has ended by itself. Without that part the service is not whole: the
    /// caller drains and returns, so that the process ends and its supervisor starts it again.
    pub async fn until_stop(&mut self) {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            Some(ended) = self.parts.join_next() => {
                // A part that sees the stop before this task does has not ended by itself.
                if ended.is_err() || !self.stop.is_cancelled() {
                    tracing::error!(?ended, "a part of {} ended by itself", self.service);
                }
            }
        }
    }

    /// After `stop`, waits for the parts to finish what they have in hand. Then tells the relay to publish what is left, and
    /// waits for it: the relay ends last, because parts write to the outbox until their end.
    pub async fn drain(mut self) {
        if self.stop.is_cancelled() {
            while let Some(ended) = self.parts.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a part of {} ended badly", self.service);
                }
            }
        }
        self.relay_stop.cancel();
        while self.relay.join_next().await.is_some() {}
    }
}
