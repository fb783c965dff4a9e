//! The state of a user and commands over HTTP: the same as over a socket.

use axum::http::StatusCode;
use serde_json::{Value, json};
use streams::debts::{DEBTS, DebtView};
use streams::{RideId, RideStatus, UserId};
use testing::{Backend, on_both_stores};

use crate::client::{id_of, match_id, trip};
use crate::commands::Pair;
use crate::pods::{Cluster, HERE, Pod, THERE};

on_both_stores!(
    the_state_follows_a_ride_for_both_and_is_that_of_the_welcome,
    who_connects_with_the_seq_of_a_state_misses_and_doubles_nothing,
    every_command_has_the_same_meaning_over_http,
    a_beacon_over_http_makes_nobody_available,
    positions_over_http_belong_to_the_ride_and_its_device,
);

impl Pod {
    /// A request of a user with an access token.
    pub(crate) async fn http(&self, user: UserId, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        use axum::body::Body;
        use axum::http::{Request, header};
        use http_body_util::BodyExt;
        use tower::ServiceExt;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.tokens.access(user)))
            .body(Body::from(body.to_string()))
            .unwrap();
        let response = self.users.routes().into_router().oneshot(request).await.unwrap();
        let (status, body) = (response.status(), response.into_body().collect().await.unwrap().to_bytes());
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    pub(crate) async fn state(&self, user: UserId) -> Value {
        let (status, state) = self.http(user, "GET", "/v1/state", Value::Null).await;
        assert_eq!(status, 200, "{state}");
        state
    }

    /// A command over HTTP: the data of its ack, or the status, code and field of the problem.
    pub(crate) async fn command(&self, user: UserId, kind: &str, data: Value) -> Result<Value, String> {
        self.command_on("", user, kind, data).await
    }

    async fn command_on(&self, query: &str, user: UserId, kind: &str, data: Value) -> Result<Value, String> {
        let body = json!({"id": "x", "type": kind, "data": data});
        match self.http(user, "POST", &format!("/v1/commands{query}"), body).await {
            (StatusCode::OK, data) => Ok(data),
            (status, problem) => {
                let field = problem["field"].as_str().unwrap_or("-");
                Err(format!("{} {} {field}", status.as_u16(), problem["code"].as_str().unwrap()))
            }
        }
    }
}

/// The parts of a state that are not null.
fn parts(state: &Value) -> Vec<&str> {
    let all = ["search", "offer", "ride", "beacon", "debts"];
    all.into_iter().filter(|part| !state[*part].is_null()).collect()
}

