//! Failures of messages, streams, servers and processes, and what must not be lost by them.

use std::time::Duration;

use bytes::Bytes;
use platform::World;
use serde_json::json;
use server::app::App;
use streams::bus::{ReplayStart, StoredMessage};
use streams::topology::{DEAD_LETTER_STREAM, Topology};
use streams::{Bus, Headers, Message, Service};

use crate::harness::client::{Person, WAIT, http};
use crate::harness::ride::{online, trip};
use crate::harness::running::{Running, Shape};
use crate::harness::{on_both_shapes, until};
use testing::database;

async fn letters(bus: &Bus, count: usize) -> Vec<StoredMessage> {
    let mut replay = bus.replay(DEAD_LETTER_STREAM, None, ReplayStart::Sequence(1)).await.unwrap();
    let mut letters = Vec::new();
    while let Some(letter) =
        replay.next(if letters.len() < count { WAIT } else { Duration::from_secs(1) }).await.unwrap()
    {
        letters.push(letter);
    }
    letters
}

on_both_shapes!(messages_that_cannot_be_parsed_are_dead_lettered_once_for_each_consumer);

async fn messages_that_cannot_be_parsed_are_dead_lettered_once_for_each_consumer(shape: Shape) {
    let running = Running::start(shape, &[]).await;
    let bus = running.bus();
    let wrong_type = json!({"match_id": 7}).to_string();
    let missing = json!({"match_id": "0190b7a0-0000-7000-8000-000000000000"}).to_string();
    for body in ["{\"match_id\": ", &wrong_type, &missing] {
        let message = Message {
            subject: "match.accepted".into(),
            headers: Headers::default(),
            payload: Bytes::from(body.to_owned()),
        };
        bus.publish(message).await.unwrap();
    }
    let letters = letters(bus, 9).await;
    let mut seen: Vec<(String, String)> = letters
        .iter()
        .map(|l| (l.subject.clone(), l.headers.find("Dead-Letter-Message-Id").unwrap().to_owned()))
        .collect();
    seen.sort();
    let mut expected = Vec::new();
    for service in ["match", "rides", "users"] {
        for sequence in 1..=3 {
            expected.push((format!("dead_letter.match_accepted_{service}"), format!("MATCH_STREAM-{sequence}")));
        }
    }
    assert_eq!(seen, expected);
    until("nothing is left on MATCH_STREAM", async || bus.stream_info("MATCH_STREAM").await.unwrap().messages == 0)
        .await;
    // All other messages are handled.
    let mut driver = Person::driver(running.addr(), 1).await.connect(None).await;
    let mut passenger = Person::passenger(running.addr(), 2).await.connect(None).await;
    online(&mut driver, 40.751).await;
    passenger.ack("finder.update", trip()).await;
    let found = driver.event("match.found").await["data"]["match_id"].clone();
    driver.ack("match.accept", json!({"match_id": found})).await;
    passenger.event("ride.pickup").await;
    running.stop().await;
}

#[tokio::test]
async fn a_deleted_stream_and_a_deleted_consumer_are_recreated() {
    let running = Running::start(Shape::Nats, &[]).await;
    let bus = running.bus();
    bus.delete_stream("LOCATION_STREAM").await.unwrap();
    bus.delete_consumer("USER_STREAM", "user_finder_match").await.unwrap();
    until("health is red", async || http(running.addr(), "GET", "/health/ready", None, None).await.0 == 503).await;
    running.nats().apply_if_secured().await;
    until("the topology is whole again", async || {
        bus.compare(&Topology::rideshare()).await.is_ok_and(|d| d.is_empty())
    })
    .await;
    until("health is green", async || http(running.addr(), "GET", "/health/ready", None, None).await.0 == 200).await;
    let mut driver = Person::driver(running.addr(), 1).await.connect(None).await;
    let mut passenger = Person::passenger(running.addr(), 2).await.connect(None).await;
    online(&mut driver, 40.751).await;
    passenger.ack("finder.update", trip()).await;
    driver.event("match.found").await;
    running.stop().await;
}

#[tokio::test]
async fn after_a_restart_of_nats_health_is_green_only_with_the_memory_stream_recreated() {
    let mut running = Running::start(Shape::Nats, &[]).await;
    let addr = running.addr();
    let ready = async || http(addr, "GET", "/health/ready", None, None).await.0;
    let mut driver = Person::driver(addr, 1).await.connect(None).await;
    online(&mut driver, 40.751).await;
    running.nats_mut().kill();
    until("health is red", async || ready().await == 503).await;
    running.nats_mut().start_again();
    running.nats().apply_if_secured().await;
    until("health is green", async || ready().await == 200).await;
    let stream = running.bus().stream_info("LOCATION_STREAM").await;
    assert!(stream.is_ok(), "health is green once the memory stream is back, not before: {stream:?}");
    let now = World::real().now().to_rfc3339();
    let point = json!({"location": {"lat": 40.751, "lng": -73.98}, "recorded_at": now});
    until("a position is acked", async || driver.command("location.update", point.clone()).await["type"] == "ack")
        .await;
    let mut passenger = Person::passenger(addr, 2).await.connect(None).await;
    passenger.ack("finder.update", trip()).await;
    driver.event("match.found").await;
    running.stop().await;
}

