//! Errors as clients see them: `application/problem+json` with a stable `code`.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::harness::client::{Person, http};
use crate::harness::running::{Running, Shape};

/// The status and the body of each error, as a snapshot: a change of a `code` breaks clients.
#[tokio::test]
async fn problem_bodies() {
    let running = Running::start(Shape::Embedded, &[]).await;
    let passenger = Person::passenger(running.addr(), 2).await;
    // She has the plate.
    Person::driver(running.addr(), 1).await;
    let ride = "/v1/rides/0190b7a0-0000-7000-8000-000000000001";
    let car = json!({"vehicle_type": "car", "plate": "T 1"});
    let (none, passenger) = (None, Some(&passenger));
    let cases: [(Option<&Person>, &str, &str, Option<Value>); 14] = [
        (none, "GET", "/v1/nothing", None),
        (none, "PUT", "/v1/me", None),
        (none, "GET", "/v1/me", None),
        (none, "POST", "/v1/auth/otp", Some(json!({"phone": 7}))),
        (none, "POST", "/v1/auth/otp", Some(json!({"phone": "12"}))),
        (none, "POST", "/v1/auth/token", Some(json!({"phone": "+12122340009", "code": "000000"}))),
        (none, "POST", "/v1/auth/refresh", Some(json!({"refresh_token": "none"}))),
        (passenger, "PATCH", "/v1/me", Some(json!({"name": "x".repeat(1_000)}))),
        (passenger, "POST", "/v1/drivers", Some(json!({"vehicle_type": "boat", "plate": "T 1"}))),
        (passenger, "POST", "/v1/drivers", Some(car)),
        (passenger, "GET", ride, None),
        (passenger, "GET", "/v1/rides/none", None),
        (passenger, "GET", "/v1/estimates?pickup=91,0&dropoff=0,0&vehicle_type=car", None),
        (passenger, "GET", "/v1/drivers/nearby?lat=40&lng=-73&radius_m=-1&limit=10", None),
    ];
    let mut text = String::new();
    for (person, method, path, body) in cases {
        let token = person.map(|person| person.token.as_str());
        let sent = body.as_ref().map(|body| format!(" {:.60}", body.to_string())).unwrap_or_default();
        let (status, problem) = http(running.addr(), method, path, token, body).await;
        writeln!(text, "{method} {path}{sent}\n{status} {problem:#}\n").unwrap();
    }
    running.stop().await;
    insta::assert_snapshot!("problem_bodies", text);
}
