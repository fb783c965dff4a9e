//! What operators do with people: they are found by phone, signed out, approved, suspended; and documents of drivers expire.

use chrono::Days;
use platform::World;
use serde_json::{Value, json};
use streams::topology::ADMIN_STREAM;
use streams::{Headers, Message};

use super::{ADMIN, Desk, SUPPORT, TokensFile, VIEWER};
use crate::harness::client::{Person, http};
use crate::harness::ride::{at, online, trip};
use crate::harness::running::{Running, Shape};
use crate::harness::{on_both_shapes, until};

on_both_shapes!(
    a_user_is_found_by_phone_and_signed_out,
    a_driver_is_suspended_until_a_time_and_approved,
    an_expired_document_takes_a_driver_off_duty,
);

async fn id_of(person: &Person) -> String {
    person.get("/v1/me").await.1["id"].as_str().unwrap().to_owned()
}

async fn a_user_is_found_by_phone_and_signed_out(shape: Shape) {
    let desk = Desk::start(shape).await;
    let person = Person::passenger(desk.running.addr(), 1).await;
    let id = id_of(&person).await;
    let mut socket = person.connect(None).await;
    let found = desk.get("/users?phone=%2B12122340001&reason=a%20call").await;
    let user = &found["users"][0];
    assert_eq!((&user["user_id"], &user["phone"], &user["driver"]), (&json!(id), &json!("+12122340001"), &Value::Null));
    assert_eq!(desk.get("/users?phone=%2B12122340077").await["users"], json!([]));
    for wrong in ["/users", "/users?phone=12", "/users?phone="] {
        let (status, problem) = desk.call(ADMIN, ("GET", wrong), None, None).await;
        assert_eq!((status, &problem["field"]), (422, &json!("phone")), "{wrong}");
    }
    let shown = desk.get(&format!("/users/{id}")).await;
    assert_eq!((shown["sign_ins"].as_array().unwrap().len(), &shown["sockets"]), (1, &json!(1)), "{shown}");
    assert_eq!((&shown["debts"], &shown["unavailable"]), (&json!([]), &json!([])));

    let done = desk.done_once(&format!("/users/{id}/sign-out"), json!({"reason": "a lost phone"})).await;
    assert_eq!(done["ended"], 1);
    assert_eq!(socket.closed().await, 4001);
    assert_eq!(person.get("/v1/me").await.0, 401);
    assert_eq!(desk.get(&format!("/users/{id}")).await["sign_ins"], json!([]));
    let acts = desk.acts(3).await;
    assert_eq!((&acts[0]["act"], &acts[0]["user_id"]), (&json!("user_looked_up"), &json!(id)));
    assert_eq!((&acts[0]["by"], &acts[0]["reason"], &acts[0]["found"]), (&json!("vic"), &json!("a call"), &json!(1)));
    assert_eq!((&acts[1]["found"], acts[1].get("user_id")), (&json!(0), None));
    assert_eq!((&acts[2]["act"], &acts[2]["reason"]), (&json!("user_signed_out"), &json!("a lost phone")));
    assert!(!json!(acts).to_string().contains("1212"), "no phone: {acts:?}");
    let unknown = "/users/0190b7a0-0000-7000-8000-000000000001/sign-out";
    assert_eq!(desk.call(SUPPORT, ("POST", unknown), None, None).await.0, 404);
    desk.stop().await;
}

#[tokio::test]
async fn look_ups_and_acts_of_an_operator_are_limited() {
    let file = TokensFile::new();
    let limits = "admin_look_ups=3/0.001,admin_acts=2/0.001,admin_tokens_address=10000/1";
    let running = Running::start(Shape::Embedded, &["--admin-tokens-file", file.path(), "--limits", limits]).await;
    let desk = Desk { running, file };
    let look_up = async |token| desk.call(token, ("GET", "/users?phone=%2B12122340077"), None, None).await;
    for _ in 0..3 {
        assert_eq!(look_up(VIEWER).await.0, 200);
    }
    let (status, problem) = look_up(VIEWER).await;
    assert_eq!((status, &problem["limit"]), (429, &json!("admin_look_ups")));
    assert_eq!(look_up(ADMIN).await.0, 200, "each operator has a limit of their own");
    let sign_out = "/users/0190b7a0-0000-7000-8000-000000000001/sign-out";
    let sign_out = async |token| desk.call(token, ("POST", sign_out), None, None).await;
    for _ in 0..2 {
        assert_eq!(sign_out(SUPPORT).await.0, 404);
    }
    let (status, problem) = sign_out(SUPPORT).await;
    assert_eq!((status, &problem["limit"]), (429, &json!("admin_acts")));
    desk.stop().await;
}

