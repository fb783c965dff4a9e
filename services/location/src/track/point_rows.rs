//! The rows of points: chunks of up to [`CHUNK_MAX`] points of one user on one ride, and the single points that a process of the
//! version before has written.
//!
//! The lock of a chunk is that of its track. Points in memory are single, because memory costs no writes.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError};
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use streams::{Position, RideId, UserId};
use uuid::Uuid;

use super::fix::Point;
use crate::tables::{PointKey, PointRow, Tables, TrackRow, Tx};

/// The most points of a chunk: as many as a row holds in one piece.
const CHUNK_MAX: i32 = 32;

/// Asks for a driver's points of a ride that were added after a version of the track.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PointQuery {
    pub(crate) ride_id: RideId,
    pub(crate) driver_id: UserId,
    pub(crate) after_version: i64,
}

/// Raises the versions of locked tracks to those of their chunks. In a statement of its own: the one that waits for a lock does not
/// see what the holder of the lock has written to other tables.
pub(super) async fn read_versions(pg: &mut PgConnection, tracks: &mut [TrackRow]) -> Result<(), StoreError> {
    if tracks.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query("select ride_id, max(version) from track_chunks where ride_id = any($1) group by ride_id")
        .bind(column(&*tracks, |track| track.ride_id.0))
        .fetch_all(pg)
        .await?;
    for row in rows {
        let (ride, version) = (RideId(row.try_get(0)?), row.try_get::<i64, _>(1)?);
        tracks.iter_mut().filter(|track| track.ride_id == ride).for_each(|t| t.version = t.version.max(version));
    }
    Ok(())
}

/// Inserts points of locked tracks. Grows the version of each track that got a new point, and returns those tracks.
pub(crate) async fn add(tx: &mut Tx, points: &[PointRow]) -> Result<BTreeSet<RideId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "with given as (select distinct on (r, u, d, coalesce(da, t)) * from unnest($1::uuid[], $2::uuid[], \
                 $3::text[], $4::bool[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[], \
                 $9::float8[], $10::float8[], $11::float8[], $12::float8[], $13::bigint[]) \
                 with ordinality as p (r, u, d, rd, da, sa, ra, t, lat, lng, a, s, v, n) \
                 order by r, u, d, coalesce(da, t), n), \
                 stored as materialized (select c.ride_id, c.user_id, k.d, coalesce(k.da, k.t) as at from track_chunks c \
                 cross join lateral unnest(c.device, c.device_at, c.recorded_at) as k (d, da, t) where c.ride_id = any($1) \
                 union all select ride_id, user_id, device, coalesce(device_at, recorded_at) from track_point_rows \
                 where ride_id = any($1)), \
                 numbered as (select *, ((row_number() over (partition by r, u order by n) - 1) / $14)::int as part \
                 from given where not exists (select from stored where ride_id = r and user_id = u and stored.d = given.d \
                 and at = coalesce(da, t))), \
                 parts as (select r, u, part, count(*) as size, max(v) as v, array_agg(d order by n) as d, \
                 array_agg(rd order by n) as rd, array_agg(da order by n) as da, array_agg(sa order by n) as sa, \
                 array_agg(ra order by n) as ra, array_agg(t order by n) as t, array_agg(lat order by n) as lat, \
                 array_agg(lng order by n) as lng, array_agg(a order by n) as a, array_agg(s order by n) as s, \
                 array_agg(v order by n) as vs from numbered group by r, u, part), \
                 newest as (select distinct on (ride_id, user_id) ride_id, user_id, nth, cardinality(lat) as size \
                 from track_chunks where (ride_id, user_id) in (select r, u from parts) \
                 order by ride_id, user_id, nth desc), \
                 appended as (update track_chunks c set version = p.v, device = c.device || p.d, \
                 ride_device = c.ride_device || p.rd, device_at = c.device_at || p.da, sent_at = c.sent_at || p.sa, \
                 received_at = c.received_at || p.ra, recorded_at = c.recorded_at || p.t, lat = c.lat || p.lat, \
                 lng = c.lng || p.lng, accuracy_m = c.accuracy_m || p.a, speed_mps = c.speed_mps || p.s, \
                 versions = c.versions || p.vs from parts p join newest w on w.ride_id = p.r and w.user_id = p.u \
                 where c.ride_id = p.r and c.user_id = p.u and c.nth = w.nth and p.part = 0 and w.size + p.size <= $14 \
                 returning c.ride_id, c.user_id), \
                 inserted as (insert into track_chunks (ride_id, user_id, nth, version, device, ride_device, device_at, sent_at, \
                 received_at, recorded_at, lat, lng, accuracy_m, speed_mps, versions) \
                 select r, u, coalesce(w.nth, 0) + 1 + part, v, d, rd, da, sa, ra, t, p.lat, lng, a, s, vs from parts p \
                 left join newest w on w.ride_id = p.r and w.user_id = p.u where part > 0 or not exists \
                 (select from appended where appended.ride_id = r and appended.user_id = u) returning ride_id), \
                 grown as (select ride_id from appended union select ride_id from inserted), \
                 late as (update tracks set version = p.v from parts p where ride_id = p.r and finalised) \
                 select ride_id from grown",
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
            .bind(CHUNK_MAX)
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

