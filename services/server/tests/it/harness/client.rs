//! A client that speaks only the contract: HTTP over a socket, frames over a WebSocket or an in-memory pipe.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::described;

/// The wait for anything that must come.
pub(crate) const WAIT: Duration = Duration::from_secs(30);

/// One HTTP request; the status and the JSON of its response.
pub(crate) async fn http(
    addr: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<Value>,
) -> (u16, Value) {
    let answer = testing::http::answer(addr, (method, path), token, &[], body).await.unwrap();
    described::answer(method, path, answer.status, &answer.content_type, &answer.body);
    (answer.status, answer.body)
}

/// A signed-in user.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) addr: SocketAddr,
    pub(crate) token: String,
    pub(crate) refresh: String,
}

impl Person {
    pub(crate) async fn passenger(addr: SocketAddr, number: u32) -> Self {
        let phone = format!("+1212{:07}", 2_340_000 + number);
        let (status, otp) = http(addr, "POST", "/v1/auth/otp", None, Some(json!({"phone": phone}))).await;
        assert_eq!(status, 202, "{otp}");
        let body = json!({"phone": phone, "code": otp["code"]});
        let (status, token) = http(addr, "POST", "/v1/auth/token", None, Some(body)).await;
        assert_eq!(status, 200, "{token}");
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        Self { addr, token: text(&token["access_token"]), refresh: text(&token["refresh_token"]) }
    }

    /// The same sign-in with new tokens, at `addr`.
    pub(crate) async fn renewed(&self, addr: SocketAddr) -> Self {
        let body = json!({"refresh_token": self.refresh});
        let (status, token) = http(addr, "POST", "/v1/auth/refresh", None, Some(body)).await;
        assert_eq!(status, 200, "{token}");
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        Self { addr, token: text(&token["access_token"]), refresh: text(&token["refresh_token"]) }
    }

    pub(crate) async fn driver(addr: SocketAddr, number: u32) -> Self {
        let person = Self::passenger(addr, number).await;
        let body = json!({"vehicle_type": "car", "plate": format!("T {number}")});
        let (status, answer) = http(addr, "POST", "/v1/drivers", Some(&person.token), Some(body)).await;
        assert_eq!(status, 201, "{answer}");
        person
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        http(self.addr, "GET", path, Some(&self.token), None).await
    }

    pub(crate) async fn connect(&self, last_seq: Option<u64>) -> Socket {
        let query = last_seq.map(|n| format!("?last_seq={n}")).unwrap_or_default();
        let mut request = format!("ws://{}/v1/ws{query}", self.addr).into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        let (socket, _) = timeout(WAIT, tokio_tungstenite::connect_async(request)).await.unwrap().unwrap();
        let (mut sink, mut stream) = socket.split();
        let (to, mut sent) = mpsc::channel::<String>(64);
        let (received, from) = mpsc::channel::<Result<String, u16>>(1024);
        tokio::spawn(async move {
            while let Some(text) = sent.recv().await {
                if sink.send(Message::text(text)).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        });
        tokio::spawn(async move {
            while let Some(Ok(message)) = stream.next().await {
                let item = match message {
                    Message::Text(text) => Ok(text.to_string()),
                    Message::Close(close) => Err(close.map_or(1005, |c| c.code.into())),
                    _ => continue,
                };
                if received.send(item).await.is_err() {
                    return;
                }
            }
        });
        Socket::over(to, from).await
    }
}

/// One connection, welcomed.
pub(crate) struct Socket {
    to: mpsc::Sender<String>,
    from: mpsc::Receiver<Result<String, u16>>,
    events: VecDeque<Value>,
    /// `data` of the positions of the driver that came before what was waited for.
    positions: VecDeque<Value>,
    next_id: u64,
    /// The data of the welcome.
    pub(crate) welcome: Value,
    /// The last `seq` seen.
    pub(crate) last_seq: u64,
    /// Every frame, both ways, in order.
    pub(crate) transcript: Vec<String>,
}

impl Socket {
    pub(crate) async fn over(to: mpsc::Sender<String>, from: mpsc::Receiver<Result<String, u16>>) -> Self {
        let (events, positions) = (VecDeque::new(), VecDeque::new());
        let (welcome, transcript) = (Value::Null, Vec::new());
        let mut socket = Self { to, from, events, positions, next_id: 0, welcome, last_seq: 0, transcript };
        let frame = socket.frame().await;
        assert_eq!(frame["type"], "welcome", "{frame}");
        socket.welcome = frame["data"].clone();
        socket
    }

