//! The recorded inputs under another policy. Pure: entries go in twice, first to [`Happened`], then to [`WhatIf`].
//!
//! Beacons, searches and the places of drivers are as recorded. An offer that was made in the same step is answered, driven and ended as
//! it was. Another one to the same driver for the same search is answered as that one was, after the same time; and one that was never
//! made is accepted after the median time of the recorded acceptances. Rides of these last their estimate. Where drivers are does
//! not follow from them: it is as recorded.
//!
//! With several zones the engine of each is run by itself, one after the other: whom the other zones had is as recorded too. So the offers of
//! two zones of the other policy may be to one driver at a time ([`Report::twice`]), and a search that went on in another zone does so when it did.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use chrono::{DateTime, Duration, Utc};
use streams::event::{MatchAccepted, MatchFound, MatchRejected, RejectReason, RideEvent, UserFinder};
use streams::{Event, MatchId, RequestId, RideId, RideStatus, Service, UserId};
use uuid::Uuid;

use super::codec::Names;
use super::encoding::{RecordedInput, RecordedStep, decode_snapshot};
use super::replay::{Replay, RulesByVersion};
use super::{Entry, Kind};
use crate::engine::assign::{Assignment, Policy};
use crate::engine::{self, Border, Input, Offer, Rules, StepOutput};
use crate::evaluate::{DETOUR, Outcome, gini, spread, sum};
use crate::positions::DriverPositions;
use crate::zones::Zone;

/// A request waits for drivers to move, as in the service.
const TICK: Duration = Duration::seconds(1);
/// Offers that one question looks at. What happened later is left out.
pub const OFFERS_MAX: usize = 1_000_000;
/// If nobody accepted anything.
const ANSWER: Duration = Duration::seconds(3);

/// How a driver answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Accepted,
    Declined,
}

/// An offer that was made.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Made {
    driver_id: UserId,
    request_id: RequestId,
    found_at: DateTime<Utc>,
    /// In which of the entries.
    entry: usize,
    /// Another zone was first.
    is_lost: bool,
    /// And after how long.
    answer: Option<(Answer, Duration)>,
}

/// Of a ride: the driver, the beginning and the end.
type Ridden = (UserId, DateTime<Utc>, Option<DateTime<Utc>>);

/// What came of searches that began at `since` or later.
#[derive(Debug, Clone, PartialEq)]
struct Tally {
    since: DateTime<Utc>,
    opened: BTreeMap<RequestId, DateTime<Utc>>,
    ended: BTreeMap<RequestId, DateTime<Utc>>,
    found: BTreeMap<MatchId, MatchFound>,
    /// The first accepted offer of each search.
    accepted: BTreeMap<RequestId, MatchId>,
    drivers: BTreeSet<UserId>,
    rides: BTreeMap<RideId, Ridden>,
}

/// Offers of the step before that were not made, because another zone was first.
fn lost_in(inputs: &[RecordedInput]) -> impl Iterator<Item = &MatchId> {
    inputs.iter().flat_map(|input| match input {
        RecordedInput::Border(Border::Lost(offers, _)) => &offers[..],
        _ => &[],
    })
}

impl Tally {
    fn new(since: DateTime<Utc>) -> Self {
        let (opened, ended, found, accepted, rides) = Default::default();
        Self { since, opened, ended, found, accepted, drivers: BTreeSet::new(), rides }
    }

    fn output(&mut self, output: &StepOutput) {
        for event in &output.events {
            if let Event::MatchFound(e) = event {
                self.found.insert(e.match_id, e.clone());
            }
        }
        for row in output.rows.requests.iter().filter(|row| row.opened_at >= self.since) {
            self.opened.insert(row.request_id, row.opened_at);
            match row.ended_at {
                Some(at) => _ = self.ended.insert(row.request_id, at),
                // It went on. In the zone that had it before it did not end.
                None if self.ended.get(&row.request_id).is_some_and(|at| *at < row.changed_at) => {
                    self.ended.remove(&row.request_id);
                }
                None => {}
            }
        }
        // The row of one that goes on in another zone is written there.
        let handed_over = output.handed_over.iter().map(|(_, row)| row).filter(|row| row.opened_at >= self.since);
        self.opened.extend(handed_over.map(|row| (row.request_id, row.opened_at)));
        for row in output.rows.offers.iter().filter(|row| row.accepted_at.is_some()) {
            self.accepted.entry(row.request_id).or_insert(row.match_id);
        }
        let rides = output.rows.rides.iter().map(|row| (row.ride_id, (row.driver_id, row.began_at, row.ended_at)));
        self.rides.extend(rides);
        self.drivers.extend(output.rows.drivers.iter().filter(|row| row.active).map(|row| row.user_id));
    }

