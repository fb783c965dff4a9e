//! Push to a webhook of the test's own: devices come and go, and each event that no socket takes arrives once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use platform::http_client::Reach;
use platform::webhook::Secret;
use serde_json::{Value, json};
use streams::event::MatchFound;
use streams::{RideId, RideStatus, UserId};
use testing::{Backend, on_both_stores};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tower::ServiceExt;
use users::{Config, PushConfig, Users};

use crate::app::{App, sign_in_directly};
use crate::pods::{Cluster, Pod};

on_both_stores!(
    devices_are_registered_listed_and_removed,
    a_phone_that_is_handed_over_is_the_new_users,
    devices_go_with_their_sign_in_and_their_account,
    what_no_socket_takes_is_pushed_once,
    what_a_socket_takes_is_not_pushed,
    a_sink_that_is_down_receives_each_event_once_afterwards,
    a_device_that_is_gone_is_removed_and_an_offer_that_is_over_is_not_pushed,
);

const HOOK: &str = "https://app.example.com/push";

async fn devices(app: &App, token: &str) -> Vec<Value> {
    app.call("GET", "/v1/devices", Some(token), Value::Null).await.ok(200)["devices"].as_array().unwrap().clone()
}

async fn register(app: &App, token: &str, platform: &str, value: &str) -> Value {
    app.call("POST", "/v1/devices", Some(token), json!({"platform": platform, "token": value})).await.ok(201)
}

fn access(signed_in: &Value) -> String {
    signed_in["access_token"].as_str().unwrap().to_owned()
}

async fn devices_are_registered_listed_and_removed(backend: Backend) {
    let app = App::on(backend).await;
    let ann = access(&app.signed_in("+12125550801").await);
    let bob = access(&app.signed_in("+12125550802").await);
    for (body, problem) in [
        (json!({"platform": "sms", "token": "x"}), "422 invalid_field platform"),
        (json!({"platform": "webhook", "token": "http://app.example.com/"}), "422 invalid_field token"),
        (json!({"platform": "webhook", "token": "https://127.0.0.1/"}), "422 invalid_field token"),
        (json!({"platform": "webpush", "token": {"endpoint": "https://a.example"}}), "422 invalid_field token"),
        (json!({"platform": "fcm"}), "422 invalid_field token"),
    ] {
        assert_eq!(app.call("POST", "/v1/devices", Some(&ann), body.clone()).await.problem(), problem, "{body}");
    }
    assert_eq!(devices(&app, &ann).await, [] as [Value; 0]);

    let hook = register(&app, &ann, "webhook", HOOK).await;
    let id = hook["device_id"].as_str().unwrap().to_owned();
    assert!(hook["secret"].as_str().unwrap().starts_with("whsec_"), "{hook}");
    assert_eq!(register(&app, &ann, "webhook", HOOK).await, hook, "a repeat changes nothing");
    let phone = register(&app, &ann, "fcm", "abc:def-123456").await;
    assert_eq!(phone.as_object().unwrap().len(), 1, "the id alone: {phone}");
    let listed = devices(&app, &ann).await;
    let shown: Vec<_> =
        listed.iter().map(|one| (one["platform"].clone(), one["token"].clone(), one["current"].clone())).collect();
    let expected =
        [(json!("fcm"), json!("…123456"), json!(true)), (json!("webhook"), json!("app.example.com/…"), json!(true))];
    assert_eq!(shown, expected);

    let of_ann = format!("/v1/devices/{id}");
    assert_eq!(app.call("DELETE", &of_ann, Some(&bob), Value::Null).await.problem(), "404 not_found -");
    assert_eq!(
        app.call("DELETE", "/v1/devices", Some(&bob), json!({"device_id": id})).await.problem(),
        "404 not_found -"
    );
    assert_eq!(app.call("DELETE", "/v1/devices/none", Some(&ann), Value::Null).await.problem(), "404 not_found -");
    app.call("DELETE", &of_ann, Some(&ann), Value::Null).await.ok(204);
    assert_eq!(app.call("DELETE", &of_ann, Some(&ann), Value::Null).await.problem(), "404 not_found -");
    app.call("DELETE", "/v1/devices", Some(&ann), json!({"device_id": phone["device_id"]})).await.ok(204);
    assert_eq!(devices(&app, &ann).await, [] as [Value; 0]);

    for n in 0..22 {
        // Time passes, also where it is paused.
        tokio::time::sleep(Duration::from_millis(1)).await;
        register(&app, &ann, "fcm", &format!("token-{n:06}")).await;
    }
    let listed = devices(&app, &ann).await;
    let (newest, oldest) = (&listed[0]["token"], &listed[listed.len() - 1]["token"]);
    assert_eq!((listed.len(), newest, oldest), (20, &json!("…000021"), &json!("…000002")));
}

