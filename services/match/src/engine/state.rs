//! The match engine's state: drivers, requests, offers and rides, which are rows, and the indexes over them, which are
//! derived. Pure and synchronous; `rules.rs` says how it changes, `store.rs` where the rows are kept. Every change goes
//! through one of the four `put_` functions, so that the indexes always say what the rows say.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use pricing::Tariffs;
use streams::event::{MatchRejected, RejectReason};
use streams::{MatchId, Position, RequestId, RideId, Service, UserId, VehicleType};

use crate::engine::assign::Policy;

/// An offer is ended so long after its `expires_at`: users refuses later answers, and an answer in time arrives first.
pub const EXPIRY_GRACE: Duration = Duration::seconds(2);
/// An accepted offer of which rides says nothing holds both so long.
pub const ACCEPTED_LIMIT: Duration = Duration::minutes(5);
/// How long ended offers and rides are remembered here; ended rides are looked up in their rows after that.
pub const REMEMBERED: Duration = Duration::minutes(10);
/// An offline driver of whom nothing was heard so long is forgotten.
pub const DRIVER_FORGOTTEN: Duration = Duration::hours(24);

/// What the engine goes by.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// How long a driver has for an answer.
    pub offer_ttl: Duration,
    /// How long a request waits for a driver.
    pub request_ttl: Duration,
    /// The farthest driver that is offered, great circle, metres.
    pub radius_m: f64,
    /// For the fare estimate.
    pub tariffs: Tariffs,
    /// How pairs are made.
    pub policy: Policy,
}

/// The newest beacon of a driver.
#[derive(Debug, Clone, PartialEq)]
pub struct Driver {
    /// Who.
    pub user_id: UserId,
    /// Whether rides may be offered.
    pub active: bool,
    /// In what.
    pub vehicle_type: VehicleType,
    /// Where the beacon was.
    pub location: Position,
    /// When it was.
    pub recorded_at: DateTime<Utc>,
    /// When the stream had it.
    pub seen_at: DateTime<Utc>,
}

/// A passenger's search.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The search.
    pub request_id: RequestId,
    /// Whose.
    pub passenger_id: UserId,
    /// From where.
    pub pickup: Position,
    /// To where.
    pub dropoff: Position,
    /// In what.
    pub vehicle_type: VehicleType,
    /// When it began.
    pub opened_at: DateTime<Utc>,
    /// When its newest change was.
    pub changed_at: DateTime<Utc>,
    /// When it ended; `None` while it is live.
    pub ended_at: Option<DateTime<Utc>>,
    /// Drivers who declined it or did not answer; empty once it has ended.
    pub excluded: BTreeSet<UserId>,
}

/// How an offer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The driver said no.
    Declined,
    /// Nobody answered in time.
    Expired,
    /// The search ended, or another answer came first.
    Cancelled,
    /// One of the two is in another ride.
    Superseded,
    /// It became a ride.
    Ridden,
    /// Accepted, but rides never said what became of it.
    Released,
}

impl Outcome {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::Declined, Self::Expired, Self::Cancelled, Self::Superseded, Self::Ridden, Self::Released];

    /// The name in the database.
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

/// One driver proposed to one passenger; live, it holds both.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// The offer.
    pub match_id: MatchId,
    /// The search that it answers.
    pub request_id: RequestId,
    /// To whom.
    pub driver_id: UserId,
    /// For whom.
    pub passenger_id: UserId,
    /// When it was made.
    pub found_at: DateTime<Utc>,
    /// The last moment for an answer.
    pub expires_at: DateTime<Utc>,
    /// When the driver's yes was handled here.
    pub accepted_at: Option<DateTime<Utc>>,
    /// When and how it ended; `None` while it is live.
    pub ended: Option<(DateTime<Utc>, Outcome)>,
}

impl Offer {
    /// Waits for the driver's answer.
    pub fn is_outstanding(&self) -> bool {
        self.ended.is_none() && self.accepted_at.is_none()
    }

    /// Accepted, and rides has not answered yet.
    pub fn is_accepted(&self) -> bool {
        self.ended.is_none() && self.accepted_at.is_some()
    }

