//! What holds in one market. Pure.

use chrono::{DateTime, Timelike, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use streams::{Currency, Position, VehicleType};

use super::area::Area;
use crate::{ESTIMATED_MPS, Priced, Tariff, Tariffs, estimate_at};

/// The only market without MARKETS_FILE: the whole world.
pub const WORLD: &str = "world";
/// The longest trip of a market that names none, kilometres of great circle.
pub(super) const MAX_TRIP_KM: f64 = 150.0;

/// Who approves the drivers of a market.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Approval {
    /// Nobody: whoever registers may, unless suspended.
    Auto,
    /// An operator.
    Manual,
}

impl Approval {
    /// As in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Manual => "manual",
        }
    }
}

/// How fast the traffic is, metres a second, by hour of the day in the time zone of the market.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Speed {
    Always(f64),
    ByHour(Box<[f64; 24]>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Market {
    pub market_id: String,
    pub name: String,
    #[serde(with = "zone")]
    pub time_zone: Tz,
    /// `None`: by DRIVER_APPROVAL.
    pub driver_approval: Option<Approval>,
    /// `None`: the general settings.
    pub offer_ttl_s: Option<u32>,
    pub request_ttl_s: Option<u32>,
    pub radius_m: Option<f64>,
    /// Towards the end of a search, at least `radius_m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub radius_max_m: Option<f64>,
    /// The longest trip, kilometres of great circle from pickup to dropoff; `None`: any.
    pub max_trip_km: Option<f64>,
    /// The waiting rules are the general ones.
    pub(super) tariffs: Tariffs,
    /// In the order of car, motorcycle, van.
    pub(super) offered: [bool; 3],
    pub(super) speed: Speed,
    /// `None`: the whole world.
    pub(super) area: Option<Area>,
}

/// A time zone by its name in the IANA database.
mod zone {
    use chrono_tz::Tz;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(zone: &Tz, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(zone.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Tz, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// Why a trip cannot be asked for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NotServed {
    #[error("nobody is driven from here: the pickup is in no market")]
    OutOfArea,
    #[error("is {km:.0} km from the pickup: the longest trip in {market} is {max_km:.0} km")]
    TooLong { market: String, km: f64, max_km: f64 },
    #[error("is not offered in {market}")]
    VehicleType { market: String },
}

impl NotServed {
    /// The code of the problem.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::OutOfArea | Self::TooLong { .. } => "out_of_area",
            Self::VehicleType { .. } => "invalid_field",
        }
    }

    /// The field that is at fault.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::OutOfArea => "pickup",
            Self::TooLong { .. } => "dropoff",
            Self::VehicleType { .. } => "vehicle_type",
        }
    }
}

impl Market {
    /// The whole world, at these tariffs.
    pub(super) fn world(tariffs: Tariffs) -> Self {
        Self {
            market_id: WORLD.to_owned(),
            name: WORLD.to_owned(),
            time_zone: Tz::UTC,
            driver_approval: None,
            offer_ttl_s: None,
            request_ttl_s: None,
            radius_m: None,
            radius_max_m: None,
            max_trip_km: None,
            tariffs,
            offered: [true; 3],
            speed: Speed::Always(ESTIMATED_MPS),
            area: None,
        }
    }

    /// Within which drivers are offered a search, at first and towards its end, with these general settings. A market with a radius of its
    /// own stays with it unless it says otherwise.
    pub fn radii_m(&self, radius_m: f64, radius_max_m: f64) -> (f64, f64) {
        let own = self.radius_m.unwrap_or(radius_m);
        (own, self.radius_max_m.or(self.radius_m).unwrap_or(radius_max_m).max(own))
    }

    /// Of its fares.
    pub fn currency(&self) -> Currency {
        self.tariffs.car.currency
    }

    /// Polygons of rings of `[longitude, latitude]`, the outer one first; `None`: the whole world.
    pub fn polygons(&self) -> Option<Vec<Vec<Vec<[f64; 2]>>>> {
        self.area.clone().map(Into::into)
    }

    pub const fn tariff(&self, vehicle: VehicleType) -> &Tariff {
        self.tariffs.of(vehicle)
    }

    pub(super) fn offers(&self, vehicle: VehicleType) -> bool {
        self.offered[vehicle as usize]
    }

    pub(super) fn contains(&self, at: &Position) -> bool {
        self.area.as_ref().is_none_or(|area| area.contains(at))
    }

    /// Of vehicles in traffic at `at`, on the great circle times 1.3.
    pub fn speed_mps(&self, at: DateTime<Utc>) -> f64 {
        match &self.speed {
            Speed::Always(speed) => *speed,
            Speed::ByHour(speeds) => speeds[at.with_timezone(&self.time_zone).hour() as usize],
        }
    }

    /// By how much a trip takes longer here at `at` than [`crate::estimate`] says.
    pub fn pace(&self, at: DateTime<Utc>) -> f64 {
        ESTIMATED_MPS / self.speed_mps(at)
    }

    /// Distance (m) and duration (s) of a trip that begins at `at`, as [`crate::estimate`], at the speed of that hour.
    pub fn estimate(&self, from: &Position, to: &Position, at: DateTime<Utc>) -> (f64, f64) {
        estimate_at(from, to, self.speed_mps(at))
    }

    /// The estimated fare of such a trip.
    pub fn price(&self, vehicle: VehicleType, distance_m: f64, duration_s: f64) -> Priced {
        crate::price(self.tariff(vehicle), distance_m, duration_s)
    }
}
