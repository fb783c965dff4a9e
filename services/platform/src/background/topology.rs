//! What the server has of the topology, observed once for all who need it: the reconciler, the relays' recovery, the metrics.

use std::sync::Arc;
use std::time::Duration;

use streams::topology::{Topology, TopologyState};
use streams::{Bus, BusError};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// How often the topology is observed while nothing gives a reason to.
pub const OBSERVE_INTERVAL: Duration = Duration::from_secs(5);
/// Limit of one observation.
const OBSERVE_WAIT: Duration = Duration::from_secs(30);

/// The state of the topology, and when it was observed.
#[derive(Debug)]
pub struct Observation {
    /// The observation began then: whatever the server did before, it shows.
    pub began_at: Instant,
    pub state: TopologyState,
}

/// The last observation of a process. It needs no task of its own: a caller who needs a newer observation makes it, and
/// whoever waits meanwhile shares it.
#[derive(Debug, Default)]
pub struct TopologyWatch {
    last: Mutex<Option<Last>>,
}

#[derive(Debug, Clone)]
struct Last {
    began_at: Instant,
    /// The observation, or why the server did not answer.
    outcome: Result<Arc<Observation>, String>,
}

impl TopologyWatch {
    /// The state of `topology` at `since` or later.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] if the server did not answer at `since` or later.
    pub async fn observed_since(
        &self,
        bus: &Bus,
        topology: &Topology,
        since: Instant,
    ) -> Result<Arc<Observation>, BusError> {
        // Locked during the observation, so that those who wait for the lock find it made.
        let mut last = self.last.lock().await;
        let outcome = match last.as_ref().filter(|last| last.began_at >= since) {
            Some(last) => last.outcome.clone(),
            None => {
                let began_at = Instant::now();
                let outcome = match timeout(OBSERVE_WAIT, bus.observe(&topology.with_sweeper())).await {
                    Ok(Ok(state)) => Ok(Arc::new(Observation { began_at, state })),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("the server did not describe its streams in {OBSERVE_WAIT:?}")),
                };
                *last = Some(Last { began_at, outcome: outcome.clone() });
                outcome
            }
        };
        outcome.map_err(BusError::Unavailable)
    }
}

#[cfg(test)]
mod tests {
    use streams::memory::MemoryBus;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_observation_is_shared_by_those_who_need_none_newer() {
        let bus = Bus::Memory(MemoryBus::new("2026-01-01T00:00:00Z".parse().unwrap(), 10));
        let (topology, watch) = (Topology::rideshare(), TopologyWatch::default());
        let observed = async |since| watch.observed_since(&bus, &topology, since).await.unwrap();
        let began = Instant::now();
        let first = observed(began).await;
        bus.apply(&topology.with_sweeper()).await.unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let shared = observed(began).await;
        assert!(Arc::ptr_eq(&first, &shared) && !shared.state.differences.is_empty());
        let newer = observed(began + Duration::from_millis(1)).await;
        assert_eq!((newer.began_at, newer.state.differences.len()), (began + Duration::from_secs(1), 0));
        assert!(Arc::ptr_eq(&newer, &observed(began).await), "an old need is met by a new observation");
    }
}
