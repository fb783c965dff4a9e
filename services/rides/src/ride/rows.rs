//! Rides and their events in the store, PostgreSQL and memory side by side.
//!
//! It owns the tables `rides`, `events`, `served` and `superseded`. Rows are locked in the order of their ids, every update names
//! the version that it read, and whatever a client's id reaches has its owner in the `where`.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use platform::{On, StoreError, Transaction};
use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{MatchId, Money, Position, RequestId, RideId, RideStatus, UserId};
use uuid::Uuid;

use crate::ride::{Cancelled, PinTries, Receipt, Ride};
use crate::tables::Tables;

/// Where a page of rides begins: after this ride, by creation time and id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct After {
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) ride_id: RideId,
}

impl After {
    /// Before all rides: the end of the year 9999, the last that RFC 3339 can write.
    pub(crate) const NEWEST: Self = Self {
        created_at: DateTime::from_timestamp(253_402_300_799, 0).expect("within chrono's years"),
        ride_id: RideId(Uuid::max()),
    };
}

macro_rules! columns {
    () => {
        "ride_id, match_id, driver_id, passenger_id, version, status, pickup_lat, pickup_lng, dropoff_lat, \
         dropoff_lng, vehicle_type, created_at, updated_at, started_at, arrived_at, last_hash, distance_m, duration_s, \
         fare::text as fare, platform_fee, driver_payout, cancelled_by, cancel_reason, cancel_fee"
    };
}

pub(crate) use columns;

pub(crate) fn malformed(what: impl std::fmt::Display) -> StoreError {
    StoreError::Other(format!("a row of rides cannot be read: {what}"))
}

/// A name on the wire (a status, a party) of a type that serde knows.
fn named<T: serde::de::DeserializeOwned>(name: &str) -> Result<T, StoreError> {
    serde_json::from_value(Value::from(name)).map_err(malformed)
}

fn name<T: serde::Serialize>(value: &T) -> Option<String> {
    serde_json::to_value(value).ok()?.as_str().map(str::to_owned)
}

pub(crate) fn read(row: &PgRow) -> Result<Ride, StoreError> {
    // A ride cancelled before its parts were kept has none.
    let part = |column| Ok::<_, StoreError>(Money::usd(row.try_get::<Option<i64>, _>(column)?.unwrap_or(0)));
    let receipt = match row.try_get::<Option<String>, _>("fare")? {
        Some(fare) => Some(Receipt {
            distance_m: row.try_get("distance_m")?,
            duration_s: row.try_get("duration_s")?,
            fare: serde_json::from_str(&fare).map_err(malformed)?,
            platform_fee: Money::usd(row.try_get("platform_fee")?),
            driver_payout: Money::usd(row.try_get("driver_payout")?),
        }),
        None => None,
    };
    let cancelled = match row.try_get::<Option<String>, _>("cancelled_by")? {
        Some(by) => Some(Cancelled {
            by: named(&by)?,
            reason: row.try_get("cancel_reason")?,
            fee: Money::usd(row.try_get("cancel_fee")?),
            platform_fee: part("platform_fee")?,
            driver_payout: part("driver_payout")?,
        }),
        None => None,
    };
    let count = |n: i32| u32::try_from(n).map_err(malformed);
    let position = |lat, lng| Ok::<_, StoreError>(Position { lat: row.try_get(lat)?, lng: row.try_get(lng)? });
    let id = |column| row.try_get::<Uuid, _>(column);
    Ok(Ride {
        ride_id: id("ride_id")?.into(),
        match_id: id("match_id")?.into(),
        driver_id: id("driver_id")?.into(),
        passenger_id: id("passenger_id")?.into(),
        version: count(row.try_get("version")?)?,
        status: named(row.try_get("status")?)?,
        pickup: position("pickup_lat", "pickup_lng")?,
        dropoff: position("dropoff_lat", "dropoff_lng")?,
        vehicle_type: named(row.try_get("vehicle_type")?)?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        started_at: row.try_get("started_at")?,
        arrived_at: row.try_get("arrived_at")?,
        last_hash: row.try_get("last_hash")?,
        receipt,
        cancelled,
    })
}

pub(crate) fn list<'a, R, T>(rides: &'a [R], of: impl Fn(&'a R) -> T) -> Vec<T> {
    rides.iter().map(of).collect()
}

