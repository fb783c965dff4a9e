//! Looks at bus, stores and consumers while the program runs, so that health and metrics tell the truth of this second.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use platform::{Platform, StoreError};
use streams::topology::Retention;
use tokio::time::{sleep, timeout};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Consumers are asked less often: it is a request for each.
const CONSUMERS_EVERY: u32 = 5;

/// Asks one store whether it answers.
pub type Check = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>> + Send + Sync>;

/// Looks until shutdown, or until the bus is closed for good: then the process must end.
pub async fn watch(platform: Platform, stores: Vec<(&'static str, Check)>) {
    // Streams that looked stuck at the last look: messages on their way look so for a moment.
    let mut suspects: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0u32.. {
        tokio::select! {
            biased;
            () = platform.shutdown.begun() => return,
            () = look(&platform, &stores, round, &mut suspects) => {}
        }
        if platform.bus.is_closed() {
            // Only a new process has a new client.
            tracing::error!("the connection to NATS is closed for good");
            return;
        }
        tokio::select! {
            biased;
            () = platform.shutdown.begun() => return,
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

async fn look(platform: &Platform, stores: &[(&'static str, Check)], round: u32, suspects: &mut BTreeMap<String, u64>) {
    match timeout(Duration::from_secs(5), platform.bus.check()).await {
        Ok(Ok(())) => platform.health.good("bus"),
        Ok(Err(error)) => platform.health.bad("bus", error.to_string()),
        Err(_) => platform.health.bad("bus", "no answer in 5 s"),
    }
    for (name, check) in stores {
        match check().await {
            Ok(()) => platform.health.good(&format!("database {name}")),
            Err(error) => platform.health.bad(&format!("database {name}"), error.to_string()),
        }
    }
    platform.metrics.core_dropped.set(platform.bus.dropped() as f64);
    if round.is_multiple_of(CONSUMERS_EVERY) {
        consumers(platform, suspects).await;
    }
}

async fn consumers(platform: &Platform, suspects: &mut BTreeMap<String, u64>) {
    let mut lag: BTreeMap<&str, u64> = BTreeMap::new();
    for consumer in &platform.topology.consumers {
        let Ok(info) = platform.bus.consumer_info(&consumer.stream, &consumer.durable).await else { return };
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        platform.metrics.pending.with_label_values(&[&consumer.durable]).set(gauge(info.pending));
        platform.metrics.ack_pending.with_label_values(&[&consumer.durable]).set(gauge(info.ack_pending));
        *lag.entry(&consumer.stream).or_default() += info.pending + info.ack_pending;
    }
    for stream in platform.topology.streams.iter().filter(|s| s.retention != Retention::Limits) {
        let Ok(info) = platform.bus.stream_info(&stream.name).await else { return };
        let stored = if lag.get(stream.name.as_str()) == Some(&0) { info.messages } else { 0 };
        let before = suspects.insert(stream.name.clone(), stored).unwrap_or(0);
        let stuck = stored > 0 && before > 0;
        if stuck {
            tracing::error!(
                stream = stream.name,
                messages = stored,
                "messages are stored and no consumer will get them"
            );
        }
        platform.metrics.stuck.with_label_values(&[&stream.name]).set(i64::from(stuck));
    }
}
