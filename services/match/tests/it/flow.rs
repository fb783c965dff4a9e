//! The whole service on the memory bus: events in, events out; the standby; a transaction that fails.

use std::time::Duration;

use matching::zones::{Partition, Zone};
use matching::{Config, MIGRATIONS, lease};
use platform::dead_letters::{self, DeadLetter, RequeueError, Requeued};
use platform::{Store, World};
use streams::event::{LocationUpdate, RejectReason};
use streams::{Event, RequestId, RideStatus};
use testing::database;

use crate::engine_harness::{km, user, uuid};
use crate::service_harness::ServiceHarness;

/// Each of these with one zone, and with three whose borders run between the places of the tests.
macro_rules! with_one_zone_and_with_three {
    ($($test:ident),+ $(,)?) => {
        $(mod $test {
            use super::{Config, Partition};

            #[tokio::test(start_paused = true)]
            async fn one_zone() {
                super::$test(Config::default()).await;
            }

            #[tokio::test(start_paused = true)]
            async fn three_zones() {
                super::$test(Config { partition: Partition::new(3, 700), ..Config::default() }).await;
            }
        })+
    };
}

with_one_zone_and_with_three!(
    a_request_becomes_an_offer_a_hold_and_a_lock_and_the_end_of_the_ride_releases_the_driver,
    a_ride_pickup_that_arrives_an_hour_after_the_end_of_its_ride_locks_nobody,
    a_driver_who_comes_within_the_radius_is_found_by_location_updates_alone,
    a_standby_takes_over_from_a_stopped_and_from_a_dead_process,
    a_search_whose_pickup_moves_goes_on_there,
    two_searches_never_have_the_same_driver,
);

async fn a_request_becomes_an_offer_a_hold_and_a_lock_and_the_end_of_the_ride_releases_the_driver(config: Config) {
    let mut harness = ServiceHarness::start(config).await;
    harness.online("d1", 1.0).await;
    harness.search("r1", "p1").await;
    let first = harness.found().await;
    assert_eq!((first.driver_id, first.passenger_id), (user("d1"), user("p1")));
    // The driver does not answer: 15 s, and the grace.
    let found_at = harness.platform.world.now();
    assert_eq!(harness.rejected(RejectReason::Expired).await, user("d1"));
    let waited = (harness.platform.world.now() - found_at).as_seconds_f64();
    assert!((16.5..18.0).contains(&waited), "{waited}");

    harness.online("d2", 2.0).await;
    let second = harness.found().await;
    assert_eq!(second.driver_id, user("d2"));
    let accepted = harness.events().accepted(second.match_id);
    harness.publish(Event::MatchAccepted(accepted)).await;
    assert!(matches!(harness.next_event().await, Event::MatchAccepted(_)));
    let event = harness.ride("k1", &second, RideStatus::Pickup);
    harness.publish(event).await;
    // d1 is free; d2 is locked until the ride ends.
    harness.online("d1", 1.0).await;
    harness.online("d2", 0.0).await;
    harness.search("r2", "p2").await;
    assert_eq!(harness.found().await.driver_id, user("d1"));
    harness.search("r3", "p3").await;
    let event = harness.ride("k1", &second, RideStatus::Cancelled);
    harness.publish(event).await;
    assert_eq!(harness.found().await.driver_id, user("d2"));
    let counted = |outcome| harness.platform.metrics.matches.with_label_values(&[outcome]).get();
    assert_eq!((counted("found"), counted("expired"), counted("accepted")), (4, 1, 1));
    harness.end().await;
}

async fn a_ride_pickup_that_arrives_an_hour_after_the_end_of_its_ride_locks_nobody(config: Config) {
    let mut harness = ServiceHarness::start(config).await;
    harness.online("d1", 1.0).await;
    harness.search("r1", "p1").await;
    let found = harness.found().await;
    let cancelled = harness.ride("k1", &found, RideStatus::Cancelled);
    harness.publish(cancelled).await;
    // match has handled the end once d1 is offered again. After that nothing else goes on.
    harness.search("r2", "p2").await;
    assert_eq!(harness.found().await.driver_id, user("d1"));
    harness.rejected(RejectReason::Expired).await;
    harness.end_search("r2", "p2").await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    // Housekeeping runs with the first of these.
    harness.online("d9", 30.0).await;
    harness.search("r3", "p3").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let late = harness.ride("k1", &found, RideStatus::Pickup);
    harness.publish(late).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    harness.online("d1", 1.0).await;
    assert_eq!(harness.found().await.driver_id, user("d1"));
    harness.end().await;
}

async fn a_driver_who_comes_within_the_radius_is_found_by_location_updates_alone(config: Config) {
    let mut harness = ServiceHarness::start(config).await;
    harness.online("d1", 8.0).await;
    harness.search("r1", "p1").await;
    let recorded_at = harness.platform.world.now() + chrono::Duration::seconds(1);
    harness
        .publish(Event::LocationUpdate(LocationUpdate {
            user_id: user("d1"),
            ride_id: None,
            location: km(2.0),
            accuracy_m: None,
            speed_mps: None,
            heading_deg: None,
            recorded_at,
            reception: None,
        }))
        .await;
    let found = harness.found().await;
    assert_eq!(found.driver_location, km(2.0));
    harness.end().await;
}

