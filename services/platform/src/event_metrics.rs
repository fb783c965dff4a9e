//! Counts and times of events: published, by subject; handled, by subject and by the path on which they came.

use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use crate::consumer::Received;
use crate::exemplars::{Exemplars, TracedHistogram};
use crate::registry::registered;

/// The buckets of OpenTelemetry's conventions for durations, seconds.
pub(crate) const CONVENTIONAL: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// How an event came to its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventPath {
    /// By a core subscription, when it was published.
    Core,
    /// From its stream, by the durable consumer.
    JetStream,
}

impl EventPath {
    pub fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::JetStream => "jetstream",
        }
    }
}

/// Why an event of the fast lane is left to its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeftToStream {
    /// The worker had messages of streams in hand, and is better off with these.
    Busy,
    /// It has no id, is too large, or is not fresh.
    Unfit,
}

impl LeftToStream {
    fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Unfit => "unfit",
        }
    }
}

/// Of published events, by subject.
#[derive(Debug)]
pub struct PublishMetrics {
    stored: IntCounterVec,
    failed: IntCounterVec,
    bytes: HistogramVec,
    /// By destination and error, as OpenTelemetry's conventions for messaging have it.
    publish: HistogramVec,
    sent: IntCounterVec,
}

impl PublishMetrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let bytes = prometheus::exponential_buckets(64.0, 2.0, 13).expect("buckets grow");
        Self {
            stored: counter(registry, "publishes_total", "Publishes that a stream acknowledged.", &["subject"]),
            failed: counter(registry, "publish_failures_total", "Publishes without an acknowledgement.", &["subject"]),
            bytes: histogram(registry, "message_bytes", "Body of a published message, bytes.", &["subject"], bytes),
            publish: registered(
                registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "messaging_client_operation_duration_seconds",
                        "Duration of messaging operation initiated by a producer or consumer client.",
                    )
                    .buckets(CONVENTIONAL.to_vec()),
                    &["messaging_operation_name", "messaging_destination_name", "error_type"],
                ),
            ),
            sent: registered(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "messaging_client_sent_messages_total",
                        "Number of messages producer attempted to send to the broker.",
                    ),
                    &["messaging_operation_name", "messaging_destination_name", "error_type"],
                ),
            ),
        }
    }

    /// Begins the series of a subject with 0: a first failure that makes its series is no increase.
    pub(crate) fn begin(&self, subject: &str) {
        for total in [&self.stored, &self.failed] {
            total.with_label_values(&[subject]);
        }
    }

    /// Records publishes on one subject: the bytes of each body, and how many are stored. The stream's answers took so long.
    pub(crate) fn record(
        &self,
        subject: &str,
        bytes: impl ExactSizeIterator<Item = usize>,
        stored: usize,
        took: Duration,
    ) {
        let failed = bytes.len() - stored;
        let sizes = self.bytes.with_label_values(&[subject]);
        bytes.for_each(|bytes| sizes.observe(bytes as f64));
        for (count, error, total) in [(stored, "", &self.stored), (failed, "not_stored", &self.failed)] {
            if count == 0 {
                continue;
            }
            let publish = self.publish.with_label_values(&["publish", subject, error]);
            (0..count).for_each(|_| publish.observe(took.as_secs_f64()));
            self.sent.with_label_values(&["publish", subject, error]).inc_by(count as u64);
            total.with_label_values(&[subject]).inc_by(count as u64);
        }
    }
}

/// Of events that handlers get, by subject and path.
#[derive(Debug)]
pub struct EventMetrics {
    taken: IntCounterVec,
    handled: IntCounterVec,
    failed: IntCounterVec,
    duplicates: IntCounterVec,
    /// By subject and reason.
    left: IntCounterVec,
    handling: HistogramVec,
    delay: TracedHistogram,
    age: HistogramVec,
    /// By destination, consumer and error, as OpenTelemetry's conventions for messaging have it.
    process: TracedHistogram,
    consumed: IntCounterVec,
}

