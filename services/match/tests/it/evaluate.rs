//! `evaluate` on a made-up city: `batched` against the two others, the same result every time, drivers who say no or nothing, and what could have
//! been reached at best.

use chrono::Duration;
use matching::Policy;
use matching::evaluate::{Answers, DETOUR, Outcome, Trial, Trip, beginnings, evaluate};
use matching::optimum::{TRIPS_MAX, optimum};
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
        answers: Answers::default(),
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
            assert!(ratio(&shortest) <= 1.05 && ratio(&first_come) <= 1.05, "{what}");
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

/// A gap of the demand costs no time of the program, however long it is: with a step a minute this test would not end.
#[test]
fn a_gap_of_two_thousand_years_is_a_gap_of_a_day() {
    let with_gap = |days: i64| {
        let mut trips = trips(40);
        trips[20..].iter_mut().for_each(|trip| trip.requested_at_ms += days * 86_400_000);
        // Before 1970, too.
        trips.iter_mut().for_each(|trip| trip.requested_at_ms -= 62_135_596_800_000);
        evaluate(&trips, &trial(10), Policy::Batched)
    };
    assert_eq!(with_gap(735_000), with_gap(1));
}

fn answered(answers: Answers, seed: u64) -> Outcome {
    evaluate(&trips(120), &Trial { answers, seed, ..trial(200) }, Policy::Batched)
}

#[test]
fn drivers_decline_and_miss_as_often_as_the_trial_says_and_always_the_same_offers() {
    let accepting = answered(Answers::default(), 1);
    let rates = [0.0, 0.3, 0.6];
    for of in [
        |rate| Answers { decline_rate: rate, miss_rate: 0.0 },
        |rate| Answers { decline_rate: 0.0, miss_rate: rate },
        |rate| Answers { decline_rate: rate / 2.0, miss_rate: rate / 2.0 },
    ] {
        let outcomes = rates.map(|rate| answered(of(rate), 1));
        assert_eq!(outcomes[0], accepting);
        assert_eq!(outcomes[2], answered(of(0.6), 1));
        assert_ne!(outcomes[2], answered(of(0.6), 2));
        for pair in outcomes.windows(2) {
            assert!(pair[1].match_wait_s.mean > pair[0].match_wait_s.mean, "{pair:?}");
        }
        assert!(outcomes[2].matched > 100 && outcomes[2].longest_wait_s <= 300.0, "{outcomes:?}");
    }
    // After 3 s the next one is asked, after an expired offer some 15 s.
    let [declined, missed] = [(0.5, 0.0), (0.0, 0.5)].map(|(decline_rate, miss_rate)| {
        answered(Answers { decline_rate, miss_rate }, 1).match_wait_s.mean - accepting.match_wait_s.mean
    });
    assert!(declined > 1.0 && missed > 2.0 * declined, "{declined} {missed}");
}

/// With nobody matched every figure is zero, and none is the zero below it.
#[test]
fn where_nobody_accepts_nobody_is_matched() {
    for answers in [Answers { decline_rate: 1.0, miss_rate: 0.0 }, Answers { decline_rate: 0.0, miss_rate: 1.0 }] {
        let trial = Trial { answers, ..trial(3) };
        let outcome = evaluate(&trips(6), &trial, Policy::Batched);
        assert_eq!((outcome.matched, outcome.longest_wait_s), (0, 300.0));
        let Outcome { pickup_eta_s: eta, match_wait_s: wait, total_wait_s: total, empty_km, gini, .. } = outcome;
        for zero in [eta, wait, total].map(|s| [s.mean, s.p50, s.p95]).as_flattened().iter().chain(&[empty_km, gini]) {
            assert_eq!(zero.to_bits(), 0.0_f64.to_bits(), "{zero}");
        }
    }
}

/// A few trips, with so much time between them that a driver serves several.
fn few(count: u32, seed: u32) -> Vec<Trip> {
    let all = trips(count + seed * 7);
    let some = all[(seed * 7) as usize..].iter().zip(0_i64..);
    some.map(|(trip, n)| Trip { requested_at_ms: n * 97_000, ..*trip }).collect()
}

fn small(drivers: u32, seed: u32) -> Trial {
    let (radius_m, radius_max_m) = if seed.is_multiple_of(2) { (3_000.0, 3_000.0) } else { (1_500.0, 4_000.0) };
    Trial { radius_m, radius_max_m, patience_s: 400, seed: seed.into(), ..trial(drivers) }
}

