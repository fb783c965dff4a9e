//! The topology: stream ↔ subjects ↔ writers ↔ consumers, one table, and the proof that it is sound.
//!
//! The JSON files beside `Cargo.toml` say the same in the form of `nats stream add --config` and
//! `nats consumer add --config`; a test holds them equal to this table. Nothing here talks to a server.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::event::{Service, Subject};

/// When a stream forgets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// At its limits only.
    Limits,
    /// Once every consumer that was interested when it came has acknowledged it.
    Interest,
    /// Once the one consumer of its subject has acknowledged it.
    WorkQueue,
}

/// Where a stream keeps its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// On disk.
    File,
    /// In the server's memory; gone when it restarts.
    Memory,
}

/// What a full stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// Refuses what is new; the publisher gets an error.
    New,
    /// Drops what is oldest.
    Old,
}

/// A stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// What it captures; wildcards as NATS has them.
    pub subjects: Vec<String>,
    /// When it forgets.
    pub retention: Retention,
    /// Where it keeps.
    pub storage: Storage,
    /// What it does when full.
    pub discard: Discard,
    /// The oldest message it keeps.
    pub max_age: Duration,
    /// The most bytes it keeps; −1 for no bound.
    pub max_bytes: i64,
    /// How long a message id is remembered.
    pub duplicate_window: Duration,
}

/// A durable pull consumer with explicit acknowledgement, from the stream's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// The stream.
    pub stream: String,
    /// Its name: `<subject with dots as underscores>_<service>`.
    pub durable: String,
    /// The subject that it reads; empty for all.
    pub filter: String,
    /// Time to acknowledge before the message is delivered again.
    pub ack_wait: Duration,
    /// Deliveries of one message before the server gives up.
    pub max_deliver: i64,
    /// Unacknowledged messages before the server pauses.
    pub max_ack_pending: i64,
    /// Waits after an ack timeout, by delivery; empty: `ack_wait`. Governs only the timeout, never a `nak`.
    pub backoff: Vec<Duration>,
}

/// What a topology wants of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The streams, in the order in which they are made.
    pub streams: Vec<Stream>,
    /// The consumers.
    pub consumers: Vec<Consumer>,
}

/// Deliveries after which the runtime gives a message up; the server's own limit ([`MAX_DELIVER`]) is higher, so that a
/// process that dies on the last try leaves a delivery for the dead letter.
pub const TRIES: u64 = 3;
/// The server's limit of deliveries.
pub const MAX_DELIVER: i64 = 5;
/// The stream of dead letters.
pub const DEAD_LETTER_STREAM: &str = "DEAD_LETTER_STREAM";
/// The stream of what the server says when it gives a message up; see [`Topology::with_sweeper`].
pub const GIVEN_UP_STREAM: &str = "GIVEN_UP_STREAM";
/// The durable consumer of [`GIVEN_UP_STREAM`], which every process pulls.
pub const SWEEPER: &str = "sweeper";
/// The oldest server that keeps what this system relies on (2.9 loses a dead letter on interest streams).
pub const MINIMUM_SERVER: (u64, u64) = (2, 10);

/// The most bytes that a message may have, headers included; the largest event has a few hundred.
pub const MESSAGE_MAX: i32 = 256 * 1024;

const MIB: i64 = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);
const DUPLICATE_WINDOW: Duration = Duration::from_secs(300);

/// One row of the table: a subject, its stream, who may write it, who reads it.
pub struct Row {
    /// The subject.
    pub subject: Subject,
    /// Its stream.
    pub stream: &'static str,
    /// The services that publish it.
    pub writers: &'static [Service],
    /// The services that have a consumer for it.
    pub readers: &'static [Service],
}

/// The table of the contract, section 2.
pub const TABLE: &[Row] = {
    use Service::{Location, Match, Rides, Users};
    const fn row(
        subject: Subject,
        stream: &'static str,
        writers: &'static [Service],
        readers: &'static [Service],
    ) -> Row {
        Row { subject, stream, writers, readers }
    }
    &[
        // Location reads beacons too: only they tell that a driver went offline, and `nearby` shows free drivers only.
        row(Subject::UserBeacon, "USER_STREAM", &[Users], &[Users, Match, Location]),
        row(Subject::UserFinder, "USER_STREAM", &[Users], &[Users, Match]),
        row(Subject::MatchFound, "MATCH_STREAM", &[Match], &[Users]),
        row(Subject::MatchRejected, "MATCH_STREAM", &[Match, Users, Rides], &[Users, Match]),
        row(Subject::MatchAccepted, "MATCH_STREAM", &[Users], &[Users, Rides, Match]),
        row(Subject::RidePickup, "RIDE_STREAM", &[Rides], &[Users, Match]),
        row(Subject::RideStarted, "RIDE_STREAM", &[Rides], &[Users, Location]),
        row(Subject::RideArrived, "RIDE_STREAM", &[Rides], &[Users, Location]),
        row(Subject::RideCompleted, "RIDE_STREAM", &[Rides], &[Users, Match, Location]),
        row(Subject::RideCancelled, "RIDE_STREAM", &[Rides], &[Users, Match, Location]),
        row(Subject::LocationUpdate, "LOCATION_STREAM", &[Users], &[Location, Match]),
        row(Subject::LocationAggregate, "LOCATION_STREAM", &[Location], &[Rides, Users]),
        row(Subject::PaymentCapture, "PAYMENT_STREAM", &[Rides], &[Rides]),
    ]
};

