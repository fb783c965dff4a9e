//! Why a search was offered to this driver, or to nobody: the candidates as the engine saw them, when the recorded steps are run
//! again. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use streams::{Event, MatchId, Position, RequestId, UserId, VehicleType};

use super::replay::{Replay, RulesByVersion};
use super::{Entry, Kind};
use crate::engine::assign::WaitingRequest;
use crate::engine::{Decision, Marketplace, Standing};
use crate::zones::ZoneSet;

/// Candidates of one decision, the nearest first.
const CANDIDATES_MAX: usize = 50;
/// Drivers outside the radius are listed up to this many times the radius.
const OUTSIDE: f64 = 1.5;
/// Decisions about one search that are listed, the first ones and the last.
const DECISIONS_MAX: usize = 100;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Match(MatchId),
    Request(RequestId),
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Explanation {
    /// The same decisions came out when the recorded inputs were run again.
    pub reproduced: bool,
    /// Why not.
    pub reason: Option<String>,
    /// One for a match. For a search each recorded step that looked for a driver for it.
    pub decisions: Vec<Explained>,
    /// Decisions that are not listed, between the first ones and the last.
    pub left_out: usize,
}

/// One decision about one search.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "ExplainedDecision")]
pub struct Explained {
    #[serde(with = "streams::event::rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub at: DateTime<Utc>,
    /// The term of the process that decided, and the number of the step in it.
    pub term: i64,
    pub step: i64,
    /// Whether the step put out what is recorded, bit for bit.
    pub reproduced: bool,
    pub policy: &'static str,
    pub window_ms: i64,
    pub radius_m: f64,
    pub market_id: String,
    /// Of the rules, markets included.
    pub rules_version: String,
    pub request_id: RequestId,
    pub vehicle_type: VehicleType,
    /// Since the search began, or went on.
    pub waited_s: f64,
    /// Other searches that the step looked for drivers for.
    pub others_waiting: usize,
    pub outcome: Outcome,
    pub match_id: Option<MatchId>,
    pub candidates: Vec<Candidate>,
    /// Candidates that are not listed, because they are farther.
    pub left_out: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "DecisionOutcome")]
pub enum Outcome {
    Offered,
    /// There are free drivers, and the policy waits for a better one, or gives them to others.
    HeldBack,
    /// The passenger moved or ended searches again and again, or the search has just gone on after a cancellation.
    Resting,
    /// For 250 ms at most, until it is known how long drivers need by road.
    AwaitingRoads,
    NoDriver,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "ExplainedCandidate")]
pub struct Candidate {
    pub driver_id: UserId,
    /// Great circle to the pickup.
    #[serde(serialize_with = "whole")]
    #[schemars(with = "f64")]
    pub distance_m: f64,
    /// As an offer says it.
    #[serde(serialize_with = "whole")]
    #[schemars(with = "f64")]
    pub eta_s: f64,
    #[serde(flatten)]
    pub why: Why,
    #[serde(skip)]
    pub(super) position: Position,
}

fn whole<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(number.round())
}

/// Why a driver is offered a search, or not.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "why", rename_all = "snake_case")]
#[schemars(rename = "WhyOffered")]
pub enum Why {
    Offered,
    /// Free, and another pair of driver and search costs less in all.
    CostsMore,
    /// Free, and offered another search in the same step.
    OfferedAnother {
        request_id: RequestId,
    },
    /// Free, and asked after all others, because the driver declined or missed an offer of this search.
    AskedBefore,
    /// The driver declined an offer of this search.
    Declined {
        until: DateTime<Utc>,
    },
    /// The driver did not answer offers of this search in time.
    Missed {
        times: u32,
        until: DateTime<Utc>,
    },
    /// The driver cancelled a ride of this passenger.
    CancelledRide,
    /// The driver has an open offer.
    InOffer,
    /// The driver is in a ride; near its end the policy may wait for them.
    InRide {
        free_in_s: Option<i64>,
        may_be_waited_for: bool,
    },
    OffDuty,
    OtherVehicle,
    OtherMarket,
    OutsideRadius,
    /// Free, and no road leads from there.
    NoRoad,
    /// The passenger themself.
    IsPassenger,
}

/// Runs entries again until what is asked for is explained.
#[derive(Debug)]
pub struct Explainer {
    target: Target,
    replay: Option<Replay>,
    decisions: Vec<Explained>,
    left_out: usize,
    /// The number of the zone of the chain in hand.
    zone: u16,
    /// The zones that decided about it.
    zones: ZoneSet,
    /// By zone: why a chain cannot go on, or its decisions are others.
    reasons: BTreeMap<u16, String>,
    is_done: bool,
}

