//! All rides of a run: one ride a match, one live ride a person, and what is missing at the end. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::time::Instant;

use super::ride::{Party, Ride, Status, Version, body_problems};
use crate::frame::{Event, time};

/// A ride that has ended, as its events tell it.
#[derive(Debug, Clone)]
pub(crate) struct EndedRide {
    pub(crate) ride_id: String,
    pub(crate) driver_id: String,
    pub(crate) passenger_id: String,
    pub(crate) status: Status,
    pub(crate) version: u64,
    /// The fare in minor units, of a completed ride.
    pub(crate) total: Option<i64>,
}

#[derive(Debug, Default)]
pub(super) struct Rides {
    rides: BTreeMap<String, Ride>,
    /// The live rides of each person, by the events that the person has received.
    live: HashMap<String, BTreeSet<String>>,
    by_match: HashMap<String, String>,
    /// Rides of which somebody saw a live position before anybody received an event, and who.
    seen_early: BTreeMap<String, String>,
    /// Events that arrived after one with a higher version: legal, but worth a number.
    pub(super) late_versions: u64,
}

impl Rides {
    /// Adds a `ride.*` event that `user` received; `simulated` says which parties are. Returns what is wrong with it.
    pub(super) fn receive(
        &mut self,
        (party, user): (Party, &str),
        simulated: [bool; 2],
        status: Status,
        event: &Event,
        now: Instant,
    ) -> Vec<String> {
        let ride_id = event.text("ride_id").to_owned();
        let mut problems = body_problems(party, status, event);
        let number = event.data.get("version").and_then(Value::as_u64);
        let (Some(number), Some(occurred_at)) = (number, time(&event.data, "occurred_at")) else {
            problems.push(format!("ride {ride_id}: {} without `version` or `occurred_at`", event.kind));
            return problems;
        };
        problems.extend(self.second_ride_of_match(event.text("match_id"), &ride_id));
        let ride = self.rides.entry(ride_id.clone()).or_insert_with(|| Ride::new(event, simulated));
        if ride.match_id != event.text("match_id") || ride.people[party.index()] != user {
            problems.push(format!("ride {ride_id}: {} names another match or another {}", event.kind, party.name()));
        }
        let passenger = &ride.people[Party::Passenger.index()];
        if let Some(viewer) = self.seen_early.remove(&ride_id).filter(|viewer| viewer != passenger) {
            problems.push(format!("ride {ride_id}: {viewer} saw where it was, and rides in another"));
        }
        let received = &mut ride.received[party.index()];
        if received.contains_key(&number) {
            let twice = if status == Status::Completed { "charged two times" } else { "the same step two times" };
            problems.push(format!("ride {ride_id}: {twice}: version {number} again at the {}", party.name()));
        } else if received.last_key_value().is_some_and(|(newest, _)| *newest > number) {
            self.late_versions += 1;
        }
        received.entry(number).or_insert(now);
        problems.extend(ride.add(&ride_id, number, Version::read(status, event, occurred_at)));
        problems.extend(self.second_live_ride(party, user, &ride_id));
        problems
    }

    fn second_ride_of_match(&mut self, match_id: &str, ride_id: &str) -> Option<String> {
        let first = self.by_match.entry(match_id.to_owned()).or_insert_with(|| ride_id.to_owned());
        (first != ride_id).then(|| format!("match {match_id} became two rides, {first} and {ride_id}"))
    }

    /// Updates the person's live rides after an event of this ride. If the end of a ride arrived before its beginning, the ride
    /// is not live.
    fn second_live_ride(&mut self, party: Party, user: &str, ride_id: &str) -> Option<String> {
        let ended = self.rides.get(ride_id)?.received_by(party).any(|version| version.status.is_final());
        let live = self.live.entry(user.to_owned()).or_default();
        if ended {
            live.remove(ride_id);
            None
        } else if live.insert(ride_id.to_owned()) && live.len() > 1 {
            let rides = live.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            Some(format!("{} {user} is in {} live rides: {rides}", party.name(), live.len()))
        } else {
            None
        }
    }

    /// Whether this party has received the status, or the cancellation.
    pub(super) fn has_reached(&self, party: Party, ride_id: &str, status: Status) -> bool {
        self.rides.get(ride_id).is_some_and(|ride| {
            ride.received_by(party).any(|version| version.status == status || version.status == Status::Cancelled)
        })
    }

    /// Whether this party has received the ride's end.
    pub(super) fn has_ended(&self, party: Party, ride_id: &str) -> bool {
        self.has_reached(party, ride_id, Status::Completed)
    }

    /// The live ride of `user` by the events that this party has received, and the newest version of these.
    pub(super) fn newest_of_live(&self, party: Party, user: &str) -> Option<(&str, u64)> {
        let ride_id = self.live.get(user)?.iter().next()?;
        let newest = self.rides.get(ride_id)?.received[party.index()].keys().next_back()?;
        Some((ride_id, *newest))
    }

