//! `rideshare demo --faults`: the same app meets the same faults of the same seed, and what it asked for has its effect once.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use platform::World;
use platform::limits::Limits;
use serde_json::{Value, json};
use server::app::App;
use server::http::Faults;
use streams::Service;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::harness::running::settings;

/// Longer than any frame is late.
const SILENCE: Duration = Duration::from_secs(4);

/// What an app meets, one line an attempt.
async fn meet(seed: u64) -> Vec<String> {
    let settings = settings(&["--limits", &Limits::raised()]);
    let app = App::start_with(&settings, &Service::ALL, World::real(), Some(Faults::new(seed))).await.unwrap();
    let addr = app.addr;
    let mut met = Vec::new();
    let token = sign_in(addr, &mut met).await;
    for _ in 0..8 {
        request(addr, "GET", "/v1/me", Some(&token), None, &mut met).await;
    }
    for _ in 0..4 {
        let outcome = socket(addr, &token).await;
        met.push(outcome);
    }
    assert!(app.stop().await, "everything ends in time");
    met
}

/// `None` if there was no answer.
async fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<Value>,
    met: &mut Vec<String>,
) -> Option<(u16, Value)> {
    let answer = testing::http::request(addr, method, path, token, body).await.ok();
    let outcome = answer.as_ref().map_or_else(|| "no answer".to_owned(), |(status, _)| status.to_string());
    met.push(format!("{method} {path}: {outcome}"));
    answer
}

async fn sign_in(addr: SocketAddr, met: &mut Vec<String>) -> String {
    let phone = "+12122340001";
    for _ in 0..50 {
        let body = Some(json!({"phone": phone}));
        let Some((202, otp)) = request(addr, "POST", "/v1/auth/otp", None, body, met).await else { continue };
        let body = Some(json!({"phone": phone, "code": otp["code"], "request_id": otp["request_id"]}));
        if let Some((200, answer)) = request(addr, "POST", "/v1/auth/token", None, body, met).await {
            return answer["access_token"].as_str().unwrap().to_owned();
        }
    }
    panic!("nobody can sign in: {met:#?}")
}

/// Asks for one ack after the other, until the socket ends or 30 came.
async fn socket(addr: SocketAddr, token: &str) -> String {
    let mut request = format!("ws://{addr}/v1/ws?device=phone").into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let mut frames = 0;
    let end = loop {
        match timeout(SILENCE, socket.next()).await {
            Err(_) => break "silence".to_owned(),
            Ok(None | Some(Err(_))) => break "cut".to_owned(),
            Ok(Some(Ok(Message::Close(close)))) => break close.map_or(1005, |close| close.code.into()).to_string(),
            Ok(Some(Ok(Message::Text(text)))) => {
                let frame: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(frame["type"], if frames == 0 { "welcome" } else { "ack" }, "{frame}");
                frames += 1;
            }
            Ok(Some(Ok(_))) => continue,
        }
        if frames == 30 {
            break "whole".to_owned();
        }
        let command = json!({"id": frames, "type": "mailbox.ack", "data": {"seq": 0}});
        let _ = socket.send(Message::text(command.to_string())).await;
    };
    format!("socket: {end} after {frames} frames")
}

#[tokio::test]
async fn the_same_app_meets_the_same_faults_of_the_same_seed() {
    // In this one everything happens.
    let (first, again, other) = tokio::join!(meet(1_310), meet(1_310), meet(2));
    assert_eq!(first, again);
    assert_ne!(first, other);
    insta::assert_snapshot!("faults_of_seed_1310", first.join("\n"));
}
