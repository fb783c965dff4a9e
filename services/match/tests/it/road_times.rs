//! Road times as inputs of the engine: a river between the pickup and the nearest driver.

use chrono::Duration;
use matching::engine::assign::Policy;
use matching::engine::{Engine, Input, Rules, StepOutput};
use roads::{Leg, Road, Way};
use streams::event::MatchFound;
use streams::{Event, UserId, VehicleType};

use crate::engine_harness::{EngineHarness, km, rules, user};

/// Whoever is north of the pickup is across the river.
fn by_road(way: &Way) -> (Way, Option<Road>) {
    let crosses = (way.from.lat > km(0.0).lat) != (way.to.lat > km(0.0).lat);
    let distance_m = if crosses { 20_000.0 } else { way.from.distance_m(&way.to) * 1.1 };
    (*way, Some(Road::Leg(Leg { distance_m, duration_s: distance_m / 10.0 })))
}

fn harness(policy: Policy) -> EngineHarness {
    let mut harness = EngineHarness::new();
    harness.engine = Engine::new(Rules { policy, roads: true, ..rules() });
    let (north, south) = (harness.online("d1", VehicleType::Car, 0.5), harness.online("d2", VehicleType::Car, -1.5));
    let at = harness.now;
    harness.step(&[Input::Beacon(&north, at), Input::Beacon(&south, at)]);
    harness
}

fn found(output: &StepOutput) -> Option<&MatchFound> {
    output.events.iter().find_map(|event| match event {
        Event::MatchFound(found) => Some(found),
        _ => None,
    })
}

fn driver(output: &StepOutput) -> Option<(UserId, Option<bool>)> {
    found(output).map(|found| (found.driver_id, found.estimated))
}

#[test]
fn a_driver_who_is_near_by_road_is_offered_before_one_across_a_river() {
    for policy in Policy::ALL {
        let mut harness = harness(policy);
        let search = harness.search("r1", "p1", 0.0);
        let output = harness.step(&[Input::Finder(&search)]);
        // Both drivers' ways to the pickup, and the passenger's.
        assert_eq!((driver(&output), output.wanted.len()), (None, 3), "{policy:?}: held back for the answers");
        harness.now += Duration::milliseconds(40);
        let answers: Vec<_> = output.wanted.iter().map(by_road).collect();
        let output = harness.step(&[Input::Roads(&answers)]);
        assert_eq!(driver(&output), Some((user("d2"), Some(false))), "{policy:?}");
        let found = found(&output).unwrap();
        assert!((1_640.0..1_660.0).contains(&found.pickup_distance_m), "{found:?}");
        assert!((found.pickup_eta_s - found.pickup_distance_m / 10.0).abs() < 0.1, "{found:?}");
    }
}

#[test]
fn a_request_is_held_back_for_a_quarter_of_a_second_and_then_estimated() {
    let mut harness = harness(Policy::Batched);
    let search = harness.search("r1", "p1", 0.0);
    assert_eq!(driver(&harness.step(&[Input::Finder(&search)])), None);
    let deadline = harness.engine.next_deadline().unwrap();
    assert_eq!(deadline, harness.now + Duration::milliseconds(250));
    harness.now = deadline - Duration::milliseconds(1);
    assert_eq!(driver(&harness.step(&[])), None);
    harness.now = deadline;
    assert_eq!(driver(&harness.step(&[])), Some((user("d1"), Some(true))));
}

#[test]
fn nobody_can_say_is_an_answer_and_so_is_that_there_is_no_road() {
    let mut first = harness(Policy::Batched);
    let search = first.search("r1", "p1", 0.0);
    let wanted = first.step(&[Input::Finder(&search)]).wanted;
    first.now += Duration::milliseconds(5);
    let answers: Vec<_> = wanted.iter().map(|way| (*way, None)).collect();
    assert_eq!(driver(&first.step(&[Input::Roads(&answers)])), Some((user("d1"), Some(true))));

    let mut second = harness(Policy::Batched);
    let wanted = second.step(&[Input::Finder(&search)]).wanted;
    let answers: Vec<_> = wanted.iter().map(|way| (*way, Some(Road::None))).collect();
    // No driver can get there, and none is offered.
    assert_eq!(driver(&second.step(&[Input::Roads(&answers)])), None);
    assert!(second.pass_time(30).iter().all(|output| driver(output).is_none()));
}

#[test]
fn who_can_get_there_is_offered_however_many_nearer_ones_cannot() {
    for policy in Policy::ALL {
        let mut harness = EngineHarness::new();
        harness.engine = Engine::new(Rules { policy, roads: true, ..rules() });
        let beacons: Vec<_> =
            (1..=25).map(|n| harness.online(&format!("d{n}"), VehicleType::Car, 0.1 * f64::from(n))).collect();
        let at = harness.now;
        harness.step(&beacons.iter().map(|beacon| Input::Beacon(beacon, at)).collect::<Vec<_>>());
        let search = harness.search("r1", "p1", 0.0);
        let mut output = harness.step(&[Input::Finder(&search)]);
        // The farthest of them, whose way is asked for once it is known that nobody else gets there.
        let reaches = |way: &Way| way.from.lat >= km(2.45).lat || way.from == search.pickup;
        for _ in 0..2 {
            harness.now += Duration::milliseconds(40);
            let answers: Vec<_> = output
                .wanted
                .iter()
                .map(|way| if reaches(way) { by_road(way) } else { (*way, Some(Road::None)) })
                .collect();
            output = harness.step(&[Input::Roads(&answers)]);
        }
        assert_eq!(driver(&output), Some((user("d25"), Some(false))), "{policy:?}");
    }
}
