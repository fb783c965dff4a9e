//! The rows of tracks, with the same operations in memory beside them; `point_rows.rs` has the points.
//!
//! The row of a track is the lock of its ride: points, ends and aggregates are written while it is locked. Statements that wait
//! for locks take them in the order of ids, so transactions do not deadlock. Nothing here decides which points count.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use platform::store::rows::column;
use platform::{On, StoreError};
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use streams::event::TrackPoint;
use streams::{Position, RideId, UserId};
use uuid::Uuid;

use super::fix::TrackSummary;
use super::point_rows;
use crate::tables::{TrackRow, Tx};

/// How long a track is stored: longer than any stream can deliver an event of its ride.
const TRACKS_STORED: Duration = Duration::days(9);
/// How long a track is stored whose ride has no event, only points.
const EMPTY_TRACKS_STORED: Duration = Duration::days(2);
/// How long after its end the points of a ride are stored: as long as a phone may send what it held back, and a little longer.
const POINTS_STORED: Duration = Duration::hours(25);
/// How far back points are looked for to be deleted, so that the rides of all days are not visited each time.
const POINTS_DELETED_WITHIN: Duration = Duration::days(2);

/// Locks the tracks of `rides`, and inserts those that do not exist.
pub(crate) async fn lock_tracks(
    tx: &mut Tx,
    rides: &BTreeSet<RideId>,
    now: DateTime<Utc>,
) -> Result<BTreeMap<RideId, TrackRow>, StoreError> {
    let mut tracks = lock_existing(tx, rides).await?;
    if tracks.len() < rides.len() {
        let missing: BTreeSet<RideId> = rides.iter().copied().filter(|ride| !tracks.contains_key(ride)).collect();
        insert_tracks(tx, &missing, now).await?;
        tracks.extend(lock_existing(tx, &missing).await?);
    }
    Ok(tracks)
}

/// The track of a ride, without a lock.
pub(crate) async fn track_of(tx: &mut Tx, ride: RideId) -> Result<Option<TrackRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select * from tracks where ride_id = $1").bind(ride.0);
            Ok(row.fetch_optional(&mut *pg).await?.as_ref().map(read_track).transpose()?)
        }
        On::Memory(tables) => Ok(tables.tracks.get(&ride).cloned()),
    }
}

async fn lock_existing(tx: &mut Tx, rides: &BTreeSet<RideId>) -> Result<BTreeMap<RideId, TrackRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select * from tracks where ride_id = any($1) order by ride_id for update")
                .bind(column(rides, |ride| ride.0))
                .fetch_all(&mut *pg)
                .await?;
            Ok(locked(pg, &rows).await?.into_iter().map(|track| (track.ride_id, track)).collect())
        }
        On::Memory(tables) => {
            Ok(rides.iter().filter_map(|ride| Some((*ride, tables.tracks.get(ride)?.clone()))).collect())
        }
    }
}

/// The tracks of locked rows.
async fn locked(pg: &mut PgConnection, rows: &[PgRow]) -> Result<Vec<TrackRow>, StoreError> {
    let mut tracks = rows.iter().map(read_track).collect::<Result<Vec<_>, _>>()?;
    point_rows::read_versions(pg, &mut tracks).await?;
    Ok(tracks)
}

async fn insert_tracks(tx: &mut Tx, rides: &BTreeSet<RideId>, now: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into tracks (ride_id, created_at) select r, $2 from unnest($1::uuid[]) as r order by r \
                 on conflict do nothing",
            )
            .bind(column(rides, |ride| ride.0))
            .bind(now)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            for ride in rides {
                tables.tracks.entry(*ride).or_insert_with(|| TrackRow::new(*ride, now));
            }
        }
    }
    Ok(())
}

/// The rides that these drivers drove at these times, from start to arrival.
pub(crate) async fn rides_at(tx: &mut Tx, times: &[(UserId, DateTime<Utc>)]) -> Result<BTreeSet<RideId>, StoreError> {
    if times.is_empty() {
        return Ok(BTreeSet::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select distinct t.ride_id from unnest($1::uuid[], $2::timestamptz[]) as u (d, t) join tracks t \
                 on t.driver_id = u.d and t.started_at <= u.t and t.arrived_at >= u.t",
            )
            .bind(column(times, |(driver, _)| driver.0))
            .bind(column(times, |(_, at)| *at))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|r| Ok(RideId(r.try_get(0)?))).collect()
        }
        On::Memory(tables) => {
            let driven = times.iter().flat_map(|(driver, at)| {
                let of_driver = tables.driven.range((*driver, RideId(Uuid::nil()))..=(*driver, RideId(Uuid::max())));
                of_driver.filter(|(_, ride)| tables.tracks.get(ride).is_some_and(|track| track.covers(*at)))
            });
            Ok(driven.map(|(_, ride)| *ride).collect())
        }
    }
}

