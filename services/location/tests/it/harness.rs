//! Several processes of location with one bus and one store, and rides for them.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use chrono::{DateTime, Utc};
use http_body_util::BodyExt;
use location::{Config, Location, MIGRATIONS, Tables};
use platform::{CancellationToken, Platform, Store, Tokens, World};
use serde_json::Value;
use streams::bus::ReplayStart;
use streams::event::{Fare, LocationAggregate, LocationUpdate, Party, RideEvent, UserBeacon};
use streams::memory::MemoryBus;
use streams::nats::{NatsBus, NatsSettings};
use streams::{Bus, Event, Headers, Message, Money, Position, RideId, RideStatus, Service, UserId, VehicleType};
use testing::{Backend, MustEnd, nats};
use tokio::task::JoinHandle;
use tower::ServiceExt;

struct Process {
    location: Location,
    stop: CancellationToken,
    run: JoinHandle<()>,
}

impl Process {
    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.run).await.expect("it stops in time").unwrap();
    }
}

/// Every test ends it with [`end`](Self::end).
pub(crate) struct ServiceHarness {
    pub(crate) platform: Platform,
    store: Store<Tables>,
    tokens: Tokens,
    processes: Vec<Process>,
    /// How many there ever were: each has a name of its own.
    started: usize,
    pub(crate) config: Config,
    /// How long a replay waits for another message before the stream counts as read.
    replay_wait: Duration,
    /// Dropped, and so stopped, with the harness.
    _nats: Option<nats::Server>,
    end: MustEnd,
}

fn world() -> World {
    World::seeded("2026-03-01T08:00:00Z".parse().unwrap(), 11)
}

impl ServiceHarness {
    /// On the memory bus.
    pub(crate) async fn start(backend: Backend, processes: usize) -> Self {
        let world = world();
        let bus = Bus::Memory(MemoryBus::new(world.started_at(), 100_000));
        Self::with_bus(world, bus, None, backend, processes).await
    }

    /// On a nats-server of its own and PostgreSQL.
    pub(crate) async fn start_on_nats(processes: usize) -> Self {
        let server = nats::Server::new().unwrap();
        let (urls, name) = (vec![server.url.clone()], "location test".to_owned());
        let settings = NatsSettings { urls, name, ..Default::default() };
        let bus = Bus::Nats(NatsBus::connect(&settings).await.unwrap());
        Self::with_bus(world(), bus, Some(server), Backend::Postgres, processes).await
    }

    async fn with_bus(
        world: World,
        bus: Bus,
        server: Option<nats::Server>,
        backend: Backend,
        processes: usize,
    ) -> Self {
        let store = backend.store(&world, "test", "location", &MIGRATIONS).await;
        let tokens = Tokens::new(&world, &[3; 32]).unwrap();
        let platform = Platform::new(world, bus, "test");
        platform.bus.apply(&platform.topology).await.unwrap();
        let replay_wait = Duration::from_millis(if server.is_some() { 500 } else { 1 });
        let end = MustEnd::new("ServiceHarness::end");
        let (aggregate_every, final_wait) = (chrono::Duration::seconds(3), chrono::Duration::seconds(6));
        let points_wait = chrono::Duration::seconds(1);
        let config = Config { aggregate_every, final_wait, points_wait, ..Config::default() };
        let mut harness = Self {
            platform,
            store,
            tokens,
            processes: Vec::new(),
            started: 0,
            config,
            replay_wait,
            _nats: server,
            end,
        };
        for _ in 0..processes {
            harness.start_process().await;
        }
        harness
    }

    pub(crate) async fn start_process(&mut self) {
        let pod = format!("process-{}", self.started).into();
        self.started += 1;
        let platform = Platform { pod, ..self.platform.clone() };
        let location = Location::start(&platform, &self.store, self.tokens.clone(), self.config.clone()).await.unwrap();
        let stop = CancellationToken::new();
        let run = tokio::spawn(location.clone().run(stop.clone()));
        self.processes.push(Process { location, stop, run });
    }

    /// As if it were killed: it says nothing more, and finishes nothing. The next ones count one less from then on.
    pub(crate) async fn kill_process(&mut self, process: usize) {
        let Process { run, .. } = self.processes.remove(process);
        run.abort();
        assert!(run.await.is_err_and(|error| error.is_cancelled()));
    }

    /// Stops one gracefully.
    pub(crate) async fn stop_process(&mut self, process: usize) {
        self.processes.remove(process).end().await;
    }

    pub(crate) fn processes(&self) -> usize {
        self.processes.len()
    }

