//! Sends the pushes that are due. Every process of users does: it claims rows for a while, and what it does not finish in that time
//! another one claims. So each push is sent once, but for an answer that is lost or a process that dies before it deleted the row;
//! then it comes again under the same id.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use platform::{CancellationToken, StoreError};
use tokio::time::{sleep, sleep_until};

use super::outcome::{self, Next, Outcome};
use super::rows::{self, Claimed};
use crate::context::Context;

/// Rows that nobody of this process expects are found by a look after this time: those of a process that died.
const POLL_INTERVAL: TimeDelta = TimeDelta::seconds(5);
/// How long a claim lasts: longer than a try, with the statement that records its outcome.
const CLAIM: TimeDelta = TimeDelta::seconds(30);
const CLAIM_MAX: usize = 64;
/// Pushes under way at once.
const UNDER_WAY_MAX: usize = 256;
/// A push whose host has as many under way as it may is due again after this time.
const BUSY_PAUSE: TimeDelta = TimeDelta::milliseconds(500);
/// An outcome that cannot be recorded is tried again for as long as the claim may last.
const RECORD_PAUSE: Duration = Duration::from_secs(1);

/// Sends until `stop`; then it waits for what is under way.
pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let world = &context.platform.world;
    let mut under_way: FuturesUnordered<BoxFuture<'_, String>> = FuturesUnordered::new();
    let mut hosts: BTreeMap<String, usize> = BTreeMap::new();
    loop {
        let mut is_done = false;
        while !is_done && under_way.len() < UNDER_WAY_MAX && !stop.is_cancelled() {
            let room = CLAIM_MAX.min(UNDER_WAY_MAX - under_way.len());
            match claim(&context, room).await {
                Ok(claimed) => {
                    is_done = claimed.len() < room;
                    begin(&context, claimed, &mut hosts, &mut under_way).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "pushes that are due were not read; they are in a while");
                    is_done = true;
                }
            }
        }
        let now = world.now();
        let latest = now + POLL_INTERVAL;
        let at = context.due.next_after(now).map_or(latest, |at| at.min(latest));
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(host) = under_way.next(), if !under_way.is_empty() => leave(&mut hosts, &host),
            () = context.due.wait() => {}
            () = sleep_until(world.instant(at)) => {}
        }
        while let Some(Some(host)) = under_way.next().now_or_never() {
            leave(&mut hosts, &host);
        }
    }
    while under_way.next().await.is_some() {}
}

fn leave(hosts: &mut BTreeMap<String, usize>, host: &str) {
    if let Some(count) = hosts.get_mut(host) {
        *count -= 1;
        if *count == 0 {
            hosts.remove(host);
        }
    }
}

async fn claim(context: &Context, room: usize) -> Result<Vec<Claimed>, StoreError> {
    let now = context.platform.world.now();
    let mut tx = context.store.begin().await?;
    let claimed = rows::claim(&mut tx, now, now + CLAIM, room).await?;
    if !claimed.is_empty() {
        tx.commit().await?;
    }
    Ok(claimed)
}

/// Puts the pushes under way whose hosts have room, and the others back.
async fn begin<'a>(
    context: &'a Context,
    claimed: Vec<Claimed>,
    hosts: &mut BTreeMap<String, usize>,
    under_way: &mut FuturesUnordered<BoxFuture<'a, String>>,
) {
    let now = context.platform.world.now();
    for push in claimed {
        let Some((platform, token)) = push.target.clone() else {
            record(context, &push, Next::Delete).await;
            continue;
        };
        let count = |label: &str| context.platform.metrics.pushes.with_label_values(&[platform.as_str(), label]).inc();
        if push.expires_at <= now {
            count("expired");
            record(context, &push, Next::Expire).await;
            continue;
        }
        let (host, most) = context.sinks.host(platform, &token);
        let busy = hosts.entry(host.clone()).or_default();
        if *busy >= most {
            record(context, &push, Next::PutBack(now + BUSY_PAUSE)).await;
            continue;
        }
        *busy += 1;
        under_way.push(Box::pin(async move {
            let world = &context.platform.world;
            let outcome = context.sinks.send(&push, platform, &token, &context.tokens, world).await;
            let next = outcome::next(&outcome, push.tries, push.expires_at, world.now());
            let label = if next == Next::Expire { "expired" } else { outcome.label() };
            context.platform.metrics.pushes.with_label_values(&[platform.as_str(), label]).inc();
            let (event_id, device_id, platform) = (&push.event_id, &push.device, platform.as_str());
            match &outcome {
                Outcome::Failed { why, .. } => {
                    tracing::debug!(event_id, %device_id, platform, why, "a push was not sent")
                }
                Outcome::Refused(why) => tracing::warn!(event_id, %device_id, platform, why, "a push was refused"),
                Outcome::Gone => tracing::info!(%device_id, platform, "a device is gone, and removed"),
                Outcome::Sent | Outcome::NotTried | Outcome::Unconfigured => {}
            }
            record(context, &push, next).await;
            host
        }));
    }
}

/// Records what is to become of a push. If that cannot be done while the claim lasts, the push is sent again.
async fn record(context: &Context, push: &Claimed, next: Next) {
    let until = context.platform.world.now() + CLAIM - TimeDelta::from_std(context.config.push.wait).unwrap_or(CLAIM);
    loop {
        match record_once(context, push, next).await {
            Ok(()) => break,
            Err(error) if context.platform.world.now() >= until => {
                return tracing::warn!(%error, event_id = push.event_id, "what came of a push was not recorded");
            }
            Err(_) => sleep(RECORD_PAUSE).await,
        }
    }
    if let Next::Again(at) | Next::PutBack(at) = next {
        context.due.add(at);
    }
}

async fn record_once(context: &Context, push: &Claimed, next: Next) -> Result<(), StoreError> {
    let mut tx = context.store.begin().await?;
    match next {
        Next::Delete | Next::Expire => rows::delete(&mut tx, push.key()).await?,
        Next::DeleteWithDevice => {
            // A user's account may have been moved to another device meanwhile: the push is over in any case.
            rows::remove_gone(&mut tx, push).await?;
            rows::delete(&mut tx, push.key()).await?;
        }
        Next::Again(at) => rows::put_back(&mut tx, push.key(), at, 0).await?,
        Next::PutBack(at) => rows::put_back(&mut tx, push.key(), at, 1).await?,
    }
    tx.commit().await
}