async fn the_state_follows_a_ride_for_both_and_is_that_of_the_welcome(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let stranger = pod.passenger("+12125553100").await;
    let state = pod.state(stranger).await;
    assert_eq!((parts(&state), &state["seq"], &state["user"]["phone"]), (vec![], &json!(0), &json!("+12125553100")));
    assert_eq!(state["unavailable"], json!(["debts"]), "nobody answers for rides");

    let mut pair = Pair::offered(&cluster, &pod, 310, 60).await;
    pod.http(pair.passenger, "PATCH", "/v1/me", json!({"name": "Pia"})).await;
    pair.d.ack("beacon.update", json!({"active": true, "location": HERE})).await;
    let (d, p) = (pod.state(pair.driver).await, pod.state(pair.passenger).await);
    assert_eq!((parts(&d), parts(&p)), (vec!["offer", "beacon"], vec!["search", "offer"]));
    assert_eq!(d["beacon"]["active"], json!(true));
    assert_eq!(d["beacon"]["connected"], json!(true));
    assert_eq!(p["search"]["request_id"], json!(pair.found.request_id));
    assert!(p["search"]["expires_at"].is_string() && p["search"]["pickup"] == json!(HERE));
    for (state, is_driver) in [(&d, true), (&p, false)] {
        let offer = &state["offer"];
        assert_eq!((&offer["match_id"], &offer["state"]), (&json!(pair.found.match_id), &json!("open")));
        assert!((50.0..=60.0).contains(&offer["expires_in_s"].as_f64().unwrap()));
        assert_eq!(offer.get("dropoff").is_none(), is_driver, "{offer}");
        assert_eq!(offer["driver"]["plate"].is_string(), !is_driver);
        assert!(offer["passenger"].is_null());
    }
    pair.d.ack("match.accept", match_id(&pair.found)).await;
    let d = pod.state(pair.driver).await;
    assert_eq!((&d["offer"]["state"], &d["offer"]["dropoff"]), (&json!("accepted"), &json!(THERE)));
    assert_eq!(d["offer"]["passenger"]["name"], "Pia");

    let ride: RideId = cluster.world.id();
    cluster.publish(&cluster.ride(ride, &pair.found, 1, RideStatus::Pickup)).await;
    let pickup = pair.p.event_of("ride.pickup").await;
    pair.d.event_of("ride.pickup").await;
    let (d, p) = (pod.state(pair.driver).await, pod.state(pair.passenger).await);
    assert_eq!((parts(&d), parts(&p)), (vec!["ride", "beacon"], vec!["ride"]), "{d} {p}");
    assert_eq!(p["ride"], pickup["data"], "as the frame");
    assert!(p["ride"]["pin"].is_string() && d["ride"]["pin"].is_null());
    assert_eq!(
        (&d["ride"]["passenger"], &p["ride"]["passenger"]),
        (&json!({"name": "Pia", "rating": null}), &Value::Null)
    );
    // The welcome of a phone that knows nothing has the same.
    let welcome = pod.connect(pair.passenger, None).await.welcome;
    assert_eq!((&welcome["state"]["ride"], &welcome["state"]["seq"]), (&p["ride"], &welcome["last_seq"]));
    cluster.publish(&cluster.ride(ride, &pair.found, 2, RideStatus::Started)).await;
    pair.p.event_of("ride.started").await;
    let p = pod.state(pair.passenger).await;
    assert_eq!((&p["ride"]["status"], &p["ride"]["pin"]), (&json!("started"), &Value::Null));
    cluster.publish(&cluster.ride(ride, &pair.found, 3, RideStatus::Cancelled)).await;
    pair.p.event_of("ride.cancelled").await;
    assert_eq!(
        (parts(&pod.state(pair.passenger).await), parts(&pod.state(pair.driver).await)),
        (vec![], vec!["beacon"])
    );

    // What rides says of debts.
    let mut requests = cluster.bus.subscribe(DEBTS, Some(DEBTS)).await.unwrap();
    let bus = cluster.bus.clone();
    let debt = DebtView {
        debt_id: cluster.world.id(),
        ride_id: ride,
        amount: streams::Money::usd(700),
        since: cluster.world.now(),
    };
    let replies = [vec![debt.clone()], vec![]];
    let answering = tokio::spawn(async move {
        for debts in replies {
            let message = requests.next().await.unwrap();
            bus.publish_core(&message.reply.unwrap(), serde_json::to_vec(&debts).unwrap().into()).await.unwrap();
        }
    });
    // Until now nobody answered, and after a while rides is asked again.
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    let state = pod.state(pair.passenger).await;
    assert_eq!((&state["debts"], state.get("unavailable")), (&json!([debt]), None));
    let state = pod.state(pair.passenger).await;
    assert_eq!((&state["debts"], state.get("unavailable")), (&Value::Null, None));
    answering.await.unwrap();
    pod.stop().await;
}

async fn who_connects_with_the_seq_of_a_state_misses_and_doubles_nothing(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125553101").await;
    let mut first = pod.connect(user, None).await;
    for round in 0..10_u64 {
        cluster.publish_searches(user, 3).await;
        let state = pod.state(user).await;
        let seq = state["seq"].as_u64().unwrap();
        let mut again = pod.connect(user, Some(seq)).await;
        assert!(again.welcome["missed"].is_null());
        let rest = usize::try_from((round + 1) * 3 - seq).unwrap();
        assert_eq!(again.seqs(rest).await, (seq + 1..=(round + 1) * 3).collect::<Vec<_>>());
        again.close().await;
        first.seqs(3).await;
    }
    pod.stop().await;
}