    pub(crate) async fn stop_processes(&mut self) {
        for process in self.processes.drain(..) {
            process.end().await;
        }
    }

    /// Stops every process gracefully, and returns the aggregates by ride. No ride has more than one final aggregate, and it is
    /// the last one.
    pub(crate) async fn end(mut self) -> BTreeMap<RideId, Vec<LocationAggregate>> {
        self.stop_processes().await;
        let mut by_ride: BTreeMap<RideId, Vec<LocationAggregate>> = BTreeMap::new();
        for aggregate in self.aggregates().await {
            by_ride.entry(aggregate.ride_id).or_default().push(aggregate);
        }
        for aggregates in by_ride.values() {
            let (last, before) = aggregates.split_last().unwrap();
            assert!(before.iter().all(|a| !a.is_final), "a final aggregate is not the last: {aggregates:?}");
            assert_eq!(last.driver_id, before.first().unwrap_or(last).driver_id);
        }
        self.end.reached();
        by_ride
    }

    /// Seconds after the start of the test.
    pub(crate) fn second(&self, second: f64) -> DateTime<Utc> {
        self.platform.world.started_at() + chrono::Duration::microseconds((second * 1e6) as i64)
    }

    /// As a foreign producer does: without headers, so that only the body identifies a repeat.
    pub(crate) async fn publish(&self, event: &Event) {
        let (subject, payload) = (event.subject().as_str().to_owned(), event.body().into());
        self.platform.bus.publish(Message { subject, headers: Headers::default(), payload }).await.unwrap();
    }

    pub(crate) async fn go_online(&self, driver: UserId, east_m: f64) {
        self.publish(&Event::UserBeacon(self.beacon(driver, east_m))).await;
    }

    pub(crate) async fn go_offline(&self, driver: UserId, east_m: f64) {
        self.publish(&Event::UserBeacon(UserBeacon { active: false, ..self.beacon(driver, east_m) })).await;
    }

    /// Of a van, recorded now.
    pub(crate) fn beacon(&self, user_id: UserId, east_m: f64) -> UserBeacon {
        let (location, recorded_at) = (place(east_m, 0.0), self.platform.world.now());
        UserBeacon {
            user_id,
            active: true,
            vehicle_type: VehicleType::Van,
            location,
            recorded_at,
            located_at: None,
            device: None,
        }
    }

    /// A position between rides, recorded now.
    pub(crate) fn free_point(&self, user_id: UserId, east_m: f64) -> LocationUpdate {
        LocationUpdate {
            user_id,
            ride_id: None,
            location: place(east_m, 0.0),
            accuracy_m: None,
            speed_mps: None,
            heading_deg: None,
            recorded_at: self.platform.world.now(),
            reception: None,
        }
    }

    pub(crate) async fn aggregates(&self) -> Vec<LocationAggregate> {
        let subject = Some("location.aggregate");
        let mut replay = self.platform.bus.replay("LOCATION_STREAM", subject, ReplayStart::Sequence(1)).await.unwrap();
        let mut found = Vec::new();
        while let Some(stored) = replay.next(self.replay_wait).await.unwrap() {
            match Event::parse(&stored.subject, &stored.payload).unwrap() {
                Event::LocationAggregate(aggregate) => found.push(aggregate),
                other => panic!("{other:?}"),
            }
        }
        found
    }