#[tokio::test]
async fn while_their_stream_is_full_acts_are_refused_and_the_process_is_ready() {
    let file = TokensFile::new();
    let more = ["--admin-tokens-file", file.path(), "--admin-stream-max-bytes", "1MiB"];
    let running = Running::start(Shape::Embedded, &more).await;
    let desk = Desk { running, file };
    let bus = &desk.running.apps[0].platform.bus;
    let fill = async |bytes: usize| {
        while bus.stream_info(ADMIN_STREAM).await.unwrap().bytes < bytes as u64 {
            let (subject, payload) = ("admin.user_looked_up".to_owned(), vec![b' '; 20_000].into());
            bus.publish(Message { subject, headers: Headers::default(), payload }).await.unwrap();
        }
    };
    let code = async |method: &'static str, path: &str| {
        let (status, problem) = desk.call(ADMIN, (method, path), None, None).await;
        (status, problem["code"].as_str().unwrap_or_default().to_owned())
    };
    let (look_up, sign_out) = ("/users?phone=%2B12122340077", "/users/0190b7a0-0000-7000-8000-000000000001/sign-out");
    assert_eq!(code("GET", look_up).await.0, 200);
    // Looking for people leaves room for what must be done.
    fill(950_000).await;
    until("look-ups are refused", async || code("GET", look_up).await == (503, "acts_full".to_owned())).await;
    assert_eq!(code("POST", sign_out).await.0, 404);
    fill(1_020_000).await;
    until("acts are refused", async || code("POST", sign_out).await == (503, "acts_full".to_owned())).await;
    assert_eq!(http(desk.running.addr(), "GET", "/health/ready", None, None).await.0, 200);
    desk.stop().await;
}

async fn a_driver_is_suspended_until_a_time_and_approved(shape: Shape) {
    let desk = Desk::start(shape).await;
    let addr = desk.running.addr();
    let (person, rider) = (Person::driver(addr, 1).await, Person::passenger(addr, 2).await);
    let id = id_of(&person).await;
    let (mut driver, mut passenger) = (person.connect(None).await, rider.connect(None).await);
    online(&mut driver, 40.751).await;
    passenger.ack("finder.update", trip()).await;
    driver.event("match.found").await;
    let of = async |status: &str| {
        let listed = desk.get(&format!("/drivers?status={status}")).await["drivers"].clone();
        listed.as_array().unwrap().iter().filter(|driver| driver["user_id"] == id.as_str()).count()
    };
    assert_eq!((of("approved").await, of("suspended").await), (1, 0));

    let suspend = format!("/drivers/{id}/suspend");
    let done = desk.done_once(&suspend, json!({"reason": "a complaint"})).await;
    assert_eq!(
        (&done["status"], &done["previous_status"], &done["until"]),
        (&json!("suspended"), &json!("approved"), &Value::Null)
    );
    assert_eq!(driver.event("match.rejected").await["data"]["reason"], "declined");
    let active = json!({"active": true, "location": at(40.751, -73.98)});
    assert_eq!(driver.refused("beacon.update", active.clone()).await, "driver_not_approved");
    assert_eq!((of("approved").await, of("suspended").await), (0, 1));
    let done = desk.done_once(&format!("/drivers/{id}/approve"), json!({})).await;
    assert_eq!((&done["status"], &done["previous_status"]), (&json!("approved"), &json!("suspended")));
    driver.ack("beacon.update", active.clone()).await;

    let soon = (World::real().now() + chrono::Duration::seconds(2)).to_rfc3339();
    let done = desk.done_once(&suspend, json!({"reason": "a day off", "until": soon})).await;
    assert!(done["until"].is_string(), "{done}");
    until("the suspension is over", async || of("approved").await == 1).await;
    driver.ack("beacon.update", active).await;
    for (until, status) in [("2020-01-01T00:00:00Z", 422), ("2999-01-01T00:00:00Z", 422), ("soon", 422)] {
        assert_eq!(desk.act(&suspend, None, json!({"reason": "x", "until": until})).await.0, status, "{until}");
    }
    assert_eq!(desk.act(&suspend, None, json!({})).await.0, 422, "a reason is required");
    let unknown = "/drivers/0190b7a0-0000-7000-8000-000000000001/approve";
    assert_eq!(desk.act(unknown, None, json!({})).await.0, 404);
    let rider_id = id_of(&rider).await;
    assert_eq!(desk.act(&format!("/drivers/{rider_id}/approve"), None, json!({})).await.0, 404, "no driver");
    let acts = desk.acts(3).await;
    let kinds: Vec<&Value> = acts.iter().map(|act| &act["act"]).collect();
    assert_eq!(kinds, ["driver_suspended", "driver_approved", "driver_suspended"]);
    assert_eq!((&acts[0]["driver_id"], &acts[0]["reason"]), (&json!(id), &json!("a complaint")));
    desk.stop().await;
}

