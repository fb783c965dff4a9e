//! Dead letters on both buses: at most one for each failure, wherever a process dies and also when worker and sweeper meet;
//! and the requeue of a message to its consumer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use platform::dead_letters::{self, DeadLetter, RequeueError, Requeued, sweeper};
use platform::{Failure, Handler, Platform, Received, Store, Transaction, Worker, World};
use serde_json::json;
use streams::bus::{MESSAGE_ID, Puller, StoredMessage};
use streams::memory::MemoryBus;
use streams::nats::{NatsBus, NatsSettings};
use streams::topology::{Consumer, DEAD_LETTER_STREAM, GIVEN_UP_STREAM, Topology};
use streams::{Bus, BusError, Delivery, Event, Headers, Message, Service, VehicleType};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::accounts::{Tables, add, find, open, store};
use crate::consumer::{beacon, message};
use testing::Backend;
use testing::nats::Server;

/// Limit of every wait.
const SOON: Duration = Duration::from_secs(60);

/// Counts each beacon in an account of its driver, unless it is broken.
struct Fixable {
    broken: Arc<AtomicBool>,
}

impl Handler for Fixable {
    type Tables = Tables;

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        for received in batch {
            let Event::UserBeacon(beacon) = &received.event else { return Err(Failure::Permanent("no beacon".into())) };
            let name = beacon.user_id.to_string();
            match find(tx, &name).await? {
                None => open(tx, &name, Uuid::nil(), 1).await?,
                Some(account) => assert!(add(tx, &name, Uuid::nil(), account.version, 1).await?),
            }
        }
        if self.broken.load(Ordering::Relaxed) { Err(Failure::Permanent("not repaired yet".into())) } else { Ok(()) }
    }
}

/// One system: a bus, the store of a service, and any number of its processes.
struct Rig {
    platform: Platform,
    store: Store<Tables>,
    broken: Arc<AtomicBool>,
    processes: JoinSet<()>,
    /// Stopped when dropped.
    server: Option<Server>,
}

/// Short, because the clock of a real server cannot be paused.
const ACK_WAIT: Duration = Duration::from_secs(1);

/// The system's topology, reduced to user.beacon and these durable consumers of it.
fn topology(durables: &[&str]) -> Topology {
    let mut topology = Topology::rideshare();
    topology.consumers.retain(|c| durables.contains(&c.durable.as_str()));
    topology.streams.retain(|s| ["USER_STREAM", DEAD_LETTER_STREAM].contains(&s.name.as_str()));
    for consumer in &mut topology.consumers {
        consumer.ack_wait = ACK_WAIT;
    }
    // So short that the stream has forgotten the id of a letter when the next one is published.
    for stream in &mut topology.streams {
        stream.subjects.retain(|s| s != "user.finder");
        stream.duplicate_window = Duration::from_millis(500);
    }
    topology
}

