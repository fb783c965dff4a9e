//! Markets: where the platform serves people, and by which rules. A ride belongs to the market of its pickup. Pure: `file.rs` reads
//! the text of MARKETS_FILE, and whoever holds a [`Current`] replaces the markets as a whole.

mod area;
mod file;
pub mod fit;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Timelike, Utc};
use chrono_tz::Tz;
use streams::event::RideTerms;
use streams::{Position, VehicleType};

use self::area::Area;
use crate::{ESTIMATED_MPS, Priced, Tariff, Tariffs, estimate_at};

/// The only market without MARKETS_FILE: the whole world.
pub const WORLD: &str = "world";
/// The longest trip of a market that names none, kilometres of great circle.
const MAX_TRIP_KM: f64 = 150.0;

/// Whether an operator must have approved a driver who goes on duty in this market.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Approval {
    Auto,
    Manual,
}

/// How fast the traffic is, metres a second, by hour of the day in the time zone of the market.
#[derive(Debug, Clone, PartialEq)]
enum Speed {
    Always(f64),
    ByHour(Box<[f64; 24]>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Market {
    pub market_id: String,
    pub name: String,
    pub time_zone: Tz,
    /// `None` and `Auto`: as the driver registered, by DRIVER_APPROVAL.
    driver_approval: Option<Approval>,
    /// `None`: the general settings.
    pub offer_ttl_s: Option<u32>,
    pub request_ttl_s: Option<u32>,
    pub radius_m: Option<f64>,
    /// The longest trip, kilometres of great circle from pickup to dropoff; `None`: any.
    pub max_trip_km: Option<f64>,
    /// The waiting rules are the general ones.
    tariffs: Tariffs,
    /// In the order of car, motorcycle, van.
    offered: [bool; 3],
    speed: Speed,
    /// `None`: the whole world.
    area: Option<Area>,
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
    fn world(tariffs: Tariffs) -> Self {
        Self {
            market_id: WORLD.to_owned(),
            name: "World".to_owned(),
            time_zone: Tz::UTC,
            driver_approval: None,
            offer_ttl_s: None,
            request_ttl_s: None,
            radius_m: None,
            max_trip_km: None,
            tariffs,
            offered: [true; 3],
            speed: Speed::Always(ESTIMATED_MPS),
            area: None,
        }
    }

    /// Whether only drivers whom an operator has approved may go on duty here.
    pub fn needs_review(&self) -> bool {
        self.driver_approval == Some(Approval::Manual)
    }

    pub const fn tariff(&self, vehicle: VehicleType) -> &Tariff {
        self.tariffs.of(vehicle)
    }

    fn offers(&self, vehicle: VehicleType) -> bool {
        self.offered[vehicle as usize]
    }

    fn contains(&self, at: &Position) -> bool {
        self.area.as_ref().is_none_or(|area| area.contains(at))
    }

    fn speed_mps(&self, at: DateTime<Utc>) -> f64 {
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

/// All markets, as one file says. At least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Markets {
    /// Names this content: a hash of the file, or of the tariffs of the world.
    pub version: String,
    /// For rides that began before there were markets: those of FARE_* and of the settings of waiting.
    pub general: Tariffs,
    markets: Vec<Market>,
    /// Those that a version before had and this one has not, as long as the process lives: nobody asks for a ride there any more.
    retired: Vec<Market>,
}

/// The most markets that are remembered.
const RETIRED_MAX: usize = 1_000;

impl Markets {
    /// The whole world as one market.
    pub fn world(tariffs: Tariffs) -> Self {
        let version = file::version(format!("{tariffs:?}").as_bytes());
        Self { version, general: tariffs, markets: vec![Market::world(tariffs)], retired: Vec::new() }
    }

    /// What MARKETS_FILE says. Its rules of waiting are those of `general`.
    ///
    /// # Errors
    /// A sentence that names the feature, the property and what would be right.
    pub fn parse(text: &str, general: &Tariffs) -> Result<Self, String> {
        let markets = file::markets(text, general)?;
        Ok(Self { version: file::version(text.as_bytes()), general: *general, markets, retired: Vec::new() })
    }

    /// Whether the whole world is one market.
    pub fn is_world(&self) -> bool {
        self.markets[0].area.is_none()
    }

    /// The market of a place: the first in the file that contains it, borders included.
    pub fn at(&self, place: &Position) -> Option<&Market> {
        self.markets.iter().find(|market| market.contains(place))
    }

    pub fn get(&self, market_id: &str) -> Option<&Market> {
        self.markets.iter().find(|market| market.market_id == market_id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Market> {
        self.markets.iter()
    }

    /// The market of a trip that may be asked for.
    ///
    /// # Errors
    /// [`NotServed`].
    pub fn serving(&self, pickup: &Position, dropoff: &Position, vehicle: VehicleType) -> Result<&Market, NotServed> {
        let market = self.at(pickup).ok_or(NotServed::OutOfArea)?;
        let name = || market.name.clone();
        if !market.offers(vehicle) {
            return Err(NotServed::VehicleType { market: name() });
        }
        let km = pickup.distance_m(dropoff) / 1_000.0;
        match market.max_trip_km {
            Some(max_km) if km > max_km => Err(NotServed::TooLong { market: name(), km, max_km }),
            _ => Ok(market),
        }
    }

    /// The market of a pickup. A search or a ride that began in a market which is no more is still by its rules; a pickup that never
    /// was in any is taken for the first market.
    pub fn of_pickup(&self, pickup: &Position) -> &Market {
        let retired = || self.retired.iter().find(|market| market.contains(pickup));
        self.at(pickup).or_else(retired).unwrap_or(&self.markets[0])
    }

    /// The market of a ride that begins here at `at`, and its terms.
    pub fn terms(&self, pickup: &Position, vehicle: VehicleType, at: DateTime<Utc>) -> (&Market, RideTerms) {
        let market = self.of_pickup(pickup);
        (market, market.tariffs.terms(vehicle, market.speed_mps(at), &self.version))
    }
}

/// The markets that count now; clones share them.
#[derive(Debug, Clone)]
pub struct Current(Arc<RwLock<Arc<Markets>>>);

impl Current {
    pub fn new(markets: Markets) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(markets))))
    }

    /// The whole world at these tariffs.
    pub fn world(tariffs: Tariffs) -> Self {
        Self::new(Markets::world(tariffs))
    }

    pub fn get(&self) -> Arc<Markets> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn replace(&self, mut markets: Markets) {
        let before = self.get();
        let known = before.markets.iter().chain(&before.retired);
        let retired: Vec<Market> =
            known.filter(|m| markets.get(&m.market_id).is_none()).take(RETIRED_MAX).cloned().collect();
        markets.retired = retired;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(markets);
    }
}

impl Default for Current {
    fn default() -> Self {
        Self::world(Tariffs::default())
    }
}
