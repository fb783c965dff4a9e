//! The limits of one process: its table and its buckets.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};

use super::buckets::Buckets;
use super::gcra::Admission;
use super::key::Key;
use super::table::{Limit, Limits, TABLE};
use crate::problem::Problem;

/// A limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub limit: Limit,
    /// When the same may succeed, in seconds, at least 1.
    pub retry_after_s: u64,
}

impl Refused {
    /// `wait_us` in microseconds.
    pub fn new(limit: Limit, wait_us: i64) -> Self {
        Self { limit, retry_after_s: u64::try_from(wait_us).unwrap_or(0).div_ceil(1_000_000).max(1) }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let limit = refused.limit.name();
        let message = format!("too many requests, by the limit {limit}: the header Retry-After says when to try again");
        let problem = Self::too_many_requests(message, refused.retry_after_s);
        Self { limit: Some(limit), ..problem }
    }
}

/// A limit that is reached again and again is logged at most once in so many seconds.
pub const LOG_INTERVAL_S: i64 = 10;

/// When a limit was logged, and how often it was reached since then.
#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    logged_at_us: Option<i64>,
    times: u64,
}

/// The limits of one process and its buckets. At most 100,000 buckets are remembered; a bucket that was
/// forgotten is a full one.
pub struct Limiter {
    limits: Limits,
    buckets: Mutex<Buckets>,
    reached: Mutex<[Reached; TABLE.len()]>,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Limiter {
    pub fn new(limits: Limits) -> Self {
        Self { limits, buckets: Mutex::default(), reached: Mutex::default() }
    }

    /// The table with what the settings change.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes `n` from the bucket of `key`: all of them or none.
    ///
    /// # Errors
    /// [`Refused`] if the bucket does not have as many.
    pub fn take(&self, limit: Limit, key: impl Into<Key>, n: u32, now: DateTime<Utc>) -> Result<(), Refused> {
        let quota = self.limits.quota(limit);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        match buckets.take(limit, key.into(), quota, n, now.timestamp_micros()) {
            Admission::Allowed { .. } => Ok(()),
            Admission::Refused { wait_us } => Err(Refused::new(limit, wait_us)),
        }
    }

    /// Counts that `limit` was reached; if it is to be logged now, how often that was since the last time.
    pub(crate) fn reached(&self, limit: Limit, now: DateTime<Utc>) -> Option<u64> {
        let now_us = now.timestamp_micros();
        let mut all = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let reached = &mut all[limit as usize];
        reached.times += 1;
        let due = reached.logged_at_us.is_none_or(|at| (now_us - at).abs() >= LOG_INTERVAL_S * 1_000_000);
        due.then(|| {
            reached.logged_at_us = Some(now_us);
            std::mem::take(&mut reached.times)
        })
    }
}
