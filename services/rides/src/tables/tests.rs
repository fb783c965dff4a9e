//! What every operation on the tables promises, in memory and in PostgreSQL.

use platform::{Store, World};
use pricing::Tariffs;
use streams::event::{MatchAccepted, Party, PaymentCapture};
use testing::{Backend, on_both_stores};

use platform::{On, StoreError};
use streams::event::Event;
use streams::{MatchId, Money, RequestId, RideId, RideStatus, UserId};
use uuid::Uuid;

use super::*;
use crate::MIGRATIONS;
use crate::event_log::rows::{append_events, events_of};
use crate::ledger;
use crate::payment::PaymentStatus;
use crate::payment::rows::{debts_of, insert_payments, lock_payments, payments_of, settle_payments};
use crate::ride::requests::{self, Fate};
use crate::ride::rows::*;
use crate::ride::tests::{accepted, at};
use crate::ride::{Change, CommandInput, Distance, Outcome, decide};

struct Bench {
    store: Store<Tables>,
    world: World,
}

async fn bench(backend: Backend) -> Bench {
    let world = World::seeded(at(0), 7);
    Bench { store: backend.store(&world, "test", "rides", &MIGRATIONS).await, world }
}

on_both_stores!(
    a_ride_is_read_as_it_was_written,
    every_float_of_a_row_is_read_bit_for_bit,
    a_driver_never_gets_two_live_rides,
    a_passenger_never_gets_two_live_rides,
    a_match_never_becomes_two_rides,
    a_request_never_becomes_two_rides,
    a_request_ends_or_becomes_a_ride,
    a_superseded_match_stays_lost,
    an_update_of_another_version_is_refused,
    only_its_driver_and_its_passenger_find_a_ride,
    rides_are_listed_newest_first_page_by_page,
    events_are_logged_as_published_and_once,
    a_ride_is_billed_once,
    a_payment_is_settled_once,
    only_rides_that_arrived_long_ago_are_overdue,
    wrong_pins_are_counted_and_deleted,
);

impl Bench {
    fn accepted(&self) -> MatchAccepted {
        let world = &self.world;
        MatchAccepted {
            match_id: world.id(),
            driver_id: world.id(),
            passenger_id: world.id(),
            request_id: world.id(),
            ..accepted()
        }
    }

    fn change(&self, accepted: &MatchAccepted, seconds: i64) -> Change {
        Ride::create(accepted, self.world.id(), None, at(seconds))
    }

    async fn insert(&self, rides: &[Ride]) -> Vec<MatchId> {
        let rides: Vec<_> = rides.iter().map(|ride| (RequestId(ride.match_id.0), ride.clone())).collect();
        self.insert_of(&rides).await
    }

    async fn insert_of(&self, rides: &[(RequestId, Ride)]) -> Vec<MatchId> {
        let mut tx = self.store.begin().await.unwrap();
        let inserted = insert_live_rides(&mut tx, rides).await.unwrap();
        tx.commit().await.unwrap();
        inserted.into_iter().collect()
    }

    async fn update(&self, was: u32, ride: &Ride) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await.unwrap();
        update_rides(&mut tx, &[(was, ride.clone())]).await?;
        tx.commit().await
    }

    async fn ride(&self, ride: &Ride) -> Ride {
        let mut tx = self.store.begin().await.unwrap();
        ride_of(&mut tx, ride.ride_id, ride.driver_id).await.unwrap().unwrap()
    }
}

fn next(ride: &Ride, by: Party, order: &CommandInput<'_>, seconds: i64) -> Ride {
    match decide(ride, by, order, &Tariffs::default(), at(seconds)).unwrap() {
        Outcome::Changed(change) => change.ride,
        other => panic!("{other:?}"),
    }
}

fn started(ride: &Ride, seconds: i64) -> Ride {
    next(ride, Party::Driver, &CommandInput::Start { pin: "1", right: "1", tries: PinTries::default() }, seconds)
}

fn arrived(ride: &Ride, seconds: i64) -> Ride {
    next(&started(ride, seconds - 600), Party::Driver, &CommandInput::Arrive, seconds)
}

