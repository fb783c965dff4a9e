//! What becomes of a driver's offers and beacon when their standing, or their vehicle, changes: one transaction each. The operators' API
//! calls [`set_status`].

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{Problem, Retry, StoreError, Transaction};
use pricing::market::{Approval, Market};
use streams::{Event, Position, UserId, VehicleType};

use super::rows::{self, VEHICLE_KEYS};
use super::suspension::{self, Mark};
use super::{Driver, DriverApproval, DriverStatus};
use crate::commands::command::CommandError;
use crate::context::Context;
use crate::offer::{self, OfferState};
use crate::sign_in::phone::Phone;
use crate::tables::Tables;
use crate::{live_ride, presence};

/// Drivers whose suspensions one call of [`end_suspensions`] ends.
const SUSPENSIONS_MAX: u32 = 100;

/// Gives a driver another status. One who is not approved any more goes off duty, and an open offer is withdrawn: the passenger's search
/// goes on with others. An accepted offer and a ride under way stay. A repeat changes nothing but that. Returns the status before; `None` if
/// there is no such driver.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub(crate) async fn set_status(
    context: &Context,
    driver: UserId,
    status: DriverStatus,
) -> Result<Option<DriverStatus>, StoreError> {
    context.store.transact(Retry::SerializationOrConflict, |tx| set_status_in(context, tx, driver, status)).await
}

async fn set_status_in(
    context: &Context,
    mut tx: Transaction<Tables>,
    user: UserId,
    status: DriverStatus,
) -> Result<Option<DriverStatus>, StoreError> {
    rows::lock(&mut tx, user).await?;
    let before = change_status(context, &mut tx, user, status, None).await?;
    tx.commit().await?;
    Ok(before)
}

/// The same in a transaction in which the account is locked; a suspension may end by itself.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn change_status(
    context: &Context,
    tx: &mut Transaction<Tables>,
    user: UserId,
    status: DriverStatus,
    until: Option<DateTime<Utc>>,
) -> Result<Option<DriverStatus>, StoreError> {
    let Some(driver) = rows::driver_of(tx, user).await? else { return Ok(None) };
    if status == DriverStatus::Suspended {
        let before = match driver.status {
            // Suspended once more: after it the driver is what they were before the first time. Of one who registered as suspended nobody
            // has decided anything.
            DriverStatus::Suspended => {
                rows::suspension(tx, user).await?.map_or(DriverStatus::Pending, |(_, before)| before)
            }
            status => status,
        };
        rows::put_suspension(tx, user, (until, before)).await?;
    } else {
        rows::delete_suspension(tx, user).await?;
    }
    if driver.status == status && status != DriverStatus::Approved {
        // Nobody is on duty who is not approved, however they came to be.
        stand_down(context, tx, user).await?;
        return Ok(Some(status));
    }
    rows::set_status(tx, user, status).await?;
    if status == DriverStatus::Approved
        && let Some(phone) = rows::phone_of(tx, user).await?
    {
        suspension::forget(context, tx, [Mark::Phone(&phone), Mark::Plate(&driver.plate)]).await?;
    }
    if status != DriverStatus::Approved {
        stand_down(context, tx, user).await?;
    }
    tracing::info!(user_id = %user, status = status.as_str(), "the status of a driver has changed");
    Ok(Some(driver.status))
}

/// Withdraws the open offers of a driver, who goes off duty.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn stand_down(
    context: &Context,
    tx: &mut Transaction<Tables>,
    driver: UserId,
) -> Result<(), StoreError> {
    withdraw_offers(context, tx, driver).await?;
    go_off_duty(context, tx, driver).await
}

/// Ends the suspensions whose time is over.
///
/// # Errors
/// [`StoreError`]; the next call does it.
pub(crate) async fn end_suspensions(context: &Context) -> Result<(), StoreError> {
    let mut tx = context.store.begin().await?;
    let over = rows::suspensions_over(&mut tx, context.platform.world.now(), SUSPENSIONS_MAX).await?;
    drop(tx);
    for driver in over {
        context.store.transact(Retry::Serialization, |tx| end_suspension_in(context, tx, driver)).await?;
    }
    Ok(())
}

async fn end_suspension_in(context: &Context, mut tx: Transaction<Tables>, user: UserId) -> Result<(), StoreError> {
    rows::lock(&mut tx, user).await?;
    let now = context.platform.world.now();
    let suspension = rows::suspension(&mut tx, user).await?;
    let is_over = |ends_at: Option<DateTime<Utc>>| ends_at.is_some_and(|ends_at| ends_at <= now);
    let Some((_, status)) = suspension.filter(|(ends_at, _)| is_over(*ends_at)) else { return Ok(()) };
    rows::delete_suspension(&mut tx, user).await?;
    rows::end_suspension(&mut tx, user, status).await?;
    tx.commit().await?;
    tracing::info!(user_id = %user, status = status.as_str(), "the suspension of a driver has ended");
    Ok(())
}