impl EventMetrics {
    pub(crate) fn new(registry: &Registry, exemplars: &Exemplars) -> Self {
        let labels = &["subject", "path"];
        let seconds = || prometheus::exponential_buckets(0.0005, 2.0, 18).expect("buckets grow");
        Self {
            taken: counter(registry, "events_taken_total", "Events that came to a worker.", labels),
            handled: counter(registry, "events_handled_total", "Events that had their effect.", labels),
            failed: counter(registry, "events_failed_total", "Attempts of events that failed.", labels),
            duplicates: counter(registry, "events_duplicate_total", "Events that had had their effect before.", labels),
            left: counter(
                registry,
                "events_left_to_stream_total",
                "Events of the fast lane that were not taken, because the stream brings them as well.",
                &["subject", "reason"],
            ),
            handling: histogram(
                registry,
                "event_handling_seconds",
                "The batch of the event, from begin to commit.",
                labels,
                seconds(),
            ),
            delay: TracedHistogram::new(
                registry,
                exemplars,
                (
                    "rideshare_event_delay_seconds",
                    "From publish to effect: since the stream stored the event, or since it came by the fast lane.",
                ),
                labels,
                &seconds(),
            ),
            age: histogram(
                registry,
                "event_age_seconds",
                "From the time of the event, its ce-time, to its effect; of a position, by the clock of the phone.",
                labels,
                seconds(),
            ),
            process: TracedHistogram::new(
                registry,
                exemplars,
                ("messaging_process_duration_seconds", "Duration of processing operation."),
                &[
                    "messaging_operation_name",
                    "messaging_destination_name",
                    "messaging_consumer_group_name",
                    "error_type",
                ],
                &CONVENTIONAL,
            ),
            consumed: registered(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "messaging_client_consumed_messages_total",
                        "Number of messages that were delivered to the application.",
                    ),
                    &["messaging_operation_name", "messaging_destination_name", "messaging_consumer_group_name"],
                ),
            ),
        }
    }

    /// Begins the series of a subject and a path with 0: a first failure that makes its series is no increase.
    pub(crate) fn begin(&self, subject: &str, path: EventPath) {
        let labels = &[subject, path.name()];
        for total in [&self.taken, &self.handled, &self.failed, &self.duplicates] {
            total.with_label_values(labels);
        }
        self.handling.with_label_values(labels);
        self.age.with_label_values(labels);
        self.delay.observe_all(labels, []);
        if path == EventPath::Core {
            for reason in [LeftToStream::Busy, LeftToStream::Unfit] {
                self.left.with_label_values(&[subject, reason.name()]);
            }
        }
    }

    /// An event of the fast lane is left to its stream. It does not count as taken.
    pub(crate) fn left(&self, subject: &str, reason: LeftToStream) {
        self.left.with_label_values(&[subject, reason.name()]).inc();
    }

    pub(crate) fn taken(&self, subject: &str, path: EventPath, count: u64) {
        self.taken.with_label_values(&[subject, path.name()]).inc_by(count);
    }

    pub(crate) fn failed(&self, subject: &str, path: EventPath) {
        self.failed.with_label_values(&[subject, path.name()]).inc();
    }

    pub(crate) fn duplicate(&self, subject: &str, path: EventPath) {
        self.duplicates.with_label_values(&[subject, path.name()]).inc();
    }

    /// Records an attempt that failed with this kind of error.
    pub(crate) fn attempt_failed(&self, received: &Received, took: Duration, error: &str, of: Option<DateTime<Utc>>) {
        let labels = &["process", received.event.subject().as_str(), received.consumer.as_str(), error];
        self.process.observe(labels, took.as_secs_f64(), of.map(|now| (&received.trace, now)));
    }

    /// Records a batch that is committed, of which `new` had their effect now and the others before.
    pub(crate) fn committed<'a>(
        &self,
        batch: &[&'a Received],
        new: &[&'a Received],
        path: EventPath,
        took: Duration,
        now: DateTime<Utc>,
        is_traced: bool,
    ) {
        for ((subject, consumer), events) in grouped(new, |r| (r.event.subject().as_str(), r.consumer.as_str())) {
            self.consumed.with_label_values(&["process", subject, consumer]).inc_by(events.len() as u64);
            let of = |event: &&'a Received| (took.as_secs_f64(), is_traced.then_some((&event.trace, now)));
            self.process.observe_all(&["process", subject, consumer, ""], events.iter().map(of));
        }
        let by_subject = |events: &[&'a Received]| grouped(events, |r| r.event.subject().as_str());
        let (all, new) = (by_subject(batch), by_subject(new));
        for (subject, events) in all {
            let labels = &[subject, path.name()];
            let handled = new.iter().find(|(of, _)| *of == subject).map_or(&[][..], |(_, events)| events);
            self.handled.with_label_values(labels).inc_by(handled.len() as u64);
            self.duplicates.with_label_values(labels).inc_by((events.len() - handled.len()) as u64);
            let handling = self.handling.with_label_values(labels);
            handled.iter().for_each(|_| handling.observe(took.as_secs_f64()));
            let since = |at: DateTime<Utc>| (now - at).as_seconds_f64().max(0.0);
            let age = self.age.with_label_values(labels);
            handled.iter().for_each(|event| age.observe(since(event.occurred_at)));
            let delay = |event: &&'a Received| (since(event.stored_at), is_traced.then_some((&event.trace, now)));
            self.delay.observe_all(labels, handled.iter().map(delay));
        }
    }
}

/// The events by what they have in common, in the order in which each of it comes first.
fn grouped<'a, K: PartialEq>(events: &[&'a Received], key: impl Fn(&'a Received) -> K) -> Vec<(K, Vec<&'a Received>)> {
    let mut all: Vec<(K, Vec<&Received>)> = Vec::new();
    for received in events {
        let of = key(received);
        match all.iter_mut().find(|(key, _)| *key == of) {
            Some((_, events)) => events.push(received),
            None => all.push((of, vec![received])),
        }
    }
    all
}

fn counter(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let metric = IntCounterVec::new(Opts::new(format!("rideshare_{name}"), help), labels);
    registered(registry, metric)
}

fn histogram(registry: &Registry, name: &str, help: &str, labels: &[&str], buckets: Vec<f64>) -> HistogramVec {
    let options = HistogramOpts::new(format!("rideshare_{name}"), help).buckets(buckets);
    registered(registry, HistogramVec::new(options, labels))
}
