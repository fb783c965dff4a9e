//! Beacons: which changes are published; and the rows of beacons and sockets, on both stores.

use platform::World;
use testing::{Backend, on_both_stores};
use uuid::Uuid;

use super::BeaconUpdate::{Active, Inactive};
use super::rows::{
    Touched, delete_sockets, displace_sockets, insert_socket, lock_beacons, put_beacon, touch_sockets,
    users_with_stale_sockets as stale,
};
use super::*;
use crate::tables::Tables;

const HERE: Position = Position { lat: 1.0, lng: 2.0 };
/// 111 m and 1.1 km away.
const NEAR: Position = Position { lat: 1.0, lng: 2.001 };
const THERE: Position = Position { lat: 1.0, lng: 2.01 };

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + Duration::seconds(seconds)
}

fn user(n: u128) -> UserId {
    UserId(Uuid::from_u128(n))
}

fn available() -> Beacon {
    Beacon {
        user_id: user(1),
        active: true,
        connected: true,
        vehicle_type: VehicleType::Car,
        location: HERE,
        located_at: at(100),
        device: Some("".into()),
        published_at: at(100),
    }
}

fn inactive() -> Beacon {
    Beacon { active: false, ..available() }
}

fn disconnected() -> Beacon {
    Beacon { connected: false, ..available() }
}

fn update(known: Option<&Beacon>, update: BeaconUpdate, device: &str, now: i64) -> Option<(Beacon, Event)> {
    updated(known, user(1), VehicleType::Car, update, &device.into(), None, at(now))
}

#[test]
fn a_beacon_is_published_when_it_changes_and_costs_nothing_when_it_does_not() {
    let publishes = |known: Beacon, change, now| {
        let next = update(Some(&known), change, "", now);
        assert!(next.iter().all(|(b, _)| b.connected && b.active == matches!(change, Active(_))));
        next.is_some()
    };
    assert!(!publishes(available(), Active(HERE), 101), "an exact repeat");
    assert!(!publishes(available(), Active(HERE), 100_000), "however old");
    assert!(!publishes(available(), Active(NEAR), 101), "100 m");
    assert!(publishes(available(), Active(THERE), 101), "1.1 km");
    assert!(publishes(available(), Inactive(Some(HERE)), 101));
    // The stored beacon is unavailable because no socket was open. An update over a socket changes that.
    assert!(publishes(disconnected(), Active(HERE), 101));
    assert!(publishes(inactive(), Active(HERE), 101));
    assert!(!publishes(inactive(), Inactive(None), 101));
    let van = updated(Some(&available()), user(1), VehicleType::Van, Active(HERE), &"".into(), None, at(101));
    assert!(van.is_some(), "another vehicle");
    let tablet = update(Some(&available()), Active(HERE), "tablet", 101).unwrap().0;
    assert_eq!(tablet.device.as_deref(), Some("tablet"), "another device");
    let off = update(Some(&tablet), Inactive(None), "", 102).unwrap().0;
    assert_eq!(off.device.as_deref(), Some("tablet"), "of the newest active beacon");
    assert!(update(None, Inactive(None), "", 1).is_none(), "never active");
    assert!(update(None, Active(HERE), "", 1).is_some());
}

#[test]
fn two_beacons_of_one_moment_have_two_ids() {
    let (on, first) = update(None, Active(HERE), "", 1).unwrap();
    let (off, second) = update(Some(&on), Inactive(Some(HERE)), "", 1).unwrap();
    // The clock of another pod may be behind.
    let (_, third) = update(Some(&off), Active(HERE), "", 0).unwrap();
    let ids: std::collections::BTreeSet<String> =
        [first, second, third].into_iter().map(|event| event.message_id(at(0))).collect();
    assert_eq!(ids.len(), 3);
}

#[test]
fn an_active_driver_is_available_while_a_socket_is_open() {
    let published = |moved: Option<(Beacon, Option<Event>)>| {
        moved.map(|(next, event)| {
            let active = event.map(|event| match event {
                Event::UserBeacon(e) => e.active,
                other => panic!("{other:?}"),
            });
            (next.connected, active)
        })
    };
    assert_eq!(published(available().disconnect(None, at(200))), Some((false, Some(false))));
    assert_eq!(published(disconnected().connect(None, at(200))), Some((true, Some(true))));
    assert_eq!(published(inactive().disconnect(None, at(200))), Some((false, None)), "was unavailable anyway");
    assert_eq!(published(available().connect(None, at(200))), None);
    assert_eq!(published(disconnected().disconnect(None, at(200))), None);
}

