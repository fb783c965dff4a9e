//! The tables of match in memory, and the transaction on them. `engine/rows.rs`, `record/rows.rs` and `lease.rs` read and write them.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use imbl::OrdMap;
use platform::Transaction;
use streams::{MatchId, RequestId, RideId, UserId};

use crate::engine::{Driver, Offer, Request, Ride};
use crate::record::{Entry, RulesVersion};

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
    /// By term and number.
    pub(crate) recorded_steps: OrdMap<(i64, i64), Entry>,
    /// Of all entries.
    pub(crate) recorded_bytes: usize,
    /// With the time of their last use.
    pub(crate) recorded_rules: OrdMap<RulesVersion, (Arc<str>, DateTime<Utc>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseRow {
    pub(crate) epoch: i64,
    pub(crate) holder: String,
    pub(crate) expires_at: DateTime<Utc>,
}

/// A transaction on the tables of match.
pub type Tx = Transaction<Tables>;
