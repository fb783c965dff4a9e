//! What the two people of each ride have seen of it, and whether it is the same, in a legal order and chained. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::time::Instant;

use super::fare;
use crate::frame::{Event, text, time};

/// One of the two people of a ride.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    Driver,
    Passenger,
}

impl Party {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Passenger => "passenger",
        }
    }

    /// The field of an event that holds this party's id.
    pub(super) const fn field(self) -> &'static str {
        match self {
            Self::Driver => "driver_id",
            Self::Passenger => "passenger_id",
        }
    }

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Driver => 0,
            Self::Passenger => 1,
        }
    }
}

/// Where a ride stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Status {
    Pickup,
    Started,
    Arrived,
    Completed,
    Cancelled,
}

impl Status {
    /// The status that an event of this subject leads to.
    pub(crate) fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "ride.pickup" => Self::Pickup,
            "ride.started" => Self::Started,
            "ride.arrived" => Self::Arrived,
            "ride.completed" => Self::Completed,
            "ride.cancelled" => Self::Cancelled,
            _ => return None,
        })
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pickup => "pickup",
            Self::Started => "started",
            Self::Arrived => "arrived",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }

    pub(crate) const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled)
    }

    /// The contract's order: pickup, started, arrived, completed; cancelled may follow pickup or started.
    fn may_follow(self, before: Option<Self>) -> bool {
        match self {
            Self::Pickup => before.is_none(),
            Self::Started => before == Some(Self::Pickup),
            Self::Arrived => before == Some(Self::Started),
            Self::Completed => before == Some(Self::Arrived),
            Self::Cancelled => matches!(before, Some(Self::Pickup | Self::Started)),
        }
    }
}

/// A ride in its last status, for comparison with what the platform answers when asked.
#[derive(Debug, Clone)]
pub(crate) struct FinalRide {
    pub(crate) ride_id: String,
    pub(crate) driver_id: String,
    pub(crate) passenger_id: String,
    pub(crate) status: Status,
    pub(crate) version: u64,
    /// In minor units, of a completed ride.
    pub(crate) total: Option<i64>,
}

#[derive(Debug)]
struct Version {
    status: Status,
    content: u64,
    hash: String,
    previous_hash: String,
    occurred_at: DateTime<Utc>,
    total: Option<i64>,
}

#[derive(Debug)]
struct Ride {
    match_id: String,
    people: [String; 2],
    versions: BTreeMap<u64, Version>,
    /// When each party first saw each version.
    seen: [BTreeMap<u64, Instant>; 2],
}

/// Every ride that anybody has seen.
#[derive(Debug, Default)]
pub(crate) struct Rides {
    rides: BTreeMap<String, Ride>,
    live: HashMap<String, BTreeSet<String>>,
    by_match: HashMap<String, String>,
    /// Events that came after one with a higher version: legal, but worth a number.
    pub(super) late: u64,
}

impl Rides {
    /// Takes in a `ride.*` event as `user` got it. Returns what is wrong with it.
    pub(super) fn event(
        &mut self,
        party: Party,
        user: &str,
        status: Status,
        event: &Event,
        now: Instant,
    ) -> Vec<String> {
        let ride_id = event.text("ride_id").to_owned();
        let mut problems = shape_problems(party, status, event);
        let (Some(number), Some(occurred_at)) = (version_of(event), time(&event.data, "occurred_at")) else {
            problems.push(format!("ride {ride_id}: {} without `version` or `occurred_at`", event.kind));
            return problems;
        };
        problems.extend(self.one_winner(event.text("match_id"), &ride_id));
        let ride = self.rides.entry(ride_id.clone()).or_insert_with(|| Ride {
            match_id: event.text("match_id").to_owned(),
            people: [event.text("driver_id").to_owned(), event.text("passenger_id").to_owned()],
            versions: BTreeMap::new(),
            seen: [BTreeMap::new(), BTreeMap::new()],
        });
        if ride.match_id != event.text("match_id") || ride.people[party.index()] != user {
            problems.push(format!("ride {ride_id}: {} names another match or another {}", event.kind, party.name()));
        }
        let seen = &mut ride.seen[party.index()];
        if seen.contains_key(&number) {
            let twice = if status == Status::Completed { "charged two times" } else { "the same step two times" };
            problems.push(format!("ride {ride_id}: {twice}: version {number} again at the {}", party.name()));
        } else if seen.last_key_value().is_some_and(|(newest, _)| *newest > number) {
            self.late += 1;
        }
        seen.entry(number).or_insert(now);
        let version = Version {
            status,
            content: content(&event.data),
            hash: event.text("hash").to_owned(),
            previous_hash: event.text("previous_hash").to_owned(),
            occurred_at,
            total: event.data.pointer("/fare/total/amount").and_then(Value::as_i64),
        };
        problems.extend(ride.insert(&ride_id, number, version));
        problems.extend(self.live_problem(party, user, &ride_id));
        problems
    }

