//! Watches the bus, the stores and the consumers while the process runs, for health and metrics.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use platform::background::OBSERVE_INTERVAL;
use platform::{Platform, StoreError};
use streams::bus::{ConsumerInfo, StreamInfo};
use streams::topology::{Discard, Retention, TopologyState};
use tokio::time::{Instant, sleep, timeout};

use crate::lag::Lags;

const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a message stays that no consumer will be delivered, before that is an alarm. The sweeper may still dead-letter it:
/// it waits one ack wait for a slow worker, and tries again while something does not answer.
const STUCK_AFTER: Duration = Duration::from_secs(120);
/// From this part of its bytes on, a stream is nearly full.
const FILL_WARNING: f64 = 0.7;

/// From this part of its bytes on a stream may have dropped something.
const FULL: f64 = 0.95;

/// Asks one store whether it answers.
pub type Check = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>> + Send + Sync>;

/// Watches until shutdown, or until the connection to the bus is closed for good: then the process must end.
pub async fn watch(platform: Platform, stores: Vec<(&'static str, Check)>) {
    // Concurrently: while one of them waits for a server that does not answer, the others stay up to date.
    tokio::select! {
        biased;
        () = platform.shutdown.cancelled() => {}
        () = watch_bus(&platform) => {}
        () = watch_stores(&platform, &stores) => {}
        () = watch_topology(&platform) => {}
    }
}

/// Returns once the connection is closed for good.
async fn watch_bus(platform: &Platform) {
    loop {
        let check = async {
            // JetStream has answered this process or another one a moment ago.
            if platform.topology_watch.is_recent() {
                platform.bus.check_connection()
            } else {
                platform.bus.check().await
            }
        };
        match timeout(Duration::from_secs(5), check).await {
            Ok(Ok(())) => platform.health.set_healthy("bus"),
            Ok(Err(error)) => platform.health.set_unhealthy("bus", error.to_string()),
            Err(_) => platform.health.set_unhealthy("bus", "no answer in 5 s"),
        }
        let core_dropped = &platform.metrics.core_dropped;
        core_dropped.inc_by(platform.bus.dropped().saturating_sub(core_dropped.get()));
        if platform.bus.is_closed() {
            // Only a new process has a new client.
            tracing::error!("the connection to NATS is closed for good");
            return;
        }
        sleep(CHECK_INTERVAL).await;
    }
}

async fn watch_stores(platform: &Platform, stores: &[(&'static str, Check)]) {
    loop {
        for (name, check) in stores {
            match check().await {
                Ok(()) => platform.health.set_healthy(&format!("database {name}")),
                Err(error) => platform.health.set_unhealthy(&format!("database {name}"), error.to_string()),
            }
        }
        sleep(CHECK_INTERVAL).await;
    }
}

/// Reports lags and stuck streams. It takes the newest observation, of this process or of another, and makes one only if there is none.
async fn watch_topology(platform: &Platform) {
    let (mut candidates, mut lags, mut discards) = (StuckCandidates::default(), Lags::default(), Discards::default());
    loop {
        // If the server does not answer, the reconciler says so in health, and the metrics keep their last values.
        if let Ok(observation) = platform.observed_recently().await {
            report(platform, &observation.state, &mut candidates, &mut lags);
            report_discarded(platform, &observation.state, &mut discards);
        }
        sleep(OBSERVE_INTERVAL).await;
    }
}

/// Sets the metrics of consumers and streams. A stuck stream is only reported: the sweeper has done what a program can, and a
/// person must decide what becomes of the message.
fn report(platform: &Platform, state: &TopologyState, candidates: &mut StuckCandidates, lags: &mut Lags) {
    let now = platform.world.now();
    let topology = platform.topology.with_sweeper();
    for stream in &topology.streams {
        let Ok(info) = state.stream(&stream.name).map(|stream| &stream.info) else { continue };
        lags.observe_stream(&stream.name, info, now);
        if info.max_bytes > 0 {
            let fill = info.bytes as f64 / info.max_bytes as f64;
            let gauge = platform.metrics.stream_fill.with_label_values(&[&stream.name]);
            if fill >= FILL_WARNING && gauge.get() < FILL_WARNING {
                tracing::warn!(
                    stream = stream.name,
                    percent = (fill * 100.0).round(),
                    max_bytes = info.max_bytes,
                    "the stream is nearly full: raise its _MAX_BYTES"
                );
            }
            gauge.set(fill);
        }
        let consumers = || topology.consumers.iter().filter(|c| c.stream == stream.name);
        let mut infos = Vec::new();
        for consumer in consumers() {
            let Ok(found) = state.consumer(&consumer.stream, &consumer.durable) else { continue };
            let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            platform.metrics.pending.with_label_values(&[&consumer.durable]).set(gauge(found.info.pending));
            platform.metrics.ack_pending.with_label_values(&[&consumer.durable]).set(gauge(found.info.ack_pending));
            let lag = lags.lag(&stream.name, &consumer.durable, &found.info, now);
            platform.metrics.lag.with_label_values(&[&consumer.durable]).set(lag.as_seconds_f64());
            infos.push(&found.info);
        }
        // A missing consumer may still be delivered the message, and a limits stream holds messages by design.
        if stream.retention == Retention::Limits || infos.len() < consumers().count() {
            continue;
        }
        let oldest = is_oldest_abandoned(info, &infos).then_some(info.first_sequence);
        let stuck = candidates.is_stuck(&stream.name, oldest, Instant::now());
        let gauge = platform.metrics.stuck.with_label_values(&[&stream.name]);
        if stuck && gauge.get() == 0 {
            tracing::error!(
                stream = stream.name,
                sequence = info.first_sequence,
                messages = info.messages,
                "a message is stored and no consumer of this system will get it"
            );
        } else if !stuck && gauge.get() != 0 {
            tracing::info!(stream = stream.name, "the stream is no longer stuck");
        }
        gauge.set(i64::from(stuck));
    }
}

/// Counts what streams that drop what is old have dropped unread.
fn report_discarded(platform: &Platform, state: &TopologyState, discards: &mut Discards) {
    let topology = &platform.topology;
    for stream in topology.streams.iter().filter(|stream| stream.discard == Discard::Old) {
        let Ok(info) = state.stream(&stream.name).map(|stream| &stream.info) else { continue };
        for consumer in topology.consumers.iter().filter(|c| c.stream == stream.name) {
            let Ok(found) = state.consumer(&consumer.stream, &consumer.durable) else { continue };
            let lost = discards.observe(&consumer.durable, info, &found.info);
            platform.metrics.discarded.with_label_values(&[&consumer.durable]).inc_by(lost);
            if lost > 0 {
                let (stream, consumer) = (&stream.name, &consumer.durable);
                tracing::error!(stream, consumer, lost, "the stream is full and dropped messages that nobody has read");
            }
        }
    }
}

/// Up to which sequence the messages are counted that a consumer was never delivered.
#[derive(Debug, Default)]
struct Discards(BTreeMap<String, u64>);

impl Discards {
    /// How many messages the stream has dropped since the last time before `consumer` was delivered them. Of a stream with room none: what
    /// is gone there was handled. The stream was observed before its consumers. Messages of other subjects are counted with it; while a
    /// stream is full they are few.
    fn observe(&mut self, durable: &str, stream: &StreamInfo, consumer: &ConsumerInfo) -> u64 {
        let counted = self.0.entry(durable.to_owned()).or_default();
        if stream.last_sequence < *counted {
            // It was created again.
            *counted = 0;
        }
        let is_full = stream.max_bytes > 0 && stream.bytes as f64 >= FULL * stream.max_bytes as f64;
        if !is_full || consumer.pending == 0 {
            return 0;
        }
        let gone = stream.first_sequence.saturating_sub(1);
        let lost = gone.saturating_sub(consumer.delivered.max(*counted));
        *counted = gone.max(*counted);
        lost
    }
}

/// Whether no consumer will be delivered the oldest message of a stream: each has nothing left, or its ack floor is at that
/// message or beyond. The stream was observed before its consumers, so none can be behind it. (A consumer of another system
/// holds messages as well; this one cannot know.)
fn is_oldest_abandoned(stream: &StreamInfo, consumers: &[&ConsumerInfo]) -> bool {
    let is_past = |c: &&ConsumerInfo| (c.pending == 0 && c.ack_pending == 0) || stream.first_sequence <= c.ack_floor;
    stream.messages > 0 && consumers.iter().all(is_past)
}

/// Streams whose oldest message is abandoned: its sequence, and since when.
#[derive(Debug, Default)]
struct StuckCandidates(BTreeMap<String, (u64, Instant)>);

impl StuckCandidates {
    /// Whether the same message has been `abandoned` for longer than a message that is only on its way, and for longer than
    /// the sweeper needs.
    fn is_stuck(&mut self, stream: &str, abandoned: Option<u64>, now: Instant) -> bool {
        let Some(sequence) = abandoned else {
            self.0.remove(stream);
            return false;
        };
        let candidate = self.0.entry(stream.to_owned()).or_insert((sequence, now));
        if candidate.0 != sequence {
            *candidate = (sequence, now);
        }
        now - candidate.1 >= STUCK_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_message_is_abandoned_when_all_consumers_are_past_it() {
        let stream = |messages, first_sequence| StreamInfo {
            messages,
            bytes: 0,
            first_sequence,
            last_sequence: 9,
            consumers: 2,
            max_bytes: 100,
        };
        let idle = ConsumerInfo { pending: 0, ack_pending: 0, redelivered: 0, ack_floor: 0, delivered: 0 };
        let at = |ack_floor| ConsumerInfo { pending: 1, ack_floor, ..idle.clone() };
        for (messages, consumers, abandoned) in [
            (0, vec![idle.clone()], false),
            (1, vec![idle.clone(), idle.clone()], true),
            (1, vec![idle.clone(), ConsumerInfo { ack_pending: 1, ..idle.clone() }], false),
            (1, vec![at(4), idle.clone()], false),
            (1, vec![at(5), idle.clone()], true),
            (2, vec![at(9), at(5)], true),
            (2, vec![at(9), at(4)], false),
        ] {
            let consumers: Vec<&ConsumerInfo> = consumers.iter().collect();
            assert_eq!(is_oldest_abandoned(&stream(messages, 5), &consumers), abandoned, "{messages} {consumers:?}");
        }
    }

    #[test]
    fn what_a_full_stream_drops_unread_is_counted_once_for_each_consumer() {
        let stream = |first_sequence, last_sequence, bytes| StreamInfo {
            messages: last_sequence + 1 - first_sequence,
            bytes,
            first_sequence,
            last_sequence,
            consumers: 2,
            max_bytes: 1_000,
        };
        let consumer = |delivered, pending| ConsumerInfo {
            pending,
            ack_pending: 0,
            redelivered: 0,
            ack_floor: delivered,
            delivered,
        };
        let mut discards = Discards::default();
        assert_eq!(discards.observe("a", &stream(50, 60, 500), &consumer(10, 5)), 0, "there is room");
        assert_eq!(discards.observe("a", &stream(50, 60, 990), &consumer(60, 0)), 0, "it has read all");
        assert_eq!(discards.observe("a", &stream(50, 60, 990), &consumer(10, 11)), 39);
        assert_eq!(discards.observe("b", &stream(50, 60, 990), &consumer(49, 11)), 0);
        assert_eq!(discards.observe("a", &stream(50, 60, 990), &consumer(10, 11)), 0, "counted");
        assert_eq!(discards.observe("a", &stream(60, 70, 990), &consumer(10, 11)), 10);
        assert_eq!(discards.observe("a", &stream(80, 90, 990), &consumer(75, 11)), 4);
        assert_eq!(discards.observe("a", &stream(5, 15, 990), &consumer(2, 11)), 2, "it was created again");
    }

    #[test]
    fn a_stream_is_stuck_once_one_message_is_abandoned_for_long_enough() {
        let start = Instant::now();
        let mut candidates = StuckCandidates::default();
        let mut look = |abandoned, after| candidates.is_stuck("S", abandoned, start + STUCK_AFTER.mul_f64(after));
        assert!(!look(Some(1), 0.0));
        assert!(!look(Some(1), 0.9));
        assert!(look(Some(1), 1.0));
        assert!(!look(Some(2), 1.1), "another message: the first one went");
        assert!(!look(None, 1.5));
        assert!(!look(Some(2), 2.2), "it was not abandoned in between");
        assert!(look(Some(2), 3.2));
        assert!(!look(None, 3.3));
    }
}