#[test]
fn a_reconnect_says_the_newest_place_that_is_known_and_since_when() {
    let place = |of: &Beacon| (of.location, of.located_at);
    let known = Some(Located { location: THERE, at: at(150) });
    let (off, event) = available().disconnect(known, at(200)).unwrap();
    assert_eq!(place(&off), (THERE, at(150)));
    let Some(Event::UserBeacon(event)) = event else { panic!("no event") };
    assert_eq!((event.location, event.located_at, event.recorded_at), (THERE, Some(at(150)), at(200)));
    // The pod of the next socket knows nothing, or something older.
    for known in [None, Some(Located { location: HERE, at: at(120) })] {
        assert_eq!(place(&off.connect(known, at(210)).unwrap().0), (THERE, at(150)));
    }
}

#[test]
fn a_beacon_follows_a_driver_who_moved_more_than_500_m() {
    let to = |location, seconds| Located { location, at: at(seconds) };
    let (next, event) = available().moved(to(THERE, 150), at(151)).unwrap();
    assert_eq!((next.location, next.located_at), (THERE, at(150)));
    assert!(matches!(event, Event::UserBeacon(e) if e.active && e.location == THERE));
    assert!(available().moved(to(NEAR, 150), at(151)).is_none());
    assert!(available().moved(to(THERE, 90), at(151)).is_none(), "another pod knows something newer");
    assert!(inactive().moved(to(THERE, 150), at(151)).is_none());
    assert!(disconnected().moved(to(THERE, 150), at(151)).is_none());
}

#[test]
fn what_a_pod_knows_of_a_driver_says_when_a_beacon_is_due() {
    let point = |location, second: i64| streams::event::LocationUpdate {
        user_id: user(1),
        ride_id: None,
        location,
        accuracy_m: None,
        speed_mps: None,
        heading_deg: None,
        recorded_at: at(second),
        reception: None,
    };
    let mut driver = known::KnownDriver::default();
    assert!(!driver.record_positions(&[point(THERE, 90)], at(90)), "not on duty");
    driver.record_beacon(&available().event());
    assert_eq!(driver.located(), Some(Located { location: HERE, at: at(100) }));
    assert!(!driver.record_positions(&[point(NEAR, 101)], at(101)));
    assert!(driver.record_positions(&[point(THERE, 102)], at(102)));
    assert_eq!(driver.due(), Some(Located { location: THERE, at: at(102) }));
    // Not while a ride is live, but at its end.
    let ride = streams::RideId(Uuid::from_u128(7));
    assert!(!driver.set_ride(Some(ride)));
    assert!(!driver.record_positions(&[point(THERE, 103)], at(103)) && driver.due().is_none());
    assert!(driver.set_ride(None));
    driver
        .record_beacon(&Beacon { location: THERE, located_at: at(103), published_at: at(104), ..available() }.event());
    assert_eq!(driver.due(), None);
    // Small moves that beacons say add up.
    let off = Beacon { active: false, published_at: at(105), ..available() };
    driver.record_beacon(&off.event());
    assert!(!driver.record_positions(&[point(HERE, 106)], at(106)), "off duty");
    // Who accepted an offer.
    let offer = streams::MatchId(Uuid::from_u128(8));
    driver.set_accepted(offer, "phone".into());
    assert!(driver.is_accepted_by(offer, "phone") && !driver.is_accepted_by(offer, ""));
}

on_both_stores!(stale_sockets_are_deleted_and_live_ones_stay, a_new_socket_displaces_those_silent_for_longest,);

