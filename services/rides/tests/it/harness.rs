//! rides as a whole on the memory bus: events and requests in, events, answers and HTTP out.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use platform::{CancellationToken, Platform, Store, Tokens, World};
use rides::audit::{Audit, Findings};
use rides::event_log::EventRow;
use rides::event_log::rows::events_of;
use rides::payment::Payment;
use rides::payment::rows::payments_of;
use rides::{Config, Rides, hash_chain, ledger};
use serde_json::Value;
use streams::bus::{BusError, ReplayStart};
use streams::event::{LocationAggregate, MatchAccepted, RejectReason, RideEvent};
use streams::memory::MemoryBus;
use streams::nats::{NatsBus, NatsSettings};
use streams::ride_command::{EndSearch, RIDE_COMMAND_WAIT, RIDE_COMMANDS, RideAction, RideCommand, RideReply};
use streams::{Bus, Event, Headers, Message, Position, RideId, RideStatus, Service, UserId, VehicleType};
use testing::{Backend, nats};
use tokio::task::JoinHandle;
use tower::ServiceExt;

/// Limit of a wait for a message.
const WAIT: Duration = Duration::from_secs(10);

pub(crate) fn parsed(row: &EventRow) -> RideEvent {
    hash_chain::verify_body(&row.subject, row.body.as_bytes()).unwrap()
}

pub(crate) struct TestApp {
    pub(crate) platform: Platform,
    pub(crate) tokens: Tokens,
    pub(crate) store: Store<rides::Tables>,
    pub(crate) rides: Rides,
    pub(crate) audit: Audit,
    pub(crate) stop: CancellationToken,
    run: JoinHandle<()>,
    /// How long a replay waits for another message before the stream counts as read.
    replay_wait: Duration,
    /// Dropped, and so stopped, with the app.
    nats: Option<nats::Server>,
}

fn world() -> World {
    World::seeded("2026-03-01T08:00:00Z".parse().unwrap(), 11)
}

impl TestApp {
    /// On the memory bus.
    pub(crate) async fn start(backend: Backend, config: Config) -> Self {
        let world = world();
        let bus = Bus::Memory(MemoryBus::new(world.started_at(), 100_000));
        Self::on(world, bus, None, backend, config).await
    }

    /// On a nats-server of its own and PostgreSQL.
    pub(crate) async fn start_on_nats(config: Config) -> Self {
        let server = nats::Server::new().unwrap();
        let (urls, name) = (vec![server.url.clone()], "rides test".to_owned());
        let bus = NatsBus::connect(&NatsSettings { urls, name, ..Default::default() }).await.unwrap();
        Self::on(world(), Bus::Nats(bus), Some(server), Backend::Postgres, config).await
    }

    async fn on(world: World, bus: Bus, nats: Option<nats::Server>, backend: Backend, config: Config) -> Self {
        // Rides of these tests are over within milliseconds, so their kilometres are driven faster than life.
        let config = Config { max_speed_mps: 1e6, ..config };
        let platform = Platform::new(world.clone(), bus, "test");
        platform.bus.apply(&platform.topology).await.unwrap();
        let tokens = Tokens::new(&world, &[3; 32]).unwrap();
        let store: Store<rides::Tables> = backend.store(&world, "test", "rides", &rides::MIGRATIONS).await;
        let rides = Rides::start(&platform, &store, tokens.clone(), config).await.unwrap();
        let audit = Audit::new(&platform.bus, &store, &platform.world);
        let stop = CancellationToken::new();
        let run = tokio::spawn(rides.clone().run(stop.clone()));
        let replay_wait = Duration::from_millis(if nats.is_some() { 500 } else { 1 });
        Self { platform, tokens, store, rides, audit, stop, run, replay_wait, nats }
    }

    /// Stops the service; once more it does nothing.
    pub(crate) async fn stopped(&mut self) {
        self.stop.cancel();
        let run = std::mem::replace(&mut self.run, tokio::spawn(async {}));
        tokio::time::timeout(Duration::from_secs(30), run).await.expect("it stops in time").unwrap();
    }

    /// Stops the service and starts it again with the tables of `store`.
    pub(crate) async fn restarted_on(mut self, store: Store<rides::Tables>) -> Self {
        self.stopped().await;
        let (platform, tokens, replay_wait, nats) = (self.platform, self.tokens, self.replay_wait, self.nats);
        let rides = Rides::start(&platform, &store, tokens.clone(), Config::default()).await.unwrap();
        let audit = Audit::new(&platform.bus, &store, &platform.world);
        let stop = CancellationToken::new();
        let run = tokio::spawn(rides.clone().run(stop.clone()));
        Self { platform, tokens, store, rides, audit, stop, run, replay_wait, nats }
    }

    /// Every test ends with a graceful stop, an event log that equals the stream, and an audit without findings.
    pub(crate) async fn end(mut self) {
        self.stopped().await;
        let mut trail: Vec<RideEvent> = self.trail().await;
        trail.sort_by_key(|event| (event.ride_id, event.version));
        for ride in trail.chunk_by(|a, b| a.ride_id == b.ride_id) {
            let logged: Vec<RideEvent> = self.events(ride[0].ride_id).await.iter().map(parsed).collect();
            assert_eq!(logged, ride, "the log has what was published");
        }
        let report = self.audit.verify().await.unwrap();
        assert_eq!(report.findings, Findings::default());
        assert_eq!((report.messages, report.waiting), (report.events, 0));
    }

