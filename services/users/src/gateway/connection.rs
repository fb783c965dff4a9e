//! The transactions when a socket opens, stays open, or closes: its row, and the beacon of a driver who becomes available
//! or unavailable by it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use platform::limits::Limit;
use platform::{StoreError, Transaction};
use streams::event::UserBeacon;
use streams::{Event, UserId};
use uuid::Uuid;

use super::sockets::{OpenSocket, SocketSlot};
use super::transport::TOO_MANY;
use crate::context::Context;
use crate::live_ride::CurrentRides;
use crate::mailbox::{Device, MissedRange, notification, notify_subject};
use crate::presence::rows::SWEEP_MAX;
use crate::presence::{Beacon, Located};
use crate::tables::Tables;
use crate::{account, live_ride, mailbox, offer, presence};

/// The most sockets whose rows one statement touches.
const TOUCH_MAX: usize = 1_000;

/// What a session reads of its user at the start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionStart {
    /// The newest `seq` of the mailbox.
    pub(crate) last_seq: u64,
    /// What the client misses of the events after those that it has.
    pub(crate) missed: Option<MissedRange>,
    pub(crate) role: Role,
    pub(crate) rides: CurrentRides,
    /// Whether the device of the socket accepted the ride that the user drives.
    pub(crate) ride_device: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Passenger,
    Driver,
}

/// Inserts the row of a new socket, which may take the place of an older one. A driver with an active beacon becomes
/// available. `has_seq` is the newest event that the client has.
pub(crate) async fn open(
    context: &Context,
    user: UserId,
    slot: &SocketSlot,
    device: &Device,
    has_seq: Option<u64>,
) -> Result<SessionStart, StoreError> {
    let mut tx = context.store.begin().await?;
    let (displaced, beacon) = insert(context, &mut tx, user, slot.session).await?;
    let is_driver = account::rows::driver_of(&mut tx, user).await?.is_some();
    let accepted = if is_driver { offer::rows::newest_accepted(&mut tx, user).await? } else { None };
    // The rides after the cursor: an event that is committed in between is applied once more when it is sent.
    let last_seq = mailbox::rows::cursor(&mut tx, user).await?.last_seq;
    let rides = live_ride::rows::current(&mut tx, user).await?;
    let ride = rides.driven.map(|ride| ride.ride_id);
    let mut ride_device = false;
    if let Some(ride) = ride {
        ride_device = live_ride::rows::device_of(&mut tx, ride).await?.as_deref() == Some(&*slot.device_name);
    }
    let has_seq = has_seq.map_or(last_seq, |seq| seq.min(last_seq));
    mailbox::device_rows::open_device(&mut tx, user, device, has_seq, context.platform.world.now()).await?;
    let missed = mailbox::rows::missed(&mut tx, user, has_seq, last_seq).await?;
    tx.commit().await?;
    {
        let mut driver = slot.driver();
        beacon.iter().for_each(|beacon| driver.record_beacon(beacon));
        if let Some((id, name)) = accepted {
            driver.set_accepted(id, name.into());
        }
        driver.set_ride(ride);
    }
    close_displaced(context, user, &displaced).await;
    let role = if is_driver { Role::Driver } else { Role::Passenger };
    Ok(SessionStart { last_seq, missed, role, rides, ride_device })
}

/// Inserts the row of an open socket. Returns the sockets whose place it takes, and the beacon of a driver.
async fn insert(
    context: &Context,
    tx: &mut Transaction<Tables>,
    user: UserId,
    session: Uuid,
) -> Result<(Vec<Uuid>, Option<UserBeacon>), StoreError> {
    let now = || context.platform.world.now();
    // Two sockets of one user that open at once see each other.
    account::rows::lock(tx, user).await?;
    let beacons = presence::rows::lock_beacons(tx, &[user]).await?;
    presence::rows::insert_socket(tx, session, user, &context.platform.pod, now()).await?;
    let mut known = None;
    for beacon in &beacons {
        let connected = beacon.connect(context.sockets.located(user), now());
        known = Some(connected.as_ref().map_or(beacon, |(next, _)| next).event());
        store_and_publish(context, tx, connected).await?;
    }
    let most = context.platform.limiter.limits().count(Limit::SocketsUser);
    let mine = context.sockets.of(user);
    if mine.len() > 1 {
        // Of the sockets of this pod it is known to the millisecond when something last came from each, of others to 20 s.
        touch(context, tx, &mine).await?;
    }
    Ok((presence::rows::displace_sockets(tx, user, session, most, now()).await?, known))
}

