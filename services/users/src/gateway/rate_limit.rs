//! The buckets of one socket, by the rule of all limits (`platform::limits::gcra`). Pure: the caller passes the time.

use platform::limits::{Admission, Quota};
use tokio::time::Instant;

/// How often a client may be refused by a limit before it counts as sending too fast.
pub(crate) const REFUSALS: Quota = Quota { burst: 20, per_s: 1.0 };

#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    quota: Quota,
    started: Instant,
    /// When it is full again, in microseconds since `started`.
    tat_us: Option<i64>,
}

impl Bucket {
    pub(crate) fn full(quota: Quota, now: Instant) -> Self {
        Self { quota, started: now, tat_us: None }
    }

    /// Takes one; false if there is none.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed_us = now.saturating_duration_since(self.started).as_micros();
        match self.quota.take(self.tat_us, i64::try_from(passed_us).unwrap_or(i64::MAX), 1) {
            Admission::Allowed { tat_us } => {
                self.tat_us = Some(tat_us);
                true
            }
            Admission::Refused { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_allows_a_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::full(Quota { burst: 200, per_s: 50.0 }, start);
        let mut taken = |at| (0..1_000).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(start), 200);
        assert_eq!(taken(start + Duration::from_secs(1)), 50);
        assert_eq!(taken(start + Duration::from_secs(100)), 200);
    }
}
