//! What the engine does with each event and as time passes: the rules of matching. Pure: the time and new ids come in as
//! arguments, events and changed rows go out. Nothing here knows a database, a stream or a clock.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use pricing::market::WORLD;
use roads::{Leg, Road, Way};
use streams::event::{
    CancelledRide, MatchAccepted, MatchFound, MatchRejected, Party, RejectReason, RideEvent, UserBeacon, UserFinder,
};
use streams::{Event, MatchId, Position, RequestId, RideStatus, Service, UserId, VehicleType};

use super::assign::{Assignment, DETOUR, WaitingRequest};
use super::marketplace::Marketplace;
use super::road_times::WayTime;
use super::state::{
    ChangedIds, Driver, Engine, EngineRows, ExclusionReason, Offer, OfferOutcome, Request, Ride, micros,
};
use crate::positions::DriverPositions;

/// After this long without an answer of rides, an accepted offer is reported to operators.
const OVERDUE_AFTER: Duration = Duration::seconds(60);

/// No search lasts longer.
const SEARCH_MAX: Duration = Duration::days(1);

/// A ride that would take longer than a day has a place that is wrong.
const EXPECTED_MAX_MS: i64 = 86_400_000;

/// The most requests for which a step asks for road times, the longest waiting first. The others are estimated.
const REQUESTS_BY_ROAD_MAX: usize = 256;