#[tokio::test]
async fn a_user_connected_to_two_processes_receives_each_event_on_both_sockets() {
    let running = Running::split(&[]).await;
    let (one, other) = (running.apps[0].addr, running.apps[4].addr);
    let driver = Person::driver(one, 1).await;
    let mut here = driver.connect(None).await;
    let mut there = Person { addr: other, ..driver.clone() }.connect(None).await;
    let mut passenger = Person::passenger(other, 2).await.connect(None).await;
    online(&mut here, 40.751).await;
    passenger.ack("finder.update", trip()).await;
    let (a, b) = (here.event("match.found").await, there.event("match.found").await);
    assert_eq!(a, b, "both sockets of the driver see the same, with the same seq");
    // The old socket closes; the new one stays.
    drop(here);
    there.ack("match.accept", json!({"match_id": a["data"]["match_id"]})).await;
    there.event("ride.pickup").await;
    running.stop().await;
}

#[tokio::test]
async fn a_simulated_city_finds_no_violation_in_one_process_or_in_five() {
    for split in [false, true] {
        let more = ["--track-max-speed-mps", "100000", "--match-offer-ttl-s", "4", "--match-radius-m", "20000"];
        let running = if split { Running::split(&more).await } else { Running::start(Shape::Embedded, &more).await };
        let mut urls = vec![format!("http://{}", running.addr())];
        let mut rides_url = None;
        if split {
            urls.push(format!("http://{}", running.apps[4].addr));
            rides_url = Some(format!("http://{}", running.apps[2].addr));
        }
        let config = simulator::Config {
            billed_tolerance: None,
            urls,
            rides_url,
            drivers: 6,
            passengers: 6,
            rides: 10,
            time_limit: Duration::from_secs(150),
            seed: 5,
            speed: 120.0,
            progress: false,
            ..simulator::Config::default()
        };
        let summary = simulator::run(config).await.unwrap();
        assert_eq!(summary.violations, Vec::<String>::new(), "{summary}");
        assert!(summary.completed >= 10, "{summary}");
        running.stop().await;
    }
}

#[tokio::test]
async fn a_stop_closes_sockets_with_1001_and_a_restart_loses_nothing() {
    let mut running = Running::start(Shape::Nats, &[]).await;
    let (driver, passenger) = (Person::driver(running.addr(), 1).await, Person::passenger(running.addr(), 2).await);
    let (mut d, mut p) = (driver.connect(None).await, passenger.connect(None).await);
    online(&mut d, 40.751).await;
    p.ack("finder.update", trip()).await;
    let found = d.event("match.found").await["data"]["match_id"].clone();
    d.ack("match.accept", json!({"match_id": found})).await;
    let seen = d.last_seq;
    running.pause().await;
    assert_eq!((d.closed().await, p.closed().await), (1001, 1001));
    running.start_again().await;
    let mut d = Person { addr: running.addr(), ..driver }.connect(Some(seen)).await;
    d.event("ride.pickup").await;
    running.stop().await;
}

#[tokio::test]
async fn events_lost_with_a_memory_bus_are_published_again_from_postgres() {
    let database = database::fresh().await;
    let more = ["--jwt-secret", "a secret of thirty-two bytes or more", "--otp-delivery", "response"];
    let settings = crate::harness::running::settings(&[&["--database-url", &database], &more[..]].concat());
    let start = async || App::start(&settings, &Service::ALL, World::real()).await.unwrap();
    let mut app = start().await;
    let mut people = [Person::driver(app.addr, 1).await, Person::passenger(app.addr, 2).await];
    let mut seen = [0; 2];
    for millis in [0, 1, 3, 10, 30] {
        let (mut d, mut p) = (people[0].connect(Some(seen[0])).await, people[1].connect(Some(seen[1])).await);
        online(&mut d, 40.751).await;
        p.ack("finder.update", trip()).await;
        let found = d.event("match.found").await["data"]["match_id"].clone();
        d.ack("match.accept", json!({"match_id": found})).await;
        seen = [seen[0].max(d.last_seq), seen[1].max(p.last_seq)];
        tokio::time::sleep(Duration::from_millis(millis)).await;
        // As a crash, somewhere between the ack and the pickup: nothing is drained.
        drop(app);
        drop((d, p));
        app = start().await;
        people.iter_mut().for_each(|person| person.addr = app.addr);
        let (mut d, mut p) = (people[0].connect(Some(seen[0])).await, people[1].connect(Some(seen[1])).await);
        let pickup = p.event("ride.pickup").await["data"].clone();
        assert_eq!(pickup["match_id"], found, "after {millis} ms");
        assert_eq!(d.event("ride.pickup").await["data"]["ride_id"], pickup["ride_id"]);
        p.ack("ride.cancel", json!({"ride_id": pickup["ride_id"], "reason": "again"})).await;
        for socket in [&mut d, &mut p] {
            assert_eq!(socket.event("ride.cancelled").await["data"]["ride_id"], pickup["ride_id"]);
        }
        seen = [seen[0].max(d.last_seq), seen[1].max(p.last_seq)];
    }
    assert!(app.platform.metrics.published_again.with_label_values(&["users"]).get() > 0);
    assert!(app.stop().await);
}
