//! The rows of `shares`.

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{RideId, UserId};
use uuid::Uuid;

use super::Share;
use crate::tables::Tables;

fn read(row: &PgRow) -> Result<Share, StoreError> {
    Ok(Share {
        share_id: row.try_get("share_id")?,
        ride_id: RideId(row.try_get("ride_id")?),
        user: UserId(row.try_get("user_id")?),
        token_hash: row.try_get("token_hash")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        revoked_at: row.try_get("revoked_at")?,
    })
}

/// The links of a ride that `user` made, oldest first.
pub(crate) async fn of_ride(
    tx: &mut Transaction<Tables>,
    ride: RideId,
    user: UserId,
) -> Result<Vec<Share>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select * from shares where ride_id = $1 and user_id = $2 order by share_id")
                .bind(ride.0)
                .bind(user.0)
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let of_ride = tables.shares.values().filter(|share| share.ride_id == ride && share.user == user);
            Ok(of_ride.cloned().collect())
        }
    }
}

pub(crate) async fn insert(tx: &mut Transaction<Tables>, share: &Share) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into shares (share_id, ride_id, user_id, token_hash, created_at, expires_at) \
                 values ($1, $2, $3, $4, $5, $6)",
            )
            .bind(share.share_id)
            .bind(share.ride_id.0)
            .bind(share.user.0)
            .bind(&share.token_hash)
            .bind(share.created_at)
            .bind(share.expires_at)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            tables.share_tokens.insert(share.token_hash.clone(), share.share_id);
            tables.shares.insert(share.share_id, share.clone());
        }
    }
    Ok(())
}

/// Revokes a link of a ride that `user` made; a repeat has no effect. False if there is none.
pub(crate) async fn revoke(
    tx: &mut Transaction<Tables>,
    (ride, user, share): (RideId, UserId, Uuid),
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let done = sqlx::query(
                "update shares set revoked_at = coalesce(revoked_at, $4) \
                 where share_id = $1 and ride_id = $2 and user_id = $3",
            )
            .bind(share)
            .bind(ride.0)
            .bind(user.0)
            .bind(now)
            .execute(&mut *pg)
            .await?;
            Ok(done.rows_affected() > 0)
        }
        On::Memory(tables) => {
            let known = tables.shares.get_mut(&share).filter(|known| known.ride_id == ride && known.user == user);
            Ok(known.map(|known| _ = known.revoked_at.get_or_insert(now)).is_some())
        }
    }
}

/// The link whose token has one of these hashes.
pub(crate) async fn by_token(tx: &mut Transaction<Tables>, hashes: &[Vec<u8>]) -> Result<Option<Share>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select * from shares where token_hash = any($1)")
                .bind(column(hashes, Vec::clone))
                .fetch_optional(&mut *pg)
                .await?;
            row.map(|row| read(&row)).transpose()
        }
        On::Memory(tables) => {
            let share = hashes.iter().find_map(|hash| tables.share_tokens.get(hash));
            Ok(share.and_then(|share| tables.shares.get(share)).cloned())
        }
    }
}

/// A page of the links that `user` made, by id.
pub(crate) async fn made_by(
    tx: &mut Transaction<Tables>,
    user: UserId,
    after: Uuid,
    limit: u32,
) -> Result<Vec<Share>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows =
                sqlx::query("select * from shares where user_id = $1 and share_id > $2 order by share_id limit $3")
                    .bind(user.0)
                    .bind(after)
                    .bind(i64::from(limit))
                    .fetch_all(&mut *pg)
                    .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let made = tables.shares.values().filter(|share| share.user == user && share.share_id > after);
            Ok(made.take(limit as usize).cloned().collect())
        }
    }
}

/// Deletes the links of these people.
pub(crate) async fn erase_people(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from shares where user_id = any($1)")
                .bind(column(users, |user| user.0))
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => tables.remove_shares(|share| users.contains(&share.user)),
    }
    Ok(())
}

/// Deletes links that ended before `before`.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, before: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from shares where expires_at < $1").bind(before).execute(&mut *pg).await?;
        }
        On::Memory(tables) => tables.remove_shares(|share| share.expires_at < before),
    }
    Ok(())
}
