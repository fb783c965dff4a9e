//! Offers to drivers, and what a driver's answer does to one. To whom an offer goes is decided by match.
//!
//! The row is written in the transaction that appends `match.found` to the driver's mailbox, so that every driver who has
//! received an offer's id finds the row.

pub(crate) mod rows;
#[cfg(test)]
mod tests;
pub(crate) mod view;

use chrono::{DateTime, Duration, Utc};
use platform::{Problem, StoreError};
use serde::Deserialize;
use streams::event::{MatchAccepted, MatchFound, MatchRejected, RejectReason, RideTerms};
use streams::{MatchId, Position, RequestId, Service, UserId, VehicleType};

use crate::trip::Trip;

/// How long an offer is stored after its expiry, so that a repeated answer gets the same result.
const RETENTION: Duration = Duration::hours(24);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OfferState {
    /// The driver may still answer, until it expires.
    Open,
    Accepted,
    Declined,
    /// It ended without an answer of the driver, or its acceptance was superseded.
    Closed,
}

impl OfferState {
    const ALL: [Self; 4] = [Self::Open, Self::Accepted, Self::Declined, Self::Closed];

    /// The name in the database.
    fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Accepted => "accepted",
            Self::Declined => "declined",
            Self::Closed => "closed",
        }
    }

    pub(crate) fn parse(name: &str) -> Result<Self, StoreError> {
        let known = Self::ALL.into_iter().find(|state| state.as_str() == name);
        known.ok_or_else(|| StoreError::Other(format!("unknown state `{name}` of an offer")))
    }
}

/// How the end of an offer reaches its parties.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct OfferEnd {
    /// With which this service ended it.
    pub(crate) event: Option<MatchRejected>,
    /// Both parties have the end in their mailboxes.
    pub(crate) is_shown: bool,
}

/// An offer before a `match.rejected` is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Before {
    pub(crate) state: OfferState,
    pub(crate) end_shown: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DriverAnswer {
    Accept,
    Reject,
}

/// What an offer says of the ride that may come of it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(crate) struct Offered {
    pub(crate) market_id: Option<String>,
    pub(crate) terms: Option<Box<RideTerms>>,
}

impl Offered {
    /// From the body of its match.found; of one that nobody can read, nothing.
    pub(crate) fn from_found(found: Option<&str>) -> Self {
        found.and_then(|found| serde_json::from_str(found).ok()).unwrap_or_default()
    }
}

/// What a driver's answer comes to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answered {
    Accepted(MatchAccepted),
    Declined(MatchRejected),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Offer {
    pub(crate) match_id: MatchId,
    pub(crate) request_id: RequestId,
    pub(crate) driver_id: UserId,
    pub(crate) passenger_id: UserId,
    pub(crate) trip: Trip,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) state: OfferState,
}

impl Offer {
    pub(crate) fn from_found(found: &MatchFound, state: OfferState) -> Self {
        let MatchFound { pickup, dropoff, vehicle_type, .. } = *found;
        Self {
            match_id: found.match_id,
            request_id: found.request_id,
            driver_id: found.driver_id,
            passenger_id: found.passenger_id,
            trip: Trip { pickup, dropoff, vehicle_type },
            expires_at: found.expires_at,
            state,
        }
    }

    /// One whose end arrives before its match.found. Its trip is unknown, and nobody receives it.
    pub(crate) fn from_rejected(e: &MatchRejected) -> Self {
        let nowhere = Position { lat: 0.0, lng: 0.0 };
        Self {
            match_id: e.match_id,
            request_id: e.request_id,
            driver_id: e.driver_id,
            passenger_id: e.passenger_id,
            trip: Trip { pickup: nowhere, dropoff: nowhere, vehicle_type: VehicleType::Car },
            expires_at: e.rejected_at,
            state: rejected(OfferState::Open, e.reason),
        }
    }

