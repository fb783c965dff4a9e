//! The world: the one clock and the one source of randomness of the whole program.
//!
//! In a seeded world, wall time is the start time plus tokio's clock. So a test that pauses tokio's clock pauses all time, and
//! the same seed gives the same ids and codes in every run. The real world reads the system's clock each time, because tokio's
//! clock stands still while a machine sleeps. Nothing else may read time or randomness; `clippy.toml` enforces that.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::time::Instant;
use uuid::Uuid;

#[derive(Clone)]
pub struct World {
    real: bool,
    started_at: DateTime<Utc>,
    started: Instant,
    random: Arc<Mutex<StdRng>>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("started_at", &self.started_at).finish_non_exhaustive()
    }
}

impl World {
    /// The system's clock, and the system's randomness.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn real() -> Self {
        Self { real: true, ..Self::with(Utc::now(), StdRng::from_rng(&mut rand::rng())) }
    }

    /// A world that begins at `started_at` and is the same for the same `seed`. Production must never take keys from it.
    pub fn seeded(started_at: DateTime<Utc>, seed: u64) -> Self {
        Self::with(started_at, StdRng::seed_from_u64(seed))
    }

    fn with(started_at: DateTime<Utc>, random: StdRng) -> Self {
        Self { real: false, started_at, started: Instant::now(), random: Arc::new(Mutex::new(random)) }
    }

    /// To the microsecond, the precision of the database and of the messages.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(&self) -> DateTime<Utc> {
        if self.real {
            return Utc::now().trunc_subsecs(6);
        }
        let passed = chrono::Duration::from_std(self.started.elapsed()).unwrap_or(chrono::Duration::MAX);
        (self.started_at + passed).trunc_subsecs(6)
    }

    /// Whether this is the real world, and not a simulated one.
    pub fn is_real(&self) -> bool {
        self.real
    }

    pub fn started_at(&self) -> DateTime<Utc> {
        self.started_at
    }

    /// Tokio's instant of a wall time, to sleep until then.
    pub fn instant(&self, at: DateTime<Utc>) -> Instant {
        if self.real {
            return Instant::now() + (at - self.now()).to_std().unwrap_or(Duration::ZERO);
        }
        self.started + (at - self.started_at).to_std().unwrap_or(Duration::ZERO)
    }

    /// A new UUIDv7, as any id type.
    pub fn id<T: From<Uuid>>(&self) -> T {
        let millis = u64::try_from(self.now().timestamp_millis()).unwrap_or(0);
        let bytes: [u8; 10] = self.bytes();
        T::from(uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid())
    }

    /// Random bytes; in the real world fit for keys.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.random.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut bytes);
        bytes
    }

    /// A number from 0 to `below` − 1, all equally likely.
    pub fn below(&self, below: u32) -> u32 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..below.max(1))
    }

    /// The first span of a new trace.
    pub fn trace(&self) -> Trace {
        Trace::of(&digits(&self.bytes::<16>()), &digits(&self.bytes::<8>()), b"01")
    }
}

/// One span of a trace, as a W3C trace context: `00-<trace>-<span>-<flags>`, and the span that it follows from.
#[derive(Clone, PartialEq, Eq)]
pub struct Trace {
    /// ASCII.
    traceparent: [u8; LENGTH],
    /// The id of the span before; `None` for the first of a trace.
    parent: Option<SpanId>,
}

/// In hexadecimal digits, as all ids of traces are here.
type SpanId = [u8; 16];

/// The places of the parts in a traceparent.
const TRACE_ID: Range<usize> = 3..35;
const SPAN_ID: Range<usize> = 36..52;
const FLAGS: Range<usize> = 53..55;
const LENGTH: usize = 55;
/// The flag of a span that its sender records.
const SAMPLED: u8 = 1;

fn text(ascii: &[u8]) -> &str {
    std::str::from_utf8(ascii).expect("ids of traces are ASCII")
}

/// `bytes` in hexadecimal digits; `N` is twice their number.
fn digits<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut digits = [0; N];
    hex::encode_to_slice(bytes, &mut digits).expect("twice as many digits");
    digits
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trace").field(&self.as_str()).field(&self.parent()).finish()
    }
}

impl Trace {
    /// Of parts in hexadecimal digits.
    fn of(trace: &[u8; 32], span: &SpanId, flags: &[u8; 2]) -> Self {
        let mut traceparent = *b"00-________________________________-________________-__";
        traceparent[TRACE_ID].copy_from_slice(trace);
        traceparent[SPAN_ID].copy_from_slice(span);
        traceparent[FLAGS].copy_from_slice(flags);
        Self { traceparent, parent: None }
    }

    pub fn as_str(&self) -> &str {
        text(&self.traceparent)
    }

    /// The trace's own id, which all its spans share: for log lines.
    pub fn trace_id(&self) -> &str {
        &self.as_str()[TRACE_ID]
    }

    pub fn span_id(&self) -> &str {
        &self.as_str()[SPAN_ID]
    }

