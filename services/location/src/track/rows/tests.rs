//! The operations on tracks and points, on both stores; and what only PostgreSQL's locks show.

mod chunk_tests;

use std::collections::BTreeSet;

use chrono::{DateTime, Duration, Utc};
use platform::{Store, StoreError, World};
use streams::event::TrackPoint;
use streams::{Position, RideId, UserId};
use testing::{Backend, on_both_stores};
use uuid::Uuid;

use super as rows;
use crate::tables::{PointRow, Tables, TrackRow};
use crate::track::point_rows::{self, PointQuery};
use crate::track::{Point, TrackSummary};

fn when(second: i64) -> DateTime<Utc> {
    "2026-03-01T08:00:00.000001Z".parse::<DateTime<Utc>>().unwrap() + Duration::seconds(second)
}

fn ride(n: u128) -> RideId {
    RideId(Uuid::from_u128(n))
}

fn driver(n: u128) -> UserId {
    UserId(Uuid::from_u128(1_000 + n))
}

fn rides(of: &[u128]) -> BTreeSet<RideId> {
    of.iter().map(|&n| ride(n)).collect()
}

fn point(n: u128, user: u128, second: i64, version: i64) -> PointRow {
    let point = Point {
        device: "phone".to_owned(),
        ride_device: true,
        device_at: Some(when(second - 20)),
        sent_at: (second % 3 == 0).then(|| when(second - 19)),
        received_at: when(second + 1),
        recorded_at: when(second),
        position: Position { lat: 40.5, lng: second as f64 / 1_000.0 },
        accuracy_m: (second % 2 == 0).then_some(4.5),
        speed_mps: (second % 5 == 0).then_some(13.5),
    };
    PointRow { ride_id: ride(n), user_id: driver(user), point, version }
}

fn query(n: u128, user: u128, after_version: i64) -> PointQuery {
    PointQuery { ride_id: ride(n), driver_id: driver(user), after_version }
}

async fn store(backend: Backend) -> Store<Tables> {
    backend.store(&World::seeded(when(0), 1), "pod", "location", &crate::MIGRATIONS).await
}

on_both_stores!(
    a_track_is_inserted_when_it_is_first_locked,
    a_point_is_stored_once_and_grows_the_version_once,
    a_query_finds_the_drivers_points_only,
    points_of_two_devices_and_of_an_unknown_clock_are_distinguished,
    a_late_point_finds_the_ride_of_its_time,
    points_after_the_final_aggregate_are_seen_once,
    points_are_deleted_a_day_after_the_end,
    an_aggregate_is_due_when_there_are_new_points,
    the_final_aggregate_is_due_once,
    the_longest_without_an_aggregate_comes_first,
    live_and_ended_rides_are_distinguished,
    old_tracks_are_deleted_with_their_points,
    a_dropped_transaction_changes_nothing,
);

/// Inserts tracks of these rides, changed by `change`.
async fn given(store: &Store<Tables>, of: &[u128], change: impl Fn(u128, &mut TrackRow)) {
    let mut tx = store.begin().await.unwrap();
    let mut tracks = rows::lock_tracks(&mut tx, &rides(of), when(0)).await.unwrap();
    for &n in of {
        let track = tracks.get_mut(&ride(n)).unwrap();
        track.driver_id = Some(driver(n));
        track.started_at = Some(when(0));
        change(n, track);
    }
    let tracks: Vec<TrackRow> = tracks.into_values().collect();
    rows::save_ride_times(&mut tx, &tracks).await.unwrap();
    rows::save_reported(&mut tx, &tracks).await.unwrap();
    tx.commit().await.unwrap();
}

async fn add(store: &Store<Tables>, points: &[PointRow]) -> BTreeSet<RideId> {
    let mut tx = store.begin().await.unwrap();
    let of: BTreeSet<RideId> = points.iter().map(|p| p.ride_id).collect();
    rows::lock_tracks(&mut tx, &of, when(0)).await.unwrap();
    let grown = point_rows::add(&mut tx, points).await.unwrap();
    tx.commit().await.unwrap();
    grown
}

async fn row(store: &Store<Tables>, n: u128) -> TrackRow {
    let mut tx = store.begin().await.unwrap();
    rows::lock_tracks(&mut tx, &rides(&[n]), when(0)).await.unwrap().remove(&ride(n)).unwrap()
}

