//! rides as a whole: events in, requests in, events and answers out, on the memory bus, over both stores.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use platform::{CancellationToken, Health, Metrics, Platform, Store, Tokens, World};
use rides::audit::{Audit, Findings};
use rides::payment::Provider;
use rides::{Config, Rides, hash_chain, ledger};
use serde_json::Value;
use streams::bus::ReplayStart;
use streams::event::{LocationAggregate, MatchAccepted, Party, RejectReason, RideEvent};
use streams::memory::MemoryBus;
use streams::ride_command::{RIDE_COMMAND_WAIT, RIDE_COMMANDS, RideAction, RideCommand, RideReply};
use streams::topology::{DEAD_LETTER_STREAM, Topology};
use streams::{Bus, Event, Headers, Message, Money, Position, RideId, RideStatus, Service, UserId, VehicleType};
use tokio::task::JoinHandle;
use tower::ServiceExt;

/// How long a test waits for what must come.
const WAIT: Duration = Duration::from_secs(10);

struct City {
    platform: Platform,
    tokens: Tokens,
    rides: Rides,
    audit: Audit,
    stop: CancellationToken,
    run: JoinHandle<()>,
}

impl City {
    async fn start(store: Kind, config: Config) -> Self {
        let world = World::seeded("2026-03-01T08:00:00Z".parse().unwrap(), 11);
        let platform = Platform {
            bus: Bus::Memory(MemoryBus::new(world.started_at(), 100_000)),
            topology: Arc::new(Topology::rideshare()),
            metrics: Arc::new(Metrics::new()),
            health: Arc::new(Health::default()),
            shutdown: CancellationToken::new(),
            pod: "test".into(),
            world: world.clone(),
        };
        platform.bus.apply(&platform.topology).await.unwrap();
        let tokens = Tokens::new(&world, &[3; 32]).unwrap();
        let store = match store {
            Kind::Memory => Store::memory(&world, &platform.pod),
            Kind::Postgres => {
                let url = testing::database::fresh().await;
                Store::postgres(&world, &platform.pod, &url, "rides", &rides::MIGRATIONS, 8).await.unwrap()
            }
        };
        let rides = Rides::start(&platform, &store, tokens.clone(), config).await.unwrap();
        let audit = Audit::new(&platform.bus, &store, &platform.world);
        let stop = CancellationToken::new();
        let run = tokio::spawn(rides.clone().run(stop.clone()));
        Self { platform, tokens, rides, audit, stop, run }
    }

