//! The whole service on the memory bus: processes of match, what they read and what they publish.

use std::collections::BTreeMap;
use std::time::Duration;

use matching::{Config, Matching, Tables};
use platform::relay::message;
use platform::{CancellationToken, Platform, Store, World, background};
use streams::bus::{Replay, ReplayStart};
use streams::event::{MatchFound, Party, RejectReason};
use streams::memory::MemoryBus;
use streams::{Bus, Event, Money, RideStatus, Service, UserId, VehicleType};
use testing::MustEnd;
use tokio::task::JoinSet;

use crate::engine_harness::{EngineHarness, km, start_time, uuid};

/// Processes of match on one memory bus and one store. Every test ends it with [`end`](Self::end).
pub(crate) struct ServiceHarness {
    pub(crate) platform: Platform,
    pub(crate) store: Store<Tables>,
    /// Builds the events, at this world's time.
    pub(crate) events: EngineHarness,
    /// MATCH_STREAM.
    pub(crate) published: Replay,
    pub(crate) config: Config,
    processes: BTreeMap<&'static str, (JoinSet<()>, CancellationToken)>,
    end: MustEnd,
}

impl ServiceHarness {
    /// In paused time and in memory, with one process "a".
    pub(crate) async fn start(config: Config) -> Self {
        let world = World::seeded(start_time(), 1);
        let store = Store::memory(&world, &"a".into());
        Self::with_store(world, store, config).await
    }

    pub(crate) async fn with_store(world: World, store: Store<Tables>, config: Config) -> Self {
        let bus = Bus::Memory(MemoryBus::new(world.started_at(), 1_000_000));
        let platform = Platform::new(world, bus, "a");
        background::apply_topology(&platform).await.unwrap();
        let published = platform.bus.replay("MATCH_STREAM", None, ReplayStart::Sequence(1)).await.unwrap();
        let (events, processes) = (EngineHarness::new(), BTreeMap::new());
        let end = MustEnd::new("ServiceHarness::end");
        let mut harness = Self { platform, store, events, published, config, processes, end };
        harness.start_process("a").await;
        harness
    }

    pub(crate) async fn start_process(&mut self, pod: &'static str) {
        let platform = Platform { pod: pod.into(), ..self.platform.clone() };
        let stop = CancellationToken::new();
        let matching = Matching::start(&platform, &self.store, self.config.clone()).await.unwrap();
        let mut task = JoinSet::new();
        task.spawn(matching.run(stop.clone()));
        self.processes.insert(pod, (task, stop));
    }

    pub(crate) async fn stop_process(&mut self, pod: &str) {
        let (mut task, stop) = self.processes.remove(pod).unwrap();
        stop.cancel();
        task.join_next().await.unwrap().unwrap();
    }

    pub(crate) async fn kill_process(&mut self, pod: &str) {
        let (mut task, _) = self.processes.remove(pod).unwrap();
        task.shutdown().await;
    }

    /// Stops every process gracefully.
    pub(crate) async fn end(mut self) {
        for pod in self.processes.keys().copied().collect::<Vec<_>>() {
            self.stop_process(pod).await;
        }
        self.end.reached();
    }

    pub(crate) async fn publish(&self, event: Event) {
        let id = event.message_id(self.platform.world.now());
        let trace = self.platform.world.trace();
        let (subject, entity) = (event.subject().as_str(), event.entity_id().to_string());
        let now = self.platform.world.now();
        let message = message(subject, &id, &entity, now, trace.as_str(), Service::Users, event.body().into());
        self.platform.bus.publish(message).await.unwrap();
    }

    /// Messages that a process of match has not handled yet.
    pub(crate) async fn unacknowledged(&self) -> u64 {
        let mut count = 0;
        for consumer in self.platform.topology.consumers_of(Service::Match) {
            let info = self.platform.bus.consumer_info(&consumer.stream, &consumer.durable).await.unwrap();
            count += info.pending + info.ack_pending;
        }
        count
    }

    pub(crate) fn events(&mut self) -> &EngineHarness {
        self.events.now = self.platform.world.now();
        &self.events
    }

    pub(crate) async fn online(&mut self, driver: &str, at: f64) {
        let event = self.events().online(driver, VehicleType::Car, at);
        self.publish(Event::UserBeacon(event)).await;
    }

    pub(crate) async fn search(&mut self, request: &str, passenger: &str) {
        self.search_at(request, passenger, 0.0).await;
    }

    /// Later than whatever was published before, so that it is another message.
    pub(crate) async fn move_search(&mut self, request: &str, passenger: &str, to: f64) {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        self.search_at(request, passenger, to).await;
    }

    pub(crate) async fn search_at(&mut self, request: &str, passenger: &str, at: f64) {
        let event = self.events().search(request, passenger, at);
        self.publish(Event::UserFinder(event)).await;
    }

    /// A place to the north that is in another zone than the place 0; with one zone any other place.
    pub(crate) fn across_the_border(&self) -> f64 {
        let zone = |at: f64| self.config.partition.zone_of(&km(at));
        let mut places = (1..40).map(|n| f64::from(n) / 10.0);
        if self.config.partition.is_one() { 1.0 } else { places.find(|at| zone(*at) != zone(0.0)).unwrap() }
    }

    pub(crate) async fn end_search(&mut self, request: &str, passenger: &str) {
        let event = self.events().end_of_search(request, passenger);
        self.publish(Event::UserFinder(event)).await;
    }

    pub(crate) fn ride(&mut self, ride: &str, found: &MatchFound, status: RideStatus) -> Event {
        let mut e = self.events().ride(uuid(ride).into(), found, status);
        (e.hash, e.previous_hash) = ("0".repeat(64), "0".repeat(64));
        if status == RideStatus::Cancelled {
            (e.by, e.reason) = (Some(Party::Driver), Some(String::new()));
            e.fee = Some(Money::usd(0));
        }
        Event::Ride(Box::new(e))
    }

    /// The end of a ride, by its passenger.
    pub(crate) fn end_of_ride(&mut self, ride: &str, found: &MatchFound) -> Event {
        let Event::Ride(mut e) = self.ride(ride, found, RideStatus::Cancelled) else { unreachable!() };
        e.by = Some(Party::Passenger);
        Event::Ride(e)
    }

    /// The next event on MATCH_STREAM; no test waits longer than a minute of its own time.
    pub(crate) async fn next_event(&mut self) -> Event {
        let stored = self.published.next(Duration::from_secs(60)).await.unwrap().expect("an event on MATCH_STREAM");
        Event::parse(&stored.subject, &stored.payload).unwrap()
    }

    pub(crate) async fn found(&mut self) -> MatchFound {
        match self.next_event().await {
            Event::MatchFound(found) => {
                self.events.found.insert(found.match_id, found.clone());
                found
            }
            other => panic!("no match.found but {other:?}"),
        }
    }

    pub(crate) async fn rejected(&mut self, reason: RejectReason) -> UserId {
        match self.next_event().await {
            Event::MatchRejected(e) if e.reason == reason => e.driver_id,
            other => panic!("no match.rejected of {reason:?} but {other:?}"),
        }
    }
}
