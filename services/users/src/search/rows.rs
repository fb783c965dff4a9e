//! The rows of `searches`.

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{MatchId, RequestId, UserId};

use super::Search;
use crate::tables::Tables;
use crate::trip::Trip;

/// The constraint that allows a passenger one open search.
const USER_KEY: &str = "searches_user_key";
/// The most searches that one call of [`expire`] ends.
pub(crate) const EXPIRE_MAX: usize = 256;

fn read(row: &PgRow) -> Result<Search, StoreError> {
    Ok(Search {
        request_id: RequestId(row.try_get("request_id")?),
        user_id: UserId(row.try_get("user_id")?),
        trip: Trip::from_row(row)?,
        began_at: row.try_get("began_at")?,
        expires_at: row.try_get("expires_at")?,
    })
}

/// The open search of `user`. Its row stays locked until the transaction ends.
pub(crate) async fn lock_of_passenger(
    tx: &mut Transaction<Tables>,
    user: UserId,
) -> Result<Option<Search>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select request_id, user_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, vehicle_type, began_at, \
                 expires_at from searches where user_id = $1 for update",
            )
            .bind(user.0)
            .fetch_optional(&mut *pg)
            .await?;
            row.as_ref().map(read).transpose()
        }
        On::Memory(tables) => Ok(tables.searches.get(&user).copied()),
    }
}

/// # Errors
/// A conflict with [`USER_KEY`] if the passenger has an open search.
pub(crate) async fn insert(tx: &mut Transaction<Tables>, search: &Search) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let Trip { pickup, dropoff, vehicle_type } = search.trip;
            sqlx::query(
                "insert into searches (request_id, user_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, \
                 vehicle_type, began_at, expires_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .bind(search.request_id.0)
            .bind(search.user_id.0)
            .bind(pickup.lat)
            .bind(pickup.lng)
            .bind(dropoff.lat)
            .bind(dropoff.lng)
            .bind(vehicle_type.as_str())
            .bind(search.began_at)
            .bind(search.expires_at)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let rows = &mut tables.searches;
            if rows.contains_key(&search.user_id) {
                return Err(StoreError::Conflict { constraint: USER_KEY.to_owned() });
            }
            rows.insert(search.user_id, *search);
        }
    }
    Ok(())
}

pub(crate) async fn delete(tx: &mut Transaction<Tables>, search: &Search) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from searches where request_id = $1")
                .bind(search.request_id.0)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            tables.searches.remove(&search.user_id);
        }
    }
    Ok(())
}

/// Deletes the searches that became rides by these offers; a newer search of the same passenger stays.
pub(crate) async fn delete_fulfilled(tx: &mut Transaction<Tables>, offers: &[MatchId]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "with fulfilled as (select s.request_id from searches s join offers o using (request_id) \
                 where o.match_id = any($1) order by s.request_id for update of s) \
                 delete from searches using fulfilled where searches.request_id = fulfilled.request_id",
            )
            .bind(column(offers, |m| m.0))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            for offer in offers.iter().filter_map(|id| tables.offers.get(id)) {
                if tables.searches.get(&offer.passenger_id).is_some_and(|s| s.request_id == offer.request_id) {
                    tables.searches.remove(&offer.passenger_id);
                }
            }
        }
    }
    Ok(())
}

/// Deletes and returns at most [`EXPIRE_MAX`] searches that have expired, the oldest first.
pub(crate) async fn expire(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<Vec<Search>, StoreError> {
    let mut expired: Vec<Search> = match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "delete from searches where request_id in (select request_id from searches where expires_at <= $1 \
                 order by expires_at limit $2 for update skip locked) returning request_id, user_id, pickup_lat, \
                 pickup_lng, dropoff_lat, dropoff_lng, vehicle_type, began_at, expires_at",
            )
            .bind(now)
            .bind(EXPIRE_MAX as i64)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect::<Result<_, _>>()?
        }
        On::Memory(tables) => {
            let rows = &mut tables.searches;
            let mut over: Vec<Search> = rows.values().filter(|s| s.expires_at <= now).copied().collect();
            over.sort_by_key(|s| (s.expires_at, s.request_id));
            over.truncate(EXPIRE_MAX);
            for search in &over {
                rows.remove(&search.user_id);
            }
            over
        }
    };
    expired.sort_by_key(|s| (s.expires_at, s.request_id));
    Ok(expired)
}
