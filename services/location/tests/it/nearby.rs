//! Who is nearby: by beacons, points and rides, and over HTTP.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::Value;
use streams::connected_drivers::{CONNECTED_DRIVERS, ConnectedDriver, ConnectedDrivers, ConnectedDriversRequest};
use streams::event::{LocationUpdate, UserBeacon};
use streams::fleet::{FLEET, FleetReply, FleetRequest};
use streams::newest_position::{NEWEST_POSITION, NEWEST_POSITION_WAIT, NewestPosition, NewestPositionRequest};
use streams::{BusError, Event, RideStatus, UserId};
use testing::{Backend, on_both_stores};

use crate::harness::{ServiceHarness, TestRide, place};

on_both_stores!(
    a_driver_with_a_ride_is_not_nearby,
    nearby_needs_a_sign_in_and_names_the_field_that_is_wrong,
    a_user_may_look_five_times_at_once,
    a_restart_and_a_second_process_keep_the_places_of_drivers,
    a_restart_keeps_the_places_of_drivers_in_rides,
    a_process_that_is_killed_and_its_successor_move_nobody,
    a_driver_is_where_the_positions_say_and_only_on_duty,
);

async fn a_user_may_look_five_times_at_once(backend: Backend) {
    let harness = ServiceHarness::start(backend, 1).await;
    let [me, other]: [UserId; 2] = [(); 2].map(|()| harness.platform.world.id());
    let mut refused = None;
    for _ in 0..20 {
        let (status, body) = harness.get(0, Some(me), "/v1/drivers/nearby?lat=0&lng=30").await;
        if status == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(body["limit"].clone());
        }
    }
    assert_eq!(refused, Some(Value::from("nearby")));
    assert_eq!(harness.get(0, Some(other), "/v1/drivers/nearby?lat=0&lng=30").await.0, StatusCode::OK);
    harness.end().await;
}

async fn a_driver_with_a_ride_is_not_nearby(backend: Backend) {
    let harness = ServiceHarness::start(backend, 1).await;
    let ride = TestRide::new(&harness);
    harness.go_online(ride.driver, 300.0).await;
    harness.all_handled().await;
    assert_eq!(harness.nearby(0).await, [300.0]);
    // On the way to the pickup only the ride_id of the points says so.
    let mut point = ride.point(&harness, 0.0);
    point.recorded_at = harness.platform.world.now();
    harness.publish(&Event::LocationUpdate(point.clone())).await;
    harness.all_handled().await;
    assert_eq!(harness.nearby(0).await, [0.0; 0]);
    ride.publish(&harness, RideStatus::Started, 0.0).await;
    harness.all_handled().await;
    assert_eq!(harness.nearby(0).await, [0.0; 0]);
    ride.publish(&harness, RideStatus::Completed, 60.0).await;
    harness.all_handled().await;
    assert_eq!(harness.nearby(0).await, [0.0], "where the ride ended");
    // A late point of the ride, and a repeat of its start.
    point.recorded_at = harness.platform.world.now();
    harness.publish(&Event::LocationUpdate(point)).await;
    ride.publish(&harness, RideStatus::Started, 0.0).await;
    harness.all_handled().await;
    assert_eq!(harness.nearby(0).await, [0.0]);
    harness.end().await;
}

async fn a_driver_is_where_the_positions_say_and_only_on_duty(backend: Backend) {
    let harness = ServiceHarness::start(backend, 1).await;
    let [moves, off]: [UserId; 2] = [(); 2].map(|()| harness.platform.world.id());
    harness.go_online(moves, 300.0).await;
    harness.publish(&Event::LocationUpdate(harness.free_point(moves, 4_000.0))).await;
    // Somebody who never went on duty is not free.
    harness.publish(&Event::LocationUpdate(harness.free_point(off, 200.0))).await;
    harness.all_handled().await;
    assert_eq!(harness.nearby(0).await, [4_000.0]);
    // The socket closes and opens: the beacon says the place of the one before, and how old it is.
    for active in [false, true] {
        let located_at = Some(harness.platform.world.started_at());
        let again = UserBeacon { active, located_at, ..harness.beacon(moves, 300.0) };
        harness.publish(&Event::UserBeacon(again)).await;
        harness.all_handled().await;
        assert_eq!(harness.nearby(0).await, if active { vec![4_000.0] } else { Vec::new() });
    }
    // A fix of the future is followed by true ones.
    let future = harness.platform.world.now() + chrono::Duration::seconds(55);
    let wrong = LocationUpdate { recorded_at: future, ..harness.free_point(moves, 0.0) };
    harness.publish(&Event::LocationUpdate(wrong)).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    harness.publish(&Event::LocationUpdate(harness.free_point(moves, 4_100.0))).await;
    harness.all_handled().await;
    assert_eq!(harness.nearby(0).await, [4_100.0]);
    harness.end().await;
}

