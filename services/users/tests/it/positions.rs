//! Positions: whose device measured them, what its clock is corrected by, which of a batch are left out; and beacons that follow them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use streams::event::{LocationUpdate, Reception, UserBeacon};
use streams::topology::Topology;
use streams::{Position, RideId, RideStatus};
use testing::{Backend, on_both_stores};

use crate::client::{beacon, beacon_of, match_id};
use crate::commands::{Pair, published};
use crate::pods::{Cluster, HERE, THERE};

on_both_stores!(the_device_that_accepts_is_the_rides_device_on_every_pod,);

fn point(location: Position, at: DateTime<Utc>) -> Value {
    json!({"location": location, "recorded_at": at})
}

fn reception(update: &LocationUpdate) -> &Reception {
    update.reception.as_ref().expect("users says how it came")
}

async fn the_device_that_accepts_is_the_rides_device_on_every_pod(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let (mut pod, mut other) = (cluster.pod("one").await, cluster.pod("two").await);
    let Pair { driver, found, mut d, mut p, .. } = Pair::offered(&cluster, &pod, 70, 60).await;
    // The first socket names no device; so does a second one, which is another phone for all that the pod knows.
    let mut second = pod.connect(driver, Some(0)).await;
    let mut tablet = other.connect_on("tablet", driver, Some(0)).await;
    let now = || cluster.world.now();
    second.ack("match.accept", match_id(&found)).await;
    let ride: RideId = cluster.world.id();
    cluster.publish(&cluster.ride(ride, &found, 1, RideStatus::Pickup)).await;
    for client in [&mut d, &mut second, &mut tablet, &mut p] {
        client.event_of("ride.pickup").await;
    }
    for client in [&mut d, &mut second, &mut tablet] {
        client.ack("location.update", point(HERE, now())).await;
    }
    // On another pod, after the pickup; then before it, with a device that has a name. The same point of the same device would be a
    // repeat.
    second.close().await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut unnamed = other.connect(driver, Some(0)).await;
    unnamed.ack("location.update", point(HERE, now())).await;
    let mut updates = published(&cluster, 4).await;
    updates.sort_by_key(|update| reception(update).received_at);
    let of =
        |update: &LocationUpdate| (reception(update).device.clone(), reception(update).ride_device, update.ride_id);
    let named = |name: &str, ride_device| (name.to_owned(), ride_device, Some(ride));
    let expected = [named("", false), named("~2", true), named("tablet", false), named("", false)];
    assert_eq!(updates.iter().map(of).collect::<Vec<_>>(), expected);

    let Pair { driver, found, d, .. } = Pair::offered(&cluster, &pod, 71, 60).await;
    let mut phone = pod.connect_on("phone", driver, Some(0)).await;
    let mut before = other.connect_on("phone", driver, Some(0)).await;
    phone.ack("match.accept", match_id(&found)).await;
    phone.close().await;
    let mut phone = other.connect_on("phone", driver, Some(0)).await;
    let ride: RideId = cluster.world.id();
    cluster.publish(&cluster.ride(ride, &found, 1, RideStatus::Pickup)).await;
    phone.event_of("ride.pickup").await;
    // A socket that was open on another pod when the phone accepted.
    before.event_of("ride.pickup").await;
    before.ack("location.update", point(HERE, now())).await;
    before.close().await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    phone.ack("location.update", point(HERE, now())).await;
    phone.close().await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut phone = pod.connect_on("phone", driver, Some(0)).await;
    phone.ack("location.update", point(HERE, now())).await;
    for update in published(&cluster, 3).await {
        assert_eq!(of(&update), ("phone".to_owned(), true, Some(ride)));
    }
    drop(d);
    pod.stop().await;
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_is_corrected_and_the_bad_points_of_a_batch_are_named() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let driver = pod.driver("+12125550701").await;
    let mut phone = pod.connect(driver, None).await;
    let now = || cluster.world.now();
    let ahead = |seconds: i64| now() + chrono::Duration::seconds(seconds);
    // Five minutes ahead, and it says when it sends.
    let mut single = point(HERE, ahead(290));
    single["sent_at"] = json!(ahead(300));
    assert_eq!(phone.ack("location.update", single.clone()).await, json!({"points": 1}));
    let batch = json!({"sent_at": ahead(300), "points": [point(HERE, ahead(299)), point(HERE, ahead(361)), {}, point(THERE, ahead(300))]});
    let ack = phone.ack("location.update", batch).await;
    let refused: Vec<_> =
        ack["refused"].as_array().unwrap().iter().map(|r| (r["index"].clone(), r["field"].clone())).collect();
    assert_eq!(
        (&ack["points"], refused),
        (&json!(2), vec![(json!(1), json!("recorded_at")), (json!(2), json!("location"))])
    );
    assert!(ack["refused"][0]["message"].as_str().unwrap().contains("60 s ahead"));
    let updates = published(&cluster, 3).await;
    for (update, ago) in updates.iter().zip([10, 1, 0]) {
        let (at, from) = (update.recorded_at, reception(update));
        assert_eq!((from.received_at - at).num_seconds(), ago, "{update:?}");
        assert!(from.device_at > from.received_at && at <= from.received_at);
    }
    assert!(reception(&updates[0]).sent_at.is_some());
    // The clock is known on the next socket too. Another driver's, which is as far off and says nothing, is not.
    phone.close().await;
    let mut phone = pod.connect(driver, None).await;
    assert_eq!(phone.ack("location.update", point(HERE, ahead(300))).await, json!({"points": 1}));
    let other = pod.driver("+12125550702").await;
    let mut other = pod.connect(other, None).await;
    assert_eq!(other.refused("location.update", point(HERE, ahead(300))).await, "invalid_field recorded_at");
    // If nothing of a batch is left: an ack that says so, or an error if there is no ack.
    let nothing = json!({"points": [{}, point(HERE, ahead(300))]});
    let ack = other.ack("location.update", nothing.clone()).await;
    assert_eq!((&ack["points"], ack["refused"].as_array().map(Vec::len)), (&json!(0), Some(2)));
    other.text(json!({"type": "location.update", "data": nothing}).to_string()).await;
    assert_eq!(other.next().await["error"]["field"], "location");
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_beacon_follows_the_drivers_positions_and_a_reconnect_keeps_the_newest_place() {
    let cluster = Cluster::on(Backend::Memory).await;
    let (mut pod, mut other) = (cluster.pod("one").await, cluster.pod("two").await);
    let driver = pod.driver("+12125550703").await;
    let mut phone = pod.connect_on("phone", driver, None).await;
    let mut tablet = pod.connect_on("tablet", driver, None).await;
    phone.ack("beacon.update", beacon(true, HERE)).await;
    assert_eq!(beacon_of(&phone.event().await).device.as_deref(), Some("phone"));
    let north = |m: f64| Position { lat: HERE.lat + m / 111_195.0, ..HERE };
    let drive = async |phone: &mut crate::client::Client, m: f64| {
        tokio::time::sleep(Duration::from_secs(2)).await;
        phone.ack("location.update", point(north(m), cluster.world.now())).await;
    };
    drive(&mut phone, 200.0).await;
    drive(&mut phone, 400.0).await;
    // A tablet at the depot moves nobody.
    tablet.event_of("user.beacon").await;
    drive(&mut tablet, 5_000.0).await;
    phone.quiet(Duration::from_secs(5)).await;
    drive(&mut phone, 600.0).await;
    let followed = beacon_of(&phone.event().await);
    assert!(followed.active && followed.location == north(600.0));
    // A small move, then the last sockets close: the beacon says the newest place and its age.
    drive(&mut phone, 700.0).await;
    let located = cluster.world.now();
    tablet.close().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    phone.close().await;
    let mut phone = other.connect_on("phone", driver, Some(2)).await;
    let (off, on): (UserBeacon, UserBeacon) = (beacon_of(&phone.event().await), beacon_of(&phone.event().await));
    for (beacon, active) in [(off, false), (on, true)] {
        assert_eq!((beacon.active, beacon.location, beacon.located_at), (active, north(700.0), Some(located)));
        assert!(beacon.recorded_at - located >= chrono::Duration::seconds(10));
    }
    // A repeat publishes nothing, and a place 100 m away neither.
    phone.ack("beacon.update", beacon(true, north(700.0))).await;
    phone.ack("beacon.update", beacon(true, north(800.0))).await;
    phone.quiet(Duration::from_secs(60)).await;
    pod.stop().await;
    other.stop().await;
}

/// A report of a reader that is `age_ms` behind.
async fn report(cluster: &Cluster, sequence: u64, age_ms: u64) {
    for consumer in ["location_update_location", "location_update_match"] {
        let body = json!({"consumer": consumer, "sequence": sequence, "age_ms": age_ms}).to_string();
        cluster.bus.publish_core(streams::position_progress::POSITION_PROGRESS, body.into()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_readers_are_behind_free_drivers_wait_and_send_their_newest_position_and_rides_do_not_wait() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let Pair { found, mut d, mut p, .. } = Pair::offered(&cluster, &pod, 74, 60).await;
    let busy = pod.driver("+12125550704").await;
    let free = pod.driver("+12125550705").await;
    let (mut busy, mut free) = (pod.connect(busy, None).await, pod.connect(free, None).await);
    d.ack("match.accept", match_id(&found)).await;
    let ride: RideId = cluster.world.id();
    cluster.publish(&cluster.ride(ride, &found, 1, RideStatus::Pickup)).await;
    for client in [&mut d, &mut p] {
        client.event_of("ride.pickup").await;
    }
    // Ten times as old as may be: the room shrinks to that of 100 positions, which one driver fills.
    for _ in 0..6 {
        report(&cluster, 0, 900).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    let now = |ms: i64| cluster.world.now() - chrono::Duration::milliseconds(ms);
    let batch: Vec<Value> = (0..100).map(|n| point(HERE, now(n))).collect();
    assert_eq!(busy.ack("location.update", json!({"points": batch})).await, json!({"points": 100}));
    let three = || json!({"points": [point(HERE, now(2_100)), point(THERE, now(0)), point(HERE, now(1_300))]});
    assert_eq!(d.ack("location.update", three()).await, json!({"points": 3}), "a ride");
    // Without a word of the readers the room is free again after a second.
    let began = tokio::time::Instant::now();
    let held = json!({"points": [point(HERE, now(60_000)), point(HERE, now(700)), point(THERE, now(0))]});
    assert_eq!(free.ack("location.update", held).await, json!({"points": 3, "left_out": 1}));
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    // With readers at once.
    report(&cluster, 1_000, 900).await;
    assert_eq!(free.ack("location.update", three()).await, json!({"points": 3}));
    let updates = published(&cluster, 100 + 3 + 2 + 3).await;
    assert_eq!(updates.iter().filter(|update| update.ride_id == Some(ride)).count(), 3);
    assert_eq!(pod.platform.metrics.positions_left_out.with_label_values(&["users"]).get(), 1);
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_nearly_full_refuses_positions_and_drops_none_that_was_acknowledged() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut topology = Topology::rideshare();
    topology.stream_mut("LOCATION_STREAM").unwrap().max_bytes = 300_000;
    topology.consumers.retain(|consumer| consumer.durable != "location_update_match");
    cluster.bus.delete_stream("LOCATION_STREAM").await.unwrap();
    cluster.bus.apply(&topology).await.unwrap();
    let (mut pod, mut other_pod) = (cluster.pod("one").await, cluster.pod("two").await);
    for pod in [&pod, &other_pod] {
        pod.platform.observed_since(tokio::time::Instant::now()).await.unwrap();
    }
    let Pair { found, driver, mut d, mut p, .. } = Pair::offered(&cluster, &pod, 75, 60).await;
    let free = pod.driver("+12125550708").await;
    let mut free = pod.connect(free, None).await;
    d.ack("match.accept", match_id(&found)).await;
    let ride: RideId = cluster.world.id();
    cluster.publish(&cluster.ride(ride, &found, 1, RideStatus::Pickup)).await;
    for client in [&mut d, &mut p] {
        client.event_of("ride.pickup").await;
    }
    let mut elsewhere = other_pod.connect(driver, None).await;
    let mut acked = 0;
    let mut refused = 0;
    let mut n = 0;
    let mut next = || {
        n += 1;
        cluster.world.now() - chrono::Duration::seconds(60) + chrono::Duration::milliseconds(n)
    };
    // Nobody reads. Two pods publish; the last room is that of rides.
    for _ in 0..300 {
        for client in [&mut d, &mut elsewhere] {
            let answer = client.request("location.update", point(HERE, next())).await;
            match answer["type"].as_str() {
                Some("ack") => acked += 1,
                _ => {
                    assert_eq!(answer["error"]["code"], "unavailable", "{answer}");
                    assert_eq!(answer["error"]["retry_after_s"], 5, "{answer}");
                    refused += 1;
                }
            }
        }
        // Within the limit of frames.
        tokio::time::sleep(Duration::from_millis(50)).await;
        if acked == 220 {
            assert_eq!(free.ack("location.update", point(HERE, next())).await, json!({"points": 1}));
            acked += 1;
        }
    }
    assert!(refused > 100 && acked > 221, "{acked} acknowledged, {refused} refused");
    assert_eq!(free.refused("location.update", point(HERE, next())).await, "unavailable -");
    let stream = cluster.bus.stream_info("LOCATION_STREAM").await.unwrap();
    assert_eq!((stream.first_sequence, stream.messages), (1, acked));
    let fill = stream.bytes as f64 / 300_000.0;
    assert!((0.85..0.95).contains(&fill), "{fill}");
    // It is read again.
    published(&cluster, acked as usize).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    d.ack("location.update", point(THERE, cluster.world.now())).await;
    pod.stop().await;
    other_pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_position_takes_the_place_of_the_one_that_waits() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let busy = pod.driver("+12125550706").await;
    let free = pod.driver("+12125550707").await;
    let (mut busy, mut free) = (pod.connect(busy, None).await, pod.connect(free, None).await);
    for _ in 0..6 {
        report(&cluster, 0, 900).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    let now = |ms: i64| cluster.world.now() - chrono::Duration::milliseconds(ms);
    let batch: Vec<Value> = (0..100).map(|n| point(HERE, now(n))).collect();
    busy.ack("location.update", json!({"points": batch})).await;
    for n in 0..9 {
        free.text(json!({"type": "location.update", "data": point(HERE, now(9 - n))}).to_string()).await;
    }
    // Answered at once: it waits in the place of the others.
    assert_eq!(free.ack("location.update", point(THERE, now(0))).await, json!({"points": 1, "left_out": 1}));
    let updates = published(&cluster, 101).await;
    assert_eq!(updates.last().map(|update| update.location), Some(THERE));
    assert_eq!(pod.platform.metrics.positions_left_out.with_label_values(&["users"]).get(), 9);
    pod.stop().await;
}
