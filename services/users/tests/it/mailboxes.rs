//! Mailboxes: numbered without gaps, resumed exactly, on whichever pod; each event for the users concerned.

use std::time::Duration;

use serde_json::{Value, json};
use streams::event::LocationAggregate;
use streams::{Event, RideId, RideStatus};
use testing::{Backend, on_both_stores};

use crate::client::{match_id, time, trip};
use crate::pods::{Cluster, HERE};

on_both_stores!(
    a_client_resumes_exactly_after_its_last_event,
    events_reach_a_user_on_any_pod_and_wait_for_one_on_none,
    each_event_reaches_the_users_concerned,
);

async fn a_client_resumes_exactly_after_its_last_event(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550001").await;
    let mut live = pod.connect_on("phone", user, None).await;
    assert_eq!(live.last_seq, 0);
    cluster.publish_searches(user, 250).await;
    assert_eq!(live.seqs(250).await, (1..=250).collect::<Vec<_>>(), "live");

    let mut fresh = pod.connect_on("phone", user, None).await;
    assert_eq!(fresh.last_seq, 250);
    let mut resumed = pod.connect_on("phone", user, Some(100)).await;
    assert_eq!(resumed.last_seq, 250);
    assert_eq!(resumed.seqs(150).await, (101..=250).collect::<Vec<_>>());
    let mut ahead = pod.connect_on("phone", user, Some(9_999)).await;
    cluster.publish_searches(user, 3).await;
    for client in [&mut live, &mut fresh, &mut resumed, &mut ahead] {
        assert_eq!(client.seqs(3).await, [251, 252, 253]);
    }

    // A live socket and a resumed one receive the same frame.
    cluster.publish_searches(user, 1).await;
    let seen = live.event().await;
    let again = {
        let mut client = pod.connect_on("phone", user, Some(253)).await;
        let event = client.event().await;
        client.close().await;
        event
    };
    assert_eq!(seen, again);
    assert!(seen["event_id"].as_str().unwrap().starts_with("user.finder-"));
    assert_eq!(seen["data"]["recorded_at"], seen["time"]);

    // Acknowledged entries are deleted; later ones stay.
    assert_eq!(resumed.ack("mailbox.ack", json!({"seq": 250})).await, json!({"seq": 250}));
    assert_eq!(resumed.ack("mailbox.ack", json!({"seq": 7})).await, json!({"seq": 7}), "an older seq changes nothing");
    assert_eq!(resumed.refused("mailbox.ack", json!({"seq": 255})).await, "invalid_field seq");
    for client in [fresh, resumed, ahead] {
        client.close().await;
    }
    let mut from_zero = pod.connect_on("phone", user, Some(0)).await;
    assert_eq!(from_zero.welcome["missed"], json!({"from": 1, "to": 250}));
    assert_eq!(from_zero.seqs(4).await, [251, 252, 253, 254]);
    cluster.publish_searches(user, 1).await;
    assert_eq!(from_zero.seqs(1).await, [255]);
    pod.stop().await;
}

async fn events_reach_a_user_on_any_pod_and_wait_for_one_on_none(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut working = cluster.pod("working").await;
    let mut serving = cluster.pod("serving").await;
    let user = working.passenger("+12125550002").await;
    let mut elsewhere = serving.connect(user, None).await;
    let mut here = working.connect(user, None).await;
    cluster.publish_searches(user, 30).await;
    assert_eq!(elsewhere.seqs(30).await, (1..=30).collect::<Vec<_>>());
    assert_eq!(here.seqs(30).await, (1..=30).collect::<Vec<_>>());
    // While no socket is open, events wait in the mailbox.
    elsewhere.close().await;
    here.close().await;
    cluster.publish_searches(user, 5).await;
    let mut back = serving.connect(user, Some(30)).await;
    assert_eq!(back.seqs(5).await, [31, 32, 33, 34, 35]);
    back.close().await;
    working.stop().await;
    serving.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_notification_is_lost_is_found_by_the_poll() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut working = cluster.pod("working").await;
    let mut isolated = cluster.with_other_bus().await.pod("isolated").await;
    let user = working.passenger("+12125550003").await;
    let mut client = isolated.connect(user, None).await;
    cluster.publish_searches(user, 120).await;
    let began = cluster.world.now();
    assert_eq!(client.seqs(120).await, (1..=120).collect::<Vec<_>>());
    assert!(cluster.world.now() - began <= chrono::Duration::seconds(12));
    working.stop().await;
    isolated.stop().await;
}

/// Two pods, each with its workers, write to the same mailboxes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_have_no_gaps_under_concurrent_batches() {
    let cluster = Cluster::on(Backend::Postgres).await;
    let mut pods = [cluster.pod("one").await, cluster.pod("two").await];
    let mut users = Vec::new();
    for n in 10..22 {
        users.push(pods[0].passenger(&format!("+12125550{n}5")).await);
    }
    // Each match.found is for two users, in both orders. The searches go through another worker at the same time.
    let mut expected = vec![0_u64; users.len()];
    for round in 0..20 {
        for n in 0..users.len() {
            let m = (n + 1 + round) % users.len();
            if n == m {
                continue;
            }
            let found = cluster.found(users[n], users[m], cluster.world.id(), 15);
            cluster.publish(&Event::MatchFound(found)).await;
            cluster.publish_searches(users[m], 1).await;
            expected[n] += 1;
            expected[m] += 2;
        }
    }
    for (user, count) in users.iter().zip(expected) {
        let mut client = pods[0].connect(*user, Some(0)).await;
        let count_usize = usize::try_from(count).unwrap();
        assert_eq!(client.seqs(count_usize).await, (1..=count).collect::<Vec<_>>());
        client.close().await;
    }
    for pod in &mut pods {
        pod.stop().await;
    }
}

