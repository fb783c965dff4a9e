//! The event log: every event of every ride, for ever, exactly as it was published. This is one event, and the message that
//! publishes it; pure.

pub mod rows;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use platform::relay;
use streams::event::{Event, RideEvent};
use streams::{Message, RideId, Service};

/// A row of `events`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct EventRow {
    #[sqlx(try_from = "uuid::Uuid")]
    pub ride_id: RideId,
    #[sqlx(try_from = "i32")]
    pub version: u32,
    /// `Nats-Msg-Id`.
    pub message_id: String,
    pub subject: String,
    /// The body, byte for byte: the hash is over these bytes.
    pub body: String,
    /// The hash that the body names.
    pub hash: String,
    pub occurred_at: DateTime<Utc>,
    /// The header `traceparent`, the only one that cannot be computed from the body; empty if it was not recorded.
    pub traceparent: String,
}

impl EventRow {
    pub(crate) fn new(event: &RideEvent, traceparent: &str) -> Self {
        let (ride_id, version, hash, occurred_at) =
            (event.ride_id, event.version, event.hash.clone(), event.occurred_at);
        let event = Event::Ride(Box::new(event.clone()));
        Self {
            ride_id,
            version,
            message_id: event.message_id(occurred_at),
            subject: event.subject().as_str().to_owned(),
            body: String::from_utf8(event.body()).expect("JSON is UTF-8"),
            hash,
            occurred_at,
            traceparent: traceparent.to_owned(),
        }
    }

    /// The message that publishes this event: always the same headers and body, so that it can be published again.
    pub(crate) fn message(&self) -> Message {
        let (entity, body) = (self.ride_id.to_string(), Bytes::from(self.body.clone()));
        relay::message(
            &self.subject,
            &self.message_id,
            &entity,
            self.occurred_at,
            &self.traceparent,
            Service::Rides,
            body,
        )
    }
}
