//! Accounts and the begin of sign-ins over HTTP, each case on both stores.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::routing::post;
use axum::{Json, Router};
use chrono::Duration;
use futures_util::future::join_all;
use serde_json::{Value, json};
use testing::{Backend, on_both_stores};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use users::OtpDelivery;

use crate::app::App;

const ANN: &str = "+14155550132";
const BOB: &str = "+4915112345678";

on_both_stores!(
    an_unknown_phone_becomes_a_passenger,
    a_code_works_once,
    a_code_and_a_phone_are_read_in_any_digits,
    five_wrong_codes_invalidate_the_right_one,
    a_new_code_replaces_the_old_one,
    a_code_lives_five_minutes,
    an_asker_gets_five_codes_at_once_and_then_six_an_hour,
    concurrent_requests_are_counted_one_after_another,
    a_code_presented_twice_concurrently_works_once,
    a_profile_is_read_and_changed,
    a_role_in_a_request_is_ignored,
    a_user_cannot_read_or_change_another_profile,
    a_user_becomes_a_driver,
    concurrent_repeats_of_a_registration_are_one_registration,
    of_two_drivers_with_one_plate_the_second_is_refused,
    a_malformed_request_gets_a_problem,
    a_code_is_posted_to_the_webhook,
    a_code_that_cannot_be_delivered_does_not_count,
);

async fn an_unknown_phone_becomes_a_passenger(backend: Backend) {
    let app = App::on(backend).await;
    let sent = app.post("/v1/auth/otp", json!({"phone": "+1 (415) 555-0132"})).await.ok(202);
    assert_eq!(sent["expires_in_s"], 300);
    let answer = app.sign_in_with(ANN, sent["code"].as_str().unwrap()).await.ok(200);
    assert_eq!((&answer["token_type"], &answer["expires_in_s"]), (&json!("Bearer"), &json!(900)));
    let user = &answer["user"];
    let expected = json!({"id": user["id"], "phone": ANN, "name": null, "roles": ["passenger"], "driver": null});
    assert_eq!(*user, expected);
    assert_eq!(user["id"].as_str().unwrap().as_bytes()[14], b'7', "ids are UUIDv7");
    assert_eq!(app.me(answer["access_token"].as_str().unwrap()).await.ok(200), expected);

    assert_eq!(app.signed_in(ANN).await["user"]["id"], user["id"], "the same phone is the same user");
    assert_ne!(app.signed_in(BOB).await["user"]["id"], user["id"]);
}

async fn a_code_works_once(backend: Backend) {
    let app = App::on(backend).await;
    let code = app.code(ANN).await;
    app.sign_in_with(ANN, &code).await.ok(200);
    assert_eq!(app.sign_in_with(ANN, &code).await.problem(), "401 invalid_code -");
    assert_eq!(app.sign_in_with(BOB, &code).await.problem(), "401 invalid_code -");
}

async fn a_code_and_a_phone_are_read_in_any_digits(backend: Backend) {
    let app = App::on(backend).await;
    // The same digits, from U+0660 and from U+FF10 on, and as a message may show them.
    let digits = |text: &str, zero: u32| -> String {
        text.chars().map(|c| c.to_digit(10).map_or(c, |digit| char::from_u32(zero + digit).unwrap())).collect()
    };
    let code = app.code("\u{202a}+١ ٤١٥ ٥٥٥ ٠١٣٢\u{202c}").await;
    assert_eq!(app.sign_in_with(ANN, &digits(&code, 0x660)).await.ok(200)["user"]["phone"], ANN);
    let code = app.code(ANN).await;
    app.sign_in_with(&digits(ANN, 0xff10), &digits(&code, 0xff10)).await.ok(200);
    let code = app.code(ANN).await;
    app.sign_in_with(ANN, &format!(" {}-{} ", &code[..3], &code[3..])).await.ok(200);
}

