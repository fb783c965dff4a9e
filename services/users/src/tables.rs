//! The service's tables in memory: the same tables and unique constraints as `migrations/users`. The operations on them
//! are in each noun's `rows.rs`, beside their SQL.
//!
//! All maps are persistent, because a transaction works on a copy.

use std::ops::Bound;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use imbl::{OrdMap, OrdSet};
use streams::operators::Document;
use streams::sign_ins::EndedSignIn;
use streams::{MatchId, RequestId, RideId, SignInId, UserId};
use uuid::Uuid;

use crate::account::{Driver, Profile, Suspension};
use crate::live_ride::LiveRide;
use crate::mailbox::{Device, Entry, MailboxCursor};
use crate::offer::{Offer, OfferEnd, OfferState};
use crate::phone_change::PhoneChange;
use crate::presence::Beacon;
use crate::push::queue::PushRows;
use crate::rate_limit::RowKey;
use crate::search::Search;
use crate::sign_in::SignIn;
use crate::sign_in::otp::Code;
use crate::sign_in::phone::Phone;

#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub(crate) accounts: AccountRows,
    /// One-time codes, by phone and request.
    pub(crate) codes: OrdMap<(Phone, Uuid), Code>,
    /// Buckets that are not full: when each is full again.
    pub(crate) rate_limits: OrdMap<RowKey, DateTime<Utc>>,
    /// Marks of suspended drivers, by their hash: until when.
    pub(crate) suspensions: OrdMap<Vec<u8>, DateTime<Utc>>,
    /// Of the drivers who are suspended.
    pub(crate) suspension_ends: OrdMap<UserId, Suspension>,
    /// The papers of drivers; none is left out.
    pub(crate) documents: OrdMap<UserId, Vec<Document>>,
    pub(crate) phone_changes: OrdMap<UserId, PhoneChange>,
    pub(crate) sign_ins: SignInRows,
    pub(crate) mailboxes: MailboxRows,
    pub(crate) presence: PresenceRows,
    /// Devices, and what is pushed to them.
    pub(crate) push: PushRows,
    /// Open searches, by passenger: at most one each.
    pub(crate) searches: OrdMap<UserId, Search>,
    /// The column `searches.ending_at`.
    pub(crate) ending_searches: OrdMap<RequestId, DateTime<Utc>>,
    /// The searches with a value in the column `searches.end_announced_at`.
    pub(crate) announced_ends: OrdSet<RequestId>,
    pub(crate) offers: OrdMap<MatchId, Offer>,
    /// The index of offers by search.
    pub(crate) offers_of_search: OrdSet<(RequestId, MatchId)>,
    /// The column `offers.device`.
    pub(crate) accepting_devices: OrdMap<MatchId, String>,
    /// The column `offers.found`.
    pub(crate) found_events: OrdMap<MatchId, String>,
    /// The columns `offers.end_event` and `offers.end_shown`.
    pub(crate) offer_ends: OrdMap<MatchId, OfferEnd>,
    /// The column `offers.end_reason`.
    pub(crate) offer_end_reasons: OrdMap<MatchId, &'static str>,
    pub(crate) live_rides: OrdMap<RideId, LiveRide>,
    /// The columns `match_id` and `event` of `live_rides`.
    pub(crate) ride_events: OrdMap<RideId, (MatchId, String)>,
    /// The column `live_rides.device`.
    pub(crate) ride_devices: OrdMap<RideId, String>,
}

impl Tables {
    pub(crate) fn offers_of(&self, search: RequestId) -> impl Iterator<Item = &Offer> {
        let range = (search, MatchId(Uuid::nil()))..=(search, MatchId(Uuid::max()));
        self.offers_of_search.range(range).filter_map(|(_, id)| self.offers.get(id))
    }

    pub(crate) fn is_accepted(&self, search: RequestId) -> bool {
        self.offers_of(search).any(|offer| offer.state == OfferState::Accepted)
    }
}

/// Users and drivers, with an index for each unique constraint.
#[derive(Debug, Clone, Default)]
pub(crate) struct AccountRows {
    pub(crate) users: OrdMap<UserId, UserRow>,
    pub(crate) phones: OrdMap<Phone, UserId>,
    pub(crate) drivers: OrdMap<UserId, Driver>,
    /// The column `drivers.reviewed`.
    pub(crate) reviewed: OrdSet<UserId>,
    /// The users with a value in the column `users.erased_elsewhere_at`.
    pub(crate) erased_elsewhere: OrdSet<UserId>,
    /// The column `drivers.registered_at`.
    pub(crate) registered: OrdMap<UserId, DateTime<Utc>>,
    /// Users whose accounts have ended, with the column `users.deleted_at`. They are in none of the other maps.
    pub(crate) deleted: OrdMap<UserId, DateTime<Utc>>,
    /// By the plates as they are compared.
    pub(crate) plates: OrdMap<String, UserId>,
}

