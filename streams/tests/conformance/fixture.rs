//! What a case gets: a bus, names of its own, and short words for what cases do all the time.

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

/// What must come, comes within this.
const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Fixture {
    pub(crate) bus: Bus,
    prefix: String,
    made: Mutex<BTreeSet<String>>,
    server: Mutex<Option<Server>>,
}

/// Runs a case on a memory bus; its clock is paused.
pub(crate) async fn on_memory<F: Future<Output = Result<()>>>(
    name: &str,
    case: impl FnOnce(&'static Fixture) -> F,
) -> Result<()> {
    case(Fixture::memory(name)).await
}

/// Runs a case on the server of `TEST_NATS_URL`, and removes its streams.
pub(crate) async fn on_nats<F: Future<Output = Result<()>>>(
    name: &str,
    case: impl FnOnce(&'static Fixture) -> F,
) -> Result<()> {
    let url = std::env::var("TEST_NATS_URL")
        .context("TEST_NATS_URL is not set: run the tests by scripts/test, which starts a nats-server for them")?;
    let fixture = Fixture::nats(name, &url).await?;
    let result = case(fixture).await;
    let made = fixture.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for stream in made {
        let _ = fixture.bus.delete_stream(&stream).await;
    }
    result
}

impl Fixture {
    fn new(name: &str, bus: Bus) -> &'static Self {
        let prefix = format!("{name}_{}", std::process::id());
        // Leaked: a case may hand it to its tasks, and the process ends soon.
        Box::leak(Box::new(Self { bus, prefix, made: Mutex::default(), server: Mutex::default() }))
    }

    fn memory(name: &str) -> &'static Self {
        Self::new(name, Bus::Memory(MemoryBus::new(started_at(), 100_000)))
    }

    async fn nats(name: &str, url: &str) -> Result<&'static Self> {
        let settings =
            NatsSettings { urls: vec![url.to_owned()], creds: None, ca: None, replicas: 1, name: name.to_owned() };
        Ok(Self::new(name, Bus::Nats(NatsBus::connect(&settings).await?)))
    }

    /// The same on a server (or a memory bus) that no other case uses.
    pub(crate) async fn alone(&self) -> Result<&'static Self> {
        if self.is_memory() {
            return Ok(Self::memory(&self.prefix));
        }
        let server = Server::new()?;
        let alone = Self::nats(&self.prefix, &server.url).await?;
        *alone.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
        Ok(alone)
    }

    /// Ends the server of [`alone`](Self::alone); a leaked fixture would leave it running.
    pub(crate) fn end(&self) {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(crate) fn is_memory(&self) -> bool {
        matches!(self.bus, Bus::Memory(_))
    }

    /// A crash and a new start. Memory has no files: all its streams are gone.
    pub(crate) async fn restart(&self) -> Result<()> {
        if self.is_memory() {
            let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for stream in made {
                self.bus.delete_stream(&stream).await?;
            }
            return Ok(());
        }
        let before = self.bus.reconnects();
        {
            let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
            let server = server.as_mut().context("only a server of one's own is restarted")?;
            server.kill();
            server.start()?;
        }
        eventually("the connection", || async { Ok(self.bus.reconnects() > before && self.bus.check().await.is_ok()) })
            .await
    }

    /// A time that is long against what a consumer normally does: 8 s where time costs nothing.
    pub(crate) fn long(&self) -> Duration {
        if self.is_memory() { Duration::from_secs(8) } else { Duration::from_secs(1) }
    }

    /// A name of the case's own.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}_{name}", self.prefix)
    }

    /// A subject of the case's own.
    pub(crate) fn subject(&self, subject: &str) -> String {
        format!("{}.{subject}", self.prefix)
    }

    /// A stream over these subjects, in memory, refusing when full, with generous bounds.
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
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(stream.name.clone());
        stream
    }

    /// A consumer of one subject (all, if it is empty), patient and without a limit of deliveries.
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

    /// Makes them; returns what was changed.
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

    /// Messages that the stream holds.
    pub(crate) async fn held(&self, stream: &Stream) -> Result<u64> {
        Ok(self.bus.stream_info(&stream.name).await?.messages)
    }

    /// Waits until the stream holds so many, for what is removed after an acknowledgement is removed soon, not at once.
    pub(crate) async fn until_held(&self, stream: &Stream, count: u64) -> Result<()> {
        eventually(&format!("{count} messages held"), || async { Ok(self.held(stream).await? == count) }).await
    }

    /// Pending and ack pending of a consumer.
    pub(crate) async fn lag(&self, consumer: &Consumer) -> Result<(u64, u64)> {
        let info = self.bus.consumer_info(&consumer.stream, &consumer.durable).await?;
        Ok((info.pending, info.ack_pending))
    }

    /// Waits until the consumer's pending and ack pending are these.
    pub(crate) async fn until_lag(&self, consumer: &Consumer, lag: (u64, u64)) -> Result<()> {
        eventually(&format!("a lag of {lag:?}"), || async { Ok(self.lag(consumer).await? == lag) }).await
    }
}

/// The wall time at which memory buses start.
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

/// Lets time pass: at once on a paused clock, really on a server.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Exactly `count` deliveries, as soon as they come.
pub(crate) async fn take(puller: &mut Puller, count: usize) -> Result<Vec<Delivery>> {
    let until = Instant::now() + SOON;
    let mut taken = Vec::new();
    while taken.len() < count {
        ensure!(Instant::now() < until, "only {} of {count} messages came", taken.len());
        taken.extend(puller.fetch(count - taken.len(), Duration::from_secs(2)).await?);
    }
    Ok(taken)
}

pub(crate) async fn take_one(puller: &mut Puller) -> Result<Delivery> {
    take(puller, 1).await?.pop().context("one was taken")
}

/// Takes `count` and acknowledges them.
pub(crate) async fn take_and_ack(puller: &mut Puller, count: usize) -> Result<Vec<Delivery>> {
    let taken = take(puller, count).await?;
    for delivery in &taken {
        delivery.ack_confirmed().await?;
    }
    Ok(taken)
}

/// Nothing comes for so long.
pub(crate) async fn nothing(puller: &mut Puller, wait: Duration) -> Result<()> {
    let came = puller.fetch(1, wait).await?;
    ensure!(came.is_empty(), "nothing should have come: {:?}", came[0].message);
    Ok(())
}

/// Asks until it is so.
pub(crate) async fn eventually<F: Future<Output = Result<bool>>>(
    what: &str,
    mut holds: impl FnMut() -> F,
) -> Result<()> {
    let until = Instant::now() + SOON;
    while !holds().await? {
        ensure!(Instant::now() < until, "{what}: not in {SOON:?}");
        pass(millis(20)).await;
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
