//! The event log in the store, PostgreSQL and memory side by side. It owns the table `events`.

use std::collections::BTreeMap;

use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use streams::RideId;

use crate::event_log::EventRow;
use crate::tables::Tables;

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select ride_id, version, message_id, subject, body, hash, occurred_at, traceparent from events ",
            $rest
        )
    };
}

/// Appends events. `StoreError::Conflict` (`events_pkey`) if a ride has an event of that version.
pub(crate) async fn append_events(tx: &mut Transaction<Tables>, events: Vec<EventRow>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into events (ride_id, version, message_id, subject, body, hash, occurred_at, traceparent) select * from \
                 unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::text[])",
            )
            .bind(column(&events, |e| e.ride_id.0))
            .bind(column(&events, |e| e.version as i32))
            .bind(column(&events, |e| e.message_id.as_str()))
            .bind(column(&events, |e| e.subject.as_str()))
            .bind(column(&events, |e| e.body.as_str()))
            .bind(column(&events, |e| e.hash.as_str()))
            .bind(column(&events, |e| e.occurred_at))
            .bind(column(&events, |e| e.traceparent.as_str()))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            for event in events {
                let key = (event.ride_id, event.version);
                if tables.events.contains_key(&key) {
                    return Err(StoreError::Conflict { constraint: "events_pkey".to_owned() });
                }
                tables.events.insert(key, event);
            }
        }
    }
    Ok(())
}

/// The events of a ride, by version.
///
/// # Errors
/// [`StoreError`].
pub async fn events_of(tx: &mut Transaction<Tables>, ride: RideId) -> Result<Vec<EventRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query_as(select!("where ride_id = $1 order by version"));
            Ok(rows.bind(ride.0).fetch_all(&mut *pg).await?)
        }
        On::Memory(tables) => Ok(tables.events.range((ride, 0)..=(ride, u32::MAX)).map(|(_, e)| e.clone()).collect()),
    }
}

/// The events of the rides from `first` to `last`, both included, by ride and version.
pub(crate) async fn events_between(
    tx: &mut Transaction<Tables>,
    first: RideId,
    last: RideId,
) -> Result<Vec<EventRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query_as(select!("where ride_id >= $1 and ride_id <= $2 order by ride_id, version"));
            Ok(rows.bind(first.0).bind(last.0).fetch_all(&mut *pg).await?)
        }
        On::Memory(tables) => Ok(tables.events.range((first, 0)..=(last, u32::MAX)).map(|(_, e)| e.clone()).collect()),
    }
}

/// Events by ride and version; what is not there is left out.
pub(crate) async fn events_at(
    tx: &mut Transaction<Tables>,
    keys: &[(RideId, u32)],
) -> Result<BTreeMap<(RideId, u32), EventRow>, StoreError> {
    let found: Vec<EventRow> = match tx.on() {
        On::Postgres(pg) => {
            sqlx::query_as(select!(
                "where (ride_id, version) in (select r, v from unnest($1::uuid[], $2::int[]) as u (r, v))"
            ))
            .bind(column(keys, |(ride, _)| ride.0))
            .bind(column(keys, |(_, version)| i32::try_from(*version).unwrap_or(i32::MAX)))
            .fetch_all(&mut *pg)
            .await?
        }
        On::Memory(tables) => keys.iter().filter_map(|key| tables.events.get(key).cloned()).collect(),
    };
    Ok(found.into_iter().map(|event| ((event.ride_id, event.version), event)).collect())
}