    /// The offers that were made for the searches.
    fn offers(&self) -> impl Iterator<Item = &MatchFound> {
        self.found.values().filter(|e| self.opened.contains_key(&e.request_id))
    }

    /// The searches that were matched: when they began, and with what.
    fn matched(&self) -> impl Iterator<Item = (DateTime<Utc>, &MatchFound)> {
        self.accepted.iter().filter_map(|(id, of)| Some((*self.opened.get(id)?, self.found.get(of)?)))
    }

    /// Rides, since `since`, that begin before another one of their driver has ended.
    fn twice(&self) -> usize {
        let mut rides: Vec<_> = self.rides.values().collect();
        rides.sort_unstable();
        let overlap = |pair: &[&Ridden]| {
            pair[0].0 == pair[1].0 && pair[1].1 >= self.since && pair[0].2.is_none_or(|end| pair[1].1 < end)
        };
        rides.windows(2).filter(|pair| overlap(pair)).count()
    }

    fn outcome(&self, policy: Policy) -> Outcome {
        let seconds = |from: DateTime<Utc>, until: DateTime<Utc>| (until - from).num_milliseconds() as f64 / 1_000.0;
        let each = |of: &dyn Fn(DateTime<Utc>, &MatchFound) -> f64| spread(self.matched().map(|(at, e)| of(at, e)));
        let waits = self.matched().map(|(at, e)| seconds(at, e.found_at));
        let given_up = self.opened.iter().filter(|(id, _)| !self.accepted.contains_key(id));
        let given_up = given_up.filter_map(|(id, at)| Some(seconds(*at, *self.ended.get(id)?)));
        let matched = self.matched().count();
        let mut busy_s: BTreeMap<UserId, f64> = self.drivers.iter().map(|driver| (*driver, 0.0)).collect();
        for (_, e) in self.matched() {
            *busy_s.entry(e.driver_id).or_default() += e.pickup.distance_m(&e.dropoff) * DETOUR;
        }
        Outcome {
            policy: policy.as_str(),
            requests: self.opened.len(),
            matched,
            match_rate: matched as f64 / self.opened.len().max(1) as f64,
            pickup_eta_s: each(&|_, e| e.pickup_eta_s),
            match_wait_s: each(&|at, e| seconds(at, e.found_at)),
            total_wait_s: each(&|at, e| seconds(at, e.found_at) + e.pickup_eta_s),
            longest_wait_s: waits.chain(given_up).fold(0.0, f64::max),
            empty_km: sum(self.matched().map(|(_, e)| e.pickup_distance_m)) / 1_000.0,
            gini: gini(busy_s.into_values()),
        }
    }
}

/// What happened, as the record says.
#[derive(Debug)]
pub struct Happened {
    replay: Option<Replay>,
    policy: Option<Policy>,
    made: BTreeMap<MatchId, Made>,
    tally: Tally,
    /// Entries that were read, and the time of the last.
    pub entries: usize,
    until: Option<DateTime<Utc>>,
    /// Chains that break off, or come out otherwise now.
    pub gaps: usize,
    /// Those that matched.
    zones: BTreeSet<ZoneKey>,
}

/// A zone of one division of the map.
type ZoneKey = (u16, u32, u16);

fn key(zone: Zone) -> ZoneKey {
    (zone.partition.zones(), zone.partition.cell_m(), zone.number)
}

impl Happened {
    /// Counts searches that begin at `since` or later.
    pub fn new(since: DateTime<Utc>) -> Self {
        let (replay, policy, until) = (None, None, None);
        let (made, zones) = Default::default();
        Self { replay, policy, made, tally: Tally::new(since), entries: 0, until, gaps: 0, zones }
    }

    /// The next entry. False if there is no room for more.
    pub fn entry(&mut self, entry: &Entry, rules: &RulesByVersion) -> bool {
        if self.made.len() >= OFFERS_MAX {
            return false;
        }
        self.entries += 1;
        self.until = self.until.max(Some(entry.at));
        if self.try_entry(entry, rules).is_err() {
            self.gaps += 1;
            self.replay = None;
        }
        true
    }