    /// When the engine ends it by itself.
    pub fn deadline(&self) -> DateTime<Utc> {
        match self.accepted_at {
            Some(at) => at + ACCEPTED_LIMIT,
            None => self.expires_at + EXPIRY_GRACE,
        }
    }

    /// The event that tells its end.
    pub fn rejected(&self, reason: RejectReason, now: DateTime<Utc>) -> MatchRejected {
        let rejected_at = MatchRejected::time(Service::Match, now);
        let Self { match_id, request_id, driver_id, passenger_id, .. } = *self;
        MatchRejected { match_id, request_id, driver_id, passenger_id, reason, rejected_at }
    }
}

/// A ride; live, it locks both.
#[derive(Debug, Clone, PartialEq)]
pub struct Ride {
    /// The ride.
    pub ride_id: RideId,
    /// The offer that it came from.
    pub match_id: MatchId,
    /// Its driver.
    pub driver_id: UserId,
    /// Its passenger.
    pub passenger_id: UserId,
    /// When it began, or was first heard of.
    pub began_at: DateTime<Utc>,
    /// When its end was handled here; `None` while it is live.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Rows: all of them, or those that changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// By id.
    pub drivers: Vec<Driver>,
    /// By id.
    pub requests: Vec<Request>,
    /// By id.
    pub offers: Vec<Offer>,
    /// By id.
    pub rides: Vec<Ride>,
}

impl Rows {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.drivers.is_empty() && self.requests.is_empty() && self.offers.is_empty() && self.rides.is_empty()
    }
}

/// Ids of what changed.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) drivers: BTreeSet<UserId>,
    pub(crate) requests: BTreeSet<RequestId>,
    pub(crate) offers: BTreeSet<MatchId>,
    pub(crate) rides: BTreeSet<RideId>,
}

/// The state.
#[derive(Debug, Clone, PartialEq)]
pub struct Engine {
    pub(crate) rules: Rules,
    pub(crate) drivers: BTreeMap<UserId, Driver>,
    pub(crate) requests: BTreeMap<RequestId, Request>,
    pub(crate) offers: BTreeMap<MatchId, Offer>,
    pub(crate) rides: BTreeMap<RideId, Ride>,
    /// Live requests, the longest waiting first.
    pub(crate) queue: BTreeSet<(DateTime<Utc>, RequestId)>,
    /// Requests by passenger, ended ones too.
    pub(crate) requests_of: BTreeMap<UserId, BTreeSet<RequestId>>,
    /// The live offer of a driver or passenger.
    pub(crate) held: BTreeMap<UserId, MatchId>,
    /// The live rides of a driver or passenger; more than one only while the end of the first is late.
    pub(crate) locked: BTreeMap<UserId, BTreeSet<RideId>>,
    /// Rides by match.
    pub(crate) ridden: BTreeSet<(MatchId, RideId)>,
    /// Live offers by deadline.
    pub(crate) deadlines: BTreeSet<(DateTime<Utc>, MatchId)>,
}

impl Engine {
    /// Knows nobody.
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
            ridden: BTreeSet::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// What these rows say.
    pub fn from_rows(rules: Rules, rows: Rows) -> Self {
        let mut engine = Self::new(rules);
        rows.drivers.into_iter().for_each(|d| engine.put_driver(d));
        rows.requests.into_iter().for_each(|r| engine.put_request(r));
        rows.offers.into_iter().for_each(|o| engine.put_offer(o));
        rows.rides.into_iter().for_each(|r| engine.put_ride(r));
        engine
    }

    /// All rows, by id.
    pub fn rows(&self) -> Rows {
        Rows {
            drivers: self.drivers.values().cloned().collect(),
            requests: self.requests.values().cloned().collect(),
            offers: self.offers.values().cloned().collect(),
            rides: self.rides.values().cloned().collect(),
        }
    }

    pub(crate) fn rows_of(&self, changed: &Changed) -> Rows {
        fn pick<K: Ord, V: Clone>(from: &BTreeMap<K, V>, ids: &BTreeSet<K>) -> Vec<V> {
            ids.iter().filter_map(|id| from.get(id).cloned()).collect()
        }
        Rows {
            drivers: pick(&self.drivers, &changed.drivers),
            requests: pick(&self.requests, &changed.requests),
            offers: pick(&self.offers, &changed.offers),
            rides: pick(&self.rides, &changed.rides),
        }
    }

