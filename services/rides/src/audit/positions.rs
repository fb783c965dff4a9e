//! Where the stream has which event: a row for each message, to be read by ride.
//!
//! The stream is in the order of time and the tables are read in the order of rides. PostgreSQL sorts: the rows are in a temporary
//! table, which spills to disk, so the memory of the audit does not grow with the stream. In memory they are a map.

use std::collections::BTreeMap;

use platform::store::rows::column;
use platform::{On, Store, StoreError, Transaction};
use sqlx::Row;
use streams::RideId;

use super::stream_copy::StreamCopy;
use crate::tables::Tables;

/// All copies in the stream. In PostgreSQL the temporary table lives as long as the transaction, which sees only that table.
pub(super) enum Positions {
    Postgres(Box<Transaction<Tables>>),
    Memory(BTreeMap<(RideId, u64), StreamCopy>),
}

/// The copies of each ride, by sequence.
pub(super) type Copies = BTreeMap<RideId, Vec<StreamCopy>>;

impl Positions {
    pub(super) async fn create(store: &Store<Tables>) -> Result<Self, StoreError> {
        let mut tx = store.begin().await?;
        match tx.on() {
            On::Postgres(pg) => {
                // The transaction is idle while the audit reads other things; and `create index` is a long statement.
                for statement in [
                    "set local idle_in_transaction_session_timeout = '10min'",
                    "set local statement_timeout = '10min'",
                    "create temporary table stream_positions (ride_id uuid not null, version bigint not null, \
                     sequence bigint not null, digest bytea not null) on commit drop",
                ] {
                    sqlx::query(statement).execute(&mut *pg).await?;
                }
            }
            // The memory store has one transaction at a time: it must not stay open.
            On::Memory(_) => return Ok(Self::Memory(BTreeMap::new())),
        }
        Ok(Self::Postgres(Box::new(tx)))
    }

    pub(super) async fn add(&mut self, copies: &[(RideId, StreamCopy)]) -> Result<(), StoreError> {
        match self {
            Self::Postgres(tx) => {
                if let On::Postgres(pg) = tx.on() {
                    sqlx::query(
                        "insert into stream_positions (ride_id, version, sequence, digest) \
                         select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bytea[])",
                    )
                    .bind(column(copies, |(ride, _)| ride.0))
                    .bind(column(copies, |(_, copy)| i64::from(copy.version)))
                    .bind(column(copies, |(_, copy)| copy.sequence.cast_signed()))
                    .bind(column(copies, |(_, copy)| &copy.digest[..]))
                    .execute(&mut *pg)
                    .await?;
                }
            }
            Self::Memory(all) => all.extend(copies.iter().map(|(ride, copy)| ((*ride, copy.sequence), *copy))),
        }
        Ok(())
    }

    /// After the first, long addition: from here on the rows are read by ride.
    pub(super) async fn index(&mut self) -> Result<(), StoreError> {
        if let Self::Postgres(tx) = self
            && let On::Postgres(pg) = tx.on()
        {
            sqlx::query("create index on stream_positions (ride_id)").execute(&mut *pg).await?;
        }
        Ok(())
    }

    /// The ride of the copy that is `limit` copies after the first one of `first`; `None` if there are fewer. It bounds a page.
    pub(super) async fn bound(&mut self, first: RideId, limit: usize) -> Result<Option<RideId>, StoreError> {
        match self {
            Self::Postgres(tx) => {
                let On::Postgres(pg) = tx.on() else { return Ok(None) };
                let row = sqlx::query(
                    "select ride_id from stream_positions where ride_id >= $1 order by ride_id offset $2 limit 1",
                )
                .bind(first.0)
                .bind(limit as i64)
                .fetch_optional(&mut *pg)
                .await?;
                Ok(row.map(|row| row.try_get(0).map(RideId)).transpose()?)
            }
            Self::Memory(all) => Ok(all.range((first, 0)..).nth(limit).map(|((ride, _), _)| *ride)),
        }
    }

    /// The copies of the rides from `first` to `last`, both included.
    pub(super) async fn between(&mut self, first: RideId, last: RideId) -> Result<Copies, StoreError> {
        let mut copies = Copies::new();
        match self {
            Self::Postgres(tx) => {
                if let On::Postgres(pg) = tx.on() {
                    let rows = sqlx::query(
                        "select ride_id, version, sequence, digest from stream_positions \
                         where ride_id >= $1 and ride_id <= $2 order by ride_id, sequence",
                    )
                    .bind(first.0)
                    .bind(last.0)
                    .fetch_all(&mut *pg)
                    .await?;
                    for row in rows {
                        let damaged = |_| StoreError::Other("a row of stream_positions cannot be read".to_owned());
                        let copy = StreamCopy {
                            version: u32::try_from(row.try_get::<i64, _>(1)?).map_err(|_| damaged(()))?,
                            sequence: row.try_get::<i64, _>(2)?.cast_unsigned(),
                            digest: row.try_get::<&[u8], _>(3)?.try_into().map_err(|_| damaged(()))?,
                        };
                        copies.entry(RideId(row.try_get(0)?)).or_default().push(copy);
                    }
                }
            }
            Self::Memory(all) => {
                for ((ride, _), copy) in all.range((first, 0)..=(last, u64::MAX)) {
                    copies.entry(*ride).or_default().push(*copy);
                }
            }
        }
        Ok(copies)
    }
}
