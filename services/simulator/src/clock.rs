//! The clock of the simulated people. It owns the only two calls of the crate that read the time.
//!
//! The services take their time from `platform::world`, so that they can run under paused time from a seed. This crate
//! stands on the other side of the socket, as any client would: it lives in real time and must not depend on the
//! services' crates. So it has its own clock, and clippy's list of disallowed methods is lifted here and nowhere else.
#![allow(clippy::disallowed_methods)]

use chrono::{DateTime, Utc};
use tokio::time::Instant;

/// The wall clock, for times on the wire.
pub(crate) fn wall() -> DateTime<Utc> {
    Utc::now()
}

/// The monotonic clock, for deadlines and latencies.
pub(crate) fn now() -> Instant {
    Instant::now()
}
