//! The lease, on both stores; and what only PostgreSQL's locks show.

use chrono::Duration;
use matching::lease::{self, Held};
use matching::zones::{Partition, Zone};
use matching::{MIGRATIONS, Tables};
use platform::{Failure, On, Store, StoreError, World};
use testing::{Backend, on_both_stores};

use crate::engine_harness::start_time;

const TTL: Duration = Duration::seconds(5);

fn only(epoch: i64) -> Held {
    Held { zone: 0, epoch }
}

async fn store(backend: Backend) -> Store<Tables> {
    backend.store(&World::real(), "test", "matching", &MIGRATIONS).await
}

on_both_stores!(only_the_holder_of_the_lease_passes_the_guard, each_zone_has_a_lease_of_the_division_in_force);

async fn only_the_holder_of_the_lease_passes_the_guard(backend: Backend) {
    let store = store(backend).await;
    let now = start_time();
    let mut tx = store.begin().await.unwrap();
    assert!(matches!(lease::guard(&mut tx, only(1)).await, Err(Failure::Fenced)));
    assert_eq!(lease::take(&mut tx, Zone::ONLY, "a", TTL, (now, 5_000.0)).await.unwrap(), Some(1));
    tx.commit().await.unwrap();

    let mut tx = store.begin().await.unwrap();
    assert_eq!(lease::take(&mut tx, Zone::ONLY, "b", TTL, (now, 5_000.0)).await.unwrap(), None);
    lease::guard(&mut tx, only(1)).await.unwrap();
    assert!(lease::renew(&mut tx, only(1), TTL, now).await.unwrap());
    assert_eq!(lease::take(&mut tx, Zone::ONLY, "b", TTL, (now, 5_000.0)).await.unwrap(), None);
    // A released lease still passes its guard, until another process takes it.
    assert!(lease::release(&mut tx, only(1), now).await.unwrap());
    lease::guard(&mut tx, only(1)).await.unwrap();
    tx.commit().await.unwrap();

    let mut tx = store.begin().await.unwrap();
    assert_eq!(lease::take(&mut tx, Zone::ONLY, "b", TTL, (now, 5_000.0)).await.unwrap(), Some(2));
    assert!(matches!(lease::guard(&mut tx, only(1)).await, Err(Failure::Fenced)));
    assert!(!lease::renew(&mut tx, only(1), TTL, now).await.unwrap());
    lease::guard(&mut tx, only(2)).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn taking_the_lease_waits_for_a_running_transaction_and_renewing_does_not() {
    let store = store(Backend::Postgres).await;
    let now = start_time();
    let mut tx = store.begin().await.unwrap();
    assert_eq!(lease::take(&mut tx, Zone::ONLY, "a", TTL, (now, 5_000.0)).await.unwrap(), Some(1));
    tx.commit().await.unwrap();

    let mut working = store.begin().await.unwrap();
    lease::guard(&mut working, only(1)).await.unwrap();
    // Releasing changes the row as a renewal does: it does not wait for the transaction under way.
    let mut other = store.begin().await.unwrap();
    assert!(lease::release(&mut other, only(1), now).await.unwrap());
    other.commit().await.unwrap();

    let mut thief = store.begin().await.unwrap();
    let On::Postgres(pg) = thief.on() else { unreachable!() };
    sqlx::query("set local lock_timeout = '50ms'").execute(&mut *pg).await.unwrap();
    let waited = lease::take(&mut thief, Zone::ONLY, "b", TTL, (now, 5_000.0)).await;
    assert!(matches!(waited, Err(StoreError::Serialization(_))), "{waited:?}");
    drop(thief);

    working.commit().await.unwrap();
    let mut thief = store.begin().await.unwrap();
    assert_eq!(lease::take(&mut thief, Zone::ONLY, "b", TTL, (now, 5_000.0)).await.unwrap(), Some(2));
}

async fn each_zone_has_a_lease_of_the_division_in_force(backend: Backend) {
    let store = store(backend).await;
    let now = start_time();
    let (two, three) = (Partition::new(2, 1_000), Partition::new(3, 1_000));
    let take = async |partition, number, holder, now| {
        let mut tx = store.begin().await.unwrap();
        let epoch = lease::take(&mut tx, Zone { partition, number }, holder, TTL, (now, 5_000.0)).await.unwrap();
        if epoch.is_some() {
            tx.commit().await.unwrap();
        }
        epoch
    };
    let attend = async |partition, holder, held: &[Held]| {
        let mut tx = store.begin().await.unwrap();
        let standing = lease::attend(&mut tx, partition, (holder, held), TTL, now).await.unwrap();
        tx.commit().await.unwrap();
        standing
    };
    let release = async |held| {
        let mut tx = store.begin().await.unwrap();
        assert!(lease::release(&mut tx, held, now).await.unwrap());
        tx.commit().await.unwrap();
    };
    // One zone, and then two: not before its lease is free.
    let first = take(Partition::ONE, 0, "a", now).await.unwrap();
    assert_eq!(take(two, 1, "b", now).await, None);
    release(Held { zone: 0, epoch: first }).await;
    let zone = |zone, epoch| Held { zone, epoch };
    let own = zone(1, take(two, 1, "b", now).await.unwrap());
    let other = zone(0, take(two, 0, "c", now).await.unwrap());
    assert!(first < own.epoch && own.epoch < other.epoch, "no epoch is given twice");
    let mut tx = store.begin().await.unwrap();
    lease::guard(&mut tx, own).await.unwrap();
    lease::guard(&mut tx, other).await.unwrap();
    for held in [zone(0, own.epoch), zone(1, other.epoch), zone(0, first)] {
        assert!(matches!(lease::guard(&mut tx, held).await, Err(Failure::Fenced)), "{held:?}");
    }
    drop(tx);
    let standing = attend(two, "b", &[own]).await;
    assert_eq!((standing.members, standing.free.0, standing.renewed.0), (1, 0, 2));
    let standing = attend(two, "c", &[other, zone(1, 1)]).await;
    assert_eq!((standing.members, standing.renewed.0, standing.is_in_force), (2, 1, true));
    assert!(!attend(three, "d", &[]).await.is_in_force);
    // Three zones, and one again: when both leases are free.
    assert_eq!((take(three, 2, "d", now).await, take(Partition::ONE, 0, "a", now).await), (None, None));
    release(own).await;
    assert_eq!((take(three, 2, "d", now).await, take(Partition::ONE, 0, "a", now).await), (None, None));
    release(other).await;
    let last = take(Partition::ONE, 0, "a", now).await.unwrap();
    assert!(last > other.epoch);
    let mut tx = store.begin().await.unwrap();
    assert!(matches!(lease::guard(&mut tx, own).await, Err(Failure::Fenced)));
    assert!(matches!(lease::guard_division(&mut tx, two).await, Err(Failure::Fenced)));
}

/// A router that has begun before another division of the map: what it writes is among the rows that get other zones.
#[tokio::test]
async fn another_division_waits_for_whoever_still_writes_for_the_one_before() {
    let store = store(Backend::Postgres).await;
    let (now, four, two) = (start_time(), Partition::new(4, 1_000), Partition::new(2, 1_000));
    let take = async |partition| {
        let mut tx = store.begin().await.unwrap();
        let epoch = lease::take(&mut tx, Zone { partition, number: 0 }, "a", TTL, (now, 5_000.0)).await.unwrap();
        tx.commit().await.unwrap();
        epoch.unwrap()
    };
    let epoch = take(four).await;
    let mut tx = store.begin().await.unwrap();
    assert!(lease::release(&mut tx, Held { zone: 0, epoch }, now).await.unwrap());
    tx.commit().await.unwrap();

    let mut router = store.begin().await.unwrap();
    lease::guard_division(&mut router, four).await.unwrap();
    let write = async {
        // The other one is at its wait by then, or comes later.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let On::Postgres(pg) = router.on() else { unreachable!() };
        let row = "insert into zone_inputs (zone, subject, body, elsewhere, stored_at, traceparent) \
                   values (3, 'user.finder', '{}', false, now(), '')";
        sqlx::query(row).execute(pg).await.unwrap();
        router.commit().await.unwrap();
    };
    tokio::join!(take(two), write);
    let mut tx = store.begin().await.unwrap();
    let On::Postgres(pg) = tx.on() else { unreachable!() };
    let zones: Vec<i32> = sqlx::query_scalar("select zone from zone_inputs").fetch_all(pg).await.unwrap();
    assert_eq!(zones, [1]);
}