    fn try_entry(&mut self, entry: &Entry, rules: &RulesByVersion) -> Result<(), String> {
        if entry.kind == Kind::Snapshot {
            let begun = Replay::begin(entry, rules)?;
            let Rules { policy, zone, .. } = *begun.engine.rules();
            self.policy.get_or_insert(policy);
            self.zones.insert(key(zone));
            self.tally.drivers.extend(begun.engine.drivers().values().filter(|d| d.active).map(|d| d.user_id));
            self.replay = Some(begun);
            return Ok(());
        }
        let Some(replay) = &mut self.replay else { return Ok(()) };
        let replayed = replay.step(entry, rules)?;
        if !replayed.is_same {
            self.gaps += 1;
        }
        for input in &replayed.step.inputs {
            let answer = match input {
                RecordedInput::Accepted(e) => (e.match_id, Answer::Accepted),
                RecordedInput::Rejected(e) if e.reason == RejectReason::Declined => (e.match_id, Answer::Declined),
                _ => continue,
            };
            if let Some(made) = self.made.get_mut(&answer.0) {
                made.answer.get_or_insert((answer.1, replayed.step.at - made.found_at));
            }
        }
        for id in lost_in(&replayed.step.inputs) {
            self.tally.found.remove(id);
            self.made.entry(*id).and_modify(|made| made.is_lost = true);
        }
        self.tally.output(&replayed.output);
        for event in &replayed.output.events {
            if let Event::MatchFound(e) = event {
                let MatchFound { driver_id, request_id, found_at, .. } = *e;
                let made = Made { driver_id, request_id, found_at, entry: self.entries, is_lost: false, answer: None };
                self.made.insert(e.match_id, made);
            }
        }
        Ok(())
    }

    /// How long drivers take to accept: the median.
    fn median_answer(&self) -> Duration {
        let accepted = self.made.values().filter_map(|made| made.answer.filter(|(a, _)| *a == Answer::Accepted));
        let mut times: Vec<Duration> = accepted.map(|(_, after)| after).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or(ANSWER)
    }
}

/// Both, side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Of the first snapshot and the last entry.
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
    pub entries: usize,
    /// Places where steps are missing, or come out otherwise now. What was asked and answered there is in neither side.
    pub gaps: usize,
    pub happened: Outcome,
    pub what_if: Outcome,
    /// Zones that matched, each run by itself.
    pub zones: usize,
    /// Rides of the other policy, since then, that begin before another one of their driver has ended: two zones had the same driver.
    pub twice: usize,
    /// Offers of the other policy for these searches, and those of them that were made in the same step to the same driver.
    pub offers: usize,
    pub same_offers: usize,
    /// After how long an offer that was never made is accepted.
    pub answer_s: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Accept(MatchId),
    Decline(MatchId),
    EndRide(MatchId),
}

/// One zone under the other policy.
#[derive(Debug)]
struct Lane {
    /// By the entries: the decoder of the record with the engine of this policy in it.
    replay: Option<Replay>,
    /// Names of a chain that broke off are not known.
    is_broken: bool,
    /// Recorded offers that were made here too, in the same step; and those before a snapshot with which it begins.
    same: BTreeSet<MatchId>,
    has_diverged: bool,
    agenda: BinaryHeap<Reverse<(DateTime<Utc>, Moment)>>,
    next_tick: Option<DateTime<Utc>>,
}

impl Default for Lane {
    fn default() -> Self {
        let (replay, same, agenda, next_tick) = Default::default();
        Self { replay, is_broken: true, same, has_diverged: false, agenda, next_tick }
    }
}

/// The engines under the other policy.
#[derive(Debug)]
pub struct WhatIf {
    policy: Policy,
    happened: Happened,
    answer: Duration,
    /// The newest recorded offer of a search to a driver.
    pairs: BTreeMap<(RequestId, UserId), MatchId>,
    /// The zone of the entries in hand, and the others.
    zone: Option<ZoneKey>,
    lane: Lane,
    lanes: BTreeMap<ZoneKey, Lane>,
    /// Entries that were read.
    entries: usize,
    tally: Tally,
    from: Option<DateTime<Utc>>,
    fresh: u64,
    /// Offers that were made, too, in the same step to the same driver.
    same_offers: BTreeSet<MatchId>,
}

