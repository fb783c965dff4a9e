//! The rows of `searches`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{RequestId, UserId};

use super::{Search, SearchKey};
use crate::tables::Tables;
use crate::trip::Trip;

/// The constraint that allows a passenger one open search.
const USER_KEY: &str = "searches_user_key";
/// The most searches that one call of [`lock_expired`] returns.
pub(crate) const EXPIRE_MAX: usize = 256;
/// The most searches that one call of [`overdue`] returns.
const OVERDUE_MAX: usize = 16;

pub(crate) fn read(row: &PgRow) -> Result<Search, StoreError> {
    Ok(Search {
        request_id: RequestId(row.try_get("request_id")?),
        user_id: UserId(row.try_get("user_id")?),
        trip: Trip::from_row(row)?,
        began_at: row.try_get("began_at")?,
        expires_at: row.try_get("expires_at")?,
        market_id: row.try_get("market_id")?,
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
                 expires_at, market_id from searches where user_id = $1 for update",
            )
            .bind(user.0)
            .fetch_optional(&mut *pg)
            .await?;
            row.as_ref().map(read).transpose()
        }
        On::Memory(tables) => Ok(tables.searches.get(&user).cloned()),
    }
}

/// The open searches of `users` that no other transaction has locked. Their rows stay locked until the transaction ends.
pub(crate) async fn lock_free(
    tx: &mut Transaction<Tables>,
    users: &[UserId],
) -> Result<BTreeMap<UserId, Search>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select request_id, user_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, vehicle_type, began_at, \
                 expires_at, market_id from searches where user_id = any($1) for update skip locked",
            )
            .bind(column(users, |user| user.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| read(row).map(|search| (search.user_id, search))).collect()
        }
        On::Memory(tables) => {
            Ok(users.iter().filter_map(|u| tables.searches.get(u).map(|s| (*u, s.clone()))).collect())
        }
    }
}

/// # Errors
/// A conflict with [`USER_KEY`] if the passenger has an open search.
pub(crate) async fn insert(tx: &mut Transaction<Tables>, search: &Search) -> Result<(), StoreError> {
    if insert_all(tx, std::slice::from_ref(search)).await?.is_empty() {
        return Err(StoreError::Conflict { constraint: USER_KEY.to_owned() });
    }
    Ok(())
}

/// Inserts those of `searches` whose passengers have no open one; which these were.
pub(crate) async fn insert_all(
    tx: &mut Transaction<Tables>,
    searches: &[Search],
) -> Result<BTreeSet<RequestId>, StoreError> {
    if searches.is_empty() {
        return Ok(BTreeSet::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "insert into searches (request_id, user_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, vehicle_type, \
                 began_at, expires_at, market_id) select * from unnest($1::uuid[], $2::uuid[], $3::float8[], $4::float8[], \
                 $5::float8[], $6::float8[], $7::text[], $8::timestamptz[], $9::timestamptz[], $10::text[]) \
                 on conflict do nothing returning request_id",
            )
            .bind(column(searches, |s| s.request_id.0))
            .bind(column(searches, |s| s.user_id.0))
            .bind(column(searches, |s| s.trip.pickup.lat))
            .bind(column(searches, |s| s.trip.pickup.lng))
            .bind(column(searches, |s| s.trip.dropoff.lat))
            .bind(column(searches, |s| s.trip.dropoff.lng))
            .bind(column(searches, |s| s.trip.vehicle_type.as_str()))
            .bind(column(searches, |s| s.began_at))
            .bind(column(searches, |s| s.expires_at))
            .bind(column(searches, |s| s.market_id.clone()))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(RequestId(row.try_get("request_id")?))).collect()
        }
        On::Memory(tables) => {
            let mut inserted = BTreeSet::new();
            for search in searches {
                if !tables.searches.contains_key(&search.user_id) {
                    tables.searches.insert(search.user_id, search.clone());
                    inserted.insert(search.request_id);
                }
            }
            Ok(inserted)
        }
    }
}

/// Opens a search that goes on, unless its passenger has another one. Whether it did. Its row is still there if the end of its ride
/// was received before the beginning.
pub(crate) async fn put_continued(tx: &mut Transaction<Tables>, search: &Search) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let still_open = sqlx::query(
                "update searches set began_at = $3, expires_at = $4, ending_at = null, end_announced_at = null \
                 where request_id = $1 and user_id = $2",
            )
            .bind(search.request_id.0)
            .bind(search.user_id.0)
            .bind(search.began_at)
            .bind(search.expires_at)
            .execute(&mut *pg)
            .await?;
            if still_open.rows_affected() > 0 {
                return Ok(true);
            }
        }
        On::Memory(tables) => {
            let open = tables.searches.get(&search.user_id);
            let is_free = open.is_none_or(|open| open.request_id == search.request_id);
            if is_free {
                tables.searches.insert(search.user_id, search.clone());
                tables.ending_searches.remove(&search.request_id);
                tables.announced_ends.remove(&search.request_id);
            }
            return Ok(is_free);
        }
    }
    Ok(!insert_all(tx, std::slice::from_ref(search)).await?.is_empty())
}