    fn one_winner(&mut self, match_id: &str, ride_id: &str) -> Option<String> {
        let winner = self.by_match.entry(match_id.to_owned()).or_insert_with(|| ride_id.to_owned());
        (winner != ride_id).then(|| format!("match {match_id} became two rides, {winner} and {ride_id}"))
    }

    /// Keeps the set of rides that are live as `user` sees it. A ride whose end came before its beginning is not live.
    fn live_problem(&mut self, party: Party, user: &str, ride_id: &str) -> Option<String> {
        let ride = self.rides.get(ride_id)?;
        let over = ride.seen[party.index()].keys().any(|n| ride.versions.get(n).is_some_and(|v| v.status.is_final()));
        let live = self.live.entry(user.to_owned()).or_default();
        if over {
            live.remove(ride_id);
            None
        } else if live.insert(ride_id.to_owned()) && live.len() > 1 {
            let rides = live.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            Some(format!("{} {user} is in {} live rides: {rides}", party.name(), live.len()))
        } else {
            None
        }
    }

    /// Whether this party has seen the ride in this status, or ended in another way.
    pub(super) fn reached(&self, party: Party, ride_id: &str, status: Status) -> bool {
        self.rides.get(ride_id).is_some_and(|ride| {
            ride.seen[party.index()]
                .keys()
                .filter_map(|number| ride.versions.get(number))
                .any(|version| version.status == status || version.status == Status::Cancelled)
        })
    }

    /// Whether this party has seen the ride's last step.
    pub(super) fn ended(&self, party: Party, ride_id: &str) -> bool {
        self.reached(party, ride_id, Status::Completed)
    }

    /// The ride that came of a match, if this party knows it.
    pub(super) fn of_match(&self, party: Party, match_id: &str) -> Option<&str> {
        let ride_id = self.by_match.get(match_id)?;
        let ride = self.rides.get(ride_id)?;
        (!ride.seen[party.index()].is_empty()).then_some(ride_id.as_str())
    }

    /// A ride of other people than `user`, for trespassers: the one whose id follows `after`.
    pub(super) fn of_others(&self, user: &str, after: &str) -> Option<String> {
        let later = self.rides.range(after.to_owned()..).chain(self.rides.iter());
        later.filter(|(_, ride)| ride.people.iter().all(|one| one != user)).map(|(id, _)| id.clone()).next()
    }

    /// Rides that the two have not seen the same steps of, or with a step that neither has seen yet.
    pub(super) fn incomplete(&self) -> usize {
        let equal = |ride: &Ride| ride.seen[0].keys().eq(ride.seen[1].keys());
        let whole = |ride: &Ride| ride.last().is_none_or(|(newest, _)| ride.versions.len() as u64 == newest);
        self.rides.values().filter(|ride| !equal(ride) || !whole(ride)).count()
    }

    /// Rides without an end.
    pub(super) fn unfinished(&self) -> usize {
        self.rides.values().filter(|ride| ride.last().is_none_or(|(_, version)| !version.status.is_final())).count()
    }

    /// The rides that have ended, with their matches.
    pub(super) fn ended_matches(&self) -> impl Iterator<Item = (&str, &str)> {
        let ended = |ride: &Ride| ride.last().is_some_and(|(_, version)| version.status.is_final());
        self.rides.iter().filter(move |(_, ride)| ended(ride)).map(|(id, ride)| (id.as_str(), ride.match_id.as_str()))
    }

    /// All rides that have ended, in the order of their ids.
    pub(super) fn finals(&self) -> Vec<FinalRide> {
        let final_ride = |(ride_id, ride): (&String, &Ride)| {
            let (number, version) = ride.last()?;
            version.status.is_final().then(|| FinalRide {
                ride_id: ride_id.clone(),
                driver_id: ride.people[0].clone(),
                passenger_id: ride.people[1].clone(),
                status: version.status,
                version: number,
                total: version.total,
            })
        };
        self.rides.iter().filter_map(final_ride).collect()
    }

    /// What is missing at the end: steps that nobody saw, and steps that one of the two still has not seen `patience`
    /// after the other; and people who were in two rides at a time by the rides' own clocks.
    pub(super) fn final_problems(&self, now: Instant, patience: Duration) -> Vec<String> {
        let mut problems = Vec::new();
        let mut spans: BTreeMap<(usize, &str), Vec<Span<'_>>> = BTreeMap::new();
        for (ride_id, ride) in &self.rides {
            problems.extend(ride.missing(ride_id, now, patience));
            let from = ride.versions.get(&1).map(|version| version.occurred_at);
            let last = ride.last().map(|(_, version)| version);
            let to = last.filter(|version| version.status.is_final()).map(|version| version.occurred_at);
            if let Some(from) = from {
                for (index, user) in ride.people.iter().enumerate() {
                    spans.entry((index, user)).or_default().push(Span { from, to, ride_id });
                }
            }
        }
        for ((index, user), mut spans) in spans {
            spans.sort_by_key(|span| span.from);
            for pair in spans.windows(2) {
                let [first, second] = pair else { continue };
                if first.to.is_none_or(|to| to > second.from) {
                    let who = if index == 0 { "driver" } else { "passenger" };
                    problems.push(format!(
                        "{who} {user} was in two rides at a time by their times: {} and {}",
                        first.ride_id, second.ride_id
                    ));
                }
            }
        }
        problems
    }
}

