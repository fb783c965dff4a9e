//! What operators do with a ride: one transaction each, with the event of the act. A repeat changes nothing and gets the same answer.

use platform::operators::acts::{self, ActError, begin};
use platform::{Problem, Retry, Transaction};
use serde_json::{Value, json};
use streams::event::{ActKind, Money, Party};
use streams::operators::{ActHead, Asked, NOTES_MAX, RidesRequest};
use streams::{RideId, RideStatus};

use super::desk::{Desk, not_found};
use crate::ledger;
use crate::note::{self, Note};
use crate::payment::rows::{lock_payments, payments_of};
use crate::refund::{self, Refund, Refusal};
use crate::ride::rows::lock_rides;
use crate::ride::update::{RideUpdate, count, write_updates};
use crate::ride::{CommandInput, Distance, Outcome, Ride, decide};
use crate::tables::Tables;

/// What the ride's event says of why it ended: the parties are sent it. The operator's words are in the event of the act alone.
const ENDED_BY_OPERATOR: &str = "ended by an operator";

type AskedRides = Asked<RidesRequest>;

async fn lock(tx: &mut Transaction<Tables>, id: RideId) -> Result<Ride, ActError> {
    Ok(lock_rides(tx, &[id]).await?.pop().ok_or_else(not_found)?)
}

/// Ends a stuck ride as the platform. Before the arrival it is cancelled and free: what went wrong is not the passenger's to pay. After
/// it the ride is billed by the estimate, as it is when no final distance comes.
pub(super) async fn end(desk: &Desk, asked: &AskedRides, act: &ActHead, id: RideId) -> Result<Value, Problem> {
    Ok(desk.store.transact(Retry::Serialization, |tx| end_in(desk, tx, asked, act, id)).await?)
}

async fn end_in(
    desk: &Desk,
    mut tx: Transaction<Tables>,
    asked: &AskedRides,
    act: &ActHead,
    id: RideId,
) -> Result<Value, ActError> {
    let (world, metrics) = (&desk.platform.world, &desk.platform.metrics);
    let ride = lock(&mut tx, id).await?;
    let begun = begin(&mut tx, asked, act).await?;
    let answer = |ride: &Ride| {
        json!({
            "act_id": act.act_id, "repeated": begun.is_repeated(), "ride_id": id, "status": ride.status,
            "version": ride.version,
        })
    };
    if begun.is_repeated() {
        return Ok(answer(&ride));
    }
    let now = world.now();
    let input = match ride.status {
        RideStatus::Arrived => CommandInput::Complete(Distance::Estimated),
        RideStatus::Completed | RideStatus::Cancelled => {
            let message = format!("the ride is {} already", ride.status.as_str());
            return Err(Problem::conflict("ride_ended", message).into());
        }
        _ => CommandInput::Cancel { reason: ENDED_BY_OPERATOR, note: None, driven: None, search: None },
    };
    let tariffs = desk.config.markets.get();
    let change = match decide(&ride, Party::System, &input, &tariffs.general, now) {
        Ok(Outcome::Changed(change)) => change,
        Ok(Outcome::AlreadyDone | Outcome::WrongPin(_)) => return Ok(answer(&ride)),
        Err(refusal) => return Err(Problem::conflict(refusal.code(), refusal.to_string()).into()),
    };
    let trace = world.trace();
    let mut event = acts::event(asked, act, ActKind::RideEnded, now);
    (event.ride_id, event.previous_status) = (Some(id), Some(ride.status.as_str().to_owned()));
    (event.user_id, event.driver_id) = (Some(ride.passenger_id), Some(ride.driver_id));
    let (status, shown) = (change.ride.status, answer(&change.ride));
    write_updates(&mut tx, vec![RideUpdate { expected_version: ride.version, change: *change, trace: trace.clone() }])
        .await?;
    acts::publish_in(&mut tx, &trace, event);
    tx.commit().await?;
    tracing::info!(ride_id = %id, act_id = %act.act_id, by = asked.operator.name, "an operator ended a ride");
    count(metrics, status, 1);
    Ok(shown)
}

/// Refunds a part of what was captured.
pub(super) async fn refund(
    desk: &Desk,
    asked: &AskedRides,
    act: &ActHead,
    id: RideId,
    amount: Money,
) -> Result<Value, Problem> {
    Ok(desk.store.transact(Retry::Serialization, |tx| refund_in(desk, tx, asked, act, (id, amount))).await?)
}

