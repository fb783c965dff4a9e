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
const THERE: Position = Position { lat: 1.0, lng: 2.001 };

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + Duration::seconds(seconds)
}

fn user(n: u128) -> UserId {
    UserId(Uuid::from_u128(n))
}

const AVAILABLE: Beacon = Beacon {
    user_id: UserId(Uuid::from_u128(1)),
    active: true,
    connected: true,
    vehicle_type: VehicleType::Car,
    location: HERE,
    published_at: DateTime::from_timestamp(100, 0).unwrap(),
};
const INACTIVE: Beacon = Beacon { active: false, ..AVAILABLE };
const DISCONNECTED: Beacon = Beacon { connected: false, ..AVAILABLE };

#[test]
fn a_beacon_is_published_when_it_changes_or_the_last_event_is_15_s_old() {
    let publishes = |known: Beacon, update, now| {
        let (next, event) = updated(Some(&known), user(1), VehicleType::Car, update, at(now)).unwrap();
        assert!(next.connected && next.active == matches!(update, Active(_)));
        event.is_some()
    };
    assert!(!publishes(AVAILABLE, Active(HERE), 101), "an exact repeat");
    assert!(!publishes(AVAILABLE, Active(HERE), 114));
    assert!(publishes(AVAILABLE, Active(HERE), 115), "15 s old");
    assert!(publishes(AVAILABLE, Active(THERE), 101));
    assert!(publishes(AVAILABLE, Inactive(Some(HERE)), 101));
    // The stored beacon is unavailable because no socket was open. An update over a socket changes that.
    assert!(publishes(DISCONNECTED, Active(HERE), 101));
    assert!(publishes(INACTIVE, Active(HERE), 101));
    assert!(!publishes(INACTIVE, Inactive(None), 101));
    assert!(updated(None, user(1), VehicleType::Car, Inactive(None), at(1)).is_none(), "never active");
    let first = updated(None, user(1), VehicleType::Car, Active(HERE), at(1)).unwrap();
    assert!(first.1.is_some());
}

#[test]
fn two_beacons_of_one_moment_have_two_ids() {
    let (on, first) = updated(None, user(1), VehicleType::Car, Active(HERE), at(1)).unwrap();
    let (off, second) = updated(Some(&on), user(1), VehicleType::Car, Inactive(Some(HERE)), at(1)).unwrap();
    // The clock of another pod may be behind.
    let (_, third) = updated(Some(&off), user(1), VehicleType::Car, Active(HERE), at(0)).unwrap();
    let ids: std::collections::BTreeSet<String> =
        [first, second, third].into_iter().map(|event| event.unwrap().message_id(at(0))).collect();
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
    assert_eq!(published(AVAILABLE.disconnect(at(200))), Some((false, Some(false))));
    assert_eq!(published(DISCONNECTED.connect(at(200))), Some((true, Some(true))));
    assert_eq!(published(INACTIVE.disconnect(at(200))), Some((false, None)), "was unavailable anyway");
    assert_eq!(published(AVAILABLE.connect(at(200))), None);
    assert_eq!(published(DISCONNECTED.disconnect(at(200))), None);
}

on_both_stores!(stale_sockets_are_deleted_and_live_ones_stay, a_new_socket_displaces_those_silent_for_longest,);

async fn stale_sockets_are_deleted_and_live_ones_stay(backend: Backend) {
    let store = backend.store::<Tables>(&World::seeded(at(0), 1), "test", "users", &crate::MIGRATIONS).await;
    let session = Uuid::from_u128;
    let second = Beacon { user_id: user(2), ..AVAILABLE };
    let moved = Beacon { active: false, location: THERE, ..second };
    let mut tx = store.begin().await.unwrap();
    for beacon in [second, AVAILABLE, moved] {
        put_beacon(&mut tx, &beacon).await.unwrap();
    }
    let both = lock_beacons(&mut tx, &[user(2), user(3), user(1)]).await.unwrap();
    assert_eq!(both, [AVAILABLE, moved], "in the order of users, as last put");
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
