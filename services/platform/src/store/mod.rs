//! The store: PostgreSQL, or memory, behind one [`Transaction`].
//!
//! Each operation of a service stands once, in the file of its noun, with two arms side by side: the SQL, and the same over
//! persistent maps. In memory a transaction works on a cheap copy under an exclusive lock: commit swaps it, drop forgets
//! it. This file owns connections, commit and the kinds of error; it knows no table but `inbox` and `outbox`.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use imbl::OrdMap;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection, Postgres, Row};
use streams::Event;
#[cfg(debug_assertions)]
use streams::simulation::{Fault, Faults};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout};

use crate::relay::{self, OutboxRow, PAGE};
use crate::retry;
use crate::world::{Trace, World};

/// Wait for a connection, or for the transaction before in memory.
const BEGIN_WAIT: Duration = Duration::from_secs(5);
/// Wait for a server at start.
const START_WAIT: Duration = Duration::from_secs(60);
/// Wait for a statement of the relay; the server's own limit is shorter, but a server that was stopped keeps none.
const RELAY_WAIT: Duration = Duration::from_secs(15);
/// Rows deleted in one transaction.
const PURGE_ROWS: i64 = 10_000;

/// The tables that every service has; the service's own migrations come after them in the same schema.
static COMMON: Migrator = sqlx::migrate!("../../migrations/platform");

/// Why the store did not do what was asked; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No answer, no connection, a time limit: not the fault of what was asked. After a commit the outcome is unknown.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// Two transactions met; the same again will work.
    #[error("the transaction met another one: {0}")]
    Serialization(String),
    /// A constraint refuses it, and will refuse it again.
    #[error("constraint {constraint} refuses it")]
    Conflict {
        /// The constraint's name, as in the migrations.
        constraint: String,
    },
    /// A fault in the program or the schema.
    #[error("database: {0}")]
    Other(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        match &error {
            sqlx::Error::Database(db) => {
                let code = db.code().unwrap_or_default();
                match (code.get(..2), code.as_ref()) {
                    // A deadlock, or a lock that was not given in time: the same again may meet nobody.
                    (_, "40001" | "40P01" | "55P03") => Self::Serialization(text),
                    // A statement that takes too long, or one after another failed: the same again will too.
                    (_, "57014" | "25P02") => Self::Other(text),
                    (Some("08" | "53" | "57" | "25"), _) => Self::Unavailable(text),
                    (Some("23"), _) => Self::Conflict { constraint: db.constraint().unwrap_or_default().to_owned() },
                    _ => Self::Other(text),
                }
            }
            // A server that goes in the middle of a word leaves an answer that cannot be understood.
            sqlx::Error::Protocol(_)
            | sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(text),
            _ => Self::Other(text),
        }
    }
}

/// The store of one service; clones are one. `T` is the service's own tables in memory.
pub struct Store<T> {
    backend: Backend<T>,
    world: World,
    pod: Arc<str>,
    relay: relay::Hints,
    #[cfg(debug_assertions)]
    faults: Option<Faults>,
}

enum Backend<T> {
    Postgres { pool: PgPool, relay_pool: PgPool },
    Memory(Arc<Mutex<Committed<T>>>),
}

/// What the memory store has committed.
#[derive(Clone, Default)]
pub(crate) struct Committed<T> {
    tables: T,
    inbox: OrdMap<(String, String), DateTime<Utc>>,
    /// What waits to be published; nothing could be sent again from a memory that is gone, so the rest is not kept.
    outbox: OrdMap<i64, OutboxRow>,
    last_seq: i64,
}