#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// With the time at which the stream stored it.
    Beacon(&'a UserBeacon, DateTime<Utc>),
    Finder(&'a UserFinder),
    Accepted(&'a MatchAccepted),
    /// declined, superseded, and cancelled by the end of a search; the engine ignores its own expired and cancelled.
    Rejected(&'a MatchRejected),
    /// ride.pickup, ride.completed and ride.cancelled; others are ignored.
    Ride(&'a RideEvent),
    /// Answers to [`StepOutput::wanted`], in any order; `None`: nobody can say.
    Roads(&'a [(Way, Option<Road>)]),
    /// From other zones.
    Border(&'a Border),
    /// About every second: drivers may have moved, requests may have waited too long.
    Tick,
    /// About every minute: forget what ended long ago.
    Housekeeping,
}

/// What an engine learns of other zones. With one zone there is nothing of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Border {
    /// All users whom other zones have, each with whether it is a ride.
    Elsewhere(Vec<(UserId, bool)>),
    /// New offers of the step before that were not made, because another zone was first; their drivers are left out until then.
    Lost(Vec<MatchId>, DateTime<Utc>),
    /// Requests that another zone has handed over.
    Requests(Vec<Request>),
    /// About a ride of another zone.
    Ride(Box<RideEvent>),
    /// About an offer of another zone.
    Rejected(MatchRejected),
}

#[derive(Debug, Default)]
pub struct StepOutput {
    /// match.found and match.rejected, in the order in which they are to be published.
    pub events: Vec<Event>,
    /// The rows that changed.
    pub rows: EngineRows,
    /// Accepted offers that rides has left without an answer for a minute or more. Set at housekeeping only.
    pub overdue: Vec<MatchId>,
    /// Accepted offers that the engine gave up because rides never answered.
    pub released: Vec<MatchId>,
    /// Ways whose road times the engine waits for.
    pub wanted: Vec<Way>,
    /// Ways beside them that are estimated because one step asks for no more.
    pub ways_left_out: usize,
    /// What the engine knows of road times, or waits for, is not what it was before.
    pub has_other_roads: bool,
    /// Live requests that belong to another zone, which has them from now on.
    pub handed_over: Vec<(u16, Request)>,
}

/// What a policy decided in a step, before any offer is made of it.
#[derive(Clone, Copy)]
pub(crate) struct Decision<'a> {
    pub(crate) marketplace: &'a Marketplace<'a>,
    /// The requests for which the step looks for drivers.
    pub(crate) is_affected: &'a dyn Fn(&WaitingRequest) -> bool,
    pub(crate) assignments: &'a [Assignment],
}

/// In which the search began, where the world is more than one.
fn market_of(e: &UserFinder) -> Option<String> {
    e.market_id.clone().filter(|id| id != WORLD)
}

/// Handles `inputs` in order, then ends what is over at `now`, then looks for matches.
pub fn step(
    engine: &mut Engine,
    inputs: &[Input<'_>],
    positions: &mut DriverPositions,
    now: DateTime<Utc>,
    new_match_id: &mut dyn FnMut(&Assignment) -> MatchId,
) -> StepOutput {
    step_observed(engine, inputs, positions, now, new_match_id, &mut |_| {})
}

/// As [`step`]; `observe` sees the decision, if there is one to make.
pub(crate) fn step_observed(
    engine: &mut Engine,
    inputs: &[Input<'_>],
    positions: &mut DriverPositions,
    now: DateTime<Utc>,
    new_match_id: &mut dyn FnMut(&Assignment) -> MatchId,
    observe: &mut dyn FnMut(&Decision<'_>),
) -> StepOutput {
    let mut step = Step {
        engine,
        positions,
        now,
        changed: ChangedIds::default(),
        touched: BTreeSet::new(),
        unmatched: BTreeSet::new(),
        returned: BTreeSet::new(),
        output: StepOutput::default(),
    };
    let mut scope = MatchScope::Affected;
    for input in inputs {
        match *input {
            Input::Beacon(e, stored_at) => step.beacon(e, stored_at),
            Input::Finder(e) => step.finder(e),
            Input::Accepted(e) => step.accepted(e),
            Input::Rejected(e) => step.rejected(e),
            Input::Ride(e) => step.ride(e),
            Input::Roads(answers) => {
                answers.iter().for_each(|(way, road)| step.engine.road_times_mut().receive(way, *road, now));
            }
            Input::Border(border) => step.border(border),
            Input::Tick => scope = MatchScope::AllWaiting,
            Input::Housekeeping => step.housekeeping(),
        }
    }
    step.expire_offers();
    if scope == MatchScope::AllWaiting {
        step.end_old_requests();
        step.end_left_out();
    }
    step.update_availability();
    step.hand_over(scope);
    step.make_matches(scope, new_match_id, observe);
    let Step { engine, changed, mut output, .. } = step;
    output.rows = engine.rows_of(&changed);
    output.wanted = engine.road_times_mut().take_wanted();
    output.ways_left_out = engine.road_times_mut().take_left_out();
    output.has_other_roads = engine.road_times_mut().take_changed();
    output
}

/// Which waiting requests a step looks for drivers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MatchScope {
    /// At a tick: any driver may have moved closer.
    AllWaiting,
    /// Requests that are new or free again, and those within the radius of a driver who has become available.
    Affected,
}

/// One step under way.
struct Step<'a> {
    engine: &'a mut Engine,
    positions: &'a mut DriverPositions,
    now: DateTime<Utc>,
    changed: ChangedIds,
    /// Users whose availability may have changed.
    touched: BTreeSet<UserId>,
    /// Requests that are new or free again.
    unmatched: BTreeSet<RequestId>,
    /// Drivers who have become available, or were unknown.
    returned: BTreeSet<UserId>,
    output: StepOutput,
}

/// When a search began, by its id, which is a UUIDv7.
fn began_at(request: RequestId) -> Option<DateTime<Utc>> {
    let (seconds, nanoseconds) = request.0.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanoseconds)
}

impl Step<'_> {
    fn put_request(&mut self, request: Request) {
        self.changed.requests.insert(request.request_id);
        self.touched.insert(request.passenger_id);
        self.engine.put_request(request);
    }

    fn put_offer(&mut self, offer: Offer) {
        self.changed.offers.insert(offer.match_id);
        self.touched.extend([offer.driver_id, offer.passenger_id]);
        self.engine.put_offer(offer);
    }

    fn put_ride(&mut self, ride: Ride) {
        self.changed.rides.insert(ride.ride_id);
        self.touched.extend([ride.driver_id, ride.passenger_id]);
        self.engine.put_ride(ride);
    }

    fn beacon(&mut self, e: &UserBeacon, stored_at: DateTime<Utc>) {
        let recorded_at = micros(e.recorded_at);
        if self.engine.drivers().get(&e.user_id).is_some_and(|d| d.recorded_at > recorded_at) {
            return;
        }
        let driver = Driver::of(e, stored_at, self.now);
        if self.positions.record_beacon(e, driver.seen_at) {
            self.returned.insert(e.user_id);
        }
        self.changed.drivers.insert(e.user_id);
        self.touched.insert(e.user_id);
        self.engine.put_driver(driver);
    }

    fn finder(&mut self, e: &UserFinder) {
        let continues = e.continues.filter(|_| e.active);
        if let Some(ride) = &continues {
            self.driver_cancelled(ride, e.user_id);
        }
        let changed_at = micros(e.recorded_at);
        let expires_at = e.expires_at.map(|at| micros(at).min(changed_at + SEARCH_MAX));
        let too_old = expires_at.unwrap_or_else(|| {
            let rules = self.engine.rules();
            changed_at + rules.request_ttl(rules.markets.of(e.market_id.as_deref(), &e.pickup))
        }) <= self.now;
        let is_newer = |r: &Request| r.request_id != e.request_id && r.opened_at > changed_at;
        let is_outdated = e.active && (too_old || self.engine.requests_of(e.user_id).any(is_newer));
        let known = self.engine.requests().get(&e.request_id).cloned();
        let reopens = continues.is_some() && known.as_ref().is_none_or(|r| r.ended_at.is_some());
        let is_new = known.is_none();
        let request = match known {
            // One passenger cannot change another's, and an older change is ignored.
            Some(r) if r.passenger_id != e.user_id || changed_at < r.changed_at => return,
            // It had become a ride. An end by its passenger is newer than this, or stays.
            Some(r) if reopens && changed_at > r.changed_at && !is_outdated => Request { ended_at: None, ..r },
            // A request that ended stays ended; but what goes on may not be older than the end by its passenger.
            Some(r) if r.ended_at.is_some() => {
                if !e.active {
                    self.put_request(Request { changed_at, ..r });
                }
                return;
            }
            Some(r) => r,
            None => {
                if is_outdated {
                    return;
                }
                Request {
                    request_id: e.request_id,
                    passenger_id: e.user_id,
                    pickup: e.pickup,
                    dropoff: e.dropoff,
                    vehicle_type: e.vehicle_type,
                    // A search that goes on after a long ride is forgotten here. Its id says when it began.
                    opened_at: began_at(e.request_id).filter(|_| reopens).map_or(changed_at, |at| at.min(changed_at)),
                    changed_at,
                    // The end of an unknown request is stored: its beginning may arrive later, and must not open it.
                    ended_at: (!e.active).then_some(self.now),
                    expires_at,
                    market_id: market_of(e),
                    excluded: BTreeMap::new(),
                }
            }
        };
        if !e.active {
            if is_new {
                self.put_request(request);
            } else {
                self.end_request(e.request_id, Some(changed_at));
            }
            return;
        }
        let mut changed = request.clone();
        // It stays in the market in which it began, whatever another process of users takes its pickup for.
        changed.market_id = changed.market_id.or_else(|| market_of(e));
        (changed.pickup, changed.dropoff, changed.vehicle_type) = (e.pickup, e.dropoff, e.vehicle_type);
        changed.changed_at = changed_at;
        if is_new || reopens {
            // A passenger has at most one live request: the newer one replaces the older.
            if let Some(older) = self.engine.live_request(e.user_id).map(|r| r.request_id) {
                self.end_request(older, None);
            }
        } else if changed != (Request { changed_at, market_id: changed.market_id.clone(), ..request }) {
            self.withdraw_outstanding_of(e.request_id);
        }
        changed.expires_at = expires_at;
        if let Some(ride) = continues {
            let before = changed.excluded.get(&ride.driver_id);
            changed.excluded.insert(ride.driver_id, ExclusionReason::Cancelled.exclusion(before, self.now));
        }
        self.put_request(changed);
    }

    /// A driver cancelled a ride before its start. The engine may not have received its events yet: they change nothing more.
    fn driver_cancelled(&mut self, cancelled: &CancelledRide, passenger_id: UserId) {
        let CancelledRide { ride_id, match_id, driver_id } = *cancelled;
        let known = self.engine.rides().get(&ride_id).cloned();
        if known.as_ref().is_some_and(|ride| ride.ended_at.is_some()) {
            return;
        }
        if let Some(offer) = self.engine.offers().get(&match_id).cloned() {
            self.put_offer(Offer { ended: Some((self.now, OfferOutcome::Ridden)), ..offer });
        }
        let began_at = known.map_or(self.now, |ride| ride.began_at);
        let ended_at = Some(self.now);
        self.put_ride(Ride {
            ride_id,
            match_id,
            driver_id,
            passenger_id,
            began_at,
            ended_at,
            driver_cancelled: true,
            expected_end: None,
        });
    }

    fn accepted(&mut self, e: &MatchAccepted) {
        if self.engine.is_ridden(e.match_id) {
            return;
        }
        let known = self.engine.offers().get(&e.match_id).cloned();
        // An unknown offer is one that the engine has forgotten: treated as expired.
        let offer = known.unwrap_or_else(|| Offer {
            match_id: e.match_id,
            request_id: e.request_id,
            driver_id: e.driver_id,
            passenger_id: e.passenger_id,
            found_at: micros(e.accepted_at),
            expires_at: micros(e.accepted_at),
            accepted_at: None,
            ended: Some((self.now, OfferOutcome::Expired)),
        });
        let request = self.engine.requests().get(&offer.request_id);
        let search_ended = request.is_some_and(|r| r.ended_at.is_some());
        match offer.ended {
            None if offer.accepted_at.is_some() => {}
            None => self.put_offer(Offer { accepted_at: Some(self.now), ..offer }),
            // users and rides have agreed that no ride comes of it, or its search has become another ride.
            Some((_, OfferOutcome::Cancelled)) if search_ended => {}
            // users took the acceptance although the offer had ended here. rides will make a ride of it, so it holds both
            // again, unless one of them is locked or held by an accepted offer: then rides will refuse it.
            Some((_, OfferOutcome::Expired | OfferOutcome::Cancelled)) => {
                let people = [offer.driver_id, offer.passenger_id];
                let is_taken = |u: UserId| {
                    self.engine.is_locked(u)
                        || self.engine.is_elsewhere(u)
                        || self.engine.held_by(u).is_some_and(Offer::is_accepted)
                };
                if people.into_iter().any(is_taken) {
                    return;
                }
                for person in people {
                    if let Some(other) = self.engine.held_by(person).map(|o| o.match_id) {
                        self.withdraw(other, RejectReason::Cancelled);
                    }
                }
                self.put_offer(Offer { accepted_at: Some(self.now), ended: None, ..offer });
            }
            Some((
                _,
                OfferOutcome::Declined | OfferOutcome::Superseded | OfferOutcome::Ridden | OfferOutcome::Released,
            )) => {}
        }
    }

    fn rejected(&mut self, e: &MatchRejected) {
        let outcome = match e.reason {
            RejectReason::Declined => OfferOutcome::Declined,
            RejectReason::Superseded => OfferOutcome::Superseded,
            RejectReason::Cancelled if e.is_from(Service::Users) => return self.search_ended(e),
            // The engine published it itself, when it ended the offer.
            RejectReason::Expired | RejectReason::Cancelled => return,
        };
        let reason = match outcome {
            OfferOutcome::Declined => ExclusionReason::Declined,
            _ => ExclusionReason::Missed,
        };
        let offer = match self.engine.offers().get(&e.match_id).cloned() {
            None => self.unknown_offer(e, outcome),
            Some(offer) if outcome == OfferOutcome::Declined && offer.is_accepted() => return,
            Some(offer) => match offer.ended {
                None => Offer { ended: Some((self.now, outcome)), ..offer },
                // A rejection is final, also of an offer that had expired or been cancelled.
                Some((at, OfferOutcome::Expired | OfferOutcome::Cancelled)) => {
                    Offer { ended: Some((at, outcome)), ..offer }
                }
                Some(_) => {
                    self.exclude(offer.request_id, offer.driver_id, reason);
                    return;
                }
            },
        };
        let (request, driver, passenger) = (offer.request_id, offer.driver_id, offer.passenger_id);
        self.put_offer(offer);
        self.exclude(request, driver, reason);
        if outcome == OfferOutcome::Superseded && self.engine.is_locked(passenger) {
            self.end_request(request, None);
        }
    }

    /// Stored although unknown: the acceptance of the same offer may arrive later, and must not hold anybody.
    fn unknown_offer(&self, e: &MatchRejected, outcome: OfferOutcome) -> Offer {
        Offer {
            match_id: e.match_id,
            request_id: e.request_id,
            driver_id: e.driver_id,
            passenger_id: e.passenger_id,
            found_at: micros(e.rejected_at),
            expires_at: micros(e.rejected_at),
            accepted_at: None,
            ended: Some((self.now, outcome)),
        }
    }

    /// The passenger ended the search of this offer, or it expired; users has published it. It is final, whatever acceptance
    /// is on its way.
    fn search_ended(&mut self, e: &MatchRejected) {
        let offer = match self.engine.offers().get(&e.match_id).cloned() {
            None => self.unknown_offer(e, OfferOutcome::Cancelled),
            Some(offer) => match offer.ended {
                None => Offer { ended: Some((self.now, OfferOutcome::Cancelled)), ..offer },
                Some((at, OfferOutcome::Expired)) => Offer { ended: Some((at, OfferOutcome::Cancelled)), ..offer },
                Some(_) => return,
            },
        };
        let request = offer.request_id;
        self.put_offer(offer);
        self.end_request(request, None);
    }

    fn ride(&mut self, e: &RideEvent) {
        let known = self.engine.rides().get(&e.ride_id).cloned();
        let ride = Ride {
            ride_id: e.ride_id,
            match_id: e.match_id,
            driver_id: e.driver_id,
            passenger_id: e.passenger_id,
            began_at: known.as_ref().map_or(micros(e.occurred_at), |r| r.began_at),
            ended_at: e.status.is_final().then_some(self.now),
            driver_cancelled: e.status == RideStatus::Cancelled && e.by == Some(Party::Driver),
            expected_end: (e.status == RideStatus::Pickup).then(|| self.expected_end(e)),
        };
        match e.status {
            RideStatus::Pickup if known.is_none() => {}
            RideStatus::Completed | RideStatus::Cancelled if known.as_ref().is_none_or(|r| r.ended_at.is_none()) => {}
            _ => return,
        }
        // The offer's hold ends; the ride's lock begins.
        if let Some(offer) = self.engine.offers().get(&e.match_id).cloned() {
            let request = offer.request_id;
            self.put_offer(Offer { ended: Some((self.now, OfferOutcome::Ridden)), ..offer });
            self.end_request(request, None);
        }
        if e.status == RideStatus::Pickup {
            self.clear_for_ride(e);
        }
        if let Some(request) = e.request_id.filter(|_| ride.driver_cancelled) {
            self.exclude(request, ride.driver_id, ExclusionReason::Cancelled);
        }
        self.put_ride(ride);
    }

    /// If the driver goes straight to the pickup and to the dropoff.
    fn expected_end(&self, e: &RideEvent) -> (DateTime<Utc>, Position) {
        let from = self.positions.newest(e.driver_id).unwrap_or(e.pickup);
        let way_m = (from.distance_m(&e.pickup) + e.pickup.distance_m(&e.dropoff)) * DETOUR;
        let (rules, requests) = (self.engine.rules(), self.engine.requests());
        let market = match e.request_id.and_then(|id| requests.get(&id)) {
            Some(request) => rules.market(request),
            None => rules.markets.of(None, &e.pickup),
        };
        let ms = way_m / rules.speed_mps(market, self.now) * 1_000.0;
        (micros(e.occurred_at) + Duration::milliseconds((ms as i64).clamp(0, EXPECTED_MAX_MS)), e.dropoff)
    }

    /// Ends the other unanswered offers that hold the two of a new ride, and the passenger's search.
    fn clear_for_ride(&mut self, e: &RideEvent) {
        for person in [e.driver_id, e.passenger_id] {
            let Some(other) = self.engine.held_by(person).cloned() else { continue };
            // An accepted offer goes on holding both until rides refuses it (superseded), or makes a ride of it once this one has ended.
            if other.is_outstanding() {
                // cancelled, not superseded: superseded is final, and only rides may say it. The driver's acceptance may
                // be on its way, and becomes a ride if this ride ends before it arrives.
                self.withdraw(other.match_id, RejectReason::Cancelled);
            }
        }
        if let Some(request) = self.engine.live_request(e.passenger_id)
            && request.opened_at <= micros(e.occurred_at)
        {
            self.end_request(request.request_id, None);
        }
    }

    /// Ends a live request. Its offer goes on holding both: users ends it (cancelled) and tells them, or, if it is accepted, rides
    /// answers it. So nobody gets another offer before the end of this one.
    fn end_request(&mut self, id: RequestId, changed_at: Option<DateTime<Utc>>) {
        let Some(request) = self.engine.requests().get(&id).filter(|r| r.ended_at.is_none()).cloned() else { return };
        let changed_at = changed_at.unwrap_or(request.changed_at);
        self.put_request(Request { ended_at: Some(self.now), changed_at, ..request });
    }

    fn withdraw_outstanding_of(&mut self, id: RequestId) {
        let Some(passenger) = self.engine.requests().get(&id).map(|r| r.passenger_id) else { return };
        let offer = self.engine.held_by(passenger).filter(|o| o.request_id == id && o.is_outstanding());
        if let Some(offer) = offer.map(|o| o.match_id) {
            self.withdraw(offer, RejectReason::Cancelled);
        }
    }

    /// Ends a live offer and publishes match.rejected, which reaches both parties.
    fn withdraw(&mut self, id: MatchId, reason: RejectReason) {
        let Some(offer) = self.engine.offers().get(&id).filter(|o| o.ended.is_none()).cloned() else { return };
        let outcome = match reason {
            RejectReason::Declined => OfferOutcome::Declined,
            RejectReason::Expired => OfferOutcome::Expired,
            RejectReason::Cancelled => OfferOutcome::Cancelled,
            RejectReason::Superseded => OfferOutcome::Superseded,
        };
        self.output.events.push(Event::MatchRejected(offer.rejected(reason, self.now)));
        self.put_offer(Offer { ended: Some((self.now, outcome)), ..offer });
    }

    /// Does not offer this driver to this request for some time. It may have ended, and go on.
    fn exclude(&mut self, id: RequestId, driver: UserId, reason: ExclusionReason) {
        let Some(mut request) = self.engine.requests().get(&id).cloned() else { return };
        let exclusion = reason.exclusion(request.excluded.get(&driver), self.now);
        if request.excluded.insert(driver, exclusion) != Some(exclusion) {
            self.put_request(request);
        }
    }

    fn border(&mut self, border: &Border) {
        match border {
            Border::Elsewhere(all) => self.elsewhere(all),
            Border::Lost(offers, until) => {
                for id in offers {
                    let Some(offer) = self.engine.remove_offer(*id) else { continue };
                    self.touched.extend([offer.driver_id, offer.passenger_id]);
                    if !self.engine.is_elsewhere(offer.driver_id) {
                        self.engine.put_elsewhere(offer.driver_id, Some(*until));
                    }
                }
            }
            Border::Requests(requests) => {
                // They are rows already.
                for request in requests {
                    if self.engine.requests().contains_key(&request.request_id) {
                        continue;
                    }
                    self.touched.insert(request.passenger_id);
                    self.engine.put_request(request.clone());
                }
            }
            Border::Ride(e) => {
                if e.status == RideStatus::Pickup {
                    self.clear_for_ride(e);
                } else if let Some(request) = e.request_id
                    && e.by == Some(Party::Driver)
                {
                    self.exclude(request, e.driver_id, ExclusionReason::Cancelled);
                }
            }
            Border::Rejected(e) => match e.reason {
                RejectReason::Declined => self.exclude(e.request_id, e.driver_id, ExclusionReason::Declined),
                RejectReason::Superseded => self.exclude(e.request_id, e.driver_id, ExclusionReason::Missed),
                RejectReason::Cancelled if e.is_from(Service::Users) => self.end_request(e.request_id, None),
                RejectReason::Expired | RejectReason::Cancelled => {}
            },
        }
    }

    /// Nobody of them is offered, and whoever is in a ride elsewhere has no open offer here.
    fn elsewhere(&mut self, all: &[(UserId, bool)]) {
        let now: BTreeSet<UserId> = all.iter().map(|(id, _)| *id).collect();
        let before = self.engine.elsewhere().filter(|(id, until)| until.is_none() && !now.contains(id));
        for user in before.map(|(id, _)| id).collect::<Vec<_>>() {
            self.engine.remove_elsewhere(user);
            self.touched.insert(user);
        }
        for &(user, is_in_ride) in all {
            self.engine.put_elsewhere(user, None);
            self.touched.insert(user);
            if is_in_ride
                && let Some(offer) = self.engine.held_by(user).filter(|o| o.is_outstanding()).map(|o| o.match_id)
            {
                self.withdraw(offer, RejectReason::Cancelled);
            }
        }
    }

    /// Whoever was left out for a moment may be offered again.
    fn end_left_out(&mut self) {
        let now = self.now;
        let over: Vec<UserId> =
            self.engine.elsewhere().filter(|(_, until)| until.is_some_and(|at| at <= now)).map(|(id, _)| id).collect();
        for user in over {
            self.engine.remove_elsewhere(user);
            self.touched.insert(user);
        }
    }

    /// Lets go of the requests that belong to another zone. As long as an offer or a ride of this zone holds the passenger, it has the
    /// request.
    fn hand_over(&mut self, scope: MatchScope) {
        let zone = self.engine.rules().zone;
        if zone.partition.is_one() {
            return;
        }
        let engine = &*self.engine;
        let is_seen = |r: &&Request| scope == MatchScope::AllWaiting || self.unmatched.contains(&r.request_id);
        let others = engine.waiting().filter(is_seen);
        let others = others.filter_map(|r| Some((zone.other_zone_of(&r.pickup)?, r.request_id)));
        for (zone, id) in others.collect::<Vec<_>>() {
            self.unmatched.remove(&id);
            let request = self.engine.remove_request(id);
            self.output.handed_over.extend(request.map(|request| (zone, request)));
        }
    }

    fn expire_offers(&mut self) {
        while let Some(offer) = self.engine.due_offer(self.now).cloned() {
            if offer.is_accepted() {
                self.output.released.push(offer.match_id);
                self.put_offer(Offer { ended: Some((self.now, OfferOutcome::Released)), ..offer });
            } else {
                self.withdraw(offer.match_id, RejectReason::Expired);
                self.exclude(offer.request_id, offer.driver_id, ExclusionReason::Missed);
            }
        }
    }

    /// Ends requests that have waited too long, without an event: users notifies the passenger. A request with a live offer goes
    /// on until that offer has ended.
    fn end_old_requests(&mut self) {
        let (rules, now) = (self.engine.rules(), self.now);
        let is_held = |r: &Request| self.engine.held_by(r.passenger_id).is_some_and(|o| o.request_id == r.request_id);
        let old: Vec<RequestId> = self
            .engine
            .live_requests()
            .filter(|r| r.expires_at(rules) <= now)
            .filter(|r| !is_held(r))
            .map(|r| r.request_id)
            .collect();
        for id in old {
            self.end_request(id, None);
        }
    }

    fn housekeeping(&mut self) {
        self.engine.prune(self.now);
        let drivers = self.engine.drivers();
        self.positions.prune(self.now, |id| drivers.get(&id).is_some_and(|driver| driver.active));
        let accepted_until = self.now - OVERDUE_AFTER;
        let overdue = self.engine.live_offers().filter(|o| o.accepted_at.is_some_and(|at| at <= accepted_until));
        self.output.overdue = overdue.map(|o| o.match_id).collect();
    }

    /// Brings `positions` in line with the rows, and collects whom that concerns.
    fn update_availability(&mut self) {
        for user in std::mem::take(&mut self.touched) {
            if self.positions.set_available(user, self.engine.availability(user)) {
                self.returned.insert(user);
            }
            if !self.engine.is_engaged(user)
                && let Some(request) = self.engine.live_request(user)
            {
                self.unmatched.insert(request.request_id);
            }
        }
    }

    fn make_matches(
        &mut self,
        scope: MatchScope,
        new_match_id: &mut dyn FnMut(&Assignment) -> MatchId,
        observe: &mut dyn FnMut(&Decision<'_>),
    ) {
        let returned: Vec<(VehicleType, Position)> = std::mem::take(&mut self.returned)
            .into_iter()
            .filter_map(|id| Some((self.engine.availability(id)?, self.positions.newest(id)?)))
            .collect();
        let held = self.engine.road_times_mut().take_held();
        self.unmatched.extend(held);
        if scope == MatchScope::Affected && returned.is_empty() && self.unmatched.is_empty() {
            return;
        }
        let unmatched = std::mem::take(&mut self.unmatched);
        let is_affected = |r: &WaitingRequest| {
            let in_reach = |&(vehicle, at): &(VehicleType, Position)| {
                vehicle == r.vehicle_type && at.distance_m(&r.pickup) <= r.radius_m
            };
            scope == MatchScope::AllWaiting || unmatched.contains(&r.request_id) || returned.iter().any(in_reach)
        };
        if self.engine.rules().roads {
            self.request_roads(is_affected);
        }
        let marketplace = Marketplace { engine: self.engine, positions: self.positions, now: self.now };
        let assignments = marketplace.assign(self.engine.rules().policy, is_affected);
        observe(&Decision { marketplace: &marketplace, is_affected: &is_affected, assignments: &assignments });
        for assignment in assignments {
            self.offer(&assignment, new_match_id(&assignment));
        }
        self.update_availability();
    }

    /// Asks for the road times that the affected requests need, and holds back those that may have them soon. The ways to the pickups come
    /// first: they decide who is offered what.
    fn request_roads(&mut self, is_affected: impl Fn(&WaitingRequest) -> bool) {
        let marketplace = Marketplace { engine: self.engine, positions: self.positions, now: self.now };
        let affected = marketplace.waiting().filter(is_affected).take(REQUESTS_BY_ROAD_MAX);
        let ways: Vec<_> = affected.map(|r| (r.request_id, marketplace.ways(&r))).collect();
        let (now, road_times) = (self.now, self.engine.road_times_mut());
        let mut want = |ways: &[Way]| ways.iter().fold(false, |pending, way| road_times.want(*way, now) | pending);
        let pickups: Vec<bool> = ways.iter().map(|(_, ways)| want(&ways.to_pickup)).collect();
        let trips: Vec<bool> = ways.iter().map(|(_, ways)| want(ways.trip.as_slice())).collect();
        for ((request, _), pending) in ways.iter().zip(pickups.into_iter().zip(trips)) {
            road_times.hold(*request, pending.0 || pending.1, now);
        }
    }

    fn offer(&mut self, assignment: &Assignment, match_id: MatchId) {
        let Some(request) = self.engine.requests().get(&assignment.request_id) else { return };
        let (driver, passenger_id) = (assignment.driver, request.passenger_id);
        if self.engine.is_engaged(driver.id) || self.engine.is_engaged(passenger_id) {
            return;
        }
        let rules = self.engine.rules();
        let Some(market) = rules.market(request) else { return };
        let road_times = self.engine.road_times();
        let way = |from: Position, to: Position| match road_times.get(&Way { from, to }, self.now) {
            WayTime::Road(Leg { distance_m, duration_s }) => (distance_m, duration_s, false),
            WayTime::Unreachable | WayTime::Estimate => {
                let (distance_m, duration_s) = market.estimate(&from, &to, self.now);
                (distance_m, duration_s, true)
            }
        };
        let (pickup_distance_m, pickup_eta_s, pickup_estimated) = way(driver.position, request.pickup);
        let (distance_m, duration_s, trip_estimated) = way(request.pickup, request.dropoff);
        let found = MatchFound {
            match_id,
            request_id: request.request_id,
            driver_id: driver.id,
            passenger_id,
            driver_location: driver.position,
            pickup: request.pickup,
            dropoff: request.dropoff,
            vehicle_type: request.vehicle_type,
            pickup_distance_m,
            pickup_eta_s,
            fare_estimate: market.price(request.vehicle_type, distance_m, duration_s).fare.total,
            market_id: Some(market.market_id.clone()),
            terms: Some(Box::new(rules.markets.terms(market, request.vehicle_type, self.now))),
            estimated: Some(pickup_estimated || trip_estimated),
            found_at: self.now,
            expires_at: self.now + rules.offer_ttl(market),
        };
        self.put_offer(Offer {
            match_id,
            request_id: found.request_id,
            driver_id: driver.id,
            passenger_id,
            found_at: found.found_at,
            expires_at: found.expires_at,
            accepted_at: None,
            ended: None,
        });
        self.output.events.push(Event::MatchFound(found));
    }
}
