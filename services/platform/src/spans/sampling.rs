//! Which spans are exported. Pure: the caller passes the time.
//!
//! The head of a trace decides by the trace's id, the same in every process, and the flag of its traceparent says how. What is not
//! sampled waits here for some seconds: if a span of the same trace ends with an error or is slow, what waits is exported, and so are
//! the trace's later spans.

use std::collections::{BTreeMap, VecDeque};
use std::str::FromStr;

use chrono::{DateTime, Duration, Utc};

use super::span::Span;
use crate::world::Trace;

/// How long spans wait.
pub(super) const HOLD: Duration = Duration::seconds(30);
/// Spans that wait; beyond, the oldest trace is dropped.
const HELD_MAX: usize = 16_384;
/// Traces that are remembered as kept.
const KEPT_MAX: usize = 4_096;

/// The head's decision, named as `OTEL_TRACES_SAMPLER` names it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// The part of the traces, 0 to 1.
    ratio: f64,
    /// What a client says of its own trace counts.
    follows_client: bool,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { ratio: 1.0, follows_client: true }
    }
}

impl Sampler {
    /// From the values of `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.
    ///
    /// # Errors
    /// A sentence that names the variable.
    pub fn parse(name: &str, argument: Option<&str>) -> Result<Self, String> {
        let (follows_client, name) = match name.strip_prefix("parentbased_") {
            Some(name) => (true, name),
            None => (false, name),
        };
        let ratio = match name {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => {
                let text = argument.unwrap_or("1");
                let ratio = f64::from_str(text).ok().filter(|ratio| (0.0..=1.0).contains(ratio));
                ratio.ok_or_else(|| format!("OTEL_TRACES_SAMPLER_ARG: `{text}` is not a number from 0 to 1"))?
            }
            _ => {
                return Err(format!(
                    "OTEL_TRACES_SAMPLER: `{name}` is none of always_on, always_off and traceidratio, each also with parentbased_ \
                     before it"
                ));
            }
        };
        Ok(Self { ratio, follows_client })
    }

    /// Whether a trace that begins here is sampled. The random part of an id is its last 8 bytes, as the SDKs of OpenTelemetry have it.
    pub(super) fn samples(&self, trace: &Trace) -> bool {
        let random = u64::from_str_radix(&trace.trace_id()[16..], 16).unwrap_or(u64::MAX);
        self.ratio >= 1.0 || ((random >> 1) as f64) < self.ratio * (1_u64 << 63) as f64
    }

    /// Whether a trace that a client began is sampled.
    pub(super) fn samples_of_client(&self, trace: &Trace) -> bool {
        if self.follows_client { trace.is_sampled() } else { self.samples(trace) }
    }
}

/// Spans of traces that are not sampled, and the traces of which one made the others worth keeping.
#[derive(Debug)]
pub(super) struct Tail {
    /// A span that takes at least so long is slow.
    slow: Duration,
    held: BTreeMap<String, Vec<Span>>,
    held_spans: usize,
    /// The traces in `held`, by the time of their first span.
    order: VecDeque<(DateTime<Utc>, String)>,
    kept: BTreeMap<String, DateTime<Utc>>,
}

impl Tail {
    pub(super) fn new(slow: Duration) -> Self {
        Self { slow, held: BTreeMap::new(), held_spans: 0, order: VecDeque::new(), kept: BTreeMap::new() }
    }

    /// The spans to export now that `span` has ended, in the order in which they ended.
    pub(super) fn add(&mut self, span: Span, now: DateTime<Utc>) -> Vec<Span> {
        let id = span.trace.trace_id();
        let is_slow = span.ended_at - span.began_at >= self.slow;
        let is_kept = span.trace.is_sampled() || self.kept.contains_key(id);
        if span.error.is_none() && !is_slow {
            if is_kept {
                return self.release(span);
            }
            self.hold(span, now);
            return Vec::new();
        }
        if self.kept.len() < KEPT_MAX {
            self.kept.insert(id.to_owned(), now);
        }
        self.release(span)
    }

    /// Drops what has waited long enough.
    pub(super) fn expire(&mut self, now: DateTime<Utc>) {
        while let Some((since, _)) = self.order.front()
            && *since + HOLD <= now
        {
            self.drop_oldest();
        }
        self.kept.retain(|_, since| *since + HOLD > now);
    }

