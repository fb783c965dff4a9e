//! The state of the match engine: drivers, requests, offers and rides, which are rows, and the indexes over them, which are
//! derived. Pure; `rules.rs` says how the state changes, `rows.rs` where the rows are stored.
//!
//! Every change goes through one of the four `put_` functions, so the indexes always agree with the rows. All fields of
//! [`Engine`] are private to this file for that reason.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Duration, SubsecRound, Utc};
use pricing::ESTIMATED_MPS;
use pricing::market::{Market, Markets};
use streams::event::{MatchRejected, RejectReason, UserBeacon};
use streams::{MatchId, Position, RequestId, RideId, Service, UserId, VehicleType};

use super::assign::Policy;
use super::road_times::RoadTimes;
use crate::positions::DriverPositions;
use crate::zones::Zone;

/// An offer ends this long after its `expires_at`. users refuses answers after `expires_at`; the grace lets an answer that was
/// in time reach the engine.
const EXPIRY_GRACE: Duration = Duration::seconds(2);
/// An accepted offer holds both for this long if rides neither makes a ride of it nor refuses it.
const ACCEPTED_LIMIT: Duration = Duration::minutes(5);
/// A passenger who has made so many offers void within [`MOVES_WITHIN`], by ending their searches or replacing them, gets the next
/// one only [`MOVES_PAUSE`] after the last. Each of them cost a driver's attention.
const MOVES_MAX: usize = 3;
const MOVES_WITHIN: Duration = Duration::minutes(5);
const MOVES_PAUSE: Duration = Duration::seconds(10);
/// A driver who missed an offer may get the same request again after this pause, and twice as long after each further one, up to
/// [`MISSED_PAUSE_MAX`]: nobody is asked again before the others, and the only driver around is not lost.
const MISSED_PAUSE: Duration = Duration::seconds(10);
const MISSED_PAUSE_MAX: Duration = Duration::seconds(60);
/// The same for a driver who declined.
const DECLINED_PAUSE: Duration = Duration::seconds(120);
/// A search that goes on after its driver's cancellation is offered after this pause: meanwhile its passenger learns of it, and may
/// end or change it before another driver is asked.
const CONTINUED_PAUSE: Duration = Duration::seconds(1);
/// How long ended requests are remembered beyond the time that a request may wait.
const REQUESTS_REMEMBERED: Duration = Duration::seconds(60);
/// How long ended offers and rides are remembered. Whether an older ride has ended is looked up in its row.
pub(crate) const ENDED_REMEMBERED: Duration = Duration::minutes(10);
/// How long an offline driver is remembered after their newest beacon.
pub(crate) const OFFLINE_REMEMBERED: Duration = Duration::hours(24);

/// Cuts to microseconds, the precision of PostgreSQL.
pub(crate) fn micros(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(6)
}

/// Requests that ended before this are forgotten.
pub(crate) fn requests_remembered_from(now: DateTime<Utc>, request_ttl: Duration) -> DateTime<Utc> {
    now - request_ttl - REQUESTS_REMEMBERED
}

/// What the engine is configured with.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// How long a driver has to answer an offer.
    pub offer_ttl: Duration,
    /// How long a request waits for a driver.
    pub request_ttl: Duration,
    /// The farthest driver to whom a request is offered, great circle: at first, and towards the end of its time.
    pub radius_m: f64,
    pub radius_max_m: f64,
    /// Where requests are, with the fares of estimates. A market may set the three values above for itself.
    pub markets: Arc<Markets>,
    pub policy: Policy,
    /// How long after its beginning a request may be held back for a better driver.
    pub window: Duration,
    /// Of drivers, on the great circle times 1.3, instead of that of the pickup's market.
    pub speed_mps: Option<f64>,
    /// Whether road times can be asked for.
    pub roads: bool,
    /// Whose requests the engine has.
    pub zone: Zone,
}

impl Rules {
    /// The market of a request. `None`: this process does not know it, and offers the request to nobody.
    pub(crate) fn market(&self, request: &Request) -> Option<&Market> {
        self.markets.of(request.market_id.as_deref(), &request.pickup)
    }

