//! The passenger of a ride sees where the driver is, on either bus, after a reconnect, and while PostgreSQL is away.

use std::net::SocketAddr;
use std::time::Duration;

use platform::World;
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::harness::client::{Person, Socket};
use crate::harness::nats::Nats;
use crate::harness::on_both_shapes;
use crate::harness::ride::{at, online, trip};
use crate::harness::running::{Running, Shape, shared};

on_both_shapes!(a_passenger_watches_the_driver_come);

/// A ride that waits for its start: its id and PIN.
async fn accepted(driver: &mut Socket, passenger: &mut Socket) -> (Value, Value) {
    online(driver, 40.751).await;
    passenger.ack("finder.update", trip()).await;
    let found = driver.event("match.found").await["data"]["match_id"].clone();
    driver.ack("match.accept", json!({"match_id": found})).await;
    driver.event("ride.pickup").await;
    let pickup = passenger.event("ride.pickup").await["data"].clone();
    (pickup["ride_id"].clone(), pickup["pin"].clone())
}

/// Sends a position so many steps north of the pickup, and waits until the passenger sees it.
async fn drive_to(driver: &mut Socket, passenger: &mut Socket, steps: u32) -> Value {
    let location = at(40.75 + f64::from(steps) * 0.001, -73.98);
    let recorded_at = World::real().now().to_rfc3339();
    driver.ack("location.update", json!({"location": location, "recorded_at": recorded_at})).await;
    loop {
        // The place of before the ride, or an earlier step, may come first.
        let view = passenger.position().await;
        if (view["location"]["lat"].as_f64().unwrap() - location["lat"].as_f64().unwrap()).abs() < 1e-9 {
            return view;
        }
    }
}

async fn a_passenger_watches_the_driver_come(shape: Shape) {
    let running = Running::start(shape, &[]).await;
    let (driver, passenger) = (Person::driver(running.addr(), 1).await, Person::passenger(running.addr(), 2).await);
    let (mut d, mut p) = (driver.connect(None).await, passenger.connect(None).await);
    let (ride_id, pin) = accepted(&mut d, &mut p).await;
    // Before the first point of the ride: where the driver went online.
    let first = p.position().await;
    assert_eq!((&first["ride_id"], &first["eta_to"]), (&ride_id, &json!("pickup")));
    for steps in [9, 8, 7] {
        let view = drive_to(&mut d, &mut p, steps).await;
        assert_eq!((&view["eta_to"], &view["stale"]), (&json!("pickup"), &json!(false)));
        // At 7 m/s, by a way a third longer than the straight line.
        let eta_s = view["eta_s"].as_f64().unwrap();
        assert!((eta_s - f64::from(steps) * 111.195 * 1.3 / 7.0).abs() < 0.1, "{eta_s}");
    }
    let seq = p.last_seq;
    let mut back = passenger.connect(Some(seq)).await;
    let view = back.position().await;
    assert_eq!(view["ride_id"], ride_id);
    let lat = view["location"]["lat"].as_f64().unwrap();
    assert!((lat - 40.757).abs() < 0.002, "{view}");
    d.ack("ride.start", json!({"ride_id": ride_id, "pin": pin})).await;
    assert_eq!(back.event("ride.started").await["seq"], seq + 1, "no position was an event");
    assert_eq!(drive_to(&mut d, &mut back, 3).await["eta_to"], "dropoff");
    d.ack("ride.cancel", json!({"ride_id": ride_id, "reason": "enough"})).await;
    back.event("ride.cancelled").await;
    running.stop().await;
}

/// A line to PostgreSQL that can be cut: then PostgreSQL is away.
struct Line {
    port: u16,
    to: SocketAddr,
    forwarding: JoinSet<()>,
}

impl Line {
    async fn to(to: SocketAddr) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let mut line = Self { port, to, forwarding: JoinSet::new() };
        line.open().await;
        line
    }

    async fn open(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let to = self.to;
        self.forwarding.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(to).await {
                        let _ = copy_bidirectional(&mut from, &mut server).await;
                    }
                });
            }
        });
    }

    /// Open connections are closed, and new ones refused.
    async fn cut(&mut self) {
        self.forwarding.shutdown().await;
    }
}

#[tokio::test]
async fn live_positions_go_on_while_postgresql_is_away() {
    let nats = Nats::start().await;
    let mut settings = shared(&nats, &[]).await;
    let url = settings.database_url.clone().unwrap();
    let authority = url.split(['@', '/']).find(|part| part.contains(':') && !part.ends_with(':')).unwrap().to_owned();
    let mut line = Line::to(authority.replace("localhost", "127.0.0.1").parse().unwrap()).await;
    settings.database_url = Some(url.replace(&authority, &format!("127.0.0.1:{}", line.port)));
    let running = Box::pin(Running::on(nats, settings)).await;
    let (driver, passenger) = (Person::driver(running.addr(), 1).await, Person::passenger(running.addr(), 2).await);
    let (mut d, mut p) = (driver.connect(None).await, passenger.connect(None).await);
    let (ride_id, pin) = accepted(&mut d, &mut p).await;
    drive_to(&mut d, &mut p, 60).await;
    line.cut().await;
    for second in 0..22 {
        let view = drive_to(&mut d, &mut p, 59 - second).await;
        assert_eq!((&view["stale"], &view["eta_to"]), (&json!(false), &json!("pickup")));
        sleep(Duration::from_secs(1)).await;
    }
    let start = json!({"ride_id": ride_id, "pin": pin});
    assert_eq!(d.refused("ride.start", start.clone()).await, "unavailable", "PostgreSQL is away");
    line.open().await;
    // Both sockets are still the same, and the ride goes on.
    while d.command("ride.start", start.clone()).await["type"] != "ack" {
        sleep(Duration::from_millis(200)).await;
    }
    p.event("ride.started").await;
    assert_eq!(drive_to(&mut d, &mut p, 1).await["eta_to"], "dropoff");
    running.stop().await;
}
