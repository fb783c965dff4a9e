//! The length of the way through fixes that are all on it: noise is not driving, and corners are not cut. Pure.
//!
//! # How it is found
//! 1. **The noise** of the fixes is read from the fixes themselves: how far each lies beside the line between its neighbours, a
//!    low quantile of the fixes around it. On exact fixes it is 0, whatever accuracy the device states, and then the length is
//!    the sum of the hops. The stated accuracy (at least [`ACCURACY_MIN_M`]) only bounds it, so that corners do not pass for noise.
//! 2. **Straight pieces at a constant speed** are fitted to the fixes by least squares, as few as the noise allows: each piece
//!    costs [`PIECE_COST`] (in squares of the noise), each fix its squared distance from its place on the piece. The least sum of
//!    both is found by dynamic programming.
//! 3. **The corners**: two pieces meet between their ends. Where noise is small against the hops, the ends themselves are the
//!    corners, so that the hop across a corner stays what it is.
//! 4. **Standing**: many fixes within a small circle, with much more way than from the first to the last, are a device that stands
//!    still while its position drifts. They count as the straight line from the first to the last.
//!
//! The length is never more than the sum of the hops. How right it is: `examples/track_accuracy.rs`.

use streams::Position;

use super::fix::Fix;

/// Fixes on each side whose neighbours show the noise of one fix.
const NOISE_WINDOW: usize = 24;
/// The quantile of the deviations that counts: most fixes of a city of corners lie at a corner, and a corner is no noise.
const NOISE_QUANTILE: f64 = 0.35;
/// That quantile of the distance from the middle, in standard deviations, on a line and in the plane.
const LINE_QUANTILE: f64 = 0.4538;
const PLANE_QUANTILE: f64 = 0.9282;
/// The quantile is taken for a little more noise than it says, because a low quantile of few values is uncertain.
const NOISE_FACTOR: f64 = 1.2;
/// The accuracy of a device that states none, or a better one.
const ACCURACY_MIN_M: f64 = 10.0;
/// Fits do not try to be better than this.
const NOISE_MIN_M: f64 = 0.3;
/// How many squares of the noise a piece must spare.
const PIECE_COST: f64 = 12.0;
/// The most fixes of one piece.
const PIECE_MAX: usize = 100;
/// Fixes on each side that show the speed.
const SPEED_WINDOW: usize = 4;
/// Up to the first part of a hop, noise makes the way hardly longer, and only [`SMALL_NOISE_PART`] of it is taken out; from the
/// second on, all of it. Both grow with hops longer than [`LONG_HOP_M`], because those miss corners anyway.
const SMALL_NOISE: f64 = 0.2;
const LARGE_NOISE: f64 = 0.5;
const SMALL_NOISE_PART: f64 = 0.3;
const LONG_HOP_M: f64 = 20.0;
const LONG_HOP_MAX: f64 = 2.5;
/// From this part of a hop on, the noise of two ends is larger than the corner between them.
const CORNER_NOISE: f64 = 0.15;
/// Standing: so many fixes within a circle of this radius, or so many times the noise, whose way is more than so many times the
/// straight line.
const STANDING_FIXES: usize = 20;
const STANDING_RADIUS_M: f64 = 25.0;
const STANDING_NOISE: f64 = 2.5;
const STANDING_WANDER: f64 = 2.0;

/// A fix on a plane.
#[derive(Debug, Clone, Copy)]
struct Spot {
    second: f64,
    x: f64,
    y: f64,
}

impl Spot {
    fn distance(&self, other: &Self) -> f64 {
        (self.x - other.x).hypot(self.y - other.y)
    }
}

/// Metres on a plane around a place. Over hundreds of kilometres it is bent, which bends lines a little; lengths are measured on the
/// sphere.
#[derive(Debug, Clone, Copy)]
struct Plane {
    origin: Position,
    metres_per_lng: f64,
}

const DEGREE_M: f64 = 6_371_008.8 * std::f64::consts::PI / 180.0;

fn wrapped(lng: f64) -> f64 {
    (lng + 540.0).rem_euclid(360.0) - 180.0
}

