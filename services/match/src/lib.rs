//! match: the driver pool, open requests, offers with an expiry, holds and locks. It publishes match.found and match.rejected
//! (expired, cancelled, superseded). It serves no HTTP and reads no other service's tables.
//!
//! One process matches at a time: the one that holds the lease (`lease.rs`, `leader.rs`). Its handlers (`handlers.rs`) give
//! events to the engine (`engine/`) and write the changed rows and the new events in one transaction. With more than one zone
//! (`zones.rs`) every process matches in those whose leases it holds (`owners.rs`), and `router.rs` says which event is for which zone;
//! `borders.rs` is what zones see of each other. `positions.rs` says
//! where drivers are; a process that becomes active asks location first (`fleet.rs`). `record/` stores what each step depended on.

mod borders;
mod config;
pub mod engine;
pub mod evaluate;
mod explanation;
mod fleet;
mod handlers;
mod inputs;
mod leader;
pub mod lease;
mod missed_offers;
pub mod optimum;
mod owners;
pub mod positions;
pub mod record;
mod rezone;
mod road_requests;
mod router;
mod shadow;
mod tables;
mod zone_input;
pub mod zones;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use platform::{CancellationToken, Platform, ServiceTasks, Store, StoreError, World};
use streams::Service;
use tokio::sync::Semaphore;

pub use crate::config::Config;
pub use crate::engine::assign::Policy;
use crate::engine::rows;
use crate::leader::Leader;
use crate::owners::Owners;
pub use crate::tables::{Tables, Tx};
use crate::zones::Partition;

/// The migrations of the schema `matching`, run after the platform's own.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/matching");

/// The service. Clones share one state.
#[derive(Clone, Debug)]
pub struct Matching {
    platform: Platform,
    store: Store<Tables>,
    config: Arc<Config>,
}

impl Matching {
    /// Reads nothing yet: rows are loaded when this process has the lease.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer.
    pub async fn start(platform: &Platform, store: &Store<Tables>, config: Config) -> Result<Self, StoreError> {
        store.check().await?;
        Ok(Self { platform: platform.clone(), store: store.clone(), config: Arc::new(config) })
    }

    /// Matches while this process holds the lease, and stands by while another does, until `stop`. Then it finishes the
    /// batch in hand, releases the lease and publishes what is left in the outbox.
    pub async fn run(self, stop: CancellationToken) {
        let mut tasks = ServiceTasks::start(&self.platform, Service::Match, &self.store, &stop);
        let (store, world) = (self.store.clone(), self.platform.world.clone());
        let recorded_for = chrono::Duration::hours(self.config.record_hours.into());
        tasks.spawn_purge(move || purge(store.clone(), world.clone(), recorded_for));
        // Both run the record again, one request at a time: it costs the time of a core.
        let permits = Arc::new(Semaphore::new(1));
        let parts = || (self.platform.clone(), self.store.clone(), permits.clone());
        tasks.spawn(missed_offers::answer(parts(), self.config.record_hours > 0, stop.clone()));
        tasks.spawn(explanation::answer(parts(), stop.clone()));
        if self.config.partition.is_one() {
            Leader::new(&self.platform, &self.store, &self.config).run(&stop).await;
        } else {
            Owners::new(&self.platform, &self.store, &self.config).run(&stop).await;
        }
        tasks.drain().await;
        self.platform.health.remove(leader::HEALTH_PART);
    }
}

async fn purge(store: Store<Tables>, world: World, recorded_for: chrono::Duration) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    rows::purge(&mut tx, world.now()).await?;
    inputs::purge(&mut tx, world.now() - chrono::Duration::days(1)).await?;
    tx.commit().await?;
    record::rows::purge(&store, world.now(), recorded_for).await
}

/// What waits for zones and which zones nobody owns, so that a simulation can wait until there is nothing of it.
///
/// # Errors
/// [`StoreError`].
pub async fn unrest(
    store: &Store<Tables>,
    partition: Partition,
    now: DateTime<Utc>,
) -> Result<Vec<String>, StoreError> {
    let mut tx = store.begin().await?;
    let zones: Vec<u16> = (0..partition.zones()).collect();
    let mut found = Vec::new();
    for zone in inputs::waiting(&mut tx, &zones).await? {
        found.push(format!("events wait for zone {zone}"));
    }
    for zone in lease::free(&mut tx, partition, now).await?.iter() {
        found.push(format!("zone {zone} has no owner"));
    }
    Ok(found)
}
