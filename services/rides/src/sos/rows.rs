//! The rows of `sos_alerts`.

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{Position, RideId, UserId};
use uuid::Uuid;

use super::{Alert, Delivery, OPEN_MAX, POSITIONS_EVERY, pause_after};
use crate::tables::Tables;

/// The most alerts that one process works on at once.
const CLAIMED_MAX: i64 = 16;
/// The most alerts of a list.
const LISTED_MAX: i64 = 1_000;

fn read(row: &PgRow) -> Result<Alert, StoreError> {
    let place = match (row.try_get("lat")?, row.try_get("lng")?, row.try_get("located_at")?) {
        (Some(lat), Some(lng), Some(at)) => Some((Position { lat, lng }, at)),
        _ => None,
    };
    let closed_at: Option<DateTime<Utc>> = row.try_get("closed_at")?;
    let reason: Option<String> = row.try_get("close_reason")?;
    Ok(Alert {
        sos_id: row.try_get("sos_id")?,
        ride_id: RideId(row.try_get("ride_id")?),
        user: UserId(row.try_get("user_id")?),
        round: row.try_get("round")?,
        raised_at: row.try_get("raised_at")?,
        note: row.try_get("note")?,
        place,
        delivery: Delivery {
            accepted_at: row.try_get("accepted_at")?,
            tries: row.try_get("tries")?,
            next_try_at: row.try_get("next_try_at")?,
            dead_at: row.try_get("dead_at")?,
        },
        positions_at: row.try_get("positions_at")?,
        position_of: row.try_get("position_of")?,
        closed: closed_at.map(|at| (at, reason.unwrap_or_default())),
    })
}

/// The alert of `user` on a ride, locked.
pub(crate) async fn lock_of(
    tx: &mut Transaction<Tables>,
    ride: RideId,
    user: UserId,
) -> Result<Option<Alert>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select * from sos_alerts where ride_id = $1 and user_id = $2 for update")
                .bind(ride.0)
                .bind(user.0)
                .fetch_optional(&mut *pg)
                .await?;
            row.map(|row| read(&row)).transpose()
        }
        On::Memory(tables) => {
            Ok(tables.sos_alerts.values().find(|alert| alert.ride_id == ride && alert.user == user).cloned())
        }
    }
}

/// The alert with this id, locked.
pub(crate) async fn lock(tx: &mut Transaction<Tables>, sos_id: Uuid) -> Result<Option<Alert>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select * from sos_alerts where sos_id = $1 for update")
                .bind(sos_id)
                .fetch_optional(&mut *pg)
                .await?;
            row.map(|row| read(&row)).transpose()
        }
        On::Memory(tables) => Ok(tables.sos_alerts.get(&sos_id).cloned()),
    }
}

/// Writes an alert, new or locked.
pub(crate) async fn put(tx: &mut Transaction<Tables>, alert: &Alert) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into sos_alerts (sos_id, ride_id, user_id, round, raised_at, note, lat, lng, located_at, \
                 accepted_at, tries, next_try_at, dead_at, positions_at, position_of, closed_at, close_reason) \
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) \
                 on conflict (sos_id) do update set round = excluded.round, raised_at = excluded.raised_at, \
                 note = excluded.note, lat = excluded.lat, lng = excluded.lng, located_at = excluded.located_at, \
                 accepted_at = excluded.accepted_at, tries = excluded.tries, next_try_at = excluded.next_try_at, \
                 dead_at = excluded.dead_at, positions_at = excluded.positions_at, position_of = excluded.position_of, \
                 closed_at = excluded.closed_at, close_reason = excluded.close_reason",
            )
            .bind(alert.sos_id)
            .bind(alert.ride_id.0)
            .bind(alert.user.0)
            .bind(alert.round)
            .bind(alert.raised_at)
            .bind(&alert.note)
            .bind(alert.place.map(|(at, _)| at.lat))
            .bind(alert.place.map(|(at, _)| at.lng))
            .bind(alert.place.map(|(_, at)| at))
            .bind(alert.delivery.accepted_at)
            .bind(alert.delivery.tries)
            .bind(alert.delivery.next_try_at)
            .bind(alert.delivery.dead_at)
            .bind(alert.positions_at)
            .bind(alert.position_of)
            .bind(alert.closed.as_ref().map(|(at, _)| *at))
            .bind(alert.closed.as_ref().map(|(_, reason)| reason))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            tables.sos_alerts.insert(alert.sos_id, alert.clone());
        }
    }
    Ok(())
}

/// Alerts whose next try is due, some of them, for this process alone: whoever else looks finds them due after the pause, should this
/// process die.
pub(crate) async fn claim_due(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<Vec<Alert>, StoreError> {
    let due = match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select * from sos_alerts where accepted_at is null and dead_at is null and closed_at is null \
                 and next_try_at <= $1 order by next_try_at limit $2 for update skip locked",
            )
            .bind(now)
            .bind(CLAIMED_MAX)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect::<Result<Vec<_>, _>>()?
        }
        On::Memory(tables) => {
            let open = tables.sos_alerts.values().filter(|alert| alert.closed.is_none());
            let waiting =
                open.filter(|Alert { delivery, .. }| delivery.accepted_at.is_none() && delivery.dead_at.is_none());
            waiting.filter(|alert| alert.delivery.next_try_at <= now).take(CLAIMED_MAX as usize).cloned().collect()
        }
    };
    let mut claimed = Vec::new();
    for mut alert in due {
        if now >= alert.raised_at + OPEN_MAX {
            alert.delivery.dead_at = Some(now);
        } else {
            alert.delivery.tries += 1;
            alert.delivery.next_try_at = now + pause_after(alert.delivery.tries);
        }
        put(tx, &alert).await?;
        claimed.push(alert);
    }
    Ok(claimed)
}

