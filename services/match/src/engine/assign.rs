//! Which driver is offered to which request: the policies. Pure. They see waiting requests, can ask for the drivers near each,
//! and change nothing themselves. ARCHITECTURE.md says why `batched` costs pairs as it does.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use chrono::{DateTime, Duration, Utc};
use geospatial::Near;
use streams::{Position, RequestId, UserId, VehicleType};

use super::pairing::{self, Row};

/// A driver drives this many times the great circle: the usual detour in a street network.
pub const DETOUR: f64 = 1.3;
/// Free drivers that `batched` considers for a request at first. Who gets none of them is asked about again.
pub const CANDIDATES: usize = 8;

/// A live request whose passenger has no driver.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitingRequest {
    pub request_id: RequestId,
    pub passenger_id: UserId,
    pub pickup: Position,
    pub vehicle_type: VehicleType,
    pub opened_at: DateTime<Utc>,
    /// The farthest driver, great circle, and how long the request waits: as its market has it.
    pub radius_m: f64,
    pub request_ttl: Duration,
    /// Of a driver on the way to the pickup, on the great circle times [`DETOUR`].
    pub speed_mps: f64,
    /// How many others wait who could have the same drivers.
    pub rivals: usize,
}

/// A driver to be offered to a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assignment {
    pub request_id: RequestId,
    pub driver: Near,
}

/// What a policy goes by besides requests and drivers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    pub now: DateTime<Utc>,
    /// How long after it was opened a request may be held back.
    pub window: Duration,
}

/// A driver whose ride is about to end near a pickup.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finishing {
    pub id: UserId,
    /// Until the expected end.
    pub left_ms: i64,
    /// From where the ride ends to the pickup.
    pub eta_ms: i64,
}

/// A free driver within the radius.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The distance is the great circle.
    pub near: Near,
    /// On the way to the pickup: by road, if that is known.
    pub eta_ms: i64,
}

/// Finds free drivers for a request: the `k` who are there first, of those within the radius and not in the set, in this order.
pub type NearestDrivers<'a> = dyn FnMut(&WaitingRequest, usize, &BTreeSet<UserId>) -> Vec<Candidate> + 'a;

/// The drivers, as a policy may ask for them.
pub struct Supply<'a> {
    pub free: &'a mut NearestDrivers<'a>,
    /// The distance (m) from a free driver to the next free one; the radius if there is none in it.
    pub apart_m: &'a mut dyn FnMut(&WaitingRequest, &Near) -> f64,
    /// Drivers who will be free near the pickup before the request's window ends.
    pub finishing: &'a mut dyn FnMut(&WaitingRequest) -> Vec<Finishing>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Requests and drivers are paired together, at the least total cost.
    #[default]
    Batched,
    /// The request that has waited longest chooses first, and takes the driver of those left who is there first.
    FirstCome,
    /// The pair with the shortest way first, then that of those that are left.
    ShortestPair,
}

impl Policy {
    pub const ALL: [Self; 3] = [Self::Batched, Self::FirstCome, Self::ShortestPair];

    /// The name in MATCH_POLICY.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batched => "batched",
            Self::FirstCome => "first-come",
            Self::ShortestPair => "shortest-pair",
        }
    }

    /// Assignments for `waiting`, which is ordered by `opened_at`. Nobody is in two of them.
    pub fn assign(self, waiting: &[WaitingRequest], terms: &Terms, supply: &mut Supply<'_>) -> Vec<Assignment> {
        match self {
            Self::Batched => batched(waiting, terms, supply),
            Self::FirstCome => first_come(waiting, supply),
            Self::ShortestPair => shortest_pair(waiting, supply),
        }
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|p| p.as_str() == text).ok_or_else(|| format!("`{text}` is none of {known}"))
    }
}

fn first_come(waiting: &[WaitingRequest], supply: &mut Supply<'_>) -> Vec<Assignment> {
    let mut assigned = BTreeSet::new();
    let mut assignments = Vec::new();
    for request in waiting {
        // The passenger may also be a driver, and assigned to another request.
        if assigned.contains(&request.passenger_id) {
            continue;
        }
        if let Some(&Candidate { near: driver, .. }) = (supply.free)(request, 1, &assigned).first() {
            assigned.extend([driver.id, request.passenger_id]);
            assignments.push(Assignment { request_id: request.request_id, driver });
        }
    }
    assignments
}

fn shortest_pair(waiting: &[WaitingRequest], supply: &mut Supply<'_>) -> Vec<Assignment> {
    let mut assigned = BTreeSet::new();
    let mut assignments = Vec::new();
    // The nearest driver of each request; it may be taken when its turn comes, and then the request's next one is looked up.
    let mut pairs = BTreeMap::new();
    let mut add = |pairs: &mut BTreeMap<(i64, u64, usize), Near>, n: usize, assigned: &BTreeSet<UserId>| {
        if let Some(&Candidate { near, eta_ms }) = (supply.free)(&waiting[n], 1, assigned).first() {
            pairs.insert((eta_ms, near.distance_m.to_bits(), n), near);
        }
    };
    (0..waiting.len()).for_each(|n| add(&mut pairs, n, &assigned));
    while let Some(((_, _, n), driver)) = pairs.pop_first() {
        let request = &waiting[n];
        if assigned.contains(&request.passenger_id) {
            continue;
        }
        if assigned.contains(&driver.id) {
            add(&mut pairs, n, &assigned);
            continue;
        }
        assigned.extend([driver.id, request.passenger_id]);
        assignments.push(Assignment { request_id: request.request_id, driver });
    }
    assignments
}

