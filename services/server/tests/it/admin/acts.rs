//! Acts on rides: a stuck ride is ended in each status, money goes back once and no more than was captured, notes are added; each with
//! one event, and with books that are sound after it.

use platform::World;
use rides::audit::Findings;
use serde_json::{Value, json};
use streams::Service;
use streams::topology::{ADMIN_STREAM, DEAD_LETTER_STREAM};

use super::{ADMIN, Desk, SUPPORT, new_id};
use crate::harness::client::{Person, Socket, http};
use crate::harness::ride::{drive, online, trip};
use crate::harness::running::Shape;
use crate::harness::{on_both_shapes, settled, until};

on_both_shapes!(
    a_stuck_ride_is_ended_once_in_each_status,
    a_refund_is_a_balanced_movement_made_once_and_no_more_than_was_captured,
    notes_are_shown_and_their_text_is_in_no_event,
    a_key_is_for_one_act,
);

/// A driver and a passenger, connected, the driver on duty.
async fn people(desk: &Desk) -> (Socket, Socket) {
    let addr = desk.running.addr();
    let (driver, passenger) = (Person::driver(addr, 1).await, Person::passenger(addr, 2).await);
    let (mut driver, passenger) = (driver.connect(None).await, passenger.connect(None).await);
    online(&mut driver, 40.751).await;
    (driver, passenger)
}

/// A ride that has not started: its id and the PIN.
async fn ride(driver: &mut Socket, passenger: &mut Socket) -> (Value, Value) {
    passenger.ack("finder.update", trip()).await;
    let found = driver.event("match.found").await["data"]["match_id"].clone();
    driver.ack("match.accept", json!({"match_id": found})).await;
    driver.event("ride.pickup").await;
    let pickup = passenger.event("ride.pickup").await["data"].clone();
    (pickup["ride_id"].clone(), pickup["pin"].clone())
}

/// The id of a completed ride whose fare is captured.
async fn completed(desk: &Desk, driver: &mut Socket, passenger: &mut Socket) -> String {
    passenger.ack("finder.update", trip()).await;
    let found = driver.event("match.found").await["data"]["match_id"].clone();
    let ride = drive(driver, passenger, &found, &World::real()).await;
    passenger.event("ride.completed").await;
    let ride = ride.as_str().unwrap().to_owned();
    let path = format!("/rides/{ride}");
    until("the fare is captured", async || desk.get(&path).await["payment"]["status"] == "captured").await;
    ride
}

/// The audit of a platform on NATS has no finding.
async fn is_sound(desk: &Desk) {
    let app = &desk.running.apps[0];
    settled(&app.platform.bus).await;
    let Some(database) = desk.running.settings.database_of(Service::Rides) else { return };
    let world = World::real();
    let store =
        platform::Store::postgres(&world, &"audit".into(), database.url, "rides", &rides::MIGRATIONS, 2).await.unwrap();
    let report = rides::audit::Audit::new(&app.platform.bus, &store, &world).verify().await.unwrap();
    assert_eq!(report.findings, Findings::default());
}

