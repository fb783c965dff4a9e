//! The table `events`: every event of every ride, as it was published.

use chrono::{DateTime, Utc};
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::RideId;
use streams::event::{Event, RideEvent};

use crate::ride::rows::{list, malformed};
use crate::tables::Tables;

/// An event as it was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptEvent {
    /// The ride.
    pub ride_id: RideId,
    /// 1, 2, 3 …
    pub version: u32,
    /// `Nats-Msg-Id`.
    pub message_id: String,
    /// The subject.
    pub subject: String,
    /// The body, byte for byte.
    pub body: String,
    /// The hash that the body names.
    pub hash: String,
    /// When it occurred.
    pub occurred_at: DateTime<Utc>,
    /// The header of that name, the only one that does not follow from the body; empty if it is not known.
    pub traceparent: String,
}

impl KeptEvent {
    pub(crate) fn of(event: &RideEvent, traceparent: &str) -> Self {
        let (ride_id, version, hash, occurred_at) =
            (event.ride_id, event.version, event.hash.clone(), event.occurred_at);
        let event = Event::Ride(Box::new(event.clone()));
        Self {
            ride_id,
            version,
            message_id: event.message_id(occurred_at),
            subject: event.subject().as_str().to_owned(),
            body: String::from_utf8(event.body()).expect("JSON is UTF-8"),
            hash,
            occurred_at,
            traceparent: traceparent.to_owned(),
        }
    }

    pub(crate) fn read(row: &PgRow) -> Result<Self, StoreError> {
        Ok(Self {
            ride_id: RideId(row.try_get("ride_id")?),
            version: u32::try_from(row.try_get::<i32, _>("version")?).map_err(malformed)?,
            message_id: row.try_get("message_id")?,
            subject: row.try_get("subject")?,
            body: row.try_get("body")?,
            hash: row.try_get("hash")?,
            occurred_at: row.try_get("occurred_at")?,
            traceparent: row.try_get("traceparent")?,
        })
    }
}

/// Keeps events, as they are published, for ever.
pub(crate) async fn keep_events(tx: &mut Transaction<Tables>, events: Vec<KeptEvent>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into events (ride_id, version, message_id, subject, body, hash, occurred_at, traceparent) select * from \
                 unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::text[])",
            )
            .bind(list(&events, |e| e.ride_id.0))
            .bind(list(&events, |e| e.version as i32))
            .bind(list(&events, |e| e.message_id.as_str()))
            .bind(list(&events, |e| e.subject.as_str()))
            .bind(list(&events, |e| e.body.as_str()))
            .bind(list(&events, |e| e.hash.as_str()))
            .bind(list(&events, |e| e.occurred_at))
            .bind(list(&events, |e| e.traceparent.as_str()))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            let t = m;
            for event in events {
                let key = (event.ride_id, event.version);
                if t.events.contains_key(&key) {
                    return Err(StoreError::Conflict { constraint: "events_pkey".to_owned() });
                }
                t.events.insert(key, event);
            }
        }
    }
    Ok(())
}

/// The events of a ride, in order.
pub(crate) async fn events_of(tx: &mut Transaction<Tables>, ride: RideId) -> Result<Vec<KeptEvent>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select ride_id, version, message_id, subject, body, hash, occurred_at, traceparent from events \
                 where ride_id = $1 order by version",
            )
            .bind(ride.0)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(KeptEvent::read).collect()
        }
        On::Memory(m) => Ok(m.events.range((ride, 0)..=(ride, u32::MAX)).map(|(_, e)| e.clone()).collect()),
    }
}
