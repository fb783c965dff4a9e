//! The engine's rows in the store: loaded when a process becomes active, written once a batch with one statement a table.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use imbl::OrdMap;
use platform::store::rows::column;
use platform::{On, StoreError};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{Position, RequestId, RideId, UserId, VehicleType};
use uuid::Uuid;

use super::state::{
    Driver, ENDED_REMEMBERED, EngineRows, Exclusion, OFFLINE_REMEMBERED, Offer, OfferOutcome, Request, Ride,
    requests_remembered_from,
};
use crate::tables::Tx;
use crate::zones::Zone;

/// How long rows of ended requests and offers are stored.
const ENDED_STORED: Duration = Duration::days(1);
/// How long rows of ended rides and of offline drivers are stored: longer than RIDE_STREAM keeps the ride's first event.
const RIDES_STORED: Duration = Duration::days(8);

const REQUESTS: &str = "select *, array(select driver_id from exclusions e where e.request_id = r.request_id order by driver_id) \
     as excluded, array(select until from exclusions e where e.request_id = r.request_id order by driver_id) \
     as excluded_until, array(select misses from exclusions e where e.request_id = r.request_id order by driver_id) \
     as excluded_misses from requests r";

/// The rows that the engine of a zone needs at `now`: what is live, and what ended so recently that a late event may refer to it.
pub async fn load(
    tx: &mut Tx,
    now: DateTime<Utc>,
    request_ttl: Duration,
    zone: Zone,
) -> Result<EngineRows, StoreError> {
    let requests_from = requests_remembered_from(now, request_ttl);
    let (ended_from, drivers_from) = (now - ENDED_REMEMBERED, now - OFFLINE_REMEMBERED);
    match tx.on() {
        On::Postgres(pg) => {
            let number = i32::from(zone.number);
            let drivers = sqlx::query(
                "select * from drivers where (active or seen_at >= $1) and ($2 or zones & (1::bigint << $3) <> 0) order by user_id",
            )
            .bind(drivers_from)
            .bind(zone.partition.is_one())
            .bind(number)
            .fetch_all(&mut *pg)
            .await?;
            let statement =
                format!("{REQUESTS} where (ended_at is null or ended_at >= $1) and zone = $2 order by request_id");
            let requests = sqlx::query(sqlx::AssertSqlSafe(statement))
                .bind(requests_from)
                .bind(number)
                .fetch_all(&mut *pg)
                .await?;
            let offers = sqlx::query(
                "select * from offers where (ended_at is null or ended_at >= $1) and zone = $2 order by match_id",
            )
            .bind(ended_from)
            .bind(number)
            .fetch_all(&mut *pg)
            .await?;
            let rides = sqlx::query(
                "select * from rides where (ended_at is null or ended_at >= $1) and zone = $2 order by ride_id",
            )
            .bind(ended_from)
            .bind(number)
            .fetch_all(&mut *pg)
            .await?;
            Ok(EngineRows {
                drivers: drivers.iter().map(read_driver).collect::<Result<_, _>>()?,
                requests: requests.iter().map(read_request).collect::<Result<_, _>>()?,
                offers: offers.iter().map(read_offer).collect::<Result<_, _>>()?,
                rides: rides.iter().map(read_ride).collect::<Result<_, _>>()?,
            })
        }
        On::Memory(tables) => {
            let is_recent = |ended_at: Option<DateTime<Utc>>, from| ended_at.is_none_or(|at| at >= from);
            let knows = |id| {
                zone.partition.is_one() || tables.zones_of_driver.get(&id).is_some_and(|z| z.contains(zone.number))
            };
            let drivers = tables.drivers.values().filter(|d| d.active || d.seen_at >= drivers_from);
            let drivers = drivers.filter(|d| knows(d.user_id));
            let is_own = |of: Option<&u16>| of.copied().unwrap_or(0) == zone.number;
            let requests = tables.requests.values().filter(|r| is_recent(r.ended_at, requests_from));
            let requests = requests.filter(|r| is_own(tables.zone_of_request.get(&r.request_id)));
            let offers = tables.offers.values().filter(|o| is_recent(o.ended.map(|e| e.0), ended_from));
            let offers = offers.filter(|o| is_own(tables.zone_of_offer.get(&o.match_id)));
            let rides = tables.rides.values().filter(|r| is_recent(r.ended_at, ended_from));
            let rides = rides.filter(|r| is_own(tables.zone_of_ride.get(&r.ride_id)));
            Ok(EngineRows {
                drivers: drivers.cloned().collect(),
                requests: requests.cloned().collect(),
                offers: offers.cloned().collect(),
                rides: rides.cloned().collect(),
            })
        }
    }
}

