//! Road times by ROUTING_URL: a routing server of the test's own, in a city with a river in the middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use streams::Position;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::harness::client::{Person, http};
use crate::harness::on_both_shapes;
use crate::harness::ride::at;
use crate::harness::running::{Running, Shape};

on_both_shapes!(a_driver_across_the_river_is_not_the_nearest, a_routing_server_that_is_too_slow_is_left_alone);

/// Longitude of the river, from pole to pole. Its bridge is far away.
const RIVER: f64 = -73.985;

#[derive(Debug, Default)]
struct Traffic {
    requests: AtomicUsize,
    is_slow: AtomicBool,
}

struct RoutingServer {
    url: String,
    traffic: Arc<Traffic>,
    task: JoinHandle<()>,
}

impl RoutingServer {
    async fn start() -> Self {
        let traffic = Arc::new(Traffic::default());
        let router =
            Router::new().route("/osrm/{service}/v1/driving/{coordinates}", get(answer)).with_state(traffic.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/osrm/", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, traffic, task }
    }
}

impl Drop for RoutingServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// (m, s).
fn way(from: &Position, to: &Position) -> (f64, f64) {
    let crosses = (from.lng < RIVER) != (to.lng < RIVER);
    let distance_m = if crosses { 20_000.0 } else { from.distance_m(to) };
    (distance_m, distance_m / 10.0)
}

async fn answer(
    State(traffic): State<Arc<Traffic>>,
    Path((service, coordinates)): Path<(String, String)>,
) -> Json<Value> {
    traffic.requests.fetch_add(1, Ordering::Relaxed);
    if traffic.is_slow.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let place = |text: &str| {
        let (lng, lat) = text.split_once(',').unwrap();
        Position { lat: lat.parse().unwrap(), lng: lng.parse().unwrap() }
    };
    let places: Vec<Position> = coordinates.split(';').map(place).collect();
    let (to, from) = places.split_last().unwrap();
    let ways: Vec<(f64, f64)> = from.iter().map(|from| way(from, to)).collect();
    let column = |f: fn(&(f64, f64)) -> f64| ways.iter().map(|way| [f(way)]).collect::<Vec<_>>();
    Json(match service.as_str() {
        "route" => json!({"code": "Ok", "routes": [{"distance": ways[0].0, "duration": ways[0].1}]}),
        _ => json!({"code": "Ok", "durations": column(|way| way.1), "distances": column(|way| way.0)}),
    })
}

async fn estimate(running: &Running, from: (f64, f64), to: (f64, f64)) -> Value {
    let path = format!("/v1/estimates?pickup={},{}&dropoff={},{}&vehicle_type=car", from.0, from.1, to.0, to.1);
    let (status, body) = http(running.addr(), "GET", &path, None, None).await;
    assert_eq!(status, 200, "{body}");
    body
}

async fn a_driver_across_the_river_is_not_the_nearest(shape: Shape) {
    let server = RoutingServer::start().await;
    let running = Running::start(shape, &["--routing-url", &server.url]).await;
    let (west, east) = ((40.75, RIVER - 0.003), (40.75, RIVER + 0.003));
    let across = estimate(&running, west, east).await;
    assert_eq!((&across["distance_m"], &across["duration_s"]), (&json!(20_000.0), &json!(2_000.0)));
    assert_eq!(across["estimated"], false);

    let (far, near) = (Person::driver(running.addr(), 1).await, Person::driver(running.addr(), 2).await);
    let (mut far, mut near) = (far.connect(None).await, near.connect(None).await);
    // 500 m away and across the river; 1,700 m away on this side.
    far.ack("beacon.update", json!({"active": true, "location": at(east.0, east.1)})).await;
    near.ack("beacon.update", json!({"active": true, "location": at(west.0, west.1 - 0.020)})).await;
    let mut passenger = Person::passenger(running.addr(), 3).await.connect(None).await;
    let trip =
        json!({"active": true, "pickup": at(west.0, west.1), "dropoff": at(40.70, west.1), "vehicle_type": "car"});
    passenger.ack("finder.update", trip).await;
    let found = passenger.event("match.found").await["data"].clone();
    assert_eq!(found["estimated"], false, "{found}");
    let at_driver = near.event("match.found").await["data"].clone();
    assert_eq!(at_driver["match_id"], found["match_id"], "the driver on this side is offered");
    let expected_m = Position { lat: west.0, lng: west.1 - 0.020 }.distance_m(&Position { lat: west.0, lng: west.1 });
    assert!((found["pickup_distance_m"].as_f64().unwrap() - expected_m).abs() < 1.0, "{found}");
    assert!((found["pickup_eta_s"].as_f64().unwrap() - expected_m / 10.0).abs() < 1.0, "{found}");
    // The driver's copy is rounded.
    assert_eq!(at_driver["pickup_distance_m"].as_f64().unwrap() % 100.0, 0.0, "{at_driver}");
    // The same ways again are not asked for.
    let requests = server.traffic.requests.load(Ordering::Relaxed);
    assert_eq!(estimate(&running, west, east).await, across);
    assert_eq!(server.traffic.requests.load(Ordering::Relaxed), requests);
    running.stop().await;
}

async fn a_routing_server_that_is_too_slow_is_left_alone(shape: Shape) {
    let server = RoutingServer::start().await;
    server.traffic.is_slow.store(true, Ordering::Relaxed);
    let running = Running::start(shape, &["--routing-url", &server.url]).await;
    for n in 0..6 {
        let place = 40.70 + 0.01 * f64::from(n);
        let body = estimate(&running, (place, -73.99), (place, -73.95)).await;
        assert_eq!(body["estimated"], true, "{body}");
    }
    // After three failures the circuit is open.
    assert_eq!(server.traffic.requests.load(Ordering::Relaxed), 3);
    let (_, ready) = http(running.addr(), "GET", "/health/ready", None, None).await;
    assert_eq!(ready["status"], "ready", "{ready}");
    assert!(ready["breakers"].as_object().unwrap().keys().any(|name| name.contains("routing")), "{ready}");

    let mut driver = Person::driver(running.addr(), 1).await.connect(None).await;
    driver.ack("beacon.update", json!({"active": true, "location": at(40.75, RIVER + 0.003)})).await;
    let mut passenger = Person::passenger(running.addr(), 2).await.connect(None).await;
    let trip = json!({"active": true, "pickup": at(40.75, RIVER - 0.003), "dropoff": at(40.70, -73.99), "vehicle_type": "car"});
    passenger.ack("finder.update", trip).await;
    assert_eq!(passenger.event("match.found").await["data"]["estimated"], true);
    running.stop().await;
}
