//! A sign-in from its first refresh to its end, over HTTP, on both stores; and its end in other processes.

use std::time::Duration as StdDuration;

use axum::body::Body;
use axum::http::{Request, header};
use chrono::Duration;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use platform::token::ended;
use platform::{CancellationToken, Platform, Tokens, World};
use serde_json::{Value, json};
use streams::UserId;
use testing::{Backend, on_both_stores};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use crate::app::App;
use crate::pods::{Cluster, Pod};

const ANN: &str = "+14155550132";
const BOB: &str = "+4915112345678";

on_both_stores!(
    a_refresh_token_works_once_and_its_reuse_ends_the_sign_in,
    a_lost_answer_is_given_again_for_thirty_seconds,
    two_refreshes_at_once_get_the_same_successor,
    of_many_refreshes_at_once_one_is_answered_and_nobody_is_signed_out,
    a_client_that_refreshes_without_an_end_is_slowed,
    access_and_refresh_tokens_expire,
    a_sign_in_ends_however_often_it_is_refreshed,
    a_sign_out_ends_this_sign_in_alone,
    a_sign_out_everywhere_ends_all,
    sign_ins_are_listed_and_ended_by_their_user_alone,
    a_token_without_a_sign_in_can_only_sign_out_everywhere,
    the_end_of_a_sign_in_reaches_every_process,
    an_end_whose_message_is_lost_is_read_from_the_table,
);

fn text<'a>(body: &'a Value, name: &str) -> &'a str {
    body[name].as_str().unwrap_or_else(|| panic!("{name} of {body}"))
}

async fn a_refresh_token_works_once_and_its_reuse_ends_the_sign_in(backend: Backend) {
    let app = App::on(backend).await;
    let (first, elsewhere) = (app.signed_in(ANN).await, app.signed_in(ANN).await);
    let second = app.refresh(&first["refresh_token"]).await.ok(200);
    assert_eq!((&second["user"], &second["token_type"]), (&first["user"], &json!("Bearer")));
    app.me(text(&second, "access_token")).await.ok(200);
    let third = app.refresh(&second["refresh_token"]).await.ok(200);

    assert_eq!(app.refresh(&first["refresh_token"]).await.problem(), "401 token_reused -");
    assert_eq!(app.refresh(&third["refresh_token"]).await.problem(), "401 invalid_token -");
    assert_eq!(app.refresh(&second["refresh_token"]).await.problem(), "401 token_reused -");
    for ended in [&first, &second, &third] {
        assert_eq!(app.me(text(ended, "access_token")).await.problem(), "401 unauthorized -");
    }
    app.me(text(&elsewhere, "access_token")).await.ok(200);
    app.refresh(&elsewhere["refresh_token"]).await.ok(200);

    let upper = text(&elsewhere, "refresh_token").to_uppercase();
    for wrong in [json!(""), json!("0".repeat(64)), json!(upper), first["access_token"].clone()] {
        assert_eq!(app.refresh(&wrong).await.problem(), "401 invalid_token -");
    }
    assert!(app.me(text(&first, "refresh_token")).await.problem().starts_with("401 unauthorized"));
}

async fn a_lost_answer_is_given_again_for_thirty_seconds(backend: Backend) {
    let app = App::on(backend).await;
    let first = app.signed_in(ANN).await;
    let lost = app.refresh(&first["refresh_token"]).await.ok(200);
    let repeated = app.refresh(&first["refresh_token"]).await.ok(200);
    assert_eq!(repeated["refresh_token"], lost["refresh_token"]);
    let later = app.later(Duration::seconds(28)).await;
    let again = later.refresh(&first["refresh_token"]).await.ok(200);
    assert_eq!(again["refresh_token"], lost["refresh_token"]);
    later.me(text(&again, "access_token")).await.ok(200);
    // The client has it at last, and goes on.
    let second = later.refresh(&again["refresh_token"]).await.ok(200);
    let third = app.later(Duration::seconds(40)).await.refresh(&second["refresh_token"]).await.ok(200);

    let too_late = app.later(Duration::seconds(75)).await;
    assert_eq!(too_late.refresh(&second["refresh_token"]).await.problem(), "401 token_reused -");
    assert_eq!(too_late.refresh(&third["refresh_token"]).await.problem(), "401 invalid_token -");
}

async fn two_refreshes_at_once_get_the_same_successor(backend: Backend) {
    let app = App::on(backend).await;
    let first = app.signed_in(ANN).await;
    let (one, two) = tokio::join!(app.refresh(&first["refresh_token"]), app.refresh(&first["refresh_token"]));
    let (one, two) = (one.ok(200), two.ok(200));
    assert_eq!(one["refresh_token"], two["refresh_token"]);
    app.refresh(&one["refresh_token"]).await.ok(200);
}