/// Inserts or replaces rows of a zone. Unique indexes refuse a second live request of a passenger and a second live offer of a driver
/// or a passenger. Of more than one zone, the router has written the drivers.
///
/// # Errors
/// [`StoreError::Conflict`] for these; with one zone it means that the engine has a bug.
pub async fn write(tx: &mut Tx, rows: &EngineRows, zone: Zone) -> Result<(), StoreError> {
    if !rows.drivers.is_empty() && zone.partition.is_one() {
        write_drivers(tx, &rows.drivers).await?;
    }
    write_requests(tx, &rows.requests, zone.number).await?;
    if !rows.offers.is_empty() {
        write_offers(tx, &rows.offers, zone.number).await?;
    }
    if !rows.rides.is_empty() {
        write_rides(tx, &rows.rides, zone.number).await?;
    }
    Ok(())
}

async fn write_drivers(tx: &mut Tx, rows: &[Driver]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into drivers (user_id, active, vehicle_type, lat, lng, recorded_at, seen_at, located_at, device) \
                 select * from unnest($1::uuid[], $2::bool[], $3::text[], $4::float8[], $5::float8[], $6::timestamptz[], \
                 $7::timestamptz[], $8::timestamptz[], $9::text[]) on conflict (user_id) do update \
                 set active = excluded.active, vehicle_type = excluded.vehicle_type, lat = excluded.lat, \
                 lng = excluded.lng, recorded_at = excluded.recorded_at, seen_at = excluded.seen_at, \
                 located_at = excluded.located_at, device = excluded.device",
            )
            .bind(column(rows, |d| d.user_id.0))
            .bind(column(rows, |d| d.active))
            .bind(column(rows, |d| d.vehicle_type.as_str()))
            .bind(column(rows, |d| d.location.lat))
            .bind(column(rows, |d| d.location.lng))
            .bind(column(rows, |d| d.recorded_at))
            .bind(column(rows, |d| d.seen_at))
            .bind(column(rows, |d| d.located_at))
            .bind(column(rows, |d| d.device.clone()))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => tables.drivers.extend(rows.iter().map(|d| (d.user_id, d.clone()))),
    }
    Ok(())
}

