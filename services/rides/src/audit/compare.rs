//! `audit verify`: the stream by itself, the tables by themselves, and the one against the other.
//!
//! Both sides are read once. What they say of each other is compared by fingerprints of a fixed size; only rides in whose
//! buckets these differ are looked at event by event.

use std::collections::BTreeMap;

use super::database::Books;
use super::stream::{Old, Trail};
use super::suspects::{HELD_MAX, digest_of};
use super::{Audit, AuditError, Finding, Findings, PAGE, Reader, STREAM, rows};

/// What was verified, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Messages in the stream.
    pub messages: u64,
    /// Rides in the tables.
    pub rides: u64,
    /// Of them, those that have not ended.
    pub live: u64,
    /// Events in the tables.
    pub events: u64,
    /// Entries in the ledger.
    pub entries: u64,
    /// Events that were committed and wait in the outbox.
    pub waiting: u64,
    /// Whether the oldest events are gone from the stream, as they must be after a week.
    pub trimmed: bool,
    /// What is wrong; nothing, if all is well.
    pub findings: Findings,
}

impl Audit {
    /// Verifies everything; changes nothing. The platform may run meanwhile.
    ///
    /// # Errors
    /// [`AuditError`] if it could not be read to the end; what is wrong with what was read is in the [`Report`].
    pub async fn verify(&self) -> Result<Report, AuditError> {
        let horizon = self.horizon();
        let info = self.bus.stream_info(STREAM).await?;
        let mut trail = Trail::new(info.first_sequence <= 1, horizon);
        let mut reader = Reader::open(&self.bus, 1, info.last_sequence).await?;
        while let Some(batch) = reader.next(&self.progress).await? {
            for stored in &batch {
                trail.message(stored);
            }
            if trail.old.len() >= PAGE {
                self.old(&mut trail).await?;
            }
        }
        self.old(&mut trail).await?;
        let books = self.books(horizon).await?;
        let mut report = Report {
            messages: trail.messages,
            rides: books.rides,
            live: books.live,
            events: books.events,
            entries: books.entries,
            trimmed: info.first_sequence > 1,
            findings: trail.findings,
            ..Report::default()
        };
        report.findings.append(books.findings);
        for group in trail.prints.differing(&books.prints, &[], HELD_MAX) {
            let (suspects, waiting) = self.suspects(&group, horizon).await?;
            report.waiting += waiting;
            self.accuse(&suspects, &mut report.findings).await?;
        }
        Ok(report)
    }

    /// Reads the tables, a page in one transaction each.
    pub(super) async fn books(&self, horizon: chrono::DateTime<chrono::Utc>) -> Result<Books, AuditError> {
        let mut books = Books::new(horizon);
        let mut after = None;
        loop {
            let mut tx = rows::snapshot(&self.store).await?;
            let (accounts, next) = rows::accounts(&mut tx, after, PAGE).await?;
            accounts.iter().for_each(|account| books.account(account));
            self.progress.rides.fetch_add(accounts.len() as u64, std::sync::atomic::Ordering::Relaxed);
            match next {
                Some(_) => after = next,
                None => return Ok(books),
            }
        }
    }

    /// Looks up what the stream has longer than it must, for no fingerprint holds it.
    async fn old(&self, trail: &mut Trail) -> Result<(), AuditError> {
        let old: Vec<Old> = std::mem::take(&mut trail.old);
        for part in old.chunks(PAGE) {
            let keys: Vec<_> = part.iter().map(|o| (o.ride_id, o.version)).collect();
            let kept: BTreeMap<_, _> = rows::events_at(&mut self.store.begin().await?, &keys).await?;
            for o in part {
                let what = match kept.get(&(o.ride_id, o.version)) {
                    Some(kept) if digest_of(kept) == o.digest => continue,
                    Some(_) => self.difference(o.ride_id, o.version, o.sequence).await?,
                    None => "it is in the stream and not in the database".to_owned(),
                };
                trail.findings.push(Finding::of_event(o.ride_id, o.version, Some(o.sequence), what));
            }
        }
        Ok(())
    }
}