impl<T> Clone for Store<T> {
    fn clone(&self) -> Self {
        let backend = match &self.backend {
            Backend::Postgres { pool, relay_pool } => {
                Backend::Postgres { pool: pool.clone(), relay_pool: relay_pool.clone() }
            }
            Backend::Memory(shared) => Backend::Memory(shared.clone()),
        };
        Self {
            backend,
            world: self.world.clone(),
            pod: self.pod.clone(),
            relay: self.relay.clone(),
            #[cfg(debug_assertions)]
            faults: self.faults.clone(),
        }
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
    /// Empty tables in this process, gone at its end.
    pub fn memory(world: &World, pod: &Arc<str>) -> Self {
        let shared = Arc::new(Mutex::new(Committed::default()));
        Self {
            backend: Backend::Memory(shared),
            world: world.clone(),
            pod: pod.clone(),
            relay: relay::Hints::default(),
            #[cfg(debug_assertions)]
            faults: None,
        }
    }

    /// The same tables as another process of a simulation sees them.
    #[cfg(debug_assertions)]
    pub fn seen_with(&self, pod: &Arc<str>, faults: &Faults) -> Self {
        let (pod, relay, faults) = (pod.clone(), relay::Hints::default(), Some(faults.clone()));
        Self { pod, relay, faults, ..self.clone() }
    }

    /// What the inbox in memory has noted, consumer and note, for a simulation to compare with what was published.
    #[cfg(debug_assertions)]
    pub async fn all_processed(&self) -> Vec<(String, String)> {
        match &self.backend {
            Backend::Postgres { .. } => Vec::new(),
            Backend::Memory(shared) => shared.lock().await.inbox.keys().cloned().collect(),
        }
    }

    /// Rows of the outbox that wait, for a simulation to see it come to rest.
    ///
    /// # Errors
    /// [`StoreError`].
    #[cfg(debug_assertions)]
    pub async fn waiting(&self) -> Result<usize, StoreError> {
        match &self.backend {
            Backend::Postgres { .. } => Ok(self.unpublished(Some(Duration::ZERO), i64::MIN).await?.len()),
            Backend::Memory(shared) => Ok(shared.lock().await.outbox.len()),
        }
    }

    /// The schema `schema` of a PostgreSQL database, created and migrated if need be, with at most `connections`.
    ///
    /// # Errors
    /// [`StoreError`] if the server is away or a migration fails; its text says which.
    pub async fn postgres(
        world: &World,
        pod: &Arc<str>,
        url: &str,
        schema: &'static str,
        migrations: &Migrator,
        connections: u32,
    ) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|e| StoreError::Other(format!("DATABASE_URL: {e}; for example postgres://user@host/database")))?
            .application_name(&format!("rideshare {schema}"))
            .options([("search_path", schema)]);
        migrate(&options, schema, migrations).await.map_err(|error| match error {
            StoreError::Other(why) => StoreError::Other(format!("migration of schema {schema}: {why}")),
            error => error,
        })?;
        // Every wait is bounded, also that of a process that was stopped in the middle of a transaction.
        let options = options.options([
            ("statement_timeout", "10s"),
            ("lock_timeout", "5s"),
            ("idle_in_transaction_session_timeout", "15s"),
            // Every statement finds its rows by an index. A plan made while a table was empty, and kept, knows no better.
            ("enable_seqscan", "off"),
            // What costs much by the line above is not worth compiling.
            ("jit", "off"),
        ]);
        let pool =
            |n, options| PgPoolOptions::new().max_connections(n).acquire_timeout(BEGIN_WAIT).connect_lazy_with(options);
        let main = pool(connections.max(2), options.clone());
        // A mark that is lost with the machine is made again by publishing again under the same id.
        let relay_pool = pool(2, options.options([("synchronous_commit", "off")]));
        Ok(Self {
            backend: Backend::Postgres { pool: main, relay_pool },
            world: world.clone(),
            pod: pod.clone(),
            relay: relay::Hints::default(),
            #[cfg(debug_assertions)]
            faults: None,
        })
    }

    /// Begins a transaction; dropping it forgets it. Hold it only around operations on the store.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] without a connection in 5 s.
    pub async fn begin(&self) -> Result<Transaction<T>, StoreError> {
        #[cfg(debug_assertions)]
        self.reached(Fault::BeginRefused).await?;
        let work = match &self.backend {
            Backend::Postgres { pool, .. } => Work::Postgres(Box::new(pool.begin().await?)),
            Backend::Memory(shared) => {
                let committed = timeout(BEGIN_WAIT, shared.clone().lock_owned())
                    .await
                    .map_err(|_| StoreError::Unavailable(format!("no transaction in {BEGIN_WAIT:?}")))?;
                Work::Memory(Box::new(Draft { draft: committed.clone(), committed }))
            }
        };
        Ok(Transaction { work, outgoing: Vec::new(), store: self.clone() })
    }

    /// A simulation may have it not reached.
    #[cfg(debug_assertions)]
    async fn reached(&self, fault: Fault) -> Result<(), StoreError> {
        let Some(faults) = &self.faults else { return Ok(()) };
        faults.to_store().await.map_err(StoreError::Unavailable)?;
        if faults.strikes(fault) {
            return Err(StoreError::Unavailable("simulated: no connection".to_owned()));
        }
        Ok(())
    }

    /// Whether the store answers.
    ///
    /// # Errors
    /// [`StoreError`] says why not.
    pub async fn check(&self) -> Result<(), StoreError> {
        #[cfg(debug_assertions)]
        self.reached(Fault::BeginRefused).await?;
        match &self.backend {
            Backend::Postgres { pool, .. } => {
                timeout(BEGIN_WAIT, sqlx::query("select 1").execute(pool))
                    .await
                    .map_err(|_| StoreError::Unavailable("no answer in 5 s".to_owned()))??;
            }
            Backend::Memory(_) => {}
        }
        Ok(())
    }

    /// Deletes inbox rows older than 8 days (no stream delivers anything older) and outbox rows published more than a day
    /// ago (kept so that they can be sent again after a lost disk).
    ///
    /// # Errors
    /// [`StoreError`]; what remains goes next time.
    pub async fn purge(&self) -> Result<(), StoreError> {
        let now = self.world.now();
        let (inbox, sent) = (now - chrono::Duration::days(8), now - chrono::Duration::days(1));
        while self.purge_some(inbox, sent).await? {}
        Ok(())
    }

    /// True if there may be more.
    async fn purge_some(&self, inbox: DateTime<Utc>, sent: DateTime<Utc>) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let mut more = false;
        match &mut tx.work {
            Work::Postgres(pg) => {
                let noted = sqlx::query(
                    "delete from inbox where (consumer, message_id) in \
                     (select consumer, message_id from inbox where received_at < $1 limit $2)",
                )
                .bind(inbox)
                .bind(PURGE_ROWS)
                .execute(&mut ***pg)
                .await?;
                let published = sqlx::query(
                    "delete from outbox where seq in (select seq from outbox where published_at < $1 limit $2)",
                )
                .bind(sent)
                .bind(PURGE_ROWS)
                .execute(&mut ***pg)
                .await?;
                let full = PURGE_ROWS.unsigned_abs();
                more = noted.rows_affected() >= full || published.rows_affected() >= full;
            }
            Work::Memory(m) => {
                m.draft.inbox =
                    m.draft.inbox.iter().filter(|(_, at)| **at >= inbox).map(|(k, v)| (k.clone(), *v)).collect();
            }
        }
        tx.commit().await?;
        Ok(more)
    }

    pub(crate) fn hints(&self) -> &relay::Hints {
        &self.relay
    }

    /// The connections of the relay; none in memory.
    pub(crate) fn relay_pool(&self) -> Option<&PgPool> {
        match &self.backend {
            Backend::Postgres { relay_pool, .. } => Some(relay_pool),
            Backend::Memory(_) => None,
        }
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// A page of rows after `after` that wait to be published, in order: those of the keys of which this pod has a row, or,
    /// for the floor, of the keys of which a row waited longer than `older_than`. Always all of a key, so that the floor
    /// overtakes nothing.
    pub(crate) async fn unpublished(
        &self,
        older_than: Option<Duration>,
        after: i64,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        #[cfg(debug_assertions)]
        self.reached(Fault::RelayRefused).await?;
        let before = older_than.map(|d| self.world.now() - chrono::Duration::from_std(d).unwrap_or_default());
        match &self.backend {
            Backend::Postgres { relay_pool, .. } => {
                let rows = relayed(
                    sqlx::query(
                        "select seq, message_id, key, subject, body, traceparent, occurred_at, created_at \
                         from outbox where published_at is null and seq > $1 and key in \
                         (select key from outbox where published_at is null and \
                         case when $2::timestamptz is null then pod = $3 else created_at < $2 end) order by seq limit $4",
                    )
                    .bind(after)
                    .bind(before)
                    .bind(&*self.pod)
                    .bind(PAGE as i64)
                    .fetch_all(relay_pool),
                )
                .await?;
                rows.iter().map(|row| OutboxRow::read(row).map_err(StoreError::from)).collect()
            }
            Backend::Memory(shared) => {
                let committed = shared.lock().await;
                let waiting = || committed.outbox.values();
                let old = waiting().filter(|r| before.is_none_or(|b| r.created_at < b));
                let keys: BTreeSet<_> = old.map(|r| r.key).collect();
                Ok(waiting().filter(|r| r.seq > after && keys.contains(&r.key)).take(PAGE).cloned().collect())
            }
        }
    }

    /// Marks rows as published.
    pub(crate) async fn mark_published(&self, rows: &[i64]) -> Result<(), StoreError> {
        #[cfg(debug_assertions)]
        self.reached(Fault::RelayRefused).await?;
        let now = self.world.now();
        match &self.backend {
            Backend::Postgres { relay_pool, .. } => {
                relayed(
                    sqlx::query("update outbox set published_at = $1 where seq = any($2)")
                        .bind(now)
                        .bind(rows)
                        .execute(relay_pool),
                )
                .await?;
            }
            Backend::Memory(shared) => {
                let mut committed = shared.lock().await;
                for seq in rows {
                    committed.outbox.remove(seq);
                }
            }
        }
        Ok(())
    }

    /// When the oldest row that still waits was written.
    pub(crate) async fn oldest_unpublished(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        #[cfg(debug_assertions)]
        self.reached(Fault::RelayRefused).await?;
        match &self.backend {
            Backend::Postgres { relay_pool, .. } => {
                let row = relayed(
                    sqlx::query("select created_at from outbox where published_at is null order by seq limit 1")
                        .fetch_optional(relay_pool),
                )
                .await?;
                Ok(row.map(|r| r.try_get(0)).transpose()?)
            }
            Backend::Memory(shared) => {
                let committed = shared.lock().await;
                Ok(committed.outbox.values().next().map(|r| r.created_at))
            }
        }
    }
}

