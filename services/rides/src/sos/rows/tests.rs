//! Alerts in memory and in PostgreSQL: who works on one, and when it ends.

use platform::{Store, World};
use testing::{Backend, on_both_stores};

use super::*;
use crate::MIGRATIONS;
use crate::ride::tests::at;

on_both_stores!(
    an_alert_is_claimed_once_for_each_try_and_dead_after_a_day,
    positions_are_due_every_five_seconds_until_the_alert_is_closed,
    closed_alerts_are_deleted_and_old_ones_closed,
);

const DAY: i64 = 86_400;

async fn store(backend: Backend) -> Store<Tables> {
    backend.store(&World::seeded(at(0), 7), "test", "rides", &MIGRATIONS).await
}

fn alert(n: u128, second: i64) -> Alert {
    let id = Uuid::from_u128(n);
    Alert {
        sos_id: id,
        ride_id: RideId(id),
        user: UserId(id),
        round: 1,
        raised_at: at(second),
        note: Some("help".to_owned()),
        place: Some((Position { lat: 60.0, lng: 10.0 }, at(second))),
        delivery: Delivery { accepted_at: None, tries: 0, next_try_at: at(second), dead_at: None },
        positions_at: at(second),
        position_of: None,
        closed: None,
    }
}

async fn put_in(store: &Store<Tables>, alert: &Alert) {
    let mut tx = store.begin().await.unwrap();
    put(&mut tx, alert).await.unwrap();
    assert_eq!(lock(&mut tx, alert.sos_id).await.unwrap().as_ref(), Some(alert), "read as written");
    tx.commit().await.unwrap();
}

async fn due(store: &Store<Tables>, second: i64) -> Vec<(u128, i32, bool)> {
    let mut tx = store.begin().await.unwrap();
    let claimed = claim_due(&mut tx, at(second)).await.unwrap();
    tx.commit().await.unwrap();
    claimed.iter().map(|a| (a.sos_id.as_u128(), a.delivery.tries, a.delivery.dead_at.is_some())).collect()
}

async fn positions(store: &Store<Tables>, second: i64) -> Vec<u128> {
    let mut tx = store.begin().await.unwrap();
    let claimed = claim_positions(&mut tx, at(second)).await.unwrap();
    tx.commit().await.unwrap();
    claimed.iter().map(|alert| alert.sos_id.as_u128()).collect()
}

async fn an_alert_is_claimed_once_for_each_try_and_dead_after_a_day(backend: Backend) {
    let store = store(backend).await;
    put_in(&store, &alert(1, 0)).await;
    assert_eq!(due(&store, 0).await, [(1, 1, false)]);
    assert_eq!(due(&store, 0).await, [], "by nobody else at once");
    assert_eq!(due(&store, 1).await, [(1, 2, false)], "its process may have died");
    assert_eq!((due(&store, 2).await, due(&store, 3).await), (vec![], vec![(1, 3, false)]));
    let accepted = Alert { delivery: Delivery { accepted_at: Some(at(1)), ..alert(2, 0).delivery }, ..alert(2, 0) };
    put_in(&store, &accepted).await;
    put_in(&store, &Alert { closed: Some((at(1), "safe".to_owned())), ..alert(3, 0) }).await;
    assert_eq!(due(&store, DAY).await, [(1, 3, true)], "given up");
    assert_eq!(due(&store, DAY + 100).await, []);
}

async fn positions_are_due_every_five_seconds_until_the_alert_is_closed(backend: Backend) {
    let store = store(backend).await;
    let accepted = Alert { delivery: Delivery { accepted_at: Some(at(0)), ..alert(1, 0).delivery }, ..alert(1, 0) };
    put_in(&store, &accepted).await;
    put_in(&store, &Alert { closed: Some((at(1), "safe".to_owned())), ..alert(2, 0) }).await;
    // Not accepted: given up before it is closed, however long its last pause was.
    let waiting = Delivery { next_try_at: at(DAY + 30), tries: 9, ..alert(3, 0).delivery };
    put_in(&store, &Alert { delivery: waiting, ..alert(3, 0) }).await;
    assert_eq!((positions(&store, 4).await, positions(&store, 5).await), (vec![], vec![1]));
    assert_eq!((positions(&store, 9).await, positions(&store, 10).await), (vec![], vec![1]));
    assert_eq!(positions(&store, DAY - 1).await, [1]);
    assert_eq!(positions(&store, DAY + 5).await, [], "closed after a day");
    assert_eq!(due(&store, DAY + 30).await, [(3, 9, true)]);
    assert_eq!(positions(&store, DAY + 30).await, [], "and then closed");
    let mut tx = store.begin().await.unwrap();
    assert_eq!(open(&mut tx).await.unwrap(), []);
    let closed = lock(&mut tx, Uuid::from_u128(1)).await.unwrap().unwrap().closed;
    assert_eq!(closed.map(|(at, _)| at), Some(at(DAY + 5)));
}

async fn closed_alerts_are_deleted_and_old_ones_closed(backend: Backend) {
    let store = store(backend).await;
    put_in(&store, &alert(1, 0)).await;
    put_in(&store, &Alert { closed: Some((at(1), "safe".to_owned())), ..alert(2, 0) }).await;
    let mut tx = store.begin().await.unwrap();
    purge(&mut tx, at(1), at(DAY)).await.unwrap();
    assert!(lock(&mut tx, Uuid::from_u128(1)).await.unwrap().unwrap().closed.is_some());
    assert!(lock(&mut tx, Uuid::from_u128(2)).await.unwrap().is_some());
    purge(&mut tx, at(2), at(DAY)).await.unwrap();
    assert_eq!(lock(&mut tx, Uuid::from_u128(2)).await.unwrap(), None);
    // With the account goes what is closed.
    put(&mut tx, &alert(3, 0)).await.unwrap();
    let people = [1, 3].map(|n| UserId(Uuid::from_u128(n)));
    assert!(!erase_people(&mut tx, &people).await.unwrap(), "one is open");
    let left = [1, 3].map(Uuid::from_u128);
    assert_eq!(lock(&mut tx, left[0]).await.unwrap(), None);
    assert!(lock(&mut tx, left[1]).await.unwrap().is_some());
    assert_eq!(raised_by(&mut tx, UserId(left[1]), Uuid::nil(), 9).await.unwrap().len(), 1);
    put(&mut tx, &Alert { closed: Some((at(2), "safe".to_owned())), ..alert(3, 0) }).await.unwrap();
    assert!(erase_people(&mut tx, &people).await.unwrap());
    assert_eq!(lock(&mut tx, left[1]).await.unwrap(), None);
}
