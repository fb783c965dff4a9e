//! The stream's side: each message by itself and in its place; pure. Messages in, findings out.
//!
//! Of each ride it keeps the state until the ride has ended. What only a longer memory could tell (an event that stands again
//! after the end, a ride whose beginning is gone) shows in the fingerprints.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use platform::outbox;
use streams::bus::{MESSAGE_ID, StoredMessage};
use streams::event::RideEvent;
use streams::{Event, RideId, Service};

use super::prints::{Digest, Fingerprints, digest};
use super::{Finding, Findings};
use crate::hash_chain::{self, Broken, Link};
use crate::replay;
use crate::ride::{Bill, Ride};

/// Rides of which it is remembered that their events are not in order.
const DISORDERED_MAX: usize = 10_000;

/// An event that is older than what the stream must have: it may be there or not, so it is looked up by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Old {
    /// The ride.
    pub ride_id: RideId,
    /// Its version.
    pub version: u32,
    /// Where it stands.
    pub sequence: u64,
    /// What it is.
    pub digest: Digest,
}

/// What a message says, if it can be read at all.
#[derive(Debug)]
pub struct Said {
    /// The event.
    pub event: RideEvent,
    /// The ride after it.
    pub ride: Ride,
    /// What is owed for it.
    pub bill: Option<Bill>,
    /// Whether the ride's first events are older than the stream.
    pub begun_before: bool,
}

/// The state of the check.
#[derive(Debug)]
pub struct Trail {
    /// Whether the stream has its beginning: nothing was ever too old for it.
    whole: bool,
    horizon: DateTime<Utc>,
    live: BTreeMap<RideId, Ride>,
    begun_before: BTreeSet<RideId>,
    /// What is as old as `horizon` or younger.
    pub prints: Fingerprints,
    /// What is older; whoever reads on takes it.
    pub old: Vec<Old>,
    /// Rides with a version in a place where another belongs.
    pub disordered: BTreeSet<RideId>,
    /// What was found.
    pub findings: Findings,
    /// Messages seen.
    pub messages: u64,
}

impl Trail {
    /// For a stream of which everything from `horizon` on must be there; `whole`: also everything before.
    pub fn new(whole: bool, horizon: DateTime<Utc>) -> Self {
        Self {
            whole,
            horizon,
            live: BTreeMap::new(),
            begun_before: BTreeSet::new(),
            prints: Fingerprints::default(),
            old: Vec::new(),
            disordered: BTreeSet::new(),
            findings: Findings::default(),
            messages: 0,
        }
    }

    /// Rides that have not ended, with the state after their newest event.
    pub fn live(&self) -> impl Iterator<Item = &Ride> {
        self.live.values()
    }

    /// Rides of which the stream has not the beginning, and which have not ended.
    pub fn has_begun_before(&self, ride: RideId) -> bool {
        self.begun_before.contains(&ride)
    }

    /// Takes the next message.
    pub fn message(&mut self, stored: &StoredMessage) -> Option<Said> {
        self.messages += 1;
        let at = Some(stored.sequence);
        let (event, hash) = match hash_chain::read_body(&stored.subject, &stored.payload) {
            Ok(read) => read,
            Err(broken) => {
                // The headers still tell which it is.
                let ride_id = stored.headers.find("ce-subject").and_then(|id| id.parse().ok());
                let id = stored.headers.find(MESSAGE_ID).unwrap_or("none");
                let what = format!("{} (message id {id})", broken.what());
                self.findings.push(Finding { ride_id, version: None, sequence: at, what });
                return None;
            }
        };
        let (ride_id, version) = (event.ride_id, event.version);
        let edited = hash_chain::matches(&event, hash).err();
        if let Some(broken) = &edited {
            self.findings.push(Finding::broken(broken, at));
        }
        if let Some(what) = headers(stored, &event) {
            self.findings.push(Finding::of_event(ride_id, version, at, what));
        }
        let message_id = stored.headers.find(MESSAGE_ID).unwrap_or_default();
        let digest = digest(&stored.subject, message_id, &stored.payload);
        if event.occurred_at >= self.horizon {
            self.prints.add(ride_id, digest);
        } else {
            self.old.push(Old { ride_id, version, sequence: stored.sequence, digest });
        }
        Some(self.place(event, edited.is_some(), stored.sequence))
    }

    /// Puts the event into its ride's place. Of an edited one only its place counts: what else it says is not to be believed,
    /// and would be found wrong a second time.
    fn place(&mut self, event: RideEvent, edited: bool, sequence: u64) -> Said {
        let ride_id = event.ride_id;
        let before = self.live.get(&ride_id);
        let joins = before.is_none() && event.version > 1 && !self.whole;
        let checked = match (joins, edited) {
            (true, _) => Ok(()),
            (false, true) => hash_chain::fits(before.map(Link::from), &event),
            (false, false) => replay::check(before, &event),
        };
        let late = before.is_some_and(|b| event.version <= b.version);
        let (ride, bill) = match before {
            Some(before) if edited => {
                let (version, status, last_hash) = (event.version, event.status, event.hash.clone());
                (Ride { version, status, last_hash, ..before.clone() }, None)
            }
            _ => replay::after(before, &event),
        };
        if joins && !event.status.is_final() {
            self.begun_before.insert(ride_id);
        }
        let begun_before = joins || self.begun_before.contains(&ride_id);
        if let Err(broken) = checked {
            if matches!(broken, Broken::Gap { .. }) && self.disordered.len() < DISORDERED_MAX {
                self.disordered.insert(ride_id);
            }
            self.findings.push(Finding::broken(&broken, Some(sequence)));
        }
        if ride.status.is_final() {
            self.live.remove(&ride_id);
            self.begun_before.remove(&ride_id);
        } else if !late {
            // One that comes too late does not take the others back with it.
            self.live.insert(ride_id, ride.clone());
        }
        Said { event, ride, bill, begun_before }
    }
}

/// What is wrong with the headers of a message with this event, if anything is.
fn headers(stored: &StoredMessage, event: &RideEvent) -> Option<String> {
    let trace = stored.headers.find("traceparent").unwrap_or_default();
    let at = event.occurred_at;
    let event = Event::Ride(Box::new(event.clone()));
    let (id, entity) = (event.message_id(at), event.entity_id().to_string());
    let wanted = outbox::message(&stored.subject, &id, &entity, at, trace, Service::Rides, bytes::Bytes::new());
    let wrong = wanted.headers.iter().find(|(name, value)| stored.headers.find(name) != Some(value));
    wrong.map(|(name, value)| match stored.headers.find(name) {
        Some(found) => format!("the header {name} is `{found}` and must be `{value}`"),
        None => format!("the header {name} is missing, it must be `{value}`"),
    })
}
