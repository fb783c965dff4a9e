//! The transactional consumer and the relay: effects once, poison messages apart, dead letters, order, failures of the bus
//! and the store.

use std::time::Duration;

use bytes::Bytes;
use platform::consumer::Ended;
use platform::relay::{self, Relay};
use platform::{CancellationToken, Failure, Handler, Platform, Received, Store, Transaction, Worker, World};
use streams::bus::ReplayStart;
use streams::event::{LocationAggregate, UserBeacon};
use streams::memory::MemoryBus;
use streams::topology::{Consumer, DEAD_LETTER_STREAM};
use streams::{Bus, Event, Headers, Message, Position, RideId, Service, Subject, UserId, VehicleType};
use testing::Backend;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::accounts::{Tables, add, find, open, store};

/// Counts each beacon in an account of its driver, and fails as the vehicle type says.
struct Counter {
    done: mpsc::UnboundedSender<usize>,
}

impl Handler for Counter {
    type Tables = Tables;

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        for received in batch {
            let Event::UserBeacon(beacon) = &received.event else { return Err(Failure::Permanent("no beacon".into())) };
            assert!(beacon.location.lat < 80.0, "a handler that panics at the pole");
            let name = beacon.user_id.to_string();
            match find(tx, &name).await? {
                None => open(tx, &name, Uuid::nil(), 1).await?,
                Some(account) => assert!(add(tx, &name, Uuid::nil(), account.version, 1).await?),
            }
            let ride_id = RideId(beacon.user_id.0);
            let seen = LocationAggregate {
                ride_id,
                driver_id: beacon.user_id,
                distance_m: 0.0,
                points: 0,
                last: None,
                is_final: false,
                covered: None,
            };
            tx.publish(&Event::LocationAggregate(seen), &received.trace);
            match beacon.vehicle_type {
                VehicleType::Car => {}
                VehicleType::Van => return Err(Failure::Transient("a van, always".into())),
                VehicleType::Motorcycle => return Err(Failure::Permanent("a motorcycle, never".into())),
            }
        }
        Ok(())
    }

    async fn committed(&mut self, batch: &[&Received]) {
        let _ = self.done.send(batch.len());
    }
}

pub(crate) fn beacon(user: u128, vehicle_type: VehicleType, second: u32) -> Event {
    Event::UserBeacon(UserBeacon {
        user_id: UserId(Uuid::from_u128(user)),
        active: true,
        vehicle_type,
        location: Position { lat: 1.0, lng: 2.0 },
        recorded_at: format!("2026-01-01T00:00:{second:02}Z").parse().unwrap(),
        located_at: None,
        device: None,
    })
}

pub(crate) fn message(event: &Event, world: &World) -> Message {
    let id = event.message_id(world.now());
    let body = Bytes::from(event.body());
    relay::message(event.subject().as_str(), &id, "x", world.now(), "", Service::Users, body)
}

pub(crate) fn consumer(platform: &Platform) -> Consumer {
    platform.topology.consumer(Subject::UserBeacon, Service::Match).clone()
}

pub(crate) struct Rig {
    pub(crate) platform: Platform,
    store: Store<Tables>,
    done: mpsc::UnboundedReceiver<usize>,
    worker: tokio::task::JoinHandle<Ended>,
    stop: CancellationToken,
}

/// A platform on the memory bus, with its topology.
async fn platform() -> Platform {
    let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 7);
    let bus = Bus::Memory(MemoryBus::new(world.started_at(), 10_000));
    let platform = Platform::new(world, bus, "test");
    platform.bus.apply(&platform.topology).await.unwrap();
    platform
}

async fn rig(backend: Backend) -> Rig {
    Rig::start(platform().await, backend).await
}

impl Rig {
    /// A worker and a relay.
    pub(crate) async fn start(platform: Platform, backend: Backend) -> Self {
        let store = store(backend, &platform.world).await;
        let (to, done) = mpsc::unbounded_channel();
        let handler = Counter { done: to };
        let consumers = vec![consumer(&platform)];
        let worker = Worker::new(&platform, Service::Match, &store, consumers, 16, handler);
        let stop = CancellationToken::new();
        let worker = tokio::spawn(worker.run(stop.clone()));
        tokio::spawn(Relay::new(&platform, Service::Match, &store).run(stop.clone()));
        Self { platform, store, done, worker, stop }
    }

    pub(crate) async fn publish(&self, event: &Event) {
        self.platform.bus.publish(message(event, &self.platform.world)).await.unwrap();
    }

    pub(crate) async fn done(&mut self, count: usize) {
        let mut seen = 0;
        while seen < count {
            seen += self.done.recv().await.unwrap();
        }
        assert_eq!(seen, count);
    }

