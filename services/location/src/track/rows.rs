//! The rows of tracks and their points: every statement of this service, each beside the same thing in memory.
//!
//! A track's row is the lock of its ride: points are added, rides are ended and aggregates are made under it. Rows are
//! always locked in the order of their ids. Nothing here decides which points count or when an aggregate is due.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use imbl::OrdMap;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::event::TrackPoint;
use streams::{Position, RideId, UserId};
use uuid::Uuid;

use crate::track::{Fix, Summary};

/// The service's tables in memory.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    tracks: OrdMap<RideId, TrackRow>,
    points: OrdMap<(RideId, UserId, DateTime<Utc>), PointRow>,
}

/// One ride's track.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrackRow {
    pub(crate) ride_id: RideId,
    /// Whose points count; unknown until an event of the ride is heard.
    pub(crate) driver_id: Option<UserId>,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) arrived_at: Option<DateTime<Utc>>,
    pub(crate) arrived_seen_at: Option<DateTime<Utc>>,
    pub(crate) closed_at: Option<DateTime<Utc>>,
    /// Grows with each batch that adds points.
    pub(crate) version: i64,
    pub(crate) reported_version: i64,
    pub(crate) reported_at: Option<DateTime<Utc>>,
    pub(crate) finalised: bool,
    /// What the last aggregate said.
    pub(crate) reported: Summary,
    pub(crate) created_at: DateTime<Utc>,
}

/// One point to be kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub(crate) ride_id: RideId,
    pub(crate) user_id: UserId,
    pub(crate) fix: Fix,
    /// The version of the track from which on it is there.
    pub(crate) version: i64,
}

#[derive(Debug, Clone, PartialEq)]
struct PointRow {
    fix: Fix,
    version: i64,
}

/// Which points of a ride to read: its driver's, added after a version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) ride_id: RideId,
    pub(crate) driver_id: UserId,
    pub(crate) after_version: i64,
}

/// Which points of a ride nobody needs any more: those before a time, and those of anybody but its driver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needless {
    pub(crate) ride_id: RideId,
    pub(crate) driver_id: UserId,
    /// `None`: all.
    pub(crate) before: Option<DateTime<Utc>>,
}

const EMPTY_AFTER: Duration = Duration::days(2);
const OLD_AFTER: Duration = Duration::days(9);

impl TrackRow {
    fn new(ride_id: RideId, now: DateTime<Utc>) -> Self {
        Self {
            ride_id,
            driver_id: None,
            started_at: None,
            arrived_at: None,
            arrived_seen_at: None,
            closed_at: None,
            version: 0,
            reported_version: 0,
            reported_at: None,
            finalised: false,
            reported: Summary::default(),
            created_at: now,
        }
    }

    /// Whether a point of `user` at `at` may belong to the ride, as far as is known.
    pub(crate) fn takes(&self, user: UserId, at: DateTime<Utc>) -> bool {
        self.closed_at.is_none()
            && !self.finalised
            && self.driver_id.is_none_or(|driver| driver == user)
            && self.started_at.is_none_or(|started| started <= at)
            && self.arrived_at.is_none_or(|arrived| at <= arrived)
    }

    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        let last = match (row.try_get("last_lat")?, row.try_get("last_lng")?, row.try_get("last_recorded_at")?) {
            (Some(lat), Some(lng), Some(recorded_at)) => {
                Some(TrackPoint { location: Position { lat, lng }, recorded_at })
            }
            _ => None,
        };
        Ok(Self {
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
            reported: Summary {
                distance_m: row.try_get("distance_m")?,
                points: row.try_get::<i64, _>("points")?.unsigned_abs(),
                last,
            },
            created_at: row.try_get("created_at")?,
        })
    }
}

fn uuids(rides: &BTreeSet<RideId>) -> Vec<Uuid> {
    rides.iter().map(|ride| ride.0).collect()
}

/// Locks the tracks of `rides`, beginning those that are not there.
pub(crate) async fn lock_tracks(
    tx: &mut Transaction<Tables>,
    rides: &BTreeSet<RideId>,
    now: DateTime<Utc>,
) -> Result<BTreeMap<RideId, TrackRow>, StoreError> {
    let mut tracks = lock_known(tx, rides).await?;
    if tracks.len() < rides.len() {
        let missing: BTreeSet<RideId> = rides.iter().copied().filter(|ride| !tracks.contains_key(ride)).collect();
        begin_tracks(tx, &missing, now).await?;
        tracks.extend(lock_known(tx, &missing).await?);
    }
    Ok(tracks)
}

