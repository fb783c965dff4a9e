//! The distribution of a number, from a bounded sample.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The most samples that are stored. Beyond it, each value seen has the same chance to be among them (reservoir sampling,
/// algorithm R).
const RESERVOIR: usize = 20_000;

#[derive(Debug)]
pub(crate) struct Samples {
    reservoir: Vec<f64>,
    count: u64,
    sum: f64,
    rng: StdRng,
}

impl Default for Samples {
    fn default() -> Self {
        Self { reservoir: Vec::new(), count: 0, sum: 0.0, rng: StdRng::seed_from_u64(0) }
    }
}

impl Samples {
    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        if self.reservoir.len() < RESERVOIR {
            self.reservoir.push(value);
        } else {
            let place = self.rng.random_range(0..self.count);
            if let Some(slot) = usize::try_from(place).ok().and_then(|place| self.reservoir.get_mut(place)) {
                *slot = value;
            }
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// `None` without a sample.
    pub(crate) fn distribution(&self) -> Option<Distribution> {
        let mut sorted = self.reservoir.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            // Nearest rank.
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
        };
        Some(Distribution {
            count: self.count,
            mean: self.sum / self.count as f64,
            p50: at(0.5)?,
            p99: at(0.99)?,
            max: sorted.last().copied()?,
        })
    }
}

/// `count` and `mean` are exact; the percentiles and the maximum are those of the reservoir.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distribution {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut samples = Samples::default();
        assert_eq!(samples.distribution(), None);
        (1..=100).rev().for_each(|n| samples.add(f64::from(n)));
        let all = samples.distribution().unwrap();
        assert_eq!((all.count, all.mean, all.p50, all.p99, all.max), (100, 50.5, 50.0, 99.0, 100.0));
    }

    #[test]
    fn the_reservoir_is_bounded_and_fair() {
        let mut samples = Samples::default();
        (0..5 * RESERVOIR).for_each(|n| samples.add(n as f64));
        assert_eq!(samples.reservoir.len(), RESERVOIR);
        let middle = samples.distribution().unwrap().p50;
        assert!((middle / (2.5 * RESERVOIR as f64) - 1.0).abs() < 0.05, "{middle}");
    }
}
