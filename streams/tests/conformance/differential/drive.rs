//! Runs a sequence on a bus and records its trace: the result of each operation, and the state of the stream and its consumers a
//! tick later. The code is the same for both buses; only the clock differs.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use streams::bus::{MESSAGE_ID, ReplayStart};
use streams::memory::MemoryBus;
use streams::topology::{self, Consumer, Discard, Storage, Stream, Topology};
use streams::{Bus, BusError, Delivery, Headers, Message};
use tokio::time::{Instant, sleep_until, timeout};

use super::sequence::{
    AckKind, Acknowledgement, CONSUMERS, ConsumerSettings, Dice, From, HalfTicks, NewMessage, Operation, Retention,
    StreamSettings,
};
use crate::fixture::started_at;

/// Half the time between two operations.
const HALF_TICK: Duration = Duration::from_millis(300);
/// How long a fetch waits for messages, and an acknowledgement for its confirmation.
const WAIT: Duration = Duration::from_millis(120);
/// An operation that ends later than this after its tick might overlap with what falls due half-way.
pub(super) const LATEST: Duration = Duration::from_millis(270);

/// The trace of one run.
pub(super) struct Run {
    /// For each operation, its result and the state a tick later.
    pub(super) steps: Vec<Vec<String>>,
    /// The longest that an operation took from its tick on.
    pub(super) latest: Duration,
}

/// Runs on a new memory bus with a paused clock. A seed in `jitter` delays each operation a little, as a busy machine would.
pub(super) fn on_memory(operations: &[Operation], prefix: &str, jitter: Option<u64>) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime needs nothing here").block_on(async {
        let bus = Bus::Memory(MemoryBus::new(started_at(), 100_000));
        run(&bus, operations, prefix, jitter.map(Dice::new)).await
    })
}

/// Runs on a server, and deletes the streams afterwards.
pub(super) async fn on_server(bus: &Bus, operations: &[Operation], prefix: &str) -> Run {
    let run = run(bus, operations, prefix, None).await;
    for stream in [stream_name(prefix), advisory_stream(prefix)] {
        let _ = bus.delete_stream(&stream).await;
    }
    run
}

fn stream_name(prefix: &str) -> String {
    format!("{prefix}_S")
}

fn advisory_stream(prefix: &str) -> String {
    format!("{prefix}_ADVISORIES")
}

async fn run(bus: &Bus, operations: &[Operation], prefix: &str, mut jitter: Option<Dice>) -> Run {
    let retentions = operations.iter().filter_map(|o| match o {
        Operation::PutStream(settings) => Some(settings.retention),
        _ => None,
    });
    let mut driver = Driver {
        bus,
        prefix,
        stream: stream_name(prefix),
        deliveries: Vec::new(),
        published: 0,
        may_replay: retentions.into_iter().all(|r| r == Retention::Limits),
    };
    let mut seen = Run { steps: Vec::new(), latest: Duration::ZERO };
    if driver.listen_for_advisories().await.is_err() {
        // The server did not even reply in time.
        return Run { latest: Duration::MAX, ..seen };
    }
    let mut tick = Instant::now() + HALF_TICK;
    for operation in operations {
        let late = jitter.as_mut().map_or(0, |dice| dice.below((LATEST - WAIT).as_millis() as u64));
        sleep_until(tick + Duration::from_millis(late)).await;
        if let Some(step) = seen.steps.last_mut() {
            step.extend(driver.state().await);
        }
        seen.steps.push(driver.perform(operation).await);
        seen.latest = seen.latest.max(tick.elapsed());
        if jitter.is_none() && seen.latest > LATEST {
            // The run will be discarded, so the rest is not worth the wait.
            return seen;
        }
        let ticks = if let Operation::Pass(ticks) = operation { *ticks } else { 1 };
        tick += 2 * HALF_TICK * ticks;
    }
    sleep_until(tick).await;
    if let Some(step) = seen.steps.last_mut() {
        step.extend(driver.state().await);
        step.extend(driver.read_advisories().await);
    }
    seen.latest = seen.latest.max(tick.elapsed());
    seen
}

