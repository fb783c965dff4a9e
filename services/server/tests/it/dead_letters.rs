//! Dead letters for operators: the commands, against a real server and running services; and the alarm about a stuck stream.

use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use platform::{CancellationToken, Health, Metrics, Platform, World};
use serde_json::{Value, json};
use server::app::App;
use server::monitor;
use streams::bus::{MESSAGE_ID, Puller};
use streams::memory::MemoryBus;
use streams::topology::{GIVEN_UP_STREAM, Topology};
use streams::{Bus, Headers, Message, Service, Subject};

use crate::failures::until;
use crate::harness::client::{Person, WAIT};
use crate::harness::running::{Running, settings, shared};
use crate::program::rideshare;
use crate::ride::{online, trip};
use testing::nats::Server;

/// `rideshare dead-letters …` against this server, while the services of the test's own process go on.
async fn command(url: &str, words: &str) -> Output {
    let words = format!("dead-letters {words} --nats-url {url}");
    let run = move || rideshare(&words.split_whitespace().collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// The same; it must succeed, and its JSON is returned.
async fn answer(url: &str, words: &str) -> Value {
    let output = command(url, &format!("{words} --format json")).await;
    assert!(output.status.success(), "{words}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn sequences(listed: &Value) -> Vec<u64> {
    listed.as_array().unwrap().iter().map(|letter| letter["sequence"].as_u64().unwrap()).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Takes the one message of this consumer as often as it may be delivered, as processes do that die each time.
async fn exhaust(puller: &mut Puller) {
    for deliveries in 1..=5 {
        let taken = puller.fetch(1, WAIT).await.unwrap();
        assert_eq!(taken.iter().map(|d| d.deliveries).collect::<Vec<_>>(), [deliveries]);
        taken[0].retry(Duration::ZERO).await.unwrap();
    }
    assert!(puller.fetch(1, Duration::from_secs(1)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_requeued_acceptance_reaches_rides_alone_and_the_ride_goes_on() {
    let nats = Server::new().unwrap();
    let url = nats.url.clone();
    let settings = shared(&nats, &[]).await;
    let mut apps = Vec::new();
    for service in [Service::Users, Service::Match, Service::Location] {
        apps.push(App::start(&settings, &[service], World::real()).await.unwrap());
    }
    let addr = apps[0].addr;
    let mut driver = Person::driver(addr, 1).await.connect(None).await;
    let mut passenger = Person::passenger(addr, 2).await.connect(None).await;
    online(&mut driver, 40.751).await;
    passenger.ack("finder.update", trip()).await;
    let found = driver.event("match.found").await["data"]["match_id"].clone();
    driver.ack("match.accept", json!({"match_id": found})).await;
    passenger.event("match.accepted").await;
    // The processes of rides die with it, one after another, and are not started again.
    let bus = apps[0].platform.bus.clone();
    let consumer = apps[0].platform.topology.consumer(Subject::MatchAccepted, Service::Rides).clone();
    exhaust(&mut bus.pull(&consumer).await.unwrap()).await;
    let held = async |stream| bus.stream_info(stream).await.unwrap().messages;
    until("nothing is left on MATCH_STREAM", async || held("MATCH_STREAM").await == 0).await;
    until("nothing is left to sweep", async || held(GIVEN_UP_STREAM).await == 0).await;
    let listed = answer(&url, "list").await;
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed[0]["consumer"], "match_accepted_rides");
    let shown = answer(&url, &format!("show {}", listed[0]["sequence"])).await;
    assert_eq!(shown["body"]["match_id"], found);

    // Rides is still away: nothing is changed, and it is said why.
    let refused = command(&url, "requeue --consumer match_accepted_rides").await;
    assert!(!refused.status.success());
    assert!(text(&refused.stdout).contains("nobody handles match_accepted_rides"), "{refused:?}");
    assert_eq!(answer(&url, "list").await, listed);

    apps.push(App::start(&settings, &[Service::Rides], World::real()).await.unwrap());
    let requeued = async || command(&url, "requeue --all --format json").await;
    let mut said = requeued().await;
    until("rides hears of it", async || {
        let nobody = text(&said.stdout).contains("nobody handles");
        if nobody {
            said = requeued().await;
        }
        !nobody
    })
    .await;
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    let sequence = &listed[0]["sequence"];
    let wanted = json!([{"sequence": sequence, "consumer": "match_accepted_rides", "outcome": "requeued"}]);
    assert_eq!(said, wanted);
    assert_eq!(answer(&url, "list").await, json!([]));
    let ride_id = driver.event("ride.pickup").await["data"]["ride_id"].clone();
    let pin = passenger.event("ride.pickup").await["data"]["pin"].clone();
    driver.ack("ride.start", json!({"ride_id": ride_id, "pin": pin})).await;
    passenger.event("ride.started").await;
    for (app, consumer) in [(0, "match_accepted_users"), (1, "match_accepted_match"), (3, "match_accepted_rides")] {
        let handled = apps[app].platform.metrics.handled.with_label_values(&[consumer]).get();
        assert_eq!(handled, 1, "{consumer}");
    }
    Running::of(apps, Some(nats), settings).stop().await;
}

#[tokio::test]
async fn operators_choose_among_letters() {
    let nats = Server::new().unwrap();
    let url = nats.url.clone();
    let nothing = command(&url, "list").await;
    assert!(text(&nothing.stderr).contains("has no DEAD_LETTER_STREAM"), "{nothing:?}");
    let more = ["--queue-type", "nats", "--nats-url", &url];
    let bus = server::app::bus(&settings(&more), &World::real(), "test").await.unwrap();
    bus.apply(&Topology::rideshare()).await.unwrap();
    for (n, consumer) in ["user_beacon_match", "match_accepted_rides", "user_beacon_match"].into_iter().enumerate() {
        let mut headers = Headers::default();
        for (name, value) in [
            (MESSAGE_ID, format!("dead_letter-{n}")),
            ("Dead-Letter-Stream", "USER_STREAM".to_owned()),
            ("Dead-Letter-Subject", "user.beacon".to_owned()),
            ("Dead-Letter-Sequence", n.to_string()),
            ("Dead-Letter-Consumer", consumer.to_owned()),
            ("Dead-Letter-Deliveries", "3".to_owned()),
            ("Dead-Letter-Reason", "no such driver".to_owned()),
            ("Dead-Letter-Message-Id", format!("user.beacon-{n}")),
            ("x-own", "kept".to_owned()),
        ] {
            headers.set(name, value);
        }
        let payload = Bytes::from_static(if n == 0 { b"{\"a\": [1]}" } else { b"{" });
        bus.publish(Message { subject: format!("dead_letter.{consumer}"), headers, payload }).await.unwrap();
    }
    for (words, covered) in [
        ("", &[1, 2, 3][..]),
        ("--consumer user_beacon_match", &[1, 3]),
        ("--consumer payment_capture_rides", &[]),
        ("2 3", &[2, 3]),
        ("--sequence 1,3", &[1, 3]),
        ("--older-than 1h", &[]),
        ("--younger-than 1h", &[1, 2, 3]),
        ("--younger-than 1h --consumer match_accepted_rides", &[2]),
    ] {
        assert_eq!(sequences(&answer(&url, &format!("list {words}")).await), covered, "{words}");
    }
    let table = text(&command(&url, "list").await.stdout);
    assert!(table.lines().count() == 4 && table.contains("match_accepted_rides") && table.contains("no such driver"));
    let shown = answer(&url, "show 1").await;
    assert_eq!((&shown["body"], &shown["headers"]), (&json!({"a": [1]}), &json!([["x-own", "kept"]])));
    assert_eq!((&shown["message_id"], &shown["deliveries"]), (&json!("user.beacon-0"), &json!(3)));
    assert_eq!(answer(&url, "show --sequence 2").await["body"], "{", "what is no JSON is shown as it is");
    for (words, reason) in [
        ("show 9", "there is no dead letter 9"),
        ("show", "SEQUENCE"),
        ("remove", "say which"),
        ("requeue", "say which"),
        ("remove --all 2", "say which"),
        ("remove 9 1", "there is no such dead letter: 9"),
        ("list --consumer kitchen", "there is no consumer `kitchen`"),
        ("list --older-than soon", "is no age"),
    ] {
        let refused = command(&url, words).await;
        let said = text(&refused.stderr);
        assert!(!refused.status.success() && said.to_lowercase().contains(&reason.to_lowercase()), "{words}: {said}");
    }
    assert_eq!(sequences(&answer(&url, "list").await), [1, 2, 3], "and nothing was changed");
    assert_eq!(sequences(&answer(&url, "remove 1").await), [1]);
    assert_eq!(sequences(&answer(&url, "list").await), [2, 3]);
    let removed = command(&url, "remove --consumer user_beacon_match").await;
    assert!(text(&removed.stdout).contains("1 of 1 done"), "{removed:?}");
    assert_eq!(sequences(&answer(&url, "remove --all").await), [2]);
    assert_eq!(answer(&url, "list").await, json!([]));
    assert_eq!(bus.compare(&Topology::rideshare()).await.unwrap(), Vec::<String>::new(), "all is as it was");
}

#[tokio::test(start_paused = true)]
async fn a_stuck_stream_is_an_alarm_for_as_long_as_it_is_stuck() {
    let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 7);
    let bus = Bus::Memory(MemoryBus::new(world.started_at(), 10_000));
    let topology = Topology::rideshare();
    // Without the sweeper's stream: nobody hears that the message was given up.
    bus.apply(&topology).await.unwrap();
    let platform = Platform {
        world,
        bus: bus.clone(),
        topology: Arc::new(topology),
        metrics: Arc::new(Metrics::new()),
        health: Arc::new(Health::default()),
        shutdown: CancellationToken::new(),
        pod: "test".into(),
    };
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
    exhaust(&mut puller).await;
    assert_eq!(stuck(), (0, 0), "not yet");
    // Others come and go behind it.
    for _ in 0..20 {
        publish("passes").await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        puller.fetch(1, WAIT).await.unwrap()[0].ack_confirmed().await.unwrap();
    }
    assert_eq!(stuck(), (1, 0));
    assert!(platform.metrics.text().contains("rideshare_stream_stuck{stream=\"MATCH_STREAM\"} 1"));
    assert_eq!(bus.stream_info("MATCH_STREAM").await.unwrap().messages, 1, "nothing was healed");
    bus.release("MATCH_STREAM", &consumer.durable, 1).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(stuck(), (0, 0));
    platform.shutdown.cancel();
    watching.await.unwrap();
}
