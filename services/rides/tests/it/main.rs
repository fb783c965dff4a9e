//! rides as a whole: events in, requests in, events and answers out, on the memory bus, over both stores.

#![allow(clippy::unwrap_used)]

mod audit;

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use platform::{CancellationToken, Platform, Store, Tokens, World};
use rides::audit::{Audit, Findings};
use rides::event_log::EventRow;
use rides::event_log::rows::events_of;
use rides::payment::rows::{debts_of, payments_of};
use rides::payment::{Payment, Provider};
use rides::{Config, Rides, hash_chain, ledger};
use serde_json::Value;
use streams::bus::ReplayStart;
use streams::event::{LocationAggregate, MatchAccepted, Party, RejectReason, RideEvent};
use streams::memory::MemoryBus;
use streams::ride_command::{RIDE_COMMAND_WAIT, RIDE_COMMANDS, RideAction, RideCommand, RideReply};
use streams::topology::DEAD_LETTER_STREAM;
use streams::{Bus, Event, Headers, Message, Money, Position, RideId, RideStatus, Service, UserId, VehicleType};
use testing::{Backend, on_both_stores};
use tokio::task::JoinHandle;
use tower::ServiceExt;

/// Limit of a wait for a message.
const WAIT: Duration = Duration::from_secs(10);

fn parsed(row: &EventRow) -> RideEvent {
    hash_chain::verify_body(&row.subject, row.body.as_bytes()).unwrap()
}

struct TestApp {
    platform: Platform,
    tokens: Tokens,
    store: Store<rides::Tables>,
    rides: Rides,
    audit: Audit,
    stop: CancellationToken,
    run: JoinHandle<()>,
}

impl TestApp {
    async fn start(backend: Backend, config: Config) -> Self {
        let world = World::seeded("2026-03-01T08:00:00Z".parse().unwrap(), 11);
        let bus = Bus::Memory(MemoryBus::new(world.started_at(), 100_000));
        let platform = Platform::new(world.clone(), bus, "test");
        platform.bus.apply(&platform.topology).await.unwrap();
        let tokens = Tokens::new(&world, &[3; 32]).unwrap();
        let store: Store<rides::Tables> = backend.store(&world, "test", "rides", &rides::MIGRATIONS).await;
        let rides = Rides::start(&platform, &store, tokens.clone(), config).await.unwrap();
        let audit = Audit::new(&platform.bus, &store, &platform.world);
        let stop = CancellationToken::new();
        let run = tokio::spawn(rides.clone().run(stop.clone()));
        Self { platform, tokens, store, rides, audit, stop, run }
    }

