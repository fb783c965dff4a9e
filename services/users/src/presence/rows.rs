//! The rows of `beacons` and `sockets`.

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{Position, UserId};
use uuid::Uuid;

use super::{Beacon, STALE_AFTER};
use crate::tables::{SocketRow, Tables};

/// The most users that one sweep of stale sockets takes.
pub(crate) const SWEEP_MAX: usize = 500;

fn read_beacon(row: &PgRow) -> Result<Beacon, StoreError> {
    let vehicle_type: &str = row.try_get("vehicle_type")?;
    Ok(Beacon {
        user_id: read_user(row)?,
        active: row.try_get("active")?,
        connected: row.try_get("connected")?,
        vehicle_type: vehicle_type.parse().map_err(StoreError::Other)?,
        location: Position { lat: row.try_get("lat")?, lng: row.try_get("lng")? },
        // A process of the version before writes neither of the two.
        located_at: row.try_get::<Option<_>, _>("located_at")?.unwrap_or(row.try_get("published_at")?),
        device: row.try_get::<Option<&str>, _>("device")?.map(Into::into),
        published_at: row.try_get("published_at")?,
    })
}

fn read_user(row: &PgRow) -> Result<UserId, StoreError> {
    Ok(UserId(row.try_get("user_id")?))
}

/// The beacons of `users`, in the order of user ids. Their rows stay locked until the transaction ends.
pub(crate) async fn lock_beacons(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<Vec<Beacon>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select user_id, active, connected, vehicle_type, lat, lng, located_at, device, published_at from beacons \
                 where user_id = any($1) order by user_id for update",
            )
            .bind(column(users, |user| user.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read_beacon).collect()
        }
        On::Memory(tables) => {
            let rows = &tables.presence.beacons;
            let mut found: Vec<Beacon> = users.iter().filter_map(|user| rows.get(user).cloned()).collect();
            found.sort_by_key(|b| b.user_id);
            found.dedup_by_key(|b| b.user_id);
            Ok(found)
        }
    }
}

pub(crate) async fn put_beacon(tx: &mut Transaction<Tables>, beacon: &Beacon) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into beacons (user_id, active, connected, vehicle_type, lat, lng, published_at, located_at, device) \
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict on constraint beacons_pkey do update \
                 set active = excluded.active, connected = excluded.connected, vehicle_type = excluded.vehicle_type, \
                 lat = excluded.lat, lng = excluded.lng, published_at = excluded.published_at, \
                 located_at = excluded.located_at, device = excluded.device",
            )
            .bind(beacon.user_id.0)
            .bind(beacon.active)
            .bind(beacon.connected)
            .bind(beacon.vehicle_type.as_str())
            .bind(beacon.location.lat)
            .bind(beacon.location.lng)
            .bind(beacon.published_at)
            .bind(beacon.located_at)
            .bind(beacon.device.as_deref())
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            tables.presence.beacons.insert(beacon.user_id, beacon.clone());
        }
    }
    Ok(())
}

/// Inserts a socket that has just opened, or one whose row another pod deleted.
pub(crate) async fn insert_socket(
    tx: &mut Transaction<Tables>,
    session: Uuid,
    user: UserId,
    pod: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into sockets (session_id, user_id, pod, seen_at, received_at) values ($1, $2, $3, $4, $4) \
                 on conflict on constraint sockets_pkey do update set seen_at = excluded.seen_at",
            )
            .bind(session)
            .bind(user.0)
            .bind(pod)
            .bind(now)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let new = SocketRow { seen_at: now, received_at: now, displaced: false };
            tables.presence.sockets.entry((user, session)).or_insert(new).seen_at = now;
        }
    }
    Ok(())
}

/// Marks as displaced, of the live sockets of `user` on all pods, those that sent nothing for longest, so that `most` are left, the one
/// called `session` among them. Returns the sessions that were marked.
pub(crate) async fn displace_sockets(
    tx: &mut Transaction<Tables>,
    user: UserId,
    session: Uuid,
    most: usize,
    now: DateTime<Utc>,
) -> Result<Vec<Uuid>, StoreError> {
    let (stale_before, others) = (now - STALE_AFTER, most.saturating_sub(1));
    match tx.on() {
        On::Postgres(pg) => {
            // A process of the version before does not say when its clients last sent something.
            let rows = sqlx::query(
                "update sockets set displaced = true where session_id in (select session_id from sockets \
                 where user_id = $1 and session_id <> $2 and not displaced and seen_at >= $3 \
                 order by coalesce(received_at, seen_at) desc, session_id desc offset $4) returning session_id",
            )
            .bind(user.0)
            .bind(session)
            .bind(stale_before)
            .bind(i64::try_from(others).unwrap_or(i64::MAX))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| row.try_get("session_id").map_err(StoreError::from)).collect()
        }
        On::Memory(tables) => {
            let rows = &mut tables.presence.sockets;
            let theirs = rows.range((user, Uuid::nil())..=(user, Uuid::max()));
            let mut live: Vec<(DateTime<Utc>, Uuid)> = theirs
                .filter(|((_, id), row)| *id != session && !row.displaced && row.seen_at >= stale_before)
                .map(|((_, id), row)| (row.received_at, *id))
                .collect();
            live.sort_unstable_by(|a, b| b.cmp(a));
            let displaced: Vec<Uuid> = live.into_iter().skip(others).map(|(_, id)| id).collect();
            for id in &displaced {
                if let Some(row) = rows.get_mut(&(user, *id)) {
                    row.displaced = true;
                }
            }
            Ok(displaced)
        }
    }
}

