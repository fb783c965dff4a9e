//! Tables of points and the distance of their track; and what holds for any track, over random ones that proptest shrinks.

use chrono::Duration;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use super::*;

/// Metres in a degree of the sphere of [`Position::distance_m`], along the equator and along any meridian.
const DEGREE_M: f64 = 6_371_008.8 * std::f64::consts::PI / 180.0;

/// A fix at `second`, so many metres east and north of a place on the equator.
fn fix(second: f64, east_m: f64, north_m: f64) -> Fix {
    let start: DateTime<Utc> = "2026-03-01T08:00:00Z".parse().unwrap();
    let position = Position { lat: north_m / DEGREE_M, lng: 30.0 + east_m / DEGREE_M };
    Fix { recorded_at: start + Duration::microseconds((second * 1e6) as i64), position, accuracy_m: None }
}

/// A drive east with a point each second.
fn east(seconds: std::ops::Range<u32>, mps: f64) -> Vec<Fix> {
    seconds.map(|s| fix(f64::from(s), f64::from(s) * mps, 0.0)).collect()
}

/// Points that stay `km` north of the drive.
fn astray(seconds: std::ops::Range<u32>, km: f64) -> Vec<Fix> {
    seconds.map(|s| fix(f64::from(s) + 0.5, 0.0, km * 1_000.0)).collect()
}

/// The track of a set of points in one pass, without what [`Track`] does for late points.
fn measure(fixes: &BTreeMap<DateTime<Utc>, Fix>) -> TrackSummary {
    let mut lines = Lines::default();
    fixes.values().for_each(|fix| lines.step(fix, MAX_SPEED_MPS));
    lines.summary()
}

fn measured(fixes: impl IntoIterator<Item = Fix>) -> TrackSummary {
    measure(&fixes.into_iter().map(|fix| (fix.recorded_at, fix)).collect())
}

#[track_caller]
fn assert_metres(summary: TrackSummary, metres: f64, tolerance_m: f64) {
    assert!((summary.distance_m - metres).abs() <= tolerance_m, "{metres} ± {tolerance_m} expected: {summary:?}");
}

