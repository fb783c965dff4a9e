//! A token bucket for the frames that a client sends. Pure: the caller passes the time.

use tokio::time::Instant;

/// After a pause a client may send as many frames at once as the rate allows in this many seconds.
const BURST_S: f64 = 4.0;

/// Refills at a rate up to the burst; each frame takes one token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenBucket {
    per_s: f64,
    tokens: f64,
    refilled_at: Instant,
}

impl TokenBucket {
    pub(crate) fn full(per_s: u32, now: Instant) -> Self {
        let per_s = f64::from(per_s);
        Self { per_s, tokens: per_s * BURST_S, refilled_at: now }
    }

    /// Takes a token; false if there is none.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed_s = now.saturating_duration_since(self.refilled_at).as_secs_f64();
        self.tokens = (self.tokens + passed_s * self.per_s).min(self.per_s * BURST_S);
        self.refilled_at = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_allows_a_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::full(50, start);
        let mut taken = |at| (0..1_000).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(start), 200);
        assert_eq!(taken(start + Duration::from_secs(1)), 50);
        assert_eq!(taken(start + Duration::from_secs(100)), 200);
    }
}
