//! Random sequences of events, most of them senseless: the invariants hold after each step ([`EngineHarness::check`]). proptest
//! shrinks a sequence that breaks one.

use std::cell::Cell;

use matching::engine::Input;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngSeed, TestRunner};
use streams::event::{RejectReason, UserBeacon, UserFinder};
use streams::{MatchId, RideId, RideStatus, VehicleType};

use crate::engine_harness::{EngineHarness, km, name, user, uuid};

const SHRINK_TIME_MS: u32 = 30_000;

/// One event, or some seconds. Places are in tenths of a kilometre. A match is counted back from the newest one.
#[derive(Debug, Clone)]
pub(crate) enum Op {
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
///
/// One tuple for all kinds, because `prop_oneof!` over as many is five times as slow. Lower numbers are simpler operations.
pub(crate) fn op(people: u32) -> impl Strategy<Value = Op> {
    let numbers = (0..128_u32, 0..people, 0..140_u32, 0..40_u32, 0..8_u32, any::<Index>());
    numbers.prop_map(move |(kind, person, place, back, choice, which)| {
        let driver = person + 1;
        let vehicle_type = VehicleType::ALL[back as usize % 2];
        let status = [RideStatus::Completed, RideStatus::Cancelled, RideStatus::Pickup][place as usize % 3];
        match kind {
            0..16 => Op::Wait { seconds: back % 6 },
            16..24 => Op::Position { driver, place },
            24..48 => Op::Beacon { driver, active: choice < 7, vehicle_type, place, age_s: back % 3 },
            48..72 => Op::Search { passenger: person * 3 / 4, vehicle_type, place },
            72..76 => Op::RepeatSearch(which),
            76..80 => Op::EndSearch(which),
            80..96 => Op::Accept { back: if choice < 6 { back % 3 } else { back } },
            96..104 => {
                let reasons = [RejectReason::Declined, RejectReason::Superseded, RejectReason::Cancelled];
                let reason = reasons[choice as usize % 3];
                Op::Reject { back: back % 6, reason }
            }
            104..112 => {
                let status = if choice < 7 { RideStatus::Pickup } else { RideStatus::Cancelled };
                Op::FirstRideEvent { back: back % 12, status }
            }
            112..126 => Op::LiveRideEvent { nth: back as usize % 4, status },
            _ => Op::AnyRideEvent { ride: which, status },
        }
    })
}

/// A harness and what was done to it.
pub(crate) struct Walk {
    pub(crate) harness: EngineHarness,
    searches: Vec<UserFinder>,
    /// In the order of their first events.
    rides: Vec<RideId>,
}

impl Walk {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn apply(&mut self, op: &Op) {
        let harness = &mut self.harness;
        let tenths = |place: u32| f64::from(place) / 10.0;
        match *op {
            Op::Beacon { driver, active, vehicle_type, place, age_s } => {
                let event = harness.online(&format!("d{driver}"), vehicle_type, tenths(place));
                let recorded_at = event.recorded_at - chrono::Duration::seconds(age_s.into());
                harness.step(&[Input::Beacon(&UserBeacon { active, recorded_at, ..event }, harness.now)]);
            }
            Op::Position { driver, place } => {
                harness.position(&format!("d{driver}"), km(tenths(place)), chrono::Duration::zero());
            }
            Op::Search { passenger, vehicle_type, place } => {
                let passenger = if passenger < 5 { format!("d{}", passenger + 1) } else { format!("p{passenger}") };
                let request = format!("r{}", self.searches.len() + 1);
                let event = harness.search(&request, &passenger, tenths(place));
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

pub(crate) fn runner(cases: u32, seed: u64) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 1_000_000,
        max_shrink_time: SHRINK_TIME_MS,
        ..ProptestConfig::default()
    })
}

/// Many short walks find what a few long ones, with most people engaged all the time, do not.
#[test]
fn invariants_hold_in_ten_thousand_short_walks() {
    let found = Cell::new(0);
    runner(10_000, 1)
        .run(&prop::collection::vec(op(6), 1..=30), |ops| {
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
fn invariants_hold_through_long_walks_and_in_the_end_everybody_is_free() {
    const PEOPLE: u32 = 40;
    let steps = Cell::new(0);
    // Matches found, steps with a live ride, steps with a waiting request.
    let counts = Cell::new([0; 3]);
    runner(4, 2)
        .run(&prop::collection::vec(op(PEOPLE), 1..=6_000), |ops| {
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
            steps.set(steps.get() + ops.len());
            end_everything(walk, PEOPLE);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert!(steps.get() >= 12_000, "{} steps are too few: choose another seed", steps.get());
    let least = steps.get() / 10;
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
