//! What a case gets: a bus, unique names of streams and subjects, and helpers for what most cases do.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use streams::bus::{Published, Puller, StoredMessage};
use streams::memory::MemoryBus;
use streams::nats::{NatsBus, NatsSettings};
use streams::topology::{Consumer, Discard, Retention, Storage, Stream, Topology};
use streams::{Bus, Delivery, Headers, Message};
use tokio::time::Instant;

use testing::nats::Server;

/// The limit of every wait for something that must happen.
const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Fixture {
    pub(crate) bus: Bus,
    prefix: String,
    /// Names of the streams that the case may have created.
    streams: Mutex<BTreeSet<String>>,
    server: Mutex<Option<Server>>,
}

/// Runs a case on a memory bus; its clock is paused.
pub(crate) async fn on_memory<F: Future<Output = Result<()>>>(
    name: &str,
    case: impl FnOnce(&'static Fixture) -> F,
) -> Result<()> {
    case(Fixture::memory(name)).await
}

/// Runs a case on the server of `TEST_NATS_URL`, and deletes its streams.
pub(crate) async fn on_nats<F: Future<Output = Result<()>>>(
    name: &str,
    case: impl FnOnce(&'static Fixture) -> F,
) -> Result<()> {
    let url = std::env::var("TEST_NATS_URL")
        .context("TEST_NATS_URL is not set: run the tests by scripts/test, which starts a nats-server for them")?;
    let fixture = Fixture::nats(name, &url).await?;
    let result = case(fixture).await;
    let streams = fixture.streams.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for stream in streams {
        let _ = fixture.bus.delete_stream(&stream).await;
    }
    result
}

impl Fixture {
    fn new(name: &str, bus: Bus) -> &'static Self {
        let prefix = format!("{name}_{}", std::process::id());
        // Leaked, so that tasks of the case may borrow it; the process ends soon.
        Box::leak(Box::new(Self { bus, prefix, streams: Mutex::default(), server: Mutex::default() }))
    }

    /// On a bus of the test's own.
    pub(crate) fn with(name: &str, bus: Bus) -> &'static Self {
        Self::new(name, bus)
    }

    /// On a server of the test's own.
    pub(crate) async fn at(name: &str, url: &str) -> Result<&'static Self> {
        Self::nats(name, url).await
    }

    fn memory(name: &str) -> &'static Self {
        Self::new(name, Bus::Memory(MemoryBus::new(started_at(), 100_000)))
    }

    async fn nats(name: &str, url: &str) -> Result<&'static Self> {
        let settings = NatsSettings { urls: vec![url.to_owned()], name: name.to_owned(), ..Default::default() };
        Ok(Self::new(name, Bus::Nats(NatsBus::connect(&settings).await?)))
    }

    /// The same on a server (or a memory bus) that no other case uses. End it by [`stop_server`](Self::stop_server).
    pub(crate) async fn on_own_server(&self) -> Result<&'static Self> {
        if self.is_memory() {
            return Ok(Self::memory(&self.prefix));
        }
        let server = Server::new()?;
        let fixture = Self::nats(&self.prefix, &server.url).await?;
        *fixture.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
        Ok(fixture)
    }

    /// Stops the server of [`on_own_server`](Self::on_own_server), which the leaked fixture would leave running.
    pub(crate) fn stop_server(&self) {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(crate) fn is_memory(&self) -> bool {
        matches!(self.bus, Bus::Memory(_))
    }

    /// Kills and restarts the server. The memory bus has no files: all its streams are gone.
    pub(crate) async fn restart(&self) -> Result<()> {
        if self.is_memory() {
            let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for stream in streams {
                self.bus.delete_stream(&stream).await?;
            }
            return Ok(());
        }
        let before = self.bus.reconnects();
        {
            let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
            let server = server.as_mut().context("only a case on its own server restarts it")?;
            server.kill();
            server.start()?;
        }
        eventually("the connection", || async { Ok(self.bus.reconnects() > before && self.bus.check().await.is_ok()) })
            .await
    }

    /// Much longer than a consumer normally takes; 8 s on the memory bus, where time costs nothing.
    pub(crate) fn long(&self) -> Duration {
        if self.is_memory() { Duration::from_secs(8) } else { Duration::from_secs(1) }
    }

    /// A name that no other case uses.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}_{name}", self.prefix)
    }

    /// A subject that no other case uses.
    pub(crate) fn subject(&self, subject: &str) -> String {
        format!("{}.{subject}", self.prefix)
    }

    /// A memory stream of these subjects that discards the new, with generous limits.
    pub(crate) fn stream(&self, name: &str, subjects: &[&str], retention: Retention) -> Stream {
        let stream = Stream {
            name: self.name(name),
            subjects: subjects.iter().map(|s| self.subject(s)).collect(),
            retention,
            storage: Storage::Memory,
            discard: Discard::New,
            max_age: Duration::from_secs(3_600),
            max_bytes: 64 << 20,
            duplicate_window: Duration::from_secs(120),
        };
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(stream.name.clone());
        stream
    }

    /// A consumer of one subject (empty: all), with a long ack wait and without a limit of deliveries.
    pub(crate) fn consumer(&self, stream: &Stream, name: &str, filter: &str) -> Consumer {
        Consumer {
            stream: stream.name.clone(),
            durable: self.name(name),
            filter: if filter.is_empty() { String::new() } else { self.subject(filter) },
            ack_wait: Duration::from_secs(30),
            max_deliver: -1,
            max_ack_pending: 1_000,
            backoff: Vec::new(),
        }
    }

    /// Applies them; returns the changes.
    pub(crate) async fn apply(&self, streams: &[&Stream], consumers: &[&Consumer]) -> Result<Vec<String>> {
        Ok(self.bus.apply(&topology(streams, consumers)).await?)
    }

    pub(crate) fn message(&self, subject: &str, payload: impl Into<Bytes>) -> Message {
        Message { subject: self.subject(subject), headers: Headers::default(), payload: payload.into() }
    }

    pub(crate) fn message_with_id(&self, subject: &str, id: &str) -> Message {
        let mut message = self.message(subject, id.to_owned());
        message.headers.set(streams::bus::MESSAGE_ID, id);
        message
    }

    pub(crate) async fn publish(&self, subject: &str, payload: &'static str) -> Result<Published> {
        Ok(self.bus.publish(self.message(subject, payload)).await?)
    }

    /// Publishes `count` messages, `0`, `1`, `2` …
    pub(crate) async fn publish_numbers(&self, subject: &str, count: usize) -> Result<()> {
        let messages = (0..count).map(|n| self.message(subject, n.to_string())).collect();
        for published in self.bus.publish_all(messages).await {
            published?;
        }
        Ok(())
    }

    pub(crate) async fn pull(&self, consumer: &Consumer) -> Result<Puller> {
        Ok(self.bus.pull(consumer).await?)
    }

    /// The number of messages in the stream.
    pub(crate) async fn stored(&self, stream: &Stream) -> Result<u64> {
        Ok(self.bus.stream_info(&stream.name).await?.messages)
    }

    /// Waits until the stream has `count` messages: a server removes an acknowledged message soon, not at once.
    pub(crate) async fn until_stored(&self, stream: &Stream, count: u64) -> Result<()> {
        eventually(&format!("{count} messages stored"), || async { Ok(self.stored(stream).await? == count) }).await
    }

    /// A consumer's pending and ack pending.
    pub(crate) async fn lag(&self, consumer: &Consumer) -> Result<(u64, u64)> {
        let info = self.bus.consumer_info(&consumer.stream, &consumer.durable).await?;
        Ok((info.pending, info.ack_pending))
    }

    /// Waits until the consumer's pending and ack pending are these.
    pub(crate) async fn until_lag(&self, consumer: &Consumer, lag: (u64, u64)) -> Result<()> {
        eventually(&format!("a lag of {lag:?}"), || async { Ok(self.lag(consumer).await? == lag) }).await
    }
}

