//! Writing a decision: the ride's new row, its event, and what its bill leads to, in one transaction.

use platform::{Metrics, StoreError, Trace, Transaction};
use streams::RideStatus;
use streams::event::Event;

use crate::event_log::{self, EventRow};
use crate::ledger;
use crate::payment::{self, Payment};
use crate::ride::{Change, Ride, rows};
use crate::tables::Tables;

/// A change to a ride that was read with `expected_version`.
#[derive(Debug)]
pub(crate) struct RideUpdate {
    pub(crate) expected_version: u32,
    pub(crate) change: Change,
    pub(crate) trace: Trace,
}

/// Writes the rows and the events of `updates`, and for each bill the ledger entries, the payment and its capture message.
///
/// `StoreError::Serialization` if a ride has another version by now.
pub(crate) async fn write_updates(tx: &mut Transaction<Tables>, updates: Vec<RideUpdate>) -> Result<(), StoreError> {
    if updates.is_empty() {
        return Ok(());
    }
    let updated: Vec<(u32, Ride)> = updates.iter().map(|u| (u.expected_version, u.change.ride.clone())).collect();
    rows::update_rides(tx, &updated).await?;
    let (mut movements, mut payments, mut events) = (Vec::new(), Vec::new(), Vec::new());
    for RideUpdate { change, trace, .. } in updates {
        let traceparent = tx.publish(&Event::Ride(Box::new(change.event.clone())), &trace);
        events.push(EventRow::new(&change.event, traceparent));
        if let Some(bill) = &change.bill {
            let ride = &change.ride;
            let due =
                ledger::billed(ride, bill).map_err(|e| StoreError::Other(format!("ride {}: {e}", ride.ride_id)))?;
            movements.push(due);
            let payment = Payment::due(ride, bill.total);
            tx.publish(&Event::PaymentCapture(payment.capture()), &trace);
            payments.push(payment);
        }
    }
    event_log::rows::append_events(tx, events).await?;
    if !payments.is_empty() {
        payment::rows::insert_payments(tx, &payments).await?;
        ledger::rows::post(tx, &movements).await?;
    }
    Ok(())
}

/// Counts rides that came to `status`, for the metrics.
pub(crate) fn count(metrics: &Metrics, status: RideStatus, rides: u64) {
    metrics.rides.with_label_values(&[status.as_str()]).inc_by(rides);
}
