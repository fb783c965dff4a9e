//! Who waits, and which drivers there are for them, as the policy sees it: the engine's rows and the drivers' positions at one
//! moment. Pure, and changes nothing.

use std::collections::BTreeSet;

use chrono::{DateTime, Duration, Utc};
use geospatial::Near;
use pricing::market::Market;
use roads::Way;
use streams::{Position, RequestId, UserId};

use super::assign::{
    Assignment, CANDIDATES, Candidate, Finishing, OLD_SHARE, Policy, Supply, Terms, WaitingRequest, eta_ms,
};
use super::road_times::WayTime;
use super::state::{Engine, Exclusion, Request, Ride, Rules};
use crate::positions::DriverPositions;

/// The most requests that are paired at once: of those that can have a driver the oldest and those with the nearest ones, and of
/// the others the oldest. One pairing takes some milliseconds at most, however many wait.
const OLDEST_MAX: usize = 64;
const NEAREST_MAX: usize = 256;
const RIVALS_MAX: usize = 128;
/// Less than a degree of latitude has anywhere.
const METERS_PER_DEGREE: f64 = 110_000.0;
/// A request waits for a driver whose ride is expected to end within this time, and for no later one: what a ride will do
/// is uncertain.
const LOOK_AHEAD: Duration = Duration::seconds(30);
/// Drivers, as the crow flies, whose road times are looked up for a request: who is nearest on the map may be across a river.
const ROAD_CANDIDATES: usize = 24;

/// How a driver stands to a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Standing {
    Free,
    /// Free, and comes after all others, because they declined or missed an offer of it.
    AskedBefore,
    /// They declined or missed an offer of it a moment ago.
    Excluded(Exclusion),
    /// They cancelled a ride of this passenger.
    Cancelled,
    InOffer,
    InRide {
        ends_at: Option<DateTime<Utc>>,
    },
    OffDuty,
    OtherVehicle,
    OtherMarket,
    OutsideRadius,
    IsPassenger,
}

/// What a decision on a request goes by: the ways of the nearest drivers to the pickup, and the passenger's. None without drivers.
#[derive(Debug, Default)]
pub(super) struct Ways {
    pub(super) to_pickup: Vec<Way>,
    pub(super) trip: Option<Way>,
}

#[derive(Clone, Copy)]
pub(crate) struct Marketplace<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) positions: &'a DriverPositions,
    pub(crate) now: DateTime<Utc>,
}