/// By user, then device, then the device's own time.
fn points_of(tables: &Tables, ride: RideId) -> impl Iterator<Item = &PointRow> + use<'_> {
    let first: PointKey = (ride, UserId(Uuid::nil()), String::new(), DateTime::<Utc>::MIN_UTC);
    tables.points.range(first..).map(|(_, point)| point).take_while(move |point| point.ride_id == ride)
}

/// By ride, device, and the device's own time.
pub(crate) async fn read(tx: &mut Tx, queries: &[PointQuery]) -> Result<Vec<PointRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "with wanted as (select * from unnest($1::uuid[], $2::uuid[], $3::bigint[]) as u (r, d, v)), \
                 found as (select c.ride_id, c.user_id, e.* from wanted join track_chunks c on c.ride_id = r and c.user_id = d \
                 and c.version > v cross join lateral unnest(c.device, c.ride_device, c.device_at, c.sent_at, c.received_at, \
                 c.recorded_at, c.lat, c.lng, c.accuracy_m, c.speed_mps, c.versions) as e (device, ride_device, device_at, \
                 sent_at, received_at, recorded_at, lat, lng, accuracy_m, speed_mps, version) where e.version > v \
                 union all select p.ride_id, p.user_id, p.device, p.ride_device, p.device_at, p.sent_at, p.received_at, \
                 p.recorded_at, p.lat, p.lng, p.accuracy_m, p.speed_mps, p.version from wanted join track_point_rows p \
                 on p.ride_id = r and p.user_id = d and p.version > v) \
                 select * from found order by ride_id, device, coalesce(device_at, recorded_at)",
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

/// The points that were stored last of the drivers of these tracks: of each those of one chunk at most, in any order. A point of a process
/// of the version before is not among them.
pub(crate) async fn last(tx: &mut Tx, tracks: &[TrackRow]) -> Result<Vec<PointRow>, StoreError> {
    let drivers: Vec<(RideId, UserId)> = tracks.iter().filter_map(|t| Some((t.ride_id, t.driver_id?))).collect();
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select c.ride_id, c.user_id, e.* from unnest($1::uuid[], $2::uuid[]) as u (r, d) \
                 cross join lateral (select * from track_chunks where ride_id = r and user_id = d order by nth desc limit 1) as c \
                 cross join lateral unnest(c.device, c.ride_device, c.device_at, c.sent_at, c.received_at, \
                 c.recorded_at, c.lat, c.lng, c.accuracy_m, c.speed_mps, c.versions) as e (device, ride_device, device_at, \
                 sent_at, received_at, recorded_at, lat, lng, accuracy_m, speed_mps, version)",
            )
            .bind(column(&drivers, |(ride, _)| ride.0))
            .bind(column(&drivers, |(_, driver)| driver.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| read_point(row).map_err(StoreError::from)).collect()
        }
        On::Memory(tables) => {
            let last = drivers.iter().flat_map(|(ride, driver)| {
                let mut points: Vec<&PointRow> = points_of(tables, *ride).filter(|p| p.user_id == *driver).collect();
                points.sort_by_key(|point| point.version);
                points.into_iter().rev().take(usize::try_from(CHUNK_MAX).unwrap_or(usize::MAX)).cloned()
            });
            Ok(last.collect())
        }
    }
}

/// Deletes the points of the rides that ended between `from` and `to`, and those without a track.
pub(super) async fn purge(tx: &mut Tx, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            for statement in [
                "delete from track_chunks c using tracks t \
                 where c.ride_id = t.ride_id and t.closed_at >= $1 and t.closed_at < $2",
                "delete from track_point_rows p using tracks t \
                 where p.ride_id = t.ride_id and t.closed_at >= $1 and t.closed_at < $2",
            ] {
                sqlx::query(statement).bind(from).bind(to).execute(&mut *pg).await?;
            }
        }
        On::Memory(tables) => {
            let tracks = &tables.tracks;
            let is_retained = |track: &TrackRow| track.closed_at.is_none_or(|at| at < from || at >= to);
            let retained = tables.points.iter().filter(|(key, _)| tracks.get(&key.0).is_some_and(is_retained));
            tables.points = retained.map(|(k, p)| (k.clone(), p.clone())).collect();
        }
    }
    Ok(())
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
