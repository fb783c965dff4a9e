//! Each rule of matching as a table: what comes in, what is published.

use matching::engine::Outcome;
use streams::{Event, MatchId, RequestId, UserId};

use crate::city::{City, km, uuid};

fn play(lines: &[(&str, &str)]) -> City {
    let mut city = City::new();
    city.play(lines);
    city
}

#[test]
fn the_nearest_free_driver_of_the_type_gets_the_offer() {
    let city = play(&[
        ("d1 on 3", ""),
        ("d2 on -2", ""),
        ("d3 on 1 van", ""),
        ("d4 on 0.5", ""),
        ("d4 off", ""),
        ("r1 p1 find 0", "m1 d2 to r1"),
        ("r2 p2 find 0", "m2 d1 to r2"),
        ("r3 p3 find 0", ""),
    ]);
    let found = &city.found[&MatchId(uuid("m1"))];
    let meters = km(0.0).distance_m(&km(-2.0));
    assert_eq!(found.pickup_distance_m, meters * 1.3);
    assert_eq!(found.pickup_eta_s, meters * 1.3 / 7.0);
    assert_eq!(found.expires_at - found.found_at, chrono::Duration::seconds(15));
    assert_eq!(found.driver_location, km(-2.0));
    let (distance_m, duration_s) = pricing::estimate(&found.pickup, &found.dropoff);
    let tariffs = pricing::Tariffs::default();
    assert_eq!(found.fare_estimate, pricing::price(&tariffs.car, distance_m, duration_s).fare.total);
}

#[test]
fn nobody_farther_than_the_radius_and_never_the_passenger() {
    play(&[
        ("d1 on 5.1", ""),
        ("d2 on 0", ""),
        // d2 looks for a ride: not with d2.
        ("r1 d2 find 0", ""),
        ("d1 on 4.9", ""),
        ("1 s", "m1 d1 to r1"),
        // A passenger who is offered a ride is no free driver.
        ("r2 p2 find 0", ""),
    ]);
}

#[test]
fn equally_near_drivers_go_by_their_ids() {
    play(&[("d2 on 1", ""), ("d1 on 1", ""), ("r1 p1 find 0", "m1 d1 to r1")]);
}

#[test]
fn offline_drivers_stay_offered_no_more() {
    play(&[
        ("d1 on 0", ""),
        ("d1 off", ""),
        ("r1 p1 find 0", ""),
        ("d1 on 0", "m1 d1 to r1"),
        // Going offline leaves the offer to its answer or its end; then nobody is there.
        ("d1 off", ""),
        ("17 s", "m1 expired"),
        ("r2 p2 find 0", ""),
    ]);
}

#[test]
fn a_driver_silent_for_a_minute_is_offered_nothing_until_heard_of() {
    play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("40 s", ""),
        ("d2 at 1", ""),
        ("21 s", ""),
        ("r1 p1 find 0", "m1 d2 to r1"),
        ("r2 p2 find 0", ""),
        // A beacon matches at once, a position with the next tick.
        ("d1 on 0", "m2 d1 to r2"),
        ("m1 accept", ""),
        ("k1 pickup m1", ""),
        ("61 s", "m2 expired"),
        ("k1 completed m1", ""),
        ("d2 at 1", ""),
        ("1 s", "m3 d2 to r2"),
    ]);
}

#[test]
fn a_waiting_passenger_is_matched_when_a_driver_comes_later() {
    play(&[
        ("r1 p1 find 0", ""),
        ("r2 p2 find 0", ""),
        ("20 s", ""),
        ("d1 on 1", "m1 d1 to r1"),
        ("d2 on 9", ""),
        ("d2 at 4", ""),
        ("1 s", "m2 d2 to r2"),
        ("r3 p3 find 0", ""),
        ("m1 accept", ""),
        ("k1 pickup m1", ""),
        ("k1 completed m1", "m3 d1 to r3"),
    ]);
}

#[test]
fn the_longest_waiting_passenger_is_first() {
    play(&[("r2 p2 find 0", ""), ("1 s", ""), ("r1 p1 find 0", ""), ("1 s", ""), ("d1 on 0", "m1 d1 to r2")]);
}

#[test]
fn a_driver_gets_no_second_hold_and_neither_does_a_passenger() {
    let city = play(&[
        ("d1 on 0", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("r2 p2 find 0", ""),
        ("d2 on 0", "m2 d2 to r2"),
        ("d3 on 0", ""),
        ("10 s", ""),
        ("m1 accept", ""),
        ("m2 accept", ""),
        ("d1 on 0", ""),
        ("r3 p3 find 0", "m3 d3 to r3"),
        ("k1 pickup m1", ""),
        ("d1 on 0", ""),
        ("r4 p4 find 0", ""),
        ("20 s", "m3 expired, m4 d3 to r4"),
    ]);
    assert!(city.locked("d1") && city.locked("p1") && !city.locked("d2"));
    assert_eq!(city.held("d2").as_deref(), Some("m2"));
}

#[test]
fn an_offer_expires_after_a_grace_and_the_next_driver_is_asked() {
    play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("16 s", ""),
        ("1 s", "m1 expired, m2 d2 to r1"),
        // Free, but never again for that request.
        ("17 s", "m2 expired"),
        ("5 s", ""),
        ("r2 p2 find 0", "m3 d1 to r2"),
        // What the engine said comes back to it.
        ("m1 expired", ""),
    ]);
}

