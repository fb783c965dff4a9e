//! What one client can use up: connections, `/stats`, requests.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::client::{Person, http};
use crate::harness::running::{Running, Shape};

async fn connect(running: &Running, sent: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(running.addr()).await.unwrap();
    socket.write_all(sent).await.unwrap();
    socket
}

/// What comes until the connection is closed, which must be soon.
async fn rest(mut socket: TcpStream) -> String {
    let mut text = Vec::new();
    let _ = timeout(Duration::from_secs(20), socket.read_to_end(&mut text)).await.expect("it is closed");
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_idle_ones_are_closed() {
    let running = Running::start(Shape::Embedded, &["--limits", "connections_address=3"]).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(connect(&running, b"G").await);
    }
    // Nothing is sent first: an answer to a connection with unread data could be lost in a reset.
    let refused = rest(connect(&running, b"").await).await;
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["limit"], "connections_address");
    for socket in held {
        rest(socket).await;
    }
    assert_eq!(http(running.addr(), "GET", "/health/live", None, None).await.0, 200);
    running.stop().await;
}

#[tokio::test]
async fn answers_that_nobody_reads_end_their_connection() {
    let running = Running::start(Shape::Embedded, &[]).await;
    let mut socket = TcpStream::connect(running.addr()).await.unwrap();
    let requests = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    // Until the server takes no more, and then until it closes.
    let closed = async { while socket.write_all(&requests).await.is_ok() {} };
    timeout(Duration::from_secs(30), closed).await.expect("the server closes it");
    running.stop().await;
}

#[tokio::test]
async fn stats_are_computed_at_most_once_a_second() {
    let running = Running::start(Shape::Embedded, &[]).await;
    let stats = async || http(running.addr(), "GET", "/stats", None, None).await.1["queue"]["total_enqueued"].clone();
    let driver = Person::driver(running.addr(), 1).await;
    let mut socket = driver.connect(None).await;
    let mut same = 0;
    for n in 0..20 {
        let before = stats().await;
        crate::harness::ride::online(&mut socket, 40.0 + f64::from(n)).await;
        same += usize::from(stats().await == before);
    }
    assert!(same > 10, "of 20 answers within a second, {same} are the one before");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let later = stats().await;
    assert!(later.as_u64() > Some(0), "{later}");
    running.stop().await;
}

#[tokio::test]
async fn whoever_asks_too_often_learns_the_limit_and_the_health_names_the_breakers() {
    let running = Running::start(Shape::Embedded, &["--limits", "http_user=5/1,http_address=100/0.01"]).await;
    let person = Person::passenger(running.addr(), 1).await;
    let mut answers = Vec::new();
    for _ in 0..7 {
        answers.push(person.get("/v1/me").await);
    }
    assert_eq!((answers[0].0, answers[6].0), (200, 429));
    assert_eq!(answers[6].1["limit"], "http_user");
    let (_, ready) = http(running.addr(), "GET", "/health/ready", None, None).await;
    assert_eq!((&ready["breakers"]["webhook"], &ready["breakers"]["rides"]), (&"closed".into(), &"closed".into()));
    // 401 counts as well.
    let mut refused = Value::Null;
    for _ in 0..120 {
        let (status, answer) = http(running.addr(), "GET", "/v1/me", Some("x"), None).await;
        if status == 429 {
            refused = answer["limit"].clone();
            break;
        }
        assert_eq!(status, 401);
    }
    assert_eq!(refused, "http_address");
    running.stop().await;
}
