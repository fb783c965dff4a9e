//! Each rule of matching as a table: what comes in, what is published.

use matching::engine::{self, Engine, Input, OfferOutcome};
use streams::event::{MatchRejected, RejectReason};
use streams::{Event, MatchId, RequestId, Service};

use crate::engine_harness::{EngineHarness, km, rows, rules, user, uuid};

fn play(lines: &[(&str, &str)]) -> EngineHarness {
    let mut harness = EngineHarness::new();
    harness.play(lines);
    harness
}

#[test]
fn the_nearest_free_driver_of_the_type_gets_the_offer() {
    let harness = play(&[
        ("d1 on 3", ""),
        ("d2 on -2", ""),
        ("d3 on 1 van", ""),
        ("d4 on 0.5", ""),
        ("d4 off", ""),
        ("r1 p1 find 0", "m1 d2 to r1"),
        ("r2 p2 find 0", "m2 d1 to r2"),
        ("r3 p3 find 0", ""),
    ]);
    let found = &harness.found[&MatchId(uuid("m1"))];
    let meters = km(0.0).distance_m(&km(-2.0));
    assert_eq!(found.pickup_distance_m, (meters * 130.0).round() / 100.0);
    assert_eq!(found.pickup_eta_s, (meters * 130.0 / 7.0).round() / 100.0);
    assert_eq!(found.expires_at - found.found_at, chrono::Duration::seconds(15));
    assert_eq!(found.driver_location, km(-2.0));
    let (distance_m, duration_s) = pricing::estimate(&found.pickup, &found.dropoff);
    let tariffs = pricing::Tariffs::default();
    assert_eq!(found.fare_estimate, pricing::price(&tariffs.car, distance_m, duration_s).fare.total);
}

#[test]
fn a_driver_beyond_the_radius_or_the_passenger_is_not_offered() {
    play(&[
        ("d1 on 5.1", ""),
        ("d2 on 0", ""),
        // d2 searches for a ride as a passenger.
        ("r1 d2 find 0", ""),
        ("d1 on 4.9", ""),
        ("1 s", "m1 d1 to r1"),
        // d2 is held as a passenger, and is no free driver.
        ("r2 p2 find 0", ""),
    ]);
}

#[test]
fn of_equally_near_drivers_the_lower_id_is_offered() {
    play(&[("d2 on 1", ""), ("d1 on 1", ""), ("r1 p1 find 0", "m1 d1 to r1")]);
}

#[test]
fn an_offline_driver_is_not_offered() {
    play(&[
        ("d1 on 0", ""),
        ("d1 off", ""),
        ("r1 p1 find 0", ""),
        ("d1 on 0", "m1 d1 to r1"),
        // Going offline does not end an offer; the driver may answer it or let it expire.
        ("d1 off", ""),
        ("17 s", "m1 expired"),
        ("r2 p2 find 0", ""),
    ]);
}

