//! The rows of `beacons`, `sockets` and `pods`.
//!
//! Rows of `sockets` without an incarnation are those of processes of the version before, which know only PostgreSQL: one for each
//! socket, touched by its pod.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{Position, UserId};
use uuid::Uuid;

use super::{Beacon, Pod, Route, STALE_AFTER};
use crate::tables::{ConnectionRow, PodRow, PresenceRows, Tables};

/// The most users that one sweep of dead pods takes.
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

/// Deletes the beacons of users whose accounts have ended.
pub(crate) async fn delete_beacons(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "delete from beacons where user_id in \
                 (select user_id from beacons where user_id = any($1) order by user_id for update)",
            )
            .bind(column(users, |user| user.0))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => users.iter().for_each(|user| {
            tables.presence.beacons.remove(user);
        }),
    }
    Ok(())
}

/// A process of the version before takes a row for that of a dead pod once its `seen_at` is old. So it lies ahead by more than an upgrade
/// takes.
const SEEN_AHEAD: Duration = Duration::days(1);

/// Inserts the row of a pod that begins.
pub(crate) async fn insert_pod(
    tx: &mut Transaction<Tables>,
    incarnation: Uuid,
    pod: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("insert into pods (incarnation, pod, seen_at) values ($1, $2, $3)")
                .bind(incarnation)
                .bind(pod)
                .bind(now)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            let row = PodRow { pod: pod.into(), seen_at: now, ended: false };
            tables.presence.pods.insert(incarnation, row);
        }
    }
    Ok(())
}

/// False if the incarnation has ended.
pub(crate) async fn touch_pod(
    tx: &mut Transaction<Tables>,
    incarnation: Uuid,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let touched = sqlx::query("update pods set seen_at = $2 where incarnation = $1 and not ended")
                .bind(incarnation)
                .bind(now)
                .execute(&mut *pg)
                .await?;
            Ok(touched.rows_affected() == 1)
        }
        On::Memory(tables) => match tables.presence.pods.get_mut(&incarnation).filter(|pod| !pod.ended) {
            Some(pod) => {
                pod.seen_at = now;
                Ok(true)
            }
            None => Ok(false),
        },
    }
}

/// Stores how many sockets of `user` are open at a pod: 0 deletes the row. Nothing is written if the row says so already, or if the
/// incarnation has ended. A new row gets the id `id`.
pub(crate) async fn store_connection(
    tx: &mut Transaction<Tables>,
    id: Uuid,
    user: UserId,
    pod: &Pod,
    open: usize,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) if open == 0 => {
            sqlx::query("delete from sockets where incarnation = $1 and user_id = $2")
                .bind(pod.incarnation)
                .bind(user.0)
                .execute(&mut *pg)
                .await?;
        }
        On::Postgres(pg) => {
            sqlx::query(
                "insert into sockets (session_id, user_id, pod, seen_at, received_at, incarnation, open) \
                 select $1, $2, pod, $4, $4, incarnation, $5 from pods where incarnation = $3 and not ended \
                 on conflict (incarnation, user_id) where incarnation is not null \
                 do update set open = excluded.open where sockets.open <> excluded.open",
            )
            .bind(id)
            .bind(user.0)
            .bind(pod.incarnation)
            .bind(now + SEEN_AHEAD)
            .bind(i32::try_from(open).unwrap_or(i32::MAX))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let PresenceRows { pods, connections, .. } = &mut tables.presence;
            let key = (user, pod.incarnation);
            if open == 0 {
                connections.remove(&key);
            } else if pods.get(&pod.incarnation).is_some_and(|row| !row.ended) {
                let new = ConnectionRow { open, recount: false };
                connections.entry(key).or_insert(new).open = open;
            }
        }
    }
    Ok(())
}

/// The other pods where sockets of `user` are open, each with how many, in the order of their incarnations.
pub(crate) async fn connected_elsewhere(
    tx: &mut Transaction<Tables>,
    user: UserId,
    incarnation: Uuid,
) -> Result<Vec<(Pod, usize)>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select incarnation, pod, coalesce(open, 0) as open from sockets \
                 where user_id = $1 and incarnation is not null and incarnation <> $2 order by incarnation",
            )
            .bind(user.0)
            .bind(incarnation)
            .fetch_all(&mut *pg)
            .await?;
            let read = |row: &PgRow| -> Result<(Pod, usize), StoreError> {
                let open = usize::try_from(row.try_get::<i32, _>("open")?).unwrap_or(0);
                Ok((Pod { incarnation: row.try_get("incarnation")?, id: row.try_get::<&str, _>("pod")?.into() }, open))
            };
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let PresenceRows { pods, connections, .. } = &tables.presence;
            let theirs = connections.range((user, Uuid::nil())..=(user, Uuid::max()));
            let others = theirs.filter(|((_, at), _)| *at != incarnation);
            let found = others
                .filter_map(|((_, at), row)| Some((Pod { incarnation: *at, id: pods.get(at)?.pod.clone() }, row.open)));
            Ok(found.collect())
        }
    }
}