    pub(super) fn offer_ttl(&self, market: &Market) -> Duration {
        market.offer_ttl_s.map_or(self.offer_ttl, |s| Duration::seconds(s.into()))
    }

    pub(super) fn request_ttl(&self, market: Option<&Market>) -> Duration {
        let of_market = market.and_then(|market| market.request_ttl_s);
        of_market.map_or(self.request_ttl, |s| Duration::seconds(s.into()))
    }

    /// The longest that any request may wait.
    pub(crate) fn longest_request_ttl(&self) -> Duration {
        let of_markets = self.markets.iter_with_retired().filter_map(|m| m.request_ttl_s);
        let of_markets = of_markets.map(|s| Duration::seconds(s.into()));
        of_markets.fold(self.request_ttl, Duration::max)
    }

    /// Within which a driver is offered a request that has waited from the first moment to `now`, and ends by its time at the last one:
    /// it grows from a third of this time to two thirds.
    pub(super) fn radius_m(
        &self,
        market: Option<&Market>,
        [since, until]: [DateTime<Utc>; 2],
        now: DateTime<Utc>,
    ) -> f64 {
        let general = (self.radius_m, self.radius_max_m.max(self.radius_m));
        let (radius_m, max_m) = market.map_or(general, |market| market.radii_m(self.radius_m, self.radius_max_m));
        let share = (now - since).num_milliseconds() as f64 / (until - since).num_milliseconds().max(1) as f64;
        (radius_m + (max_m - radius_m) * (share * 3.0 - 1.0).clamp(0.0, 1.0)).min(max_m)
    }

    /// Of drivers on the way to a pickup of this market.
    pub(super) fn speed_mps(&self, market: Option<&Market>, now: DateTime<Utc>) -> f64 {
        let of_market = || market.map_or(ESTIMATED_MPS, |market| market.speed_mps(now));
        self.speed_mps.unwrap_or_else(of_market)
    }

    /// Whether a driver who is at `place` may be offered a request of `market`: a market is served by the drivers in it. Nobody is in one
    /// that is no more.
    pub(super) fn is_served_from(&self, place: &Position, market: Option<&Market>) -> bool {
        let Some(market) = market else { return false };
        self.markets.is_world() || self.markets.at(place).is_some_and(|at| std::ptr::eq(at, market))
    }
}

/// A driver, as their newest beacon says.
#[derive(Debug, Clone, PartialEq)]
pub struct Driver {
    pub user_id: UserId,
    pub active: bool,
    pub vehicle_type: VehicleType,
    pub location: Position,
    /// By the sender's clock.
    pub recorded_at: DateTime<Utc>,
    /// When the stream stored the beacon.
    pub seen_at: DateTime<Utc>,
    /// When users received the location; at most `seen_at`.
    pub located_at: DateTime<Utc>,
    /// The device that sent the newest active beacon, if its sender names it.
    pub device: Option<String>,
}

impl Driver {
    /// As a beacon says that the stream stored at `stored_at`. Times have the precision of PostgreSQL.
    pub(crate) fn of(e: &UserBeacon, stored_at: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        let seen_at = micros(stored_at).min(now);
        Self {
            user_id: e.user_id,
            active: e.active,
            vehicle_type: e.vehicle_type,
            location: e.location,
            recorded_at: micros(e.recorded_at),
            seen_at,
            located_at: micros(e.located_at.unwrap_or(e.recorded_at)).min(seen_at),
            device: e.device.clone(),
        }
    }

    pub(crate) fn beacon(&self) -> UserBeacon {
        UserBeacon {
            user_id: self.user_id,
            active: self.active,
            vehicle_type: self.vehicle_type,
            location: self.location,
            recorded_at: self.recorded_at,
            located_at: Some(self.located_at),
            device: self.device.clone(),
        }
    }
}

