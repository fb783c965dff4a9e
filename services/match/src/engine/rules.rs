//! What the engine does with each event and with time: the rules of matching. Pure: `now` comes in, ids come from the
//! caller, events and changed rows go out. Nothing here knows a database, a stream or a clock.

use std::collections::BTreeSet;

use chrono::{DateTime, Duration, SubsecRound, Utc};
use pricing;
use streams::event::{MatchAccepted, MatchFound, MatchRejected, RejectReason, RideEvent, UserBeacon, UserFinder};
use streams::{Event, MatchId, RequestId, RideStatus, UserId};

use crate::engine::assign::{Pair, Waiting};
use crate::engine::{Changed, Driver, Engine, Offer, Outcome, Request, Ride, Rows};
use crate::positions::Positions;

/// An accepted offer of which rides said nothing for so long is told to operators.
const OVERDUE: Duration = Duration::seconds(60);
/// Positions of people who are not available are forgotten after so long a silence.
const POSITION_FORGOTTEN: Duration = Duration::minutes(5);

/// What reaches the engine.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// With the time at which the stream had it.
    Beacon(&'a UserBeacon, DateTime<Utc>),
    /// A search began, changed or ended.
    Finder(&'a UserFinder),
    /// A driver's yes.
    Accepted(&'a MatchAccepted),
    /// A driver's no, or rides' superseded; the engine's own are passed over.
    Rejected(&'a MatchRejected),
    /// ride.pickup, ride.completed, ride.cancelled; others are passed over.
    Ride(&'a RideEvent),
    /// A second has passed: drivers may have moved, requests may be over.
    Tick,
    /// A minute has passed: forget what is long over.
    Housekeeping,
}

/// What came of a step.
#[derive(Debug, Default)]
pub struct Stepped {
    /// match.found and match.rejected, in order.
    pub events: Vec<Event>,
    /// Rows to be written.
    pub rows: Rows,
    /// Accepted offers of which rides has said nothing for a minute or more; told at housekeeping.
    pub overdue: Vec<MatchId>,
    /// Accepted offers given up because rides never said anything.
    pub released: Vec<MatchId>,
}

impl Engine {
    /// Takes `inputs` in order, then does what is due at `now`, then matches. `new_id` makes ids of matches.
    pub fn step(
        &mut self,
        inputs: &[Input<'_>],
        positions: &mut Positions,
        now: DateTime<Utc>,
        new_id: &mut dyn FnMut() -> MatchId,
    ) -> Stepped {
        let mut step = Step {
            engine: self,
            positions,
            now,
            changed: Changed::default(),
            touched: BTreeSet::new(),
            retry: BTreeSet::new(),
            back: BTreeSet::new(),
            out: Stepped::default(),
        };
        let mut ticked = false;
        for input in inputs {
            match *input {
                Input::Beacon(e, stored_at) => step.beacon(e, stored_at),
                Input::Finder(e) => step.finder(e),
                Input::Accepted(e) => step.accepted(e),
                Input::Rejected(e) => step.rejected(e),
                Input::Ride(e) => step.ride(e),
                Input::Tick => ticked = true,
                Input::Housekeeping => step.housekeeping(),
            }
        }
        step.expire_offers();
        if ticked {
            step.end_old_requests();
        }
        step.settle_touched();
        step.make_matches(ticked, new_id);
        let Step { changed, mut out, .. } = step;
        out.rows = self.rows_of(&changed);
        out
    }

    /// Fills `positions` from the drivers' rows, and says who is available.
    pub fn show_in(&self, positions: &mut Positions) {
        positions.withdraw_all();
        for driver in self.drivers.values() {
            positions.heard(driver.user_id, driver.location, driver.recorded_at, driver.seen_at);
            positions.set_available(driver.user_id, self.availability(driver.user_id));
        }
    }
}

struct Step<'a> {
    engine: &'a mut Engine,
    positions: &'a mut Positions,
    now: DateTime<Utc>,
    changed: Changed,
    /// People whose availability may have changed.
    touched: BTreeSet<UserId>,
    /// Requests to look for a driver for.
    retry: BTreeSet<RequestId>,
    /// Drivers who have become available, or were heard of again.
    back: BTreeSet<UserId>,
    out: Stepped,
}

/// The precision of the database.
fn micros(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(6)
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
        if self.engine.drivers.get(&e.user_id).is_some_and(|d| d.recorded_at > recorded_at) {
            return;
        }
        let seen_at = micros(stored_at).min(self.now);
        let driver = Driver {
            user_id: e.user_id,
            active: e.active,
            vehicle_type: e.vehicle_type,
            location: e.location,
            recorded_at,
            seen_at,
        };
        if self.positions.heard(e.user_id, e.location, recorded_at, seen_at) {
            self.back.insert(e.user_id);
        }
        self.changed.drivers.insert(e.user_id);
        self.touched.insert(e.user_id);
        self.engine.put_driver(driver);
    }

    fn finder(&mut self, e: &UserFinder) {
        let changed_at = micros(e.recorded_at);
        let known = self.engine.requests.get(&e.request_id).cloned();
        let request = match known {
            // Ended is ended; and a request stays its passenger's.
            Some(r) if r.ended_at.is_some() || r.passenger_id != e.user_id || changed_at < r.changed_at => return,
            Some(r) => r,
            None => {
                let too_old = changed_at + self.engine.rules.request_ttl <= self.now;
                let of_passenger = self.engine.requests_of.get(&e.user_id).into_iter().flatten();
                let newer =
                    of_passenger.filter_map(|id| self.engine.requests.get(id)).any(|r| r.opened_at > changed_at);
                if e.active && (too_old || newer) {
                    return;
                }
                Request {
                    request_id: e.request_id,
                    passenger_id: e.user_id,
                    pickup: e.pickup,
                    dropoff: e.dropoff,
                    vehicle_type: e.vehicle_type,
                    opened_at: changed_at,
                    changed_at,
                    // Of one that is not known the end is kept, for its beginning may come late.
                    ended_at: (!e.active).then_some(self.now),
                    excluded: BTreeSet::new(),
                }
            }
        };
        let is_new = !self.engine.requests.contains_key(&e.request_id);
        if !e.active {
            if is_new {
                self.put_request(request);
            } else {
                self.end_request(e.request_id, Some(changed_at));
            }
            return;
        }
        let mut changed = request.clone();
        (changed.pickup, changed.dropoff, changed.vehicle_type) = (e.pickup, e.dropoff, e.vehicle_type);
        changed.changed_at = changed_at;
        if is_new {
            // One open request a passenger: the newer one replaces the older.
            if let Some(older) = self.engine.live_request(e.user_id).map(|r| r.request_id) {
                self.end_request(older, None);
            }
        } else if changed != (Request { changed_at, ..request }) {
            self.withdraw_outstanding_of(e.request_id, RejectReason::Cancelled);
        }
        self.put_request(changed);
    }

    fn accepted(&mut self, e: &MatchAccepted) {
        if self.engine.is_ridden(e.match_id) {
            return;
        }
        let found = self.engine.offers.get(&e.match_id).cloned();
        let offer = match found {
            Some(offer) => offer,
            None => Offer {
                match_id: e.match_id,
                request_id: e.request_id,
                driver_id: e.driver_id,
                passenger_id: e.passenger_id,
                found_at: micros(e.accepted_at),
                expires_at: micros(e.accepted_at),
                accepted_at: None,
                ended: Some((self.now, Outcome::Expired)),
            },
        };
        match offer.ended {
            None if offer.accepted_at.is_some() => {}
            None => self.put_offer(Offer { accepted_at: Some(self.now), ..offer }),
            // Users took it although it is over here; rides will make a ride of it, so hold both, unless either is taken
            // for good: then rides refuses it.
            Some((_, Outcome::Expired | Outcome::Cancelled)) => {
                let people = [offer.driver_id, offer.passenger_id];
                let taken =
                    |u: UserId| self.engine.is_locked(u) || self.engine.held_by(u).is_some_and(Offer::is_accepted);
                if people.into_iter().any(taken) {
                    return;
                }
                for person in people {
                    if let Some(other) = self.engine.held.get(&person).copied() {
                        self.withdraw(other, RejectReason::Cancelled);
                    }
                }
                self.put_offer(Offer { accepted_at: Some(self.now), ended: None, ..offer });
            }
            Some((_, Outcome::Declined | Outcome::Superseded | Outcome::Ridden | Outcome::Released)) => {}
        }
    }

    fn rejected(&mut self, e: &MatchRejected) {
        let outcome = match e.reason {
            RejectReason::Declined => Outcome::Declined,
            RejectReason::Superseded => Outcome::Superseded,
            // Only the engine itself says so, and it has done it.
            RejectReason::Expired | RejectReason::Cancelled => return,
        };
        let offer = match self.engine.offers.get(&e.match_id).cloned() {
            // Remembered, for its acceptance may come later.
            None => Offer {
                match_id: e.match_id,
                request_id: e.request_id,
                driver_id: e.driver_id,
                passenger_id: e.passenger_id,
                found_at: micros(e.rejected_at),
                expires_at: micros(e.rejected_at),
                accepted_at: None,
                ended: Some((self.now, outcome)),
            },
            Some(offer) if outcome == Outcome::Declined && offer.is_accepted() => return,
            Some(offer) => match offer.ended {
                None => Offer { ended: Some((self.now, outcome)), ..offer },
                // A no is final, also to an offer that had expired.
                Some((at, Outcome::Expired | Outcome::Cancelled)) => Offer { ended: Some((at, outcome)), ..offer },
                Some(_) => {
                    self.exclude(offer.request_id, offer.driver_id);
                    return;
                }
            },
        };
        let (request, driver, passenger) = (offer.request_id, offer.driver_id, offer.passenger_id);
        self.put_offer(offer);
        self.exclude(request, driver);
        if outcome == Outcome::Superseded && self.engine.is_locked(passenger) {
            self.end_request(request, None);
        }
    }

    fn ride(&mut self, e: &RideEvent) {
        let known = self.engine.rides.get(&e.ride_id).cloned();
        let ride = Ride {
            ride_id: e.ride_id,
            match_id: e.match_id,
            driver_id: e.driver_id,
            passenger_id: e.passenger_id,
            began_at: known.as_ref().map_or(micros(e.occurred_at), |r| r.began_at),
            ended_at: e.status.is_final().then_some(self.now),
        };
        match e.status {
            RideStatus::Pickup if known.is_none() => {}
            RideStatus::Completed | RideStatus::Cancelled if known.as_ref().is_none_or(|r| r.ended_at.is_none()) => {}
            _ => return,
        }
        // The hold becomes the lock.
        if let Some(offer) = self.engine.offers.get(&e.match_id).cloned() {
            let request = offer.request_id;
            self.put_offer(Offer { ended: Some((self.now, Outcome::Ridden)), ..offer });
            self.end_request(request, None);
        }
        if e.status == RideStatus::Pickup {
            self.clear_for_ride(e);
        }
        self.put_ride(ride);
    }

    /// Whatever else holds the two of a ride that has begun gives way, and so does the passenger's search.
    fn clear_for_ride(&mut self, e: &RideEvent) {
        for person in [e.driver_id, e.passenger_id] {
            let Some(other) = self.engine.held_by(person).cloned() else { continue };
            if other.is_outstanding() {
                // Not superseded, which is rides' word that there will be no ride of it: a yes may be on its way, and if
                // this ride ends before it arrives, it becomes one.
                self.withdraw(other.match_id, RejectReason::Cancelled);
            } else {
                // Rides itself tells of it.
                self.put_offer(Offer { ended: Some((self.now, Outcome::Superseded)), ..other });
                self.exclude(other.request_id, other.driver_id);
            }
        }
        if let Some(request) = self.engine.live_request(e.passenger_id)
            && request.opened_at <= micros(e.occurred_at)
        {
            self.end_request(request.request_id, None);
        }
    }

    /// Ends a request, if it is live, and withdraws its outstanding offer; an accepted one stays, for rides will answer.
    fn end_request(&mut self, id: RequestId, changed_at: Option<DateTime<Utc>>) {
        let Some(request) = self.engine.requests.get(&id).filter(|r| r.ended_at.is_none()).cloned() else { return };
        self.withdraw_outstanding_of(id, RejectReason::Cancelled);
        let changed_at = changed_at.unwrap_or(request.changed_at);
        self.put_request(Request { ended_at: Some(self.now), changed_at, excluded: BTreeSet::new(), ..request });
    }

    fn withdraw_outstanding_of(&mut self, id: RequestId, reason: RejectReason) {
        let Some(passenger) = self.engine.requests.get(&id).map(|r| r.passenger_id) else { return };
        let offer = self.engine.held_by(passenger).filter(|o| o.request_id == id && o.is_outstanding());
        if let Some(offer) = offer.map(|o| o.match_id) {
            self.withdraw(offer, reason);
        }
    }

    /// Ends a live offer and tells both.
    fn withdraw(&mut self, id: MatchId, reason: RejectReason) {
        let Some(offer) = self.engine.offers.get(&id).filter(|o| o.ended.is_none()).cloned() else { return };
        let outcome = match reason {
            RejectReason::Declined => Outcome::Declined,
            RejectReason::Expired => Outcome::Expired,
            RejectReason::Cancelled => Outcome::Cancelled,
            RejectReason::Superseded => Outcome::Superseded,
        };
        self.out.events.push(Event::MatchRejected(offer.rejected(reason, self.now)));
        self.put_offer(Offer { ended: Some((self.now, outcome)), ..offer });
    }

    /// This driver is not offered to this request again.
    fn exclude(&mut self, id: RequestId, driver: UserId) {
        let Some(mut request) = self.engine.requests.get(&id).filter(|r| r.ended_at.is_none()).cloned() else { return };
        if request.excluded.insert(driver) {
            self.put_request(request);
        }
    }

    fn expire_offers(&mut self) {
        while let Some(&(deadline, id)) = self.engine.deadlines.first()
            && deadline <= self.now
        {
            let Some(offer) = self.engine.offers.get(&id).cloned() else { return };
            if offer.is_accepted() {
                self.out.released.push(id);
                self.put_offer(Offer { ended: Some((self.now, Outcome::Released)), ..offer });
            } else {
                self.withdraw(id, RejectReason::Expired);
                self.exclude(offer.request_id, offer.driver_id);
            }
        }
    }

    /// Users tells the passenger; here the request only ends. One with a live offer may see that through.
    fn end_old_requests(&mut self) {
        let before = self.now - self.engine.rules.request_ttl;
        let old: Vec<RequestId> =
            self.engine.queue.iter().take_while(|(opened_at, _)| *opened_at <= before).map(|(_, id)| *id).collect();
        for id in old {
            let passenger = self.engine.requests.get(&id).map(|r| r.passenger_id);
            let offer = passenger.and_then(|p| self.engine.held_by(p));
            if offer.is_none_or(|o| o.request_id != id) {
                self.end_request(id, None);
            }
        }
    }

    fn housekeeping(&mut self) {
        self.engine.forget(self.now);
        self.positions.forget(self.now - POSITION_FORGOTTEN);
        let overdue = self.now - OVERDUE;
        let accepted = self.engine.deadlines.iter().filter_map(|(_, id)| self.engine.offers.get(id));
        self.out.overdue =
            accepted.filter(|o| o.accepted_at.is_some_and(|at| at <= overdue)).map(|o| o.match_id).collect();
    }

    /// Brings the grid to what the rows say, and notes whom that concerns.
    fn settle_touched(&mut self) {
        for user in std::mem::take(&mut self.touched) {
            if self.positions.set_available(user, self.engine.availability(user)) {
                self.back.insert(user);
            }
            if !self.engine.is_engaged(user)
                && let Some(request) = self.engine.live_request(user)
            {
                self.retry.insert(request.request_id);
            }
        }
    }

    /// Looks for drivers for every waiting request if `ticked`, else for those that are new or free again and those in
    /// reach of a driver who is.
    fn make_matches(&mut self, ticked: bool, new_id: &mut dyn FnMut() -> MatchId) {
        let radius_m = self.engine.rules.radius_m;
        let back: Vec<_> = std::mem::take(&mut self.back)
            .into_iter()
            .filter_map(|id| Some((self.engine.availability(id)?, self.positions.newest(id)?)))
            .collect();
        if !ticked && back.is_empty() && self.retry.is_empty() {
            return;
        }
        let due = |r: &&Request| {
            let reached = |&(vehicle, at): &(_, streams::Position)| {
                vehicle == r.vehicle_type && at.distance_m(&r.pickup) <= radius_m
            };
            ticked || self.retry.contains(&r.request_id) || back.iter().any(reached)
        };
        let waiting: Vec<Waiting> = self
            .engine
            .waiting()
            .filter(due)
            .map(|r| Waiting {
                request_id: r.request_id,
                passenger_id: r.passenger_id,
                pickup: r.pickup,
                vehicle_type: r.vehicle_type,
                opened_at: r.opened_at,
            })
            .collect();
        let (engine, positions, now) = (&*self.engine, &*self.positions, self.now);
        let pairs = engine.rules.policy.assign(&waiting, &mut |w, k, taken| {
            let excluded = engine.requests.get(&w.request_id).map(|r| &r.excluded);
            positions.nearest(w.vehicle_type, &w.pickup, k, radius_m, now, |driver| {
                driver != w.passenger_id && !taken.contains(&driver) && excluded.is_none_or(|e| !e.contains(&driver))
            })
        });
        for pair in pairs {
            self.offer(&pair, new_id());
        }
        self.settle_touched();
    }

    fn offer(&mut self, pair: &Pair, match_id: MatchId) {
        let Some(request) = self.engine.requests.get(&pair.request_id) else { return };
        let (driver_id, passenger_id) = (pair.driver.id, request.passenger_id);
        if self.engine.is_engaged(driver_id) || self.engine.is_engaged(passenger_id) {
            return;
        }
        let rules = &self.engine.rules;
        let (pickup_distance_m, pickup_eta_s) = pricing::estimate(&pair.driver.position, &request.pickup);
        let (distance_m, duration_s) = pricing::estimate(&request.pickup, &request.dropoff);
        let found = MatchFound {
            match_id,
            request_id: request.request_id,
            driver_id,
            passenger_id,
            driver_location: pair.driver.position,
            pickup: request.pickup,
            dropoff: request.dropoff,
            vehicle_type: request.vehicle_type,
            pickup_distance_m,
            pickup_eta_s,
            fare_estimate: pricing::price(rules.tariffs.of(request.vehicle_type), distance_m, duration_s).fare.total,
            found_at: self.now,
            expires_at: self.now + rules.offer_ttl,
        };
        self.put_offer(Offer {
            match_id,
            request_id: found.request_id,
            driver_id,
            passenger_id,
            found_at: found.found_at,
            expires_at: found.expires_at,
            accepted_at: None,
            ended: None,
        });
        self.out.events.push(Event::MatchFound(found));
    }
}
