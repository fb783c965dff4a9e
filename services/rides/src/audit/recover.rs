//! `audit recover`: adds to the tables of rides what the stream has and the tables lack, in one transaction: after the database was restored
//! to an earlier moment. Then it requests the capture of each payment that is pending there, page by page: nothing else would.
//!
//! The services must not run: a ride that goes on from its old row would have two histories. If the tables have another event in the
//! place of one of the stream's, that has happened, and nothing is written. What `rebuild` cannot rebuild, this cannot recover.

use std::collections::{BTreeMap, BTreeSet};

use streams::bus::StoredMessage;
use streams::{Event, PaymentId, RideId, RideStatus};
use uuid::Uuid;

use super::findings::{Finding, Findings};
use super::rebuild::{ContinuedSearches, Page, Rebuilt, Rows, write};
use super::refunds;
use super::rows;
use super::sources::{AuditError, PAGE, STREAM, Sources};
use super::stream::{Beginning, DecodedEvent, StreamAudit};
use crate::event_log::rows::events_at;
use crate::payment::rows::payments_after;
use crate::payment::{Payment, PaymentStatus, Provider};
use crate::ride::Ride;
use crate::ride::requests;

/// The most rides that may be behind at once: they are in memory until the end.
const BEHIND_MAX: usize = 100_000;

pub(super) async fn recover(sources: &Sources, provider: Provider) -> Result<Rebuilt, AuditError> {
    let mut tx = sources.store.begin().await?;
    rows::lock(&mut tx).await?;
    let info = sources.bus.stream_info(STREAM).await?;
    let mut stream = StreamAudit::new(Beginning::of(info.first_sequence));
    let mut recovered = Rebuilt::default();
    let mut findings = Findings::default();
    let mut continued = ContinuedSearches::default();
    // Rides that are behind and live, as far as the stream has been read.
    let mut behind: BTreeMap<RideId, Ride> = BTreeMap::new();
    let mut reader = sources.read_stream(1, info.last_sequence).await?;
    while let Some(batch) = reader.next().await? {
        let decoded: Vec<(&StoredMessage, DecodedEvent)> =
            batch.iter().filter_map(|stored| Some((stored, stream.message(stored)?))).collect();
        let keys: Vec<(RideId, u32)> = decoded.iter().map(|(_, d)| (d.event.ride_id, d.event.version)).collect();
        let logged = events_at(&mut tx, &keys).await?;
        let (mut page, mut added) = (Page::default(), BTreeSet::new());
        for ((stored, decoded), key) in decoded.into_iter().zip(keys) {
            if let Some(logged) = logged.get(&key) {
                if logged.hash != decoded.event.hash {
                    let what = "the database has another event in its place: a service has run since the restore";
                    findings.push(Finding::of_event(key.0, key.1, Some(stored.sequence), what));
                }
                continue;
            }
            if !added.insert(key) {
                continue;
            }
            if decoded.begun_before {
                let what = "it is not in the database, and the stream no longer has the beginning of its ride";
                findings.push(Finding::of_event(key.0, key.1, Some(stored.sequence), what));
                continue;
            }
            let reopened = decoded.ride.cancellation.as_ref().and_then(|c| c.continues);
            continued.reopened.extend(reopened.map(|request| (request, decoded.ride.match_id)));
            match decoded.ride.status {
                RideStatus::Completed | RideStatus::Cancelled => _ = behind.remove(&key.0),
                _ => _ = behind.insert(key.0, decoded.ride.clone()),
            }
            page.add(stored, decoded);
        }
        if behind.len() > BEHIND_MAX {
            let what = format!("more than {BEHIND_MAX} live rides are behind {STREAM}: rebuild into an empty database");
            return Err(AuditError::Refused(what));
        }
        if stream.findings.count() + findings.count() == 0 {
            continued.later.extend(requests::insert_fulfilled(&mut tx, &page.fulfilled).await?);
            write(sources, &mut tx, page, provider, Rows::MayExist, &mut recovered).await?;
        }
    }
    recovered.messages = stream.messages;
    findings.append(stream.findings);
    if findings.count() > 0 {
        return Ok(Rebuilt { messages: recovered.messages, findings, ..Rebuilt::default() });
    }
    let behind: Vec<Ride> = behind.into_values().collect();
    for part in behind.chunks(PAGE) {
        let page = Page { ended: part.iter().map(|ride| (ride.clone(), None)).collect(), ..Page::default() };
        write(sources, &mut tx, page, provider, Rows::MayExist, &mut recovered).await?;
    }
    continued.write(&mut tx).await?;
    recovered.entries += refunds::restore(sources, &mut tx, provider.name()).await?;
    tx.commit().await?;
    recovered.captures = request_captures(sources).await?;
    Ok(recovered)
}

/// Requests the capture of each pending payment again, a page of payments in a transaction, and returns how many. A payment that was pending at
/// the moment of the restore may have been captured after it: then its message is gone from the work queue, and only the database knows of it. The
/// reader captures only what is pending, so a message too many changes nothing; each has an id of its own (of the present time), because the stream
/// and the inbox may know that of the message before. What waits in the outbox is not requested twice, so that this may be repeated.
async fn request_captures(sources: &Sources) -> Result<u64, AuditError> {
    let (mut requested, mut after) = (0, PaymentId(Uuid::nil()));
    loop {
        let mut tx = sources.store.begin().await?;
        let page = payments_after(&mut tx, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(requested) };
        after = last.payment_id;
        let pending: Vec<&Payment> = page.iter().filter(|payment| payment.status == PaymentStatus::Pending).collect();
        if pending.is_empty() {
            continue;
        }
        let keys: Vec<_> = pending.iter().map(|payment| payment.payment_id.0).collect();
        let waiting = tx.unpublished_keys(&keys).await?;
        for payment in pending.into_iter().filter(|payment| !waiting.contains(&payment.payment_id.0)) {
            tx.publish(&Event::PaymentCapture(payment.capture()), &sources.world.trace());
            requested += 1;
        }
        tx.commit().await?;
    }
}