async fn a_standby_takes_over_from_a_stopped_and_from_a_dead_process(config: Config) {
    let mut harness = ServiceHarness::start(config).await;
    harness.search("r1", "p1").await;
    harness.online("d1", 1.0).await;
    harness.found().await;
    harness.start_process("b").await;

    // Stopped: the lease is released, and the standby goes on with the outstanding offer.
    harness.stop_process("a").await;
    harness.online("d2", 2.0).await;
    assert_eq!(harness.rejected(RejectReason::Expired).await, user("d1"));
    assert_eq!(harness.found().await.driver_id, user("d2"));

    // Dead: the standby goes on once the lease has expired.
    harness.start_process("c").await;
    let died = harness.platform.world.now();
    harness.kill_process("b").await;
    harness.search("r2", "p2").await;
    harness.online("d3", 0.5).await;
    let found = harness.found().await;
    assert_eq!((found.driver_id, found.request_id), (user("d3"), RequestId(uuid("r2"))));
    let waited = (harness.platform.world.now() - died).as_seconds_f64();
    assert!((4.0..7.0).contains(&waited), "{waited}");
    harness.end().await;
}

/// The offer of before is void, as for any changed pickup; the driver who declined is not asked again at once.
async fn a_search_whose_pickup_moves_goes_on_there(config: Config) {
    let mut harness = ServiceHarness::start(config).await;
    let there = harness.across_the_border();
    harness.online("d1", 0.1).await;
    harness.search("r1", "p1").await;
    let first = harness.found().await;
    harness.move_search("r1", "p1", there).await;
    assert_eq!(harness.rejected(RejectReason::Cancelled).await, user("d1"));
    let second = harness.found().await;
    assert_eq!((second.request_id, second.pickup), (first.request_id, km(there)));
    let declined = harness.events().rejected(second.match_id, RejectReason::Declined);
    harness.publish(Event::MatchRejected(declined)).await;
    assert!(matches!(harness.next_event().await, Event::MatchRejected(_)));
    // Back again: who declined comes after the other one.
    harness.move_search("r1", "p1", 0.0).await;
    harness.online("d2", 3.0).await;
    let third = harness.found().await;
    assert_eq!((third.driver_id, third.pickup), (user("d2"), km(0.0)));
    harness.end_search("r1", "p1").await;
    harness.end().await;
}

