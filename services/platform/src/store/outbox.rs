//! The outbox: committed events that are to be published, and for a day those that are published.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::Row;
use tokio::time::timeout;
use uuid::Uuid;

use super::backend::{Backend, PURGE_PAGE, Work};
use super::connections::{Connections, Single};
use super::error::StoreError;
use super::rows::column;
use crate::relay::row::{Backlog, OutboxRow, PAGE};

/// Limit of a statement of the relay. The server's own limit is shorter, but a server that was paused enforces none.
const RELAY_WAIT: Duration = Duration::from_secs(15);

/// A connection for a statement of the relay.
pub(crate) async fn relay_connection(pool: &Connections) -> Result<Single, StoreError> {
    relay_statement(pool.single()).await
}

/// Runs a statement of the relay under a limit.
pub(crate) async fn relay_statement<R>(statement: impl Future<Output = sqlx::Result<R>>) -> Result<R, StoreError> {
    match timeout(RELAY_WAIT, statement).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(StoreError::Unavailable(format!("no answer in {RELAY_WAIT:?}"))),
    }
}

/// Writes rows in order, and gives each its `seq`.
pub(super) async fn insert<T>(work: &mut Work<T>, rows: &mut [OutboxRow], pod: &str) -> Result<Backlog, StoreError> {
    let mut is_blocked = false;
    match work {
        Work::Postgres(pg) => {
            // A scalar with a limit, not `exists`: for that the planner may hash all unpublished rows, dead ones included.
            let inserted = sqlx::query(
                "insert into outbox (message_id, key, subject, body, traceparent, occurred_at, created_at, pod, parent_span) \
                 select m, k, s, b, t, o, $7, $8, p from unnest($1::text[], $2::uuid[], $3::text[], $4::text[], \
                 $5::text[], $6::timestamptz[], $9::text[]) with ordinality as u (m, k, s, b, t, o, p, n) order by n \
                 returning seq, (select true from outbox before where before.key = outbox.key and \
                 before.published_at is null limit 1)",
            )
            .bind(column(&*rows, |row| row.message_id.as_str()))
            .bind(column(&*rows, |row| row.key))
            .bind(column(&*rows, |row| row.subject.as_str()))
            .bind(column(&*rows, |row| row.body.as_str()))
            .bind(column(&*rows, |row| row.traceparent.as_str()))
            .bind(column(&*rows, |row| row.occurred_at))
            .bind(rows[0].created_at)
            .bind(pod)
            .bind(column(&*rows, |row| row.parent_span.as_deref()))
            .fetch_all(&mut ***pg)
            .await?;
            for (row, inserted) in rows.iter_mut().zip(&inserted) {
                row.seq = inserted.try_get(0)?;
                is_blocked |= inserted.try_get::<Option<bool>, _>(1)?.is_some();
            }
        }
        Work::Memory(m) => {
            is_blocked = rows.iter().any(|new| m.draft.outbox.values().any(|old| old.key == new.key));
            for row in rows {
                m.draft.last_seq += 1;
                row.seq = m.draft.last_seq;
                m.draft.outbox.insert(row.seq, row.clone());
            }
        }
    }
    Ok(if is_blocked { Backlog::SameKey } else { Backlog::None })
}

/// See [`Store::unpublished`](super::Store::unpublished).
pub(super) async fn unpublished<T>(
    backend: &Backend<T>,
    pod: &str,
    created_before: Option<DateTime<Utc>>,
    after: i64,
) -> Result<Vec<OutboxRow>, StoreError> {
    match backend {
        Backend::Postgres { relay_pool, .. } => {
            let statement = sqlx::query_as(
                "select seq, message_id, key, subject, body, traceparent, parent_span, occurred_at, created_at \
                 from outbox where published_at is null and seq > $1 and key in \
                 (select key from outbox where published_at is null and \
                 case when $2::timestamptz is null then pod = $3 else created_at < $2 end) order by seq limit $4",
            );
            let statement = statement.bind(after).bind(created_before).bind(pod).bind(PAGE as i64);
            let mut single = relay_connection(relay_pool).await?;
            let rows = relay_statement(statement.fetch_all(single.on())).await?;
            relay_statement(single.end()).await?;
            Ok(rows)
        }
        Backend::Memory(shared) => {
            let committed = shared.lock().await;
            let rows = || committed.outbox.values();
            let old = rows().filter(|row| created_before.is_none_or(|before| row.created_at < before));
            let keys: BTreeSet<_> = old.map(|row| row.key).collect();
            Ok(rows().filter(|row| row.seq > after && keys.contains(&row.key)).take(PAGE).cloned().collect())
        }
    }
}