async fn of_many_refreshes_at_once_one_is_answered_and_nobody_is_signed_out(backend: Backend) {
    let app = App::on(backend).await;
    let first = app.signed_in(ANN).await;
    let access = text(&first, "access_token");
    // Open connections first, so that the requests below race.
    join_all((0..8).map(|_| app.me(access))).await;
    let answers = join_all((0..8).map(|_| app.refresh(&first["refresh_token"]))).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|a| a.status.is_success());
    assert_eq!((won.len(), lost.len()), (1, 7), "{won:?}");
    for answer in lost {
        assert_eq!(answer.body["limit"], "refresh", "{answer:?}");
        assert_eq!(answer.headers[header::RETRY_AFTER], "1", "{answer:?}");
        assert_eq!(answer.problem(), "429 too_many_requests -");
    }
    app.refresh(&won[0].body["refresh_token"]).await.ok(200);
}

async fn a_client_that_refreshes_without_an_end_is_slowed(backend: Backend) {
    let app = App::on(backend).await;
    let (mut newest, other) = (app.signed_in(ANN).await, app.signed_in(ANN).await);
    let mut refreshes = 0;
    let refused = loop {
        let answer = app.refresh(&newest["refresh_token"]).await;
        if !answer.status.is_success() {
            break answer;
        }
        (newest, refreshes) = (answer.body, refreshes + 1);
    };
    assert_eq!((refreshes, &refused.body["limit"]), (30, &json!("refresh")), "{refused:?}");
    assert_eq!(refused.problem(), "429 too_many_requests -");
    app.refresh(&other["refresh_token"]).await.ok(200);
    // The token that was refused is not used up. (Another process has another bucket.)
    app.later(Duration::seconds(1)).await.refresh(&newest["refresh_token"]).await.ok(200);
}

async fn access_and_refresh_tokens_expire(backend: Backend) {
    let app = App::on(backend).await;
    let first = app.signed_in(ANN).await;
    let soon = app.later(Duration::seconds(890)).await;
    let access = text(&first, "access_token");
    soon.me(access).await.ok(200);
    let after = app.later(Duration::seconds(910)).await;
    assert_eq!(after.me(access).await.problem(), "401 unauthorized -");

    let second = app.later(Duration::days(29)).await.refresh(&first["refresh_token"]).await.ok(200);
    let much_later = app.later(Duration::days(59) + Duration::minutes(1)).await;
    assert_eq!(much_later.refresh(&second["refresh_token"]).await.problem(), "401 invalid_token -");
}

async fn a_sign_in_ends_however_often_it_is_refreshed(backend: Backend) {
    let app = App::on(backend).await;
    let mut newest = app.signed_in(ANN).await;
    for days in [25, 50, 75] {
        newest = app.later(Duration::days(days)).await.refresh(&newest["refresh_token"]).await.ok(200);
        assert_eq!(newest["expires_in_s"], 900);
    }
    let near = app.later(Duration::days(90) - Duration::minutes(10)).await;
    newest = near.refresh(&newest["refresh_token"]).await.ok(200);
    let left = newest["expires_in_s"].as_i64().unwrap();
    assert!((590..=700).contains(&left), "an access token ends with its sign-in: {left}");
    let over = app.later(Duration::days(90) + Duration::minutes(2)).await;
    assert_eq!(over.me(text(&newest, "access_token")).await.problem(), "401 unauthorized -");
    assert_eq!(over.refresh(&newest["refresh_token"]).await.problem(), "401 invalid_token -");
}

/// POST /v1/auth/sign-out with this body, or with none.
async fn sign_out(app: &App, signed_in: &Value, body: Option<Value>) -> crate::app::Response {
    let token = text(signed_in, "access_token");
    match body {
        Some(body) => app.call("POST", "/v1/auth/sign-out", Some(token), body).await,
        None => {
            let request = Request::post("/v1/auth/sign-out").header(header::AUTHORIZATION, format!("Bearer {token}"));
            app.send(request.body(Body::empty()).unwrap()).await
        }
    }
}

