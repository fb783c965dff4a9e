//! Ten thousand random steps, and ten thousand random small cities, none of them sensible in particular: the invariants hold
//! after each step (`City::check`).

use matching::engine::rules::Input;
use platform::World;
use streams::event::{RejectReason, UserBeacon, UserFinder};
use streams::{MatchId, RideId, RideStatus, UserId, VehicleType};

use crate::city::{City, km, name, start_time, uuid};

#[test]
fn invariants_hold_through_ten_thousand_random_steps() {
    run(1, 10_000);
    run(2, 2_000);
}

/// Many short beginnings find what one long run, whose city is soon full, does not.
#[test]
fn invariants_hold_in_ten_thousand_small_cities() {
    let mut found = 0;
    for seed in 1..=10_000 {
        let (city, _) = wander(seed, 15, 6);
        city.check_rows();
        found += city.found.len();
    }
    assert!(found > 5_000, "the cities were idle: {found} offers");
}

fn run(seed: u64, steps: u32) {
    let (mut city, counted) = wander(seed, steps, 40);
    // It was no idle run: offers, rides and people who wait.
    assert!(counted.iter().all(|n| *n > steps / 10), "{counted:?}");
    // Every ride ends, every search ends: then nobody is held, locked or waiting, and every offer has ended.
    for (ride, id) in city.rides.clone() {
        let e = city.ride(ride, &city.found[&id].clone(), RideStatus::Completed);
        city.step(&[Input::Ride(&e)]);
    }
    for n in 1..=40 {
        city.line(&format!("d{n} off"));
    }
    city.pass(620);
    city.check_rows();
    let rows = city.engine.rows();
    assert!(rows.offers.iter().all(|o| o.ended.is_some()), "an offer never ended");
    assert!(rows.requests.iter().all(|r| r.ended_at.is_some()));
    for n in 1..=40 {
        for person in [format!("d{n}"), format!("p{n}")] {
            assert!(
                !city.engine.is_engaged(UserId(uuid(&person))),
                "{person}, that is {}, stays engaged",
                name(uuid(&person))
            );
        }
    }
}

/// `steps` random things that happen to `people` drivers and somewhat fewer passengers. Counts offers, steps with a live
/// ride, steps with somebody who waits.
fn wander(seed: u64, steps: u32, people: u32) -> (City, [u32; 3]) {
    let world = World::seeded(start_time(), seed);
    let below = |n| world.below(n);
    let mut city = City::new();
    let (mut requests, mut rides) = (0_u32, 0_u32);
    let mut kept: Vec<UserFinder> = Vec::new();
    let mut counted = [0_u32; 3];
    for n in 0..steps {
        // Passengers 1 to 5 are drivers too.
        let who = |n: u32| if n < 5 { format!("d{}", n + 1) } else { format!("p{n}") };
        let place = f64::from(below(140)) / 10.0;
        let recent = |back: u32| {
            let last = u32::try_from(city.found.len()).unwrap();
            (last > 0).then(|| MatchId(uuid(&format!("m{}", last - below(back.min(last))))))
        };
        match below(16) {
            0..=2 => {
                let e = city.beacon(
                    &format!("d{}", below(people) + 1),
                    below(8) > 0,
                    VehicleType::ALL[below(4) as usize % 2],
                    place,
                );
                let late = chrono::Duration::seconds(below(3).into());
                let e = UserBeacon { recorded_at: e.recorded_at - late, ..e };
                city.step(&[Input::Beacon(&e, city.now)]);
            }
            3 => {
                let now = city.now;
                city.positions.heard(UserId(uuid(&format!("d{}", below(people) + 1))), km(place), now, now);
            }
            4..=6 => {
                requests += 1;
                let mut e = city.finder(&format!("r{requests}"), &who(below(people * 3 / 4)), true, place);
                e.vehicle_type = VehicleType::ALL[below(4) as usize % 2];
                kept.push(e.clone());
                city.step(&[Input::Finder(&e)]);
            }
            7 if !kept.is_empty() => {
                // An old one again, or its end.
                let mut e = kept[below(u32::try_from(kept.len()).unwrap()) as usize].clone();
                if below(2) == 0 {
                    (e.active, e.recorded_at) = (false, city.now);
                }
                city.step(&[Input::Finder(&e)]);
            }
            8 | 9 => {
                if let Some(id) = recent(if below(4) == 0 { 40 } else { 3 }) {
                    let e = city.accepted(id);
                    city.step(&[Input::Accepted(&e)]);
                }
            }
            10 => {
                if let Some(id) = recent(6) {
                    let reason = [RejectReason::Declined, RejectReason::Superseded][below(2) as usize];
                    let e = city.rejected(id, reason);
                    city.step(&[Input::Rejected(&e)]);
                }
            }
            11 => {
                if let Some(id) = recent(12) {
                    rides += 1;
                    let ride = RideId(uuid(&format!("k{rides}")));
                    city.rides.insert(ride, id);
                    let status = if below(8) == 0 { RideStatus::Cancelled } else { RideStatus::Pickup };
                    let e = city.ride(ride, &city.found[&id].clone(), status);
                    city.step(&[Input::Ride(&e)]);
                }
            }
            12 | 13 if rides > 0 => {
                // Mostly one that is live.
                let live = city
                    .stored
                    .rides
                    .values()
                    .filter(|r| r.ended_at.is_none())
                    .map(|r| r.ride_id)
                    .nth(below(4) as usize);
                let any = RideId(uuid(&format!("k{}", below(rides) + 1)));
                let ride = live.filter(|_| below(8) > 0).unwrap_or(any);
                let status = [RideStatus::Completed, RideStatus::Cancelled, RideStatus::Pickup][below(3) as usize];
                let e = city.ride(ride, &city.found[&city.rides[&ride]].clone(), status);
                city.step(&[Input::Ride(&e)]);
            }
            _ => {
                city.pass(below(6));
            }
        }
        if n % 20 == 0 {
            city.check_rows();
        }
        counted[0] = u32::try_from(city.found.len()).unwrap();
        counted[1] += u32::from(city.engine.rows().rides.iter().any(|r| r.ended_at.is_none()));
        counted[2] += u32::from(city.engine.waiting().count() > 0);
    }
    (city, counted)
}
