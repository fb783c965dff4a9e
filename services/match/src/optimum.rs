//! What a trial could have come to at best: the offline optimum of a small one, with all its trips known beforehand. Pure.
//!
//! Exact, by dynamic programming over sets of trips. First for each driver and set: the orders in which this driver can serve all of it, of which
//! only those are pursued that are neither later nor costlier than another one with the same last trip. Then the drivers one by one, each with a
//! set of its own. Most passengers are matched, and of these ways the one with the least total wait is taken.
//!
//! The city is that of [`evaluate`](crate::evaluate::evaluate()): drivers begin at the same places, serve whole trips, drive no sooner than the
//! request is made, and are within the radius as it is then. They know who will ask, choose whom they serve, and accept all of it. So no
//! policy can match more, and with as many matched none has a shorter total wait.

use std::collections::BTreeMap;

use streams::Position;

use crate::evaluate::{DETOUR, Outcome, Served, Trial, Trip, beginnings, drive_s, gini, ride_ms, waits};

/// The most trips. Time grows with their number n as n² · 3ⁿ: 12 take a second at most.
pub const TRIPS_MAX: usize = 12;
/// The name in a report.
pub const NAME: &str = "optimum";

/// A set of trips, by number.
type Set = usize;

/// The optimum, if there are at most [`TRIPS_MAX`] trips.
pub fn optimum(trips: &[Trip], trial: &Trial) -> Option<Outcome> {
    if trips.len() > TRIPS_MAX {
        return None;
    }
    let all = 1 << trips.len();
    let mut drivers: BTreeMap<[u64; 2], (Position, usize)> = BTreeMap::new();
    for place in beginnings(trips, trial) {
        drivers.entry([place.lat.to_bits(), place.lng.to_bits()]).or_insert((place, 0)).1 += 1;
    }
    // Of drivers at one place no more than there are trips are of use.
    let places: Vec<Chains> = drivers.values().map(|(place, _)| Chains::from(*place, trips, trial)).collect();
    let counts = drivers.values().map(|(_, count)| (*count).min(trips.len()));
    let order: Vec<&Chains> =
        places.iter().zip(counts).flat_map(|(chains, n)| std::iter::repeat_n(chains, n)).collect();

    // The least total wait of the first drivers for each set, and which of it the last of them serves.
    let mut cost = vec![f64::INFINITY; all];
    cost[0] = 0.0;
    let mut shares: Vec<Vec<Set>> = Vec::with_capacity(order.len());
    for chains in &order {
        let (before, mut share) = (cost.clone(), vec![0; all]);
        for set in 1..all {
            for part in parts(set) {
                let sum = before[set ^ part] + chains.cost(part);
                if sum < cost[set] {
                    (cost[set], share[set]) = (sum, part);
                }
            }
        }
        shares.push(share);
    }
    let possible = (0..all).filter(|set| cost[*set].is_finite());
    let mut left = possible.max_by(|a, b| a.count_ones().cmp(&b.count_ones()).then(cost[*b].total_cmp(&cost[*a])))?;

    let (mut served, mut empty_m, mut busy_s) = (Vec::new(), 0.0, vec![0.0; trial.drivers as usize]);
    for (n, (chains, share)) in order.iter().zip(&shares).enumerate().rev() {
        for link in chains.links(share[left]) {
            let trip = &trips[link.served.trip];
            busy_s[n] += drive_s(&trip.pickup, &trip.pickup, &trip.dropoff, trial).1;
            empty_m += link.empty_m;
            served.push(link.served);
        }
        left ^= share[left];
    }
    let longest_ms = served.iter().map(|s| s.found_at_ms - trips[s.trip].requested_at_ms).max().unwrap_or_default();
    let given_up_s = if served.len() < trips.len() { f64::from(trial.patience_s) } else { 0.0 };
    Some(Outcome {
        longest_wait_s: (longest_ms as f64 / 1_000.0).max(given_up_s),
        empty_km: empty_m / 1_000.0,
        gini: gini(busy_s.into_iter()),
        ..waits(NAME, trips, &served)
    })
}

/// The sets in `set`, without the empty one.
fn parts(set: Set) -> impl Iterator<Item = Set> {
    std::iter::successors(Some(set), move |part| Some(part.checked_sub(1)? & set)).take_while(|part| *part > 0)
}