    /// The new state with its event after the driver's answer; `None` for the repeat of an answer.
    ///
    /// # Errors
    /// `offer_closed` if the offer has ended, `offer_expired` if its time is over.
    pub(crate) fn answered(&self, answer: DriverAnswer, now: DateTime<Utc>) -> Result<Option<Answered>, Problem> {
        match (self.state, answer) {
            (OfferState::Accepted, DriverAnswer::Accept) | (OfferState::Declined, DriverAnswer::Reject) => Ok(None),
            (OfferState::Open, _) if now >= self.expires_at => {
                Err(Problem::conflict("offer_expired", "the time to answer this offer is over"))
            }
            (OfferState::Open, DriverAnswer::Accept) => Ok(Some(Answered::Accepted(self.accepted(now)))),
            (OfferState::Open, DriverAnswer::Reject) => Ok(Some(Answered::Declined(self.declined(now)))),
            (OfferState::Accepted, DriverAnswer::Reject) => {
                Err(Problem::conflict("offer_closed", "you accepted this offer: cancel the ride instead"))
            }
            (OfferState::Declined, DriverAnswer::Accept) => {
                Err(Problem::conflict("offer_closed", "you declined this offer"))
            }
            (OfferState::Closed, _) => Err(Problem::conflict("offer_closed", "this offer has ended")),
        }
    }

    fn accepted(&self, now: DateTime<Utc>) -> MatchAccepted {
        MatchAccepted {
            match_id: self.match_id,
            request_id: self.request_id,
            driver_id: self.driver_id,
            passenger_id: self.passenger_id,
            pickup: self.trip.pickup,
            dropoff: self.trip.dropoff,
            vehicle_type: self.trip.vehicle_type,
            market_id: None,
            terms: None,
            accepted_at: now,
        }
    }

    pub(crate) fn declined(&self, now: DateTime<Utc>) -> MatchRejected {
        self.rejected(RejectReason::Declined, now)
    }

    /// The event of its end by the end of its search.
    pub(crate) fn cancelled(&self, now: DateTime<Utc>) -> MatchRejected {
        self.rejected(RejectReason::Cancelled, now)
    }

    /// The event of its end by its time: match has made another offer to one of its parties since then.
    pub(crate) fn expired(&self, now: DateTime<Utc>) -> MatchRejected {
        self.rejected(RejectReason::Expired, now)
    }

    fn rejected(&self, reason: RejectReason, now: DateTime<Utc>) -> MatchRejected {
        let Self { match_id, request_id, driver_id, passenger_id, .. } = *self;
        let rejected_at = MatchRejected::time(Service::Users, now);
        MatchRejected { match_id, request_id, driver_id, passenger_id, reason, rejected_at }
    }
}

/// Whether `match.rejected` is shown to both parties of an offer that was in the state `before`. They get one of each offer, the
/// one that ended it here: what this service has published itself (the state has changed with it), or what changes the state. A
/// later one, such as match's `expired` for an offer that the end of its search has closed, tells them nothing. Nor does one that
/// match sent before it received the acceptance: a ride or `superseded` follows; nor one of an offer whose end they have already, because
/// the next offer came first (`rows::take_unshown_ends`).
pub(crate) fn is_shown(before: Option<Before>, rejection: &MatchRejected) -> bool {
    before.is_none_or(|Before { state, end_shown }| {
        !end_shown && (rejection.is_from(Service::Users) || rejected(state, rejection.reason) != state)
    })
}

/// The state of an offer after `match.rejected`. An accepted offer changes only by `superseded`: after every other reason
/// its ride still follows.
fn rejected(state: OfferState, reason: RejectReason) -> OfferState {
    match (state, reason) {
        (OfferState::Open, RejectReason::Declined) => OfferState::Declined,
        (OfferState::Open, _) | (OfferState::Accepted, RejectReason::Superseded) => OfferState::Closed,
        (state, _) => state,
    }
}