impl Explainer {
    pub fn new(target: Target) -> Self {
        let (zone, zones, reasons) = Default::default();
        Self { target, replay: None, decisions: Vec::new(), left_out: 0, zone, zones, reasons, is_done: false }
    }

    /// The next entry. True if no more are needed.
    pub fn entry(&mut self, entry: &Entry, rules: &RulesByVersion) -> bool {
        if let Err(why) = self.try_entry(entry, rules) {
            self.replay = None;
            self.reasons.entry(self.zone).or_insert(why);
        }
        self.is_done
    }

    fn try_entry(&mut self, entry: &Entry, rules: &RulesByVersion) -> Result<(), String> {
        if entry.kind == Kind::Snapshot {
            let known = rules.get(&entry.rules_version).and_then(|rules| rules.as_ref().ok());
            self.zone = known.map_or(self.zone, |rules| rules.zone.number);
            self.replay = Some(Replay::begin(entry, rules)?);
            return Ok(());
        }
        // After a break nothing is known until the next snapshot.
        let Some(replay) = &mut self.replay else { return Ok(()) };
        let mut seen = Vec::new();
        let asked = self.target;
        let replayed = replay.step_observed(entry, rules, &mut |decision| match asked {
            Target::Request(id) => seen.extend(explained(decision, id, entry)),
            Target::Match(_) => {
                let ids = decision.assignments.iter().map(|assignment| assignment.request_id);
                seen.extend(ids.filter_map(|id| explained(decision, id, entry)));
            }
        })?;
        let decides = match self.target {
            Target::Match(id) => replayed.step.match_ids.contains(&id),
            Target::Request(_) => !seen.is_empty(),
        };
        if decides && !replayed.is_same {
            let why = format!("step {} of term {} decides otherwise now", entry.number, entry.epoch);
            self.reasons.entry(self.zone).or_insert(why);
        }
        for mut explained in seen {
            let found = replayed.output.events.iter().find_map(|event| match event {
                Event::MatchFound(e) if e.request_id == explained.request_id => Some(e.match_id),
                _ => None,
            });
            (explained.match_id, explained.reproduced) = (found, replayed.is_same);
            if matches!(self.target, Target::Request(_)) || found.map(Target::Match) == Some(self.target) {
                self.zones = self.zones.union(ZoneSet::of(self.zone));
                self.decisions.push(explained);
            }
        }
        if self.decisions.len() > DECISIONS_MAX {
            self.decisions.remove(DECISIONS_MAX / 2);
            self.left_out += 1;
        }
        self.is_done = decides && matches!(self.target, Target::Match(_));
        Ok(())
    }

    pub fn finish(self) -> Explanation {
        let Self { mut decisions, left_out, zones, reasons, is_done, .. } = self;
        // With zones, terms are beside each other in time.
        decisions.sort_by_key(|decision| decision.at);
        // What is missing of another zone does not matter.
        let of_zones = |zone: u16| zones.is_empty() || zones.contains(zone);
        let mut reason = reasons.into_iter().find(|(zone, _)| of_zones(*zone)).map(|(_, why)| why);
        if let Some(first) = decisions.iter().find(|d| !d.reproduced) {
            reason = Some(format!("step {} of term {} decides otherwise now", first.step, first.term));
        } else if is_done && !decisions.is_empty() {
            // A break before the snapshot in use does not matter.
            reason = None;
        } else if decisions.is_empty() {
            reason = reason.or_else(|| Some("no recorded step decided about it".to_owned()));
        }
        Explanation { reproduced: reason.is_none(), reason, decisions, left_out }
    }
}

