//! Points and the distance of their track; and what holds for any track, over random ones that proptest shrinks.

use chrono::{DateTime, Duration, Utc};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use streams::Position;

use super::*;

/// Metres in a degree of the sphere of [`Position::distance_m`], along the equator and along any meridian.
const DEGREE_M: f64 = 6_371_008.8 * std::f64::consts::PI / 180.0;

fn start() -> DateTime<Utc> {
    "2026-03-01T08:00:00Z".parse().unwrap()
}

fn at(second: f64) -> DateTime<Utc> {
    start() + Duration::microseconds((second * 1e6).round() as i64)
}

/// So many metres east and north of a place on the equator.
fn place(east_m: f64, north_m: f64) -> Position {
    Position { lat: north_m / DEGREE_M, lng: 30.0 + east_m / DEGREE_M }
}

/// A point at `second`, of a foreign producer.
fn fix(second: f64, east_m: f64, north_m: f64) -> Point {
    Point {
        device: String::new(),
        ride_device: true,
        device_at: None,
        sent_at: None,
        received_at: at(second),
        recorded_at: at(second),
        position: place(east_m, north_m),
        accuracy_m: None,
        speed_mps: None,
    }
}

/// Of a device of the driver, received at once.
fn of_device(point: Point, device: &str, ride_device: bool) -> Point {
    Point { device: device.to_owned(), ride_device, device_at: Some(point.recorded_at), ..point }
}

/// A drive east with a point each second.
fn east(seconds: std::ops::Range<u32>, mps: f64) -> Vec<Point> {
    seconds.map(|s| fix(f64::from(s), f64::from(s) * mps, 0.0)).collect()
}

/// Points that stay `km` north of the drive.
fn astray(seconds: std::ops::Range<u32>, km: f64) -> Vec<Point> {
    seconds.map(|s| fix(f64::from(s) + 0.5, 0.0, km * 1_000.0)).collect()
}

/// A ride from second 0 to `arrived`, and 1 km to the east by its places.
fn ride(arrived: f64) -> RideTimes {
    let (pickup, dropoff) = (Some(place(0.0, 0.0)), Some(place(1_000.0, 0.0)));
    RideTimes { started_at: start(), arrived_at: Some(at(arrived)), pickup, dropoff }
}

/// The track of a ride under way that begins with the first point.
fn measured(points: impl IntoIterator<Item = Point>) -> TrackSummary {
    let points: Vec<Point> = points.into_iter().collect();
    let started_at = points.iter().map(|point| point.recorded_at).min().unwrap_or(start());
    let ride = RideTimes { started_at, arrived_at: None, pickup: None, dropoff: None };
    measure(&points, &ride, MAX_SPEED_MPS).summary
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
fn the_points_of_a_tablet_and_gps_jumps_are_not_on_the_track() {
    let phone = east(0..61, 15.0).into_iter().map(|point| of_device(point, "phone", true));
    let tablet = astray(0..60, 40.0).into_iter().map(|point| of_device(point, "tablet", false));
    let jump = of_device(fix(30.2, 0.0, 70_000.0), "phone", true);
    let points: Vec<Point> = phone.chain(tablet).chain([jump]).collect();
    let expected: Vec<bool> = (0..points.len()).map(|n| n < 61).collect();
    assert_eq!(on_track(&points, MAX_SPEED_MPS), expected);
    assert_eq!(on_track(&[], MAX_SPEED_MPS), Vec::<bool>::new());
}

#[test]
fn no_point_is_no_distance_and_not_minus_zero() {
    assert_eq!(serde_json::to_string(&measured([]).distance_m).unwrap(), "0.0");
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
    let unsure = Point { accuracy_m: Some(200.1), ..fix(30.5, 450.0, 60.0) };
    let way = measured(east(0..61, 15.0).into_iter().chain([unsure]));
    assert_metres(way, 900.0, 0.1);
    assert_eq!(way.points, 61);
}

/// Corners every `block_m`, a point every `hop_m`.
fn grid(length_m: f64, block_m: f64, hop_m: f64, accuracy_m: f64) -> Vec<Point> {
    let corner = |way: f64| {
        let (block, rest) = ((way / block_m).floor(), way % block_m);
        let (north, east) = (((block + 1.0) / 2.0).floor() * block_m, (block / 2.0).floor() * block_m);
        if block % 2.0 == 0.0 { (east, north + rest) } else { (east + rest, north) }
    };
    let count = (length_m / hop_m) as u32;
    let point = |n: u32| {
        let (east, north) = corner(f64::from(n) * hop_m);
        Point { accuracy_m: Some(accuracy_m), ..fix(f64::from(n), east, north) }
    };
    (0..=count).map(point).collect()
}

fn hops_m(points: &[Point]) -> f64 {
    points.windows(2).map(|w| w[0].position.distance_m(&w[1].position)).sum()
}

#[test]
fn corners_are_not_cut_whatever_accuracy_the_device_states() {
    for (block_m, hop_m) in [(150.0, 14.0), (80.0, 14.0), (100.0, 28.0), (150.0, 56.0), (60.0, 7.0)] {
        for accuracy_m in [0.0, 5.0, 20.0, 50.0] {
            let points = grid(3_000.0, block_m, hop_m, accuracy_m);
            assert_metres(measured(points.clone()), hops_m(&points), 0.01 * hops_m(&points));
        }
    }
}

/// The same values in each run, normally distributed.
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn next(&mut self, deviation: f64) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos() * deviation
    }
}

