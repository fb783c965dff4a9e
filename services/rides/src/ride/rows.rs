//! Rides in the store, PostgreSQL and memory side by side.
//!
//! It owns the tables `rides`, `superseded` and `pin_tries`, and writes to `served` what became a ride. Rows are locked in the order of their ids, every update
//! names the version that was read, and a `where` with an id from a client also names its owner.
//!
//! A row of `rides` is wide, so it is written and read as JSON, each column by its name in [`to_row`] and [`from_row`]: a new column
//! is a line in each. `json` and not `jsonb`, because `json` preserves the text of a number, and so every float. A new column must be
//! nullable: during a rolling upgrade the old version inserts rows without it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};
use streams::event::RideTerms;
use streams::simulation::sabotage;
use streams::{Currency, MatchId, Money, Position, RequestId, RideId, UserId};
use uuid::Uuid;

use crate::ride::{Cancellation, PinTries, Receipt, Ride};
use crate::tables::Tables;

/// The start of a page of rides: after this ride, newest first, by creation time and id.
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

/// Every column of a ride's row.
pub(crate) fn to_row(ride: &Ride) -> Map<String, Value> {
    let (receipt, cancellation, parts) = (ride.receipt.as_ref(), ride.cancellation.as_ref(), ride.parts());
    let row = json!({
        "ride_id": ride.ride_id,
        "match_id": ride.match_id,
        "driver_id": ride.driver_id,
        "passenger_id": ride.passenger_id,
        "version": ride.version,
        "status": ride.status,
        "pickup_lat": ride.pickup.lat,
        "pickup_lng": ride.pickup.lng,
        "dropoff_lat": ride.dropoff.lat,
        "dropoff_lng": ride.dropoff.lng,
        "vehicle_type": ride.vehicle_type,
        "created_at": ride.created_at,
        "updated_at": ride.updated_at,
        "waiting_at": ride.waiting_at,
        "started_at": ride.started_at,
        "arrived_at": ride.arrived_at,
        "last_hash": ride.last_hash,
        "distance_m": receipt.map(|r| r.distance_m),
        "duration_s": receipt.map(|r| r.duration_s),
        "fare": receipt.map(|r| &r.fare),
        "platform_fee": parts.map(|(fee, _)| fee.amount),
        "driver_payout": parts.map(|(_, payout)| payout.amount),
        "cancelled_by": cancellation.map(|c| c.by),
        "cancel_reason": cancellation.map(|c| &c.reason),
        "cancel_fee": cancellation.map(|c| c.fee.amount),
        "cancel_code": cancellation.and_then(|c| c.code),
        "cancel_note": cancellation.and_then(|c| c.note.as_ref()),
        "cancel_fare": cancellation.and_then(|c| c.fare.as_ref()),
        "cancel_distance_m": cancellation.and_then(|c| c.distance_m),
        "cancel_duration_s": cancellation.and_then(|c| c.duration_s),
        "cancel_continues": cancellation.and_then(|c| c.continues),
        "market_id": ride.market_id,
        "terms": ride.terms,
    });
    match row {
        Value::Object(columns) => columns,
        _ => unreachable!("an object is written above"),
    }
}

