//! Several processes of the service on one bus and one store, clients on pipes in memory, and whatever the other services
//! would publish.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{sink, stream};
use platform::{CancellationToken, Health, Metrics, Platform, Store, Tokens, World, outbox};
use serde_json::{Value, json};
use streams::event::{MatchAccepted, MatchFound, MatchRejected, RejectReason, RideEvent, UserBeacon, UserFinder};
use streams::memory::MemoryBus;
use streams::topology::Topology;
use streams::{Bus, Event, MatchId, Money, Position, RequestId, RideId, RideStatus, Service, UserId, VehicleType};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use users::{Config, Incoming, MIGRATIONS, Outgoing, Tables, Users};

use crate::app::sign_in_directly;

/// How long a test waits for what must come.
const WAIT: Duration = Duration::from_secs(30);
pub(crate) const HERE: Position = Position { lat: 40.75, lng: -73.99 };
pub(crate) const THERE: Position = Position { lat: 40.76, lng: -73.98 };

/// On which store a test runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum On {
    Memory,
    Postgres,
}

/// What all pods share.
#[derive(Clone)]
pub(crate) struct City {
    pub(crate) world: World,
    pub(crate) bus: Bus,
    pub(crate) store: Store<Tables>,
    pub(crate) tokens: Tokens,
}

/// One process.
pub(crate) struct Pod {
    pub(crate) users: Users,
    pub(crate) platform: Platform,
    stop: CancellationToken,
    run: Option<JoinHandle<()>>,
}

impl City {
    pub(crate) async fn on(on: On) -> Self {
        let world = World::seeded("2026-03-01T08:00:00Z".parse().unwrap(), 5);
        let pod = "shared".into();
        let store = match on {
            On::Memory => Store::memory(&world, &pod),
            On::Postgres => {
                let url = testing::database::fresh().await;
                Store::postgres(&world, &pod, &url, "users", &MIGRATIONS, 12).await.unwrap()
            }
        };
        let bus = Self::new_bus(&world).await;
        let tokens = Tokens::new(&world, &[7; 32]).unwrap();
        Self { world, bus, store, tokens }
    }

    async fn new_bus(world: &World) -> Bus {
        let bus = Bus::Memory(MemoryBus::new(world.now(), 100_000));
        bus.apply(&Topology::rideshare()).await.unwrap();
        bus
    }

    /// The same city, as a pod sees it that hears no wake-up.
    pub(crate) async fn deaf(&self) -> Self {
        Self { bus: Self::new_bus(&self.world).await, ..self.clone() }
    }

    /// A pod that serves sockets and nothing else: no worker, no relay, no timer.
    pub(crate) async fn idle_pod(&self, name: &str, config: Config) -> Pod {
        let platform = Platform {
            world: self.world.clone(),
            bus: self.bus.clone(),
            topology: Arc::new(Topology::rideshare()),
            metrics: Arc::new(Metrics::new()),
            health: Arc::new(Health::default()),
            shutdown: CancellationToken::new(),
            pod: name.into(),
        };
        let users = Users::start(&platform, &self.store, self.tokens.clone(), config).await.unwrap();
        Pod { users, platform, stop: CancellationToken::new(), run: None }
    }

    pub(crate) async fn pod(&self, name: &str) -> Pod {
        let mut pod = self.idle_pod(name, Config::default()).await;
        pod.run();
        pod
    }

    pub(crate) async fn publish(&self, event: &Event) {
        let now = self.world.now();
        let (id, entity, trace) = (event.message_id(now), event.entity_id().to_string(), self.world.trace());
        let at = event.occurred_at().unwrap_or(now);
        let (subject, body) = (event.subject().as_str(), event.body().into());
        let message = outbox::message(subject, &id, &entity, at, trace.as_str(), Service::Match, body);
        self.bus.publish(message).await.unwrap();
    }

    /// As many searches of `user` as events: one mailbox event each.
    pub(crate) async fn searches(&self, user: UserId, count: usize) {
        for _ in 0..count {
            self.publish(&self.search(user)).await;
        }
    }

    pub(crate) fn search(&self, user_id: UserId) -> Event {
        Event::UserFinder(UserFinder {
            request_id: self.world.id(),
            user_id,
            active: true,
            pickup: HERE,
            dropoff: THERE,
            vehicle_type: VehicleType::Car,
            recorded_at: self.world.now(),
        })
    }