/// A passenger's search.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub request_id: RequestId,
    pub passenger_id: UserId,
    pub pickup: Position,
    pub dropoff: Position,
    pub vehicle_type: VehicleType,
    pub opened_at: DateTime<Utc>,
    /// The `recorded_at` of the newest user.finder.
    pub changed_at: DateTime<Utc>,
    /// `None` while it is live.
    pub ended_at: Option<DateTime<Utc>>,
    /// When it ends by its time; `None`: users did not say.
    pub expires_at: Option<DateTime<Utc>>,
    /// In which it began; `None`: the world is one, or users did not say.
    pub market_id: Option<String>,
    /// Drivers who are not offered it for some time, or never again.
    pub excluded: BTreeMap<UserId, Exclusion>,
}

impl Request {
    /// Whether it goes on after a ride that its driver cancelled.
    fn has_continued(&self) -> bool {
        self.changed_at > self.opened_at && self.excluded.values().any(|exclusion| exclusion.until.is_none())
    }

    /// Since when it waits for a driver: one that goes on has its whole time again.
    pub(crate) fn waits_since(&self) -> DateTime<Utc> {
        if self.has_continued() { self.changed_at } else { self.opened_at }
    }

    /// When it ends by its time.
    pub(super) fn expires_at(&self, rules: &Rules) -> DateTime<Utc> {
        self.expires_at.unwrap_or_else(|| self.waits_since() + rules.request_ttl(rules.market(self)))
    }

    /// Whether it has just gone on.
    fn has_just_continued(&self, now: DateTime<Utc>) -> bool {
        self.changed_at + CONTINUED_PAUSE > now && self.has_continued()
    }
}

/// Since when, and for how long, a driver is not offered a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exclusion {
    /// `None`: never again.
    pub until: Option<DateTime<Utc>>,
    /// Offers of the request that the driver missed.
    pub misses: u32,
}

impl Exclusion {
    /// Whether the driver may be offered the request at `now`, after those who are not excluded.
    pub fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// Why a driver is not offered a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExclusionReason {
    Declined,
    /// The offer expired, or its acceptance lost to another one.
    Missed,
    /// The driver cancelled the ride of it.
    Cancelled,
}

impl ExclusionReason {
    /// A later reason never shortens an exclusion.
    pub(super) fn exclusion(self, before: Option<&Exclusion>, now: DateTime<Utc>) -> Exclusion {
        let misses = before.map_or(0, |e| e.misses);
        let (pause, misses) = match self {
            Self::Cancelled => (None, misses),
            Self::Declined => (Some(DECLINED_PAUSE), misses),
            Self::Missed => {
                (Some((MISSED_PAUSE * (1 << misses.min(4))).min(MISSED_PAUSE_MAX)), misses.saturating_add(1))
            }
        };
        let until = pause.map(|pause| now + pause);
        let until = match before.map(|e| e.until) {
            Some(before) => until.zip(before).map(|(until, before)| until.max(before)),
            None => until,
        };
        Exclusion { until, misses }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferOutcome {
    /// By the driver.
    Declined,
    /// The driver did not answer in time.
    Expired,
    /// The search ended (users says so) or changed, or another offer's acceptance came first.
    Cancelled,
    /// Driver or passenger is in another ride.
    Superseded,
    /// It became a ride.
    Ridden,
    /// Accepted, but rides neither made a ride of it nor refused it.
    Released,
}

impl OfferOutcome {
    pub const ALL: [Self; 6] =
        [Self::Declined, Self::Expired, Self::Cancelled, Self::Superseded, Self::Ridden, Self::Released];

    /// The name in `offers.outcome`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Declined => "declined",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
            Self::Ridden => "ridden",
            Self::Released => "released",
        }
    }
}

/// One driver proposed to one passenger. While it is live, it holds both.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    pub match_id: MatchId,
    pub request_id: RequestId,
    pub driver_id: UserId,
    pub passenger_id: UserId,
    pub found_at: DateTime<Utc>,
    /// The last moment for the driver's answer.
    pub expires_at: DateTime<Utc>,
    /// When the engine handled the driver's acceptance.
    pub accepted_at: Option<DateTime<Utc>>,
    /// `None` while it is live.
    pub ended: Option<(DateTime<Utc>, OfferOutcome)>,
}