    /// Every test ends with a graceful stop, a sound trail and balanced books.
    async fn end(mut self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(30), &mut self.run).await.expect("it stops in time").unwrap();
        let mut trail: Vec<RideEvent> = self.trail().await;
        trail.sort_by_key(|event| (event.ride_id, event.version));
        for ride in trail.chunk_by(|a, b| a.ride_id == b.ride_id) {
            assert_eq!(hash_chain::verify_chain(ride), Ok(()));
            let kept = self.rides.events(ride[0].ride_id).await.unwrap();
            let kept: Vec<RideEvent> =
                kept.iter().map(|e| hash_chain::verify_body(&e.subject, e.body.as_bytes()).unwrap()).collect();
            assert_eq!(kept, ride, "what is kept is what was published");
        }
        let report = self.audit.verify().await.unwrap();
        assert_eq!(report.findings, Findings::default());
        assert_eq!((report.messages, report.waiting), (report.events, 0));
    }

    fn matched(&self) -> MatchAccepted {
        let world = &self.platform.world;
        MatchAccepted {
            match_id: world.id(),
            request_id: world.id(),
            driver_id: world.id(),
            passenger_id: world.id(),
            pickup: Position { lat: 40.7484, lng: -73.9857 },
            dropoff: Position { lat: 40.7061, lng: -73.9969 },
            vehicle_type: VehicleType::Car,
            accepted_at: world.now(),
        }
    }

    async fn publish(&self, event: &Event) {
        let world = &self.platform.world;
        let (subject, id) = (event.subject().as_str(), event.message_id(world.now()));
        let trace = world.trace();
        let entity = event.entity_id().to_string();
        let body = Bytes::from(event.body());
        let message =
            platform::outbox::message(subject, &id, &entity, world.now(), trace.as_str(), Service::Users, body);
        self.platform.bus.publish(message).await.unwrap();
    }

    /// As a foreign producer: no headers, so nothing but the body tells a repeat.
    async fn publish_bare(&self, event: &Event) {
        let (subject, payload) = (event.subject().as_str().to_owned(), Bytes::from(event.body()));
        self.platform.bus.publish(Message { subject, headers: Headers::default(), payload }).await.unwrap();
    }

    async fn aggregate(&self, ride: RideId, driver_id: UserId, distance_m: f64, is_final: bool) -> Event {
        let event = Event::LocationAggregate(LocationAggregate {
            ride_id: ride,
            driver_id,
            distance_m,
            points: 9,
            last: None,
            is_final,
        });
        self.publish_bare(&event).await;
        event
    }

    async fn all(&self, stream: &str, filter: &str) -> Vec<Message> {
        let mut replay = self.platform.bus.replay(stream, Some(filter), ReplayStart::Sequence(1)).await.unwrap();
        let mut found = Vec::new();
        while let Some(stored) = replay.next(Duration::from_millis(1)).await.unwrap() {
            found.push(Message { subject: stored.subject, headers: stored.headers, payload: stored.payload });
        }
        found
    }

    async fn trail(&self) -> Vec<RideEvent> {
        let all = self.all("RIDE_STREAM", "ride.>").await;
        all.iter().map(|m| hash_chain::verify_body(&m.subject, &m.payload).unwrap()).collect()
    }

    /// The event of the ride of `of` with this status, once it is there.
    async fn event(&self, of: &MatchAccepted, status: RideStatus) -> RideEvent {
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

    /// The first that is rejected is this match, for another one.
    async fn told_lost(&self, lost: &MatchAccepted) {
        let bus = &self.platform.bus;
        let mut rejected = bus.replay("MATCH_STREAM", Some("match.rejected"), ReplayStart::Sequence(1)).await.unwrap();
        let stored = rejected.next(WAIT).await.unwrap().expect("the loser hears of it");
        let Ok(Event::MatchRejected(rejected)) = Event::parse(&stored.subject, &stored.payload) else { panic!() };
        assert_eq!((rejected.match_id, rejected.reason), (lost.match_id, RejectReason::Superseded));
        assert_eq!((rejected.driver_id, rejected.passenger_id), (lost.driver_id, lost.passenger_id));
    }

    /// Waits until the consumers of rides have nothing left and all that rides wrote is published.
    async fn settled(&self) {
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

    async fn ask(&self, user_id: UserId, ride_id: RideId, action: RideAction) -> String {
        let traceparent = self.platform.world.trace().as_str().to_owned();
        let command = RideCommand { user_id, ride_id, action, traceparent };
        let body = Bytes::from(serde_json::to_vec(&command).unwrap());
        let reply = self.platform.bus.request(RIDE_COMMANDS, body, RIDE_COMMAND_WAIT).await.unwrap();
        match serde_json::from_slice(&reply).unwrap() {
            RideReply::Ok(data) => format!("{} {}", data["status"].as_str().unwrap(), data["version"]),
            RideReply::Error { code, .. } => code,
        }
    }

    async fn start_ride(&self, user: UserId, ride: RideId) -> String {
        let pin = self.tokens.ride_pin(ride);
        self.ask(user, ride, RideAction::Start { pin }).await
    }

    async fn cancel(&self, user: UserId, ride: RideId) -> String {
        self.ask(user, ride, RideAction::Cancel { reason: "changed plans".to_owned() }).await
    }

    /// A new ride of these two, driven to its dropoff.
    async fn arrived(&self, matched: &MatchAccepted) -> RideEvent {
        self.publish(&Event::MatchAccepted(matched.clone())).await;
        let ride = self.event(matched, RideStatus::Pickup).await;
        assert_eq!(self.start_ride(ride.driver_id, ride.ride_id).await, "started 2");
        assert_eq!(self.ask(ride.driver_id, ride.ride_id, RideAction::Arrive).await, "arrived 3");
        ride
    }

    async fn books(&self, of: &MatchAccepted, provider: &str) -> [i64; 4] {
        let cash = format!("cash:{provider}");
        let accounts = [&ledger::passenger(of.passenger_id), &ledger::driver(of.driver_id), ledger::REVENUE, &cash];
        let mut found = [0; 4];
        for (balance, account) in found.iter_mut().zip(accounts) {
            *balance = self.rides.balance(account).await.unwrap();
        }
        assert_eq!(found.iter().sum::<i64>(), 0, "the books balance");
        found
    }

    async fn get(&self, user: Option<UserId>, uri: &str) -> (StatusCode, Value) {
        let mut request = Request::builder().uri(uri);
        if let Some(user) = user {
            request = request.header("authorization", format!("Bearer {}", self.tokens.access(user)));
        }
        let answer = self.rides.router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Memory,
    Postgres,
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

// After the macro, which it uses too.
mod audit;

on_both!(
    one_ride_from_match_to_receipt,
    redelivery_bills_twice,
    a_driver_gets_two_live_rides,
    a_passenger_gets_two,
    a_stranger_starts_or_ends_anothers_ride,
    a_driver_bills_anothers_ride,
    payment_refused_leaves_both_parties_locked,
    a_match_heard_of_after_its_request_was_served_is_lost,
    many_short_hops_bill_nothing,
    a_late_cancellation_is_billed_like_a_fare,
    without_a_final_distance_the_estimate_bills,
    wrong_pins_are_counted_across_requests,
    own_rides_page_by_page,
    a_hundred_matches_at_once,
);

async fn one_ride_from_match_to_receipt(kind: Kind) {
    let city = City::start(kind, Config::default()).await;
    let matched = city.matched();
    let (driver, passenger) = (matched.driver_id, matched.passenger_id);
    city.publish(&Event::MatchAccepted(matched.clone())).await;
    let pickup = city.event(&matched, RideStatus::Pickup).await;
    assert_eq!((pickup.version, pickup.previous_hash.as_str()), (1, hash_chain::NOTHING_BEFORE));
    let ride = pickup.ride_id;
    let uri = format!("/v1/rides/{ride}");

    let (status, view) = city.get(Some(passenger), &uri).await;
    assert_eq!((status, view["status"].as_str()), (StatusCode::OK, Some("pickup")));
    assert_eq!(view["pin"], city.tokens.ride_pin(ride));
    assert_eq!(city.get(Some(driver), &uri).await.1.get("pin"), None, "the driver must ask for it");

    assert_eq!(city.ask(driver, ride, RideAction::Arrive).await, "ride_not_started");
    assert_eq!(city.start_ride(driver, ride).await, "started 2");
    assert_eq!(city.start_ride(driver, ride).await, "started 2", "a repeat has no second effect");
    city.aggregate(ride, driver, 2_000.0, false).await;
    assert_eq!(city.ask(driver, ride, RideAction::Arrive).await, "arrived 3");
    assert_eq!(city.ask(driver, ride, RideAction::Arrive).await, "arrived 3");
    assert_eq!(city.cancel(passenger, ride).await, "ride_arrived");
    city.aggregate(ride, driver, 5_000.0, true).await;

    let completed = city.event(&matched, RideStatus::Completed).await;
    let fare = completed.fare.clone().unwrap();
    assert_eq!(completed.distance_m, Some(5_000.0));
    assert!(!fare.estimated);
    assert_eq!(fare.total.amount, fare.lines.iter().map(|l| l.amount.amount).sum::<i64>());
    let (fee, payout) = (completed.platform_fee.unwrap(), completed.driver_payout.unwrap());
    assert_eq!(fee.amount + payout.amount, fare.total.amount);
    assert_eq!(city.cancel(driver, ride).await, "ride_ended");

    city.settled().await;
    assert_eq!(city.books(&matched, "ledger").await, [0, -payout.amount, -fee.amount, fare.total.amount]);
    let (_, view) = city.get(Some(passenger), &uri).await;
    assert_eq!(view["status"], "completed");
    assert_eq!(view["payment"]["status"], "captured");
    assert_eq!(view["fare"], serde_json::to_value(&fare).unwrap());
    assert_eq!(view["cancelled"], Value::Null);
    assert_eq!(view.get("pin"), None);
    let statuses: Vec<_> = city.trail().await.iter().map(|e| (e.version, e.status.as_str())).collect();
    assert_eq!(statuses, [(1, "pickup"), (2, "started"), (3, "arrived"), (4, "completed")]);
    city.end().await;
}

async fn redelivery_bills_twice(kind: Kind) {
    let city = City::start(kind, Config::default()).await;
    let matched = city.matched();
    let ride = city.arrived(&matched).await;
    city.aggregate(ride.ride_id, ride.driver_id, 5_000.0, true).await;
    let completed = city.event(&matched, RideStatus::Completed).await;
    city.settled().await;
    let before = city.books(&matched, "ledger").await;
    let total = completed.fare.unwrap().total;
    assert_eq!(before[3], total.amount);

    // All of it again, as foreign producers and restarted servers send it: under new ids.
    city.publish_bare(&Event::MatchAccepted(matched.clone())).await;
    city.aggregate(ride.ride_id, ride.driver_id, 9_000.0, true).await;
    city.aggregate(ride.ride_id, ride.driver_id, 5_000.0, true).await;
    let capture = streams::event::PaymentCapture {
        payment_id: city.rides.payment(ride.ride_id).await.unwrap().unwrap().payment_id,
        ride_id: ride.ride_id,
        passenger_id: ride.passenger_id,
        driver_id: ride.driver_id,
        amount: total,
    };
    for _ in 0..3 {
        city.publish_bare(&Event::PaymentCapture(capture.clone())).await;
    }
    city.settled().await;
    assert_eq!(city.books(&matched, "ledger").await, before);
    assert_eq!(city.trail().await.len(), 4);
    assert_eq!(city.all(DEAD_LETTER_STREAM, "dead_letter.>").await, []);
    city.end().await;
}

async fn two_live_rides(kind: Kind, share: impl FnOnce(&MatchAccepted, &mut MatchAccepted)) {
    let city = City::start(kind, Config::default()).await;
    let (first, mut other) = (city.matched(), city.matched());
    share(&first, &mut other);
    city.publish(&Event::MatchAccepted(first.clone())).await;
    let ride = city.event(&first, RideStatus::Pickup).await;
    city.publish(&Event::MatchAccepted(other.clone())).await;
    city.told_lost(&other).await;
    assert_eq!(city.trail().await.len(), 1);

    // What was lost stays lost; a new match of the same people after the ride is a ride again.
    assert_eq!(city.cancel(ride.driver_id, ride.ride_id).await, "cancelled 2");
    city.publish_bare(&Event::MatchAccepted(other.clone())).await;
    city.settled().await;
    let again = MatchAccepted { match_id: city.platform.world.id(), ..other };
    city.publish(&Event::MatchAccepted(again.clone())).await;
    city.event(&again, RideStatus::Pickup).await;
    assert_eq!(city.trail().await.len(), 3);
    assert_eq!(city.all("MATCH_STREAM", "match.rejected").await.len(), 1);
    city.end().await;
}

async fn a_driver_gets_two_live_rides(kind: Kind) {
    Box::pin(two_live_rides(kind, |first, other| other.driver_id = first.driver_id)).await;
}

async fn a_passenger_gets_two(kind: Kind) {
    Box::pin(two_live_rides(kind, |first, other| other.passenger_id = first.passenger_id)).await;
}

async fn a_stranger_starts_or_ends_anothers_ride(kind: Kind) {
    let city = City::start(kind, Config::default()).await;
    let (matched, elsewhere) = (city.matched(), city.matched());
    for one in [&matched, &elsewhere] {
        city.publish(&Event::MatchAccepted(one.clone())).await;
        city.event(one, RideStatus::Pickup).await;
    }
    let ride = city.event(&matched, RideStatus::Pickup).await.ride_id;
    for stranger in [elsewhere.driver_id, elsewhere.passenger_id, city.platform.world.id()] {
        assert_eq!(city.start_ride(stranger, ride).await, "not_found");
        assert_eq!(city.ask(stranger, ride, RideAction::Arrive).await, "not_found");
        assert_eq!(city.cancel(stranger, ride).await, "not_found");
        let (status, problem) = city.get(Some(stranger), &format!("/v1/rides/{ride}")).await;
        assert_eq!((status, problem["code"].as_str()), (StatusCode::NOT_FOUND, Some("not_found")));
    }
    // The passenger may not play the driver either.
    assert_eq!(city.start_ride(matched.passenger_id, ride).await, "forbidden");
    assert_eq!(city.ask(matched.passenger_id, ride, RideAction::Arrive).await, "forbidden");
    assert_eq!(city.start_ride(matched.driver_id, city.platform.world.id()).await, "not_found");
    assert_eq!(city.trail().await.len(), 2);
    assert_eq!(city.get(None, &format!("/v1/rides/{ride}")).await.0, StatusCode::UNAUTHORIZED);
    city.end().await;
}

async fn a_driver_bills_anothers_ride(kind: Kind) {
    let city = City::start(kind, Config::default()).await;
    let matched = city.matched();
    let ride = city.arrived(&matched).await;
    // Another driver's distance, a ride that is none, and a capture that nobody billed.
    let other: UserId = city.platform.world.id();
    city.aggregate(ride.ride_id, other, 900_000.0, true).await;
    city.aggregate(city.platform.world.id(), other, 5_000.0, true).await;
    let forged = streams::event::PaymentCapture {
        payment_id: city.platform.world.id(),
        ride_id: ride.ride_id,
        passenger_id: ride.passenger_id,
        driver_id: other,
        amount: Money::usd(99_999),
    };
    city.publish_bare(&Event::PaymentCapture(forged)).await;
    city.settled().await;
    let letters = city.all(DEAD_LETTER_STREAM, "dead_letter.>").await;
    let mut by: Vec<&str> = letters.iter().map(|m| m.subject.as_str()).collect();
    by.sort_unstable();
    let aggregate = "dead_letter.location_aggregate_rides";
    assert_eq!(by, [aggregate, aggregate, "dead_letter.payment_capture_rides"]);
    assert_eq!(city.trail().await.len(), 3, "still arrived");
    assert_eq!(city.books(&matched, "ledger").await, [0; 4]);

    city.aggregate(ride.ride_id, ride.driver_id, 1_000.0, true).await;
    let completed = city.event(&matched, RideStatus::Completed).await;
    assert_eq!(completed.distance_m, Some(1_000.0));
    city.end().await;
}

async fn payment_refused_leaves_both_parties_locked(kind: Kind) {
    let city = City::start(kind, Config { provider: Provider::Refusing, ..Config::default() }).await;
    let matched = city.matched();
    let ride = city.arrived(&matched).await;
    city.aggregate(ride.ride_id, ride.driver_id, 5_000.0, true).await;
    let total = city.event(&matched, RideStatus::Completed).await.fare.unwrap().total;
    city.settled().await;
    let (_, view) = city.get(Some(ride.passenger_id), &format!("/v1/rides/{}", ride.ride_id)).await;
    assert_eq!((view["status"].as_str(), view["payment"]["status"].as_str()), (Some("completed"), Some("refused")));
    let debts = city.rides.debts(ride.passenger_id).await.unwrap();
    assert_eq!(debts.iter().map(|d| (d.ride_id, d.amount)).collect::<Vec<_>>(), [(ride.ride_id, total)]);
    // Still owed by the passenger; the driver is owed the payout all the same.
    let books = city.books(&matched, "refuse").await;
    assert_eq!((books[0], books[3]), (total.amount, 0));
    // And both ride on.
    let (match_id, request_id) = (city.platform.world.id(), city.platform.world.id());
    let again = MatchAccepted { match_id, request_id, ..matched };
    city.publish(&Event::MatchAccepted(again.clone())).await;
    city.event(&again, RideStatus::Pickup).await;
    city.end().await;
}

/// Another driver had accepted before, and nobody heard of it until the ride was over.
async fn a_match_heard_of_after_its_request_was_served_is_lost(kind: Kind) {
    let city = City::start(kind, Config::default()).await;
    let matched = city.matched();
    let late = MatchAccepted { request_id: matched.request_id, passenger_id: matched.passenger_id, ..city.matched() };
    city.publish(&Event::MatchAccepted(matched.clone())).await;
    let ride = city.event(&matched, RideStatus::Pickup).await;
    assert_eq!(city.cancel(ride.driver_id, ride.ride_id).await, "cancelled 2");
    city.publish(&Event::MatchAccepted(late.clone())).await;
    city.told_lost(&late).await;
    assert_eq!(city.trail().await.len(), 2, "no second ride");
    city.end().await;
}

async fn many_short_hops_bill_nothing(kind: Kind) {
    let city = City::start(kind, Config::default()).await;
    let matched = city.matched();
    let ride = city.arrived(&matched).await;
    // A kilometre in hops of a metre: the distances are cumulative, and the last one counts as it is.
    for metre in 1..1_000 {
        city.aggregate(ride.ride_id, ride.driver_id, f64::from(metre), false).await;
    }
    city.aggregate(ride.ride_id, ride.driver_id, 8_000.0, true).await;
    let completed = city.event(&matched, RideStatus::Completed).await;
    let fare = completed.fare.unwrap();
    let distance = fare.lines.iter().find(|l| l.name == "distance").unwrap();
    assert_eq!(distance.amount, Money::usd(960));
    // And a ride of no distance at all costs the minimum.
    let still = city.matched();
    let ride = city.arrived(&still).await;
    city.aggregate(ride.ride_id, ride.driver_id, 0.0, true).await;
    let fare = city.event(&still, RideStatus::Completed).await.fare.unwrap();
    assert_eq!(fare.total, Money::usd(600));
    city.end().await;
}

async fn a_late_cancellation_is_billed_like_a_fare(kind: Kind) {
    let city = City::start(kind, Config::default()).await;
    let matched = city.matched();
    city.publish(&Event::MatchAccepted(matched.clone())).await;
    let ride = city.event(&matched, RideStatus::Pickup).await.ride_id;
    assert_eq!(city.start_ride(matched.driver_id, ride).await, "started 2");
    assert_eq!(
        city.ask(matched.passenger_id, ride, RideAction::Cancel { reason: String::new() }).await,
        "invalid_field"
    );
    assert_eq!(city.cancel(matched.passenger_id, ride).await, "cancelled 3");
    assert_eq!(city.cancel(matched.passenger_id, ride).await, "cancelled 3");
    assert_eq!(city.cancel(matched.driver_id, ride).await, "ride_ended");
    let cancelled = city.event(&matched, RideStatus::Cancelled).await;
    assert_eq!((cancelled.by, cancelled.fee), (Some(Party::Passenger), Some(Money::usd(600))));
    city.settled().await;
    assert_eq!(city.books(&matched, "ledger").await, [0, -480, -120, 600]);
    let (_, view) = city.get(Some(matched.driver_id), &format!("/v1/rides/{ride}")).await;
    assert_eq!(view["cancelled"]["by"], "passenger");
    assert_eq!(view["cancelled"]["fee"]["amount"], 600);
    assert_eq!(view["payment"]["status"], "captured");

    // One that costs nothing has no payment.
    let free = city.matched();
    city.publish(&Event::MatchAccepted(free.clone())).await;
    let ride = city.event(&free, RideStatus::Pickup).await.ride_id;
    assert_eq!(city.cancel(free.passenger_id, ride).await, "cancelled 2");
    city.settled().await;
    let (_, view) = city.get(Some(free.driver_id), &format!("/v1/rides/{ride}")).await;
    assert_eq!(view["payment"], Value::Null);
    city.end().await;
}

async fn without_a_final_distance_the_estimate_bills(kind: Kind) {
    // A minute under paused time; real time waits one second.
    let completion_wait_s = if matches!(kind, Kind::Memory) { 60 } else { 1 };
    let city = City::start(kind, Config { completion_wait_s, ..Config::default() }).await;
    let matched = city.matched();
    let ride = city.arrived(&matched).await;
    city.aggregate(ride.ride_id, ride.driver_id, 2_000.0, false).await;
    let arrived = city.event(&matched, RideStatus::Arrived).await;
    let completed = city.event(&matched, RideStatus::Completed).await;
    let waited = (completed.occurred_at - arrived.occurred_at).as_seconds_f64();
    let wanted = completion_wait_s as f64;
    assert!((wanted..wanted + 2.0).contains(&waited), "after {waited} s");
    let fare = completed.fare.unwrap();
    assert!(fare.estimated);
    let (distance_m, _) = pricing::estimate(&matched.pickup, &matched.dropoff);
    assert_eq!(completed.distance_m, Some(distance_m));
    // The final one comes after all, and changes nothing.
    city.aggregate(ride.ride_id, ride.driver_id, 9_000.0, true).await;
    city.settled().await;
    assert_eq!(city.trail().await.len(), 4);
    assert_eq!(city.books(&matched, "ledger").await[3], fare.total.amount);
    city.end().await;
}

async fn wrong_pins_are_counted_across_requests(kind: Kind) {
    let city = City::start(kind, Config::default()).await;
    let matched = city.matched();
    city.publish(&Event::MatchAccepted(matched.clone())).await;
    let ride = city.event(&matched, RideStatus::Pickup).await.ride_id;
    for _ in 0..5 {
        let pin = "none".to_owned();
        assert_eq!(city.ask(matched.driver_id, ride, RideAction::Start { pin }).await, "wrong_pin");
    }
    assert_eq!(city.start_ride(matched.driver_id, ride).await, "pin_locked");
    if matches!(kind, Kind::Memory) {
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(city.start_ride(matched.driver_id, ride).await, "started 2");
    }
    city.end().await;
}

async fn own_rides_page_by_page(kind: Kind) {
    let city = City::start(kind, Config::default()).await;
    let mut matched = city.matched();
    let mut all = Vec::new();
    for _ in 0..5 {
        (matched.match_id, matched.request_id) = (city.platform.world.id(), city.platform.world.id());
        city.publish(&Event::MatchAccepted(matched.clone())).await;
        let ride = city.event(&matched, RideStatus::Pickup).await.ride_id;
        assert_eq!(city.cancel(matched.driver_id, ride).await, "cancelled 2");
        all.insert(0, ride.to_string());
        // Paused time stands still by itself, and rides of one moment are in the order of their ids.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (mut found, mut uri) = (Vec::new(), "/v1/rides?limit=2".to_owned());
    loop {
        let (status, page) = city.get(Some(matched.passenger_id), &uri).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        found.extend(page["rides"].as_array().unwrap().iter().map(|r| r["ride_id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        uri = format!("/v1/rides?limit=2&cursor={cursor}");
    }
    assert_eq!(found, all);
    assert_eq!(city.get(Some(city.platform.world.id()), "/v1/rides").await.1["rides"], Value::Array(Vec::new()));
    for (query, field) in [("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("cursor=abc", "cursor")]
    {
        let (status, problem) = city.get(Some(matched.driver_id), &format!("/v1/rides?{query}")).await;
        assert_eq!((status, problem["field"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some(field)), "{query}");
        assert_eq!(problem["code"], "invalid_field");
    }
    let (status, _) = city.get(Some(matched.driver_id), "/v1/rides/no-such-id").await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    let good = "/v1/estimates?pickup=40.7484,-73.9857&dropoff=40.7061,-73.9969&vehicle_type=car";
    let (status, estimate) = city.get(None, good).await;
    assert_eq!(status, StatusCode::OK, "{estimate}");
    assert_eq!(estimate["fare"]["total"]["currency"], "USD");
    assert!(estimate["distance_m"].as_f64().unwrap() > 4_000.0);
    for (bad, field) in [
        ("pickup=91,0&dropoff=0,0&vehicle_type=car", "pickup"),
        ("pickup=0,0&dropoff=0&vehicle_type=car", "dropoff"),
        ("pickup=0,0&dropoff=NaN,0&vehicle_type=car", "dropoff"),
        ("pickup=0,0&dropoff=0,0&vehicle_type=boat", "vehicle_type"),
        ("pickup=0,0&dropoff=0,0", "vehicle_type"),
    ] {
        let (status, problem) = city.get(None, &format!("/v1/estimates?{bad}")).await;
        assert_eq!((status, problem["field"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some(field)), "{bad}");
    }
    city.end().await;
}

async fn a_hundred_matches_at_once(kind: Kind) {
    let city = City::start(kind, Config::default()).await;
    let matches: Vec<MatchAccepted> = (0..100).map(|_| city.matched()).collect();
    for matched in &matches {
        city.publish(&Event::MatchAccepted(matched.clone())).await;
        // Broken and impossible ones among them delay nobody else.
        let bad = Message {
            subject: "match.accepted".to_owned(),
            headers: Headers::default(),
            payload: Bytes::from_static(b"{\"match_id\": 7}"),
        };
        if matched.match_id.0.as_u128() % 10 == 0 {
            city.platform.bus.publish(bad).await.unwrap();
        }
    }
    let own =
        MatchAccepted { passenger_id: matches[0].driver_id, match_id: city.platform.world.id(), ..matches[0].clone() };
    city.publish(&Event::MatchAccepted(own)).await;
    for matched in &matches {
        city.event(matched, RideStatus::Pickup).await;
    }
    city.settled().await;
    assert_eq!(city.trail().await.len(), 100);
    assert!(!city.all(DEAD_LETTER_STREAM, "dead_letter.match_accepted_rides").await.is_empty());
    city.end().await;
}
