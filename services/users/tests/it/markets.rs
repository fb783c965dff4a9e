//! Searches and drivers by the rules of the market in which they are.

use pricing::Tariffs;
use pricing::market::{Current, Markets};
use serde_json::{Value, json};
use streams::Position;
use testing::{Backend, on_both_stores};
use users::{Config, DriverStatus};

use crate::client::{match_id, trip};
use crate::commands::Pair;
use crate::pods::{Cluster, HERE, THERE};

on_both_stores!(a_search_is_by_the_rules_of_its_market, a_market_may_ask_for_an_operators_approval);

/// A market of a degree around the places of the tests, with these properties beside those that each has.
fn market(more: &Value) -> Current {
    let square = json!([[-75, 40], [-73, 40], [-73, 41], [-75, 41], [-75, 40]]);
    let mut properties = json!({
        "market_id": "here", "currency": "EUR", "time_zone": "Europe/Berlin",
        "fares": {"car": {"base": 1, "per_km": 1, "per_minute": 1, "minimum": 1}},
    });
    properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let feature = json!({
        "type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]}, "properties": properties,
    });
    let file = json!({"type": "FeatureCollection", "features": [feature]});
    Current::new(Markets::parse(&file.to_string(), &Tariffs::default()).unwrap())
}

async fn a_search_is_by_the_rules_of_its_market(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let markets = market(&json!({"request_ttl_s": 100, "max_trip_km": 20}));
    let mut pod = cluster.idle_pod("one", Config { markets, ..Config::default() }).await;
    pod.run();
    let passenger = pod.passenger("+12125553701").await;
    let mut p = pod.connect(passenger, None).await;
    let away = json!({"lat": 50.0, "lng": 8.0});
    let from_away = json!({"active": true, "pickup": away, "dropoff": away, "vehicle_type": "car"});
    assert_eq!(p.refused("finder.update", from_away).await, "out_of_area pickup");
    assert_eq!(p.refused("finder.update", trip(Position { lat: 41.5, ..HERE })).await, "out_of_area dropoff");
    let van = json!({"active": true, "pickup": HERE, "dropoff": THERE, "vehicle_type": "van"});
    assert_eq!(p.refused("finder.update", van).await, "invalid_field vehicle_type");
    p.ack("finder.update", trip(THERE)).await;
    let began = p.event_of("user.finder").await;
    assert_eq!(began["data"]["market_id"], "here");
    let again = pod.connect(passenger, None).await;
    let search = &again.welcome["state"]["search"];
    let at = |field: &str| search[field].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert_eq!(search["market_id"], "here");
    assert_eq!(at("expires_at") - at("recorded_at"), chrono::TimeDelta::seconds(100));
    pod.stop().await;
}

async fn a_market_may_ask_for_an_operators_approval(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let markets = market(&json!({"driver_approval": "manual"}));
    let mut pod = cluster.idle_pod("one", Config { markets, ..Config::default() }).await;
    pod.run();
    let driver = pod.driver("+12125553702").await;
    let mut d = pod.connect(driver, None).await;
    let on = |at: Position| json!({"active": true, "location": at});
    assert_eq!(d.refused("beacon.update", on(HERE)).await, "driver_not_approved -");
    // Elsewhere the approval by registering is enough.
    d.ack("beacon.update", on(Position { lat: 50.0, lng: 8.0 })).await;
    // But not for a ride in this market, however the driver came by the offer.
    let mut pair = Pair::offered(&cluster, &pod, 371, 600).await;
    assert_eq!(pair.d.refused("match.accept", match_id(&pair.found)).await, "driver_not_approved -");
    pod.users.set_driver_status(pair.driver, DriverStatus::Approved).await.unwrap();
    pair.d.ack("match.accept", match_id(&pair.found)).await;
    pod.users.set_driver_status(driver, DriverStatus::Approved).await.unwrap();
    d.ack("beacon.update", on(HERE)).await;
    pod.stop().await;
}
