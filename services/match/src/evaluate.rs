//! A policy on trial: recorded trips are asked for again, in simulated time, of the engine itself ([`engine::step`], its grid and
//! its policy), with a fleet that drives as the crow flies times [`DETOUR`]. Pure: the same trial has the same result.
//!
//! Drivers begin at drop-offs drawn by the seed, accept every offer at once, drive to the pickup and then to the drop-off, and
//! wait where they end. Passengers leave when their patience is over.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use geospatial::newest::Fix;
use pricing::market::Markets;
use streams::event::{LocationUpdate, MatchAccepted, MatchFound, RideEvent, UserBeacon, UserFinder};
use streams::{Event, MatchId, Position, RequestId, RideId, RideStatus, UserId, VehicleType};
use uuid::Uuid;

use crate::engine::assign::{Assignment, Policy};
use crate::engine::{self, Engine, Input, Rules};
use crate::positions::DriverPositions;

/// The usual detour in a street network.
pub const DETOUR: f64 = 1.3;
const TICK_MS: i64 = 1_000;
const HOUSEKEEPING_MS: i64 = 60_000;

/// A trip that somebody took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trip {
    /// Since any moment that is the same for all.
    pub requested_at_ms: i64,
    pub pickup: Position,
    pub dropoff: Position,
}

/// What the policies are compared on.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    pub drivers: u32,
    pub radius_m: f64,
    /// Towards the end of a passenger's patience.
    pub radius_max_m: f64,
    pub speed_mps: f64,
    pub patience_s: u32,
    pub window: Duration,
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Spread {
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
}

/// What came of it. Times are of those who were matched.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub policy: Policy,
    pub requests: usize,
    pub matched: usize,
    pub match_rate: f64,
    /// The way to the pickup.
    pub pickup_eta_s: Spread,
    /// From the request to the offer.
    pub match_wait_s: Spread,
    /// Both together.
    pub total_wait_s: Spread,
    /// From the request to the offer, or to giving up.
    pub longest_wait_s: f64,
    /// Driven to pickups.
    pub empty_km: f64,
    /// Of the drivers' time with passengers: 0 if all have the same, 1 if one has all.
    pub gini: f64,
}

/// Tries `policy`.
pub fn evaluate(trips: &[Trip], trial: &Trial, policy: Policy) -> Outcome {
    let mut city = City::new(trips, trial, policy);
    city.run();
    city.outcome(policy)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// Of a ride, by the number of its trip.
    End(usize),
    Request(usize),
    Leave(usize),
    Tick,
    Housekeeping,
}

struct City<'a> {
    trips: &'a [Trip],
    trial: &'a Trial,
    engine: Engine,
    positions: DriverPositions,
    agenda: BinaryHeap<Reverse<(i64, Moment)>>,
    ticking: bool,
    matches: u64,
    /// By trip: the match, when it was found, and the seconds to the pickup.
    found: BTreeMap<usize, (MatchFound, i64, f64)>,
    busy_s: BTreeMap<UserId, f64>,
    longest_wait_ms: i64,
    empty_m: f64,
}

const fn id(kind: u64, n: u64) -> Uuid {
    Uuid::from_u64_pair(kind, n)
}