struct Span<'a> {
    from: DateTime<Utc>,
    to: Option<DateTime<Utc>>,
    ride_id: &'a str,
}

impl Ride {
    fn last(&self) -> Option<(u64, &Version)> {
        self.versions.last_key_value().map(|(number, version)| (*number, version))
    }

    /// Adds a version, or compares it with what the other party saw.
    fn insert(&mut self, ride_id: &str, number: u64, version: Version) -> Vec<String> {
        if let Some(known) = self.versions.get(&number) {
            let same = known.status == version.status && known.hash == version.hash && known.content == version.content;
            let problem = format!("ride {ride_id}: version {number} is not the same for both, or has changed");
            return if same { Vec::new() } else { vec![problem] };
        }
        let mut problems = Vec::new();
        let before = number.checked_sub(1).and_then(|n| self.versions.get(&n));
        let after = self.versions.get(&(number + 1));
        if before.is_some() || number <= 1 {
            problems.extend(link_problem(ride_id, number, before, &version));
        }
        if let Some(after) = after {
            problems.extend(link_problem(ride_id, number + 1, Some(&version), after));
        }
        self.versions.insert(number, version);
        problems
    }

    fn missing(&self, ride_id: &str, now: Instant, patience: Duration) -> Vec<String> {
        let mut problems = Vec::new();
        let newest = self.last().map_or(0, |(number, _)| number);
        for number in 1..=newest {
            let seen = [self.seen[0].get(&number), self.seen[1].get(&number)];
            match seen {
                [Some(_), Some(_)] => {}
                [None, None] => problems.push(format!("ride {ride_id}: nobody got version {number} of {newest}")),
                [Some(at), None] | [None, Some(at)] if now.duration_since(*at) >= patience => {
                    let who = if seen[0].is_none() { "driver" } else { "passenger" };
                    let what = self.versions.get(&number).map_or("?", |version| version.status.name());
                    problems.push(format!("ride {ride_id}: the {who} never got version {number} ({what})"));
                }
                _ => {}
            }
        }
        problems
    }
}

/// What is wrong with `version` as the successor of `before`.
fn link_problem(ride_id: &str, number: u64, before: Option<&Version>, version: &Version) -> Vec<String> {
    let mut problems = Vec::new();
    let status_before = before.map(|before| before.status);
    if number == 0 || !version.status.may_follow(status_before) {
        let name = status_before.map_or("nothing", Status::name);
        problems.push(format!("ride {ride_id}: {} as version {number} after {name}", version.status.name()));
    }
    let zeros = "0".repeat(64);
    let expected = before.map_or(zeros.as_str(), |before| before.hash.as_str());
    if version.previous_hash != expected {
        problems.push(format!("ride {ride_id}: version {number} does not hold the hash of the one before"));
    }
    problems
}

/// What is wrong with the body alone.
fn shape_problems(party: Party, status: Status, event: &Event) -> Vec<String> {
    let ride_id = event.text("ride_id");
    let mut problems = Vec::new();
    if event.text("status") != status.name() {
        problems.push(format!("ride {ride_id}: {} says status `{}`", event.kind, event.text("status")));
    }
    for field in ["hash", "previous_hash"] {
        let hash = event.text(field);
        if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            problems.push(format!("ride {ride_id}: {} without a SHA-256 in `{field}`", event.kind));
        }
    }
    let pin = !event.text("pin").is_empty();
    if pin != (party == Party::Passenger && status == Status::Pickup) {
        let verb = if pin { "holds a PIN" } else { "lacks the PIN" };
        problems.push(format!("ride {ride_id}: the {}'s {} {verb}", party.name(), event.kind));
    }
    if status == Status::Completed {
        problems.extend(fare::problems(&event.data).into_iter().map(|problem| format!("ride {ride_id}: {problem}")));
    }
    if status == Status::Cancelled && text(&event.data, "by").is_empty() {
        problems.push(format!("ride {ride_id}: cancelled by nobody"));
    }
    problems
}

fn version_of(event: &Event) -> Option<u64> {
    event.data.get("version").and_then(Value::as_u64)
}

/// A digest of the body as both parties must see it: all but the passenger's PIN.
fn content(data: &Value) -> u64 {
    let mut data = data.clone();
    if let Some(fields) = data.as_object_mut() {
        fields.remove("pin");
    }
    let mut hasher = DefaultHasher::new();
    data.to_string().hash(&mut hasher);
    hasher.finish()
}