    /// Whether somebody is held by an offer or locked by a ride, as driver or as passenger.
    pub fn is_engaged(&self, user: UserId) -> bool {
        #[cfg(debug_assertions)]
        if streams::simulation::sabotage().no_hold {
            return self.locked.contains_key(&user);
        }
        self.held.contains_key(&user) || self.locked.contains_key(&user)
    }

    /// Whether a match became a ride.
    pub fn is_ridden(&self, id: MatchId) -> bool {
        let of_match = (id, RideId(uuid::Uuid::nil()))..=(id, RideId(uuid::Uuid::max()));
        self.ridden.range(of_match).next().is_some()
    }

    /// Whether a ride locks somebody.
    pub fn is_locked(&self, user: UserId) -> bool {
        self.locked.contains_key(&user)
    }

    /// The live offer that holds somebody.
    pub fn held_by(&self, user: UserId) -> Option<&Offer> {
        self.offers.get(self.held.get(&user)?)
    }

    /// The live request of a passenger.
    pub fn live_request(&self, passenger: UserId) -> Option<&Request> {
        let ids = self.requests_of.get(&passenger)?;
        ids.iter().filter_map(|id| self.requests.get(id)).find(|r| r.ended_at.is_none())
    }

    /// Live requests whose passenger has no driver, the longest waiting first.
    pub fn waiting(&self) -> impl Iterator<Item = &Request> {
        self.queue.iter().filter_map(|(_, id)| self.requests.get(id)).filter(|r| !self.is_engaged(r.passenger_id))
    }

    /// In which vehicle a driver may be offered rides, if heard of lately.
    pub fn availability(&self, user: UserId) -> Option<VehicleType> {
        let driver = self.drivers.get(&user)?;
        (driver.active && !self.is_engaged(user)).then_some(driver.vehicle_type)
    }

    /// When the next offer ends by itself.
    pub fn next_deadline(&self) -> Option<DateTime<Utc>> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Whether any request is live, so that time alone can bring a match.
    pub fn has_live_requests(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn put_driver(&mut self, driver: Driver) {
        self.drivers.insert(driver.user_id, driver);
    }

    pub(crate) fn put_request(&mut self, mut request: Request) {
        let (id, entry) = (request.request_id, (request.opened_at, request.request_id));
        if request.ended_at.is_none() {
            self.queue.insert(entry);
        } else {
            request.excluded = BTreeSet::new();
            self.queue.remove(&entry);
        }
        self.requests_of.entry(request.passenger_id).or_default().insert(id);
        self.requests.insert(id, request);
    }

    pub(crate) fn put_offer(&mut self, offer: Offer) {
        let id = offer.match_id;
        let people = [offer.driver_id, offer.passenger_id];
        if let Some(before) = self.offers.get(&id) {
            self.deadlines.remove(&(before.deadline(), id));
        }
        for person in people {
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

    pub(crate) fn put_ride(&mut self, ride: Ride) {
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
        self.ridden.insert((ride.match_id, ride.ride_id));
        self.rides.insert(ride.ride_id, ride);
    }

    /// Forgets what ended long ago; the rows stay until they are purged.
    pub(crate) fn forget(&mut self, now: DateTime<Utc>) {
        let requests_before = now - self.rules.request_ttl - Duration::seconds(60);
        let before = now - REMEMBERED;
        let requests_of = &mut self.requests_of;
        self.requests.retain(|id, request| {
            let kept = request.ended_at.is_none_or(|at| at >= requests_before);
            if !kept && let Some(ids) = requests_of.get_mut(&request.passenger_id) {
                ids.remove(id);
                if ids.is_empty() {
                    requests_of.remove(&request.passenger_id);
                }
            }
            kept
        });
        self.offers.retain(|_, offer| offer.ended.is_none_or(|(at, _)| at >= before));
        let ridden = &mut self.ridden;
        self.rides.retain(|_, ride| {
            let kept = ride.ended_at.is_none_or(|at| at >= before);
            if !kept {
                ridden.remove(&(ride.match_id, ride.ride_id));
            }
            kept
        });
        self.drivers.retain(|_, driver| driver.active || driver.seen_at >= now - DRIVER_FORGOTTEN);
    }
}
