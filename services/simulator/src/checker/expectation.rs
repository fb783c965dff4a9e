//! What must follow, and until when: an acked command must have its effect, an offer must end. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::ride::Status;

/// The limit for the effect of an acked command.
const EFFECT_LIMIT: Duration = Duration::from_secs(30);
/// From the ack of `ride.arrive` to `ride.completed`: the platform waits up to a minute for the ride's distance.
const FARE_LIMIT: Duration = Duration::from_secs(90);

/// What a person must receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The offer becomes a ride, or is rejected.
    OfferEnds {
        match_id: String,
    },
    /// The ride reaches this status, or is cancelled.
    RideReaches {
        ride_id: String,
        status: Status,
    },
    RideEnds {
        ride_id: String,
    },
    /// A `user.finder` with this request.
    Search {
        request_id: String,
    },
}

impl Effect {
    pub(super) fn limit(&self) -> Duration {
        match self {
            Self::RideReaches { status: Status::Completed, .. } => FARE_LIMIT,
            _ => EFFECT_LIMIT,
        }
    }
}

#[derive(Debug)]
pub(super) struct Expectation {
    pub(super) user: String,
    pub(super) effect: Effect,
    /// The command or event that it follows from.
    pub(super) cause: &'static str,
    pub(super) due: Instant,
}

impl Expectation {
    /// The violation, if it is not met in time.
    pub(super) fn violation(&self) -> String {
        let Self { user, effect, cause, .. } = self;
        match effect {
            Effect::OfferEnds { match_id } => {
                format!("match {match_id}: {cause}, but neither ride nor rejection for {user}")
            }
            Effect::RideReaches { ride_id, status } => {
                format!("ride {ride_id}: {cause} acked, but no ride.{} for {user}", status.name())
            }
            Effect::RideEnds { ride_id } => {
                format!("ride {ride_id}: {cause} refused, though the ride has not ended for {user}")
            }
            Effect::Search { request_id } => {
                format!("request {request_id}: {cause} acked, but no user.finder for {user}")
            }
        }
    }
}
