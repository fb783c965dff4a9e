//! The live lane: the passenger of a ride, and nobody else, sees where the driver is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use chrono::{DateTime, TimeDelta, Utc};
use platform::Platform;
use roads::Roads;
use serde_json::{Value, json};
use streams::newest_position::{NEWEST_POSITION, NewestPosition, NewestPositionRequest};
use streams::{Position, RideId, RideStatus, UserId};
use testing::{Backend, on_both_stores};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::client::{Client, id_of, request};
use crate::commands::Pair;
use crate::pods::{Cluster, HERE, Pod};

on_both_stores!(a_passenger_sees_the_driver_from_the_pickup_to_the_end,);

/// A ride on its way to the pickup, of which both parties know.
struct Ride {
    id: RideId,
    pair: Pair,
    version: u32,
}

impl Ride {
    async fn new(cluster: &Cluster, pod: &Pod, number: u32) -> Self {
        let pair = Pair::offered(cluster, pod, number, 60).await;
        let mut ride = Self { id: cluster.world.id(), pair, version: 0 };
        ride.step(cluster, RideStatus::Pickup).await;
        ride
    }

    async fn step(&mut self, cluster: &Cluster, status: RideStatus) {
        self.version += 1;
        cluster.publish(&cluster.ride(self.id, &self.pair.found, self.version, status)).await;
        self.pair.d.event_of(status.subject().as_str()).await;
        self.pair.p.event_of(status.subject().as_str()).await;
    }

    /// The driver's position so many steps of 0.001° north of the pickup, measured now.
    async fn drive_to(&mut self, cluster: &Cluster, steps: u32) {
        // No two are measured at one time.
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.pair.d.ack("location.update", point(steps, cluster.world.now())).await;
    }
}

fn north(steps: u32) -> Position {
    Position { lat: HERE.lat + f64::from(steps) * 0.001, ..HERE }
}

fn point(steps: u32, recorded_at: DateTime<Utc>) -> Value {
    json!({"location": north(steps), "recorded_at": recorded_at, "heading_deg": 180, "speed_mps": 12.5})
}

/// How many steps north of the pickup the driver of this frame is.
fn steps(view: &Value) -> u32 {
    ((view["location"]["lat"].as_f64().unwrap() - HERE.lat) / 0.001).round() as u32
}

/// The next position that is not stale: paused time may jump.
async fn fresh(client: &mut Client) -> Value {
    loop {
        let view = client.position().await;
        if view["stale"] == false {
            return view;
        }
    }
}

/// Answers as location would, with a position received so long ago.
async fn location_answers(cluster: &Cluster, driver: UserId, steps: u32, age: TimeDelta) -> JoinHandle<()> {
    let (bus, world) = (cluster.bus.clone(), cluster.world.clone());
    let mut requests = bus.subscribe(NEWEST_POSITION, Some("location")).await.unwrap();
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            let asked: NewestPositionRequest = serde_json::from_slice(&message.payload).unwrap();
            let at = world.now() - age;
            let position = NewestPosition {
                location: north(steps),
                heading_deg: None,
                speed_mps: None,
                recorded_at: at,
                received_at: at,
                device: String::new(),
                ride_device: false,
                device_at: at,
                is_beacon: false,
            };
            let answer = serde_json::to_vec(&(asked.driver_id == driver).then_some(position)).unwrap();
            bus.publish_core(&message.reply.unwrap(), answer.into()).await.unwrap();
        }
    })
}