    pub(crate) fn found(&self, driver_id: UserId, passenger_id: UserId, request: RequestId, ttl_s: i64) -> MatchFound {
        let found_at = self.world.now();
        MatchFound {
            match_id: self.world.id(),
            request_id: request,
            driver_id,
            passenger_id,
            driver_location: HERE,
            pickup: HERE,
            dropoff: THERE,
            vehicle_type: VehicleType::Car,
            pickup_distance_m: 10.5,
            pickup_eta_s: 2.25,
            fare_estimate: Money::usd(1_234),
            found_at,
            expires_at: found_at + chrono::Duration::seconds(ttl_s),
        }
    }

    pub(crate) fn rejected(&self, found: &MatchFound, reason: RejectReason) -> Event {
        Event::MatchRejected(MatchRejected {
            match_id: found.match_id,
            request_id: found.request_id,
            driver_id: found.driver_id,
            passenger_id: found.passenger_id,
            reason,
            rejected_at: self.world.now(),
        })
    }

    pub(crate) fn ride(&self, ride: RideId, found: &MatchFound, version: u32, status: RideStatus) -> Event {
        let cancelled = status == RideStatus::Cancelled;
        let completed = status == RideStatus::Completed;
        Event::Ride(Box::new(RideEvent {
            ride_id: ride,
            match_id: found.match_id,
            driver_id: found.driver_id,
            passenger_id: found.passenger_id,
            version,
            status,
            pickup: found.pickup,
            dropoff: found.dropoff,
            vehicle_type: found.vehicle_type,
            occurred_at: self.world.now(),
            previous_hash: "0".repeat(64),
            hash: "f".repeat(64),
            by: cancelled.then_some(streams::event::Party::Passenger),
            reason: cancelled.then(|| "late".to_owned()),
            fee: cancelled.then_some(Money::usd(0)),
            distance_m: completed.then_some(1_000.0),
            duration_s: completed.then_some(60.0),
            fare: completed.then(|| streams::event::Fare {
                lines: Vec::new(),
                total: Money::usd(500),
                estimated: false,
            }),
            platform_fee: completed.then_some(Money::usd(100)),
            driver_payout: completed.then_some(Money::usd(400)),
        }))
    }
}

impl Pod {
    /// Begins its workers, relay and timers.
    pub(crate) fn run(&mut self) {
        self.run = Some(tokio::spawn(self.users.clone().run(self.stop.clone())));
    }

    /// Stops it gracefully.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(run) = self.run.take() {
            tokio::time::timeout(Duration::from_secs(30), run).await.expect("it stops in time").unwrap();
        }
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(run) = self.run.take() {
            run.abort();
        }
    }

    /// A new user.
    pub(crate) async fn passenger(&self, phone: &str) -> UserId {
        sign_in_directly(&self.users, phone).await.0
    }

    /// A new user who drives a car.
    pub(crate) async fn driver(&self, phone: &str) -> UserId {
        let (user, token) = sign_in_directly(&self.users, phone).await;
        let plate = format!("T {}", &phone[phone.len() - 4..]);
        crate::app::register_directly(&self.users, &token, &plate).await;
        user
    }

    /// A client that has been welcomed.
    pub(crate) async fn connect(&self, user: UserId, last_seq: Option<u64>) -> Client {
        let mut client = self.open(user, last_seq, 1_024);
        let welcome = client.next().await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        assert_eq!(welcome["data"]["user_id"], user.to_string());
        client.head = welcome["data"]["last_seq"].as_u64().unwrap();
        client
    }

    /// A client whose side holds so many frames that it has not read.
    pub(crate) fn open(&self, user: UserId, last_seq: Option<u64>, room: usize) -> Client {
        let (to, sent) = mpsc::channel::<Incoming>(1_024);
        let (received, from) = mpsc::channel::<Outgoing>(room);
        let incoming = stream::unfold(sent, async |mut sent| sent.recv().await.map(|frame| (frame, sent)));
        let outgoing = sink::unfold(received, async |received, frame| {
            let _ = received.send(frame).await;
            Ok::<_, Infallible>(received)
        });
        let users = self.users.clone();
        let session = tokio::spawn(async move {
            users.serve_session(user, last_seq, Box::pin(incoming), Box::pin(outgoing)).await;
        });
        Client { to: Some(to), from, session, kept: Vec::new(), ids: 0, head: 0, pongs: true }
    }
}