    pub(crate) async fn events(&self, ride: RideId) -> Vec<EventRow> {
        events_of(&mut self.store.begin().await.unwrap(), ride).await.unwrap()
    }

    pub(crate) async fn payment(&self, ride: RideId) -> Option<Payment> {
        payments_of(&mut self.store.begin().await.unwrap(), &[ride]).await.unwrap().pop()
    }

    pub(crate) fn matched(&self) -> MatchAccepted {
        let world = &self.platform.world;
        MatchAccepted {
            match_id: world.id(),
            request_id: world.id(),
            driver_id: world.id(),
            passenger_id: world.id(),
            pickup: Position { lat: 40.7484, lng: -73.9857 },
            dropoff: Position { lat: 40.7061, lng: -73.9969 },
            vehicle_type: VehicleType::Car,
            market_id: None,
            terms: None,
            accepted_at: world.now(),
        }
    }

    pub(crate) async fn publish(&self, event: &Event) {
        let world = &self.platform.world;
        let (subject, id) = (event.subject().as_str(), event.message_id(world.now()));
        let trace = world.trace();
        let entity = event.entity_id().to_string();
        let body = Bytes::from(event.body());
        let message =
            platform::relay::message(subject, &id, &entity, world.now(), trace.as_str(), Service::Users, body);
        self.platform.bus.publish(message).await.unwrap();
    }

    /// As a foreign producer: without headers, so that only the body identifies a repeat.
    pub(crate) async fn publish_bare(&self, event: &Event) {
        let (subject, payload) = (event.subject().as_str().to_owned(), Bytes::from(event.body()));
        self.platform.bus.publish(Message { subject, headers: Headers::default(), payload }).await.unwrap();
    }

    pub(crate) async fn aggregate(&self, ride: RideId, driver_id: UserId, distance_m: f64, is_final: bool) -> Event {
        let event = Event::LocationAggregate(LocationAggregate {
            ride_id: ride,
            driver_id,
            distance_m,
            points: 9,
            last: None,
            is_final,
            covered: None,
        });
        self.publish_bare(&event).await;
        event
    }

    pub(crate) async fn all(&self, stream: &str, filter: &str) -> Vec<Message> {
        let mut replay = self.platform.bus.replay(stream, Some(filter), ReplayStart::Sequence(1)).await.unwrap();
        let mut found = Vec::new();
        while let Some(stored) = replay.next(self.replay_wait).await.unwrap() {
            found.push(Message { subject: stored.subject, headers: stored.headers, payload: stored.payload });
        }
        found
    }

    pub(crate) async fn trail(&self) -> Vec<RideEvent> {
        let all = self.all("RIDE_STREAM", "ride.>").await;
        all.iter().map(|m| hash_chain::verify_body(&m.subject, &m.payload).unwrap()).collect()
    }

    /// The event of the ride of `of` with this status, once it is there.
    pub(crate) async fn event(&self, of: &MatchAccepted, status: RideStatus) -> RideEvent {
        let subject = status.subject().as_str();
        let mut replay =
            self.platform.bus.replay("RIDE_STREAM", Some(subject), ReplayStart::Sequence(1)).await.unwrap();
        loop {
            let stored = replay.next(Duration::from_secs(100)).await.unwrap();
            let stored = stored.unwrap_or_else(|| panic!("no {subject} came"));
            let event = hash_chain::verify_body(&stored.subject, &stored.payload).unwrap();
            if event.match_id == of.match_id {
                return event;
            }
        }
    }

    /// The first rejected match is this one, as superseded.
    pub(crate) async fn superseded(&self, lost: &MatchAccepted) {
        let bus = &self.platform.bus;
        let mut rejected = bus.replay("MATCH_STREAM", Some("match.rejected"), ReplayStart::Sequence(1)).await.unwrap();
        let stored = rejected.next(WAIT).await.unwrap().expect("the match is rejected");
        let Ok(Event::MatchRejected(rejected)) = Event::parse(&stored.subject, &stored.payload) else { panic!() };
        assert_eq!((rejected.match_id, rejected.reason), (lost.match_id, RejectReason::Superseded));
        assert_eq!((rejected.driver_id, rejected.passenger_id), (lost.driver_id, lost.passenger_id));
    }

    /// Waits until the consumers of rides have nothing left and all that rides wrote is published.
    pub(crate) async fn settled(&self) {
        let settled = async {
            loop {
                let mut left = 0;
                for consumer in self.platform.topology.consumers_of(Service::Rides) {
                    let info = self.platform.bus.consumer_info(&consumer.stream, &consumer.durable).await.unwrap();
                    left += info.pending + info.ack_pending;
                }
                if left == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), settled).await.expect("the consumers of rides run dry");
    }