/// Bounds a statement of the relay.
pub(crate) async fn relayed<R>(statement: impl Future<Output = sqlx::Result<R>>) -> Result<R, StoreError> {
    match timeout(RELAY_WAIT, statement).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(StoreError::Unavailable(format!("no answer in {RELAY_WAIT:?}"))),
    }
}

/// Migrates, waiting up to a minute for a server that is not there yet, or that goes meanwhile.
async fn migrate(options: &PgConnectOptions, schema: &str, own: &Migrator) -> Result<(), StoreError> {
    let mut delays = retry::dependency();
    let until = Instant::now() + START_WAIT;
    loop {
        match migrate_once(options, schema, own).await {
            Err(StoreError::Unavailable(_)) if Instant::now() < until => tokio::time::sleep(delays.next_delay()).await,
            done => return done,
        }
    }
}

/// On one connection, without the limits of ordinary work.
async fn migrate_once(options: &PgConnectOptions, schema: &str, own: &Migrator) -> Result<(), StoreError> {
    let mut connection = timeout(BEGIN_WAIT, PgConnection::connect_with(options))
        .await
        .map_err(|_| StoreError::Unavailable(format!("no answer in {BEGIN_WAIT:?}")))??;
    {
        // Two processes that start at once: `if not exists` alone may still collide.
        let mut tx = connection.begin().await?;
        sqlx::query("select pg_advisory_xact_lock(7209116100318)").execute(&mut *tx).await?;
        sqlx::query(sqlx::AssertSqlSafe(format!("create schema if not exists {schema}"))).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    for migrations in [&COMMON, own] {
        // Both sets keep their versions in the schema's one table; each passes over what is the other's.
        let mut set = Migrator { migrations: migrations.migrations.clone(), ..Migrator::DEFAULT };
        set.set_ignore_missing(true);
        set.run(&mut connection).await.map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => StoreError::from(error),
            error => StoreError::Other(error.to_string()),
        })?;
    }
    Ok(connection.close().await?)
}

