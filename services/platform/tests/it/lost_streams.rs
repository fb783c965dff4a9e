//! A stream is lost and recreated, or a consumer of an interest stream is: the relay publishes the events again from the
//! outbox, in their order, and nothing before all of it exists.

use std::sync::Arc;
use std::time::Duration;

use platform::relay::{Relay, mark_recovered};
use platform::{CancellationToken, Platform, Store, World};
use streams::bus::ReplayStart;
use streams::memory::MemoryBus;
use streams::nats::{NatsBus, NatsSettings};
use streams::pods::Status;
use streams::topology::Topology;
use streams::{Bus, Service, Subject, VehicleType};
use tokio::task::JoinHandle;

use crate::accounts::{Tables, store};
use crate::consumer::beacon;
use testing::Backend;
use testing::nats::Server;

const STREAM: &str = "USER_STREAM";
/// The duplicate window; the ordinary one is too long for a test.
const WINDOW: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn an_event_that_waits_to_be_published_degrades_its_process_and_leaves_it_ready() {
    let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 1);
    // A bus without the stream, as one with a full stream, takes nothing.
    let platform = Platform::new(world.clone(), Bus::Memory(MemoryBus::new(world.now(), 1)), "one");
    let store: Store<Tables> = store(Backend::Memory, &world).await;
    let mut tx = store.begin().await.unwrap();
    tx.publish(&beacon(1, VehicleType::Car, 0), &world.trace());
    tx.commit().await.unwrap();
    let stop = CancellationToken::new();
    let relay = tokio::spawn(Relay::new(&platform, Service::Users, &store).run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(70)).await;
    let health = platform::pod::health(&platform, &[Service::Users]);
    let outbox = health.parts.iter().find(|part| part.name == "outbox users").unwrap();
    assert_eq!((health.status, outbox.status), (Status::Ready, Status::Degraded));
    assert!(outbox.detail.as_ref().is_some_and(|why| why.contains("waits for")), "{outbox:?}");
    assert!(platform.metrics.text(&platform.health).contains("rideshare_part_healthy{part=\"outbox users\"} 0"));
    stop.cancel();
    relay.await.unwrap();
}

struct Rig {
    platform: Platform,
    store: Store<Tables>,
    relay: Option<(JoinHandle<()>, CancellationToken)>,
    _server: Option<Server>,
}

impl Rig {
    async fn on_memory() -> Self {
        let world = World::real();
        let bus = Bus::Memory(MemoryBus::new(world.started_at(), 100_000));
        Self::on(world, bus, None).await
    }

    async fn on_nats() -> Self {
        let server = Server::new().unwrap();
        let (urls, name) = (vec![server.url.clone()], "lost streams".to_owned());
        let bus = NatsBus::connect(&NatsSettings { urls, name, ..Default::default() }).await.unwrap();
        Self::on(World::real(), Bus::Nats(bus), Some(server)).await
    }

    async fn on(world: World, bus: Bus, server: Option<Server>) -> Self {
        let mut topology = Topology::rideshare();
        for stream in &mut topology.streams {
            stream.duplicate_window = WINDOW;
        }
        let platform = Platform { topology: Arc::new(topology), ..Platform::new(world, bus, "test") };
        let store = store(Backend::Postgres, &platform.world).await;
        let mut rig = Self { platform, store, relay: None, _server: server };
        rig.apply().await;
        rig.start();
        rig
    }

    fn start(&mut self) {
        let stop = CancellationToken::new();
        let relay = Relay::new(&self.platform, Service::Users, &self.store).run(stop.clone());
        self.relay = Some((tokio::spawn(relay), stop));
    }

    async fn stop(&mut self) {
        let (relay, stop) = self.relay.take().unwrap();
        stop.cancel();
        relay.await.unwrap();
    }

    async fn apply(&self) {
        self.platform.bus.apply(&self.platform.topology).await.unwrap();
    }

    /// Commits events of these users, each at its second.
    async fn commit(&self, events: impl IntoIterator<Item = (u128, u32)>) {
        let mut tx = self.store.begin().await.unwrap();
        for (user, second) in events {
            tx.publish(&beacon(user, VehicleType::Car, second), &self.platform.world.trace());
        }
        tx.commit().await.unwrap();
    }

    async fn stored(&self) -> u64 {
        self.platform.bus.stream_info(STREAM).await.map_or(0, |info| info.messages)
    }

