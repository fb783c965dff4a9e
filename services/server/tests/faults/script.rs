//! A passenger who is a script: no socket, one device with a webhook, a call for help and a second sign-in. It repeats each request until it
//! is answered, so that a process may die at any of them.

use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use platform::World;
use serde_json::{Value, json};
use streams::{Bus, Headers, Message};
use testing::http;
use tokio::time::{Instant, sleep};

use crate::fleet::Fleet;
use crate::receivers::Receivers;

const PAUSE: Duration = Duration::from_millis(200);
/// For each step; a claimed push of a process that died is sent again after 30 s.
const STEP_WAIT: Duration = Duration::from_secs(90);

/// The addresses of users and rides.
pub(crate) struct Platform {
    users: SocketAddr,
    rides: SocketAddr,
}

impl Platform {
    pub(crate) fn of(fleet: &Fleet) -> Self {
        Self { users: fleet.of_service("users").address(), rides: fleet.of_service("rides").address() }
    }
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

const OPERATOR: &str = "the token of an operator";

/// Of ADMIN_TOKENS_FILE.
pub(crate) fn operator_line() -> String {
    format!("ann support {}\n", hex::encode(platform::token::hash_of(OPERATOR.as_bytes())))
}

/// An operator has a dead letter removed, by way of rides, until it is: it is gone, and one act says so.
pub(crate) async fn remove_a_letter(platform: &Platform, bus: &Bus) {
    let (subject, payload) = ("dead_letter.match_accepted_rides".to_owned(), Bytes::from_static(b"{"));
    let stored = bus.publish(Message { subject, headers: Headers::default(), payload }).await.unwrap();
    let path = format!("/admin/v1/dead-letters/{}/remove", stored.sequence);
    let key = World::real().id::<uuid::Uuid>().to_string();
    until("the removal of a letter", async || {
        let headers = [("idempotency-key", key.as_str())];
        let body = Some(json!({"reason": "a rehearsal"}));
        let done = http::request_with(platform.rides, ("POST", &path), Some(OPERATOR), &headers, body).await;
        match done.map_err(|error| error.to_string())? {
            (200, answer) if answer["outcome"] == "removed" => Ok(()),
            (status, answer) => Err(format!("{status} {answer}")),
        }
    })
    .await;
    assert!(bus.get_message("DEAD_LETTER_STREAM", stored.sequence).await.is_err(), "it is gone");
    until("the act", async || match bus.stream_info("ADMIN_STREAM").await {
        Ok(info) if info.messages > 0 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(bus.stream_info("ADMIN_STREAM").await.unwrap().last_sequence, 1, "one act");
    let act = bus.get_message("ADMIN_STREAM", 1).await.unwrap();
    let act: Value = serde_json::from_slice(&act.payload).unwrap();
    assert_eq!((&act["act"], &act["act_id"]), (&json!("dead_letter_removed"), &json!(key)));
}

/// Takes a ride with a driver of the city, as far as the pickup; `number` is the passenger's, of whom there is a new one each time.
pub(crate) async fn ride(platform: &Platform, receivers: &Receivers, number: u32) {
    let Platform { users, rides } = *platform;
    let phone = format!("+1212555{:04}", 9_000 + number);
    let token = sign_in(users, &phone).await;
    let other = sign_in(users, &phone).await;
    let (token, other) = (Some(token.as_str()), Some(other.as_str()));
    let path = format!("/push/{number}");
    let device = until("a device", async || {
        let body = json!({"platform": "webhook", "token": receivers.url(&path)});
        ok(users, "POST", "/v1/devices", token, body).await
    })
    .await;
    receivers.trust_webhook(&path, device["secret"].as_str().unwrap());
    let ride = until("a ride", async || accepted(users, token).await).await;
    let help = format!("/v1/rides/{ride}/sos");
    until("a call for help", async || {
        let answer = ok(rides, "POST", &help, token, json!({"note": "help"})).await?;
        if answer["operators"] == "informed" { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    let (ids, _) = receivers.count("/sos", "sos.raised", &ride);
    assert_eq!(ids, 1, "one call under one id");
    until("a push", async || match receivers.count(&path, "ride.pickup", &ride) {
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
    until("the end of the ride", async || cancelled(users, token, &ride).await).await;
    let (ids, all) = receivers.count(&path, "ride.pickup", &ride);
    assert!(ids == 1 && all <= 2, "one ride.pickup, under one id: {ids} ids, {all} messages");
    let (ids, all) = receivers.count("/sos", "sos.raised", &ride);
    assert!(ids == 1 && all <= 2, "one call for help, under one id: {ids} ids, {all} messages");
}

/// Takes a ride with two phones and a browser, and no socket: each of them gets its push. The browser subscribes with the key that it reads; if
/// the platform's changes meanwhile, its push does not come, until the app subscribes again.
pub(crate) async fn ride_with_phones(platform: &Platform, receivers: &Receivers, number: u32) {
    let users = platform.users;
    let token = sign_in(users, &format!("+1212555{:04}", 9_500 + number)).await;
    let token = Some(token.as_str());
    let vapid_key = async || {
        let list = until("its devices", async || ok(users, "GET", "/v1/devices", token, Value::Null).await).await;
        list["vapid_public_key"].as_str().unwrap().to_owned()
    };
    let key = vapid_key().await;
    let (phone, tablet, browser) = (format!("phone:{number}"), format!("{number:064x}"), format!("browser-{number}"));
    let own = PrivateKey::generate(&ECDH_P256).unwrap().compute_public_key().unwrap();
    let keys = json!({"p256dh": URL_SAFE_NO_PAD.encode(own.as_ref()), "auth": URL_SAFE_NO_PAD.encode([9; 16])});
    let subscription = json!({"endpoint": receivers.url(&format!("/browser/{key}/{browser}")), "keys": keys});
    for (platform, token_of) in
        [("fcm", phone.clone().into()), ("apns", tablet.clone().into()), ("webpush", subscription)]
    {
        let body = json!({"platform": platform, "token": token_of});
        until("a device", async || ok(users, "POST", "/v1/devices", token, body.clone()).await).await;
    }
    let ride = until("a ride", async || accepted(users, token).await).await;
    for to in [&phone, &tablet, &browser] {
        until("a push", async || match receivers.pushed_by(to).len() {
            0 if to != &browser || vapid_key().await == key => Err(format!("none to {to}")),
            _ => Ok(()),
        })
        .await;
    }
    until("the end of the ride", async || cancelled(users, token, &ride).await).await;
}

/// Searches, and returns the ride once there is one.
async fn accepted(users: SocketAddr, token: Option<&str>) -> Result<String, String> {
    let place = |lat: f64| json!({"lat": lat, "lng": -73.9857});
    let state = ok(users, "GET", "/v1/state", token, Value::Null).await?;
    if let Some(ride) = state["ride"]["ride_id"].as_str() {
        return Ok(ride.to_owned());
    }
    let data = json!({"active": true, "pickup": place(40.7484), "dropoff": place(40.7684), "vehicle_type": "car"});
    if state["search"].is_null() {
        ok(users, "POST", "/v1/commands", token, json!({"id": "1", "type": "finder.update", "data": data})).await?;
    }
    Err(format!("none yet: {state}"))
}

/// Cancels the ride, until nothing of it is left.
async fn cancelled(users: SocketAddr, token: Option<&str>, ride: &str) -> Result<(), String> {
    let data = json!({"ride_id": ride, "reason": "changed_plans"});
    let (status, body) =
        call(users, "POST", "/v1/commands", token, json!({"id": "2", "type": "ride.cancel", "data": data})).await?;
    let state = ok(users, "GET", "/v1/state", token, Value::Null).await?;
    let is_over = state["ride"].is_null() && state["search"].is_null();
    if is_over { Ok(()) } else { Err(format!("{status} {body}: {state}")) }
}
