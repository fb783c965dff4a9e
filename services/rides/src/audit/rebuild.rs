//! `audit rebuild`: rebuilds the tables of rides from the stream, in a database that has none of their rows, in one transaction.
//!
//! It cannot rebuild what no ride event says: wrong PINs, and which matches were superseded (match.rejected says so, but the stream
//! with that event deletes it once its readers have it). A superseded match that is delivered again is still refused if its request
//! has become a ride: the request is in `ride.pickup`, except in events of older versions. When a provider was called is not rebuilt either: rebuild calls it again with the payment's id, which is the
//! same as before, to learn whether a bill was paid. Refunds come from ADMIN_STREAM (`refunds.rs`).

use std::collections::BTreeSet;

use platform::Transaction;
use streams::bus::{MESSAGE_ID, StoredMessage};
use streams::{Event, MatchId, RequestId, RideId, RideStatus};

use super::findings::Findings;
use super::refunds;
use super::rows;
use super::sources::{AuditError, PAGE, STREAM, Sources};
use super::stream::{Beginning, DecodedEvent, StreamAudit};
use crate::event_log::EventRow;
use crate::event_log::rows::append_events;
use crate::ledger;
use crate::payment::{self, CaptureError, Payment, PaymentStatus, Provider};
use crate::ride::requests;
use crate::ride::rows::{insert_rebuilt_rides, replace_rides};
use crate::ride::{Bill, Ride};
use crate::tables::Tables;

/// What was rebuilt.
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
    /// Payments that were pending before a recovery, and whose capture is requested again.
    pub captures: u64,
    /// Rides left out because they began before the stream does.
    pub begun_before: u64,
    /// Why nothing was written, if the trail is not sound.
    pub findings: Findings,
}

/// What a batch of messages adds to the tables.
#[derive(Default)]
pub(super) struct Page {
    pub(super) events: Vec<EventRow>,
    pub(super) ended: Vec<(Ride, Option<Bill>)>,
    pub(super) fulfilled: Vec<(RequestId, MatchId)>,
}

/// Whether a ride that is written may have an older row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    New,
    MayExist,
}

/// Requests with several rides: each but the last was cancelled by its driver, and the search went on. The stream may have the
/// events of two rides in any order.
#[derive(Default)]
pub(super) struct ContinuedSearches {
    pub(super) reopened: BTreeSet<(RequestId, MatchId)>,
    /// Rides of requests for which another one was recorded first.
    pub(super) later: Vec<(RequestId, MatchId)>,
}

impl ContinuedSearches {
    /// Leaves the last ride of each request.
    pub(super) async fn write(self, tx: &mut Transaction<Tables>) -> Result<(), AuditError> {
        for (request, of_match) in &self.reopened {
            requests::reopen(tx, *request, *of_match).await?;
        }
        let last: Vec<_> = self.later.into_iter().filter(|pair| !self.reopened.contains(pair)).collect();
        if !last.is_empty() {
            requests::insert_fulfilled(tx, &last).await?;
        }
        Ok(())
    }
}

impl Page {
    pub(super) fn add(&mut self, stored: &StoredMessage, decoded: DecodedEvent) {
        if let Some(request) = decoded.event.request_id.filter(|_| decoded.event.status == RideStatus::Pickup) {
            self.fulfilled.push((request, decoded.event.match_id));
        }
        self.events.push(EventRow {
            ride_id: decoded.event.ride_id,
            version: decoded.event.version,
            message_id: stored.headers.find(MESSAGE_ID).unwrap_or_default().to_owned(),
            subject: stored.subject.clone(),
            body: String::from_utf8_lossy(&stored.payload).into_owned(),
            hash: decoded.event.hash,
            occurred_at: decoded.event.occurred_at,
            traceparent: stored.headers.find("traceparent").unwrap_or_default().to_owned(),
        });
        if decoded.ride.status.is_final() {
            self.ended.push((decoded.ride, decoded.bill));
        }
    }
}

