//! The begin and the end of a ride's way: no fix is measured at the very moment of the start and of the arrival. And how much of the
//! ride's time the fixes show. Pure.
//!
//! The place at the start lies between the last fix before it and the first one after it, by time. But a car that lets a passenger
//! in stands: if the fix before is at the pickup, it is the place at the start, as far as the pace of the ride allows. Without a fix
//! before, the pickup itself is, if it can be reached at that pace; else the way begins at the first fix. The same holds for the arrival,
//! with the dropoff.

use chrono::{DateTime, Duration, Utc};
use streams::Position;

use super::fix::{Fix, RideTimes, between};
use super::way;

/// A fix this near to the pickup or dropoff is there.
const AT_PLACE_M: f64 = 150.0;
/// Between a fix and the start or the arrival, a driver may be so many times as fast as on average, stops included.
const PACE: f64 = 2.0;
/// In less time, no way to the pickup or dropoff is added that no fix shows.
const GAP_MIN: Duration = Duration::seconds(1);
/// In more than [`USUAL_GAPS`], nobody is believed to have gone on faster than this.
const SILENT_MAX_MPS: f64 = 70.0;
/// A gap between fixes shows the way if it is at most so many times as long as nine in ten gaps,
const USUAL_GAPS: i32 = 3;
/// or at most this part of the ride, but within these bounds;
const SHORT_PART: i32 = 4;
const SHORT_GAP_MIN: Duration = Duration::seconds(2);
const SHORT_GAP_MAX: Duration = Duration::seconds(30);
/// but not if it is longer than this: three times what the slowest trackers take.
const LONG_GAP: Duration = Duration::seconds(180);

/// The track between start and arrival: the line's parts cut, with the places at both moments.
pub(super) fn cut(parts: &[Vec<Fix>], ride: &RideTimes, max_speed_mps: f64) -> Vec<Vec<Fix>> {
    let is_within = |fix: &Fix| ride.contains(fix.recorded_at);
    let inner: Vec<Vec<Fix>> =
        parts.iter().map(|part| part.iter().copied().filter(is_within).collect::<Vec<_>>()).collect();
    let pace_mps = pace_mps(&inner, max_speed_mps);
    let short = usual_gap(&inner.iter().flatten().collect::<Vec<_>>(), ride) * USUAL_GAPS;
    let start = End { moment: ride.started_at, place: ride.pickup, short };
    let arrival = ride.arrived_at.map(|moment| End { moment, place: ride.dropoff, short });
    let begin_of_way = parts.iter().flatten().find(|fix| fix.recorded_at >= ride.started_at).map(|fix| fix.recorded_at);
    let mut cut = Vec::new();
    for (nth, (part, mut inner)) in parts.iter().zip(inner).enumerate() {
        let before = part.iter().rfind(|fix| fix.recorded_at < ride.started_at);
        let first = part.iter().find(|fix| fix.recorded_at >= ride.started_at);
        if let Some(first) = first.filter(|fix| Some(fix.recorded_at) == begin_of_way) {
            inner.extend(start.place_between(first, before, pace_mps));
        }
        if let Some(arrival) = &arrival {
            let last = part.iter().rfind(|fix| fix.recorded_at <= arrival.moment);
            let after = part.iter().find(|fix| fix.recorded_at > arrival.moment);
            let is_last = !parts[nth + 1..].iter().flatten().any(|fix| fix.recorded_at <= arrival.moment);
            if let Some(last) = last.filter(|_| is_last) {
                inner.extend(arrival.place_between(last, after, pace_mps));
            }
        }
        inner.retain(is_within);
        inner.sort_by_key(|fix| fix.recorded_at);
        inner.dedup_by_key(|fix| fix.recorded_at);
        cut.push(inner);
    }
    cut
}

/// How fast the driver was on average between the first and the last fix of the ride; if that is unknown, the maximum.
fn pace_mps(inner: &[Vec<Fix>], max_speed_mps: f64) -> f64 {
    let mut fixes = inner.iter().flatten();
    match (fixes.next(), fixes.last()) {
        (Some(first), Some(last)) if first.recorded_at < last.recorded_at => {
            let metres: f64 = inner.iter().map(|part| way::length_m(part)).sum();
            metres / (last.recorded_at - first.recorded_at).as_seconds_f64()
        }
        _ => max_speed_mps,
    }
}

/// The start or the arrival.
struct End {
    moment: DateTime<Utc>,
    place: Option<Position>,
    /// A gap between fixes that is not longer is no silence.
    short: Duration,
}

