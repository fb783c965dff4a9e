//! `beacon.update`.

use platform::Transaction;
use serde_json::{Value, json};
use streams::UserId;

use super::command::{CommandError, Refusal};
use crate::context::Context;
use crate::presence::BeaconUpdate;
use crate::tables::Tables;
use crate::{account, presence};

pub(crate) async fn update(
    context: &Context,
    mut tx: Transaction<Tables>,
    user: UserId,
    update: BeaconUpdate,
) -> Result<Value, CommandError> {
    let driver = account::rows::driver_of(&mut tx, user).await?.ok_or_else(Refusal::not_driver)?;
    let known = presence::rows::lock_beacons(&mut tx, &[user]).await?.pop();
    let now = context.platform.world.now();
    let next = presence::updated(known.as_ref(), user, driver.vehicle_type, update, now);
    if let Some((beacon, event)) = next
        && (event.is_some() || known != Some(beacon))
    {
        presence::rows::put_beacon(&mut tx, &beacon).await?;
        if let Some(event) = event {
            context.publish(&mut tx, &event);
        }
        tx.commit().await?;
    }
    Ok(json!({"active": matches!(update, BeaconUpdate::Active(_))}))
}
