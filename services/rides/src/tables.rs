//! The tables of rides in memory. Those in PostgreSQL are in `migrations/rides`.

use chrono::{DateTime, Utc};
use imbl::{OrdMap, OrdSet};
use streams::{ActId, MatchId, PaymentId, RequestId, RideId, RideStatus, UserId};
use uuid::Uuid;

use crate::event_log::EventRow;
use crate::ledger::Entry;
use crate::note::Note;
use crate::payment::{Debt, Payment};
use crate::rating::{Rater, Rating};
use crate::refund::Refund;
use crate::ride::{PinTries, Ride};
use crate::share::Share;
use crate::sos::Alert;

/// The tables, with the indexes and constraints that their operations rely on.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub(crate) rides: OrdMap<RideId, Ride>,
    pub(crate) by_match: OrdMap<MatchId, RideId>,
    pub(crate) live_driver: OrdMap<UserId, RideId>,
    pub(crate) live_passenger: OrdMap<UserId, RideId>,
    pub(crate) of_user: OrdSet<(UserId, DateTime<Utc>, RideId)>,
    pub(crate) arrived: OrdSet<(DateTime<Utc>, RideId)>,
    /// The table `served`: by which match a request became a ride, or that it ended without one.
    pub(crate) decided_requests: OrdMap<RequestId, Option<MatchId>>,
    pub(crate) superseded: OrdSet<MatchId>,
    pub(crate) events: OrdMap<(RideId, u32), EventRow>,
    pub(crate) pin_tries: OrdMap<RideId, PinTries>,
    pub(crate) entries: OrdMap<(RideId, String, String), Entry>,
    pub(crate) payments: OrdMap<PaymentId, Payment>,
    pub(crate) payment_of: OrdMap<RideId, PaymentId>,
    pub(crate) debts: OrdMap<PaymentId, Debt>,
    pub(crate) refunds: OrdMap<ActId, Refund>,
    /// The index of refunds by ride.
    pub(crate) refunds_of: OrdSet<(RideId, DateTime<Utc>, ActId)>,
    /// By ride and time.
    pub(crate) notes: OrdMap<(RideId, DateTime<Utc>, ActId), Note>,
    pub(crate) sos_alerts: OrdMap<Uuid, Alert>,
    pub(crate) shares: OrdMap<Uuid, Share>,
    /// The unique constraint on `token_hash`.
    pub(crate) share_tokens: OrdMap<Vec<u8>, Uuid>,
    pub(crate) ratings: OrdMap<(RideId, Rater), Rating>,
    /// By who is rated, and from when on it counts.
    pub(crate) ratings_of: OrdSet<(UserId, DateTime<Utc>, RideId, Rater)>,
}

impl Tables {
    /// Writes the row of a ride and its entries in every index.
    pub(crate) fn put_ride(&mut self, ride: &Ride) {
        let id = ride.ride_id;
        self.by_match.insert(ride.match_id, id);
        for (live, user) in [(&mut self.live_driver, ride.driver_id), (&mut self.live_passenger, ride.passenger_id)] {
            if !ride.status.is_final() {
                live.insert(user, id);
            } else if live.get(&user) == Some(&id) {
                live.remove(&user);
            }
            self.of_user.insert((user, ride.created_at, id));
        }
        if let Some(at) = ride.arrived_at {
            if ride.status == RideStatus::Arrived {
                self.arrived.insert((at, id));
            } else {
                self.arrived.remove(&(at, id));
            }
        }
        self.rides.insert(id, ride.clone());
    }

    /// Deletes links with their tokens.
    pub(crate) fn remove_shares(&mut self, is_removed: impl Fn(&Share) -> bool) {
        for share in self.shares.values().filter(|share| is_removed(share)).cloned().collect::<Vec<_>>() {
            self.shares.remove(&share.share_id);
            self.share_tokens.remove(&share.token_hash);
        }
    }

    /// Writes the row of a rating and its entry in the index.
    pub(crate) fn put_rating(&mut self, rating: &Rating) {
        let key = (rating.ride_id, rating.by);
        let entry = |rating: &Rating| Some((rating.of_user?, rating.counts_from, rating.ride_id, rating.by));
        if let Some(before) = self.ratings.insert(key, rating.clone()).as_ref().and_then(entry) {
            self.ratings_of.remove(&before);
        }
        self.ratings_of.extend(entry(rating));
    }
}

#[cfg(test)]
mod tests;
