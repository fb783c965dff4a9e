//! The store of one service: PostgreSQL or memory, behind one [`Transaction`].
//!
//! Each operation of a service is written once, in the file of its noun, with two arms side by side: the SQL, and the same
//! on persistent maps. This module owns connections, transactions and the kinds of error. The only tables that it knows are
//! those of every service: `inbox`, `outbox` and `traces`.

mod backend;
pub(crate) mod connections;
mod error;
mod inbox;
mod migrate;
mod outbox;
mod plans;
pub mod rows;
mod traces;
mod transaction;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::migrate::Migrator;
use streams::simulation::{Fault, Faults};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::relay::row::{OutboxRow, RelayQueue};
use crate::spans::Spans;
use crate::world::World;
pub use backend::Tables;
use backend::{Backend, Committed, Context, Draft, Work};
use connections::{Address, BEGIN_WAIT, Connections};
pub use error::StoreError;
pub(crate) use outbox::{relay_connection, relay_statement};
pub(crate) use transaction::Retries;
pub use transaction::{On, Retry, Transaction, TransactionError};

/// The store of one service; clones share it. `T` is the service's own tables in memory.
pub struct Store<T> {
    backend: Backend<T>,
    context: Context,
}

impl<T> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self { backend: self.backend.clone(), context: self.context.clone() }
    }
}

impl<T> fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.backend {
            Backend::Postgres { .. } => "Postgres",
            Backend::Memory(_) => "Memory",
        };
        f.debug_tuple("Store").field(&kind).finish()
    }
}

impl<T: Tables> Store<T> {
    /// Empty tables in this process, gone when it ends.
    pub fn memory(world: &World, pod: &Arc<str>) -> Self {
        Self::new(Backend::Memory(Arc::new(Mutex::new(Committed::default()))), world, pod)
    }

    fn new(backend: Backend<T>, world: &World, pod: &Arc<str>) -> Self {
        let (world, pod) = (world.clone(), pod.clone());
        let context = Context {
            world,
            pod,
            relay_queue: RelayQueue::default(),
            faults: Faults::default(),
            spans: Spans::default(),
        };
        Self { backend, context }
    }

    /// Whether each statement is a round trip to a server.
    pub const fn is_remote(&self) -> bool {
        matches!(self.backend, Backend::Postgres { .. })
    }

    /// The same store for a process that records spans: it stores in which trace a search, an offer and a ride are.
    #[must_use]
    pub fn with_spans(mut self, spans: &Spans) -> Self {
        self.context.spans = spans.clone();
        self
    }

    /// The same tables as another process of a simulation sees them.
    pub fn with_faults(&self, pod: &Arc<str>, faults: &Faults) -> Self {
        let mut store = Self::new(self.backend.clone(), &self.context.world, pod);
        store.context.faults = faults.clone();
        store
    }

    /// The consumer and inbox key of every processed message in memory, so that a simulation can compare them with what was
    /// published.
    pub async fn all_processed(&self) -> Vec<(String, String)> {
        match &self.backend {
            Backend::Postgres { .. } => Vec::new(),
            Backend::Memory(shared) => shared.lock().await.inbox.keys().cloned().collect(),
        }
    }