#[test]
fn a_straight_drive_is_exact_and_one_point_has_no_distance() {
    assert_eq!(measured([]), TrackSummary::default());
    let one = measured([fix(0.0, 5.0, 5.0)]);
    assert_eq!((one.distance_m, one.points), (0.0, 1));
    assert_eq!(one.last.unwrap().recorded_at, fix(0.0, 0.0, 0.0).recorded_at);
    let way = measured(east(0..101, 15.0));
    assert_metres(way, 1_500.0, 0.1);
    assert_eq!(way.points, 101);
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
fn a_position_frozen_for_long_costs_no_more_than_the_gap() {
    // For longer than there are candidates: 20 s frozen 50 km away, then the true place again.
    let mut fixes = east(0..61, 15.0);
    fixes.extend(astray(60..80, 50.0));
    fixes.extend(east(80..200, 15.0));
    assert_metres(measured(fixes), 199.0 * 15.0, 20.0 * 15.0 + 0.1);
}

#[test]
fn a_point_beyond_the_maximum_speed_is_a_jump() {
    assert_eq!(measured(east(0..11, 69.9)).points, 11);
    let too_fast = measured([fix(0.0, 0.0, 0.0), fix(1.0, 70.1, 0.0)]);
    assert_eq!((too_fast.distance_m, too_fast.points), (0.0, 1));
}

#[test]
fn a_point_with_200_m_of_uncertainty_is_ignored() {
    let unsure = Fix { accuracy_m: Some(200.1), ..fix(30.5, 450.0, 60.0) };
    let way = measured(east(0..61, 15.0).into_iter().chain([unsure]));
    assert_metres(way, 900.0, 0.1);
    assert_eq!(way.points, 61);
}

#[test]
fn a_corner_is_cut_by_the_tractrix_of_the_leash() {
    let north = (1..1_001).map(|s| fix(1_000.0 + f64::from(s), 1_000.0, f64::from(s)));
    let cut_m = MIN_SLACK_M * std::f64::consts::LN_2;
    assert_metres(measured(east(0..1_001, 1.0).into_iter().chain(north)), 2_000.0 - cut_m, 0.5);
}

#[test]
fn a_drive_across_the_antimeridian_is_exact() {
    let way = east(0..101, 15.0).into_iter().map(|mut fix| {
        let lng = fix.position.lng + 150.0 - 750.0 / DEGREE_M;
        fix.position.lng = if lng > 180.0 { lng - 360.0 } else { lng };
        fix
    });
    assert_metres(measured(way), 1_500.0, 0.1);
}

#[test]
fn of_two_points_with_one_time_the_first_counts() {
    let mut track = Track::new(MAX_SPEED_MPS);
    for fix in east(0..11, 15.0) {
        assert!(track.add(fix));
    }
    assert!(!track.add(fix(5.0, 80.0, 40.0)));
    assert_metres(track.summary(), 150.0, 0.01);
}

fn check<S: Strategy>(cases: u32, seed: u64, strategy: S, test: impl Fn(S::Value)) {
    let config = ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 1_000_000,
        max_shrink_time: 30_000,
        ..ProptestConfig::default()
    };
    let result = TestRunner::new(config).run(&strategy, |value| {
        test(value);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

/// What a bad device does between two points.
#[derive(Debug, Clone, Copy)]
struct Hop {
    seconds: f64,
    east_mps: f64,
    north_mps: f64,
    noise_east_m: f64,
    noise_north_m: f64,
    glitch: Glitch,
    accuracy_m: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
enum Glitch {
    None,
    /// For one point.
    FarEast,
    FarNorth,
    /// For good.
    JumpEast,
    JumpNorth,
}

fn hop() -> impl Strategy<Value = Hop> {
    let seconds = prop_oneof![49 => 0.2..2.0, 1 => Just(400.0)];
    let glitch = prop_oneof![
        36 => Just(Glitch::None),
        2 => Just(Glitch::FarEast),
        1 => Just(Glitch::FarNorth),
        1 => Just(Glitch::JumpEast),
        1 => Just(Glitch::JumpNorth),
    ];
    let accuracy_m = prop::sample::select(vec![None, Some(5.0), Some(30.0), Some(150.0), Some(500.0)]);
    (seconds, -10.0..25.0, -10.0..10.0, -8.0..8.0, -8.0..8.0, glitch, accuracy_m).prop_map(
        |(seconds, east_mps, north_mps, noise_east_m, noise_north_m, glitch, accuracy_m)| Hop {
            seconds,
            east_mps,
            north_mps,
            noise_east_m,
            noise_north_m,
            glitch,
            accuracy_m,
        },
    )
}

fn fixes(hops: &[Hop]) -> Vec<Fix> {
    let (mut second, mut east_m, mut north_m) = (0.0, 0.0, 0.0);
    hops.iter()
        .map(|hop| {
            second += hop.seconds;
            east_m += hop.east_mps * hop.seconds.min(20.0);
            north_m += hop.north_mps * hop.seconds.min(20.0);
            let (mut east, mut north) = (east_m + hop.noise_east_m, north_m + hop.noise_north_m);
            match hop.glitch {
                Glitch::None => {}
                Glitch::FarEast => east += 100_000.0,
                Glitch::FarNorth => north -= 3_000.0,
                Glitch::JumpEast => east_m += 5_000.0,
                Glitch::JumpNorth => north_m += 20_000.0,
            }
            Fix { accuracy_m: hop.accuracy_m, ..fix(second, east, north) }
        })
        .collect()
}

/// The most that can have been driven between the first and the last of `fixes`.
fn reachable_m(fixes: &[Fix]) -> f64 {
    let seconds = (fixes[fixes.len() - 1].recorded_at - fixes[0].recorded_at).as_seconds_f64();
    MAX_SPEED_MPS * seconds + 0.01
}

/// Points of a ride of one of these lengths, and the order in which they arrive: a fifth of them twice, each at most so many
/// places late. With each the choice whether to ask for the summary then.
fn late_arrivals() -> impl Strategy<Value = (Vec<Fix>, Vec<(usize, bool)>)> {
    let length = prop::sample::select(vec![3, 20, CHECKPOINT_EVERY, 600]);
    (length, 0..3_usize).prop_flat_map(|(length, disorder)| {
        let lateness_max = [0, 5, length][disorder];
        let indices: Vec<usize> = (0..length).chain((0..length / 5).map(|i| i * 3 % length)).collect();
        let lateness = prop::collection::vec((0..=lateness_max, prop::bool::weighted(0.05)), indices.len());
        (prop::collection::vec(hop(), length), lateness).prop_map(move |(hops, lateness)| {
            let mut order: Vec<(usize, usize, bool)> =
                lateness.iter().enumerate().map(|(n, (late, ask))| (n + late, indices[n], *ask)).collect();
            order.sort_by_key(|(place, ..)| *place);
            (fixes(&hops), order.into_iter().map(|(_, index, ask)| (index, ask)).collect())
        })
    })
}

#[test]
fn order_and_repeats_change_nothing_and_adding_one_by_one_is_as_good_as_one_pass() {
    check(120, 2, late_arrivals(), |(fixes, order)| {
        let (mut track, mut so_far) = (Track::new(MAX_SPEED_MPS), BTreeMap::new());
        for (index, ask) in order {
            let fix = fixes[index];
            assert_eq!(track.add(fix), so_far.insert(fix.recorded_at, fix).is_none());
            if ask {
                assert_eq!(track.summary(), measure(&so_far));
            }
        }
        assert_eq!(track.summary(), measured(fixes.iter().copied()));
        assert_eq!(track.fixes.len(), fixes.len());
    });
}

/// A short ride, and its points in any order, every third twice.
fn shuffled() -> impl Strategy<Value = (Vec<Fix>, Vec<usize>)> {
    prop::collection::vec(hop(), 1..16).prop_flat_map(|hops| {
        let order: Vec<usize> = (0..hops.len()).chain((0..hops.len()).step_by(3)).collect();
        (Just(fixes(&hops)), Just(order).prop_shuffle())
    })
}

#[test]
fn ten_thousand_short_tracks_do_not_depend_on_order_and_are_no_longer_than_can_be_driven() {
    let driven = std::cell::Cell::new(0);
    check(10_000, 4, shuffled(), |(fixes, order)| {
        let mut track = Track::new(MAX_SPEED_MPS);
        for index in order {
            track.add(fixes[index]);
        }
        let summary = track.summary();
        assert_eq!(summary, measured(fixes.iter().copied()));
        assert!((0.0..=reachable_m(&fixes)).contains(&summary.distance_m));
        assert!(summary.points <= fixes.len() as u64);
        let (first, last) = (fixes[0].recorded_at, fixes[fixes.len() - 1].recorded_at);
        assert!(summary.last.is_none_or(|at| (first..=last).contains(&at.recorded_at)));
        driven.set(driven.get() + u32::from(summary.distance_m > 0.0));
    });
    assert!(driven.get() > 5_000, "most tracks have no distance, and say nothing: {}", driven.get());
}

mod never {
    use super::*;

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
    fn more_is_billed_than_the_maximum_speed_allows() {
        check(100, 3, prop::collection::vec(hop(), 300), |hops| {
            let fixes = fixes(&hops);
            let summary = measured(fixes.iter().copied());
            assert!(summary.distance_m <= reachable_m(&fixes), "{summary:?}");
        });
    }

    #[test]
    fn standing_still_is_billed_beyond_the_slack() {
        let noise = prop::collection::vec((0.0..std::f64::consts::TAU, 0.0..1.0), 36_000);
        check(2, 1, noise, |noise| {
            // A phone under open sky, and phones that say how unsure they are.
            for (spread_m, accuracy_m) in [(4.9, None), (20.0, Some(40.0)), (50.0, Some(120.0))] {
                for seconds in [60, 36_000] {
                    let fixes = noise[..seconds].iter().enumerate().map(|(second, (angle, away))| {
                        let (east_m, north_m) = (spread_m * away * angle.cos(), spread_m * away * angle.sin());
                        Fix { accuracy_m, ..fix(second as f64, east_m, north_m) }
                    });
                    let distance_m = measured(fixes).distance_m;
                    assert!(distance_m <= slack_m(accuracy_m), "{seconds} s within {spread_m} m: {distance_m} m");
                }
            }
        });
    }
}
