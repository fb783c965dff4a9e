//! A passenger who is a script: no socket, one device with a webhook, a call for help and a second sign-in; and the server that receives
//! what the platform sends out. It repeats each request until it is answered, so that a process may die at any of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};
use testing::http;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

const PAUSE: Duration = Duration::from_millis(200);
/// For each step; a claimed push of a process that died is sent again after 30 s.
const STEP_WAIT: Duration = Duration::from_secs(90);
pub(crate) const SOS_SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// What was received under an id: how often, and the bodies.
type Received = Arc<Mutex<BTreeMap<String, Vec<Value>>>>;

/// A webhook of the test's own.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    received: Received,
}

impl Sink {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Received::default();
        let take = async |State(received): State<Received>, uri: Uri, headers: HeaderMap, body: Bytes| {
            let id = format!("{} {}", uri.path(), headers["webhook-id"].to_str().unwrap());
            let body = serde_json::from_slice(&body).unwrap();
            received.lock().unwrap().entry(id).or_default().push(body);
            StatusCode::NO_CONTENT
        };
        let routes = axum::Router::new().fallback(take).with_state(received.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, received }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The messages at `path` of this type: under how many ids, and how many in all.
    fn count(&self, path: &str, kind: &str) -> (usize, usize) {
        let received = self.received.lock().unwrap();
        let of_kind = received.iter().filter(|(id, bodies)| {
            id.starts_with(&format!("{path} ")) && bodies.iter().all(|body| body["type"] == kind)
        });
        of_kind.fold((0, 0), |(ids, all), (_, bodies)| (ids + 1, all + bodies.len()))
    }
}

/// The addresses of users and rides.
pub(crate) struct Platform {
    pub(crate) users: SocketAddr,
    pub(crate) rides: SocketAddr,
}

async fn until<T>(what: &str, mut step: impl AsyncFnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + STEP_WAIT;
    loop {
        match step().await {
            Ok(done) => return done,
            Err(why) => assert!(Instant::now() < until, "{what}: {why}"),
        }
        sleep(PAUSE).await;
    }
}

async fn call(
    addr: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Value,
) -> Result<(u16, Value), String> {
    http::request(addr, method, path, token, (!body.is_null()).then_some(body)).await.map_err(|error| error.to_string())
}

/// The body of a successful answer.
async fn ok(addr: SocketAddr, method: &str, path: &str, token: Option<&str>, body: Value) -> Result<Value, String> {
    match call(addr, method, path, token, body).await? {
        (200..=299, answer) => Ok(answer),
        (status, answer) => Err(format!("{method} {path}: {status} {answer}")),
    }
}

async fn sign_in(users: SocketAddr, phone: &str) -> String {
    until("a sign-in", async || {
        let asked = ok(users, "POST", "/v1/auth/otp", None, json!({"phone": phone})).await?;
        let body = json!({"phone": phone, "code": asked["code"], "request_id": asked["request_id"]});
        let signed_in = ok(users, "POST", "/v1/auth/token", None, body).await?;
        Ok(signed_in["access_token"].as_str().unwrap().to_owned())
    })
    .await
}

/// Takes a ride with a driver of the city, as far as the pickup.
pub(crate) async fn ride(platform: Platform, sink: &Sink) {
    let Platform { users, rides } = platform;
    let token = sign_in(users, "+12125559001").await;
    let other = sign_in(users, "+12125559001").await;
    let (token, other) = (Some(token.as_str()), Some(other.as_str()));
    until("a device", async || {
        let body = json!({"platform": "webhook", "token": sink.url("/push")});
        ok(users, "POST", "/v1/devices", token, body).await
    })
    .await;
    let place = |lat: f64| json!({"lat": lat, "lng": -73.9857});
    let ride = until("a ride", async || {
        let state = ok(users, "GET", "/v1/state", token, Value::Null).await?;
        if let Some(ride) = state["ride"]["ride_id"].as_str() {
            return Ok(ride.to_owned());
        }
        let data = json!({"active": true, "pickup": place(40.7484), "dropoff": place(40.7684), "vehicle_type": "car"});
        if state["search"].is_null() {
            ok(users, "POST", "/v1/commands", token, json!({"id": "1", "type": "finder.update", "data": data})).await?;
        }
        Err(format!("none yet: {state}"))
    })
    .await;
    let help = format!("/v1/rides/{ride}/sos");
    until("a call for help", async || {
        let answer = ok(rides, "POST", &help, token, json!({"note": "help"})).await?;
        if answer["operators"] == "informed" { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    let (ids, _) = sink.count("/sos", "sos.raised");
    assert_eq!(ids, 1, "one call under one id");
    until("a push", async || match sink.count("/push", "ride.pickup") {
        (0, _) => Err("none".to_owned()),
        _ => Ok(()),
    })
    .await;
    until("the end of the other sign-in", async || {
        let list = ok(users, "GET", "/v1/auth/sign-ins", token, Value::Null).await?;
        let others = list["sign_ins"].as_array().unwrap().iter().filter(|one| one["current"] == false);
        for one in others {
            ok(users, "DELETE", &format!("/v1/auth/sign-ins/{}", one["id"].as_str().unwrap()), token, Value::Null)
                .await?;
        }
        match call(users, "GET", "/v1/me", other, Value::Null).await? {
            (401, _) => Ok(()),
            (status, body) => Err(format!("its token still works: {status} {body}")),
        }
    })
    .await;
    until("the end of the ride", async || {
        let data = json!({"ride_id": ride, "reason": "changed_plans"});
        let (status, body) =
            call(users, "POST", "/v1/commands", token, json!({"id": "2", "type": "ride.cancel", "data": data})).await?;
        let state = ok(users, "GET", "/v1/state", token, Value::Null).await?;
        let is_over = state["ride"].is_null() && state["search"].is_null();
        if is_over { Ok(()) } else { Err(format!("{status} {body}: {state}")) }
    })
    .await;
    let (ids, all) = sink.count("/push", "ride.pickup");
    assert!(ids == 1 && all <= 2, "one ride.pickup, under one id: {ids} ids, {all} messages");
    let (ids, all) = sink.count("/sos", "sos.raised");
    assert!(ids == 1 && all <= 2, "one call for help, under one id: {ids} ids, {all} messages");
}