/// Inserts rides that came to be of requests, in one statement; one whose match was superseded or has a ride, whose request
/// had one, or whose driver or passenger has a live one is passed over. Returns the matches of those inserted.
pub(crate) async fn insert_live_rides(
    tx: &mut Transaction<Tables>,
    rides: &[(RequestId, Ride)],
) -> Result<BTreeSet<MatchId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "with made as (insert into rides (ride_id, match_id, driver_id, passenger_id, version, status, pickup_lat, \
                 pickup_lng, dropoff_lat, dropoff_lng, vehicle_type, created_at, updated_at, last_hash) \
                 select u.ride_id, u.match_id, u.driver_id, u.passenger_id, 1, 'pickup', u.pickup_lat, \
                 u.pickup_lng, u.dropoff_lat, u.dropoff_lng, u.vehicle_type, u.at, u.at, u.last_hash \
                 from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::float8[], $6::float8[], $7::float8[], \
                 $8::float8[], $9::text[], $10::timestamptz[], $11::text[], $12::uuid[]) with ordinality as u (ride_id, \
                 match_id, driver_id, passenger_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, \
                 vehicle_type, at, last_hash, request_id, place) \
                 where not exists (select 1 from superseded s where s.match_id = u.match_id) \
                 and not exists (select 1 from served s where s.request_id = u.request_id) \
                 order by u.place on conflict do nothing returning match_id), \
                 noted as (insert into served (request_id, match_id) select r.request_id, r.match_id \
                 from unnest($12::uuid[], $2::uuid[]) as r (request_id, match_id) join made using (match_id)) \
                 select match_id from made",
            )
            .bind(list(rides, |(_, r)| r.ride_id.0))
            .bind(list(rides, |(_, r)| r.match_id.0))
            .bind(list(rides, |(_, r)| r.driver_id.0))
            .bind(list(rides, |(_, r)| r.passenger_id.0))
            .bind(list(rides, |(_, r)| r.pickup.lat))
            .bind(list(rides, |(_, r)| r.pickup.lng))
            .bind(list(rides, |(_, r)| r.dropoff.lat))
            .bind(list(rides, |(_, r)| r.dropoff.lng))
            .bind(list(rides, |(_, r)| r.vehicle_type.as_str()))
            .bind(list(rides, |(_, r)| r.created_at))
            .bind(list(rides, |(_, r)| r.last_hash.as_str()))
            .bind(list(rides, |(request, _)| request.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(MatchId(row.try_get(0)?))).collect()
        }
        On::Memory(m) => {
            let t = m;
            let mut inserted = BTreeSet::new();
            for (request, ride) in rides {
                let live =
                    t.live_driver.contains_key(&ride.driver_id) || t.live_passenger.contains_key(&ride.passenger_id);
                #[cfg(debug_assertions)]
                let live = live && !streams::simulation::sabotage().no_unique_live_ride;
                let served = t.served.contains(request);
                // The same request offered twice is how most second live rides would come to be.
                #[cfg(debug_assertions)]
                let served = served && !streams::simulation::sabotage().no_unique_live_ride;
                if live || served || t.superseded.contains(&ride.match_id) || t.by_match.contains_key(&ride.match_id) {
                    continue;
                }
                t.served.insert(*request);
                t.by_match.insert(ride.match_id, ride.ride_id);
                t.live_driver.insert(ride.driver_id, ride.ride_id);
                t.live_passenger.insert(ride.passenger_id, ride.ride_id);
                for user in [ride.driver_id, ride.passenger_id] {
                    t.of_user.insert((user, ride.created_at, ride.ride_id));
                }
                t.rides.insert(ride.ride_id, ride.clone());
                inserted.insert(ride.match_id);
            }
            Ok(inserted)
        }
    }
}