fn time(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// The generator `splitmix64`: the next number of a sequence.
fn next_number(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl<'a> City<'a> {
    fn new(trips: &'a [Trip], trial: &'a Trial, policy: Policy) -> Self {
        let rules = Rules {
            offer_ttl: Duration::seconds(15),
            request_ttl: Duration::seconds(trial.patience_s.into()),
            radius_m: trial.radius_m,
            radius_max_m: trial.radius_max_m,
            markets: Arc::new(Markets::world(Default::default())),
            policy,
            window: trial.window,
            speed_mps: Some(trial.speed_mps),
            roads: false,
            zone: crate::zones::Zone::ONLY,
        };
        let mut city = Self {
            trips,
            trial,
            engine: Engine::new(rules),
            positions: DriverPositions::default(),
            agenda: BinaryHeap::new(),
            ticking: false,
            matches: 0,
            found: BTreeMap::new(),
            busy_s: BTreeMap::new(),
            longest_wait_ms: 0,
            empty_m: 0.0,
        };
        let begin = trips.iter().map(|t| t.requested_at_ms).min().unwrap_or_default();
        let mut state = trial.seed;
        for n in 0..trial.drivers {
            let at = next_number(&mut state) % (trips.len().max(1) as u64);
            let Some(trip) = usize::try_from(at).ok().and_then(|at| trips.get(at)) else { continue };
            let driver = UserId(id(1, n.into()));
            city.busy_s.insert(driver, 0.0);
            let beacon = UserBeacon {
                user_id: driver,
                active: true,
                vehicle_type: VehicleType::Car,
                location: trip.dropoff,
                recorded_at: time(begin),
                located_at: None,
                device: None,
            };
            city.step(begin, &[Input::Beacon(&beacon, time(begin))]);
        }
        for (n, trip) in trips.iter().enumerate() {
            city.agenda.push(Reverse((trip.requested_at_ms, Moment::Request(n))));
        }
        city.agenda.push(Reverse((begin + HOUSEKEEPING_MS, Moment::Housekeeping)));
        city
    }

    fn run(&mut self) {
        while let Some(Reverse((ms, moment))) = self.agenda.pop() {
            match moment {
                Moment::Request(n) => {
                    self.step(ms, &[Input::Finder(&self.finder(n, ms))]);
                    let patience_ms = i64::from(self.trial.patience_s) * 1_000;
                    self.agenda.push(Reverse((ms + patience_ms, Moment::Leave(n))));
                    if !std::mem::replace(&mut self.ticking, true) {
                        self.agenda.push(Reverse((ms + TICK_MS, Moment::Tick)));
                    }
                }
                Moment::Leave(n) => {
                    if !self.found.contains_key(&n) {
                        self.longest_wait_ms = self.longest_wait_ms.max(ms - self.trips[n].requested_at_ms);
                        self.step(ms, &[Input::Finder(&UserFinder { active: false, ..self.finder(n, ms) })]);
                    }
                }
                Moment::End(n) => self.end_ride(n, ms),
                Moment::Tick => {
                    self.step(ms, &[Input::Tick]);
                    self.ticking = self.engine.has_live_requests();
                    if self.ticking {
                        self.agenda.push(Reverse((ms + TICK_MS, Moment::Tick)));
                    }
                }
                Moment::Housekeeping => {
                    self.step(ms, &[Input::Housekeeping]);
                    if !self.agenda.is_empty() {
                        self.agenda.push(Reverse((ms + HOUSEKEEPING_MS, Moment::Housekeeping)));
                    }
                }
            }
        }
    }

    /// A step, and the rides that begin with it.
    fn step(&mut self, ms: i64, inputs: &[Input<'_>]) {
        let matches = &mut self.matches;
        let mut new_id = |_: &Assignment| {
            *matches += 1;
            MatchId(id(4, *matches))
        };
        let output = engine::step(&mut self.engine, inputs, &mut self.positions, time(ms), &mut new_id);
        for event in output.events {
            if let Event::MatchFound(found) = event {
                self.begin_ride(found, ms);
            }
        }
    }

    fn begin_ride(&mut self, found: MatchFound, ms: i64) {
        let Ok(n) = usize::try_from(found.request_id.0.as_u64_pair().1) else { return };
        let accepted = MatchAccepted {
            match_id: found.match_id,
            request_id: found.request_id,
            driver_id: found.driver_id,
            passenger_id: found.passenger_id,
            pickup: found.pickup,
            dropoff: found.dropoff,
            vehicle_type: found.vehicle_type,
            market_id: None,
            terms: None,
            accepted_at: time(ms),
        };
        let to_pickup_m = found.driver_location.distance_m(&found.pickup) * DETOUR;
        let trip_m = found.pickup.distance_m(&found.dropoff) * DETOUR;
        let (eta_s, trip_s) = (to_pickup_m / self.trial.speed_mps, trip_m / self.trial.speed_mps);
        self.empty_m += to_pickup_m;
        *self.busy_s.entry(found.driver_id).or_default() += trip_s;
        self.longest_wait_ms = self.longest_wait_ms.max(ms - self.trips[n].requested_at_ms);
        let pickup = ride(n, &found, RideStatus::Pickup, ms);
        self.found.insert(n, (found, ms, eta_s));
        self.agenda.push(Reverse((ms + ((eta_s + trip_s) * 1_000.0) as i64, Moment::End(n))));
        self.step(ms, &[Input::Accepted(&accepted), Input::Ride(&pickup)]);
    }

    fn end_ride(&mut self, n: usize, ms: i64) {
        let Some((found, ..)) = self.found.get(&n) else { return };
        let update = LocationUpdate {
            user_id: found.driver_id,
            ride_id: None,
            location: found.dropoff,
            accuracy_m: None,
            speed_mps: None,
            heading_deg: None,
            recorded_at: time(ms),
            reception: None,
        };
        self.positions.record(update.user_id, &Fix::of(&update, time(ms)));
        let event = ride(n, found, RideStatus::Completed, ms);
        self.step(ms, &[Input::Ride(&event)]);
    }

    fn finder(&self, n: usize, ms: i64) -> UserFinder {
        UserFinder {
            request_id: RequestId(id(3, n as u64)),
            user_id: UserId(id(2, n as u64)),
            active: true,
            pickup: self.trips[n].pickup,
            dropoff: self.trips[n].dropoff,
            vehicle_type: VehicleType::Car,
            recorded_at: time(ms),
            continues: None,
            market_id: None,
            expires_at: None,
        }
    }

    fn outcome(&self, policy: Policy) -> Outcome {
        let wait_s = |n: &usize, ms: i64| (ms - self.trips[*n].requested_at_ms) as f64 / 1_000.0;
        let each =
            |of: &dyn Fn(&usize, i64, f64) -> f64| spread(self.found.iter().map(|(n, (_, ms, eta))| of(n, *ms, *eta)));
        Outcome {
            policy,
            requests: self.trips.len(),
            matched: self.found.len(),
            match_rate: self.found.len() as f64 / self.trips.len().max(1) as f64,
            pickup_eta_s: each(&|_, _, eta| eta),
            match_wait_s: each(&|n, ms, _| wait_s(n, ms)),
            total_wait_s: each(&|n, ms, eta| wait_s(n, ms) + eta),
            longest_wait_s: self.longest_wait_ms as f64 / 1_000.0,
            empty_km: self.empty_m / 1_000.0,
            gini: gini(self.busy_s.values().copied()),
        }
    }
}

fn ride(n: usize, found: &MatchFound, status: RideStatus, ms: i64) -> RideEvent {
    RideEvent {
        ride_id: RideId(id(5, n as u64)),
        match_id: found.match_id,
        driver_id: found.driver_id,
        passenger_id: found.passenger_id,
        version: 1,
        status,
        pickup: found.pickup,
        dropoff: found.dropoff,
        vehicle_type: found.vehicle_type,
        occurred_at: time(ms),
        previous_hash: String::new(),
        hash: String::new(),
        by: None,
        search_continues: None,
        reason_code: None,
        note: None,
        reason: None,
        fee: None,
        distance_m: None,
        duration_s: None,
        fare: None,
        platform_fee: None,
        driver_payout: None,
        request_id: None,
        market_id: None,
        terms: None,
    }
}

/// The mean and two percentiles (nearest rank); zeros of nothing.
pub(crate) fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied();
    let mean = sorted.iter().sum::<f64>() / sorted.len().max(1) as f64;
    Spread { mean, p50: rank(50).unwrap_or_default(), p95: rank(95).unwrap_or_default() }
}

/// The Gini coefficient: half the mean difference between two of them, relative to the mean.
pub(crate) fn gini(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let (n, sum) = (sorted.len() as f64, sorted.iter().sum::<f64>());
    if sum <= 0.0 {
        return 0.0;
    }
    let ranked: f64 = sorted.iter().enumerate().map(|(i, value)| (i + 1) as f64 * value).sum();
    2.0 * ranked / (n * sum) - (n + 1.0) / n
}
