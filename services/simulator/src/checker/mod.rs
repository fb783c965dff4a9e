//! The independent checker: what no client of the platform may ever receive, and what each must. Pure: events, acks and the
//! time come from outside. It knows only the contract, and shares no code with the platform.

mod expectation;
mod fare;
mod live_lane;
mod mailbox;
mod ride;
mod rides;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

pub(crate) use self::expectation::Effect;
use self::expectation::Expectation;
use self::live_lane::{LiveLanes, LivePeople};
pub(crate) use self::mailbox::{Delivery, MailboxChecker};
pub(crate) use self::ride::{Party, Status};
pub(crate) use self::rides::EndedRide;
use self::rides::Rides;
use crate::frame::{EtaTo, Event, LivePosition, time};
use crate::position::Position;

/// An offer must have ended so long after it expired.
const OFFER_GRACE: Duration = Duration::from_secs(45);
/// The longest `expires_at - found_at` that is believed.
const OFFER_TTL_MAX: Duration = Duration::from_secs(600);
/// Nothing is overdue for a person who has been connected for less than this.
const RECONNECT_GRACE: Duration = Duration::from_secs(20);
/// The most violations that are stored as text; more are only counted.
const VIOLATIONS_MAX: usize = 200;

#[derive(Debug)]
struct Person {
    party: Party,
    connected_since: Option<Instant>,
}

/// What is known of a match. Arrays are by party: driver, passenger.
#[derive(Debug, Default)]
struct Offer {
    request_id: String,
    accept_sent_at: Option<Instant>,
    /// Who received `match.found`.
    found: [bool; 2],
    /// Who received `match.accepted`.
    accepted: [bool; 2],
    /// The reason of the `match.rejected` that each party received.
    rejected: [Option<String>; 2],
}

#[derive(Debug, Default)]
pub(crate) struct Checker {
    people: HashMap<String, Person>,
    rides: Rides,
    offers: HashMap<String, Offer>,
    ride_by_request: HashMap<String, String>,
    /// Rides that their drivers cancelled while the search goes on.
    continued: HashSet<String>,
    /// Requests that ended, with their rides: wrong unless the search went on after the ride.
    ended_rides: Vec<(String, String)>,
    /// Requests that a `user.finder` has announced.
    searches: HashSet<String>,
    /// Requests whose end was acked, or announced by a `user.finder`: no ride may come of them.
    ended_searches: HashSet<String>,
    live_lanes: LiveLanes,
    /// Not met yet, and not overdue.
    expectations: Vec<Expectation>,
    outage: Duration,
    violations: Vec<String>,
    violations_omitted: u64,
}

impl Checker {
    /// Every limit is extended by `outage`.
    pub(crate) fn new(outage: Duration) -> Self {
        Self { outage, ..Self::default() }
    }

    pub(crate) fn add_person(&mut self, user: &str, party: Party) {
        self.people.insert(user.to_owned(), Person { party, connected_since: None });
    }

    pub(crate) fn connected(&mut self, user: &str, now: Instant) {
        if let Some(person) = self.people.get_mut(user) {
            person.connected_since = Some(now);
        }
    }

    pub(crate) fn disconnected(&mut self, user: &str) {
        if let Some(person) = self.people.get_mut(user) {
            person.connected_since = None;
        }
    }

