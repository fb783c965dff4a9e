//! Random sequences of events, most of them senseless: the invariants hold after each step ([`EngineHarness::check`]). proptest
//! shrinks a sequence that breaks one.

use std::cell::Cell;

use matching::engine::Input;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{RngSeed, TestRunner};
use streams::event::{RejectReason, UserBeacon, UserFinder};
use streams::{MatchId, RideId, RideStatus, VehicleType};

use crate::engine_harness::{EngineHarness, km, name, user, uuid};

/// One event, or some seconds. Places are in tenths of a kilometre. A match is counted back from the newest one.
#[derive(Debug, Clone)]
enum Op {
    Beacon { driver: u32, active: bool, vehicle_type: VehicleType, place: u32, age_s: u32 },
    Position { driver: u32, place: u32 },
    Search { passenger: u32, vehicle_type: VehicleType, place: u32 },
    RepeatSearch(Index),
    EndSearch(Index),
    Accept { back: u32 },
    Reject { back: u32, reason: RejectReason },
    FirstRideEvent { back: u32, status: RideStatus },
    LiveRideEvent { nth: usize, status: RideStatus },
    AnyRideEvent { ride: Index, status: RideStatus },
    Wait { seconds: u32 },
}

/// `people` drivers and somewhat fewer passengers, of whom the first five are drivers too.
fn op(people: u32) -> impl Strategy<Value = Op> {
    let driver = 1..=people;
    let passenger = 0..people * 3 / 4;
    let place = 0..140_u32;
    let vehicle_type = select(vec![VehicleType::Car, VehicleType::Motorcycle]);
    let status = select(vec![RideStatus::Completed, RideStatus::Cancelled, RideStatus::Pickup]);
    let back = prop_oneof![3 => 0..3_u32, 1 => 0..40_u32];
    let first = prop_oneof![7 => Just(RideStatus::Pickup), 1 => Just(RideStatus::Cancelled)];
    prop_oneof![
        24 => (driver.clone(), prop::bool::weighted(0.875), vehicle_type.clone(), place.clone(), 0..3_u32).prop_map(
            |(driver, active, vehicle_type, place, age_s)| Op::Beacon { driver, active, vehicle_type, place, age_s }
        ),
        8 => (driver, place.clone()).prop_map(|(driver, place)| Op::Position { driver, place }),
        24 => (passenger, vehicle_type, place)
            .prop_map(|(passenger, vehicle_type, place)| Op::Search { passenger, vehicle_type, place }),
        4 => any::<Index>().prop_map(Op::RepeatSearch),
        4 => any::<Index>().prop_map(Op::EndSearch),
        16 => back.prop_map(|back| Op::Accept { back }),
        8 => (0..6_u32, select(vec![RejectReason::Declined, RejectReason::Superseded]))
            .prop_map(|(back, reason)| Op::Reject { back, reason }),
        8 => (0..12_u32, first).prop_map(|(back, status)| Op::FirstRideEvent { back, status }),
        14 => (0..4_usize, status.clone()).prop_map(|(nth, status)| Op::LiveRideEvent { nth, status }),
        2 => (any::<Index>(), status).prop_map(|(ride, status)| Op::AnyRideEvent { ride, status }),
        16 => (0..6_u32).prop_map(|seconds| Op::Wait { seconds }),
    ]
}

/// A harness and what was done to it.
struct Walk {
    harness: EngineHarness,
    searches: Vec<UserFinder>,
    /// In the order of their first events.
    rides: Vec<RideId>,
}

impl Walk {
    fn new() -> Self {
        Self { harness: EngineHarness::new(), searches: Vec::new(), rides: Vec::new() }
    }

    fn recent_match(&self, back: u32) -> Option<MatchId> {
        let newest = u32::try_from(self.harness.found.len()).unwrap();
        (newest > 0).then(|| MatchId(uuid(&format!("m{}", newest - back % newest))))
    }

    fn ride_event(&mut self, ride: RideId, status: RideStatus) {
        let found = self.harness.found[&self.harness.rides[&ride]].clone();
        let event = self.harness.ride(ride, &found, status);
        self.harness.step(&[Input::Ride(&event)]);
    }

