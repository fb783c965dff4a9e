//! The rows of tracks and points: every statement of this service, with the same operation in memory beside it.
//!
//! The row of a track is the lock of its ride: points, ends and aggregates are written while it is locked. Statements that wait
//! for locks take them in the order of ids, so transactions do not deadlock. Nothing here decides which points count.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use platform::store::rows::column;
use platform::{On, StoreError};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::event::TrackPoint;
use streams::{Position, RideId, UserId};
use uuid::Uuid;

use super::fix::{Point, TrackSummary};
use crate::tables::{PointKey, PointRow, Tables, TrackRow, Tx};

/// How long a track is stored: longer than any stream can deliver an event of its ride.
const TRACKS_STORED: Duration = Duration::days(9);
/// How long a track is stored whose ride has no event, only points.
const EMPTY_TRACKS_STORED: Duration = Duration::days(2);
/// How long after its end the points of a ride are stored: as long as a phone may send what it held back, and a little longer.
const POINTS_STORED: Duration = Duration::hours(25);
/// How far back points are looked for to be deleted, so that the rides of all days are not visited each time.
const POINTS_DELETED_WITHIN: Duration = Duration::days(2);

/// Asks for a driver's points of a ride that were added after a version of the track.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PointQuery {
    pub(crate) ride_id: RideId,
    pub(crate) driver_id: UserId,
    pub(crate) after_version: i64,
}

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

async fn lock_existing(tx: &mut Tx, rides: &BTreeSet<RideId>) -> Result<BTreeMap<RideId, TrackRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select * from tracks where ride_id = any($1) order by ride_id for update")
                .bind(column(rides, |ride| ride.0))
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(|r| read_track(r).map(|t| (t.ride_id, t)).map_err(StoreError::from)).collect()
        }
        On::Memory(tables) => {
            Ok(rides.iter().filter_map(|ride| Some((*ride, tables.tracks.get(ride)?.clone()))).collect())
        }
    }
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
            let drove = |t: &&TrackRow| times.iter().any(|(driver, at)| t.driver_id == Some(*driver) && t.covers(*at));
            Ok(tables.tracks.values().filter(drove).map(|track| track.ride_id).collect())
        }
    }
}

/// Inserts points of locked tracks. Grows the version of each track that got a new point, and returns those tracks.
pub(crate) async fn add_points(tx: &mut Tx, points: &[PointRow]) -> Result<BTreeSet<RideId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "with added as (insert into track_points (ride_id, user_id, device, ride_device, device_at, sent_at, \
                 received_at, recorded_at, lat, lng, accuracy_m, speed_mps, version) \
                 select r, u, d, rd, da, sa, ra, t, lat, lng, a, s, v from unnest($1::uuid[], $2::uuid[], $3::text[], \
                 $4::bool[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[], $9::float8[], \
                 $10::float8[], $11::float8[], $12::float8[], $13::bigint[]) \
                 with ordinality as p (r, u, d, rd, da, sa, ra, t, lat, lng, a, s, v, n) order by n \
                 on conflict do nothing returning ride_id) \
                 update tracks set version = version + 1 where ride_id in (select ride_id from added) returning ride_id",
            )
            .bind(column(points, |p| p.ride_id.0))
            .bind(column(points, |p| p.user_id.0))
            .bind(column(points, |p| p.point.device.clone()))
            .bind(column(points, |p| p.point.ride_device))
            .bind(column(points, |p| p.point.device_at))
            .bind(column(points, |p| p.point.sent_at))
            .bind(column(points, |p| p.point.received_at))
            .bind(column(points, |p| p.point.recorded_at))
            .bind(column(points, |p| p.point.position.lat))
            .bind(column(points, |p| p.point.position.lng))
            .bind(column(points, |p| p.point.accuracy_m))
            .bind(column(points, |p| p.point.speed_mps))
            .bind(column(points, |p| p.version))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|r| Ok(RideId(r.try_get(0)?))).collect()
        }
        On::Memory(tables) => {
            let mut grown = BTreeSet::new();
            for point in points {
                let key = point.key();
                if !tables.points.contains_key(&key) {
                    tables.points.insert(key, point.clone());
                    grown.insert(point.ride_id);
                }
            }
            for ride in &grown {
                if let Some(track) = tables.tracks.get_mut(ride) {
                    track.version += 1;
                }
            }
            Ok(grown)
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

/// By user, then device, then the device's own time.
fn points_of(tables: &Tables, ride: RideId) -> impl Iterator<Item = &PointRow> + use<'_> {
    let first: PointKey = (ride, UserId(Uuid::nil()), String::new(), DateTime::<Utc>::MIN_UTC);
    tables.points.range(first..).map(|(_, point)| point).take_while(move |point| point.ride_id == ride)
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
                 driver_id is not null and case when arrived_at is null then version > reported_version and \
                 (reported_at is null or reported_at <= $1) else ride_id = any($2) end \
                 order by reported_at nulls first, ride_id limit $3 for update skip locked",
            )
            .bind(reported_until)
            .bind(column(complete, |ride| ride.0))
            .bind(limit as i64)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|r| read_track(r).map_err(StoreError::from)).collect()
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
            rows.iter().map(|r| read_track(r).map_err(StoreError::from)).collect()
        }
        On::Memory(tables) => {
            let late = tables.tracks.values().filter(|t| t.finalised && t.version > t.reported_version);
            Ok(late.take(limit).cloned().collect())
        }
    }
}

