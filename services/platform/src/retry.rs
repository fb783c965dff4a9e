//! Every retry of the program takes its delays from here, and nowhere else is the `backoff` crate used: it is asked for
//! and no longer maintained (see `deny.toml`), so it is kept behind these few lines.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

/// Growing delays: the first, times `factor` each, at most the last. Without randomness, so that a seeded run repeats
/// itself; those who retry are few, and each waits for its own cause.
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
            // The crate's default gives up after 15 minutes: who calls decides when to stop.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let last = self.0.max_interval;
        self.0.next_backoff().unwrap_or(last)
    }

    /// Begins again, after a success.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// For a dependency that is away: 100 ms to 5 s.
pub fn dependency() -> Delays {
    Delays::doubling(Duration::from_millis(100), Duration::from_secs(5))
}

/// The delay before a message that failed on delivery number `deliveries` comes again: 1 s, 4 s, 16 s …, at most a minute.
pub fn redelivery(deliveries: u64) -> Duration {
    let mut delays = Delays::growing(Duration::from_secs(1), 4.0, Duration::from_secs(60));
    let mut delay = delays.next_delay();
    for _ in 1..deliveries.min(10) {
        delay = delays.next_delay();
    }
    delay
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_stop_growing() {
        let secs: Vec<u64> = (1..6).map(|n| redelivery(n).as_secs()).collect();
        assert_eq!(secs, [1, 4, 16, 60, 60]);
        let mut delays = dependency();
        let millis: Vec<u128> = (0..8).map(|_| delays.next_delay().as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        delays.reset();
        assert_eq!(delays.next_delay().as_millis(), 100);
    }
}