/// Where sockets of `users` are open. A user who is not there has none.
pub(crate) async fn routes(
    tx: &mut Transaction<Tables>,
    users: &[UserId],
) -> Result<BTreeMap<UserId, Vec<Route>>, StoreError> {
    let mut routes: BTreeMap<UserId, Vec<Route>> = BTreeMap::new();
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select distinct user_id, case when incarnation is not null then pod end as pod from sockets \
                 where user_id = any($1) order by user_id, pod",
            )
            .bind(column(users, |user| user.0))
            .fetch_all(&mut *pg)
            .await?;
            for row in &rows {
                let pod = row.try_get::<Option<&str>, _>("pod")?;
                let route = pod.map_or(Route::PreviousVersion, |pod| Route::Pod(pod.into()));
                routes.entry(read_user(row)?).or_default().push(route);
            }
        }
        On::Memory(tables) => {
            let PresenceRows { pods, connections, .. } = &tables.presence;
            for user in users {
                let theirs = connections.range((*user, Uuid::nil())..=(*user, Uuid::max()));
                let mut found: Vec<Route> =
                    theirs.filter_map(|((_, at), _)| pods.get(at)).map(|pod| Route::Pod(pod.pod.clone())).collect();
                found.sort();
                found.dedup();
                if !found.is_empty() {
                    routes.insert(*user, found);
                }
            }
        }
    }
    Ok(routes)
}

/// Asks other pods to look whether too many sockets of `user` are open.
pub(crate) async fn request_recount(
    tx: &mut Transaction<Tables>,
    user: UserId,
    incarnations: &[Uuid],
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update sockets set recount = true where user_id = $1 and incarnation = any($2)")
                .bind(user.0)
                .bind(incarnations)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            for incarnation in incarnations {
                if let Some(row) = tables.presence.connections.get_mut(&(user, *incarnation)) {
                    row.recount = true;
                }
            }
        }
    }
    Ok(())
}

/// The users whose sockets at this pod are to be counted, at most [`SWEEP_MAX`]; each is returned once.
pub(crate) async fn take_recounts(tx: &mut Transaction<Tables>, incarnation: Uuid) -> Result<Vec<UserId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "update sockets set recount = false where session_id in (select session_id from sockets \
                 where incarnation = $1 and recount limit $2) returning user_id",
            )
            .bind(incarnation)
            .bind(SWEEP_MAX as i64)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read_user).collect()
        }
        On::Memory(tables) => {
            let rows = &mut tables.presence.connections;
            let asked = rows.iter().filter(|((_, at), row)| *at == incarnation && row.recount);
            let users: Vec<UserId> = asked.map(|((user, _), _)| *user).take(SWEEP_MAX).collect();
            for user in &users {
                if let Some(row) = rows.get_mut(&(*user, incarnation)) {
                    row.recount = false;
                }
            }
            Ok(users)
        }
    }
}

/// Deletes the rows of `users` at dead pods. Returns those of `users` who still have a socket anywhere.
pub(crate) async fn delete_stale(
    tx: &mut Transaction<Tables>,
    users: &[UserId],
    now: DateTime<Utc>,
) -> Result<Vec<UserId>, StoreError> {
    let stale_before = now - STALE_AFTER;
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "delete from sockets where user_id = any($1) and (incarnation is null and seen_at < $2 \
                 or incarnation in (select incarnation from pods where ended))",
            )
            .bind(column(users, |user| user.0))
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
            let PresenceRows { pods, connections, .. } = &mut tables.presence;
            let mut connected = Vec::new();
            for user in users {
                let theirs = connections.range((*user, Uuid::nil())..=(*user, Uuid::max())).map(|(key, _)| *key);
                let (ended, open): (Vec<_>, Vec<_>) =
                    theirs.partition(|(_, at)| pods.get(at).is_none_or(|pod| pod.ended));
                for key in &ended {
                    connections.remove(key);
                }
                connected.extend((!open.is_empty()).then_some(*user));
            }
            Ok(connected)
        }
    }
}

/// Ends the incarnations that were not touched for too long.
pub(crate) async fn end_stale_pods(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    let stale_before = now - STALE_AFTER;
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update pods set ended = true where seen_at < $1 and not ended")
                .bind(stale_before)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            let pods = &mut tables.presence.pods;
            let stale = pods.iter().filter(|(_, pod)| pod.seen_at < stale_before && !pod.ended);
            let stale: Vec<Uuid> = stale.map(|(incarnation, _)| *incarnation).collect();
            for incarnation in &stale {
                if let Some(pod) = pods.get_mut(incarnation) {
                    pod.ended = true;
                }
            }
        }
    }
    Ok(())
}

/// At most [`SWEEP_MAX`] users with rows of dead pods, in the order of their ids. If there are none, the rows of the dead pods themselves
/// are deleted.
pub(crate) async fn users_of_dead_pods(
    tx: &mut Transaction<Tables>,
    now: DateTime<Utc>,
) -> Result<Vec<UserId>, StoreError> {
    let stale_before = now - STALE_AFTER;
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select user_id from sockets join pods using (incarnation) where pods.ended \
                 union select user_id from sockets where incarnation is null and seen_at < $1 \
                 order by user_id limit $2",
            )
            .bind(stale_before)
            .bind(SWEEP_MAX as i64)
            .fetch_all(&mut *pg)
            .await?;
            if rows.is_empty() {
                sqlx::query(
                    "delete from pods where ended and not exists \
                     (select from sockets where sockets.incarnation = pods.incarnation)",
                )
                .execute(&mut *pg)
                .await?;
            }
            rows.iter().map(read_user).collect()
        }
        On::Memory(tables) => {
            let PresenceRows { pods, connections, .. } = &mut tables.presence;
            let ended = connections.keys().filter(|(_, at)| pods.get(at).is_none_or(|pod| pod.ended));
            let mut users: Vec<UserId> = ended.map(|(user, _)| *user).collect();
            users.dedup();
            users.truncate(SWEEP_MAX);
            if users.is_empty() {
                *pods = pods.iter().filter(|(_, pod)| !pod.ended).map(|(at, pod)| (*at, pod.clone())).collect();
            }
            Ok(users)
        }
    }
}