async fn a_sign_out_ends_this_sign_in_alone(backend: Backend) {
    let app = App::on(backend).await;
    let (here, there) = (app.signed_in(ANN).await, app.signed_in(ANN).await);
    for wrong in [json!({"everywhere": "yes"}), json!(7)] {
        assert!(sign_out(&app, &here, Some(wrong)).await.problem().starts_with("422 invalid_field"));
    }
    sign_out(&app, &here, None).await.ok(204);
    assert_eq!(app.me(text(&here, "access_token")).await.problem(), "401 unauthorized -");
    assert_eq!(sign_out(&app, &here, None).await.problem(), "401 unauthorized -", "a repeat");
    assert_eq!(app.refresh(&here["refresh_token"]).await.problem(), "401 invalid_token -");
    app.me(text(&there, "access_token")).await.ok(200);
    sign_out(&app, &there, Some(json!({"refresh_token": "ignored", "everywhere": false}))).await.ok(204);
    assert_eq!(app.refresh(&there["refresh_token"]).await.problem(), "401 invalid_token -");
    assert_eq!(app.call("POST", "/v1/auth/sign-out", None, json!({})).await.problem(), "401 unauthorized -");
}

async fn a_sign_out_everywhere_ends_all(backend: Backend) {
    let app = App::on(backend).await;
    let (here, there, bob) = (app.signed_in(ANN).await, app.signed_in(ANN).await, app.signed_in(BOB).await);
    sign_out(&app, &here, Some(json!({"everywhere": true}))).await.ok(204);
    for ended in [&here, &there] {
        assert_eq!(app.me(text(ended, "access_token")).await.problem(), "401 unauthorized -");
        assert_eq!(app.refresh(&ended["refresh_token"]).await.problem(), "401 invalid_token -");
    }
    app.refresh(&bob["refresh_token"]).await.ok(200);
    let again = app.signed_in(ANN).await;
    assert_eq!(again["user"], here["user"]);
    app.me(text(&again, "access_token")).await.ok(200);
}

async fn sign_ins_are_listed_and_ended_by_their_user_alone(backend: Backend) {
    let app = App::on(backend).await;
    let (phone, bob) = (app.signed_in(ANN).await, app.signed_in(BOB).await);
    let code = app.code(ANN).await;
    let request = Request::post("/v1/auth/token")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, format!("Browser/{}", "7".repeat(200)));
    let body = json!({"phone": ANN, "code": code}).to_string();
    let browser = app.send(request.body(Body::from(body)).unwrap()).await.ok(200);

    let token = text(&phone, "access_token");
    let later = app.later(Duration::seconds(20)).await;
    let newer = later.refresh(&phone["refresh_token"]).await.ok(200);
    let list = async |token: &str| later.call("GET", "/v1/auth/sign-ins", Some(token), Value::Null).await.ok(200);
    let listed = list(token).await;
    let [first, second] = &listed["sign_ins"].as_array().unwrap()[..] else { panic!("{listed}") };
    assert_eq!((&first["device"], &first["current"]), (&json!(null), &json!(true)), "seen last first");
    assert_eq!(second["device"], format!("Browser/{}", "7".repeat(92)));
    assert_eq!(second["current"], false);
    for (sign_in, seen_later) in [(first, true), (second, false)] {
        let (created, seen) = (text(sign_in, "created_at"), text(sign_in, "seen_at"));
        assert!(created.ends_with('Z') && created.len() == "2026-01-01T00:00:00.000000Z".len(), "{created}");
        assert_eq!(seen > created, seen_later, "{sign_in}");
    }

    let end = async |token: &str, id: &str| {
        later.call("DELETE", &format!("/v1/auth/sign-ins/{id}"), Some(token), Value::Null).await
    };
    let (mine, other) = (text(first, "id"), text(second, "id"));
    for id in [other, "x", "00000000-0000-7000-8000-000000000000", "%ff"] {
        assert_eq!(end(text(&bob, "access_token"), id).await.problem(), "404 not_found -", "{id}");
    }
    later.me(text(&browser, "access_token")).await.ok(200);
    end(token, other).await.ok(204);
    end(token, other).await.ok(204);
    assert_eq!(later.me(text(&browser, "access_token")).await.problem(), "401 unauthorized -");
    assert_eq!(later.refresh(&browser["refresh_token"]).await.problem(), "401 invalid_token -");
    assert_eq!(list(token).await["sign_ins"].as_array().unwrap().len(), 1);
    end(token, mine).await.ok(204);
    assert_eq!(later.refresh(&newer["refresh_token"]).await.problem(), "401 invalid_token -");
}

async fn a_token_without_a_sign_in_can_only_sign_out_everywhere(backend: Backend) {
    let app = App::on(backend).await;
    let ann = app.signed_in(ANN).await;
    let user: UserId = text(&ann["user"], "id").parse().unwrap();
    let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 9);
    let old = json!({"access_token": Tokens::new(&world, &crate::app::SECRET).unwrap().access(user)});
    assert_eq!(sign_out(&app, &old, None).await.problem(), "409 no_sign_in -");
    let listed = app.call("GET", "/v1/auth/sign-ins", Some(text(&old, "access_token")), Value::Null).await.ok(200);
    assert_eq!(listed["sign_ins"][0]["current"], false);
    sign_out(&app, &old, Some(json!({"everywhere": true}))).await.ok(204);
    assert_eq!(app.refresh(&ann["refresh_token"]).await.problem(), "401 invalid_token -");
    app.me(text(&old, "access_token")).await.ok(200);
}

