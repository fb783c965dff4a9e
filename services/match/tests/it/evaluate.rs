//! `evaluate` on a made-up city: `batched` against the two others, and the same result every time.

use chrono::Duration;
use matching::Policy;
use matching::evaluate::{Outcome, Trial, Trip, evaluate};
use streams::Position;

/// Trips all over a square of 6 km, one each 2 s; the places follow from the number.
fn trips(count: u32) -> Vec<Trip> {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24) * 0.054
    };
    let mut place = || Position { lat: 40.70 + next(), lng: -74.0 + next() * 1.3 };
    let trip =
        |n: u32, pickup: Position, dropoff: Position| Trip { requested_at_ms: i64::from(n) * 2_000, pickup, dropoff };
    (0..count).map(|n| trip(n, place(), place())).collect()
}

fn of(policy: Policy, drivers: u32) -> Outcome {
    evaluate(&trips(600), &trial(drivers), policy)
}

fn trial(drivers: u32) -> Trial {
    Trial {
        drivers,
        radius_m: 2_000.0,
        radius_max_m: 2_000.0,
        speed_mps: 7.0,
        patience_s: 300,
        window: Duration::seconds(300),
        seed: 1,
    }
}

#[test]
fn a_radius_that_grows_matches_no_fewer() {
    let of = |radius_m, radius_max_m, drivers| {
        let trial = Trial { radius_m, radius_max_m, ..trial(drivers) };
        evaluate(&trips(600), &trial, Policy::Batched)
    };
    for drivers in [100, 250, 350] {
        let (small, grown) = (of(700.0, 700.0, drivers), of(700.0, 2_000.0, drivers));
        assert!(grown.matched > small.matched, "{small:?}\n{grown:?}");
        assert_eq!(grown.longest_wait_s.max(300.0), 300.0);
    }
}

/// A city of one hour, as a list of trips: where they begin and end follows from two numbers each between -1 and 1.
fn city(count: u32, seed: u64, ends: impl Fn(f64, [(f64, f64); 3]) -> [(f64, f64); 2]) -> Vec<Trip> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    let trip = |n: u32| {
        let hour = f64::from(n) / f64::from(count);
        let mut pair = || (next(), next());
        let [from, to] = ends(hour, [pair(), pair(), pair()]);
        let place = |(x, y): (f64, f64)| Position { lat: x / 111.195, lng: y / 111.195 };
        Trip { requested_at_ms: (hour * 3_600_000.0) as i64, pickup: place(from), dropoff: place(to) }
    };
    (0..count).map(trip).collect()
}

/// Kilometres from the centre.
fn cities() -> Vec<(&'static str, Vec<Trip>)> {
    let at = |(x, y): (f64, f64), km: f64| (x * km, y * km);
    let by = |(x, y): (f64, f64), (a, b): (f64, f64)| (x + a, y + b);
    let uniform = city(400, 1, |_, [a, b, _]| [at(a, 3.0), at(b, 3.0)]);
    let clustered = city(400, 2, |_, [a, b, c]| [at((a.0 * b.0, a.1 * b.1), 4.0), at((a.0 * c.0, a.1 * c.1), 4.0)]);
    let venue = city(400, 3, |hour, [a, b, c]| {
        let from = if (0.3..0.4).contains(&hour) { at(a, 0.2) } else { at(a, 2.5) };
        [from, if c.0 < 0.0 { at(b, 2.5) } else { by(from, at(b, 1.0)) }]
    });
    let rank = city(400, 4, |_, [a, b, c]| {
        let from = if c.0 < 0.0 { at(a, 0.05) } else { at(a, 1.5) };
        [from, if c.1 < 0.0 { at(b, 0.05) } else { at(b, 1.5) }]
    });
    let two = city(400, 5, |_, [a, b, c]| {
        [by(at(a, 1.0), (c.0.signum() * 2.5, 0.0)), by(at(b, 1.0), (c.1.signum() * 2.5, 0.0))]
    });
    let tide = city(400, 6, |hour, [a, b, c]| {
        let (centre, around) = (at(a, 0.7), at(b, 3.0));
        if (hour < 0.5) == (c.0 < 0.6) { [around, centre] } else { [centre, around] }
    });
    vec![("uniform", uniform), ("clustered", clustered), ("venue", venue), ("rank", rank), ("two", two), ("tide", tide)]
}

/// Fleets from far too few to more than enough. One trip more or less in a busy city changes all that come after it, so that single cases scatter;
/// over them all the means are held to less.
#[test]
fn batched_serves_no_fewer_and_lets_nobody_wait_longer_in_cities_of_many_kinds() {
    let (mut of_shortest, mut of_first, mut served, mut cases) = (0.0, 0.0, 0.0, 0.0);
    for (name, trips) in cities() {
        for (drivers, radius_m) in [20, 60, 120, 250].into_iter().flat_map(|n| [(n, 1_000.0), (n, 3_000.0)]) {
            let trial = Trial { radius_m, radius_max_m: radius_m, ..trial(drivers) };
            let [batched, first_come, shortest] =
                [Policy::Batched, Policy::FirstCome, Policy::ShortestPair].map(|p| evaluate(&trips, &trial, p));
            let ratio = |other: &Outcome| batched.total_wait_s.mean / other.total_wait_s.mean;
            let what = format!("{name}, {drivers} drivers, {radius_m} m:\n{batched:?}\n{first_come:?}\n{shortest:?}");
            assert!(ratio(&shortest) <= 1.05 && ratio(&first_come) <= 1.02, "{what}");
            let most = first_come.match_rate.max(shortest.match_rate);
            assert!(batched.match_rate >= most - 0.04, "{what}");
            of_shortest += ratio(&shortest);
            of_first += ratio(&first_come);
            served += batched.match_rate - shortest.match_rate;
            cases += 1.0;
        }
    }
    let means = [of_shortest / cases, of_first / cases, served / cases];
    assert!(means[0] < 1.0 && means[1] < 0.9 && means[2] > -0.003, "{means:?}");
}

#[test]
fn a_trial_has_the_same_result_again_and_every_passenger_is_accounted_for() {
    let outcome = of(Policy::Batched, 250);
    assert_eq!(outcome, of(Policy::Batched, 250));
    assert_eq!(outcome.requests, 600);
    assert!(outcome.matched <= 600 && outcome.match_rate == outcome.matched as f64 / 600.0);
    assert!(outcome.longest_wait_s <= 300.0 && (0.0..=1.0).contains(&outcome.gini));
    let sum = outcome.match_wait_s.mean + outcome.pickup_eta_s.mean;
    assert!((outcome.total_wait_s.mean - sum).abs() < 1e-6);
}
