//! Which rides are live, and whose: kept from their events, never changed by a command here. A ride's lifecycle is the
//! business of rides.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use imbl::OrdMap;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use streams::event::RideEvent;
use streams::{RideId, RideStatus, UserId};
use uuid::Uuid;

use crate::Tables;

/// How long a ride that is over is remembered, so that a late older event does not bring it back.
const KEPT: Duration = Duration::hours(24);

/// Rides in memory.
pub(crate) type Rows = OrdMap<RideId, Ride>;

/// A ride as far as its newest event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ride {
    driver_id: UserId,
    passenger_id: UserId,
    version: u32,
    status: RideStatus,
    changed_at: DateTime<Utc>,
}

/// Keeps what the newest of `events` of each ride says; an older version than the known one is dropped.
pub(crate) async fn apply(
    tx: &mut Transaction<Tables>,
    events: &[&RideEvent],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let mut newest: BTreeMap<RideId, &RideEvent> = BTreeMap::new();
    for event in events {
        let known = newest.entry(event.ride_id).or_insert(event);
        #[cfg(debug_assertions)]
        if streams::simulation::sabotage().no_version_check {
            *known = event;
        }
        if known.version < event.version {
            *known = event;
        }
    }
    if newest.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let ids = |f: fn(&RideEvent) -> Uuid| newest.values().map(|e| f(e)).collect::<Vec<_>>();
            sqlx::query(
                "insert into live_rides as l (ride_id, driver_id, passenger_id, version, status, changed_at) \
                 select r, d, p, v, s, $6 from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::text[]) \
                 as e (r, d, p, v, s) order by r on conflict on constraint live_rides_pkey do update \
                 set version = excluded.version, status = excluded.status, changed_at = excluded.changed_at \
                 where l.version < excluded.version",
            )
            .bind(ids(|e| e.ride_id.0))
            .bind(ids(|e| e.driver_id.0))
            .bind(ids(|e| e.passenger_id.0))
            .bind(newest.values().map(|e| i32::try_from(e.version).unwrap_or(i32::MAX)).collect::<Vec<_>>())
            .bind(newest.values().map(|e| e.status.as_str()).collect::<Vec<_>>())
            .bind(now)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            let rows = &mut m.live_rides;
            for (id, event) in newest {
                let is_old = rows.get(&id).is_some_and(|known| known.version >= event.version);
                #[cfg(debug_assertions)]
                let is_old = is_old && !streams::simulation::sabotage().no_version_check;
                if is_old {
                    continue;
                }
                let RideEvent { driver_id, passenger_id, version, status, .. } = *event;
                rows.insert(id, Ride { driver_id, passenger_id, version, status, changed_at: now });
            }
        }
    }
    Ok(())
}

/// The live ride that `driver` drives.
pub(crate) async fn of_driver(tx: &mut Transaction<Tables>, driver: UserId) -> Result<Option<RideId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select ride_id from live_rides where driver_id = $1 and status in ('pickup', 'started', 'arrived') \
                 order by changed_at desc limit 1",
            )
            .bind(driver.0)
            .fetch_optional(&mut *pg)
            .await?;
            Ok(row.map(|row| row.try_get(0)).transpose()?.map(RideId))
        }
        On::Memory(m) => {
            let live = m.live_rides.iter().filter(|(_, r)| r.driver_id == driver && !r.status.is_final());
            Ok(live.max_by_key(|(_, ride)| ride.changed_at).map(|(id, _)| *id))
        }
    }
}

/// The live ride in which `passenger` is, or for which they wait.
pub(crate) async fn of_passenger(
    tx: &mut Transaction<Tables>,
    passenger: UserId,
) -> Result<Option<RideId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select ride_id from live_rides where passenger_id = $1 and status in ('pickup', 'started', 'arrived') \
                 limit 1",
            )
            .bind(passenger.0)
            .fetch_optional(&mut *pg)
            .await?;
            Ok(row.map(|row| row.try_get(0)).transpose()?.map(RideId))
        }
        On::Memory(m) => {
            let mut rides = m.live_rides.iter();
            Ok(rides.find(|(_, r)| r.passenger_id == passenger && !r.status.is_final()).map(|(id, _)| *id))
        }
    }
}

/// The passengers of `rides`, live or lately over; who is not known is left out.
pub(crate) async fn passengers(
    tx: &mut Transaction<Tables>,
    rides: &[RideId],
) -> Result<BTreeMap<RideId, UserId>, StoreError> {
    if rides.is_empty() {
        return Ok(BTreeMap::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select ride_id, passenger_id from live_rides where ride_id = any($1)")
                .bind(rides.iter().map(|r| r.0).collect::<Vec<Uuid>>())
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(|row| Ok((RideId(row.try_get(0)?), UserId(row.try_get(1)?)))).collect()
        }
        On::Memory(m) => {
            let rows = &m.live_rides;
            Ok(rides.iter().filter_map(|id| Some((*id, rows.get(id)?.passenger_id))).collect())
        }
    }
}

/// Deletes rides that were over a day ago.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    let before = now - KEPT;
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from live_rides where status in ('completed', 'cancelled') and changed_at < $1")
                .bind(before)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(m) => {
            let rows = &mut m.live_rides;
            let kept = rows.iter().filter(|(_, r)| !r.status.is_final() || r.changed_at >= before);
            *rows = kept.map(|(id, r)| (*id, *r)).collect();
        }
    }
    Ok(())
}
