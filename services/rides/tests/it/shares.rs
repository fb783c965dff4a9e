//! Links of shared rides: who makes and revokes them, what they show, and when they end.

use axum::http::StatusCode;
use chrono::Duration;
use rides::Config;
use serde_json::{Value, json};
use streams::newest_position::{NEWEST_POSITION, NewestPosition};
use streams::parties::{DriverView, PARTIES, Parties, PassengerView};
use streams::{Event, Position, RideId, RideStatus, UserId, VehicleType};
use testing::{Backend, on_both_stores};
use tokio::task::JoinHandle;

use crate::harness::TestApp;

on_both_stores!(
    a_link_shows_the_vehicle_and_nothing_of_the_passenger,
    a_link_ends_when_it_is_revoked_and_with_the_ride,
    links_are_made_by_parties_and_bounded,
);

/// Answers on `subject` with `reply`.
async fn answer(app: &TestApp, subject: &'static str, reply: Value) -> JoinHandle<()> {
    let mut requests = app.platform.bus.subscribe(subject, Some(subject)).await.unwrap();
    let bus = app.platform.bus.clone();
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            bus.publish_core(&message.reply.unwrap(), reply.to_string().into()).await.unwrap();
        }
    })
}

async fn live_ride(app: &TestApp) -> (RideId, UserId, UserId) {
    let matched = app.matched();
    app.publish(&Event::MatchAccepted(matched.clone())).await;
    let ride = app.event(&matched, RideStatus::Pickup).await.ride_id;
    (ride, matched.driver_id, matched.passenger_id)
}

async fn share(app: &TestApp, user: UserId, ride: RideId) -> (StatusCode, Value) {
    app.call("POST", Some(user), &format!("/v1/rides/{ride}/share"), &Value::Null).await
}

async fn look(app: &TestApp, made: &Value) -> (u16, Value) {
    let (status, body) = app.get(None, &format!("/v1/shares/{}", made["token"].as_str().unwrap())).await;
    (status.as_u16(), body)
}

async fn page_status(app: &TestApp, made: &Value) -> u16 {
    app.get(None, made["url"].as_str().unwrap()).await.0.as_u16()
}

async fn a_link_shows_the_vehicle_and_nothing_of_the_passenger(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let (ride, _, passenger) = live_ride(&app).await;
    let (status, made) = share(&app, passenger, ride).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!(made["token"].as_str().unwrap().len(), 40, "160 bits");
    assert_eq!(made["url"], format!("/s/{}", made["token"].as_str().unwrap()));
    // Without users and location there is the ride alone.
    let (status, shown) = look(&app, &made).await;
    assert_eq!(status, 200, "{shown}");
    assert_eq!((&shown["status"], &shown["location"], &shown["stale"]), (&json!("pickup"), &Value::Null, &json!(true)));

    let now = app.platform.world.now();
    let driver = DriverView {
        name: Some("Dan Driver".to_owned()),
        vehicle_type: VehicleType::Car,
        plate: "AB 12".to_owned(),
        make: Some("Fiat".to_owned()),
        model: None,
        color: None,
        rating: None,
    };
    let pia = PassengerView { name: Some("Pia Passenger".to_owned()), rating: None };
    let users = answer(&app, PARTIES, json!(Parties { driver: Some(driver), passenger: Some(pia) })).await;
    let newest = NewestPosition {
        location: Position { lat: 40.75, lng: -73.98 },
        heading_deg: Some(90.0),
        speed_mps: Some(8.0),
        recorded_at: now,
        received_at: now,
        device: "pixel-8".to_owned(),
        ride_device: true,
        device_at: now,
        is_beacon: false,
    };
    let location = answer(&app, NEWEST_POSITION, json!(newest)).await;
    let (_, shown) = look(&app, &made).await;
    assert_eq!(
        (&shown["driver"], &shown["vehicle"]["plate"], &shown["vehicle"]["make"]),
        (&json!({"first_name": "Dan"}), &json!("AB 12"), &json!("Fiat"))
    );
    assert_eq!(
        (&shown["location"]["lat"], &shown["stale"], &shown["eta_to"]),
        (&json!(40.75), &json!(false), &json!("pickup"))
    );
    assert!(shown["eta_s"].as_f64().unwrap() > 0.0);
    let text = shown.to_string();
    for hidden in ["Pia", "Driver", "passenger", "pixel", "40.7061", &ride.to_string(), &passenger.to_string()] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
    assert_eq!(page_status(&app, &made).await, 200);
    users.abort();
    location.abort();
    app.end().await;
}

