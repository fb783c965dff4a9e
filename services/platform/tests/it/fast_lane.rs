//! The fast lane, on both buses: an event that comes by a core subscription and by its stream has its effect once, and nothing
//! depends on the first.

use std::time::Duration;

use platform::event_metrics::EventPath;
use platform::{Platform, World};
use streams::memory::MemoryBus;
use streams::nats::{NatsBus, NatsSettings};
use streams::{Bus, VehicleType};
use testing::Backend;
use testing::nats::Server;

use crate::consumer::{Rig, beacon, consumer, message};

/// A worker with a fast lane, and the server of its bus, if that is not in memory.
async fn rig(nats: Option<&Server>) -> Rig {
    let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 7);
    let bus = match nats {
        None => Bus::Memory(MemoryBus::new(world.started_at(), 10_000)),
        Some(server) => {
            let settings = NatsSettings { urls: vec![server.url.clone()], ..NatsSettings::default() };
            Bus::Nats(NatsBus::connect(&settings).await.unwrap())
        }
    };
    let mut platform = Platform::new(world, bus, "test");
    platform.core_queue_group = Some("city".into());
    platform.bus.apply(&platform.topology).await.unwrap();
    let rig = Rig::start(platform, Backend::Memory).await;
    // The worker subscribes in a task of its own.
    tokio::time::sleep(Duration::from_millis(500)).await;
    rig
}

fn count(platform: &Platform, metric: &str, path: EventPath) -> u64 {
    let line = format!("rideshare_events_{metric}_total{{path=\"{}\",subject=\"user.beacon\"}} ", path.name());
    platform.metrics.text(&platform.health).lines().find_map(|l| l.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
}

/// Taken, handled and duplicates of both paths together.
fn counts(platform: &Platform) -> [u64; 3] {
    ["taken", "handled", "duplicate"]
        .map(|metric| [EventPath::Core, EventPath::JetStream].map(|path| count(platform, metric, path)).iter().sum())
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: not in 30 s");
}

/// Nothing of the stream waits for the worker any more.
async fn at_rest(rig: &Rig) {
    let consumer = consumer(&rig.platform);
    until("at rest", async || {
        let info = rig.platform.bus.consumer_info(&consumer.stream, &consumer.durable).await.unwrap();
        info.pending + info.ack_pending == 0
    })
    .await;
}

async fn an_event_has_its_effect_once_by_whichever_path_is_first(nats: Option<&Server>) {
    let rig = rig(nats).await;
    for user in 1..=50 {
        rig.publish(&beacon(user, VehicleType::Car, 1)).await;
    }
    until("each has its effect", async || counts(&rig.platform)[1] == 50).await;
    at_rest(&rig).await;
    let [taken, handled, duplicates] = counts(&rig.platform);
    assert!((50..=100).contains(&taken) && handled == 50 && duplicates == taken - 50, "{taken} {handled} {duplicates}");
    for user in 1..=50 {
        assert_eq!(rig.amount(user).await, Some(1));
    }
}

async fn an_event_has_its_effect_while_its_stream_is_away(nats: Option<&Server>) {
    let mut rig = rig(nats).await;
    let consumer = consumer(&rig.platform);
    rig.platform.bus.delete_stream(&consumer.stream).await.unwrap();
    let event = beacon(1, VehicleType::Car, 1);
    let refused = rig.platform.bus.publish(message(&event, &rig.platform.world)).await;
    assert!(refused.is_err(), "{refused:?}");
    rig.done(1).await;
    assert_eq!((rig.amount(1).await, count(&rig.platform, "handled", EventPath::Core)), (Some(1), 1));
    // As the relay does, until the stream has it.
    rig.platform.bus.apply(&rig.platform.topology).await.unwrap();
    rig.publish(&event).await;
    until("the stream's copy", async || count(&rig.platform, "duplicate", EventPath::JetStream) == 1).await;
    at_rest(&rig).await;
    assert_eq!(counts(&rig.platform)[1], 1);
    assert_eq!(rig.amount(1).await, Some(1));
}

async fn a_failure_is_left_to_the_stream_and_counts_no_attempt(nats: Option<&Server>) {
    let rig = rig(nats).await;
    rig.publish(&beacon(1, VehicleType::Van, 1)).await;
    let letters = rig.dead_letters(1).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].headers.find("Dead-Letter-Deliveries"), Some("3"));
    assert!(count(&rig.platform, "failed", EventPath::Core) <= 1);
    assert_eq!(counts(&rig.platform)[1], 0);
    assert_eq!(rig.amount(1).await, None);
}

/// What came while the worker had pulled messages in hand was dropped by it, and was in no count.
async fn each_published_event_is_taken_or_left_or_dropped_and_counted(nats: Option<&Server>) {
    const PUBLISHED: u64 = 2_000;
    let rig = rig(nats).await;
    for user in 1..=PUBLISHED {
        rig.publish(&beacon(user.into(), VehicleType::Car, 1)).await;
    }
    let counted = |platform: &Platform| {
        let text = platform.metrics.text(&platform.health);
        let prefix = "rideshare_events_left_to_stream_total{";
        let left = text.lines().filter_map(|line| line.strip_prefix(prefix)?.rsplit(' ').next()?.parse::<u64>().ok());
        count(platform, "taken", EventPath::Core) + left.sum::<u64>() + platform.bus.dropped()
    };
    until("each is counted", async || counted(&rig.platform) >= PUBLISHED).await;
    at_rest(&rig).await;
    assert_eq!(counted(&rig.platform), PUBLISHED);
    assert_eq!(counts(&rig.platform)[1], PUBLISHED);
}

macro_rules! on_both_buses {
    ($($name:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test(start_paused = true)] async fn $name() { super::$name(None).await; })+
        }
        mod nats {
            use testing::nats::Server;
            $(#[tokio::test] async fn $name() { super::$name(Some(&Server::new().unwrap())).await; })+
        }
    };
}

on_both_buses!(
    an_event_has_its_effect_once_by_whichever_path_is_first,
    an_event_has_its_effect_while_its_stream_is_away,
    a_failure_is_left_to_the_stream_and_counts_no_attempt,
    each_published_event_is_taken_or_left_or_dropped_and_counted,
);
