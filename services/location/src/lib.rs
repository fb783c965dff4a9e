//! location: the newest position of every driver, who is free nearby, and the track and distance of every ride.
//!
//! It reads location.update, user.beacon and ride.started to ride.cancelled, and alone writes location.aggregate. It knows
//! nothing of fares and sockets, and touches no schema but `location`.
//!
//! Handlers (`handlers.rs`) store the points of rides and publish aggregates of their tracks (`track/`); they also keep the
//! cache in memory (`cache.rs`), of which `http.rs` answers who is nearby, and `requests.rs` where drivers are, if match takes over
//! or a passenger's socket opens, and `driven.rs` how far a ride has come, if it is cancelled. Consumers are shared, so each position reaches one process;
//! it forwards it to the owner of its zone, who is asked (`zones/`). A process that starts reads where drivers were from rows (`driver/`).

mod cache;
mod catch_up;
mod config;
mod connected;
mod driven;
mod driver;
mod handlers;
mod http;
mod operators;
mod positions;
mod requests;
mod tables;
pub mod track;
mod zones;

use std::fmt;
use std::sync::Arc;

use platform::api::SchemaOf;
use platform::routes::Route;
use platform::{CancellationToken, Platform, ServiceTasks, Store, StoreError, Tokens, World};
use streams::{Service, Subject};

use crate::cache::Cache;
pub use crate::config::Config;
use crate::handlers::{LocationUpdates, RideTracks};
use crate::http::NearbyState;
pub use crate::tables::Tables;
use crate::track::{point_rows, rows};
use crate::zones::exchange::{self, Exchange};
use crate::zones::questions::{self, Questions};

/// The migrations of the schema `location`, run after the platform's own.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/location");

/// The most places in one transaction at the end.
const PLACES_MAX: usize = 1_000;
const BATCH_MAX: usize = 256;
const UPDATES_BATCH_MAX: usize = 1_000;
/// What [`RideTracks`] reads. location.update has a worker of its own.
const RIDE_SUBJECTS: [Subject; 5] =
    [Subject::UserBeacon, Subject::RideStarted, Subject::RideArrived, Subject::RideCompleted, Subject::RideCancelled];

/// The service. Clones share one state.
#[derive(Clone)]
pub struct Location {
    platform: Platform,
    store: Store<Tables>,
    tokens: Tokens,
    config: Arc<Config>,
    cache: Arc<Cache>,
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Location").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The routes of the service with their operations, without the service.
pub fn operations() -> Vec<Route> {
    http::operations()
}

/// The bodies of the core subjects that only location writes and reads, and their replies.
pub fn core_bodies() -> [(&'static str, SchemaOf, Option<SchemaOf>); 3] {
    [
        ("location.service.heard", exchange::body, None),
        ("location.pod.*", exchange::body, None),
        ("location.pod.*.drivers", questions::request_body, Some(questions::reply_body)),
    ]
}

impl Location {
    /// The live rides and the drivers on duty or in one of them are loaded from their rows, and newer places from the pods of users.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer.
    pub async fn start(
        platform: &Platform,
        store: &Store<Tables>,
        tokens: Tokens,
        config: Config,
    ) -> Result<Self, StoreError> {
        let mut tx = store.begin().await?;
        let live = rows::live_tracks(&mut tx).await?;
        let on_duty = driver::rows::on_duty(&mut tx).await?;
        let in_rides = point_rows::last(&mut tx, &live).await?;
        drop(tx);
        let cache = Cache::new(platform);
        cache.load_drivers(&on_duty, &in_rides);
        cache.load_from_rows(&live, &[], platform.world.now());
        // Before anybody is answered.
        connected::load(platform, &cache).await;
        Ok(Self {
            platform: platform.clone(),
            store: store.clone(),
            tokens,
            config: Arc::new(config),
            cache: Arc::new(cache),
        })
    }

    pub fn routes(&self) -> platform::routes::Routes {
        http::routes(NearbyState {
            tokens: self.tokens.clone(),
            platform: self.platform.clone(),
            questions: Questions::new(&self.platform, &self.cache),
        })
    }

    /// Works until `stop`. Then it finishes the batches in hand and publishes what is left in the outbox.
    pub async fn run(self, stop: CancellationToken) {
        let Self { platform, store, tokens, config, cache } = self;
        let mut tasks = ServiceTasks::start(&platform, Service::Location, &store, &stop);
        let updates = LocationUpdates::new(&platform, &config, &cache);
        tasks.spawn_worker(&[Subject::LocationUpdate], UPDATES_BATCH_MAX, updates);
        tasks.spawn_worker(&RIDE_SUBJECTS, BATCH_MAX, RideTracks::new(&platform, &config, &cache));
        tasks.spawn(catch_up::run(platform.clone(), cache.clone(), stop.clone()));
        let questions = Questions::new(&platform, &cache);
        tasks.spawn(requests::serve(platform.clone(), questions.clone(), stop.clone()));
        tasks.spawn(connected::run(platform.clone(), cache.clone(), stop.clone()));
        tasks.spawn(operators::answer(
            platform.clone(),
            store.clone(),
            (tokens, questions.clone()),
            config.max_speed_mps,
            stop.clone(),
        ));
        tasks.spawn(questions.answer(stop.clone()));
        let driven = driven::DrivenDistances::new(&platform, &store, &config, &cache);
        tasks.spawn(driven.serve(stop.clone()));
        let (world, purged) = (platform.world.clone(), store.clone());
        tasks.spawn_purge(move || purge(purged.clone(), world.clone()));
        tasks.spawn(Exchange::new(&platform, &cache).receive(stop));
        tasks.until_stop().await;
        tasks.drain().await;
        if let Err(error) = store_all_places(&store, &cache).await {
            tracing::warn!(%error, "the last places of drivers were not stored");
        }
    }
}

/// The process that starts next begins with them.
async fn store_all_places(store: &Store<Tables>, cache: &Cache) -> Result<(), StoreError> {
    loop {
        let places = cache.positions().to_store(PLACES_MAX);
        if places.is_empty() {
            return Ok(());
        }
        let mut tx = store.begin().await?;
        driver::rows::move_to(&mut tx, &places).await?;
        tx.commit().await?;
        cache.positions().set_stored(&places);
    }
}

async fn purge(store: Store<Tables>, world: World) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    rows::purge(&mut tx, world.now()).await?;
    driver::rows::purge(&mut tx, world.now()).await?;
    tx.commit().await
}
