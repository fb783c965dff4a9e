//! The tables of rides in memory; those in PostgreSQL are in `migrations/rides`.

use chrono::{DateTime, Utc};
use imbl::{OrdMap, OrdSet};
use streams::{MatchId, PaymentId, RequestId, RideId, UserId};

use crate::event_log::KeptEvent;
use crate::ledger::Entry;
use crate::payment::{Debt, Payment};
use crate::ride::{PinTries, Ride};

/// The tables in memory.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub(crate) rides: OrdMap<RideId, Ride>,
    pub(crate) by_match: OrdMap<MatchId, RideId>,
    pub(crate) live_driver: OrdMap<UserId, RideId>,
    pub(crate) live_passenger: OrdMap<UserId, RideId>,
    pub(crate) of_user: OrdSet<(UserId, DateTime<Utc>, RideId)>,
    pub(crate) arrived: OrdSet<(DateTime<Utc>, RideId)>,
    pub(crate) served: OrdSet<RequestId>,
    pub(crate) superseded: OrdSet<MatchId>,
    pub(crate) events: OrdMap<(RideId, u32), KeptEvent>,
    pub(crate) pin_tries: OrdMap<RideId, PinTries>,
    pub(crate) entries: OrdMap<(RideId, &'static str, String), Entry>,
    pub(crate) payments: OrdMap<PaymentId, Payment>,
    pub(crate) payment_of: OrdMap<RideId, PaymentId>,
    pub(crate) debts: OrdMap<PaymentId, Debt>,
}

#[cfg(test)]
mod tests;
