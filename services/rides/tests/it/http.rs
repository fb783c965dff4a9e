//! The routes: own rides, page by page, and estimates.

use std::time::Duration;

use axum::http::StatusCode;
use rides::Config;
use serde_json::Value;
use streams::{Event, RideStatus};
use testing::{Backend, on_both_stores};

use crate::harness::TestApp;

on_both_stores!(own_rides_are_listed_page_by_page);

async fn own_rides_are_listed_page_by_page(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let mut matched = app.matched();
    let mut all = Vec::new();
    for _ in 0..5 {
        (matched.match_id, matched.request_id) = (app.platform.world.id(), app.platform.world.id());
        app.publish(&Event::MatchAccepted(matched.clone())).await;
        let ride = app.event(&matched, RideStatus::Pickup).await.ride_id;
        assert_eq!(app.cancel(matched.driver_id, ride).await, "cancelled 2");
        all.insert(0, ride.to_string());
        // Paused time does not advance by itself, and rides created at the same moment are ordered by id.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (mut found, mut uri) = (Vec::new(), "/v1/rides?limit=2".to_owned());
    loop {
        let (status, page) = app.get(Some(matched.passenger_id), &uri).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        found.extend(page["rides"].as_array().unwrap().iter().map(|r| r["ride_id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        uri = format!("/v1/rides?limit=2&cursor={cursor}");
    }
    assert_eq!(found, all);
    assert_eq!(app.get(Some(app.platform.world.id()), "/v1/rides").await.1["rides"], Value::Array(Vec::new()));
    for (query, field) in [("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("cursor=abc", "cursor")]
    {
        let (status, problem) = app.get(Some(matched.driver_id), &format!("/v1/rides?{query}")).await;
        assert_eq!((status, problem["field"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some(field)), "{query}");
        assert_eq!(problem["code"], "invalid_field");
    }
    let (status, _) = app.get(Some(matched.driver_id), "/v1/rides/no-such-id").await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    let good = "/v1/estimates?pickup=40.7484,-73.9857&dropoff=40.7061,-73.9969&vehicle_type=car";
    let (status, estimate) = app.get(None, good).await;
    assert_eq!(status, StatusCode::OK, "{estimate}");
    assert_eq!(estimate["fare"]["total"]["currency"], "USD");
    assert!(estimate["distance_m"].as_f64().unwrap() > 4_000.0);
    for (bad, field) in [
        ("pickup=91,0&dropoff=0,0&vehicle_type=car", "pickup"),
        ("pickup=0,0&dropoff=0&vehicle_type=car", "dropoff"),
        ("pickup=0,0&dropoff=NaN,0&vehicle_type=car", "dropoff"),
        ("pickup=0,0&dropoff=0,0&vehicle_type=boat", "vehicle_type"),
        ("pickup=0,0&dropoff=0,0", "vehicle_type"),
    ] {
        let (status, problem) = app.get(None, &format!("/v1/estimates?{bad}")).await;
        assert_eq!((status, problem["field"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some(field)), "{bad}");
    }
    app.end().await;
}
