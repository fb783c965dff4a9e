//! The rows and the lease, the same against memory and against PostgreSQL.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::Duration;
use matching::engine::{Engine, Offer, Outcome, Ride, Rows, rows};
use matching::{MIGRATIONS, Tables, lease};
use platform::{Failure, On, Store, StoreError, World};
use streams::{MatchId, RideId, UserId};

use crate::city::{City, rules, uuid};
use testing::database;

const TTL: Duration = Duration::seconds(5);

fn memory() -> Store<Tables> {
    Store::memory(&World::real(), &Arc::from("test"))
}

async fn postgres() -> Store<Tables> {
    let url = database::fresh().await;
    Store::postgres(&World::real(), &Arc::from("test"), &url, "matching", &MIGRATIONS, 4).await.unwrap()
}

async fn write(on: &Store<Tables>, rows: &Rows) -> Result<(), StoreError> {
    let mut tx = on.begin().await?;
    rows::write(&mut tx, rows).await?;
    tx.commit().await
}

/// A life with every kind of row in every state, written after each line.
async fn what_is_written_is_read(on: Store<Tables>) {
    let mut city = City::new();
    for line in [
        "d1 on 0",
        "d2 on 1",
        "d3 on 2 van",
        "d4 on 2.5",
        "d4 off",
        "r1 p1 find 0",
        "m1 decline",
        "17 s",
        "r2 p2 find 0",
        "m3 accept",
        "k1 pickup m3",
        "r3 p1 find 0.5",
        "r4 p1 find 0.25",
        "r5 p5 find 0",
        "d2 on 1",
        "r6 p6 find 0",
        "m4 accept",
        "k2 cancelled m4",
        "17 s",
        "k1 completed m3",
        "d1 on 0",
        "r6 p6 end",
        "d5 on 0",
    ] {
        city.line(line);
        write(&on, &city.engine.rows()).await.unwrap();
        let mut tx = on.begin().await.unwrap();
        let rows = rows::load(&mut tx, city.now, rules().request_ttl).await.unwrap();
        assert_eq!(rows, city.engine.rows(), "after {line}");
    }
    let rows = city.engine.rows();
    assert!(rows.requests.iter().any(|r| !r.excluded.is_empty()), "the life has an exclusion");
    assert!(rows.offers.iter().any(|o| o.ended.is_none()), "and a live offer");

    // A new process an hour later: what is live, and nothing else but drivers.
    let mut tx = on.begin().await.unwrap();
    let later = rows::load(&mut tx, city.now + Duration::hours(1), rules().request_ttl).await.unwrap();
    drop(tx);
    let live = Rows {
        drivers: rows.drivers.clone(),
        requests: rows.requests.iter().filter(|r| r.ended_at.is_none()).cloned().collect(),
        offers: rows.offers.iter().filter(|o| o.ended.is_none()).cloned().collect(),
        rides: rows.rides.iter().filter(|r| r.ended_at.is_none()).cloned().collect(),
    };
    assert_eq!(later, live);

    // Ended rides are told from others long after the engine forgot them.
    let mut tx = on.begin().await.unwrap();
    let k = |name: &str| RideId(uuid(name));
    assert_eq!(rows::ended_rides(&mut tx, &[k("k1"), k("k9")]).await.unwrap(), BTreeSet::from([k("k1")]));
    rows::purge(&mut tx, city.now + Duration::days(2)).await.unwrap();
    assert_eq!(rows::ended_rides(&mut tx, &[k("k1")]).await.unwrap().len(), 1);
    let purged = rows::load(&mut tx, city.now, rules().request_ttl).await.unwrap();
    assert_eq!((&purged.requests, &purged.offers), (&live.requests, &live.offers));
    rows::purge(&mut tx, city.now + Duration::days(9)).await.unwrap();
    let purged = rows::load(&mut tx, city.now, rules().request_ttl).await.unwrap();
    assert_eq!(purged.rides, live.rides);
    assert!(purged.drivers.iter().all(|d| d.active));
    tx.commit().await.unwrap();
    assert!(Engine::from_rows(rules(), purged).waiting().count() == city.engine.waiting().count());
}