    async fn frame(&mut self) -> Value {
        let text =
            timeout(WAIT, self.from.recv()).await.expect("a frame in time").expect("an open socket").expect("no close");
        self.transcript.push(format!("< {text}"));
        let frame = serde_json::from_str(&text).unwrap();
        described::frame(&frame);
        frame
    }

    /// The code with which the server closes the socket; frames before it are skipped.
    pub(crate) async fn closed(&mut self) -> u16 {
        loop {
            match timeout(WAIT, self.from.recv()).await.expect("a close in time") {
                Some(Ok(_)) => {}
                Some(Err(code)) => return code,
                None => return 1006,
            }
        }
    }

    pub(crate) async fn raw(&mut self, text: String) {
        self.transcript.push(format!("> {text}"));
        self.to.send(text).await.unwrap();
    }

    fn store_event(&mut self, frame: Value) {
        if let Some(seq) = frame["seq"].as_u64() {
            assert!(self.last_seq == 0 || seq == self.last_seq + 1, "seq {seq} after {}", self.last_seq);
            self.last_seq = seq;
            self.events.push_back(frame);
        } else if frame["type"] == "location.live" {
            self.positions.push_back(frame["data"].clone());
        }
    }

    /// Sends a command and returns its ack or error frame.
    pub(crate) async fn command(&mut self, kind: &str, data: Value) -> Value {
        self.next_id += 1;
        let id = json!(format!("c{}", self.next_id));
        let command = json!({"id": id, "type": kind, "data": data});
        self.raw(command.to_string()).await;
        loop {
            let frame = self.frame().await;
            if frame["id"] == id {
                if frame["type"] == "ack" {
                    described::acked(&command, &frame["data"]);
                }
                return frame;
            }
            self.store_event(frame);
        }
    }

    /// As [`ack`](Self::ack), in a span of the client's own.
    pub(crate) async fn ack_in(&mut self, traceparent: &str, kind: &str, data: Value) -> Value {
        self.next_id += 1;
        let id = json!(format!("c{}", self.next_id));
        self.raw(json!({"id": id, "type": kind, "data": data, "traceparent": traceparent}).to_string()).await;
        loop {
            let frame = self.frame().await;
            if frame["id"] == id {
                assert_eq!(frame["type"], "ack", "{frame}");
                return frame["data"].clone();
            }
            self.store_event(frame);
        }
    }

    /// Sends a command that must be acked; returns the ack's data.
    pub(crate) async fn ack(&mut self, kind: &str, data: Value) -> Value {
        let frame = self.command(kind, data).await;
        assert_eq!(frame["type"], "ack", "{frame}");
        frame["data"].clone()
    }

    /// Sends a command that must be refused; returns the error's code.
    pub(crate) async fn refused(&mut self, kind: &str, data: Value) -> String {
        let frame = self.command(kind, data).await;
        assert_eq!(frame["type"], "error", "{frame}");
        frame["error"]["code"].as_str().unwrap().to_owned()
    }

    /// The `data` of the next position of the driver.
    pub(crate) async fn position(&mut self) -> Value {
        loop {
            if let Some(position) = self.positions.pop_front() {
                return position;
            }
            let frame = self.frame().await;
            self.store_event(frame);
        }
    }

    /// The next event.
    pub(crate) async fn any_event(&mut self) -> Value {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let frame = self.frame().await;
            self.store_event(frame);
        }
    }

    /// The next event of this type; others before it are skipped.
    pub(crate) async fn event(&mut self, kind: &str) -> Value {
        loop {
            while let Some(event) = self.events.pop_front() {
                if event["type"] == kind {
                    return event;
                }
            }
            let frame = self.frame().await;
            self.store_event(frame);
        }
    }
}