async fn a_phone_that_is_handed_over_is_the_new_users(backend: Backend) {
    let app = App::on(backend).await;
    let ann = access(&app.signed_in("+12125550803").await);
    let bob = access(&app.signed_in("+12125550804").await);
    let of_ann = register(&app, &ann, "webhook", HOOK).await;
    let of_bob = register(&app, &bob, "webhook", HOOK).await;
    assert_ne!(of_ann["device_id"], of_bob["device_id"]);
    assert_ne!(of_ann["secret"], of_bob["secret"], "the old user's secret is worth nothing");
    assert_eq!((devices(&app, &ann).await.len(), devices(&app, &bob).await.len()), (0, 1));
}

async fn devices_go_with_their_sign_in_and_their_account(backend: Backend) {
    let app = App::on(backend).await;
    let phone = "+12125550805";
    let (one, two) = (access(&app.signed_in(phone).await), access(&app.signed_in(phone).await));
    register(&app, &one, "fcm", "first-token").await;
    register(&app, &two, "fcm", "second-token").await;
    app.call("POST", "/v1/auth/sign-out", Some(&one), json!({})).await.ok(204);
    let left: Vec<_> = devices(&app, &two).await.iter().map(|one| one["token"].clone()).collect();
    assert_eq!(left, ["…-token"]);
    // Another sign-in of the same phone takes the device over, with the same id.
    let three = access(&app.signed_in(phone).await);
    register(&app, &three, "fcm", "second-token").await;
    app.call("POST", "/v1/auth/sign-out", Some(&two), json!({})).await.ok(204);
    assert_eq!(devices(&app, &three).await.len(), 1, "it belongs to the sign-in that registered it last");
    app.call("POST", "/v1/auth/sign-out", Some(&three), json!({"everywhere": true})).await.ok(204);
    let four = access(&app.signed_in(phone).await);
    assert_eq!(devices(&app, &four).await, [] as [Value; 0]);
    // A change of phone ends the other sign-ins alone.
    register(&app, &four, "fcm", "third-token").await;
    let sent = app.call("POST", "/v1/me/phone", Some(&four), json!({"phone": "+12125550806"})).await.ok(202);
    let codes = json!({"change_id": sent["change_id"], "old_code": sent["old_code"], "new_code": sent["new_code"]});
    app.call("POST", "/v1/me/phone/confirm", Some(&four), codes).await.ok(200);
    assert_eq!(devices(&app, &four).await.len(), 1);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Status(u16),
    Hang,
}

/// What a request carried, and how it was answered.
struct Received {
    headers: HeaderMap,
    body: Bytes,
    answer: Answer,
}

impl Received {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    #[track_caller]
    fn verify(&self, secret: &str) {
        let [id, time, signature] =
            ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| self.header(name));
        let at = chrono::DateTime::from_timestamp(time.parse().unwrap(), 0).unwrap();
        Secret::parse(secret).unwrap().verify(id, time, signature, &self.body, at).unwrap();
    }
}

/// A server of the test's own.
struct Sink {
    address: std::net::SocketAddr,
    answer: Arc<Mutex<Answer>>,
    to: mpsc::UnboundedSender<Received>,
    from: mpsc::UnboundedReceiver<Received>,
    server: Option<JoinHandle<()>>,
}