async fn five_wrong_codes_invalidate_the_right_one(backend: Backend) {
    let app = App::on(backend).await;
    let (code, other) = (app.code(ANN).await, app.code(BOB).await);
    let wrong = if code == "000000" { "000001" } else { "000000" };
    for _ in 0..5 {
        assert_eq!(app.sign_in_with(ANN, wrong).await.problem(), "401 invalid_code -");
    }
    assert_eq!(app.sign_in_with(ANN, &code).await.problem(), "401 invalid_code -");
    app.sign_in_with(BOB, &other).await.ok(200);
    // Four wrong codes do not, and a new code has five tries again.
    let code = app.code(ANN).await;
    for wrong in ["", "x", "12345", "１２３４５６"] {
        assert_eq!(app.sign_in_with(ANN, wrong).await.problem(), "401 invalid_code -");
    }
    app.sign_in_with(ANN, &code).await.ok(200);
}

async fn a_new_code_replaces_the_old_one(backend: Backend) {
    let app = App::on(backend).await;
    let (old, new) = (app.code(ANN).await, app.code(ANN).await);
    assert_ne!(old, new, "this seed gives two equal codes: take another");
    assert_eq!(app.sign_in_with(ANN, &old).await.problem(), "401 invalid_code -");
    app.sign_in_with(ANN, &new).await.ok(200);
}

async fn a_code_lives_five_minutes(backend: Backend) {
    let app = App::on(backend).await;
    let (code, other) = (app.code(ANN).await, app.code(BOB).await);
    app.later(Duration::seconds(290)).await.sign_in_with(ANN, &code).await.ok(200);
    assert_eq!(app.later(Duration::seconds(310)).await.sign_in_with(BOB, &other).await.problem(), "401 invalid_code -");
}

async fn an_asker_gets_five_codes_at_once_and_then_six_an_hour(backend: Backend) {
    let app = App::on(backend).await;
    for _ in 0..4 {
        app.code(ANN).await;
    }
    let last = app.code(ANN).await;
    let refused = app.post("/v1/auth/otp", json!({"phone": ANN})).await;
    assert_eq!(refused.problem(), "429 too_many_requests -");
    let wait_s: i64 = refused.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((590..=600).contains(&wait_s), "{wait_s}");
    assert_eq!(refused.body["limit"], "codes_asker");
    app.code(BOB).await;
    app.sign_in_with(ANN, &last).await.ok(200);
    let nearly = app.later(Duration::seconds(580)).await;
    assert_eq!(nearly.post("/v1/auth/otp", json!({"phone": ANN})).await.problem(), "429 too_many_requests -");
    app.later(Duration::seconds(610)).await.code(ANN).await;
}

async fn concurrent_requests_are_counted_one_after_another(backend: Backend) {
    let app = App::on(backend).await;
    let requests = (0..8).map(|_| app.post("/v1/auth/otp", json!({"phone": ANN})));
    let answers = join_all(requests).await;
    let taken = answers.iter().filter(|a| a.status == StatusCode::ACCEPTED).count();
    assert_eq!(taken, 5, "{answers:?}");
}

async fn a_code_presented_twice_concurrently_works_once(backend: Backend) {
    let app = App::on(backend).await;
    let code = app.code(ANN).await;
    let (one, two) = tokio::join!(app.sign_in_with(ANN, &code), app.sign_in_with(ANN, &code));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
}

