//! The independent checker: what no client of the platform may ever see. Pure: it gets events, answers and the time from
//! outside, and owns nothing but what was seen. It never speaks to the platform and never repairs anything.

mod fare;
mod mailbox;
mod rides;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use mailbox::{Mailbox, Verdict};
pub(crate) use rides::{FinalRide, Party, Status};

use crate::frame::{Event, time};

/// An acked command must have had its effect within this.
const EFFECT_LIMIT: Duration = Duration::from_secs(30);
/// From `ride.arrive` to `ride.completed`: the platform waits up to a minute for the ride's distance.
const FARE_LIMIT: Duration = Duration::from_secs(90);
/// So long after its expiry an offer must have ended.
const OFFER_GRACE: Duration = Duration::from_secs(45);
/// Nothing is overdue for a person who has not been connected for so long.
const SETTLING: Duration = Duration::from_secs(20);
/// So many violations are kept in words; the rest is only counted.
const KEPT: usize = 200;

/// What must happen to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Want {
    /// The offer ends: a ride, or a rejection.
    OfferEnds(String),
    /// The ride gets there, or is cancelled.
    Reaches(String, Status),
    /// The ride ends.
    Ends(String),
    /// The search is announced to the person who began it.
    Search(String),
}

#[derive(Debug)]
struct Expectation {
    user: String,
    want: Want,
    why: &'static str,
    due: Instant,
}

#[derive(Debug)]
struct Person {
    party: Party,
    connected_since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Offer {
    request_id: String,
    accept_sent: Option<Instant>,
    /// Who got `match.found`, and `match.accepted`: driver, passenger.
    found: [bool; 2],
    accepted: [bool; 2],
    /// The reason that each party was told.
    rejected: [Option<String>; 2],
}

/// Everything seen by everybody.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    people: HashMap<String, Person>,
    rides: rides::Rides,
    offers: HashMap<String, Offer>,
    /// The ride that came of each request.
    served: HashMap<String, String>,
    searches: HashSet<String>,
    open: Vec<Expectation>,
    /// Added to every limit.
    outage: Duration,
    violations: Vec<String>,
    unlisted: u64,
}

/// What an event told beside its content.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// For `ride.pickup`: since the driver's accept was sent, if the reader was connected all the time.
    pub(crate) since_accept: Option<Duration>,
}

impl Checks {
    /// Of a platform that may be silent for `outage` longer than usual.
    pub(crate) fn patient(outage: Duration) -> Self {
        Self { outage, ..Self::default() }
    }

    /// Someone takes part.
    pub(crate) fn joined(&mut self, user: &str, party: Party) {
        self.people.insert(user.to_owned(), Person { party, connected_since: None });
    }

    /// Someone is connected since `since`, or not at all.
    pub(crate) fn presence(&mut self, user: &str, since: Option<Instant>) {
        if let Some(person) = self.people.get_mut(user) {
            person.connected_since = since;
        }
    }

    /// Something is wrong that was found elsewhere.
    pub(crate) fn violation(&mut self, text: String) {
        tracing::warn!(violation = %text, "an invariant of the platform does not hold");
        if self.violations.len() < KEPT {
            self.violations.push(text);
        } else {
            self.unlisted += 1;
        }
    }

    /// A driver is about to accept an offer.
    pub(crate) fn accepting(&mut self, match_id: &str, now: Instant) {
        self.offers.entry(match_id.to_owned()).or_default().accept_sent.get_or_insert(now);
    }

    /// A command of `user` was acked; what follows from it is expected.
    pub(crate) fn acked(&mut self, user: &str, why: &'static str, want: Want, now: Instant) {
        let limit = match want {
            Want::Reaches(_, Status::Completed) => FARE_LIMIT,
            _ => EFFECT_LIMIT,
        };
        self.expect(user, why, want, now + limit);
    }

    fn expect(&mut self, user: &str, why: &'static str, want: Want, due: Instant) {
        self.open.push(Expectation { user: user.to_owned(), want, why, due: due + self.outage });
    }

