//! Failures of the nearest system that must never happen here. Each test is named for the failure: it does what led to it, on the
//! whole platform and from outside, and passes if it does not happen.
//!
//! Many have a sharper test beside the rule, mostly under the same name: `grep -rn 'fn <name>' services streams`. Failures of
//! several processes, or of servers, are tested on NATS only.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use platform::World;
use serde_json::{Value, json};
use streams::bus::{MESSAGE_ID, ReplayStart, StoredMessage};
use streams::topology::Topology;
use streams::{Bus, Headers, Message, Service};

use crate::harness::client::{Person, Socket, WAIT, http};
use crate::harness::nats::Nats;
use crate::harness::ride::{at, online, trip};
use crate::harness::running::{Running, Shape, shared, start};
use crate::harness::{on_both_shapes, until};

on_both_shapes!(
    a_message_id_made_of_now_never_deduplicates,
    redelivery_bills_twice,
    a_driver_gets_two_live_rides,
    a_passenger_gets_two_live_rides,
    a_stranger_accepts_rejects_starts_or_ends_others_rides,
    a_driver_bills_anothers_ride,
    a_user_reads_anothers_profile,
    a_sign_up_asks_for_role_admin,
    many_short_hops_bill_nothing,
    an_old_socket_closing_removes_the_new_one,
    offline_drivers_stay_offered,
    a_waiting_passenger_is_never_matched_when_a_driver_comes_later,
    a_noisy_gps_point_of_100_km_is_billed,
    an_error_text_with_quotes_breaks_the_frame,
);

/// The test's rides take milliseconds: no point may count as a GPS jump.
const AT_ANY_SPEED: [&str; 2] = ["--track-max-speed-mps", "1000000"];

/// A running platform with a driver and a passenger.
struct Pair {
    running: Running,
    driver: Person,
    passenger: Person,
    d: Socket,
    p: Socket,
}

impl Pair {
    async fn start(shape: Shape) -> Self {
        Self::on(Running::start(shape, &AT_ANY_SPEED).await).await
    }

    async fn on(running: Running) -> Self {
        let (driver, passenger) = (Person::driver(running.addr(), 1).await, Person::passenger(running.addr(), 2).await);
        let (mut d, p) = (driver.connect(None).await, passenger.connect(None).await);
        online(&mut d, 40.751).await;
        Self { running, driver, passenger, d, p }
    }

    fn bus(&self) -> &Bus {
        self.running.bus()
    }

    /// Searches; returns the offer that both receive.
    async fn offer(&mut self) -> Value {
        self.p.ack("finder.update", trip()).await;
        self.p.event("match.found").await;
        self.d.event("match.found").await["data"].clone()
    }

    /// Searches, accepts and starts; returns the ride's id.
    async fn start_ride(&mut self) -> Value {
        let offer = self.offer().await;
        self.d.ack("match.accept", json!({"match_id": offer["match_id"]})).await;
        let pickup = self.p.event("ride.pickup").await["data"].clone();
        self.d.ack("ride.start", json!({"ride_id": pickup["ride_id"], "pin": pickup["pin"]})).await;
        self.d.event("ride.started").await;
        self.p.event("ride.started").await;
        pickup["ride_id"].clone()
    }

    /// Sends the points, arrives, and returns the completed ride.
    async fn bill(&mut self, ride_id: &Value, points: &[(f64, f64)]) -> Value {
        let recorded = World::real().now();
        let points: Vec<Value> = (0i64..)
            .zip(points)
            .map(|(n, &(lat, lng))| {
                let recorded_at = recorded + chrono::Duration::milliseconds(2 * n);
                json!({"location": at(lat, lng), "recorded_at": recorded_at.to_rfc3339()})
            })
            .collect();
        for some in points.chunks(50) {
            self.d.ack("location.update", json!({"points": some})).await;
        }
        // A point recorded after the arrival does not count.
        tokio::time::sleep(Duration::from_millis(2 * points.len() as u64)).await;
        self.d.ack("ride.arrive", json!({"ride_id": ride_id})).await;
        self.d.event("ride.completed").await;
        self.p.event("ride.completed").await["data"].clone()
    }

    async fn ride(&mut self) -> Value {
        let ride_id = self.start_ride().await;
        self.bill(&ride_id, &[(40.75, -73.98), (40.755, -73.975), (40.76, -73.97)]).await
    }