async fn seconds(store: &Store<Tables>, queries: &[PointQuery]) -> Vec<(u128, i64)> {
    let points = point_rows::read(&mut store.begin().await.unwrap(), queries).await.unwrap();
    points.iter().map(|p| (p.ride_id.0.as_u128(), (p.point.recorded_at - when(0)).num_seconds())).collect()
}

async fn due(store: &Store<Tables>, reported_until: i64, complete: &[u128], limit: usize) -> Vec<u128> {
    let mut tx = store.begin().await.unwrap();
    let tracks = rows::lock_due_tracks(&mut tx, when(reported_until), &rides(complete), limit).await.unwrap();
    // A commit has released the locks when it returns. A dropped transaction releases them a moment later.
    tx.commit().await.unwrap();
    tracks.iter().map(|t| t.ride_id.0.as_u128()).collect()
}

async fn a_track_is_inserted_when_it_is_first_locked(backend: Backend) {
    let store = store(backend).await;
    let mut tx = store.begin().await.unwrap();
    let tracks = rows::lock_tracks(&mut tx, &rides(&[2, 1]), when(5)).await.unwrap();
    assert_eq!(tracks.keys().copied().collect::<Vec<_>>(), [ride(1), ride(2)]);
    let new = &tracks[&ride(1)];
    assert_eq!((new.driver_id, new.version, new.finalised, new.created_at), (None, 0, false, when(5)));
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let again = rows::lock_tracks(&mut tx, &rides(&[3, 1]), when(9)).await.unwrap();
    assert_eq!((again[&ride(1)].created_at, again[&ride(3)].created_at), (when(5), when(9)));
    assert!(rows::lock_tracks(&mut tx, &rides(&[]), when(9)).await.unwrap().is_empty());
}

async fn a_point_is_stored_once_and_grows_the_version_once(backend: Backend) {
    let store = store(backend).await;
    let first = point(1, 1, 10, 1);
    let mut repeated = first.clone();
    repeated.point.position.lat = 41.0;
    let batch = [first.clone(), repeated.clone(), point(1, 1, 12, 1), point(2, 2, 10, 1)];
    assert_eq!(add(&store, &batch).await, rides(&[1, 2]));
    assert_eq!((row(&store, 1).await.version, row(&store, 2).await.version), (1, 1));
    assert_eq!(add(&store, &batch).await, rides(&[]), "the batch came again");
    repeated.version = 2;
    assert_eq!(add(&store, &[repeated, point(1, 1, 11, 2)]).await, rides(&[1]));
    assert_eq!((row(&store, 1).await.version, row(&store, 2).await.version), (2, 1));
    let stored = point_rows::read(&mut store.begin().await.unwrap(), &[query(1, 1, 0)]).await.unwrap();
    assert_eq!(stored, [first, point(1, 1, 11, 2), point(1, 1, 12, 1)], "the first one stays");
    assert_eq!(seconds(&store, &[query(2, 2, 0), query(1, 1, 1)]).await, [(1, 11), (2, 10)]);
}

async fn a_query_finds_the_drivers_points_only(backend: Backend) {
    let store = store(backend).await;
    add(&store, &[point(1, 7, 10, 1), point(1, 1, 10, 1), point(1, 7, 11, 1)]).await;
    assert_eq!(seconds(&store, &[query(1, 1, 0)]).await, [(1, 10)]);
    let track = TrackRow { driver_id: None, ..row(&store, 1).await };
    assert!(track.accepts(driver(7), when(0)), "the driver is not known yet");
    let known = TrackRow {
        driver_id: Some(driver(1)),
        started_at: Some(when(10)),
        arrived_at: Some(when(20)),
        ..track.clone()
    };
    let taken = |user, second| known.accepts(driver(user), when(second));
    assert!(taken(1, 10) && taken(1, 20) && taken(1, 9) && taken(1, 21) && !taken(7, 15));
    assert!(!TrackRow { closed_at: Some(when(30)), ..known.clone() }.accepts(driver(1), when(15)));
    let finalised = TrackRow { finalised: true, closed_at: Some(when(30)), ..known.clone() };
    let late = |user, second| finalised.accepts(driver(user), when(second));
    assert!(late(1, 15) && !late(1, 9) && !late(1, 21) && !late(7, 15));
}