async fn lock_known(
    tx: &mut Transaction<Tables>,
    rides: &BTreeSet<RideId>,
) -> Result<BTreeMap<RideId, TrackRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select * from tracks where ride_id = any($1) order by ride_id for update")
                .bind(uuids(rides))
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(|r| TrackRow::read(r).map(|t| (t.ride_id, t)).map_err(StoreError::from)).collect()
        }
        On::Memory(m) => {
            let tables = m;
            Ok(rides.iter().filter_map(|ride| Some((*ride, tables.tracks.get(ride)?.clone()))).collect())
        }
    }
}

async fn begin_tracks(
    tx: &mut Transaction<Tables>,
    rides: &BTreeSet<RideId>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into tracks (ride_id, created_at) select r, $2 from unnest($1::uuid[]) as r order by r \
                 on conflict do nothing",
            )
            .bind(uuids(rides))
            .bind(now)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            for ride in rides {
                m.tracks.entry(*ride).or_insert_with(|| TrackRow::new(*ride, now));
            }
        }
    }
    Ok(())
}

/// Keeps points of locked tracks, and raises the version of each track that got one that it did not have; returns those.
pub(crate) async fn add_points(
    tx: &mut Transaction<Tables>,
    points: &[Point],
    now: DateTime<Utc>,
) -> Result<BTreeSet<RideId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "with added as (insert into track_points \
                 (ride_id, user_id, recorded_at, lat, lng, accuracy_m, version, received_at) \
                 select r, u, t, lat, lng, a, v, $8 from unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::float8[], \
                 $5::float8[], $6::float8[], $7::bigint[]) with ordinality as p (r, u, t, lat, lng, a, v, n) order by n \
                 on conflict do nothing returning ride_id) \
                 update tracks set version = version + 1 where ride_id in (select ride_id from added) returning ride_id",
            )
            .bind(points.iter().map(|p| p.ride_id.0).collect::<Vec<_>>())
            .bind(points.iter().map(|p| p.user_id.0).collect::<Vec<_>>())
            .bind(points.iter().map(|p| p.fix.recorded_at).collect::<Vec<_>>())
            .bind(points.iter().map(|p| p.fix.position.lat).collect::<Vec<_>>())
            .bind(points.iter().map(|p| p.fix.position.lng).collect::<Vec<_>>())
            .bind(points.iter().map(|p| p.fix.accuracy_m).collect::<Vec<_>>())
            .bind(points.iter().map(|p| p.version).collect::<Vec<_>>())
            .bind(now)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|r| Ok(RideId(r.try_get(0)?))).collect()
        }
        On::Memory(m) => {
            let tables = m;
            let mut grown = BTreeSet::new();
            for point in points {
                let key = (point.ride_id, point.user_id, point.fix.recorded_at);
                if !tables.points.contains_key(&key) {
                    tables.points.insert(key, PointRow { fix: point.fix, version: point.version });
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

/// Writes what events said of locked tracks: driver, start, arrival, end.
pub(crate) async fn save_courses(tx: &mut Transaction<Tables>, tracks: &[TrackRow]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "update tracks set driver_id = u.d, started_at = u.s, arrived_at = u.a, arrived_seen_at = u.n, \
                 closed_at = u.c from unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], \
                 $5::timestamptz[], $6::timestamptz[]) as u (r, d, s, a, n, c) where ride_id = u.r",
            )
            .bind(tracks.iter().map(|t| t.ride_id.0).collect::<Vec<_>>())
            .bind(tracks.iter().map(|t| t.driver_id.map(|d| d.0)).collect::<Vec<_>>())
            .bind(tracks.iter().map(|t| t.started_at).collect::<Vec<_>>())
            .bind(tracks.iter().map(|t| t.arrived_at).collect::<Vec<_>>())
            .bind(tracks.iter().map(|t| t.arrived_seen_at).collect::<Vec<_>>())
            .bind(tracks.iter().map(|t| t.closed_at).collect::<Vec<_>>())
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            for track in tracks {
                if let Some(row) = m.tracks.get_mut(&track.ride_id) {
                    row.driver_id = track.driver_id;
                    row.started_at = track.started_at;
                    row.arrived_at = track.arrived_at;
                    row.arrived_seen_at = track.arrived_seen_at;
                    row.closed_at = track.closed_at;
                }
            }
        }
    }
    Ok(())
}