/// Inserts rides as their events have told them, whatever their status: only into tables that are made again.
pub(crate) async fn insert_told_rides(tx: &mut Transaction<Tables>, rides: &[Ride]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into rides (ride_id, match_id, driver_id, passenger_id, version, status, pickup_lat, pickup_lng, \
                 dropoff_lat, dropoff_lng, vehicle_type, created_at, updated_at, started_at, arrived_at, last_hash, \
                 distance_m, duration_s, fare, platform_fee, driver_payout, cancelled_by, cancel_reason, cancel_fee) \
                 select a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s::jsonb, t, u, v, w, x from unnest( \
                 $1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::int[], $6::text[], $7::float8[], $8::float8[], \
                 $9::float8[], $10::float8[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[], \
                 $15::timestamptz[], $16::text[], $17::float8[], $18::float8[], $19::text[], $20::bigint[], \
                 $21::bigint[], $22::text[], $23::text[], $24::bigint[]) \
                 as z (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x)",
            )
            .bind(list(rides, |r| r.ride_id.0))
            .bind(list(rides, |r| r.match_id.0))
            .bind(list(rides, |r| r.driver_id.0))
            .bind(list(rides, |r| r.passenger_id.0))
            .bind(list(rides, |r| r.version as i32))
            .bind(list(rides, |r| r.status.as_str()))
            .bind(list(rides, |r| r.pickup.lat))
            .bind(list(rides, |r| r.pickup.lng))
            .bind(list(rides, |r| r.dropoff.lat))
            .bind(list(rides, |r| r.dropoff.lng))
            .bind(list(rides, |r| r.vehicle_type.as_str()))
            .bind(list(rides, |r| r.created_at))
            .bind(list(rides, |r| r.updated_at))
            .bind(list(rides, |r| r.started_at))
            .bind(list(rides, |r| r.arrived_at))
            .bind(list(rides, |r| r.last_hash.as_str()))
            .bind(list(rides, |r| r.receipt.as_ref().map(|x| x.distance_m)))
            .bind(list(rides, |r| r.receipt.as_ref().map(|x| x.duration_s)))
            .bind(list(rides, |r| r.receipt.as_ref().and_then(|x| serde_json::to_string(&x.fare).ok())))
            .bind(list(rides, |r| r.parts().map(|(fee, _)| fee.amount)))
            .bind(list(rides, |r| r.parts().map(|(_, payout)| payout.amount)))
            .bind(list(rides, |r| r.cancelled.as_ref().and_then(|x| name(&x.by))))
            .bind(list(rides, |r| r.cancelled.as_ref().map(|x| x.reason.as_str())))
            .bind(list(rides, |r| r.cancelled.as_ref().map(|x| x.fee.amount)))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            let t = m;
            for ride in rides {
                t.by_match.insert(ride.match_id, ride.ride_id);
                if !ride.status.is_final() {
                    t.live_driver.insert(ride.driver_id, ride.ride_id);
                    t.live_passenger.insert(ride.passenger_id, ride.ride_id);
                }
                if let (RideStatus::Arrived, Some(at)) = (ride.status, ride.arrived_at) {
                    t.arrived.insert((at, ride.ride_id));
                }
                for user in [ride.driver_id, ride.passenger_id] {
                    t.of_user.insert((user, ride.created_at, ride.ride_id));
                }
                t.rides.insert(ride.ride_id, ride.clone());
            }
        }
    }
    Ok(())
}

/// Of matches that became no ride: notes those that have none from before as superseded, once; returns those.
pub(crate) async fn supersede(
    tx: &mut Transaction<Tables>,
    matches: &[MatchId],
    now: DateTime<Utc>,
) -> Result<BTreeSet<MatchId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "insert into superseded (match_id, at) select u.match_id, $2 from unnest($1::uuid[]) as u (match_id) \
                 where not exists (select 1 from rides r where r.match_id = u.match_id) \
                 order by u.match_id on conflict do nothing returning match_id",
            )
            .bind(list(matches, |m| m.0))
            .bind(now)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(MatchId(row.try_get(0)?))).collect()
        }
        On::Memory(m) => {
            let t = m;
            let lost = matches.iter().copied().filter(|id| !t.by_match.contains_key(id));
            let lost: BTreeSet<MatchId> = lost.filter(|id| !t.superseded.contains(id)).collect();
            t.superseded.extend(lost.iter().copied());
            Ok(lost)
        }
    }
}

