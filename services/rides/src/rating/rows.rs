//! The rows of `ratings`.

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::ratings::MeanRating;
use streams::{RideId, UserId};
use uuid::Uuid;

use super::{NEWEST_MAX, Rater, Rating, mean};
use crate::tables::Tables;

/// The most comments that one statement erases.
const ERASED_MAX: i64 = 1_000;

fn read(row: &PgRow) -> Result<Rating, StoreError> {
    let stars: i16 = row.try_get("stars")?;
    Ok(Rating {
        ride_id: RideId(row.try_get("ride_id")?),
        by: if row.try_get::<&str, _>("by_party")? == "driver" { Rater::Driver } else { Rater::Passenger },
        by_user: row.try_get::<Option<Uuid>, _>("by_user")?.map(UserId),
        of_user: row.try_get::<Option<Uuid>, _>("of_user")?.map(UserId),
        stars: u8::try_from(stars).map_err(|_| StoreError::Other(format!("a rating of {stars} stars")))?,
        comment: row.try_get("comment")?,
        at: row.try_get("at")?,
        counts_from: row.try_get("counts_from")?,
    })
}

/// The ratings of these rides.
pub(crate) async fn of_rides(tx: &mut Transaction<Tables>, rides: &[RideId]) -> Result<Vec<Rating>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select * from ratings where ride_id = any($1) order by ride_id, by_party")
                .bind(column(rides, |ride| ride.0))
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let keys = rides.iter().flat_map(|ride| [(*ride, Rater::Driver), (*ride, Rater::Passenger)]);
            Ok(keys.filter_map(|key| tables.ratings.get(&key).cloned()).collect())
        }
    }
}

/// Inserts a rating. The ride's row is locked, so that its parties do not rate at the same time.
///
/// # Errors
/// A conflict if this party has rated before.
pub(crate) async fn insert(tx: &mut Transaction<Tables>, rating: &Rating) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into ratings (ride_id, by_party, by_user, of_user, stars, comment, at, counts_from) \
                 values ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(rating.ride_id.0)
            .bind(rating.by.as_str())
            .bind(rating.by_user.map(|user| user.0))
            .bind(rating.of_user.map(|user| user.0))
            .bind(i16::from(rating.stars))
            .bind(&rating.comment)
            .bind(rating.at)
            .bind(rating.counts_from)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            if tables.ratings.contains_key(&(rating.ride_id, rating.by)) {
                return Err(StoreError::Conflict { constraint: "ratings_pkey".to_owned() });
            }
            tables.put_rating(rating);
        }
    }
    Ok(())
}

/// Lets the first rating of a ride count from `at` on: the second has come.
pub(crate) async fn set_counts_from(
    tx: &mut Transaction<Tables>,
    first: &Rating,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update ratings set counts_from = $3 where ride_id = $1 and by_party = $2")
                .bind(first.ride_id.0)
                .bind(first.by.as_str())
                .bind(at)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => tables.put_rating(&Rating { counts_from: at, ..first.clone() }),
    }
    Ok(())
}

/// The means of those of `users` who have ratings that count, by the newest [`NEWEST_MAX`] of each.
pub(crate) async fn means(
    tx: &mut Transaction<Tables>,
    users: &[UserId],
    now: DateTime<Utc>,
) -> Result<Vec<MeanRating>, StoreError> {
    let rating = |user_id, stars: u32, count: u32| Some(MeanRating { user_id, mean: mean(stars, count)?, count });
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select u.user_id, m.stars, m.count from unnest($1::uuid[]) as u (user_id) cross join lateral ( \
                 select coalesce(sum(stars), 0)::int as stars, count(*)::int as count from ( \
                 select stars from ratings where of_user = u.user_id and counts_from <= $2 \
                 order by counts_from desc, ride_id desc limit $3) as newest) as m where m.count > 0",
            )
            .bind(column(users, |user| user.0))
            .bind(now)
            .bind(i64::from(NEWEST_MAX))
            .fetch_all(&mut *pg)
            .await?;
            let number = |row: &PgRow, column: &str| -> Result<u32, StoreError> {
                Ok(u32::try_from(row.try_get::<i32, _>(column)?).unwrap_or_default())
            };
            let mut means = Vec::new();
            for row in &rows {
                means.extend(rating(UserId(row.try_get("user_id")?), number(row, "stars")?, number(row, "count")?));
            }
            Ok(means)
        }
        On::Memory(tables) => {
            let mean_of = |user: &UserId| {
                let first = (*user, DateTime::UNIX_EPOCH, RideId(Uuid::nil()), Rater::Driver);
                let last = (*user, now, RideId(Uuid::max()), Rater::Passenger);
                let newest = tables.ratings_of.range(first..=last).rev().take(NEWEST_MAX as usize);
                let stars = newest.filter_map(|(_, _, ride, by)| Some(tables.ratings.get(&(*ride, *by))?.stars));
                let (sum, count) = stars.fold((0, 0), |(sum, count), stars| (sum + u32::from(stars), count + 1));
                rating(*user, sum, count)
            };
            Ok(users.iter().filter_map(mean_of).collect())
        }
    }
}

