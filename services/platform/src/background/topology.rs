//! Keeps the topology as it must be: proved and applied before anything is served, and applied again whenever the
//! connection was made anew, a consumer was found missing, or 10 s have passed.

use std::time::Duration;

use streams::BusError;
use tokio::time::{Instant, sleep, timeout};

use crate::{Platform, retry};

/// How long a start waits for a server that cannot create streams yet.
const START_WAIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(10);
const RECONNECT_LOOK: Duration = Duration::from_millis(500);

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
                for change in changes {
                    tracing::info!("topology: {change}");
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

/// Looks after the topology until shutdown.
pub async fn reconcile_topology(platform: Platform) {
    const PART: &str = "topology";
    let topology = platform.topology.with_sweeper();
    let mut delays = retry::dependency();
    let mut seen = platform.bus.reconnects();
    let mut next = Instant::now() + LOOK_EVERY;
    platform.health.set_healthy(PART);
    loop {
        let step = next.min(Instant::now() + RECONNECT_LOOK);
        let missing = platform.health.faults().iter().any(|(part, _)| part.starts_with("consumer "));
        tokio::select! {
            biased;
            () = platform.shutdown.cancelled() => return,
            () = tokio::time::sleep_until(step) => {}
        }
        let reconnects = platform.bus.reconnects();
        if reconnects == seen && !missing && Instant::now() < next {
            continue;
        }
        let applied = tokio::select! {
            biased;
            () = platform.shutdown.cancelled() => return,
            applied = timeout(Duration::from_secs(30), platform.bus.apply(&topology)) => applied,
        };
        match applied {
            Ok(Ok(changes)) => {
                for change in changes {
                    tracing::warn!("topology: {change}; what was published meanwhile may not be stored");
                }
                platform.health.set_healthy(PART);
                delays.reset();
                seen = reconnects;
                next = Instant::now() + LOOK_EVERY;
            }
            Ok(Err(error)) => {
                platform.health.set_unhealthy(PART, error.to_string());
                next = Instant::now() + delays.next_delay();
            }
            Err(_) => {
                platform.health.set_unhealthy(PART, "the server does not answer");
                next = Instant::now() + delays.next_delay();
            }
        }
    }
}
