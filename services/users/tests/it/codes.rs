//! One-time codes against strangers: who may ask and guess how often, each case on both stores.

use axum::http::StatusCode;
use chrono::Duration;
use futures_util::future::join_all;
use serde_json::{Value, json};
use testing::{Backend, on_both_stores};

use crate::app::{App, Response};

const ANN: &str = "+14155550132";
const HOME: &str = "10.0.0.1";
const STRANGER: &str = "10.0.0.2";

on_both_stores!(
    a_stranger_elsewhere_cannot_keep_an_owner_out,
    a_stranger_at_the_same_address_cannot_touch_a_code_with_its_request_id,
    five_requests_and_five_wrong_codes_leave_the_newest_code_good,
    one_address_is_not_sent_codes_for_any_number_of_phones,
    processes_share_their_limits,
    numbers_that_get_no_codes_are_refused_and_counted,
    an_address_that_guesses_is_refused_and_another_is_not,
    right_codes_do_not_count_as_wrong_ones,
);

fn wrong(code: &str) -> &'static str {
    if code == "000000" { "000001" } else { "000000" }
}

async fn request(app: &App, phone: &str) -> Response {
    app.post("/v1/auth/otp", json!({"phone": phone})).await
}

async fn present(app: &App, phone: &str, code: &str, request_id: &Value) -> Response {
    app.post("/v1/auth/token", json!({"phone": phone, "code": code, "request_id": request_id})).await
}

#[track_caller]
fn refused_by(response: &Response) -> String {
    assert_eq!(response.problem(), "429 too_many_requests -");
    response.body["limit"].as_str().expect("a limit").to_owned()
}

async fn a_stranger_elsewhere_cannot_keep_an_owner_out(backend: Backend) {
    let app = App::on(backend).await;
    let (home, stranger) = (app.at(HOME), app.at(STRANGER));
    let code = home.code(ANN).await;
    for _ in 0..5 {
        request(&stranger, ANN).await.ok(202);
    }
    assert_eq!(refused_by(&request(&stranger, ANN).await), "codes_asker");
    for _ in 0..40 {
        assert_eq!(stranger.sign_in_with(ANN, wrong(&code)).await.problem(), "401 invalid_code -");
    }
    request(&home, ANN).await.ok(202);
    let code = home.code(ANN).await;
    home.sign_in_with(ANN, &code).await.ok(200);
}

async fn a_stranger_at_the_same_address_cannot_touch_a_code_with_its_request_id(backend: Backend) {
    let app = App::on(backend).await;
    let sent = request(&app, ANN).await.ok(202);
    let code = sent["code"].as_str().unwrap();
    for _ in 0..4 {
        request(&app, ANN).await.ok(202);
    }
    for _ in 0..30 {
        assert_eq!(app.sign_in_with(ANN, wrong(code)).await.problem(), "401 invalid_code -");
    }
    for id in [json!("x"), json!(""), json!("00000000-0000-0000-0000-000000000000")] {
        assert_eq!(present(&app, ANN, code, &id).await.problem(), "401 invalid_code -");
    }
    // Four wrong ones by the owner as well.
    for _ in 0..4 {
        assert_eq!(present(&app, ANN, wrong(code), &sent["request_id"]).await.problem(), "401 invalid_code -");
    }
    present(&app.at(STRANGER), ANN, code, &sent["request_id"]).await.ok(200);
    assert_eq!(
        present(&app, ANN, code, &sent["request_id"]).await.problem(),
        "401 invalid_code -",
        "a code works once"
    );
}

async fn five_requests_and_five_wrong_codes_leave_the_newest_code_good(backend: Backend) {
    let app = App::on(backend).await;
    let mut code = String::new();
    for _ in 0..5 {
        code = app.code(ANN).await;
    }
    for _ in 0..5 {
        assert_eq!(app.sign_in_with(ANN, wrong(&code)).await.problem(), "401 invalid_code -");
    }
    app.sign_in_with(ANN, &code).await.ok(200);
}

async fn one_address_is_not_sent_codes_for_any_number_of_phones(backend: Backend) {
    let app = App::on(backend).await;
    let mut sent = 0;
    let mut limits = std::collections::BTreeSet::new();
    for n in 0..400 {
        let answer = request(&app, &format!("+1212{}", 2_000_000 + n * 10_000)).await;
        match answer.status {
            StatusCode::ACCEPTED => sent += 1,
            _ => drop(limits.insert(refused_by(&answer))),
        }
    }
    assert_eq!(limits.into_iter().collect::<Vec<_>>(), ["codes_address"]);
    // PostgreSQL is not in paused time: meanwhile a few flow in.
    assert!((300..320).contains(&sent), "{sent}");
    // The same for a range of numbers, which no other address gets beyond its first two codes either.
    let other = app.at(STRANGER);
    let mut in_range = 0;
    for n in 0..60 {
        in_range += usize::from(request(&other, &format!("+121339{:05}", 40_000 + n)).await.status.is_success());
    }
    assert!((30..32).contains(&in_range), "{in_range}");
    let third = app.at("10.0.0.3");
    let answers = [40_100, 40_101].map(|n| format!("+121339{n:05}"));
    request(&third, &answers[0]).await.ok(202);
    request(&third, &answers[1]).await.ok(202);
    assert_eq!(refused_by(&request(&third, "+12133940102").await), "codes_prefix");
}

async fn processes_share_their_limits(backend: Backend) {
    let app = App::on(backend).await;
    let other = app.later(Duration::seconds(1)).await;
    let answers = join_all((0..12).map(|n| request(if n % 2 == 0 { &app } else { &other }, ANN))).await;
    let sent = answers.iter().filter(|answer| answer.status == StatusCode::ACCEPTED).count();
    assert_eq!(sent, 5, "{answers:?}");
}

async fn numbers_that_get_no_codes_are_refused_and_counted(backend: Backend) {
    let app = App::on(backend).await;
    let premium = request(&app, "+449098790000").await;
    assert_eq!(premium.problem(), "422 invalid_field phone");
    let mut statuses = Vec::new();
    for n in 0..40 {
        statuses.push(request(&app, &format!("+88213{n:06}")).await.status.as_u16());
    }
    assert_eq!((statuses[0], statuses[39]), (422, 429));
}

async fn an_address_that_guesses_is_refused_and_another_is_not(backend: Backend) {
    let app = App::on(backend).await;
    let (home, stranger) = (app.at(HOME), app.at(STRANGER));
    let own = stranger.code("+14155550199").await;
    for _ in 0..100 {
        assert_eq!(stranger.sign_in_with(ANN, "000000").await.problem(), "401 invalid_code -");
    }
    let refused = stranger.sign_in_with("+14155550199", &own).await;
    assert_eq!(refused_by(&refused), "wrong_codes_address", "also with a right code");
    home.signed_in(ANN).await;
    // IPv6: the whole network is one address.
    let app = app.at("2001:db8::1");
    for n in 0..100 {
        app.at(&format!("2001:db8::{n:x}")).sign_in_with(ANN, "000000").await;
    }
    assert_eq!(refused_by(&app.at("2001:db8::ffff").sign_in_with(ANN, "000000").await), "wrong_codes_address");
    let next_network = app.at("2001:db8:0:1::1").sign_in_with(ANN, "000000").await;
    assert_eq!(next_network.problem(), "401 invalid_code -");
}

async fn right_codes_do_not_count_as_wrong_ones(backend: Backend) {
    let app = App::on(backend).await;
    for n in 0..120 {
        app.signed_in(&format!("+1212{}", 2_000_000 + n * 10_000)).await;
    }
}
