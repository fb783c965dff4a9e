//! The audit trail: RIDE_STREAM proved by itself and against the tables, the tables made again from it, and the stream made
//! whole again from the events kept.
//!
//! It changes nothing but what it is told to repair or rebuild, and touches no durable consumer. The checks are pure
//! ([`stream`], [`database`], [`plan`](repair::plan)); the commands around them read the stream in order and the tables in pages, and hold only live
//! rides and fingerprints of a fixed size, however long the trail is.

pub mod compare;
pub mod database;
pub mod prints;
pub mod rebuild;
pub mod repair;
mod rows;
pub mod stream;
pub mod suspects;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use platform::{Store, StoreError, World};
use streams::bus::{Replay, ReplayStart, StoredMessage};
use streams::topology::Topology;
use streams::{Bus, BusError, RideId};

use crate::hash_chain::Broken;
use crate::tables::Tables;

/// The stream that is the trail.
pub const STREAM: &str = "RIDE_STREAM";
/// Findings that are kept with their words; the rest is counted.
pub const LISTED_MAX: usize = 1_000;
/// Messages or rows in hand at once.
const PAGE: usize = 500;
/// The wait for the next message of a stream that has more.
const STALL: Duration = Duration::from_secs(10);
/// How long before its age limit an event may be gone from the stream: clocks differ, and an audit takes its time.
const SLACK_S: i64 = 3_600;

/// One thing that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The ride, if it can be told.
    pub ride_id: Option<RideId>,
    /// The version of the event, if it is about one.
    pub version: Option<u32>,
    /// The sequence in the stream, if it is about a message.
    pub sequence: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl Finding {
    fn of_ride(ride_id: RideId, what: impl Into<String>) -> Self {
        Self { ride_id: Some(ride_id), version: None, sequence: None, what: what.into() }
    }

    fn of_event(ride_id: RideId, version: u32, sequence: Option<u64>, what: impl Into<String>) -> Self {
        Self { ride_id: Some(ride_id), version: Some(version), sequence, what: what.into() }
    }

    fn broken(broken: &Broken, sequence: Option<u64>) -> Self {
        let (ride_id, version) = broken.place();
        Self { ride_id, version, sequence, what: broken.what() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ride_id {
            Some(ride) => write!(f, "ride {ride}")?,
            None => f.write_str("unknown ride")?,
        }
        if let Some(version) = self.version {
            write!(f, " version {version}")?;
        }
        if let Some(sequence) = self.sequence {
            write!(f, " (sequence {sequence})")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// What was found, the first [`LISTED_MAX`] with their words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    listed: Vec<Finding>,
    count: u64,
}

impl Findings {
    /// Adds one.
    pub fn push(&mut self, finding: Finding) {
        self.count += 1;
        if self.listed.len() < LISTED_MAX {
            self.listed.push(finding);
        }
    }

    fn append(&mut self, other: Self) {
        let unlisted = other.count - other.listed.len() as u64;
        other.listed.into_iter().for_each(|finding| self.push(finding));
        self.count += unlisted;
    }

    /// The first of them.
    pub fn listed(&self) -> &[Finding] {
        &self.listed
    }

    /// All, listed or not.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// Why an audit could not be made at all.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It would do harm, or cannot be done as things are.
    #[error("{0}")]
    Refused(String),
}

/// How far a command has got; for whoever waits.
#[derive(Debug, Default)]
pub struct Progress {
    messages: AtomicU64,
    rides: AtomicU64,
}

impl Progress {
    /// Messages read from the stream and rides read from the tables, so far.
    pub fn read(&self) -> (u64, u64) {
        (self.messages.load(Ordering::Relaxed), self.rides.load(Ordering::Relaxed))
    }
}

/// The trail and the tables of one platform.
#[derive(Debug)]
pub struct Audit {
    bus: Bus,
    store: Store<Tables>,
    world: World,
    retention: chrono::Duration,
    /// How far the command under way has got.
    pub progress: std::sync::Arc<Progress>,
}

impl Audit {
    /// Over `bus` and the schema of rides.
    pub fn new(bus: &Bus, store: &Store<Tables>, world: &World) -> Self {
        let topology = Topology::rideshare();
        let stream = topology.streams.iter().find(|s| s.name == STREAM);
        let max_age = stream.map_or(Duration::ZERO, |s| s.max_age);
        Self {
            bus: bus.clone(),
            store: store.clone(),
            world: world.clone(),
            retention: chrono::Duration::from_std(max_age).unwrap_or(chrono::Duration::MAX),
            progress: std::sync::Arc::default(),
        }
    }

    /// What occurred from here on must still be in the stream.
    fn horizon(&self) -> DateTime<Utc> {
        self.world.now() - self.retention + chrono::Duration::seconds(SLACK_S)
    }
}

/// Reads the trail in order, from one sequence to another, both included.
struct Reader {
    replay: Option<Replay>,
    to: u64,
}

impl Reader {
    async fn open(bus: &Bus, from: u64, to: u64) -> Result<Self, AuditError> {
        let info = bus.stream_info(STREAM).await?;
        // What a reader waits for must be there.
        let any = info.messages > 0 && from <= to && info.first_sequence <= to;
        let replay = if any { Some(bus.replay(STREAM, None, ReplayStart::Sequence(from)).await?) } else { None };
        Ok(Self { replay, to })
    }

    /// The next messages; `None` at the end.
    async fn next(&mut self, progress: &Progress) -> Result<Option<Vec<StoredMessage>>, AuditError> {
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
        progress.messages.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(Some(batch))
    }
}

#[cfg(test)]
mod tests;