    /// Stops the service and starts it again with the tables of `store`.
    async fn restarted_on(mut self, store: Store<rides::Tables>) -> Self {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(30), &mut self.run).await.expect("it stops in time").unwrap();
        let (platform, tokens) = (self.platform, self.tokens);
        let rides = Rides::start(&platform, &store, tokens.clone(), Config::default()).await.unwrap();
        let audit = Audit::new(&platform.bus, &store, &platform.world);
        let stop = CancellationToken::new();
        let run = tokio::spawn(rides.clone().run(stop.clone()));
        Self { platform, tokens, store, rides, audit, stop, run }
    }

    /// Every test ends with a graceful stop, an event log that equals the stream, and an audit without findings.
    async fn end(mut self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(30), &mut self.run).await.expect("it stops in time").unwrap();
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

    async fn events(&self, ride: RideId) -> Vec<EventRow> {
        events_of(&mut self.store.begin().await.unwrap(), ride).await.unwrap()
    }

    async fn payment(&self, ride: RideId) -> Option<Payment> {
        payments_of(&mut self.store.begin().await.unwrap(), &[ride]).await.unwrap().pop()
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
            platform::relay::message(subject, &id, &entity, world.now(), trace.as_str(), Service::Users, body);
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

    /// The first rejected match is this one, as superseded.
    async fn superseded(&self, lost: &MatchAccepted) {
        let bus = &self.platform.bus;
        let mut rejected = bus.replay("MATCH_STREAM", Some("match.rejected"), ReplayStart::Sequence(1)).await.unwrap();
        let stored = rejected.next(WAIT).await.unwrap().expect("the match is rejected");
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

    async fn command(&self, user_id: UserId, ride_id: RideId, action: RideAction) -> String {
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
        self.command(user, ride, RideAction::Start { pin }).await
    }

    async fn cancel(&self, user: UserId, ride: RideId) -> String {
        self.command(user, ride, RideAction::Cancel { reason: "changed plans".to_owned() }).await
    }

    /// A new ride of these two that has arrived at its dropoff.
    async fn arrived(&self, matched: &MatchAccepted) -> RideEvent {
        self.publish(&Event::MatchAccepted(matched.clone())).await;
        let ride = self.event(matched, RideStatus::Pickup).await;
        assert_eq!(self.start_ride(ride.driver_id, ride.ride_id).await, "started 2");
        assert_eq!(self.command(ride.driver_id, ride.ride_id, RideAction::Arrive).await, "arrived 3");
        ride
    }

    async fn balances(&self, of: &MatchAccepted, provider: &str) -> [i64; 4] {
        let cash = format!("cash:{provider}");
        let accounts = [&ledger::passenger(of.passenger_id), &ledger::driver(of.driver_id), ledger::REVENUE, &cash];
        let mut found = [0; 4];
        for (balance, account) in found.iter_mut().zip(accounts) {
            *balance = ledger::rows::balance(&mut self.store.begin().await.unwrap(), account).await.unwrap();
        }
        assert_eq!(found.iter().sum::<i64>(), 0, "the ledger balances");
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

on_both_stores!(
    one_ride_from_match_to_receipt,
    redelivery_never_bills_twice,
    a_driver_never_gets_two_live_rides,
    a_passenger_never_gets_two_live_rides,
    a_stranger_never_starts_or_ends_a_ride,
    a_driver_never_bills_the_ride_of_another,
    a_refused_payment_never_leaves_either_party_locked,
    a_late_second_acceptance_of_a_fulfilled_request_is_superseded,
    many_short_hops_are_billed_in_full,
    a_late_cancellation_is_billed_like_a_fare,
    a_ride_without_a_final_distance_is_billed_by_the_estimate,
    wrong_pins_are_counted_across_requests,
    own_rides_are_listed_page_by_page,
    a_hundred_matches_at_once_become_a_hundred_rides,
);

async fn one_ride_from_match_to_receipt(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    let (driver, passenger) = (matched.driver_id, matched.passenger_id);
    app.publish(&Event::MatchAccepted(matched.clone())).await;
    let pickup = app.event(&matched, RideStatus::Pickup).await;
    assert_eq!((pickup.version, pickup.previous_hash.as_str()), (1, hash_chain::NO_PREVIOUS_HASH));
    let ride = pickup.ride_id;
    let uri = format!("/v1/rides/{ride}");

    let (status, view) = app.get(Some(passenger), &uri).await;
    assert_eq!((status, view["status"].as_str()), (StatusCode::OK, Some("pickup")));
    assert_eq!(view["pin"], app.tokens.ride_pin(ride));
    assert_eq!(app.get(Some(driver), &uri).await.1.get("pin"), None, "the driver must ask for it");

    assert_eq!(app.command(driver, ride, RideAction::Arrive).await, "ride_not_started");
    assert_eq!(app.start_ride(driver, ride).await, "started 2");
    assert_eq!(app.start_ride(driver, ride).await, "started 2", "a repeat has no second effect");
    app.aggregate(ride, driver, 2_000.0, false).await;
    assert_eq!(app.command(driver, ride, RideAction::Arrive).await, "arrived 3");
    assert_eq!(app.command(driver, ride, RideAction::Arrive).await, "arrived 3");
    assert_eq!(app.cancel(passenger, ride).await, "ride_arrived");
    app.aggregate(ride, driver, 5_000.0, true).await;

    let completed = app.event(&matched, RideStatus::Completed).await;
    let fare = completed.fare.clone().unwrap();
    assert_eq!(completed.distance_m, Some(5_000.0));
    assert!(!fare.estimated);
    assert_eq!(fare.total.amount, fare.lines.iter().map(|l| l.amount.amount).sum::<i64>());
    let (fee, payout) = (completed.platform_fee.unwrap(), completed.driver_payout.unwrap());
    assert_eq!(fee.amount + payout.amount, fare.total.amount);
    assert_eq!(app.cancel(driver, ride).await, "ride_ended");

    app.settled().await;
    assert_eq!(app.balances(&matched, "ledger").await, [0, -payout.amount, -fee.amount, fare.total.amount]);
    let (_, view) = app.get(Some(passenger), &uri).await;
    assert_eq!(view["status"], "completed");
    assert_eq!(view["payment"]["status"], "captured");
    assert_eq!(view["fare"], serde_json::to_value(&fare).unwrap());
    assert_eq!(view["cancelled"], Value::Null);
    assert_eq!(view.get("pin"), None);
    let statuses: Vec<_> = app.trail().await.iter().map(|e| (e.version, e.status.as_str())).collect();
    assert_eq!(statuses, [(1, "pickup"), (2, "started"), (3, "arrived"), (4, "completed")]);
    app.end().await;
}

async fn redelivery_never_bills_twice(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    let ride = app.arrived(&matched).await;
    app.aggregate(ride.ride_id, ride.driver_id, 5_000.0, true).await;
    let completed = app.event(&matched, RideStatus::Completed).await;
    app.settled().await;
    let before = app.balances(&matched, "ledger").await;
    let total = completed.fare.unwrap().total;
    assert_eq!(before[3], total.amount);

    // All of it again, as foreign producers and restarted servers send it: under new ids.
    app.publish_bare(&Event::MatchAccepted(matched.clone())).await;
    app.aggregate(ride.ride_id, ride.driver_id, 9_000.0, true).await;
    app.aggregate(ride.ride_id, ride.driver_id, 5_000.0, true).await;
    let capture = streams::event::PaymentCapture {
        payment_id: app.payment(ride.ride_id).await.unwrap().payment_id,
        ride_id: ride.ride_id,
        passenger_id: ride.passenger_id,
        driver_id: ride.driver_id,
        amount: total,
    };
    for _ in 0..3 {
        app.publish_bare(&Event::PaymentCapture(capture.clone())).await;
    }
    app.settled().await;
    assert_eq!(app.balances(&matched, "ledger").await, before);
    assert_eq!(app.trail().await.len(), 4);
    assert_eq!(app.all(DEAD_LETTER_STREAM, "dead_letter.>").await, []);
    app.end().await;
}

async fn two_live_rides(backend: Backend, share: impl FnOnce(&MatchAccepted, &mut MatchAccepted)) {
    let app = TestApp::start(backend, Config::default()).await;
    let (first, mut other) = (app.matched(), app.matched());
    share(&first, &mut other);
    app.publish(&Event::MatchAccepted(first.clone())).await;
    let ride = app.event(&first, RideStatus::Pickup).await;
    app.publish(&Event::MatchAccepted(other.clone())).await;
    app.superseded(&other).await;
    assert_eq!(app.trail().await.len(), 1);

    // What was lost stays lost; a new match of the same people after the ride is a ride again.
    assert_eq!(app.cancel(ride.driver_id, ride.ride_id).await, "cancelled 2");
    app.publish_bare(&Event::MatchAccepted(other.clone())).await;
    app.settled().await;
    let again = MatchAccepted { match_id: app.platform.world.id(), ..other };
    app.publish(&Event::MatchAccepted(again.clone())).await;
    app.event(&again, RideStatus::Pickup).await;
    assert_eq!(app.trail().await.len(), 3);
    assert_eq!(app.all("MATCH_STREAM", "match.rejected").await.len(), 1);
    app.end().await;
}

async fn a_driver_never_gets_two_live_rides(backend: Backend) {
    Box::pin(two_live_rides(backend, |first, other| other.driver_id = first.driver_id)).await;
}

async fn a_passenger_never_gets_two_live_rides(backend: Backend) {
    Box::pin(two_live_rides(backend, |first, other| other.passenger_id = first.passenger_id)).await;
}

async fn a_stranger_never_starts_or_ends_a_ride(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let (matched, elsewhere) = (app.matched(), app.matched());
    for one in [&matched, &elsewhere] {
        app.publish(&Event::MatchAccepted(one.clone())).await;
        app.event(one, RideStatus::Pickup).await;
    }
    let ride = app.event(&matched, RideStatus::Pickup).await.ride_id;
    for stranger in [elsewhere.driver_id, elsewhere.passenger_id, app.platform.world.id()] {
        assert_eq!(app.start_ride(stranger, ride).await, "not_found");
        assert_eq!(app.command(stranger, ride, RideAction::Arrive).await, "not_found");
        assert_eq!(app.cancel(stranger, ride).await, "not_found");
        let (status, problem) = app.get(Some(stranger), &format!("/v1/rides/{ride}")).await;
        assert_eq!((status, problem["code"].as_str()), (StatusCode::NOT_FOUND, Some("not_found")));
    }
    // The passenger may not play the driver either.
    assert_eq!(app.start_ride(matched.passenger_id, ride).await, "forbidden");
    assert_eq!(app.command(matched.passenger_id, ride, RideAction::Arrive).await, "forbidden");
    assert_eq!(app.start_ride(matched.driver_id, app.platform.world.id()).await, "not_found");
    assert_eq!(app.trail().await.len(), 2);
    assert_eq!(app.get(None, &format!("/v1/rides/{ride}")).await.0, StatusCode::UNAUTHORIZED);
    app.end().await;
}

async fn a_driver_never_bills_the_ride_of_another(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    let ride = app.arrived(&matched).await;
    // Another driver's distance, a ride that is none, and a capture that nobody billed.
    let other: UserId = app.platform.world.id();
    app.aggregate(ride.ride_id, other, 900_000.0, true).await;
    app.aggregate(app.platform.world.id(), other, 5_000.0, true).await;
    let forged = streams::event::PaymentCapture {
        payment_id: app.platform.world.id(),
        ride_id: ride.ride_id,
        passenger_id: ride.passenger_id,
        driver_id: other,
        amount: Money::usd(99_999),
    };
    app.publish_bare(&Event::PaymentCapture(forged)).await;
    app.settled().await;
    let letters = app.all(DEAD_LETTER_STREAM, "dead_letter.>").await;
    let mut by: Vec<&str> = letters.iter().map(|m| m.subject.as_str()).collect();
    by.sort_unstable();
    let aggregate = "dead_letter.location_aggregate_rides";
    assert_eq!(by, [aggregate, aggregate, "dead_letter.payment_capture_rides"]);
    assert_eq!(app.trail().await.len(), 3, "still arrived");
    assert_eq!(app.balances(&matched, "ledger").await, [0; 4]);

    app.aggregate(ride.ride_id, ride.driver_id, 1_000.0, true).await;
    let completed = app.event(&matched, RideStatus::Completed).await;
    assert_eq!(completed.distance_m, Some(1_000.0));
    app.end().await;
}

async fn a_refused_payment_never_leaves_either_party_locked(backend: Backend) {
    let app = TestApp::start(backend, Config { provider: Provider::Refusing, ..Config::default() }).await;
    let matched = app.matched();
    let ride = app.arrived(&matched).await;
    app.aggregate(ride.ride_id, ride.driver_id, 5_000.0, true).await;
    let total = app.event(&matched, RideStatus::Completed).await.fare.unwrap().total;
    app.settled().await;
    let (_, view) = app.get(Some(ride.passenger_id), &format!("/v1/rides/{}", ride.ride_id)).await;
    assert_eq!((view["status"].as_str(), view["payment"]["status"].as_str()), (Some("completed"), Some("refused")));
    let debts = debts_of(&mut app.store.begin().await.unwrap(), ride.passenger_id).await.unwrap();
    assert_eq!(debts.iter().map(|d| (d.ride_id, d.amount)).collect::<Vec<_>>(), [(ride.ride_id, total)]);
    // Still owed by the passenger; the driver is owed the payout all the same.
    let balances = app.balances(&matched, "refuse").await;
    assert_eq!((balances[0], balances[3]), (total.amount, 0));
    // And both ride on.
    let (match_id, request_id) = (app.platform.world.id(), app.platform.world.id());
    let again = MatchAccepted { match_id, request_id, ..matched };
    app.publish(&Event::MatchAccepted(again.clone())).await;
    app.event(&again, RideStatus::Pickup).await;
    app.end().await;
}

/// Another driver had accepted earlier, but the acceptance is delivered only after the ride has ended.
async fn a_late_second_acceptance_of_a_fulfilled_request_is_superseded(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    let late = MatchAccepted { request_id: matched.request_id, passenger_id: matched.passenger_id, ..app.matched() };
    app.publish(&Event::MatchAccepted(matched.clone())).await;
    let ride = app.event(&matched, RideStatus::Pickup).await;
    assert_eq!(app.cancel(ride.driver_id, ride.ride_id).await, "cancelled 2");
    app.publish(&Event::MatchAccepted(late.clone())).await;
    app.superseded(&late).await;
    assert_eq!(app.trail().await.len(), 2, "no second ride");
    app.end().await;
}

async fn many_short_hops_are_billed_in_full(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    let ride = app.arrived(&matched).await;
    // A kilometre in hops of a metre: the distances are cumulative, and the last one counts as it is.
    for metre in 1..1_000 {
        app.aggregate(ride.ride_id, ride.driver_id, f64::from(metre), false).await;
    }
    app.aggregate(ride.ride_id, ride.driver_id, 8_000.0, true).await;
    let completed = app.event(&matched, RideStatus::Completed).await;
    let fare = completed.fare.unwrap();
    let distance = fare.lines.iter().find(|l| l.name == "distance").unwrap();
    assert_eq!(distance.amount, Money::usd(960));
    // And a ride of no distance at all costs the minimum.
    let still = app.matched();
    let ride = app.arrived(&still).await;
    app.aggregate(ride.ride_id, ride.driver_id, 0.0, true).await;
    let fare = app.event(&still, RideStatus::Completed).await.fare.unwrap();
    assert_eq!(fare.total, Money::usd(600));
    app.end().await;
}

async fn a_late_cancellation_is_billed_like_a_fare(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    app.publish(&Event::MatchAccepted(matched.clone())).await;
    let ride = app.event(&matched, RideStatus::Pickup).await.ride_id;
    assert_eq!(app.start_ride(matched.driver_id, ride).await, "started 2");
    assert_eq!(
        app.command(matched.passenger_id, ride, RideAction::Cancel { reason: String::new() }).await,
        "invalid_field"
    );
    assert_eq!(app.cancel(matched.passenger_id, ride).await, "cancelled 3");
    assert_eq!(app.cancel(matched.passenger_id, ride).await, "cancelled 3");
    assert_eq!(app.cancel(matched.driver_id, ride).await, "ride_ended");
    let cancelled = app.event(&matched, RideStatus::Cancelled).await;
    assert_eq!((cancelled.by, cancelled.fee), (Some(Party::Passenger), Some(Money::usd(600))));
    app.settled().await;
    assert_eq!(app.balances(&matched, "ledger").await, [0, -480, -120, 600]);
    let (_, view) = app.get(Some(matched.driver_id), &format!("/v1/rides/{ride}")).await;
    assert_eq!(view["cancelled"]["by"], "passenger");
    assert_eq!(view["cancelled"]["fee"]["amount"], 600);
    assert_eq!(view["payment"]["status"], "captured");

    // One that costs nothing has no payment.
    let free = app.matched();
    app.publish(&Event::MatchAccepted(free.clone())).await;
    let ride = app.event(&free, RideStatus::Pickup).await.ride_id;
    assert_eq!(app.cancel(free.passenger_id, ride).await, "cancelled 2");
    app.settled().await;
    let (_, view) = app.get(Some(free.driver_id), &format!("/v1/rides/{ride}")).await;
    assert_eq!(view["payment"], Value::Null);
    app.end().await;
}

async fn a_ride_without_a_final_distance_is_billed_by_the_estimate(backend: Backend) {
    // A minute under paused time; real time waits one second.
    let completion_wait_s = if backend == Backend::Memory { 60 } else { 1 };
    let app = TestApp::start(backend, Config { completion_wait_s, ..Config::default() }).await;
    let matched = app.matched();
    let ride = app.arrived(&matched).await;
    app.aggregate(ride.ride_id, ride.driver_id, 2_000.0, false).await;
    let arrived = app.event(&matched, RideStatus::Arrived).await;
    let completed = app.event(&matched, RideStatus::Completed).await;
    let waited = (completed.occurred_at - arrived.occurred_at).as_seconds_f64();
    let wanted = completion_wait_s as f64;
    assert!((wanted..wanted + 2.0).contains(&waited), "after {waited} s");
    let fare = completed.fare.unwrap();
    assert!(fare.estimated);
    let (distance_m, _) = pricing::estimate(&matched.pickup, &matched.dropoff);
    assert_eq!(completed.distance_m, Some(distance_m));
    // The final one comes after all, and changes nothing.
    app.aggregate(ride.ride_id, ride.driver_id, 9_000.0, true).await;
    app.settled().await;
    assert_eq!(app.trail().await.len(), 4);
    assert_eq!(app.balances(&matched, "ledger").await[3], fare.total.amount);
    app.end().await;
}

async fn wrong_pins_are_counted_across_requests(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    app.publish(&Event::MatchAccepted(matched.clone())).await;
    let ride = app.event(&matched, RideStatus::Pickup).await.ride_id;
    for _ in 0..5 {
        let pin = "none".to_owned();
        assert_eq!(app.command(matched.driver_id, ride, RideAction::Start { pin }).await, "wrong_pin");
    }
    assert_eq!(app.start_ride(matched.driver_id, ride).await, "pin_locked");
    if backend == Backend::Memory {
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(app.start_ride(matched.driver_id, ride).await, "started 2");
    }
    app.end().await;
}

async fn own_rides_are_listed_page_by_page(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let mut matched = app.matched();
    let mut all = Vec::new();
    for _ in 0..5 {
        (matched.match_id, matched.request_id) = (app.platform.world.id(), app.platform.world.id());
        app.publish(&Event::MatchAccepted(matched.clone())).await;
        let ride = app.event(&matched, RideStatus::Pickup).await.ride_id;
        assert_eq!(app.cancel(matched.driver_id, ride).await, "cancelled 2");
        all.insert(0, ride.to_string());
        // Paused time stands still by itself, and rides of one moment are in the order of their ids.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (mut found, mut uri) = (Vec::new(), "/v1/rides?limit=2".to_owned());
    loop {
        let (status, page) = app.get(Some(matched.passenger_id), &uri).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        found.extend(page["rides"].as_array().unwrap().iter().map(|r| r["ride_id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        uri = format!("/v1/rides?limit=2&cursor={cursor}");
    }
    assert_eq!(found, all);
    assert_eq!(app.get(Some(app.platform.world.id()), "/v1/rides").await.1["rides"], Value::Array(Vec::new()));
    for (query, field) in [("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("cursor=abc", "cursor")]
    {
        let (status, problem) = app.get(Some(matched.driver_id), &format!("/v1/rides?{query}")).await;
        assert_eq!((status, problem["field"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some(field)), "{query}");
        assert_eq!(problem["code"], "invalid_field");
    }
    let (status, _) = app.get(Some(matched.driver_id), "/v1/rides/no-such-id").await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    let good = "/v1/estimates?pickup=40.7484,-73.9857&dropoff=40.7061,-73.9969&vehicle_type=car";
    let (status, estimate) = app.get(None, good).await;
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
        let (status, problem) = app.get(None, &format!("/v1/estimates?{bad}")).await;
        assert_eq!((status, problem["field"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some(field)), "{bad}");
    }
    app.end().await;
}

async fn a_hundred_matches_at_once_become_a_hundred_rides(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matches: Vec<MatchAccepted> = (0..100).map(|_| app.matched()).collect();
    for matched in &matches {
        app.publish(&Event::MatchAccepted(matched.clone())).await;
        // ChainError and impossible ones among them delay nobody else.
        let bad = Message {
            subject: "match.accepted".to_owned(),
            headers: Headers::default(),
            payload: Bytes::from_static(b"{\"match_id\": 7}"),
        };
        if matched.match_id.0.as_u128() % 10 == 0 {
            app.platform.bus.publish(bad).await.unwrap();
        }
    }
    let own =
        MatchAccepted { passenger_id: matches[0].driver_id, match_id: app.platform.world.id(), ..matches[0].clone() };
    app.publish(&Event::MatchAccepted(own)).await;
    for matched in &matches {
        app.event(matched, RideStatus::Pickup).await;
    }
    app.settled().await;
    assert_eq!(app.trail().await.len(), 100);
    assert!(!app.all(DEAD_LETTER_STREAM, "dead_letter.match_accepted_rides").await.is_empty());
    app.end().await;
}
