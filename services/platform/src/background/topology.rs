//! What the server has of the topology, observed once for all who need it: the reconciler, the relays' recovery, the metrics.
//!
//! One process observes it for the whole fleet (`sharing.rs`). What another process observed is believed only if it is calm: no difference,
//! and the same streams and consumers as this process observed itself. It serves whoever is content with a recent observation; who must know
//! what the server has now, such as a relay after a reconnect or a failed publish, gets one of this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use std::sync::{Mutex as SyncMutex, PoisonError};
use streams::topology::{Topology, TopologyState};
use streams::{Bus, BusError};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// How often the topology is observed while nothing gives a reason to.
pub const OBSERVE_INTERVAL: Duration = Duration::from_secs(5);
/// An observation of that age is recent.
pub const RECENT: Duration = Duration::from_secs(10);
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
    known: SyncMutex<Known>,
    /// Another process observed something else than this one: it has to look itself.
    doubted: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// The last observation of this process; none if the last one failed.
    own: Option<Arc<Observation>>,
    /// The newest of another process, if it is calm.
    shared: Option<Arc<Observation>>,
}

/// What became of an observation of another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Adopted {
    /// It is calm.
    Calm,
    /// Something has changed, or this process does not know enough: it has to observe the topology itself.
    Differs,
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
                self.doubted.store(false, Ordering::Relaxed);
                let outcome = match timeout(OBSERVE_WAIT, bus.observe(&topology.with_sweeper())).await {
                    Ok(Ok(state)) => Ok(Arc::new(Observation { began_at, state })),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("the server did not describe its streams in {OBSERVE_WAIT:?}")),
                };
                *last = Some(Last { began_at, outcome: outcome.clone() });
                let mut known = self.known();
                known.own = outcome.as_ref().ok().cloned();
                // What is older than this one says nothing more.
                known.shared = None;
                outcome
            }
        };
        outcome.map_err(BusError::Unavailable)
    }

    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest observation of this process or, if it is calm, of another.
    pub fn newest(&self) -> Option<Arc<Observation>> {
        let known = self.known();
        known.shared.iter().chain(&known.own).max_by_key(|observation| observation.began_at).cloned()
    }

    /// The newest of another process, if it is calm.
    pub(super) fn newest_shared(&self) -> Option<Arc<Observation>> {
        self.known().shared.clone()
    }

    /// Whether there is a recent observation, without asking the server.
    pub fn is_recent(&self) -> bool {
        self.newest().is_some_and(|newest| newest.began_at.elapsed() < RECENT)
    }

    /// The state of `topology` at most [`RECENT`] ago, as this process or another observed it.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] if there is none, and the server did not answer.
    pub async fn observed_recently(&self, bus: &Bus, topology: &Topology) -> Result<Arc<Observation>, BusError> {
        if let Some(newest) = self.newest().filter(|newest| newest.began_at.elapsed() < RECENT) {
            return Ok(newest);
        }
        let now = Instant::now();
        self.observed_since(bus, topology, now.checked_sub(RECENT).unwrap_or(now)).await
    }

    /// Takes over what another process observed, if it is calm.
    pub(super) fn adopt(&self, observation: Observation) -> Adopted {
        let mut known = self.known();
        let is_calm = |state: &TopologyState| state.differences.is_empty() && state.first_unavailable().is_none();
        let is_same = known
            .own
            .as_ref()
            .is_some_and(|own| is_calm(&own.state) && own.state.has_same_identities(&observation.state));
        if !is_same || !is_calm(&observation.state) {
            return Adopted::Differs;
        }
        known.shared = Some(Arc::new(observation));
        Adopted::Calm
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

    #[tokio::test(start_paused = true)]
    async fn only_a_calm_observation_of_another_process_is_believed_and_only_by_those_who_need_none_of_now() {
        let bus = Bus::Memory(MemoryBus::new("2026-01-01T00:00:00Z".parse().unwrap(), 10));
        let (topology, watch) = (Topology::rideshare(), TopologyWatch::default());
        let all = topology.with_sweeper();
        bus.apply(&all).await.unwrap();
        let observed = async || Observation { began_at: Instant::now(), state: bus.observe(&all).await.unwrap() };
        assert_eq!(watch.adopt(observed().await), Adopted::Differs, "this process has not looked yet");
        let own = watch.observed_since(&bus, &topology, Instant::now()).await.unwrap();
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(watch.is_recent() && Arc::ptr_eq(&own, &watch.observed_recently(&bus, &topology).await.unwrap()));
        assert_eq!(watch.adopt(observed().await), Adopted::Calm);
        tokio::time::advance(Duration::from_secs(5)).await;
        let shared = watch.observed_recently(&bus, &topology).await.unwrap();
        assert_eq!(shared.began_at.elapsed(), Duration::from_secs(5));
        let now = watch.observed_since(&bus, &topology, Instant::now()).await.unwrap();
        assert_eq!(now.began_at.elapsed(), Duration::ZERO, "an own one");
        // Neither a stream that is missing nor one that was recreated.
        bus.delete_stream("RIDE_STREAM").await.unwrap();
        assert_eq!(watch.adopt(observed().await), Adopted::Differs);
        tokio::time::advance(Duration::from_secs(1)).await;
        bus.apply(&all).await.unwrap();
        let recreated = observed().await;
        assert!(recreated.state.differences.is_empty());
        let text = serde_json::to_string(&recreated.state).unwrap();
        assert_eq!(serde_json::from_str::<TopologyState>(&text).unwrap(), recreated.state);
        assert_eq!(watch.adopt(recreated), Adopted::Differs);
        tokio::time::advance(RECENT).await;
        assert!(!watch.is_recent());
        assert!(watch.observed_recently(&bus, &topology).await.unwrap().began_at.elapsed().is_zero());
        assert_eq!(watch.adopt(observed().await), Adopted::Calm);
    }
}
