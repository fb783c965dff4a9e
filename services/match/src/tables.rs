//! The tables of match in memory, and the transaction on them. `engine/rows.rs` and `lease.rs` read and write them.

use chrono::{DateTime, Utc};
use imbl::OrdMap;
use platform::Transaction;
use streams::{MatchId, RequestId, RideId, UserId};

use crate::engine::{Driver, Offer, Request, Ride};

#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub(crate) drivers: OrdMap<UserId, Driver>,
    pub(crate) requests: OrdMap<RequestId, Request>,
    pub(crate) offers: OrdMap<MatchId, Offer>,
    pub(crate) rides: OrdMap<RideId, Ride>,
    /// In PostgreSQL these three are the partial unique indexes on live rows.
    pub(crate) live_request_of: OrdMap<UserId, RequestId>,
    pub(crate) live_offer_of_driver: OrdMap<UserId, MatchId>,
    pub(crate) live_offer_of_passenger: OrdMap<UserId, MatchId>,
    pub(crate) lease: Option<LeaseRow>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseRow {
    pub(crate) epoch: i64,
    pub(crate) holder: String,
    pub(crate) expires_at: DateTime<Utc>,
}

/// A transaction on the tables of match.
pub type Tx = Transaction<Tables>;
