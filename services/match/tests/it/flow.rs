//! The whole service on the memory bus: events in, events out; the standby; a transaction that fails.

use std::sync::Arc;
use std::time::Duration;

use matching::{Config, MIGRATIONS, Matching, Tables, lease};
use platform::outbox::message;
use platform::{CancellationToken, Platform, Store, World, background};
use streams::bus::{Replay, ReplayStart};
use streams::event::{LocationUpdate, MatchFound, Party, RejectReason};
use streams::memory::MemoryBus;
use streams::{Bus, Event, Money, RequestId, RideStatus, Service, UserId, VehicleType};
use tokio::task::JoinSet;

use crate::city::{City, km, start_time, uuid};
use testing::database;

struct Town {
    platform: Platform,
    /// Makes the events, at this world's time.
    city: City,
    seen: Replay,
}

impl Town {
    async fn new(world: World) -> Self {
        let bus = Bus::Memory(MemoryBus::new(world.started_at(), 10_000));
        let platform = Platform::new(world, bus, "a");
        background::apply_topology(&platform).await.unwrap();
        let seen = platform.bus.replay("MATCH_STREAM", None, ReplayStart::Sequence(1)).await.unwrap();
        Self { platform, city: City::new(), seen }
    }

    async fn publish(&self, event: Event) {
        let id = event.message_id(self.platform.world.now());
        let trace = self.platform.world.trace();
        let (subject, entity) = (event.subject().as_str(), event.entity_id().to_string());
        let now = self.platform.world.now();
        let message = message(subject, &id, &entity, now, trace.as_str(), Service::Users, event.body().into());
        self.platform.bus.publish(message).await.unwrap();
    }

    fn city(&mut self) -> &City {
        self.city.now = self.platform.world.now();
        &self.city
    }

    async fn beacon(&mut self, driver: &str, at: f64) {
        let e = self.city().beacon(driver, true, VehicleType::Car, at);
        self.publish(Event::UserBeacon(e)).await;
    }

    async fn find(&mut self, request: &str, passenger: &str, active: bool) {
        let e = self.city().finder(request, passenger, active, 0.0);
        self.publish(Event::UserFinder(e)).await;
    }

    fn ride(&mut self, ride: &str, found: &MatchFound, status: RideStatus) -> Event {
        let mut e = self.city().ride(uuid(ride).into(), found, status);
        (e.hash, e.previous_hash) = ("0".repeat(64), "0".repeat(64));
        if status == RideStatus::Cancelled {
            (e.by, e.reason) = (Some(Party::Driver), Some(String::new()));
            e.fee = Some(Money::usd(0));
        }
        Event::Ride(Box::new(e))
    }

    /// The next event on MATCH_STREAM; no test waits longer than a minute of its own time.
    async fn next(&mut self) -> Event {
        let stored = self.seen.next(Duration::from_secs(60)).await.unwrap().expect("an event on MATCH_STREAM");
        Event::parse(&stored.subject, &stored.payload).unwrap()
    }

    async fn found(&mut self) -> MatchFound {
        match self.next().await {
            Event::MatchFound(found) => {
                self.city.found.insert(found.match_id, found.clone());
                found
            }
            other => panic!("no match.found but {other:?}"),
        }
    }

    async fn rejected(&mut self, reason: RejectReason) -> UserId {
        match self.next().await {
            Event::MatchRejected(e) if e.reason == reason => e.driver_id,
            other => panic!("no match.rejected of {reason:?} but {other:?}"),
        }
    }

    /// A process of match, as `pod`.
    async fn process(&self, pod: &str, store: &Store<Tables>) -> (JoinSet<()>, CancellationToken) {
        let platform = Platform { pod: Arc::from(pod), ..self.platform.clone() };
        let stop = CancellationToken::new();
        let matching = Matching::start(&platform, store, Config::default()).await.unwrap();
        let mut task = JoinSet::new();
        task.spawn(matching.run(stop.clone()));
        (task, stop)
    }

    fn memory(&self) -> Store<Tables> {
        Store::memory(&self.platform.world, &self.platform.pod)
    }
}