/// The data of an event without these fields.
fn without(event: &Value, fields: &[&str]) -> Value {
    let mut data = event["data"].clone();
    fields.iter().for_each(|field| _ = data.as_object_mut().unwrap().remove(*field));
    data
}

async fn each_event_reaches_the_users_concerned(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let (driver, passenger) = (pod.driver("+12125550031").await, pod.passenger("+12125550032").await);
    let stranger = pod.passenger("+12125550033").await;
    let (mut d, mut p) = (pod.connect(driver, None).await, pod.connect(passenger, None).await);
    let mut s = pod.connect(stranger, None).await;
    let request = p.ack("finder.update", trip(HERE)).await;
    assert_eq!(p.event().await["type"], "user.finder");
    let found = cluster.found(driver, passenger, request["request_id"].as_str().unwrap().parse().unwrap(), 60);
    cluster.publish(&Event::MatchFound(found.clone())).await;
    let (of_driver, of_passenger) = (d.event().await, p.event().await);
    for event in [&of_driver, &of_passenger] {
        assert_eq!(event["type"], "match.found");
        assert_eq!(time(event), found.found_at);
    }
    let plate = &of_passenger["data"]["driver"]["plate"];
    assert_eq!((plate, &of_driver["data"]["passenger"]), (&json!("T 0031"), &Value::Null));
    assert_eq!(without(&of_passenger, &["driver", "expires_in_s"]), serde_json::to_value(&found).unwrap());
    // Before the acceptance the driver knows the trip roughly.
    let (exact, rough) = (serde_json::to_value(&found).unwrap(), &of_driver["data"]);
    assert!(rough.get("dropoff").is_none() && rough["pickup"] != exact["pickup"], "{rough}");
    assert_eq!((&rough["match_id"], &rough["fare_estimate"]), (&exact["match_id"], &exact["fare_estimate"]));
    d.ack("match.accept", match_id(&found)).await;
    for client in [&mut d, &mut p] {
        assert_eq!(client.event().await["type"], "match.accepted");
    }
    let ride: RideId = cluster.world.id();
    cluster.publish(&cluster.ride(ride, &found, 1, RideStatus::Pickup)).await;
    let (of_driver, of_passenger) = (d.event().await, p.event().await);
    assert_eq!((&of_driver["type"], &of_passenger["type"]), (&json!("ride.pickup"), &json!("ride.pickup")));
    assert_eq!(of_passenger["data"]["pin"], cluster.tokens.ride_pin(ride), "the passenger's PIN");
    assert_eq!(of_driver["data"]["pin"], json!(null), "the driver gets it from the passenger");
    assert_eq!(without(&of_passenger, &["pin", "driver"]), without(&of_driver, &["passenger"]));
    assert_eq!(of_driver["data"]["passenger"], json!({"name": null, "rating": null}));

    // An aggregate reaches the passenger, also after the end of the ride.
    let aggregate = |distance_m| {
        let (ride_id, driver_id) = (ride, driver);
        Event::LocationAggregate(LocationAggregate {
            ride_id,
            driver_id,
            distance_m,
            points: 3,
            last: None,
            is_final: false,
            covered: None,
        })
    };
    cluster.publish(&aggregate(10.0)).await;
    assert_eq!(p.event().await["data"]["distance_m"], 10.0);
    for (version, status) in [(2, RideStatus::Started), (3, RideStatus::Arrived), (4, RideStatus::Completed)] {
        cluster.publish(&cluster.ride(ride, &found, version, status)).await;
        for client in [&mut d, &mut p] {
            assert_eq!(client.event().await["data"]["version"], version);
        }
    }
    tokio::time::sleep(Duration::from_micros(1)).await;
    cluster.publish(&aggregate(20.0)).await;
    assert_eq!(p.event().await["data"]["distance_m"], 20.0);
    // A stranger received none of these events, and nobody received one twice.
    d.close().await;
    p.close().await;
    let d = pod.connect(driver, None).await;
    let p = pod.connect(passenger, None).await;
    assert_eq!((d.last_seq, p.last_seq), (6, 9));
    cluster.publish_searches(stranger, 1).await;
    assert_eq!(s.seqs(1).await, [1]);
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_aggregate_that_comes_before_its_ride_waits_for_it() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let (driver, passenger) = (pod.driver("+12125550041").await, pod.passenger("+12125550042").await);
    let mut p = pod.connect(passenger, None).await;
    let found = cluster.found(driver, passenger, cluster.world.id(), 60);
    let ride: RideId = cluster.world.id();
    let (ride_id, driver_id, distance_m) = (ride, driver, 7.0);
    let aggregate =
        LocationAggregate { ride_id, driver_id, distance_m, points: 3, last: None, is_final: false, covered: None };
    cluster.publish(&Event::LocationAggregate(aggregate)).await;
    p.quiet(Duration::from_millis(500)).await;
    cluster.publish(&cluster.ride(ride, &found, 1, RideStatus::Pickup)).await;
    assert_eq!(p.event_of("location.aggregate").await["data"]["distance_m"], 7.0);
    pod.stop().await;
}