    /// The driver of a live ride as its passenger `user` knows it, and whether the passenger has received its start. `None` before
    /// `ride.pickup`, after the end, and for everybody else.
    pub(super) fn live_of_passenger(&self, user: &str, ride_id: &str) -> Option<(&str, bool)> {
        let [driver, passenger] = &self.rides.get(ride_id)?.people;
        let is_live = passenger == user && self.live.get(user).is_some_and(|live| live.contains(ride_id));
        is_live.then(|| (driver.as_str(), self.has_reached(Party::Passenger, ride_id, Status::Started)))
    }

    /// Whether `user` rides in it and has not received its pickup: the events may come later than a live position.
    pub(super) fn is_ahead_of_pickup(&mut self, user: &str, ride_id: &str) -> bool {
        let party = Party::Passenger.index();
        match self.rides.get(ride_id) {
            Some(ride) => ride.people[party] == user && ride.received[party].is_empty(),
            // Judged when its first event comes.
            None => self.seen_early.entry(ride_id.to_owned()).or_insert_with(|| user.to_owned()) == user,
        }
    }

    /// Rides of which somebody saw a live position, and no event ever.
    pub(super) fn never_begun(&self) -> impl Iterator<Item = &str> {
        self.seen_early.keys().map(String::as_str)
    }

    /// The passenger of a ride that the passenger knows to be live.
    pub(super) fn live_passenger(&self, ride_id: &str) -> Option<&str> {
        let passenger = self.rides.get(ride_id)?.people[Party::Passenger.index()].as_str();
        self.live.get(passenger).is_some_and(|live| live.contains(ride_id)).then_some(passenger)
    }

    /// Whether this party has received a ride of the match.
    pub(super) fn knows_ride_of(&self, party: Party, match_id: &str) -> bool {
        let ride = self.by_match.get(match_id).and_then(|ride_id| self.rides.get(ride_id));
        ride.is_some_and(|ride| !ride.received[party.index()].is_empty())
    }

    /// A ride in which `user` takes no part: the first with an id from `from` on, else the first of all.
    pub(super) fn without(&self, user: &str, from: &str) -> Option<String> {
        let mut rides = self.rides.range(from.to_owned()..).chain(self.rides.iter());
        rides.find(|(_, ride)| ride.people.iter().all(|id| id != user)).map(|(ride_id, _)| ride_id.clone())
    }

    /// Rides of which the parties have received different versions, or with a version that neither has received.
    pub(super) fn incomplete(&self) -> usize {
        self.rides.values().filter(|ride| !ride.is_complete()).count()
    }

    pub(super) fn unfinished(&self) -> usize {
        self.rides.values().filter(|ride| !ride.has_ended()).count()
    }

    /// Each ended ride with its id, in order of ride ids.
    pub(super) fn with_end(&self) -> impl Iterator<Item = (&str, &Ride)> {
        self.rides.iter().filter(|(_, ride)| ride.has_ended()).map(|(ride_id, ride)| (ride_id.as_str(), ride))
    }

    /// In order of ride ids.
    pub(super) fn ended(&self) -> Vec<EndedRide> {
        let ended = self.rides.iter().filter_map(|(ride_id, ride)| {
            let (number, version) = ride.newest()?;
            version.status.is_final().then(|| EndedRide {
                ride_id: ride_id.clone(),
                driver_id: ride.people[0].clone(),
                passenger_id: ride.people[1].clone(),
                status: version.status,
                version: number,
                total: version.total,
            })
        });
        ended.collect()
    }

    /// What is wrong at the end: missing versions (see [`Ride::missing_versions`]), and people whose rides overlap by
    /// `occurred_at`.
    pub(super) fn final_problems(&self, now: Instant, patience: Duration) -> Vec<String> {
        let mut problems = Vec::new();
        let mut spans: BTreeMap<(usize, &str), Vec<Span<'_>>> = BTreeMap::new();
        for (ride_id, ride) in &self.rides {
            problems.extend(ride.missing_versions(ride_id, now, patience));
            let newest = ride.newest().map(|(_, version)| version);
            let to = newest.filter(|version| version.status.is_final()).map(|version| version.occurred_at);
            if let Some(first) = ride.versions.get(&1) {
                for (index, user) in ride.people.iter().enumerate() {
                    spans.entry((index, user)).or_default().push(Span { from: first.occurred_at, to, ride_id });
                }
            }
        }
        for ((index, user), mut spans) in spans {
            spans.sort_by_key(|span| span.from);
            for pair in spans.windows(2) {
                let [first, second] = pair else { continue };
                if first.to.is_none_or(|to| to > second.from) {
                    problems.push(format!(
                        "{} {user} was in two rides at a time by their times: {} and {}",
                        Party::BOTH[index].name(),
                        first.ride_id,
                        second.ride_id
                    ));
                }
            }
        }
        problems
    }
}

/// The time from the first to the last event of a ride; `to` is none if it has not ended.
struct Span<'a> {
    from: DateTime<Utc>,
    to: Option<DateTime<Utc>>,
    ride_id: &'a str,
}