async fn paused() -> Town {
    Town::new(World::seeded(start_time(), 1)).await
}

fn user(name: &str) -> UserId {
    UserId(uuid(name))
}

#[tokio::test(start_paused = true)]
async fn a_search_becomes_an_offer_a_hold_a_lock_and_a_free_driver_again() {
    let mut town = paused().await;
    let store = town.memory();
    let (mut task, stop) = town.process("a", &store).await;
    town.beacon("d1", 1.0).await;
    town.find("r1", "p1", true).await;
    let first = town.found().await;
    assert_eq!((first.driver_id, first.passenger_id), (user("d1"), user("p1")));
    // Nobody answers: 15 s, and the grace.
    let asked = town.platform.world.now();
    assert_eq!(town.rejected(RejectReason::Expired).await, user("d1"));
    let waited = (town.platform.world.now() - asked).as_seconds_f64();
    assert!((16.5..18.0).contains(&waited), "{waited}");

    town.beacon("d2", 2.0).await;
    let second = town.found().await;
    assert_eq!(second.driver_id, user("d2"));
    let accepted = town.city().accepted(second.match_id);
    town.publish(Event::MatchAccepted(accepted)).await;
    assert!(matches!(town.next().await, Event::MatchAccepted(_)));
    let event = town.ride("k1", &second, RideStatus::Pickup);
    town.publish(event).await;
    // d1 is free, d2 is not; when the ride ends d2 is.
    town.beacon("d1", 1.0).await;
    town.beacon("d2", 0.0).await;
    town.find("r2", "p2", true).await;
    assert_eq!(town.found().await.driver_id, user("d1"));
    town.find("r3", "p3", true).await;
    let event = town.ride("k1", &second, RideStatus::Cancelled);
    town.publish(event).await;
    assert_eq!(town.found().await.driver_id, user("d2"));
    let counted = |outcome| town.platform.metrics.matches.with_label_values(&[outcome]).get();
    assert_eq!((counted("found"), counted("expired"), counted("accepted")), (4, 1, 1));
    stop.cancel();
    task.join_next().await;
}

#[tokio::test(start_paused = true)]
async fn a_ride_pickup_that_comes_an_hour_after_the_ride_has_ended_locks_nobody() {
    let mut town = paused().await;
    let store = town.memory();
    let (mut task, stop) = town.process("a", &store).await;
    town.beacon("d1", 1.0).await;
    town.find("r1", "p1", true).await;
    let found = town.found().await;
    let cancelled = town.ride("k1", &found, RideStatus::Cancelled);
    town.publish(cancelled).await;
    // It has ended for match once d1 is offered again; by then nothing else goes on.
    town.find("r2", "p2", true).await;
    assert_eq!(town.found().await.driver_id, user("d1"));
    town.rejected(RejectReason::Expired).await;
    town.find("r2", "p2", false).await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    // Housekeeping comes with the first of these.
    town.beacon("d9", 30.0).await;
    town.find("r3", "p3", true).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let late = town.ride("k1", &found, RideStatus::Pickup);
    town.publish(late).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    town.beacon("d1", 1.0).await;
    assert_eq!(town.found().await.driver_id, user("d1"));
    stop.cancel();
    task.join_next().await;
}