#[test]
fn a_driver_who_waits_in_silence_is_offered_also_after_a_silent_ride() {
    play(&[
        ("d1 on 0", ""),
        ("1000 s", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("m1 accept", ""),
        ("k1 pickup m1", ""),
        ("1000 s", ""),
        ("k1 completed m1", ""),
        ("r2 p2 find 0", "m2 d1 to r2"),
    ]);
}

#[test]
fn a_driver_is_where_the_positions_say_and_a_beacon_that_repeats_an_older_place_moves_nobody() {
    let mut harness = play(&[("d1 on 0", ""), ("1 s", ""), ("d1 at 8", ""), ("1 s", "")]);
    // The socket closes and opens.
    let first = harness.online("d1", streams::VehicleType::Car, 0.0);
    for active in [false, true] {
        let located_at = Some(harness.now - chrono::Duration::seconds(2));
        let again = streams::event::UserBeacon { active, located_at, ..first.clone() };
        harness.step(&[Input::Beacon(&again, harness.now)]);
        harness.now += chrono::Duration::seconds(1);
    }
    harness.play(&[("r1 p1 find 0", ""), ("r2 p2 find 7", "m1 d1 to r2"), ("d1 on 0", "")]);
    // A fix of the future does not hold a driver.
    harness.play(&[
        ("d2 on 20", ""),
        ("d2 at 0 @55", ""),
        ("1 s", "m2 d2 to r1"),
        ("m2 decline", ""),
        ("d2 at 20", ""),
        ("1 s", ""),
        ("r3 p3 find 20", "m3 d2 to r3"),
    ]);
}

#[test]
fn a_waiting_request_is_matched_when_a_driver_becomes_available() {
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
fn the_longest_waiting_request_is_matched_first() {
    play(&[("r2 p2 find 0", ""), ("1 s", ""), ("r1 p1 find 0", ""), ("1 s", ""), ("d1 on 0", "m1 d1 to r2")]);
}

#[test]
fn a_held_driver_or_passenger_gets_no_second_offer() {
    let harness = play(&[
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
    assert!(harness.is_locked("d1") && harness.is_locked("p1") && !harness.is_locked("d2"));
    assert_eq!(harness.held_by("d2").as_deref(), Some("m2"));
}

#[test]
fn an_offer_expires_after_the_grace_and_the_next_driver_is_offered() {
    play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("16 s", ""),
        ("1 s", "m1 expired, m2 d2 to r1"),
        // The engine receives its own match.rejected.
        ("m1 expired", ""),
        // The first one is asked again after the other, and then after a longer pause.
        ("17 s", "m2 expired, m3 d1 to r1"),
        ("r2 p2 find 0", "m4 d2 to r2"),
        ("m4 accept", ""),
        ("17 s", "m3 expired"),
        ("19 s", ""),
        ("1 s", "m5 d1 to r1"),
        ("17 s", "m5 expired"),
        // Whoever was not asked yet comes first.
        ("40 s", "m6 d1 to r1"),
        ("m6 decline", ""),
        ("d3 on 2", "m7 d3 to r1"),
    ]);
}

#[test]
fn a_search_goes_on_after_its_driver_cancels_whatever_comes_first() {
    // The end of the ride, the search that goes on, and the first event of the ride.
    let [end, on, begin] = ["k1 abandoned m1", "r1 p1 continues k1 m1", "k1 pickup m1"];
    for order in [&[begin, end, on][..], &[begin, on, end], &[on, begin, end], &[end, on, begin], &[on, end, begin]] {
        let mut harness = play(&[
            ("d1 on 0", ""),
            ("r1 p1 find 0", "m1 d1 to r1"),
            // Others wait, and not as long.
            ("r2 p2 find 0", ""),
            ("m1 accept", ""),
            ("5 s", ""),
        ]);
        let published: Vec<String> = order.iter().map(|line| harness.line(line)).collect();
        // The driver who cancelled is offered to others at once, and never again to this search.
        assert_eq!(published.concat(), "m2 d1 to r2", "{order:?}");
        harness.play(&[
            ("m2 accept", ""),
            ("1 s", ""),
            ("r3 p3 find 0", ""),
            // First in line.
            ("d2 on 1", "m3 d2 to r1"),
            ("m3 decline", "m4 d2 to r3"),
            ("m4 cancelled", ""),
            ("k2 pickup m2", ""),
            ("k2 completed m2", ""),
            ("d2 off", ""),
            // It has its whole time again, from the fifth second on.
            ("296 s", ""),
            ("d3 on 1", "m5 d3 to r1"),
            ("m5 decline", ""),
            ("5 s", ""),
            ("d4 on 1", ""),
            ("d3 off", ""),
            ("d4 off", ""),
            // A new search of the same passenger does not bring the two together for ten minutes.
            ("r4 p1 find 0", ""),
            ("9 s", ""),
            ("r5 p5 find 0", "m6 d1 to r5"),
        ]);
    }
}

#[test]
fn the_end_of_a_search_that_went_on_is_final() {
    let lines = ["r1 p1 continues k1 m1 @-2", "r1 p1 end @-1", "k1 abandoned m1", "k1 pickup m1"];
    for order in [[0, 1, 2, 3], [1, 0, 2, 3], [2, 1, 0, 3], [3, 2, 1, 0], [3, 0, 1, 2]] {
        let mut harness = play(&[("d1 on 0", ""), ("r1 p1 find 0", "m1 d1 to r1"), ("m1 accept", ""), ("9 s", "")]);
        for n in order {
            assert_eq!(harness.line(lines[n]), "", "{order:?}");
        }
        harness.play(&[("d2 on 0", ""), ("9 s", ""), ("r2 p2 find 0", "m2 d1 to r2")]);
    }
}

#[test]
fn after_a_decline_the_next_driver_is_offered_at_once_and_the_first_never_again() {
    let harness = play(&[
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
    assert_eq!(harness.outcome("m1"), Some(OfferOutcome::Declined));
}

#[test]
fn an_acceptance_within_the_grace_counts() {
    let harness = play(&[
        ("d1 on 0", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("16 s", ""),
        ("m1 accept", ""),
        ("10 s", ""),
        ("k1 pickup m1", ""),
    ]);
    assert_eq!(harness.outcome("m1"), Some(OfferOutcome::Ridden));
}

#[test]
fn the_end_of_a_request_is_final_and_its_offer_ends_with_the_word_of_users() {
    let harness = play(&[
        ("d1 on 0", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("1 s", ""),
        ("r1 p1 end", ""),
        // Both are held until users has published the end.
        ("r9 p9 find 0", ""),
        ("r9 p9 end", ""),
        ("m1 cancelled", ""),
        ("m1 accept", ""),
        ("r1 p1 find 0 @-1", ""),
        ("r1 p1 find 0", ""),
        ("r1 p1 end", ""),
        // The end of an unknown request.
        ("r2 p1 end", ""),
        ("r2 p1 find 0 @-1", ""),
        ("r3 p2 find 0", "m2 d1 to r3"),
        // The word of users may come before the end of the request.
        ("m2 cancelled", ""),
        ("m2 accept", ""),
        ("r4 p4 find 0", "m3 d1 to r4"),
        ("r3 p2 end", ""),
        // Without it the offer expires.
        ("r4 p4 end", ""),
        ("16 s", ""),
        ("1 s", "m3 expired"),
    ]);
    assert_eq!(harness.outcome("m1"), Some(OfferOutcome::Cancelled));
}

#[test]
fn the_end_of_a_search_wins_over_an_acceptance_of_its_offer() {
    let harness = play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("m1 accept", ""),
        ("m1 cancelled", ""),
        ("r1 p1 end", ""),
        // rides answers the acceptance.
        ("m1 superseded", ""),
        // The same when the acceptance comes after an expiry, and after the end.
        ("r2 p2 find 0", "m2 d1 to r2"),
        ("17 s", "m2 expired, m3 d2 to r2"),
        ("m3 cancelled", ""),
        ("m2 cancelled", ""),
        ("r3 p3 find 0", "m4 d1 to r3"),
        ("m2 accept", ""),
        ("m3 accept", ""),
    ]);
    assert_eq!(harness.held_by("p1"), None);
    assert_eq!(harness.held_by("d1").as_deref(), Some("m4"));
    assert_eq!(harness.held_by("d2"), None);
}

#[test]
fn the_engines_own_cancelled_that_comes_back_late_ends_nothing() {
    let mut harness = play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("17 s", "m1 expired, m2 d2 to r1"),
        // d1's acceptance was in time; d2's was on its way too.
        ("m1 accept", "m2 cancelled"),
        ("m1 superseded", "m3 d2 to r1"),
        ("m2 accept", "m3 cancelled"),
    ]);
    let mut own = harness.rejected(MatchId(uuid("m2")), RejectReason::Cancelled);
    own.rejected_at = MatchRejected::time(Service::Match, harness.now);
    harness.step(&[Input::Rejected(&own)]);
    assert_eq!(harness.held_by("p1").as_deref(), Some("m2"));
    assert!(harness.engine.live_request(user("p1")).is_some());
}

#[test]
fn a_search_moved_again_and_again_costs_its_passenger_the_next_ten_seconds() {
    let mut harness = play(&[("d1 on 0", "")]);
    for n in 1..=3 {
        harness.play(&[
            (&format!("r{n} p1 find 0"), &format!("m{n} d1 to r{n}")),
            ("1 s", ""),
            (&format!("r{n} p1 end"), ""),
            (&format!("m{n} cancelled"), ""),
        ]);
    }
    harness.play(&[
        ("r4 p1 find 0", ""),
        ("9 s", ""),
        // Another passenger is matched at once.
        ("r9 p9 find 0", "m4 d1 to r9"),
        ("m4 decline", ""),
        ("1 s", "m5 d1 to r4"),
        // One more move, one more pause.
        ("r4 p1 end", ""),
        ("m5 cancelled", ""),
        ("r5 p1 find 0", ""),
        ("d1 at 0", ""),
        ("10 s", "m6 d1 to r5"),
        ("m6 decline", ""),
        ("r5 p1 end", ""),
        ("r9 p9 end", ""),
        ("285 s", ""),
        ("d1 on 0", ""),
        // The first ones are more than five minutes ago.
        ("r6 p1 find 0", "m7 d1 to r6"),
        ("m7 cancelled", ""),
        ("r7 p1 find 0", "m8 d1 to r7"),
    ]);
}

#[test]
fn offers_cancelled_for_the_sake_of_others_count_for_nobody() {
    let mut harness = play(&[("d1 on 0", ""), ("r1 p1 find 0", "m1 d1 to r1")]);
    for n in 2..=5 {
        // Late acceptances of p1's offers of other drivers do it: here the trip changes, as a foreign producer may say.
        let (line, expected) = (format!("r1 p1 find 0.{n}"), format!("m{} cancelled, m{n} d1 to r1", n - 1));
        harness.play(&[("1 s", ""), (&line, &expected)]);
    }
}

#[test]
fn after_a_take_over_an_acceptance_that_waits_in_the_stream_is_handled_before_the_offer_expires() {
    let mut harness = play(&[("d1 on 0", ""), ("r1 p1 find 0", "m1 d1 to r1")]);
    // Nobody was active for 20 s.
    harness.now += chrono::Duration::seconds(20);
    harness.engine = Engine::from_rows(rules(), rows(&harness.engine));
    harness.engine.expire_not_before(harness.now + chrono::Duration::seconds(2));
    assert_eq!(harness.engine.next_deadline(), Some(harness.now + chrono::Duration::seconds(2)));
    let found = harness.found[&MatchId(uuid("m1"))].clone();
    let (search, accepted) = (harness.search("r2", "p2", 0.0), harness.accepted(found.match_id));
    let step = |harness: &mut EngineHarness, input: Input<'_>| {
        let (engine, positions, now) = (&mut harness.engine, &mut harness.positions, harness.now);
        engine::step(engine, &[input, Input::Tick], positions, now, &mut |_| MatchId(uuid("m99"))).events
    };
    assert_eq!(step(&mut harness, Input::Finder(&search)), [], "d1 is still held");
    assert_eq!(step(&mut harness, Input::Accepted(&accepted)), []);
    assert_eq!(harness.held_by("d1").as_deref(), Some("m1"));
}

#[test]
fn a_newer_request_replaces_the_older_and_an_older_one_is_ignored() {
    play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("1 s", ""),
        ("r2 p1 find 1", ""),
        ("m1 cancelled", "m2 d2 to r2"),
        ("r3 p1 find 0 @-1", ""),
        ("r2 p1 find 1 @-1", ""),
        ("r2 p1 end @-1", ""),
        ("1 s", ""),
        // A repeat changes nothing; another pickup needs a new offer.
        ("r2 p1 find 1", ""),
        ("r2 p1 find 0", "m2 cancelled, m3 d1 to r2"),
    ]);
}