/// The name of the durable consumer of `subject` in `service`.
pub fn durable(subject: Subject, service: Service) -> String {
    format!("{}_{}", subject.as_str().replace('.', "_"), service.name())
}

impl Topology {
    /// The system's streams and durable consumers.
    pub fn rideshare() -> Self {
        let stream = |name: &str, retention, storage, discard, max_age, mib: i64| Stream {
            name: name.to_owned(),
            subjects: if name == DEAD_LETTER_STREAM {
                vec!["dead_letter.>".to_owned()]
            } else {
                TABLE.iter().filter(|r| r.stream == name).map(|r| r.subject.as_str().to_owned()).collect()
            },
            retention,
            storage,
            discard,
            max_age,
            max_bytes: mib * MIB,
            duplicate_window: DUPLICATE_WINDOW,
        };
        use Discard::{New, Old};
        use Retention::{Interest, Limits, WorkQueue};
        use Storage::{File, Memory};
        let streams = vec![
            // The dead letters first: whatever fails afterwards has a place to go.
            stream(DEAD_LETTER_STREAM, Limits, File, New, 30 * 24 * HOUR, 512),
            stream("USER_STREAM", Interest, File, New, 24 * HOUR, 512),
            stream("MATCH_STREAM", Interest, File, New, HOUR, 256),
            stream("RIDE_STREAM", Limits, File, New, 7 * 24 * HOUR, 4096),
            stream("LOCATION_STREAM", Interest, Memory, Old, 2 * HOUR, 512),
            stream("PAYMENT_STREAM", WorkQueue, File, New, 24 * HOUR, 128),
        ];
        let consumers = TABLE
            .iter()
            .flat_map(|row| {
                row.readers.iter().map(|&service| Consumer {
                    stream: row.stream.to_owned(),
                    durable: durable(row.subject, service),
                    filter: row.subject.as_str().to_owned(),
                    ack_wait: Duration::from_secs(30),
                    max_deliver: MAX_DELIVER,
                    // Points of a ride stay unacknowledged until the aggregate that holds them is committed.
                    max_ack_pending: if row.subject == Subject::LocationUpdate { 65_536 } else { 4_096 },
                    backoff: Vec::new(),
                })
            })
            .collect();
        Self { streams, consumers }
    }

    /// This, and what hears of messages that the server has given up: delivered as often as allowed, and acknowledged by
    /// nobody. That is what a running system has; the stream carries no event of the system, is read and written by the
    /// runtime and the server alone, and so stands beside the table and not in it (nor in the JSON files, nor in the
    /// statistics of consumers): whoever compares them with the contract finds the contract.
    ///
    /// A work queue, so that what it holds is what is left to do. On disk, for a server that restarts must not forget. As
    /// old as the oldest message that may be given up. Full, it refuses what is new, as the others do: some hundred thousand
    /// advisories wait then, and the alarm about stuck streams has been on for long. No limit of deliveries: nobody would
    /// sweep up after the sweeper; the age is the bound.
    pub fn with_sweeper(&self) -> Self {
        let subject = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>".to_owned();
        let stream = Stream {
            name: GIVEN_UP_STREAM.to_owned(),
            subjects: vec![subject.clone()],
            retention: Retention::WorkQueue,
            storage: Storage::File,
            discard: Discard::New,
            max_age: 7 * 24 * HOUR,
            max_bytes: 64 * MIB,
            duplicate_window: DUPLICATE_WINDOW,
        };
        let consumer = Consumer {
            stream: GIVEN_UP_STREAM.to_owned(),
            durable: SWEEPER.to_owned(),
            filter: subject,
            ack_wait: Duration::from_secs(60),
            max_deliver: -1,
            max_ack_pending: 256,
            backoff: Vec::new(),
        };
        let streams = std::iter::once(stream).chain(self.streams.iter().cloned()).collect();
        let consumers = std::iter::once(consumer).chain(self.consumers.iter().cloned()).collect();
        Self { streams, consumers }
    }

    /// The consumers of `service`.
    pub fn of(&self, service: Service) -> impl Iterator<Item = &Consumer> {
        let suffix = format!("_{}", service.name());
        self.consumers.iter().filter(move |c| c.durable.ends_with(&suffix))
    }

