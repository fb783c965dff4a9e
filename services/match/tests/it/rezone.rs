//! Another number of zones while people search, are offered, ride and wait: on both stores, with whole processes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use matching::engine::{Offer, rows};
use matching::lease::{self, Held};
use matching::zones::{Partition, Zone};
use matching::{Config, MIGRATIONS};
use platform::World;
use streams::event::RejectReason;
use streams::{Event, MatchId, RequestId, RideStatus, UserId, VehicleType};
use testing::{Backend, on_both_stores};
use uuid::Uuid;

use crate::engine_harness::{name, start_time, user, uuid};
use crate::service_harness::ServiceHarness;

on_both_stores!(
    from_three_zones_to_five,
    from_five_zones_to_two,
    from_two_zones_to_one,
    from_one_zone_to_four,
    a_ride_of_which_one_zone_knows_ends_its_search_in_one_zone,
    a_ride_of_which_one_zone_knows_ends_its_search_in_two_zones,
);

async fn from_three_zones_to_five(backend: Backend) {
    everybody_goes_on(backend, 3, 5).await;
}

async fn from_five_zones_to_two(backend: Backend) {
    everybody_goes_on(backend, 5, 2).await;
}

async fn from_two_zones_to_one(backend: Backend) {
    everybody_goes_on(backend, 2, 1).await;
}

async fn from_one_zone_to_four(backend: Backend) {
    everybody_goes_on(backend, 1, 4).await;
}

async fn a_ride_of_which_one_zone_knows_ends_its_search_in_one_zone(backend: Backend) {
    the_search_of_a_ride_ends(backend, 1).await;
}

async fn a_ride_of_which_one_zone_knows_ends_its_search_in_two_zones(backend: Backend) {
    the_search_of_a_ride_ends(backend, 2).await;
}

/// Borders run between the places of the tests.
fn division(zones: u16) -> Config {
    Config { partition: Partition::new(zones, 700), offer_ttl_s: 120, request_ttl_s: 900, ..Config::default() }
}

async fn start(backend: Backend, zones: u16) -> ServiceHarness {
    let world = match backend {
        Backend::Memory => World::seeded(start_time(), 1),
        Backend::Postgres => World::real(),
    };
    let store = backend.store(&world, "a", "matching", &MIGRATIONS).await;
    ServiceHarness::with_store(world, store, division(zones)).await
}

/// Leases of zones that nobody works on: what is routed to them waits.
async fn hold(harness: &ServiceHarness, zones: impl IntoIterator<Item = u16>) -> Vec<Held> {
    let mut held = Vec::new();
    for number in zones {
        let mut tx = harness.store.begin().await.unwrap();
        let zone = Zone { partition: harness.config.partition, number };
        let at = (harness.platform.world.now(), harness.config.radius_m);
        let epoch = lease::take(&mut tx, zone, "nobody", chrono::Duration::hours(1), at).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        held.push(Held { zone: number, epoch });
    }
    held
}

async fn release(harness: &ServiceHarness, held: Vec<Held>) {
    for held in held {
        let mut tx = harness.store.begin().await.unwrap();
        assert!(lease::release(&mut tx, held, harness.platform.world.now()).await.unwrap());
        tx.commit().await.unwrap();
    }
}

/// Starts two processes with another number of zones.
async fn divide(harness: &mut ServiceHarness, zones: u16) {
    harness.config.partition = division(zones).partition;
    harness.start_process("b").await;
    harness.start_process("c").await;
}

