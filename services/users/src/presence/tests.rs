//! Beacons: which changes are published; and the rows of beacons and sockets, on both stores.

use platform::{On, Store, Transaction, World};
use testing::{Backend, on_both_stores};

use super::BeaconUpdate::{Active, Inactive};
use super::rows::{
    connected_elsewhere, delete_stale, end_stale_pods, insert_pod, lock_beacons, put_beacon, request_recount, routes,
    store_connection, take_recounts, touch_pod, users_of_dead_pods,
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
    updated(known, user(1), VehicleType::Car, update, &device.into(), KnownPlaces::default(), at(now))
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
    let van = updated(
        Some(&available()),
        user(1),
        VehicleType::Van,
        Active(HERE),
        &"".into(),
        KnownPlaces::default(),
        at(101),
    );
    assert!(van.is_some(), "another vehicle");
    let tablet = update(Some(&available()), Active(HERE), "tablet", 101).unwrap().0;
    assert_eq!(tablet.device.as_deref(), Some("tablet"), "another device");
    let off = update(Some(&tablet), Inactive(None), "", 102).unwrap().0;
    assert_eq!(off.device.as_deref(), Some("tablet"), "of the newest active beacon");
    assert!(update(None, Inactive(None), "", 1).is_none(), "never active");
    assert!(update(None, Active(HERE), "", 1).is_some());
}

#[test]
fn a_beacon_that_corrects_where_others_know_the_driver_is_published() {
    let after = |published, change| {
        let places = KnownPlaces { newest: None, published: Some(published) };
        updated(Some(&available()), user(1), VehicleType::Car, change, &"".into(), places, at(101))
    };
    // The driver is where the last beacon said, and a wrong fix came since.
    let (next, event) = after(THERE, Active(HERE)).unwrap();
    assert_eq!((next.location, next.located_at), (HERE, at(101)));
    assert!(matches!(event, Event::UserBeacon(e) if e.active && e.location == HERE));
    assert!(after(NEAR, Active(HERE)).is_none(), "100 m");
    // What this pod knows, and others do not, changes nothing of that.
    let mut driver = known::KnownDriver::default();
    driver.record_beacon(&available().event());
    let wrong = streams::event::LocationUpdate {
        user_id: user(1),
        ride_id: None,
        location: NEAR,
        accuracy_m: None,
        speed_mps: None,
        heading_deg: None,
        recorded_at: at(101),
        reception: None,
    };
    driver.record_positions(&[wrong], at(101));
    driver.record_place(&UserBeacon { location: HERE, located_at: Some(at(102)), ..available().event() }, at(102));
    let places = KnownPlaces { newest: Some(Located { location: HERE, at: at(102) }), published: Some(NEAR) };
    assert_eq!(driver.places(), places);
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
    assert_eq!(driver.accepted_on(offer).as_deref(), Some("phone"));
    assert_eq!(driver.accepted_on(streams::MatchId(Uuid::from_u128(9))), None);
}

on_both_stores!(
    a_row_says_who_is_connected_where_until_its_pod_is_dead,
    a_pod_that_was_taken_for_dead_takes_a_new_incarnation,
    other_pods_are_known_and_asked_to_count,
);

async fn stored(backend: Backend) -> Store<Tables> {
    backend.store::<Tables>(&World::seeded(at(0), 1), "test", "users", &crate::MIGRATIONS).await
}

fn pod(n: u128) -> Pod {
    Pod { incarnation: Uuid::from_u128(n), id: format!("pod-{n}").into() }
}

/// As the registry of this pod says: so many sockets of this user are open.
async fn connect(tx: &mut Transaction<Tables>, of: UserId, at_pod: &Pod, open: usize) {
    let id = Uuid::from_u128(of.0.as_u128() << 64 | at_pod.incarnation.as_u128());
    store_connection(tx, id, of, at_pod, open, at(0)).await.unwrap();
}

async fn begin(tx: &mut Transaction<Tables>, pods: &[(u128, i64)]) {
    for (n, seen_at) in pods {
        insert_pod(tx, pod(*n).incarnation, &pod(*n).id, at(*seen_at)).await.unwrap();
    }
}

