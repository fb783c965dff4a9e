//! A policy on trial: recorded trips are asked for again, in simulated time, of the engine itself ([`engine::step`], its grid and
//! its policy), with a fleet that drives as the crow flies times [`DETOUR`]. Pure: the same trial has the same result.
//!
//! Drivers begin at drop-offs drawn by the seed, accept an offer at once, decline it after [`DECLINE_MS`] or miss it ([`Answers`]), drive to the
//! pickup and then to the drop-off, and wait where they end. Passengers leave when their patience is over.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use geospatial::newest::Fix;
use pricing::market::Markets;
use streams::event::{
    LocationUpdate, MatchAccepted, MatchFound, MatchRejected, RejectReason, RideEvent, UserBeacon, UserFinder,
};
use streams::{Event, MatchId, Position, RequestId, RideId, RideStatus, Service, UserId, VehicleType};
use uuid::Uuid;

use crate::engine::assign::{Assignment, Policy};
use crate::engine::{self, Engine, Input, Offer, Rules};
use crate::positions::DriverPositions;

/// The usual detour in a street network.
pub const DETOUR: f64 = 1.3;
const TICK_MS: i64 = 1_000;
const HOUSEKEEPING_MS: i64 = 60_000;
/// After this time a driver says no.
const DECLINE_MS: i64 = 3_000;

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
    pub answers: Answers,
}

/// How drivers answer offers: these parts of them are declined, or run out without an answer; the rest are accepted. Each offer is drawn by the
/// seed, the trip, the driver and how often this one was offered it: so it has the same answer under every policy.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Answers {
    pub decline_rate: f64,
    pub miss_rate: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Accept,
    Decline,
    Miss,
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
    pub policy: &'static str,
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
    /// Of an offer, by the number of its match.
    Decline(u64),
    Request(usize),
    Leave(usize),
    Tick,
}

struct City<'a> {
    trips: &'a [Trip],
    trial: &'a Trial,
    engine: Engine,
    positions: DriverPositions,
    agenda: BinaryHeap<Reverse<(i64, Moment)>>,
    ticking: bool,
    housekeeping_at: i64,
    matches: u64,
    /// By the number of the match, until the driver has said no.
    declining: BTreeMap<u64, MatchFound>,
    /// By trip and driver: how often.
    offered: BTreeMap<(usize, UserId), u64>,
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

/// Where the drivers of a trial begin: at drop-offs drawn by the seed.
pub fn beginnings<'a>(trips: &'a [Trip], trial: &Trial) -> impl Iterator<Item = Position> + use<'a> {
    let (mut state, drivers) = (trial.seed, trial.drivers);
    (0..drivers).filter_map(move |_| {
        let at = next_number(&mut state) % (trips.len().max(1) as u64);
        Some(trips.get(usize::try_from(at).ok()?)?.dropoff)
    })
}

/// How long (s) a driver needs to the pickup, and from there to the drop-off.
pub(crate) fn drive_s(from: &Position, pickup: &Position, dropoff: &Position, trial: &Trial) -> (f64, f64) {
    let seconds = |from: &Position, to: &Position| from.distance_m(to) * DETOUR / trial.speed_mps;
    (seconds(from, pickup), seconds(pickup, dropoff))
}