fn completed(ride: &Ride, seconds: i64) -> Ride {
    let distance = Distance::Measured(1_234.567_890_123_4);
    next(&arrived(ride, seconds), Party::System, &CommandInput::Complete(distance), seconds)
}

fn cancelled(ride: &Ride, seconds: i64) -> Ride {
    next(
        ride,
        Party::Passenger,
        &CommandInput::Cancel { reason: "“rain”, 'wind'\n", note: None, driven: None, search: None },
        seconds,
    )
}

async fn a_ride_is_read_as_it_was_written(backend: Backend) {
    let b = bench(backend).await;
    for end in [completed, cancelled, arrived, started] {
        let ride = b.change(&b.accepted(), 0).ride;
        b.insert(std::slice::from_ref(&ride)).await;
        assert_eq!(b.ride(&ride).await, ride);
        let ended = end(&ride, 900);
        b.update(1, &ended).await.unwrap();
        assert_eq!(b.ride(&ride).await, ended);
    }
}

/// The hashes of the events rest on it: a float that comes back as its neighbour would be a finding of the audit.
async fn every_float_of_a_row_is_read_bit_for_bit(backend: Backend) {
    let b = bench(backend).await;
    let awkward = [
        0.0,
        -0.0,
        0.1 + 0.2,
        1.0 / 3.0,
        5e-324,
        -5e-324,
        f64::MIN_POSITIVE,
        f64::EPSILON,
        f64::MAX,
        f64::MIN,
        9_007_199_254_740_993.0,
        1e21,
        1e23,
        9.999999999999997e22,
        123_456_789.123_456_78,
        89.99999999999999,
        -179.99999999999997,
    ];
    let mut bits: u64 = 0x9e37_79b9_7f4a_7c15;
    let random = std::iter::repeat_with(|| {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from_bits(bits)
    });
    let floats: Vec<f64> = awkward.into_iter().chain(random.filter(|f| f.is_finite()).take(1_983)).collect();
    let rides: Vec<Ride> = floats
        .chunks_exact(4)
        .map(|f| {
            let mut ride = completed(&b.change(&b.accepted(), 0).ride, 900);
            (ride.pickup.lat, ride.pickup.lng, ride.dropoff.lat) = (f[0], f[1], f[2]);
            ride.receipt.as_mut().unwrap().distance_m = f[3];
            ride
        })
        .collect();
    let mut tx = b.store.begin().await.unwrap();
    insert_rebuilt_rides(&mut tx, &rides).await.unwrap();
    let mut read = rides_from(&mut tx, RideId(Uuid::nil()), rides.len() + 1).await.unwrap();
    read.sort_by_key(|ride| rides.iter().position(|r| r.ride_id == ride.ride_id));
    let bits = |ride: &Ride| {
        let distance_m = ride.receipt.as_ref().unwrap().distance_m;
        [ride.pickup.lat, ride.pickup.lng, ride.dropoff.lat, distance_m].map(f64::to_bits)
    };
    assert_eq!(read.iter().map(bits).collect::<Vec<_>>(), rides.iter().map(bits).collect::<Vec<_>>());
    assert_eq!(read, rides);
}

async fn wrong_pins_are_counted_and_deleted(backend: Backend) {
    let b = bench(backend).await;
    let (one, other): (RideId, RideId) = (b.world.id(), b.world.id());
    let store = async |ride, failures| {
        let tries = PinTries { failures, failed_at: (failures > 0).then(|| at(i64::from(failures))) };
        let mut tx = b.store.begin().await.unwrap();
        store_pin_tries(&mut tx, ride, &tries).await.unwrap();
        assert_eq!(pin_tries(&mut tx, ride).await.unwrap(), tries);
        tx.commit().await.unwrap();
    };
    store(one, 1).await;
    store(one, 2).await;
    store(other, 5).await;
    store(one, 0).await;
    store(one, 0).await;
    let mut tx = b.store.begin().await.unwrap();
    assert_eq!(pin_tries(&mut tx, other).await.unwrap().failures, 5);
}

async fn a_driver_never_gets_two_live_rides(backend: Backend) {
    let b = bench(backend).await;
    let (first, mut other) = (b.accepted(), b.accepted());
    other.driver_id = first.driver_id;
    two_live_rides(&b, first, other).await;
}