#[test]
fn an_older_beacon_or_position_changes_nothing() {
    play(&[
        ("d1 on 0", ""),
        ("2 s", ""),
        ("d1 off", ""),
        ("d1 on 0 @-1", ""),
        ("r1 p1 find 0", ""),
        ("d1 on 0", "m1 d1 to r1"),
        ("m1 decline", ""),
        // And an older position; up to 2 minutes it may be a clock that is behind.
        ("d1 at 9 @-121", ""),
        ("r2 p2 find 0", "m2 d1 to r2"),
    ]);
}

#[test]
fn a_request_ends_after_its_ttl_without_an_event() {
    let harness = play(&[
        ("r1 p1 find 0", ""),
        ("299 s", ""),
        ("d1 on 9", ""),
        ("1 s", ""),
        ("d1 on 0", ""),
        // Too old when it comes.
        ("r2 p2 find 0 @-300", ""),
        ("r3 p3 find 0 @-299", "m1 d1 to r3"),
        // The outstanding offer may still be answered.
        ("5 s", ""),
        ("m1 accept", ""),
        ("20 s", ""),
        ("k1 pickup m1", ""),
    ]);
    assert!(harness.engine.live_request(user("p1")).is_none());
    assert!(harness.is_locked("p3"));
}

#[test]
fn a_ride_locks_both_and_its_end_releases_both() {
    let harness = play(&[
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
        // Late or repeated events have no effect.
        ("k1 pickup m1", ""),
        ("k1 completed m1", ""),
        ("m1 accept", ""),
        ("m2 decline", ""),
    ]);
    assert!(!harness.is_locked("d1") && !harness.is_locked("p1"));
    assert!(harness.engine.live_request(user("p1")).is_some());
}

