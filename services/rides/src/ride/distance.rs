//! The distance that a fare is computed from, and which distances nobody can have driven; pure.

use streams::Position;

/// The distance that a fare is computed from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distance {
    /// That of the final aggregate: cumulative since the start, metres.
    Measured(f64),
    /// No final aggregate came in time, or its positions show too little: the estimate from pickup to dropoff.
    Estimated,
}

/// Billed beyond what the speed allows: points are noisy, and the way to the first of them counts too, metres.
const DISTANCE_SLACK_M: f64 = 1_000.0;
/// The same for the clocks of start and arrival, seconds.
const CLOCK_SLACK_S: f64 = 10.0;
/// However far pickup and dropoff are apart, a ride of so many metres may be honest: a day of errands, or there and back.
const HONEST_M: f64 = 100_000.0;
/// Beyond that, so many times the estimate.
const HONEST_DETOUR: f64 = 10.0;

/// Positions that show less than this part of the time between start and arrival say too little about the way.
pub(super) const COVERED_MIN: f64 = 0.5;

/// What to bill for a final distance: nothing that nobody can have driven. It is impossible if it needs more than
/// `max_speed_mps`. Where that is lifted, as for a simulation faster than life, and for a vehicle that went in circles for a day,
/// there is a second bound, by the trip. Both leave a long detour alone. What is impossible says nothing about the ride, so the
/// estimate is billed, as without a distance.
pub(super) fn plausible(
    (pickup, dropoff): (&Position, &Position),
    metres: f64,
    duration_s: f64,
    max_speed_mps: f64,
) -> Distance {
    let by_speed = max_speed_mps * (duration_s + CLOCK_SLACK_S) + DISTANCE_SLACK_M;
    let by_trip = HONEST_M.max(HONEST_DETOUR * pricing::estimate(pickup, dropoff).0);
    if metres <= by_speed.min(by_trip) { Distance::Measured(metres) } else { Distance::Estimated }
}
