//! `audit repair`: publishes again what the event log has and the stream lacks, with its own id, headers and hash, the events of each
//! ride in their order.
//!
//! Where an event is missing in the middle of a ride, repair publishes the missing one and the later ones, and only then deletes the
//! earlier copies of the later ones. If the process dies in between, the stream has some events twice, and the next repair deletes
//! the extra copies. Repair deletes nothing that is not, byte for byte, in the database and once more in the stream. If the stream
//! has an event of a ride that the database lacks, repair leaves the ride alone: a person must decide.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use platform::relay;
use streams::RideId;
use streams::topology::TABLE;
use uuid::Uuid;

use super::compare::{Comparison, Difference, RideComparison, StreamCopy};
use super::database::DatabaseAudit;
use super::findings::{Finding, Findings};
use super::rows;
use super::sources::{AuditError, PAGE, STREAM, Sources};
use crate::event_log::rows::events_at;
use crate::hash_chain;

/// What was repaired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Events published again.
    pub published: u64,
    /// Of them, those that the stream refused as duplicates.
    pub duplicates: u64,
    /// Copies deleted because they were in the wrong place or repeated.
    pub deleted: u64,
    /// Events that wait in the outbox; the relay will publish them.
    pub waiting: u64,
    /// What could not be repaired, and why.
    pub findings: Findings,
}

/// How to repair one ride.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Versions to publish, in this order.
    pub publish: Vec<u32>,
    /// Sequences to delete after that.
    pub delete: Vec<u64>,
}

/// The plan after which the stream has every event of the ride once and in order; pure. `None` if the stream has an event that the
/// database lacks. Events that the stream may have deleted already are neither published nor deleted.
pub fn plan(ride: &RideComparison) -> Option<Plan> {
    let foreign = |(_, d): &(u32, Difference)| matches!(d, Difference::Unknown(_) | Difference::Another(_));
    if ride.differences().iter().any(foreign) {
        return None;
    }
    let expired: BTreeSet<u32> = ride.database.iter().filter(|e| e.may_be_expired).map(|e| e.version).collect();
    let required = ride.database.iter().map(|e| e.version).filter(|version| !expired.contains(version));
    let mut required = required.peekable();
    let mut delete = Vec::new();
    for StreamCopy { sequence, version, .. } in ride.stream.iter().filter(|copy| !expired.contains(&copy.version)) {
        if required.next_if_eq(version).is_none() {
            delete.push(*sequence);
        }
    }
    Some(Plan { publish: required.collect(), delete })
}

type Comparisons = BTreeMap<RideId, RideComparison>;
type Plans = BTreeMap<RideId, Plan>;

pub(super) async fn repair(sources: &Sources) -> Result<Repaired, AuditError> {
    let mut repaired = Repaired::default();
    let created_at = sources.bus.created_at(STREAM, &[]).await?;
    let mut comparison = Comparison::read(sources, sources.horizon(), None).await?;
    let mut database = DatabaseAudit::default();
    let mut first = Some(RideId(Uuid::nil()));
    while let Some(from) = first {
        let bound = comparison.bound(from).await?;
        let page = rows::records(&mut sources.store.snapshot().await?, from, bound, PAGE).await?;
        let unsound = page.records.iter().filter(|records| !database.check(records)).map(|records| records.ride_id);
        let unsound: BTreeSet<RideId> = unsound.collect();
        sources.progress.rides.fetch_add(page.records.len() as u64, Ordering::Relaxed);
        let (rides, waiting) = comparison.page(&page.records, from, page.last).await?;
        repaired.waiting += waiting;
        let mut plans = Plans::new();
        for (ride, comparison) in &rides {
            match plan(comparison) {
                Some(plan) if plan == Plan::default() => {}
                // Publishing its events would copy what is wrong into the stream.
                Some(_) if unsound.contains(ride) => repaired
                    .findings
                    .push(Finding::of_ride(*ride, "left alone: it is not sound in the database, see `audit verify`")),
                Some(plan) => {
                    plans.insert(*ride, plan);
                }
                None => repaired.findings.push(Finding::of_ride(
                    *ride,
                    "left alone: the stream has what the database has not, see `audit verify`",
                )),
            }
        }
        publish_again(sources, &rides, plans, &mut repaired).await?;
        first = page.next;
    }
    if repaired.findings.count() == 0 {
        // The stream is complete: the relay need not publish again what the outbox still has.
        let subjects = TABLE.iter().filter(|row| row.stream == STREAM).map(|row| row.subject.as_str().to_owned());
        let created_at = subjects.map(|subject| (subject, created_at)).collect();
        relay::mark_recovered(&sources.store, &created_at).await?;
    }
    Ok(repaired)
}

/// Publishes what the plans name, in the order in which it happened; then deletes what they name.
async fn publish_again(
    sources: &Sources,
    rides: &Comparisons,
    mut plans: Plans,
    repaired: &mut Repaired,
) -> Result<(), AuditError> {
    let mut order = Vec::new();
    for (ride, plan) in &plans {
        let Some(comparison) = rides.get(ride) else { continue };
        let logged = comparison.database.iter().filter(|logged| plan.publish.contains(&logged.version));
        order.extend(logged.map(|logged| (logged.occurred_at, *ride, logged.version)));
    }
    order.sort();
    for part in order.chunks(PAGE) {
        let keys: Vec<_> = part.iter().map(|(_, ride, version)| (*ride, *version)).collect();
        let events = events_at(&mut sources.store.begin().await?, &keys).await?;
        let mut messages = Vec::with_capacity(keys.len());
        for key in &keys {
            let gone =
                || AuditError::Refused(format!("ride {} version {}: it is gone from the database", key.0, key.1));
            let event = events.get(key).ok_or_else(gone)?;
            hash_chain::verify_body(&event.subject, event.body.as_bytes())
                .map_err(|error| AuditError::Refused(format!("in the database, {error}")))?;
            messages.push(event.message());
        }
        for (key, result) in keys.iter().zip(sources.bus.publish_all(messages).await) {
            let published = result?;
            repaired.published += 1;
            if published.duplicate {
                repaired.duplicates += 1;
                refused_as_duplicate(sources, *key, published.sequence, &mut plans, repaired).await?;
            }
        }
    }
    for (_, plan) in plans {
        for sequence in plan.delete {
            sources.bus.delete_message(STREAM, sequence).await?;
            repaired.deleted += 1;
        }
    }
    Ok(())
}

/// The stream has published this message id within the duplicate window, so it did not store the message again. Then no other copy
/// of the ride may be deleted.
async fn refused_as_duplicate(
    sources: &Sources,
    (ride, version): (RideId, u32),
    sequence: u64,
    plans: &mut Plans,
    repaired: &mut Repaired,
) -> Result<(), AuditError> {
    let disordered = plans.get_mut(&ride).is_some_and(|plan| !std::mem::take(&mut plan.delete).is_empty());
    let is_stored = match sources.bus.get_message(STREAM, sequence).await {
        Ok(_) => true,
        Err(streams::BusError::NotFound(_)) => false,
        Err(error) => return Err(error.into()),
    };
    if !is_stored || disordered {
        let what = "the stream still remembers its id and does not take it again: repair again in 5 minutes";
        repaired.findings.push(Finding::of_event(ride, version, None, what));
    }
    Ok(())
}
