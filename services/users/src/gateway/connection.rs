//! The transactions when a socket opens or closes: who is connected here, and the beacon of a driver who becomes available
//! or unavailable by it. While it stays open there is none, but for the lease of the pod.

use std::collections::BTreeSet;
use std::sync::Arc;

use platform::{StoreError, Transaction};
use streams::event::UserBeacon;
use streams::{Event, UserId};

use super::displacement::{self, Reason};
use super::sockets::SocketSlot;
use crate::context::Context;
use crate::live_ride::CurrentRides;
use crate::mailbox::{Device, MissedRange};
use crate::presence::lease::Touch;
use crate::presence::rows::SWEEP_MAX;
use crate::presence::{Beacon, Located, Pod};
use crate::state::{self, StateRows};
use crate::tables::Tables;
use crate::{account, live_ride, mailbox, offer, presence};

/// The most sockets whose devices one statement touches.
const TOUCH_MAX: usize = 1_000;

/// What a session reads of its user at the start.
#[derive(Debug, Clone)]
pub(crate) struct SessionStart {
    /// The newest `seq` of the mailbox.
    pub(crate) last_seq: u64,
    /// What the client misses of the events after those that it has.
    pub(crate) missed: Option<MissedRange>,
    pub(crate) role: Role,
    pub(crate) rides: CurrentRides,
    /// The name of the device that accepted the ride that the user drives.
    pub(crate) ride_device: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Passenger,
    Driver,
}

/// Records a new socket, which may take the place of an older one. A driver with an active beacon becomes
/// available. `has_seq` is the newest event that the client has.
pub(crate) async fn open(
    context: &Context,
    user: UserId,
    slot: &SocketSlot,
    device: &Device,
    has_seq: Option<u64>,
) -> Result<(SessionStart, StateRows), StoreError> {
    let mut tx = context.store.begin().await?;
    let (elsewhere, beacon) = record_open(context, &mut tx, user).await?;
    let is_driver = account::rows::driver_of(&mut tx, user).await?.is_some();
    let accepted = if is_driver { offer::rows::newest_accepted(&mut tx, user).await? } else { None };
    // The rides after the cursor: an event that is committed in between is applied once more when it is sent.
    let last_seq = mailbox::rows::lock_cursor(&mut tx, user).await?.last_seq;
    let rides = live_ride::rows::current(&mut tx, user).await?;
    // The same moment: until the commit nothing is appended to this mailbox.
    let state = state::rows::read(&mut tx, user, context.platform.world.now()).await?;
    let ride = rides.driven.map(|ride| ride.ride_id);
    let ride_device = match ride {
        Some(ride) => live_ride::rows::device_of(&mut tx, ride).await?.map(Into::into),
        None => None,
    };
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
    displace(context, user, elsewhere);
    let role = if is_driver { Role::Driver } else { Role::Passenger };
    Ok((SessionStart { last_seq, missed, role, rides, ride_device }, state))
}

/// Stores how many sockets the user has here. Returns whether some are at other pods, and the beacon of a driver.
async fn record_open(
    context: &Context,
    tx: &mut Transaction<Tables>,
    user: UserId,
) -> Result<(Elsewhere, Option<UserBeacon>), StoreError> {
    let now = || context.platform.world.now();
    // Two sockets of one user that open or close at once see each other.
    account::rows::lock(tx, user).await?;
    let beacons = presence::rows::lock_beacons(tx, &[user]).await?;
    let pod = store_connection(context, tx, user).await?;
    let mut known = None;
    for beacon in &beacons {
        let connected = beacon.connect(context.sockets.located(user), now());
        known = Some(connected.as_ref().map_or(beacon, |(next, _)| next).event());
        store_and_publish(context, tx, connected).await?;
    }
    let others = presence::rows::connected_elsewhere(tx, user, pod.incarnation).await?;
    Ok((if others.is_empty() { Elsewhere::None } else { Elsewhere::Some }, known))
}

/// Whether a user has sockets at other pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elsewhere {
    None,
    Some,
}

/// Makes the row say what the registry of sockets says now. The user's account is locked.
async fn store_connection(context: &Context, tx: &mut Transaction<Tables>, user: UserId) -> Result<Pod, StoreError> {
    let world = &context.platform.world;
    let pod = Pod { incarnation: context.lease.incarnation(), id: context.platform.pod.clone() };
    presence::rows::store_connection(tx, world.id(), user, &pod, context.sockets.count(user), world.now()).await?;
    Ok(pod)
}