impl End {
    /// Where the driver was at the moment: between `inside`, the fix of the ride that is nearest to it, and `outside`, the one on the
    /// other side of the moment.
    fn place_between(&self, inside: &Fix, outside: Option<&Fix>, pace_mps: f64) -> Option<Fix> {
        let seconds = (inside.recorded_at - self.moment).as_seconds_f64().abs();
        let reach_m = PACE * pace_mps * seconds;
        let (to, part) = match outside {
            Some(outside) => {
                let whole = (inside.recorded_at - outside.recorded_at).as_seconds_f64().abs();
                let by_time = if whole > 0.0 { seconds / whole } else { 0.0 };
                let stands = self.place.is_some_and(|place| outside.position.distance_m(&place) <= AT_PLACE_M);
                let length_m = inside.position.distance_m(&outside.position);
                let by_pace = if length_m > 0.0 { (reach_m / length_m).min(1.0) } else { 1.0 };
                (outside.position, if stands { by_time.max(by_pace) } else { by_time })
            }
            None if seconds < GAP_MIN.as_seconds_f64() => return None,
            None => {
                let is_silence = seconds > self.short.as_seconds_f64();
                let most_m = if is_silence { PACE * SILENT_MAX_MPS * seconds } else { f64::INFINITY };
                (self.place.filter(|place| inside.position.distance_m(place) <= reach_m.min(most_m))?, 1.0)
            }
        };
        let position = between(inside.position, to, part);
        (seconds > 0.0).then_some(Fix { recorded_at: self.moment, position, accuracy_m: inside.accuracy_m })
    }
}

/// The part of the time between start and arrival that the fixes of the track show, 0 to 1. One fix alone shows no way.
pub(super) fn covered(parts: &[Vec<Fix>], ride: &RideTimes) -> f64 {
    let Some(arrived_at) = ride.arrived_at else { return 1.0 };
    let fixes: Vec<&Fix> = parts.iter().flatten().collect();
    let (Some(first), Some(last)) = (fixes.first(), fixes.last()) else { return 0.0 };
    if fixes.len() < 2 {
        return 0.0;
    }
    let duration = (arrived_at - ride.started_at).max(Duration::zero());
    let limit = longest_gap(&fixes, ride, duration);
    let within =
        |from: DateTime<Utc>, to: DateTime<Utc>| (to.min(arrived_at) - from.max(ride.started_at)).max(Duration::zero());
    // A gap without a way is one in which the car stood.
    let moved = |a: &Position, b: &Position| a.distance_m(b) > AT_PLACE_M;
    let mut hidden = Duration::zero();
    for pair in fixes.windows(2) {
        let (from, to) = (pair[0].recorded_at, pair[1].recorded_at);
        if to - from > limit && moved(&pair[0].position, &pair[1].position) {
            hidden += within(from, to);
        }
    }
    let begin = within(ride.started_at, first.recorded_at);
    if begin > limit && ride.pickup.is_none_or(|place| moved(&place, &first.position)) {
        hidden += begin;
    }
    let end = within(last.recorded_at, arrived_at);
    if end > limit && ride.dropoff.is_none_or(|place| moved(&place, &last.position)) {
        hidden += end;
    }
    if duration.is_zero() {
        return 1.0;
    }
    (1.0 - hidden.as_seconds_f64() / duration.as_seconds_f64()).clamp(0.0, 1.0)
}

/// The longest gap that shows the way between its fixes.
fn longest_gap(fixes: &[&Fix], ride: &RideTimes, duration: Duration) -> Duration {
    let short = (duration / SHORT_PART).clamp(SHORT_GAP_MIN, SHORT_GAP_MAX);
    (usual_gap(fixes, ride) * USUAL_GAPS).max(short).min(LONG_GAP)
}

/// Nine in ten gaps between fixes are not longer; of few gaps, all but the longest one are not.
fn usual_gap(fixes: &[&Fix], ride: &RideTimes) -> Duration {
    let is_within = |pair: &&[&Fix]| pair.iter().any(|fix| ride.contains(fix.recorded_at));
    let gaps = fixes.windows(2).filter(is_within).map(|pair| pair[1].recorded_at - pair[0].recorded_at);
    let mut gaps: Vec<Duration> = gaps.collect();
    gaps.sort();
    gaps.get(gaps.len().saturating_sub(1) * 9 / 10).copied().unwrap_or(Duration::zero())
}
