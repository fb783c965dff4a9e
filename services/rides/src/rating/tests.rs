use streams::RideStatus;
use uuid::Uuid;

use super::*;
use crate::ride::tests::{accepted, at};

/// A ride that has ended at `at(0)` after its start.
fn completed() -> Ride {
    let ride = Ride::create(&accepted(), RideId(Uuid::from_u128(9)), None, at(0)).ride;
    Ride { status: RideStatus::Completed, started_at: Some(at(0)), ..ride }
}

fn code(decision: Result<Decision, Problem>) -> String {
    match decision {
        Ok(Decision::Rated(rating)) => format!("rated {} {}", rating.by.as_str(), rating.stars),
        Ok(Decision::AlreadyDone(rating)) => format!("done {}", rating.stars),
        Err(problem) => format!("{} {}", problem.status.as_u16(), problem.code),
    }
}

fn opinion(stars: i64, comment: Option<&str>) -> Opinion {
    Opinion::new(stars, comment).unwrap()
}

fn rated(ride: &Ride, user: UserId, opinion: Opinion) -> Rating {
    match decide(ride, user, (None, None), opinion, at(1)) {
        Ok(Decision::Rated(rating)) => rating,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_may_rate_what_and_when() {
    let ride = completed();
    let cancelled = |started_at| Ride { status: RideStatus::Cancelled, started_at, ..ride.clone() };
    let live = |status| Ride { status, ..ride.clone() };
    let closes = OPEN_FOR.num_seconds();
    for (ride, now, expected) in [
        (live(RideStatus::Pickup), 1, "409 ride_not_over"),
        (live(RideStatus::Arrived), 1, "409 ride_not_over"),
        (cancelled(None), 1, "409 ride_not_started"),
        (cancelled(Some(at(0))), 1, "rated driver 4"),
        (ride.clone(), 1, "rated driver 4"),
        (ride.clone(), closes, "rated driver 4"),
        (ride.clone(), closes + 1, "409 rating_closed"),
    ] {
        let decision = decide(&ride, ride.driver_id, (None, None), opinion(4, None), at(now));
        assert_eq!(code(decision), expected, "{:?} at {now}", ride.status);
    }
    let decision = decide(&ride, ride.passenger_id, (None, None), opinion(5, None), at(1));
    assert_eq!(code(decision), "rated passenger 5");
}

#[test]
fn a_repeat_is_done_and_another_opinion_is_refused_also_after_the_time() {
    let ride = completed();
    let own = rated(&ride, ride.passenger_id, opinion(4, Some("Good")));
    for (next, expected) in [
        (opinion(4, Some(" Good\u{200b} ")), "done 4"),
        (opinion(4, None), "409 already_rated"),
        (opinion(5, Some("Good")), "409 already_rated"),
    ] {
        for now in [2, OPEN_FOR.num_seconds() + 9] {
            let decision = decide(&ride, ride.passenger_id, (Some(&own), None), next.clone(), at(now));
            assert_eq!(code(decision), expected, "{next:?}");
        }
    }
}

#[test]
fn a_rating_counts_when_both_have_rated_or_nobody_can_any_more() {
    let ride = completed();
    let first = rated(&ride, ride.driver_id, opinion(1, None));
    assert_eq!((first.of_user, first.counts_from), (Some(ride.passenger_id), at(OPEN_FOR.num_seconds())));
    let second = decide(&ride, ride.passenger_id, (None, Some(&first)), opinion(5, None), at(7));
    let Ok(Decision::Rated(second)) = second else { panic!("{second:?}") };
    assert_eq!((second.of_user, second.counts_from), (Some(ride.driver_id), at(7)));
}

#[test]
fn stars_and_comments_are_bounded_and_comments_are_cleaned() {
    for stars in [0, 6, -1, 256 + 1, i64::MAX] {
        assert_eq!(Opinion::new(stars, None).unwrap_err().field.as_deref(), Some("stars"), "{stars}");
    }
    let comment = |text: &str| Opinion::new(3, Some(text)).map(|opinion| opinion.comment);
    assert_eq!(comment("  two\nlines\u{202e} "), Ok(Some("two lines".to_owned())));
    assert_eq!(comment(" \u{200b}"), Ok(None));
    assert_eq!(comment(&"ß".repeat(COMMENT_MAX)), Ok(Some("ß".repeat(COMMENT_MAX))));
    assert_eq!(comment(&"a".repeat(COMMENT_MAX + 1)).unwrap_err().field.as_deref(), Some("comment"));
}

#[test]
fn a_mean_has_hundredths_and_is_null_without_ratings() {
    for (stars, count, expected) in [
        (0, 0, None),
        (5, 1, Some(5.0)),
        (14, 3, Some(4.67)),
        (13, 3, Some(4.33)),
        (2_499, 500, Some(5.0)),
        (9, 8, Some(1.13)),
    ] {
        assert_eq!(mean(stars, count), expected, "{stars}/{count}");
    }
}