async fn a_passenger_sees_the_driver_from_the_pickup_to_the_end(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let (mut pod, mut other_pod) = (cluster.pod("one").await, cluster.pod("two").await);
    let (mut ride, mut other) = (Ride::new(&cluster, &pod, 31).await, Ride::new(&cluster, &pod, 32).await);
    ride.drive_to(&cluster, 3).await;
    other.drive_to(&cluster, 9).await;
    let view = fresh(&mut ride.pair.p).await;
    assert_eq!(id_of(&view, "ride_id"), ride.id.0);
    assert_eq!((steps(&view), &view["heading_deg"], &view["speed_mps"]), (3, &json!(180.0), &json!(12.5)));
    assert_eq!((&view["eta_to"], &view["stale"]), (&json!("pickup"), &json!(false)));
    // 333.6 m times 1.3 at 7 m/s, as in the offer.
    assert_eq!(view["eta_s"].as_f64().unwrap().round(), 62.0);
    assert_eq!(steps(&fresh(&mut other.pair.p).await), 9);
    ride.step(&cluster, RideStatus::Started).await;
    // A socket on another pod, opened during the ride.
    let mut elsewhere = other_pod.connect(ride.pair.passenger, None).await;
    let mut drivers = other_pod.connect(ride.pair.driver, None).await;
    ride.drive_to(&cluster, 2).await;
    for client in [&mut ride.pair.p, &mut elsewhere] {
        let view = fresh(client).await;
        assert_eq!((steps(&view), &view["eta_to"]), (2, &json!("dropoff")), "{view}");
        assert!(view["eta_s"].as_f64().unwrap() > 100.0, "{view}");
    }
    // Of a batch the newest, also if it is not the last.
    tokio::time::sleep(Duration::from_millis(10)).await;
    let at = |second: i64| cluster.world.now() + TimeDelta::seconds(second);
    let batch = json!({"points": [point(5, at(-2)), point(7, at(0)), point(6, at(-1))]});
    drivers.ack("location.update", batch).await;
    assert_eq!(steps(&fresh(&mut ride.pair.p).await), 7);
    ride.step(&cluster, RideStatus::Arrived).await;
    ride.drive_to(&cluster, 8).await;
    assert_eq!(steps(&fresh(&mut ride.pair.p).await), 8);
    ride.step(&cluster, RideStatus::Completed).await;
    ride.drive_to(&cluster, 4).await;
    ride.pair.p.quiet(Duration::from_millis(1_500)).await;
    let counted = |pod: &Pod, outcome: &str| pod.platform.metrics.live_positions.with_label_values(&[outcome]).get();
    // Of the batch one, by the other pod; the last position is of no ride.
    assert_eq!((counted(&pod, "published"), counted(&other_pod, "published")), (4, 1));
    for (pod, shown) in [(&pod, 5), (&other_pod, 1)] {
        assert_eq!((counted(pod, "publish_failed"), counted(pod, "refused")), (0, 0));
        assert!(counted(pod, "shown") >= shown, "{}", counted(pod, "shown"));
        assert_eq!(pod.platform.metrics.live_position_age.get_sample_count(), counted(pod, "shown"));
    }
    // None of it is an event, and no driver received any of it.
    let (one, two) = (ride.pair.driver, other.pair.driver);
    for (mut driver, user) in [(ride.pair.d, one), (other.pair.d, two), (drivers, one)] {
        cluster.publish_searches(user, 1).await;
        driver.event_of("user.finder").await;
        assert!(driver.positions.is_empty());
        driver.close().await;
    }
    pod.stop().await;
    other_pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn at_most_one_position_a_second_and_one_that_is_stale() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let mut ride = Ride::new(&cluster, &pod, 33).await;
    // Its end of the pipe holds one frame, and it does not read for 4 s.
    let mut slow = pod.open_with(request(ride.pair.passenger, None), 1);
    assert_eq!(slow.next().await["type"], "welcome");
    for step in 1..=40 {
        ride.drive_to(&cluster, step).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let last_sent = cluster.world.now();
    let mut seen = Vec::new();
    while seen.last() != Some(&40) {
        seen.push(steps(&ride.pair.p.position().await));
    }
    assert!(seen.is_sorted() && (4..=6).contains(&seen.len()), "{seen:?}");
    let mut late = Vec::new();
    while late.last() != Some(&40) {
        late.push(steps(&slow.position().await));
    }
    assert!(late.len() <= 4, "what was not read was superseded: {late:?}");
    let stale = ride.pair.p.position().await;
    assert_eq!((steps(&stale), &stale["stale"]), (40, &json!(true)));
    let after = cluster.world.now() - last_sent;
    assert!(after > TimeDelta::seconds(14) && after < TimeDelta::seconds(16), "{after}");
    ride.pair.p.quiet(Duration::from_secs(30)).await;
    ride.drive_to(&cluster, 41).await;
    let view = ride.pair.p.position().await;
    assert_eq!((steps(&view), &view["stale"]), (41, &json!(false)));
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_reconnect_the_newest_position_comes_at_once_and_never_delays_the_welcome() {
    let cluster = Cluster::on(Backend::Memory).await;
    let (mut pod, mut other_pod) = (cluster.pod("one").await, cluster.pod("two").await);
    let ride = Ride::new(&cluster, &pod, 34).await;
    // Nobody knows: the driver has sent nothing, and location does not answer.
    let began = cluster.world.now();
    let mut client = pod.connect(ride.pair.passenger, None).await;
    assert!(cluster.world.now() - began < TimeDelta::milliseconds(100));
    client.quiet(Duration::from_secs(10)).await;
    // location is back: it is asked again, without another connection.
    let answering = location_answers(&cluster, ride.pair.driver, 4, TimeDelta::zero()).await;
    let began = cluster.world.now();
    assert_eq!(steps(&client.position().await), 4);
    assert!(cluster.world.now() - began < TimeDelta::seconds(16));
    client.close().await;
    answering.abort();
    let _ = answering.await;
    for (age, is_stale) in [(TimeDelta::seconds(4), false), (TimeDelta::minutes(2), true)] {
        let answering = location_answers(&cluster, ride.pair.driver, 5, age).await;
        for pod in [&pod, &other_pod] {
            let began = cluster.world.now();
            let mut client = pod.connect(ride.pair.passenger, None).await;
            let view = client.position().await;
            assert_eq!((steps(&view), &view["stale"], &view["eta_to"]), (5, &json!(is_stale), &json!("pickup")));
            // Of an old one the driver's pod is asked first.
            let most = TimeDelta::milliseconds(if is_stale { 600 } else { 100 });
            assert!(cluster.world.now() - began < most);
            client.close().await;
        }
        answering.abort();
        let _ = answering.await;
    }
    pod.stop().await;
    other_pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_pod_of_the_driver_says_what_location_does_not_know() {
    let cluster = Cluster::on(Backend::Memory).await;
    let (mut pod, mut other_pod) = (cluster.pod("one").await, cluster.pod("two").await);
    let mut ride = Ride::new(&cluster, &pod, 38).await;
    ride.drive_to(&cluster, 3).await;
    let mut waiting = other_pod.connect(ride.pair.passenger, None).await;
    assert_eq!(steps(&fresh(&mut waiting).await), 3, "location is away");
    // location was started again, and knows a place of before.
    let answering = location_answers(&cluster, ride.pair.driver, 1, TimeDelta::seconds(7)).await;
    for pod in [&pod, &other_pod] {
        let mut client = pod.connect(ride.pair.passenger, None).await;
        let mut seen = Vec::new();
        while seen.last() != Some(&3) {
            seen.push(steps(&fresh(&mut client).await));
        }
        assert_eq!(seen, [3], "both answers come together");
        client.close().await;
    }
    // The point of a tablet at the depot, at another pod, hides nothing.
    let mut tablet = other_pod.connect_on("tablet", ride.pair.driver, None).await;
    tablet.ack("location.update", point(50, cluster.world.now())).await;
    let mut client = other_pod.connect(ride.pair.passenger, None).await;
    assert_eq!(steps(&fresh(&mut client).await), 3);
    answering.abort();
    let _ = answering.await;
    // After a stale frame location is asked once more.
    let stale = loop {
        let view = waiting.position().await;
        if view["stale"] == true {
            break view;
        }
    };
    assert_eq!(steps(&stale), 3);
    let answering = location_answers(&cluster, ride.pair.driver, 6, TimeDelta::zero()).await;
    let mut silent = pod.connect(ride.pair.passenger, None).await;
    assert_eq!(steps(&fresh(&mut silent).await), 6);
    assert_eq!(silent.position().await["stale"], true);
    assert_eq!(steps(&fresh(&mut silent).await), 6, "as location says now");
    answering.abort();
    let _ = answering.await;
    pod.stop().await;
    other_pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_no_pod_signed_for_this_ride_is_not_shown() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let (mut ride, mut other) = (Ride::new(&cluster, &pod, 35).await, Ride::new(&cluster, &pod, 36).await);
    let subject = |ride: &Ride| format!("location.live.{}", ride.id);
    let mut listening = cluster.bus.subscribe("location.live.*", None).await.unwrap();
    other.drive_to(&cluster, 9).await;
    let of_other = listening.next().await.unwrap();
    assert_eq!(of_other.subject, subject(&other));
    let text = String::from_utf8(of_other.payload.to_vec()).unwrap();
    for forged in [
        "".to_owned(),
        "null".to_owned(),
        "[".repeat(100_000),
        json!({"type": "location.live", "seq": 900, "data": {}}).to_string(),
        json!({"ride_id": ride.id, "location": north(1), "mac": "00"}).to_string(),
        text.clone(),
        text.replace(&other.id.to_string(), &ride.id.to_string()),
    ] {
        cluster.bus.publish_core(&subject(&ride), forged.into()).await.unwrap();
    }
    ride.drive_to(&cluster, 2).await;
    assert_eq!(steps(&ride.pair.p.position().await), 2);
    // No cursor has moved: the next event has the next number.
    let seq = pod.connect(ride.pair.passenger, None).await.last_seq;
    cluster.publish_searches(ride.pair.passenger, 1).await;
    assert_eq!(ride.pair.p.seqs(1).await, [seq + 1]);
    assert_eq!(steps(&other.pair.p.position().await), 9);
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_position_is_published_without_a_row_and_without_an_answer_of_the_stream() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let mut ride = Ride::new(&cluster, &pod, 37).await;
    cluster.bus.delete_stream("LOCATION_STREAM").await.unwrap();
    let refused = ride.pair.d.refused("location.update", point(6, cluster.world.now())).await;
    assert_eq!(refused, "unavailable -");
    assert_eq!(steps(&ride.pair.p.position().await), 6);
    pod.stop().await;
}

/// In real time: the routing server is a real one.
#[tokio::test]
async fn the_eta_is_by_road_once_it_is_known_and_each_ride_is_asked_about_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let route = |State(asked): State<Arc<AtomicUsize>>| async move {
        asked.fetch_add(1, Ordering::Relaxed);
        r#"{"code":"Ok","routes":[{"distance":9000,"duration":620}]}"#
    };
    let router = Router::new().route("/route/v1/driving/{way}", get(route)).with_state(asked.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let cluster = Cluster::on(Backend::Postgres).await;
    let platform = Platform::new(cluster.world.clone(), cluster.bus.clone(), "one");
    let roads = Some(Roads::new(&platform, &url));
    let mut pod = cluster.idle_pod("one", users::Config { roads, ..users::Config::default() }).await;
    pod.run();
    let mut ride = Ride::new(&cluster, &pod, 33).await;
    let eta = |view: &Value| view["eta_s"].as_f64().unwrap().round();
    ride.drive_to(&cluster, 3).await;
    // Nobody waits for the answer: 333.6 m times 1.3 at 7 m/s.
    assert_eq!(eta(&fresh(&mut ride.pair.p).await), 62.0);
    // By road it is ten times as long, and a third of that nearer by.
    let mut by_road = 0.0;
    for _ in 0..5 {
        ride.drive_to(&cluster, 1).await;
        by_road = eta(&fresh(&mut ride.pair.p).await);
        if by_road > 100.0 {
            break;
        }
    }
    assert_eq!(by_road, 207.0);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    for client in [ride.pair.p, ride.pair.d] {
        client.close().await;
    }
    pod.stop().await;
    server.abort();
}