impl Marketplace<'_> {
    /// The assignments of `policy` for the affected requests, and for those that could have the same drivers.
    pub(crate) fn assign(&self, policy: Policy, is_affected: impl Fn(&WaitingRequest) -> bool) -> Vec<Assignment> {
        let rules = self.engine.rules();
        let waiting = self.waiting().filter(|r| !self.engine.road_times().is_held(r.request_id));
        let waiting = if policy == Policy::Batched {
            self.with_rivals(&waiting.collect::<Vec<_>>(), is_affected)
        } else {
            waiting.filter(is_affected).collect()
        };
        let terms = Terms { now: self.now, window: rules.window };
        let mut supply = Supply {
            free: &mut |request, k, assigned| self.free(request, k, assigned),
            apart_m: &mut |request, near| self.apart_m(request, near),
            finishing: &mut |request| self.finishing(request),
        };
        policy.assign(&waiting, &terms, &mut supply)
    }

    /// A live request whose passenger has no driver, as policies see it.
    pub(crate) fn waiting_one(&self, id: RequestId) -> Option<WaitingRequest> {
        let request = self.engine.requests().get(&id).filter(|r| r.ended_at.is_none())?;
        let is_free = !self.engine.is_engaged(request.passenger_id);
        is_free.then(|| waiting_request(request, self.engine.rules(), self.now))
    }

    /// The market of a request. `None`: this process does not know it.
    pub(crate) fn market(&self, request: &WaitingRequest) -> Option<&Market> {
        self.engine.rules().market(self.engine.requests().get(&request.request_id)?)
    }

    /// Why a driver could be offered a request, or not. `None`: nobody knows where the driver is.
    pub(crate) fn standing(&self, request: &WaitingRequest, id: UserId) -> Option<(Standing, Position)> {
        let (engine, rules) = (self.engine, self.engine.rules());
        let position = self.positions.newest(id)?;
        let driver = engine.drivers().get(&id);
        let market = self.market(request);
        let exclusion = engine.requests().get(&request.request_id).and_then(|r| r.excluded.get(&id));
        let standing = match (driver, exclusion) {
            _ if id == request.passenger_id => Standing::IsPassenger,
            (Some(driver), _) if driver.active && driver.vehicle_type != request.vehicle_type => Standing::OtherVehicle,
            (Some(driver), _) if driver.active && engine.is_locked(id) => {
                let ends = engine.rides().values().filter(|r| r.driver_id == id && r.ended_at.is_none());
                Standing::InRide { ends_at: ends.filter_map(|r| r.expected_end.map(|(at, _)| at)).min() }
            }
            (Some(driver), _) if driver.active && engine.is_engaged(id) => Standing::InOffer,
            (Some(driver), _) if !driver.active => Standing::OffDuty,
            (None, _) => Standing::OffDuty,
            _ if position.distance_m(&request.pickup) > request.radius_m => Standing::OutsideRadius,
            _ if !rules.is_served_from(&position, market) => Standing::OtherMarket,
            (_, Some(exclusion)) if exclusion.until.is_none() => Standing::Cancelled,
            _ if engine.has_cancelled_on(id, request.passenger_id) => Standing::Cancelled,
            (_, Some(exclusion)) if !exclusion.is_over(self.now) => Standing::Excluded(*exclusion),
            (_, Some(_)) => Standing::AskedBefore,
            (Some(_), None) => Standing::Free,
        };
        Some((standing, position))
    }

    /// Requests that may have a driver now, the longest waiting first.
    pub(super) fn waiting(&self) -> impl Iterator<Item = WaitingRequest> {
        let waiting = self.engine.waiting().filter(|r| !self.engine.is_resting(r, self.now));
        waiting.map(|r| waiting_request(r, self.engine.rules(), self.now))
    }

    /// The ways that a decision on the request goes by.
    pub(super) fn ways(&self, request: &WaitingRequest) -> Ways {
        let none = BTreeSet::new();
        let near = self.free_by_air(request, ROAD_CANDIDATES, &none);
        if near.is_empty() {
            return Ways::default();
        }
        let to_pickup = |from: Position| Way { from, to: request.pickup };
        let dropoff = self.engine.requests().get(&request.request_id).map(|r| r.dropoff);
        let trip = dropoff.map(|to| Way { from: request.pickup, to });
        let finishing = self.finishing_by_air(request).into_iter().map(|(ride, ..)| to_pickup(ride));
        Ways { to_pickup: near.iter().map(|near| to_pickup(near.position)).chain(finishing).collect(), trip }
    }

    /// What an offer would say of the seconds from one place to the pickup; `None` if no road leads there.
    pub(crate) fn offered_eta_s(&self, request: &WaitingRequest, from: Position) -> Option<f64> {
        match self.engine.road_times().get(&Way { from, to: request.pickup }, self.now) {
            WayTime::Road(leg) => Some(leg.duration_s),
            WayTime::Unreachable => None,
            WayTime::Estimate => Some(self.estimated_s(request, from)),
        }
    }

    /// The estimated seconds from one place to the pickup.
    pub(crate) fn estimated_s(&self, request: &WaitingRequest, from: Position) -> f64 {
        let to = &request.pickup;
        let usual = || pricing::estimate(&from, to);
        self.market(request).map_or_else(usual, |market| market.estimate(&from, to, self.now)).1
    }

    /// How long (ms) a driver needs from one place to the pickup; `None` if no road leads there.
    fn eta_ms(&self, request: &WaitingRequest, from: Position, distance_m: f64) -> Option<i64> {
        match self.engine.road_times().get(&Way { from, to: request.pickup }, self.now) {
            WayTime::Road(leg) => Some((leg.duration_s * 1_000.0) as i64),
            WayTime::Unreachable => None,
            WayTime::Estimate => Some(eta_ms(distance_m, request.speed_mps)),
        }
    }

    /// The affected requests for which there are drivers, and those that could have the same ones, the longest waiting first. Each
    /// with the number of its rivals, and of the old ones among them.
    fn with_rivals(
        &self,
        waiting: &[WaitingRequest],
        is_affected: impl Fn(&WaitingRequest) -> bool,
    ) -> Vec<WaitingRequest> {
        // Whoever is farther from each other than this has no driver within the radius of both.
        let is_near = |a: &WaitingRequest, b: &WaitingRequest| {
            let reach_m = 2.0 * a.radius_m.max(b.radius_m);
            a.vehicle_type == b.vehicle_type
                && (a.pickup.lat - b.pickup.lat).abs() * METERS_PER_DEGREE <= reach_m
                && a.pickup.distance_m(&b.pickup) <= reach_m
        };
        let none = BTreeSet::new();
        let nearest = |r: &WaitingRequest| self.free(r, 1, &none).first().map(|first| first.near.distance_m);
        let affected = waiting.iter().enumerate().filter(|(_, r)| is_affected(r));
        let mut first: Vec<(usize, f64)> = affected.filter_map(|(n, r)| Some((n, nearest(r)?))).collect();
        // The oldest and the nearest of too many.
        if let Some((_, others)) = first.split_at_mut_checked(OLDEST_MAX) {
            others.sort_by(|a, b| a.1.total_cmp(&b.1));
            first.truncate(OLDEST_MAX + NEAREST_MAX);
        }
        let first: BTreeSet<usize> = first.into_iter().map(|(n, _)| n).collect();
        let could_have = |n: &usize| !first.contains(n) && first.iter().any(|f| is_near(&waiting[*f], &waiting[*n]));
        let rivals: Vec<usize> = (0..waiting.len()).filter(could_have).take(RIVALS_MAX).collect();
        let all: BTreeSet<usize> = first.iter().copied().chain(rivals).collect();
        let is_old: Vec<bool> = waiting.iter().map(|r| r.age_share(self.now) >= OLD_SHARE).collect();
        let with_count = |n: usize| {
            let others = waiting
                .iter()
                .zip(&is_old)
                .enumerate()
                .filter(|(m, (other, _))| *m != n && is_near(&waiting[n], other));
            let (rivals, old_rivals) =
                others.fold((0, 0), |(all, old), (_, (_, is_old))| (all + 1, old + usize::from(*is_old)));
            WaitingRequest { rivals, old_rivals, ..waiting[n].clone() }
        };
        all.into_iter().map(with_count).collect()
    }

    /// The `k` free drivers within the radius who are at the pickup first.
    fn free(&self, request: &WaitingRequest, k: usize, assigned: &BTreeSet<UserId>) -> Vec<Candidate> {
        let by_road = self.engine.rules().roads;
        let near = self.free_by_air(request, if by_road { k.max(ROAD_CANDIDATES) } else { k }, assigned);
        let candidate = |near: Near| {
            let eta_ms = self.eta_ms(request, near.position, near.distance_m)?;
            Some(Candidate { near, eta_ms })
        };
        let mut candidates: Vec<Candidate> = near.into_iter().filter_map(candidate).collect();
        if by_road {
            candidates.sort_by_key(|candidate| candidate.eta_ms);
            candidates.truncate(k);
        }
        candidates
    }

    /// The `k` nearest free drivers within the radius, without those of whom it is known that no road leads from there: however many they are,
    /// somebody farther away is looked for. Who was asked before is asked again after all others.
    fn free_by_air(&self, request: &WaitingRequest, k: usize, assigned: &BTreeSet<UserId>) -> Vec<Near> {
        let rules = self.engine.rules();
        let market = self.market(request);
        let exclusion = |driver| self.engine.requests().get(&request.request_id)?.excluded.get(&driver);
        let may_get_there = |from: Position| {
            let way = Way { from, to: request.pickup };
            !rules.roads || self.engine.road_times().get(&way, self.now) != WayTime::Unreachable
        };
        let nearest = |may: &dyn Fn(UserId) -> bool| {
            self.positions.nearest(request.vehicle_type, &request.pickup, k, request.radius_m, |driver| {
                driver != request.passenger_id
                    && !assigned.contains(&driver)
                    && may(driver)
                    && !self.engine.has_cancelled_on(driver, request.passenger_id)
                    && self
                        .positions
                        .newest(driver)
                        .is_some_and(|at| rules.is_served_from(&at, market) && may_get_there(at))
            })
        };
        let others = nearest(&|driver| exclusion(driver).is_none());
        if others.is_empty() {
            nearest(&|driver| exclusion(driver).is_some_and(|e| e.is_over(self.now)))
        } else {
            others
        }
    }

    fn apart_m(&self, request: &WaitingRequest, near: &Near) -> f64 {
        let radius_m = request.radius_m;
        let next =
            self.positions.nearest(request.vehicle_type, &near.position, 1, radius_m, |driver| driver != near.id);
        next.first().map_or(radius_m, |next| next.distance_m)
    }

    /// Those of them who are at the pickup first.
    pub(crate) fn finishing(&self, request: &WaitingRequest) -> Vec<Finishing> {
        let finishing = |(from, id, left_ms, distance_m): (Position, UserId, i64, f64)| {
            Some(Finishing { id, left_ms, eta_ms: self.eta_ms(request, from, distance_m)? })
        };
        let mut all: Vec<Finishing> = self.finishing_by_air(request).into_iter().filter_map(finishing).collect();
        all.sort_unstable_by_key(|f| (f.left_ms + f.eta_ms, f.id));
        all.truncate(CANDIDATES);
        all
    }

    /// Drivers whose rides are expected to end soon, within the radius, each with where and in how many ms that is, and its distance (m)
    /// from the pickup. Not those whom the passenger does not get.
    fn finishing_by_air(&self, request: &WaitingRequest) -> Vec<(Position, UserId, i64, f64)> {
        let rules = self.engine.rules();
        let market = self.market(request);
        let until = self.now + LOOK_AHEAD;
        let excluded = self.engine.requests().get(&request.request_id).map(|r| &r.excluded);
        let of_ride = |ride: &Ride| {
            let (at, place) = ride.expected_end?;
            let driver = self.engine.drivers().get(&ride.driver_id)?;
            let distance_m = place.distance_m(&request.pickup);
            let is_offered = driver.active
                && driver.vehicle_type == request.vehicle_type
                && driver.user_id != request.passenger_id
                && distance_m <= request.radius_m
                && rules.is_served_from(&place, market)
                && excluded.is_none_or(|excluded| !excluded.contains_key(&driver.user_id))
                && !self.engine.has_cancelled_on(driver.user_id, request.passenger_id);
            let left_ms = (at - self.now).num_milliseconds();
            is_offered.then_some((place, driver.user_id, left_ms, distance_m))
        };
        self.engine.finishing(self.now, until).filter_map(of_ride).collect()
    }
}

fn waiting_request(r: &Request, rules: &Rules, now: DateTime<Utc>) -> WaitingRequest {
    let market = rules.market(r);
    WaitingRequest {
        request_id: r.request_id,
        passenger_id: r.passenger_id,
        pickup: r.pickup,
        vehicle_type: r.vehicle_type,
        opened_at: r.opened_at,
        radius_m: rules.radius_m(market, [r.waits_since(), r.expires_at(rules)], now),
        request_ttl: rules.request_ttl(market),
        speed_mps: rules.speed_mps(market, now),
        rivals: 0,
        old_rivals: 0,
    }
}
