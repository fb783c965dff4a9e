//! location as a whole: events in, aggregates and `nearby` out, on the memory bus over both stores, and on NATS; in two
//! processes.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use chrono::{DateTime, Utc};
use http_body_util::BodyExt;
use location::{Config, Location, Tables};
use platform::{CancellationToken, Health, Metrics, Platform, Store, Tokens, World};
use serde_json::Value;
use streams::bus::ReplayStart;
use streams::event::{Fare, LocationAggregate, LocationUpdate, Party, RideEvent, UserBeacon};
use streams::memory::MemoryBus;
use streams::nats::{NatsBus, NatsSettings};
use streams::topology::Topology;
use streams::{Bus, Event, Headers, Message, Money, Position, RideId, RideStatus, Service, UserId, VehicleType};
use tokio::task::JoinHandle;
use tower::ServiceExt;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Memory,
    Postgres,
    /// NATS with PostgreSQL.
    Nats,
}

macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_memory {
            $(#[tokio::test(start_paused = true)] async fn $name() { super::$name(super::Kind::Memory).await; })+
        }
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(super::Kind::Postgres).await; })+
        }
    };
}

on_both!(
    one_final_whatever_came_late_twice_or_out_of_order,
    events_of_a_ride_in_any_order_and_twice,
    a_ride_without_points_ends_with_nothing,
    points_on_their_way_at_the_arrival_still_count,
    a_noisy_gps_point_of_100_km_is_billed,
    a_stranger_adds_points_to_anothers_ride,
    a_cancelled_ride_has_no_final_word,
    a_process_that_starts_anew_goes_on_with_the_rows,
    offline_drivers_stay_offered,
    who_has_a_ride_is_not_nearby,
    nearby_is_for_those_signed_in_and_says_what_is_wrong,
);

#[tokio::test(flavor = "multi_thread")]
async fn one_final_on_nats() {
    one_final_whatever_came_late_twice_or_out_of_order(Kind::Nats).await;
}

/// Several processes of location beside each other; each has a bus and a store in common with the others.
struct City {
    kind: Kind,
    /// Ends with the test.
    _nats: Option<testing::nats::Server>,
    platform: Platform,
    store: Store<Tables>,
    tokens: Tokens,
    processes: Vec<(Location, CancellationToken, JoinHandle<()>)>,
}

impl City {
    async fn start(kind: Kind, processes: usize) -> Self {
        let world = World::seeded("2026-03-01T08:00:00Z".parse().unwrap(), 11);
        let (bus, nats) = match kind {
            Kind::Memory | Kind::Postgres => (Bus::Memory(MemoryBus::new(world.started_at(), 100_000)), None),
            Kind::Nats => {
                let server = testing::nats::Server::new().unwrap();
                let (urls, name) = (vec![server.url.clone()], "location test".to_owned());
                let settings = NatsSettings { urls, creds: None, ca: None, replicas: 1, name };
                (Bus::Nats(NatsBus::connect(&settings).await.unwrap()), Some(server))
            }
        };
        let platform = Platform {
            bus,
            topology: Arc::new(Topology::rideshare()),
            metrics: Arc::new(Metrics::new()),
            health: Arc::new(Health::default()),
            shutdown: CancellationToken::new(),
            pod: "test".into(),
            world: world.clone(),
        };
        platform.bus.apply(&platform.topology).await.unwrap();
        let tokens = Tokens::new(&world, &[3; 32]).unwrap();
        let store = match kind {
            Kind::Memory => Store::memory(&world, &platform.pod),
            Kind::Postgres | Kind::Nats => {
                let url = testing::database::fresh().await;
                Store::postgres(&world, &platform.pod, &url, "location", &location::MIGRATIONS, 8).await.unwrap()
            }
        };
        let mut city = Self { kind, _nats: nats, platform, store, tokens, processes: Vec::new() };
        for _ in 0..processes {
            city.another_process().await;
        }
        city
    }

    async fn another_process(&mut self) {
        let pod = format!("process-{}", self.processes.len()).into();
        let platform = Platform { pod, ..self.platform.clone() };
        let location = Location::start(&platform, &self.store, self.tokens.clone(), Config::default()).await.unwrap();
        let stop = CancellationToken::new();
        let run = tokio::spawn(location.clone().run(stop.clone()));
        self.processes.push((location, stop, run));
    }