    /// Takes in an event as `user` got it, once for each `seq`.
    pub(crate) fn event(&mut self, user: &str, event: &Event, now: Instant) -> Seen {
        let Some(person) = self.people.get(user) else { return Seen::default() };
        let party = person.party;
        let connected = person.connected_since;
        let kind = event.kind.as_str();
        let mut seen = Seen::default();
        if kind.starts_with("match.") || kind.starts_with("ride.") {
            let owner = event.text(party.field());
            if owner != user {
                self.violation(format!("{} {user} got a stranger's {kind}, of {owner}", party.name()));
                return seen;
            }
        }
        match kind {
            "match.found" => self.found(user, party, event, now),
            "match.rejected" => self.rejected(party, event),
            "match.accepted" => {
                let match_id = event.text("match_id").to_owned();
                self.offers.entry(match_id).or_default().accepted[party.index()] = true;
            }
            "user.beacon" | "user.finder" => {
                if event.text("user_id") != user {
                    self.violation(format!("{user} got a stranger's {kind}, of {}", event.text("user_id")));
                }
                if kind == "user.finder" {
                    self.searches.insert(event.text("request_id").to_owned());
                }
            }
            "location.aggregate" if party == Party::Passenger => {
                let ride_id = event.text("ride_id");
                if ride_id.is_empty() {
                    self.violation(format!("passenger {user} got a location.aggregate of no ride"));
                }
            }
            _ => match Status::of(kind) {
                Some(status) => {
                    for problem in self.rides.event(party, user, status, event, now) {
                        self.violation(problem);
                    }
                    if status == Status::Pickup {
                        let accept = self.picked_up(party, event);
                        let whole = accept.filter(|at| connected.is_some_and(|since| since <= *at));
                        seen.since_accept = whole.map(|at| now.duration_since(at));
                    }
                }
                None => self.violation(format!("{} {user} got {kind}, which is not for clients", party.name())),
            },
        }
        seen
    }

    fn found(&mut self, user: &str, party: Party, event: &Event, now: Instant) {
        let match_id = event.text("match_id").to_owned();
        let offer = self.offers.entry(match_id.clone()).or_default();
        offer.request_id = event.text("request_id").to_owned();
        offer.found[party.index()] = true;
        let times = time(&event.data, "found_at").zip(time(&event.data, "expires_at"));
        let Some((found_at, expires_at)) = times else {
            return self.violation(format!("match {match_id}: match.found without `found_at` or `expires_at`"));
        };
        let ttl = (expires_at - found_at).to_std().unwrap_or(Duration::ZERO).min(Duration::from_secs(600));
        self.expect(user, "match.found", Want::OfferEnds(match_id), now + ttl + OFFER_GRACE);
    }

    fn rejected(&mut self, party: Party, event: &Event) {
        let reason = event.text("reason").to_owned();
        let match_id = event.text("match_id");
        if !["declined", "expired", "cancelled", "superseded"].contains(&reason.as_str()) {
            self.violation(format!("match {match_id}: rejected for `{reason}`, which is no reason"));
        }
        let superseded = reason == "superseded";
        self.offers.entry(match_id.to_owned()).or_default().rejected[party.index()] = Some(reason);
        if superseded && self.rides.of_match(party, match_id).is_some() {
            self.violation(format!("match {match_id}: superseded, and a ride came of it"));
        }
    }

    /// A ride came of an offer: the driver must have accepted it, nobody else may have won it, and the request must not
    /// have been served before. Returns when the driver accepted.
    fn picked_up(&mut self, party: Party, event: &Event) -> Option<Instant> {
        let (match_id, ride_id) = (event.text("match_id"), event.text("ride_id"));
        let mut problems = Vec::new();
        let offer = self.offers.entry(match_id.to_owned()).or_default();
        if offer.accept_sent.is_none() {
            problems.push(format!("ride {ride_id}: its driver never accepted match {match_id}"));
        }
        if offer.rejected[party.index()].as_deref() == Some("superseded") {
            problems.push(format!("ride {ride_id}: match {match_id} was superseded before"));
        }
        if !offer.request_id.is_empty() {
            let winner = self.served.entry(offer.request_id.clone()).or_insert_with(|| ride_id.to_owned());
            if winner != ride_id {
                problems.push(format!("request {} was served two times, {winner} and {ride_id}", offer.request_id));
            }
        }
        let accept_sent = offer.accept_sent;
        problems.into_iter().for_each(|problem| self.violation(problem));
        accept_sent
    }