impl Sink {
    async fn new() -> Self {
        let (to, from) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut sink = Self { address, answer: Arc::new(Mutex::new(Answer::Status(204))), to, from, server: None };
        sink.serve(listener);
        sink
    }

    fn serve(&mut self, listener: TcpListener) {
        type Shared = (Arc<Mutex<Answer>>, mpsc::UnboundedSender<Received>);
        let take = async |State((answer, to)): State<Shared>, headers: HeaderMap, body: Bytes| {
            let answer = *answer.lock().unwrap();
            to.send(Received { headers, body, answer }).unwrap();
            match answer {
                Answer::Status(status) => StatusCode::from_u16(status).unwrap(),
                Answer::Hang => std::future::pending().await,
            }
        };
        let routes = axum::Router::new().fallback(take).with_state((self.answer.clone(), self.to.clone()));
        self.server = Some(tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() }));
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// Nobody listens any more.
    async fn refuse(&mut self) {
        let server = self.server.take().unwrap();
        server.abort();
        let _ = server.await;
    }

    async fn listen_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }

    async fn next(&mut self) -> Received {
        tokio::time::timeout(Duration::from_secs(30), self.from.recv()).await.expect("a push in time").unwrap()
    }

    /// The next push that was taken; those that were answered otherwise are skipped.
    async fn next_taken(&mut self) -> Received {
        loop {
            let received = self.next().await;
            if matches!(received.answer, Answer::Status(200..300)) {
                return received;
            }
        }
    }
}

/// A sink is a real socket, and would time out in paused time.
pub(crate) fn real_time(backend: Backend) {
    if backend == Backend::Memory {
        tokio::time::resume();
    }
}

async fn pod(cluster: &Cluster) -> Pod {
    let push = PushConfig { reach: Reach::PublicOrLoopback, wait: Duration::from_secs(2), ..PushConfig::default() };
    let mut pod = cluster.idle_pod("one", Config { push, ..Config::default() }).await;
    pod.run();
    pod
}

pub(crate) async fn call(users: &Users, method: &str, path: &str, token: &str, body: Value) -> Value {
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    let response =
        users.routes().into_router().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
    assert!(response.status().is_success(), "{path}: {}", response.status());
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap_or_default()
}

/// A user with a webhook.
struct Person {
    id: UserId,
    token: String,
    secret: String,
}

impl Person {
    async fn at(pod: &Pod, phone: &str, url: &str) -> Self {
        let (id, token) = sign_in_directly(&pod.users, phone).await;
        let registration = json!({"platform": "webhook", "token": url});
        let registered = call(&pod.users, "POST", "/v1/devices", &token, registration).await;
        Self { id, token, secret: registered["secret"].as_str().unwrap().to_owned() }
    }
}

pub(crate) fn metric_of(pod: &Pod, platform: &str, outcome: &str) -> u64 {
    pod.platform.metrics.pushes.with_label_values(&[platform, outcome]).get()
}

fn metric(pod: &Pod, outcome: &str) -> u64 {
    metric_of(pod, "webhook", outcome) + metric_of(pod, "any", outcome)
}

pub(crate) async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it becomes so in time");
}

fn found(cluster: &Cluster, driver: UserId, passenger: UserId) -> MatchFound {
    cluster.found(driver, passenger, cluster.world.id(), 60)
}