    async fn end_processes(&mut self) {
        for (_, stop, run) in self.processes.drain(..) {
            stop.cancel();
            tokio::time::timeout(Duration::from_secs(30), run).await.expect("it stops in time").unwrap();
        }
    }

    /// Every test ends with a graceful stop, and no ride has more than one final word, which is the last one.
    async fn end(mut self) -> BTreeMap<RideId, Vec<LocationAggregate>> {
        self.end_processes().await;
        let mut by_ride: BTreeMap<RideId, Vec<LocationAggregate>> = BTreeMap::new();
        for aggregate in self.aggregates().await {
            by_ride.entry(aggregate.ride_id).or_default().push(aggregate);
        }
        for aggregates in by_ride.values() {
            let (last, before) = aggregates.split_last().unwrap();
            assert!(before.iter().all(|a| !a.is_final), "a final aggregate is not the last: {aggregates:?}");
            assert_eq!(last.driver_id, before.first().unwrap_or(last).driver_id);
        }
        by_ride
    }

    fn second(&self, second: f64) -> DateTime<Utc> {
        self.platform.world.started_at() + chrono::Duration::microseconds((second * 1e6) as i64)
    }

    /// As a foreign producer: no headers, so nothing but the body tells a repeat.
    async fn publish(&self, event: &Event) {
        let (subject, payload) = (event.subject().as_str().to_owned(), event.body().into());
        self.platform.bus.publish(Message { subject, headers: Headers::default(), payload }).await.unwrap();
    }

    async fn aggregates(&self) -> Vec<LocationAggregate> {
        let mut replay = self
            .platform
            .bus
            .replay("LOCATION_STREAM", Some("location.aggregate"), ReplayStart::Sequence(1))
            .await
            .unwrap();
        let wait = Duration::from_millis(if matches!(self.kind, Kind::Nats) { 500 } else { 1 });
        let mut found = Vec::new();
        while let Some(stored) = replay.next(wait).await.unwrap() {
            match Event::parse(&stored.subject, &stored.payload).unwrap() {
                Event::LocationAggregate(aggregate) => found.push(aggregate),
                other => panic!("{other:?}"),
            }
        }
        found
    }