async fn a_restart_and_a_second_process_keep_the_places_of_drivers(backend: Backend) {
    let mut harness = ServiceHarness::start(backend, 1).await;
    let drivers: [UserId; 3] = [(); 3].map(|()| harness.platform.world.id());
    for driver in drivers {
        harness.go_online(driver, 300.0).await;
    }
    harness.publish(&Event::LocationUpdate(harness.free_point(drivers[1], 2_000.0))).await;
    harness.go_offline(drivers[2], 300.0).await;
    harness.all_handled().await;
    assert_eq!(harness.nearby(0).await, [300.0, 2_000.0]);
    // Places are stored every 15 s.
    tokio::time::sleep(Duration::from_secs(if backend == Backend::Memory { 20 } else { 17 })).await;
    harness.start_process().await;
    assert_eq!(harness.nearby(1).await, [300.0, 2_000.0], "a second process");
    harness.stop_processes().await;
    harness.start_process().await;
    assert_eq!(harness.nearby(0).await, [300.0, 2_000.0], "after a restart");
    // Off duty stays off duty, whatever positions come.
    harness.publish(&Event::LocationUpdate(harness.free_point(drivers[2], 100.0))).await;
    harness.all_handled().await;
    assert_eq!(harness.nearby(0).await, [300.0, 2_000.0]);
    // Where match finds them when it takes over.
    let (body, wait) = (serde_json::to_vec(&FleetRequest::default()).unwrap(), Duration::from_secs(5));
    let reply = harness.platform.bus.request(FLEET, body.into(), wait).await.unwrap();
    let FleetReply { drivers: fleet, more } = serde_json::from_slice(&reply).unwrap();
    let found: BTreeSet<UserId> = fleet.iter().map(|driver| driver.user_id).collect();
    assert_eq!((found, more), (BTreeSet::from([drivers[0], drivers[1]]), false));
    harness.end().await;
}

async fn a_restart_keeps_the_places_of_drivers_in_rides(backend: Backend) {
    let mut harness = ServiceHarness::start(backend, 1).await;
    let (driven, begun) = (TestRide::new(&harness), TestRide::new(&harness));
    for ride in [driven, begun] {
        harness.go_online(ride.driver, 300.0).await;
        harness.all_handled().await;
        ride.publish(&harness, RideStatus::Started, 0.0).await;
    }
    for east_m in [2_000.0, 2_010.0, 2_020.0] {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let point = LocationUpdate { ride_id: Some(driven.id), ..harness.free_point(driven.driver, east_m) };
        harness.publish(&Event::LocationUpdate(point)).await;
    }
    harness.all_handled().await;
    harness.stop_processes().await;
    harness.start_process().await;
    for (ride, east_m) in [(driven, 2_020.0), (begun, 300.0)] {
        let body = serde_json::to_vec(&NewestPositionRequest { driver_id: ride.driver }).unwrap();
        let request = || harness.platform.bus.request(NEWEST_POSITION, body.clone().into(), NEWEST_POSITION_WAIT);
        let mut reply = request().await;
        for _ in 0..500 {
            // It does not answer at once after its start.
            if !matches!(reply, Err(BusError::NoResponders(_))) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            reply = request().await;
        }
        let newest: Option<NewestPosition> = serde_json::from_slice(&reply.unwrap()).unwrap();
        assert_eq!(newest.map(|newest| newest.location), Some(place(east_m, 0.0)));
    }
    assert!(harness.nearby(0).await.is_empty(), "both are busy");
    harness.end().await;
}

/// Answers as two pods of users would, each with one driver; one of them in two pages.
async fn pods_answer(harness: &ServiceHarness, drivers: [ConnectedDriver; 2]) {
    let [first, second] = drivers;
    for (pod, drivers, is_paged) in [("one", [first], false), ("two", [second], true)] {
        let bus = harness.platform.bus.clone();
        let mut requests = bus.subscribe(CONNECTED_DRIVERS, None).await.unwrap();
        tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                let request: ConnectedDriversRequest = serde_json::from_slice(&message.payload).unwrap();
                if request.pod_id.as_deref().is_some_and(|asked| asked != pod) {
                    continue;
                }
                let is_first = is_paged && request.after.is_none();
                let next = is_first.then_some(UserId(uuid::Uuid::nil()));
                let drivers = if is_first { Vec::new() } else { drivers.to_vec() };
                let page = ConnectedDrivers { pod_id: pod.to_owned(), drivers, next };
                let reply = serde_json::to_vec(&page).unwrap();
                bus.publish_core(&message.reply.unwrap(), reply.into()).await.unwrap();
            }
        });
    }
}