/// A trip that is served after others.
#[derive(Debug, Clone, Copy)]
struct Link {
    served: Served,
    free_at_ms: i64,
    /// The waits of this one and those before.
    total_s: f64,
    empty_m: f64,
    before: Option<usize>,
}

/// What drivers who begin at one place can serve.
#[derive(Debug)]
struct Chains {
    links: Vec<Link>,
    /// By set: the last link of the cheapest order.
    best: Vec<Option<usize>>,
}

impl Chains {
    fn from(place: Position, trips: &[Trip], trial: &Trial) -> Self {
        let mut chains = Self { links: Vec::new(), best: vec![None; 1 << trips.len()] };
        // By set and last trip: links none of which is both later and costlier than another.
        let mut open: Vec<Vec<usize>> = vec![Vec::new(); (1 << trips.len()) * trips.len()];
        for (n, trip) in trips.iter().enumerate() {
            chains.add((&mut open, 1 << n), None, next(&place, i64::MIN, (n, trip), trial));
        }
        for set in 1..1_usize << trips.len() {
            for last in (0..trips.len()).filter(|last| (set >> last) & 1 == 1) {
                for link in std::mem::take(&mut open[set * trips.len() + last]) {
                    let best = &mut chains.best[set];
                    if best.is_none_or(|best| chains.links[link].total_s < chains.links[best].total_s) {
                        *best = Some(link);
                    }
                    let free_at_ms = chains.links[link].free_at_ms;
                    for (n, trip) in trips.iter().enumerate().filter(|(n, _)| (set >> n) & 1 == 0) {
                        let step = next(&trips[last].dropoff, free_at_ms, (n, trip), trial);
                        chains.add((&mut open, set | (1 << n)), Some(link), step);
                    }
                }
            }
        }
        chains
    }

    /// Adds a link to what is open of its set, unless another one makes it useless.
    fn add(&mut self, (open, set): (&mut [Vec<usize>], Set), before: Option<usize>, step: Option<Link>) {
        let Some(step) = step else { return };
        let total_s = step.total_s + before.map_or(0.0, |before| self.links[before].total_s);
        let link = Link { total_s, before, ..step };
        let trips = self.best.len().ilog2() as usize;
        let others = &mut open[set * trips + link.served.trip];
        let is_no_worse = |a: &Link, b: &Link| a.free_at_ms <= b.free_at_ms && a.total_s <= b.total_s;
        if others.iter().any(|other| is_no_worse(&self.links[*other], &link)) {
            return;
        }
        others.retain(|other| !is_no_worse(&link, &self.links[*other]));
        others.push(self.links.len());
        self.links.push(link);
    }

    fn cost(&self, set: Set) -> f64 {
        self.best[set].map_or(f64::INFINITY, |link| self.links[link].total_s)
    }

    /// The cheapest order of a set, backwards.
    fn links(&self, set: Set) -> impl Iterator<Item = &Link> {
        let link = |n: usize| &self.links[n];
        std::iter::successors(self.best[set].map(link), move |last| last.before.map(link))
    }
}

/// Serving a trip from here, as soon as that may be, if it may.
fn next(from: &Position, free_at_ms: i64, (n, trip): (usize, &Trip), trial: &Trial) -> Option<Link> {
    let distance_m = from.distance_m(&trip.pickup);
    let patience_ms = i64::from(trial.patience_s) * 1_000;
    // The radius grows in the second third of the patience, as the engine's does.
    let after_ms = match distance_m {
        near if near <= trial.radius_m => 0,
        far if far > trial.radius_max_m => return None,
        between => {
            let share = (between - trial.radius_m) / (trial.radius_max_m - trial.radius_m);
            ((share + 1.0) / 3.0 * patience_ms as f64) as i64
        }
    };
    let found_at_ms = free_at_ms.max(trip.requested_at_ms + after_ms);
    if found_at_ms > trip.requested_at_ms + patience_ms {
        return None;
    }
    let (eta_s, trip_s) = drive_s(from, &trip.pickup, &trip.dropoff, trial);
    Some(Link {
        served: Served { trip: n, found_at_ms, eta_s },
        free_at_ms: found_at_ms + ride_ms((eta_s, trip_s)),
        total_s: (found_at_ms - trip.requested_at_ms) as f64 / 1_000.0 + eta_s,
        empty_m: distance_m * DETOUR,
        before: None,
    })
}
