//! What waits for the owners of zones: rows that the router writes (`router.rs`), and owners when they hand a request over. An owner
//! handles them in the order of ids, and deletes each in the transaction in which it has its effect.
//!
//! A row that its owner gives up is never handled again. It stays until its dead letter is stored ([`GivenUp`]), so that no letter is of
//! something that had its effect, and none is lost.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use platform::dead_letters::GivenUp;
use platform::store::rows::column;
use platform::{On, StoreError, Trace};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::UserId;
use uuid::Uuid;

use crate::tables::Tx;
use crate::zone_input::{Content, ZoneInput};

/// The most rows that wait for a zone. Beyond that the router leaves messages to the stream.
pub(crate) const WAITING_MAX: i64 = 20_000;

/// Appends `inputs` in their order.
pub(crate) async fn insert(tx: &mut Tx, inputs: &[ZoneInput]) -> Result<(), StoreError> {
    if inputs.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into zone_inputs (zone, subject, body, elsewhere, stored_at, traceparent, message_id, sequence) \
                 select z, s, b, e, a, t, m, q from unnest($1::integer[], $2::text[], $3::text[], $4::bool[], \
                 $5::timestamptz[], $6::text[], $7::text[], $8::bigint[]) with ordinality as u (z, s, b, e, a, t, m, q, n) \
                 order by n",
            )
            .bind(column(inputs, |i| i32::from(i.zone)))
            .bind(column(inputs, ZoneInput::subject))
            .bind(column(inputs, |i| i.body.as_str()))
            .bind(column(inputs, ZoneInput::is_elsewhere))
            .bind(column(inputs, |i| i.stored_at))
            .bind(column(inputs, |i| i.trace.as_str()))
            .bind(column(inputs, |i| i.message_id.as_str()))
            .bind(column(inputs, |i| i.sequence.cast_signed()))
            .execute(pg)
            .await?;
        }
        On::Memory(tables) => {
            for input in inputs {
                tables.last_zone_input += 1;
                tables.zone_inputs.insert((input.zone, tables.last_zone_input), input.clone());
            }
        }
    }
    Ok(())
}

/// The first `max` inputs of a zone with their ids. What a later version wrote and this one cannot read is an error's text.
pub(crate) async fn read(
    tx: &mut Tx,
    zone: u16,
    max: usize,
) -> Result<Vec<(i64, Result<ZoneInput, String>)>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows =
                sqlx::query("select * from zone_inputs where zone = $1 and given_up is null order by id limit $2")
                    .bind(i32::from(zone))
                    .bind(i64::try_from(max).unwrap_or(i64::MAX))
                    .fetch_all(pg)
                    .await?;
            let mut inputs = Vec::with_capacity(rows.len());
            for row in &rows {
                let (subject, body): (&str, &str) = (row.try_get("subject")?, row.try_get("body")?);
                let (stored_at, traceparent) = (row.try_get("stored_at")?, row.try_get::<&str, _>("traceparent")?);
                let (message_id, sequence) = (row.try_get("message_id")?, sequence(row)?);
                let content = Content::parse(subject, body, row.try_get("elsewhere")?);
                let input = content.and_then(|content| {
                    let trace = Trace::parse(traceparent).ok_or_else(|| format!("`{traceparent}` is no trace"))?;
                    Ok(ZoneInput { zone, content, body: body.to_owned(), message_id, sequence, stored_at, trace })
                });
                inputs.push((row.try_get("id")?, input));
            }
            Ok(inputs)
        }
        On::Memory(tables) => {
            let of_zone = tables.zone_inputs.range((zone, i64::MIN)..=(zone, i64::MAX));
            Ok(of_zone.take(max).map(|((_, id), input)| (*id, Ok(input.clone()))).collect())
        }
    }
}

fn sequence(row: &PgRow) -> Result<u64, StoreError> {
    Ok(row.try_get::<i64, _>("sequence")?.cast_unsigned())
}

/// The owner handles the input never again, because of `why`.
pub(crate) async fn give_up(tx: &mut Tx, zone: u16, id: i64, why: &str) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update zone_inputs set given_up = $2 where id = $1").bind(id).bind(why).execute(pg).await?;
        }
        On::Memory(tables) => {
            let input = tables.zone_inputs.remove(&(zone, id));
            tables.given_up_inputs.extend(input.map(|input| (id, (input, why.to_owned()))));
        }
    }
    Ok(())
}