async fn a_process_that_is_killed_and_its_successor_move_nobody(backend: Backend) {
    let mut harness = ServiceHarness::start(backend, 1).await;
    let (ride, free) = (TestRide::new(&harness), harness.platform.world.id());
    for driver in [ride.driver, free] {
        harness.go_online(driver, 300.0).await;
    }
    harness.all_handled().await;
    ride.publish(&harness, RideStatus::Started, 0.0).await;
    harness.all_handled().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let in_ride = LocationUpdate { ride_id: Some(ride.id), ..harness.free_point(ride.driver, 2_020.0) };
    let update = harness.free_point(free, 2_000.0);
    for point in [&in_ride, &update] {
        harness.publish(&Event::LocationUpdate(point.clone())).await;
    }
    let connected = |point: &LocationUpdate| ConnectedDriver {
        user_id: point.user_id,
        ride_id: point.ride_id,
        position: NewestPosition::of_point(point, point.recorded_at),
    };
    pods_answer(&harness, [connected(&in_ride), connected(&update)]).await;
    // Neither is in a row: the point of the ride waits for others, and the place of the free driver for its time.
    harness.kill_process(0).await;
    harness.start_process().await;
    let mut nearby = Vec::new();
    for _ in 0..200 {
        nearby = harness.nearby(0).await;
        if nearby == [2_000.0] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(nearby, [2_000.0]);
    let body = serde_json::to_vec(&NewestPositionRequest { driver_id: ride.driver }).unwrap();
    // It answers nobody before.
    let mut newest = None;
    for _ in 0..200 {
        if let Ok(reply) =
            harness.platform.bus.request(NEWEST_POSITION, body.clone().into(), NEWEST_POSITION_WAIT).await
        {
            newest = serde_json::from_slice::<Option<NewestPosition>>(&reply).unwrap();
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(newest.map(|newest| newest.location), Some(place(2_020.0, 0.0)));
    // Stopped in order, it writes the places that it knows: its successor needs nobody.
    harness.stop_processes().await;
    harness.start_process().await;
    assert_eq!(harness.nearby(0).await, [2_000.0]);
    harness.end().await;
}

async fn nearby_needs_a_sign_in_and_names_the_field_that_is_wrong(backend: Backend) {
    let harness = ServiceHarness::start(backend, 1).await;
    // Each time another user, because one may ask five times at once.
    let me = || Some(harness.platform.world.id());
    let drivers: Vec<UserId> = (0..12).map(|_| harness.platform.world.id()).collect();
    for (n, driver) in drivers.iter().enumerate() {
        harness.go_online(*driver, 100.0 * (n + 1) as f64).await;
    }
    harness.all_handled().await;
    let (status, problem) = harness.get(0, None, "/v1/drivers/nearby?lat=0&lng=30").await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNAUTHORIZED, &Value::from("unauthorized")));
    let cases = [
        ("", "lat"),
        ("lat=0", "lng"),
        ("lat=91&lng=30", "lat"),
        ("lat=0&lng=-180.5", "lng"),
        ("lat=NaN&lng=30", "lat"),
        ("lat=&lng=30", "lat"),
        ("lat=0&lng=30&radius_m=0", "radius_m"),
        ("lat=0&lng=30&radius_m=5001", "radius_m"),
        ("lat=0&lng=30&radius_m=inf", "radius_m"),
        ("lat=0&lng=30&limit=0", "limit"),
        ("lat=0&lng=30&limit=101", "limit"),
        ("lat=0&lng=30&limit=2.5", "limit"),
        ("lat=0&lat=1&lng=30", "query"),
    ];
    for (query, field) in cases {
        let (status, problem) = harness.get(0, me(), &format!("/v1/drivers/nearby?{query}")).await;
        let found = (status, problem["code"].as_str(), problem["field"].as_str());
        assert_eq!(found, (StatusCode::UNPROCESSABLE_ENTITY, Some("invalid_field"), Some(field)), "{query}");
    }
    for (query, expected) in [("", 10), ("&limit=100", 12), ("&limit=3", 3), ("&radius_m=450", 4), ("&radius_m=1", 0)] {
        let (status, body) = harness.get(0, me(), &format!("/v1/drivers/nearby?lat=0&lng=30{query}")).await;
        let drivers = body["drivers"].as_array().unwrap();
        assert_eq!((status, drivers.len()), (StatusCode::OK, expected), "{query}");
        let distances: Vec<f64> = drivers.iter().map(|d| d["distance_m"].as_f64().unwrap()).collect();
        assert!(distances.is_sorted());
    }
    let (_, body) = harness.get(0, me(), "/v1/drivers/nearby?lat=0&lng=30&limit=1").await;
    let recorded_at = body["drivers"][0]["recorded_at"].as_str().unwrap();
    assert!(recorded_at.ends_with(":00.000000Z") || recorded_at.contains(".000"), "whole seconds: {recorded_at}");
    let nearest = body["drivers"][0].as_object().unwrap();
    let fields: BTreeSet<&str> = nearest.keys().map(String::as_str).collect();
    assert_eq!(fields, BTreeSet::from(["distance_m", "position", "recorded_at", "vehicle_type"]), "and nothing else");
    assert_eq!(nearest["vehicle_type"], "van");
    assert!(drivers.iter().all(|driver| !body.to_string().contains(&driver.to_string())));
    harness.end().await;
}

/// Each position is delivered to one of the processes, which forwards it to the owner of its zone.
#[tokio::test(flavor = "multi_thread")]
async fn every_process_shows_every_driver() {
    let harness = ServiceHarness::start_on_nats(2).await;
    let both_show = async |expected: &[f64], wait: Duration| {
        let shown = async {
            while harness.nearby(0).await != expected || harness.nearby(1).await != expected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(wait, shown).await.is_ok()
    };
    // A process may not have subscribed yet, and a core message that is sent before that is lost. So publish new drivers,
    // each once, until both processes show one.
    let mut subscribed = false;
    for _ in 0..8 {
        let probe: UserId = harness.platform.world.id();
        harness.go_online(probe, 4_900.0).await;
        subscribed = both_show(&[4_900.0], Duration::from_secs(2)).await;
        harness.go_offline(probe, 4_900.0).await;
        if subscribed {
            break;
        }
    }
    assert!(subscribed, "the processes receive each other's positions");
    let drivers: Vec<UserId> = (0..40).map(|_| harness.platform.world.id()).collect();
    for (n, driver) in drivers.iter().enumerate() {
        harness.go_online(*driver, 100.0 * (n + 1) as f64).await;
    }
    let distances = |of: std::ops::Range<u32>| of.map(|n| 100.0 * f64::from(n + 1)).collect::<Vec<f64>>();
    let wait = Duration::from_secs(20);
    assert!(both_show(&distances(0..10), wait).await, "both processes know all drivers");
    // An event of a ride is delivered to one process, too; the other one reads the rows.
    let rides: Vec<TestRide> =
        drivers[..10].iter().map(|driver| TestRide { id: harness.platform.world.id(), driver: *driver }).collect();
    for ride in &rides {
        ride.publish(&harness, RideStatus::Started, 0.0).await;
    }
    assert!(both_show(&distances(10..20), wait).await, "both processes know who has a ride");
    for ride in &rides {
        ride.publish(&harness, RideStatus::Completed, 60.0).await;
    }
    assert!(both_show(&distances(0..10), wait).await, "both processes know whose ride is over");
    harness.end().await;
}

mod never {
    use super::*;

    on_both_stores!(offline_drivers_stay_offered);

    async fn offline_drivers_stay_offered(backend: Backend) {
        let harness = ServiceHarness::start(backend, 1).await;
        let (leaves, stays): (UserId, UserId) = (harness.platform.world.id(), harness.platform.world.id());
        harness.go_online(leaves, 300.0).await;
        harness.go_online(stays, 500.0).await;
        harness.all_handled().await;
        assert_eq!(harness.nearby(0).await, [300.0, 500.0]);
        harness.go_offline(leaves, 300.0).await;
        harness.all_handled().await;
        assert_eq!(harness.nearby(0).await, [500.0]);
        // A late point does not make them nearby again; their next beacon does, elsewhere.
        let mut late = TestRide { id: harness.platform.world.id(), driver: leaves }.point(&harness, 0.0);
        (late.ride_id, late.recorded_at) = (None, harness.platform.world.now());
        harness.publish(&Event::LocationUpdate(late)).await;
        harness.all_handled().await;
        assert_eq!(harness.nearby(0).await, [500.0]);
        harness.go_online(leaves, 100.0).await;
        harness.all_handled().await;
        assert_eq!(harness.nearby(0).await, [100.0, 500.0]);
        if backend == Backend::Memory {
            // Who waits in silence is shown.
            tokio::time::sleep(Duration::from_secs(3_000)).await;
            assert_eq!(harness.nearby(0).await, [100.0, 500.0]);
        }
        harness.end().await;
    }
}
