//! One ride as its two parties see it: the events that each received must be the same, in a legal order and chained by their
//! hashes. Pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::time::Instant;

use super::fare;
use crate::frame::{Event, text};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    Driver,
    Passenger,
}

impl Party {
    pub(super) const BOTH: [Self; 2] = [Self::Driver, Self::Passenger];

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Status {
    Pickup,
    Waiting,
    Started,
    Arrived,
    Completed,
    Cancelled,
}

impl Status {
    /// The status after the event of this subject.
    pub(super) fn after(subject: &str) -> Option<Self> {
        Some(match subject {
            "ride.pickup" => Self::Pickup,
            "ride.waiting" => Self::Waiting,
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
            Self::Waiting => "waiting",
            Self::Started => "started",
            Self::Arrived => "arrived",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }

    pub(super) const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled)
    }

    /// The contract's order: pickup, waiting (may be left out), started, arrived, completed; cancelled may follow pickup, waiting or
    /// started.
    fn may_follow(self, before: Option<Self>) -> bool {
        match self {
            Self::Pickup => before.is_none(),
            Self::Waiting => before == Some(Self::Pickup),
            Self::Started => matches!(before, Some(Self::Pickup | Self::Waiting)),
            Self::Arrived => before == Some(Self::Started),
            Self::Completed => before == Some(Self::Arrived),
            Self::Cancelled => matches!(before, Some(Self::Pickup | Self::Waiting | Self::Started)),
        }
    }
}

/// One event of a ride, by its `version`.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) status: Status,
    /// Of the body without what only one of the two receives: the PIN, and who the other one is.
    digest: u64,
    hash: String,
    previous_hash: String,
    pub(super) occurred_at: DateTime<Utc>,
    /// The fare in minor units, of a completed ride.
    pub(super) total: Option<i64>,
}

impl Version {
    pub(super) fn read(status: Status, event: &Event, occurred_at: DateTime<Utc>) -> Self {
        Self {
            status,
            digest: digest_of_both(&event.data),
            hash: event.text("hash").to_owned(),
            previous_hash: event.text("previous_hash").to_owned(),
            occurred_at,
            total: event.data.pointer("/fare/total/amount").and_then(Value::as_i64),
        }
    }
}

#[derive(Debug)]
pub(super) struct Ride {
    pub(super) match_id: String,
    /// The user ids of driver and passenger.
    pub(super) people: [String; 2],
    /// Who of them is simulated. What a stranger receives is not seen here.
    pub(super) simulated: [bool; 2],
    pub(super) versions: BTreeMap<u64, Version>,
    /// When each party first received each version.
    pub(super) received: [BTreeMap<u64, Instant>; 2],
}

impl Ride {
    pub(super) fn new(event: &Event, simulated: [bool; 2]) -> Self {
        Self {
            match_id: event.text("match_id").to_owned(),
            people: [event.text("driver_id").to_owned(), event.text("passenger_id").to_owned()],
            simulated,
            versions: BTreeMap::new(),
            received: [BTreeMap::new(), BTreeMap::new()],
        }
    }

    /// The newest version that either party has received, and its number.
    pub(super) fn newest(&self) -> Option<(u64, &Version)> {
        self.versions.last_key_value().map(|(number, version)| (*number, version))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.newest().is_some_and(|(_, version)| version.status.is_final())
    }

    /// The versions that this party has received.
    pub(super) fn received_by(&self, party: Party) -> impl Iterator<Item = &Version> {
        self.received[party.index()].keys().filter_map(|number| self.versions.get(number))
    }

    /// Whether both parties have received the same versions, without a gap.
    pub(super) fn is_complete(&self) -> bool {
        let same = self.simulated != [true; 2] || self.received[0].keys().eq(self.received[1].keys());
        same && self.newest().is_none_or(|(newest, _)| self.versions.len() as u64 == newest)
    }

    /// Adds a version, or compares it with the one that the other party received. Returns what is wrong.
    pub(super) fn add(&mut self, ride_id: &str, number: u64, version: Version) -> Vec<String> {
        if let Some(known) = self.versions.get(&number) {
            let same = known.status == version.status && known.hash == version.hash && known.digest == version.digest;
            let problem = format!("ride {ride_id}: version {number} is not the same for both, or has changed");
            return if same { Vec::new() } else { vec![problem] };
        }
        let mut problems = Vec::new();
        let before = number.checked_sub(1).and_then(|n| self.versions.get(&n));
        if before.is_some() || number <= 1 {
            problems.extend(order_problems(ride_id, number, before, &version));
        }
        if let Some(after) = self.versions.get(&(number + 1)) {
            problems.extend(order_problems(ride_id, number + 1, Some(&version), after));
        }
        self.versions.insert(number, version);
        problems
    }

    /// Versions that nobody has received, and those that one party still has not received `patience` after the other.
    pub(super) fn missing_versions(&self, ride_id: &str, now: Instant, patience: Duration) -> Vec<String> {
        let mut problems = Vec::new();
        let newest = self.newest().map_or(0, |(number, _)| number);
        for number in 1..=newest {
            let received = [self.received[0].get(&number), self.received[1].get(&number)];
            match received {
                [Some(_), Some(_)] => {}
                [None, None] => problems.push(format!("ride {ride_id}: nobody got version {number} of {newest}")),
                [Some(at), None] | [None, Some(at)] if now.duration_since(*at) >= patience => {
                    let party = if received[0].is_none() { Party::Driver } else { Party::Passenger };
                    if !self.simulated[party.index()] {
                        continue;
                    }
                    let status = self.versions.get(&number).map_or("?", |version| version.status.name());
                    problems
                        .push(format!("ride {ride_id}: the {} never got version {number} ({status})", party.name()));
                }
                _ => {}
            }
        }
        problems
    }
}

/// What is wrong with `version` as the successor of `before`.
fn order_problems(ride_id: &str, number: u64, before: Option<&Version>, version: &Version) -> Vec<String> {
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

/// What is wrong with the body of a `ride.*` event, without knowledge of the events before it.
pub(super) fn body_problems(party: Party, status: Status, event: &Event) -> Vec<String> {
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
    let has_pin = !event.text("pin").is_empty();
    if has_pin != (party == Party::Passenger && status == Status::Pickup) {
        let verb = if has_pin { "holds a PIN" } else { "lacks the PIN" };
        problems.push(format!("ride {ride_id}: the {}'s {} {verb}", party.name(), event.kind));
    }
    if status == Status::Completed {
        problems.extend(fare::problems(&event.data).into_iter().map(|problem| format!("ride {ride_id}: {problem}")));
    }
    let has_fee = event.data.pointer("/fee/amount").and_then(Value::as_i64).is_some_and(|cents| cents > 0);
    if status == Status::Cancelled && has_fee {
        problems.extend(fare::problems(&event.data).into_iter().map(|problem| format!("ride {ride_id}: {problem}")));
    }
    if status == Status::Cancelled && text(&event.data, "by").is_empty() {
        problems.push(format!("ride {ride_id}: cancelled by nobody"));
    }
    problems
}

fn digest_of_both(data: &Value) -> u64 {
    let mut data = data.clone();
    if let Some(fields) = data.as_object_mut() {
        for of_one in ["pin", "driver", "passenger"] {
            fields.remove(of_one);
        }
    }
    let mut hasher = DefaultHasher::new();
    data.to_string().hash(&mut hasher);
    hasher.finish()
}