/// With their exclusions. They are in this zone from now on.
pub(crate) async fn write_requests(tx: &mut Tx, rows: &[Request], zone: u16) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            // Ended rows first: each frees the unique index for the live row of the same passenger.
            sqlx::query(
                "insert into requests (request_id, passenger_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, \
                 vehicle_type, opened_at, changed_at, ended_at, expires_at, market_id, zone) select *, $13 from unnest($1::uuid[], $2::uuid[], \
                 $3::float8[], $4::float8[], $5::float8[], $6::float8[], $7::text[], $8::timestamptz[], \
                 $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::text[]) as u (id, p, a, b, c, d, v, o, ch, ended, ex, m) \
                 order by ended nulls last, id on conflict (request_id) do update set \
                 pickup_lat = excluded.pickup_lat, pickup_lng = excluded.pickup_lng, \
                 dropoff_lat = excluded.dropoff_lat, dropoff_lng = excluded.dropoff_lng, \
                 vehicle_type = excluded.vehicle_type, opened_at = excluded.opened_at, changed_at = excluded.changed_at, \
                 ended_at = excluded.ended_at, expires_at = excluded.expires_at, market_id = excluded.market_id, zone = excluded.zone",
            )
            .bind(column(rows, |r| r.request_id.0))
            .bind(column(rows, |r| r.passenger_id.0))
            .bind(column(rows, |r| r.pickup.lat))
            .bind(column(rows, |r| r.pickup.lng))
            .bind(column(rows, |r| r.dropoff.lat))
            .bind(column(rows, |r| r.dropoff.lng))
            .bind(column(rows, |r| r.vehicle_type.as_str()))
            .bind(column(rows, |r| r.opened_at))
            .bind(column(rows, |r| r.changed_at))
            .bind(column(rows, |r| r.ended_at))
            .bind(column(rows, |r| r.expires_at))
            .bind(column(rows, |r| r.market_id.clone()))
            .bind(i32::from(zone))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            tables.zone_of_request.extend(rows.iter().map(|r| (r.request_id, zone)));
            for r in rows.iter().filter(|r| r.ended_at.is_some()) {
                release(&mut tables.live_request_of, r.passenger_id, r.request_id);
                tables.requests.insert(r.request_id, r.clone());
            }
            for r in rows.iter().filter(|r| r.ended_at.is_none()) {
                let index = &mut tables.live_request_of;
                claim(index, r.passenger_id, r.request_id, "requests_one_live_a_passenger")?;
                tables.requests.insert(r.request_id, r.clone());
            }
        }
    }
    write_exclusions(tx, rows).await
}

/// In memory the exclusions are part of the request.
async fn write_exclusions(tx: &mut Tx, rows: &[Request]) -> Result<(), StoreError> {
    let of_request = |r: &Request| r.excluded.iter().map(|(d, e)| (r.request_id.0, d.0, *e)).collect::<Vec<_>>();
    let exclusions: Vec<(Uuid, Uuid, Exclusion)> = rows.iter().flat_map(of_request).collect();
    match tx.on() {
        On::Postgres(pg) if !exclusions.is_empty() => {
            sqlx::query(
                "insert into exclusions (request_id, driver_id, until, misses) \
                 select * from unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::integer[]) \
                 on conflict (request_id, driver_id) do update set until = excluded.until, misses = excluded.misses",
            )
            .bind(column(&exclusions, |e| e.0))
            .bind(column(&exclusions, |e| e.1))
            .bind(column(&exclusions, |e| e.2.until))
            .bind(column(&exclusions, |e| i32::try_from(e.2.misses).unwrap_or(i32::MAX)))
            .execute(&mut *pg)
            .await?;
        }
        On::Postgres(_) | On::Memory(_) => {}
    }
    Ok(())
}