/// A ride from its row, which is the first column of `row`, as JSON text.
pub(crate) fn from_row(row: &PgRow) -> Result<Ride, StoreError> {
    let mut row = Columns(serde_json::from_str(row.try_get(0)?).map_err(malformed)?);
    let terms: Option<RideTerms> = row.take("terms")?;
    let currency = terms.as_ref().map_or(Currency::USD, |terms| terms.currency);
    // Cancellations older than the columns of the parts have no parts.
    let platform_fee = Money::new(row.take::<Option<i64>>("platform_fee")?.unwrap_or(0), currency);
    let driver_payout = Money::new(row.take::<Option<i64>>("driver_payout")?.unwrap_or(0), currency);
    let receipt = match row.take("fare")? {
        Some(fare) => Some(Receipt {
            distance_m: row.take("distance_m")?,
            duration_s: row.take("duration_s")?,
            fare,
            platform_fee,
            driver_payout,
        }),
        None => None,
    };
    let cancellation = match row.take("cancelled_by")? {
        Some(by) => Some(Cancellation {
            by,
            reason: row.take("cancel_reason")?,
            code: row.take("cancel_code")?,
            note: row.take("cancel_note")?,
            fee: Money::new(row.take("cancel_fee")?, currency),
            fare: row.take("cancel_fare")?,
            distance_m: row.take("cancel_distance_m")?,
            duration_s: row.take("cancel_duration_s")?,
            continues: row.take("cancel_continues")?,
            platform_fee,
            driver_payout,
        }),
        None => None,
    };
    Ok(Ride {
        ride_id: row.take("ride_id")?,
        match_id: row.take("match_id")?,
        driver_id: row.take("driver_id")?,
        passenger_id: row.take("passenger_id")?,
        version: row.take("version")?,
        status: row.take("status")?,
        pickup: Position { lat: row.take("pickup_lat")?, lng: row.take("pickup_lng")? },
        dropoff: Position { lat: row.take("dropoff_lat")?, lng: row.take("dropoff_lng")? },
        vehicle_type: row.take("vehicle_type")?,
        created_at: row.take("created_at")?,
        updated_at: row.take("updated_at")?,
        waiting_at: row.take("waiting_at")?,
        started_at: row.take("started_at")?,
        arrived_at: row.take("arrived_at")?,
        last_hash: row.take("last_hash")?,
        receipt,
        cancellation,
        market_id: row.take("market_id")?,
        terms,
    })
}

struct Columns(Map<String, Value>);

impl Columns {
    fn take<T: DeserializeOwned>(&mut self, column: &str) -> Result<T, StoreError> {
        let value = self.0.remove(column).unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|error| malformed(format!("column {column}: {error}")))
    }
}

fn malformed(what: impl std::fmt::Display) -> StoreError {
    StoreError::Other(format!("a row of rides cannot be read: {what}"))
}

/// Rows as the parameter of `json_populate_recordset`, and the columns that they have, to be named in the statement.
fn json_rows<'a>(rides: impl IntoIterator<Item = &'a Ride>) -> (String, Vec<String>) {
    let rows: Vec<Map<String, Value>> = rides.into_iter().map(to_row).collect();
    let columns = rows.first().map(|row| row.keys().cloned().collect()).unwrap_or_default();
    (serde_json::to_string(&rows).expect("a row has string keys"), columns)
}

/// Inserts rides with the requests that they fulfil, in one statement. It skips a ride whose match is superseded or has a ride,
/// whose request was fulfilled or has ended, or whose driver or passenger has a live ride. Returns the matches of the inserted rides.
pub(crate) async fn insert_live_rides(
    tx: &mut Transaction<Tables>,
    rides: &[(RequestId, Ride)],
) -> Result<BTreeSet<MatchId>, StoreError> {
    if rides.is_empty() {
        return Ok(BTreeSet::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let (json, columns) = json_rows(rides.iter().map(|(_, ride)| ride));
            let columns = columns.join(", ");
            // `unnest` and `ordinality` are the names that PostgreSQL gives to the request and to the place in the batch.
            let rows = sqlx::query(AssertSqlSafe(format!(
                "with inserted as (insert into rides ({columns}) select {columns} \
                 from rows from (json_populate_recordset(null::rides, $1::json), unnest($2::uuid[])) with ordinality as u \
                 where not exists (select 1 from superseded s where s.match_id = u.match_id) \
                 and not exists (select 1 from served s where s.request_id = u.unnest) \
                 order by u.ordinality on conflict do nothing returning match_id), \
                 recorded as (insert into served (request_id, match_id) select r.request_id, r.match_id \
                 from unnest($2::uuid[], $3::uuid[]) as r (request_id, match_id) join inserted using (match_id)) \
                 select match_id from inserted"
            )))
            .bind(json)
            .bind(column(rides, |(request, _)| request.0))
            .bind(column(rides, |(_, ride)| ride.match_id.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(MatchId(row.try_get(0)?))).collect()
        }
        On::Memory(tables) => {
            let mut inserted = BTreeSet::new();
            for (request, ride) in rides {
                // With this sabotage a request may become two rides, as without the unique indexes: most second live rides
                // would come of a request that was offered twice.
                let unique = !sabotage().no_unique_live_ride;
                let live = tables.live_driver.contains_key(&ride.driver_id)
                    || tables.live_passenger.contains_key(&ride.passenger_id);
                let decided = tables.decided_requests.contains_key(request);
                if unique && (live || decided)
                    || tables.superseded.contains(&ride.match_id)
                    || tables.by_match.contains_key(&ride.match_id)
                {
                    continue;
                }
                tables.decided_requests.insert(*request, Some(ride.match_id));
                tables.put_ride(ride);
                inserted.insert(ride.match_id);
            }
            Ok(inserted)
        }
    }
}

/// Inserts rides of any status, as a rebuild has computed them from their events.
pub(crate) async fn insert_rebuilt_rides(tx: &mut Transaction<Tables>, rides: &[Ride]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let (json, columns) = json_rows(rides);
            let columns = columns.join(", ");
            sqlx::query(AssertSqlSafe(format!(
                "insert into rides ({columns}) select {columns} from json_populate_recordset(null::rides, $1::json)"
            )))
            .bind(json)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => rides.iter().for_each(|ride| tables.put_ride(ride)),
    }
    Ok(())
}

