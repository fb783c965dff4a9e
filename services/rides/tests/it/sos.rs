//! Calls for help: durable, signed, sent until they are accepted, and followed by positions until an operator closes them.
//!
//! The sink is a real server, so these tests run in real time on both stores.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use platform::webhook::{self, Secret};
use rides::sos::sink::SosSink;
use rides::{Config, sos};
use serde_json::{Value, json};
use streams::contacts::{CONTACTS, Contact, Contacts};
use streams::newest_position::{NEWEST_POSITION, NewestPosition};
use streams::{Event, Position, RideId, RideStatus, UserId};
use testing::Backend;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::harness::TestApp;

const SECRET: &str = "a secret of at least 24 bytes";

/// What the sink received: its id and its body. The first tries of each `sos.raised` are answered 503, as many as `refused` says.
struct Sink {
    received: mpsc::UnboundedReceiver<(String, Value)>,
    serving: JoinHandle<()>,
    config: Config,
}

#[derive(Clone)]
struct Received {
    sent: mpsc::UnboundedSender<(String, Value)>,
    tries: std::sync::Arc<std::sync::Mutex<BTreeMap<String, u32>>>,
    refused: u32,
}

async fn receive(State(to): State<Received>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let (id, at) = (header(webhook::ID), header(webhook::TIMESTAMP));
    let now = chrono::DateTime::from_timestamp(at.parse().unwrap(), 0).unwrap();
    Secret::parse(SECRET).unwrap().verify(&id, &at, &header(webhook::SIGNATURE), &body, now).unwrap();
    let tries = {
        let mut tries = to.tries.lock().unwrap();
        *tries.entry(id.clone()).and_modify(|tries| *tries += 1).or_insert(1)
    };
    to.sent.send((id, serde_json::from_slice(&body).unwrap())).unwrap();
    if tries <= to.refused { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

impl Sink {
    async fn start(refused: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/sos", listener.local_addr().unwrap()).parse().unwrap();
        let (sent, received) = mpsc::unbounded_channel();
        let routes = axum::Router::new().route("/sos", axum::routing::post(receive)).with_state(Received {
            sent,
            tries: Default::default(),
            refused,
        });
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let sink = SosSink { url, secret: Secret::parse(SECRET).unwrap() };
        Self { received, serving, config: Config { sos_sink: Some(sink), ..Config::default() } }
    }

    async fn next(&mut self, kind: &str) -> (String, Value) {
        loop {
            let received = tokio::time::timeout(Duration::from_secs(60), self.received.recv()).await;
            let (id, body) = received.expect("the sink receives something").unwrap();
            if body["type"] == kind {
                return (id, body);
            }
        }
    }
}

async fn answer(app: &TestApp, subject: &'static str, reply: impl Fn() -> Value + Send + 'static) -> JoinHandle<()> {
    let mut requests = app.platform.bus.subscribe(subject, Some(subject)).await.unwrap();
    let bus = app.platform.bus.clone();
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            bus.publish_core(&message.reply.unwrap(), reply().to_string().into()).await.unwrap();
        }
    })
}

async fn live_ride(app: &TestApp) -> (RideId, UserId, UserId) {
    let matched = app.matched();
    app.publish(&Event::MatchAccepted(matched.clone())).await;
    let ride = app.event(&matched, RideStatus::Pickup).await.ride_id;
    (ride, matched.driver_id, matched.passenger_id)
}

async fn call(app: &TestApp, user: UserId, ride: RideId, body: Value) -> (u16, Value) {
    let (status, body) = app.call("POST", Some(user), &format!("/v1/rides/{ride}/sos"), &body).await;
    (status.as_u16(), body)
}

