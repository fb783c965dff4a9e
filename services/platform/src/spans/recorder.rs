//! Where spans are recorded: a queue before the exporter, and what the head of a trace decides.

use std::sync::Arc;

use chrono::Duration;
use prometheus::IntCounterVec;
use tokio::sync::mpsc;

use super::sampling::Sampler;
use super::span::Span;
use crate::world::{Trace, World};

/// Spans that wait for the exporter.
const QUEUE_MAX: usize = 8_192;
/// The most links of a span.
pub const LINKS_MAX: usize = 128;

/// Where spans are recorded; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Spans(Option<Arc<Recorder>>);

#[derive(Debug)]
struct Recorder {
    sampler: Sampler,
    /// `messaging.system`
    messaging_system: &'static str,
    /// From the beginning of a search to its ride: a trace that takes longer is kept.
    slow_ride: Duration,
    queue: mpsc::Sender<Span>,
    dropped: IntCounterVec,
}

impl Spans {
    /// With the receiver for the exporter.
    pub(super) fn new(
        sampler: Sampler,
        slow_ride: Duration,
        messaging_system: &'static str,
        dropped: IntCounterVec,
    ) -> (Self, mpsc::Receiver<Span>) {
        let (queue, spans) = mpsc::channel(QUEUE_MAX);
        (Self(Some(Arc::new(Recorder { sampler, messaging_system, slow_ride, queue, dropped }))), spans)
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The first span of a new trace, of which the sampler decides. Without an exporter the flag says nothing.
    pub fn root(&self, world: &World) -> Trace {
        let trace = world.trace();
        match &self.0 {
            Some(recorder) => {
                let is_sampled = recorder.sampler.samples(&trace);
                trace.with_sampled(is_sampled)
            }
            None => trace,
        }
    }

    /// The context that a client sent, whose trace is taken over.
    pub fn of_client(&self, traceparent: &str) -> Option<Trace> {
        let (recorder, trace) = (self.0.as_ref()?, Trace::parse(traceparent)?);
        let is_sampled = recorder.sampler.samples_of_client(&trace);
        Some(trace.with_sampled(is_sampled))
    }

    /// Whether a search that took so long to become a ride is one whose trace is kept.
    pub fn is_slow_ride(&self, took: Duration) -> bool {
        self.0.as_ref().is_some_and(|recorder| took >= recorder.slow_ride)
    }

    /// Records a span that has ended, with `messaging.system` if it is about a message.
    pub fn record(&self, mut span: Span) {
        let Some(recorder) = &self.0 else { return };
        if span.attributes.iter().any(|(name, _)| *name == "messaging.operation.type") {
            span.attributes.push(("messaging.system", recorder.messaging_system.into()));
        }
        if recorder.queue.try_send(span).is_err() {
            recorder.dropped.with_label_values(&["queue"]).inc();
        }
    }
}
