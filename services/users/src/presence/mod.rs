//! Drivers' beacons and everybody's open sockets: who may be offered rides. A driver is offered rides while the beacon is
//! active and a socket is open on any pod.
//!
//! Whoever changes the sockets of a driver holds the beacon's row first, so that the last socket to close and the next to
//! open see each other. Nothing here sends to a socket.

use chrono::{DateTime, Duration, Utc};
use imbl::OrdMap;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::event::UserBeacon;
use streams::{Event, Position, UserId, VehicleType};
use uuid::Uuid;

use crate::Tables;

/// A beacon that says nothing new is published again after so long, which tells match that the driver is still there.
const REPEAT_AFTER: Duration = Duration::seconds(15);
/// A socket that its pod has not touched for so long is that of a dead pod.
pub(crate) const STALE: Duration = Duration::seconds(60);
/// Users that one sweep takes at most.
pub(crate) const SWEEP_MAX: usize = 500;

/// Beacons and sockets in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    beacons: OrdMap<UserId, Beacon>,
    /// When each was seen, by user and session.
    sockets: OrdMap<(UserId, Uuid), DateTime<Utc>>,
}

/// What a driver last said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Beacon {
    pub(crate) user_id: UserId,
    /// What the driver wants.
    pub(crate) active: bool,
    /// Whether a socket of theirs is open.
    pub(crate) connected: bool,
    pub(crate) vehicle_type: VehicleType,
    pub(crate) location: Position,
    /// When the newest event was made; the next is later, so that no two have one id.
    pub(crate) published_at: DateTime<Utc>,
}

impl Beacon {
    fn effective(&self) -> bool {
        self.active && self.connected
    }

    /// The event that tells of the beacon as it is now.
    fn publish(&mut self, now: DateTime<Utc>) -> Event {
        self.published_at = now.max(self.published_at + Duration::microseconds(1));
        Event::UserBeacon(UserBeacon {
            user_id: self.user_id,
            active: self.effective(),
            vehicle_type: self.vehicle_type,
            location: self.location,
            recorded_at: self.published_at,
        })
    }

    /// The driver's socket opened, or the last one closed. The beacon as it is then, and the event if that matters to
    /// anybody; nothing if it was so already.
    pub(crate) fn moved(&self, connected: bool, now: DateTime<Utc>) -> Option<(Self, Option<Event>)> {
        if self.connected == connected {
            return None;
        }
        let mut next = Self { connected, ..*self };
        let event = self.active.then(|| next.publish(now));
        Some((next, event))
    }
}

/// What a driver says, over an open socket: `active`, and where, if they say. The beacon as it is then, with its event
/// unless an equal one is less than 15 s old; nothing for the sign-off of one who never signed on.
pub(crate) fn updated(
    known: Option<&Beacon>,
    user_id: UserId,
    vehicle_type: VehicleType,
    active: bool,
    location: Option<Position>,
    now: DateTime<Utc>,
) -> Option<(Beacon, Option<Event>)> {
    let location = location.or(known.map(|k| k.location))?;
    let mut next =
        Beacon { user_id, active, connected: true, vehicle_type, location, published_at: DateTime::UNIX_EPOCH };
    let news = match known {
        None => true,
        Some(known) => {
            next.published_at = known.published_at;
            known.effective() != active
                || known.location != location
                || known.vehicle_type != vehicle_type
                || now - known.published_at >= REPEAT_AFTER
        }
    };
    let event = news.then(|| next.publish(now));
    Some((next, event))
}

fn read(row: &PgRow) -> Result<Beacon, StoreError> {
    let vehicle_type: String = row.try_get("vehicle_type")?;
    Ok(Beacon {
        user_id: UserId(row.try_get("user_id")?),
        active: row.try_get("active")?,
        connected: row.try_get("connected")?,
        vehicle_type: vehicle_type.parse().map_err(StoreError::Other)?,
        location: Position { lat: row.try_get("lat")?, lng: row.try_get("lng")? },
        published_at: row.try_get("published_at")?,
    })
}

fn plain(users: &[UserId]) -> Vec<Uuid> {
    users.iter().map(|u| u.0).collect()
}

/// The beacons of `users`, held until the transaction ends, in the order of the users.
pub(crate) async fn beacons(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<Vec<Beacon>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select user_id, active, connected, vehicle_type, lat, lng, published_at from beacons \
                 where user_id = any($1) order by user_id for update",
            )
            .bind(plain(users))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(m) => {
            let rows = &m.presence.beacons;
            let mut found: Vec<Beacon> = users.iter().filter_map(|user| rows.get(user).copied()).collect();
            found.sort_by_key(|b| b.user_id);
            found.dedup_by_key(|b| b.user_id);
            Ok(found)
        }
    }
}

