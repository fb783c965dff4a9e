//! The monitor's alarm: a message that is stored and that no consumer will get.

use std::time::Duration;

use bytes::Bytes;
use platform::{Platform, World};
use server::monitor;
use streams::bus::Puller;
use streams::memory::MemoryBus;
use streams::topology::Topology;
use streams::{Bus, Headers, Message, Service, Subject};

use crate::harness::client::WAIT;

/// Uses up all deliveries of a consumer's one message, as processes do that die each time.
pub(crate) async fn exhaust_deliveries(puller: &mut Puller) {
    for deliveries in 1..=5 {
        let taken = puller.fetch(1, WAIT).await.unwrap();
        assert_eq!(taken.iter().map(|d| d.deliveries).collect::<Vec<_>>(), [deliveries]);
        taken[0].retry(Duration::ZERO).await.unwrap();
    }
    assert!(puller.fetch(1, Duration::from_secs(1)).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stuck_stream_is_reported_for_as_long_as_it_is_stuck() {
    let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 7);
    let bus = Bus::Memory(MemoryBus::new(world.started_at(), 10_000));
    // Without the sweeper's stream nobody is notified that the message has used up its deliveries.
    bus.apply(&Topology::rideshare()).await.unwrap();
    let platform = Platform::new(world, bus.clone(), "test");
    let watching = tokio::spawn(monitor::watch(platform.clone(), Vec::new()));
    let stuck = || {
        let of = |stream: &str| platform.metrics.stuck.with_label_values(&[stream]).get();
        (of("MATCH_STREAM"), of("USER_STREAM") + of("PAYMENT_STREAM") + of("LOCATION_STREAM"))
    };
    let publish = async |payload: &'static str| {
        let message = Message {
            subject: "match.found".into(),
            headers: Headers::default(),
            payload: Bytes::from_static(payload.as_bytes()),
        };
        bus.publish(message).await.unwrap();
    };
    let consumer = platform.topology.consumer(Subject::MatchFound, Service::Users).clone();
    let mut puller = bus.pull(&consumer).await.unwrap();
    publish("waits").await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(stuck(), (0, 0), "a message that waits for its consumer is not stuck");
    exhaust_deliveries(&mut puller).await;
    assert_eq!(stuck(), (0, 0), "not yet");
    // Later messages are handled meanwhile.
    for _ in 0..20 {
        publish("passes").await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        puller.fetch(1, WAIT).await.unwrap()[0].ack_confirmed().await.unwrap();
    }
    assert_eq!(stuck(), (1, 0));
    assert!(platform.metrics.text(&platform.health).contains("rideshare_stream_stuck{stream=\"MATCH_STREAM\"} 1"));
    assert_eq!(bus.stream_info("MATCH_STREAM").await.unwrap().messages, 1, "the monitor only reports");
    bus.release("MATCH_STREAM", &consumer.durable, 1).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(stuck(), (0, 0));
    platform.shutdown.cancel();
    watching.await.unwrap();
}
