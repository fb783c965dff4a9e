//! A stream, or a consumer of one that keeps only what is waited for, is lost and made again: what was published is told
//! again from the outbox, in its order, and nothing before it is there.

use std::sync::Arc;
use std::time::Duration;

use platform::{CancellationToken, Health, Metrics, Platform, Store, World};
use streams::bus::ReplayStart;
use streams::memory::MemoryBus;
use streams::nats::{NatsBus, NatsSettings};
use streams::topology::Topology;
use streams::{Bus, Service, Subject, VehicleType};
use tokio::task::JoinHandle;

use crate::accounts::{Kind, Tables, store};
use crate::consumer::beacon;
use testing::nats::Server;

const STREAM: &str = "USER_STREAM";
/// How long the streams remember ids; an ordinary one is too long for a test.
const WINDOW: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(30);

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
        let bus = NatsBus::connect(&NatsSettings { urls, creds: None, ca: None, replicas: 1, name }).await.unwrap();
        Self::on(World::real(), Bus::Nats(bus), Some(server)).await
    }

    async fn on(world: World, bus: Bus, server: Option<Server>) -> Self {
        let mut topology = Topology::rideshare();
        for stream in &mut topology.streams {
            stream.duplicate_window = WINDOW;
        }
        let platform = Platform {
            world,
            bus,
            topology: Arc::new(topology),
            metrics: Arc::new(Metrics::new()),
            health: Arc::new(Health::default()),
            shutdown: CancellationToken::new(),
            pod: "test".into(),
        };
        let store = store(Kind::Postgres, &platform.world).await;
        let mut rig = Self { platform, store, relay: None, _server: server };
        rig.apply().await;
        rig.start();
        rig
    }

    fn start(&mut self) {
        let stop = CancellationToken::new();
        let relay = self.store.clone().relay(self.platform.clone(), Service::Users, stop.clone());
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

    async fn held(&self) -> u64 {
        self.platform.bus.stream_info(STREAM).await.map_or(0, |info| info.messages)
    }

    /// The ids in the stream, in order.
    async fn ids(&self) -> Vec<String> {
        let held = self.held().await;
        let mut replay = self.platform.bus.replay(STREAM, None, ReplayStart::Sequence(1)).await.unwrap();
        let mut ids = Vec::new();
        while (ids.len() as u64) < held {
            let stored = replay.next(Duration::from_secs(5)).await.unwrap().unwrap();
            ids.push(stored.headers.find("Nats-Msg-Id").unwrap().to_owned());
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

    async fn until_held(&self, count: u64) {
        self.until(&format!("{count} messages"), async || self.held().await == count).await;
    }

    async fn until_ids(&self, count: usize) -> Vec<String> {
        self.until_held(count as u64).await;
        self.ids().await
    }

    /// The id of the next message that a consumer has, which is acknowledged.
    async fn take(&self, service: Service) -> String {
        let consumer = self.platform.topology.consumer(Subject::UserBeacon, service).clone();
        let mut puller = self.platform.bus.pull(&consumer).await.unwrap();
        let delivery = puller.fetch(1, SOON).await.unwrap().remove(0);
        delivery.ack_confirmed().await.unwrap();
        puller.close().await;
        delivery.message.headers.find("Nats-Msg-Id").unwrap().to_owned()
    }

    fn told_again(&self) -> u64 {
        self.platform.metrics.published_again.with_label_values(&["users"]).get()
    }
}

async fn told_again_in_order(mut rig: Rig) {
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
        assert_eq!(of(&after, &user), of(&before, &user), "all of it, and each key in its order");
    }
    assert!(after[sent.len()].contains("000000000063"), "what is new comes last: {}", after[sent.len()]);
    rig.stop().await;
}

#[tokio::test]
async fn what_a_lost_stream_held_is_told_again_in_order_on_memory() {
    told_again_in_order(Rig::on_memory().await).await;
}

#[tokio::test]
async fn what_a_lost_stream_held_is_told_again_in_order_on_nats() {
    told_again_in_order(Rig::on_nats().await).await;
}

#[tokio::test]
async fn a_process_that_starts_afterwards_notices_it_too() {
    let mut rig = Rig::on_nats().await;
    rig.commit((1..=5).map(|user| (user, 1))).await;
    let before = rig.until_ids(5).await;
    rig.stop().await;
    rig.platform.bus.delete_stream(STREAM).await.unwrap();
    rig.apply().await;
    assert_eq!(rig.held().await, 0);
    rig.start();
    assert_eq!(rig.until_ids(5).await, before);
    // Once is enough, also for the next one.
    rig.stop().await;
    rig.start();
    rig.commit([(6, 1)]).await;
    rig.until_ids(6).await;
    assert_eq!(rig.told_again(), 5);
    rig.stop().await;
}

#[tokio::test]
async fn nothing_is_published_past_a_consumer_that_is_missing() {
    let mut rig = Rig::on_nats().await;
    rig.commit([(1, 1)]).await;
    rig.until_held(1).await;
    rig.stop().await;
    let missing = rig.platform.topology.consumer(Subject::UserBeacon, Service::Match).clone();
    rig.platform.bus.delete_consumer(STREAM, &missing.durable).await.unwrap();
    let first = rig.take(Service::Users).await;
    assert_eq!(rig.take(Service::Location).await, first);
    // Nobody else waits for it.
    rig.until_held(0).await;
    rig.start();
    rig.commit([(2, 1)]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.held().await, 0, "it would not be kept for the one that is missing");
    assert_eq!(rig.store.waiting().await.unwrap(), 1);
    rig.apply().await;
    let second = rig.take(Service::Match).await;
    assert_ne!(second, first);
    // At first the stream takes it for a repeat.
    assert_eq!(rig.take(Service::Match).await, first);
    rig.stop().await;
}

#[tokio::test]
async fn what_somebody_else_has_repaired_is_not_told_again() {
    let mut rig = Rig::on_nats().await;
    rig.commit((1..=3).map(|user| (user, 1))).await;
    rig.until_ids(3).await;
    rig.stop().await;
    rig.platform.bus.delete_stream(STREAM).await.unwrap();
    rig.apply().await;
    let consumers = rig.platform.topology.consumers.iter().filter(|c| c.filter == "user.beacon");
    let consumers: Vec<&str> = consumers.map(|c| c.durable.as_str()).collect();
    let made = rig.platform.bus.created_at(STREAM, &consumers).await.unwrap();
    rig.store.settle_streams(&[("user.beacon".to_owned(), made)].into()).await.unwrap();
    rig.start();
    rig.commit([(4, 1)]).await;
    rig.until_ids(1).await;
    assert_eq!(rig.told_again(), 0);
    rig.stop().await;
}
