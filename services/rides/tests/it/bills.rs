//! Bills: each ride is billed once, for its own distance or by the estimate, and a refused payment locks nobody.

use rides::Config;
use rides::payment::Provider;
use rides::payment::rows::debts_of;
use serde_json::Value;
use streams::event::{MatchAccepted, Party};
use streams::ride_command::RideAction;
use streams::topology::DEAD_LETTER_STREAM;
use streams::{Event, Money, RideStatus, UserId};
use testing::{Backend, on_both_stores};

use crate::harness::TestApp;

on_both_stores!(
    redelivery_never_bills_twice,
    a_driver_never_bills_the_ride_of_another,
    a_refused_payment_never_leaves_either_party_locked,
    many_short_hops_are_billed_in_full,
    a_late_cancellation_is_billed_like_a_fare,
    a_ride_without_a_final_distance_is_billed_by_the_estimate,
    a_distance_that_nobody_can_have_driven_is_not_billed,
);

async fn redelivery_never_bills_twice(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    let ride = app.arrived(&matched).await;
    app.aggregate(ride.ride_id, ride.driver_id, 5_000.0, true).await;
    let completed = app.event(&matched, RideStatus::Completed).await;
    app.settled().await;
    let before = app.balances(&matched, "ledger").await;
    let total = completed.fare.unwrap().total;
    assert_eq!(before[3], total.amount);

    // All messages again under new message ids, as a foreign producer or a restarted server may send them.
    app.publish_bare(&Event::MatchAccepted(matched.clone())).await;
    app.aggregate(ride.ride_id, ride.driver_id, 9_000.0, true).await;
    app.aggregate(ride.ride_id, ride.driver_id, 5_000.0, true).await;
    let capture = streams::event::PaymentCapture {
        market_id: ride.market_id.clone(),
        payment_id: app.payment(ride.ride_id).await.unwrap().payment_id,
        ride_id: ride.ride_id,
        passenger_id: ride.passenger_id,
        driver_id: ride.driver_id,
        amount: total,
    };
    for _ in 0..3 {
        app.publish_bare(&Event::PaymentCapture(capture.clone())).await;
    }
    app.settled().await;
    assert_eq!(app.balances(&matched, "ledger").await, before);
    assert_eq!(app.trail().await.len(), 4);
    assert_eq!(app.all(DEAD_LETTER_STREAM, "dead_letter.>").await, []);
    app.end().await;
}

async fn a_driver_never_bills_the_ride_of_another(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    let ride = app.arrived(&matched).await;
    // A distance from another driver, one for a ride that does not exist, and a capture that rides did not bill.
    let other: UserId = app.platform.world.id();
    app.aggregate(ride.ride_id, other, 900_000.0, true).await;
    app.aggregate(app.platform.world.id(), other, 5_000.0, true).await;
    let forged = streams::event::PaymentCapture {
        market_id: ride.market_id.clone(),
        payment_id: app.platform.world.id(),
        ride_id: ride.ride_id,
        passenger_id: ride.passenger_id,
        driver_id: other,
        amount: Money::usd(99_999),
    };
    app.publish_bare(&Event::PaymentCapture(forged)).await;
    app.settled().await;
    let letters = app.all(DEAD_LETTER_STREAM, "dead_letter.>").await;
    let mut by: Vec<&str> = letters.iter().map(|m| m.subject.as_str()).collect();
    by.sort_unstable();
    let aggregate = "dead_letter.location_aggregate_rides";
    assert_eq!(by, [aggregate, aggregate, "dead_letter.payment_capture_rides"]);
    assert_eq!(app.trail().await.len(), 3, "still arrived");
    assert_eq!(app.balances(&matched, "ledger").await, [0; 4]);

    app.aggregate(ride.ride_id, ride.driver_id, 1_000.0, true).await;
    let completed = app.event(&matched, RideStatus::Completed).await;
    assert_eq!(completed.distance_m, Some(1_000.0));
    app.end().await;
}

async fn a_refused_payment_never_leaves_either_party_locked(backend: Backend) {
    let app = TestApp::start(backend, Config { provider: Provider::Refusing, ..Config::default() }).await;
    let matched = app.matched();
    let ride = app.arrived(&matched).await;
    app.aggregate(ride.ride_id, ride.driver_id, 5_000.0, true).await;
    let total = app.event(&matched, RideStatus::Completed).await.fare.unwrap().total;
    app.settled().await;
    let (_, view) = app.get(Some(ride.passenger_id), &format!("/v1/rides/{}", ride.ride_id)).await;
    assert_eq!((view["status"].as_str(), view["payment"]["status"].as_str()), (Some("completed"), Some("refused")));
    let debts = debts_of(&mut app.store.begin().await.unwrap(), ride.passenger_id).await.unwrap();
    assert_eq!(debts.iter().map(|d| (d.ride_id, d.amount)).collect::<Vec<_>>(), [(ride.ride_id, total)]);
    // The passenger still owes the fare; the platform owes the driver the payout all the same.
    let balances = app.balances(&matched, "refuse").await;
    assert_eq!((balances[0], balances[3]), (total.amount, 0));
    // And both can have a new ride.
    let (match_id, request_id) = (app.platform.world.id(), app.platform.world.id());
    let again = MatchAccepted { match_id, request_id, ..matched };
    app.publish(&Event::MatchAccepted(again.clone())).await;
    app.event(&again, RideStatus::Pickup).await;
    app.end().await;
}