    fn hold(&mut self, span: Span, now: DateTime<Utc>) {
        let id = span.trace.trace_id();
        if !self.held.contains_key(id) {
            self.order.push_back((now, id.to_owned()));
        }
        self.held.entry(id.to_owned()).or_default().push(span);
        self.held_spans += 1;
        while self.held_spans > HELD_MAX {
            self.drop_oldest();
        }
    }

    /// What waits of the span's trace, and then the span.
    fn release(&mut self, span: Span) -> Vec<Span> {
        let id = span.trace.trace_id();
        let mut spans = self.held.remove(id).unwrap_or_default();
        if !spans.is_empty() {
            self.held_spans -= spans.len();
            self.order.retain(|(_, held)| held != id);
        }
        spans.push(span);
        spans
    }

    fn drop_oldest(&mut self) {
        if let Some((_, id)) = self.order.pop_front() {
            self.held_spans -= self.held.remove(&id).map_or(0, |spans| spans.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::span::SpanKind;
    use super::*;
    use crate::world::World;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::seconds(second)
    }

    fn span(trace: &Trace, name: &str, seconds: i64) -> Span {
        Span::new("users", name.to_owned(), SpanKind::Internal, trace, (at(0), at(seconds)))
    }

    fn names(spans: Vec<Span>) -> Vec<String> {
        spans.into_iter().map(|span| span.name).collect()
    }

    #[test]
    fn a_sampler_is_named_as_by_opentelemetry() {
        let world = World::seeded(at(0), 1);
        let traces: Vec<Trace> = (0..2_000).map(|_| world.trace()).collect();
        for (name, argument, of_clients, expected) in [
            ("parentbased_always_on", None, true, 2_000..2_001),
            ("always_off", None, false, 0..1),
            ("parentbased_always_off", None, true, 0..1),
            ("traceidratio", Some("0.25"), false, 440..560),
            ("parentbased_traceidratio", Some("0.25"), true, 440..560),
            ("traceidratio", None, false, 2_000..2_001),
        ] {
            let sampler = Sampler::parse(name, argument).unwrap();
            let sampled = traces.iter().filter(|trace| sampler.samples(trace)).count();
            assert!(expected.contains(&sampled), "{name}: {sampled}");
            let flagged = traces.iter().filter(|trace| sampler.samples_of_client(trace)).count();
            assert_eq!(flagged == 2_000, of_clients || expected.contains(&2_000), "{name}: {flagged}");
        }
        for (name, argument) in [("always", None), ("traceidratio", Some("2")), ("traceidratio", Some("x"))] {
            assert!(Sampler::parse(name, argument).unwrap_err().starts_with("OTEL_TRACES_SAMPLER"));
        }
    }

    #[test]
    fn errors_and_slow_spans_bring_what_was_held_of_their_trace() {
        let world = World::seeded(at(0), 1);
        let trace = || world.trace().with_sampled(false);
        let mut tail = Tail::new(Duration::seconds(5));
        let (failing, slow, fine) = (trace(), trace(), trace());
        for trace in [&failing, &slow, &fine] {
            assert!(tail.add(span(trace, "first", 1), at(1)).is_empty());
        }
        assert_eq!(names(tail.add(span(&failing, "second", 1).failed(Some("x".into())), at(2))), ["first", "second"]);
        assert_eq!(names(tail.add(span(&failing, "third", 1), at(3))), ["third"], "its trace is kept from now on");
        assert_eq!(names(tail.add(span(&slow, "second", 5), at(3))), ["first", "second"]);
        assert_eq!(names(tail.add(span(&world.trace(), "sampled", 1), at(3))), ["sampled"]);
        tail.expire(at(30));
        assert_eq!(tail.held_spans, 1);
        tail.expire(at(31));
        assert_eq!((tail.held_spans, tail.held.len(), tail.order.len()), (0, 0, 0));
        assert_eq!(names(tail.add(span(&fine, "late", 9), at(32))), ["late"], "the rest of it is gone");
        tail.expire(at(62));
        assert!(tail.kept.is_empty());
    }

    #[test]
    fn what_is_held_is_bounded() {
        let world = World::seeded(at(0), 1);
        let mut tail = Tail::new(Duration::seconds(5));
        for _ in 0..HELD_MAX + 10 {
            tail.add(span(&world.trace().with_sampled(false), "x", 1), at(1));
        }
        assert_eq!((tail.held_spans, tail.held.len(), tail.order.len()), (HELD_MAX, HELD_MAX, HELD_MAX));
    }
}