/// Updates driver, start, arrival, places and end of locked tracks.
pub(crate) async fn save_ride_times(tx: &mut Tx, tracks: &[TrackRow]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "update tracks set driver_id = u.d, started_at = u.s, arrived_at = u.a, arrived_seen_at = u.n, \
                 closed_at = u.c, pickup_lat = u.plat, pickup_lng = u.plng, dropoff_lat = u.dlat, dropoff_lng = u.dlng \
                 from unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], \
                 $6::timestamptz[], $7::float8[], $8::float8[], $9::float8[], $10::float8[]) \
                 as u (r, d, s, a, n, c, plat, plng, dlat, dlng) where ride_id = u.r",
            )
            .bind(column(tracks, |t| t.ride_id.0))
            .bind(column(tracks, |t| t.driver_id.map(|d| d.0)))
            .bind(column(tracks, |t| t.started_at))
            .bind(column(tracks, |t| t.arrived_at))
            .bind(column(tracks, |t| t.arrived_seen_at))
            .bind(column(tracks, |t| t.closed_at))
            .bind(column(tracks, |t| t.pickup.map(|at| at.lat)))
            .bind(column(tracks, |t| t.pickup.map(|at| at.lng)))
            .bind(column(tracks, |t| t.dropoff.map(|at| at.lat)))
            .bind(column(tracks, |t| t.dropoff.map(|at| at.lng)))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            for track in tracks {
                if let Some(row) = tables.tracks.get_mut(&track.ride_id) {
                    let id = row.ride_id;
                    row.driver_id.iter().for_each(|driver| _ = tables.driven.remove(&(*driver, id)));
                    track.driver_id.iter().for_each(|driver| _ = tables.driven.insert((*driver, id)));
                    row.driver_id = track.driver_id;
                    row.started_at = track.started_at;
                    row.arrived_at = track.arrived_at;
                    row.arrived_seen_at = track.arrived_seen_at;
                    row.closed_at = track.closed_at;
                    row.pickup = track.pickup;
                    row.dropoff = track.dropoff;
                }
            }
        }
    }
    Ok(())
}

/// Locks the tracks of which an aggregate is due, at most `limit`, those longest without one first. Skips tracks that another
/// process has locked. An aggregate is due of a ride under way that has new points and no aggregate after `reported_until`,
/// and of each of the `complete` rides that has no final one.
pub(crate) async fn lock_due_tracks(
    tx: &mut Tx,
    reported_until: DateTime<Utc>,
    complete: &BTreeSet<RideId>,
    limit: usize,
) -> Result<Vec<TrackRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select * from tracks where closed_at is null and not finalised and started_at is not null and \
                 driver_id is not null and case when arrived_at is not null then ride_id = any($2) \
                 when reported_at > $1 then false else version > reported_version or exists (select from track_chunks c \
                 where c.ride_id = tracks.ride_id and c.version > tracks.reported_version) end \
                 order by reported_at nulls first, ride_id limit $3 for update skip locked",
            )
            .bind(reported_until)
            .bind(column(complete, |ride| ride.0))
            .bind(limit as i64)
            .fetch_all(&mut *pg)
            .await?;
            locked(pg, &rows).await
        }
        On::Memory(tables) => {
            let under_way = tables
                .tracks
                .values()
                .filter(|t| t.closed_at.is_none() && !t.finalised && t.started_at.is_some() && t.driver_id.is_some());
            let due = under_way.filter(|t| match t.arrived_at {
                None => t.version > t.reported_version && t.reported_at.is_none_or(|at| at <= reported_until),
                Some(_) => complete.contains(&t.ride_id),
            });
            let mut due: Vec<TrackRow> = due.cloned().collect();
            due.sort_by_key(|t| (t.reported_at, t.ride_id));
            due.truncate(limit);
            Ok(due)
        }
    }
}

/// Locks tracks whose final aggregate lacks points that came after it, at most `limit`. Skips tracks that another process has locked.
pub(crate) async fn lock_late_tracks(tx: &mut Tx, limit: usize) -> Result<Vec<TrackRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select * from tracks where finalised and version > reported_version order by ride_id limit $1 \
                 for update skip locked",
            )
            .bind(limit as i64)
            .fetch_all(&mut *pg)
            .await?;
            locked(pg, &rows).await
        }
        On::Memory(tables) => {
            let late = tables.tracks.values().filter(|t| t.finalised && t.version > t.reported_version);
            Ok(late.take(limit).cloned().collect())
        }
    }
}

