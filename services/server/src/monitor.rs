//! Looks at bus, stores and consumers while the program runs, so that health and metrics tell the truth of this second.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use platform::{Platform, StoreError};
use streams::bus::{ConsumerInfo, StreamInfo};
use streams::topology::Retention;
use tokio::time::{Instant, sleep, timeout};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Consumers are asked less often: it is a request for each.
const CONSUMERS_EVERY: Duration = Duration::from_secs(5);
/// How long a message is stored that nobody waits for, before that is an alarm: the sweeper, which may still bring it to the
/// dead letters, waits one ack wait for somebody slow, and tries again when something is away.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// Asks one store whether it answers.
pub type Check = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>> + Send + Sync>;

/// Looks until shutdown, or until the bus is closed for good: then the process must end.
pub async fn watch(platform: Platform, stores: Vec<(&'static str, Check)>) {
    // Side by side: while one waits for a server that is gone, the others go on telling the truth.
    tokio::select! {
        biased;
        () = platform.shutdown.cancelled() => {}
        () = look_at_bus(&platform) => {}
        () = look_at_stores(&platform, &stores) => {}
        () = look_at_consumers(&platform) => {}
    }
}

/// Returns once the bus is closed for good.
async fn look_at_bus(platform: &Platform) {
    loop {
        match timeout(Duration::from_secs(5), platform.bus.check()).await {
            Ok(Ok(())) => platform.health.set_healthy("bus"),
            Ok(Err(error)) => platform.health.set_unhealthy("bus", error.to_string()),
            Err(_) => platform.health.set_unhealthy("bus", "no answer in 5 s"),
        }
        platform.metrics.core_dropped.set(platform.bus.dropped() as f64);
        if platform.bus.is_closed() {
            // Only a new process has a new client.
            tracing::error!("the connection to NATS is closed for good");
            return;
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn look_at_stores(platform: &Platform, stores: &[(&'static str, Check)]) {
    loop {
        for (name, check) in stores {
            match check().await {
                Ok(()) => platform.health.set_healthy(&format!("database {name}")),
                Err(error) => platform.health.set_unhealthy(&format!("database {name}"), error.to_string()),
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn look_at_consumers(platform: &Platform) {
    let mut suspects = Suspects::default();
    loop {
        consumers(platform, &mut suspects).await;
        sleep(CONSUMERS_EVERY).await;
    }
}

/// Sees for each stream whether it is stuck. It only tells: who is to blame, and what is to become of the message, is for a
/// person to say (the sweeper has done what a program can).
async fn consumers(platform: &Platform, suspects: &mut Suspects) {
    let topology = platform.topology.with_sweeper();
    for stream in &topology.streams {
        // The stream first: its consumers then stand where it stood, or further on.
        let Ok(info) = platform.bus.stream_info(&stream.name).await else { continue };
        let mut stands = Vec::new();
        for consumer in topology.consumers.iter().filter(|c| c.stream == stream.name) {
            let Ok(info) = platform.bus.consumer_info(&consumer.stream, &consumer.durable).await else { continue };
            let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            platform.metrics.pending.with_label_values(&[&consumer.durable]).set(gauge(info.pending));
            platform.metrics.ack_pending.with_label_values(&[&consumer.durable]).set(gauge(info.ack_pending));
            stands.push(info);
        }
        let asked = topology.consumers.iter().filter(|c| c.stream == stream.name).count();
        // Without a word from all of them nothing is known; on a limits stream messages stay by design.
        if stream.retention == Retention::Limits || stands.len() < asked {
            continue;
        }
        let stuck = suspects.look(&stream.name, is_left(&info, &stands).then_some(info.first_sequence), Instant::now());
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

/// Whether the oldest message of a stream is one that no consumer waits for any more: each has nothing left, or has got past
/// it. (A consumer that others made holds messages as well: that is theirs to know.)
fn is_left(stream: &StreamInfo, consumers: &[ConsumerInfo]) -> bool {
    let is_past = |c: &ConsumerInfo| (c.pending == 0 && c.ack_pending == 0) || stream.first_sequence <= c.ack_floor;
    stream.messages > 0 && consumers.iter().all(is_past)
}

/// Streams whose oldest message nobody waits for, with that message and since when.
#[derive(Debug, Default)]
struct Suspects(BTreeMap<String, (u64, Instant)>);

impl Suspects {
    /// Whether the stream is stuck: the same message has been `left` for longer than messages on their way look so, and
    /// longer than the sweeper takes.
    fn look(&mut self, stream: &str, left: Option<u64>, now: Instant) -> bool {
        let Some(sequence) = left else {
            self.0.remove(stream);
            return false;
        };
        let suspect = self.0.entry(stream.to_owned()).or_insert((sequence, now));
        if suspect.0 != sequence {
            *suspect = (sequence, now);
        }
        now - suspect.1 >= STUCK_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_left_when_everybody_is_past_it() {
        let stream = |messages, first_sequence| StreamInfo {
            messages,
            bytes: 0,
            first_sequence,
            last_sequence: 9,
            consumers: 2,
        };
        let idle = ConsumerInfo { pending: 0, ack_pending: 0, redelivered: 0, ack_floor: 0, delivered: 0 };
        let at = |ack_floor| ConsumerInfo { pending: 1, ack_floor, ..idle.clone() };
        for (messages, consumers, left) in [
            (0, vec![idle.clone()], false),
            (1, vec![idle.clone(), idle.clone()], true),
            (1, vec![idle.clone(), ConsumerInfo { ack_pending: 1, ..idle.clone() }], false),
            (1, vec![at(4), idle.clone()], false),
            (1, vec![at(5), idle.clone()], true),
            (2, vec![at(9), at(5)], true),
            (2, vec![at(9), at(4)], false),
        ] {
            assert_eq!(is_left(&stream(messages, 5), &consumers), left, "{messages} {consumers:?}");
        }
    }

    #[test]
    fn a_stream_is_stuck_once_one_message_was_left_for_long() {
        let start = Instant::now();
        let mut suspects = Suspects::default();
        let mut look = |left, after| suspects.look("S", left, start + STUCK_AFTER.mul_f64(after));
        assert!(!look(Some(1), 0.0));
        assert!(!look(Some(1), 0.9));
        assert!(look(Some(1), 1.0));
        assert!(!look(Some(2), 1.1), "another message: the first one went");
        assert!(!look(None, 1.5));
        assert!(!look(Some(2), 2.2), "it was not left in between");
        assert!(look(Some(2), 3.2));
        assert!(!look(None, 3.3));
    }
}