    /// Looks for what is overdue.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let mut open = std::mem::take(&mut self.open);
        let mut overdue = Vec::new();
        open.retain(|expectation| {
            if self.is_met(expectation) {
                return false;
            }
            let since = self.people.get(&expectation.user).and_then(|person| person.connected_since);
            let settled = since.is_some_and(|since| now.duration_since(since) >= SETTLING);
            let late = settled && now >= expectation.due;
            if late {
                overdue.push(expectation.overdue());
            }
            !late
        });
        self.open = open;
        overdue.into_iter().for_each(|text| self.violation(text));
    }

    fn is_met(&self, expectation: &Expectation) -> bool {
        let Some(person) = self.people.get(&expectation.user) else { return true };
        match &expectation.want {
            Want::OfferEnds(match_id) => {
                let rejected = self.offers.get(match_id).is_some_and(|o| o.rejected[person.party.index()].is_some());
                rejected || self.rides.of_match(person.party, match_id).is_some()
            }
            Want::Reaches(ride_id, status) => self.rides.reached(person.party, ride_id, *status),
            Want::Ends(ride_id) => self.rides.ended(person.party, ride_id),
            Want::Search(request_id) => self.searches.contains(request_id),
        }
    }

    /// A ride of other people than `user`, for trespassers.
    pub(crate) fn ride_of_others(&self, user: &str, after: &str) -> Option<String> {
        self.rides.of_others(user, after)
    }

    /// Whether the two people of every ride have seen the same, and everything expected has happened.
    pub(crate) fn is_quiet(&mut self, now: Instant) -> bool {
        self.sweep(now);
        self.open.is_empty() && self.rides.incomplete() == 0 && self.untold().is_empty()
    }

    /// Looks at the whole once more; `patience` after one of the two has seen a step, the other must have too.
    pub(crate) fn finish(&mut self, now: Instant, patience: Duration) {
        self.sweep(now);
        let mut problems = self.rides.final_problems(now, patience);
        problems.extend(self.untold());
        problems.into_iter().for_each(|problem| self.violation(problem));
    }

    /// Who of a ride that has ended was not told of its offer, or of the answer.
    fn untold(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (ride_id, match_id) in self.rides.ended_matches() {
            let Some(offer) = self.offers.get(match_id) else { continue };
            for party in [Party::Driver, Party::Passenger] {
                for (kind, got) in [("match.found", offer.found), ("match.accepted", offer.accepted)] {
                    if !got[party.index()] {
                        problems.push(format!("ride {ride_id}: the {} never got {kind}", party.name()));
                    }
                }
            }
        }
        problems
    }

    /// Rides that have ended.
    pub(crate) fn final_rides(&self) -> Vec<FinalRide> {
        self.rides.finals()
    }

    /// Rides that have not.
    pub(crate) fn unfinished_rides(&self) -> usize {
        self.rides.unfinished()
    }

    /// Ride events that came after a later one of the same ride.
    pub(crate) fn late_versions(&self) -> u64 {
        self.rides.late
    }

    /// How many violations there are.
    pub(crate) fn count(&self) -> u64 {
        self.violations.len() as u64 + self.unlisted
    }

    /// All violations in words; the last says how many more there are.
    pub(crate) fn texts(&self) -> Vec<String> {
        let mut texts = self.violations.clone();
        if self.unlisted > 0 {
            texts.push(format!("and {} more", self.unlisted));
        }
        texts
    }
}

impl Expectation {
    fn overdue(&self) -> String {
        let Self { user, want, why, .. } = self;
        match want {
            Want::OfferEnds(match_id) => format!("match {match_id}: {why}, but neither ride nor rejection for {user}"),
            Want::Reaches(ride_id, status) => {
                format!("ride {ride_id}: {why} acked, but no ride.{} for {user}", status.name())
            }
            Want::Ends(ride_id) => format!("ride {ride_id}: {why} refused, though the ride has not ended for {user}"),
            Want::Search(request_id) => format!("request {request_id}: {why} acked, but no user.finder for {user}"),
        }
    }
}
