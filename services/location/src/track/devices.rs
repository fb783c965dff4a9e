//! From the points of a driver's devices to the fixes of one track: times by the server's clock, no fix that says nothing, and at
//! each time the device that counts. Pure.
//!
//! - **Clocks.** The times of a device are corrected by what all its points of the ride show of its clock
//!   (`geospatial::device_clock`). If they show nothing, the time counts that users gave them, who have seen more of the device.
//! - **No fix** is a point that its device trusts less than [`ACCURACY_MAX_M`], and a place that is repeated with new times, as a
//!   receiver in a tunnel does. A device that says that it stands, and one that goes on from the same place, did stand.
//! - **Devices.** The device that accepted the ride counts. Where it is silent for more than [`SILENCE_S`], at the begin and the end
//!   as well, another device of the driver fills the gap: the one whose fixes fit best to both sides of it, if they fit at all. A
//!   tablet that lies at the depot does not.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use geospatial::device_clock::{self, DeviceClock, Reading};

use super::fix::{AROUND, Fix, Point, RideTimes};

/// A point that its device trusts less than this says nothing about a street.
const ACCURACY_MAX_M: f64 = 200.0;
/// The most fixes of a track: one each second for 11 hours.
const FIXES_MAX: usize = 40_000;
/// Another device counts once the one that counts was silent for longer.
const SILENCE_S: i64 = 30;
/// The clock of a device that is ahead by no more counts as right.
const CLOCKS_DIFFER: Duration = Duration::seconds(1);
/// A device that says that it is slower than this stands.
const STANDS_MPS: f64 = 0.5;
/// A device may be so many times as fast as the ride was on average, or this fast, to fit to a gap.
const FIT_PACE: f64 = 3.0;
const FIT_SPEED_MPS: f64 = 70.0;

/// What the points of one device say.
#[derive(Debug, Clone, Default)]
struct Device {
    /// In order of time, without those that say nothing.
    fixes: Vec<Fix>,
    /// The newest point, also if it says nothing about the place.
    newest: Option<DateTime<Utc>>,
}

/// The fixes of the driver from just before the ride until just after it, in order of time.
#[derive(Debug, Clone, Default)]
pub(super) struct DriverFixes {
    pub(super) fixes: Vec<Fix>,
    /// The newest point of the device of the ride, also if it says nothing about the place.
    pub(super) newest: Option<DateTime<Utc>>,
}

pub(super) fn driver_fixes(points: &[Point], ride: &RideTimes, max_speed_mps: f64) -> DriverFixes {
    let mut of_ride: Vec<&Point> = Vec::new();
    let mut others: BTreeMap<&str, Vec<&Point>> = BTreeMap::new();
    for point in points {
        if point.ride_device {
            of_ride.push(point);
        } else {
            others.entry(&point.device).or_default().push(point);
        }
    }
    let main = device(of_ride, max_speed_mps);
    let mut others: Vec<Device> = others.into_values().map(|points| device(points, max_speed_mps)).collect();
    let mut newest = main.newest;
    let mut fixes = main.fixes;
    if fixes.is_empty() && others.len() == 1 {
        // Nobody knows which device accepted the ride, and there is no choice.
        let only = others.remove(0);
        newest = newest.max(only.newest);
        fixes = only.fixes;
    }
    let pace_mps = pace_mps(&fixes, ride);
    // While the ride is under way, it has come as far as any device says.
    let now = others.iter().filter_map(|device| device.newest).chain(newest).max();
    let fills = gaps(&fixes, ride, ride.arrived_at.or(now).unwrap_or(ride.started_at))
        .into_iter()
        .flat_map(|gap| fill(&gap, &others, ride, pace_mps, max_speed_mps));
    let fills: Vec<Fix> = fills.collect();
    fixes.extend(fills);
    fixes.sort_by_key(|fix| fix.recorded_at);
    fixes.dedup_by_key(|fix| fix.recorded_at);
    let (from, to) = (ride.started_at - AROUND, ride.arrived_at.map(|to| to + AROUND));
    fixes.retain(|fix| from <= fix.recorded_at && to.is_none_or(|to| fix.recorded_at <= to));
    DriverFixes { fixes: thinned(fixes), newest }
}

