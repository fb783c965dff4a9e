//! The tables of match in memory, and the transaction on them. `engine/rows.rs`, `record/rows.rs` and `lease.rs` read and write them.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use imbl::OrdMap;
use platform::Transaction;
use streams::{MatchId, RequestId, RideId, UserId};

use crate::engine::{Driver, Offer, Request, Ride};
use crate::record::{Entry, RulesVersion};
use crate::zone_input::ZoneInput;
use crate::zones::{Partition, ZoneSet};

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
    /// By zone.
    pub(crate) leases: OrdMap<u16, LeaseRow>,
    /// The division in force; `None`: there was never one.
    pub(crate) partition: Option<Partition>,
    pub(crate) members: OrdMap<String, Member>,
    /// In PostgreSQL a column of each table; what is not here is in zone 0.
    pub(crate) zone_of_request: OrdMap<RequestId, u16>,
    pub(crate) zone_of_offer: OrdMap<MatchId, u16>,
    pub(crate) zone_of_ride: OrdMap<RideId, u16>,
    pub(crate) zones_of_driver: OrdMap<UserId, ZoneSet>,
    pub(crate) zone_of_passenger: OrdMap<UserId, (u16, DateTime<Utc>)>,
    pub(crate) zone_inputs: OrdMap<(u16, i64), ZoneInput>,
    /// Inputs that are given up, and why. In PostgreSQL a column of the same table.
    pub(crate) given_up_inputs: OrdMap<i64, (ZoneInput, String)>,
    pub(crate) last_zone_input: i64,
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) partition: Partition,
    pub(crate) expires_at: DateTime<Utc>,
}

/// A transaction on the tables of match.
pub type Tx = Transaction<Tables>;
