//! The service's tables in memory: the same tables and unique constraints as `migrations/users`. The operations on them
//! are in each noun's `rows.rs`, beside their SQL.
//!
//! All maps are persistent, because a transaction works on a copy.

use chrono::{DateTime, Utc};
use imbl::{OrdMap, OrdSet};
use streams::{MatchId, RequestId, RideId, UserId};
use uuid::Uuid;

use crate::account::Driver;
use crate::live_ride::LiveRide;
use crate::mailbox::{Device, Entry, MailboxCursor};
use crate::offer::{Offer, OfferState};
use crate::presence::Beacon;
use crate::rate_limit::RowKey;
use crate::search::Search;
use crate::sign_in::otp::Code;
use crate::sign_in::phone::Phone;

#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub(crate) accounts: AccountRows,
    /// One-time codes, by phone and request.
    pub(crate) codes: OrdMap<(Phone, Uuid), Code>,
    /// Buckets that are not full: when each is full again.
    pub(crate) rate_limits: OrdMap<RowKey, DateTime<Utc>>,
    pub(crate) sign_ins: SignInRows,
    pub(crate) mailboxes: MailboxRows,
    pub(crate) presence: PresenceRows,
    /// Open searches, by passenger: at most one each.
    pub(crate) searches: OrdMap<UserId, Search>,
    pub(crate) offers: OrdMap<MatchId, Offer>,
    /// The index of offers by search.
    pub(crate) offers_of_search: OrdSet<(RequestId, MatchId)>,
    pub(crate) live_rides: OrdMap<RideId, LiveRide>,
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
    pub(crate) plates: OrdMap<String, UserId>,
}

#[derive(Debug, Clone)]
pub(crate) struct UserRow {
    pub(crate) phone: Phone,
    pub(crate) name: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct SignInRows {
    pub(crate) sign_ins: OrdMap<Uuid, SignInRow>,
    /// By the token's keyed hash.
    pub(crate) refresh_tokens: OrdMap<[u8; 32], RefreshTokenRow>,
}

#[derive(Debug, Clone)]
pub(crate) struct SignInRow {
    pub(crate) user: UserId,
    pub(crate) revoked: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct RefreshTokenRow {
    pub(crate) sign_in: Uuid,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) used: bool,
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
    /// By user and session.
    pub(crate) sockets: OrdMap<(UserId, Uuid), SocketRow>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct SocketRow {
    /// When its pod last touched it.
    pub(crate) seen_at: DateTime<Utc>,
    /// When its client last sent anything.
    pub(crate) received_at: DateTime<Utc>,
    /// A newer socket of the user took its place.
    pub(crate) displaced: bool,
}
