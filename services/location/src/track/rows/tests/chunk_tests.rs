//! What chunks of points cost, and what a process of the version before does beside them. PostgreSQL alone.

use platform::On;
use sqlx::Row;
use testing::Backend;

use super::{add, given, point, query, row, seconds, store, when};
use crate::tables::PointRow;
use crate::track::point_rows;

async fn number(store: &platform::Store<crate::Tables>, statement: &'static str) -> i64 {
    let mut tx = store.begin().await.unwrap();
    let On::Postgres(pg) = tx.on() else { panic!("PostgreSQL") };
    sqlx::query(statement).fetch_one(pg).await.unwrap().get(0)
}

#[tokio::test]
async fn points_of_many_transactions_and_many_points_of_one_fill_chunks() {
    let store = store(Backend::Postgres).await;
    given(&store, &[1], |_, _| {}).await;
    for second in 0..40 {
        // A stranger's points are in chunks of their own, and a repeat is no point.
        let version = row(&store, 1).await.version + 1;
        let given = [point(1, 1, second, version), point(1, 1, second.saturating_sub(3).max(0), version)];
        add(&store, &given).await;
        assert_eq!(row(&store, 1).await.version, version);
    }
    let stranger: Vec<PointRow> = (0..70).map(|second| point(1, 2, second, 41)).collect();
    add(&store, &stranger).await;
    let expected: Vec<(u128, i64)> = (0..40).map(|second| (1, second)).collect();
    assert_eq!(seconds(&store, &[query(1, 1, 0)]).await, expected);
    assert_eq!(seconds(&store, &[query(1, 1, 38)]).await, expected[38..]);
    assert_eq!(seconds(&store, &[query(1, 2, 0)]).await.len(), 70);
    assert_eq!(number(&store, "select count(*) from track_chunks").await, 2 + 3);
    assert_eq!(number(&store, "select max(cardinality(lat))::bigint from track_chunks").await, 32);
    assert_eq!(number(&store, "select version from tracks").await, 0, "no write of its own for the version");
    let mut tx = store.begin().await.unwrap();
    let stored = point_rows::read(&mut tx, &[query(1, 1, 0)]).await.unwrap();
    let as_given = |p: &PointRow| *p == point(1, 1, (p.point.recorded_at - when(0)).num_seconds(), p.version);
    assert!(stored.iter().all(as_given), "{stored:?}");
}

/// The statements are those of the version before, word for word.
#[tokio::test]
async fn a_process_of_the_version_before_finds_all_points_and_writes_its_own() {
    let store = store(Backend::Postgres).await;
    given(&store, &[1], |_, _| {}).await;
    add(&store, &(0..40).map(|second| point(1, 1, second, 1)).collect::<Vec<_>>()).await;
    let mut tx = store.begin().await.unwrap();
    let On::Postgres(pg) = tx.on() else { panic!("PostgreSQL") };
    for (seconds, grown) in [(vec![50, 51], 1), (vec![51, 50], 0), (vec![51, 52], 1)] {
        let at: Vec<_> = seconds.iter().map(|second| when(*second)).collect();
        let n = at.len();
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
        .bind(vec![query(1, 1, 0).ride_id.0; n])
        .bind(vec![query(1, 1, 0).driver_id.0; n])
        .bind(vec!["phone"; n])
        .bind(vec![true; n])
        .bind(&at)
        .bind(vec![None::<chrono::DateTime<chrono::Utc>>; n])
        .bind(&at)
        .bind(&at)
        .bind(vec![1.0; n])
        .bind(vec![2.0; n])
        .bind(vec![None::<f64>; n])
        .bind(vec![None::<f64>; n])
        .bind(vec![2_i64; n])
        .fetch_all(&mut *pg)
        .await
        .unwrap();
        assert_eq!(rows.len(), grown);
    }
    let rows = sqlx::query(
        "select p.* from unnest($1::uuid[], $2::uuid[], $3::bigint[]) as u (r, d, v) join track_points p \
         on p.ride_id = u.r and p.user_id = u.d and p.version > u.v \
         order by p.ride_id, p.device, coalesce(p.device_at, p.recorded_at)",
    )
    .bind(vec![query(1, 1, 0).ride_id.0])
    .bind(vec![query(1, 1, 0).driver_id.0])
    .bind(vec![0_i64])
    .fetch_all(&mut *pg)
    .await
    .unwrap();
    assert_eq!(rows.len(), 43);
    tx.commit().await.unwrap();
    assert_eq!(seconds(&store, &[query(1, 1, 0)]).await.len(), 43);
    // Written there, it is no point here.
    add(&store, &[PointRow { point: stored_before(), ..point(1, 1, 51, 3) }]).await;
    assert_eq!(seconds(&store, &[query(1, 1, 0)]).await.len(), 43);
    let mut tx = store.begin().await.unwrap();
    let On::Postgres(pg) = tx.on() else { panic!("PostgreSQL") };
    let deleted = sqlx::query(
        "delete from track_points p using tracks t where p.ride_id = t.ride_id and t.closed_at is null and t.created_at = $1",
    )
    .bind(when(0))
    .execute(&mut *pg)
    .await
    .unwrap();
    assert_eq!(deleted.rows_affected(), 43);
    tx.commit().await.unwrap();
    assert_eq!(seconds(&store, &[query(1, 1, 0)]).await.len(), 40, "the chunks are deleted by this version");
}

fn stored_before() -> crate::track::Point {
    crate::track::Point { device_at: Some(when(51)), recorded_at: when(51), ..point(1, 1, 51, 3).point }
}