impl Plane {
    fn around(origin: Position) -> Self {
        Self { origin, metres_per_lng: DEGREE_M * origin.lat.to_radians().cos().max(1e-6) }
    }

    fn spot(&self, second: f64, at: &Position) -> Spot {
        let x = wrapped(at.lng - self.origin.lng) * self.metres_per_lng;
        Spot { second, x, y: (at.lat - self.origin.lat) * DEGREE_M }
    }

    fn position(&self, x: f64, y: f64) -> Position {
        Position { lat: self.origin.lat + y / DEGREE_M, lng: wrapped(self.origin.lng + x / self.metres_per_lng) }
    }
}

/// The length of the way through `fixes`, which are in order of time, metres.
pub(super) fn length_m(fixes: &[Fix]) -> f64 {
    let hops: f64 = fixes.windows(2).map(|w| w[0].position.distance_m(&w[1].position)).sum();
    let Some(first) = fixes.first().filter(|_| fixes.len() > 2) else { return hops };
    let plane = Plane::around(first.position);
    let second = |fix: &Fix| (fix.recorded_at - first.recorded_at).as_seconds_f64();
    let spots: Vec<Spot> = fixes.iter().map(|fix| plane.spot(second(fix), &fix.position)).collect();
    let accuracy = |fix: &Fix| fix.accuracy_m.unwrap_or(0.0).max(ACCURACY_MIN_M);
    let bounds: Vec<f64> = fixes.iter().map(accuracy).collect();
    let noise: Vec<Noise> = noise(&spots, &bounds);
    let corners = corners(&spots, &noise, &pieces(&spots, &noise));
    standing_removed(&plane, &corners).min(hops)
}

/// The noise at a fix.
#[derive(Debug, Clone, Copy)]
struct Noise {
    /// What is taken out: a standard deviation on each axis, metres.
    removed_m: f64,
    /// The noise as part of a hop.
    of_hop: f64,
    noise_m: f64,
}

fn noise(spots: &[Spot], bounds_m: &[f64]) -> Vec<Noise> {
    let deviations: Vec<(f64, f64)> = spots.windows(3).map(|w| deviation(&w[0], &w[1], &w[2])).collect();
    let measured = |around: &[(f64, f64)]| {
        let on_line = quantile(around.iter().map(|d| d.0)) / LINE_QUANTILE;
        let in_plane = quantile(around.iter().map(|d| d.1)) / PLANE_QUANTILE;
        NOISE_FACTOR * on_line.min(in_plane)
    };
    let of = |at: usize| {
        let to = deviations.len().min(at + NOISE_WINDOW);
        let from = at.saturating_sub(1 + NOISE_WINDOW).min(to);
        let middle = at.saturating_sub(1).clamp(from, to);
        let (a, b) = (at.saturating_sub(SPEED_WINDOW), (at + SPEED_WINDOW).min(spots.len() - 1));
        let hop_m = spots[a].distance(&spots[b]) / (b - a).max(1) as f64;
        let part_of_hop = |noise_m: f64| if hop_m > 0.0 { noise_m / hop_m } else { f64::INFINITY };
        // Where a car begins to stand or to drive, the noise of one side would hide that of the other.
        let of_side = measured(&deviations[from..middle]).max(measured(&deviations[middle..to]));
        let of_both = measured(&deviations[from..to]);
        let noise_m = if part_of_hop(of_side) >= LARGE_NOISE { of_side } else { of_both }.min(bounds_m[at]);
        let of_hop = part_of_hop(noise_m);
        let scale = (hop_m / LONG_HOP_M).clamp(1.0, LONG_HOP_MAX);
        let (small, large) = (SMALL_NOISE * scale, LARGE_NOISE * scale);
        let share = ((of_hop - small) / (large - small)).clamp(0.0, 1.0);
        let removed_m = noise_m * (SMALL_NOISE_PART + (1.0 - SMALL_NOISE_PART) * share);
        Noise { removed_m: removed_m.max(NOISE_MIN_M), of_hop, noise_m }
    };
    (0..spots.len()).map(of).collect()
}