#[test]
fn a_declined_offer_goes_to_the_next_driver_at_once_and_not_back() {
    let city = play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("m1 decline", "m2 d2 to r1"),
        ("m1 decline", ""),
        ("m2 decline", ""),
        ("30 s", ""),
        ("r1 p1 end", ""),
        ("r2 p1 find 0", "m3 d1 to r2"),
    ]);
    assert_eq!(city.outcome("m1"), Some(Outcome::Declined));
}

#[test]
fn an_answer_within_the_grace_counts() {
    let city = play(&[
        ("d1 on 0", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("16 s", ""),
        ("m1 accept", ""),
        ("10 s", ""),
        ("k1 pickup m1", ""),
    ]);
    assert_eq!(city.outcome("m1"), Some(Outcome::Ridden));
}

#[test]
fn a_search_that_ends_withdraws_its_offer_and_stays_ended() {
    play(&[
        ("d1 on 0", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("1 s", ""),
        ("r1 p1 end", "m1 cancelled"),
        ("r1 p1 find 0 @-1", ""),
        ("r1 p1 find 0", ""),
        ("r1 p1 end", ""),
        // The end of one that is not known yet.
        ("r2 p1 end", ""),
        ("r2 p1 find 0 @-1", ""),
        ("r3 p2 find 0", "m2 d1 to r3"),
    ]);
}

#[test]
fn a_newer_search_replaces_the_older_and_an_older_one_nothing() {
    play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("1 s", ""),
        ("r2 p1 find 1", "m1 cancelled, m2 d2 to r2"),
        ("r3 p1 find 0 @-1", ""),
        ("r2 p1 find 1 @-1", ""),
        ("r2 p1 end @-1", ""),
        ("1 s", ""),
        // The same again changes nothing; another place is asked for anew.
        ("r2 p1 find 1", ""),
        ("r2 p1 find 0", "m2 cancelled, m3 d1 to r2"),
    ]);
}

#[test]
fn an_older_beacon_changes_nothing() {
    play(&[
        ("d1 on 0", ""),
        ("2 s", ""),
        ("d1 off", ""),
        ("d1 on 0 @-1", ""),
        ("r1 p1 find 0", ""),
        ("d1 on 0", "m1 d1 to r1"),
        ("m1 decline", ""),
        // An older place neither.
        ("d1 at 9 @-1", ""),
        ("r2 p2 find 0", "m2 d1 to r2"),
    ]);
}

#[test]
fn a_request_is_over_after_its_time_and_publishes_nothing() {
    let city = play(&[
        ("r1 p1 find 0", ""),
        ("299 s", ""),
        ("d1 on 9", ""),
        ("1 s", ""),
        ("d1 on 0", ""),
        // Too old when it comes.
        ("r2 p2 find 0 @-300", ""),
        ("r3 p3 find 0 @-299", "m1 d1 to r3"),
        // An offer that is out may be answered.
        ("5 s", ""),
        ("m1 accept", ""),
        ("20 s", ""),
        ("k1 pickup m1", ""),
    ]);
    assert!(city.engine.live_request(UserId(uuid("p1"))).is_none());
    assert!(city.locked("p3"));
}

