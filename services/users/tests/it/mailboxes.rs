//! Mailboxes: numbered without gaps, resumed exactly, on whichever pod; each event to whom it concerns.

use std::time::Duration;

use serde_json::json;
use streams::event::LocationAggregate;
use streams::{Event, RideId, RideStatus};

use crate::pods::{City, HERE, On, match_id, time, trip};

async fn a_client_resumes_exactly_where_it_was(on: On) {
    let city = City::on(on).await;
    let mut pod = city.pod("one").await;
    let user = pod.passenger("+12125550001").await;
    let mut live = pod.connect(user, None).await;
    assert_eq!(live.head, 0);
    city.searches(user, 250).await;
    assert_eq!(live.seqs(250).await, (1..=250).collect::<Vec<_>>(), "live");

    let mut fresh = pod.connect(user, None).await;
    assert_eq!(fresh.head, 250);
    let mut resumed = pod.connect(user, Some(100)).await;
    assert_eq!(resumed.head, 250);
    assert_eq!(resumed.seqs(150).await, (101..=250).collect::<Vec<_>>());
    let mut ahead = pod.connect(user, Some(9_999)).await;
    city.searches(user, 3).await;
    for client in [&mut live, &mut fresh, &mut resumed, &mut ahead] {
        assert_eq!(client.seqs(3).await, [251, 252, 253]);
    }

    // The same events, also in their content, live and resumed.
    city.searches(user, 1).await;
    let seen = live.event().await;
    let again = {
        let mut client = pod.connect(user, Some(253)).await;
        let event = client.event().await;
        client.close().await;
        event
    };
    assert_eq!(seen, again);
    assert!(seen["event_id"].as_str().unwrap().starts_with("user.finder-"));
    assert_eq!(seen["data"]["recorded_at"], seen["time"]);

    // Acknowledged means gone; what came later is still there.
    assert_eq!(resumed.ack("mailbox.ack", json!({"seq": 250})).await, json!({"seq": 250}));
    assert_eq!(resumed.ack("mailbox.ack", json!({"seq": 7})).await, json!({"seq": 7}), "an old one is no harm");
    assert_eq!(resumed.refused("mailbox.ack", json!({"seq": 255})).await, "invalid_field seq");
    for client in [fresh, resumed, ahead] {
        client.close().await;
    }
    let mut from_zero = pod.connect(user, Some(0)).await;
    assert_eq!(from_zero.seqs(4).await, [251, 252, 253, 254]);
    city.searches(user, 1).await;
    assert_eq!(from_zero.seqs(1).await, [255]);
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_resumes_exactly_in_memory() {
    a_client_resumes_exactly_where_it_was(On::Memory).await;
}

#[tokio::test]
async fn a_client_resumes_exactly_in_postgres() {
    a_client_resumes_exactly_where_it_was(On::Postgres).await;
}

/// Named failure: events for a user connected elsewhere are acked and dropped.
async fn events_for_a_user_connected_elsewhere_reach_them(on: On) {
    let city = City::on(on).await;
    let mut working = city.pod("working").await;
    let serving = city.idle_pod("serving", users::Config::default()).await;
    let user = working.passenger("+12125550002").await;
    let mut elsewhere = serving.connect(user, None).await;
    let mut here = working.connect(user, None).await;
    city.searches(user, 30).await;
    assert_eq!(elsewhere.seqs(30).await, (1..=30).collect::<Vec<_>>());
    assert_eq!(here.seqs(30).await, (1..=30).collect::<Vec<_>>());
    // Nobody is connected at all: it waits.
    elsewhere.close().await;
    here.close().await;
    city.searches(user, 5).await;
    let mut back = serving.connect(user, Some(30)).await;
    assert_eq!(back.seqs(5).await, [31, 32, 33, 34, 35]);
    back.close().await;
    working.stop().await;
}

#[tokio::test(start_paused = true)]
async fn events_for_a_user_connected_elsewhere_in_memory() {
    events_for_a_user_connected_elsewhere_reach_them(On::Memory).await;
}

#[tokio::test]
async fn events_for_a_user_connected_elsewhere_in_postgres() {
    events_for_a_user_connected_elsewhere_reach_them(On::Postgres).await;
}

/// The wake-ups of one pod never reach the other.
#[tokio::test(start_paused = true)]
async fn a_lost_wake_up_is_healed_by_a_look_at_the_mailbox() {
    let city = City::on(On::Memory).await;
    let mut working = city.pod("working").await;
    let mut deaf = city.deaf().await.pod("deaf").await;
    let user = working.passenger("+12125550003").await;
    let mut client = deaf.connect(user, None).await;
    city.searches(user, 120).await;
    let began = city.world.now();
    assert_eq!(client.seqs(120).await, (1..=120).collect::<Vec<_>>());
    assert!(city.world.now() - began <= chrono::Duration::seconds(12));
    working.stop().await;
    deaf.stop().await;
}

/// Two pods, each with its workers, write to the same mailboxes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_have_no_gaps_under_concurrent_batches() {
    let city = City::on(On::Postgres).await;
    let mut pods = [city.pod("one").await, city.pod("two").await];
    let mut users = Vec::new();
    for n in 10..22 {
        users.push(pods[0].passenger(&format!("+12125550{n}5")).await);
    }
    // Each event is for two users, in both orders; finders besides, through other workers.
    let mut expected = vec![0_u64; users.len()];
    for round in 0..20 {
        for n in 0..users.len() {
            let m = (n + 1 + round) % users.len();
            if n == m {
                continue;
            }
            let found = city.found(users[n], users[m], city.world.id(), 15);
            city.publish(&Event::MatchFound(found)).await;
            city.searches(users[m], 1).await;
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

async fn each_event_reaches_whom_it_concerns(on: On) {
    let city = City::on(on).await;
    let mut pod = city.pod("one").await;
    let (driver, passenger) = (pod.driver("+12125550031").await, pod.passenger("+12125550032").await);
    let stranger = pod.passenger("+12125550033").await;
    let (mut d, mut p) = (pod.connect(driver, None).await, pod.connect(passenger, None).await);
    let mut s = pod.connect(stranger, None).await;
    let request = p.ack("finder.update", trip(HERE)).await;
    assert_eq!(p.event().await["type"], "user.finder");
    let found = city.found(driver, passenger, request["request_id"].as_str().unwrap().parse().unwrap(), 60);
    city.publish(&Event::MatchFound(found.clone())).await;
    for client in [&mut d, &mut p] {
        let event = client.event().await;
        assert_eq!(event["type"], "match.found");
        assert_eq!(event["data"], serde_json::to_value(&found).unwrap());
        assert_eq!(time(&event), found.found_at);
    }
    d.ack("match.accept", match_id(&found)).await;
    for client in [&mut d, &mut p] {
        assert_eq!(client.event().await["type"], "match.accepted");
    }
    let ride: RideId = city.world.id();
    city.publish(&city.ride(ride, &found, 1, RideStatus::Pickup)).await;
    let (of_driver, of_passenger) = (d.event().await, p.event().await);
    assert_eq!((&of_driver["type"], &of_passenger["type"]), (&json!("ride.pickup"), &json!("ride.pickup")));
    assert_eq!(of_passenger["data"]["pin"], city.tokens.ride_pin(ride), "the passenger's PIN");
    assert_eq!(of_driver["data"]["pin"], json!(null), "the driver must be told by the passenger");
    let mut without = of_passenger["data"].clone();
    without.as_object_mut().unwrap().remove("pin");
    assert_eq!(without, of_driver["data"]);

    // The aggregate of a ride reaches its passenger; also one that comes when the ride is over.
    let aggregate = |distance_m| {
        let (ride_id, driver_id) = (ride, driver);
        Event::LocationAggregate(LocationAggregate {
            ride_id,
            driver_id,
            distance_m,
            points: 3,
            last: None,
            is_final: false,
        })
    };
    city.publish(&aggregate(10.0)).await;
    assert_eq!(p.event().await["data"]["distance_m"], 10.0);
    for (version, status) in [(2, RideStatus::Started), (3, RideStatus::Arrived), (4, RideStatus::Completed)] {
        city.publish(&city.ride(ride, &found, version, status)).await;
        for client in [&mut d, &mut p] {
            assert_eq!(client.event().await["data"]["version"], version);
        }
    }
    tokio::time::sleep(Duration::from_micros(1)).await;
    city.publish(&aggregate(20.0)).await;
    assert_eq!(p.event().await["data"]["distance_m"], 20.0);
    // Nothing for strangers, nothing twice.
    d.close().await;
    p.close().await;
    let d = pod.connect(driver, None).await;
    let p = pod.connect(passenger, None).await;
    assert_eq!((d.head, p.head), (6, 9));
    city.searches(stranger, 1).await;
    assert_eq!(s.seqs(1).await, [1]);
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn each_event_reaches_whom_it_concerns_in_memory() {
    each_event_reaches_whom_it_concerns(On::Memory).await;
}

#[tokio::test]
async fn each_event_reaches_whom_it_concerns_in_postgres() {
    each_event_reaches_whom_it_concerns(On::Postgres).await;
}

/// A worker that has the events of a ride before those of its begin must not lose the aggregate.
#[tokio::test(start_paused = true)]
async fn an_aggregate_that_is_earlier_than_its_ride_waits_for_it() {
    let city = City::on(On::Memory).await;
    let mut pod = city.pod("one").await;
    let (driver, passenger) = (pod.driver("+12125550041").await, pod.passenger("+12125550042").await);
    let mut p = pod.connect(passenger, None).await;
    let found = city.found(driver, passenger, city.world.id(), 60);
    let ride: RideId = city.world.id();
    let (ride_id, driver_id, distance_m) = (ride, driver, 7.0);
    let aggregate = LocationAggregate { ride_id, driver_id, distance_m, points: 3, last: None, is_final: false };
    city.publish(&Event::LocationAggregate(aggregate)).await;
    p.quiet(Duration::from_millis(500)).await;
    city.publish(&city.ride(ride, &found, 1, RideStatus::Pickup)).await;
    assert_eq!(p.event_of("location.aggregate").await["data"]["distance_m"], 7.0);
    pod.stop().await;
}
