//! The world: the one clock and the one source of randomness of the whole program.
//!
//! In a seeded world, wall time is the start time plus tokio's clock. So a test that pauses tokio's clock pauses all time, and
//! the same seed gives the same ids and codes in every run. The real world reads the system's clock each time, because tokio's
//! clock stands still while a machine sleeps. Nothing else may read time or randomness; `clippy.toml` enforces that.

use std::fmt;
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
        let id: [u8; 16] = self.bytes();
        Trace::of(&hex::encode(id), &hex::encode(self.bytes::<8>()))
    }
}

/// A W3C trace context: `00-<trace>-<span>-01`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace(String);

impl Trace {
    fn of(trace: &str, span: &str) -> Self {
        Self(format!("00-{trace}-{span}-01"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trace's own id, which all its spans share: for log lines.
    pub fn trace_id(&self) -> &str {
        Self::id_in(&self.0)
    }

    /// The trace id in a `traceparent` of this system; empty if it has none.
    pub(crate) fn id_in(traceparent: &str) -> &str {
        traceparent.split('-').nth(1).unwrap_or_default()
    }

    /// The next span of the trace in a received `traceparent`; a new trace if the header is missing or malformed.
    pub fn follow(received: Option<&str>, world: &World) -> Self {
        let trace = received.and_then(|text| {
            let mut parts = text.split('-');
            let (version, trace) = (parts.next()?, parts.next()?);
            let sound = version.len() == 2 && trace.len() == 32 && trace.bytes().all(|b| b.is_ascii_hexdigit());
            sound.then_some(trace)
        });
        match trace {
            Some(trace) => Self::of(trace, &hex::encode(world.bytes::<8>())),
            None => world.trace(),
        }
    }
}
