//! The topology reconciler: proves the topology and applies it before anything is served. Afterwards it observes the server, in turn with
//! the other processes (`sharing.rs`), and applies the topology again as soon as something is missing or differs.

use std::time::Duration;

use streams::BusError;
use tokio::time::{Instant, sleep, timeout};

use super::sharing::{self, Schedule};
use crate::{Platform, retry};

/// How long a start waits for a server that cannot create streams yet.
const START_WAIT: Duration = Duration::from_secs(60);
/// Limit of one apply.
const APPLY_WAIT: Duration = Duration::from_secs(30);
/// How often the reconciler looks for a reason to observe the server at once: a reconnect, or an unhealthy consumer.
const REASON_INTERVAL: Duration = Duration::from_millis(500);
/// How often at most an observation of another process is a reason to look.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);
const HEALTH_PART: &str = "topology";

/// Proves the topology and brings the server to it.
///
/// # Errors
/// A sentence that says what is wrong: the topology is not sound, the server refuses it, or it does not answer in a minute.
pub async fn apply_topology(platform: &Platform) -> Result<(), String> {
    streams::topology::prove(&platform.topology)
        .map_err(|faults| format!("the topology is not sound: {}", faults.join("; ")))?;
    let topology = platform.topology.with_sweeper();
    let mut delays = retry::dependency();
    let until = Instant::now() + START_WAIT;
    loop {
        match platform.bus.apply(&topology).await {
            Ok(changes) => {
                if !changes.is_empty() {
                    let (streams, consumers) = counted(&changes);
                    tracing::info!(streams, consumers, "topology applied: streams and consumers created or changed");
                }
                return Ok(());
            }
            Err(error @ (BusError::Refused(_) | BusError::Full(_) | BusError::NoResponders(_))) => {
                return Err(format!("the server cannot have the topology: {error}"));
            }
            Err(error) if Instant::now() >= until => {
                return Err(format!("the topology could not be applied in {START_WAIT:?}: {error}"));
            }
            Err(error) => {
                tracing::warn!(%error, "topology not applied yet");
                sleep(delays.next_delay()).await;
            }
        }
    }
}

/// How many streams and how many consumers were changed. Each change is a line of its own at debug: a server without any of them has dozens.
fn counted(changes: &[String]) -> (usize, usize) {
    for change in changes {
        tracing::debug!("topology: {change}");
    }
    let of = |kind: &str| changes.iter().filter(|change| change.starts_with(kind)).count();
    (of("stream "), of("consumer "))
}

/// Reconciles until shutdown.
pub async fn reconcile_topology(platform: Platform) {
    // Concurrently: how old an observation of another process is, is known when it comes.
    tokio::select! {
        biased;
        () = sharing::listen(&platform) => {}
        () = reconcile_in_turn(&platform) => {}
    }
}

async fn reconcile_in_turn(platform: &Platform) {
    let mut delays = retry::dependency();
    let mut reconnects = platform.bus.reconnects();
    let mut schedule = Schedule::new(platform);
    let mut observed_at = Instant::now();
    platform.health.set_healthy(HEALTH_PART);
    loop {
        let step = schedule.next().min(Instant::now() + REASON_INTERVAL);
        tokio::select! {
            biased;
            () = platform.shutdown.cancelled() => return,
            () = tokio::time::sleep_until(step) => {}
        }
        if let Some(newest) = platform.topology_watch.newest_shared() {
            schedule.shared(newest.began_at);
        }
        let reconnects_now = platform.bus.reconnects();
        let is_consumer_unhealthy = platform.health.faults().iter().any(|(part, _)| part.starts_with("consumer "));
        let is_doubted = platform.topology_watch.is_doubted() && observed_at.elapsed() >= DOUBT_INTERVAL;
        let has_reason = reconnects_now != reconnects || is_consumer_unhealthy || is_doubted;
        if !has_reason && Instant::now() < schedule.next() {
            continue;
        }
        let reconciled = tokio::select! {
            biased;
            () = platform.shutdown.cancelled() => return,
            reconciled = reconcile(platform) => reconciled,
        };
        observed_at = Instant::now();
        match reconciled {
            Ok(()) => {
                platform.health.set_healthy(HEALTH_PART);
                delays.reset();
                reconnects = reconnects_now;
                schedule.observed(Instant::now());
            }
            Err(error) => {
                platform.health.set_unhealthy(HEALTH_PART, error.to_string());
                schedule.retry_after(Instant::now(), delays.next_delay());
            }
        }
    }
}

/// Observes the server, and applies the topology if it differs.
///
/// # Errors
/// Also if a single stream or consumer does not answer.
async fn reconcile(platform: &Platform) -> Result<(), BusError> {
    let observation = platform.observed_since(Instant::now()).await?;
    sharing::publish(platform, &observation).await;
    if !observation.state.differences.is_empty() {
        let applied = timeout(APPLY_WAIT, platform.bus.apply(&platform.topology.with_sweeper())).await;
        let changes = applied.map_err(|_| BusError::Unavailable("the server does not answer".to_owned()))??;
        if let [first, ..] = &changes[..] {
            let (streams, consumers) = counted(&changes);
            tracing::warn!(
                streams,
                consumers,
                first,
                "the topology differed and was applied again; what was published meanwhile may not be stored"
            );
        }
    }
    match observation.state.first_unavailable() {
        Some(why) => Err(BusError::Unavailable(why.to_owned())),
        None => Ok(()),
    }
}
