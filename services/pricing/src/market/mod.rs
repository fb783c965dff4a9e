//! Markets: where the platform serves people, and by which rules. A ride belongs to the market of its pickup. Pure: `file.rs` reads
//! the text of MARKETS_FILE, and whoever holds a [`Current`] replaces the markets as a whole.

mod area;
mod file;
pub mod fit;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use streams::event::RideTerms;
use streams::{Position, VehicleType};

pub use self::rules::{Approval, Market, NotServed, WORLD};
use crate::Tariffs;

/// All markets, as one file says. At least one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

    /// What `text` has that is no mistake, and probably not meant so: a sentence each.
    pub fn warnings(&self, text: &str) -> Vec<String> {
        file::warnings(text, &self.markets)
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

    /// All, and those that are no more: something may have begun in them.
    pub fn iter_with_retired(&self) -> impl Iterator<Item = &Market> {
        self.markets.iter().chain(&self.retired)
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

    /// The market of a search, an offer or a ride that began in `market_id`, wherever the borders are now; also one that is no more. `None`: one
    /// that this process does not know, whose rules are those of no other.
    ///
    /// Where no market is named (the world is one, or the sender is of the version before) it is that of the pickup.
    pub fn of(&self, market_id: Option<&str>, pickup: &Position) -> Option<&Market> {
        match market_id.filter(|id| *id != WORLD) {
            Some(id) => self.iter_with_retired().find(|market| market.market_id == id),
            None => self.at(pickup).or_else(|| self.retired.iter().find(|market| market.contains(pickup))),
        }
    }

    /// What a ride of this market costs that is offered, or begins, at `at`.
    pub fn terms(&self, market: &Market, vehicle: VehicleType, at: DateTime<Utc>) -> RideTerms {
        market.tariffs.terms(vehicle, market.speed_mps(at), &self.version)
    }
}

/// A file's text without the byte order mark that some editors put in front.
pub fn without_mark(text: &str) -> &str {
    file::without_mark(text)
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
        let retired: Vec<Market> = before
            .iter_with_retired()
            .filter(|m| markets.get(&m.market_id).is_none())
            .take(RETIRED_MAX)
            .cloned()
            .collect();
        markets.retired = retired;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(markets);
    }
}

impl Default for Current {
    fn default() -> Self {
        Self::world(Tariffs::default())
    }
}
