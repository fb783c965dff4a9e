//! Messages that wait for others: one transaction for many of them, none lost, and none that waits twice.

use std::time::Duration;

use platform::consumer::Ended;
use platform::{
    CancellationToken, Failure, Handler, Platform, Received, Store, Transaction, WAIT_MAX, Waiting, Worker, World,
};
use streams::memory::MemoryBus;
use streams::{Bus, Event, Service, Subject, VehicleType};
use testing::Backend;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::accounts::{Tables, store};
use crate::consumer::{beacon, message};

/// What a handler was asked to do, and for how many messages.
#[derive(Debug, PartialEq)]
enum Did {
    Arrived(usize),
    Committed(usize),
}

/// Lets cars wait for as long as it may, or until the stream's message `needed` is among them.
struct Patient {
    needed: u64,
    /// Attempts that fail.
    failures: u32,
    did: UnboundedSender<Did>,
}

fn vehicle(received: &Received) -> VehicleType {
    let Event::UserBeacon(beacon) = &received.event else { panic!("no beacon") };
    beacon.vehicle_type
}

impl Handler for Patient {
    type Tables = Tables;

    async fn arrived(&mut self, batch: &[&Received]) {
        self.did.send(Did::Arrived(batch.len())).unwrap();
    }

    fn may_wait(&self, received: &Received) -> bool {
        vehicle(received) == VehicleType::Car
    }

    fn handle_waiting_at(&mut self, waiting: &Waiting) -> chrono::DateTime<chrono::Utc> {
        if waiting.lowest_sequence <= self.needed { waiting.since } else { waiting.since + chrono::Duration::days(1) }
    }

    async fn handle(&mut self, _tx: &mut Transaction<Tables>, _batch: &[&Received]) -> Result<(), Failure> {
        if self.failures > 0 {
            self.failures -= 1;
            return Err(Failure::Transient("later".to_owned()));
        }
        Ok(())
    }

    async fn committed(&mut self, batch: &[&Received]) {
        self.did.send(Did::Committed(batch.len())).unwrap();
    }
}

struct Rig {
    platform: Platform,
    store: Store<Tables>,
    to: UnboundedSender<Did>,
    did: UnboundedReceiver<Did>,
    stop: CancellationToken,
}

impl Rig {
    async fn new() -> Self {
        let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 7);
        let bus = Bus::Memory(MemoryBus::new(world.started_at(), 10_000));
        let store = store(Backend::Memory, &world).await;
        let platform = Platform::new(world, bus, "test");
        platform.bus.apply(&platform.topology).await.unwrap();
        let (to, did) = unbounded_channel();
        Self { platform, store, to, did, stop: CancellationToken::new() }
    }

    fn work(&self, needed: u64, failures: u32) -> JoinHandle<Ended> {
        let handler = Patient { needed, failures, did: self.to.clone() };
        let consumers = vec![self.platform.topology.consumer(Subject::UserBeacon, Service::Match).clone()];
        let worker = Worker::new(&self.platform, Service::Match, &self.store, consumers, 16, handler);
        tokio::spawn(worker.run(self.stop.clone()))
    }

    async fn publish(&self, user: u128, vehicle_type: VehicleType) {
        let event = beacon(user, vehicle_type, 1);
        self.platform.bus.publish(message(&event, &self.platform.world)).await.unwrap();
        // One by one, so that each is a batch of its own.
        sleep(Duration::from_millis(10)).await;
    }

    fn did(&mut self) -> Vec<Did> {
        std::iter::from_fn(|| self.did.try_recv().ok()).collect()
    }

    async fn unacknowledged(&self) -> u64 {
        self.platform.bus.consumer_info("USER_STREAM", "user_beacon_match").await.unwrap().ack_pending
    }
}

fn wait_max() -> Duration {
    WAIT_MAX.to_std().unwrap()
}

#[tokio::test(start_paused = true)]
async fn messages_wait_unacknowledged_and_are_handled_together() {
    let mut rig = Rig::new().await;
    rig.work(0, 0);
    for user in 1..=3 {
        rig.publish(user, VehicleType::Car).await;
    }
    rig.publish(4, VehicleType::Van).await;
    let arrived = || Did::Arrived(1);
    assert_eq!(
        rig.did(),
        [arrived(), arrived(), arrived(), arrived(), Did::Committed(1)],
        "what may not wait does not"
    );
    sleep(wait_max() - Duration::from_secs(1)).await;
    assert_eq!((rig.did(), rig.unacknowledged().await), (vec![], 3));
    sleep(Duration::from_secs(2)).await;
    assert_eq!((rig.did(), rig.unacknowledged().await), (vec![Did::Committed(3)], 0));
}

#[tokio::test(start_paused = true)]
async fn a_handler_ends_the_wait_early() {
    let mut rig = Rig::new().await;
    rig.work(2, 0);
    for user in 1..=4 {
        rig.publish(user, VehicleType::Car).await;
    }
    sleep(Duration::from_secs(1)).await;
    let one = || [Did::Arrived(1), Did::Committed(1)];
    let expected: Vec<Did> = one().into_iter().chain(one()).chain([Did::Arrived(1), Did::Arrived(1)]).collect();
    assert_eq!(rig.did(), expected, "the third and the fourth are not needed yet");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_handles_what_waits() {
    let mut rig = Rig::new().await;
    let worker = rig.work(0, 0);
    rig.publish(1, VehicleType::Car).await;
    rig.publish(2, VehicleType::Car).await;
    rig.stop.cancel();
    assert_eq!(worker.await.unwrap(), Ended::Stopped);
    assert_eq!(rig.did(), [Did::Arrived(1), Did::Arrived(1), Did::Committed(2)]);
    assert_eq!(rig.unacknowledged().await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_worker_held_is_redelivered_and_does_not_wait_again() {
    let mut rig = Rig::new().await;
    let worker = rig.work(0, 0);
    rig.publish(1, VehicleType::Car).await;
    worker.abort();
    assert!(worker.await.unwrap_err().is_cancelled());
    rig.work(0, 0);
    sleep(Duration::from_secs(31)).await;
    assert_eq!(rig.did(), [Did::Arrived(1), Did::Arrived(1), Did::Committed(1)]);
}

#[tokio::test(start_paused = true)]
async fn those_that_fail_together_are_handled_one_by_one() {
    let mut rig = Rig::new().await;
    rig.work(0, 1);
    for user in 1..=3 {
        rig.publish(user, VehicleType::Car).await;
    }
    sleep(wait_max() + Duration::from_secs(1)).await;
    let arrived = || Did::Arrived(1);
    let committed = || Did::Committed(1);
    assert_eq!(rig.did(), [arrived(), arrived(), arrived(), committed(), committed(), committed()]);
}
