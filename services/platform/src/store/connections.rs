//! Connections to PostgreSQL: itself, or a pooler that gives a connection for one transaction.
//!
//! A direct connection gets its schema and limits when it opens, and keeps prepared statements. Behind a pooler such as PgBouncer with
//! `pool_mode = transaction`, the next transaction may be on another connection: so each sets its schema and limits itself, in the
//! message that begins it, and no statement is run outside of one.

use std::io;
use std::str::FromStr;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgConnection, Postgres, SqlSafeStr, SqlStr, Transaction};
use tokio::time::timeout;

use super::error::StoreError;
use super::plans;

/// Limit of the wait for a connection, or, in memory, for the transaction before.
pub(super) const BEGIN_WAIT: Duration = Duration::from_secs(5);
/// What an address ends with that leads to a pooler.
const POOLER: &str = "pooler=transaction";

const BEGIN: &str = "begin";
const SNAPSHOT: &str = "begin isolation level repeatable read, read only";
/// Comes next behind a pooler. The driver names the statements of a connection by number, and those of another client may still be there.
const FORGET: &str = "deallocate all";

/// Limits of every wait, also of that for a process that was stopped in the middle of a transaction.
const SESSION: [(&str, &str); 6] = [
    ("statement_timeout", "10s"),
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "15s"),
    // Every statement finds its rows by an index. A plan that was cached while a table was empty would scan it.
    ("enable_seqscan", "off"),
    // The line above inflates cost estimates, and the planner would compile cheap statements because of them.
    ("jit", "off"),
    // And it would start processes for statements of a millisecond: that takes fifty.
    ("max_parallel_workers_per_gather", "0"),
];
/// Should a crash of the server lose a `published_at`, the relay publishes that row again under the same message id.
const RELAY: (&str, &str) = ("synchronous_commit", "off");

/// An address, read.
#[derive(Clone)]
pub(super) struct Address {
    options: PgConnectOptions,
    schema: &'static str,
    is_pooler: bool,
}

impl Address {
    /// Reads `postgres://…`, with `pooler=transaction` among its parameters if it leads to a pooler.
    ///
    /// # Errors
    /// What is wrong, without the password.
    pub(super) fn parse(url: &str, schema: &'static str) -> Result<Self, StoreError> {
        let (plain, is_pooler) = without_pooler(url);
        let options = PgConnectOptions::from_str(&plain)
            .map_err(|e| StoreError::Other(format!("the address: {e}; for example postgres://user@host/database")))?
            .application_name(&format!("rideshare {schema}"));
        // A pooler refuses parameters of a connection that it cannot set on another one. It does not know prepared statements either.
        let options = if is_pooler {
            options.extra_float_digits(None).statement_cache_capacity(0)
        } else {
            options.options([("search_path", schema)])
        };
        Ok(Self { options, schema, is_pooler })
    }

    /// For one connection of its own. Behind a pooler without the schema.
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    pub(super) fn is_pooler(&self) -> bool {
        self.is_pooler
    }

    /// What begins a transaction that names its schema itself.
    pub(super) fn begin(&self) -> &'static str {
        if self.is_pooler { "begin; deallocate all" } else { BEGIN }
    }

    /// The connections of transactions, and those of the relay.
    pub(super) fn pools(&self, connections: u32, relay_connections: u32) -> (Connections, Connections) {
        plans::add_connections(connections + relay_connections);
        let relay: Vec<_> = SESSION.into_iter().chain([RELAY]).collect();
        (self.pool(connections, &SESSION), self.pool(relay_connections, &relay))
    }

    fn pool(&self, connections: u32, session: &[(&str, &str)]) -> Connections {
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(BEGIN_WAIT)
            .before_acquire(|_, _| Box::pin(std::future::ready(Ok(plans::is_usable()))));
        if !self.is_pooler {
            let options = self.options.clone().options(session.iter().copied());
            return Connections { pool: pool.connect_lazy_with(options), pooled: None };
        }
        let mut settings = format!("{FORGET}; set local search_path = {}", self.schema);
        session.iter().for_each(|(name, value)| settings.push_str(&format!("; set local {name} = '{value}'")));
        let text = |begin: &str| AssertSqlSafe(format!("{begin}; {settings}")).into_sql_str();
        let pooled = Some(Pooled { begin: text(BEGIN), snapshot: text(SNAPSHOT) });
        Connections { pool: pool.connect_lazy_with(self.options.clone()), pooled }
    }
}