/// One end of a pipe to a session.
pub(crate) struct Client {
    pub(crate) to: Option<mpsc::Sender<Incoming>>,
    pub(crate) from: mpsc::Receiver<Outgoing>,
    pub(crate) session: JoinHandle<()>,
    /// Events that came while something else was waited for.
    pub(crate) kept: Vec<Value>,
    ids: u64,
    /// The welcome's `last_seq`.
    pub(crate) head: u64,
    /// Whether pings are answered.
    pub(crate) pongs: bool,
}

impl Client {
    /// The next frame, as it is; pings are answered in passing.
    pub(crate) async fn frame(&mut self) -> Outgoing {
        loop {
            let frame = tokio::time::timeout(WAIT, self.from.recv()).await.expect("a frame in time").expect("a frame");
            match frame {
                Outgoing::Ping if self.pongs => self.send(Incoming::Alive).await,
                frame => return frame,
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Value {
        match self.frame().await {
            Outgoing::Text(text) => serde_json::from_str(&text).expect("frames are JSON"),
            other => panic!("not text: {other:?}"),
        }
    }

    pub(crate) async fn send(&self, frame: Incoming) {
        if let Some(to) = &self.to {
            let _ = to.send(frame).await;
        }
    }

    pub(crate) async fn text(&self, text: impl Into<String>) {
        self.send(Incoming::Text(text.into())).await;
    }

    /// Sends a command and returns its answer; events that come before it are kept.
    pub(crate) async fn ask(&mut self, kind: &str, data: Value) -> Value {
        self.ids += 1;
        let id = self.ids;
        self.text(json!({"id": id, "type": kind, "data": data}).to_string()).await;
        loop {
            let frame = self.next().await;
            if frame["id"] == id {
                return frame;
            }
            assert!(frame["seq"].is_u64(), "not an event: {frame}");
            self.kept.push(frame);
        }
    }

    /// The data of the command's ack.
    pub(crate) async fn ack(&mut self, kind: &str, data: Value) -> Value {
        let answer = self.ask(kind, data).await;
        assert_eq!(answer["type"], "ack", "{answer}");
        answer["data"].clone()
    }

    /// Code and field of the command's error.
    pub(crate) async fn refused(&mut self, kind: &str, data: Value) -> String {
        let answer = self.ask(kind, data).await;
        assert_eq!(answer["type"], "error", "{answer}");
        let field = answer["error"]["field"].as_str().unwrap_or("-");
        format!("{} {field}", answer["error"]["code"].as_str().unwrap())
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Value {
        if !self.kept.is_empty() {
            return self.kept.remove(0);
        }
        let frame = self.next().await;
        assert!(frame["seq"].is_u64(), "not an event: {frame}");
        frame
    }

    /// The next event of this subject; others before it are passed over.
    pub(crate) async fn event_of(&mut self, subject: &str) -> Value {
        loop {
            let event = self.event().await;
            if event["type"] == subject {
                return event;
            }
        }
    }

    /// Takes `count` events and returns their sequences.
    pub(crate) async fn seqs(&mut self, count: usize) -> Vec<u64> {
        let mut seqs = Vec::new();
        for _ in 0..count {
            seqs.push(self.event().await["seq"].as_u64().unwrap());
        }
        seqs
    }

    /// Nothing more comes in this time.
    pub(crate) async fn quiet(&mut self, time: Duration) {
        assert!(self.kept.is_empty(), "{:?}", self.kept);
        let until = tokio::time::Instant::now() + time;
        while let Ok(frame) = tokio::time::timeout_at(until, self.from.recv()).await {
            assert_eq!(frame, Some(Outgoing::Ping), "nothing else");
            self.send(Incoming::Alive).await;
        }
    }

    /// Closes, and waits until the session has ended.
    pub(crate) async fn close(mut self) {
        self.to = None;
        self.from.close();
        while self.from.recv().await.is_some() {}
        tokio::time::timeout(WAIT, self.session).await.expect("the session ends in time").unwrap();
    }

    /// Reads to the end: the last text frames, and the code of the close.
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

pub(crate) fn beacon(active: bool, at: Position) -> Value {
    json!({"active": active, "location": at})
}

pub(crate) fn trip(dropoff: Position) -> Value {
    json!({"active": true, "pickup": HERE, "dropoff": dropoff, "vehicle_type": "car"})
}

/// The bodies of these kinds of events, read from what a client got.
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