/// Inserts rides, or puts them in the place of their older rows, as a recovery has computed them from their events.
pub(crate) async fn replace_rides(tx: &mut Transaction<Tables>, rides: &[Ride]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let (json, columns) = json_rows(rides);
            let set: Vec<String> = columns.iter().map(|column| format!("{column} = excluded.{column}")).collect();
            let (columns, set) = (columns.join(", "), set.join(", "));
            sqlx::query(AssertSqlSafe(format!(
                "insert into rides ({columns}) select {columns} from json_populate_recordset(null::rides, $1::json) \
                 on conflict (ride_id) do update set {set}"
            )))
            .bind(json)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => rides.iter().for_each(|ride| tables.put_ride(ride)),
    }
    Ok(())
}

/// Records as superseded those of `matches` that have no ride and are not superseded yet; returns them.
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
            .bind(column(matches, |m| m.0))
            .bind(now)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(MatchId(row.try_get(0)?))).collect()
        }
        On::Memory(tables) => {
            let lost = matches.iter().copied().filter(|id| !tables.by_match.contains_key(id));
            let lost: BTreeSet<MatchId> = lost.filter(|id| !tables.superseded.contains(id)).collect();
            tables.superseded.extend(lost.iter().copied());
            Ok(lost)
        }
    }
}

/// Updates rides, each with the version that it was read with, in one statement.
///
/// `StoreError::Serialization` if one of them has another version by now.
pub(crate) async fn update_rides(tx: &mut Transaction<Tables>, rides: &[(u32, Ride)]) -> Result<(), StoreError> {
    let updated = match tx.on() {
        On::Postgres(pg) => {
            let (json, columns) = json_rows(rides.iter().map(|(_, ride)| ride));
            let assignments = column(&columns, |name| format!("{name} = u.{name}")).join(", ");
            sqlx::query(AssertSqlSafe(format!(
                "update rides set {assignments} \
                 from rows from (json_populate_recordset(null::rides, $1::json), unnest($2::int[])) as u \
                 where rides.ride_id = u.ride_id and rides.version = u.unnest"
            )))
            .bind(json)
            .bind(column(rides, |(version, _)| *version as i32))
            .execute(&mut *pg)
            .await?
            .rows_affected()
        }
        On::Memory(tables) => {
            let mut updated = 0;
            for (version, ride) in rides {
                if tables.rides.get(&ride.ride_id).is_some_and(|found| found.version == *version) {
                    tables.put_ride(ride);
                    updated += 1;
                }
            }
            updated
        }
    };
    if updated == rides.len() as u64 {
        return Ok(());
    }
    Err(StoreError::Serialization(format!(
        "{} of {} rides have another version by now",
        rides.len() as u64 - updated,
        rides.len()
    )))
}

/// A ride of `user`, as its driver or its passenger.
pub(crate) async fn ride_of(
    tx: &mut Transaction<Tables>,
    ride: RideId,
    user: UserId,
) -> Result<Option<Ride>, StoreError> {
    select_of(tx, ride, user, "").await
}

/// The same, locked until the transaction ends.
pub(crate) async fn lock_ride_of(
    tx: &mut Transaction<Tables>,
    ride: RideId,
    user: UserId,
) -> Result<Option<Ride>, StoreError> {
    select_of(tx, ride, user, "for update").await
}

