//! Money and fares. Amounts are integers in minor units, never floats.

use serde::{Deserialize, Serialize};

/// ISO 4217 code of the currency of an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Currency {
    /// United States dollar; its minor unit is the cent.
    Usd,
}

/// An amount of money in minor units of its currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// Minor units, for example cents; may be negative in a ledger.
    pub amount: i64,
    /// ISO 4217 code; amounts of two currencies are never added.
    pub currency: Currency,
}

impl Money {
    /// An amount in US cents.
    pub const fn usd(cents: i64) -> Self {
        Self { amount: cents, currency: Currency::Usd }
    }
}

/// One line of a fare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FareLine {
    /// `base`, `distance`, `time`, `minimum` …
    pub name: String,
    /// What this line adds to the total.
    pub amount: Money,
}

/// What the passenger pays; the lines add up to the total.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fare {
    /// In the order of a receipt.
    pub lines: Vec<FareLine>,
    /// The sum of the lines.
    pub total: Money,
    /// True if the distance is the estimate, because no final aggregate came in time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}
