//! `audit repair`: what the database has and the stream has not is published again, with its own id, headers and hash, each
//! ride's events in their order.
//!
//! Where an event is missing in the middle of a ride, the ride's later ones are published again after it, and only then their
//! earlier copies are deleted: dying in between leaves one too many, which the next repair takes away. Nothing is
//! deleted that is not, byte for byte, in the database and once more in the stream. A ride of which the stream has what the
//! database has not is left alone: that is for a person.

use std::collections::BTreeMap;

use streams::RideId;
use streams::topology::TABLE;

use super::database::Books;
use super::stream::Trail;
use super::suspects::{Copy, HELD_MAX, Suspect, Verdict, message};
use super::{Audit, AuditError, Finding, Findings, PAGE, Reader, STREAM, rows};
use crate::hash_chain;

/// What was repaired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Events published again.
    pub published: u64,
    /// Of them, those that the stream had after all.
    pub duplicates: u64,
    /// Copies deleted because they stood before an event that belongs before them, or a second time.
    pub deleted: u64,
    /// Events that wait in the outbox, and are the relay's business.
    pub waiting: u64,
    /// What could not be repaired, and why.
    pub findings: Findings,
}

/// What to do about one ride.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Versions to publish, in this order.
    pub publish: Vec<u32>,
    /// Sequences to delete once these are published.
    pub delete: Vec<u64>,
}

/// What makes the stream's copies of a ride those of the tables, in order and each once; pure. `None` if the stream has what
/// the tables have not.
pub fn plan(suspect: &Suspect) -> Option<Plan> {
    let strange = |(_, verdict): &(u32, Verdict)| matches!(verdict, Verdict::Unknown(_) | Verdict::Another(_));
    if suspect.verdicts().iter().any(strange) {
        return None;
    }
    let mut wanted = suspect.kept.iter().map(|kept| kept.version).peekable();
    let mut delete = Vec::new();
    for Copy { sequence, version, .. } in &suspect.stream {
        if wanted.next_if_eq(version).is_none() {
            delete.push(*sequence);
        }
    }
    Some(Plan { publish: wanted.collect(), delete })
}

impl Audit {
    /// Repairs the stream; the platform may run meanwhile.
    ///
    /// # Errors
    /// [`AuditError`] if it could not be done to the end. Doing it again goes on.
    pub async fn repair(&self) -> Result<Repaired, AuditError> {
        let horizon = self.horizon();
        let mut repaired = Repaired::default();
        let made = self.bus.created_at(STREAM, &[]).await?;
        let info = self.bus.stream_info(STREAM).await?;
        let mut trail = Trail::new(info.first_sequence <= 1, horizon);
        let mut reader = Reader::open(&self.bus, 1, info.last_sequence).await?;
        while let Some(batch) = reader.next(&self.progress).await? {
            for stored in &batch {
                trail.message(stored);
            }
            trail.old.clear();
        }
        let books: Books = self.books(horizon).await?;
        // Their rides are not told again: what is wrong would be told once more.
        let broken: Vec<RideId> = books.findings.listed().iter().filter_map(|finding| finding.ride_id).collect();
        let disordered: Vec<RideId> = trail.disordered.iter().copied().collect();
        for group in trail.prints.differing(&books.prints, &disordered, HELD_MAX) {
            let (suspects, waiting) = self.suspects(&group, horizon).await?;
            repaired.waiting += waiting;
            let mut plans = BTreeMap::new();
            for (ride, suspect) in &suspects {
                match plan(suspect) {
                    Some(_) if broken.contains(ride) => repaired.findings.push(Finding::of_ride(
                        *ride,
                        "left alone: it is not sound in the database, see `audit verify`",
                    )),
                    Some(plan) => {
                        plans.insert(*ride, plan);
                    }
                    None => repaired.findings.push(Finding::of_ride(
                        *ride,
                        "left alone: the stream has what the database has not, see `audit verify`",
                    )),
                }
            }
            self.publish_again(&suspects, plans, &mut repaired).await?;
        }
        if repaired.findings.count() == 0 {
            // It has everything now: the relay need not tell again what it still keeps.
            let subjects = TABLE.iter().filter(|row| row.stream == STREAM).map(|row| row.subject.as_str().to_owned());
            self.store.settle_streams(&subjects.map(|subject| (subject, made)).collect()).await?;
        }
        Ok(repaired)
    }

    /// Publishes what the plans name in the order in which it happened, then deletes what they name.
    async fn publish_again(
        &self,
        suspects: &BTreeMap<RideId, Suspect>,
        mut plans: BTreeMap<RideId, Plan>,
        repaired: &mut Repaired,
    ) -> Result<(), AuditError> {
        let mut order = Vec::new();
        for (ride, plan) in &plans {
            let Some(suspect) = suspects.get(ride) else { continue };
            let kept = suspect.kept.iter().filter(|kept| plan.publish.contains(&kept.version));
            order.extend(kept.map(|kept| (kept.occurred_at, *ride, kept.version)));
        }
        order.sort();
        for part in order.chunks(PAGE) {
            let keys: Vec<_> = part.iter().map(|(_, ride, version)| (*ride, *version)).collect();
            let events = rows::events_at(&mut self.store.begin().await?, &keys).await?;
            let mut messages = Vec::with_capacity(keys.len());
            for key in &keys {
                let gone =
                    || AuditError::Refused(format!("ride {} version {}: it is gone from the database", key.0, key.1));
                let event = events.get(key).ok_or_else(gone)?;
                hash_chain::verify_body(&event.subject, event.body.as_bytes())
                    .map_err(|broken| AuditError::Refused(format!("in the database, {broken}")))?;
                messages.push(message(event));
            }
            for (key, result) in keys.iter().zip(self.bus.publish_all(messages).await) {
                let published = result?;
                repaired.published += 1;
                if published.duplicate {
                    repaired.duplicates += 1;
                    self.remembered(*key, published.sequence, &mut plans, repaired).await?;
                }
            }
        }
        for (_, plan) in plans {
            for sequence in plan.delete {
                self.bus.delete_message(STREAM, sequence).await?;
                repaired.deleted += 1;
            }
        }
        Ok(())
    }

    /// The stream remembers the id of a message: it was published meanwhile, or it was there a short time ago. Then it is not
    /// stored again, and no other copy of its ride may be deleted for it.
    async fn remembered(
        &self,
        (ride, version): (RideId, u32),
        sequence: u64,
        plans: &mut BTreeMap<RideId, Plan>,
        repaired: &mut Repaired,
    ) -> Result<(), AuditError> {
        let disordered = plans.get_mut(&ride).is_some_and(|plan| !std::mem::take(&mut plan.delete).is_empty());
        let there = match self.bus.get_message(STREAM, sequence).await {
            Ok(_) => true,
            Err(streams::BusError::NotFound(_)) => false,
            Err(error) => return Err(error.into()),
        };
        if !there || disordered {
            let what = "the stream still remembers its id and does not take it again: repair again in 5 minutes";
            repaired.findings.push(Finding::of_event(ride, version, None, what));
        }
        Ok(())
    }
}