    pub(crate) async fn amount(&self, user: u128) -> Option<i64> {
        let mut tx = self.store.begin().await.unwrap();
        find(&mut tx, &UserId(Uuid::from_u128(user)).to_string()).await.unwrap().map(|a| a.amount)
    }

    pub(crate) async fn dead_letters(&self, count: usize) -> Vec<streams::bus::StoredMessage> {
        let mut replay = self.platform.bus.replay(DEAD_LETTER_STREAM, None, ReplayStart::Sequence(1)).await.unwrap();
        let mut letters = Vec::new();
        while let Some(letter) =
            replay.next(Duration::from_secs(if letters.len() < count { 120 } else { 1 })).await.unwrap()
        {
            letters.push(letter);
        }
        letters
    }
}

#[tokio::test(start_paused = true)]
async fn a_redelivered_event_has_no_second_effect() {
    let mut rig = rig(Backend::Memory).await;
    // Published again after the duplicate window, the event is stored as a second message with the same id.
    let event = beacon(1, VehicleType::Car, 1);
    rig.publish(&event).await;
    rig.done(1).await;
    tokio::time::advance(Duration::from_secs(400)).await;
    rig.publish(&event).await;
    rig.publish(&beacon(1, VehicleType::Car, 2)).await;
    rig.done(1).await;
    assert_eq!(rig.amount(1).await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_poison_message_delays_no_other_and_becomes_one_dead_letter() {
    let mut rig = rig(Backend::Memory).await;
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    rig.publish(&beacon(2, VehicleType::Motorcycle, 1)).await;
    rig.publish(&beacon(3, VehicleType::Car, 1)).await;
    rig.done(2).await;
    let letters = rig.dead_letters(1).await;
    assert_eq!(letters.len(), 1);
    let header = |name| letters[0].headers.find(name).unwrap().to_owned();
    assert_eq!(letters[0].subject, "dead_letter.user_beacon_match");
    assert_eq!(header("Dead-Letter-Reason"), "a motorcycle, never");
    assert_eq!(header("Dead-Letter-Deliveries"), "1");
    assert_eq!(header("Dead-Letter-Sequence"), "2");
    assert_eq!(header("Dead-Letter-Stream"), "USER_STREAM");
    assert_eq!(
        header("Dead-Letter-Message-Id"),
        beacon(2, VehicleType::Motorcycle, 1).message_id(rig.platform.world.now())
    );
    assert_eq!((rig.amount(1).await, rig.amount(2).await, rig.amount(3).await), (Some(1), None, Some(1)));
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_attempted_three_times_with_growing_delays() {
    let rig = rig(Backend::Memory).await;
    let began = rig.platform.world.now();
    rig.publish(&beacon(1, VehicleType::Van, 1)).await;
    let letters = rig.dead_letters(1).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].headers.find("Dead-Letter-Deliveries"), Some("3"));
    let took = letters[0].stored_at - began;
    assert!((5..7).contains(&took.num_seconds()), "1 s and 4 s of delay: {took}");
    let info = rig.platform.bus.consumer_info("USER_STREAM", "user_beacon_match").await.unwrap();
    assert_eq!((info.pending, info.ack_pending), (0, 0));
}

/// A worker that stops puts back what it holds, and a process that dies loses it. Neither says anything about the message.
#[tokio::test(start_paused = true)]
async fn the_delay_grows_with_failed_attempts_and_not_with_deliveries() {
    let platform = platform().await;
    platform.bus.publish(message(&beacon(1, VehicleType::Van, 1), &platform.world)).await.unwrap();
    let mut puller = platform.bus.pull(&consumer(&platform)).await.unwrap();
    for _ in 0..2 {
        let delivery = puller.fetch(1, Duration::from_secs(1)).await.unwrap().remove(0);
        delivery.retry(Duration::ZERO).await.unwrap();
    }
    puller.close().await;
    let began = platform.world.now();
    let rig = Rig::start(platform, Backend::Memory).await;
    let letters = rig.dead_letters(1).await;
    assert_eq!(letters[0].headers.find("Dead-Letter-Deliveries"), Some("4"));
    let took = letters[0].stored_at - began;
    assert!(
        (1..2).contains(&took.num_seconds()),
        "the first attempt failed on delivery 3, the second 1 s later: {took}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_no_event_is_dead_lettered_at_once_with_its_sequence_as_id() {
    let mut rig = rig(Backend::Memory).await;
    for body in ["{", "{\"user_id\":7}", "{}", "null", ""] {
        let message =
            Message { subject: "user.beacon".into(), headers: Headers::default(), payload: Bytes::from(body) };
        rig.platform.bus.publish(message).await.unwrap();
    }
    rig.publish(&beacon(9, VehicleType::Car, 1)).await;
    rig.done(1).await;
    let letters = rig.dead_letters(5).await;
    assert_eq!(letters.len(), 5);
    for (n, letter) in letters.iter().enumerate() {
        assert_eq!(letter.headers.find("Dead-Letter-Message-Id"), Some(format!("USER_STREAM-{}", n + 1).as_str()));
        assert!(letter.headers.find("Dead-Letter-Reason").unwrap().starts_with("user.beacon: "));
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_makes_the_handler_panic_is_dead_lettered_and_its_neighbours_are_handled() {
    let mut rig = rig(Backend::Memory).await;
    let Event::UserBeacon(mut pole) = beacon(2, VehicleType::Car, 1) else { panic!() };
    pole.location.lat = 90.0;
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    let mut message = message(&Event::UserBeacon(pole), &rig.platform.world);
    message.headers.set("Nats-Expected-Stream", "USER_STREAM");
    message.headers.set("x-own", "kept");
    rig.platform.bus.publish(message).await.unwrap();
    rig.publish(&beacon(3, VehicleType::Car, 1)).await;
    rig.done(2).await;
    let letters = rig.dead_letters(1).await;
    assert_eq!(letters[0].headers.find("Dead-Letter-Reason"), Some("the handler panicked"));
    assert_eq!(letters[0].headers.find("x-own"), Some("kept"));
    assert_eq!(letters[0].headers.find("Nats-Expected-Stream"), None, "the header was meant for the first publish");
    assert_eq!((rig.amount(1).await, rig.amount(3).await), (Some(1), Some(1)));
}

#[tokio::test(start_paused = true)]
async fn events_of_one_key_stay_in_order_through_failed_publishes() {
    let mut rig = rig(Backend::Memory).await;
    for round in 0..5 {
        if round < 3 {
            rig.platform.bus.delete_stream("LOCATION_STREAM").await.unwrap();
        }
        for second in 0..10 {
            rig.publish(&beacon(1, VehicleType::Car, round * 10 + second)).await;
            rig.done(1).await;
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        rig.platform.bus.apply(&rig.platform.topology).await.unwrap();
        tokio::time::sleep(Duration::from_secs(u64::from(round) * 3)).await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut replay = rig.platform.bus.replay("LOCATION_STREAM", None, ReplayStart::Sequence(1)).await.unwrap();
    let mut times = Vec::new();
    while let Some(stored) = replay.next(Duration::from_secs(1)).await.unwrap() {
        let id = stored.headers.find("Nats-Msg-Id").unwrap().to_owned();
        times.push(id.rsplit_once('-').unwrap().1.parse::<i64>().unwrap());
    }
    assert!(times.len() >= 30 && times.is_sorted(), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_puts_back_what_it_did_not_handle() {
    let rig = rig(Backend::Memory).await;
    rig.stop.cancel();
    assert_eq!(rig.worker.await.unwrap(), Ended::Stopped);
    rig.platform.bus.publish(message(&beacon(1, VehicleType::Car, 1), &rig.platform.world)).await.unwrap();
    let info = rig.platform.bus.consumer_info("USER_STREAM", "user_beacon_match").await.unwrap();
    assert_eq!((info.pending, info.ack_pending), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_failed_is_retried_once_the_stream_is_back() {
    let mut rig = rig(Backend::Memory).await;
    rig.platform.bus.delete_stream("LOCATION_STREAM").await.unwrap();
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    rig.done(1).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(rig.platform.metrics.outbox_age.with_label_values(&["match"]).get() > 20.0);
    rig.platform.bus.apply(&rig.platform.topology).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let info = rig.platform.bus.stream_info("LOCATION_STREAM").await.unwrap();
    assert_eq!(info.messages, 1);
    assert_eq!(rig.platform.metrics.outbox_age.with_label_values(&["match"]).get(), 0.0);
}

#[tokio::test]
async fn rows_and_events_are_committed_together_on_postgres() {
    let mut rig = rig(Backend::Postgres).await;
    for second in 0..50 {
        rig.publish(&beacon(u128::from(second % 5), VehicleType::Car, second)).await;
    }
    rig.done(50).await;
    for user in 0..5 {
        assert_eq!(rig.amount(user).await, Some(10));
    }
    let mut replay = rig.platform.bus.replay("LOCATION_STREAM", None, ReplayStart::Sequence(1)).await.unwrap();
    for _ in 0..50 {
        assert!(replay.next(Duration::from_secs(20)).await.unwrap().is_some());
    }
}
