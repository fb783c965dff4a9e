//! Several processes of the service on one bus and one store, and the events that other services would publish.

use std::sync::Arc;
use std::time::Duration;

use platform::limits::{Limiter, Limits};
use platform::{CancellationToken, Platform, Store, Tokens, World, relay};
use streams::event::{MatchFound, MatchRejected, RejectReason, RideEvent, UserFinder};
use streams::memory::MemoryBus;
use streams::topology::Topology;
use streams::{Bus, Event, Money, Position, RequestId, RideId, RideStatus, Service, UserId, VehicleType};
use testing::{Backend, MustEnd};
use tokio::task::JoinHandle;
use users::{Config, MIGRATIONS, Tables, Users};

use crate::app::{register_directly, sign_in_directly};

pub(crate) const HERE: Position = Position { lat: 40.75, lng: -73.99 };
pub(crate) const THERE: Position = Position { lat: 40.76, lng: -73.98 };

/// What all pods share.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) bus: Bus,
    pub(crate) store: Store<Tables>,
    pub(crate) tokens: Tokens,
}

/// One process of the service.
pub(crate) struct Pod {
    pub(crate) users: Users,
    pub(crate) platform: Platform,
    pub(crate) tokens: Tokens,
    stop: CancellationToken,
    running: Option<Running>,
}

/// A test that runs a pod must stop or kill it: a part that failed would go unseen.
struct Running {
    task: JoinHandle<()>,
    end: MustEnd,
}

impl Cluster {
    pub(crate) async fn on(backend: Backend) -> Self {
        let world = World::seeded("2026-03-01T08:00:00Z".parse().unwrap(), 5);
        let store = backend.store(&world, "shared", "users", &MIGRATIONS).await;
        let bus = Self::new_bus(&world).await;
        let tokens = Tokens::new(&world, &[7; 32]).unwrap();
        Self { world, bus, store, tokens }
    }

    async fn new_bus(world: &World) -> Bus {
        let bus = Bus::Memory(MemoryBus::new(world.now(), 100_000));
        bus.apply(&Topology::rideshare()).await.unwrap();
        bus
    }

    /// The same cluster on a bus of its own: its pods receive no notification of the others.
    pub(crate) async fn with_other_bus(&self) -> Self {
        Self { bus: Self::new_bus(&self.world).await, ..self.clone() }
    }

    /// The same cluster as processes see it whose clock is this much later.
    pub(crate) fn later(&self, by: chrono::Duration) -> Self {
        Self { world: World::seeded(self.world.now() + by, 6), ..self.clone() }
    }

    /// A pod that serves sockets and nothing else: no worker, no relay, no timer.
    pub(crate) async fn idle_pod(&self, name: &str, config: Config) -> Pod {
        self.pod_with(name, config, &Limits::raised()).await
    }

    async fn pod_with(&self, name: &str, config: Config, limits: &str) -> Pod {
        let mut platform = Platform::new(self.world.clone(), self.bus.clone(), name);
        platform.limiter = Arc::new(Limiter::new(limits.parse().unwrap()));
        // Each process has tokens of its own: it learns from the others which sign-ins have ended.
        let tokens = self.tokens.of_another_process();
        let users = Users::start(&platform, &self.store, tokens.clone(), config).await.unwrap();
        Pod { users, platform, tokens, stop: CancellationToken::new(), running: None }
    }

    /// A pod with the limits of production, but for those that `limits` changes.
    pub(crate) async fn limited_pod(&self, name: &str, limits: &str) -> Pod {
        let mut pod = self.pod_with(name, Config::default(), limits).await;
        pod.run();
        pod
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
        let message = relay::message(subject, &id, &entity, at, trace.as_str(), Service::Match, body);
        self.bus.publish(message).await.unwrap();
    }

    /// Publishes `count` searches of `user`: one mailbox entry each.
    pub(crate) async fn publish_searches(&self, user: UserId, count: usize) {
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
            continues: None,
            market_id: None,
            expires_at: None,
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
            market_id: None,
            terms: None,
            estimated: None,
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
            search_continues: None,
            reason_code: None,
            note: None,
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
            request_id: None,
            market_id: None,
            terms: None,
        }))
    }
}

impl Pod {
    /// Begins its workers, relay and timers.
    pub(crate) fn run(&mut self) {
        let task = tokio::spawn(self.users.clone().run(self.stop.clone()));
        self.running = Some(Running { task, end: MustEnd::new("Pod::stop or Pod::kill") });
    }

    /// Stops it gracefully.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(Running { task, mut end }) = self.running.take() {
            tokio::time::timeout(Duration::from_secs(30), task).await.expect("it stops in time").unwrap();
            end.reached();
        }
    }

    /// Ends it without a drain, as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(Running { task, mut end }) = self.running.take() {
            task.abort();
            end.reached();
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
        register_directly(&self.users, &token, &plate).await;
        user
    }
}
