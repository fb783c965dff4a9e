//! The loop of a process: stand by, take the lease, match and renew, release. `lease.rs` says why two never write.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use platform::{CancellationToken, Platform, Store, StoreError, Worker, kill_point};
use streams::{Service, Subject};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::config::Config;
use crate::fleet;
use crate::handlers::{BATCH_MAX, Matcher, PositionListener};
use crate::lease::{self, Held};
use crate::positions::DriverPositions;
use crate::tables::Tables;
use crate::zones::Zone;

/// The longest wait for one operation on the lease.
pub(crate) const LEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// What the matcher reads. location.update has a worker of its own.
pub(crate) const SUBJECTS: [Subject; 7] = [
    Subject::UserBeacon,
    Subject::UserFinder,
    Subject::MatchRejected,
    Subject::MatchAccepted,
    Subject::RidePickup,
    Subject::RideCompleted,
    Subject::RideCancelled,
];
pub(crate) const POSITIONS_BATCH_MAX: usize = 1_000;
pub(crate) const HEALTH_PART: &str = "match lead";

pub(crate) struct Leader {
    platform: Platform,
    store: Store<Tables>,
    config: Arc<Config>,
}

impl Leader {
    pub(crate) fn new(platform: &Platform, store: &Store<Tables>, config: &Arc<Config>) -> Self {
        Self { platform: platform.clone(), store: store.clone(), config: config.clone() }
    }

    pub(crate) async fn run(self, stop: &CancellationToken) {
        while let Some(epoch) = self.wait_for_lease(stop).await {
            self.lead(epoch, stop).await;
            // Whatever ended this term, give another process the first chance at the lease.
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = sleep(self.config.lease_poll * 2) => {}
            }
        }
    }

    /// The epoch of the lease that this process took; `None` once `stop` is cancelled.
    async fn wait_for_lease(&self, stop: &CancellationToken) -> Option<i64> {
        let mut logged = false;
        while !stop.is_cancelled() {
            match timeout(LEASE_TIMEOUT, self.take()).await {
                Ok(Ok(Some(epoch))) => {
                    tracing::info!(epoch, pod = &*self.platform.pod, "match: active");
                    self.platform.health.set_healthy(HEALTH_PART);
                    return Some(epoch);
                }
                Ok(Ok(None)) => {
                    self.platform.health.set_healthy(HEALTH_PART);
                    if !std::mem::replace(&mut logged, true) {
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
        let at = (self.platform.world.now(), self.config.largest_radius_m());
        let epoch = lease::take(&mut tx, Zone::ONLY, &self.platform.pod, self.config.lease_ttl(), at).await?;
        if epoch.is_some() {
            tx.commit().await?;
            kill_point::reached("match.after_take");
        }
        Ok(epoch)
    }

    /// False if another process has taken the lease.
    async fn renew(&self, epoch: i64) -> Result<bool, StoreError> {
        let mut tx = self.store.begin().await?;
        let renewed =
            lease::renew(&mut tx, Held { zone: 0, epoch }, self.config.lease_ttl(), self.platform.world.now()).await?;
        tx.commit().await?;
        Ok(renewed)
    }

    async fn release(&self, epoch: i64) -> Result<bool, StoreError> {
        let mut tx = self.store.begin().await?;
        let released = lease::release(&mut tx, Held { zone: 0, epoch }, self.platform.world.now()).await?;
        tx.commit().await?;
        Ok(released)
    }

    /// Matches until `stop` is cancelled, until another process takes the lease, or until the lease may have expired because
    /// it could not be renewed.
    async fn lead(&self, epoch: i64, stop: &CancellationToken) {
        let workers_stop = CancellationToken::new();
        let mut lease_held_until = Instant::now() + self.config.lease_ttl;
        // Well before the lease expires: at most a second.
        let positions = fleet::positions(&self.platform, |_| true).await;
        let mut workers = self.spawn_workers(epoch, positions, &workers_stop);
        self.platform.metrics.match_active.set(1.0);
        // Each renewal is a row write. Nobody takes the lease later for it: what is left of it when the process dies is only less.
        let renew_every = self.config.lease_renew * 2;
        let mut pause = self.config.lease_renew;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // Fenced or panicked: either way this term is over, and the next one begins with a fresh engine.
                ended = workers.join_next() => {
                    tracing::warn!(epoch, ?ended, "match: a worker ended; standing by");
                    break;
                }
                () = sleep(pause) => {}
            }
            // Sooner after a renewal that failed.
            pause = self.config.lease_poll;
            // Taken before the request, so that the estimate errs on the safe side.
            let requested_at = Instant::now();
            match timeout(LEASE_TIMEOUT, self.renew(epoch)).await {
                Ok(Ok(true)) => {
                    lease_held_until = requested_at + self.config.lease_ttl;
                    pause = renew_every;
                    self.platform.health.set_healthy(HEALTH_PART);
                }
                Ok(Ok(false)) => {
                    tracing::warn!(epoch, "match: another process has taken the lease; standing by");
                    break;
                }
                Ok(Err(error)) => self.platform.health.set_unhealthy(HEALTH_PART, error.to_string()),
                Err(_) => self.platform.health.set_unhealthy(HEALTH_PART, "the database does not answer"),
            }
            if Instant::now() >= lease_held_until {
                tracing::warn!(epoch, "match: the lease expired because it could not be renewed; standing by");
                break;
            }
        }
        workers_stop.cancel();
        while workers.join_next().await.is_some() {}
        self.platform.metrics.match_active.set(0.0);
        kill_point::reached("match.before_give_back");
        // A standby can take a released lease at once. If the release fails, the standby waits until the lease expires.
        let released = timeout(LEASE_TIMEOUT, self.release(epoch)).await;
        tracing::info!(epoch, released = matches!(released, Ok(Ok(true))), "match: no longer active");
    }

    /// The matcher and the listener for positions, with driver positions that both share.
    fn spawn_workers(
        &self,
        epoch: i64,
        positions: DriverPositions,
        stop: &CancellationToken,
    ) -> JoinSet<platform::consumer::Ended> {
        let positions = Arc::new(Mutex::new(positions));
        let mut workers = JoinSet::new();
        let consumer = |subject| self.platform.topology.consumer(subject, Service::Match).clone();
        let matcher = Worker::new(
            &self.platform,
            Service::Match,
            &self.store,
            SUBJECTS.map(consumer).to_vec(),
            BATCH_MAX,
            Matcher::new(&self.platform, &self.config, positions.clone(), Zone::ONLY, epoch),
        );
        workers.spawn(matcher.run(stop.clone()));
        let listener = Worker::new(
            &self.platform,
            Service::Match,
            &self.store,
            vec![consumer(Subject::LocationUpdate)],
            POSITIONS_BATCH_MAX,
            PositionListener::new(&self.platform, positions),
        );
        workers.spawn(listener.run(stop.clone()));
        workers
    }
}
