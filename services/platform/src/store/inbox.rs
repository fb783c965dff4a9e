//! The inbox: which messages each consumer has processed, so that a redelivery has no second effect.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::Row;

use super::backend::{PURGE_PAGE, Work};
use super::error::StoreError;

pub(super) async fn record_processed<T>(
    work: &mut Work<T>,
    consumer: &str,
    keys: &[&str],
    now: DateTime<Utc>,
) -> Result<HashSet<String>, StoreError> {
    match work {
        Work::Postgres(pg) => {
            let rows = sqlx::query(
                "insert into inbox (consumer, message_id, received_at) select $1, id, $3 from unnest($2::text[]) as id \
                 order by id on conflict do nothing returning message_id",
            )
            .bind(consumer)
            .bind(keys)
            .bind(now)
            .fetch_all(&mut ***pg)
            .await?;
            rows.iter().map(|r| r.try_get(0).map_err(StoreError::from)).collect()
        }
        Work::Memory(m) => Ok(keys
            .iter()
            .filter(|key| {
                let row = (consumer.to_owned(), (**key).to_owned());
                let is_new = !m.draft.inbox.contains_key(&row);
                if is_new {
                    m.draft.inbox.insert(row, now);
                }
                is_new
            })
            .map(|key| (*key).to_owned())
            .collect()),
    }
}

pub(super) async fn is_processed<T>(work: &mut Work<T>, consumer: &str, key: &str) -> Result<bool, StoreError> {
    match work {
        Work::Postgres(pg) => {
            let row = sqlx::query("select exists (select 1 from inbox where consumer = $1 and message_id = $2)")
                .bind(consumer)
                .bind(key)
                .fetch_one(&mut ***pg)
                .await?;
            Ok(row.try_get(0)?)
        }
        Work::Memory(m) => Ok(m.draft.inbox.contains_key(&(consumer.to_owned(), key.to_owned()))),
    }
}

/// Deletes a page of rows received before `before`; true if none is left.
pub(super) async fn purge_page<T>(work: &mut Work<T>, before: DateTime<Utc>) -> Result<bool, StoreError> {
    match work {
        Work::Postgres(pg) => {
            let deleted = sqlx::query(
                "delete from inbox where (consumer, message_id) in \
                 (select consumer, message_id from inbox where received_at < $1 limit $2)",
            )
            .bind(before)
            .bind(PURGE_PAGE)
            .execute(&mut ***pg)
            .await?;
            Ok(deleted.rows_affected() < PURGE_PAGE.unsigned_abs())
        }
        Work::Memory(m) => {
            let rows = m.draft.inbox.iter().filter(|(_, received_at)| **received_at >= before);
            m.draft.inbox = rows.map(|(row, received_at)| (row.clone(), *received_at)).collect();
            Ok(true)
        }
    }
}