/// The status for which a driver may not be on duty in this market, or accept a ride of it; `None`: they may. A market that says who approves its
/// drivers goes before DRIVER_APPROVAL, in both directions; a suspension counts everywhere.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn refused_in(
    context: &Context,
    tx: &mut Transaction<Tables>,
    user: UserId,
    driver: &Driver,
    market: Option<&Market>,
) -> Result<Option<DriverStatus>, StoreError> {
    let approval = market.and_then(|market| market.driver_approval);
    let is_refused = match (driver.status, approval, context.config.driver_approval) {
        (DriverStatus::Suspended, ..) => true,
        // Where all are approved by operators, who is approved has it.
        (DriverStatus::Approved, Some(Approval::Manual), DriverApproval::Auto) => !rows::is_reviewed(tx, user).await?,
        (DriverStatus::Approved, ..) => false,
        (DriverStatus::Pending, Some(Approval::Auto), DriverApproval::Manual) => {
            !would_be_approved(context, tx, user, driver).await?
        }
        // Where nobody is pending by registering, there is another reason.
        (DriverStatus::Pending, ..) => true,
    };
    let status = if driver.status == DriverStatus::Approved { DriverStatus::Pending } else { driver.status };
    Ok(is_refused.then_some(status))
}

/// Whether a driver who is pending is so by DRIVER_APPROVAL alone, and not because of a suspended driver's phone or plate.
async fn would_be_approved(
    context: &Context,
    tx: &mut Transaction<Tables>,
    user: UserId,
    driver: &Driver,
) -> Result<bool, StoreError> {
    let Some(phone) = rows::phone_of(tx, user).await? else { return Ok(false) };
    let approved = DriverStatus::Approved;
    Ok(suspension::status_of_new(context, tx, (&phone, &driver.plate), approved).await? == approved)
}

/// Whether a driver on duty who is at `place` now may be so there. Where every market leaves it to DRIVER_APPROVAL, nothing is read.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn may_stay_on_duty(
    context: &Context,
    tx: &mut Transaction<Tables>,
    user: UserId,
    place: &Position,
) -> Result<bool, StoreError> {
    let markets = context.config.markets.get();
    let market = markets.at(place);
    let decides = |approval: Approval| move |market: &Market| market.driver_approval == Some(approval);
    let may_be_refused = match context.config.driver_approval {
        DriverApproval::Auto => market.is_some_and(decides(Approval::Manual)),
        DriverApproval::Manual => markets.iter_with_retired().any(decides(Approval::Auto)),
    };
    if !may_be_refused {
        return Ok(true);
    }
    let Some(driver) = rows::driver_of(tx, user).await? else { return Ok(true) };
    Ok(refused_in(context, tx, user, &driver, market).await?.is_none())
}

/// Remembers phone and plate of a driver who is suspended, before the account or the phone is gone.
pub(crate) async fn remember_suspended(
    context: &Context,
    tx: &mut Transaction<Tables>,
    user: UserId,
    phone: &Phone,
) -> Result<(), StoreError> {
    let driver = rows::driver_of(tx, user).await?;
    let Some(driver) = driver.filter(|driver| driver.status == DriverStatus::Suspended) else { return Ok(()) };
    suspension::remember(context, tx, Mark::Phone(phone)).await?;
    suspension::remember(context, tx, Mark::Plate(&driver.plate)).await
}

/// Closes the open offers of a driver. To match and to the passenger it is as if the driver had declined.
pub(super) async fn withdraw_offers(
    context: &Context,
    tx: &mut Transaction<Tables>,
    driver: UserId,
) -> Result<(), StoreError> {
    let mut open = offer::rows::lock_live_of_driver(tx, driver).await?;
    open.retain(|offer| offer.state == OfferState::Open);
    let now = context.platform.world.now();
    let ends: Vec<_> = open.iter().map(|offer| offer.declined(now)).collect();
    offer::rows::close(tx, &ends).await?;
    let traces = tx.traces_of(&column(&ends, |end| end.match_id.0)).await?;
    for end in ends {
        let offer = end.match_id.0;
        context.publish_about(tx, &Event::MatchRejected(end), offer, &traces);
        context.platform.metrics.matches.with_label_values(&["declined"]).inc();
    }
    Ok(())
}

