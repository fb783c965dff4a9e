//! Limits of one user on what goes over sockets: positions as positions, and the commands that cost others.

use std::time::Duration;

use serde_json::{Value, json};
use testing::Backend;

use crate::client::{Client, beacon, trip};
use crate::pods::{Cluster, HERE, THERE};

fn points(cluster: &Cluster, count: usize) -> Value {
    let point = json!({"location": HERE, "recorded_at": cluster.world.now()});
    json!({"points": vec![point; count]})
}

/// Limit and seconds to wait of a refusal.
async fn limited(client: &mut Client, kind: &str, data: Value) -> (String, u64) {
    let reply = client.request(kind, data).await;
    assert_eq!(reply["error"]["code"], "too_many_requests", "{reply}");
    let error = &reply["error"];
    (error["limit"].as_str().unwrap().to_owned(), error["retry_after_s"].as_u64().unwrap())
}

#[tokio::test(start_paused = true)]
async fn positions_are_counted_over_all_sockets_of_a_user() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.limited_pod("one", "points=250/10").await;
    let (driver, other) = (pod.driver("+12125550801").await, pod.driver("+12125550802").await);
    let (mut a, mut b) = (pod.connect(driver, None).await, pod.connect(driver, None).await);
    a.ack("location.update", points(&cluster, 100)).await;
    b.ack("location.update", points(&cluster, 100)).await;
    assert_eq!(limited(&mut a, "location.update", points(&cluster, 100)).await, ("points".to_owned(), 5));
    b.ack("location.update", points(&cluster, 50)).await;
    // While they went out, a few more were allowed.
    assert_eq!(limited(&mut b, "location.update", points(&cluster, 50)).await, ("points".to_owned(), 4));
    // A frame without an id is refused with an error as well.
    b.text(json!({"type": "location.update", "data": points(&cluster, 50)}).to_string()).await;
    assert_eq!(b.next().await["error"]["limit"], "points");
    // Nobody else notices, and time gives it back.
    pod.connect(other, None).await.ack("location.update", points(&cluster, 100)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    a.ack("location.update", points(&cluster, 50)).await;
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_takes_no_notice_of_a_limit_is_closed_with_4009() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.limited_pod("one", "points=10/1").await;
    let driver = pod.driver("+12125550803").await;
    let mut client = pod.connect(driver, None).await;
    for _ in 0..100 {
        client.text(json!({"type": "location.update", "data": points(&cluster, 10)}).to_string()).await;
    }
    let (frames, code) = client.end().await;
    assert_eq!((frames.len(), code), (21, 4009), "20 refusals are borne, and the last says why");
    // One that waits as the refusal says stays open.
    let mut client = pod.connect(driver, None).await;
    for _ in 0..40 {
        let (_, wait_s) = limited(&mut client, "location.update", points(&cluster, 10)).await;
        tokio::time::sleep(Duration::from_secs(wait_s)).await;
        client.ack("location.update", points(&cluster, 10)).await;
    }
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn commands_that_cost_others_are_counted_and_ends_are_free() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.limited_pod("one", "").await;
    let user = pod.driver("+12125550804").await;
    let mut client = pod.connect(user, None).await;
    for n in 0..10 {
        client.ack("finder.update", trip(if n % 2 == 0 { HERE } else { THERE })).await;
        client.ack("finder.update", json!({"active": false})).await;
        client.ack("beacon.update", beacon(true, HERE)).await;
        client.ack("beacon.update", json!({"active": false})).await;
    }
    let refused = ("commands".to_owned(), 2);
    assert_eq!(limited(&mut client, "finder.update", trip(HERE)).await, refused);
    assert_eq!(limited(&mut client, "beacon.update", beacon(true, HERE)).await, refused);
    assert_eq!(limited(&mut client, "beacon.update", beacon(false, THERE)).await, refused, "it moves the beacon");
    client.ack("finder.update", json!({"active": false})).await;
    client.ack("beacon.update", json!({"active": false})).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    client.ack("finder.update", trip(THERE)).await;
    assert_eq!(limited(&mut client, "finder.update", trip(HERE)).await, refused);
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_one_driver_has_collected_delays_no_other() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.limited_pod("one", "").await;
    let mut floods = Vec::new();
    for n in 0..10 {
        let driver = pod.driver(&format!("+1212555081{n}")).await;
        let client = pod.connect(driver, None).await;
        for _ in 0..40 {
            client.text(json!({"type": "location.update", "data": points(&cluster, 100)}).to_string()).await;
        }
        client.text(json!({"id": "last", "type": "location.update", "data": points(&cluster, 1)}).to_string()).await;
        floods.push(client);
    }
    // The readers keep up, and say so.
    let bus = cluster.bus.clone();
    tokio::spawn(async move {
        for sequence in (0u64..).step_by(1_000) {
            for consumer in ["location_update_location", "location_update_match"] {
                let body = json!({"consumer": consumer, "sequence": sequence, "age_ms": 10}).to_string();
                let _ = bus.publish_core(streams::position_progress::POSITION_PROGRESS, body.into()).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let honest = pod.driver("+12125550820").await;
    let mut honest = pod.connect(honest, None).await;
    let began = tokio::time::Instant::now();
    for _ in 0..20 {
        let sent = tokio::time::Instant::now();
        honest.ack("location.update", points(&cluster, 1)).await;
        assert_eq!(sent.elapsed(), Duration::ZERO, "it waits for nobody");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    honest.ack("location.update", points(&cluster, 100)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "its own hundred take half a second");
    // The others' go out at 200 a second each.
    assert_eq!(floods[0].next().await["type"], "error", "all 4,000 were used up");
    let sent = pod.platform.metrics.published.with_label_values(&["users"]).get();
    assert!((2_000..6_000).contains(&sent), "{sent} in {:?}", began.elapsed());
    pod.stop().await;
}