/// Deletes points that nobody needs any more.
pub(crate) async fn forget_points(tx: &mut Transaction<Tables>, needless: &[Needless]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "delete from track_points p using unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) as u (r, d, b) \
                 where p.ride_id = u.r and (u.b is null or p.recorded_at < u.b or p.user_id <> u.d)",
            )
            .bind(needless.iter().map(|n| n.ride_id.0).collect::<Vec<_>>())
            .bind(needless.iter().map(|n| n.driver_id.0).collect::<Vec<_>>())
            .bind(needless.iter().map(|n| n.before).collect::<Vec<_>>())
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            for n in needless {
                let tables = &mut *m;
                let gone: Vec<_> = of_ride(tables, n.ride_id)
                    .map(|(key, _)| *key)
                    .filter(|(_, user, at)| n.before.is_none_or(|before| *at < before) || *user != n.driver_id)
                    .collect();
                for key in gone {
                    tables.points.remove(&key);
                }
            }
        }
    }
    Ok(())
}

fn of_ride(
    tables: &Tables,
    ride: RideId,
) -> impl Iterator<Item = (&(RideId, UserId, DateTime<Utc>), &PointRow)> + use<'_> {
    let first = (ride, UserId(Uuid::nil()), DateTime::<Utc>::MIN_UTC);
    tables.points.range(first..).take_while(move |((r, _, _), _)| *r == ride)
}

/// Locks tracks that an aggregate is due for, those longest without one first, at most `limit`, passing over those that another process has in hand: rides
/// under way with new points whose last aggregate is from `reported_until` or before, and of `arrived` those without their
/// final one.
pub(crate) async fn due_tracks(
    tx: &mut Transaction<Tables>,
    reported_until: DateTime<Utc>,
    arrived: &BTreeSet<RideId>,
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
            .bind(uuids(arrived))
            .bind(limit as i64)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|r| TrackRow::read(r).map_err(StoreError::from)).collect()
        }
        On::Memory(m) => {
            let under_way = m
                .tracks
                .values()
                .filter(|t| t.closed_at.is_none() && !t.finalised && t.started_at.is_some() && t.driver_id.is_some());
            let due = under_way.filter(|t| match t.arrived_at {
                None => t.version > t.reported_version && t.reported_at.is_none_or(|at| at <= reported_until),
                Some(_) => arrived.contains(&t.ride_id),
            });
            let mut due: Vec<TrackRow> = due.cloned().collect();
            due.sort_by_key(|t| (t.reported_at, t.ride_id));
            due.truncate(limit);
            Ok(due)
        }
    }
}

/// Points of rides, by ride, then `recorded_at`.
pub(crate) async fn points(tx: &mut Transaction<Tables>, wanted: &[Wanted]) -> Result<Vec<Point>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select p.* from unnest($1::uuid[], $2::uuid[], $3::bigint[]) as u (r, d, v) join track_points p \
                 on p.ride_id = u.r and p.user_id = u.d and p.version > u.v order by p.ride_id, p.recorded_at",
            )
            .bind(wanted.iter().map(|w| w.ride_id.0).collect::<Vec<_>>())
            .bind(wanted.iter().map(|w| w.driver_id.0).collect::<Vec<_>>())
            .bind(wanted.iter().map(|w| w.after_version).collect::<Vec<_>>())
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Point::read(row).map_err(StoreError::from)).collect()
        }
        On::Memory(m) => {
            let tables = m;
            let mut wanted = wanted.to_vec();
            wanted.sort_by_key(|w| w.ride_id);
            let found = wanted.iter().flat_map(|w| {
                of_ride(tables, w.ride_id)
                    .filter(move |((_, user, _), row)| *user == w.driver_id && row.version > w.after_version)
                    .map(|((ride_id, user_id, _), row)| Point {
                        ride_id: *ride_id,
                        user_id: *user_id,
                        fix: row.fix,
                        version: row.version,
                    })
            });
            Ok(found.collect())
        }
    }
}

impl Point {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            ride_id: RideId(row.try_get("ride_id")?),
            user_id: UserId(row.try_get("user_id")?),
            fix: Fix {
                recorded_at: row.try_get("recorded_at")?,
                position: Position { lat: row.try_get("lat")?, lng: row.try_get("lng")? },
                accuracy_m: row.try_get("accuracy_m")?,
            },
            version: row.try_get("version")?,
        })
    }
}