/// Updates the last aggregate of locked tracks.
pub(crate) async fn save_reported(tx: &mut Tx, tracks: &[TrackRow]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "update tracks set reported_version = u.v, reported_at = u.t, finalised = u.f, distance_m = u.m, \
                 points = u.n, last_lat = u.lat, last_lng = u.lng, last_recorded_at = u.l, late_distance_m = u.late \
                 from unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::bool[], $5::float8[], $6::bigint[], \
                 $7::float8[], $8::float8[], $9::timestamptz[], $10::float8[]) as u (r, v, t, f, m, n, lat, lng, l, late) \
                 where ride_id = u.r",
            )
            .bind(column(tracks, |t| t.ride_id.0))
            .bind(column(tracks, |t| t.reported_version))
            .bind(column(tracks, |t| t.reported_at))
            .bind(column(tracks, |t| t.finalised))
            .bind(column(tracks, |t| t.reported.distance_m))
            .bind(column(tracks, |t| i64::try_from(t.reported.points).unwrap_or(i64::MAX)))
            .bind(column(tracks, |t| t.reported.last.map(|p| p.location.lat)))
            .bind(column(tracks, |t| t.reported.last.map(|p| p.location.lng)))
            .bind(column(tracks, |t| t.reported.last.map(|p| p.recorded_at)))
            .bind(column(tracks, |t| t.late_distance_m))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            for track in tracks {
                if let Some(row) = tables.tracks.get_mut(&track.ride_id) {
                    row.reported_version = track.reported_version;
                    row.reported_at = track.reported_at;
                    row.finalised = track.finalised;
                    row.reported = track.reported;
                    row.late_distance_m = track.late_distance_m;
                }
            }
        }
    }
    Ok(())
}

/// Tracks of rides that have an event and have not ended.
pub(crate) async fn live_tracks(tx: &mut Tx) -> Result<Vec<TrackRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows =
                sqlx::query("select * from tracks where closed_at is null and driver_id is not null order by ride_id")
                    .fetch_all(&mut *pg)
                    .await?;
            rows.iter().map(|r| read_track(r).map_err(StoreError::from)).collect()
        }
        On::Memory(tables) => {
            let live = tables.tracks.values().filter(|t| t.closed_at.is_none() && t.driver_id.is_some());
            Ok(live.cloned().collect())
        }
    }
}

/// Those of `rides` that have ended.
pub(crate) async fn ended_rides(tx: &mut Tx, rides: &BTreeSet<RideId>) -> Result<Vec<RideId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select ride_id from tracks where ride_id = any($1) and closed_at is not null order by ride_id",
            )
            .bind(column(rides, |ride| ride.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|r| Ok(RideId(r.try_get(0)?))).collect()
        }
        On::Memory(tables) => {
            let ended = |ride: &&RideId| tables.tracks.get(*ride).is_some_and(|t| t.closed_at.is_some());
            Ok(rides.iter().filter(ended).copied().collect())
        }
    }
}

/// Deletes old tracks, and those that never got a ride, after [`TRACKS_STORED`] and [`EMPTY_TRACKS_STORED`]; and the points of ended
/// rides after [`POINTS_STORED`].
pub(crate) async fn purge(tx: &mut Tx, now: DateTime<Utc>) -> Result<(), StoreError> {
    let (old, empty) = (now - TRACKS_STORED, now - EMPTY_TRACKS_STORED);
    let ended = (now - POINTS_STORED - POINTS_DELETED_WITHIN, now - POINTS_STORED);
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from tracks where created_at < $1 or (driver_id is null and created_at < $2)")
                .bind(old)
                .bind(empty)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            let gone = |t: &TrackRow| t.created_at < old || (t.driver_id.is_none() && t.created_at < empty);
            tables.tracks = tables.tracks.iter().filter(|(_, t)| !gone(t)).map(|(k, t)| (*k, t.clone())).collect();
            let tracks = &tables.tracks;
            tables.driven = tables.driven.iter().filter(|(_, ride)| tracks.contains_key(ride)).copied().collect();
        }
    }
    point_rows::purge(tx, ended.0, ended.1).await
}

fn read_track(row: &PgRow) -> Result<TrackRow, sqlx::Error> {
    let last = match (row.try_get("last_lat")?, row.try_get("last_lng")?, row.try_get("last_recorded_at")?) {
        (Some(lat), Some(lng), Some(recorded_at)) => Some(TrackPoint { location: Position { lat, lng }, recorded_at }),
        _ => None,
    };
    Ok(TrackRow {
        ride_id: RideId(row.try_get("ride_id")?),
        driver_id: row.try_get::<Option<Uuid>, _>("driver_id")?.map(UserId),
        started_at: row.try_get("started_at")?,
        arrived_at: row.try_get("arrived_at")?,
        arrived_seen_at: row.try_get("arrived_seen_at")?,
        closed_at: row.try_get("closed_at")?,
        version: row.try_get("version")?,
        reported_version: row.try_get("reported_version")?,
        reported_at: row.try_get("reported_at")?,
        finalised: row.try_get("finalised")?,
        pickup: place(row, "pickup_lat", "pickup_lng")?,
        dropoff: place(row, "dropoff_lat", "dropoff_lng")?,
        late_distance_m: row.try_get("late_distance_m")?,
        reported: TrackSummary {
            distance_m: row.try_get("distance_m")?,
            points: row.try_get::<i64, _>("points")?.unsigned_abs(),
            last,
        },
        created_at: row.try_get("created_at")?,
    })
}

fn place(row: &PgRow, lat: &str, lng: &str) -> Result<Option<Position>, sqlx::Error> {
    let (lat, lng): (Option<f64>, Option<f64>) = (row.try_get(lat)?, row.try_get(lng)?);
    Ok(lat.zip(lng).map(|(lat, lng)| Position { lat, lng }))
}

#[cfg(test)]
mod tests;