/// A driver gets two holds: not even if the engine wanted it.
async fn second_holds_are_refused(on: Store<Tables>) {
    let mut city = City::new();
    city.play(&[("d1 on 0", ""), ("r1 p1 find 0", "m1 d1 to r1")]);
    let rows = city.engine.rows();
    write(&on, &rows).await.unwrap();
    let first = rows.offers[0].clone();
    let of = |m: &str, d: &str, p: &str| Offer {
        match_id: MatchId(uuid(m)),
        driver_id: UserId(uuid(d)),
        passenger_id: UserId(uuid(p)),
        ..first.clone()
    };
    let offers = |offers: &[&Offer]| Rows { offers: offers.iter().map(|o| (*o).clone()).collect(), ..Rows::default() };
    let refused = |result: Result<(), StoreError>| match result {
        Err(StoreError::Conflict { constraint }) => constraint,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(write(&on, &offers(&[&of("m2", "d1", "p2")])).await), "offers_one_live_a_driver");
    assert_eq!(refused(write(&on, &offers(&[&of("m2", "d2", "p1")])).await), "offers_one_live_a_passenger");
    let mut request = rows.requests[0].clone();
    request.request_id = streams::RequestId(uuid("r0"));
    let second = Rows { requests: vec![request], ..Rows::default() };
    assert_eq!(refused(write(&on, &second).await), "requests_one_live_a_passenger");
    // The end of the one and the beginning of the other in one batch, whatever their ids.
    let ended = Offer { ended: Some((city.now, Outcome::Cancelled)), ..first.clone() };
    write(&on, &offers(&[&of("m0", "d1", "p1"), &ended])).await.unwrap();
    let mut tx = on.begin().await.unwrap();
    let held = rows::load(&mut tx, city.now, rules().request_ttl).await.unwrap().offers;
    assert_eq!(held, [of("m0", "d1", "p1"), ended]);
    drop(tx);
    // Two live rides of one person may stand here: rides refuses the second.
    let ride = |k: &str| Ride {
        ride_id: RideId(uuid(k)),
        match_id: first.match_id,
        driver_id: first.driver_id,
        passenger_id: first.passenger_id,
        began_at: city.now,
        ended_at: None,
    };
    write(&on, &Rows { rides: vec![ride("k1"), ride("k2")], ..Rows::default() }).await.unwrap();
}

async fn only_the_holder_of_the_lease_writes(on: Store<Tables>) {
    let now = crate::city::start_time();
    let mut tx = on.begin().await.unwrap();
    assert!(matches!(lease::guard(&mut tx, 1).await, Err(Failure::Fenced)));
    assert_eq!(lease::take(&mut tx, "a", TTL, now).await.unwrap(), Some(1));
    tx.commit().await.unwrap();

    let mut tx = on.begin().await.unwrap();
    assert_eq!(lease::take(&mut tx, "b", TTL, now).await.unwrap(), None);
    lease::guard(&mut tx, 1).await.unwrap();
    assert!(lease::renew(&mut tx, 1, TTL, now).await.unwrap());
    assert_eq!(lease::take(&mut tx, "b", TTL, now).await.unwrap(), None);
    // Given back: still the epoch's, until another takes it.
    assert!(lease::renew(&mut tx, 1, Duration::milliseconds(-1), now).await.unwrap());
    lease::guard(&mut tx, 1).await.unwrap();
    tx.commit().await.unwrap();

    let mut tx = on.begin().await.unwrap();
    assert_eq!(lease::take(&mut tx, "b", TTL, now).await.unwrap(), Some(2));
    assert!(matches!(lease::guard(&mut tx, 1).await, Err(Failure::Fenced)));
    assert!(!lease::renew(&mut tx, 1, TTL, now).await.unwrap());
    lease::guard(&mut tx, 2).await.unwrap();
    tx.commit().await.unwrap();
}

macro_rules! on_both {
    ($($case:ident),+) => {
        mod in_memory {
            $(#[tokio::test] async fn $case() { super::$case(super::memory()).await; })+
        }
        mod in_postgres {
            $(#[tokio::test] async fn $case() { super::$case(super::postgres().await).await; })+
        }
    };
}
on_both!(what_is_written_is_read, second_holds_are_refused, only_the_holder_of_the_lease_writes);

#[tokio::test]
async fn a_take_over_waits_for_a_running_transaction_and_a_renewal_does_not() {
    let on = postgres().await;
    let now = crate::city::start_time();
    let mut tx = on.begin().await.unwrap();
    assert_eq!(lease::take(&mut tx, "a", TTL, now).await.unwrap(), Some(1));
    tx.commit().await.unwrap();

    let mut working = on.begin().await.unwrap();
    lease::guard(&mut working, 1).await.unwrap();
    // The lease runs out while the transaction is under way: written without waiting for it.
    let mut other = on.begin().await.unwrap();
    assert!(lease::renew(&mut other, 1, Duration::milliseconds(-1), now).await.unwrap());
    other.commit().await.unwrap();

    let mut thief = on.begin().await.unwrap();
    let On::Postgres(pg) = thief.on() else { unreachable!() };
    sqlx::query("set local lock_timeout = '50ms'").execute(&mut *pg).await.unwrap();
    let waits = lease::take(&mut thief, "b", TTL, now).await;
    assert!(matches!(waits, Err(StoreError::Serialization(_))), "{waits:?}");
    drop(thief);

    working.commit().await.unwrap();
    let mut thief = on.begin().await.unwrap();
    assert_eq!(lease::take(&mut thief, "b", TTL, now).await.unwrap(), Some(2));
}