async fn a_passenger_never_gets_two_live_rides(backend: Backend) {
    let b = bench(backend).await;
    let (first, mut other) = (b.accepted(), b.accepted());
    other.passenger_id = first.passenger_id;
    two_live_rides(&b, first, other).await;
}

/// The two matches share a person: one becomes a ride, in one batch as in two, until that ride has ended.
async fn two_live_rides(b: &Bench, first: MatchAccepted, other: MatchAccepted) {
    let (ride, second) = (b.change(&first, 0).ride, b.change(&other, 0).ride);
    assert_eq!(b.insert(&[ride.clone(), second.clone()]).await, [first.match_id]);
    assert_eq!(b.insert(std::slice::from_ref(&second)).await, []);
    b.update(1, &started(&ride, 10)).await.unwrap();
    assert_eq!(b.insert(std::slice::from_ref(&second)).await, []);
    let ended = cancelled(&b.ride(&ride).await, 20);
    b.update(2, &ended).await.unwrap();
    assert_eq!(b.insert(&[second]).await, [other.match_id]);
}

async fn a_match_never_becomes_two_rides(backend: Backend) {
    let b = bench(backend).await;
    let accepted = b.accepted();
    let (ride, again) = (b.change(&accepted, 0).ride, b.change(&accepted, 1).ride);
    assert_eq!(b.insert(std::slice::from_ref(&ride)).await, [accepted.match_id]);
    assert_eq!(b.insert(std::slice::from_ref(&again)).await, []);
    // It stays so after the ride has ended, and the match is not superseded.
    b.update(1, &cancelled(&ride, 5)).await.unwrap();
    assert_eq!(b.insert(&[again]).await, []);
    let mut tx = b.store.begin().await.unwrap();
    assert!(supersede(&mut tx, &[accepted.match_id], at(6)).await.unwrap().is_empty());
}

async fn a_request_never_becomes_two_rides(backend: Backend) {
    let b = bench(backend).await;
    let (first, second) = (b.accepted(), b.accepted());
    let (ride, late) = (b.change(&first, 0).ride, b.change(&second, 9).ride);
    let one = b.insert_of(&[(first.request_id, ride.clone())]).await;
    assert_eq!(one, [first.match_id]);
    b.update(1, &cancelled(&ride, 5)).await.unwrap();
    // Accepted before, delivered after that ride has ended. The driver and the passenger are others, so no row of rides forbids it.
    assert_eq!(b.insert_of(&[(first.request_id, late.clone())]).await, []);
    let mut tx = b.store.begin().await.unwrap();
    assert!(supersede(&mut tx, &[second.match_id], at(10)).await.unwrap().contains(&second.match_id));
    tx.commit().await.unwrap();
    assert_eq!(b.insert_of(&[(second.request_id, late)]).await, [], "and it stays lost");
}

async fn a_request_ends_or_becomes_a_ride(backend: Backend) {
    let b = bench(backend).await;
    let (accepted, other) = (b.accepted(), b.accepted());
    let end = async |request| {
        let mut tx = b.store.begin().await.unwrap();
        let fate = requests::end(&mut tx, request).await.unwrap();
        tx.commit().await.unwrap();
        fate
    };
    b.insert_of(&[(accepted.request_id, b.change(&accepted, 0).ride)]).await;
    for _ in 0..2 {
        assert_eq!(end(accepted.request_id).await, Fate::Fulfilled(accepted.match_id));
        assert_eq!(end(other.request_id).await, Fate::Ended, "the first time, and again");
    }
    assert_eq!(b.insert_of(&[(other.request_id, b.change(&other, 1).ride)]).await, [], "no ride comes of it");
}

async fn a_superseded_match_stays_lost(backend: Backend) {
    let b = bench(backend).await;
    let accepted = b.accepted();
    for first in [true, false] {
        let mut tx = b.store.begin().await.unwrap();
        let lost = supersede(&mut tx, &[accepted.match_id], at(1)).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(lost.contains(&accepted.match_id), first, "returned once");
    }
    assert_eq!(b.insert(&[b.change(&accepted, 2).ride]).await, []);
}

