//! Refunds, which no ride event says: a rebuild and a recovery read them from ADMIN_STREAM, which has those of the last year.

use std::time::Duration;

use platform::Transaction;
use streams::bus::ReplayStart;
use streams::topology::ADMIN_STREAM;
use streams::{BusError, Event, Subject};

use super::sources::{AuditError, PAGE, Sources};
use crate::ledger;
use crate::payment::rows::payments_of;
use crate::refund::{Refund, rows};
use crate::tables::Tables;

const STALL: Duration = Duration::from_secs(10);

/// Adds the refunds that the tables lack, of payments that are there; returns how many entries of the ledger that made. A payment that waits
/// for its capture was captured once, since it was refunded: its refund counts all the same, and the capture is repeated by its id. Operators'
/// words are not restored, because the account of a party may have ended since: the event has them.
pub(super) async fn restore(
    sources: &Sources,
    tx: &mut Transaction<Tables>,
    provider: &str,
) -> Result<u64, AuditError> {
    let subject = Subject::AdminRideRefunded.as_str();
    let mut replay = match sources.bus.replay(ADMIN_STREAM, Some(subject), ReplayStart::Sequence(1)).await {
        Ok(replay) => replay,
        // Of a platform of the version before.
        Err(BusError::NotFound(_)) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let mut entries = 0;
    while !replay.is_at_end() {
        let batch = replay.batch(PAGE, STALL).await?;
        if batch.is_empty() {
            let what = format!("{ADMIN_STREAM} has more messages and sends none for {STALL:?}: try again");
            return Err(AuditError::Refused(what));
        }
        for stored in batch {
            let Ok(Event::Act(act)) = Event::parse(&stored.subject, &stored.payload) else { continue };
            let Some(refund) = Refund::of_act(&act) else { continue };
            let refund = Refund { reason: None, ..refund };
            let payments = payments_of(tx, &[refund.ride_id]).await?;
            let is_known = payments.iter().any(|payment| payment.payment_id == refund.payment_id);
            if is_known && rows::insert(tx, &refund).await? {
                let movement =
                    ledger::refunded(&refund, provider).map_err(|error| AuditError::Refused(error.to_string()))?;
                entries += movement.postings.len() as u64;
                ledger::rows::post(tx, &[movement]).await?;
            }
        }
    }
    Ok(entries)
}