async fn points_of_two_devices_and_of_an_unknown_clock_are_distinguished(backend: Backend) {
    let store = store(backend).await;
    let phone = point(1, 1, 10, 1);
    let mut tablet = phone.clone();
    (tablet.point.device, tablet.point.ride_device) = ("tablet".to_owned(), false);
    let mut foreign = point(1, 1, 11, 1);
    (foreign.point.device, foreign.point.device_at, foreign.point.sent_at) = (String::new(), None, None);
    add(&store, &[phone.clone(), tablet.clone(), foreign.clone()]).await;
    // The same points, by what is known of the clock now.
    let again = [&phone, &tablet, &foreign].map(|row| {
        let recorded_at = row.point.recorded_at + Duration::seconds(i64::from(row.point.device_at.is_some()));
        PointRow { point: Point { recorded_at, ..row.point.clone() }, version: 2, ..row.clone() }
    });
    assert_eq!(add(&store, &again).await, rides(&[]));
    let stored = point_rows::read(&mut store.begin().await.unwrap(), &[query(1, 1, 0)]).await.unwrap();
    assert_eq!(stored, [foreign, phone, tablet]);
}

async fn a_late_point_finds_the_ride_of_its_time(backend: Backend) {
    let store = store(backend).await;
    given(&store, &[1, 2, 3], |n, track| {
        track.driver_id = Some(driver(u128::from(n == 3)));
        track.started_at = Some(when(100 * i64::try_from(n).unwrap()));
        track.arrived_at = (n != 2).then(|| track.started_at.unwrap() + Duration::seconds(50));
        track.pickup = Some(Position { lat: 1.5, lng: 2.5 });
        track.dropoff = (n == 1).then_some(Position { lat: 3.5, lng: 4.5 });
    })
    .await;
    let mut tx = store.begin().await.unwrap();
    for (user, second, found) in [
        (0, 99, &[][..]),
        (0, 100, &[1]),
        (0, 150, &[1]),
        (0, 151, &[]),
        (0, 220, &[]),
        (0, 320, &[]),
        (1, 320, &[3]),
        (1, 120, &[]),
    ] {
        let of = rows::rides_at(&mut tx, &[(driver(user), when(second)), (driver(9), when(120))]).await.unwrap();
        assert_eq!(of, rides(found), "driver {user} at {second}");
    }
    assert_eq!(rows::rides_at(&mut tx, &[]).await.unwrap(), rides(&[]));
    drop(tx);
    let track = row(&store, 1).await;
    assert_eq!((track.pickup.unwrap().lng, track.dropoff.unwrap().lat), (2.5, 3.5));
    // The ride of another driver, and a ride that is forgotten, are found no more.
    let found = async |user| {
        let mut tx = store.begin().await.unwrap();
        rows::rides_at(&mut tx, &[(driver(user), when(120)), (driver(user), when(320))]).await.unwrap()
    };
    given(&store, &[1], |_, track| {
        track.driver_id = Some(driver(5));
        track.started_at = Some(when(100));
        track.arrived_at = Some(when(150));
    })
    .await;
    assert_eq!((found(0).await, found(5).await, found(1).await), (rides(&[]), rides(&[1]), rides(&[3])));
    let mut tx = store.begin().await.unwrap();
    rows::purge(&mut tx, when(0) + Duration::days(1_000)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((found(5).await, found(1).await), (rides(&[]), rides(&[])));
}

async fn points_after_the_final_aggregate_are_seen_once(backend: Backend) {
    let store = store(backend).await;
    given(&store, &[1, 2], |n, track| (track.arrived_at, track.finalised) = (Some(when(20)), n == 1)).await;
    let late = async || {
        let mut tx = store.begin().await.unwrap();
        let late = rows::lock_late_tracks(&mut tx, 10).await.unwrap();
        tx.commit().await.unwrap();
        late
    };
    assert_eq!(late().await, []);
    add(&store, &[point(1, 1, 10, 1), point(2, 2, 10, 1)]).await;
    let mut tracks = late().await;
    assert_eq!(tracks.iter().map(|track| track.ride_id).collect::<Vec<_>>(), [ride(1)]);
    (tracks[0].reported_version, tracks[0].late_distance_m) = (1, Some(99.5));
    let mut tx = store.begin().await.unwrap();
    rows::save_reported(&mut tx, &tracks).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(late().await, []);
    assert_eq!(row(&store, 1).await.late_distance_m, Some(99.5));
}

async fn points_are_deleted_a_day_after_the_end(backend: Backend) {
    let store = store(backend).await;
    given(&store, &[1, 2], |n, track| track.closed_at = (n == 1).then_some(when(0))).await;
    add(&store, &[point(1, 1, 10, 1), point(2, 2, 10, 1)]).await;
    for (hours, left) in [(24, vec![(1, 10), (2, 10)]), (26, vec![(2, 10)])] {
        let mut tx = store.begin().await.unwrap();
        rows::purge(&mut tx, when(0) + Duration::hours(hours)).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(seconds(&store, &[query(1, 1, 0), query(2, 2, 0)]).await, left, "after {hours} hours");
    }
    assert_eq!(row(&store, 1).await.closed_at, Some(when(0)), "the track itself stays");
}

async fn an_aggregate_is_due_when_there_are_new_points(backend: Backend) {
    let store = store(backend).await;
    given(&store, &[1, 2, 3, 4, 5], |n, track| match n {
        2 => track.started_at = None,
        3 => track.closed_at = Some(when(1)),
        4 => track.driver_id = None,
        _ => {}
    })
    .await;
    assert_eq!(due(&store, 100, &[], 10).await, [0; 0], "no points yet");
    add(&store, &[1, 2, 3, 4].map(|n| point(n, n, 10, 1))).await;
    assert_eq!(due(&store, 100, &[], 10).await, [1]);
    let mut reported = row(&store, 1).await;
    let last = Some(TrackPoint { location: Position { lat: 40.5, lng: 0.01 }, recorded_at: when(10) });
    reported.reported = TrackSummary { distance_m: 12.34, points: 7, last };
    (reported.reported_version, reported.reported_at) = (1, Some(when(50)));
    let mut tx = store.begin().await.unwrap();
    rows::save_reported(&mut tx, std::slice::from_ref(&reported)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(row(&store, 1).await, reported, "what was written is read");
    assert_eq!(due(&store, 100, &[], 10).await, [0; 0], "nothing new");
    add(&store, &[point(1, 1, 11, 2)]).await;
    assert_eq!(due(&store, 49, &[], 10).await, [0; 0], "there was an aggregate just now");
    assert_eq!(due(&store, 50, &[], 10).await, [1]);
}

async fn the_final_aggregate_is_due_once(backend: Backend) {
    let store = store(backend).await;
    given(&store, &[1, 2, 3, 4], |n, track| {
        (track.arrived_at, track.arrived_seen_at) = (Some(when(20)), Some(when(21)));
        match n {
            2 => track.finalised = true,
            3 => track.closed_at = Some(when(30)),
            4 => track.started_at = None,
            _ => {}
        }
    })
    .await;
    add(&store, &[1, 2, 3].map(|n| point(n, n, 10, 1))).await;
    assert_eq!(due(&store, 100, &[], 10).await, [0; 0], "none before the ride is complete");
    assert_eq!(due(&store, 100, &[1, 2, 3, 4, 5], 10).await, [1]);
}

async fn the_longest_without_an_aggregate_comes_first(backend: Backend) {
    let store = store(backend).await;
    given(&store, &[1, 2, 3], |n, track| track.reported_at = [None, Some(when(9)), None, Some(when(8))][n as usize])
        .await;
    add(&store, &[1, 2, 3].map(|n| point(n, n, 10, 1))).await;
    assert_eq!(due(&store, 100, &[], 10).await, [2, 3, 1]);
    assert_eq!(due(&store, 100, &[], 2).await, [2, 3]);
}

async fn live_and_ended_rides_are_distinguished(backend: Backend) {
    let store = store(backend).await;
    given(&store, &[1, 2, 3], |n, track| match n {
        2 => track.closed_at = Some(when(1)),
        3 => track.driver_id = None,
        _ => {}
    })
    .await;
    let mut tx = store.begin().await.unwrap();
    let live: Vec<RideId> = rows::live_tracks(&mut tx).await.unwrap().iter().map(|t| t.ride_id).collect();
    assert_eq!(live, [ride(1)]);
    assert_eq!(rows::ended_rides(&mut tx, &rides(&[1, 2, 3, 9])).await.unwrap(), [ride(2)]);
}

async fn old_tracks_are_deleted_with_their_points(backend: Backend) {
    let store = store(backend).await;
    given(&store, &[1, 2], |n, track| track.driver_id = (n == 1).then_some(driver(1))).await;
    add(&store, &[point(1, 1, 10, 1), point(2, 2, 10, 1)]).await;
    for (days, left) in [(1, vec![(1, 10), (2, 10)]), (3, vec![(1, 10)]), (10, vec![])] {
        let mut tx = store.begin().await.unwrap();
        rows::purge(&mut tx, when(0) + Duration::days(days)).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(seconds(&store, &[query(1, 1, 0), query(2, 2, 0)]).await, left, "after {days} days");
    }
}

async fn a_dropped_transaction_changes_nothing(backend: Backend) {
    let store = store(backend).await;
    add(&store, &[point(1, 1, 10, 1)]).await;
    let mut tx = store.begin().await.unwrap();
    rows::lock_tracks(&mut tx, &rides(&[1, 2]), when(0)).await.unwrap();
    point_rows::add(&mut tx, &[point(1, 1, 11, 2)]).await.unwrap();
    drop(tx);
    assert_eq!(row(&store, 1).await.version, 1);
    assert_eq!(seconds(&store, &[query(1, 1, 0)]).await, [(1, 10)]);
}

/// `skip locked`: the other process does not wait either.
#[tokio::test]
async fn two_processes_never_lock_the_same_due_track() {
    let store = store(Backend::Postgres).await;
    given(&store, &[1, 2], |n, track| {
        if n == 2 {
            track.arrived_at = Some(when(20));
        }
    })
    .await;
    add(&store, &[point(1, 1, 10, 1), point(2, 2, 10, 1)]).await;
    let mut one = store.begin().await.unwrap();
    assert_eq!(rows::lock_due_tracks(&mut one, when(100), &rides(&[2]), 10).await.unwrap().len(), 2);
    assert_eq!(due(&store, 100, &[2], 10).await, [0; 0]);
    one.commit().await.unwrap();
    assert_eq!(due(&store, 100, &[2], 10).await, [1, 2]);
}

/// Batches of four processes over the same rides, known and new, in every order: no deadlock, and nothing is lost.
#[tokio::test]
async fn processes_that_add_points_to_the_same_rides_lose_none() {
    let store = store(Backend::Postgres).await;
    let mut tasks = tokio::task::JoinSet::new();
    for process in 0..4 {
        let store = store.clone();
        tasks.spawn(async move {
            for step in 0..25 {
                let of: Vec<u128> = (0..6).map(|i| (i * 5 + step + process) % 40).collect();
                loop {
                    match add_some(&store, &of, i64::try_from(step * 10 + process).unwrap()).await {
                        Ok(()) => break,
                        Err(StoreError::Serialization(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let all: Vec<u128> = (0..40).collect();
    let mut tx = store.begin().await.unwrap();
    let tracks = rows::lock_tracks(&mut tx, &rides(&all), when(0)).await.unwrap();
    let mut stored = 0;
    for n in all {
        let points = point_rows::read(&mut tx, &[query(n, n, 0)]).await.unwrap();
        let versions: BTreeSet<i64> = points.iter().map(|p| p.version).collect();
        assert_eq!(versions, (1..=tracks[&ride(n)].version).collect(), "each version came with points");
        stored += points.len();
    }
    assert_eq!(stored, 4 * 25 * 6);
}

async fn add_some(store: &Store<Tables>, of: &[u128], second: i64) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let tracks = rows::lock_tracks(&mut tx, &rides(of), when(0)).await?;
    let points: Vec<PointRow> = of.iter().map(|&n| point(n, n, second, tracks[&ride(n)].version + 1)).collect();
    point_rows::add(&mut tx, &points).await?;
    tx.commit().await
}