    fn apply(&mut self, op: &Op) {
        let harness = &mut self.harness;
        let tenths = |place: u32| f64::from(place) / 10.0;
        match *op {
            Op::Beacon { driver, active, vehicle_type, place, age_s } => {
                let event = harness.beacon(&format!("d{driver}"), active, vehicle_type, tenths(place));
                let recorded_at = event.recorded_at - chrono::Duration::seconds(age_s.into());
                harness.step(&[Input::Beacon(&UserBeacon { recorded_at, ..event }, harness.now)]);
            }
            Op::Position { driver, place } => {
                let now = harness.now;
                harness.positions.record(user(&format!("d{driver}")), km(tenths(place)), now, now);
            }
            Op::Search { passenger, vehicle_type, place } => {
                let passenger = if passenger < 5 { format!("d{}", passenger + 1) } else { format!("p{passenger}") };
                let request = format!("r{}", self.searches.len() + 1);
                let event = harness.finder(&request, &passenger, true, tenths(place));
                let event = UserFinder { vehicle_type, ..event };
                harness.step(&[Input::Finder(&event)]);
                self.searches.push(event);
            }
            Op::RepeatSearch(which) if !self.searches.is_empty() => {
                harness.step(&[Input::Finder(which.get(&self.searches))]);
            }
            Op::EndSearch(which) if !self.searches.is_empty() => {
                let search = which.get(&self.searches).clone();
                harness.step(&[Input::Finder(&UserFinder { active: false, recorded_at: harness.now, ..search })]);
            }
            Op::Accept { back } => {
                if let Some(id) = self.recent_match(back) {
                    let event = self.harness.accepted(id);
                    self.harness.step(&[Input::Accepted(&event)]);
                }
            }
            Op::Reject { back, reason } => {
                if let Some(id) = self.recent_match(back) {
                    let event = self.harness.rejected(id, reason);
                    self.harness.step(&[Input::Rejected(&event)]);
                }
            }
            Op::FirstRideEvent { back, status } => {
                if let Some(id) = self.recent_match(back) {
                    let ride = RideId(uuid(&format!("k{}", self.rides.len() + 1)));
                    self.harness.rides.insert(ride, id);
                    self.rides.push(ride);
                    self.ride_event(ride, status);
                }
            }
            Op::LiveRideEvent { nth, status } => {
                let mut live = harness.stored.rides.values().filter(|r| r.ended_at.is_none());
                if let Some(ride) = live.nth(nth).map(|r| r.ride_id) {
                    self.ride_event(ride, status);
                }
            }
            Op::AnyRideEvent { ride, status } if !self.rides.is_empty() => {
                self.ride_event(*ride.get(&self.rides), status);
            }
            Op::Wait { seconds } => {
                harness.pass_time(seconds);
            }
            Op::RepeatSearch(_) | Op::EndSearch(_) | Op::AnyRideEvent { .. } => {}
        }
    }
}

fn runner(cases: u32, seed: u64) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    })
}

/// Many short walks find what a few long ones, with most people engaged all the time, do not.
#[test]
fn invariants_hold_in_ten_thousand_short_walks() {
    let found = Cell::new(0);
    runner(10_000, 1)
        .run(&prop::collection::vec(op(6), 15), |ops| {
            let mut walk = Walk::new();
            ops.iter().for_each(|op| walk.apply(op));
            walk.harness.check_rows();
            found.set(found.get() + walk.harness.found.len());
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert!(found.get() > 5_000, "the walks found too few matches to mean something: {}", found.get());
}

#[test]
fn invariants_hold_through_twelve_thousand_steps_and_in_the_end_everybody_is_free() {
    const STEPS: usize = 6_000;
    const PEOPLE: u32 = 40;
    // Matches found, steps with a live ride, steps with a waiting request.
    let counts = Cell::new([0; 3]);
    let walks = 2;
    runner(walks, 2)
        .run(&prop::collection::vec(op(PEOPLE), STEPS), |ops| {
            let mut walk = Walk::new();
            let mut counted = [0; 3];
            for (n, op) in ops.iter().enumerate() {
                walk.apply(op);
                let harness = &walk.harness;
                if n % 20 == 0 {
                    harness.check_rows();
                }
                counted[1] += usize::from(harness.engine.rides().values().any(|r| r.ended_at.is_none()));
                counted[2] += usize::from(harness.engine.waiting().next().is_some());
            }
            counted[0] = walk.harness.found.len();
            counts.set(std::array::from_fn(|i| counts.get()[i] + counted[i]));
            end_everything(walk, PEOPLE);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    let least = STEPS * walks as usize / 10;
    assert!(counts.get().iter().all(|n| *n > least), "the walks were too idle to mean something: {:?}", counts.get());
}

/// Ends every ride, takes every driver offline and waits until every search is over: then nobody is held, locked or waiting.
fn end_everything(mut walk: Walk, people: u32) {
    for ride in walk.rides.clone() {
        walk.ride_event(ride, RideStatus::Completed);
    }
    let mut harness = walk.harness;
    for n in 1..=people {
        harness.line(&format!("d{n} off"));
    }
    harness.pass_time(620);
    harness.check_rows();
    let engine = &harness.engine;
    assert!(engine.offers().values().all(|o| o.ended.is_some()), "an offer never ended");
    assert!(engine.requests().values().all(|r| r.ended_at.is_some()), "a request never ended");
    for n in 1..=people {
        for person in [user(&format!("d{n}")), user(&format!("p{n}"))] {
            assert!(!engine.is_engaged(person), "{} stays engaged", name(person.0));
        }
    }
}