    pub(crate) fn violation(&mut self, text: String) {
        tracing::warn!(violation = %text, "an invariant of the platform does not hold");
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(text);
        } else {
            self.violations_omitted += 1;
        }
    }

    /// A driver is about to send `match.accept`.
    pub(crate) fn accepting(&mut self, match_id: &str, now: Instant) {
        self.offers.entry(match_id.to_owned()).or_default().accept_sent_at.get_or_insert(now);
    }

    /// The platform says that this search has ended.
    pub(crate) fn search_ended(&mut self, request_id: &str) {
        if !self.ended_searches.insert(request_id.to_owned()) {
            return;
        }
        let ride_id = self.ride_by_request.get(request_id).cloned();
        self.ended_rides.extend(ride_id.map(|ride_id| (request_id.to_owned(), ride_id)));
    }

    /// A welcome named this state to `user`, who has received the events up to `last_seq`.
    pub(crate) fn state_received(&mut self, user: &str, state: &Value, last_seq: u64) {
        let seq = state.get("seq").and_then(Value::as_u64);
        if seq.is_none_or(|seq| seq < last_seq) {
            self.violation(format!("{user}: the state is of seq {seq:?}, after seq {last_seq} was received"));
        }
        let request_id = state.pointer("/search/request_id").and_then(Value::as_str).unwrap_or_default();
        if self.ended_searches.contains(request_id) {
            self.violation(format!("{user}: the state shows the search {request_id}, which has ended"));
        }
    }

    /// Compares a state with what `user` has received, which is exactly the events up to its `seq`.
    pub(crate) fn compare_state(&mut self, user: &str, state: &Value) {
        let Some(party) = self.people.get(user).map(|person| person.party) else { return };
        let problems = state::ride_problems(&self.rides, party, user, state);
        problems.into_iter().for_each(|problem| self.violation(problem));
    }

    /// The answer to the command `cause` of `user` promises this effect.
    pub(crate) fn expect(&mut self, user: &str, cause: &'static str, effect: Effect, now: Instant) {
        let due = now + effect.limit();
        self.expect_until(user, cause, effect, due);
    }

    fn expect_until(&mut self, user: &str, cause: &'static str, effect: Effect, due: Instant) {
        self.expectations.push(Expectation { user: user.to_owned(), effect, cause, due: due + self.outage });
    }

    /// Checks an event that `user` received; call it once for each `seq`. For a `ride.pickup` it returns the time since the
    /// driver's accept was sent, if `user` has been connected since.
    pub(crate) fn receive(&mut self, user: &str, event: &Event, now: Instant) -> Option<Duration> {
        let person = self.people.get(user)?;
        let (party, connected_since) = (person.party, person.connected_since);
        let kind = event.kind.as_str();
        if kind.starts_with("match.") || kind.starts_with("ride.") {
            let owner = event.text(party.field());
            if owner != user {
                self.violation(format!("{} {user} got a stranger's {kind}, of {owner}", party.name()));
                return None;
            }
        }
        match kind {
            "match.found" => self.match_found(user, party, event, now),
            "match.rejected" => self.match_rejected(party, event),
            "match.accepted" => {
                let match_id = event.text("match_id").to_owned();
                self.offers.entry(match_id).or_default().accepted[party.index()] = true;
            }
            "user.beacon" | "user.finder" => {
                if event.text("user_id") != user {
                    self.violation(format!("{user} got a stranger's {kind}, of {}", event.text("user_id")));
                }
                if kind == "user.finder" {
                    let request_id = event.text("request_id");
                    self.searches.insert(request_id.to_owned());
                    if event.data.get("active").and_then(Value::as_bool) == Some(false) {
                        self.search_ended(request_id);
                    }
                }
            }
            "location.aggregate" if party == Party::Passenger => {
                if event.text("ride_id").is_empty() {
                    self.violation(format!("passenger {user} got a location.aggregate of no ride"));
                }
            }
            _ => match Status::after(kind) {
                Some(status) => {
                    let simulated = Party::BOTH.map(|party| self.people.contains_key(event.text(party.field())));
                    for problem in self.rides.receive((party, user), simulated, status, event, now) {
                        self.violation(problem);
                    }
                    if event.data.get("search_continues") == Some(&Value::Bool(true)) {
                        self.continued.insert(event.text("ride_id").to_owned());
                    }
                    if status == Status::Pickup {
                        let accept_sent_at = self.ride_pickup(party, event);
                        let accept_sent_at =
                            accept_sent_at.filter(|at| connected_since.is_some_and(|since| since <= *at));
                        return accept_sent_at.map(|at| now.duration_since(at));
                    }
                }
                None => self.violation(format!("{} {user} got {kind}, which is not for clients", party.name())),
            },
        }
        None
    }

    fn match_found(&mut self, user: &str, party: Party, event: &Event, now: Instant) {
        let match_id = event.text("match_id").to_owned();
        let offer = self.offers.entry(match_id.clone()).or_default();
        offer.request_id = event.text("request_id").to_owned();
        offer.found[party.index()] = true;
        let times = time(&event.data, "found_at").zip(time(&event.data, "expires_at"));
        let Some((found_at, expires_at)) = times else {
            return self.violation(format!("match {match_id}: match.found without `found_at` or `expires_at`"));
        };
        let ttl = (expires_at - found_at).to_std().unwrap_or(Duration::ZERO).min(OFFER_TTL_MAX);
        self.expect_until(user, "match.found", Effect::OfferEnds { match_id }, now + ttl + OFFER_GRACE);
    }

    fn match_rejected(&mut self, party: Party, event: &Event) {
        let reason = event.text("reason").to_owned();
        let match_id = event.text("match_id");
        if !["declined", "expired", "cancelled", "superseded"].contains(&reason.as_str()) {
            self.violation(format!("match {match_id}: rejected for `{reason}`, which is no reason"));
        }
        let rejected = &mut self.offers.entry(match_id.to_owned()).or_default().rejected[party.index()];
        if let Some(before) = rejected.replace(reason.clone()) {
            self.violation(format!(
                "match {match_id}: rejected two times at the {}, {before} and {reason}",
                party.name()
            ));
        }
        if self.rides.knows_ride_of(party, match_id) {
            self.violation(format!("match {match_id}: {reason}, and a ride came of it"));
        }
    }

    /// A ride came of an offer: its driver must have accepted it, it must not have been rejected, and its request must neither have
    /// ended nor have become another ride. Returns when the driver accepted.
    fn ride_pickup(&mut self, party: Party, event: &Event) -> Option<Instant> {
        let (match_id, ride_id) = (event.text("match_id"), event.text("ride_id"));
        let mut problems = Vec::new();
        let offer = self.offers.entry(match_id.to_owned()).or_default();
        if offer.accept_sent_at.is_none() {
            problems.push(format!("ride {ride_id}: its driver never accepted match {match_id}"));
        }
        if let Some(reason) = &offer.rejected[party.index()] {
            problems.push(format!("ride {ride_id}: match {match_id} was {reason} before"));
        }
        if !offer.request_id.is_empty() && !self.continued.contains(ride_id) {
            self.ride_by_request.retain(|request, ride| *request != offer.request_id || !self.continued.contains(ride));
            let first = self.ride_by_request.entry(offer.request_id.clone()).or_insert_with(|| ride_id.to_owned());
            if self.ended_searches.contains(&offer.request_id) {
                self.ended_rides.push((offer.request_id.clone(), ride_id.to_owned()));
            }
            if first != ride_id {
                problems.push(format!("request {} was served two times, {first} and {ride_id}", offer.request_id));
            }
        }
        let accept_sent_at = offer.accept_sent_at;
        problems.into_iter().for_each(|problem| self.violation(problem));
        accept_sent_at
    }

    /// Drops the expectations that are met, and turns those that are overdue into violations.
    pub(crate) fn report_overdue(&mut self, now: Instant) {
        let mut expectations = std::mem::take(&mut self.expectations);
        let mut violations = self.overdue_live_positions(now);
        expectations.retain(|expectation| {
            if self.is_met(expectation) {
                return false;
            }
            let since = self.people.get(&expectation.user).and_then(|person| person.connected_since);
            let settled = since.is_some_and(|since| now.duration_since(since) >= RECONNECT_GRACE);
            let overdue = settled && now >= expectation.due;
            if overdue {
                violations.push(expectation.violation());
            }
            !overdue
        });
        self.expectations = expectations;
        violations.into_iter().for_each(|text| self.violation(text));
    }

    /// The driver of a ride has just sent the newest position. The passenger must see it, or a later one.
    pub(crate) fn position_sent(&mut self, ride_id: &str, position: Position, now: Instant) {
        if self.rides.live_passenger(ride_id).is_some() {
            self.live_lanes.sent(ride_id, position, now);
        }
    }

    /// Checks a frame `location.live` that `user` received. Returns how long ago the position was sent, if that is known.
    pub(crate) fn live_position(&mut self, user: &str, live: &LivePosition, now: Instant) -> Option<Duration> {
        let ride_id = &live.ride_id;
        match self.rides.live_of_passenger(user, ride_id).map(|(_, started)| started) {
            // A session that cannot read the mailbox goes on with what is live.
            None if self.rides.is_ahead_of_pickup(user, ride_id) => None,
            None => {
                self.violation(format!(
                    "{user} got a live position of ride {ride_id}, which is not a live ride of theirs: {live:?}"
                ));
                None
            }
            Some(true) if live.eta_to != EtaTo::Dropoff => {
                self.violation(format!("ride {ride_id}: its ETA is to the pickup after the start"));
                None
            }
            Some(_) => self.live_lanes.seen(ride_id, live.location, now),
        }
    }

    /// Positions that drivers sent and their passengers did not see in time, although both were connected.
    fn overdue_live_positions(&mut self, now: Instant) -> Vec<String> {
        let (rides, people) = (&self.rides, &self.people);
        let since = |user: &str| people.get(user).and_then(|person| person.connected_since);
        self.live_lanes.overdue(now, self.outage, |ride_id| {
            let passenger = rides.live_passenger(ride_id)?;
            let (driver, _) = rides.live_of_passenger(passenger, ride_id)?;
            Some(LivePeople { driver_since: since(driver), passenger_since: since(passenger) })
        })
    }

    /// Rides whose passengers saw the driver.
    pub(crate) fn rides_seen_live(&self) -> u64 {
        self.live_lanes.rides_seen()
    }

    fn is_met(&self, expectation: &Expectation) -> bool {
        let Some(Person { party, .. }) = self.people.get(&expectation.user) else { return true };
        match &expectation.effect {
            Effect::OfferEnds { match_id } => {
                let rejected = self.offers.get(match_id).is_some_and(|offer| offer.rejected[party.index()].is_some());
                rejected || self.rides.knows_ride_of(*party, match_id)
            }
            Effect::RideReaches { ride_id, status } => self.rides.has_reached(*party, ride_id, *status),
            Effect::RideEnds { ride_id } => self.rides.has_ended(*party, ride_id),
            Effect::Search { request_id } => self.searches.contains(request_id),
        }
    }

    /// A ride in which `user` takes no part, for a forbidden command: the first with an id from `from` on, else any.
    pub(crate) fn ride_without(&self, user: &str, from: &str) -> Option<String> {
        self.rides.without(user, from)
    }

    /// Whether nothing is expected any more, and both parties of every ride have received the same.
    pub(crate) fn is_settled(&mut self, now: Instant) -> bool {
        self.report_overdue(now);
        self.expectations.is_empty() && self.rides.incomplete() == 0 && self.missing_match_events().is_empty()
    }

    /// The last check: what one party of a ride received `patience` ago, the other must have received too.
    pub(crate) fn finish(&mut self, now: Instant, patience: Duration) {
        self.report_overdue(now);
        let mut problems = self.rides.final_problems(now, patience);
        let ended = self.ended_rides.iter().filter(|(_, ride)| !self.continued.contains(ride));
        problems.extend(ended.map(|(request, ride)| format!("request {request} ended, and is the ride {ride}")));
        problems
            .extend(self.rides.never_begun().map(|ride| format!("ride {ride} was seen on its way, and never began")));
        problems.extend(self.missing_match_events());
        problems.into_iter().for_each(|problem| self.violation(problem));
    }

    /// Parties of ended rides that never received `match.found` or `match.accepted`.
    fn missing_match_events(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (ride_id, ride) in self.rides.with_end() {
            let Some(offer) = self.offers.get(&ride.match_id) else { continue };
            for party in Party::BOTH.into_iter().filter(|party| ride.simulated[party.index()]) {
                for (kind, received) in [("match.found", offer.found), ("match.accepted", offer.accepted)] {
                    if !received[party.index()] {
                        problems.push(format!("ride {ride_id}: the {} never got {kind}", party.name()));
                    }
                }
            }
        }
        problems
    }

    pub(crate) fn ended_rides(&self) -> Vec<EndedRide> {
        self.rides.ended()
    }

    pub(crate) fn unfinished_rides(&self) -> usize {
        self.rides.unfinished()
    }

    /// Ride events that arrived after one with a higher version.
    pub(crate) fn late_versions(&self) -> u64 {
        self.rides.late_versions
    }

    pub(crate) fn violation_count(&self) -> u64 {
        self.violations.len() as u64 + self.violations_omitted
    }

    /// The stored violations; a last line says how many more there were.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut texts = self.violations.clone();
        if self.violations_omitted > 0 {
            texts.push(format!("and {} more", self.violations_omitted));
        }
        texts
    }
}