/// Writes rides over the versions that they were read with, in one statement.
///
/// `StoreError::Serialization` if one of them has another version by now.
pub(crate) async fn update_rides(tx: &mut Transaction<Tables>, rides: &[(u32, Ride)]) -> Result<(), StoreError> {
    let written = match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "update rides set version = u.version, status = u.status, updated_at = u.updated_at, \
                 started_at = u.started_at, arrived_at = u.arrived_at, last_hash = u.last_hash, \
                 distance_m = u.distance_m, duration_s = u.duration_s, fare = u.fare::jsonb, \
                 platform_fee = u.platform_fee, driver_payout = u.driver_payout, cancelled_by = u.cancelled_by, \
                 cancel_reason = u.cancel_reason, cancel_fee = u.cancel_fee \
                 from unnest($1::uuid[], $2::int[], $3::int[], $4::text[], $5::timestamptz[], $6::timestamptz[], \
                 $7::timestamptz[], $8::text[], $9::float8[], $10::float8[], $11::text[], $12::bigint[], $13::bigint[], \
                 $14::text[], $15::text[], $16::bigint[]) as u (ride_id, was, version, \
                 status, updated_at, started_at, arrived_at, last_hash, distance_m, duration_s, fare, platform_fee, \
                 driver_payout, cancelled_by, cancel_reason, cancel_fee) \
                 where rides.ride_id = u.ride_id and rides.version = u.was",
            )
            .bind(list(rides, |(_, r)| r.ride_id.0))
            .bind(list(rides, |(was, _)| *was as i32))
            .bind(list(rides, |(_, r)| r.version as i32))
            .bind(list(rides, |(_, r)| r.status.as_str()))
            .bind(list(rides, |(_, r)| r.updated_at))
            .bind(list(rides, |(_, r)| r.started_at))
            .bind(list(rides, |(_, r)| r.arrived_at))
            .bind(list(rides, |(_, r)| r.last_hash.as_str()))
            .bind(list(rides, |(_, r)| r.receipt.as_ref().map(|x| x.distance_m)))
            .bind(list(rides, |(_, r)| r.receipt.as_ref().map(|x| x.duration_s)))
            .bind(list(rides, |(_, r)| r.receipt.as_ref().and_then(|x| serde_json::to_string(&x.fare).ok())))
            .bind(list(rides, |(_, r)| r.parts().map(|(fee, _)| fee.amount)))
            .bind(list(rides, |(_, r)| r.parts().map(|(_, payout)| payout.amount)))
            .bind(list(rides, |(_, r)| r.cancelled.as_ref().and_then(|x| name(&x.by))))
            .bind(list(rides, |(_, r)| r.cancelled.as_ref().map(|x| x.reason.as_str())))
            .bind(list(rides, |(_, r)| r.cancelled.as_ref().map(|x| x.fee.amount)))
            .execute(&mut *pg)
            .await?
            .rows_affected()
        }
        On::Memory(m) => {
            let t = m;
            let mut written = 0;
            for (was, ride) in rides {
                if t.rides.get(&ride.ride_id).is_none_or(|found| found.version != *was) {
                    continue;
                }
                if let (RideStatus::Arrived, Some(at)) = (ride.status, ride.arrived_at) {
                    t.arrived.insert((at, ride.ride_id));
                }
                if ride.status.is_final() {
                    t.live_driver.remove(&ride.driver_id);
                    t.live_passenger.remove(&ride.passenger_id);
                    ride.arrived_at.map(|at| t.arrived.remove(&(at, ride.ride_id)));
                }
                t.rides.insert(ride.ride_id, ride.clone());
                written += 1;
            }
            written
        }
    };
    if written == rides.len() as u64 {
        return Ok(());
    }
    Err(StoreError::Serialization(format!(
        "{} of {} rides have another version by now",
        rides.len() as u64 - written,
        rides.len()
    )))
}

/// A ride of `user`'s, as its driver or its passenger, locked until the transaction ends.
pub(crate) async fn lock_ride_of(
    tx: &mut Transaction<Tables>,
    ride: RideId,
    user: UserId,
) -> Result<Option<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => sqlx::query(concat!(
            "select ",
            columns!(),
            " from rides where ride_id = $1 and (driver_id = $2 or passenger_id = $2) for update"
        ))
        .bind(ride.0)
        .bind(user.0)
        .fetch_optional(&mut *pg)
        .await?
        .map(|row| read(&row))
        .transpose(),
        On::Memory(m) => Ok(m.rides.get(&ride).filter(|r| r.party(user).is_some()).cloned()),
    }
}

/// The wrong PINs given for a ride that the caller has locked.
pub(crate) async fn pin_tries(tx: &mut Transaction<Tables>, ride: RideId) -> Result<PinTries, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select failures, failed_at from pin_tries where ride_id = $1")
                .bind(ride.0)
                .fetch_optional(&mut *pg)
                .await?;
            let Some(row) = row else { return Ok(PinTries::default()) };
            let failures = u32::try_from(row.try_get::<i32, _>("failures")?).map_err(malformed)?;
            Ok(PinTries { failures, failed_at: row.try_get("failed_at")? })
        }
        On::Memory(m) => Ok(m.pin_tries.get(&ride).copied().unwrap_or_default()),
    }
}