/// The gap counts for this part of itself, up to this time to the next free driver. Chosen by `rideshare dispatch evaluate`, as
/// is [`AGE_WEIGHT`].
const GAP_PERCENT: i64 = 30;
const GAP_MAX_MS: i64 = 60_000;
/// With one rival a request comes before any new one after 97 % of its time: 8 · 0.968⁶⁴ = 1, times the way from the edge of the radius.
/// The lower the exponent, the more are served, and the longer everybody waits.
const AGE_WEIGHT: f64 = 8.0;
const AGE_EXPONENT: i32 = 64;
/// Far below [`ALONE_MS`].
const AGE_BONUS_MAX_MS: f64 = 1e9;
/// More than any pair costs: a driver who can be offered is, unless the request is held back for a better one.
const ALONE_MS: i64 = 1 << 40;

/// Pairs all requests and their drivers together, at the least total cost. Whoever is paired with a driver who is not free yet
/// waits for that one, and is paired again then, or a second later.
fn batched(waiting: &[WaitingRequest], terms: &Terms, supply: &mut Supply<'_>) -> Vec<Assignment> {
    let mut assigned = BTreeSet::new();
    let mut assignments = Vec::new();
    let mut left: Vec<&WaitingRequest> = waiting.iter().collect();
    // Each round assigns somebody, or is the last.
    while !left.is_empty() {
        let graph = Graph::of(&left, terms, supply, &assigned);
        let pairs = pairing::least_cost(&graph.rows, graph.drivers.len());
        let before = assignments.len();
        let mut again = Vec::new();
        for (n, request) in left.into_iter().enumerate() {
            let driver = match pairs[n].map(|column| graph.drivers[column]) {
                Some(Some(driver)) => driver,
                Some(None) => continue,
                None => {
                    again.push(request);
                    continue;
                }
            };
            // A driver may also be a passenger here.
            if assigned.contains(&request.passenger_id) || assigned.contains(&driver.id) {
                again.push(request);
                continue;
            }
            assigned.extend([driver.id, request.passenger_id]);
            let driver = Near { distance_m: driver.position.distance_m(&request.pickup), ..driver };
            assignments.push(Assignment { request_id: request.request_id, driver });
        }
        if assignments.len() == before {
            break;
        }
        again.retain(|request| !assigned.contains(&request.passenger_id));
        left = again;
    }
    assignments
}

/// Requests are rows, drivers columns.
#[derive(Default)]
struct Graph {
    rows: Vec<Row>,
    /// By column; `None`: a driver who is not free yet.
    drivers: Vec<Option<Near>>,
    columns: BTreeMap<UserId, usize>,
}

impl Graph {
    fn of(left: &[&WaitingRequest], terms: &Terms, supply: &mut Supply<'_>, assigned: &BTreeSet<UserId>) -> Self {
        let mut graph = Self::default();
        for request in left {
            let free = (supply.free)(request, CANDIDATES, assigned);
            let bonus_ms = age_bonus_ms(request, terms);
            let mut row = Row { edges: Vec::new(), alone: ALONE_MS };
            for Candidate { near, eta_ms } in &free {
                let apart_ms = self::eta_ms((supply.apart_m)(request, near), request.speed_mps);
                let cost = eta_ms + gap_ms(apart_ms) - bonus_ms;
                row.edges.push((graph.column(near.id, Some(*near)), cost));
            }
            let may_wait = request.rivals > 0 && terms.now - request.opened_at < terms.window;
            // Who has nobody waits anyway, and wants the one who is free next.
            if may_wait || free.is_empty() {
                for driver in (supply.finishing)(request) {
                    let arrival_ms = driver.left_ms + driver.eta_ms;
                    row.edges.push((graph.column(driver.id, None), arrival_ms + gap_ms(GAP_MAX_MS) - bonus_ms));
                }
            }
            graph.rows.push(row);
        }
        graph
    }

    fn column(&mut self, id: UserId, driver: Option<Near>) -> usize {
        *self.columns.entry(id).or_insert_with(|| {
            self.drivers.push(driver);
            self.drivers.len() - 1
        })
    }
}

/// How long (ms) a driver needs for a great circle.
pub(super) fn eta_ms(distance_m: f64, speed_mps: f64) -> i64 {
    (distance_m * DETOUR / speed_mps * 1_000.0) as i64
}

/// What it costs later passengers that this driver is taken: the farther the next free one, the larger the gap.
fn gap_ms(apart_ms: i64) -> i64 {
    apart_ms.min(GAP_MAX_MS) * GAP_PERCENT / 100
}

/// What a pair is cheaper by because its passenger has waited. It grows faster than age, without a bound, so that in the end
/// nobody who comes later is preferred. Among many who wait it is less: the oldest first would be the longest way for all of them.
fn age_bonus_ms(request: &WaitingRequest, terms: &Terms) -> i64 {
    let age = (terms.now - request.opened_at).num_milliseconds().max(0) as f64;
    let share = age / request.request_ttl.num_milliseconds().max(1) as f64;
    let farthest = eta_ms(request.radius_m, request.speed_mps) as f64;
    let bonus = AGE_WEIGHT * farthest * share.powi(AGE_EXPONENT) / request.rivals.max(1) as f64;
    bonus.min(AGE_BONUS_MAX_MS) as i64
}