/// `lock` is the locking clause of the statement.
async fn select_of(
    tx: &mut Transaction<Tables>,
    ride: RideId,
    user: UserId,
    lock: &'static str,
) -> Result<Option<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => sqlx::query(AssertSqlSafe(format!(
            "select row_to_json(rides)::text from rides where ride_id = $1 and (driver_id = $2 or passenger_id = $2) {lock}"
        )))
        .bind(ride.0)
        .bind(user.0)
        .fetch_optional(&mut *pg)
        .await?
        .map(|row| from_row(&row))
        .transpose(),
        On::Memory(tables) => Ok(tables.rides.get(&ride).filter(|r| r.party(user).is_some()).cloned()),
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
        On::Memory(tables) => Ok(tables.pin_tries.get(&ride).copied().unwrap_or_default()),
    }
}

/// Stores the wrong PINs given for a ride that the caller has locked; deletes the row if there are none.
pub(crate) async fn store_pin_tries(
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
        (On::Memory(tables), Some(_)) => {
            tables.pin_tries.insert(ride, *tries);
        }
        (On::Memory(tables), None) => {
            tables.pin_tries.remove(&ride);
        }
    }
    Ok(())
}

/// Rides by id, locked in the order of their ids until the transaction ends. For the system only: it checks no owner.
pub(crate) async fn lock_rides(tx: &mut Transaction<Tables>, rides: &[RideId]) -> Result<Vec<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select row_to_json(rides)::text from rides where ride_id = any($1) order by ride_id for update",
            )
            .bind(column(rides, |r| r.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(from_row).collect()
        }
        On::Memory(tables) => {
            let ids: BTreeSet<RideId> = rides.iter().copied().collect();
            Ok(ids.iter().filter_map(|id| tables.rides.get(id).cloned()).collect())
        }
    }
}

/// Up to `limit` rides that arrived at `before` or earlier and are not completed, locked. It skips rides that another process has
/// locked.
pub(crate) async fn lock_arrived(
    tx: &mut Transaction<Tables>,
    before: DateTime<Utc>,
    limit: u32,
) -> Result<Vec<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select row_to_json(rides)::text from rides where status = 'arrived' and arrived_at <= $1 \
                 order by arrived_at limit $2 for update skip locked",
            )
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(from_row).collect()
        }
        On::Memory(tables) => {
            let due = tables.arrived.iter().take_while(|(at, _)| *at <= before).take(limit as usize);
            Ok(due.filter_map(|(_, id)| tables.rides.get(id).cloned()).collect())
        }
    }
}

/// At most `limit` rides of `user`, newest first, beginning after `after`.
pub(crate) async fn rides_of(
    tx: &mut Transaction<Tables>,
    user: UserId,
    after: After,
    limit: u32,
) -> Result<Vec<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            // Two index scans. No ride is in both: its driver and its passenger are two people.
            let rows = sqlx::query(
                "select row_to_json(r)::text from (\
                 (select * from rides where driver_id = $1 and (created_at, ride_id) < ($2, $3) \
                 order by created_at desc, ride_id desc limit $4) union all \
                 (select * from rides where passenger_id = $1 and (created_at, ride_id) < ($2, $3) \
                 order by created_at desc, ride_id desc limit $4)) as r \
                 order by r.created_at desc, r.ride_id desc limit $4",
            )
            .bind(user.0)
            .bind(after.created_at)
            .bind(after.ride_id.0)
            .bind(i64::from(limit))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(from_row).collect()
        }
        On::Memory(tables) => {
            let from = (user, DateTime::UNIX_EPOCH, RideId(Uuid::nil()));
            let own = tables.of_user.range(from..(user, after.created_at, after.ride_id)).rev().take(limit as usize);
            Ok(own.filter_map(|(_, _, id)| tables.rides.get(id).cloned()).collect())
        }
    }
}

/// Up to `limit` rides from `first` on, by id. For the audit only: it checks no owner.
pub(crate) async fn rides_from(
    tx: &mut Transaction<Tables>,
    first: RideId,
    limit: usize,
) -> Result<Vec<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows =
                sqlx::query("select row_to_json(rides)::text from rides where ride_id >= $1 order by ride_id limit $2")
                    .bind(first.0)
                    .bind(limit as i64)
                    .fetch_all(&mut *pg)
                    .await?;
            rows.iter().map(from_row).collect()
        }
        On::Memory(tables) => Ok(tables.rides.range(first..).take(limit).map(|(_, ride)| ride.clone()).collect()),
    }
}
