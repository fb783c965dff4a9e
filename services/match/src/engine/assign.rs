//! Which driver is offered to which request: the policies. Pure. They see waiting requests, can ask for the drivers near each,
//! and change nothing themselves. ARCHITECTURE.md says why `batched` costs pairs as it does.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use chrono::{DateTime, Duration, Utc};
use geospatial::Near;
use streams::{Position, RequestId, UserId, VehicleType};

use super::pairing::{self, Pair, Row};

/// A driver drives this many times the great circle: the usual detour in a street network.
pub const DETOUR: f64 = 1.3;
/// Free drivers that `batched` considers for a request at first: twice as many as long as more could change something, up to the maximum.
pub const CANDIDATES: usize = 8;
pub const CANDIDATES_MAX: usize = 64;

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
    /// Those of them who have waited for half their time.
    pub old_rivals: usize,
}

impl WaitingRequest {
    /// How much of its time it has waited: 1 at the end.
    pub(super) fn age_share(&self, now: DateTime<Utc>) -> f64 {
        let age_ms = (now - self.opened_at).num_milliseconds().max(0) as f64;
        age_ms / self.request_ttl.num_milliseconds().max(1) as f64
    }
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

/// The gap counts for this part of itself, up to this time to the next free driver. Chosen by `rideshare dispatch evaluate`.
const GAP_PERCENT: i64 = 60;
const GAP_MAX_MS: i64 = 60_000;
/// A request is held back for a driver who is there sooner by this at least.
const HOLD_MARGIN_MS: i64 = 12_000;
/// Nobody is held back after this part of their time.
const HOLD_SHARE: f64 = 0.8;
/// The age bonus begins at this part of the request's time, and is the way from the edge of the radius at the other: from then on no newcomer
/// is preferred.
const AGE_FROM: f64 = 0.9;
const AGE_FULL: f64 = 0.95;
/// There is no bonus where so many of the rivals have waited for half their time: it is drivers that are missing there, and nobody is passed over.
pub(super) const OLD_SHARE: f64 = 0.5;
const OLD_RIVALS_MAX: f64 = 0.1;
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
    let mut may_hold_back = true;
    // Each round assigns somebody, or is the last.
    while !left.is_empty() {
        let mut graph = Graph::of(left, terms, supply, &assigned);
        let pairs = if std::mem::take(&mut may_hold_back) {
            graph.pairs_with_finishing(terms, supply, &assigned)
        } else {
            graph.pairs(supply, &assigned)
        };
        let before = assignments.len();
        let mut again = Vec::new();
        for (request, pair) in graph.requests.iter().zip(pairs) {
            let driver = match pair.column.map(|column| graph.drivers[column]) {
                Some(Some(driver)) => driver,
                Some(None) => continue,
                None => {
                    again.push(*request);
                    continue;
                }
            };
            // A driver may also be a passenger here.
            if assigned.contains(&request.passenger_id) || assigned.contains(&driver.id) {
                again.push(*request);
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
struct Graph<'a> {
    requests: Vec<&'a WaitingRequest>,
    rows: Vec<Row>,
    /// By row: how many free drivers were looked up, whether there are no more, and what the farthest of them costs at least.
    looked_up: Vec<(usize, bool, i64)>,
    bonuses_ms: Vec<i64>,
    /// By column; `None`: a driver who is not free yet.
    drivers: Vec<Option<Near>>,
    columns: BTreeMap<UserId, usize>,
    gaps_ms: BTreeMap<UserId, i64>,
}

impl<'a> Graph<'a> {
    fn of(
        requests: Vec<&'a WaitingRequest>,
        terms: &Terms,
        supply: &mut Supply<'_>,
        assigned: &BTreeSet<UserId>,
    ) -> Self {
        let count = requests.len();
        let bonuses_ms = requests.iter().map(|request| age_bonus_ms(request, terms)).collect();
        let (rows, looked_up) = (vec![Row::default(); count], vec![(0, false, 0); count]);
        let (drivers, columns, gaps_ms) = Default::default();
        let mut graph = Self { requests, rows, looked_up, bonuses_ms, drivers, columns, gaps_ms };
        (0..count).for_each(|n| graph.look_up(n, CANDIDATES, supply, assigned));
        graph
    }

    /// Gives a row its `k` first free drivers.
    fn look_up(&mut self, n: usize, k: usize, supply: &mut Supply<'_>, assigned: &BTreeSet<UserId>) {
        let (request, bonus_ms) = (self.requests[n], self.bonuses_ms[n]);
        let free = (supply.free)(request, k, assigned);
        let farthest_ms = free.last().map_or(0, |last| last.eta_ms);
        self.looked_up[n] = (k, free.len() < k, farthest_ms - bonus_ms);
        let mut edges = Vec::with_capacity(free.len());
        for Candidate { near, eta_ms } in free {
            let gap_ms = *self
                .gaps_ms
                .entry(near.id)
                .or_insert_with(|| gap_ms(self::eta_ms((supply.apart_m)(request, &near), request.speed_mps)));
            // Where several wait, the drivers around are theirs, and not a later passenger's.
            let gap_ms = gap_ms / (1 + i64::try_from(request.rivals).unwrap_or(i64::MAX - 1));
            edges.push((self.column(near.id, Some(near)), eta_ms + gap_ms - bonus_ms));
        }
        self.rows[n] = Row { edges, alone: ALONE_MS };
    }

    /// The least-cost pairs with free drivers. A row whose price is no higher than the cost of the farthest driver that was looked up gains
    /// nothing by those farther away; of the others more are looked up.
    fn pairs(&mut self, supply: &mut Supply<'_>, assigned: &BTreeSet<UserId>) -> Vec<Pair> {
        loop {
            let pairs = pairing::least_cost(&self.rows, self.drivers.len());
            let needs_more = |n: &usize| {
                let (k, is_all, farthest_ms) = self.looked_up[*n];
                !is_all && k < CANDIDATES_MAX && pairs[*n].price > farthest_ms
            };
            let rows: Vec<usize> = (0..self.rows.len()).filter(needs_more).collect();
            if rows.is_empty() {
                return pairs;
            }
            rows.into_iter().for_each(|n| self.look_up(n, self.looked_up[n].0 * 2, supply, assigned));
        }
    }

    /// The same with drivers who will be free soon. Whoever has a driver may wait for a better one, unless somebody else has none and
    /// could have this one, if need be by way of others: then drivers are what is missing, and whoever is nearest goes on.
    fn pairs_with_finishing(
        &mut self,
        terms: &Terms,
        supply: &mut Supply<'_>,
        assigned: &BTreeSet<UserId>,
    ) -> Vec<Pair> {
        let pairs = self.pairs(supply, assigned);
        let mut has_finishing = false;
        for (n, pair) in pairs.iter().enumerate() {
            let request = self.requests[n];
            let may_wait = request.rivals > 0
                && terms.now - request.opened_at < terms.window
                && request.age_share(terms.now) < HOLD_SHARE
                && pair.price < ALONE_MS / 2;
            // Who has nobody waits anyway, and wants the one who is free next.
            if !may_wait && !self.rows[n].edges.is_empty() {
                continue;
            }
            for driver in (supply.finishing)(request) {
                let cost = driver.left_ms + driver.eta_ms + HOLD_MARGIN_MS - self.bonuses_ms[n];
                let column = self.column(driver.id, None);
                self.rows[n].edges.push((column, cost));
                has_finishing = true;
            }
        }
        if has_finishing { pairing::least_cost(&self.rows, self.drivers.len()) } else { pairs }
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

/// What a pair is cheaper by because its passenger has been passed over for long: in the end nobody who comes later is preferred, however
/// many come. Where many wait long it is nothing: oldest first would be the longest way for all of them, and serve no more.
fn age_bonus_ms(request: &WaitingRequest, terms: &Terms) -> i64 {
    let old_share = request.old_rivals as f64 / request.rivals.max(1) as f64;
    let passed_over = (1.0 - old_share / OLD_RIVALS_MAX).max(0.0);
    let age = ((request.age_share(terms.now) - AGE_FROM) / (AGE_FULL - AGE_FROM)).max(0.0);
    let farthest = eta_ms(request.radius_m, request.speed_mps) as f64;
    (farthest * age * passed_over).min(AGE_BONUS_MAX_MS) as i64
}