async fn a_link_ends_when_it_is_revoked_and_with_the_ride(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let (ride, driver, passenger) = live_ride(&app).await;
    let (_, one) = share(&app, passenger, ride).await;
    let (_, two) = share(&app, driver, ride).await;
    let path = |made: &Value| format!("/v1/rides/{ride}/share/{}", made["share_id"].as_str().unwrap());
    let revoke = async |user, path: &str| app.call("DELETE", Some(user), path, &Value::Null).await.0.as_u16();
    // Neither the other party nor a stranger revokes it; and of another ride it is not.
    assert_eq!(revoke(driver, &path(&one)).await, 404);
    assert_eq!(revoke(app.platform.world.id(), &path(&one)).await, 404);
    let elsewhere = path(&one).replace(&ride.to_string(), &app.platform.world.id::<RideId>().to_string());
    assert_eq!(revoke(passenger, &elsewhere).await, 404);
    assert_eq!(look(&app, &one).await.0, 200);
    assert_eq!([revoke(passenger, &path(&one)).await, revoke(passenger, &path(&one)).await], [204, 204]);
    let ended = look(&app, &one).await;
    assert_eq!((ended.0, &ended.1["code"]), (410, &json!("share_ended")));
    assert_eq!((look(&app, &two).await.0, page_status(&app, &one).await), (200, 410));
    app.cancel(driver, ride).await;
    assert_eq!(look(&app, &two).await, ended, "revoked and over are the same");
    let (status, problem) = share(&app, passenger, ride).await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("ride_over")));
    for unknown in ["x", "0123456789abcdef0123456789abcdef01234567", &"f".repeat(9_000), "%ff", "é"] {
        let (status, _) = app.get(None, &format!("/v1/shares/{}", unknown.replace('é', "%C3%A9"))).await;
        assert_eq!(status.as_u16(), 404, "{unknown}");
    }
    // A day after its time nothing is stored of it.
    let called = ("GET", passenger, &*format!("/v1/shares/{}", two["token"].as_str().unwrap()));
    assert_eq!(app.call_later(Duration::hours(25), called, &Value::Null).await.0.as_u16(), 410);
    app.purge_later(Duration::hours(49)).await;
    assert_eq!(look(&app, &two).await.0, 404);
    app.end().await;
}

async fn links_are_made_by_parties_and_bounded(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let (ride, driver, passenger) = live_ride(&app).await;
    assert_eq!(share(&app, app.platform.world.id(), ride).await.0.as_u16(), 404);
    assert_eq!(share(&app, passenger, app.platform.world.id()).await.0.as_u16(), 404);
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(share(&app, passenger, ride).await.1);
    }
    let (status, problem) = share(&app, passenger, ride).await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("too_many_shares")));
    assert_eq!(share(&app, driver, ride).await.0.as_u16(), 201, "the other party has its own");
    let list = async |user| app.get(Some(user), &format!("/v1/rides/{ride}/share")).await.1["shares"].clone();
    let listed = list(passenger).await;
    assert_eq!((listed.as_array().unwrap().len(), list(driver).await.as_array().unwrap().len()), (5, 1));
    assert!(!listed.to_string().contains(made[0]["token"].as_str().unwrap()), "the token is nowhere");
    let path = format!("/v1/rides/{ride}/share/{}", made[0]["share_id"].as_str().unwrap());
    app.call("DELETE", Some(passenger), &path, &Value::Null).await;
    assert_eq!(share(&app, passenger, ride).await.0.as_u16(), 201);
    app.end().await;
}
