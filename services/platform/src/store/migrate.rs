//! Migrations: a service's schema, with the tables of every service and then its own; and the role that may use it.
//!
//! The role of a running service needs no right to create anything: if every migration is applied, nothing is executed.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::time::{Instant, sleep, timeout};

use super::connections::{Address, BEGIN_WAIT, in_begin_wait};
use super::error::StoreError;
use crate::retry;

/// Limit of the wait for a server at start, and of all tries for a lock that somebody else holds.
const START_WAIT: Duration = Duration::from_secs(60);
/// For this long a migration waits for a lock. Meanwhile every statement on its table waits behind it: so it gives up, and tries again.
const LOCK_WAIT: &str = "2s";

/// The tables of every service. The service's own migrations come after them in the same schema.
static COMMON: Migrator = sqlx::migrate!("../../migrations/platform");

/// Creates and migrates `schema`; waits up to a minute for a server that is not up yet, or that restarts meanwhile, and for locks of others.
pub(super) async fn run(address: &Address, schema: &str, own: &Migrator) -> Result<(), StoreError> {
    let mut delays = retry::dependency();
    let until = Instant::now() + START_WAIT;
    loop {
        match run_once(address, schema, own).await {
            Err(StoreError::Unavailable(_)) if Instant::now() < until => sleep(delays.next_delay()).await,
            // Each migration is a transaction: what did not get its lock has changed nothing.
            Err(StoreError::Serialization(why)) if Instant::now() < until => {
                tracing::warn!(schema, %why, "a migration waits for a lock, and tries again");
                sleep(delays.next_delay()).await;
            }
            done => return done,
        }
    }
}

/// On a connection of its own, without the time limits of ordinary statements.
async fn run_once(address: &Address, schema: &str, own: &Migrator) -> Result<(), StoreError> {
    let options = match address.is_pooler() {
        true => address.options().clone(),
        false => address.options().clone().options([("lock_timeout", LOCK_WAIT)]),
    };
    let mut connection = timeout(BEGIN_WAIT, PgConnection::connect_with(&options))
        .await
        .map_err(|_| StoreError::Unavailable(format!("no answer in {BEGIN_WAIT:?}")))??;
    // In a transaction, because a pooler may give each statement outside of one to another connection.
    let mut tx = in_begin_wait(connection.begin_with(address.begin())).await?;
    let is_up_to_date = is_up_to_date(&mut tx, schema, own).await?;
    tx.commit().await?;
    if is_up_to_date {
        return Ok(connection.close().await?);
    }
    if address.is_pooler() {
        let what = "it lacks a migration, and none can be applied by way of a pooler: run `rideshare migrate` with the address of \
                    PostgreSQL itself";
        return Err(StoreError::Other(what.to_owned()));
    }
    {
        // Two processes may start at once, and `if not exists` alone does not keep them from colliding.
        let mut tx = connection.begin().await?;
        sqlx::query("select pg_advisory_xact_lock(7209116100318)").execute(&mut *tx).await?;
        sqlx::query(AssertSqlSafe(format!("create schema if not exists {schema}"))).execute(&mut *tx).await?;
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

/// Whether every migration of both sets is applied. A changed or half-applied one counts as missing: [`Migrator::run`] then says
/// what is wrong with it.
async fn is_up_to_date(connection: &mut PgConnection, schema: &str, own: &Migrator) -> Result<bool, StoreError> {
    let exists =
        sqlx::query("select exists (select from pg_tables where schemaname = $1 and tablename = '_sqlx_migrations')")
            .bind(schema)
            .fetch_one(&mut *connection)
            .await?
            .try_get::<bool, _>(0)?;
    if !exists {
        return Ok(false);
    }
    let select = format!("select version, checksum from {schema}._sqlx_migrations where success");
    let rows = sqlx::query(AssertSqlSafe(select)).fetch_all(connection).await?;
    let mut applied = BTreeMap::new();
    for row in rows {
        applied.insert(row.try_get::<i64, _>("version")?, row.try_get::<Vec<u8>, _>("checksum")?);
    }
    let mut all = COMMON.iter().chain(own.iter());
    Ok(all.all(|m| applied.get(&m.version).is_some_and(|checksum| checksum[..] == m.checksum[..])))
}

/// Lets `role` use the migrated `schema`: it may read and write rows of its tables, and nothing else. May be repeated.
///
/// # Errors
/// If the role does not exist, or if the connection's own role may not grant this.
pub(super) async fn grant(address: &Address, schema: &str, role: &str) -> Result<(), StoreError> {
    if !is_role_name(role) {
        return Err(StoreError::Other(format!("role {role:?}: lower-case letters, digits and _ only, 63 at most")));
    }
    let mut connection = PgConnection::connect_with(address.options()).await?;
    for statement in [
        format!("grant usage on schema {schema} to {role}"),
        format!("grant select, insert, update, delete on all tables in schema {schema} to {role}"),
        format!("grant usage on all sequences in schema {schema} to {role}"),
        format!("revoke insert, update, delete on {schema}._sqlx_migrations from {role}"),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
    }
    Ok(connection.close().await?)
}

fn is_role_name(role: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    role.len() <= 63 && role.starts_with(|c: char| c.is_ascii_lowercase()) && role.chars().all(is_allowed)
}