/// What a decision says about a search; `None` if the step did not look for a driver for it.
fn explained(decision: &Decision<'_>, id: RequestId, entry: &Entry) -> Option<Explained> {
    let marketplace = decision.marketplace;
    let request = marketplace.waiting_one(id)?;
    let assigned = decision.assignments.iter().find(|assignment| assignment.request_id == id);
    if assigned.is_none() && !(decision.is_affected)(&request) {
        return None;
    }
    let rules = marketplace.engine.rules();
    let (candidates, left_out) = candidates(decision, &request);
    let is_free =
        |c: &Candidate| matches!(c.why, Why::CostsMore | Why::AskedBefore | Why::OfferedAnother { .. } | Why::Offered);
    let row = marketplace.engine.requests().get(&id)?;
    let outcome = if assigned.is_some() {
        Outcome::Offered
    } else if marketplace.engine.is_resting(row, marketplace.now) {
        Outcome::Resting
    } else if marketplace.engine.road_times().is_held(id) {
        Outcome::AwaitingRoads
    } else if candidates.iter().any(is_free) {
        Outcome::HeldBack
    } else {
        Outcome::NoDriver
    };
    let market_id =
        marketplace.market(&request).map(|market| market.market_id.clone()).or_else(|| row.market_id.clone());
    let waiting = marketplace.engine.waiting().filter(|other| other.request_id != id);
    let others_waiting = waiting.filter_map(|other| marketplace.waiting_one(other.request_id));
    Some(Explained {
        at: marketplace.now,
        term: entry.epoch,
        step: entry.number,
        reproduced: false,
        policy: rules.policy.as_str(),
        window_ms: rules.window.num_milliseconds(),
        radius_m: request.radius_m,
        market_id: market_id.unwrap_or_default(),
        rules_version: entry.rules_version.to_string(),
        request_id: id,
        vehicle_type: request.vehicle_type,
        waited_s: (marketplace.now - row.waits_since()).num_milliseconds() as f64 / 1_000.0,
        others_waiting: others_waiting.filter(|other| (decision.is_affected)(other)).count(),
        outcome,
        match_id: None,
        candidates,
        left_out,
    })
}

/// The nearest drivers around a pickup, and how many more there are.
fn candidates(decision: &Decision<'_>, request: &WaitingRequest) -> (Vec<Candidate>, usize) {
    let assigned: BTreeMap<UserId, RequestId> =
        decision.assignments.iter().map(|assignment| (assignment.driver.id, assignment.request_id)).collect();
    let reach_m = request.radius_m * OUTSIDE;
    let drivers = decision.marketplace.engine.drivers().keys().copied();
    let mut all: Vec<Candidate> = drivers
        .filter_map(|driver| candidate(decision.marketplace, request, driver, assigned.get(&driver)))
        // Who is far away, or at home, explains nothing.
        .filter(|c| c.distance_m <= reach_m && (c.why != Why::OffDuty || c.distance_m <= request.radius_m))
        .collect();
    all.sort_by(|a, b| a.distance_m.total_cmp(&b.distance_m).then(a.driver_id.cmp(&b.driver_id)));
    // The one who is offered it is listed, however many are nearer.
    let offered = all.iter().position(|c| c.why == Why::Offered).filter(|n| *n >= CANDIDATES_MAX);
    if let Some(n) = offered {
        all.swap(n, CANDIDATES_MAX - 1);
    }
    let left_out = all.len().saturating_sub(CANDIDATES_MAX);
    all.truncate(CANDIDATES_MAX);
    (all, left_out)
}

/// `assigned`: the search that the step offers the driver.
pub(super) fn candidate(
    marketplace: &Marketplace<'_>,
    request: &WaitingRequest,
    driver: UserId,
    assigned: Option<&RequestId>,
) -> Option<Candidate> {
    let (standing, position) = marketplace.standing(request, driver)?;
    let by_road_s = marketplace.offered_eta_s(request, position);
    let why = match (standing, assigned) {
        (_, Some(id)) if *id == request.request_id => Why::Offered,
        (Standing::Free | Standing::AskedBefore, Some(id)) => Why::OfferedAnother { request_id: *id },
        (Standing::Free | Standing::AskedBefore, None) if by_road_s.is_none() => Why::NoRoad,
        (Standing::Free, None) => Why::CostsMore,
        (Standing::AskedBefore, None) => Why::AskedBefore,
        (Standing::Excluded(e), _) => match (e.until, e.misses) {
            (None, _) => Why::CancelledRide,
            (Some(until), 0) => Why::Declined { until },
            (Some(until), times) => Why::Missed { times, until },
        },
        (Standing::Cancelled, _) => Why::CancelledRide,
        (Standing::InOffer, _) => Why::InOffer,
        (Standing::InRide { ends_at }, _) => Why::InRide {
            free_in_s: ends_at.map(|at| (at - marketplace.now).num_seconds().max(0)),
            may_be_waited_for: marketplace.finishing(request).iter().any(|finishing| finishing.id == driver),
        },
        (Standing::OffDuty, _) => Why::OffDuty,
        (Standing::OtherVehicle, _) => Why::OtherVehicle,
        (Standing::OtherMarket, _) => Why::OtherMarket,
        (Standing::OutsideRadius, _) => Why::OutsideRadius,
        (Standing::IsPassenger, _) => Why::IsPassenger,
    };
    let eta_s = by_road_s.unwrap_or_else(|| marketplace.estimated_s(request, position));
    let distance_m = position.distance_m(&request.pickup);
    Some(Candidate { driver_id: driver, distance_m, eta_s, why, position })
}
