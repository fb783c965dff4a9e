//! The stream against the event log: for each version of a ride, what one side has and the other has not.
//!
//! The audit joins both sides by ride and version, a page of rides at a time. The platform may run meanwhile, so a difference counts
//! only if it is still there after a second look (`Comparison::page`).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use streams::RideId;
use streams::bus::StoredMessage;

use super::database::RideRecords;
use super::positions::{Copies, Positions};
use super::sources::{AuditError, PAGE, STREAM, Sources};
use super::stream::StreamAudit;
pub use super::stream_copy::{Digest, StreamCopy};
use super::stream_copy::{digest_of, message_id};
use crate::event_log::EventRow;
use crate::event_log::rows::events_at;

/// Copies in the stream that a page has at most; more only if they are of one ride.
const COPIES_PAGE: usize = 16 * PAGE;

/// An event as the event log has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseCopy {
    pub version: u32,
    pub digest: Digest,
    pub occurred_at: DateTime<Utc>,
    /// It is so old that the stream may have deleted it.
    pub may_be_expired: bool,
}

impl DatabaseCopy {
    fn of(event: &EventRow, horizon: DateTime<Utc>) -> Self {
        Self {
            version: event.version,
            digest: digest_of(&event.subject, &event.message_id, event.body.as_bytes()),
            occurred_at: event.occurred_at,
            may_be_expired: event.occurred_at < horizon,
        }
    }
}

/// Both sides of one ride.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RideComparison {
    /// By sequence.
    pub stream: Vec<StreamCopy>,
    /// By version.
    pub database: Vec<DatabaseCopy>,
}

/// How the two sides of one version differ. Numbers are sequences of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Only the database has it.
    Missing,
    /// The stream has it more than once.
    Repeated(Vec<u64>),
    /// Only the stream has it.
    Unknown(u64),
    /// The stream has another event with this version.
    Another(u64),
}

impl RideComparison {
    /// The full join by version: each version that both sides do not have exactly once and alike; pure.
    pub fn differences(&self) -> Vec<(u32, Difference)> {
        let mut copies: BTreeMap<u32, Vec<StreamCopy>> = BTreeMap::new();
        for copy in &self.stream {
            copies.entry(copy.version).or_default().push(*copy);
        }
        let mut differences = Vec::new();
        for logged in &self.database {
            let found = copies.remove(&logged.version).unwrap_or_default();
            if found.is_empty() && !logged.may_be_expired {
                differences.push((logged.version, Difference::Missing));
            }
            let others = found.iter().filter(|c| c.digest != logged.digest);
            differences.extend(others.map(|c| (logged.version, Difference::Another(c.sequence))));
            if found.len() > 1 {
                let sequences = found.iter().map(|c| c.sequence).collect();
                differences.push((logged.version, Difference::Repeated(sequences)));
            }
        }
        for (version, found) in copies {
            differences.extend(found.iter().map(|c| (version, Difference::Unknown(c.sequence))));
        }
        differences
    }
}

/// Compares pages of rides with what the stream has.
pub(super) struct Comparison<'a> {
    sources: &'a Sources,
    positions: Positions,
    /// The last sequence whose position is known.
    read_to: u64,
    horizon: DateTime<Utc>,
}

type Comparisons = BTreeMap<RideId, RideComparison>;

impl<'a> Comparison<'a> {
    /// Reads the stream to its present end. Each message also goes to `audit`, if there is one.
    pub(super) async fn read(
        sources: &'a Sources,
        horizon: DateTime<Utc>,
        mut audit: Option<&mut StreamAudit>,
    ) -> Result<Self, AuditError> {
        let positions = Positions::create(&sources.store).await?;
        let mut comparison = Self { sources, positions, read_to: 0, horizon };
        comparison
            .read_on(|stored| {
                if let Some(audit) = &mut audit {
                    audit.message(stored);
                }
            })
            .await?;
        comparison.positions.index().await?;
        Ok(comparison)
    }

    async fn read_on(&mut self, mut each: impl FnMut(&StoredMessage)) -> Result<(), AuditError> {
        let to = self.sources.bus.stream_info(STREAM).await?.last_sequence;
        let mut reader = self.sources.read_stream(self.read_to + 1, to).await?;
        while let Some(batch) = reader.next().await? {
            batch.iter().for_each(&mut each);
            let copies: Vec<(RideId, StreamCopy)> = batch.iter().filter_map(StreamCopy::of).collect();
            self.positions.add(&copies).await?;
        }
        self.read_to = self.read_to.max(to);
        Ok(())
    }

    /// Where a page from `first` on must end, so that it has a bounded number of copies, also when the tables lack the rides.
    pub(super) async fn bound(&mut self, first: RideId) -> Result<Option<RideId>, AuditError> {
        Ok(self.positions.bound(first, COPIES_PAGE).await?)
    }

