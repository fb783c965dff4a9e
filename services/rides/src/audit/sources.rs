//! What an audit reads: the stream in order, and the tables in pages of rides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use platform::{Store, StoreError, World};
use streams::bus::{Replay, ReplayStart, StoredMessage};
use streams::{Bus, BusError};

use crate::tables::Tables;

/// The stream of ride events, the audit trail.
pub const STREAM: &str = "RIDE_STREAM";
/// Messages or rides in memory at once.
pub(super) const PAGE: usize = 500;
/// Limit of the wait for the next message of a stream that has more.
const STALL: Duration = Duration::from_secs(10);
/// An event may be gone from the stream this long before its age limit: clocks differ, and an audit takes time.
const EXPIRY_MARGIN_S: i64 = 3_600;

/// Why an audit could not be done.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It would do harm, or is not possible as things are.
    #[error("{0}")]
    Refused(String),
}

/// How far a command has got.
#[derive(Debug, Default)]
pub struct Progress {
    pub(super) messages: AtomicU64,
    pub(super) rides: AtomicU64,
}

impl Progress {
    /// Messages read from the stream and rides read from the tables, so far.
    pub fn read(&self) -> (u64, u64) {
        (self.messages.load(Ordering::Relaxed), self.rides.load(Ordering::Relaxed))
    }
}

/// The stream and the tables of one platform.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) bus: Bus,
    pub(super) store: Store<Tables>,
    pub(super) world: World,
    /// The age limit of the stream.
    pub(super) max_age: chrono::Duration,
    pub(super) progress: Arc<Progress>,
}

impl Sources {
    /// The stream must still have every event that occurred at this time or later.
    pub(super) fn horizon(&self) -> DateTime<Utc> {
        self.world.now() - self.max_age + chrono::Duration::seconds(EXPIRY_MARGIN_S)
    }

    /// A reader of the messages from one sequence to another, both included.
    pub(super) async fn read_stream(&self, from: u64, to: u64) -> Result<StreamReader, AuditError> {
        let info = self.bus.stream_info(STREAM).await?;
        // Without a message in the range a replay would wait for one.
        let any = info.messages > 0 && from <= to && info.first_sequence <= to;
        let replay = if any { Some(self.bus.replay(STREAM, None, ReplayStart::Sequence(from)).await?) } else { None };
        Ok(StreamReader { replay, to, progress: self.progress.clone() })
    }
}

/// Reads a range of the stream in order.
pub(super) struct StreamReader {
    replay: Option<Replay>,
    to: u64,
    progress: Arc<Progress>,
}

impl StreamReader {
    /// The next messages; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<StoredMessage>>, AuditError> {
        let Some(replay) = self.replay.as_mut().filter(|r| !r.is_at_end()) else { return Ok(None) };
        let mut batch = replay.batch(PAGE, STALL).await?;
        if batch.is_empty() {
            return Err(AuditError::Refused(format!(
                "{STREAM} has more messages and sends none for {STALL:?}: try again"
            )));
        }
        if batch.last().is_some_and(|m| m.sequence >= self.to) {
            batch.retain(|m| m.sequence <= self.to);
            self.replay = None;
        }
        self.progress.messages.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(Some(batch))
    }
}