impl Offer {
    /// Live, and the driver has not answered.
    pub fn is_outstanding(&self) -> bool {
        self.ended.is_none() && self.accepted_at.is_none()
    }

    /// Live and accepted: rides has not yet made a ride of it or refused it.
    pub fn is_accepted(&self) -> bool {
        self.ended.is_none() && self.accepted_at.is_some()
    }

    /// When the engine ends it without an event.
    pub fn deadline(&self) -> DateTime<Utc> {
        match self.accepted_at {
            Some(at) => at + ACCEPTED_LIMIT,
            None => self.expires_at + EXPIRY_GRACE,
        }
    }

    pub(super) fn rejected(&self, reason: RejectReason, now: DateTime<Utc>) -> MatchRejected {
        let rejected_at = MatchRejected::time(Service::Match, now);
        let Self { match_id, request_id, driver_id, passenger_id, .. } = *self;
        MatchRejected { match_id, request_id, driver_id, passenger_id, reason, rejected_at }
    }
}

/// A ride. While it is live, it locks driver and passenger.
#[derive(Debug, Clone, PartialEq)]
pub struct Ride {
    pub ride_id: RideId,
    pub match_id: MatchId,
    pub driver_id: UserId,
    pub passenger_id: UserId,
    /// The `occurred_at` of the first event that the engine received of it.
    pub began_at: DateTime<Utc>,
    /// When the engine handled its end; `None` while it is live.
    pub ended_at: Option<DateTime<Utc>>,
    /// Its driver cancelled it: the two are not brought together again for `ENDED_REMEMBERED`.
    pub driver_cancelled: bool,
    /// Where and when it is expected to end, while it is live.
    pub expected_end: Option<(DateTime<Utc>, Position)>,
}

/// Rows of the engine, each list by id: all of them, or those that a step changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EngineRows {
    pub drivers: Vec<Driver>,
    pub requests: Vec<Request>,
    pub offers: Vec<Offer>,
    pub rides: Vec<Ride>,
}

