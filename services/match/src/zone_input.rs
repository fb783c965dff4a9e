//! What the owner of a zone is to handle, and how a row has it. Pure.

use chrono::{DateTime, Utc};
use platform::Trace;
use streams::{Event, RequestId};

/// The subject of a request that comes from another zone; not one of a stream.
const HANDED_OVER: &str = "zone.request";

/// What is to be handled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    /// `elsewhere`: about an offer or a ride of another zone.
    Event { event: Box<Event>, elsewhere: bool },
    /// This zone has the request now, and its row.
    HandedOver(RequestId),
}

impl Content {
    /// Of a row.
    pub(crate) fn parse(subject: &str, body: &str, elsewhere: bool) -> Result<Self, String> {
        if subject == HANDED_OVER {
            let id = body.parse().map_err(|error: uuid::Error| error.to_string())?;
            return Ok(Self::HandedOver(RequestId(id)));
        }
        let event = Event::parse(subject, body.as_bytes()).map_err(|error| error.to_string())?;
        Ok(Self::Event { event: Box::new(event), elsewhere })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ZoneInput {
    pub zone: u16,
    pub content: Content,
    /// As the row has it. That of an event is as it came: it may have fields that this version does not know.
    pub body: String,
    /// The message that it came with; empty for what zones write for each other.
    pub message_id: String,
    /// Of the message in its stream, 0 without one.
    pub sequence: u64,
    /// When its stream stored it.
    pub stored_at: DateTime<Utc>,
    pub trace: Trace,
}

impl ZoneInput {
    /// What a zone writes for another one.
    pub(crate) fn between_zones(zone: u16, content: Content, stored_at: DateTime<Utc>, trace: Trace) -> Self {
        let body = match &content {
            Content::Event { event, .. } => String::from_utf8(event.body()).expect("JSON is UTF-8"),
            Content::HandedOver(id) => id.to_string(),
        };
        Self { zone, content, body, message_id: String::new(), sequence: 0, stored_at, trace }
    }

    pub(crate) fn subject(&self) -> &str {
        match &self.content {
            Content::Event { event, .. } => event.subject().as_str(),
            Content::HandedOver(_) => HANDED_OVER,
        }
    }

    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(self.content, Content::Event { elsewhere: true, .. })
    }
}