/// How far `b` is beside the line from `a` to `c`, and from its place on it by time: each in standard deviations of one fix's noise.
fn deviation(a: &Spot, b: &Spot, c: &Spot) -> (f64, f64) {
    let part = if c.second > a.second { (b.second - a.second) / (c.second - a.second) } else { 0.5 };
    let scale = (1.0 + part * part + (1.0 - part) * (1.0 - part)).sqrt();
    let off_place = (b.x - a.x - (c.x - a.x) * part).hypot(b.y - a.y - (c.y - a.y) * part);
    let chord = a.distance(c);
    let beside = if chord < 1e-9 {
        a.distance(b)
    } else {
        ((c.x - a.x) * (b.y - a.y) - (c.y - a.y) * (b.x - a.x)).abs() / chord
    };
    (beside / scale, off_place / scale)
}

/// 0 of fewer than three values: they show nothing.
fn quantile(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    if values.len() < 3 {
        return 0.0;
    }
    let nth = (NOISE_QUANTILE * (values.len() - 1) as f64).round() as usize;
    *values.select_nth_unstable_by(nth, f64::total_cmp).1
}

/// A straight piece at a constant speed, through the fixes from `first` to `last`.
#[derive(Debug, Clone, Copy)]
struct Piece {
    first: usize,
    last: usize,
    middle: Spot,
    velocity: (f64, f64),
}

impl Piece {
    fn at(&self, second: f64) -> (f64, f64) {
        let since = second - self.middle.second;
        (self.middle.x + self.velocity.0 * since, self.middle.y + self.velocity.1 * since)
    }

    fn fixes(&self) -> usize {
        self.last - self.first + 1
    }
}

/// Weighted sums over fixes, relative to one of them so that they stay exact.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    w: f64,
    t: f64,
    tt: f64,
    x: f64,
    y: f64,
    tx: f64,
    ty: f64,
    xx_yy: f64,
}

impl Sums {
    fn add(&mut self, spot: &Spot, origin: &Spot, noise_m: f64) {
        let (w, t) = (1.0 / (noise_m * noise_m), spot.second - origin.second);
        let (x, y) = (spot.x - origin.x, spot.y - origin.y);
        self.w += w;
        self.t += w * t;
        self.tt += w * t * t;
        self.x += w * x;
        self.y += w * y;
        self.tx += w * t * x;
        self.ty += w * t * y;
        self.xx_yy += w * (x * x + y * y);
    }

    /// Spread of the times, and its products with the two axes.
    fn centred(&self) -> (f64, f64, f64) {
        let t = self.t / self.w;
        (self.tt - self.t * t, self.tx - self.x * t, self.ty - self.y * t)
    }

    /// The squared distances from the best piece.
    fn cost(&self) -> f64 {
        let spread = self.xx_yy - (self.x * self.x + self.y * self.y) / self.w;
        let (tt, tx, ty) = self.centred();
        let explained = if tt > 0.0 { (tx * tx + ty * ty) / tt } else { 0.0 };
        (spread - explained).max(0.0)
    }
}

/// The pieces with the least cost, in order.
fn pieces(spots: &[Spot], noise: &[Noise]) -> Vec<Piece> {
    // The least cost of the fixes before each, and where the last piece of them begins.
    let mut best: Vec<(f64, usize)> = vec![(0.0, 0)];
    for (last, origin) in spots.iter().enumerate() {
        let mut found = (f64::INFINITY, last);
        let mut sums = Sums::default();
        for first in (last.saturating_sub(PIECE_MAX - 1)..=last).rev() {
            sums.add(&spots[first], origin, noise[first].removed_m);
            let own = if last - first < 2 { 0.0 } else { sums.cost() };
            let cost = best[first].0 + own + PIECE_COST;
            if cost < found.0 {
                found = (cost, first);
            }
        }
        best.push(found);
    }
    let mut pieces = Vec::new();
    let mut end = spots.len();
    while end > 0 {
        let (first, last) = (best[end].1, end - 1);
        pieces.push(fitted(spots, noise, first, last));
        end = first;
    }
    pieces.reverse();
    pieces
}

