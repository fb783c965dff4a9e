//! Frames as tables: text in, a command or the field at fault out.

use serde_json::json;

use super::*;

const RIDE: &str = "01890000-0000-7000-8000-000000000001";

fn now() -> DateTime<Utc> {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

/// What becomes of a frame: the command, or code and field.
fn told(text: &str) -> String {
    match parse(text, now()) {
        Ok(frame) => format!("{:?}", frame.command),
        Err(refused) => {
            let Refusal { code, message, field } = refused.refusal;
            assert!(!message.is_empty());
            format!("{code} {}", field.as_deref().unwrap_or("-"))
        }
    }
}

fn of(kind: &str, data: Value) -> String {
    told(&json!({"id": 1, "type": kind, "data": data}).to_string())
}

#[test]
fn what_is_no_frame() {
    for (text, expected) in [
        ("", "invalid_json -"),
        ("{", "invalid_json -"),
        ("nonsense", "invalid_json -"),
        (r#"{"id": 1} x"#, "invalid_json -"),
        ("[]", "invalid_frame -"),
        (r#"[1, "match.accept", {}]"#, "invalid_frame -"),
        ("7", "invalid_frame -"),
        ("null", "invalid_frame -"),
        (r#"{"type": "ride.arrive", "type": "ride.start"}"#, "invalid_frame -"),
        ("{}", "invalid_field type"),
        (r#"{"type": null}"#, "invalid_field type"),
        (r#"{"type": 7}"#, "invalid_field type"),
        (r#"{"type": ""}"#, "unknown_type type"),
        (r#"{"type": "ride.fly", "data": {}}"#, "unknown_type type"),
        (r#"{"type": "user.beacon", "data": {}}"#, "unknown_type type"),
        (r#"{"type": "mailbox.ack", "data": [1]}"#, "invalid_field data"),
        (r#"{"type": "mailbox.ack", "data": "x"}"#, "invalid_field data"),
        (r#"{"type": "mailbox.ack"}"#, "invalid_field seq"),
        (r#"{"type": "mailbox.ack", "data": null}"#, "invalid_field seq"),
    ] {
        assert_eq!(told(text), expected, "{text}");
    }
    assert_eq!(told(&"[".repeat(1_000)), "invalid_json -");
    assert_eq!(told(&format!(r#"{{"type": "{}"}}"#, "x".repeat(FRAME_MAX))), "frame_too_large -");
}

#[test]
fn positions_have_their_range() {
    for (lat, lng, expected) in [
        (90.0, 180.0, "Beacon"),
        (-90.0, -180.0, "Beacon"),
        (90.000_001, 0.0, "invalid_field location.lat"),
        (-91.0, 0.0, "invalid_field location.lat"),
        (0.0, 180.5, "invalid_field location.lng"),
        (0.0, -1e300, "invalid_field location.lng"),
    ] {
        let told = of("beacon.update", json!({"active": true, "location": {"lat": lat, "lng": lng}}));
        assert!(told.starts_with(expected), "{lat} {lng}: {told}");
    }
    for (location, expected) in [
        (r#"{"lat": 1}"#, "invalid_field location.lng"),
        (r#"{"lat": "1", "lng": 1}"#, "invalid_field location.lat"),
        (r#"{"lat": null, "lng": 1}"#, "invalid_field location.lat"),
        (r#"{"lat": 1e999, "lng": 1}"#, "invalid_field data"),
        ("[1, 2]", "invalid_field location"),
        ("null", "invalid_field location"),
    ] {
        let text = format!(r#"{{"type": "beacon.update", "data": {{"active": true, "location": {location}}}}}"#);
        assert_eq!(told(&text), expected, "{location}");
    }
}

#[test]
fn commands_need_their_fields() {
    let here = json!({"lat": 1.0, "lng": 2.0});
    let trip = json!({"active": true, "pickup": here, "dropoff": here, "vehicle_type": "van"});
    let without = |field: &str| {
        let mut trip = trip.clone();
        trip.as_object_mut().unwrap().remove(field);
        trip
    };
    let cases = [
        ("beacon.update", json!({"location": here}), "invalid_field active"),
        ("beacon.update", json!({"active": "yes", "location": here}), "invalid_field active"),
        ("beacon.update", json!({"active": true}), "invalid_field location"),
        ("beacon.update", json!({"active": false}), "Beacon { active: false, location: None }"),
        ("finder.update", without("active"), "invalid_field active"),
        ("finder.update", without("pickup"), "invalid_field pickup"),
        ("finder.update", without("dropoff"), "invalid_field dropoff"),
        ("finder.update", without("vehicle_type"), "invalid_field vehicle_type"),
        ("finder.update", json!({"active": true, "vehicle_type": "boat"}), "invalid_field vehicle_type"),
        ("finder.update", json!({"active": false}), "EndSearch"),
        ("finder.update", json!({"active": false, "pickup": {"lat": 100, "lng": 0}}), "invalid_field pickup.lat"),
        ("match.accept", json!({}), "invalid_field match_id"),
        ("match.accept", json!({"match_id": "x"}), "invalid_field match_id"),
        ("match.accept", json!({"match_id": 7}), "invalid_field match_id"),
        ("match.reject", json!({"match_id": RIDE, "reason": "x".repeat(501)}), "invalid_field reason"),
        ("ride.start", json!({"ride_id": RIDE}), "invalid_field pin"),
        ("ride.start", json!({"ride_id": RIDE, "pin": "1".repeat(17)}), "invalid_field pin"),
        ("ride.arrive", json!({"pin": "1"}), "invalid_field ride_id"),
        ("ride.cancel", json!({"ride_id": RIDE}), "invalid_field reason"),
        ("ride.cancel", json!({"ride_id": RIDE, "reason": "ä".repeat(251)}), "invalid_field reason"),
        ("mailbox.ack", json!({"seq": -1}), "invalid_field seq"),
        ("mailbox.ack", json!({"seq": 1.5}), "invalid_field seq"),
        ("mailbox.ack", json!({"seq": 3, "more": 1}), "MailboxAck(3)"),
    ];
    for (kind, data, expected) in cases {
        assert_eq!(of(kind, data.clone()), expected, "{kind} {data}");
    }
    assert!(of("finder.update", trip.clone()).starts_with("Search(Trip"));
    assert!(of("match.reject", json!({"match_id": RIDE})).starts_with("Reject"));
    assert!(of("ride.cancel", json!({"ride_id": RIDE, "reason": "ä".repeat(250)})).contains("Cancel"));
}

#[test]
fn points_are_checked_one_by_one() {
    let point = |at: &str| json!({"location": {"lat": 1.0, "lng": 2.0}, "recorded_at": at});
    for (at, expected) in [
        ("2026-01-02T00:01:00Z", "Location"),
        ("2026-01-02T00:01:00.001Z", "invalid_field recorded_at"),
        ("2026-01-01T00:00:00Z", "Location"),
        ("2025-12-31T23:59:59Z", "invalid_field recorded_at"),
        ("2026-01-02T01:00:00+01:00", "Location"),
        ("yesterday", "invalid_field recorded_at"),
    ] {
        assert!(of("location.update", point(at)).starts_with(expected), "{at}");
    }
    let sound = point("2026-01-02T00:00:00Z");
    let with = |field: &str, value: Value| {
        let mut point = sound.clone();
        point[field] = value;
        point
    };
    for (data, expected) in [
        (with("accuracy_m", Value::Null), "Location"),
        (with("heading_deg", json!(360)), "Location"),
        (with("heading_deg", json!(361)), "invalid_field heading_deg"),
        (with("speed_mps", json!(-1)), "invalid_field speed_mps"),
        (with("accuracy_m", json!("5")), "invalid_field accuracy_m"),
        (json!({"location": {"lat": 1.0, "lng": 2.0}}), "invalid_field recorded_at"),
        (json!({}), "invalid_field location"),
        (json!({"points": []}), "invalid_field points"),
        (json!({"points": {}}), "invalid_field points"),
        (
            json!({"points": [sound, with("location", json!({"lat": 91, "lng": 0}))]}),
            "invalid_field points[1].location.lat",
        ),
        (json!({"points": [sound, {}]}), "invalid_field points[1].location"),
        (json!({"points": [[]]}), "invalid_field points[0]"),
        (json!({"points": vec![sound.clone(); 100]}), "Location"),
        (json!({"points": vec![sound.clone(); 101]}), "invalid_field points"),
    ] {
        let told = of("location.update", data.clone());
        assert!(told.starts_with(expected), "{data}: {told}");
    }
}

#[test]
fn an_id_is_any_json_and_comes_back_as_it_was() {
    for id in ["1", "-0.10", r#""a\"b""#, "{\"a\":[1, 2]}", "[]", "true", r#""ä😀""#] {
        let frame = parse(&format!(r#"{{"id": {id}, "type": "mailbox.ack", "data": {{"seq": 1}}}}"#), now()).unwrap();
        let ack = ack(frame.id.as_deref(), &json!({"seq": 1}));
        assert_eq!(ack, format!(r#"{{"type":"ack","id":{id},"data":{{"seq":1}}}}"#));
        // Also when the command is refused.
        let refused = parse(&format!(r#"{{"id": {id}, "type": "fly"}}"#), now()).unwrap_err();
        assert_eq!(refused.id.map(|id| id.get().to_owned()).as_deref(), Some(id));
    }
    for none in ["", r#""id": null,"#] {
        assert!(
            parse(&format!(r#"{{{none} "type": "mailbox.ack", "data": {{"seq": 1}}}}"#), now()).unwrap().id.is_none()
        );
    }
    let long = format!(r#"{{"id": "{}", "type": "mailbox.ack", "data": {{"seq": 1}}}}"#, "x".repeat(129));
    assert_eq!(told(&long), "invalid_field id");
    assert_eq!(told(&long.replacen('x', "", 1)), "MailboxAck(1)");
    assert_eq!(told(&format!(r#"{{"id": [{}1], "type": "x"}}"#, "1,".repeat(600))), "invalid_field id");
}

#[test]
fn an_error_text_with_quotes_does_not_break_the_frame() {
    let refusal = Refusal::field("a\"b", "he said \"no\" \\ and left\n\u{0}");
    let frame: Value = serde_json::from_str(&error(None, &refusal)).unwrap();
    assert_eq!(frame["error"]["message"], refusal.message.as_str());
    assert_eq!(frame["error"]["field"], "a\"b");
    assert_eq!(frame["id"], Value::Null);
    // What a client sends is quoted in the answer.
    let refused = parse(r#"{"id": "\"", "type": "no\"such\ttype"}"#, now()).unwrap_err();
    let frame: Value = serde_json::from_str(&error(refused.id.as_deref(), &refused.refusal)).unwrap();
    assert_eq!((&frame["id"], &frame["error"]["code"]), (&json!("\""), &json!("unknown_type")));
    assert!(frame["error"]["message"].as_str().unwrap().contains("no\"such"));
}

#[test]
fn an_event_goes_out_with_its_body_byte_for_byte() {
    let body = r#"{"b":1.10,"a":"é"}"#;
    let text = event("ride.started", 7, "id \"1\"", now(), body);
    assert!(text.ends_with(r#""time":"2026-01-02T00:00:00.000000Z","data":{"b":1.10,"a":"é"}}"#), "{text}");
    let passing: Passing<'_> = serde_json::from_str(&text).unwrap();
    assert_eq!((passing.seq, &*passing.subject, passing.data.get()), (7, "ride.started", body));
}