async fn pods_of(tx: &mut Transaction<Tables>, users: &[u128]) -> Vec<(u128, Vec<String>)> {
    let users: Vec<UserId> = users.iter().map(|n| user(*n)).collect();
    let name = |route: &Route| if let Route::Pod(pod) = route { pod.to_string() } else { "previous".to_owned() };
    let routes = routes(tx, &users).await.unwrap();
    routes.into_iter().map(|(user, routes)| (user.0.as_u128(), routes.iter().map(name).collect())).collect()
}

async fn a_row_says_who_is_connected_where_until_its_pod_is_dead(backend: Backend) {
    let store = stored(backend).await;
    let second = Beacon { user_id: user(2), device: None, ..available() };
    let moved = Beacon { active: false, location: THERE, located_at: at(90), ..second.clone() };
    let mut tx = store.begin().await.unwrap();
    for beacon in [&second, &available(), &moved] {
        put_beacon(&mut tx, beacon).await.unwrap();
    }
    let both = lock_beacons(&mut tx, &[user(2), user(3), user(1)]).await.unwrap();
    assert_eq!(both, [available(), moved], "in the order of users, as last put");
    begin(&mut tx, &[(1, 0), (2, 0)]).await;
    for (of, at_pod, open) in [(1, 1, 1), (1, 2, 1), (2, 2, 2), (3, 1, 1)] {
        connect(&mut tx, user(of), &pod(at_pod), open).await;
    }
    let names = |pods: &[u128]| pods.iter().map(|n| format!("pod-{n}")).collect::<Vec<_>>();
    let all = [(1, names(&[1, 2])), (2, names(&[2])), (3, names(&[1]))];
    assert_eq!(pods_of(&mut tx, &[3, 2, 1, 4]).await, all);
    // A row goes with the last socket.
    connect(&mut tx, user(2), &pod(2), 1).await;
    assert_eq!(pods_of(&mut tx, &[2]).await, [(2, names(&[2]))]);
    connect(&mut tx, user(2), &pod(2), 0).await;
    assert!(pods_of(&mut tx, &[2]).await.is_empty());
    connect(&mut tx, user(2), &pod(2), 1).await;
    tx.commit().await.unwrap();

    let mut tx = store.begin().await.unwrap();
    assert!(touch_pod(&mut tx, pod(2).incarnation, at(40)).await.unwrap());
    end_stale_pods(&mut tx, at(60)).await.unwrap();
    assert!(users_of_dead_pods(&mut tx, at(60)).await.unwrap().is_empty());
    end_stale_pods(&mut tx, at(61)).await.unwrap();
    assert_eq!(users_of_dead_pods(&mut tx, at(61)).await.unwrap(), [user(1), user(3)]);
    // Of user 1 the row at the dead pod is deleted and the other stays; user 2 is not touched.
    assert_eq!(delete_stale(&mut tx, &[user(1), user(3)], at(61)).await.unwrap(), [user(1)]);
    assert!(users_of_dead_pods(&mut tx, at(61)).await.unwrap().is_empty());
    assert_eq!(pods_of(&mut tx, &[1, 2, 3]).await, [(1, names(&[2])), (2, names(&[2]))]);
    tx.commit().await.unwrap();
}

async fn a_pod_that_was_taken_for_dead_takes_a_new_incarnation(backend: Backend) {
    let store = stored(backend).await;
    let mut tx = store.begin().await.unwrap();
    begin(&mut tx, &[(1, 0)]).await;
    connect(&mut tx, user(1), &pod(1), 1).await;
    assert!(touch_pod(&mut tx, pod(1).incarnation, at(10)).await.unwrap());
    end_stale_pods(&mut tx, at(100)).await.unwrap();
    // From now on it is over, whatever the pod still does, before and after the sweep.
    assert!(!touch_pod(&mut tx, pod(1).incarnation, at(100)).await.unwrap());
    connect(&mut tx, user(2), &pod(1), 1).await;
    assert_eq!(users_of_dead_pods(&mut tx, at(100)).await.unwrap(), [user(1)]);
    assert!(delete_stale(&mut tx, &[user(1)], at(100)).await.unwrap().is_empty());
    assert!(users_of_dead_pods(&mut tx, at(100)).await.unwrap().is_empty());
    assert!(!touch_pod(&mut tx, pod(1).incarnation, at(101)).await.unwrap());
    connect(&mut tx, user(2), &pod(1), 1).await;
    assert!(pods_of(&mut tx, &[1, 2]).await.is_empty());
    insert_pod(&mut tx, pod(2).incarnation, "pod-1", at(101)).await.unwrap();
    connect(&mut tx, user(2), &pod(2), 1).await;
    assert_eq!(pods_of(&mut tx, &[1, 2]).await, [(2, vec!["pod-1".to_owned()])]);
    tx.commit().await.unwrap();
}

