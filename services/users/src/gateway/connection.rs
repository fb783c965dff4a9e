//! The transactions when a socket opens, stays open, or closes: its row, and the beacon of a driver who becomes available
//! or unavailable by it.

use std::collections::BTreeSet;

use platform::{StoreError, Transaction};
use streams::{Event, RideId, UserId};
use uuid::Uuid;

use crate::context::Context;
use crate::presence::Beacon;
use crate::presence::rows::SWEEP_MAX;
use crate::tables::Tables;
use crate::{account, live_ride, mailbox, presence};

/// The most sockets whose rows one statement touches.
const TOUCH_MAX: usize = 1_000;

/// What a session reads of its user at the start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionStart {
    /// The newest `seq` of the mailbox.
    pub(crate) last_seq: u64,
    pub(crate) role: Role,
    /// The live ride that the user drives.
    pub(crate) ride: Option<RideId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Passenger,
    Driver,
}

/// Inserts the row of an open socket. A driver with an active beacon becomes available.
pub(crate) async fn open(context: &Context, user: UserId, session: Uuid) -> Result<SessionStart, StoreError> {
    let now = || context.platform.world.now();
    let mut tx = context.store.begin().await?;
    let beacons = presence::rows::lock_beacons(&mut tx, &[user]).await?;
    presence::rows::insert_socket(&mut tx, session, user, &context.platform.pod, now()).await?;
    for beacon in &beacons {
        store_and_publish(context, &mut tx, beacon.connect(now())).await?;
    }
    let is_driver = account::rows::driver_of(&mut tx, user).await?.is_some();
    let ride = if is_driver { live_ride::rows::of_driver(&mut tx, user).await? } else { None };
    let last_seq = mailbox::rows::cursor(&mut tx, user).await?.last_seq;
    tx.commit().await?;
    Ok(SessionStart { last_seq, role: if is_driver { Role::Driver } else { Role::Passenger }, ride })
}

/// Deletes the row of the closed socket `session`, and those of all stale sockets of `users`. Drivers who have no other
/// socket become unavailable.
pub(crate) async fn close(context: &Context, users: &[UserId], session: Option<Uuid>) -> Result<(), StoreError> {
    let now = || context.platform.world.now();
    let mut tx = context.store.begin().await?;
    let mut beacons = presence::rows::lock_beacons(&mut tx, users).await?;
    let connected = presence::rows::delete_sockets(&mut tx, users, session, now()).await?;
    beacons.retain(|beacon| !connected.contains(&beacon.user_id));
    for beacon in &beacons {
        store_and_publish(context, &mut tx, beacon.disconnect(now())).await?;
    }
    tx.commit().await
}

async fn store_and_publish(
    context: &Context,
    tx: &mut Transaction<Tables>,
    changed: Option<(Beacon, Option<Event>)>,
) -> Result<(), StoreError> {
    if let Some((beacon, event)) = changed {
        presence::rows::put_beacon(tx, &beacon).await?;
        if let Some(event) = event {
            context.publish(tx, &event);
        }
    }
    Ok(())
}

/// Touches the rows of all sockets of this pod, so that no other pod takes them for stale.
pub(crate) async fn touch_all(context: &Context) -> Result<(), StoreError> {
    for chunk in context.sockets.all().chunks(TOUCH_MAX) {
        let mut tx = context.store.begin().await?;
        let touched = presence::rows::touch_sockets(&mut tx, chunk, context.platform.world.now()).await?;
        tx.commit().await?;
        let touched: BTreeSet<Uuid> = touched.into_iter().collect();
        for (user, session) in chunk {
            // This pod stood still for so long that another one deleted the rows of its sockets.
            if !touched.contains(session) && context.sockets.contains(*user, *session) {
                open(context, *user, *session).await?;
            }
        }
    }
    Ok(())
}

/// Deletes the rows of sockets whose pod died.
pub(crate) async fn sweep_stale(context: &Context) -> Result<(), StoreError> {
    loop {
        let mut tx = context.store.begin().await?;
        let users = presence::rows::users_with_stale_sockets(&mut tx, context.platform.world.now()).await?;
        drop(tx);
        if !users.is_empty() {
            tracing::warn!(users = users.len(), "the sockets of a dead pod are deleted");
            close(context, &users, None).await?;
        }
        if users.len() < SWEEP_MAX {
            return Ok(());
        }
    }
}
