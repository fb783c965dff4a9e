//! The track of one ride: from the points of a driver's devices to the distance that is billed. Pure.
//!
//! The result depends on the set of points only, not on the order in which they arrived nor on repeats. Of two points of one device
//! with one time the first to arrive counts; the key of the rows makes the same choice.
//!
//! 1. `devices.rs`: whose points count, when they were measured by the server's clock, and which of them say anything.
//! 2. `line.rs`: which of them can be on one track; GPS jumps cannot.
//! 3. `ends.rs`: the way from the start to the first fix and from the last one to the arrival; and how much of the time the fixes
//!    show.
//! 4. `way.rs`: the length of the way, without noise.

pub(crate) mod arrived_rides;
mod devices;
mod ends;
pub(crate) mod fix;
mod line;
pub(crate) mod point_rows;
pub(crate) mod rows;
mod way;

use std::collections::BTreeSet;

use chrono::Duration;
use streams::Position;
use streams::event::TrackPoint;

pub use self::fix::{Measured, Point, RideTimes, TrackSummary};

/// The default of TRACK_MAX_SPEED_MPS: 252 km/h. A point that would need more is a jump.
pub const MAX_SPEED_MPS: f64 = 70.0;
/// A phone whose newest point is so long before the arrival has measured nothing more of the ride: phones measure once in a few
/// seconds.
const REACHES_WITHIN: Duration = Duration::seconds(2);
/// A phone that comes back may send where it is now first. So long as its points show less of the ride's time, it may hold the others.
const COMPLETE_COVERED: f64 = 0.99;

/// The distance of a ride, from all points that are known of its driver's devices, in any order.
pub fn measure(points: &[Point], ride: &RideTimes, max_speed_mps: f64) -> Measured {
    let driver = devices::driver_fixes(points, ride, max_speed_mps);
    let parts = line::best(&driver.fixes, max_speed_mps);
    let metres: f64 = ends::cut(&parts, ride, max_speed_mps).iter().map(|part| way::length_m(part)).sum();
    // The sum of nothing is −0, which JSON would show.
    let metres = metres + 0.0;
    let on_ride = parts.iter().flatten().filter(|fix| ride.contains(fix.recorded_at));
    let last =
        on_ride.clone().next_back().map(|fix| TrackPoint { location: fix.position, recorded_at: fix.recorded_at });
    let reaches = |arrived_at| driver.newest.is_some_and(|newest| newest + REACHES_WITHIN >= arrived_at);
    let covered = ends::covered(&parts, ride);
    let reaches_arrival = ride.arrived_at.is_none_or(reaches);
    Measured {
        summary: TrackSummary { distance_m: (metres * 100.0).round() / 100.0, points: on_ride.count() as u64, last },
        covered,
        is_complete: ride.arrived_at.is_none() || (reaches_arrival && covered >= COMPLETE_COVERED),
        reaches_arrival,
    }
}

/// Whether each point is on the way of the driver, to the pickup and with the passenger: that of another device is not, nor is a GPS jump,
/// nor a point that says nothing.
pub(crate) fn on_track(points: &[Point], max_speed_mps: f64) -> Vec<bool> {
    let Some(started_at) = points.iter().map(|point| point.recorded_at).min() else { return Vec::new() };
    let all = RideTimes { started_at, arrived_at: None, pickup: None, dropoff: None };
    let parts = line::best(&devices::driver_fixes(points, &all, max_speed_mps).fixes, max_speed_mps);
    // Times are corrected on the way, places are not.
    let place = |at: &Position| (at.lat.to_bits(), at.lng.to_bits());
    let on_track: BTreeSet<_> = parts.iter().flatten().map(|fix| place(&fix.position)).collect();
    points.iter().map(|point| on_track.contains(&place(&point.position))).collect()
}

#[cfg(test)]
mod tests;