async fn refund_in(
    desk: &Desk,
    mut tx: Transaction<Tables>,
    asked: &AskedRides,
    act: &ActHead,
    (id, amount): (RideId, Money),
) -> Result<Value, ActError> {
    let world = &desk.platform.world;
    let ride = lock(&mut tx, id).await?;
    let begun = begin(&mut tx, asked, act).await?;
    let payments: Vec<_> = payments_of(&mut tx, &[id]).await?.iter().map(|payment| payment.payment_id).collect();
    let payment = lock_payments(&mut tx, &payments).await?.pop();
    let mut refunds = refund::rows::of_rides(&mut tx, &[id]).await?;
    // The row is for ever, the inbox remembers for 8 days.
    let known = refunds.iter().find(|refund| refund.refund_id == act.act_id);
    if known.is_some_and(|refund| refund.amount != amount) {
        return Err(Problem::conflict("key_reused", "the refund with this id is of another amount").into());
    }
    let is_known = known.is_some();
    if !begun.is_repeated() && !is_known {
        let payment_id = refund::check(payment.as_ref(), &refunds, amount).map_err(refused)?;
        let now = world.now();
        let refund = Refund {
            refund_id: act.act_id,
            ride_id: id,
            payment_id,
            amount,
            reason: act.reason.clone(),
            by: asked.operator.name.clone(),
            at: now,
        };
        let movement = ledger::refunded(&refund, desk.config.provider.name());
        let movement = movement.map_err(|e| platform::StoreError::Other(format!("refund of ride {id}: {e}")))?;
        if !refund::rows::insert(&mut tx, &refund).await? {
            return Err(Problem::conflict("key_reused", "a refund of another ride has this id").into());
        }
        ledger::rows::post(&mut tx, &[movement]).await?;
        let mut event = acts::event(asked, act, ActKind::RideRefunded, now);
        (event.ride_id, event.payment_id, event.amount) = (Some(id), Some(payment_id), Some(amount));
        (event.user_id, event.driver_id) = (Some(ride.passenger_id), Some(ride.driver_id));
        acts::publish(&mut tx, world, event);
        tx.commit().await?;
        refunds.push(refund);
    }
    Ok(json!({
        "act_id": act.act_id, "repeated": begun.is_repeated() || is_known, "refund_id": act.act_id, "ride_id": id,
        "amount": amount, "refunded": Money::new(refund::total(&refunds), amount.currency),
    }))
}

fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::NotCaptured => Problem::conflict("not_captured", refusal.to_string()),
        Refusal::OtherCurrency(_) => Problem::field("amount.currency", refusal.to_string()),
        Refusal::TooLarge(_) => Problem::conflict("refund_too_large", refusal.to_string()),
    }
}

/// Adds a note to a ride.
pub(super) async fn note(
    desk: &Desk,
    asked: &AskedRides,
    act: &ActHead,
    id: RideId,
    text: &str,
) -> Result<Value, Problem> {
    Ok(desk.store.transact(Retry::Serialization, |tx| note_in(desk, tx, asked, act, (id, text))).await?)
}

async fn note_in(
    desk: &Desk,
    mut tx: Transaction<Tables>,
    asked: &AskedRides,
    act: &ActHead,
    (id, text): (RideId, &str),
) -> Result<Value, ActError> {
    let world = &desk.platform.world;
    lock(&mut tx, id).await?;
    let begun = begin(&mut tx, asked, act).await?;
    if !begun.is_repeated() {
        if note::rows::of_ride(&mut tx, id).await?.len() >= NOTES_MAX {
            let message = format!("the ride has {NOTES_MAX} notes: it takes no more");
            return Err(Problem::conflict("too_many_notes", message).into());
        }
        let now = world.now();
        let by = asked.operator.name.clone();
        note::rows::insert(&mut tx, &Note { note_id: act.act_id, ride_id: id, text: text.to_owned(), by, at: now })
            .await?;
        let mut event = acts::event(asked, act, ActKind::RideNoteAdded, now);
        event.ride_id = Some(id);
        acts::publish(&mut tx, world, event);
        tx.commit().await?;
    }
    Ok(json!({"act_id": act.act_id, "repeated": begun.is_repeated(), "note_id": act.act_id, "ride_id": id}))
}
