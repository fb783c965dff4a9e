//! `rideshare dead-letters` against a real server and running services.

use std::process::Output;

use bytes::Bytes;
use serde_json::{Value, json};
use streams::bus::MESSAGE_ID;
use streams::topology::{DEAD_LETTER_STREAM, GIVEN_UP_STREAM, Topology};
use streams::{Headers, Message, Service, Subject};

use crate::harness::client::Person;
use crate::harness::nats::Nats;
use crate::harness::ride::{online, trip};
use crate::harness::running::{Running, shared, start};
use crate::harness::until;
use crate::stuck_stream::exhaust_deliveries;

/// `rideshare dead-letters …` against this server, while the services in the test's own process go on.
async fn command(nats: &Nats, words: &str) -> Output {
    let words = format!("dead-letters {words}");
    nats.rideshare_meanwhile(&words.split_whitespace().collect::<Vec<_>>()).await
}

/// The same; it must succeed, and its JSON is returned.
async fn answer(nats: &Nats, words: &str) -> Value {
    let output = command(nats, &format!("{words} --format json")).await;
    assert!(output.status.success(), "{words}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn sequences(listed: &Value) -> Vec<u64> {
    listed.as_array().unwrap().iter().map(|letter| letter["sequence"].as_u64().unwrap()).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_requeued_message_is_handled_by_its_own_consumer_alone() {
    let nats = Nats::start().await;
    let settings = shared(&nats, &[]).await;
    let mut apps = Vec::new();
    for service in [Service::Users, Service::Match, Service::Location] {
        apps.extend(start(&settings, &[service]).await);
    }
    let addr = apps[0].addr;
    let mut driver = Person::driver(addr, 1).await.connect(None).await;
    let mut passenger = Person::passenger(addr, 2).await.connect(None).await;
    online(&mut driver, 40.751).await;
    passenger.ack("finder.update", trip()).await;
    let found = driver.event("match.found").await["data"]["match_id"].clone();
    driver.ack("match.accept", json!({"match_id": found})).await;
    passenger.event("match.accepted").await;
    // As if process after process of rides died while handling it, and none were left.
    let bus = nats.bus().await;
    let consumer = apps[0].platform.topology.consumer(Subject::MatchAccepted, Service::Rides).clone();
    exhaust_deliveries(&mut bus.pull(&consumer).await.unwrap()).await;
    let held = async |stream| bus.stream_info(stream).await.unwrap().messages;
    // Another service's process stores the letter, but releases nothing for rides.
    until("its letter is there", async || held(DEAD_LETTER_STREAM).await == 1).await;
    assert_eq!((held("MATCH_STREAM").await, held(GIVEN_UP_STREAM).await), (1, 1));
    let listed = answer(&nats, "list").await;
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed[0]["consumer"], "match_accepted_rides");
    let shown = answer(&nats, &format!("show {}", listed[0]["sequence"])).await;
    assert_eq!(shown["body"]["match_id"], found);

    // No process of rides runs: nothing is changed, and the output says why.
    let refused = command(&nats, "requeue --consumer match_accepted_rides").await;
    assert!(!refused.status.success());
    assert!(text(&refused.stdout).contains("nobody handles match_accepted_rides"), "{refused:?}");
    assert_eq!(answer(&nats, "list").await, listed);

    apps.extend(start(&settings, &[Service::Rides]).await);
    let requeued = async || command(&nats, "requeue --all --format json").await;
    let mut output = requeued().await;
    until("rides answers the request", async || {
        let nobody = text(&output.stdout).contains("nobody handles");
        if nobody {
            output = requeued().await;
        }
        !nobody
    })
    .await;
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sequence = &listed[0]["sequence"];
    let expected = json!([{"sequence": sequence, "consumer": "match_accepted_rides", "outcome": "requeued"}]);
    assert_eq!(results, expected);
    assert_eq!(answer(&nats, "list").await, json!([]));
    until("nothing is left on MATCH_STREAM", async || held("MATCH_STREAM").await == 0).await;
    until("nothing is left to sweep", async || held(GIVEN_UP_STREAM).await == 0).await;
    let ride_id = driver.event("ride.pickup").await["data"]["ride_id"].clone();
    let pin = passenger.event("ride.pickup").await["data"]["pin"].clone();
    driver.ack("ride.start", json!({"ride_id": ride_id, "pin": pin})).await;
    passenger.event("ride.started").await;
    for (app, consumer) in [(0, "match_accepted_users"), (1, "match_accepted_match"), (3, "match_accepted_rides")] {
        let handled = apps[app].platform.metrics.handled.with_label_values(&[consumer]).get();
        assert_eq!(handled, 1, "{consumer}");
    }
    Running::of(apps, nats, settings).await.stop().await;
}

#[tokio::test]
async fn list_show_and_remove_take_the_letters_that_match_every_condition() {
    let nats = Nats::bare();
    let nothing = command(&nats, "list").await;
    assert!(text(&nothing.stderr).contains("has no DEAD_LETTER_STREAM"), "{nothing:?}");
    let bus = nats.bus().await;
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
        assert_eq!(sequences(&answer(&nats, &format!("list {words}")).await), covered, "{words}");
    }
    let table = text(&command(&nats, "list").await.stdout);
    assert!(table.lines().count() == 4 && table.contains("match_accepted_rides") && table.contains("no such driver"));
    let shown = answer(&nats, "show 1").await;
    assert_eq!((&shown["body"], &shown["headers"]), (&json!({"a": [1]}), &json!([["x-own", "kept"]])));
    assert_eq!((&shown["message_id"], &shown["deliveries"]), (&json!("user.beacon-0"), &json!(3)));
    assert_eq!(answer(&nats, "show --sequence 2").await["body"], "{", "what is no JSON is shown as it is");
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
        let refused = command(&nats, words).await;
        let error = text(&refused.stderr);
        assert!(!refused.status.success() && error.to_lowercase().contains(&reason.to_lowercase()), "{words}: {error}");
    }
    assert_eq!(sequences(&answer(&nats, "list").await), [1, 2, 3], "and nothing was changed");
    assert_eq!(sequences(&answer(&nats, "remove 1").await), [1]);
    assert_eq!(sequences(&answer(&nats, "list").await), [2, 3]);
    let removed = command(&nats, "remove --consumer user_beacon_match").await;
    assert!(text(&removed.stdout).contains("1 of 1 done"), "{removed:?}");
    assert_eq!(sequences(&answer(&nats, "remove --all").await), [2]);
    assert_eq!(answer(&nats, "list").await, json!([]));
    assert_eq!(bus.compare(&Topology::rideshare()).await.unwrap(), Vec::<String>::new(), "all is as it was");
}