async fn every_command_has_the_same_meaning_over_http(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 311, 60).await;
    let (driver, passenger) = (pair.driver, pair.passenger);
    // The repeat of a command that came over the socket, and of one that came over HTTP.
    let request = json!({"request_id": pair.found.request_id});
    assert_eq!(pod.command(passenger, "finder.update", trip(THERE)).await, Ok(request));
    for _ in 0..2 {
        assert_eq!(pod.command(driver, "match.accept", match_id(&pair.found)).await, Ok(match_id(&pair.found)));
    }
    assert_eq!(pair.d.ack("match.accept", match_id(&pair.found)).await, match_id(&pair.found));
    assert_eq!(pair.d.event_of("match.accepted").await["data"]["dropoff"], json!(THERE));
    for (user, kind, data, expected) in [
        (driver, "match.reject", match_id(&pair.found), "409 offer_closed -"),
        (passenger, "match.accept", match_id(&pair.found), "404 not_found -"),
        (passenger, "beacon.update", json!({"active": true, "location": HERE}), "403 not_driver -"),
        (passenger, "finder.update", json!({"active": true}), "422 invalid_field pickup"),
        (passenger, "mailbox.ack", json!({"seq": 1_000}), "422 invalid_field seq"),
        (passenger, "dance", json!({}), "422 unknown_type type"),
        (passenger, "auth.refresh", json!({"access_token": "x"}), "422 unknown_type type"),
        (passenger, "ride.arrive", json!({"ride_id": passenger}), "503 unavailable -"),
        (driver, "location.update", json!({"points": []}), "422 invalid_field points"),
    ] {
        assert_eq!(pod.command(user, kind, data).await, Err(expected.to_owned()), "{kind}");
    }
    assert_eq!(
        pod.command_on("?device=a%20b", passenger, "mailbox.ack", json!({"seq": 1})).await,
        Err("422 invalid_field device".to_owned())
    );
    // The mark is that of the device.
    assert_eq!(
        pod.command_on("?device=phone", passenger, "mailbox.ack", json!({"seq": 1})).await,
        Ok(json!({"seq": 1}))
    );
    let (status, problem) = pod.http(passenger, "POST", "/v1/commands", json!([1])).await;
    assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("invalid_frame")));
    let search = pod.command(driver, "finder.update", trip(HERE)).await.unwrap();
    assert_eq!(pod.command(driver, "finder.update", json!({"active": false})).await, Ok(search));
    pod.stop().await;
}

async fn a_beacon_over_http_makes_nobody_available(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let driver = pod.driver("+12125553102").await;
    let on = json!({"active": true, "location": HERE});
    assert_eq!(pod.command(driver, "beacon.update", on.clone()).await, Ok(json!({"active": true})));
    let state = pod.state(driver).await;
    assert_eq!((&state["beacon"]["active"], &state["beacon"]["connected"]), (&json!(true), &json!(false)));
    assert_eq!(state["seq"], 0, "nothing was published");
    // The socket makes it so, and then a request does what a frame does.
    let mut d = pod.connect(driver, Some(0)).await;
    assert_eq!(d.event_of("user.beacon").await["data"]["active"], json!(true));
    pod.command(driver, "beacon.update", json!({"active": false})).await.unwrap();
    assert_eq!(d.event_of("user.beacon").await["data"]["active"], json!(false));
    pod.command(driver, "beacon.update", on).await.unwrap();
    assert_eq!(d.event_of("user.beacon").await["data"]["active"], json!(true));
    pod.stop().await;
}

async fn positions_over_http_belong_to_the_ride_and_its_device(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 312, 60).await;
    pod.command_on("?device=phone", pair.driver, "match.accept", match_id(&pair.found)).await.unwrap();
    let ride: RideId = cluster.world.id();
    cluster.publish(&cluster.ride(ride, &pair.found, 1, RideStatus::Pickup)).await;
    pair.d.event_of("ride.pickup").await;
    let mut updates = cluster.bus.subscribe("location.update", None).await.unwrap();
    let at = |time: chrono::DateTime<chrono::Utc>| json!({"location": HERE, "recorded_at": time.to_rfc3339()});
    let data = json!({"points": [at(cluster.world.now()), {"location": {"lat": 91.0, "lng": 0.0}}]});
    let acked = pod.command_on("?device=phone", pair.driver, "location.update", data).await.unwrap();
    assert_eq!((&acked["points"], &acked["refused"][0]["index"]), (&json!(1), &json!(1)));
    let update: Value = serde_json::from_slice(&updates.next().await.unwrap().payload).unwrap();
    assert_eq!(id_of(&update, "ride_id"), ride.0);
    assert_eq!(update["reception"]["device"], "phone");
    assert_eq!(update["reception"]["ride_device"], true);
    let Err(refused) = pod.command(pair.passenger, "location.update", at(cluster.world.now())).await else { panic!() };
    assert_eq!(refused, "403 not_driver -");
    pod.stop().await;
}
