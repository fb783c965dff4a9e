//! `beacon.update`, and beacons that follow a driver's positions.

use chrono::{DateTime, Utc};
use platform::{StoreError, Transaction};
use streams::event::UserBeacon;
use streams::{Event, UserId};

use super::ack::BeaconAck;
use super::command::{CommandError, Refusal};
use super::sender::{Sender, Via};
use crate::account::standing;
use crate::context::Context;
use crate::presence::{Beacon, BeaconUpdate, Located};
use crate::tables::Tables;
use crate::{account, document, presence};

pub(crate) async fn update(
    context: &Context,
    mut tx: Transaction<Tables>,
    sender: &Sender,
    update: BeaconUpdate,
) -> Result<BeaconAck, CommandError> {
    let user = sender.user;
    if sender.via == Via::Request {
        // As a socket of the user that opens or closes at once does.
        account::rows::lock(&mut tx, user).await?;
    }
    let known = lock_beacon(&mut tx, user).await?;
    let driver = account::rows::driver_of(&mut tx, user).await?.ok_or_else(Refusal::not_driver)?;
    if let BeaconUpdate::Active(at) = update {
        let markets = context.config.markets.get();
        if let Some(status) = standing::refused_in(context, &mut tx, user, &driver, markets.at(&at)).await? {
            return Err(Refusal::not_approved(status).into());
        }
    }
    let today = context.platform.world.now().date_naive();
    if matches!(update, BeaconUpdate::Active(_)) && document::rows::has_expired(&mut tx, user, today).await? {
        return Err(Refusal::documents_expired().into());
    }
    let now = context.platform.world.now();
    let (device, places) = (&sender.device_name, sender.driver().places());
    match presence::updated(known.as_ref(), user, driver.vehicle_type, update, device, places, now) {
        Some((beacon, _)) if sender.via == Via::Request && !is_connected(&mut tx, user).await? => {
            // Nobody is available by a request. The row says what the driver wants, and the next socket makes it so.
            presence::rows::put_beacon(&mut tx, &Beacon { connected: false, ..beacon }).await?;
            tx.commit().await?;
        }
        Some((beacon, event)) => {
            presence::rows::put_beacon(&mut tx, &beacon).await?;
            context.publish(&mut tx, &event);
            tx.commit().await?;
            if let Event::UserBeacon(event) = &event {
                sender.driver().record_beacon(event);
            }
        }
        None => {
            // Neither a row nor an event, but this pod knows the place.
            if let (Some(known), BeaconUpdate::Active(location)) = (known, update) {
                sender.driver().record_place(&UserBeacon { location, located_at: Some(now), ..known.event() }, now);
            }
        }
    }
    Ok(BeaconAck { active: matches!(update, BeaconUpdate::Active(_)) })
}

/// The beacon of a driver. Until the transaction ends nobody else takes the driver on duty or off it: what forbids it (`standing::stand_down`)
/// is committed before this and seen by the checks that follow, or finds the beacon that is put here.
async fn lock_beacon(tx: &mut Transaction<Tables>, user: UserId) -> Result<Option<Beacon>, StoreError> {
    if let Some(known) = presence::rows::lock_beacons(tx, &[user]).await?.pop() {
        return Ok(Some(known));
    }
    // Before the first beacon there is no row to lock but the account.
    account::rows::lock(tx, user).await?;
    Ok(presence::rows::lock_beacons(tx, &[user]).await?.pop())
}

async fn is_connected(tx: &mut Transaction<Tables>, user: UserId) -> Result<bool, StoreError> {
    Ok(presence::rows::routes(tx, &[user]).await?.contains_key(&user))
}

/// Publishes the beacons of drivers who are at these places now, if they are available and moved far enough.
pub(crate) async fn follow(context: &Context, moved: &[(UserId, Located)]) -> Result<(), StoreError> {
    let users: Vec<UserId> = moved.iter().map(|(user, _)| *user).collect();
    let now: DateTime<Utc> = context.platform.world.now();
    let mut tx = context.store.begin().await?;
    let mut published = Vec::new();
    for beacon in presence::rows::lock_beacons(&mut tx, &users).await? {
        let to = moved.iter().find(|(user, _)| *user == beacon.user_id).map(|(_, to)| *to);
        match to.and_then(|to| beacon.moved(to, now)) {
            // Into a market that asks for an approval, or out of one that does not: offers there would be in vain.
            Some((next, _))
                if !standing::may_stay_on_duty(context, &mut tx, next.user_id, &next.event().location).await? =>
            {
                if let Some((next, event)) = next.off_duty(now) {
                    presence::rows::put_beacon(&mut tx, &next).await?;
                    event.iter().for_each(|event| context.publish(&mut tx, event));
                    published.push(next.event());
                }
            }
            Some((next, event)) => {
                presence::rows::put_beacon(&mut tx, &next).await?;
                context.publish(&mut tx, &event);
                published.push(next.event());
            }
            // Another pod was first, or the driver is not available.
            None => published.push(beacon.event()),
        }
    }
    tx.commit().await?;
    for beacon in &published {
        context.sockets.record_beacon(beacon);
    }
    Ok(())
}
