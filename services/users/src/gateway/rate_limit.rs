//! How fast a client may send: a bucket of tokens. Pure; time comes in.

use tokio::time::Instant;

/// Seconds of the rate that a client may send at once after a pause.
const BURST_S: f64 = 4.0;

/// Refills at a rate and holds at most a burst; each frame takes one token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    per_s: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(per_s: u32, now: Instant) -> Self {
        let per_s = f64::from(per_s);
        Self { per_s, tokens: per_s * BURST_S, at: now }
    }

    /// Takes a token; false if there is none.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed_s = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed_s * self.per_s).min(self.per_s * BURST_S);
        self.at = now;
        let some = self.tokens >= 1.0;
        if some {
            self.tokens -= 1.0;
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(50, start);
        let mut taken = |at| (0..1_000).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(start), 200);
        assert_eq!(taken(start + Duration::from_secs(1)), 50);
        assert_eq!(taken(start + Duration::from_secs(100)), 200);
    }
}