    /// The ids in the stream, in order.
    async fn ids(&self) -> Vec<String> {
        let stored = self.stored().await;
        let mut replay = self.platform.bus.replay(STREAM, None, ReplayStart::Sequence(1)).await.unwrap();
        let mut ids = Vec::new();
        while (ids.len() as u64) < stored {
            let message = replay.next(Duration::from_secs(5)).await.unwrap().unwrap();
            ids.push(message.headers.find("Nats-Msg-Id").unwrap().to_owned());
        }
        ids
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + SOON;
        while !holds().await {
            assert!(tokio::time::Instant::now() < deadline, "not in {SOON:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_stored(&self, count: u64) {
        self.until(&format!("{count} messages"), async || self.stored().await == count).await;
    }

    async fn until_ids(&self, count: usize) -> Vec<String> {
        self.until_stored(count as u64).await;
        self.ids().await
    }

    /// Acknowledges the next message of a consumer, and returns its id.
    async fn take(&self, service: Service) -> String {
        let consumer = self.platform.topology.consumer(Subject::UserBeacon, service).clone();
        let mut puller = self.platform.bus.pull(&consumer).await.unwrap();
        let delivery = puller.fetch(1, SOON).await.unwrap().remove(0);
        delivery.ack_confirmed().await.unwrap();
        puller.close().await;
        delivery.message.headers.find("Nats-Msg-Id").unwrap().to_owned()
    }

    fn published_again(&self) -> u64 {
        self.platform.metrics.published_again.with_label_values(&["users"]).get()
    }
}

async fn published_again_in_order(mut rig: Rig) {
    // More than a page, and keys that come again and again.
    let events: Vec<(u128, u32)> = (0..1_500).map(|n| (n % 37, (n % 60) as u32)).collect();
    let mut sent: Vec<(u128, u32)> = events.clone();
    sent.sort_unstable();
    sent.dedup();
    for part in sent.chunks(40) {
        rig.commit(part.iter().copied()).await;
    }
    let before = rig.until_ids(sent.len()).await;
    rig.platform.bus.delete_stream(STREAM).await.unwrap();
    rig.commit([(99, 1)]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.apply().await;
    let after = rig.until_ids(sent.len() + 1).await;
    let of = |ids: &[String], user: &str| ids.iter().filter(|id| id.contains(user)).cloned().collect::<Vec<_>>();
    for user in 0..37 {
        let user = format!("{:032x}", user).chars().skip(20).collect::<String>();
        assert_eq!(of(&after, &user), of(&before, &user), "all events, and those of each key in order");
    }
    assert!(after[sent.len()].contains("000000000063"), "the newest event comes last: {}", after[sent.len()]);
    rig.stop().await;
}

#[tokio::test]
async fn what_a_lost_stream_held_is_published_again_in_order_on_memory() {
    published_again_in_order(Rig::on_memory().await).await;
}

#[tokio::test]
async fn what_a_lost_stream_held_is_published_again_in_order_on_nats() {
    published_again_in_order(Rig::on_nats().await).await;
}

#[tokio::test]
async fn a_process_that_starts_later_detects_the_recreated_stream_too() {
    let mut rig = Rig::on_nats().await;
    rig.commit((1..=5).map(|user| (user, 1))).await;
    let before = rig.until_ids(5).await;
    rig.stop().await;
    rig.platform.bus.delete_stream(STREAM).await.unwrap();
    rig.apply().await;
    assert_eq!(rig.stored().await, 0);
    rig.start();
    assert_eq!(rig.until_ids(5).await, before);
    // The next relay does not publish it a second time.
    rig.stop().await;
    rig.start();
    rig.commit([(6, 1)]).await;
    rig.until_ids(6).await;
    assert_eq!(rig.published_again(), 5);
    rig.stop().await;
}

#[tokio::test]
async fn nothing_is_published_while_a_consumer_is_missing() {
    let mut rig = Rig::on_nats().await;
    rig.commit([(1, 1)]).await;
    rig.until_stored(1).await;
    rig.stop().await;
    let missing = rig.platform.topology.consumer(Subject::UserBeacon, Service::Match).clone();
    rig.platform.bus.delete_consumer(STREAM, &missing.durable).await.unwrap();
    let first = rig.take(Service::Users).await;
    assert_eq!(rig.take(Service::Location).await, first);
    // No other consumer is bound.
    rig.until_stored(0).await;
    rig.start();
    rig.commit([(2, 1)]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.stored().await, 0, "the stream would not store it for the missing consumer");
    assert_eq!(rig.store.waiting().await.unwrap(), 1);
    rig.apply().await;
    let second = rig.take(Service::Match).await;
    assert_ne!(second, first);
    // Within the duplicate window the stream takes it for a duplicate; the second pass publishes it again.
    assert_eq!(rig.take(Service::Match).await, first);
    rig.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_marked_as_recovered_is_not_published_again() {
    let mut rig = Rig::on_nats().await;
    rig.commit((1..=3).map(|user| (user, 1))).await;
    rig.until_ids(3).await;
    rig.stop().await;
    rig.platform.bus.delete_stream(STREAM).await.unwrap();
    rig.apply().await;
    let consumers = rig.platform.topology.consumers.iter().filter(|c| c.filter == "user.beacon");
    let consumers: Vec<&str> = consumers.map(|c| c.durable.as_str()).collect();
    let created_at = rig.platform.bus.created_at(STREAM, &consumers).await.unwrap();
    mark_recovered(&rig.store, &[("user.beacon".to_owned(), created_at)].into()).await.unwrap();
    rig.start();
    rig.commit([(4, 1)]).await;
    rig.until_ids(1).await;
    assert_eq!(rig.published_again(), 0);
    rig.stop().await;
}