    async fn id(&self, who: &Person) -> Value {
        who.get("/v1/me").await.1["id"].clone()
    }

    async fn stop(self) {
        let Self { running, d, p, .. } = self;
        drop((d, p));
        running.stop().await;
    }
}

/// Everything that `stream` holds.
async fn stored(bus: &Bus, stream: &str) -> Vec<StoredMessage> {
    let count = bus.stream_info(stream).await.unwrap().messages;
    let mut replay = bus.replay(stream, None, ReplayStart::Sequence(1)).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(replay.next(WAIT).await.unwrap().unwrap());
    }
    all
}

/// Publishes a body as a foreign producer does: without headers, so that only its content shows a duplicate.
async fn publish(bus: &Bus, subject: &str, body: &[u8]) {
    let payload = Bytes::copy_from_slice(body);
    bus.publish(Message { subject: subject.to_owned(), headers: Headers::default(), payload }).await.unwrap();
}

#[tokio::test]
async fn a_consumer_that_is_away_8_s_loses_its_messages() {
    let nats = Nats::start().await;
    let settings = shared(&nats, &[]).await;
    let others = [Service::Users, Service::Rides, Service::Location];
    let first = start(&settings, &[Service::Match]).await.remove(0);
    let mut apps = start(&settings, &others).await;
    let addr = apps[0].addr;
    assert!(first.stop().await);
    let mut driver = Person::driver(addr, 1).await.connect(None).await;
    let mut passenger = Person::passenger(addr, 2).await.connect(None).await;
    online(&mut driver, 40.751).await;
    passenger.ack("finder.update", trip()).await;
    // No process of match runs for so long.
    tokio::time::sleep(Duration::from_millis(8_500)).await;
    apps.extend(start(&settings, &[Service::Match]).await);
    driver.event("match.found").await;
    passenger.event("match.found").await;
    drop((driver, passenger));
    Running::of(apps, nats, settings).await.stop().await;
}

#[tokio::test]
async fn a_second_process_of_a_service_kills_the_first_ones_consumers() {
    let mut pair = Pair::start(Shape::Nats).await;
    let settings = pair.running.settings.clone();
    let second = start(&settings, &Service::ALL).await;
    assert_eq!(pair.bus().compare(&Topology::rideshare()).await.unwrap(), Vec::<String>::new());
    pair.ride().await;
    // It ends, and deletes nothing of the first one's.
    for app in second {
        assert!(app.stop().await);
    }
    assert_eq!(pair.bus().compare(&Topology::rideshare()).await.unwrap(), Vec::<String>::new());
    online(&mut pair.d, 40.751).await;
    pair.ride().await;
    pair.stop().await;
}

#[tokio::test]
async fn publish_fails_after_commit_and_the_event_is_never_sent() {
    let mut pair = Pair::start(Shape::Nats).await;
    pair.running.settled().await;
    let addr = pair.running.addr();
    pair.running.nats_mut().kill();
    until("health is red", async || http(addr, "GET", "/health/ready", None, None).await.0 == 503).await;
    // Committed, and acked to the client, while nothing can be published.
    pair.p.ack("finder.update", trip()).await;
    pair.running.nats_mut().start_again();
    pair.running.nats().apply_if_secured().await;
    pair.p.event("match.found").await;
    pair.d.event("match.found").await;
    pair.stop().await;
}

async fn a_message_id_made_of_now_never_deduplicates(shape: Shape) {
    let mut pair = Pair::start(shape).await;
    pair.ride().await;
    let trail = stored(pair.bus(), "RIDE_STREAM").await;
    assert_eq!(trail.len(), 4);
    for StoredMessage { subject, headers, payload, sequence, .. } in trail {
        let body: Value = serde_json::from_slice(&payload).unwrap();
        let occurred_at: chrono::DateTime<chrono::Utc> = body["occurred_at"].as_str().unwrap().parse().unwrap();
        let id = format!("{subject}-{}-{}", body["ride_id"].as_str().unwrap(), occurred_at.timestamp_micros());
        assert_eq!(headers.find(MESSAGE_ID), Some(id.as_str()));
        let again = pair.bus().publish(Message { subject, headers, payload }).await.unwrap();
        assert!(again.duplicate && again.sequence == sequence, "{again:?}");
    }
    pair.stop().await;
}