/// The wall time at the start of every memory bus.
pub(crate) fn started_at() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).expect("a time in range")
}

pub(crate) fn topology(streams: &[&Stream], consumers: &[&Consumer]) -> Topology {
    Topology {
        streams: streams.iter().map(|s| (*s).clone()).collect(),
        consumers: consumers.iter().map(|c| (*c).clone()).collect(),
    }
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Sleeps: not at all on the paused clock of the memory bus.
pub(crate) async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Fetches until it has exactly `count` deliveries.
pub(crate) async fn receive(puller: &mut Puller, count: usize) -> Result<Vec<Delivery>> {
    let until = Instant::now() + SOON;
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        ensure!(Instant::now() < until, "only {} of {count} messages were delivered", deliveries.len());
        deliveries.extend(puller.fetch(count - deliveries.len(), Duration::from_secs(2)).await?);
    }
    Ok(deliveries)
}

pub(crate) async fn receive_one(puller: &mut Puller) -> Result<Delivery> {
    receive(puller, 1).await?.pop().context("one delivery")
}

/// Fetches `count` deliveries and acknowledges them.
pub(crate) async fn receive_and_ack(puller: &mut Puller, count: usize) -> Result<Vec<Delivery>> {
    let deliveries = receive(puller, count).await?;
    for delivery in &deliveries {
        delivery.ack_confirmed().await?;
    }
    Ok(deliveries)
}

/// Fails if a message is delivered within `wait`.
pub(crate) async fn receive_nothing(puller: &mut Puller, wait: Duration) -> Result<()> {
    let deliveries = puller.fetch(1, wait).await?;
    ensure!(deliveries.is_empty(), "nothing should have been delivered: {:?}", deliveries[0].message);
    Ok(())
}

/// Repeats the check until it holds.
pub(crate) async fn eventually<F: Future<Output = Result<bool>>>(
    what: &str,
    mut holds: impl FnMut() -> F,
) -> Result<()> {
    let until = Instant::now() + SOON;
    while !holds().await? {
        ensure!(Instant::now() < until, "{what}: not in {SOON:?}");
        sleep(millis(20)).await;
    }
    Ok(())
}

pub(crate) fn text(message: &StoredMessage) -> &str {
    std::str::from_utf8(&message.payload).unwrap_or("not UTF-8")
}

pub(crate) fn texts(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|d| text(&d.message)).collect()
}

pub(crate) fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}
