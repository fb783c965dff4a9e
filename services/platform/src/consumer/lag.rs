//! Says to users how far behind a reader of positions is, see [`streams::position_lag`].

use streams::position_lag::{POSITION_LAG, POSITION_LAG_INTERVAL, PositionLag};
use tokio::time::Instant;

use super::Received;
use crate::Platform;

#[derive(Debug)]
pub struct LagReporter {
    platform: Platform,
    next_at: Instant,
}

impl LagReporter {
    pub fn new(platform: &Platform) -> Self {
        Self { platform: platform.clone(), next_at: Instant::now() }
    }

    /// Reports the age of the newest of these positions, which were pulled together, if a report is due.
    pub async fn report(&mut self, batch: &[&Received]) {
        // A redelivery is old without any lag.
        let first = batch.iter().filter(|received| received.deliveries <= 1);
        let (Some(newest), now) = (first.map(|received| received.stored_at).max(), Instant::now()) else { return };
        if now < self.next_at {
            return;
        }
        self.next_at = now + POSITION_LAG_INTERVAL;
        let age = (self.platform.world.now() - newest).to_std().unwrap_or_default();
        let lag = PositionLag { age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX) };
        let body = serde_json::to_vec(&lag).expect("a number is JSON");
        if let Err(error) = self.platform.bus.publish_core(POSITION_LAG, body.into()).await {
            tracing::debug!(%error, "the lag of positions was not reported");
        }
    }
}
