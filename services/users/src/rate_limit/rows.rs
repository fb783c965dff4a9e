//! The rows of `rate_limits`.

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;

use super::Buckets;
use crate::tables::Tables;

/// Rows that one statement purges.
const PURGE_PAGE: i64 = 10_000;

/// Reads the buckets. Their rows stay locked until the transaction ends, so that two of them never take the same; a bucket
/// without a row gets one. All transactions lock them in the same order.
pub(crate) async fn lock(tx: &mut Transaction<Tables>, buckets: &mut Buckets<'_>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            // The update changes nothing: it locks the row, and `returning` returns it.
            let rows = sqlx::query(
                "insert into rate_limits (key, tat) select key, $2 from unnest($1::bytea[]) as wanted (key) order by key \
                 on conflict on constraint rate_limits_pkey do update set tat = rate_limits.tat returning key, tat",
            )
            .bind(column(buckets.keys(), |key| key.to_vec()))
            .bind(DateTime::from_timestamp_micros(buckets.now_us))
            .fetch_all(&mut *pg)
            .await?;
            for row in rows {
                buckets.set(row.try_get("key")?, row.try_get("tat")?);
            }
        }
        On::Memory(tables) => {
            for key in buckets.keys() {
                if let Some(tat) = tables.rate_limits.get(&key) {
                    buckets.set(&key, *tat);
                }
            }
        }
    }
    Ok(())
}

/// Stores what was taken from buckets that this transaction has locked.
pub(crate) async fn store(tx: &mut Transaction<Tables>, buckets: &Buckets<'_>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "update rate_limits set tat = taken.tat from unnest($1::bytea[], $2::timestamptz[]) as taken (key, tat) \
                 where rate_limits.key = taken.key",
            )
            .bind(column(buckets.tats(), |(key, _)| key.to_vec()))
            .bind(column(buckets.tats(), |(_, tat)| tat))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => tables.rate_limits.extend(buckets.tats()),
    }
    Ok(())
}

/// Deletes the rows of full buckets.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            // Without waiting for locked rows: those are in use, and not in this order.
            sqlx::query(
                "delete from rate_limits where key in \
                 (select key from rate_limits where tat <= $1 order by tat limit $2 for update skip locked)",
            )
            .bind(now)
            .bind(PURGE_PAGE)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let left = tables.rate_limits.iter().filter(|(_, tat)| **tat > now);
            tables.rate_limits = left.map(|(key, tat)| (*key, *tat)).collect();
        }
    }
    Ok(())
}
