//! Searches and drivers by the rules of the market in which they are.

use pricing::Tariffs;
use pricing::market::{Current, Markets};
use serde_json::{Value, json};
use streams::bus::ReplayStart;
use streams::event::{MatchAccepted, MatchFound, RideTerms};
use streams::{Event, Position, RideStatus, VehicleType};
use testing::{Backend, on_both_stores};
use users::{Config, DriverApproval, DriverStatus};

use crate::client::{id_of, match_id, trip};
use crate::commands::Pair;
use crate::pods::{Cluster, HERE, THERE};

on_both_stores!(
    a_search_is_by_the_rules_of_its_market,
    a_market_may_ask_for_an_operators_approval,
    a_search_and_its_ride_stay_in_the_market_in_which_it_began,
    a_market_may_do_without_an_operators_approval,
);

/// A market of a degree around the places of the tests, with these properties beside those that each has.
fn market(more: &Value) -> Current {
    Current::new(markets(-75, more))
}

/// The same, from this longitude on.
fn markets(west: i32, more: &Value) -> Markets {
    let east = west + 2;
    let square = json!([[west, 40], [east, 40], [east, 41], [west, 41], [west, 40]]);
    let mut properties = json!({
        "market_id": "here", "currency": "EUR", "time_zone": "Europe/Berlin",
        "fares": {"car": {"base": 1, "per_km": 1, "per_minute": 1, "minimum": 1}},
    });
    properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let feature = json!({
        "type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]}, "properties": properties,
    });
    let file = json!({"type": "FeatureCollection", "features": [feature]});
    Markets::parse(&file.to_string(), &Tariffs::default()).unwrap()
}

/// As long as it is open, also in another process and after a new file that has its pickup outside, or in another market.
async fn a_search_and_its_ride_stay_in_the_market_in_which_it_began(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let current = market(&json!({"request_ttl_s": 100}));
    let mut pod = cluster.idle_pod("one", Config { markets: current.clone(), ..Config::default() }).await;
    pod.run();
    let (driver, passenger) = (pod.driver("+12125553711").await, pod.passenger("+12125553712").await);
    let (mut d, mut p) = (pod.connect(driver, None).await, pod.connect(passenger, None).await);
    let request = p.ack("finder.update", trip(THERE)).await;
    assert_eq!(p.event_of("user.finder").await["data"]["market_id"], "here");
    current.replace(markets(-75, &json!({"market_id": "other", "currency": "JPY"})));
    let others = Current::new(markets(100, &json!({"market_id": "other"})));
    let mut restarted = cluster.idle_pod("two", Config { markets: others, ..Config::default() }).await;
    restarted.run();
    for pod in [&pod, &restarted] {
        let shown = pod.connect(passenger, None).await;
        assert_eq!(shown.welcome["state"]["search"]["market_id"], "here");
    }
    // What was offered is accepted, and clients see it once, in ride.pickup.
    let of_match = markets(-75, &json!({}));
    let here = of_match.iter().next().unwrap();
    let terms: RideTerms = of_match.terms(here, VehicleType::Car, cluster.world.now());
    let request = streams::RequestId(id_of(&request, "request_id"));
    let found = cluster.found(driver, passenger, request, 60);
    let found = MatchFound { market_id: Some("here".to_owned()), terms: Some(Box::new(terms)), ..found };
    cluster.publish(&Event::MatchFound(found.clone())).await;
    for client in [&mut d, &mut p] {
        let offer = client.event_of("match.found").await;
        assert_eq!((&offer["data"]["market_id"], offer["data"].get("terms")), (&json!("here"), None));
    }
    let shown = restarted.connect(passenger, None).await;
    assert_eq!(shown.welcome["state"]["offer"].get("terms"), None);
    d.ack("match.accept", match_id(&found)).await;
    for client in [&mut d, &mut p] {
        let accepted = client.event_of("match.accepted").await;
        assert_eq!((&accepted["data"]["market_id"], accepted["data"].get("terms")), (&json!("here"), None));
    }
    let mut published =
        cluster.bus.replay("MATCH_STREAM", Some("match.accepted"), ReplayStart::Sequence(1)).await.unwrap();
    let published = published.next(std::time::Duration::from_secs(10)).await.unwrap().expect("a message");
    let published = Event::parse(&published.subject, &published.payload).unwrap();
    let Event::MatchAccepted(MatchAccepted { market_id, terms, .. }) = published else { panic!("{published:?}") };
    assert_eq!((market_id, terms), (found.market_id.clone(), found.terms.clone()));
    // The search that goes on after the ride, and its end.
    let ride = cluster.world.id();
    for (version, status) in [(1, RideStatus::Pickup), (2, RideStatus::Cancelled)] {
        let Event::Ride(mut event) = cluster.ride(ride, &found, version, status) else { panic!() };
        event.market_id.clone_from(&found.market_id);
        event.request_id = Some(request);
        event.search_continues = (status == RideStatus::Cancelled).then_some(true);
        cluster.publish(&Event::Ride(event)).await;
    }
    let again = p.event_of("user.finder").await;
    assert_eq!((&again["data"]["active"], &again["data"]["market_id"]), (&json!(true), &json!("here")));
    p.ack("finder.update", json!({"active": false})).await;
    assert_eq!(p.event_of("user.finder").await["data"]["market_id"], "here");
    restarted.stop().await;
    pod.stop().await;
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

/// Although DRIVER_APPROVAL asks for one, but not for a driver who is pending for another reason, or suspended.
async fn a_market_may_do_without_an_operators_approval(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let markets = market(&json!({"driver_approval": "auto"}));
    let config = Config { markets: markets.clone(), driver_approval: DriverApproval::Manual, ..Config::default() };
    let mut pod = cluster.idle_pod("one", config).await;
    pod.run();
    let mut pair = Pair::offered(&cluster, &pod, 381, 600).await;
    let driver = pod.driver("+12125553704").await;
    assert_eq!(pod.connect(driver, None).await.welcome["state"]["user"]["driver"]["status"], "pending");
    let mut d = pod.connect(driver, None).await;
    let on = |at: Position| json!({"active": true, "location": at});
    d.ack("beacon.update", on(HERE)).await;
    assert_eq!(d.refused("beacon.update", on(Position { lat: 50.0, lng: 8.0 })).await, "driver_not_approved -");
    pair.d.ack("match.accept", match_id(&pair.found)).await;
    // A market that says nothing leaves it to the setting.
    markets.replace(self::markets(-75, &json!({})));
    assert_eq!(d.refused("beacon.update", on(HERE)).await, "driver_not_approved -");
    markets.replace(self::markets(-75, &json!({"driver_approval": "auto"})));
    pod.users.set_driver_status(driver, DriverStatus::Suspended).await.unwrap();
    assert_eq!(d.refused("beacon.update", on(HERE)).await, "driver_not_approved -");
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
