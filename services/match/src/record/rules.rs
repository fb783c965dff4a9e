//! The rules of the engine as text, under the version that names them. Pure.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chrono::Duration;
use pricing::market::Markets;
use serde::{Deserialize, Serialize};

use super::codec::fnv;
use crate::engine::Rules;
use crate::zones::{Partition, Zone};

/// Names rules by their content, markets included: a hash of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RulesVersion(pub u64);

impl fmt::Display for RulesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[derive(Serialize, Deserialize)]
struct Text {
    offer_ttl_ms: i64,
    request_ttl_ms: i64,
    radius_m: f64,
    /// If it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    radius_max_m: Option<f64>,
    policy: String,
    window_ms: i64,
    speed_mps: Option<f64>,
    roads: bool,
    /// The number of the zone, of how many, and the edge of the cells (m). With one zone there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<(u16, u16, u32)>,
    markets: Markets,
}

/// The text and its version. [`parse`] makes the same rules of it: times to the millisecond, as settings have them.
pub fn text_of(rules: &Rules) -> (RulesVersion, String) {
    let partition = rules.zone.partition;
    let text = Text {
        offer_ttl_ms: rules.offer_ttl.num_milliseconds(),
        request_ttl_ms: rules.request_ttl.num_milliseconds(),
        radius_m: rules.radius_m,
        radius_max_m: Some(rules.radius_max_m).filter(|max_m| *max_m != rules.radius_m),
        policy: rules.policy.as_str().to_owned(),
        window_ms: rules.window.num_milliseconds(),
        speed_mps: rules.speed_mps,
        roads: rules.roads,
        zone: (!partition.is_one()).then(|| (rules.zone.number, partition.zones(), partition.cell_m())),
        markets: Markets::clone(&rules.markets),
    };
    let text = serde_json::to_string(&text).expect("a struct of numbers, strings and lists");
    (RulesVersion(fnv(text.as_bytes())), text)
}

/// # Errors
/// A sentence that says what is wrong.
pub fn parse(text: &str) -> Result<Rules, String> {
    let text: Text = serde_json::from_str(text).map_err(|error| format!("the recorded rules: {error}"))?;
    if text.markets.iter().next().is_none() {
        return Err("the recorded rules have no market".to_owned());
    }
    Ok(Rules {
        offer_ttl: Duration::milliseconds(text.offer_ttl_ms),
        request_ttl: Duration::milliseconds(text.request_ttl_ms),
        radius_m: text.radius_m,
        radius_max_m: text.radius_max_m.unwrap_or(text.radius_m),
        policy: FromStr::from_str(&text.policy)?,
        window: Duration::milliseconds(text.window_ms),
        speed_mps: text.speed_mps,
        roads: text.roads,
        zone: text
            .zone
            .map_or(Zone::ONLY, |(number, zones, cell_m)| Zone { partition: Partition::new(zones, cell_m), number }),
        markets: Arc::new(text.markets),
    })
}