/// Open alerts whose positions are due, some of them, for this process alone. Those that are older than [`OPEN_MAX`] are closed instead.
/// One that the sink has not accepted is left to [`claim_due`], which gives it up first: closed before, it would end unnoticed.
pub(crate) async fn claim_positions(
    tx: &mut Transaction<Tables>,
    now: DateTime<Utc>,
) -> Result<Vec<Alert>, StoreError> {
    let before = now - POSITIONS_EVERY;
    let due = match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select * from sos_alerts where closed_at is null and (accepted_at is not null or dead_at is not null) \
                 and positions_at <= $1 order by positions_at limit $2 for update skip locked",
            )
            .bind(before)
            .bind(CLAIMED_MAX)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect::<Result<Vec<_>, _>>()?
        }
        On::Memory(tables) => {
            let open = tables.sos_alerts.values().filter(|alert| alert.closed.is_none());
            let settled =
                open.filter(|Alert { delivery, .. }| delivery.accepted_at.is_some() || delivery.dead_at.is_some());
            settled.filter(|alert| alert.positions_at <= before).take(CLAIMED_MAX as usize).cloned().collect()
        }
    };
    let mut claimed = Vec::new();
    for mut alert in due {
        alert.positions_at = now;
        let is_over = now >= alert.raised_at + OPEN_MAX;
        if is_over {
            alert.closed = Some((now, "nobody closed it within a day".to_owned()));
        }
        put(tx, &alert).await?;
        if !is_over {
            claimed.push(alert);
        }
    }
    Ok(claimed)
}

/// Open alerts, the newest first.
pub(crate) async fn open(tx: &mut Transaction<Tables>) -> Result<Vec<Alert>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select * from sos_alerts where closed_at is null order by raised_at desc limit $1")
                .bind(LISTED_MAX)
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let mut open: Vec<Alert> = tables.sos_alerts.values().filter(|a| a.closed.is_none()).cloned().collect();
            open.sort_by_key(|alert| std::cmp::Reverse(alert.raised_at));
            Ok(open)
        }
    }
}

/// A page of the alerts that `user` raised, by id.
pub(crate) async fn raised_by(
    tx: &mut Transaction<Tables>,
    user: UserId,
    after: Uuid,
    limit: u32,
) -> Result<Vec<Alert>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows =
                sqlx::query("select * from sos_alerts where user_id = $1 and sos_id > $2 order by sos_id limit $3")
                    .bind(user.0)
                    .bind(after)
                    .bind(i64::from(limit))
                    .fetch_all(&mut *pg)
                    .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let raised = tables.sos_alerts.values().filter(|alert| alert.user == user && alert.sos_id > after);
            Ok(raised.take(limit as usize).cloned().collect())
        }
    }
}

/// Deletes these people's alerts that are closed. Returns whether that is all of them: an open one stays whole until it is closed.
pub(crate) async fn erase_people(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from sos_alerts where user_id = any($1) and closed_at is not null")
                .bind(column(users, |user| user.0))
                .execute(&mut *pg)
                .await?;
            let left = sqlx::query("select from sos_alerts where user_id = any($1) limit 1")
                .bind(column(users, |user| user.0))
                .fetch_optional(&mut *pg)
                .await?;
            Ok(left.is_none())
        }
        On::Memory(tables) => {
            let stays = |alert: &Alert| !users.contains(&alert.user) || alert.closed.is_none();
            tables.sos_alerts =
                tables.sos_alerts.iter().filter(|(_, a)| stays(a)).map(|(k, a)| (*k, a.clone())).collect();
            Ok(!tables.sos_alerts.values().any(|alert| users.contains(&alert.user)))
        }
    }
}

/// Deletes alerts that were closed before `before`, and closes those that are open for longer than [`OPEN_MAX`].
pub(crate) async fn purge(
    tx: &mut Transaction<Tables>,
    before: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from sos_alerts where closed_at < $1").bind(before).execute(&mut *pg).await?;
        }
        On::Memory(tables) => {
            let stays = |alert: &Alert| alert.closed.as_ref().is_none_or(|(at, _)| *at >= before);
            tables.sos_alerts =
                tables.sos_alerts.iter().filter(|(_, a)| stays(a)).map(|(k, a)| (*k, a.clone())).collect();
        }
    }
    for alert in open(tx).await?.iter().filter(|alert| now >= alert.raised_at + OPEN_MAX) {
        let closed = Some((now, "nobody closed it within a day".to_owned()));
        put(tx, &Alert { closed, ..alert.clone() }).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
