//! Tables of tracks in, distances out; and what must hold for any track, over random ones.

use chrono::Duration;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// Metres in a degree of the sphere of [`Position::distance_m`], along the equator and along any meridian.
const DEGREE_M: f64 = 6_371_008.8 * std::f64::consts::PI / 180.0;

/// A fix at `second`, so many metres east and north of a place on the equator.
fn fix(second: f64, east_m: f64, north_m: f64) -> Fix {
    let start: DateTime<Utc> = "2026-03-01T08:00:00Z".parse().unwrap();
    let position = Position { lat: north_m / DEGREE_M, lng: 30.0 + east_m / DEGREE_M };
    Fix { recorded_at: start + Duration::microseconds((second * 1e6) as i64), position, accuracy_m: None }
}

/// A way east, a point a second.
fn east(seconds: std::ops::Range<u32>, mps: f64) -> Vec<Fix> {
    seconds.map(|s| fix(f64::from(s), f64::from(s) * mps, 0.0)).collect()
}

/// Points that stay `km` north of the way.
fn astray(seconds: std::ops::Range<u32>, km: f64) -> Vec<Fix> {
    seconds.map(|s| fix(f64::from(s) + 0.5, 0.0, km * 1_000.0)).collect()
}

fn measured(fixes: impl IntoIterator<Item = Fix>) -> Summary {
    let by_time: BTreeMap<_, _> = fixes.into_iter().map(|fix| (fix.recorded_at, fix)).collect();
    measure(&by_time, MAX_SPEED_MPS)
}

#[track_caller]
fn assert_metres(summary: Summary, metres: f64, tolerance_m: f64) {
    assert!((summary.distance_m - metres).abs() <= tolerance_m, "{metres} ± {tolerance_m} expected: {summary:?}");
}

#[test]
fn nothing_one_point_and_a_straight_way() {
    assert_eq!(measured([]), Summary::default());
    let one = measured([fix(0.0, 5.0, 5.0)]);
    assert_eq!((one.distance_m, one.points), (0.0, 1));
    assert_eq!(one.last.unwrap().recorded_at, fix(0.0, 0.0, 0.0).recorded_at);
    let way = measured(east(0..101, 15.0));
    assert_metres(way, 1_500.0, 0.1);
    assert_eq!(way.points, 101);
}

#[test]
fn many_short_hops_bill_nothing() {
    for hop_m in [0.1, 0.5, 1.0, 3.0, 9.0] {
        assert_metres(measured(east(0..1_001, hop_m)), 1_000.0 * hop_m, 0.1);
    }
}

#[test]
fn a_noisy_gps_point_of_100_km_is_billed() {
    let way = || east(0..61, 15.0);
    // In the middle, as the first, as the last, and several in a row, agreeing with each other or not.
    for bad in [astray(30..31, 100.0), astray(60..61, 100.0), astray(30..32, 100.0), astray(20..27, 100.0)] {
        assert_metres(measured(way().into_iter().chain(bad)), 900.0, 0.1);
    }
    let first = measured(std::iter::once(fix(-0.5, 0.0, 100_000.0)).chain(way()));
    assert_metres(first, 900.0, 0.1);
    assert_eq!(first.points, 61, "nor does it count as a point");
    let scattered = (20..40).map(|s| fix(f64::from(s) + 0.5, 0.0, 1e5 * f64::from(s)));
    assert_metres(measured(way().into_iter().chain(scattered)), 900.0, 0.1);
    let every_other = (0..60).map(|s| fix(f64::from(s) + 0.5, 0.0, 1e5 + 2e4 * f64::from(s % 7)));
    assert_metres(measured(way().into_iter().chain(every_other)), 900.0, 0.1);
}

#[test]
fn a_bad_point_that_a_long_silence_made_possible_is_left_out() {
    // 100 km in half an hour are possible; back in a second they are not.
    let after =
        |from: u32, count: u32| (0..count).map(move |s| fix(f64::from(from + s), 900.0 + f64::from(s) * 15.0, 0.0));
    for good_after in [1, 2, 30] {
        let mut fixes = east(0..61, 15.0);
        fixes.push(fix(1_860.0, 900.0, 100_000.0));
        fixes.extend(after(1_861, good_after));
        assert_metres(measured(fixes), 900.0 + f64::from(good_after - 1) * 15.0, 0.1);
    }
}