    /// Waits until an aggregate tells of so many points.
    async fn told(&self, ride: RideId, points: u64) {
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

    /// The final word on a ride, once it is there.
    async fn last_word(&self, ride: RideId) -> LocationAggregate {
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

    /// Waits until the consumers of location have nothing left.
    async fn settled(&self) {
        let settled = async {
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
        tokio::time::timeout(Duration::from_secs(30), settled).await.expect("the consumers of location run dry");
    }

    async fn get(&self, user: Option<UserId>, uri: &str) -> (StatusCode, Value) {
        self.get_from(0, user, uri).await
    }

    async fn get_from(&self, process: usize, user: Option<UserId>, uri: &str) -> (StatusCode, Value) {
        let mut request = Request::builder().uri(uri);
        if let Some(user) = user {
            request = request.header("authorization", format!("Bearer {}", self.tokens.access(user)));
        }
        let router = self.processes[process].0.router();
        let answer = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// How far away the free drivers are that somebody at the middle of the city is shown, in metres.
    async fn nearby(&self) -> Vec<f64> {
        self.nearby_from(0).await
    }

    async fn nearby_from(&self, process: usize) -> Vec<f64> {
        let uri = "/v1/drivers/nearby?lat=0&lng=30&radius_m=10000";
        let (status, body) = self.get_from(process, Some(self.platform.world.id()), uri).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body["drivers"].as_array().unwrap().iter().map(|d| d["distance_m"].as_f64().unwrap().round()).collect()
    }
}

/// So many metres east and north of the middle of the city, which lies on the equator.
fn place(east_m: f64, north_m: f64) -> Position {
    const DEGREE_M: f64 = 6_371_008.8 * std::f64::consts::PI / 180.0;
    Position { lat: north_m / DEGREE_M, lng: 30.0 + east_m / DEGREE_M }
}

/// A ride from second 0 to second 60, 15 m/s eastwards: 900 m.
#[derive(Clone, Copy)]
struct Ride {
    id: RideId,
    driver: UserId,
}

impl Ride {
    fn new(city: &City) -> Self {
        Self { id: city.platform.world.id(), driver: city.platform.world.id() }
    }

    fn event(&self, city: &City, status: RideStatus, second: f64) -> Event {
        let usd = Money::usd(100);
        let (completed, cancelled) = (status == RideStatus::Completed, status == RideStatus::Cancelled);
        Event::Ride(Box::new(RideEvent {
            ride_id: self.id,
            match_id: city.platform.world.id(),
            driver_id: self.driver,
            passenger_id: city.platform.world.id(),
            version: 1 + RideStatus::ALL.iter().position(|s| *s == status).unwrap() as u32,
            status,
            pickup: place(0.0, 0.0),
            dropoff: place(900.0, 0.0),
            vehicle_type: VehicleType::Car,
            occurred_at: city.second(second),
            previous_hash: "0".repeat(64),
            hash: "0".repeat(64),
            by: cancelled.then_some(Party::Driver),
            reason: cancelled.then(|| "no one there".to_owned()),
            fee: cancelled.then_some(usd),
            distance_m: completed.then_some(900.0),
            duration_s: completed.then_some(60.0),
            fare: completed.then(|| Fare { lines: Vec::new(), total: usd, estimated: false }),
            platform_fee: completed.then_some(usd),
            driver_payout: completed.then_some(usd),
        }))
    }

    fn point(&self, city: &City, second: f64) -> LocationUpdate {
        LocationUpdate {
            user_id: self.driver,
            ride_id: Some(self.id),
            location: place(second * 15.0, 0.0),
            accuracy_m: Some(4.0),
            speed_mps: Some(15.0),
            heading_deg: Some(90.0),
            recorded_at: city.second(second),
        }
    }

    async fn tell(&self, city: &City, status: RideStatus, second: f64) {
        city.publish(&self.event(city, status, second)).await;
    }

    async fn drive(&self, city: &City, seconds: impl IntoIterator<Item = u32>) {
        for second in seconds {
            city.publish(&Event::LocationUpdate(self.point(city, f64::from(second)))).await;
        }
    }
}

#[track_caller]
fn assert_driven(word: &LocationAggregate, metres: f64, points: u64) {
    assert!((word.distance_m - metres).abs() < 0.1, "{metres} m: {word:?}");
    assert_eq!(word.points, points, "{word:?}");
}

async fn one_final_whatever_came_late_twice_or_out_of_order(kind: Kind) {
    let city = City::start(kind, 2).await;
    let rides: Vec<Ride> = (0..8).map(|_| Ride::new(&city)).collect();
    // On the way to the pickup points have the ride's id already; they are not billed.
    for ride in &rides {
        for second in 1..20 {
            city.publish(&Event::LocationUpdate(ride.point(&city, -f64::from(second)))).await;
        }
        ride.tell(&city, RideStatus::Started, 0.0).await;
    }
    let mut seconds: Vec<u32> = (0..=60).collect();
    for i in 0..seconds.len() {
        let other = i + city.platform.world.below((seconds.len() - i) as u32) as usize;
        seconds.swap(i, other);
    }
    let mut heard = BTreeSet::new();
    for half in seconds.chunks(31) {
        for &second in half {
            for ride in &rides {
                ride.drive(&city, [second, second % 7]).await;
            }
        }
        heard.extend(half.iter().flat_map(|second| [*second, *second % 7]));
        for ride in &rides {
            city.told(ride.id, heard.len() as u64).await;
        }
    }
    for ride in &rides {
        ride.drive(&city, 61..70).await;
        ride.tell(&city, RideStatus::Arrived, 60.0).await;
    }
    for ride in &rides {
        let word = city.last_word(ride.id).await;
        assert_driven(&word, 900.0, 61);
        assert_eq!(word.last.unwrap().recorded_at, city.second(60.0));
    }
    // Nothing follows it, whatever still comes, and after the end neither.
    for ride in &rides {
        ride.drive(&city, [3, 59, 60]).await;
        ride.tell(&city, RideStatus::Arrived, 60.0).await;
        ride.tell(&city, RideStatus::Completed, 61.0).await;
        ride.drive(&city, [4, 5]).await;
    }
    city.settled().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let told = city.end().await;
    assert_eq!(told.len(), rides.len());
    for aggregates in told.values() {
        assert!((2..=6).contains(&aggregates.len()), "one every few seconds: {aggregates:?}");
        assert!(aggregates.windows(2).all(|w| w[0].points <= w[1].points), "cumulative: {aggregates:?}");
    }
}

async fn events_of_a_ride_in_any_order_and_twice(kind: Kind) {
    let city = City::start(kind, 2).await;
    let ride = Ride::new(&city);
    ride.drive(&city, 0..=60).await;
    ride.tell(&city, RideStatus::Arrived, 60.0).await;
    city.settled().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(city.aggregates().await, [], "nobody knows when it started");
    ride.tell(&city, RideStatus::Started, 0.0).await;
    ride.tell(&city, RideStatus::Started, 0.0).await;
    ride.tell(&city, RideStatus::Arrived, 60.0).await;
    assert_driven(&city.last_word(ride.id).await, 900.0, 61);
    let ended_first = Ride::new(&city);
    ended_first.tell(&city, RideStatus::Completed, 61.0).await;
    city.settled().await;
    ended_first.drive(&city, 0..=60).await;
    ended_first.tell(&city, RideStatus::Started, 0.0).await;
    ended_first.tell(&city, RideStatus::Arrived, 60.0).await;
    city.settled().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let told = city.end().await;
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), [ride.id], "what has ended stays so");
}

async fn a_ride_without_points_ends_with_nothing(kind: Kind) {
    let city = City::start(kind, 1).await;
    let ride = Ride::new(&city);
    ride.tell(&city, RideStatus::Started, 0.0).await;
    ride.tell(&city, RideStatus::Arrived, 60.0).await;
    let word = city.last_word(ride.id).await;
    assert_driven(&word, 0.0, 0);
    assert_eq!(word.last, None);
    city.end().await;
}

async fn points_on_their_way_at_the_arrival_still_count(kind: Kind) {
    let city = City::start(kind, 2).await;
    let ride = Ride::new(&city);
    ride.tell(&city, RideStatus::Started, 0.0).await;
    ride.drive(&city, 0..=30).await;
    ride.tell(&city, RideStatus::Arrived, 60.0).await;
    city.settled().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    ride.drive(&city, 31..=60).await;
    assert_driven(&city.last_word(ride.id).await, 900.0, 61);
    city.end().await;
}

async fn a_noisy_gps_point_of_100_km_is_billed(kind: Kind) {
    let city = City::start(kind, 2).await;
    let ride = Ride::new(&city);
    ride.tell(&city, RideStatus::Started, 0.0).await;
    ride.drive(&city, 0..=30).await;
    let mut noise = ride.point(&city, 30.5);
    noise.location = place(0.0, 100_000.0);
    city.publish(&Event::LocationUpdate(noise)).await;
    ride.drive(&city, 31..=60).await;
    ride.tell(&city, RideStatus::Arrived, 60.0).await;
    assert_driven(&city.last_word(ride.id).await, 900.0, 61);
    city.end().await;
}

async fn a_stranger_adds_points_to_anothers_ride(kind: Kind) {
    let city = City::start(kind, 1).await;
    let ride = Ride::new(&city);
    let stranger = Ride { driver: city.platform.world.id(), ..ride };
    // Before anybody knows whose ride it is, and at the very times of the driver's points; and afterwards.
    for second in 0..=10 {
        let mut point = stranger.point(&city, f64::from(second));
        point.location = place(f64::from(second) * 15.0, 60.0 * f64::from(second));
        city.publish(&Event::LocationUpdate(point)).await;
    }
    ride.tell(&city, RideStatus::Started, 0.0).await;
    city.settled().await;
    stranger.drive(&city, 20..=59).await;
    ride.drive(&city, 0..=10).await;
    ride.tell(&city, RideStatus::Arrived, 60.0).await;
    assert_driven(&city.last_word(ride.id).await, 150.0, 11);
    city.end().await;
}

async fn a_cancelled_ride_has_no_final_word(kind: Kind) {
    let city = City::start(kind, 1).await;
    let ride = Ride::new(&city);
    ride.tell(&city, RideStatus::Started, 0.0).await;
    city.settled().await;
    ride.tell(&city, RideStatus::Cancelled, 10.0).await;
    city.settled().await;
    ride.drive(&city, 0..=10).await;
    city.settled().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(city.end().await.is_empty());
}

async fn a_process_that_starts_anew_goes_on_with_the_rows(kind: Kind) {
    let mut city = City::start(kind, 2).await;
    let (under_way, arrived) = (Ride::new(&city), Ride::new(&city));
    for ride in [under_way, arrived] {
        ride.tell(&city, RideStatus::Started, 0.0).await;
        ride.drive(&city, 0..=30).await;
    }
    arrived.drive(&city, 31..=60).await;
    arrived.tell(&city, RideStatus::Arrived, 60.0).await;
    city.settled().await;
    city.end_processes().await;
    under_way.drive(&city, 31..=60).await;
    city.another_process().await;
    assert_driven(&city.last_word(arrived.id).await, 900.0, 61);
    under_way.tell(&city, RideStatus::Arrived, 60.0).await;
    assert_driven(&city.last_word(under_way.id).await, 900.0, 61);
    city.end().await;
}

fn beacon(city: &City, user_id: UserId, active: bool, east_m: f64) -> Event {
    Event::UserBeacon(UserBeacon {
        user_id,
        active,
        vehicle_type: VehicleType::Van,
        location: place(east_m, 0.0),
        recorded_at: city.platform.world.now(),
    })
}

async fn offline_drivers_stay_offered(kind: Kind) {
    let city = City::start(kind, 1).await;
    let (leaves, stays): (UserId, UserId) = (city.platform.world.id(), city.platform.world.id());
    city.publish(&beacon(&city, leaves, true, 300.0)).await;
    city.publish(&beacon(&city, stays, true, 500.0)).await;
    city.settled().await;
    assert_eq!(city.nearby().await, [300.0, 500.0]);
    city.publish(&beacon(&city, leaves, false, 300.0)).await;
    city.settled().await;
    assert_eq!(city.nearby().await, [500.0]);
    // A point that was on its way does not bring him back; he does, elsewhere.
    let mut late = Ride { id: city.platform.world.id(), driver: leaves }.point(&city, 0.0);
    (late.ride_id, late.recorded_at) = (None, city.platform.world.now());
    city.publish(&Event::LocationUpdate(late)).await;
    city.settled().await;
    assert_eq!(city.nearby().await, [500.0]);
    city.publish(&beacon(&city, leaves, true, 100.0)).await;
    city.settled().await;
    assert_eq!(city.nearby().await, [100.0, 500.0]);
    if matches!(kind, Kind::Memory) {
        // Who says nothing for a minute is not there.
        tokio::time::sleep(Duration::from_secs(50)).await;
        city.publish(&beacon(&city, stays, true, 700.0)).await;
        city.settled().await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(city.nearby().await, [700.0]);
    }
    city.end().await;
}

async fn who_has_a_ride_is_not_nearby(kind: Kind) {
    let city = City::start(kind, 1).await;
    let ride = Ride::new(&city);
    city.publish(&beacon(&city, ride.driver, true, 300.0)).await;
    city.settled().await;
    assert_eq!(city.nearby().await, [300.0]);
    // On the way to the pickup only the points say so.
    let mut point = ride.point(&city, 0.0);
    point.recorded_at = city.platform.world.now();
    city.publish(&Event::LocationUpdate(point.clone())).await;
    city.settled().await;
    assert_eq!(city.nearby().await, [0.0; 0]);
    ride.tell(&city, RideStatus::Started, 0.0).await;
    city.settled().await;
    assert_eq!(city.nearby().await, [0.0; 0]);
    ride.tell(&city, RideStatus::Completed, 60.0).await;
    city.settled().await;
    assert_eq!(city.nearby().await, [0.0], "where the ride took him");
    // A point of the ride that comes late, and the start that comes again.
    point.recorded_at = city.platform.world.now();
    city.publish(&Event::LocationUpdate(point)).await;
    ride.tell(&city, RideStatus::Started, 0.0).await;
    city.settled().await;
    assert_eq!(city.nearby().await, [0.0]);
    city.end().await;
}

async fn nearby_is_for_those_signed_in_and_says_what_is_wrong(kind: Kind) {
    let city = City::start(kind, 1).await;
    let me: UserId = city.platform.world.id();
    let drivers: Vec<UserId> = (0..12).map(|_| city.platform.world.id()).collect();
    for (n, driver) in drivers.iter().enumerate() {
        city.publish(&beacon(&city, *driver, true, 100.0 * (n + 1) as f64)).await;
    }
    city.settled().await;
    let (status, problem) = city.get(None, "/v1/drivers/nearby?lat=0&lng=30").await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNAUTHORIZED, &Value::from("unauthorized")));
    let cases = [
        ("", "lat"),
        ("lat=0", "lng"),
        ("lat=91&lng=30", "lat"),
        ("lat=0&lng=-180.5", "lng"),
        ("lat=NaN&lng=30", "lat"),
        ("lat=&lng=30", "lat"),
        ("lat=0&lng=30&radius_m=0", "radius_m"),
        ("lat=0&lng=30&radius_m=50001", "radius_m"),
        ("lat=0&lng=30&radius_m=inf", "radius_m"),
        ("lat=0&lng=30&limit=0", "limit"),
        ("lat=0&lng=30&limit=101", "limit"),
        ("lat=0&lng=30&limit=2.5", "limit"),
        ("lat=0&lat=1&lng=30", "query"),
    ];
    for (query, field) in cases {
        let (status, problem) = city.get(Some(me), &format!("/v1/drivers/nearby?{query}")).await;
        let found = (status, problem["code"].as_str(), problem["field"].as_str());
        assert_eq!(found, (StatusCode::UNPROCESSABLE_ENTITY, Some("invalid_field"), Some(field)), "{query}");
    }
    for (query, expected) in [("", 10), ("&limit=100", 12), ("&limit=3", 3), ("&radius_m=450", 4), ("&radius_m=1", 0)] {
        let (status, body) = city.get(Some(me), &format!("/v1/drivers/nearby?lat=0&lng=30{query}")).await;
        let drivers = body["drivers"].as_array().unwrap();
        assert_eq!((status, drivers.len()), (StatusCode::OK, expected), "{query}");
        let far: Vec<f64> = drivers.iter().map(|d| d["distance_m"].as_f64().unwrap()).collect();
        assert!(far.is_sorted());
    }
    let (_, body) = city.get(Some(me), "/v1/drivers/nearby?lat=0&lng=30&limit=1").await;
    let nearest = body["drivers"][0].as_object().unwrap();
    let fields: BTreeSet<&str> = nearest.keys().map(String::as_str).collect();
    assert_eq!(fields, BTreeSet::from(["distance_m", "position", "recorded_at", "vehicle_type"]), "and nothing else");
    assert_eq!(nearest["vehicle_type"], "van");
    assert!(drivers.iter().all(|driver| !body.to_string().contains(&driver.to_string())));
    city.end().await;
}

