//! A span: one piece of work in one service, with the names of OpenTelemetry's semantic conventions. Pure.
//!
//! An attribute never has a phone, a name, a place, a code or a token in it: ids alone.

use chrono::{DateTime, Utc};

use crate::world::Trace;

/// What a span is for the service beyond it; the numbers are those of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    Internal = 1,
    /// It answers a request.
    Server = 2,
    /// It sends a message.
    Producer = 4,
    /// It handles a message.
    Consumer = 5,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    Text(String),
    Number(i64),
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Attribute {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// A span that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The part of the program that did it: a service, or `http`.
    pub part: &'static str,
    pub name: String,
    pub kind: SpanKind,
    /// Its own id, its trace and its parent.
    pub trace: Trace,
    pub began_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
    pub attributes: Vec<(&'static str, Attribute)>,
    /// Spans of other traces that it comes from as well.
    pub links: Vec<Trace>,
    /// The kind of the error with which it ended, a word.
    pub error: Option<String>,
}

impl Span {
    /// Without links and without an error.
    pub fn new(
        part: &'static str,
        name: String,
        kind: SpanKind,
        trace: &Trace,
        (began_at, ended_at): (DateTime<Utc>, DateTime<Utc>),
    ) -> Self {
        let (attributes, links) = (Vec::new(), Vec::new());
        Self { part, name, kind, trace: trace.clone(), began_at, ended_at, attributes, links, error: None }
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Attribute>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    /// With the attribute, if there is a value.
    #[must_use]
    pub fn with_some(self, name: &'static str, value: Option<impl Into<Attribute>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    #[must_use]
    pub fn linked(mut self, to: impl IntoIterator<Item = Trace>) -> Self {
        self.links.extend(to);
        self
    }

    #[must_use]
    pub fn failed(mut self, error: Option<String>) -> Self {
        if let Some(kind) = &error {
            self.attributes.push(("error.type", Attribute::Text(kind.clone())));
        }
        self.error = error;
        self
    }
}
