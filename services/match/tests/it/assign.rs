//! The pairing against brute force, and the policy `batched` under random demand.

use std::collections::{BTreeMap, BTreeSet};

use chrono::Duration;
use geospatial::Near;
use matching::engine::assign::{
    Assignment, CANDIDATES_MAX, Candidate, DETOUR, Finishing, Policy, Supply, Terms, WaitingRequest,
};
use matching::engine::pairing::{Pair, Row, least_cost};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use streams::{Position, RequestId, UserId, VehicleType};

use crate::engine_harness::{km, start_time, user, uuid};

fn runner(seed: u64) -> TestRunner {
    let config = ProptestConfig {
        cases: 3_000,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Default::default()
    };
    TestRunner::new(config)
}

fn cost(rows: &[Row], pairs: &[Pair]) -> i64 {
    let of = |(row, pair): (&Row, &Pair)| match &pair.column {
        None => row.alone,
        Some(column) => row.edges.iter().find(|(c, _)| c == column).expect("a pair without an edge").1,
    };
    rows.iter().zip(pairs).map(of).sum()
}

/// The least total of all pairings.
fn brute_force(rows: &[Row], taken: &mut BTreeSet<usize>) -> i64 {
    let Some((row, rest)) = rows.split_first() else { return 0 };
    let mut least = row.alone + brute_force(rest, taken);
    for &(column, cost) in &row.edges {
        if taken.insert(column) {
            least = least.min(cost + brute_force(rest, taken));
            taken.remove(&column);
        }
    }
    least
}

