//! What the processes and people of a simulation share (world, bus, stores), and the log of a run: what was published, received
//! and acknowledged, and what was found wrong. It decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use platform::{Store, Tokens, World};
use serde_json::Value;
use simulator::{Observation, Summary};
use streams::Bus;
use streams::bus::MESSAGE_ID;
use streams::memory::MemoryBus;
use streams::simulation::Faults;
use tokio::time::{Instant, sleep};

use crate::nemesis::DOOMED;
use crate::processes::{Configs, Process};

/// How often observations are taken from the simulator.
const OBSERVE_EVERY: Duration = Duration::from_millis(250);

/// An event that was published, once however often it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) id: String,
    pub(crate) subject: String,
    pub(crate) body: Value,
    text: String,
}

/// A command that was acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Acked {
    pub(crate) user: String,
    pub(crate) kind: &'static str,
    pub(crate) data: Value,
    pub(crate) answer: Value,
}

/// An event that a client received.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) seq: u64,
    pub(crate) event_id: String,
    pub(crate) subject: String,
    pub(crate) body: Value,
}

/// What happened, in order, and the hash of it.
#[derive(Debug)]
pub(crate) struct Log {
    hasher: DefaultHasher,
    started: Instant,
    /// The lines, if they are to be shown.
    pub(crate) lines: Option<Vec<String>>,
    pub(crate) published: Vec<Published>,
    known: BTreeMap<String, usize>,
    /// Publishes of an event that had been published before.
    pub(crate) repeats: u64,
    pub(crate) acked: Vec<Acked>,
    /// By user.
    pub(crate) received: BTreeMap<String, Vec<Received>>,
    pub(crate) violations: Vec<String>,
    /// Messages that reached the bus's delivery limit, by consumer and sequence.
    pub(crate) given_up: BTreeSet<(String, u64)>,
    /// Of these, the ones that were dead-lettered, requeued and handled.
    pub(crate) letters: u64,
    /// Faults that the nemesis injected, by name.
    pub(crate) injected: BTreeMap<&'static str, u64>,
}

impl Log {
    /// Writes a line that is part of the hash.
    pub(crate) fn record(&mut self, line: &str) {
        let at = self.started.elapsed();
        self.hasher.write_u64(u64::try_from(at.as_micros()).unwrap_or(0));
        self.hasher.write(line.as_bytes());
        self.remark(line);
    }

