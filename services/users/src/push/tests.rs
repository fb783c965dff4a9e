//! The pure rules of push, as tables.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use chrono::{DateTime, TimeDelta, Utc};
use platform::http_client::Reach;
use serde_json::{Value, json};
use streams::{Subject, UserId};
use uuid::Uuid;

use super::device::{PushPlatform, parse_token, shown, token_hash};
use super::notice::{Detail, Role, kind_of, of_entry};
use super::outcome::{Next, Outcome, next};
use super::webhook;
use crate::mailbox::NewEntry;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

#[test]
fn who_is_woken_by_what() {
    let plain = Detail::default();
    let mut woken = Vec::new();
    for subject in Subject::ALL.iter().copied() {
        for role in [Role::Driver, Role::Passenger] {
            let details = [
                ("", plain),
                (" expired", Detail { reason: "expired", ..plain }),
                (" cancelled", Detail { reason: "cancelled", ..plain }),
                (" superseded", Detail { reason: "superseded", ..plain }),
                (" by driver", Detail { by: "driver", ..plain }),
                (" by driver, goes on", Detail { by: "driver", search_continues: true, ..plain }),
                (" by passenger", Detail { by: "passenger", ..plain }),
                (" near end", Detail { is_near_end: true, ..plain }),
            ];
            let before = kind_of(subject, role, plain);
            for (name, detail) in details {
                let kind = kind_of(subject, role, detail);
                if let Some(kind) = kind.filter(|_| name.is_empty() || kind != before) {
                    let urgency = if kind.urgent { "urgent" } else { "normal" };
                    woken.push(format!(
                        "{} {}{name}: {urgency} {:?} {}",
                        subject.as_str(),
                        role.as_str(),
                        kind.life,
                        kind.title
                    ));
                } else if kind != before {
                    woken.push(format!("{} {}{name}: nothing", subject.as_str(), role.as_str()));
                }
            }
        }
    }
    let expected = [
        "user.finder passenger near end: urgent UntilExpiry No driver yet",
        "match.found driver: urgent UntilExpiry New ride request",
        "match.rejected driver cancelled: normal S(300) Request withdrawn",
        "match.rejected driver superseded: urgent S(600) No ride",
        "match.accepted passenger: urgent S(600) Driver found",
        "ride.pickup driver: urgent S(600) Ride confirmed",
        "ride.pickup passenger: urgent S(600) Driver on the way",
        "ride.waiting passenger: urgent S(900) Your driver is here",
        "ride.started passenger: normal S(3600) Ride started",
        "ride.completed driver: normal S(86400) Ride completed",
        "ride.completed passenger: normal S(86400) Ride completed",
        "ride.cancelled driver: urgent S(3600) Ride cancelled",
        "ride.cancelled driver by driver: nothing",
        "ride.cancelled driver by driver, goes on: nothing",
        "ride.cancelled passenger: urgent S(3600) Ride cancelled",
        "ride.cancelled passenger by driver, goes on: urgent S(3600) Ride cancelled",
        "ride.cancelled passenger by passenger: nothing",
    ];
    assert_eq!(woken, expected);
}

fn entry(subject: Subject, user: u128, body: &Value) -> NewEntry {
    let user = UserId(Uuid::from_u128(user));
    NewEntry { user, event_id: "event-1".to_owned(), subject, time: at(0), body: body.to_string() }
}

