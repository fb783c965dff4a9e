//! One ride from request to receipt, and what must not happen on the way, embedded and on NATS with PostgreSQL.

use platform::World;
use serde_json::{Value, json};

use crate::harness::client::{Person, Socket, http};
use crate::harness::running::{Running, Shape};

/// Makes two tests of each function: `embedded::<name>` and `nats::<name>`.
macro_rules! both {
    ($($name:ident),+ $(,)?) => {
        mod embedded { $(#[tokio::test] async fn $name() { super::$name(super::Shape::Embedded).await })+ }
        mod nats { $(#[tokio::test] async fn $name() { super::$name(super::Shape::Nats).await })+ }
    };
}

pub(crate) use both;

both!(
    a_ride_from_request_to_receipt,
    a_declined_offer_goes_to_the_next_driver,
    payment_refused_leaves_both_parties_locked
);

pub(crate) fn at(lat: f64, lng: f64) -> Value {
    json!({"lat": lat, "lng": lng})
}

pub(crate) async fn online(driver: &mut Socket, lat: f64) {
    driver.ack("beacon.update", json!({"active": true, "location": at(lat, -73.98)})).await;
}

pub(crate) fn trip() -> Value {
    json!({"active": true, "pickup": at(40.75, -73.98), "dropoff": at(40.76, -73.97), "vehicle_type": "car"})
}

/// From an accepted match to the arrival, with the events that both see.
pub(crate) async fn drive(driver: &mut Socket, passenger: &mut Socket, match_id: &Value, world: &World) -> Value {
    driver.ack("match.accept", json!({"match_id": match_id})).await;
    let pickup = driver.event("ride.pickup").await;
    let ride_id = pickup["data"]["ride_id"].clone();
    assert_eq!(pickup["data"]["pin"], Value::Null, "the driver is not told the PIN");
    let told = passenger.event("ride.pickup").await;
    let pin = told["data"]["pin"].as_str().expect("the passenger is").to_owned();
    let wrong = if pin == "0000" { "1111" } else { "0000" };
    assert_eq!(driver.refused("ride.start", json!({"ride_id": ride_id, "pin": wrong})).await, "wrong_pin");
    driver.ack("ride.start", json!({"ride_id": ride_id, "pin": pin})).await;
    driver.ack("ride.start", json!({"ride_id": ride_id, "pin": pin})).await;
    passenger.event("ride.started").await;
    driver.event("ride.started").await;
    // After the start: ten points along the way, the last at the dropoff.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let now = world.now();
    let points: Vec<Value> = (1..=10)
        .map(|n| {
            let part = f64::from(n) / 10.0;
            let recorded_at = now - chrono::Duration::milliseconds(i64::from(10 - n) * 2);
            json!({"location": at(40.75 + 0.01 * part, -73.98 + 0.01 * part), "recorded_at": recorded_at.to_rfc3339()})
        })
        .collect();
    driver.ack("location.update", json!({"points": points})).await;
    driver.ack("ride.arrive", json!({"ride_id": ride_id})).await;
    driver.ack("ride.arrive", json!({"ride_id": ride_id})).await;
    ride_id
}

async fn a_ride_from_request_to_receipt(shape: Shape) {
    let running = Running::start(shape, &["--track-max-speed-mps", "1000000"]).await;
    let (driver, passenger) = (Person::driver(running.addr(), 1).await, Person::passenger(running.addr(), 2).await);
    let (mut d, mut p) = (driver.connect(None).await, passenger.connect(None).await);
    online(&mut d, 40.751).await;
    assert_eq!(p.refused("beacon.update", json!({"active": true, "location": at(1.0, 2.0)})).await, "not_driver");
    let request = p.ack("finder.update", trip()).await;
    assert_eq!(p.ack("finder.update", trip()).await, request, "a repeat has no second effect");
    let found = d.event("match.found").await["data"].clone();
    assert_eq!(found["request_id"], request["request_id"]);
    assert_eq!(p.event("match.found").await["data"], found, "both see the same");
    assert_eq!(
        p.refused("match.accept", json!({"match_id": found["match_id"]})).await,
        "not_found",
        "a stranger's offer"
    );
    let ride_id = drive(&mut d, &mut p, &found["match_id"], &World::real()).await;
    let (at_driver, at_passenger) = (d.event("ride.completed").await, p.event("ride.completed").await);
    assert_eq!(at_driver["data"], at_passenger["data"]);
    let done = &at_passenger["data"];
    assert_eq!(done["version"], 4);
    let cents = |v: &Value| v["amount"].as_i64().unwrap();
    let lines: i64 = done["fare"]["lines"].as_array().unwrap().iter().map(|l| cents(&l["amount"])).sum();
    assert_eq!(lines, cents(&done["fare"]["total"]));
    assert_eq!(lines, cents(&done["platform_fee"]) + cents(&done["driver_payout"]));
    assert!(done["distance_m"].as_f64().unwrap() > 1_000.0, "{done}");
    let path = format!("/v1/rides/{}", ride_id.as_str().unwrap());
    for person in [&driver, &passenger] {
        let (status, receipt) = person.get(&path).await;
        assert_eq!(
            (status, &receipt["status"], &receipt["fare"]["total"]),
            (200, &json!("completed"), &done["fare"]["total"])
        );
    }
    let stranger = Person::passenger(running.addr(), 3).await;
    assert_eq!(stranger.get(&path).await.0, 404);
    assert_eq!(http(running.addr(), "GET", &path, None, None).await.0, 401);
    // Both are free again, and what they missed while away comes in order.
    let (seen, _) = (p.last_seq, drop(p));
    online(&mut d, 40.751).await;
    let mut p = passenger.connect(Some(seen - 3)).await;
    p.ack("finder.update", trip()).await;
    p.event("match.found").await;
    d.event("match.found").await;
    drop((d, p));
    running.stop().await;
}

async fn a_declined_offer_goes_to_the_next_driver(shape: Shape) {
    let running = Running::start(shape, &[]).await;
    let mut drivers = Vec::new();
    for n in 0..2 {
        let mut socket = Person::driver(running.addr(), 10 + n).await.connect(None).await;
        online(&mut socket, 40.751 + f64::from(n) * 0.002).await;
        drivers.push(socket);
    }
    let mut passenger = Person::passenger(running.addr(), 20).await.connect(None).await;
    passenger.ack("finder.update", trip()).await;
    let [near, far] = &mut drivers[..] else { panic!() };
    let offer = near.event("match.found").await["data"]["match_id"].clone();
    near.ack("match.reject", json!({"match_id": offer, "reason": "a \"long\" lunch"})).await;
    assert_eq!(near.refused("match.accept", json!({"match_id": offer})).await, "offer_closed");
    assert_eq!(passenger.event("match.rejected").await["data"]["reason"], "declined");
    let next = far.event("match.found").await["data"]["match_id"].clone();
    assert_ne!(next, offer);
    passenger.ack("finder.update", json!({"active": false})).await;
    assert_eq!(far.event("match.rejected").await["data"]["reason"], "cancelled");
    running.stop().await;
}

async fn payment_refused_leaves_both_parties_locked(shape: Shape) {
    let running = Running::start(shape, &["--payment-provider", "refuse", "--track-max-speed-mps", "1000000"]).await;
    let (driver, passenger) = (Person::driver(running.addr(), 1).await, Person::passenger(running.addr(), 2).await);
    let (mut d, mut p) = (driver.connect(None).await, passenger.connect(None).await);
    for _ in 0..2 {
        online(&mut d, 40.751).await;
        p.ack("finder.update", trip()).await;
        let found = d.event("match.found").await["data"].clone();
        drive(&mut d, &mut p, &found["match_id"], &World::real()).await;
        d.event("ride.completed").await;
        p.event("ride.completed").await;
    }
    running.stop().await;
}
