//! Dead letters over HTTP: listed in pages, shown, requeued to the consumer that failed them, removed.

use bytes::Bytes;
use platform::World;
use serde_json::{Value, json};
use streams::bus::MESSAGE_ID;
use streams::topology::DEAD_LETTER_STREAM;
use streams::{Headers, Message, UserId};

use super::{ADMIN, Desk, SUPPORT, new_id};
use crate::harness::on_both_shapes;
use crate::harness::running::Shape;

on_both_shapes!(a_requeue_over_http_handles_the_message_once, letters_are_paged_newest_first);

/// As a consumer of rides would have stored it.
async fn letter(desk: &Desk, n: u32, consumer: &str, payload: Bytes) {
    let stored = World::real().now().timestamp_micros();
    let mut headers = Headers::default();
    for (name, value) in [
        (MESSAGE_ID, format!("dead_letter-MATCH_STREAM-{consumer}-{n}-{stored}")),
        ("Dead-Letter-Stream", "MATCH_STREAM".to_owned()),
        ("Dead-Letter-Subject", "match.accepted".to_owned()),
        ("Dead-Letter-Sequence", n.to_string()),
        ("Dead-Letter-Consumer", consumer.to_owned()),
        ("Dead-Letter-Deliveries", "3".to_owned()),
        ("Dead-Letter-Reason", "it failed".to_owned()),
        ("Dead-Letter-Time", World::real().now().to_rfc3339()),
        ("Dead-Letter-Message-Id", format!("match.accepted-{n}-{stored}")),
    ] {
        headers.set(name, value);
    }
    let bus = &desk.running.apps[0].platform.bus;
    bus.publish(Message { subject: format!("dead_letter.{consumer}"), headers, payload }).await.unwrap();
}

async fn a_requeue_over_http_handles_the_message_once(shape: Shape) {
    let desk = Desk::start(shape).await;
    let world = World::real();
    let driver: UserId = world.id();
    let accepted = json!({
        "match_id": world.id::<UserId>(), "request_id": world.id::<UserId>(), "driver_id": driver,
        "passenger_id": world.id::<UserId>(), "pickup": {"lat": 40.75, "lng": -73.98},
        "dropoff": {"lat": 40.76, "lng": -73.97}, "vehicle_type": "car", "accepted_at": world.now().to_rfc3339(),
    });
    letter(&desk, 1, "match_accepted_rides", accepted.to_string().into()).await;
    letter(&desk, 2, "match_accepted_rides", Bytes::from_static(b"{")).await;
    letter(&desk, 3, "nobody_rides", accepted.to_string().into()).await;
    let shown = desk.get("/dead-letters/1").await["dead_letter"].clone();
    assert_eq!((&shown["body"]["driver_id"], &shown["reason"]), (&json!(driver), &json!("it failed")));
    assert_eq!(desk.get("/dead-letters/2").await["dead_letter"]["body"], "{");
    assert_eq!(desk.get("/rides").await["rides"], json!([]));

    let done = desk.done_once("/dead-letters/1/requeue", json!({"reason": "the fault is repaired"})).await;
    assert_eq!(done["outcome"], "requeued");
    let rides = desk.get(&format!("/rides?user={driver}")).await["rides"].clone();
    assert_eq!((rides.as_array().unwrap().len(), &rides[0]["status"]), (1, &json!("pickup")), "{rides}");
    let gone = desk.call(SUPPORT, ("GET", "/dead-letters/1"), None, None).await;
    assert_eq!((gone.0, &gone.1["code"]), (404, &json!("not_found")));

    // It fails again, or nobody handles it: it stays, and the act is known all the same.
    let keys = [new_id(), new_id()];
    for (sequence, key) in [2, 3].into_iter().zip(keys) {
        let key = Some(key);
        let path = format!("/dead-letters/{sequence}/requeue");
        for _ in 0..2 {
            let (status, problem) = desk.call(SUPPORT, ("POST", &path), key, None).await;
            assert_eq!((status, &problem["code"]), (409, &json!("not_requeued")), "{problem}");
        }
    }
    let (status, removed) = desk.call(SUPPORT, ("POST", "/dead-letters/2/remove"), None, None).await;
    assert_eq!((status, &removed["outcome"]), (200, &json!("removed")));
    // The message was never handled, and its letter is not there any more.
    let (status, repeat) = desk.call(SUPPORT, ("POST", "/dead-letters/2/requeue"), Some(keys[0]), None).await;
    assert_eq!((status, &repeat["outcome"], &repeat["repeated"]), (200, &json!("gone"), &json!(true)), "{repeat}");
    desk.done_once("/dead-letters/3/remove", json!({})).await;
    for path in ["/dead-letters/2/remove", "/dead-letters/9/requeue", "/dead-letters/none/remove"] {
        assert_eq!(desk.call(ADMIN, ("POST", path), None, None).await.0, 404, "{path}");
    }
    let acts = desk.acts(5).await;
    let of = |act: &Value| (act["act"].clone(), act["sequence"].clone(), act["by"].clone(), act["reason"].clone());
    assert_eq!(
        acts.iter().map(of).collect::<Vec<_>>(),
        [
            (json!("dead_letter_requeued"), json!(1), json!("ann"), json!("the fault is repaired")),
            (json!("dead_letter_requeued"), json!(2), json!("sue"), Value::Null),
            (json!("dead_letter_requeued"), json!(3), json!("sue"), Value::Null),
            (json!("dead_letter_removed"), json!(2), json!("sue"), Value::Null),
            (json!("dead_letter_removed"), json!(3), json!("ann"), Value::Null),
        ]
    );
    assert_eq!((&acts[0]["consumer"], &acts[0]["message_id"]), (&json!("match_accepted_rides"), &shown["message_id"]));
    let bus = &desk.running.apps[0].platform.bus;
    assert_eq!(bus.stream_info(DEAD_LETTER_STREAM).await.unwrap().messages, 0);
    desk.stop().await;
}

