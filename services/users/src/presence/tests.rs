//! Beacons: when there is something to tell; and the rows of beacons and sockets on both stores.

use platform::{Store, World};

use super::*;

const HERE: Position = Position { lat: 1.0, lng: 2.0 };
const THERE: Position = Position { lat: 1.0, lng: 2.001 };

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + Duration::seconds(seconds)
}

fn user(n: u128) -> UserId {
    UserId(Uuid::from_u128(n))
}

fn beacon(n: u128, active: bool, connected: bool) -> Beacon {
    let vehicle_type = VehicleType::Car;
    Beacon { user_id: user(n), active, connected, vehicle_type, location: HERE, published_at: at(100) }
}

fn active(event: &Event) -> bool {
    match event {
        Event::UserBeacon(e) => e.active,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_beacon_is_published_when_it_says_something_new_or_the_last_is_old() {
    let known = beacon(1, true, true);
    let told = |known: &Beacon, active, location, now| {
        let (next, event) = updated(Some(known), user(1), VehicleType::Car, active, location, at(now)).unwrap();
        assert!(next.connected && next.active == active);
        event.is_some()
    };
    assert!(!told(&known, true, Some(HERE), 101), "an exact repeat");
    assert!(!told(&known, true, None, 114));
    assert!(told(&known, true, Some(HERE), 115), "15 s old");
    assert!(told(&known, true, Some(THERE), 101));
    assert!(told(&known, false, Some(HERE), 101));
    // Known as offline because no socket was open: over a socket, it is news.
    assert!(told(&beacon(1, true, false), true, Some(HERE), 101));
    assert!(told(&beacon(1, false, true), true, Some(HERE), 101));
    assert!(!told(&beacon(1, false, true), false, None, 101));
    assert!(updated(None, user(1), VehicleType::Car, false, None, at(1)).is_none(), "never signed on");
    let first = updated(None, user(1), VehicleType::Car, true, Some(HERE), at(1)).unwrap();
    assert!(first.1.is_some());
}

#[test]
fn two_beacons_of_one_moment_have_two_ids() {
    let (on, first) = updated(None, user(1), VehicleType::Car, true, Some(HERE), at(1)).unwrap();
    let (off, second) = updated(Some(&on), user(1), VehicleType::Car, false, Some(HERE), at(1)).unwrap();
    // Also when the clock of another pod is behind.
    let (_, third) = updated(Some(&off), user(1), VehicleType::Car, true, Some(HERE), at(0)).unwrap();
    let ids: std::collections::BTreeSet<String> =
        [first, second, third].into_iter().map(|event| event.unwrap().message_id(at(0))).collect();
    assert_eq!(ids.len(), 3);
}

#[test]
fn a_driver_is_online_while_a_socket_is_open() {
    let told = |known: Beacon, connected| {
        known.moved(connected, at(200)).map(|(next, event)| {
            assert_eq!(next.connected, connected);
            event.as_ref().map(active)
        })
    };
    assert_eq!(told(beacon(1, true, true), false), Some(Some(false)));
    assert_eq!(told(beacon(1, true, false), true), Some(Some(true)));
    assert_eq!(told(beacon(1, false, true), false), Some(None), "was offline anyway");
    assert_eq!(told(beacon(1, true, true), true), None);
    assert_eq!(told(beacon(1, true, false), false), None);
}

/// The rows: beacons as put, sockets by session, the stale ones of a dead pod apart from those that live.
async fn rows(store: Store<Tables>) {
    let session = Uuid::from_u128;
    let mut tx = store.begin().await.unwrap();
    for n in [2, 1] {
        put(&mut tx, &beacon(n, true, true)).await.unwrap();
    }
    put(&mut tx, &Beacon { location: THERE, ..beacon(2, false, true) }).await.unwrap();
    let both = beacons(&mut tx, &[user(2), user(3), user(1)]).await.unwrap();
    assert_eq!(both, [beacon(1, true, true), Beacon { location: THERE, ..beacon(2, false, true) }]);
    for (n, of, seen_at) in [(11, 1, 0), (12, 1, 30), (21, 2, 30), (31, 3, 0)] {
        open(&mut tx, session(n), user(of), "pod", at(seen_at)).await.unwrap();
    }
    tx.commit().await.unwrap();

    let mut tx = store.begin().await.unwrap();
    assert!(stale(&mut tx, at(60)).await.unwrap().is_empty());
    assert_eq!(stale(&mut tx, at(61)).await.unwrap(), [user(1), user(3)]);
    let mut touched = touch(&mut tx, &[(user(2), session(21)), (user(3), session(31)), (user(9), session(99))], at(50))
        .await
        .unwrap();
    touched.sort();
    assert_eq!(touched, [session(21), session(31)]);
    // The dead one of user 1 goes, the live one keeps them here; the others are not touched.
    assert_eq!(close(&mut tx, &[user(1)], None, at(61)).await.unwrap(), [user(1)]);
    assert!(stale(&mut tx, at(61)).await.unwrap().is_empty());
    assert!(close(&mut tx, &[user(1)], Some(session(12)), at(61)).await.unwrap().is_empty());
    // Nobody closes another's socket.
    assert!(close(&mut tx, &[user(1)], Some(session(21)), at(61)).await.unwrap().is_empty());
    assert_eq!(close(&mut tx, &[user(2)], None, at(61)).await.unwrap(), [user(2)]);
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn rows_in_memory() {
    rows(Store::memory(&World::seeded(at(0), 1), &"test".into())).await;
}

#[tokio::test]
async fn rows_in_postgres() {
    let (world, url) = (World::seeded(at(0), 1), testing::database::fresh().await);
    rows(Store::postgres(&world, &"test".into(), &url, "users", &crate::MIGRATIONS, 2).await.unwrap()).await;
}