    /// The consumer of `subject` in `service`.
    ///
    /// # Panics
    /// If the table has none: a fault in the program, found by any test.
    pub fn consumer(&self, subject: Subject, service: Service) -> &Consumer {
        let name = durable(subject, service);
        self.consumers.iter().find(|c| c.durable == name).expect("the table has a reader for every handler")
    }

    /// Proves the topology sound without a server: every subject of an interest or work-queue stream has a consumer,
    /// names follow the rule, no overlap on a work queue, duplicate windows within the age limit, every bound set.
    ///
    /// # Errors
    /// A sentence for each fault.
    pub fn prove(&self) -> Result<(), Vec<String>> {
        let mut faults = Vec::new();
        let mut names = BTreeSet::new();
        for consumer in &self.consumers {
            if !names.insert(&consumer.durable) {
                faults.push(format!("consumer {} stands twice", consumer.durable));
            }
            let Some(stream) = self.streams.iter().find(|s| s.name == consumer.stream) else {
                faults.push(format!("consumer {} reads {}, which is no stream", consumer.durable, consumer.stream));
                continue;
            };
            if !stream.subjects.iter().any(|s| subject_matches(s, &consumer.filter)) {
                faults
                    .push(format!("consumer {}: {} does not carry {}", consumer.durable, stream.name, consumer.filter));
            }
            let named = Service::ALL
                .iter()
                .any(|service| consumer.durable == format!("{}_{}", consumer.filter.replace('.', "_"), service.name()));
            if !named {
                faults.push(format!(
                    "consumer {}: the name must be <subject with _>_<service> for the subject {}",
                    consumer.durable, consumer.filter
                ));
            }
            if consumer.ack_wait.is_zero() || consumer.max_ack_pending <= 0 || consumer.max_deliver <= TRIES as i64 {
                faults.push(format!(
                    "consumer {}: ack wait and max ack pending must be set, and max deliver above {TRIES}",
                    consumer.durable
                ));
            }
        }
        for stream in &self.streams {
            if stream.duplicate_window > stream.max_age {
                faults.push(format!("stream {}: the duplicate window is longer than the maximum age", stream.name));
            }
            if stream.max_bytes <= 0 {
                faults.push(format!("stream {}: bytes are not bounded", stream.name));
            }
            for subject in &stream.subjects {
                let readers = self.consumers.iter().filter(|c| c.stream == stream.name && c.filter == *subject).count();
                match stream.retention {
                    Retention::Limits => {}
                    Retention::Interest if readers == 0 => faults.push(format!(
                        "{subject} on {} has no consumer: what is published there would be lost",
                        stream.name
                    )),
                    Retention::WorkQueue if readers != 1 => faults
                        .push(format!("{subject} on {} needs exactly one consumer and has {readers}", stream.name)),
                    Retention::Interest | Retention::WorkQueue => {}
                }
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// The most bytes of one message on `stream`, headers included; −1 for no bound but the server's.
pub(crate) fn message_max(stream: &str) -> i32 {
    // A dead letter is a message and what happened to it, so its stream takes more than the others.
    if stream == DEAD_LETTER_STREAM { -1 } else { MESSAGE_MAX }
}

/// Whether `subject` is covered by `pattern` with the wildcards `*` (one token) and `>` (one or more at the end).
pub fn subject_matches(pattern: &str, subject: &str) -> bool {
    let mut wanted = pattern.split('.');
    let mut given = subject.split('.');
    loop {
        match (wanted.next(), given.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

impl Stream {
    /// The configuration as NATS has it in JSON, with `replicas` copies.
    pub fn to_json(&self, replicas: usize) -> Value {
        json!({
            "name": self.name,
            "subjects": self.subjects,
            "retention": match self.retention {
                Retention::Limits => "limits", Retention::Interest => "interest", Retention::WorkQueue => "workqueue",
            },
            "storage": match self.storage { Storage::File => "file", Storage::Memory => "memory" },
            "discard": match self.discard { Discard::New => "new", Discard::Old => "old" },
            "max_age": nanos(self.max_age),
            "max_bytes": self.max_bytes,
            "max_msgs": -1,
            "max_msgs_per_subject": -1,
            "max_msg_size": message_max(&self.name),
            "max_consumers": -1,
            "duplicate_window": nanos(self.duplicate_window),
            "num_replicas": replicas,
            "allow_direct": true,
        })
    }
}

impl Consumer {
    /// The configuration as NATS has it in JSON.
    pub fn to_json(&self) -> Value {
        let mut config = json!({
            "durable_name": self.durable,
            "name": self.durable,
            "filter_subject": self.filter,
            "ack_policy": "explicit",
            "ack_wait": nanos(self.ack_wait),
            "deliver_policy": "all",
            "replay_policy": "instant",
            "max_deliver": self.max_deliver,
            "max_ack_pending": self.max_ack_pending,
        });
        if !self.backoff.is_empty() {
            config["backoff"] = self.backoff.iter().map(|&d| nanos(d)).collect();
        }
        config
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
