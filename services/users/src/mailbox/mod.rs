//! Mailboxes: every event for a user, numbered without gaps, until the client acknowledges it or it is a day old.
//!
//! The rows are the truth. A notification only tells the pods that hold the user's sockets to send an event now; if it is
//! lost, a poll of the rows finds the event.

pub(crate) mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use streams::{Subject, UserId};

/// How long an entry waits for its acknowledgement.
const RETENTION: Duration = Duration::hours(24);

/// The core subject on which the pods that hold sockets of `user` receive each new entry, as the frame to send.
pub(crate) fn notify_subject(user: UserId) -> String {
    format!("users.session.{user}.notify")
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MailboxCursor {
    /// The `seq` of the newest entry; 0 before the first.
    pub(crate) last_seq: u64,
    /// The client has acknowledged every entry up to here.
    pub(crate) acked_seq: u64,
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