#[test]
fn a_tunnel_counts_as_the_straight_line() {
    let out = (0..61).map(|s| fix(360.0 + f64::from(s), 6_900.0 + f64::from(s) * 15.0, 0.0));
    let way = measured(east(0..61, 15.0).into_iter().chain(out));
    assert_metres(way, 7_800.0, 0.1);
    assert_eq!(way.points, 122);
}

#[test]
fn a_device_that_jumps_for_good_goes_on_without_the_leap() {
    let elsewhere = (61..121).map(|s| fix(f64::from(s), f64::from(s - 61) * 15.0, 100_000.0));
    let way = measured(east(0..61, 15.0).into_iter().chain(elsewhere));
    // A degree of longitude is a little shorter there.
    assert_metres(way, 900.0 + 885.0, 0.2);
    assert_eq!(way.points, 121);
}

#[test]
fn a_position_frozen_for_long_costs_no_more_than_its_seam() {
    // Longer than what is looked back on: 20 s frozen 50 km away, then the true place again.
    let mut fixes = east(0..61, 15.0);
    fixes.extend(astray(60..80, 50.0));
    fixes.extend(east(80..200, 15.0));
    assert_metres(measured(fixes), 199.0 * 15.0, 20.0 * 15.0 + 0.1);
}

#[test]
fn the_maximum_speed_is_the_edge() {
    assert_eq!(measured(east(0..11, 69.9)).points, 11);
    let too_fast = measured([fix(0.0, 0.0, 0.0), fix(1.0, 70.1, 0.0)]);
    assert_eq!((too_fast.distance_m, too_fast.points), (0.0, 1));
}

#[test]
fn a_point_that_knows_nothing_is_ignored() {
    let unsure = Fix { accuracy_m: Some(200.1), ..fix(30.5, 450.0, 60.0) };
    let way = measured(east(0..61, 15.0).into_iter().chain([unsure]));
    assert_metres(way, 900.0, 0.1);
    assert_eq!(way.points, 61);
}

#[test]
fn standing_still_adds_nothing_however_long() {
    let mut random = StdRng::seed_from_u64(1);
    let mut noise = |seconds: u32, spread_m: f64, accuracy_m: Option<f64>| {
        let fixes: Vec<Fix> = (0..seconds)
            .map(|s| {
                let (angle, away) =
                    (random.random_range(0.0..std::f64::consts::TAU), random.random_range(0.0..spread_m));
                Fix { accuracy_m, ..fix(f64::from(s), away * angle.cos(), away * angle.sin()) }
            })
            .collect();
        measured(fixes).distance_m
    };
    // What a phone under open sky does, and one that knows of its own doubt.
    for (spread_m, accuracy_m) in [(4.9, None), (20.0, Some(40.0)), (50.0, Some(120.0))] {
        for seconds in [60, 36_000] {
            let distance_m = noise(seconds, spread_m, accuracy_m);
            assert!(distance_m <= slack_m(accuracy_m), "{seconds} s within {spread_m} m: {distance_m} m");
        }
    }
}

#[test]
fn a_corner_is_cut_by_the_tractrix_of_the_leash() {
    let north = (1..1_001).map(|s| fix(1_000.0 + f64::from(s), 1_000.0, f64::from(s)));
    let cut_m = MIN_SLACK_M * std::f64::consts::LN_2;
    assert_metres(measured(east(0..1_001, 1.0).into_iter().chain(north)), 2_000.0 - cut_m, 0.5);
}

#[test]
fn the_antimeridian_is_no_edge() {
    let way = east(0..101, 15.0).into_iter().map(|mut fix| {
        let lng = fix.position.lng + 150.0 - 750.0 / DEGREE_M;
        fix.position.lng = if lng > 180.0 { lng - 360.0 } else { lng };
        fix
    });
    assert_metres(measured(way), 1_500.0, 0.1);
}

