//! The steps of a ride, as the client of a driver or of a passenger takes them.

use platform::World;
use serde_json::{Value, json};

use super::client::Socket;

pub(crate) fn at(lat: f64, lng: f64) -> Value {
    json!({"lat": lat, "lng": lng})
}

pub(crate) async fn online(driver: &mut Socket, lat: f64) {
    driver.ack("beacon.update", json!({"active": true, "location": at(lat, -73.98)})).await;
}

pub(crate) fn trip() -> Value {
    json!({"active": true, "pickup": at(40.75, -73.98), "dropoff": at(40.76, -73.97), "vehicle_type": "car"})
}

/// From the offer to the arrival; returns the ride's id.
pub(crate) async fn drive(driver: &mut Socket, passenger: &mut Socket, match_id: &Value, world: &World) -> Value {
    driver.ack("match.accept", json!({"match_id": match_id})).await;
    let pickup = driver.event("ride.pickup").await;
    let ride_id = pickup["data"]["ride_id"].clone();
    assert_eq!(pickup["data"]["pin"], Value::Null, "the driver does not receive the PIN");
    let at_passenger = passenger.event("ride.pickup").await;
    let pin = at_passenger["data"]["pin"].as_str().expect("the passenger receives it").to_owned();
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
