//! Offers: every state against every answer, and the rows on both stores.

use platform::{Store, World};
use streams::{Position, VehicleType};

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + Duration::seconds(seconds)
}

fn offer(n: u128, state: State) -> Offer {
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
    let told = |state, answer, now| match offer(1, state).answered(answer, at(now)) {
        Ok(None) => "again".to_owned(),
        Ok(Some((next, event))) => format!("{} {}", next.as_str(), event.subject()),
        Err(problem) => problem.code.to_owned(),
    };
    use Answer::{Accept, Reject};
    use State::{Accepted, Closed, Declined, Open};
    for (state, answer, now, expected) in [
        (Open, Accept, 14, "accepted match.accepted"),
        (Open, Reject, 14, "declined match.rejected"),
        (Open, Accept, 15, "offer_expired"),
        (Open, Reject, 15, "offer_expired"),
        (Accepted, Accept, 14, "again"),
        // The ack was lost, and the repeat comes late.
        (Accepted, Accept, 99, "again"),
        (Declined, Reject, 99, "again"),
        (Accepted, Reject, 14, "offer_closed"),
        (Declined, Accept, 14, "offer_closed"),
        (Closed, Accept, 14, "offer_closed"),
        (Closed, Reject, 14, "offer_closed"),
    ] {
        assert_eq!(told(state, answer, now), expected, "{state:?} {answer:?} at {now}");
    }
}

const REASONS: [RejectReason; 4] =
    [RejectReason::Declined, RejectReason::Expired, RejectReason::Cancelled, RejectReason::Superseded];

/// The SQL of `reject` says the same as the function of this name.
async fn rejections_are_the_same_as_rows(store: Store<Tables>) {
    let mut n = 0;
    for state in State::ALL {
        for reason in REASONS {
            n += 1;
            let (mine, other) = (offer(n, State::Open), offer(n + 50, State::Open));
            let mut tx = store.begin().await.unwrap();
            insert(&mut tx, &[mine, other]).await.unwrap();
            change(&mut tx, mine.match_id, state).await.unwrap();
            let unknown = MatchId(Uuid::from_u128(999));
            reject(&mut tx, &[(unknown, reason), (mine.match_id, reason)]).await.unwrap();
            // A repeat of match.found changes nothing.
            insert(&mut tx, &[mine]).await.unwrap();
            tx.commit().await.unwrap();
            let mut tx = store.begin().await.unwrap();
            let found = of_driver(&mut tx, mine.match_id, mine.driver_id).await.unwrap();
            assert_eq!(found, Some(Offer { state: rejected(state, reason), ..mine }), "{state:?} {reason:?}");
            assert_eq!(of_driver(&mut tx, other.match_id, other.driver_id).await.unwrap(), Some(other));
            let stranger = of_driver(&mut tx, mine.match_id, other.driver_id).await.unwrap();
            assert_eq!(stranger, None, "a stranger's offer does not exist");
        }
    }
    let mut tx = store.begin().await.unwrap();
    purge(&mut tx, at(15) + KEPT).await.unwrap();
    assert!(
        of_driver(&mut tx, offer(1, State::Open).match_id, offer(1, State::Open).driver_id).await.unwrap().is_some()
    );
    purge(&mut tx, at(16) + KEPT).await.unwrap();
    assert!(
        of_driver(&mut tx, offer(1, State::Open).match_id, offer(1, State::Open).driver_id).await.unwrap().is_none()
    );
}

#[tokio::test]
async fn rejections_in_memory() {
    rejections_are_the_same_as_rows(Store::memory(&World::seeded(at(0), 1), &"test".into())).await;
}

#[tokio::test]
async fn rejections_in_postgres() {
    let (world, url) = (World::seeded(at(0), 1), testing::database::fresh().await);
    let store = Store::postgres(&world, &"test".into(), &url, "users", &crate::MIGRATIONS, 2).await.unwrap();
    rejections_are_the_same_as_rows(store).await;
}