async fn write_offers(tx: &mut Tx, rows: &[Offer], zone: u16) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            // Ended rows first: each frees the unique indexes for the live row of the same driver or passenger.
            sqlx::query(
                "insert into offers (match_id, request_id, driver_id, passenger_id, found_at, expires_at, accepted_at, \
                 ended_at, outcome, zone) select *, $10 from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], \
                 $5::timestamptz[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[], $9::text[]) \
                 as u (id, r, d, p, f, e, a, ended, o) order by ended nulls last, id on conflict (match_id) do update \
                 set accepted_at = excluded.accepted_at, ended_at = excluded.ended_at, outcome = excluded.outcome",
            )
            .bind(column(rows, |o| o.match_id.0))
            .bind(column(rows, |o| o.request_id.0))
            .bind(column(rows, |o| o.driver_id.0))
            .bind(column(rows, |o| o.passenger_id.0))
            .bind(column(rows, |o| o.found_at))
            .bind(column(rows, |o| o.expires_at))
            .bind(column(rows, |o| o.accepted_at))
            .bind(column(rows, |o| o.ended.map(|e| e.0)))
            .bind(column(rows, |o| o.ended.map(|e| e.1.as_str())))
            .bind(i32::from(zone))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            for o in rows {
                tables.zone_of_offer.entry(o.match_id).or_insert(zone);
            }
            for o in rows.iter().filter(|o| o.ended.is_some()) {
                release(&mut tables.live_offer_of_driver, o.driver_id, o.match_id);
                release(&mut tables.live_offer_of_passenger, o.passenger_id, o.match_id);
                tables.offers.insert(o.match_id, o.clone());
            }
            for o in rows.iter().filter(|o| o.ended.is_none()) {
                let (by_driver, by_passenger) = (&mut tables.live_offer_of_driver, &mut tables.live_offer_of_passenger);
                claim(by_driver, o.driver_id, o.match_id, "offers_one_live_a_driver")?;
                claim(by_passenger, o.passenger_id, o.match_id, "offers_one_live_a_passenger")?;
                tables.offers.insert(o.match_id, o.clone());
            }
        }
    }
    Ok(())
}

/// Makes `id` the live row of `user`, as a partial unique index does in PostgreSQL.
pub(crate) fn claim<I: Copy + Eq>(
    index: &mut OrdMap<UserId, I>,
    user: UserId,
    id: I,
    constraint: &str,
) -> Result<(), StoreError> {
    if streams::simulation::sabotage().no_hold {
        return Ok(());
    }
    if index.get(&user).is_some_and(|live| *live != id) {
        return Err(StoreError::Conflict { constraint: constraint.to_owned() });
    }
    index.insert(user, id);
    Ok(())
}

/// `id` is not a live row any more.
fn release<I: Copy + Eq>(index: &mut OrdMap<UserId, I>, user: UserId, id: I) {
    if index.get(&user) == Some(&id) {
        index.remove(&user);
    }
}

async fn write_rides(tx: &mut Tx, rows: &[Ride], zone: u16) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into rides (ride_id, match_id, driver_id, passenger_id, began_at, ended_at, driver_cancelled, \
                 expected_end_at, expected_end_lat, expected_end_lng, zone) \
                 select *, $11 from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::timestamptz[], $6::timestamptz[], \
                 $7::bool[], $8::timestamptz[], $9::float8[], $10::float8[]) on conflict (ride_id) do update \
                 set ended_at = excluded.ended_at, driver_cancelled = excluded.driver_cancelled, \
                 expected_end_at = excluded.expected_end_at, expected_end_lat = excluded.expected_end_lat, \
                 expected_end_lng = excluded.expected_end_lng",
            )
            .bind(column(rows, |r| r.ride_id.0))
            .bind(column(rows, |r| r.match_id.0))
            .bind(column(rows, |r| r.driver_id.0))
            .bind(column(rows, |r| r.passenger_id.0))
            .bind(column(rows, |r| r.began_at))
            .bind(column(rows, |r| r.ended_at))
            .bind(column(rows, |r| r.driver_cancelled))
            .bind(column(rows, |r| r.expected_end.map(|end| end.0)))
            .bind(column(rows, |r| r.expected_end.map(|end| end.1.lat)))
            .bind(column(rows, |r| r.expected_end.map(|end| end.1.lng)))
            .bind(i32::from(zone))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            for r in rows {
                tables.zone_of_ride.entry(r.ride_id).or_insert(zone);
                tables.rides.insert(r.ride_id, r.clone());
            }
        }
    }
    Ok(())
}

/// Those of `rides` that have ended, including those that the engine has forgotten.
pub async fn ended_rides(tx: &mut Tx, rides: &[RideId]) -> Result<BTreeSet<RideId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select ride_id from rides where ride_id = any($1) and ended_at is not null")
                .bind(column(rides, |r| r.0))
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(|row| Ok(RideId(row.try_get(0)?))).collect()
        }
        On::Memory(tables) => {
            let has_ended = |id: &&RideId| tables.rides.get(*id).is_some_and(|r| r.ended_at.is_some());
            Ok(rides.iter().filter(has_ended).copied().collect())
        }
    }
}

