//! Learns from the pods of users where the drivers are who have a socket: what the rows say may be older. A point of a ride is in a row only
//! after some seconds, the place of a free driver after more; and what a process that died had in hand comes again only after the ack wait.
//! So a process that starts, or gains zones of one that is gone, moves nobody.

use std::sync::Arc;
use std::time::Duration;

use platform::{CancellationToken, Platform, connected_drivers};
use streams::BusError;
use streams::connected_drivers::CONNECTED_DRIVERS_WAIT;
use tokio::time::sleep;

use crate::cache::Cache;

/// How often it is tried, and the pause between two tries.
const ASKS_MAX: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How often the pods are asked at most.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// How long all pages may take; what came by then is used.
const ALL_WAIT: Duration = CONNECTED_DRIVERS_WAIT.saturating_mul(2);

/// Asks, and again if it could not.
pub(crate) async fn load(platform: &Platform, cache: &Cache) {
    for _ in 0..ASKS_MAX {
        match connected_drivers::all(platform, ALL_WAIT).await {
            Ok(drivers) => {
                let mut positions = cache.positions();
                drivers.iter().for_each(|driver| positions.restore_connected(driver));
                return tracing::debug!(drivers = drivers.len(), "places of drivers, as the pods of users know them");
            }
            // As in a process of a deployment that begins.
            Err(BusError::NoResponders(_)) => return tracing::debug!("no pod of users says where drivers are"),
            Err(error) => tracing::info!(%error, "the pods of users were not asked where drivers are"),
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Asks whenever this process has gained zones, until `stop`.
pub(crate) async fn run(platform: Platform, cache: Arc<Cache>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = cache.zones_gained().notified() => {}
        }
        load(&platform, &cache).await;
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep(ASK_INTERVAL) => {}
        }
    }
}