async fn an_update_of_another_version_is_refused(backend: Backend) {
    let b = bench(backend).await;
    let ride = b.change(&b.accepted(), 0).ride;
    b.insert(std::slice::from_ref(&ride)).await;
    b.update(1, &started(&ride, 10)).await.unwrap();
    let late = b.update(1, &cancelled(&ride, 11)).await;
    assert!(matches!(late, Err(StoreError::Serialization(_))), "{late:?}");
    assert_eq!(b.ride(&ride).await.status, RideStatus::Started);
    let unknown = b.change(&b.accepted(), 0).ride;
    assert!(b.update(1, &started(&unknown, 10)).await.is_err());
}

async fn only_its_driver_and_its_passenger_find_a_ride(backend: Backend) {
    let b = bench(backend).await;
    let (ride, other) = (b.change(&b.accepted(), 0).ride, b.change(&b.accepted(), 0).ride);
    b.insert(&[ride.clone(), other.clone()]).await;
    let mut tx = b.store.begin().await.unwrap();
    for user in [ride.driver_id, ride.passenger_id] {
        assert_eq!(ride_of(&mut tx, ride.ride_id, user).await.unwrap().as_ref(), Some(&ride));
        assert_eq!(lock_ride_of(&mut tx, ride.ride_id, user).await.unwrap().as_ref(), Some(&ride));
        assert_eq!(rides_of(&mut tx, user, After::NEWEST, 10).await.unwrap(), std::slice::from_ref(&ride));
    }
    for stranger in [other.driver_id, other.passenger_id, b.world.id()] {
        assert_eq!(ride_of(&mut tx, ride.ride_id, stranger).await.unwrap(), None);
        assert_eq!(lock_ride_of(&mut tx, ride.ride_id, stranger).await.unwrap(), None);
    }
    assert_eq!(rides_of(&mut tx, b.world.id(), After::NEWEST, 10).await.unwrap(), []);
    let both = lock_rides(&mut tx, &[other.ride_id, ride.ride_id, b.world.id()]).await.unwrap();
    assert!(both.is_sorted_by_key(|r| r.ride_id));
    assert_eq!(both.len(), 2);
}

async fn rides_are_listed_newest_first_page_by_page(backend: Backend) {
    let b = bench(backend).await;
    // One person, as a driver and as a passenger, with two rides at the same moment.
    let person: UserId = b.world.id();
    let mut all = Vec::new();
    for (n, second) in [0, 1, 1, 2, 3, 4, 5].into_iter().enumerate() {
        let mut accepted = b.accepted();
        *(if n % 2 == 0 { &mut accepted.driver_id } else { &mut accepted.passenger_id }) = person;
        let ride = b.change(&accepted, second).ride;
        b.insert(std::slice::from_ref(&ride)).await;
        let ended = cancelled(&ride, second);
        b.update(1, &ended).await.unwrap();
        all.push(ended);
    }
    all.sort_by_key(|r| std::cmp::Reverse((r.created_at, r.ride_id)));
    for limit in 1..=8 {
        let (mut found, mut after) = (Vec::new(), After::NEWEST);
        loop {
            let mut tx = b.store.begin().await.unwrap();
            let page = rides_of(&mut tx, person, after, limit).await.unwrap();
            assert!(page.len() <= limit as usize);
            let Some(last) = page.last() else { break };
            after = After { created_at: last.created_at, ride_id: last.ride_id };
            found.extend(page);
        }
        assert_eq!(found, all, "pages of {limit}");
    }
}

async fn events_are_logged_as_published_and_once(backend: Backend) {
    let b = bench(backend).await;
    let change = b.change(&b.accepted(), 0);
    let mut tx = b.store.begin().await.unwrap();
    let trace = b.world.trace();
    let event = EventRow::new(&change.event, trace.as_str());
    append_events(&mut tx, vec![event.clone()]).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = b.store.begin().await.unwrap();
    let logged = events_of(&mut tx, change.ride.ride_id).await.unwrap();
    assert_eq!(logged, std::slice::from_ref(&event));
    assert_eq!(logged[0].body.as_bytes(), Event::Ride(Box::new(change.event.clone())).body());
    assert_eq!(crate::hash_chain::verify_body(&logged[0].subject, logged[0].body.as_bytes()), Ok(change.event.clone()));
    assert_eq!(events_of(&mut tx, b.world.id()).await.unwrap(), []);
    let twice = append_events(&mut tx, vec![event]).await;
    assert!(matches!(twice, Err(StoreError::Conflict { constraint }) if constraint == "events_pkey"));
}

