//! Sockets: limits, pings, closes, and how a driver becomes available and unavailable by them.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};
use testing::{Backend, on_both_stores};
use users::{Config, Incoming, Outgoing};

use crate::client::{beacon, beacon_of};
use crate::pods::{Cluster, HERE, THERE};

on_both_stores!(
    an_old_socket_closing_does_not_remove_the_new_one,
    a_sixth_socket_takes_the_place_of_the_one_silent_for_longest_on_any_pod,
    frames_go_to_the_pods_that_have_the_sockets_and_to_all_if_none_is_known,
);

async fn an_old_socket_closing_does_not_remove_the_new_one(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut other = cluster.pod("two").await;
    let driver = pod.driver("+12125550101").await;
    let mut old = pod.connect(driver, None).await;
    old.ack("beacon.update", beacon(true, HERE)).await;
    assert!(beacon_of(&old.event().await).active);
    let mut new = pod.connect(driver, None).await;
    let mut elsewhere = other.connect(driver, None).await;
    old.close().await;
    cluster.publish_searches(driver, 1).await;
    // No beacon of an unavailable driver came in between.
    assert_eq!(new.event().await["type"], "user.finder");
    new.close().await;
    cluster.publish_searches(driver, 1).await;
    assert_eq!(elsewhere.event().await["seq"], 2);
    assert_eq!(elsewhere.event().await["seq"], 3);
    // When the last socket closes, on whichever pod, the driver becomes unavailable.
    elsewhere.close().await;
    let mut back = pod.connect(driver, Some(3)).await;
    let (off, on) = (beacon_of(&back.event().await), beacon_of(&back.event().await));
    assert!(!off.active && on.active && off.recorded_at < on.recorded_at);
    pod.stop().await;
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_driver_of_a_dead_pod_becomes_unavailable() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut dying = cluster.pod("dying").await;
    let mut other = cluster.pod("other").await;
    let driver = dying.driver("+12125550102").await;
    let mut client = dying.connect(driver, None).await;
    client.ack("beacon.update", beacon(true, HERE)).await;
    client.event().await;
    // The rows of a live pod do not become stale.
    client.quiet(Duration::from_secs(300)).await;
    // The process dies without closing its sockets.
    client.session.abort();
    dying.kill();
    let began = cluster.world.now();
    tokio::time::sleep(Duration::from_secs(100)).await;
    let mut back = other.connect(driver, Some(1)).await;
    let off = beacon_of(&back.event().await);
    assert!(!off.active);
    let after = off.recorded_at - began;
    assert!(after > TimeDelta::seconds(30) && after < TimeDelta::seconds(85), "{after}");
    assert!(beacon_of(&back.event().await).active, "available again, at the same place");
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_beacon_is_published_only_when_it_changes() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let driver = pod.driver("+12125550103").await;
    let mut client = pod.connect(driver, None).await;
    assert_eq!(client.ack("beacon.update", json!({"active": false})).await, json!({"active": false}));
    for _ in 0..3 {
        assert_eq!(client.ack("beacon.update", beacon(true, HERE)).await, json!({"active": true}));
    }
    client.ack("beacon.update", beacon(true, THERE)).await;
    client.ack("beacon.update", json!({"active": false})).await;
    client.ack("beacon.update", json!({"active": false})).await;
    let published: Vec<_> = [client.event().await, client.event().await, client.event().await]
        .iter()
        .map(|event| (beacon_of(event).active, beacon_of(event).location))
        .collect();
    assert_eq!(published, [(true, HERE), (true, THERE), (false, THERE)]);
    client.quiet(Duration::from_secs(5)).await;
    // An inactive driver who disconnects and connects publishes nothing.
    client.close().await;
    let mut client = pod.connect(driver, Some(3)).await;
    client.quiet(Duration::from_secs(5)).await;
    // A passenger has no beacon.
    let passenger = pod.passenger("+12125550104").await;
    let mut client = pod.connect(passenger, None).await;
    assert_eq!(client.refused("beacon.update", beacon(true, HERE)).await, "not_driver -");
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_frame_gets_an_error_and_not_a_close() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550105").await;
    let mut client = pod.connect(user, None).await;
    for (frame, code) in [
        (Incoming::Text("{".into()), "invalid_json"),
        (Incoming::Text("[]".into()), "invalid_frame"),
        (Incoming::Binary, "invalid_frame"),
        (Incoming::Text(r#"{"id": "\"", "type": "say \"hello\""}"#.into()), "unknown_type"),
    ] {
        client.send(frame).await;
        let error = client.next().await;
        assert_eq!((&error["type"], &error["error"]["code"]), (&json!("error"), &json!(code)), "{error}");
    }
    assert_eq!(client.ack("mailbox.ack", json!({"seq": 0})).await, json!({"seq": 0}), "it is still served");
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_too_large_closes_with_1009() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550106").await;
    for frame in [Incoming::Text("x".repeat(64 * 1024 + 1)), Incoming::TooLarge] {
        let mut client = pod.connect(user, None).await;
        client.send(frame).await;
        let (frames, code) = client.end().await;
        assert_eq!((frames[0]["error"]["code"].as_str(), code), (Some("frame_too_large"), 1009));
        client.close().await;
    }
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn sending_too_fast_closes_with_4009_after_an_error() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550107").await;
    let mut client = pod.connect(user, None).await;
    for _ in 0..250 {
        client.text(r#"{"type": "mailbox.ack", "data": {"seq": 0}}"#).await;
    }
    let (frames, code) = client.end().await;
    assert_eq!(code, 4009);
    assert_eq!(frames.iter().filter(|f| f["type"] == "ack").count(), 200, "what was in time is done");
    assert_eq!(frames.last().unwrap()["error"]["code"], "too_fast");
    client.close().await;
    // At the allowed rate the socket stays open.
    let mut client = pod.connect(user, None).await;
    for _ in 0..2_000 {
        client.ack("mailbox.ack", json!({"seq": 0})).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_closed_with_4008_and_can_resume() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550108").await;
    let mut slow = pod.open(user, None, 8);
    let mut swift = pod.connect(user, None).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    cluster.publish_searches(user, 500).await;
    assert_eq!(swift.seqs(500).await.len(), 500, "the other socket does not wait for it");
    // The client reads nothing for 5.5 s, and then everything that was sent.
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    let (frames, code) = slow.end().await;
    assert_eq!(code, 4008);
    assert_eq!(frames.last().unwrap()["error"]["code"], "too_slow");
    let last = frames.iter().filter_map(|f| f["seq"].as_u64()).max().unwrap();
    assert!(last < 500, "{last}");
    slow.close().await;
    let mut back = pod.connect(user, Some(last)).await;
    let rest: Vec<u64> = (last + 1..=500).collect();
    assert_eq!(back.seqs(rest.len()).await, rest);
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_even_if_its_client_never_reads_again() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550109").await;
    let hung = pod.open(user, None, 1);
    cluster.publish_searches(user, 100).await;
    tokio::time::timeout(Duration::from_secs(15), hung.session).await.expect("it ends by itself").unwrap();
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_ping_comes_every_20_s_and_60_s_of_silence_close() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550110").await;
    let mut client = pod.connect(user, None).await;
    client.pongs = false;
    let began = tokio::time::Instant::now();
    for n in 1..=2 {
        assert_eq!(client.frame().await, Outgoing::Ping);
        assert_eq!(began.elapsed().as_secs(), n * 20);
    }
    client.send(Incoming::Alive).await;
    for n in 3..=4 {
        assert_eq!(client.frame().await, Outgoing::Ping);
        assert_eq!(began.elapsed().as_secs(), n * 20);
    }
    let (_, code) = client.end().await;
    assert_eq!((code, began.elapsed().as_secs()), (1001, 100));
    client.close().await;
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn sockets_are_limited_by_pod() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.idle_pod("one", Config { sockets_max: 6, ..Config::default() }).await;
    pod.run();
    let (ann, bob) = (pod.passenger("+12125550111").await, pod.passenger("+12125550112").await);
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(pod.connect(ann, None).await);
    }
    let bobs = pod.connect(bob, None).await;
    assert_eq!(pod.open(bob, None, 8).end().await.1, 1013, "the pod is full");
    // A socket that closes frees its slot.
    clients.pop().unwrap().close().await;
    clients.push(pod.connect(ann, None).await);
    assert_eq!(pod.platform.metrics.sockets.get(), 6.0);
    drop((clients, bobs));
    pod.stop().await;
    assert_eq!(pod.platform.metrics.sockets.get(), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_closes_sockets_with_1001_and_makes_drivers_unavailable() {
    let cluster = Cluster::on(Backend::Memory).await;
    let (mut stopping, mut other) = (cluster.pod("stopping").await, cluster.pod("other").await);
    let (driver, passenger) = (stopping.driver("+12125550113").await, stopping.passenger("+12125550114").await);
    let mut d = stopping.connect(driver, None).await;
    let mut p = stopping.connect(passenger, None).await;
    d.ack("beacon.update", beacon(true, HERE)).await;
    d.event().await;
    stopping.stop().await;
    assert_eq!((d.end().await.1, p.end().await.1), (1001, 1001));
    assert_eq!(stopping.open(passenger, None, 8).end().await.1, 1001, "no new ones");
    // The pod that stopped has published that the driver is unavailable.
    let mut back = other.connect(driver, Some(1)).await;
    assert!(!beacon_of(&back.event().await).active);
    assert!(beacon_of(&back.event().await).active);
    other.stop().await;
}

async fn a_sixth_socket_takes_the_place_of_the_one_silent_for_longest_on_any_pod(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let (mut one, mut two) = (cluster.pod("one").await, cluster.pod("two").await);
    let user = one.passenger("+12125550120").await;
    let pause = || tokio::time::sleep(Duration::from_millis(20));
    let mut clients = Vec::new();
    for pod in [&one, &two, &one, &one, &two] {
        clients.push(pod.connect(user, None).await);
        pause().await;
    }
    // Of two sockets on the pod where the sixth opens, the older one has sent something since.
    clients[0].ack("mailbox.ack", json!({"seq": 0})).await;
    pause().await;
    let mut sixth = one.connect(user, None).await;
    let began = cluster.world.now();
    assert_eq!(clients[1].end().await.1, 4010, "on the other pod, by a message");
    assert!(cluster.world.now() - began < TimeDelta::seconds(5));
    clients.remove(1).close().await;
    pause().await;
    let mut seventh = two.connect(user, None).await;
    assert_eq!(clients[1].end().await.1, 4010, "the third");
    clients.remove(1).close().await;
    cluster.publish_searches(user, 1).await;
    for client in clients.iter_mut().chain([&mut sixth, &mut seventh]) {
        assert_eq!(client.seqs(1).await, [1], "five are open");
    }
    drop((clients, sixth, seventh));
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_was_displaced_while_the_bus_was_down_is_found_by_the_touch() {
    let cluster = Cluster::on(Backend::Memory).await;
    let (mut one, mut two) = (cluster.pod("one").await, cluster.with_other_bus().await.pod("two").await);
    let user = one.passenger("+12125550121").await;
    let mut first = one.connect(user, None).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(two.connect(user, None).await);
    }
    let began = cluster.world.now();
    assert_eq!(first.end().await.1, 4010);
    assert!(cluster.world.now() - began <= TimeDelta::seconds(21));
    drop(others);
    one.stop().await;
    two.stop().await;
}

/// A phone whose network dies sends no FIN. Its sockets must not lock it out.
#[tokio::test(start_paused = true)]
async fn dead_sockets_lock_nobody_out() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let driver = pod.driver("+12125550122").await;
    let mut dead = Vec::new();
    for _ in 0..20 {
        let mut client = pod.connect(driver, None).await;
        client.pongs = false;
        dead.push(client);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut alive = pod.connect(driver, None).await;
    alive.ack("beacon.update", beacon(true, HERE)).await;
    assert!(beacon_of(&alive.event().await).active);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(pod.platform.metrics.sockets.get(), 5.0);
    drop(dead);
    pod.stop().await;
}

/// Several processes write the frames of one user, and theirs overtake each other. That is no reason to read a mailbox.
#[tokio::test(start_paused = true)]
async fn a_frame_that_overtook_others_waits_for_them_and_what_is_missing_is_read() {
    let cluster = Cluster::on(Backend::Memory).await;
    // What the writer says to the pod comes by this test alone.
    let other = cluster.with_other_bus().await;
    let (mut writer, mut pod) = (cluster.pod("one").await, other.pod("two").await);
    let user = pod.passenger("+12125550123").await;
    let mut client = pod.connect(user, None).await;
    let mut spy = cluster.bus.subscribe("users.pod.two", None).await.unwrap();
    let mut written = Vec::new();
    for _ in 0..4 {
        cluster.publish_searches(user, 1).await;
        written.push(spy.next().await.unwrap().payload);
    }
    let pass_on = |n: usize| other.bus.publish_core("users.pod.two", written[n].clone());
    pass_on(1).await.unwrap();
    client.quiet(Duration::from_millis(50)).await;
    pass_on(0).await.unwrap();
    assert_eq!(client.seqs(2).await, [1, 2]);
    pass_on(3).await.unwrap();
    client.quiet(Duration::from_millis(50)).await;
    assert_eq!(client.seqs(2).await, [3, 4], "the third does not come");
    client.quiet(Duration::from_secs(3)).await;
    pod.stop().await;
    writer.stop().await;
}

/// Whoever can publish on the bus moves no cursor, and makes no frame reach a client.
#[tokio::test(start_paused = true)]
async fn a_forged_notification_reaches_no_client_and_costs_no_event() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550123").await;
    let mut client = pod.connect(user, None).await;
    let subject = format!("users.session.{user}.notify");
    let frame =
        |seq: u64| json!({"type": "x", "seq": seq, "event_id": "f", "time": "2026-01-01T00:00:00Z", "data": {}});
    let displaced = json!({"type": "socket.displaced", "session_id": client.welcome["session_id"]});
    let forged = vec![
        frame(1 << 63).to_string(),
        frame(u64::MAX).to_string(),
        frame(1).to_string(),
        frame(0).to_string(),
        displaced.to_string(),
        json!({"frames": [{"user_id": user, "seq": 1, "frame": frame(1)}], "mac": "00"}).to_string(),
        json!({"displace": [user, [client.welcome["session_id"]]], "mac": "00"}).to_string(),
        "{".to_owned(),
        String::new(),
    ];
    for round in 0..10 {
        for payload in &forged {
            for subject in [&subject, "users.pod.one", "users.broadcast"] {
                cluster.bus.publish_core(subject, payload.clone().into()).await.unwrap();
            }
        }
        client.quiet(Duration::from_millis(300)).await;
        cluster.publish_searches(user, 1).await;
        let event = client.event().await;
        assert_eq!((&event["type"], event["seq"].as_u64()), (&json!("user.finder"), Some(round + 1)));
    }
    // One that a pod of the platform wrote, for another user or a second time, is no better.
    let other = pod.passenger("+12125550124").await;
    let mut spy = cluster.bus.subscribe("users.broadcast", None).await.unwrap();
    cluster.publish_searches(other, 11).await;
    let mut frames = 0;
    while frames < 11 {
        let message = spy.next().await.unwrap().payload;
        let read: Value = serde_json::from_slice(&message).unwrap();
        frames += read["frames"].as_array().unwrap().len();
        for subject in [&subject, "users.pod.one"] {
            cluster.bus.publish_core(subject, message.clone()).await.unwrap();
        }
    }
    client.quiet(Duration::from_secs(3)).await;
    cluster.publish_searches(user, 1).await;
    assert_eq!(client.seqs(1).await, [11]);
    pod.stop().await;
}

async fn frames_go_to_the_pods_that_have_the_sockets_and_to_all_if_none_is_known(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let (mut one, mut two) = (cluster.pod("one").await, cluster.pod("two").await);
    let (ann, bob) = (one.passenger("+12125550126").await, one.passenger("+12125550127").await);
    let mut anns = one.connect(ann, None).await;
    let mut second = one.connect(ann, None).await;
    let mut bobs = [one.connect(bob, None).await, two.connect(bob, None).await];
    let mut all = cluster.bus.subscribe("users.>", None).await.unwrap();
    cluster.publish_searches(ann, 1).await;
    assert_eq!((anns.seqs(1).await, second.seqs(1).await), (vec![1], vec![1]));
    cluster.publish_searches(bob, 1).await;
    for bobs in &mut bobs {
        assert_eq!(bobs.seqs(1).await, [1]);
    }
    // With one socket closed the pod still has the other; with both, nobody knows of any.
    second.close().await;
    cluster.publish_searches(ann, 1).await;
    assert_eq!(anns.seqs(1).await, [2]);
    anns.close().await;
    cluster.publish_searches(ann, 1).await;
    let mut sent = Vec::new();
    while sent.len() < 5 {
        let message = all.next().await.unwrap();
        let body: Value = serde_json::from_slice(&message.payload).unwrap();
        // Others are about sockets and sign-ins.
        for frame in body["frames"].as_array().into_iter().flatten() {
            assert_eq!(frame["frame"]["seq"], frame["seq"]);
            let user = if frame["user_id"] == json!(ann) { "ann" } else { "bob" };
            sent.push(format!("{} {user} {}", message.subject, frame["seq"]));
        }
    }
    sent[1..3].sort();
    let expected = ["users.pod.one ann 1", "users.pod.one bob 1", "users.pod.two bob 1", "users.pod.one ann 2"];
    assert_eq!(sent, [&expected[..], &["users.broadcast ann 3"]].concat());
    drop(bobs);
    one.stop().await;
    two.stop().await;
}
