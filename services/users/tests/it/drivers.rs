//! Drivers: plates that are one driver's only, vehicles that change, and who may drive.

use serde_json::{Value, json};
use streams::{RideId, RideStatus, UserId};
use testing::{Backend, on_both_stores};
use users::{Config, DriverApproval, DriverStatus};

use crate::client::match_id;
use crate::commands::Pair;
use crate::pods::{Cluster, HERE, Pod};

on_both_stores!(
    a_plate_is_one_drivers_however_it_is_written,
    of_requests_for_one_plate_at_once_one_wins,
    a_vehicle_changes_while_no_ride_is_live,
    a_new_driver_waits_for_approval_where_that_is_manual,
    a_suspended_driver_loses_the_open_offer_and_goes_off_duty,
    a_ride_under_way_outlives_the_suspension_of_its_driver,
);

impl Pod {
    async fn vehicle(&self, user: UserId, method: &str, body: Value) -> Result<Value, String> {
        let (status, body) = self.http(user, method, "/v1/drivers", body).await;
        if status.is_success() {
            return Ok(body["driver"].clone());
        }
        Err(format!("{} {}", status.as_u16(), body["code"].as_str().unwrap()))
    }
}

async fn missed_offers(pod: &Pod, user: UserId) -> String {
    let (status, body) = pod.http(user, "GET", "/v1/me/missed-offers", Value::Null).await;
    format!("{} {}", status.as_u16(), body["code"].as_str().unwrap_or_default())
}

fn car(plate: &str) -> Value {
    json!({"vehicle_type": "car", "plate": plate})
}

async fn a_plate_is_one_drivers_however_it_is_written(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut n = 0;
    for (first, others) in [
        ("AB-123", &["AB 123", "AB123", "ab  123", "\u{ff21}\u{ff22}\u{ff11}\u{ff12}\u{ff13}"][..]),
        ("straße 1", &["STRASSE1", "STRAẞE-1"]),
        ("м 77 ав", &["М77АВ"]),
    ] {
        for (plate, expected) in [(first, None)].into_iter().chain(others.iter().map(|p| (*p, Some("409 plate_taken"))))
        {
            n += 1;
            let user = pod.passenger(&format!("+1212555{:04}", 3_200 + n)).await;
            let answer = pod.vehicle(user, "POST", car(plate)).await;
            assert_eq!(answer.as_ref().err().map(String::as_str), expected, "{plate}: {answer:?}");
            if let Ok(driver) = answer {
                let again = pod.vehicle(user, "POST", car(&first.to_lowercase())).await;
                assert_eq!(again, Ok(driver), "the same registration again");
            }
        }
    }
    pod.stop().await;
}

async fn of_requests_for_one_plate_at_once_one_wins(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut users = Vec::new();
    for n in 0..4 {
        users.push(pod.passenger(&format!("+121255533{n:02}")).await);
    }
    let plates = ["X-1 é", "x1É", "X 1 E\u{301}", "\u{ff38}1É"];
    let answers =
        futures_util::future::join_all(users.iter().zip(plates).map(|(u, p)| pod.vehicle(*u, "POST", car(p)))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(|why| why == "409 plate_taken"));
    pod.stop().await;
}

async fn a_vehicle_changes_while_no_ride_is_live(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 341, 60).await;
    let patch = async |body: Value| pod.vehicle(pair.driver, "PATCH", body).await;
    assert_eq!(pod.vehicle(pair.passenger, "PATCH", json!({})).await, Err("403 not_driver".to_owned()));
    pair.d.ack("beacon.update", json!({"active": true, "location": HERE})).await;
    pair.d.event_of("user.beacon").await;
    // The words alone touch nothing else.
    let driver = patch(json!({"make": "Škoda", "model": "Octavia", "color": "gelb"})).await.unwrap();
    assert_eq!((&driver["make"], &driver["plate"]), (&json!("Škoda"), &json!("T 0341")));
    assert_eq!(patch(json!({"color": null})).await.unwrap()["color"], Value::Null);
    for (body, expected) in [(json!({"plate": "?"}), "422 invalid_field"), (json!({"model": ""}), "422 invalid_field")]
    {
        assert_eq!(patch(body).await, Err(expected.to_owned()));
    }
    let other = pod.driver("+12125550342").await;
    assert_eq!(patch(json!({"plate": "t-0342"})).await, Err("409 plate_taken".to_owned()));
    assert_eq!(patch(json!({"plate": "T-0341 b"})).await.unwrap()["plate"], "T-0341 B");
    // The old plate is free now.
    assert_eq!(pod.vehicle(other, "PATCH", json!({"plate": "T 0341"})).await.unwrap()["plate"], "T 0341");
    // Another type withdraws the offer, and the beacon is published with it.
    assert_eq!(patch(json!({"vehicle_type": "van"})).await.unwrap()["vehicle_type"], "van");
    assert_eq!(pair.d.event_of("match.rejected").await["data"]["reason"], "declined");
    assert_eq!(pair.d.refused("match.accept", match_id(&pair.found)).await, "offer_closed -");
    assert_eq!(pod.state(pair.driver).await["beacon"]["vehicle_type"], "van");
    // From the acceptance to the end of the ride it stays.
    let mut pair = Pair::offered(&cluster, &pod, 343, 60).await;
    let patch = async || pod.vehicle(pair.driver, "PATCH", json!({"color": "red"})).await;
    pair.d.ack("match.accept", match_id(&pair.found)).await;
    assert_eq!(patch().await, Err("409 ride_live".to_owned()));
    let ride: RideId = cluster.world.id();
    cluster.publish(&cluster.ride(ride, &pair.found, 1, RideStatus::Pickup)).await;
    pair.d.event_of("ride.pickup").await;
    assert_eq!(patch().await, Err("409 ride_live".to_owned()));
    cluster.publish(&cluster.ride(ride, &pair.found, 2, RideStatus::Cancelled)).await;
    pair.d.event_of("ride.cancelled").await;
    assert_eq!(patch().await.unwrap()["color"], "red");
    // The passenger's next frame shows it.
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    cluster.publish(&cluster.ride(ride, &pair.found, 3, RideStatus::Cancelled)).await;
    let shown = loop {
        let event = pair.p.event_of("ride.cancelled").await;
        if event["data"]["version"] == 3 {
            break event["data"]["driver"].clone();
        }
    };
    assert_eq!((&shown["color"], &shown["plate"]), (&json!("red"), &json!("T 0343")));
    pod.stop().await;
}