/// Evenly, so that a track of any length is measured soon.
fn thinned(fixes: Vec<Fix>) -> Vec<Fix> {
    let step = fixes.len().div_ceil(FIXES_MAX).max(1);
    fixes.into_iter().step_by(step).collect()
}

fn device(points: Vec<&Point>, max_speed_mps: f64) -> Device {
    let mut fixes: Vec<(Fix, Option<f64>)> = points
        .iter()
        .zip(times(&points))
        .map(|(p, at)| (Fix { recorded_at: at, position: p.position, accuracy_m: p.accuracy_m }, p.speed_mps))
        .collect();
    fixes.sort_by_key(|(fix, _)| fix.recorded_at);
    fixes.dedup_by_key(|(fix, _)| fix.recorded_at);
    let newest = fixes.last().map(|(fix, _)| fix.recorded_at);
    fixes.retain(|(fix, _)| fix.accuracy_m.is_none_or(|accuracy| accuracy <= ACCURACY_MAX_M));
    Device { fixes: without_repeats(&fixes, max_speed_mps), newest }
}

/// When each point was measured, by the server's clock.
fn times(points: &[&Point]) -> Vec<DateTime<Utc>> {
    let mut times: Vec<DateTime<Utc>> = points.iter().map(|point| point.recorded_at).collect();
    let read: Vec<(usize, Reading)> =
        points.iter().enumerate().filter_map(|(at, p)| Some((at, p.reading()?))).collect();
    let readings: Vec<Reading> = read.iter().map(|(_, reading)| *reading).collect();
    if shows_its_clock(&readings) {
        for ((at, _), corrected) in read.iter().zip(device_clock::corrected(&readings)) {
            times[*at] = corrected;
        }
    }
    // No corrected time is later than its reception. But two clocks that are right differ by as much as this, and the points of one
    // message must stay apart.
    for (at, reading) in read {
        let ahead = reading.device_at - reading.received_at;
        if times[at] == reading.received_at && ahead > Duration::zero() && ahead <= CLOCKS_DIFFER {
            times[at] = reading.device_at;
        }
    }
    times
}

fn shows_its_clock(readings: &[Reading]) -> bool {
    let mut readings = readings.to_vec();
    readings.sort_by_key(|reading| (reading.received_at, reading.device_at));
    let mut clock = DeviceClock::default();
    for (at, reading) in readings.iter().enumerate() {
        let is_newest = readings.get(at + 1).is_none_or(|next| next.received_at > reading.received_at);
        if is_newest {
            clock.read(reading);
        }
    }
    clock.is_known()
}

/// Of a place that is repeated, the first fix counts; and the last one if the device stood: it says so, or the next place can be
/// reached from there. A single last fix beyond reach does not show that the receiver was frozen: it may be a jump.
fn without_repeats(fixes: &[(Fix, Option<f64>)], max_speed_mps: f64) -> Vec<Fix> {
    let mut kept: Vec<Fix> = Vec::with_capacity(fixes.len());
    for same in fixes.chunk_by(|(a, _), (b, _)| a.position == b.position) {
        if let (Some((first, _)), Some((last, speed_mps))) = (same.first(), same.last()) {
            kept.push(*first);
            let after = fixes.partition_point(|(fix, _)| fix.recorded_at <= last.recorded_at);
            let goes_on = match &fixes[after..] {
                [] => false,
                [_] => true,
                [(next, _), ..] => can_follow(last, next, max_speed_mps),
            };
            if same.len() > 1 && (goes_on || speed_mps.is_some_and(|speed| speed <= STANDS_MPS)) {
                kept.push(*last);
            }
        }
    }
    kept
}

fn can_follow(a: &Fix, b: &Fix, max_speed_mps: f64) -> bool {
    a.position.distance_m(&b.position) <= max_speed_mps * (b.recorded_at - a.recorded_at).as_seconds_f64()
}

/// A time without fixes of the device that counts, and the fixes on both sides; without one, the ride begins or ends there.
#[derive(Debug, Clone, Copy)]
struct Gap {
    before: Option<Fix>,
    after: Option<Fix>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
}