async fn redelivery_bills_twice(shape: Shape) {
    let mut pair = Pair::start(shape).await;
    let mut captures = pair.bus().subscribe("payment.capture", None).await.unwrap();
    let mut aggregates = pair.bus().subscribe("location.aggregate", None).await.unwrap();
    let completed = pair.ride().await;
    let capture = tokio::time::timeout(WAIT, captures.next()).await.unwrap().unwrap().payload;
    let last = loop {
        let aggregate = tokio::time::timeout(WAIT, aggregates.next()).await.unwrap().unwrap().payload;
        if serde_json::from_slice::<Value>(&aggregate).unwrap()["final"] == true {
            break aggregate;
        }
    };
    pair.running.settled().await;
    // Both again, without the ids that the inboxes have.
    for _ in 0..2 {
        publish(pair.bus(), "location.aggregate", &last).await;
        publish(pair.bus(), "payment.capture", &capture).await;
    }
    pair.running.settled().await;
    assert_eq!(stored(pair.bus(), "RIDE_STREAM").await.len(), 4, "one completion");
    for _ in 0..2 {
        tokio::time::timeout(WAIT, captures.next()).await.unwrap().unwrap();
    }
    assert!(captures.next().now_or_never().is_none(), "the test's own two captures and no other");
    let path = format!("/v1/rides/{}", completed["ride_id"].as_str().unwrap());
    let (status, receipt) = pair.passenger.get(&path).await;
    assert_eq!((status, &receipt["fare"]["total"]), (200, &completed["fare"]["total"]));
    pair.stop().await;
}

async fn two_live_rides(shape: Shape, shared: &str) {
    let pair = Pair::start(shape).await;
    let (driver, passenger) = (pair.id(&pair.driver).await, pair.id(&pair.passenger).await);
    let somebody = Person::driver(pair.running.addr(), 3).await;
    let other = pair.id(&somebody).await;
    let world = World::real();
    for n in 0..2 {
        let [match_id, request_id] =
            [world.id::<streams::MatchId>().to_string(), world.id::<streams::MatchId>().to_string()];
        let mut body = json!({
            "match_id": match_id, "request_id": request_id, "driver_id": driver, "passenger_id": passenger,
            "pickup": at(40.75, -73.98), "dropoff": at(40.76, -73.97), "vehicle_type": "car",
            "accepted_at": world.now().to_rfc3339(),
        });
        if n == 1 {
            let differs = if shared == "driver_id" { "passenger_id" } else { "driver_id" };
            body[differs] = other.clone();
        }
        publish(pair.bus(), "match.accepted", body.to_string().as_bytes()).await;
    }
    // One becomes a ride; the parties of the other receive match.rejected.
    let both = if shared == "driver_id" { &pair.driver } else { &pair.passenger };
    let mut socket = both.connect(Some(0)).await;
    let pickup = socket.event("ride.pickup").await["data"].clone();
    let mut socket = both.connect(Some(0)).await;
    let rejected = socket.event("match.rejected").await["data"].clone();
    assert_eq!(rejected["reason"], "superseded");
    assert_ne!(rejected["match_id"], pickup["match_id"]);
    pair.running.settled().await;
    assert_eq!(stored(pair.bus(), "RIDE_STREAM").await.len(), 1);
    drop(socket);
    pair.stop().await;
}

async fn a_driver_gets_two_live_rides(shape: Shape) {
    Box::pin(two_live_rides(shape, "driver_id")).await;
}

async fn a_passenger_gets_two_live_rides(shape: Shape) {
    Box::pin(two_live_rides(shape, "passenger_id")).await;
}

