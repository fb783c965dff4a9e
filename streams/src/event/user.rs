//! What users publishes about drivers and passengers: `user.beacon` and `user.finder`.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{MatchId, RequestId, RideId, UserId};
use super::position::Position;
use super::rfc3339;
use super::validation::{EventError, Fields};

/// What a driver drives and a passenger asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VehicleType {
    /// Up to four passengers.
    Car,
    /// One passenger.
    Motorcycle,
    /// Up to seven passengers.
    Van,
}

impl VehicleType {
    /// All three, in the order of the contract.
    pub const ALL: [Self; 3] = [Self::Car, Self::Motorcycle, Self::Van];

    /// The name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Car => "car",
            Self::Motorcycle => "motorcycle",
            Self::Van => "van",
        }
    }
}

impl std::str::FromStr for VehicleType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|v| v.as_str() == text)
            .ok_or_else(|| format!("unknown vehicle type `{text}`: use car, motorcycle or van"))
    }
}

/// A driver went online or offline, or moved while waiting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UserBeacon {
    /// The driver; the entity of the message id.
    pub user_id: UserId,
    /// Whether match may offer rides to the driver.
    pub active: bool,
    /// Match offers only requests for this type.
    pub vehicle_type: VehicleType,
    /// The driver's newest position as users knows it.
    pub location: Position,
    /// By the clock of users, not the device.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub recorded_at: DateTime<Utc>,
    /// When users received `location`, by its clock. A beacon that only says that a socket opened or closed repeats an older
    /// position. Absent: at `recorded_at`.
    #[serde(default, with = "rfc3339::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    pub located_at: Option<DateTime<Utc>>,
    /// The device that sent the newest active `beacon.update`, as users names it: the driver's device between rides. Absent from
    /// a foreign producer's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

impl UserBeacon {
    pub(super) fn validate(&self, fields: &Fields) -> Result<(), EventError> {
        fields.position("location", &self.location)
    }
}

/// A passenger began or ended a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UserFinder {
    /// The search; the entity of the message id.
    pub request_id: RequestId,
    /// The passenger, who has at most one search at a time.
    pub user_id: UserId,
    /// True at the search's beginning, false at its end.
    pub active: bool,
    /// Where the ride begins.
    pub pickup: Position,
    /// Where the ride ends.
    pub dropoff: Position,
    /// Only drivers of this type are proposed.
    pub vehicle_type: VehicleType,
    /// When the search began, went on or ended, by the clock of users.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub recorded_at: DateTime<Utc>,
    /// When the search ends by its time; an event of the version before this field has none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339::optional")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    pub expires_at: Option<DateTime<Utc>>,
    /// The market of the pickup; an event of the version before markets has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market_id: Option<String>,
    /// The search had become this ride, which its driver cancelled before the start: it goes on, first in line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<CancelledRide>,
}

/// The ride that a search had become until its driver cancelled it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CancelledRide {
    /// The ride.
    pub ride_id: RideId,
    /// Its match.
    pub match_id: MatchId,
    /// Who cancelled it, and is not offered this search again.
    pub driver_id: UserId,
}

impl UserFinder {
    pub(super) fn validate(&self, fields: &Fields) -> Result<(), EventError> {
        fields.position("pickup", &self.pickup)?;
        fields.position("dropoff", &self.dropoff)
    }
}
