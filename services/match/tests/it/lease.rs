//! The lease, on both stores; and what only PostgreSQL's locks show.

use chrono::Duration;
use matching::lease::{self, Held};
use matching::zones::Zone;
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

on_both_stores!(only_the_holder_of_the_lease_passes_the_guard);

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
