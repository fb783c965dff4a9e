//! What users asks match when a driver wants to know why others were offered the searches around them. Nothing follows from it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::ids::UserId;
use crate::event::{Position, rfc3339};

/// The subject of the request; match subscribes in the queue group of the same name.
pub const MISSED_OFFERS: &str = "matching.missed_offers";
/// How long users waits for the reply: match runs its record again meanwhile.
pub const MISSED_OFFERS_WAIT: Duration = Duration::from_secs(4);
/// The most searches of one reply, the newest.
pub const MISSED_OFFERS_MAX: usize = 50;

/// The request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MissedOffersRequest {
    /// The driver, authenticated by users.
    pub user_id: UserId,
    /// From when on.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub since: DateTime<Utc>,
}

/// The reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissedOffersReply {
    /// What the record says.
    Missed {
        /// The newest first.
        searches: Vec<MissedOffer>,
        /// So many older ones are left out.
        more: usize,
        /// Since when nothing is missing among them, not earlier than asked for. Before it the record does not reach, or decides otherwise
        /// when it is run again, so that something may be missing. `None`: what came last is not known.
        #[serde(with = "rfc3339::optional")]
        #[schemars(with = "Option<DateTime<Utc>>")]
        complete_since: Option<DateTime<Utc>>,
    },
    /// It is too much to look through at once, or others ask: later, or for a shorter time.
    Busy,
    /// Nothing is recorded.
    Unavailable,
}

/// A search around a driver that somebody else was offered. It names nobody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MissedOffer {
    /// When the other driver was offered it, cut to the minute.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub at: DateTime<Utc>,
    /// To about 100 m.
    pub pickup: Position,
    /// From the driver to that place, great circle, metres, to 100 m.
    #[schemars(range(min = 0))]
    pub distance_m: f64,
    /// Why the driver was not offered it.
    pub why: WhyMissed,
    /// By how much the other driver was nearer, metres, to 100 m; negative if they were farther.
    pub nearer_by_m: f64,
}

/// Why a driver who was on duty was not offered a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhyMissed {
    /// Free, and somebody else was nearer.
    Farther,
    /// Free and as near, and all who waited together were served better so.
    BetterTogether,
    /// Offered another search in the same moment.
    OfferedAnother,
    /// The driver declined or missed an offer of this search.
    AskedBefore,
    /// The driver had an open offer.
    InOffer,
    /// The driver was in a ride.
    InRide,
    /// Free, and no road leads from there.
    NoRoad,
}