async fn a_stuck_ride_is_ended_once_in_each_status(shape: Shape) {
    let desk = Desk::start(shape).await;
    let (mut driver, mut passenger) = people(&desk).await;
    let mut acts = 0;
    for status in ["pickup", "waiting", "started", "arrived"] {
        let (ride, pin) = ride(&mut driver, &mut passenger).await;
        if status == "waiting" {
            let near =
                json!({"location": {"lat": 40.75, "lng": -73.98}, "recorded_at": World::real().now().to_rfc3339()});
            driver.ack("location.update", json!({"points": [near]})).await;
            until("the driver is at the pickup", async || {
                driver.command("ride.wait", json!({"ride_id": ride})).await["type"] == "ack"
            })
            .await;
        }
        if matches!(status, "started" | "arrived") {
            driver.ack("ride.start", json!({"ride_id": ride, "pin": pin})).await;
        }
        let id = ride.as_str().unwrap();
        if status == "arrived" {
            driver.ack("ride.arrive", json!({"ride_id": ride})).await;
        }
        let before = desk.get(&format!("/rides/{id}")).await;
        let end = format!("/rides/{id}/end");
        let ended = desk.done_once(&end, json!({"reason": "stuck for hours"})).await;
        acts += 1;
        let shown = desk.get(&format!("/rides/{id}")).await;
        let (expected, total) = if status == "arrived" { ("completed", 600) } else { ("cancelled", 0) };
        assert_eq!((&ended["status"], &shown["ride"]["status"]), (&json!(expected), &json!(expected)), "{status}");
        assert!(shown["ride"]["total"]["amount"].as_i64().unwrap() >= total, "{shown}");
        assert_eq!(shown["ride"]["total"]["amount"] == 0, status != "arrived", "{status}: {shown}");
        if status != "arrived" {
            assert_eq!(shown["ride"]["cancelled_by"], "system");
            assert_eq!(
                shown["ride"]["cancel_reason"], "ended by an operator",
                "the operator's words stay with operators"
            );
        }
        assert_eq!(shown["chain"], json!({"verifies": true, "fault": null}));
        // Both parties are sent it, and are free.
        let event = passenger.event(&format!("ride.{expected}")).await;
        assert_eq!(event["data"]["ride_id"], ride);
        driver.event(&format!("ride.{expected}")).await;
        let (again, problem) = desk.act(&end, None, json!({"reason": "again"})).await;
        assert_eq!((again, &problem["code"]), (409, &json!("ride_ended")));
        let last = desk.acts(acts).await.pop().unwrap();
        assert_eq!((&last["act"], &last["ride_id"], &last["by"]), (&json!("ride_ended"), &ride, &json!("ann")));
        assert_eq!((&last["reason"], &last["role"]), (&json!("stuck for hours"), &json!("admin")));
        assert_eq!(last["previous_status"], before["ride"]["status"]);
    }
    is_sound(&desk).await;
    desk.stop().await;
}

async fn a_refund_is_a_balanced_movement_made_once_and_no_more_than_was_captured(shape: Shape) {
    let desk = Desk::start(shape).await;
    let (mut driver, mut passenger) = people(&desk).await;
    let ride = completed(&desk, &mut driver, &mut passenger).await;
    let (path, refund) = (format!("/rides/{ride}"), format!("/rides/{ride}/refund"));
    let captured = desk.get(&path).await["payment"]["amount"]["amount"].as_i64().unwrap();
    let body = |amount: i64| json!({"amount": {"amount": amount, "currency": "USD"}, "reason": "a detour"});
    let first = desk.done_once(&refund, body(150)).await;
    assert_eq!(first["refunded"], json!({"amount": 150, "currency": "USD"}));
    for (wrong, status, code) in [
        (body(captured - 149), 409, "refund_too_large"),
        (body(0), 422, "invalid_field"),
        (body(-5), 422, "invalid_field"),
        (json!({"amount": {"amount": 1, "currency": "EUR"}, "reason": "a detour"}), 422, "invalid_field"),
        (json!({"amount": {"amount": 1, "currency": "USD"}}), 422, "invalid_field"),
        (json!({"amount": {"amount": 1, "currency": "USD"}, "reason": " "}), 422, "invalid_field"),
    ] {
        let (found, problem) = desk.act(&refund, None, wrong.clone()).await;
        assert_eq!((found, &problem["code"]), (status, &json!(code)), "{wrong}: {problem}");
    }
    // The rest, by two at once with one key.
    let key = Some(new_id());
    let (one, two) =
        tokio::join!(desk.act(&refund, key, body(captured - 150)), desk.act(&refund, key, body(captured - 150)));
    let repeats = [&one, &two].iter().filter(|(_, done)| done["repeated"] == true).count();
    assert_eq!((one.0, two.0, repeats), (200, 200, 1), "{one:?} {two:?}");
    let shown = desk.get(&path).await;
    assert_eq!(shown["payment"]["refunded"]["amount"], captured);
    let refunds = shown["refunds"].as_array().unwrap();
    assert_eq!((refunds.len(), &refunds[0]["refund_id"], &refunds[0]["by"]), (2, &first["refund_id"], &json!("ann")));
    let person = Person::passenger(desk.running.addr(), 2).await;
    let (status, export) = http(desk.running.addr(), "GET", "/v1/me/export", Some(&person.token), None).await;
    let exported = export["refunds"].as_array().unwrap();
    assert_eq!((status, exported.len(), &export["truncated"]), (200, 2, &json!([])), "{export}");
    assert!(exported.iter().all(|refund| refund["reason"] == "a detour" && refund.get("by").is_none()), "{exported:?}");
    assert_eq!(export["not_exported"][0]["what"], "operators' notes of your rides");
    let entries: Vec<&Value> = shown["ledger"].as_array().unwrap().iter().filter(|e| e["kind"] == "refund").collect();
    let sum = |account: &str| -> i64 {
        let of = entries.iter().filter(|entry| entry["account"] == account);
        of.map(|entry| entry["amount"]["amount"].as_i64().unwrap()).sum()
    };
    assert_eq!((entries.len(), sum("platform:revenue"), sum("cash:ledger")), (4, captured, -captured), "{shown}");
    let acts = desk.acts(2).await;
    assert!(acts.iter().all(|act| act["act"] == "ride_refunded" && act["payment_id"].is_string()), "{acts:?}");
    assert_eq!(acts[0]["amount"], json!({"amount": 150, "currency": "USD"}));
    is_sound(&desk).await;

    // What was cancelled for nothing has nothing to give back.
    let (live, _) = self::ride(&mut driver, &mut passenger).await;
    let refund = format!("/rides/{}/refund", live.as_str().unwrap());
    let (status, problem) = desk.act(&refund, None, body(1)).await;
    assert_eq!((status, &problem["code"]), (409, &json!("not_captured")));
    desk.stop().await;
}