async fn a_profile_is_read_and_changed(backend: Backend) {
    let app = App::on(backend).await;
    let ann = app.signed_in(ANN).await;
    let token = ann["access_token"].as_str().unwrap();
    let change = async |body: Value| app.call("PATCH", "/v1/me", Some(token), body).await;
    assert_eq!(change(json!({"name": "  Ann \"the\" Ö. "})).await.ok(200)["name"], "Ann \"the\" Ö.");
    assert_eq!(change(json!({})).await.ok(200)["name"], "Ann \"the\" Ö.");
    assert_eq!(change(json!({"name": "x".repeat(100)})).await.ok(200)["name"], "x".repeat(100));
    let cleaned = change(json!({"name": " A\u{7}n\u{200b}n \n \u{202e}Lee\u{301} "})).await.ok(200);
    assert_eq!(cleaned["name"], "Ann Leé", "what cannot be seen is left out");
    change(json!({"name": "x".repeat(100)})).await.ok(200);
    let unseen = json!(" \u{200b}\u{202e}\u{7}");
    for wrong in [json!(""), json!("   "), unseen, json!("x".repeat(101)), json!(7), json!(["a"])] {
        assert_eq!(change(json!({"name": wrong})).await.problem(), "422 invalid_field name", "{wrong}");
    }
    assert_eq!(app.me(token).await.ok(200)["name"], "x".repeat(100));
    assert_eq!(change(json!({"name": null})).await.ok(200)["name"], Value::Null);
}

async fn a_role_in_a_request_is_ignored(backend: Backend) {
    let app = App::on(backend).await;
    let wishes =
        json!({"role": "admin", "roles": ["admin"], "admin": true, "is_admin": true, "driver": {"plate": "X"}});
    let with = |mut body: Value| {
        body.as_object_mut().unwrap().extend(wishes.as_object().unwrap().clone());
        body
    };
    let sent = app.post("/v1/auth/otp", with(json!({"phone": ANN}))).await.ok(202);
    let ann = app.post("/v1/auth/token", with(json!({"phone": ANN, "code": sent["code"]}))).await.ok(200);
    assert_eq!(ann["user"]["roles"], json!(["passenger"]));
    let token = ann["access_token"].as_str().unwrap();
    let patched = app.call("PATCH", "/v1/me", Some(token), with(json!({"phone": BOB, "id": "x"}))).await.ok(200);
    assert_eq!(patched, ann["user"], "nothing but the name can be changed");
    let driver = with(json!({"vehicle_type": "car", "plate": "AB 123"}));
    let driver = app.call("POST", "/v1/drivers", Some(token), driver).await.ok(201);
    assert_eq!(driver["roles"], json!(["passenger", "driver"]));
    let refreshed = app.post("/v1/auth/refresh", with(json!({"refresh_token": ann["refresh_token"]}))).await.ok(200);
    assert_eq!(refreshed["user"]["roles"], json!(["passenger", "driver"]));
}

