use serde_json::{Value, json};

use super::*;

const HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A body for every subject, exactly as in the contract.
fn bodies() -> Vec<(Subject, Value)> {
    let id = |n: u8| format!("01890a5d-ac96-774b-bcce-b302099a80{n:02}");
    let (here, there) = (json!({"lat": 40.75, "lng": -73.98}), json!({"lat": 40.64, "lng": -73.78}));
    let at = "2026-11-21T04:05:06.123456Z";
    let offer = json!({
        "match_id": id(3), "request_id": id(2), "driver_id": id(1), "passenger_id": id(0), "pickup": here, "dropoff": there,
        "vehicle_type": "car",
    });
    let with = |mut body: Value, more: Value| {
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let ride = |status: &str, version: u32, more: Value| {
        let body = json!({
            "ride_id": id(4), "match_id": id(3), "driver_id": id(1), "passenger_id": id(0), "version": version,
            "status": status, "pickup": here, "dropoff": there, "vehicle_type": "van", "occurred_at": at,
            "previous_hash": HASH, "hash": HASH.replace('0', "f"),
        });
        with(body, more)
    };
    let money = |cents: i64| json!({"amount": cents, "currency": "USD"});
    let acts = ActKind::ALL.iter().map(|act| {
        let body = json!({"act_id": id(6), "act": act.as_str(), "by": "ann", "role": "support", "reason": null, "acted_at": at});
        (act.subject(), body)
    });
    let mut without_reason = offer.clone();
    for field in ["pickup", "dropoff", "vehicle_type"] {
        without_reason.as_object_mut().unwrap().remove(field);
    }
    let mut bodies = vec![
        (
            Subject::UserBeacon,
            json!({"user_id": id(1), "active": true, "vehicle_type": "motorcycle", "location": here, "recorded_at": at}),
        ),
        (
            Subject::UserFinder,
            json!({"request_id": id(2), "user_id": id(0), "active": false, "pickup": here, "dropoff": there,
                "vehicle_type": "car", "recorded_at": at}),
        ),
        (
            Subject::MatchFound,
            with(
                offer.clone(),
                json!({"driver_location": there, "pickup_distance_m": 812.5, "pickup_eta_s": 97.25,
                    "fare_estimate": money(1_234), "found_at": at, "expires_at": "2026-11-21T04:05:21.123456Z"}),
            ),
        ),
        (Subject::MatchRejected, with(without_reason, json!({"reason": "superseded", "rejected_at": at}))),
        (Subject::MatchAccepted, with(offer, json!({"accepted_at": at}))),
        (Subject::RidePickup, ride("pickup", 1, json!({}))),
        (Subject::RideWaiting, ride("waiting", 2, json!({}))),
        (Subject::RideStarted, ride("started", 2, json!({}))),
        (Subject::RideArrived, ride("arrived", 3, json!({}))),
        (
            Subject::RideCompleted,
            ride(
                "completed",
                4,
                json!({"distance_m": 5_012.5, "duration_s": 600.0, "platform_fee": money(250),
                    "driver_payout": money(750),
                    "fare": {"lines": [{"name": "base", "amount": money(1_000)}], "total": money(1_000)}}),
            ),
        ),
        (
            Subject::RideCancelled,
            ride("cancelled", 2, json!({"by": "passenger", "reason": "\"late\"", "fee": money(0)})),
        ),
        (
            Subject::LocationUpdate,
            json!({"user_id": id(1), "ride_id": null, "location": here, "accuracy_m": 4.5, "speed_mps": null,
                "heading_deg": 0.0, "recorded_at": at}),
        ),
        (
            Subject::LocationAggregate,
            json!({"ride_id": id(4), "driver_id": id(1), "distance_m": 17.25, "points": 3, "final": true,
                "last": {"location": there, "recorded_at": at}}),
        ),
        (
            Subject::PaymentCapture,
            json!({"payment_id": id(5), "ride_id": id(4), "passenger_id": id(0), "driver_id": id(1),
                "amount": money(1_000)}),
        ),
    ];
    bodies.extend(acts);
    bodies
}

fn parse(subject: Subject, body: &Value) -> Result<Event, EventError> {
    Event::parse(subject.as_str(), body.to_string().as_bytes())
}

/// The body of `subject` with the field at `path` (dots for nesting) set, or removed for `None`.
fn body_with(subject: Subject, path: &str, value: Option<Value>) -> Value {
    let (_, mut body) = bodies().into_iter().find(|(s, _)| *s == subject).unwrap();
    let (parents, field) = path.rsplit_once('.').unwrap_or(("", path));
    let parent = parents.split('.').filter(|p| !p.is_empty()).fold(&mut body, |at, name| &mut at[name]);
    match value {
        Some(value) => parent[field] = value,
        None => drop(parent.as_object_mut().unwrap().remove(field)),
    }
    body
}

#[test]
fn every_event_serializes_to_the_body_it_was_parsed_from() {
    assert_eq!(bodies().iter().map(|(s, _)| *s).collect::<Vec<_>>(), Subject::ALL);
    for (subject, body) in bodies() {
        let event = parse(subject, &body).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(event.subject(), subject);
        assert_eq!(serde_json::from_slice::<Value>(&event.body()).unwrap(), body, "{subject}");
        assert_eq!(Event::parse(subject.as_str(), &event.body()).unwrap(), event);
        assert_eq!(subject.as_str().parse::<Subject>().unwrap(), subject);
    }
}

#[test]
fn every_field_is_required() {
    for (subject, body) in bodies() {
        for field in body.as_object().unwrap().keys() {
            let missing = parse(subject, &body_with(subject, field, None));
            let text = missing.expect_err(&format!("{subject} without {field}")).to_string();
            assert!(text.contains(field.as_str()) && text.contains("missing"), "{subject} without {field}: {text}");
        }
    }
}

#[test]
fn no_field_may_have_another_type() {
    for (subject, body) in bodies() {
        for field in body.as_object().unwrap().keys() {
            for wrong in [json!([]), json!({"no": "such"})] {
                let parsed = parse(subject, &body_with(subject, field, Some(wrong.clone())));
                assert!(matches!(parsed, Err(EventError::Body { .. })), "{subject}.{field} = {wrong}: {parsed:?}");
            }
        }
    }
}

#[test]
fn unknown_fields_are_ignored() {
    for (subject, body) in bodies() {
        let more = body_with(subject, "added_later", Some(json!({"x": [1, null]})));
        assert_eq!(parse(subject, &more).unwrap(), parse(subject, &body).unwrap(), "{subject}");
    }
}

#[test]
fn value_out_of_range_is_an_error_that_names_its_field() {
    use Subject::*;
    for (subject, field, value) in [
        (UserBeacon, "location.lat", json!(90.001)),
        (UserBeacon, "location.lat", json!(-90.001)),
        (UserBeacon, "location.lng", json!(180.001)),
        (UserFinder, "pickup.lng", json!(-180.001)),
        (UserFinder, "dropoff.lat", json!(1e300)),
        (MatchFound, "driver_location.lat", json!(91)),
        (MatchFound, "pickup_distance_m", json!(-1.0)),
        (MatchFound, "pickup_eta_s", json!(-0.5)),
        (MatchAccepted, "dropoff.lng", json!(200)),
        (RidePickup, "pickup.lat", json!(-91)),
        (RidePickup, "version", json!(0)),
        (RidePickup, "status", json!("started")),
        (RidePickup, "hash", json!(HASH.replace('0', "F"))),
        (RidePickup, "previous_hash", json!("00")),
        (RideCompleted, "distance_m", json!(-3.0)),
        (RideCompleted, "duration_s", json!(-3.0)),
        (LocationUpdate, "location.lat", json!(90.5)),
        (LocationUpdate, "accuracy_m", json!(-1)),
        (LocationUpdate, "speed_mps", json!(-1)),
        (LocationUpdate, "heading_deg", json!(-1)),
        (LocationAggregate, "distance_m", json!(-1)),
        (LocationAggregate, "last.location.lat", json!(95)),
        (PaymentCapture, "amount.amount", json!(-1)),
    ] {
        let parsed = parse(subject, &body_with(subject, field, Some(value.clone())));
        let Err(EventError::Field { subject: of, field: named, .. }) = &parsed else {
            panic!("{subject}.{field} = {value}: {parsed:?}")
        };
        assert_eq!(*of, subject);
        assert!(field.starts_with(named), "{subject}.{field} = {value} names {named}");
    }
}

#[test]
fn value_of_another_type_is_refused() {
    use Subject::*;
    for (subject, field, value) in [
        (UserBeacon, "user_id", json!("not an id")),
        (UserBeacon, "vehicle_type", json!("bicycle")),
        (UserBeacon, "active", json!("yes")),
        (UserBeacon, "location.lat", json!("40.7")),
        (UserBeacon, "recorded_at", json!("yesterday")),
        (UserBeacon, "recorded_at", json!("2026-11-21T04:05:06")),
        (UserBeacon, "recorded_at", json!("+12026-11-21T04:05:06Z")),
        (UserBeacon, "recorded_at", json!("1969-12-31T23:59:59Z")),
        (MatchRejected, "reason", json!("tired")),
        (MatchFound, "fare_estimate.amount", json!(12.5)),
        (MatchFound, "fare_estimate.currency", json!("euro")),
        (RidePickup, "version", json!(-1)),
        (RideCancelled, "by", json!("stranger")),
        (LocationAggregate, "points", json!(1.5)),
    ] {
        let parsed = parse(subject, &body_with(subject, field, Some(value.clone())));
        assert!(matches!(parsed, Err(EventError::Body { .. })), "{subject}.{field} = {value}: {parsed:?}");
    }
}

#[test]
fn bounds_of_ranges_are_valid() {
    for (lat, lng) in [(90.0, 180.0), (-90.0, -180.0), (0.0, 0.0)] {
        assert!(Position { lat, lng }.is_valid());
        let beacon = body_with(Subject::UserBeacon, "location", Some(json!({"lat": lat, "lng": lng})));
        parse(Subject::UserBeacon, &beacon).unwrap();
    }
    for (lat, lng) in [(f64::NAN, 0.0), (0.0, f64::INFINITY), (90.000_001, 0.0)] {
        assert!(!Position { lat, lng }.is_valid(), "{lat} {lng}");
    }
}

#[test]
fn invalid_json_and_unknown_subjects_are_refused() {
    for body in [&b""[..], b"{", b"[]", b"null", b"\xff\xfe", b"{\"user_id\": }", b"{} {}"] {
        for subject in Subject::ALL {
            let parsed = Event::parse(subject.as_str(), body);
            assert!(matches!(parsed, Err(EventError::Body { .. })), "{subject} {body:?}: {parsed:?}");
        }
    }
    for subject in ["", "user", "user.beacon.x", "USER.BEACON", "ride.*"] {
        assert!(
            matches!(Event::parse(subject, b"{}"), Err(EventError::UnknownSubject(unknown)) if unknown.0 == subject)
        );
    }
}

#[test]
fn message_id_is_subject_entity_and_microseconds() {
    let other = DateTime::from_timestamp_micros(1_700_000_000_000_007).unwrap();
    for (subject, body) in bodies() {
        let event = parse(subject, &body).unwrap();
        let (field, own_time) = match subject {
            Subject::UserBeacon | Subject::LocationUpdate => ("user_id", true),
            Subject::UserFinder => ("request_id", true),
            Subject::MatchFound | Subject::MatchAccepted | Subject::MatchRejected => ("match_id", true),
            Subject::LocationAggregate => ("ride_id", false),
            Subject::PaymentCapture => ("payment_id", false),
            _ if subject.as_str().starts_with("admin.") => ("act_id", true),
            _ => ("ride_id", true),
        };
        let micros = if own_time { 1_795_233_906_123_456 } else { 1_700_000_000_000_007_i64 };
        let entity = body[field].as_str().unwrap();
        assert_eq!(event.message_id(other), format!("{subject}-{entity}-{micros}"));
        assert_eq!(event.entity_id().to_string(), entity);
        assert_eq!(event.occurred_at().is_some(), own_time, "{subject}");
    }
}

#[test]
fn times_are_converted_to_utc_microseconds() {
    for (given, expected) in [
        ("2026-11-21T06:05:06.5+02:00", "2026-11-21T04:05:06.500000Z"),
        ("2026-11-21T04:05:06Z", "2026-11-21T04:05:06.000000Z"),
        ("2026-11-21T04:05:06.123456789Z", "2026-11-21T04:05:06.123456Z"),
    ] {
        let event =
            parse(Subject::UserBeacon, &body_with(Subject::UserBeacon, "recorded_at", Some(json!(given)))).unwrap();
        let body: Value = serde_json::from_slice(&event.body()).unwrap();
        assert_eq!(body["recorded_at"], expected);
    }
}

#[test]
fn distance_is_the_great_circle_distance() {
    let (jfk, lhr) = (Position { lat: 40.6413, lng: -73.7781 }, Position { lat: 51.4700, lng: -0.4543 });
    let distance_m = jfk.distance_m(&lhr);
    assert!((5_538_000.0..5_542_000.0).contains(&distance_m), "{distance_m}");
    assert_eq!(jfk.distance_m(&jfk), 0.0);
}

#[test]
fn two_services_ending_an_offer_in_one_microsecond_use_two_message_ids() {
    let body = &bodies().into_iter().find(|(subject, _)| *subject == Subject::MatchRejected).unwrap().1;
    for micros in 0..6 {
        let now = DateTime::from_timestamp_micros(1_790_000_000_000_000 + micros).unwrap();
        let ids: std::collections::BTreeSet<String> = [Service::Users, Service::Match, Service::Rides]
            .into_iter()
            .map(|writer| {
                let mut rejected: MatchRejected = serde_json::from_value(body.clone()).unwrap();
                rejected.rejected_at = MatchRejected::time(writer, now);
                assert!((0..=2).contains(&(now - rejected.rejected_at).num_microseconds().unwrap()));
                let writers = [Service::Users, Service::Match, Service::Rides];
                assert_eq!(writers.into_iter().filter(|w| rejected.is_from(*w)).collect::<Vec<_>>(), [writer]);
                Event::MatchRejected(rejected).message_id(now)
            })
            .collect();
        assert_eq!(ids.len(), 3, "{ids:?}");
    }
}

#[test]
fn a_position_keeps_how_it_was_received_and_its_message_id_is_made_of_the_devices_time() {
    let body = |reception: Value| {
        let (_, mut body) = bodies().into_iter().find(|(s, _)| *s == Subject::LocationUpdate).unwrap();
        body["reception"] = reception;
        body
    };
    let of = |device: &str| {
        let mut reception = json!({"device": device, "ride_device": true, "device_at": "2026-01-01T00:00:07.000001Z",
            "received_at": "2026-01-01T00:00:27.500000Z"});
        if !device.is_empty() {
            reception["sent_at"] = json!("2026-01-01T00:00:08.000000Z");
        }
        body(reception)
    };
    const USER: &str = "01890a5d-ac96-774b-bcce-b302099a8001";
    for (device, entity) in [("", USER.to_owned()), ("phone", format!("{USER}.phone"))] {
        let event = parse(Subject::LocationUpdate, &of(device)).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&event.body()).unwrap(), of(device));
        let at = DateTime::UNIX_EPOCH;
        assert_eq!(event.message_id(at), format!("location.update-{entity}-1767225607000001"));
    }
    assert!(parse(Subject::LocationUpdate, &body(json!({"device": "phone"}))).is_err());
}
