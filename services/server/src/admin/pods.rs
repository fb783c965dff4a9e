//! The processes of the platform, as their heartbeats and their answers say. Nothing follows from it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use platform::{Platform, pod, retry};
use streams::Service;
use streams::operators::shown::{self, Pod};
use streams::pods::{HEALTH_WAIT, HEARTBEAT, Heartbeat, PodHealth, health_subject};
use tokio::time::{Instant, sleep};

/// A pod is listed for so long after its last heartbeat.
const SHOWN_FOR: Duration = Duration::from_secs(30);
/// The most pods that are remembered; of more those that were seen first are forgotten.
const PODS_MAX: usize = 1_000;
/// Pods that are asked for their health at once.
const ASKED_AT_ONCE: usize = 32;

/// The pods that this process has received heartbeats of.
#[derive(Debug)]
pub struct Pods {
    platform: Platform,
    services: Vec<Service>,
    seen: Mutex<BTreeMap<String, (Heartbeat, Instant)>>,
}

impl Pods {
    pub(super) fn new(platform: &Platform, services: &[Service]) -> Self {
        Self { platform: platform.clone(), services: services.to_vec(), seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, (Heartbeat, Instant)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receives heartbeats until shutdown.
    pub async fn run(self: Arc<Self>) {
        let stop = self.platform.shutdown.clone();
        let mut delays = retry::dependency();
        loop {
            let subscribed = self.platform.bus.subscribe(HEARTBEAT, None).await;
            if let Ok(mut heartbeats) = subscribed {
                delays.reset();
                loop {
                    let message = tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        message = heartbeats.next() => message,
                    };
                    let Some(message) = message else { break };
                    if let Ok(heartbeat) = serde_json::from_slice(&message.payload) {
                        self.record(heartbeat, Instant::now());
                    }
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(delays.next_delay()) => {}
            }
        }
    }

    fn record(&self, heartbeat: Heartbeat, now: Instant) {
        let mut seen = self.seen();
        seen.insert(heartbeat.pod_id.clone(), (heartbeat, now));
        seen.retain(|_, (_, at)| now - *at < SHOWN_FOR);
        while seen.len() > PODS_MAX {
            let oldest = seen.iter().min_by_key(|(_, (_, at))| *at).map(|(id, _)| id.clone());
            oldest.iter().for_each(|id| _ = seen.remove(id));
        }
    }

    /// The heartbeat of each pod that was seen lately, with its age; this process among them.
    fn recent(&self, now: Instant) -> Vec<(Heartbeat, Duration)> {
        let seen = self.seen();
        let recent = seen.values().map(|(heartbeat, at)| (heartbeat.clone(), now - *at));
        let mut recent: Vec<_> = recent.filter(|(_, age)| *age < SHOWN_FOR).collect();
        if !recent.iter().any(|(heartbeat, _)| *heartbeat.pod_id == *self.platform.pod) {
            let own = pod::health(&self.platform, &self.services);
            recent.push((
                Heartbeat {
                    pod_id: own.pod_id,
                    services: own.services,
                    time: own.time,
                    uptime_s: 0,
                    sockets: own.sockets,
                    subscriptions: self.platform.bus.subscriptions() as u64,
                    memory_bytes: None,
                    cpu_percent: None,
                },
                Duration::ZERO,
            ));
            recent.sort_by(|(a, _), (b, _)| a.pod_id.cmp(&b.pod_id));
        }
        recent
    }

    async fn health_of(&self, pod_id: &str) -> Option<PodHealth> {
        if *pod_id == *self.platform.pod {
            return Some(pod::health(&self.platform, &self.services));
        }
        let reply = self.platform.bus.request(&health_subject(pod_id), "{}".into(), HEALTH_WAIT).await.ok()?;
        serde_json::from_slice(&reply).ok()
    }

    pub(super) async fn view(&self) -> shown::Pods {
        let asked = stream::iter(self.recent(Instant::now())).map(async |(heartbeat, age)| {
            let health = self.health_of(&heartbeat.pod_id).await;
            let (status, parts) = health.map(|health| (health.status, health.parts)).unzip();
            Pod { heartbeat, last_seen_s: age.as_secs_f64(), status, parts }
        });
        shown::Pods { pods: asked.buffered(ASKED_AT_ONCE).collect().await }
    }
}

#[cfg(test)]
mod tests {
    use platform::World;
    use streams::Bus;
    use streams::memory::MemoryBus;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pods_are_listed_for_a_while_and_are_bounded() {
        let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 1);
        let platform = Platform::new(world.clone(), Bus::Memory(MemoryBus::new(world.now(), 1)), "m");
        let pods = Pods::new(&platform, &[Service::Rides]);
        let heartbeat = |pod_id: &str| Heartbeat {
            pod_id: pod_id.to_owned(),
            services: vec!["users".to_owned()],
            time: world.now(),
            uptime_s: 5,
            sockets: 0,
            subscriptions: 1,
            memory_bytes: None,
            cpu_percent: None,
        };
        let start = Instant::now();
        let ids = |now| pods.recent(now).into_iter().map(|(heartbeat, _)| heartbeat.pod_id).collect::<Vec<_>>();
        assert_eq!(ids(start), ["m"], "this process");
        pods.record(heartbeat("z"), start);
        pods.record(heartbeat("a"), start + Duration::from_secs(20));
        assert_eq!(ids(start + Duration::from_secs(20)), ["a", "m", "z"]);
        assert_eq!(ids(start + Duration::from_secs(30)), ["a", "m"]);
        for n in 0..PODS_MAX + 5 {
            pods.record(heartbeat(&format!("pod-{n}")), start + Duration::from_secs(20));
        }
        assert_eq!(pods.seen().len(), PODS_MAX);
    }
}
