//! The rows of `live_rides`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::event::RideEvent;
use streams::{Position, RideId, UserId};

use super::{CurrentRide, CurrentRides, LiveRide, Places, RETENTION, newest};
use crate::tables::Tables;

/// Stores the newest of `events` of each ride; a version older than the stored one is dropped.
pub(crate) async fn apply(
    tx: &mut Transaction<Tables>,
    events: &[&RideEvent],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let newest = newest(events);
    if newest.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into live_rides as l (ride_id, driver_id, passenger_id, version, status, changed_at, device, pickup_lat, \
                 pickup_lng, dropoff_lat, dropoff_lng, match_id, event) \
                 select r, d, p, v, s, $6, o.device, a, b, c, e, m, t \
                 from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::text[], $7::uuid[], $8::float8[], \
                 $9::float8[], $10::float8[], $11::float8[], $12::text[]) as n (r, d, p, v, s, m, a, b, c, e, t) \
                 left join offers o on o.match_id = m order by r \
                 on conflict on constraint live_rides_pkey do update \
                 set version = excluded.version, status = excluded.status, changed_at = excluded.changed_at, \
                 pickup_lat = excluded.pickup_lat, pickup_lng = excluded.pickup_lng, \
                 dropoff_lat = excluded.dropoff_lat, dropoff_lng = excluded.dropoff_lng, \
                 match_id = excluded.match_id, event = excluded.event \
                 where l.version < excluded.version",
            )
            .bind(column(newest.values(), |e| e.ride_id.0))
            .bind(column(newest.values(), |e| e.driver_id.0))
            .bind(column(newest.values(), |e| e.passenger_id.0))
            .bind(column(newest.values(), |e| i32::try_from(e.version).unwrap_or(i32::MAX)))
            .bind(column(newest.values(), |e| e.status.as_str()))
            .bind(now)
            .bind(column(newest.values(), |e| e.match_id.0))
            .bind(column(newest.values(), |e| e.pickup.lat))
            .bind(column(newest.values(), |e| e.pickup.lng))
            .bind(column(newest.values(), |e| e.dropoff.lat))
            .bind(column(newest.values(), |e| e.dropoff.lng))
            .bind(column(newest.values(), |e| body(e)))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let rows = &mut tables.live_rides;
            for (id, event) in newest {
                if let Some(device) = tables.accepting_devices.get(&event.match_id) {
                    tables.ride_devices.entry(id).or_insert_with(|| device.clone());
                }
                let is_old = rows.get(&id).is_some_and(|known| known.version >= event.version);
                if is_old && !streams::simulation::sabotage().no_version_check {
                    continue;
                }
                let RideEvent { driver_id, passenger_id, version, status, pickup, dropoff, .. } = *event;
                let places = Some(Places { pickup, dropoff });
                tables.ride_events.insert(id, (event.match_id, body(event)));
                rows.insert(id, LiveRide { driver_id, passenger_id, version, status, changed_at: now, places });
            }
        }
    }
    Ok(())
}

/// The event as JSON.
fn body(event: &RideEvent) -> String {
    serde_json::to_string(event).expect("events have string keys and no failing serializer")
}

fn read_places(row: &PgRow) -> Result<Option<Places>, StoreError> {
    let [pickup, dropoff] = [("pickup_lat", "pickup_lng"), ("dropoff_lat", "dropoff_lng")];
    let position = |(lat, lng): (&str, &str)| -> Result<Option<Position>, StoreError> {
        let (lat, lng): (Option<f64>, Option<f64>) = (row.try_get(lat)?, row.try_get(lng)?);
        Ok(lat.zip(lng).map(|(lat, lng)| Position { lat, lng }))
    };
    Ok(position(pickup)?.zip(position(dropoff)?).map(|(pickup, dropoff)| Places { pickup, dropoff }))
}

fn read_current(row: &PgRow) -> Result<CurrentRide, StoreError> {
    let (version, status): (i32, &str) = (row.try_get("version")?, row.try_get("status")?);
    Ok(CurrentRide {
        ride_id: RideId(row.try_get("ride_id")?),
        driver_id: UserId(row.try_get("driver_id")?),
        passenger_id: UserId(row.try_get("passenger_id")?),
        version: u32::try_from(version).unwrap_or_default(),
        status: status.parse().map_err(StoreError::Other)?,
        places: read_places(row)?,
    })
}