impl WhatIf {
    /// The same entries are to follow.
    pub fn new(policy: Policy, happened: Happened) -> Self {
        let answer = happened.median_answer();
        let made = happened.made.iter().filter(|(_, made)| !made.is_lost);
        let pairs = made.map(|(id, made)| ((made.request_id, made.driver_id), *id)).collect();
        let tally = Tally::new(happened.tally.since);
        Self {
            policy,
            happened,
            answer,
            pairs,
            zone: None,
            lane: Lane::default(),
            lanes: BTreeMap::new(),
            entries: 0,
            tally,
            from: None,
            fresh: 0,
            same_offers: BTreeSet::new(),
        }
    }

    /// The next entry, of as many as [`Happened`] read.
    pub fn entry(&mut self, entry: &Entry, rules: &RulesByVersion) {
        self.from = Some(self.from.map_or(entry.at, |from| from.min(entry.at)));
        self.entries += 1;
        let done = match entry.kind {
            Kind::Snapshot => self.snapshot(entry, rules),
            _ if self.lane.is_broken => Ok(()),
            _ => self.step(entry, rules),
        };
        if done.is_err() {
            self.break_off();
        }
    }

    /// What would come of the offers of the other policy is not known any more. It goes on with what happened, at the next snapshot.
    fn break_off(&mut self) {
        self.lane = Lane { same: std::mem::take(&mut self.lane.same), ..Lane::default() };
    }

    /// Goes on with what this zone has come to.
    fn enter(&mut self, zone: ZoneKey) {
        if self.zone == Some(zone) {
            return;
        }
        let lane = self.lanes.remove(&zone).unwrap_or_default();
        let before = std::mem::replace(&mut self.lane, lane);
        self.lanes.extend(self.zone.replace(zone).map(|zone| (zone, before)));
    }

    fn snapshot(&mut self, entry: &Entry, rules: &RulesByVersion) -> Result<(), String> {
        let mut begun = Replay::begin(entry, rules)?;
        self.enter(key(begun.engine.rules().zone));
        self.lane.is_broken = false;
        self.tally.drivers.extend(begun.engine.drivers().values().filter(|d| d.active).map(|d| d.user_id));
        if let Some(before) = self.lane.replay.take().filter(|_| self.lane.has_diverged) {
            // The engine goes on with what has become of its own offers; where drivers are is as recorded.
            let snapshot = decode_snapshot(&entry.bytes, &mut Names::default())?;
            begun.engine = before.engine;
            begun.engine.expire_not_before(snapshot.no_expiry_before);
            let places = snapshot.places.into_iter().map(|(id, place, _)| (id, place, begun.engine.availability(id)));
            begun.positions = DriverPositions::from_states(places);
        } else {
            // All that was offered before has happened here too.
            let before = self.happened.made.iter().filter(|(_, made)| made.entry < self.entries);
            self.lane.same = before.map(|(id, _)| *id).collect();
        }
        self.set_policy(&mut begun);
        self.lane.replay = Some(begun);
        Ok(())
    }

    fn set_policy(&self, replay: &mut Replay) {
        let rules = replay.engine.rules().clone();
        replay.engine.set_rules(Rules { policy: self.policy, ..rules });
    }

    fn step(&mut self, entry: &Entry, rules: &RulesByVersion) -> Result<(), String> {
        let Some(mut replay) = self.lane.replay.take() else { return Ok(()) };
        let step = replay.decode(entry)?;
        let recorded_policy = rules.get(&step.rules_version).and_then(|rules| Some(rules.as_ref().ok()?.policy));
        self.pass_time(&mut replay, step.at, self.lane.has_diverged || recorded_policy != Some(self.policy));
        replay.prepare(&step, rules)?;
        self.set_policy(&mut replay);
        let inputs = self.translated(&replay, &step);
        for id in lost_in(&inputs) {
            self.tally.found.remove(id);
        }
        let inputs: Vec<Input<'_>> = inputs.iter().map(RecordedInput::as_input).collect();
        self.run(&mut replay, &inputs, step.at, &step.match_ids);
        self.lane.replay = Some(replay);
        Ok(())
    }

