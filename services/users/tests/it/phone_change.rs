//! The change of a phone number, on both stores.

use chrono::Duration;
use serde_json::{Value, json};
use testing::{Backend, on_both_stores};

use crate::app::{App, Response};

on_both_stores!(
    a_number_changes_with_both_codes_and_the_other_sign_ins_end,
    wrong_codes_use_up_a_change_and_nobody_elses_touch_it,
    whose_number_it_is_nobody_learns_before_its_code,
);

const ANN: &str = "+14155550132";
const NEW: &str = "+14155550177";
const BOB: &str = "+4915112345678";

fn token(given: &Value) -> &str {
    given["access_token"].as_str().unwrap()
}

async fn begin(app: &App, token: &str, phone: &str) -> Response {
    app.call("POST", "/v1/me/phone", Some(token), json!({"phone": phone})).await
}

async fn confirm(app: &App, token: &str, change: &Value, old: &Value, new: &Value) -> Response {
    let body = json!({"change_id": change["change_id"], "old_code": old, "new_code": new});
    app.call("POST", "/v1/me/phone/confirm", Some(token), body).await
}

async fn a_number_changes_with_both_codes_and_the_other_sign_ins_end(backend: Backend) {
    let app = App::on(backend).await;
    let (here, elsewhere) = (app.signed_in(ANN).await, app.signed_in(ANN).await);
    assert_eq!(begin(&app, token(&here), ANN).await.problem(), "409 same_phone -");
    assert_eq!(begin(&app, token(&here), "12").await.problem(), "422 invalid_field phone");
    let change = begin(&app, token(&here), NEW).await.ok(202);
    let (old, new) = (change["old_code"].clone(), change["new_code"].clone());
    // The codes of a change sign nobody in, and a sign-in code changes no number.
    assert_eq!(app.sign_in_with(NEW, new.as_str().unwrap()).await.problem(), "401 invalid_code -");
    let sign_in_code = json!(app.code(ANN).await);
    assert_eq!(confirm(&app, token(&here), &change, &sign_in_code, &new).await.problem(), "401 invalid_code -");

    let profile = confirm(&app, token(&here), &change, &old, &new).await.ok(200);
    assert_eq!((&profile["phone"], &profile["id"]), (&json!(NEW), &here["user"]["id"]));
    assert_eq!(confirm(&app, token(&here), &change, &old, &new).await.ok(200), profile, "a repeat");
    assert_eq!(app.me(token(&elsewhere)).await.problem(), "401 unauthorized -");
    assert_eq!(app.refresh(&elsewhere["refresh_token"]).await.problem(), "401 invalid_token -");
    app.refresh(&here["refresh_token"]).await.ok(200);
    // The new number is the account's, the old one a new person's.
    assert_eq!(app.signed_in(NEW).await["user"]["id"], here["user"]["id"]);
    assert_ne!(app.signed_in(ANN).await["user"]["id"], here["user"]["id"]);
}

async fn wrong_codes_use_up_a_change_and_nobody_elses_touch_it(backend: Backend) {
    let app = App::on(backend).await;
    let (ann, bob) = (app.signed_in(ANN).await, app.signed_in(BOB).await);
    let change = begin(&app, token(&ann), NEW).await.ok(202);
    let (old, new) = (change["old_code"].clone(), change["new_code"].clone());
    // A stranger with the id, and even with the codes, changes nothing.
    for _ in 0..9 {
        assert_eq!(confirm(&app, token(&bob), &change, &json!("000000"), &new).await.problem(), "401 invalid_code -");
    }
    assert_eq!(confirm(&app, token(&bob), &change, &old, &new).await.problem(), "401 invalid_code -");
    for (old, new) in [(&new, &old), (&old, &old), (&new, &new), (&json!("1"), &new)] {
        assert_eq!(confirm(&app, token(&ann), &change, old, new).await.problem(), "401 invalid_code -");
    }
    assert_eq!(app.me(token(&ann)).await.ok(200)["phone"], ANN);
    assert_eq!(confirm(&app, token(&ann), &change, &old, &json!("")).await.problem(), "401 invalid_code -");
    assert_eq!(
        confirm(&app, token(&ann), &change, &old, &new).await.problem(),
        "401 invalid_code -",
        "five were wrong"
    );
    // A new change has new codes, and takes the place of the last one; it ends after five minutes.
    let next = begin(&app, token(&ann), NEW).await.ok(202);
    let codes = (next["old_code"].clone(), next["new_code"].clone());
    assert_eq!(confirm(&app, token(&ann), &change, &codes.0, &codes.1).await.problem(), "401 invalid_code -");
    let later = app.later(Duration::seconds(600)).await;
    assert_eq!(confirm(&later, token(&ann), &next, &codes.0, &codes.1).await.problem(), "401 invalid_code -");
    confirm(&app, token(&ann), &next, &codes.0, &codes.1).await.ok(200);
    // The limits of codes hold for both numbers.
    let refused = loop {
        let answer = begin(&app, token(&ann), ANN).await;
        if answer.status.as_u16() != 202 {
            break answer;
        }
    };
    assert_eq!(
        (refused.problem(), &refused.body["limit"]),
        ("429 too_many_requests -".to_owned(), &json!("codes_asker"))
    );
}

async fn whose_number_it_is_nobody_learns_before_its_code(backend: Backend) {
    let app = App::on(backend).await;
    let (ann, bob) = (app.signed_in(ANN).await, app.signed_in(BOB).await);
    let taken = begin(&app, token(&ann), BOB).await.ok(202);
    let free = begin(&app, token(&bob), NEW).await.ok(202);
    assert_eq!(taken.as_object().unwrap().keys().count(), free.as_object().unwrap().keys().count());
    let (old, new) = (taken["old_code"].clone(), taken["new_code"].clone());
    let guess = json!("00000");
    assert_eq!(confirm(&app, token(&ann), &taken, &old, &guess).await.problem(), "401 invalid_code -");
    for _ in 0..2 {
        assert_eq!(confirm(&app, token(&ann), &taken, &old, &new).await.problem(), "409 phone_taken -");
    }
    assert_eq!(
        (app.me(token(&ann)).await.ok(200)["phone"].clone(), app.me(token(&bob)).await.ok(200)["phone"].clone()),
        (json!(ANN), json!(BOB))
    );
}