/// The status of a request to this pod.
async fn status(pod: &Pod, method: &str, path: &str, token: &str, body: &str) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Body::from(body.to_owned()))
        .unwrap();
    let response = pod.users.routes().into_router().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

async fn signed_in(pod: &Pod, phone: &str) -> String {
    let (_, sent) = status(pod, "POST", "/v1/auth/otp", "", &json!({"phone": phone}).to_string()).await;
    let body = json!({"phone": phone, "code": sent["code"]}).to_string();
    let (_, given) = status(pod, "POST", "/v1/auth/token", "", &body).await;
    text(&given, "access_token").to_owned()
}

/// Waits until the pod refuses the token; returns after how long.
async fn refused_after(pod: &Pod, token: &str) -> StdDuration {
    let start = Instant::now();
    while status(pod, "GET", "/v1/me", token, "").await.0 != 401 {
        assert!(start.elapsed() < StdDuration::from_secs(2), "the token is still accepted");
        sleep(StdDuration::from_millis(5)).await;
    }
    start.elapsed()
}

async fn the_end_of_a_sign_in_reaches_every_process(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let (mut one, mut two) = (cluster.pod("one").await, cluster.pod("two").await);
    let (token, other) = (signed_in(&one, "+12125550411").await, signed_in(&one, "+12125550412").await);
    // A process of another service, such as rides.
    let (tokens, stop) = (cluster.tokens.of_another_process(), CancellationToken::new());
    let platform = Platform::new(cluster.world.clone(), cluster.bus.clone(), "three");
    let follow = |tokens: &Tokens| tokio::spawn(ended::follow(platform.clone(), tokens.clone(), stop.clone()));
    let following = follow(&tokens);
    sleep(StdDuration::from_millis(100)).await;
    assert!(tokens.verify(&token).is_ok());
    assert_eq!(status(&two, "GET", "/v1/me", &token, "").await.0, 200);

    assert_eq!(status(&one, "POST", "/v1/auth/sign-out", &token, "{}").await.0, 204);
    refused_after(&two, &token).await;
    let start = Instant::now();
    while tokens.verify(&token).is_ok() {
        assert!(start.elapsed() < StdDuration::from_secs(2), "the other service still accepts the token");
        sleep(StdDuration::from_millis(5)).await;
    }
    assert!(tokens.verify(&other).is_ok() && status(&two, "GET", "/v1/me", &other, "").await.0 == 200);

    // A process that starts later has missed the message.
    let later = cluster.tokens.of_another_process();
    assert!(later.verify(&token).is_ok());
    let following_later = follow(&later);
    let start = Instant::now();
    while later.verify(&token).is_ok() {
        assert!(start.elapsed() < StdDuration::from_secs(2), "the process that started later accepts the token");
        sleep(StdDuration::from_millis(5)).await;
    }
    let restarted = cluster.idle_pod("restarted", users::Config::default()).await;
    assert_eq!(status(&restarted, "GET", "/v1/me", &token, "").await.0, 401, "from its first request on");
    stop.cancel();
    following.await.unwrap();
    following_later.await.unwrap();
    one.stop().await;
    two.stop().await;
}

async fn an_end_whose_message_is_lost_is_read_from_the_table(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut one = cluster.pod("one").await;
    let other = cluster.with_other_bus().await;
    let mut apart = other.pod("apart").await;
    // A process of another service, which hears of it from `apart` alone.
    let (tokens, stop) = (cluster.tokens.of_another_process(), CancellationToken::new());
    let platform = Platform::new(other.world.clone(), other.bus.clone(), "three");
    let following = tokio::spawn(ended::follow(platform, tokens.clone(), stop.clone()));
    let token = signed_in(&one, "+12125550413").await;
    assert_eq!(status(&apart, "GET", "/v1/me", &token, "").await.0, 200);
    // The list was read before the end.
    sleep(StdDuration::from_millis(500)).await;
    assert_eq!(status(&one, "POST", "/v1/auth/sign-out", &token, "{}").await.0, 204);
    refused_after(&apart, &token).await;
    let start = Instant::now();
    while tokens.verify(&token).is_ok() {
        assert!(start.elapsed() < StdDuration::from_secs(2), "the other service still accepts the token");
        sleep(StdDuration::from_millis(5)).await;
    }
    stop.cancel();
    following.await.unwrap();
    one.stop().await;
    apart.stop().await;
}