#[test]
fn after_a_ride_a_driver_is_available_where_it_ended() {
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
fn the_end_of_a_ride_may_arrive_before_its_pickup() {
    let harness = play(&[
        ("d1 on 0", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("k1 cancelled m1", ""),
        ("k1 pickup m1", ""),
        ("m1 accept", ""),
        ("r2 p2 find 0", "m2 d1 to r2"),
    ]);
    assert!(!harness.is_locked("p1"));
}

#[test]
fn ride_pickup_may_arrive_before_the_acceptance() {
    let harness = play(&[
        ("d1 on 0", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("k1 pickup m1", ""),
        ("m1 accept", ""),
        ("30 s", ""),
        ("k1 completed m1", ""),
    ]);
    assert_eq!(harness.held_by("d1"), None);
    assert_eq!(harness.outcome("m1"), Some(OfferOutcome::Ridden));
}

#[test]
fn a_ride_of_an_unknown_match_ends_the_other_offers_of_both() {
    let mut other = EngineHarness::new();
    other.play(&[("d1 on 0", ""), ("r9 p2 find 0", "m1 d1 to r9")]);
    let mut found = other.found[&MatchId(uuid("m1"))].clone();
    (found.match_id, found.request_id) = (MatchId(uuid("m77")), RequestId(uuid("r77")));
    let mut harness =
        play(&[("d1 on 0", ""), ("r1 p1 find 0", "m1 d1 to r1"), ("d2 on 0", ""), ("r2 p2 find 0", "m2 d2 to r2")]);
    harness.found.insert(found.match_id, found);
    // The ride is of d1 and p2. So p1 is offered d2, whom p2 had, and p2's search is over.
    harness.play(&[("k1 pickup m77", "m1 cancelled, m2 cancelled, m3 d2 to r1"), ("m77 accept", "")]);
    assert!(harness.is_locked("d1") && harness.is_locked("p2"));
    assert!(harness.engine.live_request(user("p2")).is_none());
}

#[test]
fn an_acceptance_that_arrives_after_another_ride_of_the_passenger_has_ended_counts() {
    let mut harness =
        play(&[("d1 on 0", ""), ("r1 p1 find 0", "m1 d1 to r1"), ("17 s", "m1 expired"), ("d2 on 1", "m2 d2 to r1")]);
    // d1 had accepted in time, but the event is late. users has taken d2's acceptance too, and rides makes a ride of each.
    harness.play(&[("k1 pickup m1", "m2 cancelled"), ("k1 cancelled m1", "")]);
    harness.play(&[("m2 accept", ""), ("k2 pickup m2", "")]);
    assert!(harness.is_locked("d2") && harness.is_locked("p1") && !harness.is_locked("d1"));
}

#[test]
fn superseded_ends_the_hold_and_another_driver_is_offered() {
    let harness = play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("m1 accept", ""),
        ("m1 superseded", "m2 d2 to r1"),
        // superseded arrives before the acceptance that it answers.
        ("m2 superseded", ""),
        ("m2 accept", ""),
        ("r2 p2 find 0", "m3 d1 to r2"),
    ]);
    assert_eq!(harness.held_by("p1"), None);
    assert!(harness.engine.live_request(user("p1")).is_some());
}

#[test]
fn a_late_acceptance_wins_over_a_newer_outstanding_offer() {
    let harness = play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("17 s", "m1 expired, m2 d2 to r1"),
        ("m1 accept", "m2 cancelled"),
        ("r2 p2 find 0", "m3 d2 to r2"),
        ("k1 pickup m1", ""),
    ]);
    assert!(harness.is_locked("d1") && harness.is_locked("p1"));
    assert_eq!(harness.held_by("d2").as_deref(), Some("m3"));
}

