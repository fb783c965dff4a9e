//! The steps of a ride: `ride.pickup`, `ride.waiting`, `ride.started`, `ride.arrived`, `ride.completed` and `ride.cancelled`.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{MatchId, RequestId, RideId, UserId};
use super::money::{Currency, Fare, Money};
use super::position::Position;
use super::rfc3339;
use super::subject::Subject;
use super::user::VehicleType;
use super::validation::{EventError, Fields};

/// The state of a ride; also the last part of its event's subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RideStatus {
    /// The driver is on the way to the pickup.
    Pickup,
    /// The driver waits at the pickup. A ride may start without it.
    Waiting,
    /// The passenger is in the vehicle.
    Started,
    /// At the dropoff; rides waits for the final distance to bill it.
    Arrived,
    /// Final: paid, or a debt.
    Completed,
    /// Final: ended early.
    Cancelled,
}

impl RideStatus {
    /// All six, in legal order.
    pub const ALL: [Self; 6] =
        [Self::Pickup, Self::Waiting, Self::Started, Self::Arrived, Self::Completed, Self::Cancelled];

    /// The subject of the event that leads to this status.
    pub const fn subject(self) -> Subject {
        match self {
            Self::Pickup => Subject::RidePickup,
            Self::Waiting => Subject::RideWaiting,
            Self::Started => Subject::RideStarted,
            Self::Arrived => Subject::RideArrived,
            Self::Completed => Subject::RideCompleted,
            Self::Cancelled => Subject::RideCancelled,
        }
    }

    /// The name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pickup => "pickup",
            Self::Waiting => "waiting",
            Self::Started => "started",
            Self::Arrived => "arrived",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The fields that an event with this status has beyond those of all.
    pub const fn required_fields(self) -> &'static [&'static str] {
        match self {
            Self::Cancelled => &["by", "reason", "fee"],
            Self::Completed => &["distance_m", "duration_s", "fare", "platform_fee", "driver_payout"],
            Self::Pickup | Self::Waiting | Self::Started | Self::Arrived => &[],
        }
    }

    /// Whether no event can follow.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled)
    }
}

impl std::str::FromStr for RideStatus {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| format!("unknown ride status `{text}`"))
    }
}

/// Who ended a ride.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    /// The ride's driver.
    Driver,
    /// The ride's passenger.
    Passenger,
    /// The platform, for example after the driver was offline for too long.
    System,
}

/// Why somebody cancels a ride, for programs. The words are in `reason` or `note`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CancelCode {
    /// The passenger does not need the ride any more.
    ChangedMind,
    /// The driver is too far away or does not come.
    DriverTooFar,
    /// The pickup is not where the passenger is.
    WrongPickup,
    /// The passenger did not come to the pickup.
    NoShow,
    /// The vehicle cannot go on.
    VehicleProblem,
    /// Somebody does not feel safe.
    Unsafe,
    /// Anything else, also what an old client says in words alone.
    #[serde(other)]
    Other,
}

impl CancelCode {
    /// The code that `reason` is; words are [`Self::Other`].
    pub fn of(reason: &str) -> Self {
        let code = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(reason);
        Self::deserialize(code).unwrap_or(Self::Other)
    }
}

/// One step of a ride. `by`, `reason` and `fee` are required in `ride.cancelled`, and `distance_m` to `driver_payout` in
/// `ride.completed`; elsewhere they are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RideEvent {
    /// The entity of the message id; events of one ride are published in the order of `version`.
    pub ride_id: RideId,
    /// The accepted offer that became this ride.
    pub match_id: MatchId,
    /// Who drives; the same in every event of the ride.
    pub driver_id: UserId,
    /// Who rides; the same in every event of the ride.
    pub passenger_id: UserId,
    /// 1, 2, 3 … for each ride, without gaps.
    #[schemars(range(min = 1))]
    pub version: u32,
    /// The status after this event.
    pub status: RideStatus,
    /// Where the ride begins.
    pub pickup: Position,
    /// Where the ride ends.
    pub dropoff: Position,
    /// The type that the passenger asked for; it decides the tariff.
    pub vehicle_type: VehicleType,
    /// When rides committed this step.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub occurred_at: DateTime<Utc>,
    /// `hash` of the version before; 64 zeros for version 1.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub previous_hash: String,
    /// SHA-256, lower-case hex, of the RFC 8785 form of this body without `hash`.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub hash: String,
    /// Cancelled: who ended the ride.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Party>,
    /// Cancelled: why, in the canceller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Cancelled: the reason as a code. Older events do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<CancelCode>,
    /// Cancelled: what the canceller says beside a code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Cancelled: what the passenger pays for it; may be 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee: Option<Money>,
    /// Completed, or cancelled after the start: driven from the start on, metres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub distance_m: Option<f64>,
    /// Completed, or cancelled after the start: the time from the start on, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub duration_s: Option<f64>,
    /// Completed, or cancelled with a fee: what the passenger pays, line by line. Older cancellations do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fare: Option<Fare>,
    /// Completed, or cancelled with a fee: the platform's part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform_fee: Option<Money>,
    /// Completed, or cancelled with a fee: the driver's part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_payout: Option<Money>,
    /// Cancelled: the passenger's search goes on, with the same `request_id`, without this driver. Left out if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search_continues: Option<bool>,
    /// Pickup, and cancelled if the search goes on: the search that became this ride. Older events do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The market of the pickup. Older events do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market_id: Option<String>,
    /// Pickup: what the ride costs, however tariffs change while it lasts. Older events do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<RideTerms>,
}

