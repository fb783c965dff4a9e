//! The stream by itself: each message and its place in the chain of its ride; pure. Messages in, findings out.
//!
//! It holds the state of each ride until the ride has ended. What would take a longer memory (an event that is repeated after the
//! end, a ride whose beginning is gone) is found by the comparison with the event log.

use std::collections::{BTreeMap, BTreeSet};

use platform::relay;
use streams::bus::{MESSAGE_ID, StoredMessage};
use streams::event::RideEvent;
use streams::{Event, RideId, Service};

use super::findings::{Finding, Findings};
use crate::hash_chain::{self, Link};
use crate::replay;
use crate::ride::{Bill, Ride};

/// What a readable message says.
#[derive(Debug)]
pub struct DecodedEvent {
    pub event: RideEvent,
    /// The ride after it.
    pub ride: Ride,
    pub bill: Option<Bill>,
    /// Whether the stream no longer has the ride's first events.
    pub begun_before: bool,
}

/// The state of the check.
#[derive(Debug, Default)]
pub struct StreamAudit {
    /// Whether the stream has lost its beginning: a ride may then begin with any version.
    trimmed: bool,
    live: BTreeMap<RideId, Ride>,
    begun_before: BTreeSet<RideId>,
    pub findings: Findings,
    /// Messages checked.
    pub messages: u64,
}

impl StreamAudit {
    /// `whole`: the stream still has its first message.
    pub fn new(whole: bool) -> Self {
        Self { trimmed: !whole, ..Self::default() }
    }

    /// Rides that have not ended, after their newest event.
    pub fn live(&self) -> impl Iterator<Item = &Ride> {
        self.live.values()
    }

    /// Whether this live ride began before the stream does.
    pub fn has_begun_before(&self, ride: RideId) -> bool {
        self.begun_before.contains(&ride)
    }

    /// Checks the next message.
    pub fn message(&mut self, stored: &StoredMessage) -> Option<DecodedEvent> {
        self.messages += 1;
        let at = Some(stored.sequence);
        let (event, hash) = match hash_chain::parse_body(&stored.subject, &stored.payload) {
            Ok(parsed) => parsed,
            Err(error) => {
                // The headers may still tell which event it is.
                let ride_id = stored.headers.find("ce-subject").and_then(|id| id.parse().ok());
                let id = stored.headers.find(MESSAGE_ID).unwrap_or("none");
                let what = format!("{} (message id {id})", error.reason());
                self.findings.push(Finding { ride_id, version: None, sequence: at, what });
                return None;
            }
        };
        let edited = hash_chain::check_hash(&event, hash).err();
        if let Some(error) = &edited {
            self.findings.push(Finding::of_error(error, at));
        }
        if let Some(what) = wrong_header(stored, &event) {
            self.findings.push(Finding::of_event(event.ride_id, event.version, at, what));
        }
        Some(self.apply(event, edited.is_some(), stored.sequence))
    }

    /// Applies the event to its ride. Of an edited event only version, status and hash are used: the rest is not credible, and
    /// would be reported a second time.
    fn apply(&mut self, event: RideEvent, edited: bool, sequence: u64) -> DecodedEvent {
        let ride_id = event.ride_id;
        let before = self.live.get(&ride_id);
        let joins = before.is_none() && event.version > 1 && self.trimmed;
        let checked = match (joins, edited) {
            (true, _) => Ok(()),
            (false, true) => hash_chain::check_link(before.map(Link::from), &event),
            (false, false) => replay::validate(before, &event),
        };
        let late = before.is_some_and(|b| event.version <= b.version);
        let (ride, bill) = match before {
            Some(before) if edited => {
                let (version, status, last_hash) = (event.version, event.status, event.hash.clone());
                (Ride { version, status, last_hash, ..before.clone() }, None)
            }
            _ => replay::apply(before, &event),
        };
        if joins && !event.status.is_final() {
            self.begun_before.insert(ride_id);
        }
        let begun_before = joins || self.begun_before.contains(&ride_id);
        if let Err(error) = checked {
            self.findings.push(Finding::of_error(&error, Some(sequence)));
        }
        if ride.status.is_final() {
            self.live.remove(&ride_id);
            self.begun_before.remove(&ride_id);
        } else if !late {
            // An event that comes too late must not take the ride back.
            self.live.insert(ride_id, ride.clone());
        }
        DecodedEvent { event, ride, bill, begun_before }
    }
}

/// The first header of a message that is not what this event's must be.
fn wrong_header(stored: &StoredMessage, event: &RideEvent) -> Option<String> {
    let trace = stored.headers.find("traceparent").unwrap_or_default();
    let at = event.occurred_at;
    let event = Event::Ride(Box::new(event.clone()));
    let (id, entity) = (event.message_id(at), event.entity_id().to_string());
    let expected = relay::message(&stored.subject, &id, &entity, at, trace, Service::Rides, bytes::Bytes::new());
    let wrong = expected.headers.iter().find(|(name, value)| stored.headers.find(name) != Some(value));
    wrong.map(|(name, value)| match stored.headers.find(name) {
        Some(found) => format!("the header {name} is `{found}` and must be `{value}`"),
        None => format!("the header {name} is missing, it must be `{value}`"),
    })
}