async fn many_short_hops_are_billed_in_full(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    let ride = app.arrived(&matched).await;
    // A kilometre in hops of a metre: the distances are cumulative, so the last one is billed.
    for metre in 1..1_000 {
        app.aggregate(ride.ride_id, ride.driver_id, f64::from(metre), false).await;
    }
    app.aggregate(ride.ride_id, ride.driver_id, 8_000.0, true).await;
    let completed = app.event(&matched, RideStatus::Completed).await;
    let fare = completed.fare.unwrap();
    let distance = fare.lines.iter().find(|l| l.name == "distance").unwrap();
    assert_eq!(distance.amount, Money::usd(960));
    // A ride without any distance costs the minimum.
    let still = app.matched();
    let ride = app.arrived(&still).await;
    app.aggregate(ride.ride_id, ride.driver_id, 0.0, true).await;
    let fare = app.event(&still, RideStatus::Completed).await.fare.unwrap();
    assert_eq!(fare.total, Money::usd(600));
    app.end().await;
}

async fn a_late_cancellation_is_billed_like_a_fare(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    app.publish(&Event::MatchAccepted(matched.clone())).await;
    let ride = app.event(&matched, RideStatus::Pickup).await.ride_id;
    assert_eq!(app.start_ride(matched.driver_id, ride).await, "started 2");
    assert_eq!(
        app.command(matched.passenger_id, ride, RideAction::Cancel { reason: String::new(), note: None }).await,
        "invalid_field"
    );
    assert_eq!(app.cancel(matched.passenger_id, ride).await, "cancelled 3");
    assert_eq!(app.cancel(matched.passenger_id, ride).await, "cancelled 3");
    assert_eq!(app.cancel(matched.driver_id, ride).await, "ride_ended");
    let cancelled = app.event(&matched, RideStatus::Cancelled).await;
    assert_eq!((cancelled.by, cancelled.fee), (Some(Party::Passenger), Some(Money::usd(600))));
    app.settled().await;
    assert_eq!(app.balances(&matched, "ledger").await, [0, -480, -120, 600]);
    let (_, view) = app.get(Some(matched.driver_id), &format!("/v1/rides/{ride}")).await;
    assert_eq!(view["cancelled"]["by"], "passenger");
    assert_eq!(view["cancelled"]["fee"]["amount"], 600);
    assert_eq!(view["payment"]["status"], "captured");

    // A cancellation without a fee has no payment.
    let free = app.matched();
    app.publish(&Event::MatchAccepted(free.clone())).await;
    let ride = app.event(&free, RideStatus::Pickup).await.ride_id;
    assert_eq!(app.cancel(free.passenger_id, ride).await, "cancelled 2");
    app.settled().await;
    let (_, view) = app.get(Some(free.driver_id), &format!("/v1/rides/{ride}")).await;
    assert_eq!(view["payment"], Value::Null);
    app.end().await;
}

/// The final distance is a message as any other: whoever can write to the bus can make it up.
async fn a_distance_that_nobody_can_have_driven_is_not_billed(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    let ride = app.arrived(&matched).await;
    app.aggregate(ride.ride_id, ride.driver_id, 987_654_321.0, true).await;
    let completed = app.event(&matched, RideStatus::Completed).await;
    assert!(completed.fare.unwrap().estimated);
    assert_eq!(completed.distance_m, Some(pricing::estimate(&matched.pickup, &matched.dropoff).0));
    assert_eq!(app.platform.metrics.distances_refused.with_label_values(&["rides"]).get(), 1);
    // The honest one comes too late.
    app.aggregate(ride.ride_id, ride.driver_id, 100.0, true).await;
    app.settled().await;
    assert_eq!(app.trail().await.len(), 4);
    app.end().await;
}

async fn a_ride_without_a_final_distance_is_billed_by_the_estimate(backend: Backend) {
    // One minute of paused time, or one second of real time.
    let completion_wait_s = if backend == Backend::Memory { 60 } else { 1 };
    let app = TestApp::start(backend, Config { completion_wait_s, ..Config::default() }).await;
    let matched = app.matched();
    let ride = app.arrived(&matched).await;
    app.aggregate(ride.ride_id, ride.driver_id, 2_000.0, false).await;
    let arrived = app.event(&matched, RideStatus::Arrived).await;
    let completed = app.event(&matched, RideStatus::Completed).await;
    let waited = (completed.occurred_at - arrived.occurred_at).as_seconds_f64();
    let wanted = completion_wait_s as f64;
    assert!((wanted..wanted + 2.0).contains(&waited), "after {waited} s");
    let fare = completed.fare.unwrap();
    assert!(fare.estimated);
    let (distance_m, _) = pricing::estimate(&matched.pickup, &matched.dropoff);
    assert_eq!(completed.distance_m, Some(distance_m));
    // The final distance comes too late, and changes nothing.
    app.aggregate(ride.ride_id, ride.driver_id, 9_000.0, true).await;
    app.settled().await;
    assert_eq!(app.trail().await.len(), 4);
    assert_eq!(app.balances(&matched, "ledger").await[3], fare.total.amount);
    app.end().await;
}