/// Closes sockets whose place newer ones took: here, or by a message to the pods that have them. If the message is lost, the
/// next touch of their rows finds that they were displaced.
async fn close_displaced(context: &Context, user: UserId, displaced: &[Uuid]) {
    for session in displaced {
        if !context.sockets.end(user, *session, TOO_MANY) {
            let message = notification::of_displaced(&context.tokens, user, *session);
            if let Err(error) = context.platform.bus.publish_core(&notify_subject(user), message.into()).await {
                tracing::debug!(%error, "the notification of a displaced socket was not sent");
            }
        }
    }
}

/// Deletes the row of the closed socket `session`, and those of all stale sockets of `users`. Drivers who have no other
/// socket become unavailable; `located` is where the pod of the socket knows its driver.
pub(crate) async fn close(
    context: &Context,
    users: &[UserId],
    session: Option<Uuid>,
    located: Option<Located>,
) -> Result<(), StoreError> {
    let now = || context.platform.world.now();
    let mut tx = context.store.begin().await?;
    let mut beacons = presence::rows::lock_beacons(&mut tx, users).await?;
    let connected = presence::rows::delete_sockets(&mut tx, users, session, now()).await?;
    beacons.retain(|beacon| !connected.contains(&beacon.user_id));
    for beacon in &beacons {
        store_and_publish(context, &mut tx, beacon.disconnect(located, now())).await?;
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

async fn touch(
    context: &Context,
    tx: &mut Transaction<Tables>,
    sockets: &[OpenSocket],
) -> Result<Vec<presence::rows::Touched>, StoreError> {
    let now = context.platform.world.now();
    let received_at = |socket: &OpenSocket| now - TimeDelta::from_std(socket.silence).unwrap_or_default();
    let rows: Vec<_> = sockets.iter().map(|socket| (socket.user, socket.session, received_at(socket))).collect();
    presence::rows::touch_sockets(tx, &rows, now).await
}

/// Touches the rows of all sockets of this pod and of their devices, so that no other pod takes them for stale, and closes
/// those that were displaced.
pub(crate) async fn touch_all(context: &Context) -> Result<(), StoreError> {
    for chunk in context.sockets.all().chunks(TOUCH_MAX) {
        let mut tx = context.store.begin().await?;
        let touched = touch(context, &mut tx, chunk).await?;
        let devices: BTreeSet<_> = chunk.iter().map(|socket| (socket.user, socket.device.clone())).collect();
        let devices: Vec<_> = devices.into_iter().collect();
        mailbox::device_rows::touch_devices(&mut tx, &devices, context.platform.world.now()).await?;
        tx.commit().await?;
        let touched: BTreeMap<Uuid, bool> = touched.into_iter().map(|row| (row.session, row.displaced)).collect();
        for OpenSocket { user, session, .. } in chunk {
            match touched.get(session) {
                Some(false) => {}
                Some(true) => _ = context.sockets.end(*user, *session, TOO_MANY),
                // This pod stood still for so long that another one deleted the rows of its sockets.
                None if context.sockets.contains(*user, *session) => reopen(context, *user, *session).await?,
                None => {}
            }
        }
    }
    Ok(())
}

async fn reopen(context: &Context, user: UserId, session: Uuid) -> Result<(), StoreError> {
    let mut tx = context.store.begin().await?;
    let (displaced, beacon) = insert(context, &mut tx, user, session).await?;
    tx.commit().await?;
    beacon.iter().for_each(|beacon| context.sockets.record_beacon(beacon));
    close_displaced(context, user, &displaced).await;
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
            close(context, &users, None, None).await?;
        }
        if users.len() < SWEEP_MAX {
            return Ok(());
        }
    }
}
