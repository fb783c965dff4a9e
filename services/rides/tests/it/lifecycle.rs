//! The lifecycle of a ride: from the match to the receipt, who may move it on, and the PIN.

use std::time::Duration;

use axum::http::StatusCode;
use rides::{Config, hash_chain};
use serde_json::Value;
use streams::ride_command::RideAction;
use streams::{Event, RideStatus};
use testing::{Backend, on_both_stores};

use crate::harness::TestApp;

on_both_stores!(
    one_ride_from_match_to_receipt,
    a_stranger_never_starts_or_ends_a_ride,
    wrong_pins_are_counted_across_requests,
);

async fn one_ride_from_match_to_receipt(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    let (driver, passenger) = (matched.driver_id, matched.passenger_id);
    app.publish(&Event::MatchAccepted(matched.clone())).await;
    let pickup = app.event(&matched, RideStatus::Pickup).await;
    assert_eq!((pickup.version, pickup.previous_hash.as_str()), (1, hash_chain::NO_PREVIOUS_HASH));
    let ride = pickup.ride_id;
    let uri = format!("/v1/rides/{ride}");

    let (status, view) = app.get(Some(passenger), &uri).await;
    assert_eq!((status, view["status"].as_str()), (StatusCode::OK, Some("pickup")));
    assert_eq!(view["pin"], app.tokens.ride_pin(ride));
    assert_eq!(app.get(Some(driver), &uri).await.1.get("pin"), None, "only the passenger sees the PIN");

    assert_eq!(app.command(driver, ride, RideAction::Arrive).await, "ride_not_started");
    assert_eq!(app.start_ride(driver, ride).await, "started 2");
    assert_eq!(app.start_ride(driver, ride).await, "started 2", "a repeat has no second effect");
    app.aggregate(ride, driver, 2_000.0, false).await;
    assert_eq!(app.command(driver, ride, RideAction::Arrive).await, "arrived 3");
    assert_eq!(app.command(driver, ride, RideAction::Arrive).await, "arrived 3");
    assert_eq!(app.cancel(passenger, ride).await, "ride_arrived");
    app.aggregate(ride, driver, 5_000.0, true).await;

    let completed = app.event(&matched, RideStatus::Completed).await;
    let fare = completed.fare.clone().unwrap();
    assert_eq!(completed.distance_m, Some(5_000.0));
    assert!(!fare.estimated);
    assert_eq!(fare.total.amount, fare.lines.iter().map(|l| l.amount.amount).sum::<i64>());
    let (fee, payout) = (completed.platform_fee.unwrap(), completed.driver_payout.unwrap());
    assert_eq!(fee.amount + payout.amount, fare.total.amount);
    assert_eq!(app.cancel(driver, ride).await, "ride_ended");

    app.settled().await;
    assert_eq!(app.balances(&matched, "ledger").await, [0, -payout.amount, -fee.amount, fare.total.amount]);
    let (_, view) = app.get(Some(passenger), &uri).await;
    assert_eq!(view["status"], "completed");
    assert_eq!(view["payment"]["status"], "captured");
    assert_eq!(view["fare"], serde_json::to_value(&fare).unwrap());
    assert_eq!(view["cancelled"], Value::Null);
    assert_eq!(view.get("pin"), None);
    let statuses: Vec<_> = app.trail().await.iter().map(|e| (e.version, e.status.as_str())).collect();
    assert_eq!(statuses, [(1, "pickup"), (2, "started"), (3, "arrived"), (4, "completed")]);
    app.end().await;
}

async fn a_stranger_never_starts_or_ends_a_ride(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let (matched, elsewhere) = (app.matched(), app.matched());
    for one in [&matched, &elsewhere] {
        app.publish(&Event::MatchAccepted(one.clone())).await;
        app.event(one, RideStatus::Pickup).await;
    }
    let ride = app.event(&matched, RideStatus::Pickup).await.ride_id;
    for stranger in [elsewhere.driver_id, elsewhere.passenger_id, app.platform.world.id()] {
        assert_eq!(app.start_ride(stranger, ride).await, "not_found");
        assert_eq!(app.command(stranger, ride, RideAction::Arrive).await, "not_found");
        assert_eq!(app.cancel(stranger, ride).await, "not_found");
        let (status, problem) = app.get(Some(stranger), &format!("/v1/rides/{ride}")).await;
        assert_eq!((status, problem["code"].as_str()), (StatusCode::NOT_FOUND, Some("not_found")));
    }
    // The passenger may not give the driver's commands either.
    assert_eq!(app.start_ride(matched.passenger_id, ride).await, "forbidden");
    assert_eq!(app.command(matched.passenger_id, ride, RideAction::Arrive).await, "forbidden");
    assert_eq!(app.start_ride(matched.driver_id, app.platform.world.id()).await, "not_found");
    assert_eq!(app.trail().await.len(), 2);
    assert_eq!(app.get(None, &format!("/v1/rides/{ride}")).await.0, StatusCode::UNAUTHORIZED);
    app.end().await;
}

async fn wrong_pins_are_counted_across_requests(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    app.publish(&Event::MatchAccepted(matched.clone())).await;
    let ride = app.event(&matched, RideStatus::Pickup).await.ride_id;
    for _ in 0..5 {
        let pin = "none".to_owned();
        assert_eq!(app.command(matched.driver_id, ride, RideAction::Start { pin }).await, "wrong_pin");
    }
    assert_eq!(app.start_ride(matched.driver_id, ride).await, "pin_locked");
    if backend == Backend::Memory {
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(app.start_ride(matched.driver_id, ride).await, "started 2");
    }
    app.end().await;
}
