//! Money and fares. Amounts are integers in minor units, never floats.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

// The active currencies of ISO 4217, by their minor units: List One of the maintenance agency (SIX), as of 2026. CUC, HRK, SLL, ZWL, ANG and
// BGN have been withdrawn since 2021; SLE, VED, XCG and ZWG came.
const WITHOUT_DECIMALS: [&str; 16] =
    ["BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"];
const WITH_THREE_DECIMALS: [&str; 7] = ["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"];
const WITH_TWO_DECIMALS: [&str; 132] = [
    "AED", "AFN", "ALL", "AMD", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BMD", "BND", "BOB", "BRL",
    "BSD", "BTN", "BWP", "BYN", "BZD", "CAD", "CDF", "CHF", "CNY", "COP", "CRC", "CUP", "CVE", "CZK", "DKK", "DOP",
    "DZD", "EGP", "ERN", "ETB", "EUR", "FJD", "FKP", "GBP", "GEL", "GHS", "GIP", "GMD", "GTQ", "GYD", "HKD", "HNL",
    "HTG", "HUF", "IDR", "ILS", "INR", "IRR", "JMD", "KES", "KGS", "KHR", "KPW", "KYD", "KZT", "LAK", "LBP", "LKR",
    "LRD", "LSL", "MAD", "MDL", "MGA", "MKD", "MMK", "MNT", "MOP", "MRU", "MUR", "MVR", "MWK", "MXN", "MYR", "MZN",
    "NAD", "NGN", "NIO", "NOK", "NPR", "NZD", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN", "QAR", "RON", "RSD", "RUB",
    "SAR", "SBD", "SCR", "SDG", "SEK", "SGD", "SHP", "SLE", "SOS", "SRD", "SSP", "STN", "SVC", "SYP", "SZL", "THB",
    "TJS", "TMT", "TOP", "TRY", "TTD", "TWD", "TZS", "UAH", "USD", "UYU", "UZS", "VED", "VES", "WST", "XCD", "XCG",
    "YER", "ZAR", "ZMW", "ZWG",
];

/// ISO 4217 code of the currency of an amount: three capital letters. The code decides what the minor unit is: the cent of USD, the yen
/// itself of JPY.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^[A-Z]{3}$"))]
pub struct Currency([u8; 3]);

impl Currency {
    /// United States dollar; its minor unit is the cent.
    pub const USD: Self = Self(*b"USD");

    /// How many decimals an amount has when it is written for people; 2 for a code that is not active.
    pub fn decimals(&self) -> usize {
        if WITHOUT_DECIMALS.contains(&self.as_str()) {
            0
        } else if WITH_THREE_DECIMALS.contains(&self.as_str()) {
            3
        } else {
            2
        }
    }

    /// Whether people pay with it somewhere: an active code of ISO 4217. Not funds, metals, units of account and codes for tests.
    pub fn is_active(&self) -> bool {
        let lists = [&WITH_TWO_DECIMALS[..], &WITHOUT_DECIMALS[..], &WITH_THREE_DECIMALS[..]];
        lists.iter().any(|list| list.contains(&self.as_str()))
    }

    /// The three letters.
    pub fn as_str(&self) -> &str {
        // Three capital letters, as `from_str` has checked.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for Currency {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let code: Option<[u8; 3]> = text.as_bytes().try_into().ok();
        let code = code.filter(|code| code.iter().all(u8::is_ascii_uppercase));
        code.map(Self).ok_or_else(|| format!("`{text}` is no currency: three capital letters are needed, as in USD"))
    }
}

impl TryFrom<String> for Currency {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.as_str().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An amount of money in minor units of its currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Money {
    /// Minor units, for example cents; may be negative in a ledger.
    pub amount: i64,
    /// ISO 4217 code; amounts of two currencies are never added.
    pub currency: Currency,
}

impl Money {
    /// An amount in US cents.
    pub const fn usd(cents: i64) -> Self {
        Self::new(cents, Currency::USD)
    }

    /// An amount in minor units of `currency`.
    pub const fn new(amount: i64, currency: Currency) -> Self {
        Self { amount, currency }
    }
}

/// As people write it: `12.34 USD`, `1234 JPY`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (decimals, sign) = (self.currency.decimals(), if self.amount < 0 { "-" } else { "" });
        let digits = format!("{:0>width$}", self.amount.unsigned_abs(), width = decimals + 1);
        let (whole, part) = digits.split_at(digits.len() - decimals);
        let point = if decimals == 0 { "" } else { "." };
        write!(f, "{sign}{whole}{point}{part} {}", self.currency)
    }
}

/// One line of a fare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FareLine {
    /// `base`, `distance`, `time`, `minimum` …
    pub name: String,
    /// What this line adds to the total.
    pub amount: Money,
}

/// What the passenger pays; the lines add up to the total.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fare {
    /// In the order of a receipt.
    pub lines: Vec<FareLine>,
    /// The sum of the lines.
    pub total: Money,
    /// True if the distance is the estimate, because no final aggregate came in time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_with_the_decimals_of_their_currency() {
        for (amount, code, text) in [
            (1_234, "USD", "12.34 USD"),
            (-5, "EUR", "-0.05 EUR"),
            (1_234, "JPY", "1234 JPY"),
            (0, "JPY", "0 JPY"),
            (7, "KWD", "0.007 KWD"),
        ] {
            assert_eq!(Money::new(amount, code.parse().unwrap()).to_string(), text);
        }
        for (code, is_active) in
            [("EUR", true), ("XCG", true), ("KWD", true), ("BTC", false), ("EUT", false), ("XAU", false)]
        {
            assert_eq!(code.parse::<Currency>().unwrap().is_active(), is_active, "{code}");
        }
        for text in ["usd", "US", "USDT", "U1D", "ÄÖ"] {
            assert!(text.parse::<Currency>().is_err(), "{text}");
        }
    }
}
