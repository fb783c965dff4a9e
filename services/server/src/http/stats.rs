//! GET /stats. It asks the bus for every consumer, so that it is computed at most once a second for all callers together.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use platform::{Platform, Problem};
use schemars::JsonSchema;
use serde::Serialize;
use streams::BusError;
use streams::bus::ConsumerInfo;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How old an answer may be.
const STATS_AGE_MAX: Duration = Duration::from_secs(1);

/// The answer.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Totals {
    queue: QueueTotals,
    pool: PoolTotals,
    consumers: Vec<ConsumerTotals>,
}

/// Events of this process.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct QueueTotals {
    total_enqueued: u64,
    total_dequeued: u64,
    /// Of all processes: published and not acknowledged.
    current_size: u64,
}

/// What the handlers of this process did.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct PoolTotals {
    processed_count: u64,
    error_count: u64,
    /// Seconds.
    total_duration: f64,
}

/// How a durable consumer stands.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct ConsumerTotals {
    name: String,
    pending: u64,
    ack_pending: u64,
    redelivered: u64,
    /// By this process.
    dead_lettered: u64,
}

/// The last answer and when it was computed; none if the bus did not answer. Callers who come meanwhile wait for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Stats(Arc<Mutex<Option<Computed>>>);

#[derive(Debug)]
struct Computed {
    at: Instant,
    stats: Option<Totals>,
}

impl Stats {
    /// # Errors
    /// `unavailable` if the bus does not answer.
    pub(super) async fn get(&self, platform: &Platform) -> Result<Totals, Problem> {
        let mut last = self.0.lock().await;
        if last.as_ref().is_none_or(|last| last.at.elapsed() >= STATS_AGE_MAX) {
            let stats = compute(platform).await.ok();
            *last = Some(Computed { at: Instant::now(), stats });
        }
        last.as_ref().and_then(|last| last.stats.clone()).ok_or_else(Problem::unavailable)
    }
}

async fn compute(platform: &Platform) -> Result<Totals, Problem> {
    let metrics = &platform.metrics;
    let mut consumers = Vec::new();
    let (mut waiting, mut done, mut errors) = (0, 0, 0);
    let all = &platform.topology.consumers;
    let infos = join_all(all.iter().map(|c| platform.bus.consumer_info(&c.stream, &c.durable))).await;
    for (consumer, info) in all.iter().zip(infos) {
        let name = consumer.durable.as_str();
        let dead_lettered = metrics.dead_lettered.with_label_values(&[name]).get();
        done += metrics.handled.with_label_values(&[name]).get() + dead_lettered;
        errors += metrics.failed.with_label_values(&[name]).get();
        match info {
            Ok(info) => {
                waiting += info.pending + info.ack_pending;
                let ConsumerInfo { pending, ack_pending, redelivered, .. } = info;
                let name = name.to_owned();
                consumers.push(ConsumerTotals { name, pending, ack_pending, redelivered, dead_lettered });
            }
            // Deleted by somebody; the topology reconciler creates it again within seconds.
            Err(BusError::NotFound(_)) => {}
            Err(error) => {
                tracing::warn!(%error, consumer = name, "no statistics");
                return Err(Problem::unavailable());
            }
        }
    }
    let (mut enqueued, mut seconds) = (0, 0.0);
    for service in streams::Service::ALL {
        enqueued += metrics.published.with_label_values(&[service.name()]).get();
        seconds += metrics.handler_seconds.with_label_values(&[service.name()]).get_sample_sum();
    }
    Ok(Totals {
        queue: QueueTotals { total_enqueued: enqueued, total_dequeued: done, current_size: waiting },
        pool: PoolTotals { processed_count: done, error_count: errors, total_duration: seconds },
        consumers,
    })
}