async fn a_stranger_accepts_rejects_starts_or_ends_others_rides(shape: Shape) {
    let mut pair = Pair::start(shape).await;
    let mut stranger = Person::driver(pair.running.addr(), 3).await.connect(None).await;
    let offer = pair.offer().await;
    let of = json!({"match_id": offer["match_id"]});
    assert_eq!(stranger.refused("match.accept", of.clone()).await, "not_found");
    assert_eq!(
        stranger.refused("match.reject", json!({"match_id": offer["match_id"], "reason": "x"})).await,
        "not_found"
    );
    pair.d.ack("match.accept", of).await;
    let pickup = pair.p.event("ride.pickup").await["data"].clone();
    let ride_id = &pickup["ride_id"];
    // With the right PIN, too.
    let start = json!({"ride_id": ride_id, "pin": pickup["pin"]});
    assert_eq!(stranger.refused("ride.start", start.clone()).await, "not_found");
    pair.d.ack("ride.start", start).await;
    assert_eq!(stranger.refused("ride.arrive", json!({"ride_id": ride_id})).await, "not_found");
    assert_eq!(stranger.refused("ride.cancel", json!({"ride_id": ride_id, "reason": "x"})).await, "not_found");
    let completed = pair.bill(ride_id, &[(40.75, -73.98), (40.76, -73.97)]).await;
    assert_eq!(completed["version"], 4);
    drop(stranger);
    pair.stop().await;
}

async fn a_driver_bills_anothers_ride(shape: Shape) {
    let mut pair = Pair::start(shape).await;
    let thief = Person::driver(pair.running.addr(), 3).await;
    let mut t = thief.connect(None).await;
    let ride_id = pair.start_ride().await;
    // By points that name the ride, and by an aggregate that names it.
    online(&mut t, 40.0).await;
    let now = World::real().now().to_rfc3339();
    let ahead = (World::real().now() + chrono::Duration::seconds(1)).to_rfc3339();
    for (lat, recorded_at) in [(40.0, &now), (49.0, &ahead)] {
        let point = json!({"ride_id": ride_id, "location": at(lat, -73.0), "recorded_at": recorded_at});
        t.command("location.update", point).await;
    }
    let last = json!({"location": at(49.0, -73.0), "recorded_at": now});
    let forged = json!({
        "ride_id": ride_id, "driver_id": pair.id(&thief).await, "distance_m": 1e6, "points": 2, "last": last, "final": true,
    });
    publish(pair.bus(), "location.aggregate", forged.to_string().as_bytes()).await;
    assert_eq!(t.refused("ride.arrive", json!({"ride_id": ride_id})).await, "not_found");
    let completed = pair.bill(&ride_id, &[(40.75, -73.98), (40.76, -73.98)]).await;
    let driven = completed["distance_m"].as_f64().unwrap();
    assert!((1_000.0..1_300.0).contains(&driven), "{driven}");
    drop(t);
    pair.stop().await;
}

async fn a_user_reads_anothers_profile(shape: Shape) {
    let pair = Pair::start(shape).await;
    let (driver, passenger) = (pair.id(&pair.driver).await, pair.id(&pair.passenger).await);
    let id = driver.as_str().unwrap();
    for path in ["users", "me", "drivers", "profiles"] {
        assert_eq!(pair.passenger.get(&format!("/v1/{path}/{id}")).await.0, 404, "{path}");
    }
    for query in ["id", "user_id"] {
        assert_eq!(pair.passenger.get(&format!("/v1/me?{query}={id}")).await.1["id"], passenger);
    }
    let near = "/v1/drivers/nearby?lat=40.75&lng=-73.98&radius_m=5000&limit=10";
    until("the driver is shown, without a name", async || {
        let (status, answer) = pair.passenger.get(near).await;
        // Whoever looks again and again is refused now and then.
        assert!(status == 200 || answer["limit"] == "nearby", "{answer}");
        assert!(!answer.to_string().contains(id), "{answer}");
        answer["drivers"].as_array().is_some_and(|drivers| !drivers.is_empty())
    })
    .await;
    assert_eq!(http(pair.running.addr(), "GET", "/v1/me", None, None).await.0, 401);
    pair.stop().await;
}

async fn a_sign_up_asks_for_role_admin(shape: Shape) {
    let running = Running::start(shape, &[]).await;
    let (addr, phone) = (running.addr(), "+12122340009");
    let with_roles = |mut body: Value| {
        body["role"] = json!("admin");
        body["roles"] = json!(["admin", "driver"]);
        Some(body)
    };
    let (_, otp) = http(addr, "POST", "/v1/auth/otp", None, with_roles(json!({"phone": phone}))).await;
    let body = json!({"phone": phone, "code": otp["code"]});
    let (_, signed) = http(addr, "POST", "/v1/auth/token", None, with_roles(body)).await;
    let token = signed["access_token"].as_str();
    assert_eq!(signed["user"]["roles"], json!(["passenger"]));
    let (_, patched) = http(addr, "PATCH", "/v1/me", token, with_roles(json!({"name": "Ann"}))).await;
    assert_eq!(patched["roles"], json!(["passenger"]));
    let body = json!({"vehicle_type": "car", "plate": "T 1"});
    let (_, driver) = http(addr, "POST", "/v1/drivers", token, with_roles(body)).await;
    assert_eq!(driver["roles"], json!(["passenger", "driver"]));
    running.stop().await;
}