/// The first `max` inputs, of all zones, that are given up and whose dead letters may not be stored yet; with their ids.
pub(crate) async fn given_up(tx: &mut Tx, max: usize) -> Result<Vec<(i64, GivenUp)>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let statement = sqlx::query("select * from zone_inputs where given_up is not null order by id limit $1");
            let rows = statement.bind(i64::try_from(max).unwrap_or(i64::MAX)).fetch_all(pg).await?;
            let read = |row: &PgRow| {
                let id = row.try_get("id")?;
                let given_up = GivenUp {
                    row: format!("zone_input_{id}"),
                    subject: row.try_get("subject")?,
                    body: row.try_get("body")?,
                    message_id: row.try_get("message_id")?,
                    sequence: sequence(row)?,
                    stored_at: row.try_get("stored_at")?,
                    traceparent: row.try_get("traceparent")?,
                    reason: row.try_get("given_up")?,
                };
                Ok((id, given_up))
            };
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let read = |(id, (input, why)): (&i64, &(ZoneInput, String))| {
                let given_up = GivenUp {
                    row: format!("zone_input_{id}"),
                    subject: input.subject().to_owned(),
                    body: input.body.clone(),
                    message_id: input.message_id.clone(),
                    sequence: input.sequence,
                    stored_at: input.stored_at,
                    traceparent: input.trace.as_str().to_owned(),
                    reason: why.clone(),
                };
                (*id, given_up)
            };
            Ok(tables.given_up_inputs.iter().take(max).map(read).collect())
        }
    }
}

/// Deletes inputs whose dead letters are stored.
pub(crate) async fn delete_given_up(tx: &mut Tx, ids: &[i64]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from zone_inputs where id = any($1)").bind(ids).execute(pg).await?;
        }
        On::Memory(tables) => ids.iter().for_each(|id| _ = tables.given_up_inputs.remove(id)),
    }
    Ok(())
}

pub(crate) async fn delete(tx: &mut Tx, zone: u16, ids: &[i64]) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from zone_inputs where id = any($1)").bind(ids).execute(pg).await?;
        }
        On::Memory(tables) => ids.iter().for_each(|id| _ = tables.zone_inputs.remove(&(zone, *id))),
    }
    Ok(())
}

/// Those of `zones` for which something waits.
pub(crate) async fn waiting(tx: &mut Tx, zones: &[u16]) -> Result<Vec<u16>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select z from unnest($1::integer[]) as z where \
                 exists (select 1 from zone_inputs where zone = z and given_up is null)",
            )
            .bind(column(zones, |zone| i32::from(*zone)))
            .fetch_all(pg)
            .await?;
            rows.iter().map(|row| Ok(u16::try_from(row.try_get::<i32, _>(0)?).unwrap_or(0))).collect()
        }
        On::Memory(tables) => {
            let has = |zone: u16| tables.zone_inputs.range((zone, i64::MIN)..=(zone, i64::MAX)).next().is_some();
            Ok(zones.iter().copied().filter(|zone| has(*zone)).collect())
        }
    }
}

/// A zone for which as much waits as may; what is given up and whose dead letter finds no room counts as well.
pub(crate) async fn full(tx: &mut Tx) -> Result<Option<u16>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            // Of so few rows in all none can be full.
            let row = sqlx::query(
                "select zone from (select zone from zone_inputs order by zone, id limit $1 * 64) as i \
                 group by zone having count(*) >= $1 order by zone limit 1",
            )
            .bind(WAITING_MAX)
            .fetch_optional(pg)
            .await?;
            Ok(row.map(|row| row.try_get::<i32, _>(0)).transpose()?.and_then(|zone| u16::try_from(zone).ok()))
        }
        On::Memory(tables) => {
            let mut counts: BTreeMap<u16, i64> = BTreeMap::new();
            let given_up = tables.given_up_inputs.values().map(|(input, _)| input.zone);
            let all = tables.zone_inputs.keys().map(|(zone, _)| *zone).chain(given_up);
            all.for_each(|zone| *counts.entry(zone).or_default() += 1);
            Ok(counts.into_iter().find(|(_, count)| *count >= WAITING_MAX).map(|(zone, _)| zone))
        }
    }
}