/// A ride as a bad device tells it: a random way, noise, silences, jumps for a moment and for good, doubt.
fn bad_device(random: &mut StdRng, points: usize) -> Vec<Fix> {
    let (mut second, mut east_m, mut north_m) = (0.0, 0.0, 0.0);
    (0..points)
        .map(|_| {
            let dt: f64 = if random.random_range(0..50) == 0 { 400.0 } else { random.random_range(0.2..2.0) };
            second += dt;
            east_m += random.random_range(-10.0..25.0) * dt.min(20.0);
            north_m += random.random_range(-10.0..10.0) * dt.min(20.0);
            let (mut e, mut n) = (east_m + random.random_range(-8.0..8.0), north_m + random.random_range(-8.0..8.0));
            match random.random_range(0..40) {
                0 | 1 => e += 100_000.0,
                2 => n -= 3_000.0,
                3 => east_m += 5_000.0,
                _ => {}
            }
            if random.random_range(0..200) == 0 {
                n += 1.0;
                north_m += 20_000.0;
            }
            let accuracy_m = [None, Some(5.0), Some(30.0), Some(150.0), Some(500.0)][random.random_range(0..5)];
            Fix { accuracy_m, ..fix(second, e, n) }
        })
        .collect()
}

#[test]
fn order_and_repeats_change_nothing_and_adding_is_as_good_as_beginning_anew() {
    let mut random = StdRng::seed_from_u64(2);
    for round in 0..40 {
        let points = [3, 20, CHECKPOINT_EVERY, 600][round % 4];
        let fixes = bad_device(&mut random, points);
        let expected = measured(fixes.clone());
        for disorder in [0, 5, points] {
            let mut order: Vec<usize> = (0..points).chain((0..points / 5).map(|i| i * 3 % points)).collect();
            for i in 0..order.len() {
                let far = i.saturating_add(disorder).min(order.len() - 1);
                order.swap(i, random.random_range(i..=far));
            }
            let (mut track, mut so_far) = (Track::new(MAX_SPEED_MPS), BTreeMap::new());
            for i in order {
                let fix = fixes[i];
                assert_eq!(track.add(fix), so_far.insert(fix.recorded_at, fix).is_none());
                if random.random_range(0..20) == 0 {
                    assert_eq!(track.summary(), measure(&so_far, MAX_SPEED_MPS));
                }
            }
            assert_eq!(track.summary(), expected, "round {round}, disorder {disorder}");
            assert_eq!(track.len(), points);
        }
    }
}

#[test]
fn ten_thousand_short_tracks_do_not_depend_on_order_and_pay_for_no_more_than_can_be_driven() {
    let mut random = StdRng::seed_from_u64(4);
    let mut driven = 0;
    for case in 0..10_000 {
        let points = random.random_range(1..16);
        let fixes = bad_device(&mut random, points);
        let expected = measured(fixes.clone());
        let mut track = Track::new(MAX_SPEED_MPS);
        // Every point, some of them twice, in any order; the last ones late.
        let mut order: Vec<usize> = (0..points).chain((0..points).filter(|i| i % 3 == 0)).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, random.random_range(0..=i));
        }
        for i in order {
            track.add(fixes[i]);
        }
        assert_eq!(track.summary(), expected, "case {case}");
        let (first, last) = (fixes[0].recorded_at, fixes[points - 1].recorded_at);
        let most = MAX_SPEED_MPS * (last - first).as_seconds_f64() + 0.01;
        assert!(expected.distance_m <= most, "case {case}: {expected:?} of at most {most} m");
        assert!(expected.points <= points as u64 && expected.distance_m >= 0.0, "case {case}: {expected:?}");
        assert!(expected.last.is_none_or(|at| first <= at.recorded_at && at.recorded_at <= last), "case {case}");
        driven += usize::from(expected.distance_m > 0.0);
    }
    assert!(driven > 5_000, "{driven}");
}

#[test]
fn nobody_pays_for_more_than_the_maximum_speed_allows() {
    let mut random = StdRng::seed_from_u64(3);
    for _ in 0..100 {
        let fixes = bad_device(&mut random, 300);
        let seconds = (fixes[299].recorded_at - fixes[0].recorded_at).as_seconds_f64();
        let summary = measured(fixes);
        assert!(summary.distance_m <= MAX_SPEED_MPS * seconds + 0.01, "{summary:?} in {seconds} s");
    }
}

#[test]
fn of_two_points_with_one_time_the_first_is_kept() {
    let mut track = Track::new(MAX_SPEED_MPS);
    for fix in east(0..11, 15.0) {
        assert!(track.add(fix));
    }
    assert!(!track.add(fix(5.0, 80.0, 40.0)));
    assert_metres(track.summary(), 150.0, 0.01);
}
