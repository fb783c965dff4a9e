//! What a ride costs that ends early, and why; pure.
//!
//! Before the start nobody pays but a passenger who cancels late. After the start the passenger pays what was driven so far:
//! at least the minimum of the tariff if the passenger ends the ride, and without the minimum if the driver does.

use chrono::{DateTime, Duration, Utc};
use pricing::{Minimum, Priced, Tariff, Trip, WaitingRules};
use streams::driven_distance::DrivenDistance;
use streams::event::{CancelCode, Fare, Party};
use streams::{Money, Position, RequestId, RideStatus};

use super::distance::{COVERED_MIN, Distance, plausible};
use super::lifecycle::Refusal;

/// A passenger who cancels at most this long after the ride was created pays nothing, seconds.
pub const FREE_CANCELLATION_S: i64 = 120;
/// A driver who ends a ride that has come no further than this is paid nothing, metres: it is still at its pickup.
const AT_PICKUP_M: f64 = 150.0;

/// How a ride ended early. `fee` = `platform_fee` + `driver_payout`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cancellation {
    pub by: Party,
    /// In the canceller's words, or a code.
    pub reason: String,
    /// The reason as a code; older events do not have it.
    pub code: Option<CancelCode>,
    /// What the canceller says beside a code.
    pub note: Option<String>,
    /// What the passenger pays for it.
    pub fee: Money,
    /// The lines of the fee, if there is one; older events do not have them.
    pub fare: Option<Fare>,
    /// Driven from the start to the cancellation, metres; only after the start.
    pub distance_m: Option<f64>,
    /// From the start to the cancellation, seconds; only after the start.
    pub duration_s: Option<f64>,
    pub platform_fee: Money,
    pub driver_payout: Money,
    /// The passenger's search, if it goes on.
    pub continues: Option<RequestId>,
}

/// What a cancellation is decided by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CancelledRide {
    pub(super) status: RideStatus,
    pub(super) pickup: Position,
    pub(super) dropoff: Position,
    pub(super) created_at: DateTime<Utc>,
    pub(super) waiting_at: Option<DateTime<Utc>>,
    pub(super) started_at: Option<DateTime<Utc>>,
    /// How long the driver waited beyond the free time, seconds.
    pub(super) waited_s: f64,
    /// Of the estimate.
    pub(super) speed_mps: f64,
}

/// How far a started ride has come when it is cancelled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DrivenSoFar {
    /// When it was cancelled.
    pub until: DateTime<Utc>,
    /// What its positions show; `None` if location did not say in time.
    pub measured: Option<DrivenDistance>,
    /// TRACK_MAX_SPEED_MPS.
    pub max_speed_mps: f64,
}

/// Whether the driver may give the passenger up.
///
/// # Errors
/// The driver does not wait at the pickup, or not long enough.
pub(super) fn check_no_show(ride: &CancelledRide, waiting: &WaitingRules, now: DateTime<Utc>) -> Result<(), Refusal> {
    let Some(since) = ride.waiting_at.filter(|_| ride.status == RideStatus::Waiting) else {
        return Err(Refusal::NotWaiting);
    };
    let allowed_at = since + Duration::seconds(i64::from(waiting.no_show_after_s));
    if now < allowed_at { Err(Refusal::TooEarly(allowed_at)) } else { Ok(()) }
}

/// Whether the passenger's search goes on if `by` cancels `ride`: its driver does not come, and the passenger still waits.
pub(super) fn continues_search(ride: &CancelledRide, by: Party, code: CancelCode) -> bool {
    by == Party::Driver && ride.started_at.is_none() && code != CancelCode::NoShow
}

/// What is charged for a cancellation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Charge {
    pub(super) priced: Option<Priced>,
    pub(super) distance_m: Option<f64>,
    pub(super) duration_s: Option<f64>,
}

impl Charge {
    fn priced(priced: Priced) -> Self {
        Self { priced: Some(priced), distance_m: None, duration_s: None }
    }

    const FREE: Self = Self { priced: None, distance_m: None, duration_s: None };
}

/// What `ride` costs if `by` cancels it at `now`.
pub(super) fn charge(
    ride: &CancelledRide,
    by: Party,
    code: CancelCode,
    tariff: &Tariff,
    driven: Option<&DrivenSoFar>,
    now: DateTime<Utc>,
) -> Charge {
    match (by, ride.status) {
        (Party::System, _) => Charge::FREE,
        (_, RideStatus::Started) => after_start(ride, by, tariff, driven, now),
        // `no_show` was refused where the driver had not waited long enough.
        (Party::Driver, _) if code == CancelCode::NoShow => {
            Charge::priced(pricing::flat(tariff, "no_show", tariff.cancellation))
        }
        (Party::Driver, _) => Charge::FREE,
        (Party::Passenger, _) if now - ride.created_at <= Duration::seconds(FREE_CANCELLATION_S) => Charge::FREE,
        (Party::Passenger, _) => Charge::priced(pricing::flat(tariff, "cancellation", tariff.cancellation)),
    }
}

fn after_start(
    ride: &CancelledRide,
    by: Party,
    tariff: &Tariff,
    driven: Option<&DrivenSoFar>,
    now: DateTime<Utc>,
) -> Charge {
    let until = driven.map_or(now, |driven| driven.until);
    let duration_s = ride.started_at.map_or(0.0, |from| (until - from).as_seconds_f64().max(0.0));
    let (distance_m, is_estimated) = distance_so_far(ride, driven, duration_s);
    let minimum = if by == Party::Driver { Minimum::Waived } else { Minimum::Applies };
    let (distance, duration) = (Some(distance_m), Some(duration_s));
    if by == Party::Driver && distance_m <= AT_PICKUP_M {
        return Charge { priced: None, distance_m: distance, duration_s: duration };
    }
    let mut priced = pricing::bill(tariff, &Trip { distance_m, duration_s, waited_s: ride.waited_s }, minimum);
    priced.fare.estimated = is_estimated;
    Charge { priced: Some(priced), distance_m: distance, duration_s: duration }
}

/// What was driven, and whether that is the estimate. It follows the rules of a completed ride: what nobody can have driven and
/// what shows too little of the time is not believed. But fixes that leave much of the time out still prove their own part.
fn distance_so_far(ride: &CancelledRide, driven: Option<&DrivenSoFar>, duration_s: f64) -> (f64, bool) {
    let estimate_m = pricing::estimate_so_far(&ride.pickup, &ride.dropoff, ride.speed_mps, duration_s);
    let Some((driven, measured)) = driven.and_then(|d| Some((d, d.measured?))) else { return (estimate_m, true) };
    let metres = measured.distance_m;
    if plausible((&ride.pickup, &ride.dropoff), metres, duration_s, driven.max_speed_mps) == Distance::Estimated {
        (estimate_m, true)
    } else if measured.covered < COVERED_MIN {
        (metres.max(estimate_m), true)
    } else {
        (metres, false)
    }
}