async fn a_ride_is_billed_once(backend: Backend) {
    let b = bench(backend).await;
    let ride = b.change(&b.accepted(), 0).ride;
    b.insert(std::slice::from_ref(&ride)).await;
    let (reason, total, platform_fee, driver_payout) =
        (crate::ride::BillReason::Fare, Money::usd(1_000), Money::usd(200), Money::usd(800));
    let due = ledger::billed(&ride, &crate::ride::Bill { reason, total, platform_fee, driver_payout }).unwrap();
    let paid = ledger::captured(&Payment::due(&ride, total), "ledger").unwrap();
    let balances = async || {
        let mut tx = b.store.begin().await.unwrap();
        let mut found = Vec::new();
        for account in
            [&ledger::passenger(ride.passenger_id), &ledger::driver(ride.driver_id), ledger::REVENUE, "cash:ledger"]
        {
            found.push(ledger::rows::balance(&mut tx, account, streams::Currency::USD).await.unwrap());
        }
        found
    };
    let mut tx = b.store.begin().await.unwrap();
    ledger::rows::post(&mut tx, std::slice::from_ref(&due)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(balances().await, [1_000, -800, -200, 0]);
    let mut tx = b.store.begin().await.unwrap();
    ledger::rows::post(&mut tx, &[paid]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(balances().await, [0, -800, -200, 1_000]);
    let mut tx = b.store.begin().await.unwrap();
    let twice = ledger::rows::post(&mut tx, &[due]).await;
    assert!(matches!(twice, Err(StoreError::Conflict { constraint }) if constraint.starts_with("ledger_entries_")));
    drop(tx);
    assert_eq!(balances().await, [0, -800, -200, 1_000]);
}

async fn a_payment_is_settled_once(backend: Backend) {
    let b = bench(backend).await;
    let ride = b.change(&b.accepted(), 0).ride;
    b.insert(std::slice::from_ref(&ride)).await;
    let due = Payment::due(&ride, Money::usd(700));
    let capture = due.capture();
    let mut tx = b.store.begin().await.unwrap();
    insert_payments(&mut tx, std::slice::from_ref(&due)).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = b.store.begin().await.unwrap();
    let second = Payment { payment_id: b.world.id(), ..due };
    assert!(insert_payments(&mut tx, &[second]).await.is_err(), "one payment a ride");
    drop(tx);

    let mut tx = b.store.begin().await.unwrap();
    let pending = lock_payments(&mut tx, &[capture.payment_id]).await.unwrap();
    assert_eq!((pending.len(), pending[0].status), (1, PaymentStatus::Pending));
    assert!(pending[0].is_for(&capture));
    assert!(!pending[0].is_for(&PaymentCapture { amount: Money::usd(7), ..capture.clone() }));
    let refused = Payment { status: PaymentStatus::Refused, tried_at: Some(at(2)), ..pending[0].clone() };
    settle_payments(&mut tx, std::slice::from_ref(&refused)).await.unwrap();
    tx.commit().await.unwrap();

    let mut tx = b.store.begin().await.unwrap();
    assert_eq!(payments_of(&mut tx, &[ride.ride_id]).await.unwrap(), std::slice::from_ref(&refused));
    let debts = debts_of(&mut tx, ride.passenger_id).await.unwrap();
    assert_eq!(debts.iter().map(|d| (d.amount, d.at)).collect::<Vec<_>>(), [(Money::usd(700), at(2))]);
    let again = settle_payments(&mut tx, &[refused]).await;
    assert!(again.is_err(), "settled twice");
}

async fn only_rides_that_arrived_long_ago_are_overdue(backend: Backend) {
    let b = bench(backend).await;
    let rides: Vec<Ride> = (0..4).map(|_| b.change(&b.accepted(), 0).ride).collect();
    b.insert(&rides).await;
    b.update(1, &started(&rides[0], 10)).await.unwrap();
    b.update(1, &arrived(&rides[1], 700)).await.unwrap();
    b.update(1, &arrived(&rides[2], 800)).await.unwrap();
    b.update(1, &completed(&rides[3], 650)).await.unwrap();
    let due = async |until: i64, limit| {
        let mut tx = b.store.begin().await.unwrap();
        let found = lock_arrived(&mut tx, at(until), limit).await.unwrap();
        // Commit: a dropped transaction releases its locks only a moment later.
        tx.commit().await.unwrap();
        found.into_iter().map(|r| r.ride_id).collect::<Vec<_>>()
    };
    assert_eq!(due(699, 9).await, []);
    assert_eq!(due(700, 9).await, [rides[1].ride_id]);
    assert_eq!(due(900, 9).await, [rides[1].ride_id, rides[2].ride_id]);
    assert_eq!(due(900, 1).await, [rides[1].ride_id]);
    b.update(3, &next(&arrived(&rides[1], 700), Party::System, &CommandInput::Complete(Distance::Estimated), 800))
        .await
        .unwrap();
    assert_eq!(due(900, 9).await, [rides[2].ride_id]);
}

/// What only a server with several connections shows: the indexes themselves, and rows locked by another process.
#[tokio::test]
async fn the_database_itself_refuses_a_second_live_ride() {
    let b = bench(Backend::Postgres).await;
    let ride = b.change(&b.accepted(), 0).ride;
    b.insert(std::slice::from_ref(&ride)).await;
    for (driver, passenger, wanted) in
        [(ride.driver_id, b.world.id(), "rides_live_driver"), (b.world.id(), ride.passenger_id, "rides_live_passenger")]
    {
        let mut tx = b.store.begin().await.unwrap();
        let On::Postgres(pg) = tx.on() else { panic!() };
        let found = sqlx::query(
            "insert into rides select $1, $2, $3, $4, version, 'started', pickup_lat, pickup_lng, \
             dropoff_lat, dropoff_lng, vehicle_type, created_at, updated_at, started_at, arrived_at, last_hash from rides",
        )
        .bind(b.world.id::<Uuid>())
        .bind(b.world.id::<Uuid>())
        .bind(driver.0)
        .bind(passenger.0)
        .execute(&mut *pg)
        .await
        .map_err(StoreError::from);
        assert!(matches!(&found, Err(StoreError::Conflict { constraint }) if constraint == wanted), "{found:?}");
    }
}

#[tokio::test]
async fn an_overdue_ride_is_billed_by_one_process_only() {
    let b = bench(Backend::Postgres).await;
    let ride = b.change(&b.accepted(), 0).ride;
    b.insert(std::slice::from_ref(&ride)).await;
    b.update(1, &arrived(&ride, 700)).await.unwrap();
    let mut one = b.store.begin().await.unwrap();
    assert_eq!(lock_arrived(&mut one, at(800), 9).await.unwrap().len(), 1);
    let mut other = b.store.begin().await.unwrap();
    assert_eq!(lock_arrived(&mut other, at(800), 9).await.unwrap().len(), 0, "passed over, not waited for");
}

#[tokio::test]
async fn of_two_processes_that_race_for_a_driver_one_wins() {
    let b = bench(Backend::Postgres).await;
    let (first, mut other) = (b.accepted(), b.accepted());
    other.driver_id = first.driver_id;
    let mut one = b.store.begin().await.unwrap();
    let won = insert_live_rides(&mut one, &[(first.request_id, b.change(&first, 0).ride)]).await.unwrap();
    assert!(won.contains(&first.match_id));
    // The second transaction waits for the commit of the first, and then inserts nothing, without an error.
    let (store, request, ride) = (b.store.clone(), other.request_id, b.change(&other, 0).ride);
    let waiting = tokio::spawn(async move {
        let mut tx = store.begin().await.unwrap();
        let inserted = insert_live_rides(&mut tx, &[(request, ride.clone())]).await.unwrap();
        let lost = supersede(&mut tx, &[ride.match_id], at(0)).await.unwrap();
        tx.commit().await.unwrap();
        (inserted.len(), lost.len())
    });
    one.commit().await.unwrap();
    assert_eq!(waiting.await.unwrap(), (0, 1));
}
