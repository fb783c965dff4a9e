//! The engine's rows, on both stores.

use std::collections::BTreeSet;

use chrono::Duration;
use matching::engine::{Engine, EngineRows, Offer, OfferOutcome, Ride, rows};
use matching::zones::Zone;
use matching::{MIGRATIONS, Tables};
use platform::{Store, StoreError, World};
use streams::{MatchId, RequestId, RideId};
use testing::{Backend, on_both_stores};

use crate::engine_harness::{EngineHarness, rows as rows_of, rules, user, uuid};

on_both_stores!(what_is_written_is_loaded, a_second_live_row_of_one_person_is_refused);

async fn store(backend: Backend) -> Store<Tables> {
    backend.store(&World::real(), "test", "matching", &MIGRATIONS).await
}

async fn write(store: &Store<Tables>, rows: &EngineRows) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    rows::write(&mut tx, rows, Zone::ONLY).await?;
    tx.commit().await
}

/// A sequence of events with every kind of row in every state, written after each line.
async fn what_is_written_is_loaded(backend: Backend) {
    let store = store(backend).await;
    let mut harness = EngineHarness::new();
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
        harness.line(line);
        write(&store, &rows_of(&harness.engine)).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        let rows = rows::load(&mut tx, harness.now, rules().request_ttl, Zone::ONLY).await.unwrap();
        assert_eq!(rows, rows_of(&harness.engine), "after {line}");
    }
    let rows = rows_of(&harness.engine);
    assert!(rows.requests.iter().any(|r| !r.excluded.is_empty()), "there is an exclusion");
    assert!(rows.offers.iter().any(|o| o.ended.is_none()), "and a live offer");

    // A process that becomes active an hour later loads what is live, and drivers.
    let mut tx = store.begin().await.unwrap();
    let later = rows::load(&mut tx, harness.now + Duration::hours(1), rules().request_ttl, Zone::ONLY).await.unwrap();
    drop(tx);
    let live = EngineRows {
        drivers: rows.drivers.clone(),
        requests: rows.requests.iter().filter(|r| r.ended_at.is_none()).cloned().collect(),
        offers: rows.offers.iter().filter(|o| o.ended.is_none()).cloned().collect(),
        rides: rows.rides.iter().filter(|r| r.ended_at.is_none()).cloned().collect(),
    };
    assert_eq!(later, live);

    // The rows say that a ride has ended long after the engine forgot it.
    let mut tx = store.begin().await.unwrap();
    let k = |name: &str| RideId(uuid(name));
    assert_eq!(rows::ended_rides(&mut tx, &[k("k1"), k("k9")]).await.unwrap(), BTreeSet::from([k("k1")]));
    rows::purge(&mut tx, harness.now + Duration::days(2)).await.unwrap();
    assert_eq!(rows::ended_rides(&mut tx, &[k("k1")]).await.unwrap().len(), 1);
    let purged = rows::load(&mut tx, harness.now, rules().request_ttl, Zone::ONLY).await.unwrap();
    assert_eq!((&purged.requests, &purged.offers), (&live.requests, &live.offers));
    rows::purge(&mut tx, harness.now + Duration::days(9)).await.unwrap();
    let purged = rows::load(&mut tx, harness.now, rules().request_ttl, Zone::ONLY).await.unwrap();
    assert_eq!(purged.rides, live.rides);
    assert!(purged.drivers.iter().all(|d| d.active));
    tx.commit().await.unwrap();
    assert!(Engine::from_rows(rules(), purged).waiting().count() == harness.engine.waiting().count());
}

/// The store refuses a second hold even if the engine had a bug.
async fn a_second_live_row_of_one_person_is_refused(backend: Backend) {
    let store = store(backend).await;
    let mut harness = EngineHarness::new();
    harness.play(&[("d1 on 0", ""), ("r1 p1 find 0", "m1 d1 to r1")]);
    let rows = rows_of(&harness.engine);
    write(&store, &rows).await.unwrap();
    let first = rows.offers[0].clone();
    let of = |m: &str, d: &str, p: &str| Offer {
        match_id: MatchId(uuid(m)),
        driver_id: user(d),
        passenger_id: user(p),
        ..first.clone()
    };
    let offers = |offers: &[&Offer]| EngineRows {
        offers: offers.iter().map(|o| (*o).clone()).collect(),
        ..EngineRows::default()
    };
    let refused = |result: Result<(), StoreError>| match result {
        Err(StoreError::Conflict { constraint }) => constraint,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(write(&store, &offers(&[&of("m2", "d1", "p2")])).await), "offers_one_live_a_driver");
    assert_eq!(refused(write(&store, &offers(&[&of("m2", "d2", "p1")])).await), "offers_one_live_a_passenger");
    let mut request = rows.requests[0].clone();
    request.request_id = RequestId(uuid("r0"));
    let second = EngineRows { requests: vec![request], ..EngineRows::default() };
    assert_eq!(refused(write(&store, &second).await), "requests_one_live_a_passenger");
    // One batch may end the old offer and write the new one, whichever id is lower.
    let ended = Offer { ended: Some((harness.now, OfferOutcome::Cancelled)), ..first.clone() };
    write(&store, &offers(&[&of("m0", "d1", "p1"), &ended])).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let held = rows::load(&mut tx, harness.now, rules().request_ttl, Zone::ONLY).await.unwrap().offers;
    assert_eq!(held, [of("m0", "d1", "p1"), ended]);
    drop(tx);
    // Two live rides of one person are allowed here: the service rides refuses the second.
    let ride = |k: &str| Ride {
        ride_id: RideId(uuid(k)),
        match_id: first.match_id,
        driver_id: first.driver_id,
        passenger_id: first.passenger_id,
        began_at: harness.now,
        ended_at: None,
        driver_cancelled: false,
        expected_end: None,
    };
    write(&store, &EngineRows { rides: vec![ride("k1"), ride("k2")], ..EngineRows::default() }).await.unwrap();
}