/// Deletes, of the sockets of `users`, the one called `session` and all stale ones. Returns those of `users` who still have
/// a socket.
pub(crate) async fn delete_sockets(
    tx: &mut Transaction<Tables>,
    users: &[UserId],
    session: Option<Uuid>,
    now: DateTime<Utc>,
) -> Result<Vec<UserId>, StoreError> {
    let stale_before = now - STALE_AFTER;
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from sockets where user_id = any($1) and (session_id = $2 or seen_at < $3)")
                .bind(column(users, |user| user.0))
                .bind(session)
                .bind(stale_before)
                .execute(&mut *pg)
                .await?;
            let rows = sqlx::query("select distinct user_id from sockets where user_id = any($1)")
                .bind(column(users, |user| user.0))
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(read_user).collect()
        }
        On::Memory(tables) => {
            let rows = &mut tables.presence.sockets;
            let mut connected = Vec::new();
            for user in users {
                let theirs = rows.range((*user, Uuid::nil())..=(*user, Uuid::max()));
                let (deleted, open): (Vec<_>, Vec<_>) = theirs
                    .map(|(key, row)| (*key, row.seen_at))
                    .partition(|((_, id), seen_at)| Some(*id) == session || *seen_at < stale_before);
                for (key, _) in &deleted {
                    rows.remove(key);
                }
                connected.extend((!open.is_empty()).then_some(*user));
            }
            Ok(connected)
        }
    }
}

/// What a touch found of a socket's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Touched {
    pub(crate) session: Uuid,
    pub(crate) displaced: bool,
}

/// Records that these sockets are still open, and when its client last sent something. Returns those that have a row.
pub(crate) async fn touch_sockets(
    tx: &mut Transaction<Tables>,
    sockets: &[(UserId, Uuid, DateTime<Utc>)],
    now: DateTime<Utc>,
) -> Result<Vec<Touched>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "with mine as (select session_id from sockets where session_id = any($1) order by session_id for update) \
                 update sockets set seen_at = $3, received_at = open.received_at \
                 from mine join unnest($1, $2) as open (session_id, received_at) using (session_id) \
                 where sockets.session_id = mine.session_id returning sockets.session_id, sockets.displaced",
            )
            .bind(column(sockets, |(_, session, _)| *session))
            .bind(column(sockets, |(_, _, received_at)| *received_at))
            .bind(now)
            .fetch_all(&mut *pg)
            .await?;
            let touched = |row: &PgRow| -> Result<Touched, sqlx::Error> {
                Ok(Touched { session: row.try_get("session_id")?, displaced: row.try_get("displaced")? })
            };
            Ok(rows.iter().map(touched).collect::<Result<_, _>>()?)
        }
        On::Memory(tables) => {
            let rows = &mut tables.presence.sockets;
            let mut touched = Vec::new();
            for (user, session, received_at) in sockets {
                if let Some(row) = rows.get_mut(&(*user, *session)) {
                    (row.seen_at, row.received_at) = (now, *received_at);
                    touched.push(Touched { session: *session, displaced: row.displaced });
                }
            }
            Ok(touched)
        }
    }
}

/// At most [`SWEEP_MAX`] users who have stale sockets, in the order of their ids.
pub(crate) async fn users_with_stale_sockets(
    tx: &mut Transaction<Tables>,
    now: DateTime<Utc>,
) -> Result<Vec<UserId>, StoreError> {
    let stale_before = now - STALE_AFTER;
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select distinct user_id from sockets where seen_at < $1 order by user_id limit $2")
                .bind(stale_before)
                .bind(SWEEP_MAX as i64)
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(read_user).collect()
        }
        On::Memory(tables) => {
            let stale = tables.presence.sockets.iter().filter(|(_, row)| row.seen_at < stale_before);
            let mut users: Vec<UserId> = stale.map(|((user, _), _)| *user).collect();
            users.dedup();
            users.truncate(SWEEP_MAX);
            Ok(users)
        }
    }
}