#[test]
fn a_late_acceptance_does_not_end_an_accepted_offer() {
    let harness = play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("17 s", "m1 expired, m2 d2 to r1"),
        ("m2 accept", ""),
        ("m1 accept", ""),
        ("m1 superseded", ""),
    ]);
    assert_eq!(harness.held_by("p1").as_deref(), Some("m2"));
    assert_eq!(harness.held_by("d1"), None);
}

/// Until `match.rejected` (superseded) the driver's app shows that offer as accepted.
#[test]
fn an_accepted_offer_beside_a_ride_of_its_passenger_holds_its_driver_until_rides_has_refused_it() {
    let mut harness = play(&[
        ("d1 on 0", ""),
        ("d2 on 1", ""),
        ("r1 p1 find 0", "m1 d1 to r1"),
        ("17 s", "m1 expired, m2 d2 to r1"),
        ("m2 accept", ""),
        ("m1 accept", ""),
        ("k1 pickup m1", ""),
        ("r2 p2 find 0", ""),
    ]);
    assert!(harness.is_locked("p1"));
    assert_eq!(harness.held_by("d2").as_deref(), Some("m2"));
    harness.play(&[("m2 superseded", "m3 d2 to r2")]);
}

#[test]
fn an_accepted_offer_is_released_after_5_minutes_without_an_answer_of_rides() {
    let mut harness = play(&[("d1 on 0", ""), ("r1 p1 find 0", "m1 d1 to r1"), ("m1 accept", ""), ("299 s", "")]);
    assert_eq!(harness.held_by("d1").as_deref(), Some("m1"));
    let outputs = harness.pass_time(1);
    assert_eq!(outputs[0].released, [MatchId(uuid("m1"))]);
    assert_eq!(harness.held_by("d1"), None);
    // The ride may still come.
    harness.play(&[("k1 pickup m1", "")]);
    assert!(harness.is_locked("d1"));
}