    /// Compares the rides from `first` to `last`, of which the tables have `records`. Also returns how many events are committed and
    /// not yet published: those are no difference.
    ///
    /// The tables were read after the stream. An event that is missing in the stream may wait in the outbox, or may have been
    /// published since: the outbox is read first, then the rest of the stream, so it is seen in one of the two. An event of that rest
    /// may be newer than `records`: it is read from the database again.
    pub(super) async fn page(
        &mut self,
        records: &[RideRecords],
        first: RideId,
        last: RideId,
    ) -> Result<(Comparisons, u64), AuditError> {
        let copies = self.positions.between(first, last).await?;
        let mut rides = join(records, copies, self.horizon);
        let missing = versions_that_are(&rides, |difference| *difference == Difference::Missing);
        let mut waiting = 0;
        if !missing.is_empty() {
            let unpublished = self.unpublished(records, &missing).await?;
            waiting = unpublished.len() as u64;
            if missing.len() > unpublished.len() {
                self.read_on(|_| ()).await?;
                rides = join(records, self.positions.between(first, last).await?, self.horizon);
            }
            for (ride, version) in unpublished {
                if let Some(ride) = rides.get_mut(&ride) {
                    ride.database.retain(|logged| logged.version != version);
                    // It may have been published since.
                    ride.stream.retain(|copy| copy.version != version);
                }
            }
        }
        let unknown = versions_that_are(&rides, |difference| matches!(difference, Difference::Unknown(_)));
        for keys in unknown.chunks(PAGE) {
            for (key, event) in events_at(&mut self.sources.store.begin().await?, keys).await? {
                if let Some(ride) = rides.get_mut(&key.0)
                    && ride.database.iter().all(|logged| logged.version != key.1)
                {
                    ride.database.push(DatabaseCopy::of(&event, self.horizon));
                    ride.database.sort_by_key(|logged| logged.version);
                }
            }
        }
        Ok((rides, waiting))
    }

    /// Of events, those that the outbox has not published yet.
    async fn unpublished(
        &self,
        records: &[RideRecords],
        keys: &[(RideId, u32)],
    ) -> Result<Vec<(RideId, u32)>, AuditError> {
        let events = records.iter().flat_map(|r| &r.events);
        let ids: BTreeMap<(RideId, u32), &str> =
            events.map(|e| ((e.ride_id, e.version), e.message_id.as_str())).collect();
        let mut unpublished = Vec::new();
        for keys in keys.chunks(PAGE) {
            let page: Vec<&str> = keys.iter().filter_map(|key| ids.get(key).copied()).collect();
            let found = self.sources.store.begin().await?.unpublished_of(&page).await?;
            unpublished.extend(keys.iter().filter(|key| ids.get(key).is_some_and(|id| found.contains(*id))));
        }
        Ok(unpublished)
    }
}

fn join(records: &[RideRecords], copies: Copies, horizon: DateTime<Utc>) -> Comparisons {
    let mut rides = Comparisons::new();
    for (ride, stream) in copies {
        rides.entry(ride).or_default().stream = stream;
    }
    for event in records.iter().flat_map(|r| &r.events) {
        rides.entry(event.ride_id).or_default().database.push(DatabaseCopy::of(event, horizon));
    }
    rides
}

fn versions_that_are(rides: &Comparisons, wanted: impl Fn(&Difference) -> bool) -> Vec<(RideId, u32)> {
    let mut found = Vec::new();
    for (ride, comparison) in rides {
        let differences = comparison.differences().into_iter();
        found.extend(differences.filter(|(_, d)| wanted(d)).map(|(version, _)| (*ride, version)));
    }
    found.dedup();
    found
}

/// The first place in which a message is not what the event log has.
pub fn describe(stored: &StoredMessage, logged: &EventRow) -> String {
    if stored.subject != logged.subject {
        return format!("its subject is {}, in the database {}", stored.subject, logged.subject);
    }
    if message_id(stored) != logged.message_id {
        return format!("its message id is `{}`, in the database `{}`", message_id(stored), logged.message_id);
    }
    let (one, two) = (&stored.payload[..], logged.body.as_bytes());
    let same = one.iter().zip(two).take_while(|(a, b)| a == b).count();
    // A few bytes around the place, so that a person finds it.
    let around = |body: &[u8]| {
        let part = &body[same.saturating_sub(16).min(body.len())..(same + 16).min(body.len())];
        String::from_utf8_lossy(part).escape_debug().to_string()
    };
    format!("its body is not the database's from byte {same} on: `{}`, in the database `{}`", around(one), around(two))
}
