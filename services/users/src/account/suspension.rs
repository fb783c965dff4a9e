//! What is remembered of suspended drivers beyond their accounts: keyed hashes of phone and plate, for `SUSPENSION_MEMORY_DAYS`. Who registers
//! with such a phone is suspended; a vehicle with such a plate waits for an operator, because it may have been sold.

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};

use super::{DriverStatus, plate};
use crate::context::Context;
use crate::sign_in::phone::Phone;
use crate::tables::Tables;

/// What is remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mark<'a> {
    Phone(&'a Phone),
    /// As it is shown.
    Plate(&'a str),
}

impl Mark<'_> {
    fn purpose_and_value(self) -> (&'static str, String) {
        match self {
            Self::Phone(phone) => ("suspended-phone", phone.as_str().to_owned()),
            Self::Plate(shown) => ("suspended-plate", plate::key(shown)),
        }
    }

    fn hash(self, context: &Context) -> Vec<u8> {
        let (purpose, value) = self.purpose_and_value();
        context.tokens.keyed_hash(purpose, &value).to_vec()
    }

    /// Every hash as which it may be stored.
    fn hashes(self, context: &Context) -> Vec<Vec<u8>> {
        let (purpose, value) = self.purpose_and_value();
        context.tokens.keyed_hashes(purpose, &value).iter().map(|hash| hash.to_vec()).collect()
    }
}

/// Remembers a mark of a suspended driver.
pub(crate) async fn remember(
    context: &Context,
    tx: &mut Transaction<Tables>,
    mark: Mark<'_>,
) -> Result<(), StoreError> {
    let ends_at = context.platform.world.now() + context.config.suspension_memory;
    let hash = mark.hash(context);
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into suspensions (hash, ends_at) values ($1, $2) \
                 on conflict (hash) do update set ends_at = excluded.ends_at",
            )
            .bind(hash)
            .bind(ends_at)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            tables.suspensions.insert(hash, ends_at);
        }
    }
    Ok(())
}

async fn is_remembered(context: &Context, tx: &mut Transaction<Tables>, mark: Mark<'_>) -> Result<bool, StoreError> {
    let (hashes, now) = (mark.hashes(context), context.platform.world.now());
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select 1 from suspensions where hash = any($1) and ends_at > $2 limit 1")
                .bind(column(hashes, |hash| hash))
                .bind(now)
                .fetch_optional(&mut *pg)
                .await?;
            Ok(row.is_some())
        }
        On::Memory(tables) => {
            Ok(hashes.iter().any(|hash| tables.suspensions.get(hash).is_some_and(|ends_at| *ends_at > now)))
        }
    }
}

/// The status of somebody who registers with this phone and plate, and would otherwise be `status`.
pub(crate) async fn status_of_new(
    context: &Context,
    tx: &mut Transaction<Tables>,
    (phone, plate): (&Phone, &str),
    status: DriverStatus,
) -> Result<DriverStatus, StoreError> {
    if is_remembered(context, tx, Mark::Phone(phone)).await? {
        return Ok(DriverStatus::Suspended);
    }
    let is_plate = is_remembered(context, tx, Mark::Plate(plate)).await?;
    Ok(if is_plate { DriverStatus::Pending } else { status })
}

/// Forgets the marks of a driver whom an operator approves.
pub(crate) async fn forget(
    context: &Context,
    tx: &mut Transaction<Tables>,
    marks: [Mark<'_>; 2],
) -> Result<(), StoreError> {
    let hashes: Vec<Vec<u8>> = marks.into_iter().flat_map(|mark| mark.hashes(context)).collect();
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from suspensions where hash = any($1)")
                .bind(column(hashes, |hash| hash))
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => hashes.iter().for_each(|hash| _ = tables.suspensions.remove(hash)),
    }
    Ok(())
}

/// Deletes marks whose time is over.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from suspensions where ends_at <= $1").bind(now).execute(&mut *pg).await?;
        }
        On::Memory(tables) => {
            let live = tables.suspensions.iter().filter(|(_, ends_at)| **ends_at > now);
            tables.suspensions = live.map(|(hash, ends_at)| (hash.clone(), *ends_at)).collect();
        }
    }
    Ok(())
}