impl Rig {
    async fn on(bus: Bus, server: Option<Server>, backend: Backend, durables: &[&str]) -> Self {
        let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 7);
        let topology = Arc::new(topology(durables));
        let platform = Platform { topology, ..Platform::new(world.clone(), bus, "test") };
        platform.bus.apply(&platform.topology.with_sweeper()).await.unwrap();
        let store = store(backend, &world).await;
        Self { platform, store, broken: Arc::default(), processes: JoinSet::new(), server }
    }

    async fn memory(durables: &[&str]) -> Self {
        let started_at = "2026-01-01T00:00:00Z".parse().unwrap();
        Self::on(Bus::Memory(MemoryBus::new(started_at, 10_000)), None, Backend::Memory, durables).await
    }

    async fn nats(durables: &[&str]) -> Self {
        let server = Server::new().unwrap();
        let bus = connect(&server.url).await;
        Self::on(bus, Some(server), Backend::Memory, durables).await
    }

    fn bus(&self) -> &Bus {
        &self.platform.bus
    }

    fn consumer(&self, durable: &str) -> Consumer {
        self.platform.topology.consumers.iter().find(|c| c.durable == durable).unwrap().clone()
    }

    async fn pull(&self, durable: &str) -> Puller {
        self.bus().pull(&self.consumer(durable)).await.unwrap()
    }

    fn sweeper(&mut self) {
        self.sweeper_of(Service::Match);
    }

    /// A sweeper in a process of `service`.
    fn sweeper_of(&mut self, service: Service) {
        self.processes.spawn(sweeper::run(self.platform.clone(), vec![service]));
    }

    /// A process of the service; once this returns, it answers requests.
    async fn worker(&mut self) {
        let consumers = vec![self.consumer(MATCH)];
        let handler = Fixable { broken: self.broken.clone() };
        let worker = Worker::new(&self.platform, Service::Match, &self.store, consumers, 16, handler);
        let stop = self.platform.shutdown.clone();
        self.processes.spawn(async move {
            worker.run(stop).await;
        });
        let subject = format!("dead_letters.{MATCH}");
        let asked = async || self.bus().request(&subject, Bytes::from_static(b"{}"), ACK_WAIT).await;
        self.until("it answers", async || asked().await.is_ok()).await;
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + SOON;
        while !holds().await {
            assert!(tokio::time::Instant::now() < deadline, "not in {SOON:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn publish(&self, event: &Event) {
        self.bus().publish(message(event, &self.platform.world)).await.unwrap();
    }

    async fn stored(&self, stream: &str) -> u64 {
        self.bus().stream_info(stream).await.unwrap().messages
    }

    /// Until the stream holds so many.
    async fn until_stored(&self, stream: &str, messages: u64) {
        self.until(&format!("{stream} holds {messages}"), async || self.stored(stream).await == messages).await;
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        let mut letters = Vec::new();
        dead_letters::for_each(self.bus(), |letter| letters.push(letter)).await.unwrap();
        letters
    }

    async fn amount(&self, user: u128) -> Option<i64> {
        let mut tx = self.store.begin().await.unwrap();
        find(&mut tx, &Uuid::from_u128(user).to_string()).await.unwrap().map(|a| a.amount)
    }

    async fn stop(mut self) {
        self.platform.shutdown.cancel();
        while let Some(ended) = self.processes.join_next().await {
            ended.unwrap();
        }
    }
}

async fn connect(url: &str) -> Bus {
    let settings = NatsSettings { urls: vec![url.to_owned()], name: "dead letters".to_owned(), ..Default::default() };
    Bus::Nats(NatsBus::connect(&settings).await.unwrap())
}

const MATCH: &str = "user_beacon_match";
const USERS: &str = "user_beacon_users";

/// Pulls one message, and leaves it to the caller to acknowledge it.
async fn take(puller: &mut Puller) -> Delivery {
    puller.fetch(1, SOON).await.unwrap().pop().unwrap()
}

/// The last delivery of the message.
async fn take_last(puller: &mut Puller) -> Delivery {
    for _ in 1..5 {
        take(puller).await.retry(Duration::ZERO).await.unwrap();
    }
    let last = take(puller).await;
    assert_eq!(last.deliveries, 5);
    last
}

/// Uses up all deliveries of the message, as processes do that die each time.
async fn exhaust(rig: &Rig, durable: &str) -> Delivery {
    let mut puller = rig.pull(durable).await;
    let last = take_last(&mut puller).await;
    // The server notices only while a pull waits.
    assert!(puller.fetch(1, 3 * ACK_WAIT).await.unwrap().is_empty());
    last
}

/// The id of the letter of a message.
fn letter_id(consumer: &str, message: &StoredMessage) -> String {
    format!("dead_letter-USER_STREAM-{consumer}-{}-{}", message.sequence, message.stored_at.timestamp_micros())
}

/// The letter that a worker stored before it died.
async fn store_letter(rig: &Rig, message: &StoredMessage, reason: &str) {
    let mut headers = message.headers.clone();
    headers.set(MESSAGE_ID, letter_id(MATCH, message));
    headers.set("Dead-Letter-Reason", reason);
    let subject = format!("dead_letter.{MATCH}");
    rig.bus().publish(Message { subject, headers, payload: message.payload.clone() }).await.unwrap();
}

/// Two tests of each function: on the memory bus in paused time, and on a nats-server of its own.
macro_rules! on_both_buses {
    ($($name:ident($($durable:expr),+);)+) => {
        mod memory {$(
            #[tokio::test(start_paused = true)]
            async fn $name() { super::$name(super::Rig::memory(&[$($durable),+]).await).await }
        )+}
        mod nats {$(
            #[tokio::test]
            async fn $name() { super::$name(super::Rig::nats(&[$($durable),+]).await).await }
        )+}
    };
}

on_both_buses! {
    a_message_whose_every_delivery_dies_becomes_one_letter(super::MATCH);
    a_letter_stored_before_a_crash_stays_the_only_one(super::MATCH);
    worker_and_sweeper_together_make_one_letter(super::MATCH);
    a_slow_message_that_is_processed_has_no_letter(super::MATCH, super::USERS);
    a_message_whose_worker_died_has_a_letter_although_its_service_runs(super::MATCH, super::USERS);
    outdated_and_foreign_advisories_change_nothing(super::MATCH);
    the_stream_of_the_sweeper_is_recreated(super::MATCH);
    another_services_sweeper_hands_the_advisory_over(super::MATCH);
    a_time_later_than_the_streams_is_a_letter_at_once(super::MATCH);
    a_requeued_message_reaches_its_consumer_only_and_once(super::MATCH, super::USERS);
}

async fn a_message_whose_every_delivery_dies_becomes_one_letter(mut rig: Rig) {
    let event = beacon(1, VehicleType::Car, 1);
    rig.publish(&event).await;
    let last = exhaust(&rig, MATCH).await;
    assert_eq!((rig.stored("USER_STREAM").await, rig.stored(GIVEN_UP_STREAM).await), (1, 1));
    for _ in 0..3 {
        rig.sweeper();
    }
    rig.until_stored(GIVEN_UP_STREAM, 0).await;
    rig.until_stored("USER_STREAM", 0).await;
    let letters = rig.letters().await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = &letters[0];
    assert_eq!((letter.consumer.as_str(), letter.stream.as_str(), letter.stream_sequence), (MATCH, "USER_STREAM", 1));
    assert_eq!((letter.subject.as_str(), letter.deliveries), ("user.beacon", 5));
    assert_eq!(letter.id, letter_id(MATCH, &last.message));
    assert_eq!(letter.message_id, last.message.headers.find(MESSAGE_ID).unwrap());
    assert!(letter.reason.starts_with("delivered 5 times"), "{}", letter.reason);
    assert_eq!(letter.payload, event.body());
    assert_eq!(letter.headers.find("ce-type"), last.message.headers.find("ce-type"));
    assert_eq!(rig.platform.metrics.dead_lettered.with_label_values(&[MATCH]).get(), 1);
    rig.stop().await;
}

async fn a_letter_stored_before_a_crash_stays_the_only_one(mut rig: Rig) {
    rig.broken.store(true, Ordering::Relaxed);
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    let taken = take(&mut rig.pull(MATCH).await).await;
    store_letter(&rig, &taken.message, "the first").await;
    // The worker died before its `term`, and no process of the service runs for longer than the duplicate window.
    tokio::time::sleep(3 * ACK_WAIT).await;
    rig.worker().await;
    rig.until_stored("USER_STREAM", 0).await;
    // Other messages fail at the same consumer, and each has a letter of its own.
    for user in 2..5 {
        rig.publish(&beacon(user, VehicleType::Car, 1)).await;
    }
    rig.until_stored(DEAD_LETTER_STREAM, 4).await;
    rig.until_stored("USER_STREAM", 0).await;
    let letters = rig.letters().await;
    assert_eq!(letters.iter().map(|l| l.stream_sequence).filter(|s| *s > 0).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(letters[0].reason, "the first");
    assert_eq!(rig.platform.metrics.dead_lettered.with_label_values(&[MATCH]).get(), 3);
    rig.stop().await;
}

async fn worker_and_sweeper_together_make_one_letter(mut rig: Rig) {
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    // The worker stored the letter of the last delivery and died before its `term`, so the server gives the message up too.
    let last = exhaust(&rig, MATCH).await;
    store_letter(&rig, &last.message, "the worker's").await;
    tokio::time::sleep(ACK_WAIT).await;
    rig.sweeper();
    rig.sweeper();
    rig.until_stored("USER_STREAM", 0).await;
    rig.until_stored(GIVEN_UP_STREAM, 0).await;
    // The worker was only paused, and now sends its `term`.
    let _ = last.terminate().await;
    let letters = rig.letters().await;
    assert_eq!(letters.iter().map(|l| l.reason.as_str()).collect::<Vec<_>>(), ["the worker's"]);
    rig.stop().await;
}

async fn a_slow_message_that_is_processed_has_no_letter(mut rig: Rig) {
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    let last = take_last(&mut rig.pull(MATCH).await).await;
    // Another process of the service tells the sweeper that the message is not processed, and the sweeper waits.
    rig.worker().await;
    rig.sweeper();
    let redelivered = async || rig.bus().consumer_info(GIVEN_UP_STREAM, "sweeper").await.unwrap().ack_pending;
    rig.until("the sweeper has it", async || redelivered().await == 1).await;
    let mut tx = rig.store.begin().await.unwrap();
    assert_eq!(tx.record_processed(MATCH, &[last.message.headers.find(MESSAGE_ID).unwrap()]).await.unwrap().len(), 1);
    tx.commit().await.unwrap();
    // The slow worker has committed, and its acknowledgement is lost.
    rig.until_stored(GIVEN_UP_STREAM, 0).await;
    assert_eq!(rig.letters().await, []);
    assert_eq!(rig.stored("USER_STREAM").await, 1, "users has not acknowledged it");
    take(&mut rig.pull(USERS).await).await.ack_confirmed().await.unwrap();
    rig.until_stored("USER_STREAM", 0).await;
    rig.stop().await;
}

async fn a_message_whose_worker_died_has_a_letter_although_its_service_runs(mut rig: Rig) {
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    exhaust(&rig, MATCH).await;
    rig.worker().await;
    rig.sweeper();
    rig.until_stored(GIVEN_UP_STREAM, 0).await;
    let letters = rig.letters().await;
    assert_eq!(letters.iter().map(|l| l.consumer.as_str()).collect::<Vec<_>>(), [MATCH]);
    assert_eq!(rig.amount(1).await, None, "no worker attempted it again");
    take(&mut rig.pull(USERS).await).await.ack_confirmed().await.unwrap();
    rig.until_stored("USER_STREAM", 0).await;
    rig.stop().await;
}

async fn outdated_and_foreign_advisories_change_nothing(mut rig: Rig) {
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    rig.publish(&beacon(2, VehicleType::Car, 1)).await;
    let first = take(&mut rig.pull(MATCH).await).await;
    let (now, long_ago) = (first.message.stored_at.to_rfc3339(), "2020-01-01T00:00:00Z");
    let advisory = |stream, consumer, sequence, timestamp: &str| json!({"stream": stream, "consumer": consumer, "stream_seq": sequence, "deliveries": 5, "timestamp": timestamp});
    for (n, body) in [
        json!("no advisory"),
        advisory("USER_STREAM", "a_consumer_of_somebody_else", 1, &now),
        advisory("NO_STREAM", MATCH, 1, &now),
        // A deleted message, one of a recreated stream, one that the consumer was not delivered yet.
        advisory("USER_STREAM", MATCH, 99, &now),
        advisory("USER_STREAM", MATCH, 1, long_ago),
        advisory("USER_STREAM", MATCH, 2, &now),
    ]
    .into_iter()
    .enumerate()
    {
        let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.test.{n}");
        let payload = Bytes::from(body.to_string());
        rig.bus().publish(Message { subject, headers: Headers::default(), payload }).await.unwrap();
    }
    rig.sweeper();
    rig.until_stored(GIVEN_UP_STREAM, 0).await;
    assert_eq!(rig.letters().await, []);
    first.ack_confirmed().await.unwrap();
    let second = take(&mut rig.pull(MATCH).await).await;
    assert_eq!(second.message.sequence, 2);
    second.ack_confirmed().await.unwrap();
    rig.until_stored("USER_STREAM", 0).await;
    rig.stop().await;
}

async fn the_stream_of_the_sweeper_is_recreated(mut rig: Rig) {
    platform::background::apply_topology(&rig.platform).await.unwrap();
    rig.processes.spawn(platform::background::reconcile_topology(rig.platform.clone()));
    rig.sweeper();
    rig.bus().delete_stream(GIVEN_UP_STREAM).await.unwrap();
    let is_back = async || matches!(rig.bus().stream_info(GIVEN_UP_STREAM).await, Ok(info) if info.consumers == 1);
    rig.until("the stream is back", is_back).await;
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    exhaust(&rig, MATCH).await;
    rig.until_stored("USER_STREAM", 0).await;
    assert_eq!(rig.letters().await.len(), 1);
    rig.stop().await;
}

async fn a_requeued_message_reaches_its_consumer_only_and_once(mut rig: Rig) {
    rig.broken.store(true, Ordering::Relaxed);
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    // From a foreign producer, without an id.
    let event = beacon(2, VehicleType::Car, 1);
    let foreign =
        Message { subject: "user.beacon".into(), headers: Headers::default(), payload: Bytes::from(event.body()) };
    rig.bus().publish(foreign).await.unwrap();
    rig.worker().await;
    rig.until_stored(DEAD_LETTER_STREAM, 2).await;
    let letters = rig.letters().await;
    let failed = dead_letters::requeue(rig.bus(), &letters[0]).await;
    assert!(matches!(&failed, Err(RequeueError::Failed(why)) if why == "not repaired yet"), "{failed:?}");
    assert_eq!((rig.letters().await.len(), rig.amount(1).await), (2, None), "nothing was changed");

    rig.broken.store(false, Ordering::Relaxed);
    let (one, two) =
        tokio::join!(dead_letters::requeue(rig.bus(), &letters[0]), dead_letters::requeue(rig.bus(), &letters[0]));
    // The other one: processed before, or its letter was removed already.
    let done = [&one, &two].into_iter().filter(|requeued| matches!(requeued, Ok(Requeued::Done))).count();
    assert_eq!(done, 1, "{one:?}, {two:?}");
    assert!(matches!(dead_letters::requeue(rig.bus(), &letters[1]).await, Ok(Requeued::Done)));
    assert_eq!((rig.letters().await.len(), rig.amount(1).await, rig.amount(2).await), (0, Some(1), Some(1)));

    // A process that dies between commit and removal leaves the letter. A second requeue only removes it.
    for letter in &letters {
        let mut again = letter.headers.clone();
        again.set(MESSAGE_ID, format!("again-{}", letter.id));
        again.set("Dead-Letter-Stream", &letter.stream);
        again.set("Dead-Letter-Subject", &letter.subject);
        again.set("Dead-Letter-Sequence", letter.stream_sequence.to_string());
        again.set("Dead-Letter-Message-Id", &letter.message_id);
        let subject = format!("dead_letter.{MATCH}");
        rig.bus().publish(Message { subject, headers: again, payload: letter.payload.clone() }).await.unwrap();
    }
    for letter in rig.letters().await {
        assert!(matches!(dead_letters::requeue(rig.bus(), &letter).await, Ok(Requeued::DoneBefore)));
    }
    // Published again after the duplicate window, the message is not handled again either.
    tokio::time::sleep(ACK_WAIT).await;
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    let taken = rig.pull(USERS).await.fetch(10, SOON).await.unwrap();
    assert_eq!(
        taken.iter().map(|d| d.deliveries).collect::<Vec<_>>(),
        [1, 1, 1],
        "users was delivered each publish once"
    );
    for delivery in taken {
        delivery.ack_confirmed().await.unwrap();
    }
    rig.until_stored("USER_STREAM", 0).await;
    assert_eq!((rig.letters().await.len(), rig.amount(1).await, rig.amount(2).await), (0, Some(1), Some(1)));
    rig.stop().await;
}

#[tokio::test]
async fn a_requeue_on_postgres_does_the_same_as_in_memory() {
    let bus = Bus::Memory(MemoryBus::new("2026-01-01T00:00:00Z".parse().unwrap(), 10_000));
    let rig = Rig::on(bus, None, Backend::Postgres, &[MATCH, USERS]).await;
    a_requeued_message_reaches_its_consumer_only_and_once(rig).await;
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_cannot_be_requeued_stays_and_says_why() {
    let mut rig = Rig::memory(&[MATCH]).await;
    rig.broken.store(true, Ordering::Relaxed);
    let body = Bytes::from_static(b"{\"user_id\": 7}");
    rig.bus()
        .publish(Message { subject: "user.beacon".into(), headers: Headers::default(), payload: body })
        .await
        .unwrap();
    let foreign = Message {
        subject: format!("dead_letter.{MATCH}"),
        headers: Headers::default(),
        payload: Bytes::from(beacon(1, VehicleType::Car, 1).body()),
    };
    rig.bus().publish(foreign).await.unwrap();
    rig.worker().await;
    rig.until_stored(DEAD_LETTER_STREAM, 2).await;
    rig.broken.store(false, Ordering::Relaxed);
    let mut letters = rig.letters().await;
    letters.sort_by_key(|l| l.subject.clone());
    for (letter, reason) in letters.iter().zip(["", "user.beacon: "]) {
        let failed = dead_letters::requeue(rig.bus(), letter).await;
        assert!(matches!(&failed, Err(RequeueError::Failed(why)) if why.contains(reason)), "{failed:?}");
    }
    let moved = DeadLetter { id: "another".into(), ..letters[1].clone() };
    assert!(matches!(dead_letters::requeue(rig.bus(), &moved).await, Err(RequeueError::Failed(_))));
    let bus = rig.bus().clone();
    rig.platform.shutdown.cancel();
    while rig.processes.join_next().await.is_some() {}
    let nobody = dead_letters::requeue(&bus, &letters[1]).await;
    assert!(matches!(&nobody, Err(RequeueError::NobodyRuns(consumer)) if consumer == MATCH), "{nobody:?}");
    assert_eq!(rig.letters().await.len(), 2);
    dead_letters::remove(&bus, &letters[1]).await.unwrap();
    assert!(matches!(dead_letters::remove(&bus, &letters[1]).await, Err(BusError::NotFound(_))));
    assert_eq!(rig.letters().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_dead_letter_stream_loses_no_letter() {
    let mut rig = Rig::memory(&[MATCH]).await;
    let roomy = rig.platform.topology.clone();
    let mut full = (*roomy).clone();
    full.streams.iter_mut().filter(|s| s.name == DEAD_LETTER_STREAM).for_each(|s| s.max_bytes = 1);
    // Deleted first: a limit is never lowered.
    rig.bus().delete_stream(DEAD_LETTER_STREAM).await.unwrap();
    rig.bus().apply(&full).await.unwrap();
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    exhaust(&rig, MATCH).await;
    rig.sweeper();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(
        (rig.letters().await.len(), rig.stored("USER_STREAM").await, rig.stored(GIVEN_UP_STREAM).await),
        (0, 1, 1)
    );
    rig.bus().apply(&roomy).await.unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(
        (rig.letters().await.len(), rig.stored("USER_STREAM").await, rig.stored(GIVEN_UP_STREAM).await),
        (1, 0, 0)
    );
    rig.stop().await;
}

#[tokio::test]
async fn the_sweeper_continues_after_a_restart_of_the_server() {
    let mut rig = Rig::nats(&[MATCH]).await;
    rig.sweeper();
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    exhaust(&rig, MATCH).await;
    rig.until_stored("USER_STREAM", 0).await;
    let server = rig.server.as_mut().unwrap();
    server.kill();
    server.start().unwrap();
    let again = message(&beacon(2, VehicleType::Car, 1), &rig.platform.world);
    rig.until("it is published", async || rig.bus().publish(again.clone()).await.is_ok()).await;
    exhaust(&rig, MATCH).await;
    rig.until_stored("USER_STREAM", 0).await;
    rig.until_stored(GIVEN_UP_STREAM, 0).await;
    assert_eq!(rig.letters().await.iter().map(|l| l.stream_sequence).collect::<Vec<_>>(), [1, 2]);
    rig.stop().await;
}

/// A client of a few lines, for headers that async-nats refuses to write.
struct Raw(BufReader<TcpStream>);

impl Raw {
    async fn connect(url: &str) -> Self {
        let mut raw = Self(BufReader::new(TcpStream::connect(url.trim_start_matches("nats://")).await.unwrap()));
        raw.send(b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\nSUB inbox 1\r\n").await;
        raw
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    async fn publish(&mut self, subject: &str, reply: &str, body: &str) {
        self.send(format!("PUB {subject} {reply} {}\r\n{body}\r\n", body.len()).as_bytes()).await;
    }

    /// The reply subject of the next message; its content is ignored.
    async fn next(&mut self) -> String {
        loop {
            let mut line = String::new();
            tokio::time::timeout(SOON, self.0.read_line(&mut line)).await.unwrap().unwrap();
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["PING"] => self.send(b"PONG\r\n").await,
                ["HMSG", _, _, reply, _, length] => {
                    let mut content = vec![0; length.parse::<usize>().unwrap() + 2];
                    self.0.read_exact(&mut content).await.unwrap();
                    return reply.to_owned();
                }
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_message_with_unreadable_headers_becomes_a_letter() {
    let mut rig = Rig::nats(&[MATCH]).await;
    let url = rig.server.as_ref().unwrap().url.clone();
    let mut raw = Raw::connect(&url).await;
    let head = b"NATS/1.0\r\nno colon here\r\nx-bad: \xff\xfe\r\nx-good: kept\r\n\r\n";
    let body = beacon(1, VehicleType::Car, 1).body();
    raw.send(format!("HPUB user.beacon {} {}\r\n", head.len(), head.len() + body.len()).as_bytes()).await;
    raw.send(&[&head[..], &body, b"\r\n"].concat()).await;
    // Each process that it is delivered to loses its connection and ends.
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.USER_STREAM.{MATCH}");
    for _ in 0..5 {
        raw.publish(&next, "inbox", "{\"batch\":1,\"expires\":30000000000}").await;
        let answer = raw.next().await;
        raw.publish(&answer, "", "-NAK").await;
    }
    raw.publish(&next, "inbox", "{\"batch\":1,\"expires\":30000000000}").await;
    rig.sweeper();
    rig.until_stored("USER_STREAM", 0).await;
    let letters = rig.letters().await;
    assert_eq!((letters.len(), &letters[0].payload[..]), (1, &body[..]));
    assert_eq!(letters[0].headers.find("x-good"), Some("kept"));
    assert_eq!(letters[0].message_id, "USER_STREAM-1");
    rig.worker().await;
    let requeued = dead_letters::requeue(rig.bus(), &letters[0]).await;
    assert!(matches!(requeued, Ok(Requeued::Done)), "{requeued:?}");
    assert_eq!(rig.amount(1).await, Some(1));
    rig.stop().await;
}

/// A stored message whose headers no client can parse, as a foreign producer may send it. It is written to the socket itself.
async fn publish_malformed(server: &Server, body: &[u8]) {
    let headers = b"NATS/1.0\r\nx-city: Z\xfcrich\r\n\r\n";
    let mut frame = b"CONNECT {\"verbose\":false,\"headers\":true}\r\n".to_vec();
    frame.extend(format!("HPUB user.beacon {} {}\r\n", headers.len(), headers.len() + body.len()).bytes());
    frame.extend([headers, body, b"\r\nPING\r\n"].concat());
    let mut stream = TcpStream::connect(server.url.rsplit('/').next().unwrap()).await.unwrap();
    stream.write_all(&frame).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    while lines.next_line().await.unwrap().is_some_and(|line| line != "PONG") {}
}

#[tokio::test]
async fn one_malformed_header_before_a_thousand_good_ones_is_one_letter_of_its_consumer() {
    let mut rig = Rig::nats(&[MATCH]).await;
    publish_malformed(rig.server.as_ref().unwrap(), &beacon(9_999, VehicleType::Car, 1).body()).await;
    for user in 0..1_000 {
        rig.publish(&beacon(user, VehicleType::Car, 1)).await;
    }
    rig.worker().await;
    rig.until_stored("USER_STREAM", 0).await;
    let letters = rig.letters().await;
    let summary: Vec<_> = letters.iter().map(|l| (l.consumer.as_str(), l.stream_sequence, l.deliveries)).collect();
    assert_eq!(summary, [(MATCH, 1, 1)]);
    assert!(letters[0].reason.contains("headers cannot be parsed"), "{}", letters[0].reason);
    assert_eq!(letters[0].headers.find("x-city"), Some("Z\u{fffd}rich"));
    assert_eq!((rig.amount(0).await, rig.amount(999).await, rig.amount(9_999).await), (Some(1), Some(1), None));
    assert_eq!(rig.bus().reconnects(), 1, "the connection was lost");
    // An operator may have it handled after all.
    assert_eq!(dead_letters::requeue(rig.bus(), &letters[0]).await.unwrap(), Requeued::Done);
    assert_eq!(rig.amount(9_999).await, Some(1));
    rig.stop().await;
}

/// A sweeper in a process of another service neither acknowledges for this one, nor loses the message.
async fn another_services_sweeper_hands_the_advisory_over(mut rig: Rig) {
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    exhaust(&rig, MATCH).await;
    rig.sweeper_of(Service::Users);
    rig.until_stored(DEAD_LETTER_STREAM, 1).await;
    tokio::time::sleep(2 * ACK_WAIT).await;
    let stored = (rig.stored("USER_STREAM").await, rig.stored(GIVEN_UP_STREAM).await);
    assert_eq!(stored, (1, 1), "no process of match runs, and only that may release the message");
    // The next message finds a worker, which sweeps it for the other process.
    rig.worker().await;
    rig.until_stored(GIVEN_UP_STREAM, 0).await;
    rig.until_stored("USER_STREAM", 0).await;
    let letters = rig.letters().await;
    assert_eq!(letters.iter().map(|l| (l.consumer.as_str(), l.stream_sequence)).collect::<Vec<_>>(), [(MATCH, 1)]);
    assert_eq!(rig.amount(1).await, None, "nobody attempted it again");
    rig.stop().await;
}

/// "No responders" is no answer that anything waits for: a watcher of all subjects is a responder to everything.
#[tokio::test]
async fn requeue_and_sweep_work_while_somebody_watches_all_subjects() {
    let mut rig = Rig::nats(&[MATCH]).await;
    let watcher = connect(&rig.server.as_ref().unwrap().url).await;
    let _all = watcher.subscribe(">", None).await.unwrap();
    rig.publish(&beacon(1, VehicleType::Car, 1)).await;
    exhaust(&rig, MATCH).await;
    rig.sweeper();
    rig.until_stored("USER_STREAM", 0).await;
    rig.until_stored(GIVEN_UP_STREAM, 0).await;
    let letter = rig.letters().await.pop().unwrap();
    let nobody = dead_letters::requeue(rig.bus(), &letter).await;
    assert!(matches!(&nobody, Err(RequeueError::NobodyRuns(consumer)) if consumer == MATCH), "{nobody:?}");
    rig.worker().await;
    assert_eq!(dead_letters::requeue(rig.bus(), &letter).await.unwrap(), Requeued::Done);
    assert_eq!(rig.amount(1).await, Some(1));
    rig.stop().await;
}

/// Readers keep the newest of two events: one time of the far future would hide every later one.
async fn a_time_later_than_the_streams_is_a_letter_at_once(mut rig: Rig) {
    rig.worker().await;
    let at = |user: u128, ahead_s: i64, now: chrono::DateTime<chrono::Utc>| match beacon(user, VehicleType::Car, 1) {
        Event::UserBeacon(beacon) => Event::UserBeacon(streams::event::UserBeacon {
            recorded_at: now + chrono::Duration::seconds(ahead_s),
            ..beacon
        }),
        other => other,
    };
    let now = rig.bus().server_time("USER_STREAM").await.unwrap();
    rig.publish(&at(1, 2_000_000_000, now)).await;
    rig.publish(&at(2, 75, now)).await;
    rig.publish(&at(3, 60, now)).await;
    rig.publish(&at(4, -86_400, now)).await;
    rig.until_stored("USER_STREAM", 0).await;
    let letters = rig.letters().await;
    assert_eq!(letters.iter().map(|l| (l.stream_sequence, l.deliveries)).collect::<Vec<_>>(), [(1, 1), (2, 1)]);
    assert!(letters[0].reason.contains("`recorded_at`: is more than 60 s later"), "{}", letters[0].reason);
    let amounts = [rig.amount(1).await, rig.amount(2).await, rig.amount(3).await, rig.amount(4).await];
    assert_eq!(amounts, [None, None, Some(1), Some(1)]);
    // Nor does a requeue believe it.
    let failed = dead_letters::requeue(rig.bus(), &letters[0]).await;
    assert!(matches!(&failed, Err(RequeueError::Failed(why)) if why.contains("recorded_at")), "{failed:?}");
    rig.stop().await;
}
