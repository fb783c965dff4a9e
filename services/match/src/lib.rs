//! match: the driver pool, open requests, offers with expiry, holds and locks. It publishes match.found and match.rejected
//! (expired, cancelled, superseded), serves no HTTP, and never reads another service's tables.
//!
//! `engine/` is the state, how it changes, who gets whom and the rows; `positions.rs` where drivers are; `lease.rs` the lease
//! of the one active process; `handlers.rs` the handlers.

pub mod engine;
mod handlers;
pub mod lease;
pub mod positions;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use platform::{CancellationToken, Platform, Store, StoreError, Worker, kill_point};
use pricing::Tariffs;
use streams::{Service, Subject};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::engine::assign::Policy;
pub use crate::engine::rows::Tables;
use crate::engine::{Rules, rows};
use crate::handlers::{Listener, Matcher};
use crate::positions::Positions;

/// The service's own migrations, after platform's in the schema `matching`.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/matching");

/// The most that one look at the lease may take.
const LEASE_WAIT: Duration = Duration::from_secs(2);
const PURGE_EVERY: Duration = Duration::from_secs(3_600);
/// What the matcher reads; location.update has a worker of its own.
const SUBJECTS: [Subject; 7] = [
    Subject::UserBeacon,
    Subject::UserFinder,
    Subject::MatchRejected,
    Subject::MatchAccepted,
    Subject::RidePickup,
    Subject::RideCompleted,
    Subject::RideCancelled,
];
const BATCH_MAX: usize = 512;
const POSITIONS_BATCH_MAX: usize = 1_000;
const HEALTH_PART: &str = "match lead";

/// Settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// MATCH_OFFER_TTL_S: how long a driver has for an answer.
    pub offer_ttl_s: u32,
    /// MATCH_REQUEST_TTL_S: how long a request waits for a driver.
    pub request_ttl_s: u32,
    /// MATCH_RADIUS_M: the farthest driver that is offered, great circle.
    pub radius_m: f64,
    /// FARE_*: for the estimate in an offer.
    pub tariffs: Tariffs,
    /// How long the active process may be silent before a standby takes over.
    pub lease_ttl: Duration,
    /// How often the active process renews its lease.
    pub lease_renew: Duration,
    /// How often a standby looks.
    pub lease_poll: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            offer_ttl_s: 15,
            request_ttl_s: 300,
            radius_m: 5_000.0,
            tariffs: Tariffs::default(),
            lease_ttl: Duration::from_secs(5),
            lease_renew: Duration::from_secs(1),
            lease_poll: Duration::from_millis(500),
        }
    }
}

impl Config {
    fn rules(&self) -> Rules {
        Rules {
            offer_ttl: chrono::Duration::seconds(self.offer_ttl_s.into()),
            request_ttl: chrono::Duration::seconds(self.request_ttl_s.into()),
            radius_m: self.radius_m,
            tariffs: self.tariffs,
            policy: Policy::FirstCome,
        }
    }
}

/// The service; clones are one.
#[derive(Clone, Debug)]
pub struct Matching {
    platform: Platform,
    store: Store<Tables>,
    config: Arc<Config>,
}

impl Matching {
    /// Made ready; nothing is read before this process leads.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer.
    pub async fn start(platform: &Platform, store: &Store<Tables>, config: Config) -> Result<Self, StoreError> {
        store.check().await?;
        Ok(Self { platform: platform.clone(), store: store.clone(), config: Arc::new(config) })
    }

    /// No routes.
    pub fn router(&self) -> axum::Router {
        axum::Router::new()
    }