#[test]
fn a_pairing_costs_as_little_as_the_best_of_all_up_to_seven_by_seven() {
    // Small costs, so that many are equal; negative ones, as a bonus makes them.
    let row = (prop::collection::btree_map(0..7_usize, -20..60_i64, 0..=7), -10..80_i64);
    runner(3)
        .run(&prop::collection::vec(row, 0..=7), |rows| {
            let rows: Vec<Row> =
                rows.into_iter().map(|(edges, alone)| Row { edges: edges.into_iter().collect(), alone }).collect();
            let pairs = least_cost(&rows, 7);
            let columns: Vec<usize> = pairs.iter().filter_map(|pair| pair.column).collect();
            prop_assert_eq!(columns.iter().collect::<BTreeSet<_>>().len(), columns.len(), "a column is in two pairs");
            let least = brute_force(&rows, &mut BTreeSet::new());
            prop_assert_eq!(cost(&rows, &pairs), least);
            // A further column that costs each row its price changes nothing; one that costs less does.
            let with = |less: i64| -> Vec<Row> {
                let add = |(row, pair): (&Row, &Pair)| {
                    let edges = row.edges.iter().copied().chain([(7, pair.price - less)]).collect();
                    Row { edges, ..row.clone() }
                };
                rows.iter().zip(&pairs).map(add).collect()
            };
            prop_assert_eq!(brute_force(&with(0), &mut BTreeSet::new()), least);
            prop_assert_eq!(brute_force(&with(1), &mut BTreeSet::new()), least - i64::from(!rows.is_empty()));
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// Requests and drivers on a line, in hundredths of a kilometre; `apart` is the same for all.
#[derive(Debug, Clone)]
struct Street {
    requests: Vec<(i32, i64)>,
    drivers: Vec<i32>,
    finishing: Vec<(i32, i64)>,
}

const RADIUS_M: f64 = 2_000.0;
const SPEED_MPS: f64 = 7.0;

fn eta_ms(distance_m: f64) -> i64 {
    (distance_m * DETOUR / SPEED_MPS * 1_000.0) as i64
}

fn candidate(near: Near) -> Candidate {
    Candidate { near, eta_ms: eta_ms(near.distance_m) }
}

impl Street {
    fn waiting(&self) -> Vec<WaitingRequest> {
        let rivals = self.requests.len().saturating_sub(1);
        let old = |requests: &[(i32, i64)]| requests.iter().filter(|(_, age_s)| *age_s >= 150).count();
        let of = |(n, &(at, age_s)): (usize, &(i32, i64))| WaitingRequest {
            request_id: RequestId(uuid(&format!("r{n}"))),
            passenger_id: user(&format!("p{n}")),
            pickup: km(f64::from(at) / 100.0),
            vehicle_type: VehicleType::Car,
            opened_at: start_time() - Duration::seconds(age_s),
            rivals,
            old_rivals: old(&self.requests) - old(&[(at, age_s)]),
            radius_m: RADIUS_M,
            request_ttl: Duration::seconds(300),
            speed_mps: SPEED_MPS,
        };
        let mut waiting: Vec<WaitingRequest> = self.requests.iter().enumerate().map(of).collect();
        waiting.sort_by_key(|r| (r.opened_at, r.request_id));
        waiting
    }

    fn near(&self, request: &WaitingRequest, assigned: &BTreeSet<UserId>) -> Vec<Near> {
        let of = |(n, at): (usize, &i32)| {
            let position = km(f64::from(*at) / 100.0);
            Near { id: user(&format!("d{n}")), position, distance_m: position.distance_m(&request.pickup) }
        };
        let mut all: Vec<Near> = self.drivers.iter().enumerate().map(of).collect();
        all.retain(|near| near.distance_m <= RADIUS_M && !assigned.contains(&near.id));
        all.sort_by(|a, b| a.distance_m.total_cmp(&b.distance_m).then(a.id.cmp(&b.id)));
        all
    }

    fn assign(&self, policy: Policy) -> Vec<Assignment> {
        self.assign_to(&self.waiting(), policy)
    }

    fn assign_to(&self, waiting: &[WaitingRequest], policy: Policy) -> Vec<Assignment> {
        let terms = Terms { now: start_time(), window: Duration::seconds(120) };
        let finishing = |request: &WaitingRequest| {
            let of = |(n, &(at, left_ms)): (usize, &(i32, i64))| {
                let distance_m = km(f64::from(at) / 100.0).distance_m(&request.pickup);
                let finishing = Finishing { id: user(&format!("f{n}")), left_ms, eta_ms: eta_ms(distance_m) };
                (distance_m <= RADIUS_M).then_some(finishing)
            };
            self.finishing.iter().enumerate().filter_map(of).collect()
        };
        let mut supply = Supply {
            free: &mut |request, k, assigned| self.near(request, assigned).into_iter().take(k).map(candidate).collect(),
            apart_m: &mut |_, _| RADIUS_M,
            finishing: &mut |request| finishing(request),
        };
        policy.assign(waiting, &terms, &mut supply)
    }
}

fn street(finishing: usize) -> impl Strategy<Value = Street> {
    let requests = prop::collection::vec((0..500_i32, 0..300_i64), 0..=7);
    let drivers = prop::collection::vec(0..500_i32, 0..=7);
    let finishing = prop::collection::vec((0..500_i32, 0..30_000_i64), 0..=finishing);
    (requests, drivers, finishing).prop_map(|(requests, drivers, finishing)| Street { requests, drivers, finishing })
}

#[test]
fn nobody_is_in_two_pairs_and_a_driver_in_reach_is_left_to_nobody_but_those_who_wait_for_another() {
    runner(4)
        .run(&street(3), |street| {
            for policy in Policy::ALL {
                let pairs = street.assign(policy);
                let drivers: BTreeSet<UserId> = pairs.iter().map(|p| p.driver.id).collect();
                let requests: BTreeSet<RequestId> = pairs.iter().map(|p| p.request_id).collect();
                prop_assert_eq!((drivers.len(), requests.len()), (pairs.len(), pairs.len()));
                let idle =
                    |r: &&WaitingRequest| !requests.contains(&r.request_id) && !street.near(r, &drivers).is_empty();
                let left = street.waiting().iter().filter(idle).count();
                let may_be_left = if policy == Policy::Batched { street.finishing.len() } else { 0 };
                prop_assert!(left <= may_be_left, "{policy:?}: {left} are left");
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn the_order_in_which_drivers_are_listed_does_not_matter() {
    runner(5)
        .run(&street(2), |street| {
            let pairs = |street: &Street| -> BTreeMap<RequestId, i64> {
                let of = |p: &Assignment| (p.request_id, (p.driver.position.lat * 1e9) as i64);
                street.assign(Policy::Batched).iter().map(of).collect()
            };
            let mut distinct = street.clone();
            distinct.drivers.sort_unstable();
            distinct.drivers.dedup();
            let mut reversed = distinct.clone();
            reversed.drivers.reverse();
            let total = |s: &Street| s.assign(Policy::Batched).iter().map(|p| p.driver.distance_m).sum::<f64>();
            prop_assert_eq!(pairs(&distinct).len(), pairs(&reversed).len());
            // Pairs that cost the same, to a millisecond of each, may be others.
            prop_assert!((total(&distinct) - total(&reversed)).abs() < 0.1);
            prop_assert_eq!(street.assign(Policy::Batched), street.assign(Policy::Batched));
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// The least total distance of as many pairs as are possible.
fn optimum(street: &Street, requests: &[WaitingRequest], taken: &mut BTreeSet<UserId>) -> (usize, f64) {
    let Some((request, rest)) = requests.split_first() else { return (0, 0.0) };
    let mut best = optimum(street, rest, taken);
    for near in street.near(request, &taken.clone()) {
        taken.insert(near.id);
        let (count, meters) = optimum(street, rest, taken);
        let with = (count + 1, meters + near.distance_m);
        if with.0 > best.0 || (with.0 == best.0 && with.1 < best.1) {
            best = with;
        }
        taken.remove(&near.id);
    }
    best
}

#[test]
fn a_window_of_equally_old_requests_is_within_two_percent_of_its_optimum() {
    runner(6)
        .run(&street(0), |mut street| {
            street.requests.iter_mut().for_each(|r| r.1 = 10);
            street.requests.truncate(5);
            street.drivers.truncate(5);
            let pairs = street.assign(Policy::Batched);
            let meters: f64 = pairs.iter().map(|p| p.driver.distance_m).sum();
            let (count, least) = optimum(&street, &street.waiting(), &mut BTreeSet::new());
            prop_assert_eq!(pairs.len(), count);
            prop_assert!(meters <= least * 1.02 + 1.0, "{meters} m of {least} m");
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    // More requests than candidates of each: whoever gets none of them is asked about again.
    let many = Street { requests: vec![(0, 0); 100], drivers: (0..110).collect(), finishing: Vec::new() };
    assert!(many.requests.len() > CANDIDATES_MAX);
    assert_eq!(many.assign(Policy::Batched).len(), 100);
}

/// Windows in the plane: `requests` within a spread (m) around a venue, twice as many drivers within 900 m of it.
fn window(requests: usize, spread_m: f64, seed: u64) -> [Vec<Position>; 2] {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 24)
    };
    // The sum of four has a peak in the middle.
    let mut around = |spread_m: f64| (next() + next() + next() + next() - 2.0) * 1.7 * spread_m / 111_195.0;
    let mut places = |count: usize, spread_m: f64| {
        (0..count).map(|_| Position { lat: around(spread_m), lng: around(spread_m) }).collect()
    };
    [places(requests, spread_m), places(2 * requests, 900.0)]
}

#[test]
fn a_window_of_twenty_or_forty_in_the_plane_is_within_two_percent_of_its_optimum() {
    for (count, spread_m) in [(10, 1_000.0), (20, 1_500.0), (20, 150.0), (20, 0.0), (40, 150.0), (40, 900.0)] {
        for seed in 0..40 {
            let [pickups, drivers] = window(count, spread_m, seed);
            let requests = vec![(0, 10); count];
            let mut waiting = Street { requests, drivers: Vec::new(), finishing: Vec::new() }.waiting();
            waiting.iter_mut().zip(&pickups).for_each(|(request, pickup)| request.pickup = *pickup);
            let near = |request: &WaitingRequest| -> Vec<Near> {
                let of = |(n, position): (usize, &Position)| {
                    let distance_m = position.distance_m(&request.pickup);
                    Near { id: user(&format!("d{n}")), position: *position, distance_m }
                };
                let mut all: Vec<Near> = drivers.iter().enumerate().map(of).collect();
                all.sort_by(|a, b| a.distance_m.total_cmp(&b.distance_m));
                all.retain(|near| near.distance_m <= RADIUS_M);
                all
            };
            let apart_m = |near: &Near| {
                let others = drivers.iter().filter(|at| **at != near.position).map(|at| at.distance_m(&near.position));
                others.fold(RADIUS_M, f64::min)
            };
            let mut supply = Supply {
                free: &mut |request, k, assigned| {
                    let left = near(request).into_iter().filter(|near| !assigned.contains(&near.id));
                    left.take(k).map(candidate).collect()
                },
                apart_m: &mut |_, near| apart_m(near),
                finishing: &mut |_| Vec::new(),
            };
            let terms = Terms { now: start_time(), window: Duration::seconds(120) };
            let pairs = Policy::Batched.assign(&waiting, &terms, &mut supply);
            let ms: i64 = pairs.iter().map(|p| eta_ms(p.driver.distance_m)).sum();
            // All drivers of all requests in one graph.
            let number: BTreeMap<UserId, usize> = (0..drivers.len()).map(|n| (user(&format!("d{n}")), n)).collect();
            let edges = |r: &WaitingRequest| near(r).iter().map(|n| (number[&n.id], eta_ms(n.distance_m))).collect();
            let rows: Vec<Row> = waiting.iter().map(|r| Row { edges: edges(r), alone: 1 << 40 }).collect();
            let best = least_cost(&rows, drivers.len());
            assert_eq!(pairs.len(), best.iter().filter(|pair| pair.column.is_some()).count());
            let least = cost(&rows, &best) - ((count - pairs.len()) as i64) * (1 << 40);
            assert!(ms as f64 <= least as f64 * 1.02, "{count} within {spread_m} m, {seed}: {ms} ms of {least} ms");
        }
    }
}

#[test]
fn nobody_starves_although_nearer_ones_come_all_the_time() {
    // One old request 1.9 km away, and at every moment new ones beside the driver who becomes free.
    let matched_at = |policy: Policy, rivals: usize| {
        (0..3_000_i64).find(|age_s| {
            let mut requests = vec![(190, *age_s)];
            requests.resize(1 + rivals, (0, 0));
            let pairs = Street { requests, drivers: vec![0], finishing: Vec::new() }.assign(policy);
            pairs.iter().any(|p| p.request_id == RequestId(uuid("r0")))
        })
    };
    assert_eq!(matched_at(Policy::ShortestPair, 5), None, "the comparison shows that it is the age that counts");
    for rivals in [1, 5, 50] {
        // Before its 300 s are over.
        let at_s = matched_at(Policy::Batched, rivals);
        assert!(at_s.is_some_and(|age_s| (270..=286).contains(&age_s)), "{rivals} rivals: {at_s:?}");
    }
}

#[test]
fn where_many_wait_long_the_oldest_is_not_first() {
    // A rank: all have waited for long, and the one who is farthest off for longest.
    let requests = (0..20).map(|n| (n * 5, 200 + i64::from(n) * 5)).collect();
    let pairs = Street { requests, drivers: vec![0], finishing: Vec::new() }.assign(Policy::Batched);
    assert_eq!(pairs[0].request_id, RequestId(uuid("r0")));
}

#[test]
fn a_passenger_alone_is_offered_the_driver_at_once_and_one_of_two_waits_for_a_nearer_one_if_both_have_a_driver() {
    // The driver is 1 km away; another one ends a ride beside the first pickup in 5 s.
    let alone = Street { requests: vec![(0, 0)], drivers: vec![100], finishing: vec![(0, 5_000)] };
    assert_eq!(alone.assign(Policy::Batched).len(), 1);
    let first_waits = |age_s, drivers: &[i32]| {
        let requests = vec![(0, age_s), (250, 0)];
        let pairs = Street { requests, drivers: drivers.to_vec(), ..alone.clone() }.assign(Policy::Batched);
        !pairs.iter().any(|p| p.request_id == RequestId(uuid("r0")))
    };
    assert!(first_waits(0, &[100, 250]) && first_waits(119, &[100, 250]));
    // Its window is over.
    assert!(!first_waits(121, &[100, 250]));
    // The driver is the only one for both: the nearer passenger does not wait.
    assert!(!first_waits(0, &[100]));
}

#[test]
fn age_counts_by_the_time_that_the_market_of_a_request_gives_it() {
    let street = Street { requests: vec![(0, 57), (0, 57)], drivers: vec![100], finishing: Vec::new() };
    let mut waiting = street.waiting();
    let first = |waiting: &[WaitingRequest]| street.assign_to(waiting, Policy::Batched)[0].request_id;
    assert_eq!(first(&waiting), waiting[0].request_id, "of equals the older id");
    waiting[1].request_ttl = Duration::seconds(60);
    assert_eq!(first(&waiting), waiting[1].request_id, "its time is nearly over");
}
