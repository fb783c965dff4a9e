//! Offers: every state against every answer, and the rows on both stores.

use std::collections::BTreeMap;

use platform::World;
use streams::{Position, VehicleType};
use testing::{Backend, on_both_stores};
use uuid::Uuid;

use super::rows::{accept, close, insert, lock_of_driver, newest_accepted, purge, reject, set_end_shown, unshown};
use super::*;
use crate::tables::Tables;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + Duration::seconds(seconds)
}

fn offer(n: u128, state: OfferState) -> Offer {
    let here = Position { lat: 1.5, lng: -2.5 };
    Offer {
        match_id: MatchId(Uuid::from_u128(n)),
        request_id: RequestId(Uuid::from_u128(n + 100)),
        driver_id: UserId(Uuid::from_u128(n + 200)),
        passenger_id: UserId(Uuid::from_u128(n + 300)),
        trip: Trip { pickup: here, dropoff: here, vehicle_type: VehicleType::Van },
        expires_at: at(15),
        state,
    }
}

#[test]
fn an_answer_counts_once_and_in_time() {
    let outcome = |state, answer, now| match offer(1, state).answered(answer, at(now)) {
        Ok(None) => "repeat".to_owned(),
        Ok(Some(Answered::Accepted(_))) => "accepted".to_owned(),
        Ok(Some(Answered::Declined(event))) => format!("{:?}", event.reason).to_lowercase(),
        Err(problem) => problem.code.into_owned(),
    };
    use DriverAnswer::{Accept, Reject};
    use OfferState::{Accepted, Closed, Declined, Open};
    for (state, answer, now, expected) in [
        (Open, Accept, 14, "accepted"),
        (Open, Reject, 14, "declined"),
        (Open, Accept, 15, "offer_expired"),
        (Open, Reject, 15, "offer_expired"),
        (Accepted, Accept, 14, "repeat"),
        // The ack was lost, and the repeat comes after the expiry.
        (Accepted, Accept, 99, "repeat"),
        (Declined, Reject, 99, "repeat"),
        (Accepted, Reject, 14, "offer_closed"),
        (Declined, Accept, 14, "offer_closed"),
        (Closed, Accept, 14, "offer_closed"),
        (Closed, Reject, 14, "offer_closed"),
    ] {
        assert_eq!(outcome(state, answer, now), expected, "{state:?} {answer:?} at {now}");
    }
}

const REASONS: [RejectReason; 4] =
    [RejectReason::Declined, RejectReason::Expired, RejectReason::Cancelled, RejectReason::Superseded];

on_both_stores!(rejections_change_rows_as_the_rule_says, an_end_is_unshown_until_both_parties_have_it);

async fn rejections_change_rows_as_the_rule_says(backend: Backend) {
    let store = backend.store::<Tables>(&World::seeded(at(0), 1), "test", "users", &crate::MIGRATIONS).await;
    let mut n = 0;
    for state in OfferState::ALL {
        for reason in REASONS {
            n += 1;
            let (mine, other) = (offer(n, state), offer(n + 50, OfferState::Open));
            let mut tx = store.begin().await.unwrap();
            insert(&mut tx, &[mine, other], &BTreeMap::new()).await.unwrap();
            let unknown = MatchId(Uuid::from_u128(999));
            reject(&mut tx, &[(unknown, reason), (mine.match_id, reason)]).await.unwrap();
            // A repeat of match.found changes nothing.
            insert(&mut tx, &[mine], &BTreeMap::new()).await.unwrap();
            tx.commit().await.unwrap();
            let mut tx = store.begin().await.unwrap();
            let found = lock_of_driver(&mut tx, mine.match_id, mine.driver_id).await.unwrap();
            let with_offered = |offer: Offer| Some((offer, Offered::default()));
            let after = Offer { state: rejected(state, reason), ..mine };
            assert_eq!(found, with_offered(after), "{state:?} {reason:?}");
            assert_eq!(lock_of_driver(&mut tx, other.match_id, other.driver_id).await.unwrap(), with_offered(other));
            let stranger = lock_of_driver(&mut tx, mine.match_id, other.driver_id).await.unwrap();
            assert_eq!(stranger, None, "a stranger's offer does not exist");
        }
    }
    let accepted = offer(90, OfferState::Open);
    let mut tx = store.begin().await.unwrap();
    insert(&mut tx, &[accepted], &BTreeMap::new()).await.unwrap();
    assert_eq!(newest_accepted(&mut tx, accepted.driver_id).await.unwrap(), None);
    accept(&mut tx, accepted.match_id, "phone").await.unwrap();
    let newest = newest_accepted(&mut tx, accepted.driver_id).await.unwrap();
    assert_eq!(newest, Some((accepted.match_id, "phone".to_owned())));
    drop(tx);
    let first = offer(1, OfferState::Open);
    let mut tx = store.begin().await.unwrap();
    purge(&mut tx, at(15) + RETENTION).await.unwrap();
    assert!(lock_of_driver(&mut tx, first.match_id, first.driver_id).await.unwrap().is_some());
    purge(&mut tx, at(16) + RETENTION).await.unwrap();
    assert!(lock_of_driver(&mut tx, first.match_id, first.driver_id).await.unwrap().is_none());
}

async fn an_end_is_unshown_until_both_parties_have_it(backend: Backend) {
    let store = backend.store::<Tables>(&World::seeded(at(0), 1), "test", "users", &crate::MIGRATIONS).await;
    let (one, two, three) = (offer(1, OfferState::Open), offer(2, OfferState::Open), offer(3, OfferState::Accepted));
    let mut tx = store.begin().await.unwrap();
    insert(&mut tx, &[one, two, three], &BTreeMap::new()).await.unwrap();
    let ids = async |tx: &mut platform::Transaction<Tables>, parties: &[UserId]| {
        let found = unshown(tx, parties).await.unwrap();
        found.into_iter().map(|unshown| (unshown.offer.match_id, unshown.end)).collect::<Vec<_>>()
    };
    let all = [one.driver_id, two.passenger_id, three.driver_id];
    assert_eq!(ids(&mut tx, &all).await, [(one.match_id, None), (two.match_id, None)]);
    assert_eq!(ids(&mut tx, &[one.passenger_id]).await, [(one.match_id, None)]);
    let end = one.cancelled(at(5));
    close(&mut tx, std::slice::from_ref(&end)).await.unwrap();
    assert_eq!(ids(&mut tx, &[one.driver_id]).await, [(one.match_id, Some(end.clone()))]);
    let before = reject(&mut tx, &[(one.match_id, end.reason)]).await.unwrap()[&one.match_id];
    assert!(is_shown(Some(before), &end), "{before:?}");
    set_end_shown(&mut tx, &[one.match_id]).await.unwrap();
    assert_eq!(ids(&mut tx, &all).await, [(two.match_id, None)]);
    let before = reject(&mut tx, &[(one.match_id, end.reason)]).await.unwrap()[&one.match_id];
    assert!(!is_shown(Some(before), &end), "{before:?}");
}
