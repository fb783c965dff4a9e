//! What a pod says of itself over core NATS, whichever services it runs: heartbeats, its health on request, and the NATS service API.

mod service_api;
mod usage;

pub use service_api::replies as service_replies;

use streams::Service;
use streams::pods::{
    HEALTH_WAIT, HEARTBEAT, HEARTBEAT_INTERVAL, Heartbeat, PartHealth, PodHealth, Status, health_subject,
};
use tokio::time::{Instant, sleep_until};

use crate::responder::{self, Endpoint, Reply};
use crate::telemetry::PartState;
use crate::{CancellationToken, Platform};
use usage::{Usage, cpu_percent};

/// Requests for the health that are in hand at most: each is answered from memory.
const HEALTH_ACCEPTED_MAX: usize = 16;

/// Sends heartbeats and answers for the pod until `platform.shutdown`. `services` are those that it runs.
pub async fn run(platform: Platform, services: Vec<Service>) {
    let stop = platform.shutdown.clone();
    tokio::join!(
        send_heartbeats(&platform, &services, &stop),
        answer_health(&platform, &services, &stop),
        service_api::run(&platform, &services, &stop),
    );
}

fn names(services: &[Service]) -> Vec<String> {
    services.iter().map(|service| service.name().to_owned()).collect()
}

/// Open WebSockets of this process.
fn sockets(platform: &Platform) -> u64 {
    platform.metrics.sockets.get() as u64
}

async fn send_heartbeats(platform: &Platform, services: &[Service], stop: &CancellationToken) {
    let began = Instant::now();
    let mut next = began;
    let (mut last, mut last_at) = (None, began);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep_until(next) => {}
        }
        let now = Instant::now();
        next = now + HEARTBEAT_INTERVAL;
        let usage = Usage::of_this_process(&platform.world);
        let cpu_percent = usage.as_ref().map(|usage| cpu_percent(last.as_ref(), usage, now - last_at));
        let heartbeat = Heartbeat {
            pod_id: platform.pod.to_string(),
            services: names(services),
            time: platform.world.now(),
            uptime_s: (now - began).as_secs(),
            sockets: sockets(platform),
            subscriptions: platform.bus.subscriptions() as u64,
            memory_bytes: usage.as_ref().map(|usage| usage.memory_bytes),
            cpu_percent,
        };
        (last, last_at) = (usage, now);
        let body = serde_json::to_vec(&heartbeat).expect("bodies have string keys");
        if let Err(error) = platform.bus.publish_core(HEARTBEAT, body.into()).await {
            tracing::debug!(%error, "a heartbeat was not sent");
        }
    }
}

/// The service API lists the endpoint under the first service of the pod.
async fn answer_health(platform: &Platform, services: &[Service], stop: &CancellationToken) {
    let endpoint = Endpoint {
        service: services.first().copied(),
        name: "health".to_owned(),
        subject: health_subject(&platform.pod),
        queue_group: None,
        accepted_max: HEALTH_ACCEPTED_MAX,
        wait: HEALTH_WAIT,
        health_part: None,
    };
    let (asked, services) = (platform.clone(), services.to_vec());
    responder::serve(platform.clone(), endpoint, stop.clone(), move |_| {
        let reply = Reply::json(&health(&asked, &services));
        async { reply }
    })
    .await;
}

/// The health of this process, as GET /health/ready and `pods.<pod id>.health` have it.
pub fn health(platform: &Platform, services: &[Service]) -> PodHealth {
    let mut parts = platform.health.parts();
    if platform.shutdown.is_cancelled() {
        parts.push(("process".to_owned(), PartState::Unhealthy("shutting down".to_owned())));
    }
    let part = |(name, state)| {
        let (status, detail) = match state {
            PartState::Healthy => (Status::Ready, None),
            PartState::Degraded(why) => (Status::Degraded, Some(why)),
            PartState::Unhealthy(why) => (Status::NotReady, Some(why)),
        };
        PartHealth { name, status, detail }
    };
    let mut parts: Vec<PartHealth> = parts.into_iter().map(part).collect();
    let is_ready = parts.iter().all(|part| part.status != Status::NotReady);
    parts.extend(platform.health.breakers().into_iter().map(|(breaker, state)| PartHealth {
        name: format!("breaker {breaker}"),
        status: if state == "closed" { Status::Ready } else { Status::Degraded },
        detail: Some(state.to_owned()),
    }));
    PodHealth {
        pod_id: platform.pod.to_string(),
        status: if is_ready { Status::Ready } else { Status::NotReady },
        services: names(services),
        parts,
        sockets: sockets(platform),
        time: platform.world.now(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use streams::Bus;
    use streams::memory::MemoryBus;

    use super::*;
    use crate::World;

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_ready_unless_a_part_of_it_is_not() {
        let bus = Bus::Memory(MemoryBus::new(DateTime::UNIX_EPOCH, 1));
        let platform = Platform::new(World::seeded(DateTime::UNIX_EPOCH, 1), bus, "one");
        let health = || health(&platform, &[Service::Users, Service::Match]);
        let part = |name: &str, status, detail: Option<&str>| PartHealth {
            name: name.to_owned(),
            status,
            detail: detail.map(str::to_owned),
        };
        assert_eq!((health().status, health().parts), (Status::Ready, Vec::new()));
        platform.health.set_healthy("bus");
        platform.health.set_breaker("rides", "open");
        platform.metrics.sockets.set(3.0);
        let degraded = part("breaker rides", Status::Degraded, Some("open"));
        let found = health();
        assert_eq!((found.pod_id.as_str(), found.sockets, found.services.join(" ")), ("one", 3, "users match".into()));
        assert_eq!((found.status, found.parts), (Status::Ready, vec![part("bus", Status::Ready, None), degraded]));
        platform.health.set_unhealthy("bus", "away");
        assert_eq!(
            (health().status, &health().parts[0]),
            (Status::NotReady, &part("bus", Status::NotReady, Some("away")))
        );
        platform.health.set_healthy("bus");
        platform.shutdown.cancel();
        assert_eq!(health().status, Status::NotReady);
        let text = serde_json::to_string(&health()).unwrap();
        assert!(text.contains(r#""status":"not ready""#) && text.contains(r#""detail":null"#), "{text}");
    }
}
