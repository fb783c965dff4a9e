//! One transaction on the store, and how often a caller retries one that lost to a concurrent one.
//!
//! In memory a transaction works on a cheap copy of all tables under an exclusive lock: commit swaps the copy in, drop
//! discards it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use streams::Event;
use streams::simulation::Fault;
use tokio::time::sleep;
use uuid::Uuid;

use super::backend::{Context, Draft, Tables, Work};
use super::error::StoreError;
use super::{inbox, outbox, traces};
use crate::relay::row::{Backlog, OutboxRow};
use crate::world::{Trace, World};

/// Retries of a transaction after serialization failures.
const SERIALIZATION_RETRIES: u32 = 5;
/// Retries of a transaction that decides again by what a concurrent one left.
const CONFLICT_RETRIES: u32 = 3;

/// One transaction on the store. Others see nothing of it before [`commit`](Self::commit), and nothing of it remains if it
/// is dropped.
pub struct Transaction<T> {
    work: Work<T>,
    outgoing: Vec<OutboxRow>,
    /// What this transaction puts into a trace; always empty where no spans are recorded.
    traced: BTreeMap<Uuid, String>,
    context: Context,
}

/// Where an operation runs: what [`Transaction::on`] lends to it.
pub enum On<'a, T> {
    /// A connection whose search path is the service's schema.
    Postgres(&'a mut PgConnection),
    /// The transaction's copy of the service's tables.
    Memory(&'a mut T),
}

impl<T> fmt::Debug for Transaction<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("outgoing", &self.outgoing.len()).finish_non_exhaustive()
    }
}

impl<T> Transaction<T> {
    pub(super) fn new(work: Work<T>, context: Context) -> Self {
        Self { work, outgoing: Vec::new(), traced: BTreeMap::new(), context }
    }

    /// Lends the connection, or the tables in memory, to one operation.
    pub fn on(&mut self) -> On<'_, T> {
        match &mut self.work {
            Work::Postgres(pg) => On::Postgres(pg),
            Work::Memory(m) => On::Memory(&mut m.draft.tables),
        }
    }
}

impl<T: Tables> Transaction<T> {
    /// Puts an event into the outbox: the relay publishes it once this transaction is committed, and only then. Returns the
    /// `traceparent` of its message.
    pub fn publish(&mut self, event: &Event, trace: &Trace) -> &str {
        let Context { world, spans, .. } = &self.context;
        let now = world.now();
        let row = if spans.is_on() {
            // The publish is a span of its own: what the message leads to follows from it.
            let publish = trace.next(world);
            OutboxRow { parent_span: Some(trace.span_id().to_owned()), ..OutboxRow::new(event, &publish, now) }
        } else {
            OutboxRow::new(event, trace, now)
        };
        self.put_in_trace(event, trace);
        &self.outgoing.push_mut(row).traceparent
    }

    /// What `event` is about joins this trace, if spans are recorded.
    pub(crate) fn put_in_trace(&mut self, event: &Event, trace: &Trace) {
        if self.context.spans.is_on() {
            let subjects = traces::subjects_of(event);
            self.traced.extend(subjects.into_iter().map(|subject| (subject, trace.as_str().to_owned())));
        }
    }

