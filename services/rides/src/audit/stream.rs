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

/// What the stream still has of its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Its first message: every ride begins with version 1.
    Whole,
    /// It has deleted its oldest messages: a ride may begin with any version.
    Trimmed,
}

impl Beginning {
    pub(super) fn of(first_sequence: u64) -> Self {
        if first_sequence <= 1 { Self::Whole } else { Self::Trimmed }
    }
}

/// Whether a body has the hash that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Original,
    /// Only its version, status and hash are used: the rest is not credible, and would be reported a second time.
    Edited,
}

/// The state of the check.
#[derive(Debug)]
pub struct StreamAudit {
    beginning: Beginning,
    live: BTreeMap<RideId, Ride>,
    begun_before: BTreeSet<RideId>,
    pub findings: Findings,
    /// Messages checked.
    pub messages: u64,
}

impl StreamAudit {
    pub fn new(beginning: Beginning) -> Self {
        let (live, begun_before, findings) = Default::default();
        Self { beginning, live, begun_before, findings, messages: 0 }
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
                // The headers may still name the event.
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
        let body = if edited.is_some() { Body::Edited } else { Body::Original };
        Some(self.apply(event, body, stored.sequence))
    }

    /// Applies the event to its ride.
    fn apply(&mut self, event: RideEvent, body: Body, sequence: u64) -> DecodedEvent {
        let ride_id = event.ride_id;
        let before = self.live.get(&ride_id);
        let joins = before.is_none() && event.version > 1 && self.beginning == Beginning::Trimmed;
        let checked = match (joins, body) {
            (true, _) => Ok(()),
            (false, Body::Edited) => hash_chain::check_link(before.map(Link::from), &event),
            (false, Body::Original) => replay::validate(before, &event),
        };
        let late = before.is_some_and(|b| event.version <= b.version);
        let (ride, bill) = match before {
            Some(before) if body == Body::Edited => {
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
