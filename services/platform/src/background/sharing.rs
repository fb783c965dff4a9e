//! One process of the fleet observes the topology, and says to all what it saw: `pods.topology`. Without it every process would ask
//! JetStream for the same thing.
//!
//! Nobody is elected. Each process observes when for a while nobody has; who did goes on every [`OBSERVE_INTERVAL`], and the others, who
//! wait longer than that, only listen. If it dies, or cannot be reached, another one's wait ends, or those of several, of whom one goes on.
//! Whoever sees a reason to doubt observes at once, for itself: a reconnect, a failed publish, an unhealthy consumer, or an observation
//! that is not what it expects.

use std::time::Duration;

use streams::bus::CoreMessage;
use streams::pods::{SharedObservation, TOPOLOGY};
use tokio::time::{Instant, sleep};

use super::topology::{Adopted, OBSERVE_INTERVAL, Observation};
use crate::{Platform, retry};

/// How much longer than [`OBSERVE_INTERVAL`] a process waits for another one's observation: a part that is the same for all, and one that
/// differs.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_MORE_MS: u32 = 2_000;

/// When a process observes the topology next.
#[derive(Debug)]
pub(super) struct Schedule {
    patience: Duration,
    next: Instant,
    /// Of the newest observation of another process.
    shared_at: Option<Instant>,
}

impl Schedule {
    pub(super) fn new(platform: &Platform) -> Self {
        let more = Duration::from_millis(platform.world.below(PATIENCE_MORE_MS).into());
        Self { patience: PATIENCE + more, next: Instant::now() + OBSERVE_INTERVAL, shared_at: None }
    }

    /// This process has observed the topology, and goes on.
    pub(super) fn observed(&mut self, now: Instant) {
        self.next = now + OBSERVE_INTERVAL;
    }

    pub(super) fn retry_after(&mut self, now: Instant, delay: Duration) {
        self.next = now + delay;
    }

    /// Another process observed the topology at `began_at`: it goes on, and this one waits.
    pub(super) fn shared(&mut self, began_at: Instant) {
        if self.shared_at.is_none_or(|last| last < began_at) {
            self.shared_at = Some(began_at);
            self.next = self.next.max(began_at + OBSERVE_INTERVAL + self.patience);
        }
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }
}

/// Says to the other processes what this one observed.
pub(super) async fn publish(platform: &Platform, observation: &Observation) {
    let age_ms = u64::try_from(observation.began_at.elapsed().as_millis()).unwrap_or(u64::MAX);
    let shared = SharedObservation { pod_id: platform.pod.to_string(), age_ms, state: observation.state.clone() };
    let body = serde_json::to_vec(&shared).expect("the lists have no keys but texts");
    if let Err(error) = platform.bus.publish_core(TOPOLOGY, body.into()).await {
        tracing::debug!(%error, "an observation of the topology was not shared; the others observe it themselves");
    }
}

/// Takes over what other processes observe, until shutdown. Whoever can publish on the subject can at worst have each process look once a
/// second, or hide for a while that a stream was recreated between two publishes that both worked.
pub(super) async fn listen(platform: &Platform) {
    let mut delays = retry::dependency();
    loop {
        match platform.bus.subscribe(TOPOLOGY, None).await {
            Ok(mut messages) => {
                delays.reset();
                while let Some(message) = messages.next().await {
                    adopt(platform, &message);
                }
            }
            Err(error) => tracing::debug!(%error, "cannot subscribe to observations of the topology"),
        }
        sleep(delays.next_delay()).await;
    }
}

fn adopt(platform: &Platform, message: &CoreMessage) {
    let Ok(SharedObservation { pod_id, age_ms, state }) = serde_json::from_slice(&message.payload) else {
        return tracing::debug!("an observation of the topology cannot be read");
    };
    let Some(began_at) = Instant::now().checked_sub(Duration::from_millis(age_ms)) else { return };
    if *pod_id == *platform.pod {
        return;
    }
    if platform.topology_watch.adopt(Observation { began_at, state }) == Adopted::Differs {
        platform.topology_watch.doubt();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_goes_on_and_the_others_wait_until_it_is_gone() {
        let start = Instant::now();
        let schedule =
            |ms| Schedule { patience: Duration::from_millis(ms), next: start + OBSERVE_INTERVAL, shared_at: None };
        // How often each observes in 100 s, the first of them until `dies`.
        let run = |mut all: Vec<Schedule>, dies: u64| -> Vec<usize> {
            let mut counts = vec![0; all.len()];
            for tick in 1..=200 {
                let now = start + Duration::from_millis(500 * tick);
                for n in 0..all.len() {
                    if now < all[n].next() || (n == 0 && tick > 2 * dies) {
                        continue;
                    }
                    counts[n] += 1;
                    all[n].observed(now);
                    let others = all.iter_mut().enumerate().filter(|(other, _)| *other != n);
                    others.for_each(|(_, other)| other.shared(now));
                }
            }
            counts
        };
        let three = || vec![schedule(1_100), schedule(1_900), schedule(2_900)];
        assert_eq!(run(three(), 100), [20, 0, 0]);
        let counts = run(three(), 50);
        assert!(counts[0] == 10 && counts[1] >= 8 && counts[2] == 0, "{counts:?}");
        assert_eq!(run(vec![schedule(1_500)], 100), [20]);
    }
}