pub(super) async fn mark_published<T>(
    backend: &Backend<T>,
    rows: &[i64],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match backend {
        Backend::Postgres { relay_pool, .. } => {
            let statement = sqlx::query("update outbox set published_at = $1 where seq = any($2)");
            let mut single = relay_connection(relay_pool).await?;
            relay_statement(statement.bind(now).bind(rows).execute(single.on())).await?;
            relay_statement(single.end()).await?;
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

pub(super) async fn oldest_unpublished<T>(backend: &Backend<T>) -> Result<Option<DateTime<Utc>>, StoreError> {
    match backend {
        Backend::Postgres { relay_pool, .. } => {
            let statement =
                sqlx::query_scalar("select created_at from outbox where published_at is null order by seq limit 1");
            let mut single = relay_connection(relay_pool).await?;
            let oldest = relay_statement(statement.fetch_optional(single.on())).await?;
            relay_statement(single.end()).await?;
            Ok(oldest)
        }
        Backend::Memory(shared) => {
            let committed = shared.lock().await;
            Ok(committed.outbox.values().next().map(|row| row.created_at))
        }
    }
}

/// Those of the message ids whose row is not published yet.
pub(super) async fn unpublished_of<T>(work: &mut Work<T>, message_ids: &[&str]) -> Result<HashSet<String>, StoreError> {
    match work {
        Work::Postgres(pg) => {
            let statement =
                sqlx::query_scalar("select message_id from outbox where published_at is null and message_id = any($1)");
            let rows: Vec<String> = statement.bind(message_ids).fetch_all(&mut ***pg).await?;
            Ok(rows.into_iter().collect())
        }
        Work::Memory(m) => {
            let rows = m.draft.outbox.values().filter(|row| message_ids.contains(&row.message_id.as_str()));
            Ok(rows.map(|row| row.message_id.clone()).collect())
        }
    }
}

/// Those of the keys of which a row is not published yet.
pub(super) async fn unpublished_keys<T>(work: &mut Work<T>, keys: &[Uuid]) -> Result<HashSet<Uuid>, StoreError> {
    match work {
        Work::Postgres(pg) => {
            let statement =
                sqlx::query_scalar("select distinct key from outbox where published_at is null and key = any($1)");
            let rows: Vec<Uuid> = statement.bind(keys).fetch_all(&mut ***pg).await?;
            Ok(rows.into_iter().collect())
        }
        Work::Memory(m) => {
            let rows = m.draft.outbox.values().filter(|row| keys.contains(&row.key));
            Ok(rows.map(|row| row.key).collect())
        }
    }
}

/// Deletes a page of rows published before `before`; true if none is left.
pub(super) async fn purge_page<T>(work: &mut Work<T>, before: DateTime<Utc>) -> Result<bool, StoreError> {
    match work {
        Work::Postgres(pg) => {
            let deleted = sqlx::query(
                "delete from outbox where seq in (select seq from outbox where published_at < $1 limit $2)",
            )
            .bind(before)
            .bind(PURGE_PAGE)
            .execute(&mut ***pg)
            .await?;
            Ok(deleted.rows_affected() < PURGE_PAGE.unsigned_abs())
        }
        // A published row leaves the memory store at once.
        Work::Memory(_) => Ok(true),
    }
}