/// The tariff of a ride and its rules of waiting, as they were when it began. Amounts are minor units of `currency`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RideTerms {
    /// The version of the markets from which they are.
    #[schemars(range(min = 1))]
    pub version: String,
    /// Of every amount of the ride.
    pub currency: Currency,
    /// For the beginning.
    pub base: i64,
    /// For each kilometre.
    pub per_km: i64,
    /// For each minute from the start on.
    pub per_minute: i64,
    /// For each minute of waiting at the pickup beyond the free time.
    pub wait_per_minute: i64,
    /// The least total, without waiting.
    pub minimum: i64,
    /// The platform's share of the total, basis points.
    pub platform_fee_bp: i64,
    /// For a passenger who cancels late.
    pub cancellation: i64,
    /// This long a driver waits for nothing, seconds.
    pub wait_free_s: u32,
    /// After this the driver may give the passenger up, seconds.
    pub no_show_after_s: u32,
    /// The speed of estimates, millimetres a second.
    pub speed_mm_s: u32,
}

impl RideTerms {
    /// The most of an amount, minor units: a kilometre costs 30,000 in some currencies.
    pub const AMOUNT_MAX: i64 = 100_000_000;

    pub(super) fn validate(&self, fields: &Fields) -> Result<(), EventError> {
        let Self { base, per_km, per_minute, wait_per_minute, minimum, cancellation, .. } = *self;
        let amounts = [base, per_km, per_minute, wait_per_minute, minimum, cancellation];
        if amounts.iter().any(|amount| !(0..=Self::AMOUNT_MAX).contains(amount)) {
            return Err(fields.error("terms", "has an amount that is not from 0 to 100000000"));
        }
        if !(0..=10_000).contains(&self.platform_fee_bp) {
            return Err(fields.error("terms", "has a platform_fee_bp that is not from 0 to 10000"));
        }
        if self.speed_mm_s == 0 || self.version.is_empty() {
            return Err(fields.error("terms", "has no version or no speed"));
        }
        Ok(())
    }
}

impl RideEvent {
    pub(super) fn validate(&self, fields: &Fields) -> Result<(), EventError> {
        fields.position("pickup", &self.pickup)?;
        fields.position("dropoff", &self.dropoff)?;
        let subject = fields.0;
        if self.status.subject() != subject {
            return Err(fields.error("status", &format!("`{}` does not belong to {subject}", self.status.as_str())));
        }
        if self.version == 0 {
            return Err(fields.error("version", "counts from 1"));
        }
        for (field, value) in [("previous_hash", &self.previous_hash), ("hash", &self.hash)] {
            if value.len() != 64 || !value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(fields.error(field, "must be 64 lower-case hexadecimal digits"));
            }
        }
        for field in self.status.required_fields() {
            let is_there = match *field {
                "by" => self.by.is_some(),
                "reason" => self.reason.is_some(),
                "fee" => self.fee.is_some(),
                "distance_m" => self.distance_m.is_some(),
                "duration_s" => self.duration_s.is_some(),
                "fare" => self.fare.is_some(),
                "platform_fee" => self.platform_fee.is_some(),
                "driver_payout" => self.driver_payout.is_some(),
                _ => false,
            };
            if !is_there {
                return Err(fields.error(field, "is missing"));
            }
        }
        if self.status.is_final() {
            fields.measure("distance_m", self.distance_m)?;
            fields.measure("duration_s", self.duration_s)?;
        }
        Ok(())
    }
}