    /// Matches while this process leads and waits while another does, until `stop`; then finishes what is in hand, gives
    /// the lease back and drains the outbox.
    pub async fn run(self, stop: CancellationToken) {
        let relay_stop = CancellationToken::new();
        let mut relay = JoinSet::new();
        relay.spawn(self.store.clone().relay(self.platform.clone(), Service::Match, relay_stop.clone()));
        let mut purger = JoinSet::new();
        purger.spawn(self.clone().purge());
        while let Some(epoch) = self.lead(&stop).await {
            self.active(epoch, &stop).await;
            // Whatever ended it, let another process try first.
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = sleep(self.config.lease_poll * 2) => {}
            }
        }
        purger.shutdown().await;
        relay_stop.cancel();
        while relay.join_next().await.is_some() {}
        self.platform.health.remove(HEALTH_PART);
    }

    /// Waits for the lease; `None` once `stop` has begun.
    async fn lead(&self, stop: &CancellationToken) -> Option<i64> {
        let mut said = false;
        while !stop.is_cancelled() {
            match timeout(LEASE_WAIT, self.take()).await {
                Ok(Ok(Some(epoch))) => {
                    tracing::info!(epoch, pod = &*self.platform.pod, "match: active");
                    self.platform.health.set_healthy(HEALTH_PART);
                    return Some(epoch);
                }
                Ok(Ok(None)) => {
                    self.platform.health.set_healthy(HEALTH_PART);
                    if !std::mem::replace(&mut said, true) {
                        tracing::info!(pod = &*self.platform.pod, "match: standby");
                    }
                }
                Ok(Err(error)) => self.platform.health.set_unhealthy(HEALTH_PART, error.to_string()),
                Err(_) => self.platform.health.set_unhealthy(HEALTH_PART, "the database does not answer"),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = sleep(self.config.lease_poll) => {}
            }
        }
        None
    }

    async fn take(&self) -> Result<Option<i64>, StoreError> {
        let mut tx = self.store.begin().await?;
        let taken =
            lease::take(&mut tx, &self.platform.pod, chrono_of(self.config.lease_ttl), self.platform.world.now())
                .await?;
        if taken.is_some() {
            tx.commit().await?;
            kill_point::reached("match.after_take");
        }
        Ok(taken)
    }

    async fn renew(&self, epoch: i64, ttl: chrono::Duration) -> Result<bool, StoreError> {
        let mut tx = self.store.begin().await?;
        let mine = lease::renew(&mut tx, epoch, ttl, self.platform.world.now()).await?;
        tx.commit().await?;
        Ok(mine)
    }

    /// Works until `stop`, or until another process has taken over or may have.
    async fn active(&self, epoch: i64, stop: &CancellationToken) {
        let local = CancellationToken::new();
        let positions = Arc::new(Mutex::new(Positions::default()));
        let mut workers = JoinSet::new();
        let consumer = |subject| self.platform.topology.consumer(subject, Service::Match).clone();
        let worker = |handler| {
            Worker::new(
                &self.platform,
                Service::Match,
                &self.store,
                SUBJECTS.map(consumer).to_vec(),
                BATCH_MAX,
                handler,
            )
        };
        let matcher = Matcher::new(&self.platform, self.config.rules(), positions.clone(), epoch);
        workers.spawn(worker(matcher).run(local.clone()));
        let listener = Listener { positions, world: self.platform.world.clone() };
        let of_positions = vec![consumer(Subject::LocationUpdate)];
        let listening =
            Worker::new(&self.platform, Service::Match, &self.store, of_positions, POSITIONS_BATCH_MAX, listener);
        workers.spawn(listening.run(local.clone()));

        let mut held_until = Instant::now() + self.config.lease_ttl;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // Fenced, or it panicked: in both cases begin anew.
                ended = workers.join_next() => {
                    tracing::warn!(epoch, ?ended, "match: a worker ended; standing by");
                    break;
                }
                () = sleep(self.config.lease_renew) => {}
            }
            let asked = Instant::now();
            match timeout(LEASE_WAIT, self.renew(epoch, chrono_of(self.config.lease_ttl))).await {
                Ok(Ok(true)) => {
                    held_until = asked + self.config.lease_ttl;
                    self.platform.health.set_healthy(HEALTH_PART);
                }
                Ok(Ok(false)) => {
                    tracing::warn!(epoch, "match: another process has taken over; standing by");
                    break;
                }
                Ok(Err(error)) => self.platform.health.set_unhealthy(HEALTH_PART, error.to_string()),
                Err(_) => self.platform.health.set_unhealthy(HEALTH_PART, "the database does not answer"),
            }
            if Instant::now() >= held_until {
                tracing::warn!(epoch, "match: the lease could not be renewed; standing by");
                break;
            }
        }
        local.cancel();
        while workers.join_next().await.is_some() {}
        kill_point::reached("match.before_give_back");
        // Given back, so that a standby need not wait for its end; if that fails, it waits.
        let given_back = timeout(LEASE_WAIT, self.renew(epoch, chrono::Duration::milliseconds(-1))).await;
        tracing::info!(epoch, given_back = matches!(given_back, Ok(Ok(true))), "match: no longer active");
    }

    async fn purge(self) {
        loop {
            sleep(PURGE_EVERY).await;
            let purged = async {
                self.store.purge().await?;
                let mut tx = self.store.begin().await?;
                rows::purge(&mut tx, self.platform.world.now()).await?;
                tx.commit().await
            };
            if let Err(error) = purged.await {
                tracing::warn!(%error, "match: old rows stay for another hour");
            }
        }
    }
}

fn chrono_of(duration: Duration) -> chrono::Duration {
    chrono::Duration::from_std(duration).unwrap_or(chrono::Duration::seconds(5))
}