/// The live rides of which the user is the driver or the passenger.
pub(crate) async fn current(tx: &mut Transaction<Tables>, user: UserId) -> Result<CurrentRides, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select ride_id, driver_id, passenger_id, version, status, changed_at, pickup_lat, pickup_lng, dropoff_lat, \
                 dropoff_lng from live_rides where driver_id = $1 and status in ('pickup', 'waiting', 'started', 'arrived') \
                 union all \
                 select ride_id, driver_id, passenger_id, version, status, changed_at, pickup_lat, pickup_lng, dropoff_lat, \
                 dropoff_lng from live_rides where passenger_id = $1 and status in ('pickup', 'waiting', 'started', 'arrived') \
                 order by changed_at",
            )
            .bind(user.0)
            .fetch_all(&mut *pg)
            .await?;
            let rides = rows.iter().map(read_current).collect::<Result<Vec<_>, _>>()?;
            Ok(CurrentRides::of(user, rides))
        }
        On::Memory(tables) => {
            let is_mine = |ride: &LiveRide| ride.driver_id == user || ride.passenger_id == user;
            let mut rides: Vec<(&RideId, &LiveRide)> =
                tables.live_rides.iter().filter(|(_, ride)| is_mine(ride) && !ride.status.is_final()).collect();
            rides.sort_by_key(|(_, ride)| ride.changed_at);
            Ok(CurrentRides::of(user, rides.into_iter().map(|(ride_id, ride)| ride.current(*ride_id))))
        }
    }
}

/// The device that accepted the ride, if it is known.
pub(crate) async fn device_of(tx: &mut Transaction<Tables>, ride: RideId) -> Result<Option<String>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select device from live_rides where ride_id = $1")
                .bind(ride.0)
                .fetch_optional(&mut *pg)
                .await?;
            Ok(row.map(|row| row.try_get("device")).transpose()?.flatten())
        }
        On::Memory(tables) => Ok(tables.ride_devices.get(&ride).cloned()),
    }
}

pub(crate) async fn of_passenger(
    tx: &mut Transaction<Tables>,
    passenger: UserId,
) -> Result<Option<RideId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select ride_id from live_rides where passenger_id = $1 and status in ('pickup', 'waiting', 'started', 'arrived') \
                 limit 1",
            )
            .bind(passenger.0)
            .fetch_optional(&mut *pg)
            .await?;
            Ok(row.map(|row| row.try_get("ride_id")).transpose()?.map(RideId))
        }
        On::Memory(tables) => {
            let mut rides = tables.live_rides.iter();
            Ok(rides.find(|(_, r)| r.passenger_id == passenger && !r.status.is_final()).map(|(id, _)| *id))
        }
    }
}

/// Those of `passengers` who are in a ride.
pub(crate) async fn passengers_of_any(
    tx: &mut Transaction<Tables>,
    passengers: &[UserId],
) -> Result<BTreeSet<UserId>, StoreError> {
    if passengers.is_empty() {
        return Ok(BTreeSet::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select passenger_id from live_rides where passenger_id = any($1) \
                 and status in ('pickup', 'waiting', 'started', 'arrived')",
            )
            .bind(column(passengers, |passenger| passenger.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(UserId(row.try_get("passenger_id")?))).collect()
        }
        On::Memory(tables) => {
            let live = tables.live_rides.values().filter(|ride| !ride.status.is_final());
            Ok(live.map(|ride| ride.passenger_id).filter(|id| passengers.contains(id)).collect())
        }
    }
}

/// Those of `rides` that have ended, as far as they have rows.
pub(crate) async fn ended(tx: &mut Transaction<Tables>, rides: &[RideId]) -> Result<BTreeSet<RideId>, StoreError> {
    if rides.is_empty() {
        return Ok(BTreeSet::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select ride_id from live_rides where ride_id = any($1) and status in ('completed', 'cancelled')",
            )
            .bind(column(rides, |r| r.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(RideId(row.try_get("ride_id")?))).collect()
        }
        On::Memory(tables) => {
            let has_ended = |id: &&RideId| tables.live_rides.get(*id).is_some_and(|ride| ride.status.is_final());
            Ok(rides.iter().filter(has_ended).copied().collect())
        }
    }
}

/// The passengers of `rides`, as far as the rides have rows.
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
                .bind(column(rides, |r| r.0))
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(|row| Ok((RideId(row.try_get("ride_id")?), UserId(row.try_get("passenger_id")?)))).collect()
        }
        On::Memory(tables) => {
            let rows = &tables.live_rides;
            Ok(rides.iter().filter_map(|id| Some((*id, rows.get(id)?.passenger_id))).collect())
        }
    }
}

/// Deletes rides that ended longer than [`RETENTION`] ago.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    let before = now - RETENTION;
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from live_rides where status in ('completed', 'cancelled') and changed_at < $1")
                .bind(before)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            let rows = &mut tables.live_rides;
            let left = rows.iter().filter(|(_, r)| !r.status.is_final() || r.changed_at >= before);
            *rows = left.map(|(id, r)| (*id, *r)).collect();
            let devices = tables.ride_devices.iter().filter(|(id, _)| tables.live_rides.contains_key(*id));
            tables.ride_devices = devices.map(|(id, device)| (*id, device.clone())).collect();
            let events = tables.ride_events.iter().filter(|(id, _)| tables.live_rides.contains_key(*id));
            tables.ride_events = events.map(|(id, event)| (*id, event.clone())).collect();
        }
    }
    Ok(())
}
