//! What operators are shown of a ride; pure.

use serde_json::Value;
use streams::operators::shown::{
    EventOfRide, HashChain, LedgerEntry, OperatorsDebt, OperatorsPayment, OperatorsRefund, OperatorsRide,
    OperatorsRideWhole, RideNote, RideOnMap,
};
use streams::{Money, RequestId, RideStatus};

use crate::event_log::EventRow;
use crate::hash_chain;
use crate::ledger::Entry;
use crate::note::Note;
use crate::payment::{Debt, Payment};
use crate::refund::{Refund, total};
use crate::replay;
use crate::ride::Ride;

/// A ride in a list.
pub(super) fn ride(ride: &Ride, payment: Option<&Payment>) -> OperatorsRide {
    let cancelled = ride.cancellation.as_ref();
    OperatorsRide {
        ride_id: ride.ride_id,
        match_id: ride.match_id,
        driver_id: ride.driver_id,
        passenger_id: ride.passenger_id,
        status: ride.status,
        version: ride.version,
        pickup: ride.pickup,
        dropoff: ride.dropoff,
        vehicle_type: ride.vehicle_type,
        market_id: ride.market_id.clone(),
        created_at: ride.created_at.into(),
        updated_at: ride.updated_at.into(),
        waiting_at: ride.waiting_at.map(Into::into),
        started_at: ride.started_at.map(Into::into),
        arrived_at: ride.arrived_at.map(Into::into),
        cancelled_by: cancelled.map(|c| c.by),
        cancel_reason: cancelled.map(|c| c.reason.clone()),
        total: ride.fare().map(|fare| fare.total).or_else(|| cancelled.map(|c| c.fee)),
        payment_status: payment.map(|payment| payment.status.as_str()),
    }
}

/// A ride by itself.
pub(super) fn whole(of: &Ride, payment: Option<&Payment>, request: Option<RequestId>) -> OperatorsRideWhole {
    let (receipt, cancelled, parts) = (of.receipt.as_ref(), of.cancellation.as_ref(), of.parts());
    OperatorsRideWhole {
        ride: ride(of, payment),
        distance_m: receipt.map(|r| r.distance_m).or_else(|| cancelled?.distance_m),
        duration_s: receipt.map(|r| r.duration_s).or_else(|| cancelled?.duration_s),
        fare: of.fare().cloned(),
        platform_fee: parts.map(|(fee, _)| fee),
        driver_payout: parts.map(|(_, payout)| payout),
        cancel_fee: cancelled.map(|c| c.fee),
        request_id: request,
    }
}

/// A ride on the map.
pub(super) fn on_map(ride: &Ride) -> RideOnMap {
    RideOnMap {
        ride_id: ride.ride_id,
        status: ride.status,
        version: ride.version,
        driver_id: ride.driver_id,
        passenger_id: ride.passenger_id,
        pickup: ride.pickup,
        dropoff: ride.dropoff,
        vehicle_type: ride.vehicle_type,
        market_id: ride.market_id.clone(),
        created_at: ride.created_at.into(),
        updated_at: ride.updated_at.into(),
    }
}

/// The search that became the ride, as its first event says.
pub(super) fn request_of(events: &[EventRow]) -> Option<RequestId> {
    let first = events.first()?;
    let (event, _) = hash_chain::parse_body(&first.subject, first.body.as_bytes()).ok()?;
    event.request_id.filter(|_| event.status == RideStatus::Pickup)
}