#[test]
fn a_notice_has_ids_and_fixed_texts_and_nothing_personal() {
    let id = |n: u128| Uuid::from_u128(n);
    let body = json!({
        "match_id": id(3), "request_id": id(4), "driver_id": id(1), "passenger_id": id(2), "pin": "4711",
        "driver": {"name": "Ann Example", "plate": "AB 123"}, "pickup": {"lat": 40.75, "lng": -73.99},
        "pickup_address": "1 Main Street", "fare_estimate": {"amount": 1_234, "currency": "USD"}, "reason": "cancelled",
        "by": "driver", "expires_at": "2027-01-15T08:00:15Z", "ride_id": id(5),
    });
    let mut count = 0;
    for subject in Subject::ALL.iter().copied() {
        for user in [1, 2] {
            let Some(notice) = of_entry(&entry(subject, user, &body)) else { continue };
            count += 1;
            for personal in
                ["4711", "Ann", "AB 123", "40.7", "Main", "1234", "USD", &id(2).to_string(), &id(1).to_string()]
            {
                assert!(!notice.message.contains(personal), "{personal} in {}", notice.message);
            }
            let message: Value = serde_json::from_str(&notice.message).unwrap();
            assert!(message.as_object().unwrap().values().all(Value::is_string), "{message}");
            assert_eq!((&message["event_id"], &message["type"]), (&json!("event-1"), &json!(subject.as_str())));
            assert_eq!((notice.topic, &message["ride_id"]), (id(3), &json!(id(5))));
        }
    }
    assert!(count >= 10, "{count}");
    let offer = of_entry(&entry(Subject::MatchFound, 1, &body)).unwrap();
    assert_eq!((offer.expires_at, offer.urgent), (at(15), true), "an offer is worth something until it expires");
    assert_eq!(of_entry(&entry(Subject::MatchFound, 2, &body)), None);
    let completed = of_entry(&entry(Subject::RideCompleted, 2, &body)).unwrap();
    assert_eq!(completed.expires_at, at(86_400));
    let near_end =
        json!({"request_id": id(4), "user_id": id(2), "expires_at": "2027-01-15T08:00:30Z", "expires_in_s": 30});
    let notice = of_entry(&entry(Subject::UserFinder, 2, &near_end)).unwrap();
    assert_eq!((notice.expires_at, notice.topic), (at(30), id(4)));
    for body in [json!({}), json!([]), json!({"match_id": "x"}), json!({"expires_at": "soon"})] {
        assert_eq!(of_entry(&entry(Subject::MatchFound, 1, &body)), None, "{body}");
    }
}

#[test]
fn a_token_is_one_of_its_platform() {
    const POINT: &str = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
    let browser = |endpoint: &str, p256dh: &str, auth: &str| json!({"endpoint": endpoint, "expirationTime": null, "keys": {"p256dh": p256dh, "auth": auth}});
    let good = browser("https://push.example.com/s/1", POINT, "BTBZMqHH6r4Tts7J_aSIgg");
    let stored = r#"{"endpoint":"https://push.example.com/s/1","keys":{"p256dh":"BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4","auth":"BTBZMqHH6r4Tts7J_aSIgg"}}"#;
    let (fcm, apns, web, hook) = (PushPlatform::Fcm, PushPlatform::Apns, PushPlatform::WebPush, PushPlatform::Webhook);
    for (platform, token, expected) in [
        (fcm, json!("c1:APA91b-x_y.z"), Some("c1:APA91b-x_y.z")),
        (fcm, json!("with space"), None),
        (fcm, json!(""), None),
        (fcm, json!("x".repeat(4_097)), None),
        (fcm, json!(7), None),
        (apns, json!("AB".repeat(32)), Some("abababababababababababababababababababababababababababababababab")),
        (apns, json!("ab".repeat(31)), None),
        (apns, json!("ab".repeat(101)), None),
        (apns, json!("zz".repeat(32)), None),
        (web, good.clone(), Some(stored)),
        (web, json!(good.to_string()), Some(stored)),
        (web, json!("x"), None),
        (web, json!({"endpoint": "https://push.example.com"}), None),
        (web, browser("http://push.example.com/s/1", POINT, "BTBZMqHH6r4Tts7J_aSIgg"), None),
        (web, browser("https://10.0.0.1/s/1", POINT, "BTBZMqHH6r4Tts7J_aSIgg"), None),
        (web, browser("https://push.example.com/s/1", "AAAA", "BTBZMqHH6r4Tts7J_aSIgg"), None),
        (web, browser("https://push.example.com/s/1", POINT, "AAAA"), None),
        (hook, json!(" https://app.example.com/push?x=y "), Some("https://app.example.com/push?x=y")),
        (hook, json!("http://app.example.com/push"), None),
        (hook, json!("https://user:word@app.example.com/"), None),
        (hook, json!("https://127.0.0.1/"), None),
        (hook, json!("https://localhost/"), None),
        (hook, json!("https://169.254.169.254/latest"), None),
        (hook, json!("https://[::ffff:10.0.0.1]/"), None),
        (hook, json!("ftp://app.example.com/"), None),
        (hook, json!("/push"), None),
        (hook, json!({"url": "https://app.example.com"}), None),
    ] {
        let parsed = parse_token(platform, &token, Reach::Public);
        assert_eq!(parsed.as_deref().ok(), expected, "{} {token}: {parsed:?}", platform.as_str());
        if let Err(problem) = parsed {
            assert_eq!(problem.field.as_deref(), Some("token"));
            assert!(!problem.message.contains(":word"), "{problem:?}");
        }
    }
    let here = |url: &str| parse_token(hook, &json!(url), Reach::PublicOrLoopback).is_ok();
    assert!(here("http://127.0.0.1:9/push") && here("http://localhost:9/push") && here("https://[::1]/"));
    assert!(!here("http://app.example.com/") && !here("https://10.0.0.1/"));
}