fn noisy(points: Vec<Point>, noise: &mut Noise, deviation_m: f64) -> Vec<Point> {
    let mut moved = |point: Point| {
        let (lat, lng) = (noise.next(deviation_m) / DEGREE_M, noise.next(deviation_m) / DEGREE_M);
        let position = Position { lat: point.position.lat + lat, lng: point.position.lng + lng };
        Point { position, ..point }
    };
    points.into_iter().map(&mut moved).collect()
}

#[test]
fn noise_as_the_accuracy_says_makes_a_city_of_corners_hardly_longer_or_shorter() {
    for (accuracy_m, hop_m, tolerance) in [(5.0, 14.0, 0.03), (10.0, 14.0, 0.04), (20.0, 14.0, 0.07), (10.0, 7.0, 0.05)]
    {
        for seed in 0..8 {
            // Two in three fixes are within the accuracy.
            let points = noisy(grid(3_000.0, 150.0, hop_m, accuracy_m), &mut Noise(seed), accuracy_m / 1.5);
            let billed = measured(points).distance_m / 3_000.0;
            assert!(
                (billed - 1.0).abs() < tolerance,
                "accuracy {accuracy_m} m, hops of {hop_m} m, seed {seed}: {billed}"
            );
        }
    }
}

#[test]
fn standing_still_for_5_minutes_with_8_m_of_noise_bills_at_most_50_m() {
    for accuracy_m in [None, Some(5.0), Some(8.0), Some(20.0)] {
        for every in [1, 4, 10] {
            for seed in 0..10 {
                let still =
                    (0..300 / every).map(|n| Point { accuracy_m, ..fix(f64::from(n * every), 0.0, 0.0) }).collect();
                let still: Vec<Point> = noisy(still, &mut Noise(seed), 8.0);
                let alone = measured(still.clone()).distance_m;
                assert!(alone <= 50.0, "a point each {every} s, {accuracy_m:?}, seed {seed}: {alone}");
                // Sent ten times as fast.
                let fast = |p: Point| Point { recorded_at: start() + (p.recorded_at - start()) / 10, ..p };
                let alone = measured(still.clone().into_iter().map(fast)).distance_m;
                assert!(alone <= 50.0, "fast, a point each {every} s, {accuracy_m:?}, seed {seed}: {alone}");
                // In the midst of a drive. With a point each 10 s, four of the stand's hops are not distinguished from the drive's.
                let most_m = if every == 10 { 200.0 } else { 80.0 };
                let drive = |from: u32| {
                    let seconds = (from..from + 60 * every).step_by(every as usize);
                    let points = seconds.map(|s| fix(f64::from(s), (f64::from(s) - 600.0) * 14.0, 0.0));
                    noisy(points.collect(), &mut Noise(seed + 100), 3.0)
                };
                let driven = measured(drive(600 - 60 * every)).distance_m + measured(drive(600)).distance_m;
                let later = |p: Point, seconds| Point { recorded_at: p.recorded_at + Duration::seconds(seconds), ..p };
                let still = still.into_iter().map(|p| later(p, 600));
                let after = drive(600).into_iter().map(|p| later(p, 300));
                let all = drive(600 - 60 * every).into_iter().chain(still).chain(after);
                let billed = measured(all).distance_m - driven;
                assert!(
                    (-30.0..=most_m).contains(&billed),
                    "a point each {every} s, {accuracy_m:?}, seed {seed}: {billed}"
                );
            }
        }
    }
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
fn the_way_before_the_first_fix_and_after_the_last_one_is_interpolated() {
    let billed = |points: &[Point], arrived| measure(points, &ride(arrived), 1e6).summary.distance_m;
    // A tracker that reports each 3 s, 1 km apart: at the pickup just before the start.
    let every_3_s =
        |from: f64| -> Vec<Point> { (0..4).map(|n| fix(from + 3.0 * f64::from(n), 1e3 * f64::from(n), 0.0)).collect() };
    let near =
        |metres: f64, billed: f64| assert!((metres - billed).abs() < 0.01 * metres, "{metres} expected: {billed}");
    near(3_000.0, billed(&every_3_s(-0.1), 8.9));
    // It waited there for longer.
    let mut waited = every_3_s(-0.1);
    waited[0].recorded_at = at(-50.0);
    near(3_000.0, billed(&waited, 8.9));
    // Under way at both moments: 500 m of the first kilometre, and 500 m of the last.
    let passing: Vec<Point> = (0..4).map(|n| fix(3.0 * f64::from(n) - 1.5, 1e3 * f64::from(n) - 700.0, 0.0)).collect();
    near(2_000.0, billed(&passing, 6.0));
    // Nothing before and after: from the pickup and to the dropoff, as fast as between.
    let inside: Vec<Point> = (1..10).map(|n| fix(10.0 * f64::from(n), 100.0 * f64::from(n), 0.0)).collect();
    near(1_000.0, billed(&inside, 100.0));
    // A pickup that is too far away is no way that was driven.
    let far: Vec<Point> = (1..10).map(|n| fix(10.0 * f64::from(n), 100.0 * f64::from(n), 9_000.0)).collect();
    near(800.0, billed(&far, 91.0));
    // Nor is a dropoff that lies behind.
    let beyond: Vec<Point> = (0..30).map(|n| fix(10.0 * f64::from(n), 100.0 * f64::from(n), 0.0)).collect();
    near(2_900.0, billed(&beyond, 299.0));
    // Points on the way to the pickup and after the arrival are not billed.
    let long: Vec<Point> = (-60..=160).map(|n| fix(f64::from(n), 10.0 * f64::from(n), 0.0)).collect();
    near(1_000.0, billed(&long, 100.0));
    assert_eq!(measure(&long, &ride(100.0), 70.0).summary.points, 101);
}

#[test]
fn a_clock_that_is_behind_or_ahead_is_paid_like_any_other() {
    for offset in [-20.0, -300.0, 300.0, 45.0] {
        let point = |n: u32| {
            let real = f64::from(n);
            let point = of_device(fix(real + offset, 10.0 * real, 0.0), "phone", true);
            // As users took it before they knew the clock.
            Point { recorded_at: point.recorded_at.min(at(real)), received_at: at(real + 0.05), ..point }
        };
        let points: Vec<Point> = (0..=100).map(point).collect();
        let measured = measure(&points, &ride(101.0), MAX_SPEED_MPS);
        assert!((measured.summary.distance_m - 1_000.0).abs() < 20.0, "{offset}: {measured:?}");
        assert!(measured.covered > 0.95 && measured.is_complete, "{offset}: {measured:?}");
    }
}

#[test]
fn points_of_a_message_that_is_a_little_ahead_stay_apart() {
    let point = |n: u32| {
        let point = of_device(fix(f64::from(n) / 250.0, f64::from(n) * 10.0, 0.0), "phone", true);
        let received_at = at(f64::from(n / 50) / 1_000.0);
        Point { received_at, recorded_at: point.recorded_at.min(received_at), ..point }
    };
    let points: Vec<Point> = (0..=200).map(point).collect();
    let measured = measure(&points, &ride(0.9), 1e6);
    assert_metres(measured.summary, 2_000.0, 20.0);
    assert!(measured.covered > 0.99, "{measured:?}");
}

#[test]
fn a_device_that_did_not_accept_the_ride_counts_where_the_other_is_silent() {
    let phone = |seconds: std::ops::Range<u32>| {
        seconds.map(|s| of_device(fix(f64::from(s), f64::from(s) * 10.0, 0.0), "phone", true)).collect::<Vec<_>>()
    };
    let second = |seconds: std::ops::Range<u32>| {
        // It meets the phone each 20 s, and goes farther between.
        seconds
            .map(|s| {
                let bend = (f64::from(s) * std::f64::consts::PI / 20.0).sin().abs() * 100.0;
                of_device(fix(f64::from(s) + 0.5, f64::from(s) * 10.0, bend), "second", false)
            })
            .collect::<Vec<_>>()
    };
    let tablet = || (0..200).map(|s| of_device(fix(f64::from(s) / 2.0, f64::from(s % 3), 8_000.0), "depot", false));
    let billed = |points: Vec<Point>| measure(&points, &ride(100.0), MAX_SPEED_MPS).summary;
    // The tablet takes nothing away, and adds nothing, also where the phone is silent.
    assert_metres(billed(phone(0..101).into_iter().chain(tablet()).collect()), 1_000.0, 1.0);
    let gap: Vec<Point> = phone(0..20).into_iter().chain(phone(80..101)).collect();
    assert_metres(billed(gap.iter().cloned().chain(tablet()).collect()), 1_000.0, 1.0);
    // The second phone fills the gap; a gap of 30 s is none.
    let short: Vec<Point> = phone(0..40).into_iter().chain(phone(69..101)).collect();
    assert_metres(billed(short.into_iter().chain(second(0..101)).collect()), 1_000.0, 1.0);
    let filled = billed(gap.into_iter().chain(second(0..101)).chain(tablet()).collect());
    assert!(filled.distance_m > 1_200.0, "{filled:?}");
    // While the ride is under way, the second phone does not run ahead of the first one.
    let ahead = second(0..80).into_iter().chain(phone(0..60)).collect::<Vec<_>>();
    let under_way = RideTimes { arrived_at: None, ..ride(100.0) };
    assert_metres(measure(&ahead, &under_way, MAX_SPEED_MPS).summary, 590.0, 1.0);
    // At the begin and at the end as well, and without the phone.
    let late = billed(phone(60..101).into_iter().chain(second(0..101)).collect());
    let early = billed(phone(0..40).into_iter().chain(second(0..101)).collect());
    assert!(late.distance_m > 1_200.0 && early.distance_m > 1_200.0, "{late:?} {early:?}");
    assert!(billed(second(0..101).into_iter().chain(tablet()).collect()).distance_m > 1_300.0);
}

#[test]
fn a_place_repeated_with_new_times_is_no_new_fix() {
    // A receiver that is frozen for 20 s at 14 m/s, and goes on where the car is.
    let frozen = |s: u32| if (40..60).contains(&s) { 40 } else { s };
    let points: Vec<Point> = (0..=100).map(|s| fix(f64::from(s), f64::from(frozen(s)) * 14.0, 0.0)).collect();
    let measured = measure(&points, &ride(100.0), MAX_SPEED_MPS);
    assert_metres(measured.summary, 1_400.0, 1.0);
    assert_eq!(measured.summary.points, 101 - 19);
    // Frozen until the end: most of the ride is not seen.
    let points: Vec<Point> = (0..=100).map(|s| fix(f64::from(s), f64::from(s.min(20)) * 14.0, 0.0)).collect();
    assert!(measure(&points, &ride(100.0), MAX_SPEED_MPS).covered < 0.3);
    // A car that stands, with a device that says so.
    let stands = |s: u32| Point { speed_mps: Some(0.0), ..fix(f64::from(s), 1_000.0, 0.0) };
    let points: Vec<Point> =
        (0..20).map(|s| fix(f64::from(s), f64::from(s) * 50.0, 0.0)).chain((20..=100).map(stands)).collect();
    let measured = measure(&points, &ride(100.0), MAX_SPEED_MPS);
    assert!(measured.covered > 0.99, "{measured:?}");
    assert_metres(measured.summary, 1_000.0, 1.0);
}

#[test]
fn fixes_that_show_too_little_of_the_time_are_distinguished_from_those_that_show_the_way() {
    let covered = |seconds: &mut dyn Iterator<Item = u32>, arrived| {
        let points: Vec<Point> = seconds.map(|s| fix(f64::from(s), f64::from(s) * 14.0, 0.0)).collect();
        measure(&points, &ride(arrived), MAX_SPEED_MPS).covered
    };
    assert!(covered(&mut (0..=600), 600.0) > 0.99);
    assert!(covered(&mut (0..=600).step_by(60), 600.0) > 0.99, "a tracker that reports each minute");
    assert!(covered(&mut (0..=600).filter(|s| s % 60 > 20), 600.0) > 0.99, "tunnels");
    assert!(covered(&mut (0..100), 600.0) < 0.2);
    assert!(covered(&mut (500..600), 600.0) < 0.2);
    assert!(covered(&mut (0..600).filter(|s| *s < 50 || *s > 550), 600.0) < 0.2);
    assert_eq!(covered(&mut (300..301), 600.0), 0.0);
    assert_eq!(covered(&mut (0..0), 600.0), 0.0);
    let coarse: Vec<Point> = (0..100).map(|s| Point { accuracy_m: Some(2e3), ..fix(f64::from(s), 0.0, 0.0) }).collect();
    let measured = measure(&coarse, &ride(100.0), MAX_SPEED_MPS);
    assert_eq!((measured.covered, measured.summary.points, measured.is_complete), (0.0, 0, false));
    // Few gaps, one of which is an outlier: it does not show its own way.
    for (seconds, arrived) in [(vec![0, 1, 2, 3, 4, 165], 170.0), (vec![0, 1, 2, 19], 20.0), (vec![0, 1, 168], 170.0)] {
        assert!(covered(&mut seconds.iter().copied(), arrived) < 0.3, "{seconds:?}");
    }
    assert!(covered(&mut [0, 60, 120].into_iter(), 130.0) > 0.99, "a tracker that reports each minute");
}

#[test]
fn a_track_is_complete_once_the_phone_reaches_the_arrival() {
    let phone = |to: u32| (0..=to).map(|s| of_device(fix(f64::from(s), f64::from(s) * 14.0, 0.0), "phone", true));
    let tablet = (0..200).map(|s| of_device(fix(f64::from(s), f64::from(s % 3), 8_000.0), "depot", false));
    let is_complete = |points: Vec<Point>| measure(&points, &ride(100.0), MAX_SPEED_MPS).is_complete;
    assert!(!is_complete(phone(60).chain(tablet.clone()).collect()), "the tablet does not speak for the phone");
    assert!(is_complete(phone(99).collect()) && is_complete(phone(110).collect()));
    assert!(!is_complete(tablet.take(0).collect()));
    // A phone that was offline sends where it is now first, and then what it held back.
    let now_first =
        |missing: std::ops::Range<u32>| phone(100).enumerate().filter(move |(s, _)| !missing.contains(&(*s as u32)));
    assert!(!is_complete(now_first(11..100).map(|(_, point)| point).collect()), "what it held back is missing");
    assert!(!is_complete(now_first(40..75).map(|(_, point)| point).collect()));
    assert!(
        is_complete(now_first(40..50).map(|(_, point)| point).collect()),
        "as long as between fixes of other phones"
    );
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

fn fixes(hops: &[Hop]) -> Vec<Point> {
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
            Point { accuracy_m: hop.accuracy_m, ..fix(second, east, north) }
        })
        .collect()
}