async fn letters_are_paged_newest_first(shape: Shape) {
    let desk = Desk::start(shape).await;
    let none = desk.get("/dead-letters").await;
    assert_eq!(none, json!({"dead_letters": [], "total": 0, "next_cursor": null}));
    for n in 1..=7 {
        let consumer = if n % 2 == 0 { "match_accepted_rides" } else { "match_accepted_users" };
        letter(&desk, n, consumer, Bytes::from_static(b"{")).await;
    }
    let bus = &desk.running.apps[0].platform.bus;
    bus.delete_message(DEAD_LETTER_STREAM, 5).await.unwrap();
    let page = async |query: String| {
        let page = desk.get(&format!("/dead-letters?{query}")).await;
        let sequences = page["dead_letters"].as_array().unwrap().iter().map(|l| l["sequence"].as_u64().unwrap());
        (sequences.collect::<Vec<_>>(), page["next_cursor"].as_str().map(str::to_owned), page["total"].clone())
    };
    let (first, cursor, total) = page("limit=2".to_owned()).await;
    assert_eq!((first, total), (vec![7, 6], json!(6)));
    let (second, cursor, _) = page(format!("limit=2&cursor={}", cursor.unwrap())).await;
    assert_eq!(second, [4, 3]);
    let (third, cursor, _) = page(format!("limit=2&cursor={}", cursor.unwrap())).await;
    assert_eq!((third, cursor), (vec![2, 1], None));
    assert_eq!(page("consumer=match_accepted_rides".to_owned()).await, (vec![6, 4, 2], None, Value::Null));
    // How many there are, without reading one.
    assert_eq!(page("limit=0".to_owned()).await, (vec![], None, json!(6)));
    // A page goes on to look until it is full.
    for n in 8..=60 {
        letter(&desk, n, "match_accepted_users", Bytes::from_static(b"{")).await;
    }
    let (found, cursor, _) = page("limit=2&consumer=match_accepted_rides".to_owned()).await;
    assert_eq!(found, [6, 4]);
    let (found, cursor, _) = page(format!("limit=2&consumer=match_accepted_rides&cursor={}", cursor.unwrap())).await;
    assert_eq!((found, cursor), (vec![2], None));
    assert_eq!(desk.call(ADMIN, ("GET", "/dead-letters?cursor=x"), None, None).await.0, 422);
    desk.stop().await;
}