#[test]
fn no_policy_is_better_than_the_optimum_and_most_are_worse() {
    let mut better = 0;
    for seed in 0..8 {
        for drivers in [1, 2, 4] {
            let (trips, trial) = (few(6, seed), small(drivers, seed));
            let best = optimum(&trips, &trial).unwrap();
            assert_eq!((best.policy, best.requests), ("optimum", 6));
            for policy in Policy::ALL {
                let tried = evaluate(&trips, &trial, policy);
                assert!(best.matched >= tried.matched, "{best:?}\n{tried:?}");
                if best.matched == tried.matched {
                    assert!(best.total_wait_s.mean <= tried.total_wait_s.mean + 1e-6, "{best:?}\n{tried:?}");
                }
                better +=
                    u32::from(best.matched > tried.matched || best.total_wait_s.mean < tried.total_wait_s.mean - 1.0);
            }
        }
    }
    assert!(better > 20, "{better} of 72");
}

/// Every way in which drivers can serve trips, one trip after the other: the most passengers, and the least total wait (s) of all of them.
fn brute_force(trips: &[Trip], trial: &Trial, drivers: &mut [(Position, f64)], open: &[usize]) -> (usize, f64) {
    let mut best = (0, 0.0);
    for &n in open {
        let trip = &trips[n];
        let rest: Vec<usize> = open.iter().copied().filter(|other| *other != n).collect();
        for d in 0..drivers.len() {
            let (place, free_at) = drivers[d];
            let (away_m, asked_at, patience) =
                (place.distance_m(&trip.pickup), trip.requested_at_ms as f64 / 1e3, f64::from(trial.patience_s));
            // When the radius reaches the driver, tried second by second.
            let radius_m = |age: f64| {
                trial.radius_m + (trial.radius_max_m - trial.radius_m) * (age / patience * 3.0 - 1.0).clamp(0.0, 1.0)
            };
            let earliest = (free_at - asked_at).max(0.0);
            let steps = (0..=(patience as u32) * 10).map(|tenth| f64::from(tenth) / 10.0);
            let ages = std::iter::once(earliest).chain(steps.filter(|age| *age > earliest));
            let Some(age) = ages.into_iter().find(|age| *age <= patience && away_m <= radius_m(*age)) else { continue };
            let seconds = |from: &Position, to: &Position| from.distance_m(to) * DETOUR / trial.speed_mps;
            let (eta_s, trip_s) = (seconds(&place, &trip.pickup), seconds(&trip.pickup, &trip.dropoff));
            let before = std::mem::replace(&mut drivers[d], (trip.dropoff, asked_at + age + eta_s + trip_s));
            let (matched, total) = brute_force(trips, trial, drivers, &rest);
            drivers[d] = before;
            let (matched, total) = (matched + 1, total + age + eta_s);
            if matched > best.0 || matched == best.0 && total < best.1 {
                best = (matched, total);
            }
        }
    }
    best
}

#[test]
fn the_optimum_is_what_trying_everything_finds() {
    for seed in 0..12 {
        let trips = few(4, seed);
        for drivers in 1..=2 {
            let trial = small(drivers, seed);
            let best = optimum(&trips, &trial).unwrap();
            let mut drivers: Vec<_> = beginnings(&trips, &trial).map(|place| (place, f64::MIN)).collect();
            let (matched, least_s) = brute_force(&trips, &trial, &mut drivers, &[0, 1, 2, 3]);
            let total_s = best.total_wait_s.mean * best.matched as f64;
            assert!(matched == best.matched && (total_s - least_s).abs() < 0.5, "{best:?}: {matched}, {least_s}");
        }
    }
}

#[test]
fn the_optimum_is_of_small_cases_and_a_large_fleet_is_none() {
    assert!(optimum(&trips(TRIPS_MAX as u32 + 1), &trial(3)).is_none());
    let trips = few(5, 1);
    let best = optimum(&trips, &small(10_000, 1)).unwrap();
    assert_eq!((best.matched, best.match_rate), (5, 1.0));
    let none = optimum(&trips, &Trial { radius_m: 0.001, radius_max_m: 0.001, ..small(2, 1) }).unwrap();
    assert_eq!((none.matched, none.longest_wait_s, none.total_wait_s.mean.to_bits()), (0, 400.0, 0));
}