#[tokio::test(start_paused = true)]
async fn a_driver_who_drives_near_is_found_by_location_updates_alone() {
    let mut town = paused().await;
    let store = town.memory();
    let (mut task, stop) = town.process("a", &store).await;
    town.beacon("d1", 8.0).await;
    town.find("r1", "p1", true).await;
    let recorded_at = town.platform.world.now() + chrono::Duration::seconds(1);
    town.publish(Event::LocationUpdate(LocationUpdate {
        user_id: user("d1"),
        ride_id: None,
        location: km(2.0),
        accuracy_m: None,
        speed_mps: None,
        heading_deg: None,
        recorded_at,
    }))
    .await;
    let found = town.found().await;
    assert_eq!(found.driver_location, km(2.0));
    stop.cancel();
    task.join_next().await;
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_what_a_stopped_and_what_a_dead_process_left() {
    let mut town = paused().await;
    let store = town.memory();
    let (mut first, stop) = town.process("a", &store).await;
    town.find("r1", "p1", true).await;
    town.beacon("d1", 1.0).await;
    town.found().await;
    let (mut second, _never) = town.process("b", &store).await;

    // Stopped: the lease is given back, and the standby goes on with the offer that is out.
    stop.cancel();
    first.join_next().await;
    town.beacon("d2", 2.0).await;
    assert_eq!(town.rejected(RejectReason::Expired).await, user("d1"));
    assert_eq!(town.found().await.driver_id, user("d2"));

    // Dead: the next one goes on once the lease has run out.
    let (mut third, stop_third) = town.process("c", &store).await;
    let died = town.platform.world.now();
    second.shutdown().await;
    town.find("r2", "p2", true).await;
    town.beacon("d3", 0.5).await;
    let found = town.found().await;
    assert_eq!((found.driver_id, found.request_id), (user("d3"), RequestId(uuid("r2"))));
    let took = (town.platform.world.now() - died).as_seconds_f64();
    assert!((4.0..7.0).contains(&took), "{took}");
    stop_third.cancel();
    third.join_next().await;
}

#[tokio::test(start_paused = true)]
async fn a_fenced_process_stands_by_and_loses_no_message() {
    let mut town = paused().await;
    let store = town.memory();
    let (mut task, stop) = town.process("a", &store).await;
    town.beacon("d1", 1.0).await;
    town.find("r1", "p1", true).await;
    town.found().await;
    // Another process took the lease while this one was held up.
    let world = &town.platform.world;
    let mut tx = store.begin().await.unwrap();
    let soon = world.now() + chrono::Duration::seconds(6);
    let epoch = lease::take(&mut tx, "thief", chrono::Duration::seconds(4), soon).await.unwrap();
    assert_eq!(epoch, Some(2));
    tx.commit().await.unwrap();
    let stolen = world.now();
    town.beacon("d2", 2.0).await;
    town.find("r2", "p2", true).await;
    assert_eq!(town.found().await.driver_id, user("d2"));
    let waited = (town.platform.world.now() - stolen).as_seconds_f64();
    assert!(waited >= 10.0, "it wrote {waited} s after it had lost its lease");
    stop.cancel();
    task.join_next().await;
}

/// Real PostgreSQL: what a transaction that failed had done in memory is forgotten.
#[tokio::test]
async fn a_failed_transaction_leaves_the_engine_as_its_rows() {
    let mut town = Town::new(World::real()).await;
    let url = database::fresh().await;
    let store: Store<Tables> =
        Store::postgres(&town.platform.world, &town.platform.pod, &url, "matching", &MIGRATIONS, 4).await.unwrap();
    let (mut task, stop) = town.process("a", &store).await;
    town.find("r1", "p1", true).await;
    let mut direct = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
    // Found before the table breaks: the process leads and works.
    town.beacon("d1", 1.0).await;
    let first = town.found().await;
    sqlx::query("alter table matching.offers rename to offers_away").execute(&mut direct).await.unwrap();
    town.find("r2", "p2", true).await;
    town.beacon("d2", 2.0).await;
    let failed = || {
        let of = |c: &str| town.platform.metrics.failed.with_label_values(&[c]).get();
        of("user_beacon_match") + of("user_finder_match")
    };
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while failed() == 0 {
        assert!(tokio::time::Instant::now() < until, "nothing failed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sqlx::query("alter table matching.offers_away rename to offers").execute(&mut direct).await.unwrap();
    let second = town.found().await;
    assert_eq!((second.driver_id, second.passenger_id), (user("d2"), user("p2")));
    assert_eq!(first.driver_id, user("d1"));
    stop.cancel();
    task.join_next().await;
    // One offer each, and the engine's rows hold both.
    let live: i64 = sqlx::query_scalar("select count(*) from matching.offers where ended_at is null")
        .fetch_one(&mut direct)
        .await
        .unwrap();
    assert_eq!(live, 2);
}
