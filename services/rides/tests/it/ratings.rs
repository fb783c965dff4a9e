//! Ratings: who may give one, what it changes, and what becomes of it when an account ends.

use axum::http::StatusCode;
use chrono::Duration;
use rides::Config;
use serde_json::{Value, json};
use streams::event::MatchAccepted;
use streams::person::{PERSON, PERSON_WAIT, PersonList, PersonPage, PersonRequest};
use streams::ratings::{MeanRating, RATINGS, RATINGS_WAIT, RatingsRequest};
use streams::{Event, RideId, RideStatus, UserId};
use testing::{Backend, on_both_stores};

use crate::harness::TestApp;

on_both_stores!(
    each_party_rates_once_after_the_end,
    a_mean_shows_no_rating_before_both_have_given_theirs,
    of_an_account_that_ended_the_stars_stay_and_nothing_else,
    parties_who_rate_at_the_same_time_see_each_other,
);

const HOURS_72: Duration = Duration::hours(72);

/// `201 5`, or the status and code of a problem.
fn outcome((status, body): &(StatusCode, Value)) -> String {
    match body["code"].as_str() {
        Some(code) => format!("{} {code}", status.as_u16()),
        None => format!("{} {}", status.as_u16(), body["stars"]),
    }
}

fn path(ride: RideId) -> String {
    format!("/v1/rides/{ride}/rating")
}

async fn rate(app: &TestApp, user: UserId, ride: RideId, body: Value) -> String {
    outcome(&app.call("POST", Some(user), &path(ride), &body).await)
}

/// A ride of these two that is completed.
async fn completed(app: &TestApp, matched: &MatchAccepted) -> RideId {
    let ride = app.arrived(matched).await.ride_id;
    app.aggregate(ride, matched.driver_id, 5_000.0, true).await;
    app.event(matched, RideStatus::Completed).await;
    ride
}

/// What users gets for the mean of a user.
async fn mean(app: &TestApp, user: UserId) -> Option<(f64, u32)> {
    let request = serde_json::to_vec(&RatingsRequest { users: vec![user, app.platform.world.id()] }).unwrap();
    let reply = app.platform.bus.request(RATINGS, request.into(), RATINGS_WAIT * 20).await.unwrap();
    let means: Vec<MeanRating> = serde_json::from_slice(&reply).unwrap();
    assert!(means.iter().all(|rating| rating.user_id == user), "{means:?}");
    means.first().map(|rating| (rating.mean, rating.count))
}

async fn person<T: serde::de::DeserializeOwned>(app: &TestApp, request: &PersonRequest) -> T {
    let body = serde_json::to_vec(request).unwrap();
    let reply = app.platform.bus.request(PERSON, body.into(), PERSON_WAIT * 5).await.unwrap();
    serde_json::from_slice(&reply).unwrap()
}

async fn exported(app: &TestApp, user_id: UserId, list: PersonList) -> Vec<Value> {
    let page: PersonPage = person(app, &PersonRequest::Export { user_id, list, after: None }).await;
    assert_eq!(page.next, None);
    page.entries
}

