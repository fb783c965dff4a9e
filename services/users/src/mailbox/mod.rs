//! Mailboxes: every event for a user, numbered without gaps, until each of the user's devices has acknowledged it or it is a
//! day old.
//!
//! The rows are the truth. A notification only tells the pods that hold the user's sockets to send an event now; if it is
//! lost, a poll of the rows finds the event.
//!
//! `seq` is given out without gaps, and never again. An entry that was dropped (acknowledged by all devices, a day old, or
//! one too many) leaves its number unused: who resumes before it learns by a [`MissedRange`] which numbers are gone.

mod device;
pub(crate) mod device_rows;
pub(crate) mod notification;
pub(crate) mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use streams::{Subject, UserId};

pub(crate) use device::Device;

/// How long an entry waits for its acknowledgements, and how long after it was last seen a device is waited for.
const RETENTION: Duration = Duration::hours(24);
/// The row of a device that is connected is touched only this often; it counts as seen for so much longer.
const SEEN_PRECISION: Duration = Duration::minutes(10);
/// The most entries of one mailbox. It is far more than a day of rides brings (about 15 events a ride, a beacon every 15 s at
/// most), and at 1.5 KB an entry it holds one user to 15 MB.
pub(crate) const ENTRIES_MAX: u64 = 10_000;
/// A mailbox is counted, and cut to [`ENTRIES_MAX`] less this many, once in this many entries.
const CUT_EVERY: u64 = 100;
/// The most devices of one user; beyond, the one seen longest ago is forgotten.
const DEVICES_MAX: i64 = 20;

/// The core subject on which a process of the version before receives each new entry for a socket of `user`, as the frame to send.
pub(crate) fn notify_subject(user: UserId) -> String {
    format!("users.session.{user}.notify")
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MailboxCursor {
    /// The `seq` of the newest entry; 0 before the first.
    pub(crate) last_seq: u64,
    /// The highest `seq` that a device has acknowledged.
    pub(crate) acked_seq: u64,
}

/// The smallest range that holds every entry after a client's `last_seq` that is no longer there. Entries inside it that are
/// still there are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct MissedRange {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// An event to be appended to a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewEntry {
    pub(crate) user: UserId,
    pub(crate) event_id: String,
    pub(crate) subject: Subject,
    pub(crate) time: DateTime<Utc>,
    /// The event as JSON.
    pub(crate) body: String,
}

/// An entry as it was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) seq: u64,
    /// Whether pushes of it wait.
    pub(crate) is_pushed: bool,
}

/// An event in a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) event_id: String,
    pub(crate) subject: String,
    pub(crate) time: DateTime<Utc>,
    /// The event as JSON.
    pub(crate) body: String,
}

/// For each entry, how many of the later ones are for the same user. Subtracted from the user's new `last_seq` it gives
/// the entry's `seq`.
fn later_entries_of_same_user(entries: &[NewEntry]) -> Vec<i64> {
    let mut seen = BTreeMap::new();
    let mut later: Vec<i64> = entries
        .iter()
        .rev()
        .map(|entry| {
            let count = seen.entry(entry.user).or_insert(0);
            *count += 1;
            *count - 1
        })
        .collect();
    later.reverse();
    later
}

/// The users whose mailboxes are to be counted after `entries` got these `seqs`, in the order of their ids: those whose count
/// of events has passed a multiple of [`CUT_EVERY`]. None whose mailbox cannot be full yet.
fn to_be_counted(entries: &[NewEntry], seqs: &[u64]) -> Vec<UserId> {
    let mut ranges: BTreeMap<UserId, (u64, u64)> = BTreeMap::new();
    for (entry, seq) in entries.iter().zip(seqs) {
        let (first, last) = ranges.entry(entry.user).or_insert((*seq, *seq));
        (*first, *last) = ((*first).min(*seq), (*last).max(*seq));
    }
    let passes = |first: u64, last: u64| last > ENTRIES_MAX - CUT_EVERY && (first - 1) / CUT_EVERY < last / CUT_EVERY;
    ranges.into_iter().filter(|(_, (first, last))| passes(*first, *last)).map(|(user, _)| user).collect()
}