    /// The number of unpublished outbox rows, so that a simulation can wait until there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn waiting(&self) -> Result<usize, StoreError> {
        match &self.backend {
            Backend::Postgres { .. } => Ok(self.unpublished(Some(Duration::ZERO), i64::MIN).await?.len()),
            Backend::Memory(shared) => Ok(shared.lock().await.outbox.len()),
        }
    }

    /// The schema `schema` of a PostgreSQL database, created and migrated if need be, on at most `connections` connections
    /// (at least 2) plus 2 for the relay. With `pooler=transaction` among its parameters the URL leads to a pooler.
    ///
    /// # Errors
    /// [`StoreError`] if the server does not answer or a migration fails; its text says which.
    pub async fn postgres(
        world: &World,
        pod: &Arc<str>,
        url: &str,
        schema: &'static str,
        migrations: &Migrator,
        connections: u32,
    ) -> Result<Self, StoreError> {
        let address = Address::parse(url, schema)?;
        // Once, at the start: its future would make that of every start larger.
        Box::pin(migrate::run(&address, schema, migrations)).await.map_err(|error| match error {
            StoreError::Forbidden(why) => StoreError::Forbidden(format!(
                "{why}. Schema {schema} lacks a migration: apply it by `rideshare migrate` with the role that owns the schema"
            )),
            StoreError::Other(why) => StoreError::Other(format!("migration of schema {schema}: {why}")),
            error => error,
        })?;
        let (pool, relay_pool) = address.pools(connections.max(2), 2);
        Ok(Self::new(Backend::Postgres { pool, relay_pool }, world, pod))
    }

    /// Lets `role` read and write the rows of the migrated `schema`, and nothing else.
    ///
    /// # Errors
    /// [`StoreError`] if the role does not exist, or if the role of `url` may not grant it.
    pub async fn grant(url: &str, schema: &'static str, role: &str) -> Result<(), StoreError> {
        migrate::grant(&Address::parse(url, schema)?, schema, role).await
    }

    /// Begins a transaction; dropping it rolls it back. Hold it only around operations on the store.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] without a connection in 5 s.
    pub async fn begin(&self) -> Result<Transaction<T>, StoreError> {
        self.reach(Fault::BeginRefused).await?;
        let work = match &self.backend {
            Backend::Postgres { pool, .. } => Work::Postgres(Box::new(pool.begin().await?)),
            Backend::Memory(shared) => {
                let committed = timeout(BEGIN_WAIT, shared.clone().lock_owned())
                    .await
                    .map_err(|_| StoreError::Unavailable(format!("no transaction in {BEGIN_WAIT:?}")))?;
                Work::Memory(Box::new(Draft { draft: committed.clone(), committed }))
            }
        };
        Ok(Transaction::new(work, self.context.clone()))
    }

    /// Begins a read-only transaction that sees the tables as they are at its first read.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub async fn snapshot(&self) -> Result<Transaction<T>, StoreError> {
        let Backend::Postgres { pool, .. } = &self.backend else { return self.begin().await };
        self.reach(Fault::BeginRefused).await?;
        Ok(Transaction::new(Work::Postgres(Box::new(pool.snapshot().await?)), self.context.clone()))
    }

    /// Begins a transaction and gives it to `work`, which commits it or drops it; and again, as `retry` says, if the
    /// transaction failed because of a concurrent one. `work` must have no effect but on the store.
    ///
    /// # Errors
    /// What `work` returned last.
    pub async fn transact<R, E, W>(&self, retry: Retry, mut work: impl FnMut(Transaction<T>) -> W) -> Result<R, E>
    where
        E: TransactionError,
        W: Future<Output = Result<R, E>>,
    {
        let mut retries = Retries::new(retry);
        loop {
            let outcome = match self.begin().await {
                Ok(tx) => work(tx).await,
                Err(error) => Err(error.into()),
            };
            match outcome {
                Err(error) if retries.wait_for_next(error.store_error(), &self.context.world).await => {}
                outcome => return outcome,
            }
        }
    }

    /// In a simulation, a point on the way to the database where the process may die, or `fault` may strike.
    async fn reach(&self, fault: Fault) -> Result<(), StoreError> {
        self.context.faults.reach_store().await.map_err(StoreError::Unavailable)?;
        if self.context.faults.occurs(fault) {
            return Err(StoreError::Unavailable("simulated: no connection".to_owned()));
        }
        Ok(())
    }

    /// Whether the store answers.
    ///
    /// # Errors
    /// [`StoreError`] says why not.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.reach(Fault::BeginRefused).await?;
        match &self.backend {
            Backend::Postgres { pool, .. } => {
                let select = async {
                    let mut single = pool.single().await?;
                    sqlx::query("select 1").execute(single.on()).await?;
                    single.end().await
                };
                timeout(BEGIN_WAIT, select)
                    .await
                    .map_err(|_| StoreError::Unavailable("no answer in 5 s".to_owned()))??;
            }
            Backend::Memory(_) => {}
        }
        Ok(())
    }

    /// Deletes inbox rows older than 8 days (no stream delivers anything older) and outbox rows published more than a day
    /// ago (until then the relay may have to publish them again to a recreated stream), and the traces of what is two days old.
    ///
    /// # Errors
    /// [`StoreError`]; the next purge deletes what remains.
    pub async fn purge(&self) -> Result<(), StoreError> {
        let now = self.context.world.now();
        let (processed_before, published_before) = (now - chrono::Duration::days(8), now - chrono::Duration::days(1));
        let traced_before = now - chrono::Duration::days(2);
        loop {
            let mut tx = self.begin().await?;
            let is_done = tx.purge_page(processed_before, published_before, traced_before).await?;
            tx.commit().await?;
            if is_done {
                return Ok(());
            }
        }
    }

    pub(crate) fn relay_queue(&self) -> &RelayQueue {
        &self.context.relay_queue
    }

    /// The relay's own connections; none in memory.
    pub(crate) fn relay_pool(&self) -> Option<&Connections> {
        match &self.backend {
            Backend::Postgres { relay_pool, .. } => Some(relay_pool),
            Backend::Memory(_) => None,
        }
    }

    /// A page of unpublished rows after `after`, in order: those of the keys of which this pod wrote a row, or, with
    /// `older_than`, of the keys of which any row is older than that. It always holds all rows of a key, so that none is
    /// overtaken.
    pub(crate) async fn unpublished(
        &self,
        older_than: Option<Duration>,
        after: i64,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        self.reach(Fault::RelayRefused).await?;
        let created_before =
            older_than.map(|d| self.context.world.now() - chrono::Duration::from_std(d).unwrap_or_default());
        outbox::unpublished(&self.backend, &self.context.pod, created_before, after).await
    }

    pub(crate) async fn mark_published(&self, rows: &[i64]) -> Result<(), StoreError> {
        self.reach(Fault::RelayRefused).await?;
        outbox::mark_published(&self.backend, rows, self.context.world.now()).await
    }

    /// When the oldest unpublished row was written.
    pub(crate) async fn oldest_unpublished(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        self.reach(Fault::RelayRefused).await?;
        outbox::oldest_unpublished(&self.backend).await
    }
}