/// The tables of one service in memory. A transaction works on a copy, so that cloning them must be cheap.
pub trait Tables: Clone + Default + Send + Sync + 'static {}

impl<T: Clone + Default + Send + Sync + 'static> Tables for T {}

/// One transaction on the store. Nothing of it is seen by others before [`commit`](Self::commit), and nothing of it
/// remains if it is dropped.
pub struct Transaction<T> {
    work: Work<T>,
    outgoing: Vec<OutboxRow>,
    store: Store<T>,
}

impl<T> fmt::Debug for Transaction<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("outgoing", &self.outgoing.len()).finish_non_exhaustive()
    }
}

enum Work<T> {
    Postgres(Box<sqlx::Transaction<'static, Postgres>>),
    Memory(Box<Draft<T>>),
}

/// A copy of everything, swapped in at commit.
struct Draft<T> {
    draft: Committed<T>,
    committed: OwnedMutexGuard<Committed<T>>,
}

/// Where an operation runs: what [`Transaction::on`] lends to it.
pub enum On<'a, T> {
    /// On a connection whose search path is the service's schema.
    Postgres(&'a mut PgConnection),
    /// On the transaction's copy of the service's tables.
    Memory(&'a mut T),
}

impl<T> Transaction<T> {
    /// Lends the connection, or the tables in memory, to one operation.
    pub fn on(&mut self) -> On<'_, T> {
        match &mut self.work {
            Work::Postgres(pg) => On::Postgres(pg),
            Work::Memory(m) => On::Memory(&mut m.draft.tables),
        }
    }
}

impl<T: Tables> Transaction<T> {
    /// Puts an event into the outbox: it is published once this transaction is committed, and only then.
    pub fn publish(&mut self, event: &Event, trace: &Trace) {
        let now = self.store.world.now();
        self.outgoing.push(OutboxRow::of(event, trace, now));
    }

