//! rides: one ride per accepted match, its lifecycle, its fare, the ledger, and the capture of payments.
//!
//! It reads match.accepted, location.aggregate and payment.capture, answers ride commands, and alone writes ride.* and
//! payment.capture. It knows no socket and no position but those in its events, and touches no schema but `rides`.

pub mod audit;
mod commands;
mod event_log;
mod handlers;
pub mod hash_chain;
mod http;
pub mod ledger;
pub mod payment;
mod replay;
pub mod ride;
mod tables;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use platform::{CancellationToken, Platform, Store, StoreError, Tokens, Worker};
use pricing::Tariffs;
use streams::{RideId, RideStatus, Service, Subject, UserId};
use tokio::task::JoinSet;

pub use event_log::KeptEvent;
use payment::{Debt, Payment, Provider};
pub use tables::Tables;

/// The migrations of the schema `rides`, after the platform's own.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/rides");

/// The most messages that one transaction takes.
const BATCH_MAX: usize = 256;
const PURGE_EVERY: Duration = Duration::from_secs(3_600);

/// Settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// What rides cost.
    pub tariffs: Tariffs,
    /// Who takes the money.
    pub provider: Provider,
    /// Seconds from the arrival that a ride waits for its final distance before it is billed by the estimate.
    pub completion_wait_s: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self { tariffs: Tariffs::default(), provider: Provider::default(), completion_wait_s: 60 }
    }
}

/// The service; clones are one.
#[derive(Clone)]
pub struct Rides {
    platform: Platform,
    store: Store<Tables>,
    tokens: Tokens,
    config: Arc<Config>,
}

impl fmt::Debug for Rides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rides").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Rides {
    /// The service on its store. It caches nothing, so nothing is loaded.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer.
    pub async fn start(
        platform: &Platform,
        store: &Store<Tables>,
        tokens: Tokens,
        config: Config,
    ) -> Result<Self, StoreError> {
        store.check().await?;
        Ok(Self { platform: platform.clone(), store: store.clone(), tokens, config: Arc::new(config) })
    }

    /// The routes of rides: `/v1/rides`, `/v1/rides/{id}`, `/v1/estimates`.
    pub fn router(&self) -> axum::Router {
        http::router(self.clone())
    }

    /// Works until `stop` has begun; then finishes what is in hand, publishes what it wrote, and returns.
    pub async fn run(self, stop: CancellationToken) {
        let relay_stop = CancellationToken::new();
        let mut relay = JoinSet::new();
        relay.spawn(self.store.clone().relay(self.platform.clone(), Service::Rides, relay_stop.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(self.worker(Subject::MatchAccepted, handlers::Accepted::new(&self), &stop));
        tasks.spawn(self.worker(Subject::LocationAggregate, handlers::Completion::new(&self), &stop));
        tasks.spawn(self.worker(Subject::PaymentCapture, handlers::Captures::new(&self), &stop));
        tasks.spawn(commands::serve(self.clone(), stop.clone()));
        tasks.spawn(purge(self.store.clone(), stop.clone()));
        while let Some(ended) = tasks.join_next().await {
            if ended.is_err() || !stop.is_cancelled() {
                tracing::error!(?ended, "a part of rides ended by itself");
                // The rest would go on without it: the process ends, and whoever watches it starts a whole one.
                break;
            }
        }
        relay_stop.cancel();
        while relay.join_next().await.is_some() {}
    }

    fn worker<H>(
        &self,
        subject: Subject,
        handler: H,
        stop: &CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<H>
    where
        H: platform::Handler<Tables = Tables> + Sync,
    {
        let consumer = self.platform.topology.consumer(subject, Service::Rides).clone();
        let worker = Worker::new(&self.platform, Service::Rides, &self.store, vec![consumer], BATCH_MAX, handler);
        let stop = stop.clone();
        async move {
            worker.run(stop).await;
        }
    }

    /// The events of a ride, in order, as they were published: what the stream has forgotten can be told again from here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn events(&self, ride: RideId) -> Result<Vec<KeptEvent>, StoreError> {
        event_log::events_of(&mut self.store.begin().await?, ride).await
    }

    /// The balance of an account of the ledger, cents; debit positive.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn balance(&self, account: &str) -> Result<i64, StoreError> {
        ledger::rows::balance(&mut self.store.begin().await?, account).await
    }

    /// The payment of a ride, if it has come to one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn payment(&self, ride: RideId) -> Result<Option<Payment>, StoreError> {
        Ok(payment::rows::payments_of(&mut self.store.begin().await?, &[ride]).await?.pop())
    }

    /// What a passenger owes after refused payments.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn debts(&self, passenger: UserId) -> Result<Vec<Debt>, StoreError> {
        payment::rows::debts_of(&mut self.store.begin().await?, passenger).await
    }

    fn count(&self, status: RideStatus, rides: u64) {
        self.platform.metrics.rides.with_label_values(&[status.as_str()]).inc_by(rides);
    }
}

/// Forgets once an hour what no repeat can need any more.
async fn purge(store: Store<Tables>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PURGE_EVERY) => {}
        }
        if let Err(error) = store.purge().await {
            tracing::warn!(%error, "old rows of rides stay for the next hour");
        }
    }
}
