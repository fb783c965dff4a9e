//! The end of sign-ins, from the row to every process: access tokens of an ended sign-in are refused and its sockets closed.
//!
//! Whoever ends a sign-in calls [`announce`] after the commit: it takes effect in this process at once, and a core message takes
//! it to all others. That message may be lost. So every process of users also reads the table once a second, announces what it finds there
//! that nobody has announced, and answers the other services' requests for the list from what it knows.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use platform::responder::{self, Endpoint, Reply};
use platform::token::ended;
use platform::{CancellationToken, StoreError, kill_point};
use streams::bus::{CoreMessage, Subscription};
use streams::sign_ins::{
    EndedSignIn, EndedSignInsRequest, SIGN_INS_ENDED, SIGN_INS_LIST, SIGN_INS_LIST_WAIT, SIGN_INS_PAGE,
};
use streams::{Service, SignInId};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::rows;
use crate::context::Context;

/// Requests for the list in hand at most: each is answered from memory.
const LISTS_MAX: usize = 64;
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How far back each poll but the first reads: longer than a transaction takes to commit, and than clocks differ.
const POLL_OVERLAP: TimeDelta = TimeDelta::seconds(60);

/// Makes committed ends take effect, here and in every other process.
pub(crate) async fn announce(context: &Context, ended: &[EndedSignIn], cause: &'static str) {
    if !ended.is_empty() {
        kill_point::reached("sign_in.before_announce");
    }
    for EndedSignIn { sign_in_id, user_id, .. } in ended {
        tracing::info!(%user_id, %sign_in_id, cause, "a sign-in has ended");
        context.platform.metrics.sign_ins.with_label_values(&["ended"]).inc();
    }
    apply(context, ended);
    publish(context, ended).await;
}

async fn publish(context: &Context, ended: &[EndedSignIn]) {
    for page in ended.chunks(SIGN_INS_PAGE) {
        let message = ended::seal(&context.tokens, page);
        if let Err(error) = context.platform.bus.publish_core(SIGN_INS_ENDED, message).await {
            tracing::debug!(%error, "the end of a sign-in was not sent; the other processes ask for it");
        }
    }
}

/// Publishes all that have ended since `since`, as far as this process knows.
async fn publish_since(context: &Context, since: DateTime<Utc>) {
    let mut after = (since, SignInId(Uuid::nil()));
    loop {
        let page = context.tokens.ended().page_after(after);
        publish(context, &page).await;
        match page.last() {
            Some(last) if page.len() >= SIGN_INS_PAGE => after = (last.ended_at, last.sign_in_id),
            _ => return,
        }
    }
}

/// First no token of theirs opens a socket, then the open ones close. Returns those that were not known.
fn apply(context: &Context, ended: &[EndedSignIn]) -> Vec<EndedSignIn> {
    let new = context.tokens.ended().insert(ended, context.platform.world.now());
    let ids: Vec<SignInId> = new.iter().map(|one| one.sign_in_id).collect();
    if !ids.is_empty() {
        context.sockets.end_sign_ins(&ids);
    }
    new
}

/// Reads which sign-ins ended since `since`. Returns those that were not known.
pub(crate) async fn poll(context: &Context, since: DateTime<Utc>) -> Result<Vec<EndedSignIn>, StoreError> {
    let mut new = Vec::new();
    let mut after = (since, SignInId(Uuid::nil()));
    loop {
        let mut tx = context.store.begin().await?;
        let page = rows::ended_after(&mut tx, after).await?;
        drop(tx);
        new.extend(apply(context, &page));
        match page.last() {
            Some(last) if page.len() >= SIGN_INS_PAGE => after = (last.ended_at, last.sign_in_id),
            _ => return Ok(new),
        }
    }
}

/// Reads all whose access tokens may still be valid: before the process serves anybody.
pub(crate) async fn load(context: &Context) -> Result<(), StoreError> {
    poll(context, context.platform.world.now() - ended::remembered_for()).await.map(|_| ())
}

/// Answers requests for the list until `stop`.
pub(crate) async fn answer(context: Context, stop: CancellationToken) {
    let endpoint = Endpoint {
        service: Some(Service::Users),
        name: "ended_sign_ins".to_owned(),
        subject: SIGN_INS_LIST.to_owned(),
        queue_group: Some(SIGN_INS_LIST.to_owned()),
        accepted_max: LISTS_MAX,
        wait: SIGN_INS_LIST_WAIT,
        health_part: None,
    };
    responder::serve(context.platform.clone(), endpoint, stop, move |request| {
        let reply = match serde_json::from_slice(&request) {
            Ok(EndedSignInsRequest { after }) => {
                Reply::done(ended::seal(&context.tokens, &context.tokens.ended().page_after(after)))
            }
            Err(error) => Reply::unreadable(&error),
        };
        async { reply }
    })
    .await;
}

/// Applies what other processes announce and what the table says, until `stop`.
pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let bus = &context.platform.bus;
    let mut announced: Option<Subscription> = None;
    let mut since = context.platform.world.now() - ended::remembered_for();
    let mut next_poll = Instant::now();
    // Since then this process has had one connection; none yet: what it published by another one, or before it died, may be lost.
    let (mut connection, mut connected_since) = (None, since);
    loop {
        if announced.is_none() {
            announced = bus.subscribe(SIGN_INS_ENDED, None).await.ok();
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Before the messages: anybody on the bus can send any number of them.
            () = sleep_until(next_poll) => {
                next_poll = Instant::now() + POLL_INTERVAL;
                let polled_at = context.platform.world.now();
                let reconnects = bus.reconnects();
                if connection != Some(reconnects) {
                    publish_since(&context, connected_since).await;
                    connection = Some(reconnects);
                }
                connected_since = polled_at - POLL_OVERLAP;
                match poll(&context, since).await {
                    Ok(new) => {
                        // Whoever ended them has died before it announced them, or its message was lost.
                        publish(&context, &new).await;
                        since = polled_at - POLL_OVERLAP;
                    }
                    Err(error) => tracing::debug!(%error, "ended sign-ins were not read; they are in a second"),
                }
            }
            message = next(&mut announced) => match message {
                Some(message) => match ended::open(&context.tokens, &message.payload) {
                    Some(ended) => _ = apply(&context, &ended),
                    None => tracing::warn!("a list of ended sign-ins is not from this platform: ignored"),
                },
                None => announced = None,
            },
        }
    }
}

/// The next message; pending for ever without a subscription.
async fn next(subscription: &mut Option<Subscription>) -> Option<CoreMessage> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}
