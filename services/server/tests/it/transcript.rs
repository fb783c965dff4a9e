//! One ride through all four services, in one thread and in simulated time: the same seed gives the same transcript.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use futures_util::{sink, stream};
use http_body_util::BodyExt;
use platform::{Access, World};
use serde_json::{Value, json};
use server::app::App;
use streams::bus::ReplayStart;
use streams::{Service, UserId};
use tokio::sync::mpsc;
use tower::ServiceExt;
use users::{Incoming, Outgoing, SocketRequest, Users};

use crate::harness::client::Socket;
use crate::harness::ride::{drive, online, trip};
use crate::harness::running::settings;

async fn post(router: &Router, path: &str, token: Option<&str>, body: Value) -> Value {
    let mut request = Request::post(path).header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = router.clone().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
    assert!(response.status().is_success(), "{path}: {}", response.status());
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

async fn sign_in(router: &Router, phone: &str) -> (UserId, String) {
    let otp = post(router, "/v1/auth/otp", None, json!({"phone": phone})).await;
    let token = post(router, "/v1/auth/token", None, json!({"phone": phone, "code": otp["code"]})).await;
    (token["user"]["id"].as_str().unwrap().parse().unwrap(), token["access_token"].as_str().unwrap().to_owned())
}

/// A WebSocket session over channels in memory.
async fn connect(users: &Users, user: UserId) -> Socket {
    let (to, sent) = mpsc::channel::<String>(64);
    let (received, from) = mpsc::channel::<Result<String, u16>>(1_024);
    let incoming = stream::unfold(sent, async |mut sent| sent.recv().await.map(|text| (Incoming::Text(text), sent)));
    let outgoing = sink::unfold(received, async |received, frame| {
        let _ = match frame {
            Outgoing::Text(text) => received.send(Ok(text)).await,
            Outgoing::Close(code, _) => received.send(Err(code)).await,
            Outgoing::Ping => Ok(()),
        };
        Ok::<_, Infallible>(received)
    });
    let users = users.clone();
    let access = Access { user, sign_in: None, expires_at: "2100-01-01T00:00:00Z".parse().unwrap() };
    let request = SocketRequest::new(access, None);
    tokio::spawn(async move { users.serve_session(request, Box::pin(incoming), Box::pin(outgoing)).await });
    Socket::over(to, from).await
}

async fn ride(seed: u64) -> Vec<String> {
    let world = World::seeded("2026-06-01T12:00:00Z".parse().unwrap(), seed);
    let settings = settings(&["--pod-id", "one", "--track-max-speed-mps", "1000000"]);
    let app = App::prepare(&settings, &Service::ALL, world.clone()).await.unwrap();
    let users = app.users.clone().unwrap();
    let (driver, token) = sign_in(&app.router, "+12122340001").await;
    post(&app.router, "/v1/drivers", Some(&token), json!({"vehicle_type": "car", "plate": "T 1"})).await;
    let (passenger, _) = sign_in(&app.router, "+12122340002").await;
    let (mut d, mut p) = (connect(&users, driver).await, connect(&users, passenger).await);
    online(&mut d, 40.751).await;
    p.ack("finder.update", trip()).await;
    let found = d.event("match.found").await["data"].clone();
    drive(&mut d, &mut p, &found["match_id"], &world).await;
    d.event("ride.completed").await;
    p.event("ride.completed").await;
    let mut transcript = std::mem::take(&mut d.transcript);
    transcript.append(&mut p.transcript);
    let mut replay = app.platform.bus.replay("RIDE_STREAM", None, ReplayStart::Sequence(1)).await.unwrap();
    while let Some(stored) = replay.next(std::time::Duration::from_secs(1)).await.unwrap() {
        let streams::bus::StoredMessage { subject, headers, payload, sequence, stored_at } = stored;
        transcript.push(format!("Stored {subject} {headers:?} {payload:?} {sequence} {stored_at}"));
    }
    assert!(app.stop().await);
    transcript
}

fn run(seed: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(ride(seed))
}

#[test]
fn the_same_seed_gives_the_same_transcript() {
    let (one, two) = (run(7), run(7));
    for (a, b) in one.iter().zip(&two) {
        assert_eq!(a, b);
    }
    assert_eq!(one.len(), two.len());
    assert!(one.iter().filter(|line| line.starts_with("Stored ")).count() == 4, "pickup, started, arrived, completed");
    assert_ne!(one, run(8), "another seed, another run");
    // To compare by hand before and after a change that only moves or renames code.
    let mut hasher = DefaultHasher::new();
    one.hash(&mut hasher);
    println!("transcript of seed 7: {:016x}", hasher.finish());
}