/// Writes a beacon as it is now.
pub(crate) async fn put(tx: &mut Transaction<Tables>, beacon: &Beacon) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into beacons (user_id, active, connected, vehicle_type, lat, lng, published_at) \
                 values ($1, $2, $3, $4, $5, $6, $7) on conflict on constraint beacons_pkey do update \
                 set active = excluded.active, connected = excluded.connected, vehicle_type = excluded.vehicle_type, \
                 lat = excluded.lat, lng = excluded.lng, published_at = excluded.published_at",
            )
            .bind(beacon.user_id.0)
            .bind(beacon.active)
            .bind(beacon.connected)
            .bind(beacon.vehicle_type.as_str())
            .bind(beacon.location.lat)
            .bind(beacon.location.lng)
            .bind(beacon.published_at)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            m.presence.beacons.insert(beacon.user_id, *beacon);
        }
    }
    Ok(())
}

/// Notes an open socket.
pub(crate) async fn open(
    tx: &mut Transaction<Tables>,
    session: Uuid,
    user: UserId,
    pod: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into sockets (session_id, user_id, pod, seen_at) values ($1, $2, $3, $4) \
                 on conflict on constraint sockets_pkey do update set seen_at = excluded.seen_at",
            )
            .bind(session)
            .bind(user.0)
            .bind(pod)
            .bind(now)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            m.presence.sockets.insert((user, session), now);
        }
    }
    Ok(())
}

/// Takes away a socket, whoever of `users` it belongs to, and all of theirs that are stale; returns those of `users` who
/// still have one.
pub(crate) async fn close(
    tx: &mut Transaction<Tables>,
    users: &[UserId],
    session: Option<Uuid>,
    now: DateTime<Utc>,
) -> Result<Vec<UserId>, StoreError> {
    let stale = now - STALE;
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from sockets where user_id = any($1) and (session_id = $2 or seen_at < $3)")
                .bind(plain(users))
                .bind(session)
                .bind(stale)
                .execute(&mut *pg)
                .await?;
            let rows = sqlx::query("select distinct user_id from sockets where user_id = any($1)")
                .bind(plain(users))
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(|row| Ok(UserId(row.try_get(0)?))).collect()
        }
        On::Memory(m) => {
            let rows = &mut m.presence.sockets;
            let mut left = Vec::new();
            for user in users {
                let theirs = rows.range((*user, Uuid::nil())..=(*user, Uuid::max()));
                let (gone, open): (Vec<_>, Vec<_>) = theirs
                    .map(|(key, seen_at)| (*key, *seen_at))
                    .partition(|((_, id), seen_at)| Some(*id) == session || *seen_at < stale);
                for (key, _) in &gone {
                    rows.remove(key);
                }
                left.extend((!open.is_empty()).then_some(*user));
            }
            Ok(left)
        }
    }
}

/// Says that these sockets are open still; returns those of which there is a row.
pub(crate) async fn touch(
    tx: &mut Transaction<Tables>,
    sessions: &[(UserId, Uuid)],
    now: DateTime<Utc>,
) -> Result<Vec<Uuid>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "with mine as (select session_id from sockets where session_id = any($1) order by session_id for update) \
                 update sockets set seen_at = $2 from mine where sockets.session_id = mine.session_id \
                 returning sockets.session_id",
            )
            .bind(sessions.iter().map(|(_, session)| *session).collect::<Vec<_>>())
            .bind(now)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
        }
        On::Memory(m) => {
            let rows = &mut m.presence.sockets;
            let mut known = Vec::new();
            for key in sessions {
                if let Some(seen_at) = rows.get_mut(key) {
                    *seen_at = now;
                    known.push(key.1);
                }
            }
            Ok(known)
        }
    }
}

/// At most [`SWEEP_MAX`] users with stale sockets, in order.
pub(crate) async fn stale(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<Vec<UserId>, StoreError> {
    let before = now - STALE;
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select distinct user_id from sockets where seen_at < $1 order by user_id limit $2")
                .bind(before)
                .bind(SWEEP_MAX as i64)
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(|row| Ok(UserId(row.try_get(0)?))).collect()
        }
        On::Memory(m) => {
            let rows = m.presence.sockets.iter();
            let mut users: Vec<UserId> = rows.filter(|(_, at)| **at < before).map(|((user, _), _)| *user).collect();
            users.dedup();
            users.truncate(SWEEP_MAX);
            Ok(users)
        }
    }
}

#[cfg(test)]
mod tests;