/// Runs what begins a transaction, and fails as if the connection had ended if it takes longer than [`BEGIN_WAIT`].
pub(super) async fn in_begin_wait<R>(begin: impl Future<Output = sqlx::Result<R>>) -> sqlx::Result<R> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no transaction in {BEGIN_WAIT:?}"));
    timeout(BEGIN_WAIT, begin).await.map_err(|_| late())?
}

fn without_pooler(url: &str) -> (String, bool) {
    let Some((base, parameters)) = url.split_once('?') else { return (url.to_owned(), false) };
    let rest: Vec<&str> = parameters.split('&').filter(|parameter| *parameter != POOLER).collect();
    let is_pooler = rest.len() < parameters.split('&').count();
    let plain = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    (plain, is_pooler)
}

/// A pool whose connections know their schema and limits, or learn them with each transaction.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    pool: PgPool,
    /// If there is a pooler between.
    pooled: Option<Pooled>,
}

/// What begins transactions behind a pooler.
#[derive(Debug, Clone)]
struct Pooled {
    begin: SqlStr,
    snapshot: SqlStr,
}

impl Connections {
    pub(crate) async fn begin(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        let begin = self.pooled.as_ref().map_or_else(|| BEGIN.into_sql_str(), |pooled| pooled.begin.clone());
        self.begin_with(begin).await
    }

    /// Begins a read-only transaction that sees the tables at one moment.
    pub(crate) async fn snapshot(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        let begin = self.pooled.as_ref().map_or_else(|| SNAPSHOT.into_sql_str(), |pooled| pooled.snapshot.clone());
        self.begin_with(begin).await
    }

    /// A pooler accepts connections at once and lets `begin` wait until the server has one free, so this wait has a limit of its own.
    async fn begin_with(&self, begin: SqlStr) -> sqlx::Result<Transaction<'static, Postgres>> {
        // On the heap: it would make the future of every handler larger.
        Box::pin(in_begin_wait(self.pool.begin_with(begin))).await
    }

    /// For a single statement: behind a pooler in a transaction, which [`Single::end`] commits.
    pub(crate) async fn single(&self) -> sqlx::Result<Single> {
        match &self.pooled {
            Some(_) => Ok(Single::Pooled(self.begin().await?)),
            None => Ok(Single::Direct(self.pool.acquire().await?)),
        }
    }
}

/// A connection for a single statement.
pub(crate) enum Single {
    Direct(PoolConnection<Postgres>),
    Pooled(Transaction<'static, Postgres>),
}

impl Single {
    pub(crate) fn on(&mut self) -> &mut PgConnection {
        match self {
            Self::Direct(connection) => connection,
            Self::Pooled(transaction) => transaction,
        }
    }

    /// Gives back the connection; without it nothing was changed behind a pooler.
    pub(crate) async fn end(self) -> sqlx::Result<()> {
        match self {
            Self::Direct(_) => Ok(()),
            Self::Pooled(transaction) => transaction.commit().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_begin_that_a_pooler_lets_wait_is_given_up() {
        let error = StoreError::from(in_begin_wait(std::future::pending::<sqlx::Result<()>>()).await.unwrap_err());
        assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("no transaction in 5s")), "{error}");
    }

    #[test]
    fn an_address_says_whether_it_leads_to_a_pooler() {
        for (url, plain, is_pooler) in [
            ("postgres://u@h/d", "postgres://u@h/d", false),
            ("postgres://u@h/d?sslmode=require", "postgres://u@h/d?sslmode=require", false),
            ("postgres://u@h/d?pooler=transaction", "postgres://u@h/d", true),
            ("postgres://u@h/d?sslmode=require&pooler=transaction", "postgres://u@h/d?sslmode=require", true),
            ("postgres://u:pooler=transaction@h/d", "postgres://u:pooler=transaction@h/d", false),
        ] {
            assert_eq!(without_pooler(url), (plain.to_owned(), is_pooler), "{url}");
        }
    }
}
