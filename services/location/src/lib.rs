//! location: the newest position of every driver, who is free nearby, and the track and distance of every ride.
//!
//! It reads location.update, user.beacon and ride.started to ride.cancelled, and alone writes location.aggregate. It knows
//! no fare and no socket, and touches no schema but `location`.

mod handlers;
mod http;
mod position_broadcast;
mod positions;
pub mod track;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use platform::{CancellationToken, Handler, Platform, Store, StoreError, Tokens, Worker};
use streams::{Service, Subject};
use tokio::task::JoinSet;
use tokio::time::sleep;

use handlers::{Arrivals, Courses, Updates};
use positions::Positions;
use track::rows;
pub use track::rows::Tables;

/// The migrations of the schema `location`, after the platform's own.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/location");

const BATCH_MAX: usize = 256;
const UPDATES_BATCH_MAX: usize = 1_000;
const PURGE_EVERY: Duration = Duration::from_secs(3_600);
/// How often the stream is asked whether the points have caught up with an arrival.
const CATCH_UP_EVERY: Duration = Duration::from_millis(250);

/// Settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// TRACK_MAX_SPEED_MPS: what needs more is a jump and left out.
    pub max_speed_mps: f64,
    /// How often a ride under way is told of, if it has new points.
    pub aggregate_every: chrono::Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_speed_mps: track::MAX_SPEED_MPS, aggregate_every: chrono::Duration::seconds(3) }
    }
}

/// The service; clones are one.
#[derive(Clone)]
pub struct Location {
    platform: Platform,
    store: Store<Tables>,
    tokens: Tokens,
    config: Arc<Config>,
    positions: Arc<Mutex<Positions>>,
    arrivals: Arc<Mutex<Arrivals>>,
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Location").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Location {
    /// The service on its store, with the rides that its rows know.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer.
    pub async fn start(
        platform: &Platform,
        store: &Store<Tables>,
        tokens: Tokens,
        config: Config,
    ) -> Result<Self, StoreError> {
        let live = rows::live_tracks(&mut store.begin().await?).await?;
        let location = Self {
            platform: platform.clone(),
            store: store.clone(),
            tokens,
            config: Arc::new(config),
            positions: Arc::default(),
            arrivals: Arc::default(),
        };
        location.learn(&live, &[], platform.world.now());
        Ok(location)
    }

    /// The routes: `/v1/drivers/nearby`.
    pub fn router(&self) -> axum::Router {
        http::router(self.clone())
    }

    /// Works until `stop` has begun; then finishes what is in hand, publishes what it wrote, and returns.
    pub async fn run(self, stop: CancellationToken) {
        let relay_stop = CancellationToken::new();
        let mut relay = JoinSet::new();
        relay.spawn(self.store.clone().relay(self.platform.clone(), Service::Location, relay_stop.clone()));
        let mut tasks = JoinSet::new();
        let updates = self.worker(&[Subject::LocationUpdate], UPDATES_BATCH_MAX, Updates::new(&self), &stop);
        tasks.spawn(updates);
        let courses = [
            Subject::UserBeacon,
            Subject::RideStarted,
            Subject::RideArrived,
            Subject::RideCompleted,
            Subject::RideCancelled,
        ];
        tasks.spawn(self.worker(&courses, BATCH_MAX, Courses::new(&self), &stop));
        tasks.spawn(self.clone().catch_up(stop.clone()));
        tasks.spawn(purge(self.clone(), stop.clone()));
        tasks.spawn(position_broadcast::listen(self.clone(), stop.clone()));
        while let Some(ended) = tasks.join_next().await {
            if ended.is_err() || !stop.is_cancelled() {
                tracing::error!(?ended, "a part of location ended by itself");
                break;
            }
        }
        relay_stop.cancel();
        while relay.join_next().await.is_some() {}
    }

    fn worker<H>(
        &self,
        subjects: &[Subject],
        batch_max: usize,
        handler: H,
        stop: &CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<H>
    where
        H: Handler<Tables = Tables> + Sync,
    {
        let consumers =
            subjects.iter().map(|&s| self.platform.topology.consumer(s, Service::Location).clone()).collect();
        let worker = Worker::new(&self.platform, Service::Location, &self.store, consumers, batch_max, handler);
        let stop = stop.clone();
        async move {
            worker.run(stop).await;
        }
    }

    /// Sees for rides that have arrived when all their points are rows: when this service's consumer, which acknowledges
    /// what is committed, has got past all that was on the stream a moment after the arrival.
    async fn catch_up(self, stop: CancellationToken) {
        let consumer = self.platform.topology.consumer(Subject::LocationUpdate, Service::Location);
        loop {
            let now = self.platform.world.now();
            if self.arrivals().is_waited_for(now) {
                if let Ok(stream) = self.platform.bus.stream_info(&consumer.stream).await {
                    self.arrivals().mark(now, stream.last_sequence);
                }
                if let Ok(info) = self.platform.bus.consumer_info(&consumer.stream, &consumer.durable).await {
                    self.arrivals().consumer_stands(&info);
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(CATCH_UP_EVERY) => {}
            }
        }
    }

    fn positions(&self) -> MutexGuard<'_, Positions> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets once an hour what no repeat can need any more.
async fn purge(location: Location, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep(PURGE_EVERY) => {}
        }
        let purged = async {
            location.store.purge().await?;
            let mut tx = location.store.begin().await?;
            rows::purge(&mut tx, location.platform.world.now()).await?;
            tx.commit().await
        };
        if let Err(error) = purged.await {
            tracing::warn!(%error, "old rows of location stay for the next hour");
        }
    }
}