async fn other_pods_are_known_and_asked_to_count(backend: Backend) {
    let store = stored(backend).await;
    let mut tx = store.begin().await.unwrap();
    begin(&mut tx, &[(1, 0), (2, 0), (3, 0)]).await;
    for (of, at_pod, open) in [(1, 1, 1), (1, 2, 1), (1, 3, 2), (2, 3, 1)] {
        connect(&mut tx, user(of), &pod(at_pod), open).await;
    }
    connect(&mut tx, user(1), &pod(2), 4).await;
    let others = connected_elsewhere(&mut tx, user(1), pod(1).incarnation).await.unwrap();
    assert_eq!(others, [(pod(2), 4), (pod(3), 2)]);
    assert!(connected_elsewhere(&mut tx, user(2), pod(3).incarnation).await.unwrap().is_empty());
    request_recount(&mut tx, user(1), &[2, 3, 9].map(|n| pod(n).incarnation)).await.unwrap();
    let mut taken = Vec::new();
    for n in [1, 3, 3, 2] {
        taken.push(take_recounts(&mut tx, pod(n).incarnation).await.unwrap());
    }
    assert_eq!(taken, [vec![], vec![user(1)], vec![], vec![user(1)]]);
    tx.commit().await.unwrap();
}

/// A process of the version before has a row for each socket, which it touches; it never sees one of this version as stale.
#[tokio::test]
async fn rows_of_the_version_before_count_as_long_as_they_are_touched() {
    let store = stored(Backend::Postgres).await;
    let mut tx = store.begin().await.unwrap();
    begin(&mut tx, &[(1, 0)]).await;
    connect(&mut tx, user(1), &pod(1), 1).await;
    let On::Postgres(pg) = tx.on() else { panic!("it is on PostgreSQL") };
    for (n, of, seen_at) in [(11_u128, 1_u128, 0), (12, 2, 30), (13, 2, 0)] {
        sqlx::query(
            "insert into sockets (session_id, user_id, pod, seen_at, received_at) values ($1, $2, 'old', $3, $3)",
        )
        .bind(Uuid::from_u128(n))
        .bind(user(of).0)
        .bind(at(seen_at))
        .execute(&mut *pg)
        .await
        .unwrap();
    }
    let stale = "select count(*) from sockets where seen_at < $1 and incarnation is not null";
    let count: i64 = sqlx::query_scalar(stale).bind(at(3_600)).fetch_one(&mut *pg).await.unwrap();
    assert_eq!(count, 0);
    let previous = "previous".to_owned();
    let expected = [(1, vec!["pod-1".to_owned(), previous.clone()]), (2, vec![previous])];
    assert_eq!(pods_of(&mut tx, &[1, 2]).await, expected);
    assert!(connected_elsewhere(&mut tx, user(2), pod(1).incarnation).await.unwrap().is_empty());
    assert_eq!(users_of_dead_pods(&mut tx, at(61)).await.unwrap(), [user(1), user(2)]);
    assert_eq!(delete_stale(&mut tx, &[user(1), user(2)], at(61)).await.unwrap().len(), 2);
    assert!(users_of_dead_pods(&mut tx, at(61)).await.unwrap().is_empty());
    assert!(delete_stale(&mut tx, &[user(2)], at(91)).await.unwrap().is_empty());
    tx.commit().await.unwrap();
}