fn gaps(fixes: &[Fix], ride: &RideTimes, end: DateTime<Utc>) -> Vec<Gap> {
    let silence = Duration::seconds(SILENCE_S);
    let mut gaps = Vec::new();
    // Just before the start and just after the arrival a device is silent only if it is so at the moment itself.
    if let (Some(first), Some(last)) = (fixes.first(), fixes.last()) {
        if first.recorded_at - ride.started_at > silence {
            gaps.push(Gap { before: None, after: Some(*first), from: ride.started_at - AROUND, to: first.recorded_at });
        }
        for pair in fixes.windows(2) {
            if pair[1].recorded_at - pair[0].recorded_at > silence {
                let (before, after) = (Some(pair[0]), Some(pair[1]));
                gaps.push(Gap { before, after, from: pair[0].recorded_at, to: pair[1].recorded_at });
            }
        }
        if end - last.recorded_at > silence {
            gaps.push(Gap { before: Some(*last), after: None, from: last.recorded_at, to: end + AROUND });
        }
    } else {
        gaps.push(Gap { before: None, after: None, from: ride.started_at - AROUND, to: end + AROUND });
    }
    gaps
}

/// The fixes of the device that fits best into a gap.
fn fill(gap: &Gap, devices: &[Device], ride: &RideTimes, pace_mps: f64, max_speed_mps: f64) -> Vec<Fix> {
    let fits_mps = max_speed_mps.min((FIT_PACE * pace_mps).max(FIT_SPEED_MPS));
    let mut best: Option<(f64, Vec<Fix>)> = None;
    for device in devices {
        let within = |fix: &&Fix| gap.from < fix.recorded_at && fix.recorded_at < gap.to;
        let fixes: Vec<Fix> = device.fixes.iter().filter(within).copied().collect();
        let (Some(first), Some(last)) = (fixes.first(), fixes.last()) else { continue };
        let needed_mps = speed_to_fit(gap, ride, first, last);
        if needed_mps <= fits_mps && best.as_ref().is_none_or(|(least, _)| needed_mps < *least) {
            best = Some((needed_mps, fixes));
        }
    }
    best.map_or_else(Vec::new, |(_, fixes)| fixes)
}

/// How fast the driver was on the way into the fixes of another device, and out of them.
fn speed_to_fit(gap: &Gap, ride: &RideTimes, first: &Fix, last: &Fix) -> f64 {
    let speed = |from: &Fix, to: &Fix| {
        let seconds = (to.recorded_at - from.recorded_at).as_seconds_f64();
        from.position.distance_m(&to.position) / seconds.max(1.0)
    };
    let begin = ride.pickup.map(|at| Fix { recorded_at: ride.started_at, position: at, accuracy_m: None });
    let end = ride.arrived_at.zip(ride.dropoff);
    let end = end.map(|(at, place)| Fix { recorded_at: at, position: place, accuracy_m: None });
    // The places of the ride are said, not measured: they decide only where nothing else does.
    let into = match (gap.before, gap.after) {
        (Some(before), _) => speed(&before, first),
        (None, None) => begin.map_or(0.0, |begin| speed(&begin, first)),
        (None, Some(_)) => 0.0,
    };
    let out = match (gap.after, gap.before) {
        (Some(after), _) => speed(last, &after),
        (None, None) => end.map_or(0.0, |end| speed(last, &end)),
        (None, Some(_)) => 0.0,
    };
    into.max(out)
}

/// How fast the ride was on average.
fn pace_mps(fixes: &[Fix], ride: &RideTimes) -> f64 {
    let over = |metres: f64, seconds: f64| if seconds > 0.0 { metres / seconds } else { 0.0 };
    let hops: f64 = fixes.windows(2).map(|w| w[0].position.distance_m(&w[1].position)).sum();
    let measured = match (fixes.first(), fixes.last()) {
        (Some(first), Some(last)) => over(hops, (last.recorded_at - first.recorded_at).as_seconds_f64()),
        _ => 0.0,
    };
    let straight = ride.pickup.zip(ride.dropoff).zip(ride.arrived_at).map_or(0.0, |((from, to), arrived_at)| {
        over(from.distance_m(&to), (arrived_at - ride.started_at).as_seconds_f64())
    });
    measured.max(straight)
}