/// Closes the sockets whose place a new one takes: at once if all are here, else after the other pods were asked.
fn displace(context: &Context, user: UserId, elsewhere: Elsewhere) {
    match elsewhere {
        Elsewhere::None => displacement::here(context, user),
        Elsewhere::Some => context.sockets.add_uncounted(user),
    }
}

/// Records that a socket of `user` has closed. A driver who has no other socket becomes unavailable; `located` is where this pod knows the
/// driver.
pub(crate) async fn close(context: &Context, user: UserId, located: Option<Located>) -> Result<(), StoreError> {
    let mut tx = context.store.begin().await?;
    account::rows::lock(&mut tx, user).await?;
    let beacons = presence::rows::lock_beacons(&mut tx, &[user]).await?;
    store_connection(context, &mut tx, user).await?;
    disconnect(context, &mut tx, beacons, &[user], located).await?;
    tx.commit().await
}

/// Deletes the rows of `users` at dead pods. Drivers among them who have no socket any more become unavailable.
async fn close_dead(context: &Context, users: &[UserId]) -> Result<(), StoreError> {
    let mut tx = context.store.begin().await?;
    let beacons = presence::rows::lock_beacons(&mut tx, users).await?;
    disconnect(context, &mut tx, beacons, users, None).await?;
    tx.commit().await
}

async fn disconnect(
    context: &Context,
    tx: &mut Transaction<Tables>,
    mut beacons: Vec<Beacon>,
    users: &[UserId],
    located: Option<Located>,
) -> Result<(), StoreError> {
    let now = context.platform.world.now();
    let connected = presence::rows::delete_stale(tx, users, now).await?;
    beacons.retain(|beacon| !connected.contains(&beacon.user_id));
    for beacon in &beacons {
        store_and_publish(context, tx, beacon.disconnect(located, now)).await?;
    }
    Ok(())
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

/// Touches the lease of this pod and the rows of its devices, and counts the sockets of users of whom another pod asks it. If the lease
/// was lost, because this pod stood still for too long, all its sockets are recorded again.
pub(crate) async fn touch(context: &Context) -> Result<(), StoreError> {
    if context.lease.touch(&context.platform, &context.store).await? == Touch::Renewed {
        tracing::warn!("this pod was taken for dead: its sockets are recorded again");
        for user in context.sockets.users() {
            reopen(context, user).await?;
        }
    }
    for chunk in context.sockets.all().chunks(TOUCH_MAX) {
        let mut tx = context.store.begin().await?;
        let devices: BTreeSet<_> = chunk.iter().map(|socket| (socket.user, socket.device.clone())).collect();
        let devices: Vec<_> = devices.into_iter().collect();
        mailbox::device_rows::touch_devices(&mut tx, &devices, context.platform.world.now()).await?;
        tx.commit().await?;
    }
    let mut tx = context.store.begin().await?;
    let recounts = presence::rows::take_recounts(&mut tx, context.lease.incarnation()).await?;
    tx.commit().await?;
    for user in recounts {
        displacement::run(context, user, Reason::Requested).await?;
    }
    Ok(())
}

async fn reopen(context: &Context, user: UserId) -> Result<(), StoreError> {
    let mut tx = context.store.begin().await?;
    let (elsewhere, beacon) = record_open(context, &mut tx, user).await?;
    tx.commit().await?;
    beacon.iter().for_each(|beacon| context.sockets.record_beacon(beacon));
    displace(context, user, elsewhere);
    Ok(())
}

/// Records closed sockets that could not be recorded when they closed.
pub(crate) async fn record_closed(context: &Context) -> Result<(), StoreError> {
    let mut users = context.sockets.take_unrecorded();
    while let Some(user) = users.pop_first() {
        if let Err(error) = close(context, user, None).await {
            context.sockets.add_unrecorded(user);
            users.into_iter().for_each(|user| context.sockets.add_unrecorded(user));
            return Err(error);
        }
    }
    Ok(())
}

/// Deletes the rows of pods that died.
pub(crate) async fn sweep(context: &Context) -> Result<(), StoreError> {
    if !context.lease.is_judge() {
        return Ok(());
    }
    let mut tx = context.store.begin().await?;
    presence::rows::end_stale_pods(&mut tx, context.platform.world.now()).await?;
    tx.commit().await?;
    loop {
        let mut tx = context.store.begin().await?;
        let users = presence::rows::users_of_dead_pods(&mut tx, context.platform.world.now()).await?;
        tx.commit().await?;
        if !users.is_empty() {
            tracing::warn!(users = users.len(), "the sockets of a dead pod are deleted");
            close_dead(context, &users).await?;
        }
        if users.len() < SWEEP_MAX {
            return Ok(());
        }
    }
}
