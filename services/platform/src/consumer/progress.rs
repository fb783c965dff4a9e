//! Says to users how far a reader of positions has read, see [`streams::position_progress`].

use std::time::Duration;

use streams::position_progress::{POSITION_PROGRESS, PositionProgress};
use tokio::time::Instant;

use super::Received;
use crate::Platform;

/// A report follows after so many positions, or, if fewer come, after this time.
const REPORT_EVERY: usize = 100;
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// Of one consumer of `location.update` in one process.
#[derive(Debug)]
pub struct ProgressReporter {
    platform: Platform,
    read: usize,
    report_at: Instant,
}

impl ProgressReporter {
    pub fn new(platform: &Platform) -> Self {
        Self { platform: platform.clone(), read: 0, report_at: Instant::now() }
    }

    /// This process has read these positions.
    pub async fn read(&mut self, batch: &[&Received]) {
        // A redelivery says nothing of how far the consumer is.
        let first = batch.iter().filter(|received| received.deliveries <= 1);
        let (Some(newest), now) = (first.max_by_key(|received| received.sequence), Instant::now()) else { return };
        self.read += batch.len();
        if self.read < REPORT_EVERY && now < self.report_at {
            return;
        }
        (self.read, self.report_at) = (0, now + REPORT_INTERVAL);
        let age = (self.platform.world.now() - newest.stored_at).to_std().unwrap_or_default();
        let progress = PositionProgress {
            consumer: newest.consumer.clone(),
            sequence: newest.sequence,
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        };
        let body = serde_json::to_vec(&progress).expect("text and numbers are JSON");
        if let Err(error) = self.platform.bus.publish_core(POSITION_PROGRESS, body.into()).await {
            tracing::debug!(%error, "the progress of a reader of positions was not reported");
        }
    }
}