/// Each event with whether it is what its hash says and follows the one before; and whether all are.
pub(super) fn events(rows: &[EventRow]) -> (Vec<EventOfRide>, HashChain) {
    let (mut before, mut fault): (Option<Ride>, Option<String>) = (None, None);
    let mut views = Vec::new();
    for row in rows {
        let verified = hash_chain::verify_body(&row.subject, row.body.as_bytes());
        let verified = verified.and_then(|event| replay::validate(before.as_ref(), &event).map(|()| event));
        let verifies = verified.is_ok();
        match verified {
            Ok(event) => before = Some(replay::apply(before.as_ref(), &event).0),
            Err(error) => {
                fault.get_or_insert_with(|| format!("version {}: {}", row.version, error.reason()));
                // What follows is held against the event as it stands.
                if let Ok((event, _)) = hash_chain::parse_body(&row.subject, row.body.as_bytes()) {
                    before = Some(replay::apply(before.as_ref(), &event).0);
                }
            }
        }
        let body: Value = serde_json::from_str(&row.body).unwrap_or_else(|_| row.body.clone().into());
        views.push(EventOfRide {
            version: row.version,
            subject: row.subject.clone(),
            occurred_at: row.occurred_at.into(),
            message_id: row.message_id.clone(),
            hash: row.hash.clone(),
            previous_hash: body["previous_hash"].as_str().map(str::to_owned),
            verifies,
            body,
        });
    }
    if rows.is_empty() {
        fault = Some("it has no event".to_owned());
    }
    (views, HashChain { verifies: fault.is_none(), fault })
}

pub(super) fn payment(payment: &Payment, refunds: &[Refund]) -> OperatorsPayment {
    OperatorsPayment {
        payment_id: payment.payment_id,
        amount: payment.amount,
        status: payment.status.as_str(),
        reference: payment.reference.clone(),
        created_at: payment.created_at.into(),
        tried_at: payment.tried_at.map(Into::into),
        refunded: Money::new(total(refunds), payment.amount.currency),
    }
}

pub(super) fn entry(entry: &Entry) -> LedgerEntry {
    LedgerEntry {
        entry_id: entry.entry_id,
        transaction_id: entry.transaction_id,
        kind: entry.kind.as_str().to_owned(),
        account: entry.account.clone(),
        amount: entry.amount,
        at: entry.at.into(),
    }
}

pub(super) fn refund(refund: &Refund) -> OperatorsRefund {
    OperatorsRefund {
        refund_id: refund.refund_id,
        amount: refund.amount,
        reason: refund.reason.clone(),
        by: refund.by.clone(),
        at: refund.at.into(),
    }
}

pub(super) fn note(note: &Note) -> RideNote {
    RideNote { note_id: note.note_id, text: note.text.clone(), by: note.by.clone(), at: note.at.into() }
}

pub(super) fn debt(debt: &Debt) -> OperatorsDebt {
    OperatorsDebt { debt_id: debt.payment_id, ride_id: debt.ride_id, amount: debt.amount, since: debt.at.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ride::tests::whole_ride;

    #[test]
    fn an_event_that_was_changed_does_not_verify() {
        let mut before = hash_chain::NO_PREVIOUS_HASH.to_owned();
        let mut ride = whole_ride();
        for event in &mut ride {
            event.previous_hash.clone_from(&before);
            event.hash = hash_chain::hash(event);
            before.clone_from(&event.hash);
        }
        let mut rows: Vec<EventRow> = ride.iter().map(|event| EventRow::new(event, "")).collect();
        let verified = |rows: &[EventRow]| {
            let (views, chain) = events(rows);
            let each: Vec<bool> = views.iter().map(|view| view.verifies).collect();
            (each, chain.verifies, chain.fault.unwrap_or_default())
        };
        let (each, all, _) = verified(&rows);
        assert!(all && each.iter().all(|one| *one));
        rows[1].body = rows[1].body.replacen("\"lat\":40", "\"lat\":41", 1);
        let (each, all, fault) = verified(&rows);
        assert!(!all && !each[1] && each[0], "{each:?}");
        assert!(fault.starts_with("version 2: the body was changed"), "{fault}");
        rows.remove(1);
        let (each, all, fault) = verified(&rows);
        assert!(!all && !each[1] && fault.starts_with("version 3: version 3 stands where"), "{fault}");
        assert!(!verified(&[]).1);
    }
}