    /// Answers, ends of rides and ticks of its own before `until`. A tick that is not recorded changed nothing under the recorded policy.
    fn pass_time(&mut self, replay: &mut Replay, until: DateTime<Utc>, ticks: bool) {
        loop {
            let moment = self.lane.agenda.peek().map(|Reverse((at, _))| *at).filter(|at| *at <= until);
            let tick = self.lane.next_tick.filter(|at| ticks && *at < until && replay.engine.has_live_requests());
            match (moment, tick) {
                (None, None) => break,
                (Some(at), tick) if tick.is_none_or(|tick| at <= tick) => {
                    if let Some(Reverse((_, moment))) = self.lane.agenda.pop() {
                        self.moment(replay, at, moment);
                    }
                }
                (_, Some(at)) => self.run(replay, &[Input::Tick], at, &[]),
                (Some(_), None) => break,
            }
        }
    }

    fn moment(&mut self, replay: &mut Replay, at: DateTime<Utc>, moment: Moment) {
        let (Moment::Accept(id) | Moment::Decline(id) | Moment::EndRide(id)) = moment;
        let Some(found) = self.tally.found.get(&id).cloned() else { return };
        let is_open = replay.engine.offers().get(&id).is_some_and(Offer::is_outstanding);
        match moment {
            Moment::Accept(_) if is_open => {
                let trip_m = found.pickup.distance_m(&found.dropoff);
                let market = replay.engine.rules().markets.of(found.market_id.as_deref(), &found.pickup);
                let (from, to) = (&found.pickup, &found.dropoff);
                let usual = || pricing::estimate(from, to);
                let (_, trip_s) = market.map_or_else(usual, |market| market.estimate(from, to, at));
                let lasts_s = if trip_m > 0.0 { found.pickup_eta_s + trip_s } else { found.pickup_eta_s };
                let ends_at = at + Duration::milliseconds((lasts_s * 1_000.0) as i64);
                self.lane.agenda.push(Reverse((ends_at, Moment::EndRide(id))));
                let accepted = accepted(&found, at);
                let pickup = ride(&found, RideStatus::Pickup, at);
                self.run(replay, &[Input::Accepted(&accepted), Input::Ride(&pickup)], at, &[]);
            }
            Moment::Decline(_) if is_open => {
                let declined = rejected(&found, RejectReason::Declined, at);
                self.run(replay, &[Input::Rejected(&declined)], at, &[]);
            }
            Moment::EndRide(_) => {
                let end = ride(&found, RideStatus::Completed, at);
                self.run(replay, &[Input::Ride(&end)], at, &[]);
            }
            Moment::Accept(_) | Moment::Decline(_) => {}
        }
    }

