//! Frames as tables: text in, a command or the field at fault out; and the server's frames as snapshots.

use geospatial::device_clock::DeviceClock;
use serde_json::{Value, json};

use super::*;

const RIDE: &str = "01890000-0000-7000-8000-000000000001";

fn now() -> DateTime<Utc> {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

/// The command of a frame, or the code and the field of its refusal.
fn outcome(text: &str) -> String {
    match parse(text, now()) {
        Ok(Frame { request: Request::Command(Command::Positions(mut positions)), .. }) => {
            match positions.correct(&mut DeviceClock::default()) {
                Ok(()) => format!("{positions:?}"),
                Err(Refusal { code, field, .. }) => format!("{code} {}", field.unwrap_or_default()),
            }
        }
        Ok(Frame { request: Request::Command(command), .. }) => format!("{command:?}"),
        Ok(Frame { request: Request::Refresh(token), .. }) => format!("{token:?}"),
        Err(refused) => {
            let Refusal { code, message, field, .. } = refused.refusal;
            assert!(!message.is_empty());
            format!("{code} {}", field.as_deref().unwrap_or("-"))
        }
    }
}

fn outcome_of(kind: &str, data: Value) -> String {
    outcome(&json!({"id": 1, "type": kind, "data": data}).to_string())
}

#[test]
fn a_malformed_frame_is_refused() {
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
        assert_eq!(outcome(text), expected, "{text}");
    }
    assert_eq!(outcome(&"[".repeat(1_000)), "invalid_json -");
    assert_eq!(outcome(&format!(r#"{{"type": "{}"}}"#, "x".repeat(FRAME_MAX))), "frame_too_large -");
}

#[test]
fn a_position_outside_its_range_is_refused_with_its_field() {
    for (lat, lng, expected) in [
        (90.0, 180.0, "Rows(Beacon"),
        (-90.0, -180.0, "Rows(Beacon"),
        (90.000_001, 0.0, "invalid_field location.lat"),
        (-91.0, 0.0, "invalid_field location.lat"),
        (0.0, 180.5, "invalid_field location.lng"),
        (0.0, -1e300, "invalid_field location.lng"),
    ] {
        let outcome = outcome_of("beacon.update", json!({"active": true, "location": {"lat": lat, "lng": lng}}));
        assert!(outcome.starts_with(expected), "{lat} {lng}: {outcome}");
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
        assert_eq!(outcome(&text), expected, "{location}");
    }
}

#[test]
fn a_missing_or_malformed_field_is_named() {
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
        ("beacon.update", json!({"active": false}), "Rows(Beacon(Inactive(None)))"),
        ("finder.update", without("active"), "invalid_field active"),
        ("finder.update", without("pickup"), "invalid_field pickup"),
        ("finder.update", without("dropoff"), "invalid_field dropoff"),
        ("finder.update", without("vehicle_type"), "invalid_field vehicle_type"),
        ("finder.update", json!({"active": true, "vehicle_type": "boat"}), "invalid_field vehicle_type"),
        ("finder.update", json!({"active": false}), "Rows(EndSearch)"),
        ("finder.update", json!({"active": false, "pickup": {"lat": 100, "lng": 0}}), "invalid_field pickup.lat"),
        ("match.accept", json!({}), "invalid_field match_id"),
        ("match.accept", json!({"match_id": "x"}), "invalid_field match_id"),
        ("match.accept", json!({"match_id": 7}), "invalid_field match_id"),
        ("match.reject", json!({"match_id": RIDE, "reason": "x".repeat(501)}), "invalid_field reason"),
        ("ride.start", json!({"ride_id": RIDE}), "invalid_field pin"),
        ("ride.start", json!({"ride_id": RIDE, "pin": "1".repeat(17)}), "invalid_field pin"),
        ("ride.start", json!({"ride_id": RIDE, "pin": " ".repeat(65)}), "invalid_field pin"),
        ("ride.arrive", json!({"pin": "1"}), "invalid_field ride_id"),
        ("ride.cancel", json!({"ride_id": RIDE}), "invalid_field reason"),
        ("ride.cancel", json!({"ride_id": RIDE, "reason": "ä".repeat(251)}), "invalid_field reason"),
        ("mailbox.ack", json!({"seq": -1}), "invalid_field seq"),
        ("mailbox.ack", json!({"seq": 1.5}), "invalid_field seq"),
        ("mailbox.ack", json!({"seq": 3, "more": 1}), "Rows(MailboxAck(3))"),
        ("auth.refresh", json!({}), "invalid_field access_token"),
        ("auth.refresh", json!({"access_token": 7}), "invalid_field access_token"),
        ("auth.refresh", json!({"access_token": "x".repeat(4_097)}), "invalid_field access_token"),
        // The token is in no text that a log could have.
        ("auth.refresh", json!({"access_token": "x".repeat(4_096)}), "AccessToken"),
    ];
    for (kind, data, expected) in cases {
        assert_eq!(outcome_of(kind, data.clone()), expected, "{kind} {data}");
    }
    assert!(outcome_of("finder.update", trip.clone()).starts_with("Rows(Search(Trip"));
    let start = outcome_of("ride.start", json!({"ride_id": RIDE, "pin": " 12-٣４ "}));
    assert!(start.contains(r#"pin: "1234""#), "{start}");
    assert!(outcome_of("match.reject", json!({"match_id": RIDE})).ends_with("Reject))"));
    assert!(outcome_of("ride.cancel", json!({"ride_id": RIDE, "reason": "ä".repeat(250)})).contains("Cancel"));
}

#[test]
fn each_point_is_checked_and_named_by_its_index() {
    let point = |at: &str| json!({"location": {"lat": 1.0, "lng": 2.0}, "recorded_at": at});
    for (at, expected) in [
        ("2026-01-02T00:01:00Z", "Positions"),
        ("2026-01-02T00:01:00.001Z", "invalid_field recorded_at"),
        ("2026-01-01T00:00:00Z", "Positions"),
        ("2025-12-31T23:59:59Z", "invalid_field recorded_at"),
        ("2026-01-02T01:00:00+01:00", "Positions"),
        ("yesterday", "invalid_field recorded_at"),
    ] {
        assert!(outcome_of("location.update", point(at)).starts_with(expected), "{at}");
    }
    for wrong in ["2026-01-01T23:59:60Z", "2026-01-01T23:59:60.250Z", "+12026-01-01T00:00:00Z", "1969-12-31T23:59:59Z"]
    {
        assert_eq!(outcome_of("location.update", point(wrong)), "invalid_field recorded_at", "{wrong}");
    }
    let sound = point("2026-01-02T00:00:00Z");
    let with = |field: &str, value: Value| {
        let mut point = sound.clone();
        point[field] = value;
        point
    };
    for (data, expected) in [
        (with("accuracy_m", Value::Null), "Positions"),
        (with("heading_deg", json!(360)), "Positions"),
        (with("heading_deg", json!(361)), "invalid_field heading_deg"),
        (with("speed_mps", json!(-1)), "Positions"),
        (with("accuracy_m", json!("5")), "invalid_field accuracy_m"),
        (with("sent_at", json!("2026-01-02T00:00:00.5Z")), "Positions"),
        (with("sent_at", json!("2026-01-02T00:00:60Z")), "invalid_field sent_at"),
        (with("sent_at", json!(7)), "invalid_field sent_at"),
        (json!({"location": {"lat": 1.0, "lng": 2.0}}), "invalid_field recorded_at"),
        (json!({}), "invalid_field location"),
        (json!({"points": []}), "invalid_field points"),
        (json!({"points": {}}), "invalid_field points"),
        (json!({"points": [sound], "sent_at": "noon"}), "invalid_field sent_at"),
        (json!({"points": vec![sound.clone(); 100]}), "Positions"),
        (json!({"points": vec![sound.clone(); 101]}), "invalid_field points"),
    ] {
        let outcome = outcome_of("location.update", data.clone());
        assert!(outcome.starts_with(expected), "{data}: {outcome}");
    }
}

/// The indexes of the points of a batch that are good, and each bad one with its field.
fn sorted_out(data: Value, clock: &mut DeviceClock) -> (Vec<usize>, Vec<(usize, String)>) {
    let frame = parse(&json!({"type": "location.update", "data": data}).to_string(), now()).unwrap();
    let Request::Command(Command::Positions(mut positions)) = frame.request else { panic!("no positions") };
    positions.correct(clock).unwrap();
    let refused = positions.refused.into_iter().map(|point| (point.index, point.field)).collect();
    (positions.points.into_iter().map(|point| point.index).collect(), refused)
}

#[test]
fn of_a_batch_the_bad_points_are_left_out_and_named() {
    let point = |at: &str| json!({"location": {"lat": 1.0, "lng": 2.0}, "recorded_at": at});
    let sound = point("2026-01-02T00:00:00Z");
    let mut high = sound.clone();
    high["location"]["lat"] = json!(91);
    let mut text = sound.clone();
    text["accuracy_m"] = json!("5");
    let bad = |list: &[(usize, &str)]| list.iter().map(|(n, field)| (*n, (*field).to_owned())).collect::<Vec<_>>();
    let mut clock = DeviceClock::default();
    let future = point("2026-01-02T00:01:01Z");
    let points = json!([sound, high, future, {}, sound]);
    let expected = bad(&[(1, "location.lat"), (2, "recorded_at"), (3, "location")]);
    assert_eq!(sorted_out(json!({"points": points}), &mut clock), (vec![0, 4], expected));
    // Also if a point is not even of the right types.
    let points = json!([[], sound, 7, text, point("yesterday"), sound]);
    let (good, refused) = sorted_out(json!({"points": points}), &mut clock);
    assert_eq!(good, [1, 5]);
    assert_eq!(refused.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 2, 3, 4]);
    assert_eq!((refused[2].1.as_str(), refused[3].1.as_str()), ("accuracy_m", "recorded_at"));
    // Nothing is left.
    assert_eq!(sorted_out(json!({"points": [high]}), &mut clock), (vec![], bad(&[(0, "location.lat")])));
}

#[test]
fn a_clock_that_is_minutes_off_is_corrected_before_times_are_checked() {
    let point = |at: &str| json!({"location": {"lat": 1.0, "lng": 2.0}, "recorded_at": at});
    let parsed =
        |data: Value, at: DateTime<Utc>| match parse(&json!({"type": "location.update", "data": data}).to_string(), at)
            .unwrap()
            .request
        {
            Request::Command(Command::Positions(positions)) => positions,
            other => panic!("{other:?}"),
        };
    let times = |positions: Positions| {
        positions.points.iter().map(|p| (p.recorded_at - now()).num_milliseconds()).collect::<Vec<_>>()
    };
    // 10 minutes ahead, and it says when it sent them.
    let mut clock = DeviceClock::default();
    let buffer = [point("2026-01-02T00:09:30Z"), point("2026-01-02T00:10:00Z")];
    let mut positions = parsed(json!({"points": buffer, "sent_at": "2026-01-02T00:10:00Z"}), now());
    positions.correct(&mut clock).unwrap();
    assert_eq!(times(positions), [-30_000, 0]);
    // Two days behind, and it does not: three points that arrive live show it.
    let mut clock = DeviceClock::default();
    let second = |n: i64| now() + chrono::Duration::seconds(n);
    let taken: Vec<bool> = (0..4)
        .map(|n| {
            let at = second(n * 4) - chrono::Duration::days(2);
            let mut positions = parsed(point(&rfc3339::text(&at)), second(n * 4));
            let taken = positions.correct(&mut clock).is_ok();
            assert!(!taken || times(positions) == [n * 4_000]);
            taken
        })
        .collect();
    assert_eq!(taken, [false, false, true, true]);
}

#[test]
fn an_id_is_any_json_and_is_returned_unchanged() {
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
    assert_eq!(outcome(&long), "invalid_field id");
    assert_eq!(outcome(&long.replacen('x', "", 1)), "Rows(MailboxAck(1))");
    assert_eq!(outcome(&format!(r#"{{"id": [{}1], "type": "x"}}"#, "1,".repeat(600))), "invalid_field id");
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
fn an_event_is_sent_with_its_body_byte_for_byte() {
    let body = r#"{"b":1.10,"a":"é"}"#;
    let text = event("ride.started", 7, "id \"1\"", now(), body);
    assert!(text.ends_with(r#""time":"2026-01-02T00:00:00.000000Z","data":{"b":1.10,"a":"é"}}"#), "{text}");
    let frame: EventFrame<'_> = serde_json::from_str(&text).unwrap();
    assert_eq!((frame.seq, &*frame.subject, frame.data.get()), (7, "ride.started", body));
}

#[test]
fn welcome_ack_and_error_have_these_texts() {
    let uuid: Uuid = RIDE.parse().unwrap();
    let id = RawValue::from_string(r#"{"n": 1}"#.to_owned()).unwrap();
    let limits = json!({"sockets": 5});
    let first = |missed| {
        let (user_id, session_id, last_seq, limits) = (UserId(uuid), uuid, 7, &limits);
        let (server_time, expires_at) = (rfc3339::text(&now()), rfc3339::text(&now()));
        let state = &json!({"seq": 7});
        welcome(&Welcome { user_id, session_id, last_seq, missed, server_time, expires_at, limits, state })
    };
    let limited = Refusal { limit: Some("points"), retry_after_s: Some(4), ..Refusal::new("too_many_requests", "m") };
    let frames = [
        first(None),
        first(Some(MissedRange { from: 3, to: 5 })),
        missed(MissedRange { from: 3, to: 3 }),
        ack(Some(&id), &json!({"request_id": RIDE})),
        ack(None, &json!({"seq": 3})),
        error(Some(&id), &Refusal::field("data.x", "missing field `x`")),
        error(None, &Refusal::unavailable()),
        error(Some(&id), &limited),
    ];
    insta::assert_snapshot!(frames.join("\n"), @r#"
    {"type":"welcome","data":{"user_id":"01890000-0000-7000-8000-000000000001","session_id":"01890000-0000-7000-8000-000000000001","last_seq":7,"server_time":"2026-01-02T00:00:00.000000Z","expires_at":"2026-01-02T00:00:00.000000Z","limits":{"sockets":5},"state":{"seq":7}}}
    {"type":"welcome","data":{"user_id":"01890000-0000-7000-8000-000000000001","session_id":"01890000-0000-7000-8000-000000000001","last_seq":7,"missed":{"from":3,"to":5},"server_time":"2026-01-02T00:00:00.000000Z","expires_at":"2026-01-02T00:00:00.000000Z","limits":{"sockets":5},"state":{"seq":7}}}
    {"type":"missed","data":{"from":3,"to":3}}
    {"type":"ack","id":{"n": 1},"data":{"request_id":"01890000-0000-7000-8000-000000000001"}}
    {"type":"ack","id":null,"data":{"seq":3}}
    {"type":"error","id":{"n": 1},"error":{"code":"invalid_field","message":"missing field `x`","field":"data.x"}}
    {"type":"error","id":null,"error":{"code":"unavailable","message":"not possible at the moment: try the same again","field":null}}
    {"type":"error","id":{"n": 1},"error":{"code":"too_many_requests","message":"m","field":null,"limit":"points","retry_after_s":4}}
    "#);
}

#[test]
fn events_have_these_texts() {
    let (id, here, at) = (RIDE, json!({"lat": 40.75, "lng": -73.99}), "2026-01-02T00:00:00Z");
    let offer = json!({"match_id": id, "request_id": id, "driver_id": id, "passenger_id": id, "pickup": here,
        "dropoff": here, "vehicle_type": "van"});
    let with = |body: &Value, more: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let fare = json!({"amount": 1_234, "currency": "USD"});
    let events = [
        (
            "user.beacon",
            json!({"user_id": id, "active": true, "vehicle_type": "van", "location": here, "recorded_at": at}),
        ),
        ("user.finder", with(&offer, json!({"user_id": id, "active": true, "recorded_at": at}))),
        (
            "match.found",
            with(
                &offer,
                json!({"driver_location": here, "pickup_distance_m": 10.5, "pickup_eta_s": 2.25,
                    "fare_estimate": fare, "found_at": at, "expires_at": at}),
            ),
        ),
        ("match.accepted", with(&offer, json!({"accepted_at": at}))),
        ("match.rejected", with(&offer, json!({"reason": "expired", "rejected_at": at}))),
        (
            "ride.pickup",
            with(
                &offer,
                json!({"ride_id": id, "version": 1, "status": "pickup", "occurred_at": at,
                    "previous_hash": "0".repeat(64), "hash": "f".repeat(64)}),
            ),
        ),
        (
            "location.aggregate",
            json!({"ride_id": id, "driver_id": id, "distance_m": 7.0, "points": 3, "last": null, "final": true}),
        ),
    ];
    let frames = events.map(|(subject, body)| {
        let sent = streams::Event::parse(subject, body.to_string().as_bytes()).unwrap();
        let body = String::from_utf8(sent.body()).unwrap();
        event(subject, 8, &sent.message_id(now()), now(), &body)
    });
    insta::assert_snapshot!(frames.join("\n"), @r#"
    {"type":"user.beacon","seq":8,"event_id":"user.beacon-01890000-0000-7000-8000-000000000001-1767312000000000","time":"2026-01-02T00:00:00.000000Z","data":{"user_id":"01890000-0000-7000-8000-000000000001","active":true,"vehicle_type":"van","location":{"lat":40.75,"lng":-73.99},"recorded_at":"2026-01-02T00:00:00.000000Z"}}
    {"type":"user.finder","seq":8,"event_id":"user.finder-01890000-0000-7000-8000-000000000001-1767312000000000","time":"2026-01-02T00:00:00.000000Z","data":{"request_id":"01890000-0000-7000-8000-000000000001","user_id":"01890000-0000-7000-8000-000000000001","active":true,"pickup":{"lat":40.75,"lng":-73.99},"dropoff":{"lat":40.75,"lng":-73.99},"vehicle_type":"van","recorded_at":"2026-01-02T00:00:00.000000Z"}}
    {"type":"match.found","seq":8,"event_id":"match.found-01890000-0000-7000-8000-000000000001-1767312000000000","time":"2026-01-02T00:00:00.000000Z","data":{"match_id":"01890000-0000-7000-8000-000000000001","request_id":"01890000-0000-7000-8000-000000000001","driver_id":"01890000-0000-7000-8000-000000000001","passenger_id":"01890000-0000-7000-8000-000000000001","driver_location":{"lat":40.75,"lng":-73.99},"pickup":{"lat":40.75,"lng":-73.99},"dropoff":{"lat":40.75,"lng":-73.99},"vehicle_type":"van","pickup_distance_m":10.5,"pickup_eta_s":2.25,"fare_estimate":{"amount":1234,"currency":"USD"},"found_at":"2026-01-02T00:00:00.000000Z","expires_at":"2026-01-02T00:00:00.000000Z"}}
    {"type":"match.accepted","seq":8,"event_id":"match.accepted-01890000-0000-7000-8000-000000000001-1767312000000000","time":"2026-01-02T00:00:00.000000Z","data":{"match_id":"01890000-0000-7000-8000-000000000001","request_id":"01890000-0000-7000-8000-000000000001","driver_id":"01890000-0000-7000-8000-000000000001","passenger_id":"01890000-0000-7000-8000-000000000001","pickup":{"lat":40.75,"lng":-73.99},"dropoff":{"lat":40.75,"lng":-73.99},"vehicle_type":"van","accepted_at":"2026-01-02T00:00:00.000000Z"}}
    {"type":"match.rejected","seq":8,"event_id":"match.rejected-01890000-0000-7000-8000-000000000001-1767312000000000","time":"2026-01-02T00:00:00.000000Z","data":{"match_id":"01890000-0000-7000-8000-000000000001","request_id":"01890000-0000-7000-8000-000000000001","driver_id":"01890000-0000-7000-8000-000000000001","passenger_id":"01890000-0000-7000-8000-000000000001","reason":"expired","rejected_at":"2026-01-02T00:00:00.000000Z"}}
    {"type":"ride.pickup","seq":8,"event_id":"ride.pickup-01890000-0000-7000-8000-000000000001-1767312000000000","time":"2026-01-02T00:00:00.000000Z","data":{"ride_id":"01890000-0000-7000-8000-000000000001","match_id":"01890000-0000-7000-8000-000000000001","driver_id":"01890000-0000-7000-8000-000000000001","passenger_id":"01890000-0000-7000-8000-000000000001","version":1,"status":"pickup","pickup":{"lat":40.75,"lng":-73.99},"dropoff":{"lat":40.75,"lng":-73.99},"vehicle_type":"van","occurred_at":"2026-01-02T00:00:00.000000Z","previous_hash":"0000000000000000000000000000000000000000000000000000000000000000","hash":"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff","request_id":"01890000-0000-7000-8000-000000000001"}}
    {"type":"location.aggregate","seq":8,"event_id":"location.aggregate-01890000-0000-7000-8000-000000000001-1767312000000000","time":"2026-01-02T00:00:00.000000Z","data":{"ride_id":"01890000-0000-7000-8000-000000000001","driver_id":"01890000-0000-7000-8000-000000000001","distance_m":7.0,"points":3,"last":null,"final":true}}
    "#);
}
