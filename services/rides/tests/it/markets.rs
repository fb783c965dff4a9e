//! A ride belongs to the market of its pickup, and keeps the fares with which it began.

use axum::http::StatusCode;
use pricing::Tariffs;
use pricing::market::{Current, Markets};
use rides::Config;
use rides::ledger::rows::balance;
use serde_json::json;
use streams::event::{MatchAccepted, PaymentCapture, RejectReason, RideTerms};
use streams::{Currency, Event, RideStatus, VehicleType};
use testing::{Backend, on_both_stores};

use crate::harness::TestApp;

on_both_stores!(
    a_ride_is_billed_by_the_terms_with_which_it_began,
    a_ride_is_of_the_market_and_the_fares_that_were_offered
);

/// A market around the places of the tests, at this price of a kilometre.
fn markets(per_km: i64) -> Markets {
    markets_at(-75, per_km)
}

/// The same, from this longitude on.
fn markets_at(west: i32, per_km: i64) -> Markets {
    let east = west + 2;
    let square = json!([[west, 40], [east, 40], [east, 41], [west, 41], [west, 40]]);
    let file = json!({"type": "FeatureCollection", "features": [{
        "type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]},
        "properties": {
            "market_id": "here", "currency": "JPY", "time_zone": "Asia/Tokyo",
            "fares": {"car": {"base": 500, "per_km": per_km, "per_minute": 0, "minimum": 100, "platform_fee_bp": 1_000}},
        },
    }]});
    Markets::parse(&file.to_string(), &Tariffs::default()).unwrap()
}

/// Whatever file this process has, and however it changes between the offer and its acceptance.
async fn a_ride_is_of_the_market_and_the_fares_that_were_offered(backend: Backend) {
    let (offered, elsewhere) = (markets(100), Current::new(markets_at(100, 900)));
    let app = TestApp::start(backend, Config { markets: elsewhere.clone(), ..Config::default() }).await;
    let market = offered.iter().next().unwrap();
    let terms = offered.terms(market, VehicleType::Car, app.platform.world.now());
    let begun = async |market_id: Option<&str>, terms: Option<RideTerms>| {
        let (market_id, terms) = (market_id.map(str::to_owned), terms.map(Box::new));
        let accepted = MatchAccepted { market_id, terms, ..app.matched() };
        app.publish(&Event::MatchAccepted(accepted.clone())).await;
        let pickup = app.event(&accepted, RideStatus::Pickup).await;
        (pickup.market_id.unwrap(), pickup.terms.unwrap())
    };
    for id in ["here", "a market that only match knows"] {
        assert_eq!(begun(Some(id), Some(terms.clone())).await, (id.to_owned(), terms.clone()));
    }
    // An offer of the version before names its market, or nothing at all.
    let (id, by_name) = begun(Some("here"), None).await;
    assert_eq!((id.as_str(), by_name.per_km), ("here", 900));
    // Never in the first market, only because it is the first.
    let mut lost = Vec::new();
    for market_id in [None, Some("nowhere".to_owned())] {
        let accepted = MatchAccepted { market_id, ..app.matched() };
        app.publish(&Event::MatchAccepted(accepted.clone())).await;
        lost.push((accepted.match_id, RejectReason::Superseded));
    }
    app.settled().await;
    let rejected = app.all("MATCH_STREAM", "match.rejected").await;
    let rejected = rejected.iter().map(|stored| match Event::parse(&stored.subject, &stored.payload) {
        Ok(Event::MatchRejected(rejected)) => (rejected.match_id, rejected.reason),
        other => panic!("{other:?}"),
    });
    assert_eq!(rejected.collect::<Vec<_>>(), lost);
    elsewhere.replace(markets(700));
    let (id, by_place) = begun(None, None).await;
    assert_eq!((id.as_str(), by_place.per_km), ("here", 700));
    app.end().await;
}

async fn a_ride_is_billed_by_the_terms_with_which_it_began(backend: Backend) {
    let current = Current::new(markets(100));
    let app = TestApp::start(backend, Config { markets: current.clone(), ..Config::default() }).await;
    let matched = app.matched();
    let ride = app.arrived(&matched).await;
    let pickup = app.event(&matched, RideStatus::Pickup).await;
    let terms = pickup.terms.unwrap();
    assert_eq!((pickup.market_id.as_deref(), terms.per_km, terms.version), (Some("here"), 100, markets(100).version));
    current.replace(markets(900));

    app.aggregate(ride.ride_id, ride.driver_id, 5_000.0, true).await;
    let completed = app.event(&matched, RideStatus::Completed).await;
    let jpy: Currency = "JPY".parse().unwrap();
    let total = completed.fare.unwrap().total;
    assert_eq!((total.amount, total.currency, completed.market_id.as_deref()), (1_000, jpy, Some("here")));
    assert_eq!((completed.platform_fee.unwrap().amount, completed.terms), (100, None));
    app.settled().await;
    let payment = app.payment(ride.ride_id).await.unwrap();
    assert_eq!((payment.amount, payment.market_id.as_deref()), (total, Some("here")));
    let capture: PaymentCapture = payment.capture();
    assert_eq!(capture.market_id.as_deref(), Some("here"));
    for (currency, earned) in [(jpy, -900), (Currency::USD, 0)] {
        let mut tx = app.store.begin().await.unwrap();
        let account = format!("driver:{}", matched.driver_id);
        assert_eq!(balance(&mut tx, &account, currency).await.unwrap(), earned, "{currency}");
    }

    // The next ride has the new terms, and so has an estimate.
    let (status, estimate) =
        app.get(None, "/v1/estimates?pickup=40.7484,-73.9857&dropoff=40.7484,-73.9857&vehicle_type=car").await;
    assert_eq!(status, StatusCode::OK, "{estimate}");
    assert_eq!((&estimate["market_id"], &estimate["fare"]["total"]["amount"]), (&json!("here"), &json!(500)));
    for (query, code, field) in [
        ("pickup=50,8&dropoff=50,8&vehicle_type=car", "out_of_area", "pickup"),
        ("pickup=40.7,-74&dropoff=44,-74&vehicle_type=car", "out_of_area", "dropoff"),
        ("pickup=40.7,-74&dropoff=40.8,-74&vehicle_type=van", "invalid_field", "vehicle_type"),
    ] {
        let (status, problem) = app.get(None, &format!("/v1/estimates?{query}")).await;
        let found = (status, problem["code"].as_str().unwrap(), problem["field"].as_str().unwrap());
        assert_eq!(found, (StatusCode::UNPROCESSABLE_ENTITY, code, field), "{query}");
    }
    let shown = app.get(Some(matched.driver_id), &format!("/v1/rides/{}", ride.ride_id)).await.1;
    assert_eq!((&shown["market_id"], &shown["fare"]["total"]["currency"]), (&json!("here"), &json!("JPY")));
    let event = Event::Ride(Box::new(ride));
    assert!(String::from_utf8(event.body()).unwrap().contains("\"market_id\":\"here\""));
    app.end().await;
}