    pub(crate) async fn command(&self, user_id: UserId, ride_id: RideId, action: RideAction) -> String {
        let traceparent = self.platform.world.trace().as_str().to_owned();
        let command = RideCommand { user_id, ride_id, action, traceparent };
        let body = Bytes::from(serde_json::to_vec(&command).unwrap());
        let reply = self.platform.bus.request(RIDE_COMMANDS, body, RIDE_COMMAND_WAIT).await.unwrap();
        match serde_json::from_slice(&reply).unwrap() {
            RideReply::Ok(data) => format!("{} {}", data["status"].as_str().unwrap(), data["version"]),
            RideReply::Error { code, .. } => code,
        }
    }

    /// The passenger of `of` ends the search.
    pub(crate) async fn end_search(&self, of: &MatchAccepted) -> String {
        let traceparent = self.platform.world.trace().as_str().to_owned();
        let end = EndSearch { user_id: of.passenger_id, request_id: of.request_id, traceparent };
        let body = Bytes::from(serde_json::to_vec(&end).unwrap());
        let reply = loop {
            match self.platform.bus.request(RIDE_COMMANDS, body.clone(), RIDE_COMMAND_WAIT).await {
                // The service is just starting.
                Err(BusError::NoResponders(_)) => tokio::task::yield_now().await,
                reply => break reply.unwrap(),
            }
        };
        match serde_json::from_slice(&reply).unwrap() {
            RideReply::Ok(data) => {
                assert_eq!(data, serde_json::json!({"request_id": of.request_id}));
                "ended".to_owned()
            }
            RideReply::Error { code, .. } => code,
        }
    }

    pub(crate) async fn start_ride(&self, user: UserId, ride: RideId) -> String {
        let pin = self.tokens.ride_pin(ride);
        self.command(user, ride, RideAction::Start { pin }).await
    }

    pub(crate) async fn cancel(&self, user: UserId, ride: RideId) -> String {
        self.command(user, ride, RideAction::Cancel { reason: "changed plans".to_owned(), note: None }).await
    }

    /// A new ride of these two that has arrived at its dropoff.
    pub(crate) async fn arrived(&self, matched: &MatchAccepted) -> RideEvent {
        self.publish(&Event::MatchAccepted(matched.clone())).await;
        let ride = self.event(matched, RideStatus::Pickup).await;
        assert_eq!(self.start_ride(ride.driver_id, ride.ride_id).await, "started 2");
        assert_eq!(self.command(ride.driver_id, ride.ride_id, RideAction::Arrive).await, "arrived 3");
        ride
    }

    pub(crate) async fn balances(&self, of: &MatchAccepted, provider: &str) -> [i64; 4] {
        let cash = format!("cash:{provider}");
        let accounts = [&ledger::passenger(of.passenger_id), &ledger::driver(of.driver_id), ledger::REVENUE, &cash];
        let mut found = [0; 4];
        for (balance, account) in found.iter_mut().zip(accounts) {
            *balance = ledger::rows::balance(&mut self.store.begin().await.unwrap(), account, streams::Currency::USD)
                .await
                .unwrap();
        }
        assert_eq!(found.iter().sum::<i64>(), 0, "the ledger balances");
        found
    }

    pub(crate) async fn get(&self, user: Option<UserId>, uri: &str) -> (StatusCode, Value) {
        self.call("GET", user, uri, &Value::Null).await
    }

    /// A request with a JSON body, unless that is null.
    pub(crate) async fn call(
        &self,
        method: &str,
        user: Option<UserId>,
        uri: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        call(&self.rides, &self.tokens, method, user, uri, body).await
    }

    /// Runs the purge of a process whose clock is this much later.
    pub(crate) async fn purge_later(&self, by: chrono::Duration) {
        let world = World::seeded(self.platform.world.now() + by, 13);
        let platform = Platform::new(world.clone(), self.platform.bus.clone(), "later");
        let tokens = Tokens::new(&world, &[3; 32]).unwrap();
        Rides::start(&platform, &self.store, tokens, Config::default()).await.unwrap().purge().await.unwrap();
    }

    /// The same request to a process on the same store whose clock is this much later.
    pub(crate) async fn call_later(
        &self,
        by: chrono::Duration,
        (method, user, uri): (&str, UserId, &str),
        body: &Value,
    ) -> (StatusCode, Value) {
        let world = World::seeded(self.platform.world.now() + by, 12);
        let platform = Platform::new(world.clone(), self.platform.bus.clone(), "later");
        let tokens = Tokens::new(&world, &[3; 32]).unwrap();
        let rides = Rides::start(&platform, &self.store, tokens.clone(), Config::default()).await.unwrap();
        call(&rides, &tokens, method, Some(user), uri, body).await
    }
}

async fn call(
    rides: &Rides,
    tokens: &Tokens,
    method: &str,
    user: Option<UserId>,
    uri: &str,
    body: &Value,
) -> (StatusCode, Value) {
    let mut request = Request::builder().method(method).uri(uri).header("content-type", "application/json");
    if let Some(user) = user {
        request = request.header("authorization", format!("Bearer {}", tokens.access(user)));
    }
    let content = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let answer = rides.routes().into_router().oneshot(request.body(content).unwrap()).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}