async fn notes_are_shown_and_their_text_is_in_no_event(shape: Shape) {
    let desk = Desk::start(shape).await;
    let (mut driver, mut passenger) = people(&desk).await;
    let (ride, _) = ride(&mut driver, &mut passenger).await;
    let id = ride.as_str().unwrap();
    let path = format!("/rides/{id}/notes");
    let text = "the passenger\nleft a bag";
    let (status, done) = desk.call(SUPPORT, ("POST", &path), None, Some(json!({"text": text}))).await;
    assert_eq!((status, &done["ride_id"]), (200, &ride));
    desk.done_once(&path, json!({"text": "it was found"})).await;
    assert_eq!(desk.act(&path, None, json!({"text": ""})).await.0, 422);
    let notes = desk.get(&format!("/rides/{id}")).await["notes"].clone();
    let notes: Vec<(&Value, &Value)> =
        notes.as_array().unwrap().iter().map(|note| (&note["by"], &note["text"])).collect();
    let expected = [(&json!("sue"), &json!("the passenger left a bag")), (&json!("ann"), &json!("it was found"))];
    assert_eq!(notes, expected);
    let acts = desk.acts(2).await;
    assert!(acts.iter().all(|act| act["act"] == "ride_note_added" && !act.to_string().contains("bag")), "{acts:?}");
    desk.stop().await;
}

async fn a_key_is_for_one_act(shape: Shape) {
    let desk = Desk::start(shape).await;
    let (mut driver, mut passenger) = people(&desk).await;
    let (ride, _) = ride(&mut driver, &mut passenger).await;
    let path = format!("/rides/{}/notes", ride.as_str().unwrap());
    let key = Some(new_id());
    assert_eq!(desk.act(&path, key, json!({"text": "one"})).await.0, 200);
    for (token, text) in [(ADMIN, "two"), (SUPPORT, "one")] {
        let (status, problem) = desk.call(token, ("POST", &path), key, Some(json!({"text": text}))).await;
        assert_eq!((status, &problem["code"]), (409, &json!("key_reused")), "{text}");
    }
    let headers = [("idempotency-key", "not a uuid")];
    let target = format!("/admin/v1{path}");
    let body = Some(json!({"text": "one"}));
    let (status, problem) =
        testing::http::request_with(desk.running.addr(), ("POST", &target), Some(ADMIN), &headers, body).await.unwrap();
    assert_eq!((status, &problem["field"]), (422, &json!("Idempotency-Key")));
    desk.acts(1).await;
    let bus = &desk.running.apps[0].platform.bus;
    assert_eq!(bus.stream_info(DEAD_LETTER_STREAM).await.unwrap().messages, 0);
    assert_eq!(bus.stream_info(ADMIN_STREAM).await.unwrap().messages, 1);
    desk.stop().await;
}