    /// One step, and what follows of the offers that it makes. `recorded` are the ids that were drawn in it.
    fn run(&mut self, replay: &mut Replay, inputs: &[Input<'_>], at: DateTime<Utc>, recorded: &[MatchId]) {
        let Self { lane: Lane { same, .. }, happened, fresh, .. } = self;
        let mut new_match_id = |assignment: &Assignment| {
            let is_it = |id: &MatchId| {
                happened.made.get(id).is_some_and(|made| {
                    (made.request_id, made.driver_id) == (assignment.request_id, assignment.driver.id)
                })
            };
            if let Some(id) = recorded.iter().copied().find(is_it) {
                same.insert(id);
                return id;
            }
            *fresh += 1;
            MatchId(Uuid::from_u64_pair(u64::MAX, *fresh))
        };
        let output = engine::step(&mut replay.engine, inputs, &mut replay.positions, at, &mut new_match_id);
        self.lane.next_tick = Some(at + TICK);
        let mut own = 0;
        for event in &output.events {
            let Event::MatchFound(e) = event else { continue };
            if self.lane.same.contains(&e.match_id) {
                self.same_offers.insert(e.match_id);
                continue;
            }
            own += 1;
            let known = self.pairs.get(&(e.request_id, e.driver_id)).and_then(|id| self.happened.made.get(id));
            let answer = known.map_or(Some((Answer::Accepted, self.answer)), |made| made.answer);
            match answer {
                Some((Answer::Accepted, after)) => {
                    self.lane.agenda.push(Reverse((at + after, Moment::Accept(e.match_id))))
                }
                Some((Answer::Declined, after)) => {
                    self.lane.agenda.push(Reverse((at + after, Moment::Decline(e.match_id))))
                }
                // It expires, as it did.
                None => {}
            }
        }
        self.tally.output(&output);
        let missing = recorded.iter().any(|id| self.happened.made.contains_key(id) && !self.lane.same.contains(id));
        self.lane.has_diverged |= own > 0 || missing;
    }

    /// The recorded inputs without what belongs to offers that were not made here; and with the ends of those that were made here alone.
    fn translated(&self, replay: &Replay, step: &RecordedStep) -> Vec<RecordedInput> {
        let was_made = |id: &MatchId| !self.happened.made.contains_key(id) || self.lane.same.contains(id);
        let mut inputs = Vec::with_capacity(step.inputs.len());
        for input in &step.inputs {
            match input {
                RecordedInput::Accepted(e) if !was_made(&e.match_id) => {}
                RecordedInput::Rejected(e) if !was_made(&e.match_id) => {}
                RecordedInput::Ride(e) if !was_made(&e.match_id) => {}
                RecordedInput::Finder(e) => {
                    let continues = e.continues.filter(|ride| was_made(&ride.match_id));
                    inputs.push(RecordedInput::Finder(UserFinder { continues, ..e.clone() }));
                    let held = replay.engine.held_by(e.user_id).filter(|offer| offer.passenger_id == e.user_id);
                    let own = held.filter(|offer| offer.is_outstanding() && !self.lane.same.contains(&offer.match_id));
                    let ends = |offer: &&Offer| !e.active || offer.request_id != e.request_id;
                    let known = |offer: &Offer| self.tally.found.get(&offer.match_id);
                    if let Some(found) = own.filter(ends).and_then(known) {
                        inputs.push(RecordedInput::Rejected(rejected(found, RejectReason::Cancelled, step.at)));
                    }
                }
                other => inputs.push(other.clone()),
            }
        }
        inputs
    }

    /// What came of it.
    pub fn finish(self) -> Report {
        let recorded = self.happened.policy.unwrap_or(self.policy);
        let from = self.from.unwrap_or(self.tally.since);
        Report {
            from,
            until: self.happened.until.unwrap_or(from),
            entries: self.happened.entries,
            gaps: self.happened.gaps,
            happened: self.happened.tally.outcome(recorded),
            what_if: self.tally.outcome(self.policy),
            zones: self.happened.zones.len(),
            twice: self.tally.twice(),
            offers: self.tally.offers().count(),
            same_offers: self.tally.offers().filter(|e| self.same_offers.contains(&e.match_id)).count(),
            answer_s: self.answer.num_milliseconds() as f64 / 1_000.0,
        }
    }
}

fn accepted(found: &MatchFound, accepted_at: DateTime<Utc>) -> MatchAccepted {
    let MatchFound { match_id, request_id, driver_id, passenger_id, pickup, dropoff, vehicle_type, .. } = *found;
    MatchAccepted {
        match_id,
        request_id,
        driver_id,
        passenger_id,
        pickup,
        dropoff,
        vehicle_type,
        market_id: None,
        terms: None,
        accepted_at,
    }
}

fn rejected(found: &MatchFound, reason: RejectReason, at: DateTime<Utc>) -> MatchRejected {
    let MatchFound { match_id, request_id, driver_id, passenger_id, .. } = *found;
    let rejected_at = MatchRejected::time(Service::Users, at);
    MatchRejected { match_id, request_id, driver_id, passenger_id, reason, rejected_at }
}

/// The id of a ride that never was is that of its match.
fn ride(found: &MatchFound, status: RideStatus, occurred_at: DateTime<Utc>) -> RideEvent {
    RideEvent {
        ride_id: RideId(found.match_id.0),
        match_id: found.match_id,
        driver_id: found.driver_id,
        passenger_id: found.passenger_id,
        version: 1,
        status,
        pickup: found.pickup,
        dropoff: found.dropoff,
        vehicle_type: found.vehicle_type,
        occurred_at,
        previous_hash: String::new(),
        hash: String::new(),
        by: None,
        search_continues: None,
        reason_code: None,
        note: None,
        reason: None,
        fee: None,
        distance_m: None,
        duration_s: None,
        fare: None,
        platform_fee: None,
        driver_payout: None,
        request_id: Some(found.request_id),
        market_id: None,
        terms: None,
    }
}