/// Waits until every message is handled or waits for a zone.
async fn routed(harness: &ServiceHarness) {
    for _ in 0..6_000 {
        if harness.unacknowledged().await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("messages wait for half a minute");
}

/// Waits until every message is handled.
async fn settled(harness: &ServiceHarness) {
    let mut unrest = Vec::new();
    for _ in 0..6_000 {
        routed(harness).await;
        let now = harness.platform.world.now();
        unrest = matching::unrest(&harness.store, harness.config.partition, now).await.unwrap();
        if unrest.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{unrest:?}");
}

/// The next events until there is none for 3 s. Offers by request and driver.
async fn found(harness: &mut ServiceHarness) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while let Some(stored) = harness.published.next(Duration::from_secs(3)).await.unwrap() {
        match Event::parse(&stored.subject, &stored.payload).unwrap() {
            Event::MatchFound(e) => {
                let driver = format!("{} at {:.2}", name(e.driver_id.0), (e.pickup.lat - 40.7) * 111.195);
                found.entry(name(e.request_id.0)).or_default().push(driver);
                harness.events.found.insert(e.match_id, e);
            }
            Event::MatchAccepted(_) => {}
            other => panic!("{other:?}"),
        }
    }
    found
}

fn offers(all: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
    all.iter().map(|(request, driver)| ((*request).to_owned(), vec![(*driver).to_owned()])).collect()
}

/// Every row is in one zone, and nobody is in two offers or rides. Returns the live requests.
async fn check_rows(harness: &ServiceHarness) -> BTreeSet<String> {
    let mut tx = harness.store.begin().await.unwrap();
    let partition = harness.config.partition;
    let (mut ids, mut engaged, mut searching) = (BTreeSet::<Uuid>::new(), BTreeSet::<UserId>::new(), BTreeSet::new());
    for number in 0..partition.zones() {
        let zone = Zone { partition, number };
        let now = harness.platform.world.now();
        let rows = rows::load(&mut tx, now, chrono::Duration::hours(1), zone).await.unwrap();
        let all = rows.requests.iter().map(|r| r.request_id.0);
        let all = all.chain(rows.offers.iter().map(|o| o.match_id.0)).chain(rows.rides.iter().map(|r| r.ride_id.0));
        all.for_each(|id| assert!(ids.insert(id), "{} is in two zones", name(id)));
        let offers = rows.offers.iter().filter(|o| o.ended.is_none()).map(|o: &Offer| (o.driver_id, o.passenger_id));
        let rides = rows.rides.iter().filter(|r| r.ended_at.is_none()).map(|r| (r.driver_id, r.passenger_id));
        for user in offers.chain(rides).flat_map(|(driver, passenger)| [driver, passenger]) {
            assert!(engaged.insert(user), "{} is in two", name(user.0));
        }
        searching.extend(rows.requests.iter().filter(|r| r.ended_at.is_none()).map(|r| name(r.request_id.0)));
    }
    searching
}

async fn accept(harness: &mut ServiceHarness, id: MatchId) {
    let accepted = harness.events().accepted(id);
    harness.publish(Event::MatchAccepted(accepted)).await;
}

async fn begin_ride(harness: &mut ServiceHarness, ride: &str, of: MatchId) {
    let found = harness.events.found[&of].clone();
    let event = harness.ride(ride, &found, RideStatus::Pickup);
    harness.publish(event).await;
}

async fn end_ride(harness: &mut ServiceHarness, ride: &str, of: MatchId) {
    let found = harness.events.found[&of].clone();
    let event = harness.end_of_ride(ride, &found);
    harness.publish(event).await;
}

async fn van_online(harness: &mut ServiceHarness, driver: &str, at: f64) {
    let event = harness.events().online(driver, VehicleType::Van, at);
    harness.publish(Event::UserBeacon(event)).await;
}

async fn everybody_goes_on(backend: Backend, from: u16, to: u16) {
    let mut harness = start(backend, from).await;
    // An offer without an answer, an accepted one, a ride, and two searches without a driver.
    let mut found_of = Vec::new();
    for n in 1..=3 {
        let at = f64::from(n - 1) * 0.8;
        harness.online(&format!("d{n}"), at).await;
        settled(&harness).await;
        harness.search_at(&format!("r{n}"), &format!("p{n}"), at).await;
        let found = harness.found().await;
        assert_eq!(found.driver_id, user(&format!("d{n}")));
        found_of.push(found.match_id);
    }
    let [first, second, third] = found_of[..] else { unreachable!() };
    accept(&mut harness, second).await;
    accept(&mut harness, third).await;
    begin_ride(&mut harness, "k3", third).await;
    harness.search_at("r4", "p4", 2.4).await;
    harness.search_at("r5", "p5", 3.2).await;
    van_online(&mut harness, "d6", 2.0).await;
    settled(&harness).await;
    assert_eq!(check_rows(&harness).await, ["r1", "r2", "r4", "r5"].map(str::to_owned).into());

    // What comes from now on waits: in the streams, or routed to zones that nobody works on.
    harness.stop_process("a").await;
    let held = hold(&harness, 0..from).await;
    if from > 1 {
        harness.start_process("router").await;
    }
    accept(&mut harness, first).await;
    begin_ride(&mut harness, "k2", second).await;
    harness.end_search("r5", "p5").await;
    harness.search_at("r7", "p7", 1.0).await;
    van_online(&mut harness, "d8", 3.0).await;
    harness.move_search("r7", "p7", 3.9).await;
    let offline = harness.events().offline("d8");
    harness.publish(Event::UserBeacon(offline)).await;
    if from > 1 {
        routed(&harness).await;
        harness.stop_process("router").await;
        let unrest = matching::unrest(&harness.store, harness.config.partition, harness.platform.world.now());
        assert!(unrest.await.unwrap().iter().any(|line| line.starts_with("events wait")));
    }
    release(&harness, held).await;

    divide(&mut harness, to).await;
    settled(&harness).await;
    assert_eq!(check_rows(&harness).await, ["r1", "r4", "r7"].map(str::to_owned).into());
    // The accept that waited makes a ride; a search ends.
    begin_ride(&mut harness, "k1", first).await;
    harness.end_search("r4", "p4").await;
    settled(&harness).await;
    assert_eq!(check_rows(&harness).await, BTreeSet::from(["r7".to_owned()]));
    let mut van = harness.events().search("r6", "p6", 3.0);
    van.vehicle_type = VehicleType::Van;
    harness.publish(Event::UserFinder(van)).await;
    assert_eq!(found(&mut harness).await, offers(&[("r6", "d6 at 3.00")]));
    // The end of a ride frees its driver, for whoever waits.
    end_ride(&mut harness, "k3", third).await;
    assert_eq!(found(&mut harness).await, offers(&[("r7", "d3 at 3.90")]));
    check_rows(&harness).await;
    // An offer of before the change that is accepted after it, and the others' rides: each driver is free once.
    end_ride(&mut harness, "k1", first).await;
    end_ride(&mut harness, "k2", second).await;
    settled(&harness).await;
    harness.search_at("r9", "p1", 0.0).await;
    settled(&harness).await;
    harness.search_at("r10", "p2", 0.8).await;
    let offered = found(&mut harness).await;
    assert_eq!(offered, offers(&[("r9", "d1 at 0.00"), ("r10", "d2 at 0.80")]));
    assert_eq!(check_rows(&harness).await, ["r6", "r7", "r9", "r10"].map(str::to_owned).into());
    let of_r7 = harness.events.found.values().find(|f| f.request_id == RequestId(uuid("r7"))).unwrap().match_id;
    let declined = harness.events().rejected(of_r7, RejectReason::Declined);
    harness.publish(Event::MatchRejected(declined)).await;
    harness.end_search("r7", "p7").await;
    settled(&harness).await;
    assert_eq!(check_rows(&harness).await, ["r6", "r9", "r10"].map(str::to_owned).into());
    harness.end().await;
}

/// An offer is accepted after its search has gone on in another zone. That zone learns of the ride only after the change.
async fn the_search_of_a_ride_ends(backend: Backend, to: u16) {
    let mut harness = start(backend, 3).await;
    let there = harness.across_the_border();
    harness.online("d1", 0.0).await;
    harness.search("r1", "p1").await;
    let found_of = harness.found().await.match_id;
    // Whoever is so far away that only the old place is in reach gets no second offer.
    harness.move_search("r1", "p1", there).await;
    let other = harness.config.partition.zone_of(&crate::engine_harness::km(there));
    assert_eq!(harness.rejected(RejectReason::Cancelled).await, user("d1"));
    let second = harness.found().await.match_id;
    let declined = harness.events().rejected(second, RejectReason::Declined);
    harness.publish(Event::MatchRejected(declined)).await;
    assert!(matches!(harness.next_event().await, Event::MatchRejected(_)));
    settled(&harness).await;
    harness.stop_process("a").await;
    let held = hold(&harness, [other]).await;
    harness.start_process("b").await;
    accept(&mut harness, found_of).await;
    begin_ride(&mut harness, "k1", found_of).await;
    routed(&harness).await;
    for _ in 0..6_000 {
        let now = harness.platform.world.now();
        let unrest = matching::unrest(&harness.store, harness.config.partition, now).await.unwrap();
        if unrest == [format!("events wait for zone {other}")] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    harness.stop_process("b").await;
    release(&harness, held).await;
    divide(&mut harness, to).await;
    settled(&harness).await;
    assert_eq!(check_rows(&harness).await, BTreeSet::new(), "the ride ended its search");
    end_ride(&mut harness, "k1", found_of).await;
    harness.online("d2", 0.5).await;
    assert_eq!(found(&mut harness).await, BTreeMap::new());
    harness.end().await;
}