/// How long (ms) a ride takes that is accepted.
pub(crate) fn ride_ms((eta_s, trip_s): (f64, f64)) -> i64 {
    ((eta_s + trip_s) * 1_000.0) as i64
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
            housekeeping_at: i64::MIN,
            matches: 0,
            declining: BTreeMap::new(),
            offered: BTreeMap::new(),
            found: BTreeMap::new(),
            busy_s: BTreeMap::new(),
            longest_wait_ms: 0,
            empty_m: 0.0,
        };
        let begin = trips.iter().map(|t| t.requested_at_ms).min().unwrap_or_default();
        for (n, location) in (0..).zip(beginnings(trips, trial)) {
            let driver = UserId(id(1, n));
            city.busy_s.insert(driver, 0.0);
            let beacon = UserBeacon {
                user_id: driver,
                active: true,
                vehicle_type: VehicleType::Car,
                location,
                recorded_at: time(begin),
                located_at: None,
                device: None,
            };
            city.step(begin, &[Input::Beacon(&beacon, time(begin))]);
        }
        for (n, trip) in trips.iter().enumerate() {
            city.agenda.push(Reverse((trip.requested_at_ms, Moment::Request(n))));
        }
        city.housekeeping_at = begin + HOUSEKEEPING_MS;
        city
    }

    fn run(&mut self) {
        while let Some(Reverse((ms, moment))) = self.agenda.pop() {
            // Between two moments nothing changes, however far apart they are: so not once a minute, but before the next moment.
            if ms >= self.housekeeping_at {
                self.step(ms, &[Input::Housekeeping]);
                self.housekeeping_at = ms + HOUSEKEEPING_MS;
            }
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
                Moment::Decline(number) => self.decline(number, ms),
                Moment::Tick => {
                    self.step(ms, &[Input::Tick]);
                    self.ticking = self.engine.has_live_requests();
                    if self.ticking {
                        self.agenda.push(Reverse((ms + TICK_MS, Moment::Tick)));
                    }
                }
            }
        }
    }

    /// A step, and the answers to the offers in it.
    fn step(&mut self, ms: i64, inputs: &[Input<'_>]) {
        let matches = &mut self.matches;
        let mut new_id = |_: &Assignment| {
            *matches += 1;
            MatchId(id(4, *matches))
        };
        let output = engine::step(&mut self.engine, inputs, &mut self.positions, time(ms), &mut new_id);
        for event in output.events {
            if let Event::MatchFound(found) = event {
                match self.answer(&found) {
                    Answer::Accept => self.begin_ride(found, ms),
                    Answer::Decline => {
                        let number = found.match_id.0.as_u64_pair().1;
                        self.declining.insert(number, found);
                        self.agenda.push(Reverse((ms + DECLINE_MS, Moment::Decline(number))));
                    }
                    // The engine ends it: it ticks while the passenger waits.
                    Answer::Miss => {}
                }
            }
        }
    }

    fn answer(&mut self, found: &MatchFound) -> Answer {
        let Answers { decline_rate, miss_rate } = self.trial.answers;
        if decline_rate <= 0.0 && miss_rate <= 0.0 {
            return Answer::Accept;
        }
        let [trip, driver] = [found.request_id.0, found.driver_id.0].map(|id| id.as_u64_pair().1);
        let times = self.offered.entry((usize::try_from(trip).unwrap_or_default(), found.driver_id)).or_default();
        *times += 1;
        let mut state = self.trial.seed;
        for part in [trip, driver, *times] {
            state = next_number(&mut state) ^ part;
        }
        let drawn = (next_number(&mut state) >> 11) as f64 / (1_u64 << 53) as f64;
        match drawn {
            _ if drawn < decline_rate => Answer::Decline,
            _ if drawn < decline_rate + miss_rate => Answer::Miss,
            _ => Answer::Accept,
        }
    }

    /// Unless the passenger has left meanwhile.
    fn decline(&mut self, number: u64, ms: i64) {
        let Some(found) = self.declining.remove(&number) else { return };
        if !self.engine.offers().get(&found.match_id).is_some_and(Offer::is_outstanding) {
            return;
        }
        let declined = MatchRejected {
            match_id: found.match_id,
            request_id: found.request_id,
            driver_id: found.driver_id,
            passenger_id: found.passenger_id,
            reason: RejectReason::Declined,
            rejected_at: MatchRejected::time(Service::Users, time(ms)),
        };
        self.step(ms, &[Input::Rejected(&declined)]);
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
        let (eta_s, trip_s) = drive_s(&found.driver_location, &found.pickup, &found.dropoff, self.trial);
        self.empty_m += found.driver_location.distance_m(&found.pickup) * DETOUR;
        *self.busy_s.entry(found.driver_id).or_default() += trip_s;
        self.longest_wait_ms = self.longest_wait_ms.max(ms - self.trips[n].requested_at_ms);
        let pickup = ride(n, &found, RideStatus::Pickup, ms);
        self.found.insert(n, (found, ms, eta_s));
        self.agenda.push(Reverse((ms + ride_ms((eta_s, trip_s)), Moment::End(n))));
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
        let served = self.found.iter().map(|(n, (_, found_at_ms, eta_s))| Served {
            trip: *n,
            found_at_ms: *found_at_ms,
            eta_s: *eta_s,
        });
        Outcome {
            longest_wait_s: self.longest_wait_ms as f64 / 1_000.0,
            empty_km: self.empty_m / 1_000.0,
            gini: gini(self.busy_s.values().copied()),
            ..waits(policy.as_str(), self.trips, &served.collect::<Vec<_>>())
        }
    }
}

/// A passenger who was matched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Served {
    /// By its number.
    pub(crate) trip: usize,
    pub(crate) found_at_ms: i64,
    pub(crate) eta_s: f64,
}

/// An outcome with what follows from those who were matched; the rest is zero.
pub(crate) fn waits(policy: &'static str, trips: &[Trip], served: &[Served]) -> Outcome {
    let wait_s = |s: &Served| (s.found_at_ms - trips[s.trip].requested_at_ms) as f64 / 1_000.0;
    let each = |of: &dyn Fn(&Served) -> f64| spread(served.iter().map(of));
    Outcome {
        policy,
        requests: trips.len(),
        matched: served.len(),
        match_rate: served.len() as f64 / trips.len().max(1) as f64,
        pickup_eta_s: each(&|s| s.eta_s),
        match_wait_s: each(&wait_s),
        total_wait_s: each(&|s| wait_s(s) + s.eta_s),
        longest_wait_s: 0.0,
        empty_km: 0.0,
        gini: 0.0,
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

/// The sum; of nothing 0, where `Iterator::sum` has -0.
pub(crate) fn sum(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(0.0, |sum, value| sum + value)
}

/// The mean and two percentiles (nearest rank); zeros of nothing.
pub(crate) fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied();
    let mean = sum(sorted.iter().copied()) / sorted.len().max(1) as f64;
    Spread { mean, p50: rank(50).unwrap_or_default(), p95: rank(95).unwrap_or_default() }
}

/// The Gini coefficient: half the mean difference between two of them, relative to the mean.
pub(crate) fn gini(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let (n, total) = (sorted.len() as f64, sum(sorted.iter().copied()));
    if total <= 0.0 {
        return 0.0;
    }
    let ranked = sum(sorted.iter().enumerate().map(|(i, value)| (i + 1) as f64 * value));
    // Of equal shares the difference of two rounded numbers, on either side of 0.
    let gini = 2.0 * ranked / (n * total) - (n + 1.0) / n;
    if gini > 0.0 { gini } else { 0.0 }
}