/// Keeps the wrong PINs given for a ride that the caller has locked; none are forgotten.
pub(crate) async fn keep_pin_tries(
    tx: &mut Transaction<Tables>,
    ride: RideId,
    tries: &PinTries,
) -> Result<(), StoreError> {
    match (tx.on(), tries.failed_at) {
        (On::Postgres(pg), Some(failed_at)) => {
            sqlx::query(
                "insert into pin_tries (ride_id, failures, failed_at) values ($1, $2, $3) \
                 on conflict on constraint pin_tries_pkey do update \
                 set failures = excluded.failures, failed_at = excluded.failed_at",
            )
            .bind(ride.0)
            .bind(i32::try_from(tries.failures).unwrap_or(i32::MAX))
            .bind(failed_at)
            .execute(&mut *pg)
            .await?;
        }
        (On::Postgres(pg), None) => {
            sqlx::query("delete from pin_tries where ride_id = $1").bind(ride.0).execute(&mut *pg).await?;
        }
        (On::Memory(m), Some(_)) => {
            m.pin_tries.insert(ride, *tries);
        }
        (On::Memory(m), None) => {
            m.pin_tries.remove(&ride);
        }
    }
    Ok(())
}

/// Rides by id, locked in the order of their ids until the transaction ends. For the system only: no owner is asked.
pub(crate) async fn lock_rides(tx: &mut Transaction<Tables>, rides: &[RideId]) -> Result<Vec<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(concat!(
                "select ",
                columns!(),
                " from rides where ride_id = any($1) order by ride_id for update"
            ))
            .bind(list(rides, |r| r.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(m) => {
            let t = m;
            let ids: BTreeSet<RideId> = rides.iter().copied().collect();
            Ok(ids.iter().filter_map(|id| t.rides.get(id).cloned()).collect())
        }
    }
}

/// Up to `limit` rides that arrived before `before` and are not completed, locked; those that another process has locked
/// are passed over.
pub(crate) async fn lock_arrived(
    tx: &mut Transaction<Tables>,
    before: DateTime<Utc>,
    limit: u32,
) -> Result<Vec<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(concat!(
                "select ",
                columns!(),
                " from rides where status = 'arrived' and arrived_at <= $1 order by arrived_at limit $2 \
                 for update skip locked"
            ))
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(m) => {
            let t = m;
            let due = t.arrived.iter().take_while(|(at, _)| *at <= before).take(limit as usize);
            Ok(due.filter_map(|(_, id)| t.rides.get(id).cloned()).collect())
        }
    }
}

/// A ride of `user`'s.
pub(crate) async fn ride_of(
    tx: &mut Transaction<Tables>,
    ride: RideId,
    user: UserId,
) -> Result<Option<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => sqlx::query(concat!(
            "select ",
            columns!(),
            " from rides where ride_id = $1 and (driver_id = $2 or passenger_id = $2)"
        ))
        .bind(ride.0)
        .bind(user.0)
        .fetch_optional(&mut *pg)
        .await?
        .map(|row| read(&row))
        .transpose(),
        On::Memory(m) => Ok(m.rides.get(&ride).filter(|r| r.party(user).is_some()).cloned()),
    }
}

/// The rides of `user`, newest first, at most `limit`, from `after` on.
pub(crate) async fn rides_of(
    tx: &mut Transaction<Tables>,
    user: UserId,
    after: After,
    limit: u32,
) -> Result<Vec<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            // Two index scans; nobody is both in one ride.
            let rows = sqlx::query(concat!(
                "select * from ((select ",
                columns!(),
                " from rides where driver_id = $1 and (created_at, ride_id) < ($2, $3) \
                 order by created_at desc, ride_id desc limit $4) union all (select ",
                columns!(),
                " from rides where passenger_id = $1 and (created_at, ride_id) < ($2, $3) \
                 order by created_at desc, ride_id desc limit $4)) as r \
                 order by created_at desc, ride_id desc limit $4"
            ))
            .bind(user.0)
            .bind(after.created_at)
            .bind(after.ride_id.0)
            .bind(i64::from(limit))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(m) => {
            let t = m;
            let from = (user, DateTime::UNIX_EPOCH, RideId(Uuid::nil()));
            let own = t.of_user.range(from..(user, after.created_at, after.ride_id)).rev().take(limit as usize);
            Ok(own.filter_map(|(_, _, id)| t.rides.get(id).cloned()).collect())
        }
    }
}