async fn many_short_hops_bill_nothing(shape: Shape) {
    let mut pair = Pair::start(shape).await;
    let ride_id = pair.start_ride().await;
    // Two kilometres in 200 hops of 10 m.
    let hops: Vec<(f64, f64)> = (0..=200).map(|n| (40.75 + f64::from(n) * 9e-5, -73.98)).collect();
    let driven = pair.bill(&ride_id, &hops).await["distance_m"].as_f64().unwrap();
    assert!((1_900.0..2_050.0).contains(&driven), "{driven}");
    pair.stop().await;
}

async fn an_old_socket_closing_removes_the_new_one(shape: Shape) {
    let mut pair = Pair::start(shape).await;
    let mut new = pair.driver.connect(None).await;
    online(&mut new, 40.751).await;
    let old = std::mem::replace(&mut pair.d, new);
    drop(old);
    let url = "/metrics";
    until("two sockets are open", async || {
        let (_, text) = http(pair.running.addr(), "GET", url, None, None).await;
        text.as_str().unwrap_or_default().lines().any(|l| l.starts_with("rideshare_sockets") && l.ends_with(" 2"))
    })
    .await;
    pair.ride().await;
    pair.stop().await;
}

async fn offline_drivers_stay_offered(shape: Shape) {
    let mut pair = Pair::start(shape).await;
    let mut far = Person::driver(pair.running.addr(), 3).await.connect(None).await;
    online(&mut far, 40.765).await;
    pair.d.ack("beacon.update", json!({"active": false, "location": at(40.751, -73.98)})).await;
    pair.running.settled().await;
    pair.p.ack("finder.update", trip()).await;
    let offer = far.event("match.found").await;
    let offered = pair.p.event("match.found").await["data"]["match_id"].clone();
    assert_eq!(offered, offer["data"]["match_id"], "the nearer driver is offline");
    drop(far);
    pair.stop().await;
}

async fn a_waiting_passenger_is_never_matched_when_a_driver_comes_later(shape: Shape) {
    let running = Running::start(shape, &[]).await;
    let (driver, passenger) = (Person::driver(running.addr(), 1).await, Person::passenger(running.addr(), 2).await);
    let (mut d, mut p) = (driver.connect(None).await, passenger.connect(None).await);
    p.ack("finder.update", trip()).await;
    running.settled().await;
    online(&mut d, 40.751).await;
    d.event("match.found").await;
    p.event("match.found").await;
    drop((d, p));
    running.stop().await;
}

async fn a_noisy_gps_point_of_100_km_is_billed(shape: Shape) {
    let mut pair = Pair::start(shape).await;
    let ride_id = pair.start_ride().await;
    let way = [(40.75, -73.98), (40.752, -73.98), (41.65, -73.98), (40.754, -73.98), (40.76, -73.98)];
    let driven = pair.bill(&ride_id, &way).await["distance_m"].as_f64().unwrap();
    assert!((1_000.0..1_300.0).contains(&driven), "{driven}");
    pair.stop().await;
}

async fn an_error_text_with_quotes_breaks_the_frame(shape: Shape) {
    let mut pair = Pair::start(shape).await;
    for wrong in [r#"no "such" \type"#, "line\nbreak", "\u{1}\u{2028}"] {
        // (A frame that is no JSON would end the client.)
        let frame = pair.p.command(wrong, json!({wrong: wrong})).await;
        assert_eq!(frame["type"], "error", "{frame}");
        assert!(frame["error"]["message"].is_string(), "{frame}");
    }
    let offer = pair.offer().await;
    let reason = r#"a "long" \lunch\ {"type": "ack"}"#;
    pair.d.ack("match.reject", json!({"match_id": offer["match_id"], "reason": reason})).await;
    assert_eq!(pair.p.event("match.rejected").await["data"]["reason"], "declined");
    pair.stop().await;
}
