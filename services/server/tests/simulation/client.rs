//! A client of the gateway over an in-memory pipe: one command at a time, repeated until it is answered, through any number
//! of connections. It holds the gateway to its promises about frames and mailboxes, and decides nothing about rides.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use chrono::{DateTime, Utc};
use futures_util::{sink, stream};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use streams::UserId;
use streams::faults::Dice;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tower::ServiceExt;
use users::{Incoming, Outgoing};

use crate::scene::{Acked, Got, Scene};

/// Without an answer for so long a command is sent again.
const ANSWER_WAIT: Duration = Duration::from_secs(12);
/// Events after which a mailbox is acknowledged.
const ACK_EVERY: u64 = 10;

/// What a client wants.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) kind: &'static str,
    pub(crate) data: Value,
}

/// What happened to a client.
#[derive(Debug)]
pub(crate) enum Happened {
    /// An event of this subject, with its body.
    Event(String, Value),
    /// A command was done; with the data of its ack.
    Done(Command, Value),
    /// A command was refused; with the error's code.
    Refused(Command, String),
    /// The time came.
    Time,
}

struct Link {
    to: mpsc::Sender<Incoming>,
    from: mpsc::Receiver<Result<String, u16>>,
}

struct Outstanding {
    command: Command,
    id: String,
    /// When it is sent, or sent again.
    send_at: Instant,
}

/// A client.
pub(crate) struct Client {
    pub(crate) scene: Arc<Scene>,
    pub(crate) user: UserId,
    pub(crate) dice: Dice,
    /// The nemesis cuts its connection.
    pub(crate) cut: Arc<Notify>,
    /// How far its clock is off.
    pub(crate) skew: chrono::Duration,
    link: Option<Link>,
    connect_at: Instant,
    welcomed: bool,
    last_seq: u64,
    acked_seq: u64,
    next_id: u64,
    outstanding: Option<Outstanding>,
    queue: VecDeque<Command>,
}

/// What can come to a client.
enum Came {
    Cut,
    Frame(Option<Result<String, u16>>),
    Wake,
}

impl Client {
    pub(crate) fn new(
        scene: &Arc<Scene>,
        user: UserId,
        mut dice: Dice,
        cut: Arc<Notify>,
        skew: chrono::Duration,
    ) -> Self {
        let connect_at = Instant::now() + dice.millis(0, 2_000);
        Self {
            scene: scene.clone(),
            user,
            dice,
            cut,
            skew,
            link: None,
            connect_at,
            welcomed: false,
            last_seq: 0,
            acked_seq: 0,
            next_id: 0,
            outstanding: None,
            queue: VecDeque::new(),
        }
    }

