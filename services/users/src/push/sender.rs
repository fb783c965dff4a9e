//! Sends the pushes that are due. Every process of users does: it claims rows for a while, and what it does not finish in that time
//! another one claims. So each push is sent once, but for an answer that is lost or a process that dies before it deleted the row;
//! then it comes again under the same id.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use platform::{CancellationToken, StoreError, kill_point};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, sleep_until};

use super::device::PushPlatform;
use super::outcome::{self, Next, Outcome};
use super::rows::{self, Claimed, PushKey};
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
/// While its breaker is open nothing is tried at a host for this time: many pushes may wait for it.
const OPEN_PAUSE: TimeDelta = TimeDelta::seconds(2);
/// An outcome that cannot be recorded is tried again for as long as the claim may last.
const RECORD_PAUSE: Duration = Duration::from_secs(1);

/// What this process knows of one host.
#[derive(Debug, Default)]
struct Host {
    under_way: usize,
    paused_until: Option<DateTime<Utc>>,
}

/// The hosts with pushes under way, or paused.
#[derive(Debug, Default)]
struct Hosts(BTreeMap<String, Host>);

impl Hosts {
    /// Takes one of the places of a host.
    ///
    /// # Errors
    /// When to look again, if it has none.
    fn take(&mut self, name: &str, most: usize, now: DateTime<Utc>) -> Result<(), DateTime<Utc>> {
        let host = self.0.entry(name.to_owned()).or_default();
        match host.paused_until {
            Some(until) if now < until => return Err(until),
            _ if host.under_way >= most => return Err(now + BUSY_PAUSE),
            _ => host.under_way += 1,
        }
        Ok(())
    }

    fn ended(&mut self, ended: Result<Ended, JoinError>, now: DateTime<Utc>) {
        match ended {
            Ok(Ended { host: name, is_open }) => {
                let host = self.0.entry(name).or_default();
                host.under_way = host.under_way.saturating_sub(1);
                host.paused_until = is_open.then_some(now + OPEN_PAUSE);
            }
            Err(error) => {
                tracing::error!(%error, "sending a push ended badly; it is sent again when its claim is over");
                self.0.clear();
            }
        }
        self.0.retain(|_, host| host.under_way > 0 || host.paused_until.is_some_and(|until| now < until));
    }
}

/// A try that is over.
struct Ended {
    host: String,
    /// The breaker of the host is open.
    is_open: bool,
}

/// Sends until `stop`; then it waits for what is under way.
pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let world = &context.platform.world;
    let mut under_way: JoinSet<Ended> = JoinSet::new();
    let mut hosts = Hosts::default();
    loop {
        let mut is_done = false;
        while !is_done && under_way.len() < UNDER_WAY_MAX && !stop.is_cancelled() {
            let room = CLAIM_MAX.min(UNDER_WAY_MAX - under_way.len());
            is_done = match claim_and_begin(&context, room, &mut hosts, &mut under_way).await {
                Ok(claimed) => claimed < room,
                Err(error) => {
                    tracing::debug!(%error, "pushes that are due were not read; they are in a while");
                    true
                }
            };
            while let Some(ended) = under_way.try_join_next() {
                hosts.ended(ended, world.now());
            }
        }
        let now = world.now();
        let latest = now + POLL_INTERVAL;
        let at = context.due.next_after(now).map_or(latest, |at| at.min(latest));
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = under_way.join_next(), if under_way.len() >= UNDER_WAY_MAX => hosts.ended(ended, world.now()),
            () = context.due.wait() => {}
            () = sleep_until(world.instant(at)) => {}
        }
        while let Some(ended) = under_way.try_join_next() {
            hosts.ended(ended, world.now());
        }
    }
    while under_way.join_next().await.is_some() {}
}

/// Claims what is due, begins to send where there is room, and puts the rest back. Returns how many were claimed.
async fn claim_and_begin(
    context: &Context,
    room: usize,
    hosts: &mut Hosts,
    under_way: &mut JoinSet<Ended>,
) -> Result<usize, StoreError> {
    let now = context.platform.world.now();
    let mut tx = context.store.begin().await?;
    let claimed = rows::claim(&mut tx, now, now + CLAIM, room).await?;
    let count = claimed.len();
    if count == 0 {
        return Ok(0);
    }
    let (mut over, mut back, mut begun) = (Vec::new(), BTreeMap::<DateTime<Utc>, Vec<PushKey>>::new(), Vec::new());
    for push in claimed {
        let Some((platform, token)) = push.target.clone() else {
            over.push(push.key());
            continue;
        };
        if push.expires_at <= now {
            count_outcome(context, platform, "expired");
            over.push(push.key());
            continue;
        }
        let (host, most) = context.sinks.host(platform, &token);
        match hosts.take(&host, most, now) {
            Ok(()) => begun.push((push, platform, token, host)),
            Err(at) => back.entry(at).or_default().push(push.key()),
        }
    }
    // In the transaction of the claim: what is not sent costs no commit of its own.
    let recorded = async {
        rows::delete(&mut tx, &over).await?;
        for (at, keys) in &back {
            rows::put_back(&mut tx, keys, *at, 1).await?;
        }
        tx.commit().await
    };
    if let Err(error) = recorded.await {
        for (.., host) in begun {
            hosts.ended(Ok(Ended { host, is_open: false }), now);
        }
        return Err(error);
    }
    back.keys().for_each(|at| context.due.add(*at));
    for (push, platform, token, host) in begun {
        under_way.spawn(send(context.clone(), push, platform, token, host));
    }
    Ok(count)
}

fn count_outcome(context: &Context, platform: PushPlatform, label: &str) {
    context.platform.metrics.pushes.with_label_values(&[platform.as_str(), label]).inc();
}

async fn send(context: Context, push: Claimed, platform: PushPlatform, token: String, host: String) -> Ended {
    let world = &context.platform.world;
    kill_point::reached("push.before_send");
    let outcome = context.sinks.send(&push, platform, &token, &context.tokens, world).await;
    let next = outcome::next(&outcome, push.tries, push.expires_at, world.now());
    let (event_id, device_id, name) = (&push.event_id, &push.device, platform.as_str());
    match &outcome {
        Outcome::Failed { why, .. } => {
            tracing::debug!(event_id, %device_id, platform = name, why, "a push was not sent")
        }
        Outcome::Refused(why) => tracing::warn!(event_id, %device_id, platform = name, why, "a push was refused"),
        Outcome::Gone => tracing::info!(%device_id, platform = name, "a device is gone, and removed"),
        Outcome::Sent | Outcome::NotTried | Outcome::Unconfigured => {}
    }
    kill_point::reached("push.before_record");
    record(&context, &push, next).await;
    count_outcome(&context, platform, if next == Next::Expire { "expired" } else { outcome.label() });
    // There may be room for another one of the host.
    context.due.add(world.now());
    Ended { host, is_open: outcome == Outcome::NotTried }
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
    let keys = [push.key()];
    let mut tx = context.store.begin().await?;
    match next {
        Next::Delete | Next::Expire => rows::delete(&mut tx, &keys).await?,
        Next::DeleteWithDevice => {
            // The device may be another user's meanwhile: the push is over in any case.
            rows::remove_gone(&mut tx, push).await?;
            rows::delete(&mut tx, &keys).await?;
        }
        Next::Again(at) => rows::put_back(&mut tx, &keys, at, 0).await?,
        Next::PutBack(at) => rows::put_back(&mut tx, &keys, at, 1).await?,
    }
    tx.commit().await
}