    /// The spans that last put these searches, passengers, offers and rides into a trace, as far as they are known. None if no spans
    /// are recorded.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn traces_of(&mut self, subjects: &[Uuid]) -> Result<BTreeMap<Uuid, Trace>, StoreError> {
        if !self.context.spans.is_on() || subjects.is_empty() {
            return Ok(BTreeMap::new());
        }
        let stored = traces::of(&mut self.work, subjects).await?;
        Ok(stored.iter().filter_map(|(subject, text)| Some((*subject, Trace::parse(text)?))).collect())
    }

    /// Records that `consumer` processed the messages with these inbox keys; returns the keys that were not recorded before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn record_processed(&mut self, consumer: &str, keys: &[&str]) -> Result<HashSet<String>, StoreError> {
        if streams::simulation::sabotage().no_inbox {
            return Ok(keys.iter().map(|key| (*key).to_owned()).collect());
        }
        let now = self.context.world.now();
        inbox::record_processed(&mut self.work, consumer, keys, now).await
    }

    /// Whether `consumer` processed the message with this inbox key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_processed(&mut self, consumer: &str, key: &str) -> Result<bool, StoreError> {
        inbox::is_processed(&mut self.work, consumer, key).await
    }

    /// Those of the message ids whose outbox row is not published yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unpublished_of(&mut self, message_ids: &[&str]) -> Result<HashSet<String>, StoreError> {
        outbox::unpublished_of(&mut self.work, message_ids).await
    }

    /// Those of the keys (of what an event is about: a ride, a payment) of which an outbox row is not published yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unpublished_keys(&mut self, keys: &[Uuid]) -> Result<HashSet<Uuid>, StoreError> {
        outbox::unpublished_keys(&mut self.work, keys).await
    }

    /// Deletes a page of old inbox, outbox and trace rows; true if none is left.
    pub(super) async fn purge_page(
        &mut self,
        processed_before: DateTime<Utc>,
        published_before: DateTime<Utc>,
        traced_before: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let is_inbox_done = inbox::purge_page(&mut self.work, processed_before).await?;
        let is_outbox_done = outbox::purge_page(&mut self.work, published_before).await?;
        let are_traces_done = traces::purge_page(&mut self.work, traced_before).await?;
        Ok(is_inbox_done && is_outbox_done && are_traces_done)
    }

    /// Makes all of it visible at once, and wakes the relay.
    ///
    /// # Errors
    /// [`StoreError`]: nothing was changed, except after [`StoreError::Unavailable`] from PostgreSQL. Then the outcome is
    /// unknown, and the caller must read it.
    pub async fn commit(self) -> Result<(), StoreError> {
        let faults = self.context.faults.clone();
        // In a simulation the process may die or stand still here, and then holds no lock.
        let mut held = Some(self);
        faults.in_transaction(|| held = None).await.map_err(StoreError::Unavailable)?;
        let Some(tx) = held else { return Ok(()) };
        if faults.occurs(Fault::CommitRefused) {
            return Err(StoreError::Unavailable("simulated: a commit that was not made".to_owned()));
        }
        if faults.occurs(Fault::CommitConflict) {
            return Err(StoreError::Serialization("simulated".to_owned()));
        }
        let entities: Vec<Uuid> = tx.outgoing.iter().map(|row| row.key).collect();
        tx.commit_now().await?;
        faults.locked_rows(entities.into_iter()).await;
        faults.crash_point().await;
        if faults.occurs(Fault::CommitUnanswered) {
            return Err(StoreError::Unavailable("simulated: a commit without an answer".to_owned()));
        }
        Ok(())
    }

    async fn commit_now(mut self) -> Result<(), StoreError> {
        if !self.traced.is_empty() {
            traces::put(&mut self.work, &self.traced, self.context.world.now()).await?;
        }
        let backlog = self.write_outgoing().await?;
        let queue = &self.context.relay_queue;
        match self.work {
            Work::Postgres(pg) => {
                pg.commit().await?;
                queue.push(self.outgoing, backlog);
            }
            Work::Memory(m) => {
                let Draft { draft, mut committed } = *m;
                *committed = draft;
                // Queued before the lock is released: the next transaction cannot queue a later row of the same key first.
                queue.push(self.outgoing, backlog);
            }
        }
        Ok(())
    }

    async fn write_outgoing(&mut self) -> Result<Backlog, StoreError> {
        if self.outgoing.is_empty() {
            return Ok(Backlog::None);
        }
        outbox::insert(&mut self.work, &mut self.outgoing, &self.context.pod).await
    }
}

/// The error of a caller of [`Store::transact`](super::Store::transact).
pub trait TransactionError: From<StoreError> {
    /// The store's error, if it was the store that failed.
    fn store_error(&self) -> Option<&StoreError>;
}

impl TransactionError for StoreError {
    fn store_error(&self) -> Option<&StoreError> {
        Some(self)
    }
}

/// Which failures of a transaction are retried, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Serialization failures: 5 retries, each after 5 to 24 ms drawn at random, so that two transactions that keep
    /// conflicting drift apart.
    Serialization,
    /// Serialization failures and refused constraints: 3 retries at once. For a command that decides again by what the
    /// concurrent transaction left.
    SerializationOrConflict,
}

/// Counts the retries of one transaction.
#[derive(Debug)]
pub(crate) struct Retries {
    retry: Retry,
    left: u32,
}

impl Retries {
    pub(crate) fn new(retry: Retry) -> Self {
        let left = match retry {
            Retry::Serialization => SERIALIZATION_RETRIES,
            Retry::SerializationOrConflict => CONFLICT_RETRIES,
        };
        Self { retry, left }
    }

    /// Waits as long as the next try has to; false if this failure is not retried, or no more.
    pub(crate) async fn wait_for_next(&mut self, failure: Option<&StoreError>, world: &World) -> bool {
        let is_retried = match failure {
            Some(StoreError::Serialization(_)) => true,
            Some(StoreError::Conflict { .. }) => self.retry == Retry::SerializationOrConflict,
            _ => false,
        };
        if !is_retried || self.left == 0 {
            return false;
        }
        self.left -= 1;
        tracing::debug!(failure = failure.map(tracing::field::display), "the transaction is retried");
        if self.retry == Retry::Serialization {
            sleep(Duration::from_millis(u64::from(5 + world.below(20)))).await;
        }
        true
    }
}
