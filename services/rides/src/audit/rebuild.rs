//! `audit rebuild`: the tables of rides again, from the stream, into a database that has none; all of it in one transaction,
//! or nothing.
//!
//! What does not follow from events of rides is not made again: wrong PINs, lost matches, and when a provider was asked.
//! Whether a bill was paid only the provider knows: it is asked again, by the payment's id, which is the same as then.

use std::collections::BTreeSet;

use platform::Transaction;
use streams::bus::{MESSAGE_ID, StoredMessage};
use streams::{Event, RideId};

use super::stream::{Said, Trail};
use super::{Audit, AuditError, Findings, Reader, STREAM};
use crate::event_log::{self, KeptEvent};
use crate::ledger;
use crate::payment::{self, CaptureError, Payment, PaymentStatus, Provider};
use crate::ride::rows;
use crate::ride::{Bill, Ride};
use crate::tables::Tables;

/// What was made again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Messages read.
    pub messages: u64,
    /// Rides written.
    pub rides: u64,
    /// Events written.
    pub events: u64,
    /// Entries of the ledger written.
    pub entries: u64,
    /// Rides left out because they began before the stream does.
    pub begun_before: u64,
    /// Why nothing was written, if the trail is not sound.
    pub findings: Findings,
}

/// What a page of the stream adds to the tables.
#[derive(Default)]
struct Page {
    events: Vec<KeptEvent>,
    ended: Vec<(Ride, Option<Bill>)>,
}

impl Page {
    fn take(&mut self, stored: &StoredMessage, said: Said) {
        self.events.push(KeptEvent {
            ride_id: said.event.ride_id,
            version: said.event.version,
            message_id: stored.headers.find(MESSAGE_ID).unwrap_or_default().to_owned(),
            subject: stored.subject.clone(),
            body: String::from_utf8_lossy(&stored.payload).into_owned(),
            hash: said.event.hash,
            occurred_at: said.event.occurred_at,
            traceparent: stored.headers.find("traceparent").unwrap_or_default().to_owned(),
        });
        if said.ride.status.is_final() {
            self.ended.push((said.ride, said.bill));
        }
    }
}

impl Audit {
    /// Makes the tables again. Bills are asked of `provider`.
    ///
    /// # Errors
    /// [`AuditError::Refused`] if there is anything in the tables; otherwise if it could not be done. Then nothing was written.
    pub async fn rebuild(&self, provider: Provider) -> Result<Rebuilt, AuditError> {
        let mut tx = self.store.begin().await?;
        if let Some(table) = super::rows::lock_empty(&mut tx).await? {
            let what =
                format!("the table {table} of the schema rides has rows already: rebuild only into an empty database");
            return Err(AuditError::Refused(what));
        }
        let info = self.bus.stream_info(STREAM).await?;
        // Whatever its age: here nothing is compared.
        let mut trail = Trail::new(info.first_sequence <= 1, chrono::DateTime::UNIX_EPOCH);
        let mut rebuilt = Rebuilt::default();
        let mut left_out: BTreeSet<RideId> = BTreeSet::new();
        let mut reader = Reader::open(&self.bus, 1, info.last_sequence).await?;
        while let Some(batch) = reader.next(&self.progress).await? {
            let mut page = Page::default();
            for stored in &batch {
                let Some(said) = trail.message(stored) else { continue };
                if !said.begun_before {
                    page.take(stored, said);
                } else if said.ride.status.is_final() {
                    left_out.remove(&said.ride.ride_id);
                    rebuilt.begun_before += 1;
                } else {
                    left_out.insert(said.ride.ride_id);
                }
            }
            // Nothing is written of a trail that is not sound, but all of it is read, so that all is told.
            if trail.findings.count() == 0 {
                self.write(&mut tx, page, provider, &mut rebuilt).await?;
            }
        }
        let live: Vec<_> = trail.live().filter(|r| !trail.has_begun_before(r.ride_id)).cloned().collect();
        rebuilt.begun_before += left_out.len() as u64;
        rebuilt.messages = trail.messages;
        if trail.findings.count() == 0 {
            for part in live.chunks(super::PAGE) {
                let page = Page { events: Vec::new(), ended: part.iter().map(|ride| (ride.clone(), None)).collect() };
                self.write(&mut tx, page, provider, &mut rebuilt).await?;
            }
            tx.commit().await?;
            return Ok(rebuilt);
        }
        Ok(Rebuilt { messages: rebuilt.messages, findings: trail.findings, ..Rebuilt::default() })
    }

    async fn write(
        &self,
        tx: &mut Transaction<Tables>,
        page: Page,
        provider: Provider,
        rebuilt: &mut Rebuilt,
    ) -> Result<(), AuditError> {
        rebuilt.events += page.events.len() as u64;
        rebuilt.rides += page.ended.len() as u64;
        if !page.events.is_empty() {
            event_log::keep_events(tx, page.events).await.map_err(|error| twice(error, "event"))?;
        }
        let (rides, bills): (Vec<Ride>, Vec<Option<Bill>>) = page.ended.into_iter().unzip();
        if rides.is_empty() {
            return Ok(());
        }
        rows::insert_told_rides(tx, &rides).await.map_err(|error| twice(error, "ride"))?;
        let (mut due, mut settled, mut movements) = (Vec::new(), Vec::new(), Vec::new());
        let unbalanced = |e: ledger::Unbalanced| AuditError::Refused(e.to_string());
        for (ride, bill) in rides.iter().zip(bills) {
            let Some(bill) = bill else { continue };
            let payment = Payment::due(ride, bill.total);
            movements.push(ledger::owed(ride, &bill).map_err(unbalanced)?);
            let tried_at = Some(self.world.now());
            match provider.capture(payment.payment_id, payment.amount) {
                Ok(reference) => {
                    movements.push(ledger::captured(&payment, provider.name()).map_err(unbalanced)?);
                    let (status, reference) = (PaymentStatus::Captured, Some(reference));
                    settled.push(Payment { status, reference, tried_at, ..payment.clone() });
                }
                Err(CaptureError::Refused) => {
                    settled.push(Payment { status: PaymentStatus::Refused, tried_at, ..payment.clone() });
                }
                // The work queue goes on asking, once the platform runs on these tables.
                Err(CaptureError::Unavailable) => {
                    tx.publish(&Event::PaymentCapture(payment.capture()), &self.world.trace());
                }
            }
            due.push(payment);
        }
        rebuilt.entries += movements.iter().map(|m| m.postings.len() as u64).sum::<u64>();
        if !due.is_empty() {
            payment::rows::insert_payments(tx, &due).await?;
            ledger::rows::post(tx, &movements).await?;
        }
        if !settled.is_empty() {
            payment::rows::settle_payments(tx, &settled).await?;
        }
        Ok(())
    }
}

/// A row that is there already: the stream has something twice that only a look at the whole shows.
fn twice(error: platform::StoreError, what: &str) -> AuditError {
    match error {
        platform::StoreError::Conflict { constraint } => AuditError::Refused(format!(
            "an {what} stands twice in {STREAM} (constraint {constraint}): `audit verify` beside the database that has it says \
             which, `audit repair` mends it"
        )),
        error => error.into(),
    }
}