async fn a_new_driver_waits_for_approval_where_that_is_manual(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let config = Config { driver_approval: DriverApproval::Manual, ..Config::default() };
    let mut pod = cluster.idle_pod("one", config).await;
    pod.run();
    let driver = pod.driver("+12125553501").await;
    let mut d = pod.connect(driver, None).await;
    let on = json!({"active": true, "location": HERE});
    assert_eq!(d.welcome["state"]["user"]["driver"]["status"], "pending");
    assert_eq!(d.refused("beacon.update", on.clone()).await, "driver_not_approved -");
    let fix = || json!({"location": HERE, "recorded_at": cluster.world.now().to_rfc3339()});
    assert_eq!(d.refused("location.update", fix()).await, "driver_not_approved -");
    assert_eq!(missed_offers(&pod, driver).await, "403 driver_not_approved");
    assert_eq!(pod.users.set_driver_status(driver, DriverStatus::Approved).await.unwrap(), Some(DriverStatus::Pending));
    assert_eq!(
        pod.users.set_driver_status(driver, DriverStatus::Approved).await.unwrap(),
        Some(DriverStatus::Approved)
    );
    d.ack("location.update", fix()).await;
    d.ack("beacon.update", on).await;
    assert_eq!(missed_offers(&pod, driver).await, "503 unavailable", "no match runs here");
    let nobody = cluster.world.id();
    assert_eq!(pod.users.set_driver_status(nobody, DriverStatus::Approved).await.unwrap(), None);
    pod.stop().await;
}

async fn a_suspended_driver_loses_the_open_offer_and_goes_off_duty(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 351, 60).await;
    let on = json!({"active": true, "location": HERE});
    pair.d.ack("beacon.update", on.clone()).await;
    for before in [DriverStatus::Approved, DriverStatus::Suspended] {
        let was = pod.users.set_driver_status(pair.driver, DriverStatus::Suspended).await.unwrap();
        assert_eq!(was, Some(before));
    }
    for client in [&mut pair.d, &mut pair.p] {
        assert_eq!(client.event_of("match.rejected").await["data"]["reason"], "declined");
    }
    assert_eq!(pair.d.refused("match.accept", match_id(&pair.found)).await, "offer_closed -");
    assert_eq!(pair.d.refused("beacon.update", on.clone()).await, "driver_not_approved -");
    let state = pod.state(pair.driver).await;
    assert_eq!((&state["beacon"]["active"], &state["user"]["driver"]["status"]), (&json!(false), &json!("suspended")));
    pair.d.ack("beacon.update", json!({"active": false})).await;
    // One that was on its way.
    let found = cluster.found(pair.driver, pair.passenger, pair.found.request_id, 60);
    cluster.publish(&streams::Event::MatchFound(found.clone())).await;
    pair.d.event_of("match.found").await;
    assert_eq!(pair.d.refused("match.accept", match_id(&found)).await, "driver_not_approved -");
    pod.users.set_driver_status(pair.driver, DriverStatus::Approved).await.unwrap();
    pair.d.ack("beacon.update", on).await;
    pair.d.ack("match.accept", match_id(&found)).await;
    pod.stop().await;
}

async fn a_ride_under_way_outlives_the_suspension_of_its_driver(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 352, 60).await;
    pair.d.ack("match.accept", match_id(&pair.found)).await;
    pod.users.set_driver_status(pair.driver, DriverStatus::Suspended).await.unwrap();
    assert_eq!(pair.d.ack("match.accept", match_id(&pair.found)).await, match_id(&pair.found), "a repeat");
    let ride: RideId = cluster.world.id();
    cluster.publish(&cluster.ride(ride, &pair.found, 1, RideStatus::Pickup)).await;
    pair.p.event_of("ride.pickup").await;
    let fix = json!({"location": HERE, "recorded_at": cluster.world.now().to_rfc3339()});
    pair.d.ack("location.update", fix).await;
    assert!(pod.state(pair.driver).await["ride"].is_object());
    cluster.publish(&cluster.ride(ride, &pair.found, 2, RideStatus::Cancelled)).await;
    pair.d.event_of("ride.cancelled").await;
    // On a socket that does not know of a duty: what the phone held back may be of the ride, and where the driver is now is of no use.
    let mut d = pod.connect(pair.driver, None).await;
    let at = |ago_s| json!({"location": HERE, "recorded_at": (cluster.world.now() - chrono::Duration::seconds(ago_s)).to_rfc3339()});
    assert_eq!(d.refused("location.update", at(0)).await, "driver_not_approved -");
    let both = json!({"points": [at(30), at(0)]});
    assert_eq!(d.ack("location.update", both).await, json!({"points": 2, "left_out": 1}));
    pod.stop().await;
}