#[test]
fn an_accepted_offer_without_an_answer_is_overdue_after_a_minute() {
    let mut harness = play(&[("d1 on 0", ""), ("r1 p1 find 0", "m1 d1 to r1"), ("m1 accept", "")]);
    let overdue: Vec<MatchId> = harness.pass_time(120).into_iter().flat_map(|s| s.overdue).collect();
    assert_eq!(overdue, [MatchId(uuid("m1"))]);
}

#[test]
fn one_step_makes_many_matches_and_offers_no_driver_twice() {
    let mut harness = EngineHarness::new();
    for n in 1..=50 {
        harness.line(&format!("d{n} on {}", f64::from(n) / 100.0));
    }
    let finders: Vec<_> = (1..=60).map(|n| harness.search(&format!("r{n}"), &format!("p{n}"), 0.0)).collect();
    let inputs: Vec<_> = finders.iter().map(Input::Finder).collect();
    let output = harness.step(&inputs);
    assert_eq!(output.events.iter().filter(|e| matches!(e, Event::MatchFound(_))).count(), 50);
    assert_eq!(harness.engine.waiting().count(), 10);
}

#[test]
fn a_market_is_served_by_the_drivers_in_it_and_by_its_rules() {
    // South of 2 km is one market, with a radius of 1.5 km and 30 s for an answer; north of it another one.
    let border = km(2.0).lat;
    let market = |id: &str, south: f64, north: f64, more: serde_json::Value| {
        let ring = [[-75.0, south], [-73.0, south], [-73.0, north], [-75.0, north], [-75.0, south]];
        let mut properties = serde_json::json!({
            "market_id": id, "currency": "EUR", "time_zone": "UTC",
            "fares": {"car": {"base": 7, "per_km": 0, "per_minute": 0, "minimum": 0}},
        });
        properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::json!({
            "type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties,
        })
    };
    let more = serde_json::json!({"radius_m": 1_500, "offer_ttl_s": 30, "speed_kmh": 36});
    let features = [market("south", 40.0, border, more), market("north", border, 41.0, serde_json::json!({}))];
    let file = serde_json::json!({"type": "FeatureCollection", "features": features}).to_string();
    let markets = pricing::market::Markets::parse(&file, &pricing::Tariffs::default()).unwrap();
    let mut harness = EngineHarness::new();
    harness.engine.set_rules(engine::Rules { markets: std::sync::Arc::new(markets), ..rules() });
    harness.play(&[
        ("d1 on 2.5", ""),
        ("d2 on 0", ""),
        // d1 is near, and serves another market; d2 is too far away for this one.
        ("r1 p1 find 1.9", ""),
        ("d2 at 1", ""),
        ("1 s", "m1 d2 to r1"),
        ("r2 p2 find 3", "m2 d1 to r2"),
    ]);
    let [south, north] = ["m1", "m2"].map(|id| &harness.found[&MatchId(uuid(id))]);
    assert_eq!((south.market_id.as_deref(), north.market_id.as_deref()), (Some("south"), Some("north")));
    assert_eq!((south.fare_estimate.amount, south.fare_estimate.currency.as_str()), (7, "EUR"));
    let seconds = |found: &streams::event::MatchFound| (found.expires_at - found.found_at).num_seconds();
    assert_eq!((seconds(south), seconds(north)), (30, 15));
    assert!((south.pickup_eta_s - south.pickup_distance_m / 10.0).abs() < 0.02);
}

