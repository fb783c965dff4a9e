//! Which process matches: one is active, the others are warm standbys. This file owns the lease and nothing of matching.
//!
//! A PostgreSQL advisory lock was thought of and left: it lives with one connection, so a process whose connection was
//! lost believes that it leads while another does, and nothing ties the writes of one to the lock of the other. Instead a
//! row: (name, epoch, holder, expires_at), by the database's clock. The active process renews it every second for 5 s; a
//! standby looks every half second and takes over once it has expired, with the next epoch. Every transaction of the
//! engine reads the row `for key share` and demands its own epoch: a take-over waits for a transaction that runs, and a
//! transaction that begins later finds itself fenced. So it does not matter whose clock is right, nor how long a process
//! was stopped: two never write. (The epoch is part of a unique constraint, hence a renewal, which changes no key, does not
//! wait for engine transactions.) In memory the same, with the world's clock.

use chrono::{DateTime, Duration, Utc};
use platform::{Failure, On, StoreError};
use sqlx::Row;

use crate::engine::rows::Tx;

/// The lease's row in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    epoch: i64,
    holder: String,
    expires_at: DateTime<Utc>,
}

/// Takes the lease for `ttl` if nobody has it or it has expired; the epoch if so. `now` counts only in memory.
///
/// # Errors
/// [`StoreError`].
pub async fn take(tx: &mut Tx, holder: &str, ttl: Duration, now: DateTime<Utc>) -> Result<Option<i64>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            // A look first: the insert below would lock the row against the engine even where it changes nothing.
            let held = sqlx::query("select 1 from lease where name = 'match' and expires_at >= now()")
                .fetch_optional(&mut *pg)
                .await?;
            if held.is_some() {
                return Ok(None);
            }
            let row = sqlx::query(
                "insert into lease (name, epoch, holder, expires_at) values ('match', 1, $1, now() + $2) \
                 on conflict (name) do update set epoch = lease.epoch + 1, holder = excluded.holder, \
                 expires_at = excluded.expires_at where lease.expires_at < now() returning epoch",
            )
            .bind(holder)
            .bind(ttl)
            .fetch_optional(&mut *pg)
            .await?;
            Ok(row.map(|r| r.try_get(0)).transpose()?)
        }
        On::Memory(m) => {
            let lease = &mut m.lease;
            if lease.as_ref().is_some_and(|l| l.expires_at >= now) {
                return Ok(None);
            }
            let epoch = lease.as_ref().map_or(1, |l| l.epoch + 1);
            *lease = Some(Lease { epoch, holder: holder.to_owned(), expires_at: now + ttl });
            Ok(Some(epoch))
        }
    }
}

/// Renews the lease for `ttl`, or, with a `ttl` below zero, gives it back. False if another has taken it.
///
/// # Errors
/// [`StoreError`].
pub async fn renew(tx: &mut Tx, epoch: i64, ttl: Duration, now: DateTime<Utc>) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let done = sqlx::query("update lease set expires_at = now() + $2 where name = 'match' and epoch = $1")
                .bind(epoch)
                .bind(ttl)
                .execute(&mut *pg)
                .await?;
            Ok(done.rows_affected() == 1)
        }
        On::Memory(m) => match &mut m.lease {
            Some(lease) if lease.epoch == epoch => {
                lease.expires_at = now + ttl;
                Ok(true)
            }
            _ => Ok(false),
        },
    }
}

/// Keeps the lease from being taken before the end of this transaction.
///
/// # Errors
/// [`Failure::Fenced`] if another has taken it.
pub async fn guard(tx: &mut Tx, epoch: i64) -> Result<(), Failure> {
    let mine = match tx.on() {
        On::Postgres(pg) => sqlx::query("select 1 from lease where name = 'match' and epoch = $1 for key share")
            .bind(epoch)
            .fetch_optional(&mut *pg)
            .await
            .map_err(StoreError::from)?
            .is_some(),
        On::Memory(m) => m.lease.as_ref().is_some_and(|l| l.epoch == epoch),
    };
    if mine { Ok(()) } else { Err(Failure::Fenced) }
}
