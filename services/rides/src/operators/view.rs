//! What operators are shown of a ride; pure.

use platform::Trace;
use serde_json::{Value, json};
use streams::event::rfc3339;
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
pub(super) fn ride(ride: &Ride, payment: Option<&Payment>) -> Value {
    let cancelled = ride.cancellation.as_ref();
    json!({
        "ride_id": ride.ride_id, "match_id": ride.match_id, "driver_id": ride.driver_id,
        "passenger_id": ride.passenger_id, "status": ride.status, "version": ride.version, "pickup": ride.pickup,
        "dropoff": ride.dropoff, "vehicle_type": ride.vehicle_type, "market_id": ride.market_id,
        "created_at": rfc3339::text(&ride.created_at), "updated_at": rfc3339::text(&ride.updated_at),
        "waiting_at": ride.waiting_at.as_ref().map(rfc3339::text),
        "started_at": ride.started_at.as_ref().map(rfc3339::text),
        "arrived_at": ride.arrived_at.as_ref().map(rfc3339::text),
        "cancelled_by": cancelled.map(|c| c.by), "cancel_reason": cancelled.map(|c| &c.reason),
        "total": ride.fare().map(|fare| fare.total).or_else(|| cancelled.map(|c| c.fee)),
        "payment_status": payment.map(|payment| payment.status.as_str()),
    })
}

/// A ride that somebody looks for, by its own id or another one.
pub(super) fn found(ride: &Ride) -> Value {
    json!({
        "kind": "ride", "ride_id": ride.ride_id, "match_id": ride.match_id, "status": ride.status,
        "user_id": ride.passenger_id, "driver_id": ride.driver_id,
    })
}

/// A ride by itself.
pub(super) fn whole(of: &Ride, payment: Option<&Payment>, request: Option<RequestId>) -> Value {
    let (receipt, cancelled, parts) = (of.receipt.as_ref(), of.cancellation.as_ref(), of.parts());
    let mut view = ride(of, payment);
    view["distance_m"] = json!(receipt.map(|r| r.distance_m).or_else(|| cancelled?.distance_m));
    view["duration_s"] = json!(receipt.map(|r| r.duration_s).or_else(|| cancelled?.duration_s));
    view["fare"] = json!(of.fare());
    view["platform_fee"] = json!(parts.map(|(fee, _)| fee));
    view["driver_payout"] = json!(parts.map(|(_, payout)| payout));
    view["cancel_fee"] = json!(cancelled.map(|c| c.fee));
    view["request_id"] = json!(request);
    view
}

/// A ride on the map.
pub(super) fn on_map(ride: &Ride) -> Value {
    json!({
        "ride_id": ride.ride_id, "status": ride.status, "version": ride.version, "driver_id": ride.driver_id,
        "passenger_id": ride.passenger_id, "pickup": ride.pickup, "dropoff": ride.dropoff,
        "vehicle_type": ride.vehicle_type, "market_id": ride.market_id,
        "created_at": rfc3339::text(&ride.created_at), "updated_at": rfc3339::text(&ride.updated_at),
    })
}

/// The search that became the ride, as its first event says.
pub(super) fn request_of(events: &[EventRow]) -> Option<RequestId> {
    let first = events.first()?;
    let (event, _) = hash_chain::parse_body(&first.subject, first.body.as_bytes()).ok()?;
    event.request_id.filter(|_| event.status == RideStatus::Pickup)
}

/// Each event with whether it is what its hash says and follows the one before; and whether all are.
pub(super) fn events(rows: &[EventRow]) -> (Vec<Value>, Value) {
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
        views.push(json!({
            "version": row.version, "subject": row.subject, "occurred_at": rfc3339::text(&row.occurred_at),
            "message_id": row.message_id, "hash": row.hash, "previous_hash": body["previous_hash"],
            "verifies": verifies, "trace_id": trace_id(&row.traceparent), "body": body,
        }));
    }
    if rows.is_empty() {
        fault = Some("it has no event".to_owned());
    }
    (views, json!({"verifies": fault.is_none(), "fault": fault}))
}

/// `None` if the trace of the event was not recorded.
fn trace_id(traceparent: &str) -> Option<String> {
    Trace::parse(traceparent).map(|trace| trace.trace_id().to_owned())
}

pub(super) fn payment(payment: &Payment, refunds: &[Refund]) -> Value {
    json!({
        "payment_id": payment.payment_id, "amount": payment.amount, "status": payment.status.as_str(),
        "reference": payment.reference, "created_at": rfc3339::text(&payment.created_at),
        "tried_at": payment.tried_at.as_ref().map(rfc3339::text),
        "refunded": Money::new(total(refunds), payment.amount.currency),
    })
}

pub(super) fn entry(entry: &Entry) -> Value {
    json!({
        "entry_id": entry.entry_id, "transaction_id": entry.transaction_id, "kind": entry.kind.as_str(),
        "account": entry.account, "amount": entry.amount, "at": rfc3339::text(&entry.at),
    })
}

pub(super) fn refund(refund: &Refund) -> Value {
    json!({
        "refund_id": refund.refund_id, "amount": refund.amount, "reason": refund.reason, "by": refund.by,
        "at": rfc3339::text(&refund.at),
    })
}

pub(super) fn note(note: &Note) -> Value {
    json!({"note_id": note.note_id, "text": note.text, "by": note.by, "at": rfc3339::text(&note.at)})
}

pub(super) fn debt(debt: &Debt) -> Value {
    json!({
        "debt_id": debt.payment_id, "ride_id": debt.ride_id, "amount": debt.amount, "since": rfc3339::text(&debt.at),
    })
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
            let each: Vec<bool> = views.iter().map(|view| view["verifies"] == true).collect();
            (each, chain["verifies"] == true, chain["fault"].as_str().unwrap_or_default().to_owned())
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
