//! In which trace a search, an offer or a ride is, so that what a client or a timer does to it later joins that trace. Written only by
//! processes that record spans.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::Row;
use streams::Event;
use uuid::Uuid;

use super::backend::{PURGE_PAGE, Work};
use super::error::StoreError;
use super::rows::column;

/// What an event says to be in its trace: a search with its passenger, who has one at a time; an offer; a ride.
pub(super) fn subjects_of(event: &Event) -> Vec<Uuid> {
    match event {
        Event::UserFinder(e) => vec![e.request_id.0, e.user_id.0],
        Event::MatchFound(e) => vec![e.match_id.0],
        Event::Ride(e) => vec![e.ride_id.0],
        Event::UserBeacon(_)
        | Event::MatchAccepted(_)
        | Event::MatchRejected(_)
        | Event::LocationUpdate(_)
        | Event::LocationAggregate(_)
        | Event::PaymentCapture(_)
        | Event::Act(_) => Vec::new(),
    }
}

pub(super) async fn put<T>(
    work: &mut Work<T>,
    traces: &BTreeMap<Uuid, String>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match work {
        Work::Postgres(pg) => {
            let rows: Vec<(&Uuid, &String)> = traces.iter().collect();
            sqlx::query(
                "insert into traces (subject, traceparent, changed_at) select s, t, $3 from unnest($1::uuid[], $2::text[]) \
                 as u (s, t) order by s on conflict (subject) do update set traceparent = excluded.traceparent, \
                 changed_at = excluded.changed_at",
            )
            .bind(column(&rows, |(subject, _)| **subject))
            .bind(column(&rows, |(_, traceparent)| traceparent.as_str()))
            .bind(now)
            .execute(&mut ***pg)
            .await?;
        }
        Work::Memory(m) => {
            m.draft.traces.extend(traces.iter().map(|(subject, traceparent)| (*subject, (traceparent.clone(), now))));
        }
    }
    Ok(())
}

pub(super) async fn of<T>(work: &mut Work<T>, subjects: &[Uuid]) -> Result<BTreeMap<Uuid, String>, StoreError> {
    match work {
        Work::Postgres(pg) => {
            let rows = sqlx::query("select subject, traceparent from traces where subject = any($1)")
                .bind(subjects)
                .fetch_all(&mut ***pg)
                .await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        }
        Work::Memory(m) => {
            let found = subjects.iter().filter_map(|subject| Some((*subject, m.draft.traces.get(subject)?.0.clone())));
            Ok(found.collect())
        }
    }
}

/// Deletes a page of rows that were last changed before `before`; true if none is left.
pub(super) async fn purge_page<T>(work: &mut Work<T>, before: DateTime<Utc>) -> Result<bool, StoreError> {
    match work {
        Work::Postgres(pg) => {
            let deleted = sqlx::query(
                "delete from traces where subject in (select subject from traces where changed_at < $1 limit $2)",
            )
            .bind(before)
            .bind(PURGE_PAGE)
            .execute(&mut ***pg)
            .await?;
            Ok(deleted.rows_affected() < PURGE_PAGE.unsigned_abs())
        }
        Work::Memory(m) => {
            let old = m.draft.traces.iter().filter(|(_, (_, changed_at))| *changed_at < before);
            let old: Vec<Uuid> = old.map(|(subject, _)| *subject).collect();
            for subject in old {
                m.draft.traces.remove(&subject);
            }
            Ok(true)
        }
    }
}