/// Writes what the aggregates of locked tracks said.
pub(crate) async fn save_reports(tx: &mut Transaction<Tables>, tracks: &[TrackRow]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let lasts: Vec<Option<TrackPoint>> = tracks.iter().map(|t| t.reported.last).collect();
            sqlx::query(
                "update tracks set reported_version = u.v, reported_at = u.t, finalised = u.f, distance_m = u.m, \
                 points = u.n, last_lat = u.lat, last_lng = u.lng, last_recorded_at = u.l from unnest($1::uuid[], \
                 $2::bigint[], $3::timestamptz[], $4::bool[], $5::float8[], $6::bigint[], $7::float8[], $8::float8[], \
                 $9::timestamptz[]) as u (r, v, t, f, m, n, lat, lng, l) where ride_id = u.r",
            )
            .bind(tracks.iter().map(|t| t.ride_id.0).collect::<Vec<_>>())
            .bind(tracks.iter().map(|t| t.reported_version).collect::<Vec<_>>())
            .bind(tracks.iter().map(|t| t.reported_at).collect::<Vec<_>>())
            .bind(tracks.iter().map(|t| t.finalised).collect::<Vec<_>>())
            .bind(tracks.iter().map(|t| t.reported.distance_m).collect::<Vec<_>>())
            .bind(tracks.iter().map(|t| i64::try_from(t.reported.points).unwrap_or(i64::MAX)).collect::<Vec<_>>())
            .bind(lasts.iter().map(|l| l.map(|p| p.location.lat)).collect::<Vec<_>>())
            .bind(lasts.iter().map(|l| l.map(|p| p.location.lng)).collect::<Vec<_>>())
            .bind(lasts.iter().map(|l| l.map(|p| p.recorded_at)).collect::<Vec<_>>())
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            for track in tracks {
                if let Some(row) = m.tracks.get_mut(&track.ride_id) {
                    row.reported_version = track.reported_version;
                    row.reported_at = track.reported_at;
                    row.finalised = track.finalised;
                    row.reported = track.reported;
                }
            }
        }
    }
    Ok(())
}

/// Rides that an event was heard of and that have not ended.
pub(crate) async fn live_tracks(tx: &mut Transaction<Tables>) -> Result<Vec<TrackRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows =
                sqlx::query("select * from tracks where closed_at is null and driver_id is not null order by ride_id")
                    .fetch_all(&mut *pg)
                    .await?;
            rows.iter().map(|r| TrackRow::read(r).map_err(StoreError::from)).collect()
        }
        On::Memory(m) => {
            let live = m.tracks.values().filter(|t| t.closed_at.is_none() && t.driver_id.is_some());
            Ok(live.cloned().collect())
        }
    }
}

/// Those of `rides` that have ended.
pub(crate) async fn ended_rides(
    tx: &mut Transaction<Tables>,
    rides: &BTreeSet<RideId>,
) -> Result<Vec<RideId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select ride_id from tracks where ride_id = any($1) and closed_at is not null order by ride_id",
            )
            .bind(uuids(rides))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|r| Ok(RideId(r.try_get(0)?))).collect()
        }
        On::Memory(m) => {
            let tables = m;
            let ended = |ride: &&RideId| tables.tracks.get(*ride).is_some_and(|t| t.closed_at.is_some());
            Ok(rides.iter().filter(ended).copied().collect())
        }
    }
}

/// Deletes tracks whose events no stream can bring any more, and those that never were rides, with their points.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    let (old, empty) = (now - OLD_AFTER, now - EMPTY_AFTER);
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from tracks where created_at < $1 or (driver_id is null and created_at < $2)")
                .bind(old)
                .bind(empty)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(m) => {
            let tables = m;
            let gone = |t: &TrackRow| t.created_at < old || (t.driver_id.is_none() && t.created_at < empty);
            tables.tracks = tables.tracks.iter().filter(|(_, t)| !gone(t)).map(|(k, t)| (*k, t.clone())).collect();
            let tracks = &tables.tracks;
            let kept = tables.points.iter().filter(|((ride, _, _), _)| tracks.contains_key(ride));
            tables.points = kept.map(|(k, p)| (*k, p.clone())).collect();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
