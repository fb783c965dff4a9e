//! Migrations: a service's schema, with the tables of every service and then its own.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use super::backend::BEGIN_WAIT;
use super::error::StoreError;
use crate::retry;

/// Limit of the wait for a server at start.
const START_WAIT: Duration = Duration::from_secs(60);

/// The tables of every service. The service's own migrations come after them in the same schema.
static COMMON: Migrator = sqlx::migrate!("../../migrations/platform");

/// Creates and migrates `schema`; waits up to a minute for a server that is not up yet, or that restarts meanwhile.
pub(super) async fn run(options: &PgConnectOptions, schema: &str, own: &Migrator) -> Result<(), StoreError> {
    let mut delays = retry::dependency();
    let until = Instant::now() + START_WAIT;
    loop {
        match run_once(options, schema, own).await {
            Err(StoreError::Unavailable(_)) if Instant::now() < until => sleep(delays.next_delay()).await,
            done => return done,
        }
    }
}

/// On a connection of its own, without the time limits of ordinary statements.
async fn run_once(options: &PgConnectOptions, schema: &str, own: &Migrator) -> Result<(), StoreError> {
    let mut connection = timeout(BEGIN_WAIT, PgConnection::connect_with(options))
        .await
        .map_err(|_| StoreError::Unavailable(format!("no answer in {BEGIN_WAIT:?}")))??;
    {
        // Two processes may start at once, and `if not exists` alone does not keep them from colliding.
        let mut tx = connection.begin().await?;
        sqlx::query("select pg_advisory_xact_lock(7209116100318)").execute(&mut *tx).await?;
        sqlx::query(sqlx::AssertSqlSafe(format!("create schema if not exists {schema}"))).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    for migrations in [&COMMON, own] {
        // Both sets record their versions in one table of the schema, so each must ignore the versions of the other.
        let mut set = Migrator { migrations: migrations.migrations.clone(), ..Migrator::DEFAULT };
        set.set_ignore_missing(true);
        set.run(&mut connection).await.map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => StoreError::from(error),
            error => StoreError::Other(error.to_string()),
        })?;
    }
    Ok(connection.close().await?)
}
