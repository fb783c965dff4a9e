//! A client of a session over a pipe in memory.

use std::convert::Infallible;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{sink, stream};
use platform::token::Access;
use serde_json::{Value, json};
use streams::event::{MatchAccepted, MatchFound, UserBeacon};
use streams::{MatchId, Position, UserId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use users::{Incoming, Outgoing, SocketRequest};

use crate::pods::{HERE, Pod};

/// The wait for a frame that must come.
const WAIT: Duration = Duration::from_secs(30);

/// The client's end of a pipe to a session.
pub(crate) struct Client {
    pub(crate) to: Option<mpsc::Sender<Incoming>>,
    pub(crate) from: mpsc::Receiver<Outgoing>,
    pub(crate) session: JoinHandle<()>,
    /// Events that came before the reply to a command.
    pub(crate) pending: Vec<Value>,
    /// Positions of the driver that came before what was waited for.
    pub(crate) positions: Vec<Value>,
    ids: u64,
    /// The data of the welcome, and its `last_seq`.
    pub(crate) welcome: Value,
    pub(crate) last_seq: u64,
    /// Whether pings are answered.
    pub(crate) pongs: bool,
}

impl Client {
    /// The next frame. Pings are answered and skipped, unless `pongs` is false.
    pub(crate) async fn frame(&mut self) -> Outgoing {
        loop {
            let frame = tokio::time::timeout(WAIT, self.from.recv()).await.expect("a frame in time").expect("a frame");
            match frame {
                Outgoing::Ping if self.pongs => self.send(Incoming::Alive).await,
                frame => return frame,
            }
        }
    }

    /// The next frame; pings are skipped, positions of the driver are not.
    async fn any(&mut self) -> Value {
        match self.frame().await {
            Outgoing::Text(text) => serde_json::from_str(&text).expect("frames are JSON"),
            other => panic!("not text: {other:?}"),
        }
    }

    /// The next frame that is no position of the driver.
    pub(crate) async fn next(&mut self) -> Value {
        loop {
            let frame = self.any().await;
            if frame["type"] != "location.live" {
                return frame;
            }
            self.positions.push(frame);
        }
    }

    /// The `data` of the next position of the driver. Events that come before it are pending.
    pub(crate) async fn position(&mut self) -> Value {
        if self.positions.is_empty() {
            let frame = self.any().await;
            if frame["type"] != "location.live" {
                assert!(frame["seq"].is_u64(), "not an event: {frame}");
                self.pending.push(frame);
                return Box::pin(self.position()).await;
            }
            self.positions.push(frame);
        }
        let frame = self.positions.remove(0);
        assert_eq!(frame.as_object().unwrap().len(), 2, "type and data alone: {frame}");
        frame["data"].clone()
    }

    pub(crate) async fn send(&self, frame: Incoming) {
        if let Some(to) = &self.to {
            let _ = to.send(frame).await;
        }
    }

    pub(crate) async fn text(&self, text: impl Into<String>) {
        self.send(Incoming::Text(text.into())).await;
    }

    /// Sends a command and returns its reply. Events that come before it are pending.
    pub(crate) async fn request(&mut self, kind: &str, data: Value) -> Value {
        self.ids += 1;
        let id = self.ids;
        self.text(json!({"id": id, "type": kind, "data": data}).to_string()).await;
        loop {
            let frame = self.next().await;
            if frame["id"] == id {
                return frame;
            }
            assert!(frame["seq"].is_u64(), "not an event: {frame}");
            self.pending.push(frame);
        }
    }

    /// Sends a command and returns the data of its ack.
    pub(crate) async fn ack(&mut self, kind: &str, data: Value) -> Value {
        let reply = self.request(kind, data).await;
        assert_eq!(reply["type"], "ack", "{reply}");
        reply["data"].clone()
    }

    /// Sends a command and returns code and field of its error.
    pub(crate) async fn refused(&mut self, kind: &str, data: Value) -> String {
        let reply = self.request(kind, data).await;
        assert_eq!(reply["type"], "error", "{reply}");
        let field = reply["error"]["field"].as_str().unwrap_or("-");
        format!("{} {field}", reply["error"]["code"].as_str().unwrap())
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Value {
        if !self.pending.is_empty() {
            return self.pending.remove(0);
        }
        let frame = self.next().await;
        assert!(frame["seq"].is_u64(), "not an event: {frame}");
        frame
    }

    /// The next event of this subject; others before it are skipped.
    pub(crate) async fn event_of(&mut self, subject: &str) -> Value {
        loop {
            let event = self.event().await;
            if event["type"] == subject {
                return event;
            }
        }
    }

    /// The `seq` of each of the next `count` events.
    pub(crate) async fn seqs(&mut self, count: usize) -> Vec<u64> {
        let mut seqs = Vec::new();
        for _ in 0..count {
            seqs.push(self.event().await["seq"].as_u64().unwrap());
        }
        seqs
    }

    /// Asserts that nothing but pings comes in this time.
    pub(crate) async fn quiet(&mut self, time: Duration) {
        assert!(self.pending.is_empty(), "{:?}", self.pending);
        let until = tokio::time::Instant::now() + time;
        while let Ok(frame) = tokio::time::timeout_at(until, self.from.recv()).await {
            assert_eq!(frame, Some(Outgoing::Ping), "nothing else");
            self.send(Incoming::Alive).await;
        }
    }

    /// Closes the connection and waits until the session has ended.
    pub(crate) async fn close(mut self) {
        self.to = None;
        self.from.close();
        while self.from.recv().await.is_some() {}
        tokio::time::timeout(WAIT, self.session).await.expect("the session ends in time").unwrap();
    }

    /// Reads to the end: the remaining text frames, and the close code.
    pub(crate) async fn end(&mut self) -> (Vec<Value>, u16) {
        let mut frames = Vec::new();
        loop {
            match self.frame().await {
                Outgoing::Text(text) => frames.push(serde_json::from_str(&text).unwrap()),
                Outgoing::Ping => {}
                Outgoing::Close(code, reason) => {
                    assert!(!reason.is_empty());
                    return (frames, code);
                }
            }
        }
    }
}

/// Who opens a socket, with an access token that does not expire.
pub(crate) fn request(user: UserId, last_seq: Option<u64>) -> SocketRequest {
    let expires_at = "2100-01-01T00:00:00Z".parse().unwrap();
    SocketRequest::new(Access { user, sign_in: None, expires_at }, last_seq)
}

impl Pod {
    /// A client that has received its welcome, with an access token that does not expire.
    pub(crate) async fn connect(&self, user: UserId, last_seq: Option<u64>) -> Client {
        self.connect_with(request(user, last_seq)).await
    }

    /// The same on a device of this name.
    pub(crate) async fn connect_on(&self, device: &str, user: UserId, last_seq: Option<u64>) -> Client {
        self.connect_with(request(user, last_seq).on_device(device).unwrap()).await
    }

    pub(crate) async fn connect_with(&self, request: SocketRequest) -> Client {
        let user = request.access.user;
        let mut client = self.open_with(request, 1_024);
        let welcome = client.next().await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        assert_eq!(welcome["data"]["user_id"], user.to_string());
        client.last_seq = welcome["data"]["last_seq"].as_u64().unwrap();
        client.welcome = welcome["data"].clone();
        client
    }

    /// A client whose end of the pipe holds `room` unread frames.
    pub(crate) fn open(&self, user: UserId, last_seq: Option<u64>, room: usize) -> Client {
        self.open_with(request(user, last_seq), room)
    }

    pub(crate) fn open_with(&self, request: SocketRequest, room: usize) -> Client {
        let (to, sent) = mpsc::channel::<Incoming>(1_024);
        let (received, from) = mpsc::channel::<Outgoing>(room);
        let incoming = stream::unfold(sent, async |mut sent| sent.recv().await.map(|frame| (frame, sent)));
        let outgoing = sink::unfold(received, async |received, frame| {
            let _ = received.send(frame).await;
            Ok::<_, Infallible>(received)
        });
        let users = self.users.clone();
        let session = tokio::spawn(async move {
            users.serve_session(request, Box::pin(incoming), Box::pin(outgoing)).await;
        });
        Client {
            to: Some(to),
            from,
            session,
            pending: Vec::new(),
            positions: Vec::new(),
            ids: 0,
            welcome: Value::Null,
            last_seq: 0,
            pongs: true,
        }
    }
}

pub(crate) fn beacon(active: bool, at: Position) -> Value {
    json!({"active": active, "location": at})
}

pub(crate) fn trip(dropoff: Position) -> Value {
    json!({"active": true, "pickup": HERE, "dropoff": dropoff, "vehicle_type": "car"})
}

/// The body of an event frame.
pub(crate) fn body<T: serde::de::DeserializeOwned>(event: &Value) -> T {
    serde_json::from_value(event["data"].clone()).expect("the body of its subject")
}

pub(crate) fn beacon_of(event: &Value) -> UserBeacon {
    body(event)
}

pub(crate) fn accepted_of(event: &Value) -> MatchAccepted {
    body(event)
}

pub(crate) fn id_of(data: &Value, field: &str) -> uuid::Uuid {
    data[field].as_str().expect("an id").parse().expect("an id")
}

pub(crate) fn match_id(found: &MatchFound) -> Value {
    let MatchId(id) = found.match_id;
    json!({"match_id": id})
}

pub(crate) fn time(event: &Value) -> DateTime<Utc> {
    event["time"].as_str().unwrap().parse().unwrap()
}