struct Driver<'a> {
    bus: &'a Bus,
    prefix: &'a str,
    stream: String,
    /// Every delivery fetched so far, acknowledged or not.
    deliveries: Vec<Delivery>,
    published: usize,
    may_replay: bool,
}

/// The kind of error; the texts differ.
fn kind_of(error: &BusError) -> &'static str {
    match error {
        BusError::Unavailable(_) => "unavailable",
        BusError::Full(_) => "full",
        BusError::NotFound(_) => "not found",
        BusError::NoResponders(_) => "no responders",
        BusError::Refused(_) => "refused",
    }
}

fn outcome<T>(result: Result<T, BusError>, show: impl FnOnce(T) -> String) -> String {
    match result {
        Ok(value) => show(value),
        Err(error) => kind_of(&error).to_owned(),
    }
}

impl Driver<'_> {
    fn subject(&self, subject: &str) -> String {
        format!("{}.{subject}", self.prefix)
    }

    fn durable(&self, consumer: usize) -> String {
        format!("{}_C{consumer}", self.prefix)
    }

    async fn perform(&mut self, operation: &Operation) -> Vec<String> {
        match operation {
            Operation::Publish(messages) => self.publish(messages).await,
            Operation::Fetch { consumer, max } => self.fetch(*consumer, *max).await,
            Operation::Acknowledge(acknowledgements) => self.acknowledge(acknowledgements).await,
            Operation::Pass(_) => Vec::new(),
            Operation::PutStream(settings) => self.apply(vec![self.stream_config(settings)], Vec::new()).await,
            Operation::DeleteStream => vec![outcome(self.bus.delete_stream(&self.stream).await, |()| "ok".to_owned())],
            Operation::PutConsumer { consumer, settings } => {
                self.apply(Vec::new(), vec![self.consumer_config(*consumer, settings)]).await
            }
            Operation::DeleteConsumer(consumer) => {
                let deleted = self.bus.delete_consumer(&self.stream, &self.durable(*consumer)).await;
                vec![outcome(deleted, |()| "ok".to_owned())]
            }
            Operation::Replay { from, filter } => self.replay(*from, filter).await,
            Operation::StoredMessage(sequence) => {
                let stored = self.bus.get_message(&self.stream, *sequence).await;
                vec![outcome(stored, |m| self.show(&m.subject, &m.headers, &m.payload))]
            }
        }
    }

    fn show(&self, subject: &str, headers: &Headers, payload: &[u8]) -> String {
        let subject = subject.strip_prefix(self.prefix).unwrap_or(subject);
        let text = String::from_utf8_lossy(payload);
        let mut shown = format!("{subject} {} ({} bytes)", text.trim_end_matches('.'), payload.len());
        for (name, value) in headers.iter() {
            shown.push_str(&format!(" {name}={value}"));
        }
        shown
    }

    async fn publish(&mut self, messages: &[NewMessage]) -> Vec<String> {
        let messages = messages.iter().map(|message| {
            self.published += 1;
            let mut headers = Headers::default();
            if let Some(id) = message.id {
                headers.set(MESSAGE_ID, format!("id {id}"));
            }
            if let Some(value) = message.header {
                headers.set("Header", value);
            }
            let mut payload = format!("m{}", self.published);
            payload.extend(std::iter::repeat_n('.', message.bytes));
            Message { subject: format!("{}.{}", self.prefix, message.subject), headers, payload: payload.into() }
        });
        let results = self.bus.publish_all(messages.collect()).await;
        results
            .into_iter()
            .map(|r| outcome(r, |p| format!("{}{}", p.sequence, if p.duplicate { " duplicate" } else { "" })))
            .collect()
    }

    async fn fetch(&mut self, consumer: usize, max: usize) -> Vec<String> {
        let until = Instant::now() + WAIT;
        let config = self.consumer_config(consumer, &ANY);
        let mut puller = match self.bus.pull(&config).await {
            Ok(puller) => puller,
            Err(error) => return vec![kind_of(&error).to_owned()],
        };
        let mut seen = Vec::new();
        let mut taken = Vec::new();
        while taken.len() < max && Instant::now() < until {
            match puller.fetch(max - taken.len(), until - Instant::now()).await {
                Ok(more) => taken.extend(more),
                Err(error) => {
                    seen.push(kind_of(&error).to_owned());
                    break;
                }
            }
        }
        puller.close().await;
        for delivery in taken {
            let m = &delivery.message;
            let shown = self.show(&m.subject, &m.headers, &m.payload);
            let Delivery { deliveries, pending, .. } = &delivery;
            seen.push(format!("{}: {shown}, delivery {deliveries}, {pending} pending", m.sequence));
            self.deliveries.push(delivery);
        }
        seen
    }

    async fn acknowledge(&self, acknowledgements: &[Acknowledgement]) -> Vec<String> {
        let mut seen = Vec::new();
        for Acknowledgement { pick, kind } in acknowledgements {
            let Some(delivery) = self.deliveries.iter().nth_back(*pick) else {
                seen.push("no delivery".to_owned());
                continue;
            };
            let sent = async {
                match kind {
                    AckKind::Ack => delivery.ack().await,
                    AckKind::AckConfirmed => delivery.ack_confirmed().await,
                    AckKind::Retry(delay) => delivery.retry(HALF_TICK * *delay).await,
                    AckKind::Terminate => delivery.terminate().await,
                    AckKind::InProgress => delivery.in_progress().await,
                }
            };
            let sent = timeout(WAIT, sent).await.unwrap_or(Err(BusError::Unavailable(String::new())));
            let what = format!("{kind:?} of {} {}", delivery.message.sequence, self.without_prefix(&delivery.consumer));
            seen.push(format!("{what}: {}", outcome(sent, |()| "ok".to_owned())));
        }
        seen
    }

    /// The text without the prefix, which differs in each run.
    fn without_prefix(&self, text: &str) -> String {
        text.replace(&format!("{}_", self.prefix), "").replace(&format!("{}.", self.prefix), "")
    }

    async fn apply(&self, streams: Vec<Stream>, consumers: Vec<Consumer>) -> Vec<String> {
        match self.bus.apply(&Topology { streams, consumers }).await {
            Ok(changes) => changes.iter().map(|c| self.without_prefix(c)).collect(),
            Err(error) => vec![kind_of(&error).to_owned()],
        }
    }

    /// The messages stored from `from` on. Nothing if the stream ever was anything but a limits stream: there the server's replay
    /// has an interest of its own.
    async fn replay(&self, from: From, filter: &str) -> Vec<String> {
        if !self.may_replay {
            return Vec::new();
        }
        let (start, first) = match from {
            From::Sequence(sequence) => (ReplayStart::Sequence(sequence), sequence),
            From::TimeOf(sequence) => match self.bus.get_message(&self.stream, sequence).await {
                Ok(message) => (ReplayStart::Time(message.stored_at), sequence),
                Err(error) => return vec![kind_of(&error).to_owned()],
            },
        };
        let filter = (!filter.is_empty()).then(|| self.subject(filter));
        let mut seen = Vec::new();
        let mut reader = match self.bus.replay(&self.stream, filter.as_deref(), start).await {
            Ok(reader) => reader,
            Err(error) => return vec![kind_of(&error).to_owned()],
        };
        loop {
            match reader.next(WAIT).await {
                // On the memory bus, earlier messages may have the same time.
                Ok(Some(m)) if m.sequence < first => {}
                Ok(Some(m)) => seen.push(format!("{}: {}", m.sequence, self.show(&m.subject, &m.headers, &m.payload))),
                Ok(None) => return seen,
                Err(error) => {
                    seen.push(kind_of(&error).to_owned());
                    return seen;
                }
            }
        }
    }

    /// The state of the stream and of every consumer.
    async fn state(&self) -> Vec<String> {
        let stream = async {
            let info = self.bus.stream_info(&self.stream).await;
            outcome(info, |i| {
                format!(
                    "{} messages, {} bytes, first {}, last {}",
                    i.messages, i.bytes, i.first_sequence, i.last_sequence
                )
            })
        };
        let consumers = join_all((0..CONSUMERS).map(|consumer| async move {
            let info = self.bus.consumer_info(&self.stream, &self.durable(consumer)).await;
            outcome(info, |i| {
                format!(
                    "C{consumer}: {} pending, {} ack pending, {} redelivered, floor {}, delivered {}",
                    i.pending, i.ack_pending, i.redelivered, i.ack_floor, i.delivered
                )
            })
        }));
        let given_up = async {
            let info = self.bus.stream_info(&advisory_stream(self.prefix)).await;
            outcome(info, |i| format!("{} given up", i.messages))
        };
        let (stream, mut consumers, given_up) = tokio::join!(stream, consumers, given_up);
        if given_up != "0 given up" {
            for line in &mut consumers {
                *line = line.split(", ").filter(|part| !part.starts_with("floor")).collect::<Vec<_>>().join(", ");
            }
        }
        // A missing consumer has no line.
        std::iter::once(stream).chain(consumers).filter(|line| line != "not found").chain([given_up]).collect()
    }

    async fn listen_for_advisories(&self) -> Result<(), BusError> {
        let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{}.>", self.stream);
        let stream = Stream {
            name: advisory_stream(self.prefix),
            subjects: vec![subject],
            retention: topology::Retention::Limits,
            storage: Storage::Memory,
            discard: Discard::New,
            max_age: Duration::ZERO,
            max_bytes: -1,
            duplicate_window: Duration::ZERO,
        };
        self.bus.apply(&Topology { streams: vec![stream], consumers: Vec::new() }).await.map(drop)
    }

    async fn read_advisories(&self) -> Vec<String> {
        let mut reader = match self.bus.replay(&advisory_stream(self.prefix), None, ReplayStart::Sequence(1)).await {
            Ok(reader) => reader,
            Err(error) => return vec![kind_of(&error).to_owned()],
        };
        let mut seen = Vec::new();
        while let Ok(Some(message)) = reader.next(WAIT).await {
            let body: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
            let consumer = self.without_prefix(body["consumer"].as_str().unwrap_or_default());
            seen.push(format!("{consumer} gave {} up after {}", body["stream_seq"], body["deliveries"]));
        }
        // Advisories of the same moment come in any order.
        seen.sort();
        seen
    }

    fn stream_config(&self, settings: &StreamSettings) -> Stream {
        Stream {
            name: self.stream.clone(),
            subjects: settings.subjects.iter().map(|s| self.subject(s)).collect(),
            retention: match settings.retention {
                Retention::Limits => topology::Retention::Limits,
                Retention::Interest => topology::Retention::Interest,
                Retention::WorkQueue => topology::Retention::WorkQueue,
            },
            storage: if settings.on_disk { Storage::File } else { Storage::Memory },
            discard: if settings.discards_old { Discard::Old } else { Discard::New },
            max_age: HALF_TICK * settings.max_age,
            max_bytes: settings.max_bytes,
            duplicate_window: HALF_TICK * settings.duplicate_window,
        }
    }

    fn consumer_config(&self, consumer: usize, settings: &ConsumerSettings) -> Consumer {
        let filter = settings.filter;
        Consumer {
            stream: self.stream.clone(),
            durable: self.durable(consumer),
            filter: if filter.is_empty() { String::new() } else { self.subject(filter) },
            ack_wait: HALF_TICK * settings.ack_wait,
            max_deliver: settings.max_deliver,
            max_ack_pending: settings.max_ack_pending,
            backoff: settings.backoff.iter().map(|&half_ticks: &HalfTicks| HALF_TICK * half_ticks).collect(),
        }
    }
}

/// For a puller, which reads only the names.
const ANY: ConsumerSettings =
    ConsumerSettings { filter: "", ack_wait: 1, max_deliver: -1, max_ack_pending: 1, backoff: &[] };