/// A row of a passenger's id and zone, in this order.
pub(crate) fn passenger_and_zone(row: &PgRow) -> Result<(UserId, u16), StoreError> {
    let zone = u16::try_from(row.try_get::<i32, _>(1)?).unwrap_or(0);
    Ok((UserId(row.try_get::<Uuid, _>(0)?), zone))
}

/// The zones of `passengers`, of those that have one.
pub(crate) async fn zones_of(tx: &mut Tx, passengers: &[UserId]) -> Result<BTreeMap<UserId, u16>, StoreError> {
    if passengers.is_empty() {
        return Ok(BTreeMap::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select passenger_id, zone from passengers where passenger_id = any($1)")
                .bind(column(passengers, |id| id.0))
                .fetch_all(pg)
                .await?;
            rows.iter().map(passenger_and_zone).collect()
        }
        On::Memory(tables) => {
            let zone = |id: &UserId| Some((*id, tables.zone_of_passenger.get(id)?.0));
            Ok(passengers.iter().filter_map(zone).collect())
        }
    }
}

/// Gives zones to passengers who have none, and returns those that all of them have. Their rows stay locked, so that what is written for
/// a passenger has ids in its order. Their time is written once an hour.
pub(crate) async fn join(
    tx: &mut Tx,
    passengers: &BTreeMap<UserId, u16>,
    now: DateTime<Utc>,
) -> Result<BTreeMap<UserId, u16>, StoreError> {
    if passengers.is_empty() {
        return Ok(BTreeMap::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            // Rows that are not updated are locked, too, and not returned.
            let written = sqlx::query(
                "insert into passengers as own (passenger_id, zone, changed_at) \
                 select p, z, $3 from unnest($1::uuid[], $2::integer[]) as u (p, z) order by p \
                 on conflict (passenger_id) do update set changed_at = excluded.changed_at \
                 where own.changed_at < excluded.changed_at - interval '1 hour' returning passenger_id, zone",
            )
            .bind(column(passengers, |(id, _)| id.0))
            .bind(column(passengers, |(_, zone)| i32::from(*zone)))
            .bind(now)
            .fetch_all(pg)
            .await?;
            let mut joined: BTreeMap<UserId, u16> = written.iter().map(passenger_and_zone).collect::<Result<_, _>>()?;
            let others: Vec<UserId> = passengers.keys().copied().filter(|id| !joined.contains_key(id)).collect();
            joined.extend(zones_of(tx, &others).await?);
            Ok(joined)
        }
        On::Memory(tables) => {
            let mut joined = BTreeMap::new();
            for (id, zone) in passengers {
                let zone = tables.zone_of_passenger.get(id).map_or(*zone, |(zone, _)| *zone);
                tables.zone_of_passenger.insert(*id, (zone, now));
                joined.insert(*id, zone);
            }
            Ok(joined)
        }
    }
}

/// From now on what these passengers do is handled by these zones.
pub(crate) async fn move_to(
    tx: &mut Tx,
    passengers: &BTreeMap<UserId, u16>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if passengers.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into passengers (passenger_id, zone, changed_at) select p, z, $3 from unnest($1::uuid[], $2::integer[]) \
                 as u (p, z) order by p on conflict (passenger_id) do update set zone = excluded.zone, \
                 changed_at = excluded.changed_at",
            )
            .bind(column(passengers, |(id, _)| id.0))
            .bind(column(passengers, |(_, zone)| i32::from(*zone)))
            .bind(now)
            .execute(pg)
            .await?;
        }
        On::Memory(tables) => {
            tables.zone_of_passenger.extend(passengers.iter().map(|(id, zone)| (*id, (*zone, now))));
        }
    }
    Ok(())
}

/// Deletes passengers of whom nothing was received since `before` and who have nothing live.
pub(crate) async fn purge(tx: &mut Tx, before: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "delete from passengers p where changed_at < $1 \
                 and not exists (select 1 from requests r where r.passenger_id = p.passenger_id and r.ended_at is null)",
            )
            .bind(before)
            .execute(pg)
            .await?;
        }
        On::Memory(tables) => {
            let live = &tables.live_request_of;
            let rest = tables.zone_of_passenger.iter().filter(|(id, (_, at))| *at >= before || live.contains_key(*id));
            tables.zone_of_passenger = rest.map(|(id, zone)| (*id, *zone)).collect();
        }
    }
    Ok(())
}