async fn a_user_cannot_read_or_change_another_profile(backend: Backend) {
    let app = App::on(backend).await;
    let (ann, bob) = (app.signed_in(ANN).await, app.signed_in(BOB).await);
    let token = ann["access_token"].as_str().unwrap();
    let id = bob["user"]["id"].as_str().unwrap();
    let get = async |path: String| app.call("GET", &path, Some(token), Value::Null).await;
    for path in ["users", "me", "drivers", "profiles"] {
        let answer = get(format!("/v1/{path}/{id}")).await;
        assert_eq!(answer.problem(), "404 no_such_route -", "{path}");
    }
    for query in ["id", "user_id", "phone"] {
        assert_eq!(get(format!("/v1/me?{query}={id}")).await.ok(200)["phone"], ANN);
    }
    let renamed = json!({"id": id, "user_id": id, "phone": BOB, "name": "Mallory"});
    assert_eq!(app.call("PATCH", "/v1/me", Some(token), renamed).await.ok(200)["id"], ann["user"]["id"]);
    assert_eq!(app.me(bob["access_token"].as_str().unwrap()).await.ok(200), bob["user"]);

    let unsigned = app.call("GET", "/v1/me", None, Value::Null).await;
    assert_eq!(unsigned.problem(), "401 unauthorized -");
    assert_eq!(unsigned.headers[header::WWW_AUTHENTICATE], "Bearer");
    let (head, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{}.{signature}", head.replace('.', ".e"));
    for wrong in ["", "x", &forged, &format!("{head}."), id] {
        assert_eq!(app.me(wrong).await.problem(), "401 unauthorized -", "{wrong}");
    }
}

async fn a_user_becomes_a_driver(backend: Backend) {
    let app = App::on(backend).await;
    let ann = app.signed_in(ANN).await;
    let token = ann["access_token"].as_str().unwrap();
    let register = async |body: Value| app.call("POST", "/v1/drivers", Some(token), body).await;
    for (body, field) in [
        (json!({"plate": "AB 123"}), "vehicle_type"),
        (json!({"vehicle_type": "tank", "plate": "AB 123"}), "vehicle_type"),
        (json!({"vehicle_type": "car"}), "plate"),
        (json!({"vehicle_type": "car", "plate": "-"}), "plate"),
        (json!({"vehicle_type": "car", "plate": "A", "make": ""}), "make"),
        (json!({"vehicle_type": "car", "plate": "A", "color": "x".repeat(41)}), "color"),
        (json!({"vehicle_type": "car", "plate": "AB;123"}), "plate"),
        (json!({"vehicle_type": "car", "plate": "ABCDEFGHIJ 1234567"}), "plate"),
    ] {
        assert_eq!(register(body.clone()).await.problem(), format!("422 invalid_field {field}"), "{body}");
    }
    let wanted = json!({"vehicle_type": "van", "plate": " ab-12 x "});
    let profile = register(wanted.clone()).await.ok(201);
    let driver = json!({"vehicle_type": "van", "plate": "AB-12 X", "make": null, "model": null, "color": null, "status": "approved"});
    assert_eq!(profile["driver"], driver);
    assert_eq!(profile["roles"], json!(["passenger", "driver"]));
    assert_eq!(register(wanted).await.ok(201), profile, "a repeat has no second effect");
    for other in [json!({"vehicle_type": "car", "plate": "AB-12 X"}), json!({"vehicle_type": "van", "plate": "ZZ 9"})] {
        assert_eq!(register(other).await.problem(), "409 already_driver -");
    }
    assert_eq!(app.me(token).await.ok(200), profile);
    assert_eq!(app.signed_in(ANN).await["user"], profile);
    let unsigned = app.post("/v1/drivers", json!({"vehicle_type": "car", "plate": "CD 1"})).await;
    assert_eq!(unsigned.problem(), "401 unauthorized -");
}

async fn concurrent_repeats_of_a_registration_are_one_registration(backend: Backend) {
    let app = App::on(backend).await;
    for round in 0..5 {
        let user = app.signed_in(&format!("+1415555014{round}")).await;
        let token = user["access_token"].as_str().unwrap();
        // Open connections first, so that the requests below race.
        join_all((0..4).map(|_| app.me(token))).await;
        let body = json!({"vehicle_type": "car", "plate": format!("AB {round}")});
        for answer in join_all((0..4).map(|_| app.call("POST", "/v1/drivers", Some(token), body.clone()))).await {
            assert_eq!(answer.ok(201)["driver"]["plate"], body["plate"]);
        }
    }
}

async fn of_two_drivers_with_one_plate_the_second_is_refused(backend: Backend) {
    let app = App::on(backend).await;
    let (ann, bob) = (app.signed_in(ANN).await, app.signed_in(BOB).await);
    let register = async |user: &Value, plate: &str| {
        let body = json!({"vehicle_type": "car", "plate": plate});
        app.call("POST", "/v1/drivers", user["access_token"].as_str(), body).await
    };
    let (one, two) = tokio::join!(register(&ann, "ab 123"), register(&bob, "AB 123"));
    let (won, lost, loser) = if one.status.is_success() { (one, two, &bob) } else { (two, one, &ann) };
    won.ok(201);
    assert_eq!(lost.problem(), "409 plate_taken -");
    assert_eq!(
        app.me(loser["access_token"].as_str().unwrap()).await.ok(200),
        loser["user"],
        "the rollback left nothing"
    );
    register(loser, "AB 124").await.ok(201);
}

async fn a_malformed_request_gets_a_problem(backend: Backend) {
    let app = App::on(backend).await;
    let send = async |method: &str, path: &str, kind: &str, body: String| {
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, kind);
        app.send(request.body(Body::from(body)).unwrap()).await
    };
    let json = "application/json";
    let otp = async |body: &str| send("POST", "/v1/auth/otp", json, body.to_owned()).await.problem();
    assert_eq!(otp("").await, "400 invalid_json -");
    assert_eq!(otp("{\"phone\": \"+1415").await, "400 invalid_json -");
    assert_eq!(otp("{}").await, "422 invalid_field phone");
    assert_eq!(otp("{\"phone\": 4}").await, "422 invalid_field phone");
    assert_eq!(otp("{\"phone\": null}").await, "422 invalid_field phone");
    assert_eq!(otp("{\"phone\": \"4155550132\"}").await, "422 invalid_field phone");
    assert_eq!(app.sign_in_with("x", "123456").await.problem(), "422 invalid_field phone");
    assert_eq!(app.post("/v1/auth/token", json!({"phone": ANN})).await.problem(), "422 invalid_field code");
    assert_eq!(app.post("/v1/auth/refresh", json!({})).await.problem(), "422 invalid_field refresh_token");

    let text = send("POST", "/v1/auth/otp", "text/plain", format!("{{\"phone\": \"{ANN}\"}}")).await;
    assert_eq!(text.problem(), "415 unsupported_media_type -");
    let large = send("POST", "/v1/auth/otp", json, format!("{{\"phone\": \"{}\"}}", "x".repeat(17_000))).await;
    assert_eq!(large.problem(), "413 body_too_large -");
    assert_eq!(send("GET", "/v1/nothing", json, String::new()).await.problem(), "404 no_such_route -");
    let method = send("PUT", "/v1/me", json, String::new()).await;
    assert_eq!(method.problem(), "405 method_not_allowed -");
    assert_eq!(method.headers[header::ALLOW], "GET,HEAD,PATCH,DELETE");
}

