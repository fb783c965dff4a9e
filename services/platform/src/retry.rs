//! Delays between retries, for the whole program. Only this file uses the crate `backoff`, which is prescribed and no longer
//! maintained (see `deny.toml`).

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

/// Delays that grow by a factor up to a maximum. They hold no randomness, so that a seeded run repeats itself; those who retry
/// are few, and each waits for a cause of its own.
#[derive(Debug)]
pub struct Delays(ExponentialBackoff);

impl Delays {
    /// Delays from `first` to `last`, doubling; they never end.
    pub fn doubling(first: Duration, last: Duration) -> Self {
        Self::growing(first, 2.0, last)
    }

    fn growing(first: Duration, factor: f64, last: Duration) -> Self {
        Self(ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            randomization_factor: 0.0,
            multiplier: factor,
            max_interval: last,
            // The crate's default gives up after 15 minutes; here the caller decides when to stop.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    pub fn next_delay(&mut self) -> Duration {
        let last = self.0.max_interval;
        self.0.next_backoff().unwrap_or(last)
    }

    /// Begins again with the first delay, after a success.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// For a dependency that is away: 100 ms to 5 s.
pub fn dependency() -> Delays {
    Delays::doubling(Duration::from_millis(100), Duration::from_secs(5))
}

/// The delay before a message is redelivered of which `attempts` have failed: 1 s, 4 s, 16 s …, at most a minute. Deliveries
/// are not attempts: one that was put back, or lost with its process, says nothing about the message.
pub fn redelivery(attempts: u64) -> Duration {
    let mut delays = Delays::growing(Duration::from_secs(1), 4.0, Duration::from_secs(60));
    let mut delay = delays.next_delay();
    for _ in 1..attempts.min(10) {
        delay = delays.next_delay();
    }
    delay
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_a_maximum() {
        let secs: Vec<u64> = (1..6).map(|n| redelivery(n).as_secs()).collect();
        assert_eq!(secs, [1, 4, 16, 60, 60]);
        let mut delays = dependency();
        let millis: Vec<u128> = (0..8).map(|_| delays.next_delay().as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        delays.reset();
        assert_eq!(delays.next_delay().as_millis(), 100);
    }
}
