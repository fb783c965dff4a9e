//! Offers of a driver to a passenger: `match.found`, `match.accepted` and `match.rejected`.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{MatchId, RequestId, UserId};
use super::money::Money;
use super::position::Position;
use super::rfc3339;
use super::ride::RideTerms;
use super::subject::Service;
use super::user::VehicleType;
use super::validation::{EventError, Fields};

/// A driver is proposed to a passenger, and has until `expires_at` to answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MatchFound {
    /// The offer; the entity of the message id.
    pub match_id: MatchId,
    /// The search for which match chose the driver.
    pub request_id: RequestId,
    /// The driver, held until the offer ends.
    pub driver_id: UserId,
    /// The passenger, held until the offer ends.
    pub passenger_id: UserId,
    /// The driver's newest position that match knew.
    pub driver_location: Position,
    /// Where the ride begins.
    pub pickup: Position,
    /// Where the ride ends.
    pub dropoff: Position,
    /// The type that the passenger asked for and the driver drives.
    pub vehicle_type: VehicleType,
    /// From the driver to the pickup, metres.
    #[schemars(range(min = 0))]
    pub pickup_distance_m: f64,
    /// From the driver to the pickup, seconds.
    #[schemars(range(min = 0))]
    pub pickup_eta_s: f64,
    /// The estimated fare; the bill follows the distance driven.
    pub fare_estimate: Money,
    /// The market of the pickup; an event of the version before markets has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market_id: Option<String>,
    /// What the ride costs if it comes of this offer, however tariffs change meanwhile. An event of the version before has none, and what
    /// clients receive neither: they see it in ride.pickup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Box<RideTerms>>,
    /// False: times and distances are those of a street network. True: the great circle times 1.3, at the market's speed. An event of the
    /// version before road times has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated: Option<bool>,
    /// When match chose the driver.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub found_at: DateTime<Utc>,
    /// The last moment for an answer.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub expires_at: DateTime<Utc>,
}

impl MatchFound {
    pub(super) fn validate(&self, fields: &Fields) -> Result<(), EventError> {
        fields.position("driver_location", &self.driver_location)?;
        fields.position("pickup", &self.pickup)?;
        fields.position("dropoff", &self.dropoff)?;
        fields.measure("pickup_distance_m", Some(self.pickup_distance_m))?;
        fields.measure("pickup_eta_s", Some(self.pickup_eta_s))?;
        terms(fields, self.market_id.as_deref(), self.terms.as_deref())
    }
}

/// The driver accepted the offer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MatchAccepted {
    /// The offer; the entity of the message id. At most one ride comes from it.
    pub match_id: MatchId,
    /// The search that is fulfilled.
    pub request_id: RequestId,
    /// The driver of the ride to be.
    pub driver_id: UserId,
    /// The passenger of the ride to be.
    pub passenger_id: UserId,
    /// Where the ride begins.
    pub pickup: Position,
    /// Where the ride ends.
    pub dropoff: Position,
    /// The type that the passenger asked for and the driver drives.
    pub vehicle_type: VehicleType,
    /// That of the offer; an event of the version before has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market_id: Option<String>,
    /// Those of the offer: what the ride costs. An event of the version before has none, and what clients receive neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Box<RideTerms>>,
    /// When users committed the driver's answer.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub accepted_at: DateTime<Utc>,
}

impl MatchAccepted {
    pub(super) fn validate(&self, fields: &Fields) -> Result<(), EventError> {
        fields.position("pickup", &self.pickup)?;
        fields.position("dropoff", &self.dropoff)?;
        terms(fields, self.market_id.as_deref(), self.terms.as_deref())
    }
}

/// Terms are those of a market, and a ride can be billed by them.
fn terms(fields: &Fields, market_id: Option<&str>, terms: Option<&RideTerms>) -> Result<(), EventError> {
    let Some(terms) = terms else { return Ok(()) };
    if market_id.is_none_or(str::is_empty) {
        return Err(fields.error("market_id", "is missing: the terms are those of a market"));
    }
    terms.validate(fields)
}

/// Why an offer ended without a ride.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RejectReason {
    /// The driver said no.
    Declined,
    /// The driver did not answer until `expires_at`.
    Expired,
    /// The passenger ended the search.
    Cancelled,
    /// Driver or passenger is in another ride already.
    Superseded,
}

/// An offer ended without a ride. Both parties are free again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MatchRejected {
    /// The offer; the entity of the message id.
    pub match_id: MatchId,
    /// The search, which goes on unless the passenger ended it.
    pub request_id: RequestId,
    /// The driver, no longer held.
    pub driver_id: UserId,
    /// The passenger, no longer held.
    pub passenger_id: UserId,
    /// `declined` comes from users, and so does `cancelled` when the search ended; `cancelled` for another reason and `expired`
    /// come from match, `superseded` from rides.
    pub reason: RejectReason,
    /// From [`MatchRejected::time`], so that two services never publish the same message id.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub rejected_at: DateTime<Utc>,
}

impl MatchRejected {
    /// The `rejected_at` of an offer that `writer` ends at `now`: `now`, or up to 2 µs before it.
    ///
    /// The message id consists of the offer and this time, and two services may end one offer in the same microsecond (the
    /// driver declines while the passenger cancels the search). Each service therefore uses microseconds of its own;
    /// otherwise the stream would treat the second event as a duplicate.
    pub fn time(writer: Service, now: DateTime<Utc>) -> DateTime<Utc> {
        now - chrono::Duration::microseconds((now.timestamp_micros() - Self::remainder(writer)).rem_euclid(3))
    }

    /// Whether `writer` ended the offer, by [`Self::time`].
    pub fn is_from(&self, writer: Service) -> bool {
        self.rejected_at.timestamp_micros().rem_euclid(3) == Self::remainder(writer)
    }

    /// That of its microseconds divided by 3.
    fn remainder(writer: Service) -> i64 {
        match writer {
            Service::Users | Service::Location => 0,
            Service::Match => 1,
            Service::Rides => 2,
        }
    }
}
