//! Numbers of a run: counters and bounded samples of durations. It owns no clock and decides nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// So many samples of one duration are kept; beyond that each has the same chance to be among them (algorithm R).
const RESERVOIR: usize = 20_000;

/// Durations or other numbers of one kind.
#[derive(Debug)]
pub(crate) struct Samples {
    kept: Vec<f64>,
    seen: u64,
    sum: f64,
    rng: StdRng,
}

impl Default for Samples {
    fn default() -> Self {
        Self { kept: Vec::new(), seen: 0, sum: 0.0, rng: StdRng::seed_from_u64(0) }
    }
}

impl Samples {
    pub(crate) fn add(&mut self, value: f64) {
        self.seen += 1;
        self.sum += value;
        if self.kept.len() < RESERVOIR {
            self.kept.push(value);
        } else {
            let place = self.rng.random_range(0..self.seen);
            if let Some(slot) = usize::try_from(place).ok().and_then(|place| self.kept.get_mut(place)) {
                *slot = value;
            }
        }
    }

    /// The distribution so far; none without a sample.
    pub(crate) fn distribution(&self) -> Option<Distribution> {
        let mut sorted = self.kept.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            // Nearest rank.
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
        };
        Some(Distribution {
            count: self.seen,
            mean: self.sum / self.seen as f64,
            p50: at(0.5)?,
            p99: at(0.99)?,
            max: sorted.last().copied()?,
        })
    }
}

/// A distribution of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distribution {
    /// How many there were.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Half of them are at most this.
    pub p50: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// The largest of those kept.
    pub max: f64,
}

/// Which counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Count {
    SearchesBegun,
    SearchesCancelled,
    SearchesUnserved,
    Offers,
    Declined,
    Expired,
    OffersCancelled,
    Superseded,
    Pickups,
    Completed,
    Cancelled,
    Events,
    RepeatedEvents,
    Connects,
    Reconnects,
    Cuts,
    Retries,
    RepeatsSent,
    Points,
    WrongPins,
    Trespasses,
}

/// All numbers of a run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: BTreeMap<Count, u64>,
    refusals: BTreeMap<String, u64>,
    cancelled_by: BTreeMap<String, u64>,
    latencies: BTreeMap<&'static str, Samples>,
    pub(crate) pickup_eta_s: Samples,
    pub(crate) billed_share: Samples,
}

impl Tally {
    pub(crate) fn add(&mut self, what: Count) {
        self.add_many(what, 1);
    }

    pub(crate) fn add_many(&mut self, what: Count, many: u64) {
        *self.counts.entry(what).or_default() += many;
    }

    pub(crate) fn count(&self, what: Count) -> u64 {
        self.counts.get(&what).copied().unwrap_or(0)
    }

    /// A command was refused with this code.
    pub(crate) fn refused(&mut self, command: &str, code: &str) {
        let name = format!("{command}: {code}");
        if self.refusals.len() < 100 || self.refusals.contains_key(&name) {
            *self.refusals.entry(name).or_default() += 1;
        }
    }

    /// A ride was cancelled by this party.
    pub(crate) fn cancelled(&mut self, by: &str) {
        self.add(Count::Cancelled);
        *self.cancelled_by.entry(by.to_owned()).or_default() += 1;
    }

    /// Something took so long.
    pub(crate) fn took(&mut self, what: &'static str, duration: Duration) {
        self.latencies.entry(what).or_default().add(duration.as_secs_f64() * 1000.0);
    }

    pub(crate) fn latencies(&self) -> BTreeMap<&'static str, Distribution> {
        self.latencies.iter().filter_map(|(what, samples)| Some((*what, samples.distribution()?))).collect()
    }

    pub(crate) fn refusals(&self) -> &BTreeMap<String, u64> {
        &self.refusals
    }

    pub(crate) fn cancelled_by(&self) -> &BTreeMap<String, u64> {
        &self.cancelled_by
    }
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
        assert_eq!(samples.kept.len(), RESERVOIR);
        let middle = samples.distribution().unwrap().p50;
        assert!((middle / (2.5 * RESERVOIR as f64) - 1.0).abs() < 0.05, "{middle}");
    }
}