async fn stale_sockets_are_deleted_and_live_ones_stay(backend: Backend) {
    let store = backend.store::<Tables>(&World::seeded(at(0), 1), "test", "users", &crate::MIGRATIONS).await;
    let session = Uuid::from_u128;
    let second = Beacon { user_id: user(2), device: None, ..available() };
    let moved = Beacon { active: false, location: THERE, located_at: at(90), ..second.clone() };
    let mut tx = store.begin().await.unwrap();
    for beacon in [&second, &available(), &moved] {
        put_beacon(&mut tx, beacon).await.unwrap();
    }
    let both = lock_beacons(&mut tx, &[user(2), user(3), user(1)]).await.unwrap();
    assert_eq!(both, [available(), moved], "in the order of users, as last put");
    for (n, of, seen_at) in [(11, 1, 0), (12, 1, 30), (21, 2, 30), (31, 3, 0)] {
        insert_socket(&mut tx, session(n), user(of), "pod", at(seen_at)).await.unwrap();
    }
    tx.commit().await.unwrap();

    let mut tx = store.begin().await.unwrap();
    assert!(stale(&mut tx, at(60)).await.unwrap().is_empty());
    assert_eq!(stale(&mut tx, at(61)).await.unwrap(), [user(1), user(3)]);
    let sockets = [(2, 21), (3, 31), (9, 99)].map(|(of, n)| (user(of), session(n), at(45)));
    let mut touched = touch_sockets(&mut tx, &sockets, at(50)).await.unwrap();
    touched.sort();
    assert_eq!(touched, [21, 31].map(|n| Touched { session: session(n), displaced: false }));
    // Of user 1 the stale socket is deleted and the live one stays; the others' are not touched.
    assert_eq!(delete_sockets(&mut tx, &[user(1)], None, at(61)).await.unwrap(), [user(1)]);
    assert!(stale(&mut tx, at(61)).await.unwrap().is_empty());
    assert!(delete_sockets(&mut tx, &[user(1)], Some(session(12)), at(61)).await.unwrap().is_empty());
    // Nobody deletes the socket of another user.
    assert!(delete_sockets(&mut tx, &[user(1)], Some(session(21)), at(61)).await.unwrap().is_empty());
    assert_eq!(delete_sockets(&mut tx, &[user(2)], None, at(61)).await.unwrap(), [user(2)]);
    tx.commit().await.unwrap();
}

async fn a_new_socket_displaces_those_silent_for_longest(backend: Backend) {
    let store = backend.store::<Tables>(&World::seeded(at(0), 1), "test", "users", &crate::MIGRATIONS).await;
    let session = Uuid::from_u128;
    let mut tx = store.begin().await.unwrap();
    // One is of a dead pod: it takes nobody's place.
    insert_socket(&mut tx, session(1), user(1), "dead", at(-100)).await.unwrap();
    for n in 2..=6 {
        insert_socket(&mut tx, session(n), user(1), "pod", at(n as i64)).await.unwrap();
        assert!(displace_sockets(&mut tx, user(1), session(n), 5, at(n as i64)).await.unwrap().is_empty(), "{n}");
    }
    insert_socket(&mut tx, session(9), user(2), "pod", at(0)).await.unwrap();
    // The first of the five has sent something since; nothing has come from the second for longest.
    touch_sockets(&mut tx, &[(user(1), session(2), at(10))], at(10)).await.unwrap();
    insert_socket(&mut tx, session(7), user(1), "other", at(11)).await.unwrap();
    assert_eq!(displace_sockets(&mut tx, user(1), session(7), 5, at(11)).await.unwrap(), [session(3)]);
    // Once displaced, it is displaced for good, and its own pod learns it by a touch.
    let touched = touch_sockets(&mut tx, &[(user(1), session(3), at(12))], at(12)).await.unwrap();
    assert_eq!(touched, [Touched { session: session(3), displaced: true }]);
    assert!(displace_sockets(&mut tx, user(1), session(7), 5, at(12)).await.unwrap().is_empty());
    // The new one stays, also when the clocks of other pods are ahead; another user's are not touched.
    insert_socket(&mut tx, session(8), user(1), "behind", at(1)).await.unwrap();
    assert_eq!(displace_sockets(&mut tx, user(1), session(8), 1, at(12)).await.unwrap().len(), 5);
    assert!(displace_sockets(&mut tx, user(2), session(9), 1, at(12)).await.unwrap().is_empty());
    tx.commit().await.unwrap();
}