/// A webhook is a real socket, and would time out in paused time.
fn real_time(backend: Backend) {
    if backend == Backend::Memory {
        tokio::time::resume();
    }
}

/// A webhook that answers with this status; returns its address and the bodies that it receives.
async fn webhook(status: StatusCode) -> (OtpDelivery, mpsc::Receiver<Value>) {
    let (to, from) = mpsc::channel(16);
    let take = async move |Json(body): Json<Value>| {
        to.send(body).await.unwrap();
        status
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new().route("/send", post(take));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (format!("webhook:http://{address}/send?key=1").parse().unwrap(), from)
}

async fn a_code_is_posted_to_the_webhook(backend: Backend) {
    real_time(backend);
    let app = App::on(backend).await;
    let (delivery, mut received) = webhook(StatusCode::NO_CONTENT).await;
    let app = app.delivering(delivery).await;
    let sent = app.post("/v1/auth/otp", json!({"phone": ANN})).await.ok(202);
    assert_eq!((&sent["expires_in_s"], &sent["code"]), (&json!(300), &Value::Null), "the answer has no code");
    let message = received.recv().await.unwrap();
    assert_eq!((&message["phone"], &message["expires_in_s"]), (&json!(ANN), &json!(300)));
    app.sign_in_with(ANN, message["code"].as_str().unwrap()).await.ok(200);

    let logged = app.delivering(OtpDelivery::Log).await.post("/v1/auth/otp", json!({"phone": ANN})).await.ok(202);
    assert_eq!((&logged["expires_in_s"], &logged["code"]), (&json!(300), &Value::Null));
}

async fn a_code_that_cannot_be_delivered_does_not_count(backend: Backend) {
    real_time(backend);
    let app = App::on(backend).await;
    let (failing, mut received) = webhook(StatusCode::INTERNAL_SERVER_ERROR).await;
    let failing = app.delivering(failing).await;
    for _ in 0..6 {
        let answer = failing.post("/v1/auth/otp", json!({"phone": ANN})).await;
        assert_eq!(answer.problem(), "503 unavailable -");
        let code = received.recv().await.unwrap()["code"].as_str().unwrap().to_owned();
        assert_eq!(app.sign_in_with(ANN, &code).await.problem(), "401 invalid_code -");
    }
    // A port on which nothing listens any more.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = format!("webhook:http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let answer = app.delivering(away).await.post("/v1/auth/otp", json!({"phone": ANN})).await;
    assert_eq!(answer.problem(), "503 unavailable -");
    app.signed_in(ANN).await;
}

/// The body of each kind of problem, as a client gets it.
#[tokio::test(start_paused = true)]
async fn problems_have_these_bodies() {
    let app = App::on(Backend::Memory).await;
    let user = app.signed_in(ANN).await;
    let token = user["access_token"].as_str();
    let problem = |response: crate::app::Response| {
        assert_eq!(response.headers[header::CONTENT_TYPE], "application/problem+json");
        serde_json::to_string_pretty(&response.body).unwrap()
    };
    let json = "application/json";
    let request = Request::post("/v1/auth/otp").header(header::CONTENT_TYPE, json).body(Body::from("{")).unwrap();
    insta::assert_snapshot!(problem(app.send(request).await), @r#"
    {
      "code": "invalid_json",
      "detail": "the body is not JSON: EOF while parsing an object at line 1 column 1",
      "status": 400,
      "title": "Bad Request",
      "type": "about:blank"
    }
    "#);
    insta::assert_snapshot!(problem(app.post("/v1/auth/otp", json!({"phone": "4155550132"})).await), @r#"
    {
      "code": "invalid_field",
      "detail": "a phone number in E.164 is needed, such as +14155550132",
      "field": "phone",
      "status": 422,
      "title": "Unprocessable Entity",
      "type": "about:blank"
    }
    "#);
    insta::assert_snapshot!(problem(app.sign_in_with(ANN, "000000").await), @r#"
    {
      "code": "invalid_code",
      "detail": "the code is wrong, used or expired; after five wrong ones only a new code helps",
      "status": 401,
      "title": "Unauthorized",
      "type": "about:blank"
    }
    "#);
    insta::assert_snapshot!(problem(app.call("GET", "/v1/me", None, Value::Null).await), @r#"
    {
      "code": "unauthorized",
      "detail": "the header `Authorization: Bearer <access token>` is missing",
      "status": 401,
      "title": "Unauthorized",
      "type": "about:blank"
    }
    "#);
    let car = json!({"vehicle_type": "car", "plate": "AB 1"});
    app.call("POST", "/v1/drivers", token, car).await.ok(201);
    let van = json!({"vehicle_type": "van", "plate": "AB 1"});
    insta::assert_snapshot!(problem(app.call("POST", "/v1/drivers", token, van).await), @r#"
    {
      "code": "already_driver",
      "detail": "you are a driver already, with car AB 1: change it with PATCH /v1/drivers",
      "status": 409,
      "title": "Conflict",
      "type": "about:blank"
    }
    "#);
    while app.post("/v1/auth/otp", json!({"phone": ANN})).await.status == StatusCode::ACCEPTED {}
    insta::assert_snapshot!(problem(app.post("/v1/auth/otp", json!({"phone": ANN})).await), @r#"
    {
      "code": "too_many_requests",
      "detail": "too many requests, by the limit codes_asker: the header Retry-After says when to try again",
      "limit": "codes_asker",
      "status": 429,
      "title": "Too Many Requests",
      "type": "about:blank"
    }
    "#);
}