/// By ride, device, and the device's own time.
pub(crate) async fn points(tx: &mut Tx, queries: &[PointQuery]) -> Result<Vec<PointRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select p.* from unnest($1::uuid[], $2::uuid[], $3::bigint[]) as u (r, d, v) join track_points p \
                 on p.ride_id = u.r and p.user_id = u.d and p.version > u.v \
                 order by p.ride_id, p.device, coalesce(p.device_at, p.recorded_at)",
            )
            .bind(column(queries, |q| q.ride_id.0))
            .bind(column(queries, |q| q.driver_id.0))
            .bind(column(queries, |q| q.after_version))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| read_point(row).map_err(StoreError::from)).collect()
        }
        On::Memory(tables) => {
            let mut queries = queries.to_vec();
            queries.sort_by_key(|q| q.ride_id);
            let found = queries.iter().flat_map(|q| {
                let is_wanted = |p: &&PointRow| p.user_id == q.driver_id && p.version > q.after_version;
                points_of(tables, q.ride_id).filter(is_wanted).cloned()
            });
            Ok(found.collect())
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
            sqlx::query(
                "delete from track_points p using tracks t where p.ride_id = t.ride_id and t.closed_at >= $1 and t.closed_at < $2",
            )
            .bind(ended.0)
            .bind(ended.1)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let gone = |t: &TrackRow| t.created_at < old || (t.driver_id.is_none() && t.created_at < empty);
            tables.tracks = tables.tracks.iter().filter(|(_, t)| !gone(t)).map(|(k, t)| (*k, t.clone())).collect();
            let tracks = &tables.tracks;
            let is_retained = |track: &TrackRow| track.closed_at.is_none_or(|at| at < ended.0 || at >= ended.1);
            let retained = tables.points.iter().filter(|(key, _)| tracks.get(&key.0).is_some_and(is_retained));
            tables.points = retained.map(|(k, p)| (k.clone(), p.clone())).collect();
        }
    }
    Ok(())
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

fn read_point(row: &PgRow) -> Result<PointRow, sqlx::Error> {
    Ok(PointRow {
        ride_id: RideId(row.try_get("ride_id")?),
        user_id: UserId(row.try_get("user_id")?),
        point: Point {
            device: row.try_get("device")?,
            ride_device: row.try_get("ride_device")?,
            device_at: row.try_get("device_at")?,
            sent_at: row.try_get("sent_at")?,
            received_at: row.try_get("received_at")?,
            recorded_at: row.try_get("recorded_at")?,
            position: Position { lat: row.try_get("lat")?, lng: row.try_get("lng")? },
            accuracy_m: row.try_get("accuracy_m")?,
            speed_mps: row.try_get("speed_mps")?,
        },
        version: row.try_get("version")?,
    })
}

#[cfg(test)]
mod tests;