    /// Writes a line that is not part of the hash: it has names of this code, which may change while the run does not.
    pub(crate) fn remark(&mut self, line: &str) {
        let at = self.started.elapsed();
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:9.3} {line}", at.as_secs_f64()));
        }
    }

    pub(crate) fn violation(&mut self, what: String) {
        self.record(&format!("WRONG {what}"));
        self.violations.push(what);
    }

    pub(crate) fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::Acked { user_id, kind, command_data, ack_data } => {
                self.record(&format!("{user_id} {kind} {command_data} is acked with {ack_data}"));
                self.acked.push(Acked { user: user_id, kind, data: command_data, answer: ack_data });
            }
            Observation::Event { user_id, seq, event_id, kind, data } => {
                self.record(&format!("{user_id} gets {seq} {kind} {event_id} {data}"));
                let received = Received { seq, event_id, subject: kind, body: data };
                self.received.entry(user_id).or_default().push(received);
            }
        }
    }

    /// The bus's advisory that a message reached its delivery limit: expected of the doomed consumers alone.
    fn max_deliveries(&mut self, subject: &str, advisory: &[u8]) {
        let text = format!("{subject}: {}", String::from_utf8_lossy(advisory));
        let advisory: Value = serde_json::from_slice(advisory).unwrap_or(Value::Null);
        match (advisory["consumer"].as_str(), advisory["stream_seq"].as_u64()) {
            (Some(consumer), Some(sequence)) if DOOMED.contains(&consumer) => {
                self.record(&text);
                self.given_up.insert((consumer.to_owned(), sequence));
            }
            _ => self.violation(text),
        }
    }

    /// The simulator's own verdict on its day.
    pub(crate) fn day_is_over(&mut self, summary: &Summary) {
        self.remark(&summary.to_string());
        for violation in summary.violations.iter().filter(|violation| !is_expected(violation)) {
            self.violation(format!("the city: {violation}"));
        }
        if summary.unfinished > 0 {
            self.violation(format!("the city: {} rides had no end", summary.unfinished));
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    fn publish(&mut self, id: &str, subject: &str, text: &str) {
        self.record(&format!("{subject} {id} {text}"));
        if let Some(&known) = self.known.get(id) {
            self.repeats += 1;
            // The gateway adds to a position the sender's live ride, which a repeat may have no more, and how it was received.
            let same = |a: &str| subject == "location.update" && as_measured(a) == as_measured(text);
            if self.published[known].text != text && !same(&self.published[known].text) {
                self.violation(format!(
                    "{id} was published with two bodies: {} and {text}",
                    self.published[known].text
                ));
            }
            return;
        }
        let body = serde_json::from_str(text).unwrap_or(Value::Null);
        self.known.insert(id.to_owned(), self.published.len());
        let (id, subject, text) = (id.to_owned(), subject.to_owned(), text.to_owned());
        self.published.push(Published { id, subject, body, text });
    }
}

/// What the simulator calls a violation, and is none under these faults: a repeated command may arrive after the end of its ride, or of
/// its offer (accepted, and then its search's end won).
fn is_expected(violation: &str) -> bool {
    ["ride_ended", "offer_closed"]
        .iter()
        .any(|code| violation.contains(&format!("of an acked command was refused: {code}")))
}

/// A position without what the gateway adds.
fn as_measured(text: &str) -> Value {
    let mut body: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    body["ride_id"].take();
    let device_at = body["reception"]["device_at"].take();
    if !device_at.is_null() {
        body["recorded_at"] = device_at;
    }
    body["reception"].take();
    body
}

/// The tables of all services.
pub(crate) struct Stores {
    pub(crate) users: Store<users::Tables>,
    pub(crate) matching: Store<matching::Tables>,
    pub(crate) rides: Store<rides::Tables>,
    pub(crate) location: Store<location::Tables>,
}

pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) bus: MemoryBus,
    pub(crate) stores: Stores,
    pub(crate) tokens: Tokens,
    pub(crate) faults: Faults,
    pub(crate) processes: Vec<Arc<Process>>,
    pub(crate) configs: Configs,
    log: Mutex<Log>,
}

impl Scene {
    pub(crate) fn new(seed: u64, with_lines: bool, processes: Vec<Arc<Process>>, configs: Configs) -> Self {
        let world = World::seeded("2026-06-01T12:00:00Z".parse().unwrap(), seed);
        let pod = "nobody".into();
        let log = Log {
            hasher: DefaultHasher::new(),
            started: Instant::now(),
            lines: with_lines.then(Vec::new),
            published: Vec::new(),
            known: BTreeMap::new(),
            repeats: 0,
            acked: Vec::new(),
            received: BTreeMap::new(),
            violations: Vec::new(),
            given_up: BTreeSet::new(),
            letters: 0,
            injected: BTreeMap::new(),
        };
        Self {
            bus: MemoryBus::new(world.started_at(), 100_000),
            stores: Stores {
                users: Store::memory(&world, &pod),
                matching: Store::memory(&world, &pod),
                rides: Store::memory(&world, &pod),
                location: Store::memory(&world, &pod),
            },
            tokens: Tokens::new(&world, b"a secret of thirty-two bytes or more").unwrap(),
            world,
            faults: Faults::new(seed.wrapping_mul(31).wrapping_add(1)),
            processes,
            configs,
            log: Mutex::new(log),
        }
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs what people observe, for as long as it is polled.
    pub(crate) async fn observe(self: Arc<Self>, observations: Receiver<Observation>) {
        loop {
            while let Ok(observation) = observations.try_recv() {
                self.log().observe(observation);
            }
            sleep(OBSERVE_EVERY).await;
        }
    }

    /// Logs every event that reaches a stream, for as long as it is polled.
    pub(crate) async fn record(self: Arc<Self>) {
        let bus = Bus::Memory(self.bus.clone());
        let mut all = bus.subscribe(">", None).await.unwrap();
        while let Some(message) = all.next().await {
            if let Some(id) = message.headers.find(MESSAGE_ID) {
                let text = String::from_utf8_lossy(&message.payload);
                self.log().publish(id, &message.subject, &text);
            } else if message.subject.starts_with("$JS.EVENT.ADVISORY.") {
                self.log().max_deliveries(&message.subject, &message.payload);
            }
        }
    }
}