pub(super) async fn rebuild(sources: &Sources, provider: Provider) -> Result<Rebuilt, AuditError> {
    let mut tx = sources.store.begin().await?;
    if let Some(table) = rows::lock_empty(&mut tx).await? {
        let what =
            format!("the table {table} of the schema rides has rows already: rebuild only into an empty database");
        return Err(AuditError::Refused(what));
    }
    let info = sources.bus.stream_info(STREAM).await?;
    let mut stream = StreamAudit::new(Beginning::of(info.first_sequence));
    let mut rebuilt = Rebuilt::default();
    let mut left_out: BTreeSet<RideId> = BTreeSet::new();
    let mut continued = ContinuedSearches::default();
    let mut reader = sources.read_stream(1, info.last_sequence).await?;
    while let Some(batch) = reader.next().await? {
        let mut page = Page::default();
        for stored in &batch {
            let Some(decoded) = stream.message(stored) else { continue };
            let reopened = decoded.ride.cancellation.as_ref().and_then(|c| c.continues);
            continued.reopened.extend(reopened.map(|request| (request, decoded.ride.match_id)));
            if !decoded.begun_before {
                page.add(stored, decoded);
            } else if decoded.ride.status.is_final() {
                left_out.remove(&decoded.ride.ride_id);
                rebuilt.begun_before += 1;
            } else {
                left_out.insert(decoded.ride.ride_id);
            }
        }
        // Nothing is written of an unsound stream, but all of it is read, so that every finding is reported.
        if stream.findings.count() == 0 {
            continued.later.extend(requests::insert_fulfilled(&mut tx, &page.fulfilled).await?);
            write(sources, &mut tx, page, provider, Rows::New, &mut rebuilt).await?;
        }
    }
    let live: Vec<_> = stream.live().filter(|r| !stream.has_begun_before(r.ride_id)).cloned().collect();
    rebuilt.begun_before += left_out.len() as u64;
    rebuilt.messages = stream.messages;
    if stream.findings.count() == 0 {
        for part in live.chunks(PAGE) {
            let page = Page { ended: part.iter().map(|ride| (ride.clone(), None)).collect(), ..Page::default() };
            write(sources, &mut tx, page, provider, Rows::New, &mut rebuilt).await?;
        }
        continued.write(&mut tx).await?;
        rebuilt.entries += refunds::restore(sources, &mut tx, provider.name()).await?;
        tx.commit().await?;
        return Ok(rebuilt);
    }
    Ok(Rebuilt { messages: rebuilt.messages, findings: stream.findings, ..Rebuilt::default() })
}

pub(super) async fn write(
    sources: &Sources,
    tx: &mut Transaction<Tables>,
    page: Page,
    provider: Provider,
    existing: Rows,
    rebuilt: &mut Rebuilt,
) -> Result<(), AuditError> {
    rebuilt.events += page.events.len() as u64;
    rebuilt.rides += page.ended.len() as u64;
    if !page.events.is_empty() {
        append_events(tx, page.events).await.map_err(|error| repeated(error, "event"))?;
    }
    let (rides, bills): (Vec<Ride>, Vec<Option<Bill>>) = page.ended.into_iter().unzip();
    if rides.is_empty() {
        return Ok(());
    }
    match existing {
        Rows::New => insert_rebuilt_rides(tx, &rides).await.map_err(|error| repeated(error, "ride"))?,
        Rows::MayExist => replace_rides(tx, &rides).await?,
    }
    let (mut due, mut settled, mut movements) = (Vec::new(), Vec::new(), Vec::new());
    let unbalanced = |e: ledger::Unbalanced| AuditError::Refused(e.to_string());
    for (ride, bill) in rides.iter().zip(bills) {
        let Some(bill) = bill else { continue };
        let payment = Payment::due(ride, bill.total);
        movements.push(ledger::billed(ride, &bill).map_err(unbalanced)?);
        let tried_at = Some(sources.world.now());
        match provider.capture(payment.payment_id, payment.amount) {
            Ok(reference) => {
                movements.push(ledger::captured(&payment, provider.name()).map_err(unbalanced)?);
                let (status, reference) = (PaymentStatus::Captured, Some(reference));
                settled.push(Payment { status, reference, tried_at, ..payment.clone() });
            }
            Err(CaptureError::Refused) => {
                settled.push(Payment { status: PaymentStatus::Refused, tried_at, ..payment.clone() });
            }
            // The work queue tries it again, once the platform runs on these tables.
            Err(CaptureError::Unavailable) => {
                tx.publish(&Event::PaymentCapture(payment.capture()), &sources.world.trace());
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

/// A row that exists already: the stream has something twice.
fn repeated(error: platform::StoreError, what: &str) -> AuditError {
    match error {
        platform::StoreError::Conflict { constraint } => AuditError::Refused(format!(
            "an {what} stands twice in {STREAM} (constraint {constraint}): `audit verify` beside the database that has it says \
             which, `audit repair` repairs it"
        )),
        error => error.into(),
    }
}
