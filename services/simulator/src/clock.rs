//! The clock of the simulated people. It owns the only calls of the crate that read the time.
//!
//! The services take their time from `platform::world`, so that they can run under paused time from a seed. This crate
//! stands on the other side of the socket, as any client would: it lives in real time and must not depend on the
//! services' crates. So it has its own clock, and clippy's list of disallowed methods is lifted here and nowhere else. Only
//! who simulates time itself tells it when the day began; all else follows tokio's clock, which can be paused.
#![allow(clippy::disallowed_methods)]

use chrono::{DateTime, Utc};
use tokio::time::Instant;

/// The wall clock, for times on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wall(Option<(DateTime<Utc>, Instant)>);

impl Wall {
    /// The system's; or, with a time that it is now, that and tokio's clock from now on.
    pub(crate) fn new(now: Option<DateTime<Utc>>) -> Self {
        Self(now.map(|now| (now, Instant::now())))
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        match self.0 {
            None => Utc::now(),
            Some((began, since)) => began + chrono::Duration::from_std(since.elapsed()).unwrap_or_default(),
        }
    }
}

/// The monotonic clock, for deadlines and latencies.
pub(crate) fn now() -> Instant {
    Instant::now()
}