    /// The id of the span that this one follows from.
    pub fn parent(&self) -> Option<&str> {
        self.parent.as_ref().map(|span| text(span))
    }

    /// Whether whoever records spans of the trace exports them.
    pub fn is_sampled(&self) -> bool {
        u8::from_str_radix(&self.as_str()[FLAGS], 16).is_ok_and(|flags| flags & SAMPLED != 0)
    }

    /// The same span, whose followers know that the trace is exported, or (false) that it is not.
    #[must_use]
    pub fn with_sampled(mut self, is_sampled: bool) -> Self {
        self.traceparent[FLAGS].copy_from_slice(if is_sampled { b"01" } else { b"00" });
        self
    }

    /// The same span as a follower of another one, of which only the id is known.
    #[must_use]
    pub fn with_parent(self, parent: Option<&str>) -> Self {
        Self { parent: parent.and_then(|span| span.as_bytes().try_into().ok()), ..self }
    }

    /// The trace id in a `traceparent` of this system; empty if it has none.
    pub(crate) fn id_in(traceparent: &str) -> &str {
        traceparent.split('-').nth(1).unwrap_or_default()
    }

    /// Reads a `traceparent` by the rules of W3C Trace Context: of a later version its first four parts count. `None` if it is not
    /// valid.
    pub fn parse(text: &str) -> Option<Self> {
        let (trace, span, flags) = Self::parts(text)?;
        Some(Self::of(trace, span, flags))
    }

    /// The trace, the span and the flags of a valid `traceparent`.
    fn parts(text: &str) -> Option<(&[u8; 32], &SpanId, &[u8; 2])> {
        let is_hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let (head, rest) = text.split_at_checked(LENGTH)?;
        let mut parts = head.split('-');
        let [version, trace, span, flags] = [(); 4].map(|()| parts.next().unwrap_or_default());
        let is_whole = [version, trace, span, flags].map(str::len) == [2, 32, 16, 2]
            && parts.next().is_none()
            && [version, trace, span, flags].into_iter().all(is_hex);
        let is_known = version != "ff" && (rest.is_empty() || (version != "00" && rest.starts_with('-')));
        let is_zero = |id: &str| id.bytes().all(|b| b == b'0');
        let is_valid = is_whole && is_known && !is_zero(trace) && !is_zero(span);
        let (trace, span, flags) = (trace.as_bytes(), span.as_bytes(), flags.as_bytes());
        is_valid.then_some((trace.try_into().ok()?, span.try_into().ok()?, flags.try_into().ok()?))
    }

    /// The next span of the trace in a received `traceparent`; a new trace if the header is missing or malformed.
    pub fn follow(received: Option<&str>, world: &World) -> Self {
        received.and_then(Self::parts).map_or_else(|| world.trace(), |parts| Self::after(parts, world))
    }

    fn after((trace, span, flags): (&[u8; 32], &SpanId, &[u8; 2]), world: &World) -> Self {
        Self { parent: Some(*span), ..Self::of(trace, &digits(&world.bytes::<8>()), flags) }
    }

    /// A new span that follows from this one.
    #[must_use]
    pub fn next(&self, world: &World) -> Self {
        let part = |range: Range<usize>| &self.traceparent[range];
        let (trace, span, flags) = (part(TRACE_ID), part(SPAN_ID), part(FLAGS));
        let sized = "the ranges have these lengths";
        let parts = (trace.try_into().expect(sized), span.try_into().expect(sized), flags.try_into().expect(sized));
        Self::after(parts, world)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_by_the_rules_of_w3c() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        const SPAN: &str = "00f067aa0ba902b7";
        let of =
            |text: String| Trace::parse(&text).map(|t| (t.trace_id() == TRACE, t.span_id() == SPAN, t.is_sampled()));
        for (text, expected) in [
            (format!("00-{TRACE}-{SPAN}-01"), Some((true, true, true))),
            (format!("00-{TRACE}-{SPAN}-00"), Some((true, true, false))),
            (format!("00-{TRACE}-{SPAN}-03"), Some((true, true, true))),
            (format!("cc-{TRACE}-{SPAN}-01-later"), Some((true, true, true))),
            (format!("00-{TRACE}-{SPAN}-01-later"), None),
            (format!("cc-{TRACE}-{SPAN}-01later"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{TRACE}-{SPAN}-1"), None),
            (format!("00-{TRACE}{SPAN}--01"), None),
            ("ü".repeat(28), None),
            (String::new(), None),
        ] {
            assert_eq!(of(text.clone()), expected, "{text}");
        }
    }

    #[test]
    fn the_next_span_keeps_the_trace_and_its_flags() {
        let world = World::seeded(DateTime::UNIX_EPOCH, 1);
        let first = world.trace();
        let next = first.clone().with_sampled(false).next(&world);
        assert_eq!((next.trace_id(), next.parent()), (first.trace_id(), Some(first.span_id())));
        assert!(first.is_sampled() && !next.is_sampled() && next.with_sampled(true).is_sampled());
        assert_ne!(Trace::follow(Some("nonsense"), &world).trace_id(), first.trace_id());
    }
}
