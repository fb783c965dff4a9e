//! The clock of the simulated people: the only calls of this crate that read the time.
//!
//! The services take their time from `platform::world`. This crate must not depend on it, so it has a clock of its own, and
//! clippy's list of disallowed methods is lifted in this file alone. Under a simulation, [`WallClock`] starts at a given time
//! and follows tokio's clock, which can be paused.
#![allow(clippy::disallowed_methods)]

use chrono::{DateTime, Utc};
use tokio::time::Instant;

/// The wall clock, for times on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WallClock(Option<(DateTime<Utc>, Instant)>);

impl WallClock {
    /// With a start time: shows that time now, and follows tokio's clock. Without one: the system's clock.
    pub(crate) fn new(starts_at: Option<DateTime<Utc>>) -> Self {
        Self(starts_at.map(|at| (at, Instant::now())))
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        match self.0 {
            None => Utc::now(),
            Some((at, since)) => at + chrono::Duration::from_std(since.elapsed()).unwrap_or_default(),
        }
    }
}

/// The monotonic clock, for deadlines and latencies.
pub(crate) fn now() -> Instant {
    Instant::now()
}