/// A page of the ratings that `user` gave, by ride.
pub(crate) async fn given_by(
    tx: &mut Transaction<Tables>,
    user: UserId,
    after: Uuid,
    limit: u32,
) -> Result<Vec<Rating>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows =
                sqlx::query("select * from ratings where by_user = $1 and ride_id > $2 order by ride_id limit $3")
                    .bind(user.0)
                    .bind(after)
                    .bind(i64::from(limit))
                    .fetch_all(&mut *pg)
                    .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let given = tables.ratings.values().filter(|rating| rating.by_user == Some(user));
            Ok(given.filter(|rating| rating.ride_id.0 > after).take(limit as usize).cloned().collect())
        }
    }
}

/// A page of the ratings of `user` that count at `now`, by ride.
pub(crate) async fn received_by(
    tx: &mut Transaction<Tables>,
    user: UserId,
    now: DateTime<Utc>,
    after: Uuid,
    limit: u32,
) -> Result<Vec<Rating>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select * from ratings where of_user = $1 and ride_id > $2 and counts_from <= $3 \
                 order by ride_id limit $4",
            )
            .bind(user.0)
            .bind(after)
            .bind(now)
            .bind(i64::from(limit))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let received = tables.ratings.values().filter(|rating| rating.of_user == Some(user));
            let counted = received.filter(|rating| rating.ride_id.0 > after && rating.counts_from <= now);
            Ok(counted.take(limit as usize).cloned().collect())
        }
    }
}

/// Erases what names these people, and what was written by or about them. The stars stay.
pub(crate) async fn erase_people(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            for statement in [
                "update ratings set by_user = null, comment = null where by_user = any($1)",
                "update ratings set of_user = null, comment = null where of_user = any($1)",
            ] {
                sqlx::query(statement).bind(column(users, |user| user.0)).execute(&mut *pg).await?;
            }
        }
        On::Memory(tables) => {
            let is_of = |user: Option<UserId>| user.is_some_and(|user| users.contains(&user));
            let named = tables.ratings.values().filter(|rating| is_of(rating.by_user) || is_of(rating.of_user));
            for rating in named.cloned().collect::<Vec<_>>() {
                let by_user = rating.by_user.filter(|user| !users.contains(user));
                let of_user = rating.of_user.filter(|user| !users.contains(user));
                tables.put_rating(&Rating { by_user, of_user, comment: None, ..rating });
            }
        }
    }
    Ok(())
}

/// Erases comments of ratings given before `before`, some of them. True if none are left.
pub(crate) async fn erase_comments(tx: &mut Transaction<Tables>, before: DateTime<Utc>) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let done = sqlx::query(
                "update ratings set comment = null where (ride_id, by_party) in (select ride_id, by_party from ratings \
                 where comment is not null and at < $1 order by at limit $2)",
            )
            .bind(before)
            .bind(ERASED_MAX)
            .execute(&mut *pg)
            .await?;
            Ok(done.rows_affected() < ERASED_MAX.unsigned_abs())
        }
        On::Memory(tables) => {
            let old = tables.ratings.values().filter(|rating| rating.comment.is_some() && rating.at < before);
            for rating in old.cloned().collect::<Vec<_>>() {
                tables.put_rating(&Rating { comment: None, ..rating });
            }
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests;