/// Offers are by its rules and its fares as they are now, also if its pickup is in another market now, or in none. What this process does not know is offered to
/// nobody, instead of by the rules of another market.
#[test]
fn a_search_stays_in_the_market_in_which_it_began() {
    let feature = |id: &str, south: f64, north: f64, minimum: i64| {
        let ring = [[-75.0, south], [-73.0, south], [-73.0, north], [-75.0, north], [-75.0, south]];
        serde_json::json!({
            "type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {
                "market_id": id, "currency": if id == "a" { "KWD" } else { "EUR" }, "time_zone": "UTC",
                "fares": {"car": {"base": 0, "per_km": 0, "per_minute": 0, "minimum": minimum}},
            },
        })
    };
    let current = pricing::market::Current::default();
    let change = |harness: &mut EngineHarness, features: &[serde_json::Value]| {
        let file = serde_json::json!({"type": "FeatureCollection", "features": features}).to_string();
        current.replace(pricing::market::Markets::parse(&file, &pricing::Tariffs::default()).unwrap());
        harness.engine.set_rules(engine::Rules { markets: current.get(), ..rules() });
    };
    let find = |harness: &mut EngineHarness, n: u32, market: Option<&str>| {
        let search = harness.search(&format!("r{n}"), &format!("p{n}"), 0.0);
        let search = streams::event::UserFinder { market_id: market.map(str::to_owned), ..search };
        harness.step(&[Input::Finder(&search)]);
    };
    let offered = |harness: &EngineHarness| {
        let found = harness.found.values().next_back().cloned();
        found.map(|found| (found.market_id.unwrap(), found.fare_estimate.to_string(), found.terms.unwrap().minimum))
    };
    let b = |euros: &str, minimum| Some(("b".to_owned(), format!("{euros} EUR"), minimum));
    let (away, here) = (km(50.0).lat, km(-50.0).lat);
    let mut harness = EngineHarness::new();
    change(&mut harness, &[feature("a", away, away + 1.0, 1), feature("b", here, away, 700)]);
    find(&mut harness, 1, Some("b"));
    find(&mut harness, 2, Some("c"));
    // The pickup is in no market now, and then in another one; the driver is in the search's.
    let border = km(0.5).lat;
    for (n, a) in [feature("a", away, away + 1.0, 1), feature("a", here, border, 1)].into_iter().enumerate() {
        change(&mut harness, &[a, feature("b", border, away, 800 + n as i64)]);
        harness.play(&[("d1 on 1", "")].map(|(line, _)| (line, if n == 0 { "m1 d1 to r1" } else { "" })));
        assert_eq!(offered(&harness), b("8.00", 800), "an offer keeps its terms");
    }
    harness.play(&[("m1 decline", ""), ("d2 on 0.6", "m2 d2 to r1")]);
    assert_eq!(offered(&harness), b("8.01", 801));
    // A market that nobody knows, and the next search, which does not name its own.
    harness.play(&[("d3 on 0.1", "")]);
    find(&mut harness, 3, None);
    assert_eq!(offered(&harness).unwrap().0, "a");
    harness.play(&[("d4 on 0.1", ""), ("1 s", "")]);
}

