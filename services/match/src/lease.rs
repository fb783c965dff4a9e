//! The lease that says which process matches: one is active, the others are warm standbys. This file knows nothing of
//! matching.
//!
//! The lease is a row: (name, epoch, holder, expires_at), by the database's clock. The active process renews it every second
//! for 5 s. A standby looks every half second, and takes the lease once it has expired, with the next epoch.
//!
//! Every transaction of the engine reads the row `for key share` and checks that the epoch is still its own. So a standby
//! that takes the lease waits until a running engine transaction has ended, and an engine transaction that begins later sees
//! the new epoch and is fenced. Two processes never write, whatever their clocks say and however long one was stopped.
//! A renewal does not wait for engine transactions: it changes no key column, and only a change of a key column conflicts
//! with `for key share`. A take-over does change one, because `epoch` is part of a unique constraint.
//!
//! Why not a PostgreSQL advisory lock: it belongs to one connection. A process that lost that connection would still believe
//! that it is active while another one is, and nothing would tie its writes to the lock.
//!
//! In memory the rules are the same, by the world's clock.

use chrono::{DateTime, Duration, Utc};
use platform::{Failure, On, StoreError};
use sqlx::Row;

use crate::tables::{LeaseRow, Tx};

/// Takes the lease for `ttl` if it is free or has expired, and returns its new epoch. `now` is used in memory only.
pub async fn take(tx: &mut Tx, holder: &str, ttl: Duration, now: DateTime<Utc>) -> Result<Option<i64>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            // Read first: the insert below locks the row, and blocks engine transactions, even when it changes nothing.
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
        On::Memory(tables) => {
            let lease = &mut tables.lease;
            if lease.as_ref().is_some_and(|l| l.expires_at >= now) {
                return Ok(None);
            }
            let epoch = lease.as_ref().map_or(1, |l| l.epoch + 1);
            *lease = Some(LeaseRow { epoch, holder: holder.to_owned(), expires_at: now + ttl });
            Ok(Some(epoch))
        }
    }
}

/// Renews the lease for `ttl`. False if another process has taken it.
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
        On::Memory(tables) => match &mut tables.lease {
            Some(lease) if lease.epoch == epoch => {
                lease.expires_at = now + ttl;
                Ok(true)
            }
            _ => Ok(false),
        },
    }
}

/// Lets the lease expire now, so that a standby can take it at once. False if another process has taken it already.
pub async fn release(tx: &mut Tx, epoch: i64, now: DateTime<Utc>) -> Result<bool, StoreError> {
    renew(tx, epoch, Duration::milliseconds(-1), now).await
}

/// Checks that the lease still has this epoch, and blocks any other process from taking it until this transaction ends.
///
/// # Errors
/// [`Failure::Fenced`] if another process has taken it.
pub async fn guard(tx: &mut Tx, epoch: i64) -> Result<(), Failure> {
    let held = match tx.on() {
        On::Postgres(pg) => sqlx::query("select 1 from lease where name = 'match' and epoch = $1 for key share")
            .bind(epoch)
            .fetch_optional(&mut *pg)
            .await
            .map_err(StoreError::from)?
            .is_some(),
        On::Memory(tables) => tables.lease.as_ref().is_some_and(|l| l.epoch == epoch),
    };
    if held { Ok(()) } else { Err(Failure::Fenced) }
}