/// Deletes ended requests and offers after a day, ended rides and offline drivers after 8 days.
pub async fn purge(tx: &mut Tx, now: DateTime<Utc>) -> Result<(), StoreError> {
    let (ended_from, rides_from) = (now - ENDED_STORED, now - RIDES_STORED);
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from requests where ended_at < $1").bind(ended_from).execute(&mut *pg).await?;
            sqlx::query("delete from offers where ended_at < $1").bind(ended_from).execute(&mut *pg).await?;
            sqlx::query("delete from rides where ended_at < $1").bind(rides_from).execute(&mut *pg).await?;
            sqlx::query("delete from drivers where not active and seen_at < $1")
                .bind(rides_from)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            fn zones_of<K: Ord + Clone>(of: &OrdMap<K, u16>, is_left: impl Fn(&K) -> bool) -> OrdMap<K, u16> {
                of.iter().filter(|(id, _)| is_left(id)).map(|(id, zone)| (id.clone(), *zone)).collect()
            }
            fn retain<K: Ord + Clone, V: Clone>(map: &mut OrdMap<K, V>, wanted: impl Fn(&V) -> bool) {
                let retained = map.iter().filter(|(_, v)| wanted(v));
                *map = retained.map(|(k, v)| (k.clone(), v.clone())).collect();
            }
            retain(&mut tables.requests, |r| r.ended_at.is_none_or(|at| at >= ended_from));
            retain(&mut tables.offers, |o| o.ended.is_none_or(|(at, _)| at >= ended_from));
            retain(&mut tables.rides, |r| r.ended_at.is_none_or(|at| at >= rides_from));
            retain(&mut tables.drivers, |d| d.active || d.seen_at >= rides_from);
            let (requests, offers, rides) = (&tables.requests, &tables.offers, &tables.rides);
            tables.zone_of_request = zones_of(&tables.zone_of_request, |id| requests.contains_key(id));
            tables.zone_of_offer = zones_of(&tables.zone_of_offer, |id| offers.contains_key(id));
            tables.zone_of_ride = zones_of(&tables.zone_of_ride, |id| rides.contains_key(id));
        }
    }
    Ok(())
}

/// Those of the requests that a zone has.
pub(crate) async fn requests(tx: &mut Tx, ids: &[RequestId], zone: Zone) -> Result<Vec<Request>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let statement = format!("{REQUESTS} where request_id = any($1) and zone = $2 order by request_id");
            let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
                .bind(column(ids, |id| id.0))
                .bind(i32::from(zone.number))
                .fetch_all(pg)
                .await?;
            rows.iter().map(read_request).collect()
        }
        On::Memory(tables) => {
            let own = |id: &&RequestId| tables.zone_of_request.get(*id).copied().unwrap_or(0) == zone.number;
            Ok(ids.iter().filter(own).filter_map(|id| tables.requests.get(id).cloned()).collect())
        }
    }
}

fn position(row: &PgRow, lat: &str, lng: &str) -> Result<Position, StoreError> {
    Ok(Position { lat: row.try_get(lat)?, lng: row.try_get(lng)? })
}

fn id<T: From<Uuid>>(row: &PgRow, column: &str) -> Result<T, StoreError> {
    Ok(T::from(row.try_get::<Uuid, _>(column)?))
}

fn vehicle(row: &PgRow) -> Result<VehicleType, StoreError> {
    row.try_get::<&str, _>("vehicle_type")?.parse().map_err(StoreError::Other)
}