#[test]
fn a_ride_locks_both_and_its_end_frees_both() {
    let city = play(&[
        ("d1 on 0", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("m1 accept", ""),
        ("k1 pickup m1", ""),
        ("m1 accept", ""),
        ("m1 superseded", ""),
        ("r2 p1 find 0", ""),
        ("100 s", ""),
        ("d1 on 0", ""),
        ("k1 cancelled m1", "m2 d1 to r2"),
        // Late or again: of no effect.
        ("k1 pickup m1", ""),
        ("k1 completed m1", ""),
        ("m1 accept", ""),
        ("m2 decline", ""),
    ]);
    assert!(!city.locked("d1") && !city.locked("p1"));
    assert!(city.engine.live_request(UserId(uuid("p1"))).is_some());
}

#[test]
fn a_driver_is_free_where_the_ride_took_them() {
    play(&[
        ("d1 on 0", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("m1 accept", ""),
        ("k1 pickup m1", ""),
        ("1 s", ""),
        ("d1 at 20", ""),
        ("r2 p2 find 0", ""),
        ("r3 p3 find 20", ""),
        ("k1 completed m1", "m2 d1 to r3"),
    ]);
}

#[test]
fn the_end_of_a_ride_may_come_before_its_beginning() {
    let city = play(&[
        ("d1 on 0", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("k1 cancelled m1", ""),
        ("k1 pickup m1", ""),
        ("m1 accept", ""),
        ("r2 p2 find 0", "m2 d1 to r2"),
    ]);
    assert!(!city.locked("p1"));
}

#[test]
fn the_ride_may_come_before_the_answer_that_it_rests_on() {
    let city = play(&[
        ("d1 on 0", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("k1 pickup m1", ""),
        ("m1 accept", ""),
        ("30 s", ""),
        ("k1 completed m1", ""),
    ]);
    assert_eq!(city.held("d1"), None);
    assert_eq!(city.outcome("m1"), Some(Outcome::Ridden));
}

#[test]
fn a_ride_of_a_match_nobody_knows_takes_both_from_their_offers() {
    let mut other = City::new();
    other.play(&[("d1 on 0", ""), ("r9 p2 find 0", "m1 d1 to r9")]);
    let mut found = other.found[&MatchId(uuid("m1"))].clone();
    (found.match_id, found.request_id) = (MatchId(uuid("m77")), RequestId(uuid("r77")));
    let mut city =
        play(&[("d1 on 0", ""), ("r1 p1 find 0", "m1 d1 to r1"), ("d2 on 0", ""), ("r2 p2 find 0", "m2 d2 to r2")]);
    city.found.insert(found.match_id, found);
    // d1 with p2: p1 is given the driver that p2 had, and p2's search is over.
    city.play(&[("k1 pickup m77", "m1 cancelled, m2 cancelled, m3 d2 to r1"), ("m77 accept", "")]);
    assert!(city.locked("d1") && city.locked("p2"));
    assert!(city.engine.live_request(UserId(uuid("p2"))).is_none());
}

#[test]
fn an_answer_under_way_while_another_ride_of_the_passenger_begins_and_ends_stands() {
    let mut city =
        play(&[("d1 on 0", ""), ("r1 p1 find 0", "m1 d1 to r1"), ("17 s", "m1 expired"), ("d2 on 1", "m2 d2 to r1")]);
    // d1 had accepted in time, which is told late; users has taken d2's yes too, and rides makes rides of both in turn.
    city.play(&[("k1 pickup m1", "m2 cancelled"), ("k1 cancelled m1", "")]);
    city.play(&[("m2 accept", ""), ("k2 pickup m2", "")]);
    assert!(city.locked("d2") && city.locked("p1") && !city.locked("d1"));
}

#[test]
fn superseded_frees_the_hold_and_asks_another_driver() {
    let city = play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("m1 accept", ""),
        ("m1 superseded", "m2 d2 to r1"),
        // Before the acceptance that it answers.
        ("m2 superseded", ""),
        ("m2 accept", ""),
        ("r2 p2 find 0", "m3 d1 to r2"),
    ]);
    assert_eq!(city.held("p1"), None);
    assert!(city.engine.live_request(UserId(uuid("p1"))).is_some());
}

#[test]
fn a_late_yes_wins_over_a_newer_offer_that_is_not_answered() {
    let city = play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("17 s", "m1 expired, m2 d2 to r1"),
        ("m1 accept", "m2 cancelled"),
        ("r2 p2 find 0", "m3 d2 to r2"),
        ("k1 pickup m1", ""),
    ]);
    assert!(city.locked("d1") && city.locked("p1"));
    assert_eq!(city.held("d2").as_deref(), Some("m3"));
}

#[test]
fn a_late_yes_does_not_break_an_accepted_offer() {
    let city = play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("17 s", "m1 expired, m2 d2 to r1"),
        ("m2 accept", ""),
        ("m1 accept", ""),
        ("m1 superseded", ""),
    ]);
    assert_eq!(city.held("p1").as_deref(), Some("m2"));
    assert_eq!(city.held("d1"), None);
}

#[test]
fn an_accepted_offer_without_a_word_from_rides_is_released_after_minutes() {
    let mut city = play(&[("d1 on 0", ""), ("r1 p1 find 0", "m1 d1 to r1"), ("m1 accept", ""), ("299 s", "")]);
    assert_eq!(city.held("d1").as_deref(), Some("m1"));
    let steps = city.pass(1);
    assert_eq!(steps[0].released, [MatchId(uuid("m1"))]);
    assert_eq!(city.held("d1"), None);
    // The ride may still come.
    city.play(&[("k1 pickup m1", "")]);
    assert!(city.locked("d1"));
}

#[test]
fn operators_hear_of_an_accepted_offer_after_a_minute() {
    let mut city = play(&[("d1 on 0", ""), ("r1 p1 find 0", "m1 d1 to r1"), ("m1 accept", "")]);
    let overdue: Vec<MatchId> = city.pass(120).into_iter().flat_map(|s| s.overdue).collect();
    assert_eq!(overdue, [MatchId(uuid("m1"))]);
}

#[test]
fn one_step_makes_many_matches_and_no_driver_twice() {
    let mut city = City::new();
    for n in 1..=50 {
        city.line(&format!("d{n} on {}", f64::from(n) / 100.0));
    }
    let finders: Vec<_> = (1..=60).map(|n| city.finder(&format!("r{n}"), &format!("p{n}"), true, 0.0)).collect();
    let inputs: Vec<_> = finders.iter().map(matching::engine::rules::Input::Finder).collect();
    let stepped = city.step(&inputs);
    assert_eq!(stepped.events.iter().filter(|e| matches!(e, Event::MatchFound(_))).count(), 50);
    assert_eq!(city.engine.waiting().count(), 10);
}