impl AccountRows {
    pub(crate) fn profile(&self, user: UserId) -> Option<Profile> {
        let driver = self.drivers.get(&user).cloned();
        self.users.get(&user).map(|row| Profile::new(user, row.phone.as_str().to_owned(), row.name.clone(), driver))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct UserRow {
    pub(crate) phone: Phone,
    pub(crate) name: Option<String>,
    pub(crate) created_at: DateTime<Utc>,
}

/// Sign-ins, with the indexes by user and by the time of their end.
#[derive(Debug, Clone, Default)]
pub(crate) struct SignInRows {
    by_id: OrdMap<SignInId, SignIn>,
    by_user: OrdSet<(UserId, SignInId)>,
    by_end: OrdSet<(DateTime<Utc>, SignInId)>,
}

impl SignInRows {
    pub(crate) fn get(&self, id: SignInId) -> Option<&SignIn> {
        self.by_id.get(&id)
    }

    pub(crate) fn of(&self, user: UserId) -> impl Iterator<Item = &SignIn> {
        let (first, last) = (SignInId(Uuid::nil()), SignInId(Uuid::max()));
        self.by_user.range((user, first)..=(user, last)).filter_map(|(_, id)| self.by_id.get(id))
    }

    pub(crate) fn put(&mut self, sign_in: SignIn) {
        self.by_user.insert((sign_in.user, sign_in.id));
        self.by_end.extend(sign_in.ended_at.map(|ended_at| (ended_at, sign_in.id)));
        self.by_id.insert(sign_in.id, sign_in);
    }

    pub(crate) fn ended_after(&self, after: (DateTime<Utc>, SignInId), max: usize) -> Vec<EndedSignIn> {
        let later = self.by_end.range((Bound::Excluded(after), Bound::Unbounded)).take(max);
        let read = |(ended_at, id): &(DateTime<Utc>, SignInId)| {
            let user_id = self.by_id.get(id)?.user;
            Some(EndedSignIn { sign_in_id: *id, user_id, ended_at: *ended_at })
        };
        later.filter_map(read).collect()
    }

    pub(crate) fn remove_if(&mut self, is_old: impl Fn(&SignIn) -> bool) {
        let old: Vec<SignIn> = self.by_id.values().filter(|one| is_old(one)).cloned().collect();
        for one in old {
            self.by_id.remove(&one.id);
            self.by_user.remove(&(one.user, one.id));
            if let Some(ended_at) = one.ended_at {
                self.by_end.remove(&(ended_at, one.id));
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct MailboxRows {
    pub(crate) cursors: OrdMap<UserId, MailboxCursor>,
    pub(crate) entries: OrdMap<(UserId, u64), EntryRow>,
    /// The unique constraint on user and event id.
    pub(crate) event_ids: OrdSet<(UserId, String)>,
    pub(crate) devices: OrdMap<(UserId, Device), DeviceRow>,
}

/// How far a device has read, and when a socket of it was last seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceRow {
    pub(crate) acked_seq: u64,
    pub(crate) seen_at: DateTime<Utc>,
}

#[derive(Debug, Clone)]
pub(crate) struct EntryRow {
    pub(crate) entry: Entry,
    pub(crate) posted_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct PresenceRows {
    pub(crate) beacons: OrdMap<UserId, Beacon>,
    /// By incarnation.
    pub(crate) pods: OrdMap<Uuid, PodRow>,
    /// Who is connected where, by user and incarnation: the table `sockets`.
    pub(crate) connections: OrdMap<(UserId, Uuid), ConnectionRow>,
}

#[derive(Debug, Clone)]
pub(crate) struct PodRow {
    pub(crate) pod: Arc<str>,
    /// When the pod last touched it.
    pub(crate) seen_at: DateTime<Utc>,
    pub(crate) ended: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionRow {
    /// Sockets of the user that are open at the pod.
    pub(crate) open: usize,
    /// Another pod asks this one to look whether they are too many.
    pub(crate) recount: bool,
}
