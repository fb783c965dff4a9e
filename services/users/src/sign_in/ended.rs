//! The end of sign-ins, from the row to every process: access tokens of an ended sign-in are refused and its sockets closed.
//!
//! Whoever ends a sign-in calls [`announce`] after the commit: it takes effect in this process at once, and a core message takes
//! it to all others. That message may be lost. So every process of users also reads the table once a second, and answers the
//! other services' requests for the list from what it knows.

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
    for page in ended.chunks(SIGN_INS_PAGE) {
        let message = ended::seal(&context.tokens, page);
        if let Err(error) = context.platform.bus.publish_core(SIGN_INS_ENDED, message).await {
            tracing::debug!(%error, "the end of a sign-in was not sent; every process reads it within a second");
        }
    }
}

/// First no token of theirs opens a socket, then the open ones close.
fn apply(context: &Context, ended: &[EndedSignIn]) {
    let new = context.tokens.ended().insert(ended, context.platform.world.now());
    let ids: Vec<SignInId> = new.iter().map(|one| one.sign_in_id).collect();
    if !ids.is_empty() {
        context.sockets.end_sign_ins(&ids);
    }
}

/// Reads which sign-ins ended since `since`.
pub(crate) async fn poll(context: &Context, since: DateTime<Utc>) -> Result<(), StoreError> {
    let mut after = (since, SignInId(Uuid::nil()));
    loop {
        let mut tx = context.store.begin().await?;
        let page = rows::ended_after(&mut tx, after).await?;
        drop(tx);
        apply(context, &page);
        match page.last() {
            Some(last) if page.len() >= SIGN_INS_PAGE => after = (last.ended_at, last.sign_in_id),
            _ => return Ok(()),
        }
    }
}

/// Reads all whose access tokens may still be valid: before the process serves anybody.
pub(crate) async fn load(context: &Context) -> Result<(), StoreError> {
    poll(context, context.platform.world.now() - ended::remembered_for()).await
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
                match poll(&context, since).await {
                    Ok(()) => since = polled_at - POLL_OVERLAP,
                    Err(error) => tracing::debug!(%error, "ended sign-ins were not read; they are in a second"),
                }
            }
            message = next(&mut announced) => match message {
                Some(message) => match ended::open(&context.tokens, &message.payload) {
                    Some(ended) => apply(&context, &ended),
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