#[test]
fn a_device_is_named_by_its_token_and_shown_without_it() {
    let web =
        |endpoint: &str, auth: &str| json!({"endpoint": endpoint, "keys": {"p256dh": "p", "auth": auth}}).to_string();
    let hash = |platform, token: &str| token_hash(platform, token);
    assert_eq!(
        hash(PushPlatform::WebPush, &web("https://a/1", "x")),
        hash(PushPlatform::WebPush, &web("https://a/1", "y"))
    );
    assert_ne!(
        hash(PushPlatform::WebPush, &web("https://a/1", "x")),
        hash(PushPlatform::WebPush, &web("https://a/2", "x"))
    );
    assert_ne!(hash(PushPlatform::Fcm, "a"), hash(PushPlatform::Apns, "a"));
    assert_eq!(shown(PushPlatform::Fcm, "abcdefghijklmnop"), "…klmnop");
    assert_eq!(shown(PushPlatform::Fcm, "ab"), "…b");
    assert_eq!(shown(PushPlatform::Webhook, "https://app.example.com/secret?key=1"), "app.example.com/…");
    assert_eq!(shown(PushPlatform::WebPush, &web("https://push.example.com/secret", "x")), "push.example.com/…");
}

#[test]
fn what_comes_of_a_try() {
    let failed = |retry_after_s| Outcome::Failed { why: String::new(), retry_after_s };
    let far = at(86_400);
    for (outcome, tries, expires_at, expected) in [
        (Outcome::Sent, 1, far, Next::Delete),
        (Outcome::Refused(String::new()), 1, far, Next::Delete),
        (Outcome::Unconfigured, 1, far, Next::Delete),
        (Outcome::Gone, 1, far, Next::DeleteWithDevice),
        (failed(None), 1, far, Next::Again(at(1))),
        (failed(None), 2, far, Next::Again(at(2))),
        (failed(None), 5, far, Next::Again(at(16))),
        (failed(None), 6, far, Next::Again(at(30))),
        (failed(None), 1_000, far, Next::Again(at(30))),
        (failed(Some(120)), 1, far, Next::Again(at(120))),
        (failed(None), 4, at(8), Next::Expire),
        (failed(None), 4, at(9), Next::Again(at(8))),
        (failed(Some(60)), 1, at(15), Next::Expire),
        (Outcome::NotTried, 9, far, Next::PutBack(at(1))),
        (Outcome::NotTried, 9, at(1), Next::Expire),
    ] {
        assert_eq!(next(&outcome, tries, expires_at, at(0)), expected, "{outcome:?} {tries} {expires_at}");
    }
    let headers = |value: &'static str| HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(value))]);
    let after = |value| match Outcome::failed_with(StatusCode::SERVICE_UNAVAILABLE, &headers(value)) {
        Outcome::Failed { retry_after_s, .. } => retry_after_s,
        other => panic!("{other:?}"),
    };
    assert_eq!(["7", "-7", "99999", "Wed, 21 Oct 2015 07:28:00 GMT"].map(after), [Some(7), Some(0), Some(300), None]);
}

#[test]
fn what_a_webhook_answers() {
    let none = HeaderMap::new();
    let outcome = |status: u16| webhook::outcome(StatusCode::from_u16(status).unwrap(), &none).label();
    let labels = [200, 202, 204, 301, 400, 404, 410, 429, 500, 503].map(outcome);
    assert_eq!(labels, ["sent", "sent", "sent", "failed", "failed", "failed", "gone", "failed", "failed", "failed"]);
    assert!(TimeDelta::seconds(1) == super::rows::SOCKET_WAIT);
}