async fn what_no_socket_takes_is_pushed_once(backend: Backend) {
    real_time(backend);
    let (cluster, mut sink) = (Cluster::on(backend).await, Sink::new().await);
    let mut pod = pod(&cluster).await;
    let driver = Person::at(&pod, "+12125550811", &sink.url("driver")).await;
    let passenger = Person::at(&pod, "+12125550812", &sink.url("passenger")).await;
    let (nobody, _) = sign_in_directly(&pod.users, "+12125550813").await;
    let (offer, ride): (_, RideId) = (found(&cluster, driver.id, passenger.id), cluster.world.id());
    cluster.publish(&cluster.ride(ride, &offer, 1, RideStatus::Pickup)).await;
    cluster.publish(&cluster.ride(cluster.world.id(), &found(&cluster, nobody, nobody), 1, RideStatus::Pickup)).await;
    // A socket that is open, and whose client does not answer.
    let mut silent = pod.connect(passenger.id, Some(0)).await;
    silent.pongs = false;
    let shown = silent.event_of("ride.pickup").await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let push = sink.next().await;
        let body = push.json();
        assert_eq!((&body["event_id"], &body["type"]), (&shown["event_id"], &json!("ride.pickup")), "{body}");
        assert_eq!((&body["ride_id"], &body["match_id"]), (&json!(ride), &json!(offer.match_id)));
        let (of, other) = if body["role"] == "driver" { (&driver, &passenger) } else { (&passenger, &driver) };
        push.verify(&of.secret);
        for personal in ["pin", "pickup\":", &of.id.to_string(), &other.id.to_string()] {
            assert!(!body.to_string().contains(personal), "{personal} in {body}");
        }
        ids.push(push.header("webhook-id").to_owned());
    }
    assert_ne!(ids[0], ids[1], "each push has an id of its own");
    until(async || metric(&pod, "sent") == 2).await;
    // The next event comes after it, and nothing in between.
    cluster.publish(&cluster.ride(ride, &offer, 2, RideStatus::Started)).await;
    let next = sink.next().await.json();
    assert_eq!((&next["type"], &next["role"]), (&json!("ride.started"), &json!("passenger")), "{next}");
    drop(silent);
    pod.stop().await;
}

async fn what_a_socket_takes_is_not_pushed(backend: Backend) {
    real_time(backend);
    let (cluster, mut sink) = (Cluster::on(backend).await, Sink::new().await);
    let mut pod = pod(&cluster).await;
    let driver = Person::at(&pod, "+12125550821", &sink.url("driver")).await;
    let passenger = Person::at(&pod, "+12125550822", &sink.url("passenger")).await;
    let (offer, ride): (_, RideId) = (found(&cluster, driver.id, passenger.id), cluster.world.id());
    let (mut d, mut p) = (pod.connect(driver.id, None).await, pod.connect(passenger.id, None).await);
    cluster.publish(&cluster.ride(ride, &offer, 1, RideStatus::Pickup)).await;
    d.event_of("ride.pickup").await;
    p.event_of("ride.pickup").await;
    // Both answer the ping that comes behind the frame.
    tokio::join!(d.quiet(Duration::from_millis(500)), p.quiet(Duration::from_millis(500)));
    until(async || metric(&pod, "taken") == 2).await;
    // An ack shows it as well, also one that comes by HTTP.
    d.pongs = false;
    p.pongs = false;
    cluster.publish(&cluster.ride(ride, &offer, 2, RideStatus::Waiting)).await;
    let waiting = p.event_of("ride.waiting").await;
    let ack = json!({"id": "1", "type": "mailbox.ack", "data": {"seq": waiting["seq"]}});
    call(&pod.users, "POST", "/v1/commands", &passenger.token, ack).await;
    d.close().await;
    p.close().await;
    // The first push is of an event for which no socket is open.
    cluster.publish(&cluster.ride(ride, &offer, 3, RideStatus::Started)).await;
    let push = sink.next().await.json();
    assert_eq!((&push["type"], &push["role"]), (&json!("ride.started"), &json!("passenger")), "{push}");
    until(async || metric(&pod, "sent") == 1).await;
    assert_eq!(metric(&pod, "failed"), 0);
    pod.stop().await;
}

/// How long a sink is down in these tests, seconds; `PUSH_SINK_DOWN_S` makes it longer.
fn down_for() -> Duration {
    Duration::from_secs(std::env::var("PUSH_SINK_DOWN_S").map_or(4, |seconds| seconds.parse().unwrap()))
}

