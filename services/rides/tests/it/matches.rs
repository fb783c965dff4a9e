//! What becomes of accepted matches: one ride each, one live ride a person, one ride a request.

use bytes::Bytes;
use rides::Config;
use streams::event::MatchAccepted;
use streams::topology::DEAD_LETTER_STREAM;
use streams::{Event, Headers, Message, Money, RideStatus};
use testing::{Backend, on_both_stores};

use crate::harness::TestApp;

on_both_stores!(
    a_driver_never_gets_two_live_rides,
    a_passenger_never_gets_two_live_rides,
    a_late_second_acceptance_of_a_fulfilled_request_is_superseded,
    a_search_goes_on_after_its_driver_cancels_before_the_start,
    a_hundred_matches_at_once_become_a_hundred_rides,
    an_ended_search_never_becomes_a_ride,
    of_an_end_and_an_acceptance_at_once_one_wins,
);

async fn two_live_rides(backend: Backend, share: impl FnOnce(&MatchAccepted, &mut MatchAccepted)) {
    let app = TestApp::start(backend, Config::default()).await;
    let (first, mut other) = (app.matched(), app.matched());
    share(&first, &mut other);
    app.publish(&Event::MatchAccepted(first.clone())).await;
    let ride = app.event(&first, RideStatus::Pickup).await;
    app.publish(&Event::MatchAccepted(other.clone())).await;
    app.superseded(&other).await;
    assert_eq!(app.trail().await.len(), 1);

    // A superseded match stays superseded. A new match of the same people after the ride becomes a ride.
    assert_eq!(app.cancel(ride.driver_id, ride.ride_id).await, "cancelled 2");
    app.publish_bare(&Event::MatchAccepted(other.clone())).await;
    app.settled().await;
    let again = MatchAccepted { match_id: app.platform.world.id(), ..other };
    app.publish(&Event::MatchAccepted(again.clone())).await;
    app.event(&again, RideStatus::Pickup).await;
    assert_eq!(app.trail().await.len(), 3);
    assert_eq!(app.all("MATCH_STREAM", "match.rejected").await.len(), 1);
    app.end().await;
}

async fn a_driver_never_gets_two_live_rides(backend: Backend) {
    Box::pin(two_live_rides(backend, |first, other| other.driver_id = first.driver_id)).await;
}

async fn a_passenger_never_gets_two_live_rides(backend: Backend) {
    Box::pin(two_live_rides(backend, |first, other| other.passenger_id = first.passenger_id)).await;
}

async fn a_late_second_acceptance_of_a_fulfilled_request_is_superseded(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matched = app.matched();
    let late = MatchAccepted { request_id: matched.request_id, passenger_id: matched.passenger_id, ..app.matched() };
    app.publish(&Event::MatchAccepted(matched.clone())).await;
    let ride = app.event(&matched, RideStatus::Pickup).await;
    assert_eq!(app.cancel(ride.passenger_id, ride.ride_id).await, "cancelled 2");
    app.publish(&Event::MatchAccepted(late.clone())).await;
    app.superseded(&late).await;
    assert_eq!(app.trail().await.len(), 2, "no second ride");
    app.end().await;
}

async fn a_search_goes_on_after_its_driver_cancels_before_the_start(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let first = app.matched();
    let [second, late] = [0, 1].map(|_| MatchAccepted {
        request_id: first.request_id,
        passenger_id: first.passenger_id,
        ..app.matched()
    });
    app.publish(&Event::MatchAccepted(first.clone())).await;
    let ride = app.event(&first, RideStatus::Pickup).await;
    for _ in 0..2 {
        assert_eq!(app.cancel(ride.driver_id, ride.ride_id).await, "cancelled 2");
    }
    let cancelled = app.event(&first, RideStatus::Cancelled).await;
    assert_eq!((cancelled.search_continues, cancelled.request_id), (Some(true), Some(first.request_id)));
    assert_eq!(cancelled.fee, Some(Money::usd(0)));
    // It becomes one ride again. That one starts, and its search does not go on after that.
    app.publish(&Event::MatchAccepted(second.clone())).await;
    let ride = app.event(&second, RideStatus::Pickup).await;
    app.publish(&Event::MatchAccepted(late.clone())).await;
    app.superseded(&late).await;
    assert_eq!(app.start_ride(ride.driver_id, ride.ride_id).await, "started 2");
    assert_eq!(app.cancel(ride.driver_id, ride.ride_id).await, "cancelled 3");
    assert_eq!(app.event(&second, RideStatus::Cancelled).await.search_continues, None);
    assert_eq!(app.end_search(&second).await, "search_fulfilled");
    app.end().await;
}

async fn a_hundred_matches_at_once_become_a_hundred_rides(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matches: Vec<MatchAccepted> = (0..100).map(|_| app.matched()).collect();
    for matched in &matches {
        app.publish(&Event::MatchAccepted(matched.clone())).await;
        // Malformed and impossible messages among them delay no other match.
        let bad = Message {
            subject: "match.accepted".to_owned(),
            headers: Headers::default(),
            payload: Bytes::from_static(b"{\"match_id\": 7}"),
        };
        if matched.match_id.0.as_u128() % 10 == 0 {
            app.platform.bus.publish(bad).await.unwrap();
        }
    }
    let own =
        MatchAccepted { passenger_id: matches[0].driver_id, match_id: app.platform.world.id(), ..matches[0].clone() };
    app.publish(&Event::MatchAccepted(own)).await;
    for matched in &matches {
        app.event(matched, RideStatus::Pickup).await;
    }
    app.settled().await;
    assert_eq!(app.trail().await.len(), 100);
    assert!(!app.all(DEAD_LETTER_STREAM, "dead_letter.match_accepted_rides").await.is_empty());
    app.end().await;
}

async fn an_ended_search_never_becomes_a_ride(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let (ended, other) = (app.matched(), app.matched());
    for _ in 0..2 {
        assert_eq!(app.end_search(&ended).await, "ended");
    }
    app.publish(&Event::MatchAccepted(ended.clone())).await;
    app.superseded(&ended).await;
    assert_eq!(app.end_search(&ended).await, "ended");
    // A search that has become a ride does not end, also when the ride is over.
    app.publish(&Event::MatchAccepted(other.clone())).await;
    let ride = app.event(&other, RideStatus::Pickup).await;
    assert_eq!(app.end_search(&other).await, "search_fulfilled");
    assert_eq!(app.cancel(ride.passenger_id, ride.ride_id).await, "cancelled 2");
    assert_eq!(app.end_search(&other).await, "search_fulfilled");
    assert_eq!(app.trail().await.len(), 2, "of the other search");
    app.end().await;
}

async fn of_an_end_and_an_acceptance_at_once_one_wins(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let (mut ended, mut rides) = (0, 0);
    for round in 0..60 {
        let matched = app.matched();
        app.publish(&Event::MatchAccepted(matched.clone())).await;
        for _ in 0..round % 7 {
            tokio::task::yield_now().await;
        }
        match app.end_search(&matched).await.as_str() {
            "ended" => ended += 1,
            "search_fulfilled" => {
                app.event(&matched, RideStatus::Pickup).await;
                rides += 1;
            }
            other => panic!("{other}"),
        }
    }
    app.settled().await;
    assert_eq!((ended + rides, app.trail().await.len()), (60, rides), "{ended} ended");
    assert_eq!(app.all("MATCH_STREAM", "match.rejected").await.len(), ended);
    app.end().await;
}