/// At most [`EXPIRE_MAX`] searches that expire at `until` or earlier and whose passengers have had no notice of it, and marks them as announced. One
/// that was shorter than `shortest` from the beginning is left out.
pub(crate) async fn announce_ends(
    tx: &mut Transaction<Tables>,
    until: DateTime<Utc>,
    shortest: Duration,
) -> Result<Vec<Search>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "with due as (select request_id from searches where expires_at <= $1 and end_announced_at is null \
                 and expires_at - began_at > make_interval(secs => $3) \
                 order by expires_at, request_id limit $2 for update skip locked) \
                 update searches s set end_announced_at = $1 from due where s.request_id = due.request_id \
                 returning s.request_id, user_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, vehicle_type, began_at, \
                 expires_at, market_id",
            )
            .bind(until)
            .bind(EXPIRE_MAX as i64)
            .bind(shortest.as_seconds_f64())
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let announced = &tables.announced_ends;
            let is_due = |s: &&Search| {
                s.expires_at <= until && s.expires_at - s.began_at > shortest && !announced.contains(&s.request_id)
            };
            let mut due: Vec<Search> = tables.searches.values().filter(is_due).cloned().collect();
            due.sort_by_key(|s| (s.expires_at, s.request_id));
            due.truncate(EXPIRE_MAX);
            tables.announced_ends.extend(due.iter().map(|s| s.request_id));
            Ok(due)
        }
    }
}

/// Those of `searches` that are open. Their rows stay locked until the transaction ends.
pub(crate) async fn lock_open(
    tx: &mut Transaction<Tables>,
    searches: &[SearchKey],
) -> Result<BTreeSet<RequestId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select s.request_id from searches s join unnest($1::uuid[], $2::uuid[]) as k (request_id, user_id) \
                 using (request_id, user_id) order by s.request_id for update of s",
            )
            .bind(column(searches, |(request, _)| request.0))
            .bind(column(searches, |(_, user)| user.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(RequestId(row.try_get("request_id")?))).collect()
        }
        On::Memory(tables) => {
            Ok(searches.iter().filter(|key| is_open(tables, key)).map(|(request, _)| *request).collect())
        }
    }
}

fn is_open(tables: &Tables, (request, user): &SearchKey) -> bool {
    tables.searches.get(user).is_some_and(|search| search.request_id == *request)
}

/// Deletes searches, in the order of their ids; a newer search of the same passenger stays.
pub(crate) async fn delete(tx: &mut Transaction<Tables>, searches: &[SearchKey]) -> Result<(), StoreError> {
    if searches.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "with locked as (select request_id from searches where request_id = any($1) order by request_id for update) \
                 delete from searches using locked where searches.request_id = locked.request_id",
            )
            .bind(column(searches, |(request, _)| request.0))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            for key in searches {
                if is_open(tables, key) {
                    tables.searches.remove(&key.1);
                }
                tables.ending_searches.remove(&key.0);
                tables.announced_ends.remove(&key.0);
            }
        }
    }
    Ok(())
}

/// Records that rides has begun to decide about a search. A repeat keeps the first time: `superseded` waits for it, and a message
/// that waited at each of its tries would become a dead letter.
pub(crate) async fn set_ending(
    tx: &mut Transaction<Tables>,
    search: RequestId,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update searches set ending_at = $2 where request_id = $1 and ending_at is null")
                .bind(search.0)
                .bind(now)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            if tables.searches.values().any(|open| open.request_id == search) {
                tables.ending_searches.entry(search).or_insert(now);
            }
        }
    }
    Ok(())
}

/// Whether rides began to decide about one of `searches`, which are still open, after `since`.
pub(crate) async fn any_ending(
    tx: &mut Transaction<Tables>,
    searches: &[RequestId],
    since: DateTime<Utc>,
) -> Result<bool, StoreError> {
    if searches.is_empty() {
        return Ok(false);
    }
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select 1 from searches where request_id = any($1) and ending_at > $2 limit 1")
                .bind(column(searches, |s| s.0))
                .bind(since)
                .fetch_optional(&mut *pg)
                .await?;
            Ok(row.is_some())
        }
        On::Memory(tables) => {
            Ok(searches.iter().any(|search| tables.ending_searches.get(search).is_some_and(|at| *at > since)))
        }
    }
}

/// At most [`EXPIRE_MAX`] searches that have expired and of which no offer is accepted, the oldest first, locked. It skips those
/// that another transaction has locked.
pub(crate) async fn lock_expired(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<Vec<Search>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select request_id, user_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, vehicle_type, began_at, \
                 expires_at, market_id from searches s where expires_at <= $1 and not exists (select 1 from offers o \
                 where o.request_id = s.request_id and o.state = 'accepted') \
                 order by expires_at, request_id limit $2 for update of s skip locked",
            )
            .bind(now)
            .bind(EXPIRE_MAX as i64)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let due = |s: &&Search| s.expires_at <= now && !tables.is_accepted(s.request_id);
            let mut due: Vec<Search> = tables.searches.values().filter(due).cloned().collect();
            due.sort_by_key(|s| (s.expires_at, s.request_id));
            due.truncate(EXPIRE_MAX);
            Ok(due)
        }
    }
}

/// Some searches that expired at `before` or earlier, the oldest first; not locked.
pub(crate) async fn overdue(tx: &mut Transaction<Tables>, before: DateTime<Utc>) -> Result<Vec<Search>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select request_id, user_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, vehicle_type, began_at, \
                 expires_at, market_id from searches where expires_at <= $1 order by expires_at, request_id limit $2",
            )
            .bind(before)
            .bind(OVERDUE_MAX as i64)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let mut due: Vec<Search> = tables.searches.values().filter(|s| s.expires_at <= before).cloned().collect();
            due.sort_by_key(|s| (s.expires_at, s.request_id));
            due.truncate(OVERDUE_MAX);
            Ok(due)
        }
    }
}