    /// What its own clock says.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.scene.world.now() + self.skew
    }

    /// Asks for something, after what was asked before.
    pub(crate) fn ask(&mut self, kind: &'static str, data: Value) {
        self.queue.push_back(Command { kind, data });
    }

    /// Whether all that was asked is answered.
    pub(crate) fn is_settled(&self) -> bool {
        self.outstanding.is_none() && self.queue.is_empty() && self.welcomed
    }

    /// The next thing that happens, at the latest when `until` has come.
    pub(crate) async fn next(&mut self, until: Instant) -> Happened {
        loop {
            if self.outstanding.is_none()
                && let Some(command) = self.queue.pop_front()
            {
                self.next_id += 1;
                let (id, send_at) = (format!("c{}", self.next_id), Instant::now());
                self.outstanding = Some(Outstanding { command, id, send_at });
            }
            let now = Instant::now();
            if now >= until {
                return Happened::Time;
            }
            let mut wake = until;
            if self.link.is_none() {
                if now >= self.connect_at {
                    self.connect();
                } else {
                    wake = wake.min(self.connect_at);
                }
            }
            if self.welcomed
                && let Some(outstanding) = &mut self.outstanding
            {
                if now >= outstanding.send_at {
                    outstanding.send_at = now + ANSWER_WAIT;
                    let frame = json!({"id": outstanding.id, "type": outstanding.command.kind, "data": outstanding.command.data});
                    let text = frame.to_string();
                    self.scene.log().note(&format!("{} > {text}", self.user));
                    // A full pipe is a lost frame: it is sent again.
                    let _ = self.link.as_ref().map(|link| link.to.try_send(Incoming::Text(text)));
                }
                wake = wake.min(outstanding.send_at);
            }
            let frame = async {
                match &mut self.link {
                    Some(link) => link.from.recv().await,
                    None => std::future::pending().await,
                }
            };
            let came = tokio::select! {
                biased;
                () = self.cut.notified() => Came::Cut,
                frame = frame => Came::Frame(frame),
                () = tokio::time::sleep_until(wake) => Came::Wake,
            };
            match came {
                Came::Wake => {}
                Came::Cut => self.disconnect(),
                Came::Frame(Some(Ok(text))) => {
                    if let Some(happened) = self.hear(&text) {
                        return happened;
                    }
                }
                Came::Frame(_) => self.disconnect(),
            }
        }
    }

    fn disconnect(&mut self) {
        self.link = None;
        self.welcomed = false;
        self.connect_at = Instant::now() + self.dice.millis(100, 3_000);
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.send_at = Instant::now();
        }
    }

    /// Opens a connection to a process of users, if one runs.
    fn connect(&mut self) {
        self.connect_at = Instant::now() + Duration::from_secs(1);
        let serving = self.scene.processes.iter().filter(|p| p.users().is_some());
        let serving: Vec<_> = serving.cloned().collect();
        if serving.is_empty() {
            return;
        }
        let process = &serving[usize::try_from(self.dice.below(serving.len() as u64)).unwrap_or(0)];
        let Some(users) = process.users() else { return };
        let (to, sent) = mpsc::channel::<Incoming>(64);
        let (received, from) = mpsc::channel::<Result<String, u16>>(256);
        let incoming = stream::unfold(sent, async |mut sent| sent.recv().await.map(|frame| (frame, sent)));
        let pong = to.downgrade();
        let outgoing = sink::unfold((received, pong), async |(received, pong), frame| {
            match frame {
                Outgoing::Text(text) => drop(received.send(Ok(text)).await),
                Outgoing::Close(code, _) => drop(received.send(Err(code)).await),
                Outgoing::Ping => drop(pong.upgrade().map(|to| to.try_send(Incoming::Alive))),
            }
            Ok::<_, Infallible>((received, pong))
        });
        let (user, last_seq) = (self.user, self.last_seq);
        let session = async move {
            users.serve_session(user, Some(last_seq), Box::pin(incoming), Box::pin(outgoing)).await;
        };
        if process.spawn(session) {
            self.scene.log().note(&format!("{user} connects to {} after {last_seq}", process.name));
            self.link = Some(Link { to, from });
        }
    }

    fn hear(&mut self, text: &str) -> Option<Happened> {
        self.scene.log().note(&format!("{} < {text}", self.user));
        let Ok(mut frame) = serde_json::from_str::<Value>(text) else {
            self.scene.log().wrong(format!("{}: a frame that is no JSON: {text}", self.user));
            return None;
        };
        if frame["type"] == "welcome" {
            self.welcomed = true;
            let newest = frame["data"]["last_seq"].as_u64().unwrap_or(0);
            if newest < self.last_seq {
                let what = format!("{}: the mailbox has {newest} events and had {}", self.user, self.last_seq);
                self.scene.log().wrong(what);
            }
            return None;
        }
        if let Some(seq) = frame["seq"].as_u64() {
            return self.event(seq, frame);
        }
        let outstanding = self.outstanding.take_if(|outstanding| frame["id"] == *outstanding.id.as_str())?;
        if frame["type"] == "ack" {
            let (command, answer) = (outstanding.command, frame["data"].take());
            let (user, kind, data) = (self.user, command.kind, command.data.clone());
            self.scene.log().acked.push(Acked { user, kind, data, answer: answer.clone() });
            return Some(Happened::Done(command, answer));
        }
        let code = frame["error"]["code"].as_str().unwrap_or_default().to_owned();
        if code == "unavailable" {
            // Not known to be done: the same again.
            let send_at = Instant::now() + Duration::from_secs(1);
            self.outstanding = Some(Outstanding { send_at, ..outstanding });
            return None;
        }
        Some(Happened::Refused(outstanding.command, code))
    }

    fn event(&mut self, seq: u64, mut frame: Value) -> Option<Happened> {
        if seq != self.last_seq + 1 {
            let what = format!("{}: event {seq} comes after {}", self.user, self.last_seq);
            self.scene.log().wrong(what);
        }
        self.last_seq = seq;
        if seq >= self.acked_seq + ACK_EVERY {
            self.acked_seq = seq;
            self.ask("mailbox.ack", json!({"seq": seq}));
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (event_id, subject, body) = (text(&frame["event_id"]), text(&frame["type"]), frame["data"].take());
        let got = Got { seq, event_id, subject: subject.clone(), body: body.clone() };
        self.scene.log().got.entry(self.user).or_default().push(got);
        Some(Happened::Event(subject, body))
    }
}

async fn post(router: &Router, path: &str, token: Option<&str>, body: Value) -> Value {
    let mut request = Request::post(path).header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = router.clone().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
    assert!(response.status().is_success(), "{path}: {}", response.status());
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

/// Signs up `count` people, the first `drivers` of them as drivers.
pub(crate) async fn sign_up(router: &Router, count: usize, drivers: usize) -> Vec<UserId> {
    let mut people = Vec::new();
    for n in 0..count {
        let phone = format!("+1212{:07}", 2_340_000 + n);
        let otp = post(router, "/v1/auth/otp", None, json!({"phone": phone})).await;
        let token = post(router, "/v1/auth/token", None, json!({"phone": phone, "code": otp["code"]})).await;
        if n < drivers {
            let body = json!({"vehicle_type": "car", "plate": format!("T {n}")});
            post(router, "/v1/drivers", token["access_token"].as_str(), body).await;
        }
        people.push(token["user"]["id"].as_str().unwrap().parse().unwrap());
    }
    people
}

/// A place in the city, a kilometre or so across.
pub(crate) fn place(dice: &mut Dice) -> (f64, f64) {
    let mut part = || dice.below(1_000) as f64 / 100_000.0;
    (40.75 + part(), -73.98 + part())
}

pub(crate) fn at((lat, lng): (f64, f64)) -> Value {
    json!({"lat": lat, "lng": lng})
}