fn fitted(spots: &[Spot], noise: &[Noise], first: usize, last: usize) -> Piece {
    let origin = &spots[last];
    let mut sums = Sums::default();
    for at in first..=last {
        sums.add(&spots[at], origin, noise[at].removed_m);
    }
    let (tt, tx, ty) = sums.centred();
    let velocity = if first < last && tt > 0.0 { (tx / tt, ty / tt) } else { (0.0, 0.0) };
    let middle =
        Spot { second: origin.second + sums.t / sums.w, x: origin.x + sums.x / sums.w, y: origin.y + sums.y / sums.w };
    Piece { first, last, middle, velocity }
}

/// A corner of the way, and the fixes of the piece that ends there.
#[derive(Debug, Clone, Copy)]
struct Corner {
    x: f64,
    y: f64,
    fixes: usize,
    noise_m: f64,
}

impl Corner {
    fn distance(&self, other: &Self) -> f64 {
        (self.x - other.x).hypot(self.y - other.y)
    }
}

fn corners(spots: &[Spot], noise: &[Noise], pieces: &[Piece]) -> Vec<Corner> {
    let mut corners = Vec::with_capacity(2 * pieces.len());
    let mut push = |(x, y): (f64, f64), fixes, at: usize| {
        corners.push(Corner { x, y, fixes, noise_m: noise[at].noise_m });
    };
    if let Some(first) = pieces.first() {
        push(first.at(spots[first.first].second), 0, first.first);
    }
    for pair in pieces.windows(2) {
        let (a, b) = (&pair[0], &pair[1]);
        let of_hop = noise[a.last].of_hop.min(noise[b.first].of_hop);
        if a.fixes() >= 3 && b.fixes() >= 3 && of_hop > CORNER_NOISE {
            let between = f64::midpoint(spots[a.last].second, spots[b.first].second);
            let (end, begin) = (a.at(between), b.at(between));
            let part = a.fixes() as f64 / (a.fixes() + b.fixes()) as f64;
            push((end.0 * part + begin.0 * (1.0 - part), end.1 * part + begin.1 * (1.0 - part)), a.fixes(), b.first);
        } else {
            if a.fixes() > 1 {
                push(a.at(spots[a.last].second), a.fixes(), a.last);
            }
            push(b.at(spots[b.first].second), 1, b.first);
        }
    }
    if let Some(last) = pieces.last().filter(|piece| piece.fixes() > 1) {
        push(last.at(spots[last.last].second), last.fixes(), last.last);
    }
    corners
}

/// The length of the line through `corners`; where the device stood still, the straight line counts.
fn standing_removed(plane: &Plane, corners: &[Corner]) -> f64 {
    let place = |corner: &Corner| plane.position(corner.x, corner.y);
    let (mut length, mut at) = (0.0, 0);
    while at + 1 < corners.len() {
        let to = standing_until(corners, at).unwrap_or(at + 1);
        length += place(&corners[at]).distance_m(&place(&corners[to]));
        at = to;
    }
    length
}

/// The last corner of a stand that begins at `from`. A single corner outside the circle does not end it.
fn standing_until(corners: &[Corner], from: usize) -> Option<usize> {
    let begin = &corners[from];
    let radius_m = STANDING_RADIUS_M.max(STANDING_NOISE * begin.noise_m);
    let (mut low, mut high) = ((begin.x, begin.y), (begin.x, begin.y));
    let (mut fixes, mut way, mut until, mut was_outside) = (0, 0.0, None, false);
    for at in from + 1..corners.len() {
        let corner = &corners[at];
        let (lower, higher) =
            ((low.0.min(corner.x), low.1.min(corner.y)), (high.0.max(corner.x), high.1.max(corner.y)));
        fixes += corner.fixes;
        way += corners[at - 1].distance(corner);
        if (higher.0 - lower.0).hypot(higher.1 - lower.1) > 2.0 * radius_m {
            if was_outside {
                break;
            }
            was_outside = true;
            continue;
        }
        (low, high, was_outside) = (lower, higher, false);
        if fixes >= STANDING_FIXES && way > STANDING_WANDER * begin.distance(corner) {
            until = Some(at);
        }
    }
    until
}