async fn each_party_rates_once_after_the_end(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    let (d, p) = (matched.driver_id, matched.passenger_id);
    let ride = app.arrived(&matched).await.ride_id;
    assert_eq!(rate(&app, p, ride, json!({"stars": 5})).await, "409 ride_not_over");
    app.aggregate(ride, d, 5_000.0, true).await;
    app.event(&matched, RideStatus::Completed).await;

    assert_eq!(rate(&app, app.platform.world.id(), ride, json!({"stars": 5})).await, "404 not_found");
    assert_eq!(rate(&app, p, app.platform.world.id(), json!({"stars": 5})).await, "404 not_found");
    for (body, field) in [
        (json!({}), "stars"),
        (json!({"stars": 0}), "stars"),
        (json!({"stars": 6}), "stars"),
        (json!({"stars": 4.5}), "stars"),
        (json!({"stars": "5"}), "stars"),
        (json!({"stars": 5, "comment": 7}), "comment"),
        (json!({"stars": 5, "comment": "x".repeat(501)}), "comment"),
    ] {
        let (status, problem) = app.call("POST", Some(p), &path(ride), &body).await;
        assert_eq!((status, problem["field"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some(field)), "{body}");
    }
    let shown = async |user| app.get(Some(user), &format!("/v1/rides/{ride}")).await.1["rating"].clone();
    assert_eq!(shown(p).await, Value::Null);
    assert_eq!(rate(&app, p, ride, json!({"stars": 4, "comment": " slow \n driver"})).await, "201 4");
    assert_eq!(rate(&app, p, ride, json!({"stars": 4, "comment": "slow driver"})).await, "201 4", "a repeat");
    assert_eq!(rate(&app, p, ride, json!({"stars": 5})).await, "409 already_rated");
    let (rating, other) = (shown(p).await, shown(d).await);
    assert_eq!((&rating["stars"], &rating["comment"], other), (&json!(4), &json!("slow driver"), Value::Null));

    let late = async |user, by| {
        let called = ("POST", user, &*path(ride));
        outcome(&app.call_later(by, called, &json!({"stars": 3})).await)
    };
    assert_eq!(late(d, HOURS_72 + Duration::seconds(1)).await, "409 rating_closed");
    assert_eq!(late(p, HOURS_72).await, "409 already_rated");
    assert_eq!(late(d, HOURS_72 - Duration::minutes(1)).await, "201 3");

    let never_started = app.matched();
    app.publish(&Event::MatchAccepted(never_started.clone())).await;
    let ride = app.event(&never_started, RideStatus::Pickup).await.ride_id;
    app.cancel(never_started.driver_id, ride).await;
    assert_eq!(rate(&app, never_started.passenger_id, ride, json!({"stars": 1})).await, "409 ride_not_started");
    app.end().await;
}

async fn a_mean_shows_no_rating_before_both_have_given_theirs(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let mut matched = app.matched();
    let (d, p) = (matched.driver_id, matched.passenger_id);
    let mut rides = Vec::new();
    for _ in 0..2 {
        (matched.match_id, matched.request_id) = (app.platform.world.id(), app.platform.world.id());
        rides.push(completed(&app, &matched).await);
    }
    assert_eq!(rate(&app, p, rides[0], json!({"stars": 2})).await, "201 2");
    assert_eq!((mean(&app, d).await, mean(&app, p).await), (None, None));
    assert_eq!(exported(&app, d, PersonList::RatingsReceived).await, [Value::Null; 0]);
    assert_eq!(rate(&app, d, rides[0], json!({"stars": 5})).await, "201 5");
    assert_eq!((mean(&app, d).await, mean(&app, p).await), (Some((2.0, 1)), Some((5.0, 1))));
    // Of the second ride nobody but the passenger rates: it counts when nobody can any more.
    assert_eq!(rate(&app, p, rides[1], json!({"stars": 5})).await, "201 5");
    assert_eq!(mean(&app, d).await, Some((2.0, 1)));
    // In the ride the other party's mean is shown; users does not answer here, so there is no party.
    assert_eq!(app.get(Some(p), &format!("/v1/rides/{}", rides[0])).await.1["driver"], Value::Null);
    app.end().await;
}

async fn of_an_account_that_ended_the_stars_stay_and_nothing_else(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    let (d, p) = (matched.driver_id, matched.passenger_id);
    let ride = completed(&app, &matched).await;
    rate(&app, p, ride, json!({"stars": 2, "comment": "rude"})).await;
    rate(&app, d, ride, json!({"stars": 5, "comment": "kind"})).await;
    let given = exported(&app, p, PersonList::RatingsGiven).await;
    assert_eq!((&given[0]["stars"], &given[0]["ride_id"]), (&json!(2), &json!(ride)));
    let received = exported(&app, p, PersonList::RatingsReceived).await;
    assert_eq!(received, [json!({"stars": 5, "comment": "kind", "month": "2026-03"})], "neither who nor which ride");

    for _ in 0..2 {
        assert!(person::<bool>(&app, &PersonRequest::Erase { users: vec![p] }).await);
    }
    for list in PersonList::ALL {
        assert_eq!(exported(&app, p, list).await, [Value::Null; 0]);
    }
    assert_eq!((mean(&app, p).await, mean(&app, d).await), (None, Some((2.0, 1))), "the driver's mean stays");
    assert_eq!(exported(&app, d, PersonList::RatingsReceived).await[0]["comment"], Value::Null);
    assert_eq!(exported(&app, d, PersonList::RatingsGiven).await[0]["comment"], Value::Null, "it is about who is gone");
    // With the audit that ends every test.
    app.end().await;
}

async fn parties_who_rate_at_the_same_time_see_each_other(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    for _ in 0..8 {
        let matched = app.matched();
        let (d, p) = (matched.driver_id, matched.passenger_id);
        let ride = completed(&app, &matched).await;
        let (one, two, again) = tokio::join!(
            rate(&app, d, ride, json!({"stars": 4})),
            rate(&app, p, ride, json!({"stars": 3})),
            rate(&app, p, ride, json!({"stars": 3})),
        );
        assert_eq!((&*one, &*two, &*again), ("201 4", "201 3", "201 3"));
        assert_eq!((mean(&app, d).await, mean(&app, p).await), (Some((3.0, 1)), Some((4.0, 1))));
    }
    app.end().await;
}