    /// Waits until the newest aggregate of a ride has so many points.
    pub(crate) async fn aggregate_has(&self, ride: RideId, points: u64) {
        let mut last = None;
        for _ in 0..200 {
            last = self.aggregates().await.into_iter().rfind(|a| a.ride_id == ride);
            if last.as_ref().is_some_and(|a| a.points == points) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no aggregate of {points} points in 10 s, but {last:?}");
    }

    /// Waits for the final aggregate of a ride.
    pub(crate) async fn final_aggregate(&self, ride: RideId) -> LocationAggregate {
        let subject = Some("location.aggregate");
        let mut replay = self.platform.bus.replay("LOCATION_STREAM", subject, ReplayStart::Sequence(1)).await.unwrap();
        loop {
            let stored = replay.next(Duration::from_secs(25)).await.unwrap().expect("a final aggregate comes");
            if let Event::LocationAggregate(aggregate) = Event::parse(&stored.subject, &stored.payload).unwrap()
                && aggregate.ride_id == ride
                && aggregate.is_final
            {
                return aggregate;
            }
        }
    }

    /// Waits until location has acknowledged every message.
    pub(crate) async fn all_handled(&self) {
        let handled = async {
            loop {
                let mut left = 0;
                for consumer in self.platform.topology.consumers_of(Service::Location) {
                    let info = self.platform.bus.consumer_info(&consumer.stream, &consumer.durable).await.unwrap();
                    left += info.pending + info.ack_pending;
                }
                if left == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), handled).await.expect("location handles every message");
    }

    pub(crate) async fn get(&self, process: usize, user: Option<UserId>, uri: &str) -> (StatusCode, Value) {
        let mut request = Request::builder().uri(uri);
        if let Some(user) = user {
            request = request.header("authorization", format!("Bearer {}", self.tokens.access(user)));
        }
        let router = self.processes[process].location.routes().into_router();
        let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// How far from the middle of the city the free drivers are whom a process shows, in metres.
    pub(crate) async fn nearby(&self, process: usize) -> Vec<f64> {
        self.nearby_of(process, place(0.0, 0.0)).await
    }

    /// The same from another place.
    pub(crate) async fn nearby_of(&self, process: usize, from: Position) -> Vec<f64> {
        let uri = format!("/v1/drivers/nearby?lat={}&lng={}&radius_m=5000", from.lat, from.lng);
        let (status, body) = self.get(process, Some(self.platform.world.id()), &uri).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body["drivers"].as_array().unwrap().iter().map(|d| to_100_m(d["distance_m"].as_f64().unwrap())).collect()
    }
}

/// Positions are snapped: here, on the equator at 30°, 47.6 m further east.
fn to_100_m(distance_m: f64) -> f64 {
    (distance_m / 100.0).floor() * 100.0
}

/// So many metres east and north of the middle of the city, which is on the equator.
pub(crate) fn place(east_m: f64, north_m: f64) -> Position {
    const DEGREE_M: f64 = 6_371_008.8 * std::f64::consts::PI / 180.0;
    Position { lat: north_m / DEGREE_M, lng: 30.0 + east_m / DEGREE_M }
}

/// A ride from second 0 to second 60 with 15 m/s eastwards: 900 m.
#[derive(Clone, Copy)]
pub(crate) struct TestRide {
    pub(crate) id: RideId,
    pub(crate) driver: UserId,
}

impl TestRide {
    pub(crate) fn new(harness: &ServiceHarness) -> Self {
        Self { id: harness.platform.world.id(), driver: harness.platform.world.id() }
    }

    fn event(&self, harness: &ServiceHarness, status: RideStatus, second: f64) -> Event {
        let usd = Money::usd(100);
        let (completed, cancelled) = (status == RideStatus::Completed, status == RideStatus::Cancelled);
        Event::Ride(Box::new(RideEvent {
            ride_id: self.id,
            match_id: harness.platform.world.id(),
            driver_id: self.driver,
            passenger_id: harness.platform.world.id(),
            version: 1 + RideStatus::ALL.iter().position(|s| *s == status).unwrap() as u32,
            status,
            pickup: place(0.0, 0.0),
            dropoff: place(900.0, 0.0),
            vehicle_type: VehicleType::Car,
            occurred_at: harness.second(second),
            previous_hash: "0".repeat(64),
            hash: "0".repeat(64),
            by: cancelled.then_some(Party::Driver),
            search_continues: None,
            reason_code: None,
            note: None,
            reason: cancelled.then(|| "no one there".to_owned()),
            fee: cancelled.then_some(usd),
            distance_m: completed.then_some(900.0),
            duration_s: completed.then_some(60.0),
            fare: completed.then(|| Fare { lines: Vec::new(), total: usd, estimated: false }),
            platform_fee: completed.then_some(usd),
            driver_payout: completed.then_some(usd),
            request_id: None,
            market_id: None,
            terms: None,
        }))
    }

    pub(crate) fn point(&self, harness: &ServiceHarness, second: f64) -> LocationUpdate {
        LocationUpdate {
            user_id: self.driver,
            ride_id: Some(self.id),
            location: place(second * 15.0, 0.0),
            accuracy_m: Some(4.0),
            speed_mps: Some(15.0),
            heading_deg: Some(90.0),
            recorded_at: harness.second(second),
            reception: None,
        }
    }

    pub(crate) async fn publish(&self, harness: &ServiceHarness, status: RideStatus, second: f64) {
        harness.publish(&self.event(harness, status, second)).await;
    }

    /// Publishes the points of these seconds.
    pub(crate) async fn drive(&self, harness: &ServiceHarness, seconds: impl IntoIterator<Item = u32>) {
        for second in seconds {
            harness.publish(&Event::LocationUpdate(self.point(harness, f64::from(second)))).await;
        }
    }
}
