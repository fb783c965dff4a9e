//! How right the billed distance is: on real tracks, and on made ones with noise as the accuracy says.
//!
//! `cargo run --release -p location --example track_accuracy -- FILE.csv …` reads tracks with the columns `recorded_at,lat,lng,occupied`
//! and splits them into rides where `occupied` changes. The reference of a real ride is the sum of the hops of its fixes, without those
//! that would need more than [`MAX_SPEED_MPS`]. Without files, only the made tracks are measured.

use std::process::ExitCode;

use chrono::{DateTime, Duration, Utc};
use location::track::{MAX_SPEED_MPS, Point, RideTimes, measure};
use streams::Position;

/// Shorter rides are a taximeter left on: a few metres of noise.
const RIDE_MIN_M: f64 = 600.0;
const DEGREE_M: f64 = 6_371_008.8 * std::f64::consts::PI / 180.0;
/// The most fixes in a row that the reference leaves out.
const LEFT_OUT_MAX: usize = 7;
const SEEDS: u64 = 20;

fn main() -> ExitCode {
    let mut rides = Vec::new();
    for path in std::env::args().skip(1) {
        match std::fs::read_to_string(&path) {
            Ok(text) => rides.extend(read_rides(&text)),
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{:<44} {:>6} {:>7} {:>7} {:>7}", "track", "rides", "sum", "least", "most");
    let mut is_right = true;
    if !rides.is_empty() {
        let ratios = real_ratios(&rides);
        let row = Row::of(&ratios);
        row.print("real rides / sum of clean hops");
        is_right = (row.sum - 1.0).abs() <= 0.01 && row.least >= 0.9 && row.most <= 1.05;
    }
    made_tracks();
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Billed over reference, of several rides.
struct Row {
    rides: usize,
    sum: f64,
    least: f64,
    most: f64,
}

impl Row {
    fn of(pairs: &[(f64, f64)]) -> Self {
        let (billed, reference) = pairs.iter().fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        let ratios = pairs.iter().map(|(billed, reference)| billed / reference);
        Self {
            rides: pairs.len(),
            sum: billed / reference,
            least: ratios.clone().fold(f64::INFINITY, f64::min),
            most: ratios.fold(0.0, f64::max),
        }
    }

    fn print(&self, name: &str) {
        println!("{name:<44} {:>6} {:>7.4} {:>7.4} {:>7.4}", self.rides, self.sum, self.least, self.most);
    }
}

fn read_rides(text: &str) -> Vec<Vec<Point>> {
    let mut rides: Vec<Vec<Point>> = Vec::new();
    let mut was_occupied = false;
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [at, lat, lng, occupied] = fields[..] else { continue };
        let (Ok(at), Ok(lat), Ok(lng)) = (at.parse(), lat.parse(), lng.parse()) else { continue };
        let is_occupied = occupied.trim() == "1";
        if is_occupied && !was_occupied {
            rides.push(Vec::new());
        }
        was_occupied = is_occupied;
        if let Some(ride) = rides.last_mut().filter(|_| is_occupied) {
            ride.push(point(at, Position { lat, lng }, None));
        }
    }
    rides
}

fn point(at: DateTime<Utc>, position: Position, accuracy_m: Option<f64>) -> Point {
    Point {
        device: String::new(),
        ride_device: true,
        device_at: None,
        sent_at: None,
        received_at: at,
        recorded_at: at,
        position,
        accuracy_m,
        speed_mps: None,
    }
}

fn real_ratios(rides: &[Vec<Point>]) -> Vec<(f64, f64)> {
    let pairs = rides.iter().filter_map(|ride| {
        let reference_m = clean_hops_m(ride);
        (reference_m >= RIDE_MIN_M).then(|| (billed_m(ride), reference_m))
    });
    pairs.collect()
}

fn billed_m(points: &[Point]) -> f64 {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return 0.0 };
    let (started_at, arrived_at) = (first.recorded_at, Some(last.recorded_at));
    measure(points, &RideTimes { started_at, arrived_at, pickup: None, dropoff: None }, MAX_SPEED_MPS)
        .summary
        .distance_m
}

/// The hops of the most fixes of which each can be reached from the one before.
fn clean_hops_m(points: &[Point]) -> f64 {
    // Of the line that ends with each fix: its fixes and hops.
    let mut lines: Vec<(u32, f64)> = Vec::new();
    let better = |a: (u32, f64), b: (u32, f64)| if b.0 > a.0 { b } else { a };
    for (n, point) in points.iter().enumerate() {
        let before = n.saturating_sub(LEFT_OUT_MAX + 1)..n;
        let reaches = before.filter_map(|from| {
            let hop_m = points[from].position.distance_m(&point.position);
            let seconds = (point.recorded_at - points[from].recorded_at).as_seconds_f64();
            let (fixes, metres) = lines[from];
            (hop_m <= MAX_SPEED_MPS * seconds).then_some((fixes + 1, metres + hop_m))
        });
        lines.push(reaches.fold((1, 0.0), better));
    }
    lines.into_iter().fold((0, 0.0), better).1
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

/// A point each second, or each `every_s`, where `place` says.
fn made(
    count: u32,
    every_s: f64,
    place: impl Fn(f64) -> (f64, f64),
    accuracy_m: Option<f64>,
    deviation_m: f64,
    seed: u64,
) -> Vec<Point> {
    let mut noise = Noise(seed + 1);
    let one = |n: u32| {
        let (east, north) = place(f64::from(n));
        let (lat, lng) = ((north + noise.next(deviation_m)) / DEGREE_M, (east + noise.next(deviation_m)) / DEGREE_M);
        let at = DateTime::UNIX_EPOCH + Duration::microseconds((f64::from(n) * every_s * 1e6) as i64);
        point(at, Position { lat, lng: 30.0 + lng }, accuracy_m)
    };
    (0..count).map(one).collect()
}

/// A corner after each block.
fn corner(way_m: f64, block_m: f64) -> (f64, f64) {
    let (block, rest) = ((way_m / block_m).floor(), way_m % block_m);
    let (north, east) = (((block + 1.0) / 2.0).floor() * block_m, (block / 2.0).floor() * block_m);
    if block % 2.0 == 0.0 { (east, north + rest) } else { (east + rest, north) }
}

fn made_tracks() {
    for (block_m, hop_m) in [(150.0, 14.0), (80.0, 14.0), (150.0, 56.0)] {
        let points = made(3_000 / hop_m as u32 + 1, 1.0, |n| corner(n * hop_m, block_m), Some(20.0), 0.0, 0);
        let hops_m: f64 = points.windows(2).map(|w| w[0].position.distance_m(&w[1].position)).sum();
        let name = format!("blocks of {block_m} m, hops of {hop_m} m, exact / hops");
        Row::of(&[(billed_m(&points), hops_m)]).print(&name);
    }
    for hop_m in [7.0, 14.0, 56.0] {
        for accuracy_m in [5.0, 10.0, 20.0] {
            // Two in three fixes are within the accuracy.
            let billed = |seed| {
                let count = (3_000.0 / hop_m) as u32 + 1;
                let points = made(count, 1.0, |n| corner(n * hop_m, 150.0), Some(accuracy_m), accuracy_m / 1.5, seed);
                (billed_m(&points), f64::from(count - 1) * hop_m)
            };
            let pairs: Vec<(f64, f64)> = (0..SEEDS).map(billed).collect();
            Row::of(&pairs).print(&format!("blocks of 150 m, hops of {hop_m} m, accuracy {accuracy_m} m / way"));
        }
    }
    for every_s in [1.0, 4.0, 10.0] {
        for accuracy_m in [None, Some(8.0), Some(20.0)] {
            let count = (300.0 / every_s) as u32;
            let billed = (0..SEEDS).map(|seed| billed_m(&made(count, every_s, |_| (0.0, 0.0), accuracy_m, 8.0, seed)));
            let most = billed.fold(0.0, f64::max);
            println!("5 min still, 8 m of noise, every {every_s} s, {accuracy_m:?}: at most {most:.1} m");
        }
    }
}