/// The most that can have been driven between the first and the last of `fixes`.
fn reachable_m(fixes: &[Point]) -> f64 {
    let seconds = (fixes[fixes.len() - 1].recorded_at - fixes[0].recorded_at).as_seconds_f64();
    MAX_SPEED_MPS * seconds + 0.01
}

/// A ride, and its points in any order.
fn shuffled(length: std::ops::Range<usize>) -> impl Strategy<Value = (Vec<Point>, Vec<usize>)> {
    prop::collection::vec(hop(), length).prop_flat_map(|hops| {
        let order: Vec<usize> = (0..hops.len()).collect();
        (Just(fixes(&hops)), Just(order).prop_shuffle())
    })
}

#[test]
fn tracks_do_not_depend_on_order_and_are_no_longer_than_can_be_driven() {
    for (cases, lengths) in [(5_000, 1..16), (60, 300..600)] {
        let driven = std::cell::Cell::new(0);
        check(cases, 4, shuffled(lengths), |(fixes, order)| {
            let summary = measured(order.iter().map(|index| fixes[*index].clone()));
            assert_eq!(summary, measured(fixes.iter().cloned()));
            assert!((0.0..=reachable_m(&fixes)).contains(&summary.distance_m));
            assert!(summary.points <= fixes.len() as u64);
            let (first, last) = (fixes[0].recorded_at, fixes[fixes.len() - 1].recorded_at);
            assert!(summary.last.is_none_or(|at| (first..=last).contains(&at.recorded_at)));
            driven.set(driven.get() + u32::from(summary.distance_m > 0.0));
        });
        assert!(driven.get() > cases / 2, "most tracks have no distance, and say nothing: {}", driven.get());
    }
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
    fn standing_still_for_hours_is_billed() {
        // A phone under open sky, and phones that say how unsure they are.
        for (deviation_m, accuracy_m) in [(3.0, None), (8.0, Some(20.0)), (20.0, Some(40.0))] {
            for seconds in [60, 36_000] {
                let still = (0..seconds).map(|second| Point { accuracy_m, ..fix(f64::from(second), 0.0, 0.0) });
                let distance_m = measured(noisy(still.collect(), &mut Noise(9), deviation_m)).distance_m;
                assert!(distance_m <= 100.0, "{seconds} s with {deviation_m} m: {distance_m} m");
            }
        }
    }
}
