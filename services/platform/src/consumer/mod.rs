//! The transactional consumer: the one mechanism that all handlers share.
//!
//! A worker pulls a batch and opens one transaction. In it, it records the messages in the inbox (those that are recorded
//! already are left out), and the handler changes rows and puts events into the outbox. Then the worker commits, and then it
//! acknowledges. Where somebody waits, a core subscription brings events sooner (`fast_lane.rs`). A batch that fails is tried again one message at a time, so that a poison message delays no other. A failed
//! message is redelivered after a growing delay. After the last attempt, or at once if it can never succeed, it becomes a
//! dead letter. While the database is away, the worker pulls nothing, reports what it holds as in progress, and counts no
//! attempt: the message is not at fault.

mod attempt;
mod fast_lane;
mod progress;
mod pull;
mod requeue;
mod traced;
mod worker;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use streams::event::rfc3339;
use streams::{Delivery, Event, EventError, Headers};

use crate::dead_letters;
use crate::store::{StoreError, Tables, Transaction, TransactionError};
use crate::world::{Trace, World};
pub use progress::ProgressReporter;
pub(crate) use pull::{Pulling, health_part, put_back};
pub use worker::Worker;

/// An event as a handler gets it.
#[derive(Debug, Clone)]
pub struct Received {
    pub event: Event,
    /// The event as it came: it may have fields that this version does not know.
    pub body: Bytes,
    /// The message id: the same for each redelivery.
    pub id: String,
    /// What the inbox records, see [`dead_letters::inbox_key`]; `None`: the message id.
    inbox_key: Option<String>,
    /// The next span of the message's trace, for what follows from it.
    pub trace: Trace,
    /// The durable consumer that delivered it.
    pub consumer: String,
    /// The event's own time, by its ce-time.
    pub(crate) occurred_at: DateTime<Utc>,
    /// When the stream stored it; by the fast lane, when it came.
    pub stored_at: DateTime<Utc>,
    /// How often it was delivered, this time included.
    pub deliveries: u64,
    /// Its number in its stream.
    pub sequence: u64,
}

impl Received {
    /// What the inbox records.
    fn inbox_key(&self) -> &str {
        self.inbox_key.as_deref().unwrap_or(&self.id)
    }

    fn new(delivery: &Delivery, world: &World) -> Result<Self, EventError> {
        let message = &delivery.message;
        if let Some(why) = message.headers.malformed() {
            return Err(EventError::Headers(why.to_owned()));
        }
        let event = Event::parse(&message.subject, &message.payload)?;
        event.check_times(message.stored_at)?;
        let id = dead_letters::message_id(&delivery.stream, message);
        // What is delivered again has failed, or its process died: the rest of its trace is exported.
        let trace = Trace::follow(message.headers.find("traceparent"), world);
        Ok(Self {
            event,
            body: message.payload.clone(),
            inbox_key: dead_letters::inbox_key(&id, &delivery.stream, message.sequence, message.stored_at),
            id,
            trace: if delivery.deliveries > 1 { trace.with_sampled(true) } else { trace },
            consumer: delivery.consumer.clone(),
            occurred_at: occurred_at(&message.headers, message.stored_at),
            stored_at: message.stored_at,
            deliveries: delivery.deliveries,
            sequence: message.sequence,
        })
    }
}

/// The time in the headers of an event, or `otherwise` if there is none.
fn occurred_at(headers: &Headers, otherwise: DateTime<Utc>) -> DateTime<Utc> {
    headers.find("ce-time").and_then(rfc3339::parse).unwrap_or(otherwise)
}

/// Why a handler failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// May succeed later: redelivered after a delay.
    #[error("{0}")]
    Transient(String),
    /// Can never succeed: dead-lettered at once.
    #[error("{0}")]
    Permanent(String),
    /// The handler takes nothing for the moment: its messages are held, nothing more is pulled, and no attempt is counted.
    #[error("{0}")]
    Busy(String),
    /// Another process has taken over this one's part: the worker stops, and what it holds is redelivered.
    #[error("another process has taken over")]
    Fenced,
    /// The store failed; its error says which of these it is.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TransactionError for Failure {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::Transient(_) | Self::Permanent(_) | Self::Busy(_) | Self::Fenced => None,
        }
    }
}

/// The longest time that messages wait for others: far enough below the ack wait that their transaction fits between both.
pub const WAIT_MAX: chrono::Duration = chrono::Duration::seconds(20);
/// The most messages that wait in one worker.
const WAITING_MAX: usize = 32_768;
/// How often a handler is asked whether those that wait are to be handled.
const LOOK_INTERVAL: chrono::Duration = chrono::Duration::milliseconds(250);

/// The messages of a worker that wait for others, see [`Handler::may_wait`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// When the first of them was pulled.
    pub since: DateTime<Utc>,
    /// The lowest sequence of them in their stream.
    pub lowest_sequence: u64,
}

/// Why a worker returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its `stop` has begun.
    Stopped,
    /// Its handler said that another process has taken over.
    Fenced,
}

/// What a service does with events. One task runs all the work of a handler, one transaction at a time.
pub trait Handler: Send + 'static {
    /// The service's own tables in memory.
    type Tables: Tables;

    /// Whether the inbox recognises redeliveries. False only where the handler's own rows do.
    const INBOX: bool = true;

    /// A batch was pulled: the handler may show what needs no rows. Comes before `handle`, and again with a redelivery.
    fn arrived(&mut self, _batch: &[&Received]) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Whether the message may wait unacknowledged for others, so that fewer transactions write more of them. It is not asked of
    /// a redelivery, which is handled at once.
    fn may_wait(&self, _received: &Received) -> bool {
        false
    }

    /// When the messages that wait are to be handled, at the latest [`WAIT_MAX`] after the first of them was pulled. Asked again
    /// and again.
    fn handle_waiting_at(&mut self, waiting: &Waiting) -> DateTime<Utc> {
        waiting.since
    }

    /// Whether this batch changes rows at all. If not, `committed` is called at once, without a transaction.
    fn writes(&self, _batch: &[&Received]) -> bool {
        true
    }

    /// Changes rows and publishes, through `tx` only, for a batch without duplicates. The batch is empty when the time of
    /// [`wake_at`](Self::wake_at) has come. After a rollback the same batch may come again.
    fn handle(
        &mut self,
        tx: &mut Transaction<Self::Tables>,
        batch: &[&Received],
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The transaction of `handle` is committed: the handler may change what it caches in memory, and notify others.
    fn committed(&mut self, _batch: &[&Received]) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// The transaction of `handle` was rolled back, or its outcome is unknown: the handler discards what it prepared.
    fn rolled_back(&mut self) {}

    /// When `handle` is to be called although nothing has arrived.
    fn wake_at(&self) -> Option<DateTime<Utc>> {
        None
    }
}