async fn an_expired_document_takes_a_driver_off_duty(shape: Shape) {
    let desk = Desk::start(shape).await;
    let addr = desk.running.addr();
    let person = Person::driver(addr, 1).await;
    let id = id_of(&person).await;
    let mut driver = person.connect(None).await;
    online(&mut driver, 40.751).await;
    let path = format!("/drivers/{id}/documents");
    assert_eq!(desk.get(&path).await, json!({"documents": []}));
    let today = World::real().now().date_naive();
    let document = |kind: &str, days: i64| {
        let on = today.checked_add_signed(chrono::TimeDelta::days(days)).unwrap();
        json!({"kind": kind, "number": "AB 1", "expires_on": on})
    };
    let put =
        async |documents: Value| desk.call(ADMIN, ("PUT", &path), None, Some(json!({"documents": documents}))).await;
    let (status, done) = put(json!([document("licence", 0), document("insurance", 30)])).await;
    assert_eq!(
        (status, &done["documents"][0]["expired"], &done["documents"][1]["expired"]),
        (200, &json!(false), &json!(false))
    );
    let active = json!({"active": true, "location": at(40.751, -73.98)});
    driver.ack("beacon.update", active.clone()).await;
    let on_duty = async || desk.get("/drivers").await["drivers"][0]["on_duty"].clone();
    assert_eq!(on_duty().await, json!(true));

    let (_, done) = put(json!([document("licence", -1)])).await;
    assert_eq!(done["documents"][0]["expired"], true);
    assert_eq!(on_duty().await, json!(false));
    assert_eq!(driver.refused("beacon.update", active.clone()).await, "documents_expired");
    assert_eq!(driver.ack("beacon.update", json!({"active": false})).await["active"], false);
    assert_eq!(put(json!([document("licence", 365)])).await.0, 200);
    driver.ack("beacon.update", active).await;
    for wrong in [
        json!([{"kind": "poem", "expires_on": "2027-01-01"}]),
        json!([{"kind": "licence", "expires_on": "soon"}]),
        json!([document("licence", 1), document("licence", 2)]),
    ] {
        assert_eq!(put(wrong.clone()).await.0, 422, "{wrong}");
    }
    let (status, export) = http(addr, "GET", "/v1/me/export", Some(&person.token), None).await;
    assert_eq!((status, &export["driver_documents"][0]["kind"]), (200, &json!("licence")));
    let acts = desk.acts(3).await;
    assert!(acts.iter().all(|act| act["act"] == "driver_documents_set" && !act.to_string().contains("AB 1")));
    assert!(today.checked_sub_days(Days::new(1)).is_some());
    desk.stop().await;
}