pub(super) async fn go_off_duty(
    context: &Context,
    tx: &mut Transaction<Tables>,
    driver: UserId,
) -> Result<(), StoreError> {
    let now = context.platform.world.now();
    for beacon in presence::rows::lock_beacons(tx, &[driver]).await? {
        if let Some((next, event)) = beacon.off_duty(now) {
            presence::rows::put_beacon(tx, &next).await?;
            event.iter().for_each(|event| context.publish(tx, event));
        }
    }
    Ok(())
}

/// Changes what a driver drives, while no ride is live and none is about to be. With another type of vehicle, open offers are withdrawn,
/// and a beacon on duty is published again.
///
/// # Errors
/// [`Problem`] `ride_live`, `not_driver`, `plate_taken`; or what `change` refuses.
pub(crate) async fn change_vehicle(
    context: &Context,
    user: UserId,
    change: impl Fn(Driver) -> Driver,
) -> Result<Driver, Problem> {
    let retry = Retry::Serialization;
    let done = context.store.transact(retry, |tx| change_vehicle_in(context, tx, user, &change)).await;
    done.map_err(|error| match error {
        CommandError::Refused(refusal) => refusal.into_problem(),
        CommandError::Store(StoreError::Conflict { constraint }) if VEHICLE_KEYS.contains(&&*constraint) => {
            plate_taken()
        }
        CommandError::Store(error) => error.into(),
    })
}

pub(crate) fn plate_taken() -> Problem {
    Problem::conflict("plate_taken", "another driver has this plate")
}

async fn change_vehicle_in(
    context: &Context,
    mut tx: Transaction<Tables>,
    user: UserId,
    change: &impl Fn(Driver) -> Driver,
) -> Result<Driver, CommandError> {
    rows::lock(&mut tx, user).await?;
    let not_driver = || crate::commands::command::Refusal::not_driver();
    let known = rows::driver_of(&mut tx, user).await?.ok_or_else(not_driver)?;
    let next = change(known.clone());
    if next == known {
        return Ok(known);
    }
    // Locked, so that none is accepted meanwhile.
    let offers = offer::rows::lock_live_of_driver(&mut tx, user).await?;
    let accepted = offers.iter().filter(|offer| offer.state == OfferState::Accepted).map(|offer| offer.match_id);
    let becomes_a_ride = {
        let now = context.platform.world.now();
        offer::rows::any_without_ride(&mut tx, &accepted.collect::<Vec<_>>(), now).await?
    };
    if becomes_a_ride || live_ride::rows::current(&mut tx, user).await?.driven.is_some() {
        let message = "you are in a ride: the vehicle can be changed when it is over";
        return Err(Problem::conflict("ride_live", message).into());
    }
    rows::set_vehicle(&mut tx, user, &next).await?;
    if next.plate != known.plate {
        change_plate(context, &mut tx, user, (&known, &next)).await?;
    }
    if next.vehicle_type != known.vehicle_type {
        withdraw_offers(context, &mut tx, user).await?;
        change_beacon(context, &mut tx, user, next.vehicle_type).await?;
    }
    tx.commit().await?;
    Ok(next)
}

/// The plate of a suspended driver stays remembered, and an approved one who takes a plate that is remembered waits for an operator.
async fn change_plate(
    context: &Context,
    tx: &mut Transaction<Tables>,
    user: UserId,
    (known, next): (&Driver, &Driver),
) -> Result<(), StoreError> {
    if known.status == DriverStatus::Suspended {
        return suspension::remember(context, tx, Mark::Plate(&known.plate)).await;
    }
    let Some(phone) = rows::phone_of(tx, user).await? else { return Ok(()) };
    let status = suspension::status_of_new(context, tx, (&phone, &next.plate), known.status).await?;
    if status != known.status {
        rows::set_status(tx, user, status).await?;
        withdraw_offers(context, tx, user).await?;
        go_off_duty(context, tx, user).await?;
        tracing::info!(user_id = %user, status = status.as_str(), "a driver took a plate that was of a suspended one");
    }
    Ok(())
}

async fn change_beacon(
    context: &Context,
    tx: &mut Transaction<Tables>,
    driver: UserId,
    vehicle_type: VehicleType,
) -> Result<(), StoreError> {
    let now = context.platform.world.now();
    for beacon in presence::rows::lock_beacons(tx, &[driver]).await? {
        let (next, event) = beacon.with_vehicle(vehicle_type, now);
        presence::rows::put_beacon(tx, &next).await?;
        event.iter().for_each(|event| context.publish(tx, event));
    }
    Ok(())
}