    /// Notes message ids as handled by `consumer`; returns those that were not noted before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn record_processed(&mut self, consumer: &str, ids: &[&str]) -> Result<HashSet<String>, StoreError> {
        #[cfg(debug_assertions)]
        if streams::simulation::sabotage().no_inbox {
            return Ok(ids.iter().map(|id| (*id).to_owned()).collect());
        }
        let now = self.store.world.now();
        match &mut self.work {
            Work::Postgres(pg) => {
                let rows = sqlx::query(
                    "insert into inbox (consumer, message_id, received_at) select $1, id, $3 from unnest($2::text[]) as id \
                     order by id on conflict do nothing returning message_id",
                )
                .bind(consumer)
                .bind(ids)
                .bind(now)
                .fetch_all(&mut ***pg)
                .await?;
                rows.iter().map(|r| r.try_get(0).map_err(StoreError::from)).collect()
            }
            Work::Memory(m) => Ok(ids
                .iter()
                .filter(|id| {
                    let key = (consumer.to_owned(), (**id).to_owned());
                    let new = !m.draft.inbox.contains_key(&key);
                    if new {
                        m.draft.inbox.insert(key, now);
                    }
                    new
                })
                .map(|id| (*id).to_owned())
                .collect()),
        }
    }

    /// Of message ids, those that are in the outbox and not published yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unpublished_of(&mut self, ids: &[&str]) -> Result<HashSet<String>, StoreError> {
        match &mut self.work {
            Work::Postgres(pg) => {
                let rows =
                    sqlx::query("select message_id from outbox where published_at is null and message_id = any($1)")
                        .bind(ids)
                        .fetch_all(&mut ***pg)
                        .await?;
                rows.iter().map(|r| r.try_get(0).map_err(StoreError::from)).collect()
            }
            Work::Memory(m) => {
                let waiting = m.draft.outbox.values().filter(|row| ids.contains(&row.message_id.as_str()));
                Ok(waiting.map(|row| row.message_id.clone()).collect())
            }
        }
    }

    /// Whether `consumer` noted this message id as handled.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_processed(&mut self, consumer: &str, id: &str) -> Result<bool, StoreError> {
        match &mut self.work {
            Work::Postgres(pg) => {
                let row = sqlx::query("select exists (select 1 from inbox where consumer = $1 and message_id = $2)")
                    .bind(consumer)
                    .bind(id)
                    .fetch_one(&mut ***pg)
                    .await?;
                Ok(row.try_get(0)?)
            }
            Work::Memory(m) => Ok(m.draft.inbox.contains_key(&(consumer.to_owned(), id.to_owned()))),
        }
    }

    /// Makes all of it true at once, and wakes the relay.
    ///
    /// # Errors
    /// [`StoreError`]: nothing was changed, but for [`StoreError::Unavailable`] in PostgreSQL, where the outcome is
    /// unknown and must be read, not guessed.
    pub async fn commit(self) -> Result<(), StoreError> {
        #[cfg(debug_assertions)]
        if let Some(faults) = self.store.faults.clone() {
            return self.commit_with(&faults).await;
        }
        self.commit_now().await
    }

    /// As a simulation has it: the process may die before or after, and the answer may be lost.
    #[cfg(debug_assertions)]
    async fn commit_with(self, faults: &Faults) -> Result<(), StoreError> {
        let mut held = Some(self);
        faults.in_transaction(|| held = None).await.map_err(StoreError::Unavailable)?;
        let Some(tx) = held else { return Ok(()) };
        if faults.strikes(Fault::CommitRefused) {
            return Err(StoreError::Unavailable("simulated: a commit that was not made".to_owned()));
        }
        if faults.strikes(Fault::CommitConflict) {
            return Err(StoreError::Serialization("simulated".to_owned()));
        }
        tx.commit_now().await?;
        faults.point().await;
        if faults.strikes(Fault::CommitUnanswered) {
            return Err(StoreError::Unavailable("simulated: a commit without an answer".to_owned()));
        }
        Ok(())
    }

    async fn commit_now(mut self) -> Result<(), StoreError> {
        let blocked = self.write_outgoing().await?;
        match self.work {
            Work::Postgres(pg) => pg.commit().await?,
            Work::Memory(m) => {
                let Draft { draft, mut committed } = *m;
                *committed = draft;
                // Handed over before the next transaction may begin: rows of one key stay in order.
                self.store.relay.committed(self.outgoing, blocked);
                return Ok(());
            }
        }
        self.store.relay.committed(self.outgoing, blocked);
        Ok(())
    }

    /// Writes the outgoing rows; true if one has an older unpublished row of the same key before it.
    async fn write_outgoing(&mut self) -> Result<bool, StoreError> {
        if self.outgoing.is_empty() {
            return Ok(false);
        }
        let mut blocked = false;
        match &mut self.work {
            Work::Postgres(pg) => {
                let of = |f: fn(&OutboxRow) -> String| self.outgoing.iter().map(f).collect::<Vec<_>>();
                // (A scalar with a limit and not `exists`, for which the planner may hash all that waits, dead rows included.)
                let rows = sqlx::query(
                    "insert into outbox (message_id, key, subject, body, traceparent, occurred_at, created_at, pod) \
                     select m, k, s, b, t, o, $7, $8 from unnest($1::text[], $2::uuid[], $3::text[], $4::text[], \
                     $5::text[], $6::timestamptz[]) with ordinality as u (m, k, s, b, t, o, n) order by n \
                     returning seq, (select true from outbox before where before.key = outbox.key and \
                     before.published_at is null limit 1)",
                )
                .bind(of(|r| r.message_id.clone()))
                .bind(self.outgoing.iter().map(|r| r.key).collect::<Vec<_>>())
                .bind(of(|r| r.subject.clone()))
                .bind(of(|r| r.body.clone()))
                .bind(of(|r| r.traceparent.clone()))
                .bind(self.outgoing.iter().map(|r| r.occurred_at).collect::<Vec<_>>())
                .bind(self.outgoing[0].created_at)
                .bind(&*self.store.pod)
                .fetch_all(&mut ***pg)
                .await?;
                for (row, written) in self.outgoing.iter_mut().zip(&rows) {
                    row.seq = written.try_get(0)?;
                    blocked |= written.try_get::<Option<bool>, _>(1)?.is_some();
                }
            }
            Work::Memory(m) => {
                blocked = self.outgoing.iter().any(|new| m.draft.outbox.values().any(|old| old.key == new.key));
                for row in &mut self.outgoing {
                    m.draft.last_seq += 1;
                    row.seq = m.draft.last_seq;
                    m.draft.outbox.insert(row.seq, row.clone());
                }
            }
        }
        Ok(blocked)
    }
}
