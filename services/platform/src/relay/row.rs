//! A row of the outbox, the message that it becomes, and the queue by which commits hand rows to the relay.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use streams::event::rfc3339;
use streams::{Event, Headers, Message, Service, bus};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::spans::{Span, SpanKind};
use crate::world::Trace;

/// Rows that the queue holds; beyond that the relay reads them from the table.
const QUEUE_MAX: usize = 4_096;
/// Rows that the relay reads from the table at once.
pub(crate) const PAGE: usize = 1_000;

/// An event on its way to its stream.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct OutboxRow {
    pub(crate) seq: i64,
    pub(crate) message_id: String,
    /// What the event is about: rows of one key are published in order.
    pub(crate) key: Uuid,
    pub(crate) subject: String,
    pub(crate) body: String,
    /// Of the publish, if that is a span, else of the span that it follows from.
    pub(crate) traceparent: String,
    /// The span that the publish follows from. Null where no spans are recorded.
    pub(crate) parent_span: Option<String>,
    pub(crate) occurred_at: DateTime<Utc>,
    pub(crate) created_at: DateTime<Utc>,
}

impl OutboxRow {
    /// Without its `seq`, which the insert assigns.
    pub(crate) fn new(event: &Event, trace: &Trace, now: DateTime<Utc>) -> Self {
        Self {
            seq: 0,
            message_id: event.message_id(now),
            key: event.entity_id(),
            subject: event.subject().as_str().to_owned(),
            body: String::from_utf8(event.body()).expect("JSON is UTF-8"),
            traceparent: trace.as_str().to_owned(),
            parent_span: None,
            occurred_at: event.occurred_at().unwrap_or(now),
            created_at: now,
        }
    }

    pub(super) fn trace_id(&self) -> &str {
        Trace::id_in(&self.traceparent)
    }

    /// The span of its publish, which has been acknowledged at `ended_at`. `None` if the row's writer records no spans.
    pub(super) fn span(&self, service: Service, ended_at: DateTime<Utc>) -> Option<Span> {
        let trace = Trace::parse(&self.traceparent)?.with_parent(Some(self.parent_span.as_deref()?));
        let name = format!("publish {}", self.subject);
        let span = Span::new(service.name(), name, SpanKind::Producer, &trace, (self.created_at, ended_at));
        Some(
            span.with("messaging.operation.type", "send")
                .with("messaging.operation.name", "publish")
                .with("messaging.destination.name", self.subject.as_str())
                .with("messaging.message.id", self.message_id.as_str())
                .with("messaging.message.body.size", i64::try_from(self.body.len()).unwrap_or(i64::MAX)),
        )
    }

    pub(super) fn message(&self, service: Service) -> Message {
        let key = self.key.to_string();
        let body = Bytes::from(self.body.clone());
        message(&self.subject, &self.message_id, &key, self.occurred_at, &self.traceparent, service, body)
    }
}

/// A message with the headers of the contract: its id, CloudEvents 1.0 in binary mode, W3C trace context.
pub fn message(
    subject: &str,
    message_id: &str,
    entity: &str,
    at: DateTime<Utc>,
    traceparent: &str,
    service: Service,
    payload: Bytes,
) -> Message {
    let mut headers = Headers::default();
    headers.set(bus::MESSAGE_ID, message_id);
    headers.set_static("ce-specversion", "1.0");
    headers.set("ce-id", message_id);
    headers.set("ce-type", subject);
    headers.set_static("ce-source", service.source());
    headers.set("ce-time", rfc3339::text(&at));
    headers.set("ce-subject", entity);
    if !traceparent.is_empty() {
        headers.set("traceparent", traceparent);
    }
    headers.set_static("content-type", "application/json");
    Message { subject: subject.to_owned(), headers, payload }
}

/// What was still unpublished when a transaction wrote its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backlog {
    /// No older row of any of their keys.
    None,
    /// An older row of one of their keys: the relay must read the table to keep the order.
    SameKey,
}

/// By which commits hand their rows to the relay of the same process; clones share it.
#[derive(Clone, Default)]
pub(crate) struct RelayQueue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    committed: Mutex<CommittedRows>,
    wake: Notify,
}

/// What was committed since the relay last looked.
#[derive(Default)]
pub(super) struct CommittedRows {
    pub(super) rows: Vec<OutboxRow>,
    /// There is more than `rows`: the relay must read the table.
    pub(super) must_read_table: bool,
}

impl fmt::Debug for RelayQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayQueue")
    }
}

impl RelayQueue {
    /// Hands over the rows of one commit, and wakes the relay.
    pub(crate) fn push(&self, rows: Vec<OutboxRow>, backlog: Backlog) {
        if rows.is_empty() && backlog == Backlog::None {
            return;
        }
        let mut committed = self.0.committed.lock().unwrap_or_else(PoisonError::into_inner);
        if backlog == Backlog::SameKey || committed.must_read_table || committed.rows.len() + rows.len() > QUEUE_MAX {
            committed.must_read_table = true;
        } else {
            committed.rows.extend(rows);
        }
        drop(committed);
        self.0.wake.notify_one();
    }

    pub(super) fn take(&self) -> CommittedRows {
        std::mem::take(&mut *self.0.committed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns once something was pushed since the last [`take`](Self::take).
    pub(super) async fn pushed(&self) {
        self.0.wake.notified().await;
    }
}

/// Whether the relay published and marked all that it had; the worse is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RelayOutcome {
    All,
    Partly,
    /// Not all, because a stream is missing.
    StreamMissing,
}