async fn a_call_is_sent_until_it_is_accepted_and_is_one(backend: Backend) {
    let mut sink = Sink::start(1).await;
    let app = TestApp::start(backend, sink.config.clone()).await;
    let (ride, driver, passenger) = live_ride(&app).await;
    assert_eq!(call(&app, app.platform.world.id(), ride, json!({})).await.0, 404);
    let (status, problem) = call(&app, passenger, ride, json!({"location": {"lat": 91, "lng": 0}})).await;
    assert_eq!((status, &problem["field"]), (422, &json!("location")));
    let contacts = Contacts {
        driver: None,
        passenger: Some(Contact { user_id: passenger, name: Some("Pia".to_owned()), phone: "+14155550132".to_owned() }),
        vehicle: None,
    };
    let users = answer(&app, CONTACTS, move || json!(contacts)).await;
    let here = json!({"location": {"lat": 40.7, "lng": -73.9}, "note": "he does\nnot stop"});
    let (status, called) = call(&app, passenger, ride, here).await;
    assert_eq!((status, &called["operators"]), (201, &json!("being_informed")));
    let ((first, body), (second, _)) = (sink.next("sos.raised").await, sink.next("sos.raised").await);
    assert_eq!(first, second, "a try again has the same id");
    let data = &body["data"];
    assert_eq!(
        (&data["sos_id"], &data["ride_id"], &data["by"]),
        (&called["sos_id"], &json!(ride), &json!("passenger"))
    );
    assert_eq!((&data["passenger"]["phone"], &data["note"]), (&json!("+14155550132"), &json!("he does not stop")));
    assert_eq!((&data["location"]["lat"], &data["ride"]["status"]), (&json!(40.7), &json!("pickup")));
    // A repeat, once the sink's answer is in the row: the same call, and no other message.
    let again = loop {
        let (_, again) = call(&app, passenger, ride, Value::Null).await;
        if again["operators"] == "informed" {
            break again;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(again["sos_id"], called["sos_id"]);
    // The other party's is another one; its message is the next.
    let (_, other) = call(&app, driver, ride, Value::Null).await;
    assert_ne!(other["sos_id"], called["sos_id"]);
    assert_eq!(sink.next("sos.raised").await.1["data"]["by"], "driver");
    users.abort();
    sink.serving.abort();
    app.end().await;
}

async fn positions_flow_after_the_end_until_an_operator_closes_it(backend: Backend) {
    let mut sink = Sink::start(0).await;
    let app = TestApp::start(backend, sink.config.clone()).await;
    let (ride, driver, passenger) = live_ride(&app).await;
    let world = app.platform.world.clone();
    let newest = move || {
        let now = world.now();
        json!(NewestPosition {
            location: Position { lat: 40.75, lng: -73.98 },
            heading_deg: Some(90.0),
            speed_mps: None,
            recorded_at: now,
            received_at: now,
            device: "pixel-8".to_owned(),
            ride_device: true,
            device_at: now,
            is_beacon: false,
        })
    };
    let location = answer(&app, NEWEST_POSITION, newest).await;
    let (_, called) = call(&app, passenger, ride, Value::Null).await;
    assert_eq!(sink.next("sos.raised").await.1["data"]["driver_location"]["lat"], 40.75);
    app.cancel(driver, ride).await;
    let (first, body) = sink.next("sos.position").await;
    assert_eq!((&body["data"]["sos_id"], &body["data"]["driver_location"]["lat"]), (&called["sos_id"], &json!(40.75)));
    let (second, _) = sink.next("sos.position").await;
    assert_ne!(first, second, "each has an id of its own");
    let open = sos::open_alerts(&app.store).await.unwrap();
    assert_eq!((open.len(), json!(open[0].sos_id)), (1, called["sos_id"].clone()));
    for _ in 0..2 {
        assert!(sos::close_alert(&app.store, &app.platform.world, open[0].sos_id, "safe").await.unwrap());
    }
    assert!(!sos::close_alert(&app.store, &app.platform.world, app.platform.world.id(), "safe").await.unwrap());
    assert_eq!(sos::open_alerts(&app.store).await.unwrap(), []);
    location.abort();
    sink.serving.abort();
    app.end().await;
}

async fn without_a_sink_it_is_stored_and_the_answer_says_so(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let (ride, _, passenger) = live_ride(&app).await;
    let (status, called) = call(&app, passenger, ride, Value::Null).await;
    assert_eq!((status, &called["operators"]), (201, &json!("none")));
    assert_eq!(sos::open_alerts(&app.store).await.unwrap().len(), 1);
    assert_eq!(app.platform.metrics.sos.with_label_values(&["no_sink"]).get(), 1);
    app.cancel(passenger, ride).await;
    let called = ("POST", passenger, &*format!("/v1/rides/{ride}/sos"));
    let later =
        async |minutes| app.call_later(chrono::Duration::minutes(minutes), called, &Value::Null).await.0.as_u16();
    assert_eq!(later(600).await, 201, "an open one takes a newer place at any time");
    app.end().await;
}

macro_rules! in_real_time {
    ($($name:ident),+ $(,)?) => {
        mod memory {
            use super::*;
            $(#[tokio::test] async fn $name() { super::$name(Backend::Memory).await; })+
        }
        mod postgres {
            use super::*;
            $(#[tokio::test] async fn $name() { super::$name(Backend::Postgres).await; })+
        }
    };
}

in_real_time!(
    a_call_is_sent_until_it_is_accepted_and_is_one,
    positions_flow_after_the_end_until_an_operator_closes_it,
    without_a_sink_it_is_stored_and_the_answer_says_so,
);
