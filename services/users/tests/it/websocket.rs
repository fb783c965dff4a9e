//! The gateway over real WebSockets: authentication, frame limits, and the codes that a client sees.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use testing::Backend;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tower::ServiceExt;

use crate::app::sign_in_directly;
use crate::pods::{Cluster, Pod};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn served(pod: &Pod) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}/v1/ws", listener.local_addr().unwrap());
    let router = platform::problem::with_fallbacks(pod.users.routes().into_router());
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn open(url: &str, header: (&'static str, String)) -> Result<(Socket, Option<String>), u16> {
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert(header.0, header.1.parse().unwrap());
    match connect_async(request).await {
        Ok((socket, response)) => {
            let chosen = response.headers().get("sec-websocket-protocol").map(|v| v.to_str().unwrap().to_owned());
            Ok((socket, chosen))
        }
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn text(socket: &mut Socket) -> Value {
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Reads to the close: the last text frame, and the code.
async fn close(socket: &mut Socket) -> (Value, u16) {
    let mut last = Value::Null;
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => last = serde_json::from_str(&text).unwrap(),
            Message::Close(frame) => return (last, frame.unwrap().code.into()),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_token_is_accepted_by_header_and_by_subprotocol() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let url = served(&pod).await;
    let (user, token) = sign_in_directly(&pod.users, "+12125550301").await;
    let (mut socket, chosen) = open(&url, ("authorization", format!("Bearer {token}"))).await.unwrap();
    assert_eq!(chosen, None);
    let welcome = text(&mut socket).await;
    assert_eq!((&welcome["type"], &welcome["data"]["user_id"]), (&json!("welcome"), &json!(user)));
    // A browser sends the token as a subprotocol.
    let (mut browser, chosen) = open(&url, ("sec-websocket-protocol", format!("bearer, {token}"))).await.unwrap();
    assert_eq!(chosen.as_deref(), Some("bearer"));
    assert_eq!(text(&mut browser).await["type"], "welcome");
    cluster.publish_searches(user, 2).await;
    for socket in [&mut socket, &mut browser] {
        assert_eq!((text(socket).await["seq"].as_u64(), text(socket).await["seq"].as_u64()), (Some(1), Some(2)));
    }
    let (mut resumed, _) =
        open(&format!("{url}?last_seq=1"), ("authorization", format!("Bearer {token}"))).await.unwrap();
    assert_eq!(text(&mut resumed).await["data"]["last_seq"], 2);
    assert_eq!(text(&mut resumed).await["seq"], 2);

    assert_eq!(open(&url, ("x-none", "1".into())).await.unwrap_err(), 401);
    assert_eq!(open(&url, ("authorization", "Bearer a.b.c".into())).await.unwrap_err(), 401);
    assert_eq!(open(&url, ("sec-websocket-protocol", "bearer".into())).await.unwrap_err(), 401);
    let wrong = format!("{url}?last_seq=x");
    assert_eq!(open(&wrong, ("authorization", format!("Bearer {token}"))).await.unwrap_err(), 422);
    for wrong in ["device=", "device=a%20b", &format!("device={}", "x".repeat(65))] {
        let url = format!("{url}?{wrong}");
        assert_eq!(open(&url, ("authorization", format!("Bearer {token}"))).await.unwrap_err(), 422, "{wrong}");
    }
    let on_device = format!("{url}?device=pixel-8&last_seq=2");
    let (device, _) = open(&on_device, ("authorization", format!("Bearer {token}"))).await.unwrap();
    let (fifth, _) = open(&url, ("authorization", format!("Bearer {token}"))).await.unwrap();
    // The sixth is let in, and one of the others goes.
    let (mut sixth, _) = open(&url, ("authorization", format!("Bearer {token}"))).await.unwrap();
    assert_eq!(text(&mut sixth).await["type"], "welcome");
    let mut sockets = [socket, browser, resumed, device, fifth];
    let closes = sockets.iter_mut().map(|socket| Box::pin(close(socket)));
    assert_eq!(futures_util::future::select_all(closes).await.0.1, 4010);
    pod.stop().await;
}

#[tokio::test]
async fn a_client_gets_an_error_frame_and_a_code_before_the_close() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let url = served(&pod).await;
    let (_, token) = sign_in_directly(&pod.users, "+12125550302").await;
    let header = || ("authorization", format!("Bearer {token}"));
    // A frame of exactly 64 KiB is read.
    let (mut socket, _) = open(&url, header()).await.unwrap();
    text(&mut socket).await;
    socket.send(Message::text("x".repeat(64 * 1024))).await.unwrap();
    assert_eq!(text(&mut socket).await["error"]["code"], "invalid_json");
    for size in [64 * 1024 + 1, 200 * 1024, 3_000_000] {
        let (mut socket, _) = open(&url, header()).await.unwrap();
        text(&mut socket).await;
        // The server may have closed before all of it is written.
        let _ = socket.send(Message::text("x".repeat(size))).await;
        if size < 128 * 1024 {
            let (error, code) = close(&mut socket).await;
            assert_eq!((error["error"]["code"].as_str(), code), (Some("frame_too_large"), 1009));
        }
    }
    let (mut fast, _) = open(&url, header()).await.unwrap();
    text(&mut fast).await;
    for _ in 0..3_000 {
        if fast.feed(Message::text(r#"{"type": "mailbox.ack", "data": {"seq": 0}}"#)).await.is_err() {
            break;
        }
    }
    let _ = fast.flush().await;
    let (error, code) = close(&mut fast).await;
    assert_eq!((error["error"]["code"].as_str(), code), (Some("too_fast"), 4009));
    // A binary frame gets an error; the stop of the pod closes the socket.
    socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(text(&mut socket).await["error"]["code"], "invalid_frame");
    let (_, (_, code)) = tokio::join!(pod.stop(), close(&mut socket));
    assert_eq!(code, 1001);
}

/// A frame of a client with this first byte, no payload and a mask of zeros.
fn empty_frame(first: u8) -> [u8; 6] {
    [first, 0x80, 0, 0, 0, 0]
}

const PING: u8 = 0x89;
const PONG: u8 = 0x8A;
const CONTINUATION: u8 = 0x00;
const BEGIN_OF_TEXT: u8 = 0x01;

fn bytes_of(socket: &mut Socket) -> &mut TcpStream {
    match socket.get_mut() {
        MaybeTlsStream::Plain(stream) => stream,
        _ => panic!("no TLS here"),
    }
}

#[tokio::test]
async fn a_flood_of_frames_that_are_no_message_is_closed_with_4009() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let url = served(&pod).await;
    let (_, token) = sign_in_directly(&pod.users, "+12125550303").await;
    let header = || ("authorization", format!("Bearer {token}"));
    for (first, then) in [(PING, PING), (PONG, PONG), (BEGIN_OF_TEXT, CONTINUATION)] {
        let (mut socket, _) = open(&url, header()).await.unwrap();
        text(&mut socket).await;
        let mut flood = empty_frame(first).to_vec();
        (0..5_000).for_each(|_| flood.extend(empty_frame(then)));
        // Cut so that headers are split, too.
        for part in flood.chunks(1_001) {
            if bytes_of(&mut socket).write_all(part).await.is_err() {
                break;
            }
        }
        let (error, code) = close(&mut socket).await;
        assert_eq!((error["error"]["code"].as_str(), code), (Some("too_fast"), 4009), "{first:x}");
    }
    // A few are part of the protocol, also a message in many parts.
    let (mut socket, _) = open(&url, header()).await.unwrap();
    text(&mut socket).await;
    let mut parts = empty_frame(BEGIN_OF_TEXT).to_vec();
    for _ in 0..90 {
        parts.extend(empty_frame(CONTINUATION));
        parts.extend([CONTINUATION, 0x81, 0, 0, 0, 0, b' ']);
    }
    parts.extend(empty_frame(PING));
    parts.extend([0x80, 0x81, 0, 0, 0, 0, b'{']);
    bytes_of(&mut socket).write_all(&parts).await.unwrap();
    assert_eq!(text(&mut socket).await["error"]["code"], "invalid_json");
    pod.stop().await;
}

#[tokio::test]
async fn broken_text_and_a_broken_protocol_have_their_codes() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let url = served(&pod).await;
    let (_, token) = sign_in_directly(&pod.users, "+12125550304").await;
    for (bytes, expected) in [
        (&[0x81, 0x82, 0, 0, 0, 0, 0xC3, 0x28][..], 1007),
        (&[0xC1, 0x80, 0, 0, 0, 0], 1002),
        (&[0x83, 0x80, 0, 0, 0, 0], 1002),
        (&[0x00, 0x80, 0, 0, 0, 0], 1002),
        (&[0x81, 0x00], 1002),
    ] {
        let (mut socket, _) = open(&url, ("authorization", format!("Bearer {token}"))).await.unwrap();
        text(&mut socket).await;
        bytes_of(&mut socket).write_all(bytes).await.unwrap();
        assert_eq!(close(&mut socket).await.1, expected, "{bytes:x?}");
    }
    pod.stop().await;
}

#[tokio::test]
async fn what_is_no_handshake_is_answered_with_426() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let (_, token) = sign_in_directly(&pod.users, "+12125550305").await;
    let request = axum::http::Request::get("/v1/ws").header("authorization", format!("Bearer {token}"));
    let response =
        pod.users.routes().into_router().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 426);
    pod.stop().await;
}