#[test]
fn a_search_ends_when_users_says_whatever_the_settings_of_match_are() {
    let mut harness = EngineHarness::new();
    let ends_at = |harness: &EngineHarness, s| Some(harness.now + chrono::Duration::seconds(s));
    let short = streams::event::UserFinder { expires_at: ends_at(&harness, 60), ..harness.search("r1", "p1", 0.0) };
    let long = streams::event::UserFinder { expires_at: ends_at(&harness, 600), ..harness.search("r2", "p2", 0.0) };
    // Of a version before the field: the setting is 300 s.
    let before = harness.search("r3", "p3", 0.0);
    harness.step(&[Input::Finder(&short), Input::Finder(&long), Input::Finder(&before)]);
    let live = |harness: &EngineHarness| -> Vec<String> {
        harness.engine.waiting().map(|r| crate::engine_harness::name(r.request_id.0)).collect()
    };
    for (seconds, expected) in [(59, &["r1", "r2", "r3"][..]), (1, &["r2", "r3"]), (240, &["r2"]), (300, &[])] {
        harness.pass_time(seconds);
        assert_eq!(live(&harness), expected);
    }
    // One that comes too late is not opened; nobody searches for longer than a day.
    let late = streams::event::UserFinder { expires_at: ends_at(&harness, 0), ..harness.search("r4", "p4", 0.0) };
    let endless =
        streams::event::UserFinder { expires_at: ends_at(&harness, 1 << 30), ..harness.search("r5", "p5", 0.0) };
    harness.step(&[Input::Finder(&late), Input::Finder(&endless)]);
    assert_eq!(live(&harness), ["r5"]);
    harness.now += chrono::Duration::days(1);
    harness.step(&[Input::Tick]);
    assert_eq!(live(&harness), [""; 0]);
}

#[test]
fn the_radius_grows_from_a_third_of_a_search_to_two_thirds() {
    let mut harness = EngineHarness::new();
    harness.engine.set_rules(engine::Rules { radius_max_m: 10_000.0, ..rules() });
    harness.play(&[
        ("d3 on 10.01", ""),
        ("r9 p9 find 0", ""),
        ("310 s", ""),
        // Of 300 s: 7 km after 140 s, 10 km after 200 s.
        ("d1 on 7", ""),
        ("d2 on 9.99", ""),
        ("r1 p1 find 0", ""),
        ("139 s", ""),
        ("2 s", "m1 d1 to r1"),
        ("m1 accept", ""),
        ("r2 p2 find 0", ""),
        ("199 s", ""),
        ("1 s", "m2 d2 to r2"),
    ]);
}
