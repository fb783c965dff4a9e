//! One ride from request to receipt, embedded and on NATS with PostgreSQL.

use platform::World;
use serde_json::{Value, json};

use crate::harness::client::{Person, http};
use crate::harness::on_all_shapes;
use crate::harness::ride::{at, drive, online, trip};
use crate::harness::running::{Running, Shape};

on_all_shapes!(
    a_ride_from_request_to_receipt,
    a_declined_offer_goes_to_the_next_driver,
    payment_refused_leaves_both_parties_locked
);

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
    let offered = p.event("match.found").await["data"].clone();
    assert_eq!(offered["match_id"], found["match_id"]);
    assert_eq!((&offered["driver"]["plate"], &found["passenger"]), (&json!("T 1"), &Value::Null));
    assert_eq!(
        (offered["dropoff"].is_object(), found["dropoff"].is_object()),
        (true, false),
        "roughly before the acceptance"
    );
    assert_eq!(
        p.refused("match.accept", json!({"match_id": found["match_id"]})).await,
        "not_found",
        "a stranger's offer"
    );
    let ride_id = drive(&mut d, &mut p, &found["match_id"], &World::real()).await;
    let (at_driver, at_passenger) = (d.event("ride.completed").await, p.event("ride.completed").await);
    assert_eq!(at_passenger["data"]["driver"]["plate"], "T 1");
    assert_eq!(at_driver["data"]["passenger"], json!({"name": null, "rating": null}));
    assert_eq!(without_parties(&at_driver["data"]), without_parties(&at_passenger["data"]));
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

/// A body without what only one of the parties sees.
fn without_parties(body: &Value) -> Value {
    let mut body = body.clone();
    for party in ["driver", "passenger"] {
        body.as_object_mut().unwrap().remove(party);
    }
    body
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