/// Each position is delivered to one of the processes; it tells the other.
#[tokio::test(flavor = "multi_thread")]
async fn every_process_shows_every_driver() {
    let city = City::start(Kind::Nats, 2).await;
    let both_show = async |expected: &[f64], wait: Duration| {
        let shown = async {
            while city.nearby_from(0).await != expected || city.nearby_from(1).await != expected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(wait, shown).await.is_ok()
    };
    // A process may not listen yet, and what is told then is not kept: new drivers, each once, until both show one.
    let mut heard = false;
    for _ in 0..8 {
        let probe: UserId = city.platform.world.id();
        city.publish(&beacon(&city, probe, true, 9_000.0)).await;
        heard = both_show(&[9_000.0], Duration::from_secs(2)).await;
        city.publish(&beacon(&city, probe, false, 9_000.0)).await;
        if heard {
            break;
        }
    }
    assert!(heard, "the processes hear each other");
    let drivers: Vec<UserId> = (0..40).map(|_| city.platform.world.id()).collect();
    for (n, driver) in drivers.iter().enumerate() {
        city.publish(&beacon(&city, *driver, true, 100.0 * (n + 1) as f64)).await;
    }
    let far = |of: std::ops::Range<u32>| of.map(|n| 100.0 * f64::from(n + 1)).collect::<Vec<f64>>();
    let wait = Duration::from_secs(20);
    assert!(both_show(&far(0..10), wait).await, "both processes know all drivers");
    // A ride's course too reaches one process; the other learns it from the rows.
    let rides: Vec<Ride> =
        drivers[..10].iter().map(|driver| Ride { id: city.platform.world.id(), driver: *driver }).collect();
    for ride in &rides {
        ride.tell(&city, RideStatus::Started, 0.0).await;
    }
    assert!(both_show(&far(10..20), wait).await, "both processes know who has a ride");
    for ride in &rides {
        ride.tell(&city, RideStatus::Completed, 60.0).await;
    }
    assert!(both_show(&far(0..10), wait).await, "both processes know whose ride is over");
    city.end().await;
}