async fn a_sink_that_is_down_receives_each_event_once_afterwards(backend: Backend) {
    real_time(backend);
    let (cluster, mut sink, mut other) = (Cluster::on(backend).await, Sink::new().await, Sink::new().await);
    let mut pod = pod(&cluster).await;
    let mut second = {
        let push = PushConfig { reach: Reach::PublicOrLoopback, wait: Duration::from_secs(2), ..PushConfig::default() };
        cluster.idle_pod("two", Config { push, ..Config::default() }).await
    };
    second.run();
    let driver = Person::at(&pod, "+12125550831", &other.url("driver")).await;
    let passenger = Person::at(&pod, "+12125550832", &sink.url("passenger")).await;
    for down in [Answer::Status(500), Answer::Hang, Answer::Status(0)] {
        if down == Answer::Status(0) {
            sink.refuse().await;
        } else {
            sink.set(down);
        }
        let rides: Vec<RideId> = (0..20).map(|_| cluster.world.id()).collect();
        for ride in &rides {
            cluster
                .publish(&cluster.ride(*ride, &found(&cluster, driver.id, passenger.id), 1, RideStatus::Pickup))
                .await;
        }
        // One that does not work holds up no other.
        for _ in &rides {
            other.next_taken().await.verify(&driver.secret);
        }
        tokio::time::sleep(down_for()).await;
        if down == Answer::Status(0) {
            sink.listen_again().await;
        }
        sink.set(Answer::Status(200));
        let mut taken = Vec::new();
        for _ in &rides {
            let push = sink.next_taken().await;
            push.verify(&passenger.secret);
            taken.push(push.json()["ride_id"].as_str().unwrap().parse::<RideId>().unwrap());
        }
        taken.sort_unstable();
        let mut expected = rides.clone();
        expected.sort_unstable();
        assert_eq!(taken, expected, "each once, after {down:?}");
    }
    assert!(sink.from.try_recv().is_err() && other.from.try_recv().is_err());
    let lines =
        pod.platform.metrics.text(&pod.platform.health) + &second.platform.metrics.text(&second.platform.health);
    assert!(lines.contains(r#"rideshare_http_client_requests_total{outcome="5xx",purpose="push_webhook"}"#), "{lines}");
    pod.stop().await;
    second.stop().await;
}

async fn a_device_that_is_gone_is_removed_and_an_offer_that_is_over_is_not_pushed(backend: Backend) {
    real_time(backend);
    let (cluster, mut sink) = (Cluster::on(backend).await, Sink::new().await);
    let mut pod = pod(&cluster).await;
    let driver = Person::at(&pod, "+12125550841", &sink.url("driver")).await;
    let (passenger, _) = sign_in_directly(&pod.users, "+12125550842").await;
    sink.set(Answer::Status(503));
    let offer = cluster.found(driver.id, passenger, cluster.world.id(), 3);
    cluster.publish(&streams::Event::MatchFound(offer.clone())).await;
    assert_eq!(sink.next().await.json()["type"], "match.found");
    until(async || metric(&pod, "expired") >= 1).await;
    assert!(cluster.world.now() + chrono::Duration::seconds(9) >= offer.expires_at);
    sink.set(Answer::Status(410));
    // Not an offer: that is over.
    cluster.publish(&cluster.ride(cluster.world.id(), &offer, 1, RideStatus::Pickup)).await;
    until(async || metric(&pod, "gone") == 1).await;
    let mut after = Vec::new();
    while let Ok(push) = sink.from.try_recv() {
        after.push((push.answer, push.json()["type"].as_str().unwrap().to_owned()));
    }
    let is_late = |one: &(Answer, String)| one.0 == Answer::Status(410) && one.1 == "match.found";
    assert!(!after.iter().any(is_late), "{after:?}");
    let left = call(&pod.users, "GET", "/v1/devices", &driver.token, Value::Null).await;
    assert_eq!(left["devices"], json!([]));
    pod.stop().await;
}