/// Ids of the rows that a step changed.
#[derive(Debug, Default)]
pub(super) struct ChangedIds {
    pub(super) drivers: BTreeSet<UserId>,
    pub(super) requests: BTreeSet<RequestId>,
    pub(super) offers: BTreeSet<MatchId>,
    pub(super) rides: BTreeSet<RideId>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Engine {
    rules: Rules,
    drivers: BTreeMap<UserId, Driver>,
    requests: BTreeMap<RequestId, Request>,
    offers: BTreeMap<MatchId, Offer>,
    rides: BTreeMap<RideId, Ride>,
    /// Live requests, the longest waiting first.
    queue: BTreeSet<(DateTime<Utc>, RequestId)>,
    /// Requests by passenger, ended ones too.
    requests_of: BTreeMap<UserId, BTreeSet<RequestId>>,
    /// The live offer of a driver or passenger.
    held: BTreeMap<UserId, MatchId>,
    /// The live rides of a driver or passenger. More than one only while the event of the first one's end is late.
    locked: BTreeMap<UserId, BTreeSet<RideId>>,
    rides_of_match: BTreeSet<(MatchId, RideId)>,
    /// Live rides by the time of their expected end.
    finishing: BTreeSet<(DateTime<Utc>, RideId)>,
    /// Passenger and driver of the remembered rides that their drivers cancelled.
    driver_cancelled: BTreeSet<(UserId, UserId, RideId)>,
    /// Live offers by deadline.
    deadlines: BTreeSet<(DateTime<Utc>, MatchId)>,
    /// Cancelled offers by passenger and the time of their end.
    cancelled: BTreeMap<UserId, BTreeSet<(DateTime<Utc>, MatchId)>>,
    /// No offer ends by time alone before this.
    no_expiry_before: DateTime<Utc>,
    road_times: RoadTimes,
    /// Users whom another zone holds or has in a ride, as far as it is known; those with a time until then only.
    elsewhere: BTreeMap<UserId, Option<DateTime<Utc>>>,
}

impl Engine {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            drivers: BTreeMap::new(),
            requests: BTreeMap::new(),
            offers: BTreeMap::new(),
            rides: BTreeMap::new(),
            queue: BTreeSet::new(),
            requests_of: BTreeMap::new(),
            held: BTreeMap::new(),
            locked: BTreeMap::new(),
            rides_of_match: BTreeSet::new(),
            finishing: BTreeSet::new(),
            driver_cancelled: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            cancelled: BTreeMap::new(),
            no_expiry_before: DateTime::<Utc>::MIN_UTC,
            road_times: RoadTimes::default(),
            elsewhere: BTreeMap::new(),
        }
    }

    /// Whom other zones have, and until when.
    pub fn elsewhere(&self) -> impl Iterator<Item = (UserId, Option<DateTime<Utc>>)> {
        self.elsewhere.iter().map(|(id, until)| (*id, *until))
    }

    pub(crate) fn set_elsewhere(&mut self, elsewhere: impl IntoIterator<Item = (UserId, Option<DateTime<Utc>>)>) {
        self.elsewhere = elsewhere.into_iter().collect();
    }

    pub(super) fn put_elsewhere(&mut self, user: UserId, until: Option<DateTime<Utc>>) {
        self.elsewhere.insert(user, until);
    }

    pub(super) fn remove_elsewhere(&mut self, user: UserId) {
        self.elsewhere.remove(&user);
    }

    pub(super) fn is_elsewhere(&self, user: UserId) -> bool {
        self.elsewhere.contains_key(&user)
    }

    /// After a take-over, answers to offers whose deadline passed meanwhile may be waiting in the stream: they are handled first.
    pub fn expire_not_before(&mut self, at: DateTime<Utc>) {
        self.no_expiry_before = at;
    }

    /// The moment of [`Self::expire_not_before`].
    pub fn no_expiry_before(&self) -> DateTime<Utc> {
        self.no_expiry_before
    }

    /// All rows; [`Self::from_rows`] makes the same engine of them.
    pub fn rows(&self) -> EngineRows {
        EngineRows {
            drivers: self.drivers.values().cloned().collect(),
            requests: self.requests.values().cloned().collect(),
            offers: self.offers.values().cloned().collect(),
            rides: self.rides.values().cloned().collect(),
        }
    }

    pub fn from_rows(rules: Rules, rows: EngineRows) -> Self {
        let mut engine = Self::new(rules);
        rows.drivers.into_iter().for_each(|d| engine.put_driver(d));
        rows.requests.into_iter().for_each(|r| engine.put_request(r));
        rows.offers.into_iter().for_each(|o| engine.put_offer(o));
        rows.rides.into_iter().for_each(|r| engine.put_ride(r));
        engine
    }

    /// Takes over changed rules; offers that are open keep theirs.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(crate) fn set_road_times(&mut self, road_times: RoadTimes) {
        self.road_times = road_times;
    }

    pub fn road_times(&self) -> &RoadTimes {
        &self.road_times
    }

    pub(super) fn road_times_mut(&mut self) -> &mut RoadTimes {
        &mut self.road_times
    }

    pub fn drivers(&self) -> &BTreeMap<UserId, Driver> {
        &self.drivers
    }

    pub fn requests(&self) -> &BTreeMap<RequestId, Request> {
        &self.requests
    }

    pub fn offers(&self) -> &BTreeMap<MatchId, Offer> {
        &self.offers
    }

    pub fn rides(&self) -> &BTreeMap<RideId, Ride> {
        &self.rides
    }

    pub(super) fn rows_of(&self, changed: &ChangedIds) -> EngineRows {
        fn pick<K: Ord, V: Clone>(from: &BTreeMap<K, V>, ids: &BTreeSet<K>) -> Vec<V> {
            ids.iter().filter_map(|id| from.get(id).cloned()).collect()
        }
        EngineRows {
            drivers: pick(&self.drivers, &changed.drivers),
            requests: pick(&self.requests, &changed.requests),
            offers: pick(&self.offers, &changed.offers),
            rides: pick(&self.rides, &changed.rides),
        }
    }

    /// Whether an offer holds or a ride locks a user, as driver or as passenger.
    pub fn is_engaged(&self, user: UserId) -> bool {
        if streams::simulation::sabotage().no_hold {
            return self.locked.contains_key(&user);
        }
        self.held.contains_key(&user) || self.locked.contains_key(&user) || self.elsewhere.contains_key(&user)
    }

    /// Whether a match became a ride.
    pub fn is_ridden(&self, id: MatchId) -> bool {
        let of_match = (id, RideId(uuid::Uuid::nil()))..=(id, RideId(uuid::Uuid::max()));
        self.rides_of_match.range(of_match).next().is_some()
    }

    /// Whether a driver has cancelled a ride of this passenger of late.
    pub fn has_cancelled_on(&self, driver: UserId, passenger: UserId) -> bool {
        let rides = RideId(uuid::Uuid::nil())..=RideId(uuid::Uuid::max());
        let (first, last) = ((passenger, driver, *rides.start()), (passenger, driver, *rides.end()));
        self.driver_cancelled.range(first..=last).next().is_some()
    }

    /// Whether a ride locks a user.
    pub fn is_locked(&self, user: UserId) -> bool {
        self.locked.contains_key(&user)
    }

    /// Live rides that are expected to end from `from` to `until`, the earliest first.
    pub(super) fn finishing(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> impl Iterator<Item = &Ride> {
        let (first, last) = ((from, RideId(uuid::Uuid::nil())), (until, RideId(uuid::Uuid::max())));
        self.finishing.range(first..=last).filter_map(|(_, id)| self.rides.get(id))
    }

    /// The live offer that holds a user.
    pub fn held_by(&self, user: UserId) -> Option<&Offer> {
        self.offers.get(self.held.get(&user)?)
    }

    /// Requests of a passenger, ended ones too.
    pub(super) fn requests_of(&self, passenger: UserId) -> impl Iterator<Item = &Request> {
        self.requests_of.get(&passenger).into_iter().flatten().filter_map(|id| self.requests.get(id))
    }

    pub fn live_request(&self, passenger: UserId) -> Option<&Request> {
        self.requests_of(passenger).find(|r| r.ended_at.is_none())
    }

    /// The longest waiting first.
    pub(crate) fn live_requests(&self) -> impl Iterator<Item = &Request> {
        self.queue.iter().filter_map(|(_, id)| self.requests.get(id))
    }

    /// Live requests whose passenger has no driver, the longest waiting first.
    pub fn waiting(&self) -> impl Iterator<Item = &Request> {
        self.live_requests().filter(|r| !self.is_engaged(r.passenger_id))
    }

    /// In which vehicle a driver may be offered rides: an active one whose socket answers, moving or not, whom nothing holds.
    pub fn availability(&self, user: UserId) -> Option<VehicleType> {
        let driver = self.drivers.get(&user)?;
        (driver.active && !self.is_engaged(user)).then_some(driver.vehicle_type)
    }

    /// Live offers by deadline.
    pub(super) fn live_offers(&self) -> impl Iterator<Item = &Offer> {
        self.deadlines.iter().filter_map(|(_, id)| self.offers.get(id))
    }

    /// A live offer whose deadline has passed, the earliest first.
    pub(super) fn due_offer(&self, now: DateTime<Utc>) -> Option<&Offer> {
        self.live_offers().next().filter(|o| o.deadline().max(self.no_expiry_before) <= now)
    }

    /// When something happens without an event: the next offer ends, or a request has waited long enough for road times.
    pub fn next_deadline(&self) -> Option<DateTime<Utc>> {
        let of_offer = self.deadlines.first().map(|(at, _)| (*at).max(self.no_expiry_before));
        of_offer.into_iter().chain(self.road_times.deadline()).min()
    }

    /// Whether a passenger has moved their search so often that the next offer has to wait.
    pub fn is_paused(&self, passenger: UserId, now: DateTime<Utc>) -> bool {
        let own = |(_, id): &&(DateTime<Utc>, MatchId)| {
            // The others were cancelled for somebody else's sake, and their search went on.
            let request = self.offers.get(id).and_then(|o| self.requests.get(&o.request_id));
            request.is_none_or(|r| r.ended_at.is_some())
        };
        let Some(cancelled) = self.cancelled.get(&passenger) else { return false };
        let mut recent = cancelled.iter().rev().take_while(|(at, _)| *at > now - MOVES_WITHIN).filter(own);
        let last = recent.next().map(|(at, _)| *at);
        last.is_some_and(|at| at + MOVES_PAUSE > now) && recent.count() + 1 >= MOVES_MAX
    }

    /// Whether the next offer of a request has to wait, although drivers are free.
    pub(crate) fn is_resting(&self, request: &Request, now: DateTime<Utc>) -> bool {
        request.has_just_continued(now) || self.is_paused(request.passenger_id, now)
    }

    /// Whether any request is live, so that a match can come of time alone.
    pub fn has_live_requests(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Records every driver's beacon in `positions`, and makes exactly the available drivers available there.
    pub fn load_positions(&self, positions: &mut DriverPositions) {
        positions.clear_availability();
        for driver in self.drivers.values() {
            positions.record_beacon(&driver.beacon(), driver.seen_at);
            positions.set_available(driver.user_id, self.availability(driver.user_id));
        }
    }

    pub(super) fn put_driver(&mut self, driver: Driver) {
        self.drivers.insert(driver.user_id, driver);
    }

    pub(super) fn put_request(&mut self, request: Request) {
        let (id, entry) = (request.request_id, (request.opened_at, request.request_id));
        if request.ended_at.is_none() {
            self.queue.insert(entry);
        } else {
            self.queue.remove(&entry);
        }
        self.requests_of.entry(request.passenger_id).or_default().insert(id);
        self.requests.insert(id, request);
    }

    pub(super) fn put_offer(&mut self, offer: Offer) {
        let id = offer.match_id;
        if let Some(before) = self.offers.get(&id) {
            self.deadlines.remove(&(before.deadline(), id));
            forget_cancelled(&mut self.cancelled, before);
        }
        if let Some((at, OfferOutcome::Cancelled)) = offer.ended {
            self.cancelled.entry(offer.passenger_id).or_default().insert((at, id));
        }
        for person in [offer.driver_id, offer.passenger_id] {
            if offer.ended.is_none() {
                self.held.insert(person, id);
            } else if self.held.get(&person) == Some(&id) {
                self.held.remove(&person);
            }
        }
        if offer.ended.is_none() {
            self.deadlines.insert((offer.deadline(), id));
        }
        self.offers.insert(id, offer);
    }

    /// An offer that was never made.
    pub(super) fn remove_offer(&mut self, id: MatchId) -> Option<Offer> {
        let offer = self.offers.remove(&id)?;
        self.deadlines.remove(&(offer.deadline(), id));
        forget_cancelled(&mut self.cancelled, &offer);
        for person in [offer.driver_id, offer.passenger_id] {
            if self.held.get(&person) == Some(&id) {
                self.held.remove(&person);
            }
        }
        Some(offer)
    }

    /// A request that another zone has from now on.
    pub(super) fn remove_request(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        self.queue.remove(&(request.opened_at, id));
        if let Some(ids) = self.requests_of.get_mut(&request.passenger_id) {
            ids.remove(&id);
            if ids.is_empty() {
                self.requests_of.remove(&request.passenger_id);
            }
        }
        Some(request)
    }

    pub(super) fn put_ride(&mut self, ride: Ride) {
        for person in [ride.driver_id, ride.passenger_id] {
            if ride.ended_at.is_none() {
                self.locked.entry(person).or_default().insert(ride.ride_id);
            } else if let Some(rides) = self.locked.get_mut(&person) {
                rides.remove(&ride.ride_id);
                if rides.is_empty() {
                    self.locked.remove(&person);
                }
            }
        }
        if let Some((at, _)) = self.rides.get(&ride.ride_id).and_then(|r| r.expected_end) {
            self.finishing.remove(&(at, ride.ride_id));
        }
        if let Some((at, _)) = ride.expected_end.filter(|_| ride.ended_at.is_none()) {
            self.finishing.insert((at, ride.ride_id));
        }
        self.rides_of_match.insert((ride.match_id, ride.ride_id));
        if ride.driver_cancelled {
            self.driver_cancelled.insert((ride.passenger_id, ride.driver_id, ride.ride_id));
        }
        self.rides.insert(ride.ride_id, ride);
    }

    /// Forgets what ended long ago. The rows stay until they are purged.
    pub(super) fn prune(&mut self, now: DateTime<Utc>) {
        let requests_from = requests_remembered_from(now, self.rules.longest_request_ttl());
        let ended_from = now - ENDED_REMEMBERED;
        let requests_of = &mut self.requests_of;
        self.requests.retain(|id, request| {
            let retained = request.ended_at.is_none_or(|at| at >= requests_from);
            if !retained && let Some(ids) = requests_of.get_mut(&request.passenger_id) {
                ids.remove(id);
                if ids.is_empty() {
                    requests_of.remove(&request.passenger_id);
                }
            }
            retained
        });
        self.road_times.prune(now);
        let cancelled = &mut self.cancelled;
        self.offers.retain(|_, offer| {
            let retained = offer.ended.is_none_or(|(at, _)| at >= ended_from);
            if !retained {
                forget_cancelled(cancelled, offer);
            }
            retained
        });
        let (rides_of_match, driver_cancelled) = (&mut self.rides_of_match, &mut self.driver_cancelled);
        self.rides.retain(|_, ride| {
            let retained = ride.ended_at.is_none_or(|at| at >= ended_from);
            if !retained {
                rides_of_match.remove(&(ride.match_id, ride.ride_id));
                driver_cancelled.remove(&(ride.passenger_id, ride.driver_id, ride.ride_id));
            }
            retained
        });
        self.drivers.retain(|_, driver| driver.active || driver.seen_at >= now - OFFLINE_REMEMBERED);
    }
}

fn forget_cancelled(cancelled: &mut BTreeMap<UserId, BTreeSet<(DateTime<Utc>, MatchId)>>, offer: &Offer) {
    if let Some((at, OfferOutcome::Cancelled)) = offer.ended
        && let Some(of_passenger) = cancelled.get_mut(&offer.passenger_id)
    {
        of_passenger.remove(&(at, offer.match_id));
        if of_passenger.is_empty() {
            cancelled.remove(&offer.passenger_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Config;

    proptest! {
        #[test]
        fn a_radius_never_shrinks_and_is_never_outside_its_bounds(
            radius_m in 1.0..50_000.0_f64, more_m in 0.0..50_000.0_f64, ttl_ms in 1_i64..3_600_000, times in prop::array::uniform2(0_i64..7_200_000),
        ) {
            let radius_max_m = radius_m + more_m;
            let rules = Config { radius_m, radius_max_m, ..Config::default() }.rules(Zone::ONLY);
            let (begin, at) = (DateTime::UNIX_EPOCH, Position { lat: 1.0, lng: 1.0 });
            let after = |ms: i64| rules.radius_m(rules.markets.of(None, &at), [begin, begin + Duration::milliseconds(ttl_ms)], begin + Duration::milliseconds(ms));
            let [first, second] = [times[0].min(times[1]), times[0].max(times[1])];
            prop_assert!(radius_m <= after(first) && after(first) <= after(second));
            prop_assert!(after(second) <= radius_max_m);
            prop_assert_eq!(after(ttl_ms / 3), radius_m);
            prop_assert!((after(ttl_ms) - radius_max_m).abs() < 1e-6);
            prop_assert_eq!(after(-1), radius_m);
        }
    }
}
