//! Notes in the store, PostgreSQL and memory side by side. It owns the table `ride_notes`.

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use streams::operators::NOTES_MAX;
use streams::{ActId, RideId, UserId};
use uuid::Uuid;

use super::Note;
use crate::tables::Tables;

/// Inserts a note unless it is there already.
pub(crate) async fn insert(tx: &mut Transaction<Tables>, note: &Note) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into ride_notes (note_id, ride_id, text, by_operator, at) values ($1, $2, $3, $4, $5) \
                 on conflict do nothing",
            )
            .bind(note.note_id.0)
            .bind(note.ride_id.0)
            .bind(&note.text)
            .bind(&note.by)
            .bind(note.at)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            tables.notes.insert((note.ride_id, note.at, note.note_id), note.clone());
        }
    }
    Ok(())
}

/// The notes of a ride, oldest first, [`NOTES_MAX`] at most.
pub(crate) async fn of_ride(tx: &mut Transaction<Tables>, ride: RideId) -> Result<Vec<Note>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows: Vec<(Uuid, Uuid, String, String, DateTime<Utc>)> = sqlx::query_as(
                "select note_id, ride_id, text, by_operator, at from ride_notes where ride_id = $1 \
                 order by at, note_id limit $2",
            )
            .bind(ride.0)
            .bind(i64::try_from(NOTES_MAX).unwrap_or(i64::MAX))
            .fetch_all(&mut *pg)
            .await?;
            let note = |(note_id, ride_id, text, by, at)| Note {
                note_id: ActId(note_id),
                ride_id: RideId(ride_id),
                text,
                by,
                at,
            };
            Ok(rows.into_iter().map(note).collect())
        }
        On::Memory(tables) => {
            let first = (ride, DateTime::<Utc>::MIN_UTC, ActId(Uuid::nil()));
            let of = tables.notes.range(first..).take_while(|((of, ..), _)| *of == ride);
            Ok(of.take(NOTES_MAX).map(|(_, note)| note.clone()).collect())
        }
    }
}

/// Erases the notes of these people's rides: they may say anything of them.
pub(crate) async fn erase_people(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "delete from ride_notes where ride_id in (select ride_id from rides where driver_id = any($1) union \
                 select ride_id from rides where passenger_id = any($1))",
            )
            .bind(column(users, |user| user.0))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let rides = tables.rides.clone();
            let is_theirs =
                |ride: &RideId| rides.get(ride).is_some_and(|r| users.iter().any(|u| r.party(*u).is_some()));
            let stay = tables.notes.iter().filter(|((ride, ..), _)| !is_theirs(ride));
            tables.notes = stay.map(|(key, note)| (*key, note.clone())).collect();
        }
    }
    Ok(())
}

/// Deletes notes of before `before`.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, before: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from ride_notes where at < $1").bind(before).execute(&mut *pg).await?;
        }
        On::Memory(tables) => {
            let stay = tables.notes.iter().filter(|((_, at, _), _)| *at >= before);
            tables.notes = stay.map(|(key, note)| (*key, note.clone())).collect();
        }
    }
    Ok(())
}