async fn two_searches_never_have_the_same_driver(config: Config) {
    let mut harness = ServiceHarness::start(config).await;
    let there = harness.across_the_border();
    harness.start_process("b").await;
    harness.search_at("r1", "p1", 0.0).await;
    harness.search_at("r2", "p2", there).await;
    harness.online("d1", there / 2.0).await;
    let first = harness.found().await;
    // It accepts, and is in a ride for longer than anybody looks at.
    let accepted = harness.events().accepted(first.match_id);
    harness.publish(Event::MatchAccepted(accepted)).await;
    assert!(matches!(harness.next_event().await, Event::MatchAccepted(_)));
    let event = harness.ride("k1", &first, RideStatus::Pickup);
    harness.publish(event).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let event = harness.ride("k1", &first, RideStatus::Cancelled);
    harness.publish(event).await;
    let ended_at = harness.platform.world.now();
    let second = harness.found().await;
    assert_eq!(second.driver_id, user("d1"));
    assert_ne!(second.request_id, first.request_id);
    assert!(second.found_at >= ended_at);
    let conflicts = harness.platform.metrics.match_conflicts.get();
    assert_eq!(conflicts > 0, !harness.config.partition.is_one(), "{conflicts} conflicts");
    harness.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_fenced_process_stands_by_and_loses_no_message() {
    let mut harness = ServiceHarness::start(Config::default()).await;
    harness.online("d1", 1.0).await;
    harness.search("r1", "p1").await;
    harness.found().await;
    // Another process takes the lease without the knowledge of this one.
    let world = &harness.platform.world;
    let mut tx = harness.store.begin().await.unwrap();
    let soon = world.now() + chrono::Duration::seconds(6);
    let epoch = lease::take(&mut tx, Zone::ONLY, "thief", chrono::Duration::seconds(4), (soon, 5_000.0)).await.unwrap();
    assert_eq!(epoch, Some(2));
    tx.commit().await.unwrap();
    let stolen = world.now();
    harness.online("d2", 2.0).await;
    harness.search("r2", "p2").await;
    assert_eq!(harness.found().await.driver_id, user("d2"));
    let waited = (harness.platform.world.now() - stolen).as_seconds_f64();
    assert!(waited >= 10.0, "it wrote {waited} s after its lease was taken");
    harness.end().await;
}

/// On PostgreSQL: after a transaction that failed, the engine is loaded from its rows again.
#[tokio::test]
async fn after_a_failed_transaction_the_engine_is_as_its_rows() {
    let (world, url) = (World::real(), database::fresh().await);
    let store = Store::postgres(&world, &"a".into(), &url, "matching", &MIGRATIONS, 4).await.unwrap();
    let mut harness = ServiceHarness::with_store(world, store, Config::default()).await;
    harness.search("r1", "p1").await;
    let mut direct = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
    // Found before the table breaks: the process is active.
    harness.online("d1", 1.0).await;
    let first = harness.found().await;
    sqlx::query("alter table matching.offers rename to offers_away").execute(&mut direct).await.unwrap();
    harness.search("r2", "p2").await;
    harness.online("d2", 2.0).await;
    let failed = || {
        let of = |c: &str| harness.platform.metrics.failed.with_label_values(&[c]).get();
        of("user_beacon_match") + of("user_finder_match")
    };
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while failed() == 0 {
        assert!(tokio::time::Instant::now() < until, "no transaction failed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sqlx::query("alter table matching.offers_away rename to offers").execute(&mut direct).await.unwrap();
    let second = harness.found().await;
    assert_eq!((second.driver_id, second.passenger_id), (user("d2"), user("p2")));
    assert_eq!(first.driver_id, user("d1"));
    harness.end().await;
    // One offer each, and the engine's rows hold both.
    let live: i64 = sqlx::query_scalar("select count(*) from matching.offers where ended_at is null")
        .fetch_one(&mut direct)
        .await
        .unwrap();
    assert_eq!(live, 2);
}

/// On PostgreSQL, in zones: what an engine cannot handle becomes one dead letter, does not hold up what came after it, and is handled by
/// a requeue. What cannot be read becomes one too.
#[tokio::test]
async fn what_a_zone_cannot_handle_becomes_a_dead_letter() {
    let (world, url) = (World::real(), database::fresh().await);
    let store = Store::postgres(&world, &"a".into(), &url, "matching", &MIGRATIONS, 4).await.unwrap();
    let config = Config { partition: Partition::new(3, 700), ..Config::default() };
    let mut harness = ServiceHarness::with_store(world, store, config).await;
    let mut direct = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let refuses = "create function refuse() returns trigger as $$ begin raise exception 'no such passenger'; end $$ language plpgsql";
    sqlx::query(refuses).execute(&mut direct).await.unwrap();
    let trigger = format!(
        "create trigger refuse before insert on matching.requests for each row when (new.passenger_id = '{}') \
         execute function refuse()",
        user("p1").0
    );
    sqlx::query(sqlx::AssertSqlSafe(trigger)).execute(&mut direct).await.unwrap();
    // In the middle of much that waits.
    harness.stop_process("a").await;
    for n in 0..60 {
        harness.search(&format!("b{n}"), &format!("q{n}")).await;
    }
    harness.search("r1", "p1").await;
    for n in 0..60 {
        harness.end_search(&format!("b{n}"), &format!("q{n}")).await;
    }
    harness.search("r2", "p2").await;
    harness.online("d2", 1.0).await;
    harness.start_process("a").await;
    let is_second = |event| matches!(event, Event::MatchFound(found) if found.passenger_id == user("p2"));
    while !is_second(harness.next_event().await) {}
    let unreadable = "insert into matching.zone_inputs (zone, subject, body, elsewhere, stored_at, traceparent) \
                      values (0, 'user.finder', '{}', false, now(), '')";
    sqlx::query(unreadable).execute(&mut direct).await.unwrap();

    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    let letters = loop {
        let mut letters = Vec::new();
        dead_letters::for_each(&harness.platform.bus, |letter| letters.push(letter)).await.unwrap();
        let rows: i64 =
            sqlx::query_scalar("select count(*) from matching.zone_inputs").fetch_one(&mut direct).await.unwrap();
        if letters.len() == 2 && rows == 0 {
            break letters;
        }
        assert!(tokio::time::Instant::now() < until, "{rows} rows, {letters:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(letters.iter().all(|letter| (&*letter.consumer, &*letter.stream) == ("user_finder_match", "USER_STREAM")));
    let is_failed = |letter: &&DeadLetter| letter.reason.contains("no such passenger");
    let failed = letters.iter().find(is_failed).unwrap_or_else(|| panic!("{letters:?}"));
    let Ok(Event::UserFinder(event)) = Event::parse(&failed.subject, &failed.payload) else { panic!("{failed:?}") };
    assert_eq!(event.user_id, user("p1"));
    let unreadable = letters.iter().find(|letter| !is_failed(letter)).unwrap();
    assert!(matches!(dead_letters::requeue(&harness.platform.bus, unreadable).await, Err(RequeueError::Failed(_))));

    sqlx::query("drop trigger refuse on matching.requests").execute(&mut direct).await.unwrap();
    harness.online("d1", 2.0).await;
    assert_eq!(dead_letters::requeue(&harness.platform.bus, failed).await.unwrap(), Requeued::Done);
    assert_eq!(harness.found().await.passenger_id, user("p1"));
    assert_eq!(dead_letters::requeue(&harness.platform.bus, failed).await.ok(), None, "the letter is removed");
    harness.end().await;
}