fn outcome(text: &str) -> Result<OfferOutcome, StoreError> {
    OfferOutcome::ALL.into_iter().find(|o| o.as_str() == text).ok_or_else(|| {
        let known = OfferOutcome::ALL.map(OfferOutcome::as_str).join(", ");
        StoreError::Other(format!("offers.outcome is `{text}`, which is none of {known}"))
    })
}

pub(crate) fn read_driver(row: &PgRow) -> Result<Driver, StoreError> {
    let seen_at: DateTime<Utc> = row.try_get("seen_at")?;
    Ok(Driver {
        user_id: id(row, "user_id")?,
        active: row.try_get("active")?,
        vehicle_type: vehicle(row)?,
        location: position(row, "lat", "lng")?,
        recorded_at: row.try_get("recorded_at")?,
        seen_at,
        // A process of the version before does not write it.
        located_at: row.try_get::<Option<_>, _>("located_at")?.unwrap_or(seen_at),
        device: row.try_get("device")?,
    })
}

fn read_request(row: &PgRow) -> Result<Request, StoreError> {
    Ok(Request {
        request_id: id(row, "request_id")?,
        passenger_id: id(row, "passenger_id")?,
        pickup: position(row, "pickup_lat", "pickup_lng")?,
        dropoff: position(row, "dropoff_lat", "dropoff_lng")?,
        vehicle_type: vehicle(row)?,
        opened_at: row.try_get("opened_at")?,
        changed_at: row.try_get("changed_at")?,
        ended_at: row.try_get("ended_at")?,
        expires_at: row.try_get("expires_at")?,
        market_id: row.try_get("market_id")?,
        excluded: read_exclusions(row)?,
    })
}

fn read_exclusions(row: &PgRow) -> Result<BTreeMap<UserId, Exclusion>, StoreError> {
    let drivers: Vec<Uuid> = row.try_get("excluded")?;
    let until: Vec<Option<DateTime<Utc>>> = row.try_get("excluded_until")?;
    let misses: Vec<i32> = row.try_get("excluded_misses")?;
    let exclusions = until.into_iter().zip(misses);
    let exclusions =
        exclusions.map(|(until, misses)| Exclusion { until, misses: u32::try_from(misses).unwrap_or_default() });
    Ok(drivers.into_iter().map(UserId).zip(exclusions).collect())
}

fn read_offer(row: &PgRow) -> Result<Offer, StoreError> {
    let ended_at: Option<DateTime<Utc>> = row.try_get("ended_at")?;
    let ended_as: Option<&str> = row.try_get("outcome")?;
    Ok(Offer {
        match_id: id(row, "match_id")?,
        request_id: id(row, "request_id")?,
        driver_id: id(row, "driver_id")?,
        passenger_id: id(row, "passenger_id")?,
        found_at: row.try_get("found_at")?,
        expires_at: row.try_get("expires_at")?,
        accepted_at: row.try_get("accepted_at")?,
        ended: ended_at.zip(ended_as.map(outcome).transpose()?),
    })
}

fn read_ride(row: &PgRow) -> Result<Ride, StoreError> {
    Ok(Ride {
        ride_id: id(row, "ride_id")?,
        match_id: id(row, "match_id")?,
        driver_id: id(row, "driver_id")?,
        passenger_id: id(row, "passenger_id")?,
        began_at: row.try_get("began_at")?,
        ended_at: row.try_get("ended_at")?,
        driver_cancelled: row.try_get("driver_cancelled")?,
        // Null in rows of processes of the version before.
        expected_end: read_expected_end(row)?,
    })
}

fn read_expected_end(row: &PgRow) -> Result<Option<(DateTime<Utc>, Position)>, StoreError> {
    let at: Option<DateTime<Utc>> = row.try_get("expected_end_at")?;
    let (lat, lng): (Option<f64>, Option<f64>) = (row.try_get("expected_end_lat")?, row.try_get("expected_end_lng")?);
    Ok(at.zip(lat.zip(lng)).map(|(at, (lat, lng))| (at, Position { lat, lng })))
}
