//! What happened in a run, as a test has collected it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;

/// An event that was published, once however often it was sent.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// The message id.
    pub id: &'a str,
    pub subject: &'a str,
    pub body: &'a Value,
}

/// What happened in a run.
#[derive(Debug)]
pub struct History<'a> {
    pub events: Vec<Event<'a>>,
    /// The events of each ride, in their order on RIDE_STREAM or of their versions.
    pub rides: BTreeMap<&'a str, Vec<Event<'a>>>,
}

impl<'a> History<'a> {
    pub(super) fn bodies(&self, subject: &'static str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |event| event.subject == subject).map(|event| event.body)
    }

    /// The bodies of a subject, by one of their fields.
    pub(super) fn by(&self, subject: &'static str, field: &'static str) -> BTreeMap<&'a str, Vec<&'a Value>> {
        let mut all: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for body in self.bodies(subject) {
            all.entry(text(body, field)).or_default().push(body);
        }
        all
    }
}

/// A string field; empty if there is none.
pub fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    body[field].as_str().unwrap_or_default()
}

pub(super) fn time(body: &Value, field: &str) -> DateTime<Utc> {
    text(body, field).parse().unwrap_or(DateTime::UNIX_EPOCH)
}
