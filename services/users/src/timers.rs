//! The periodic work of the service: it ends searches that have expired and announces their ends, publishes beacons of drivers who moved, polls mailboxes for events whose notification was
//! lost, touches the lease of the pod, sweeps the rows of dead pods, ends suspensions, takes drivers with expired documents off duty, and deletes old rows.

use std::collections::BTreeMap;
use std::time::Duration;

use platform::{CancellationToken, StoreError};
use streams::{Subject, UserId};
use tokio::time::{Instant, sleep};

use crate::commands::beacon;
use crate::context::Context;
use crate::gateway::{connection, publish_frames};
use crate::mailbox::NewEntry;
use crate::search::{NEAR_END, NearEnd, Search};
use crate::{account, document, live_ride, mailbox, offer, phone_change, presence, push, rate_limit, search, sign_in};

const EXPIRE_INTERVAL: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_secs(10);
const TOUCH_INTERVAL: Duration = Duration::from_secs(20);
/// The most users whose cursors one statement reads.
const POLL_MAX: usize = 1_000;
/// The most drivers whose beacons one transaction publishes.
const FOLLOW_MAX: usize = 100;

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let start = Instant::now();
    let (mut next_poll, mut next_touch) = (start + POLL_INTERVAL, start + TOUCH_INTERVAL);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep(EXPIRE_INTERVAL) => {}
        }
        let now = Instant::now();
        log_failure("expire searches", search::ending::expire(&context).await);
        log_failure("announce the ends of searches", announce_ends(&context).await);
        log_failure("record closed sockets", connection::record_closed(&context).await);
        log_failure("beacons of drivers who moved", follow_drivers(&context).await);
        if now >= next_poll {
            next_poll = now + POLL_INTERVAL;
            log_failure("poll mailboxes", poll_mailboxes(&context).await);
            log_failure("end suspensions", account::standing::end_suspensions(&context).await);
            log_failure("expire documents", document::expiry::expire(&context).await);
        }
        if now >= next_touch {
            context.sockets.forget_clocks();
            next_touch = now + TOUCH_INTERVAL;
            log_failure("touch the lease", connection::touch(&context).await);
            log_failure("sweep dead pods", connection::sweep(&context).await);
        }
    }
}

fn log_failure(task: &str, result: Result<(), StoreError>) {
    if let Err(error) = result {
        tracing::warn!(%error, task, "a periodic task of users failed; it runs again after its interval");
    }
}

/// Tells passengers that their searches end soon, in their mailboxes alone: it concerns nobody else.
async fn announce_ends(context: &Context) -> Result<(), StoreError> {
    let now = context.platform.world.now();
    let mut tx = context.store.begin().await?;
    let due = search::rows::announce_ends(&mut tx, now + NEAR_END, NEAR_END).await?;
    if due.is_empty() {
        return Ok(());
    }
    let entry = |search: &Search| {
        let NearEnd { event_id, time, body } = search.near_end();
        NewEntry { user: search.user_id, event_id, subject: Subject::UserFinder, time, body }
    };
    let entries: Vec<NewEntry> = due.iter().map(entry).collect();
    let appended = mailbox::rows::append(&mut tx, &entries, now).await?;
    let mut users: Vec<UserId> = entries.iter().map(|entry| entry.user).collect();
    users.sort_unstable();
    let routes = presence::rows::routes(&mut tx, &users).await?;
    tx.commit().await?;
    publish_frames::publish(context, entries.into_iter().zip(appended).collect(), &routes, &BTreeMap::new()).await;
    Ok(())
}

/// Publishes the beacons of drivers who moved far from their last one.
async fn follow_drivers(context: &Context) -> Result<(), StoreError> {
    let mut moved = context.sockets.take_moved();
    while !moved.is_empty() {
        let chunk: Vec<_> = moved.drain(..moved.len().min(FOLLOW_MAX)).collect();
        if let Err(error) = beacon::follow(context, &chunk).await {
            moved.extend(chunk);
            moved.iter().for_each(|(user, _)| context.sockets.add_moved(*user));
            return Err(error);
        }
    }
    Ok(())
}

/// Reads the cursors of all users with a socket on this pod and passes them to the sessions.
async fn poll_mailboxes(context: &Context) -> Result<(), StoreError> {
    for chunk in context.sockets.users().chunks(POLL_MAX) {
        let mut tx = context.store.begin().await?;
        let cursors = mailbox::rows::cursors(&mut tx, chunk).await?;
        drop(tx);
        context.sockets.send_cursors(&cursors);
    }
    Ok(())
}

/// Deletes old rows.
pub(crate) async fn purge(context: Context) -> Result<(), StoreError> {
    let now = context.platform.world.now();
    let mut tx = context.store.begin().await?;
    sign_in::otp::rows::purge(&mut tx, now).await?;
    phone_change::rows::purge(&mut tx, now).await?;
    account::suspension::purge(&mut tx, now).await?;
    rate_limit::rows::purge(&mut tx, now).await?;
    sign_in::rows::purge(&mut tx, now).await?;
    sign_in::previous_version::purge(&mut tx, now).await?;
    tx.commit().await?;
    loop {
        let mut tx = context.store.begin().await?;
        let deleted = mailbox::rows::purge(&mut tx, now).await?;
        tx.commit().await?;
        if deleted < mailbox::rows::PURGE_MAX {
            break;
        }
    }
    account::deletion::sweep(&context).await?;
    let mut tx = context.store.begin().await?;
    mailbox::device_rows::purge_devices(&mut tx, now).await?;
    offer::rows::purge(&mut tx, now).await?;
    live_ride::rows::purge(&mut tx, now).await?;
    push::rows::purge(&mut tx).await?;
    tx.commit().await
}
