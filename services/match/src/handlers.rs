//! The two handlers: [`Matcher`] gives events to the engine and writes its output, [`PositionListener`] records positions.
//! They decide nothing about matching. With more than one zone there is a [`Matcher`] for each, whose events are the rows that wait for the
//! zone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Duration, Utc};
use geospatial::newest::Fix;
use platform::consumer::ProgressReporter;
use platform::dead_letters::GivenUp;
use platform::{
    Failure, Handler, Metrics, Platform, Received, Spans, StoreError, Trace, Transaction, World, kill_point,
};
use streams::event::RejectReason;
use streams::{Event, MatchId, RequestId, RideId, RideStatus, Service, UserId};
use uuid::Uuid;

use crate::borders;
use crate::config::Config;
use crate::engine::assign::Assignment;
use crate::engine::{self, Border, Engine, EngineRows, Input, Offer, Request, StepOutput, rows};
use crate::inputs;
use crate::lease::{self, Held};
use crate::positions::DriverPositions;
use crate::record::{self, Recorded, Recorder};
use crate::road_requests::RoadRequests;
use crate::router;
use crate::shadow::Shadow;
use crate::tables::Tables;
use crate::zone_input::{Content, ZoneInput};
use crate::zones::{Zone, ZoneSet};

/// Events of one transaction.
pub(crate) const BATCH_MAX: usize = 512;
/// How often waiting requests are tried again, because drivers move.
const TICK_INTERVAL: Duration = Duration::seconds(1);
const HOUSEKEEPING_INTERVAL: Duration = Duration::seconds(60);
/// How often the engine looks for road times that it waits for.
const ROADS_POLL: Duration = Duration::milliseconds(20);
/// For so long after a take-over no offer expires: the driver's answer may wait in the stream since before its deadline, and the
/// driver must not be offered to somebody else first.
const TAKE_OVER_GRACE: Duration = Duration::seconds(2);
/// For so long a driver with whom another zone was first is not offered.
const LEFT_OUT: Duration = Duration::seconds(1);
/// How often a step looks for other drivers than those with whom another zone was first.
const ROUNDS_MAX: usize = 8;
/// How often an input of a zone may fail by itself. Then it is given up.
const FAILURES_MAX: u32 = 5;
/// Dead letters of inputs that are stored after one transaction, and for how long it is tried.
const LETTERS_MAX: usize = 16;
const LETTERS_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

pub(crate) struct Matcher {
    engine: Engine,
    positions: Arc<Mutex<DriverPositions>>,
    world: World,
    spans: Spans,
    metrics: Arc<Metrics>,
    platform: Platform,
    config: Config,
    zone: Zone,
    held: Held,
    took_over_at: DateTime<Utc>,
    /// The engine differs from the rows, and must be loaded before it is used.
    stale: bool,
    next_tick: DateTime<Utc>,
    next_housekeeping: DateTime<Utc>,
    roads: RoadRequests,
    /// The output of the transaction under way; counted and logged once it is committed.
    uncommitted: StepOutput,
    /// `None`: nothing is recorded.
    recorder: Option<Recorder>,
    shadow: Option<Shadow>,
    /// What is recorded of the transaction under way, for the shadow.
    unseen: Recorded,
    stepped_at: DateTime<Utc>,
    has_ticked: bool,
    waiting: WaitingInputs,
    /// Zones for which the transaction under way wrote something.
    woken: ZoneSet,
    letters: Letters,
}

/// Dead letters of inputs that are given up: read in a transaction, stored after its commit, and removed from the rows by the next one.
#[derive(Debug)]
struct Letters {
    /// When rows are read again. `None`: with one zone, once there are none of another division of before.
    read_at: Option<DateTime<Utc>>,
    /// Rows of the transaction under way.
    read: Vec<(i64, GivenUp)>,
    /// Rows whose letters are stored.
    stored: Vec<i64>,
}

/// How the rows that wait for a zone are handled.
#[derive(Debug, Default)]
struct WaitingInputs {
    /// There may be more of them than were read.
    has_more: bool,
    /// The first and the last of those that are being handled.
    in_hand: Option<(i64, i64)>,
    /// After a batch failed: up to this one they are handled one by one, so that the one that fails is found.
    single_until: Option<i64>,
    /// The one that failed by itself, and how often.
    failed: Option<(i64, u32)>,
    /// Why the last transaction failed; empty if it did not, or panicked.
    failure: String,
    /// Something in the transaction under way failed that is not the store's fault.
    has_failed: bool,
    /// Answers of drivers in the transaction under way, for the metrics.
    answers: Vec<&'static str>,
}

/// What an engine is to handle, in order.
enum Item<'a> {
    Event { event: &'a Event, stored_at: DateTime<Utc>, trace: &'a Trace },
    Border(Border),
}

impl Matcher {
    pub(crate) fn new(
        platform: &Platform,
        config: &Config,
        positions: Arc<Mutex<DriverPositions>>,
        zone: Zone,
        epoch: i64,
    ) -> Self {
        let now = platform.world.now();
        Self {
            platform: platform.clone(),
            engine: Engine::new(config.rules(zone)),
            config: config.clone(),
            positions,
            world: platform.world.clone(),
            spans: platform.spans.clone(),
            metrics: platform.metrics.clone(),
            zone,
            held: Held { zone: zone.number, epoch },
            took_over_at: now,
            stale: true,
            next_tick: now,
            next_housekeeping: now + HOUSEKEEPING_INTERVAL,
            roads: RoadRequests::new(config.roads.clone()),
            uncommitted: StepOutput::default(),
            recorder: recorder(config, epoch),
            shadow: config.shadow_policy.map(|policy| Shadow::start(policy, &platform.metrics)),
            unseen: Recorded::default(),
            stepped_at: now,
            has_ticked: false,
            // With one zone there are only those of another division of before.
            waiting: WaitingInputs { has_more: true, ..WaitingInputs::default() },
            woken: ZoneSet::default(),
            letters: Letters { read_at: Some(now), read: Vec::new(), stored: Vec::new() },
        }
    }

    async fn reload(&mut self, tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), Failure> {
        let rules = self.config.rules(self.zone);
        let rows = rows::load(tx, now, rules.longest_request_ttl(), self.zone).await?;
        tracing::info!(
            zone = self.zone.number,
            epoch = self.held.epoch,
            drivers = rows.drivers.len(),
            requests = rows.requests.len(),
            offers = rows.offers.len(),
            rides = rows.rides.len(),
            "match engine loaded"
        );
        self.engine = Engine::from_rows(rules, rows);
        self.engine.expire_not_before(self.took_over_at + TAKE_OVER_GRACE);
        self.engine.load_positions(&mut lock(&self.positions));
        if let Some(recorder) = &mut self.recorder {
            recorder.begin_again();
        }
        self.next_tick = now;
        self.stale = false;
        kill_point::reached("match.after_load");
        Ok(())
    }

    /// The time has come for waiting requests to be tried again.
    fn is_tick_due(&self, now: DateTime<Utc>) -> bool {
        now >= self.next_tick
    }

    /// A step with what time brings. Later ones of the same transaction are [`Self::run`] alone.
    fn step(&mut self, mut inputs: Vec<Input<'_>>, now: DateTime<Utc>) -> (StepOutput, Recorded) {
        if !Arc::ptr_eq(&self.engine.rules().markets, &self.config.markets.get()) {
            self.engine.set_rules(self.config.rules(self.zone));
        }
        self.has_ticked = self.is_tick_due(now);
        if self.has_ticked {
            inputs.push(Input::Tick);
            self.next_tick = now + TICK_INTERVAL;
        }
        if now >= self.next_housekeeping {
            inputs.push(Input::Housekeeping);
            self.next_housekeeping = now + HOUSEKEEPING_INTERVAL;
        }
        self.run(&inputs, now)
    }

    fn run(&mut self, inputs: &[Input<'_>], now: DateTime<Utc>) -> (StepOutput, Recorded) {
        let Self { engine, world, recorder, .. } = self;
        let mut positions = lock(&self.positions);
        let recording = recorder.as_mut().map(|r| r.before(engine, &mut positions, inputs, now));
        let mut match_ids: Vec<MatchId> = Vec::new();
        let mut new_match_id = |_: &Assignment| {
            match_ids.push(world.id());
            match_ids[match_ids.len() - 1]
        };
        // Until it returns: it may panic.
        self.waiting.has_failed = true;
        let output = engine::step(engine, inputs, &mut positions, now, &mut new_match_id);
        self.waiting.has_failed = false;
        let recorded = recorder.as_mut().zip(recording).map(|(recorder, recording)| {
            recorder.after(recording, engine, &mut positions, inputs, now, (&match_ids, &output))
        });
        (output, recorded.unwrap_or_default())
    }

    /// What waits for the zone: at most a batch, or one row where a batch has failed.
    async fn read_waiting(
        &mut self,
        tx: &mut Transaction<Tables>,
        now: DateTime<Utc>,
    ) -> Result<Vec<(i64, ZoneInput)>, Failure> {
        let mut max = if self.waiting.single_until.is_some() { 1 } else { BATCH_MAX };
        let mut rows = inputs::read(tx, self.zone.number, max).await?;
        if self.waiting.single_until.is_some_and(|until| rows.first().is_none_or(|(id, _)| *id > until)) {
            self.waiting.single_until = None;
            max = BATCH_MAX;
            rows = inputs::read(tx, self.zone.number, max).await?;
        }
        let has_more = rows.len() == max;
        let mut waiting = Vec::with_capacity(rows.len());
        for (id, input) in rows {
            let failures = self.waiting.failed.filter(|(failed, _)| *failed == id).map_or(0, |(_, failures)| failures);
            let why = match input {
                Ok(input) if failures < FAILURES_MAX => {
                    waiting.push((id, input));
                    continue;
                }
                // Its row is loaded with the zone's others.
                Ok(ZoneInput { content: Content::HandedOver(request_id), .. }) => {
                    tracing::error!(id, zone = self.zone.number, %request_id, "a request was handed over in vain");
                    inputs::delete(tx, self.zone.number, &[id]).await?;
                    continue;
                }
                Ok(_) if self.waiting.failure.is_empty() => "it panicked".to_owned(),
                Ok(_) => self.waiting.failure.clone(),
                Err(error) => error,
            };
            tracing::error!(id, zone = self.zone.number, why, "an event is given up");
            inputs::give_up(tx, self.zone.number, id, &why).await?;
            self.letters.read_at = Some(now);
        }
        self.waiting.in_hand = waiting.first().map(|(id, _)| *id).zip(waiting.last().map(|(id, _)| *id));
        self.waiting.has_more = has_more;
        Ok(waiting)
    }

    /// Removes the rows whose dead letters are stored, and reads others from time to time.
    async fn attend_to_letters(&mut self, tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), Failure> {
        if !self.letters.stored.is_empty() {
            inputs::delete_given_up(tx, &self.letters.stored).await?;
        }
        if self.letters.read_at.is_some_and(|at| at <= now) {
            self.letters.read = inputs::given_up(tx, LETTERS_MAX).await?;
        }
        Ok(())
    }

    /// Stores the dead letters of the rows that were read.
    async fn store_letters(&mut self) {
        let now = self.world.now();
        self.letters.stored.clear();
        if self.letters.read_at.is_none_or(|at| at > now) {
            return;
        }
        let read = std::mem::take(&mut self.letters.read);
        // With one zone there are only those of another division of before.
        let is_last = self.zone.partition.is_one() && read.is_empty();
        let mut read_at = now + HOUSEKEEPING_INTERVAL;
        for (id, given_up) in &read {
            match tokio::time::timeout(LETTERS_WAIT, given_up.store(&self.platform, Service::Match)).await {
                Ok(Ok(())) => self.letters.stored.push(*id),
                Ok(Err(error)) => tracing::error!(%error, id, "no dead letter was stored of an event that is given up"),
                Err(_) => tracing::error!(id, "no dead letter was stored in time of an event that is given up"),
            }
            if self.letters.stored.last() != Some(id) {
                break;
            }
        }
        if !read.is_empty() && self.letters.stored.len() == read.len() {
            // There may be more.
            read_at = now;
        }
        self.letters.read_at = (!is_last).then_some(read_at);
    }

    /// The zone's own items of what waits. A search whose passenger another zone has now goes on to that one.
    async fn own_items<'a>(
        &mut self,
        tx: &mut Transaction<Tables>,
        waiting: &'a [(i64, ZoneInput)],
    ) -> Result<Vec<Item<'a>>, Failure> {
        let passenger = |input: &ZoneInput| match &input.content {
            Content::Event { event, .. } => match &**event {
                Event::UserFinder(e) => Some(e.user_id),
                _ => None,
            },
            Content::HandedOver(_) => None,
        };
        let passengers: Vec<_> = waiting.iter().filter_map(|(_, input)| passenger(input)).collect();
        let zones =
            if self.zone.partition.is_one() { BTreeMap::new() } else { inputs::zones_of(tx, &passengers).await? };
        let (mut items, mut handed_over, mut onward) = (Vec::with_capacity(waiting.len()), Vec::new(), Vec::new());
        let mut messages: BTreeSet<&str> = BTreeSet::new();
        for (_, input) in waiting {
            let ZoneInput { content, message_id, stored_at, trace, .. } = input;
            // Of zones that became one, both waited: the engine has the message itself.
            if input.is_elsewhere() && messages.contains(message_id.as_str()) {
                continue;
            }
            messages.insert(message_id);
            let other = passenger(input).and_then(|id| zones.get(&id)).filter(|zone| **zone != self.zone.number);
            if let Some(zone) = other {
                onward.push(ZoneInput { zone: *zone, ..input.clone() });
                continue;
            }
            match content {
                Content::HandedOver(id) => handed_over.push(*id),
                Content::Event { event, elsewhere: false } => {
                    items.push(Item::Event { event, stored_at: *stored_at, trace });
                }
                Content::Event { event, .. } => match &**event {
                    Event::Ride(e) => items.push(Item::Border(Border::Ride(e.clone()))),
                    Event::MatchRejected(e) => items.push(Item::Border(Border::Rejected(e.clone()))),
                    _ => {}
                },
            }
        }
        if !handed_over.is_empty() {
            let requests = rows::requests(tx, &handed_over, self.zone).await?;
            items.insert(0, Item::Border(Border::Requests(requests)));
        }
        inputs::insert(tx, &onward).await?;
        self.woken = self.woken.union(router::zones_of(&onward));
        Ok(items)
    }

    /// Whom other zones have, of those whom this one may bring together, if it is other than the engine knows.
    async fn elsewhere(&self, tx: &mut Transaction<Tables>, accepted: &[UserId]) -> Result<Option<Border>, Failure> {
        let engine = &self.engine;
        let drivers = engine.drivers().values().filter(|driver| driver.active && !engine.is_locked(driver.user_id));
        let passengers = engine.live_requests().map(|request| request.passenger_id);
        let users = drivers.map(|driver| driver.user_id).chain(passengers).chain(accepted.iter().copied()).collect();
        let all: Vec<_> = borders::engaged_elsewhere(tx, self.zone, &users).await?.into_iter().collect();
        let before = engine.elsewhere().filter(|(_, until)| until.is_none()).map(|(id, _)| id);
        let is_to_withdraw = |id| engine.held_by(id).is_some_and(Offer::is_outstanding);
        let is_same = before.eq(all.iter().map(|(id, _)| *id))
            && !all.iter().any(|(id, is_in_ride)| *is_in_ride && is_to_withdraw(*id));
        Ok((!is_same).then_some(Border::Elsewhere(all)))
    }

    /// Writes what a step changed. New offers that another zone was first with are not made, and the engine looks for other drivers, until
    /// all are written. `output` and `recorded` are those of all steps then.
    async fn write(
        &mut self,
        tx: &mut Transaction<Tables>,
        (output, recorded): (&mut StepOutput, &mut Recorded),
        now: DateTime<Utc>,
    ) -> Result<(), Failure> {
        if self.zone.partition.is_one() {
            return Ok(rows::write(tx, &output.rows, self.zone).await?);
        }
        let mut rows = std::mem::take(&mut output.rows);
        for round in 0..ROUNDS_MAX {
            let is_new = |offer: &Offer| offer.found_at == now && offer.is_outstanding();
            let (new, known): (Vec<Offer>, Vec<Offer>) = std::mem::take(&mut rows.offers).into_iter().partition(is_new);
            rows::write(tx, &EngineRows { offers: known, ..rows }, self.zone).await?;
            if new.is_empty() {
                return self.write_handed_over(tx, output, now).await;
            }
            if round > 0 {
                borders::wait_briefly(tx).await?;
            }
            let lost = borders::insert_offers(tx, &new, self.zone).await?;
            if lost.is_empty() {
                return self.write_handed_over(tx, output, now).await;
            }
            self.metrics.match_conflicts.inc_by(lost.len() as u64);
            tracing::debug!(zone = self.zone.number, ?lost, "another zone was first");
            output.events.retain(|event| !matches!(event, Event::MatchFound(e) if lost.contains(&e.match_id)));
            // Whom the others have: it may be the passenger.
            let elsewhere = self.elsewhere(tx, &[]).await?;
            let lost = Border::Lost(lost, now + LEFT_OUT);
            let inputs: Vec<Input<'_>> = [&lost].into_iter().chain(&elsewhere).map(Input::Border).collect();
            let (more, recorded_more) = self.run(&inputs, now);
            recorded.entries.extend(recorded_more.entries);
            recorded.rules = recorded.rules.take().or(recorded_more.rules);
            let StepOutput { events, rows: changed, released, wanted, handed_over, .. } = more;
            rows = changed;
            output.events.extend(events);
            output.released.extend(released);
            output.wanted.extend(wanted);
            output.handed_over.extend(handed_over);
        }
        Err(Failure::Transient("other zones were first with too many drivers".to_owned()))
    }

    /// Gives requests to the zones that they belong to.
    async fn write_handed_over(
        &mut self,
        tx: &mut Transaction<Tables>,
        output: &mut StepOutput,
        now: DateTime<Utc>,
    ) -> Result<(), Failure> {
        let handed_over = std::mem::take(&mut output.handed_over);
        if handed_over.is_empty() {
            return Ok(());
        }
        let mut by_zone: BTreeMap<u16, Vec<Request>> = BTreeMap::new();
        let (mut passengers, mut waiting) = (BTreeMap::new(), Vec::new());
        for (zone, request) in handed_over {
            tracing::debug!(request_id = %request.request_id, from = self.zone.number, to = zone, "a search goes on in another zone");
            passengers.insert(request.passenger_id, zone);
            let (content, trace) = (Content::HandedOver(request.request_id), self.spans.root(&self.world));
            waiting.push(ZoneInput::between_zones(zone, content, now, trace));
            by_zone.entry(zone).or_default().push(request);
        }
        // The passengers first: what the router writes for them from now on comes after.
        inputs::move_to(tx, &passengers, now).await?;
        inputs::insert(tx, &waiting).await?;
        for (zone, requests) in by_zone {
            rows::write_requests(tx, &requests, zone).await?;
        }
        self.woken = self.woken.union(router::zones_of(&waiting));
        Ok(())
    }

    /// When the engine has something to do that no event brings.
    fn engine_wake_at(&self) -> Option<DateTime<Utc>> {
        if self.stale || self.waiting.has_more {
            return Some(self.world.now());
        }
        let tick = self.engine.has_live_requests().then_some(self.next_tick);
        let roads = self.roads.is_open().then(|| self.world.now() + ROADS_POLL);
        [tick, self.engine.next_deadline(), roads].into_iter().flatten().min()
    }

    async fn handle_all(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        lease::guard(tx, self.held).await?;
        let now = self.world.now();
        self.woken = ZoneSet::default();
        self.waiting.answers.clear();
        // Road times may be there. To read letters is no reason for a step, which would be recorded.
        let has_work = self.roads.is_open() || self.engine_wake_at().is_some_and(|at| at <= now);
        let is_idle = !self.zone.partition.is_one() && !has_work;
        if self.stale {
            self.reload(tx, now).await?;
        }
        let waits = !self.zone.partition.is_one() || self.waiting.has_more;
        let waiting = if waits { self.read_waiting(tx, now).await? } else { Vec::new() };
        self.attend_to_letters(tx, now).await?;
        if waiting.is_empty() && is_idle {
            return Ok(());
        }
        let mut items = self.own_items(tx, &waiting).await?;
        items.extend(batch.iter().map(|received| {
            let Received { event, stored_at, trace, .. } = *received;
            Item::Event { event, stored_at: *stored_at, trace }
        }));
        let events =
            || items.iter().filter_map(|item| if let Item::Event { event, .. } = item { Some(*event) } else { None });
        let pickups: Vec<RideId> = events().filter_map(pickup).collect();
        let ended = if pickups.is_empty() { Default::default() } else { rows::ended_rides(tx, &pickups).await? };
        let accepted = events().flat_map(|event| match event {
            Event::MatchAccepted(e) => vec![e.driver_id, e.passenger_id],
            _ => Vec::new(),
        });
        let accepted: Vec<UserId> = accepted.collect();
        let answers: Vec<&'static str> = events().filter_map(answer).collect();
        let mut traces: BTreeMap<RequestId, &Trace> = BTreeMap::new();
        let mut inputs = Vec::with_capacity(items.len() + 4);
        let roads = self.roads.take_answers();
        if !roads.is_empty() {
            inputs.push(Input::Roads(&roads));
        }
        let looks = !self.zone.partition.is_one() && (!accepted.is_empty() || self.is_tick_due(now));
        let elsewhere = if looks { self.elsewhere(tx, &accepted).await? } else { None };
        inputs.extend(elsewhere.as_ref().map(Input::Border));
        for item in &items {
            let (event, stored_at, trace) = match item {
                Item::Event { event, stored_at, trace } => (*event, *stored_at, *trace),
                Item::Border(border) => {
                    inputs.push(Input::Border(border));
                    continue;
                }
            };
            match event {
                Event::UserBeacon(e) => inputs.push(Input::Beacon(e, stored_at)),
                Event::UserFinder(e) => {
                    traces.insert(e.request_id, trace);
                    if e.active && self.config.markets.get().of(e.market_id.as_deref(), &e.pickup).is_none() {
                        tracing::warn!(request_id = %e.request_id, market_id = e.market_id, "a search in a market that MARKETS_FILE of this process does not have: it is offered to nobody");
                    }
                    inputs.push(Input::Finder(e));
                }
                Event::MatchAccepted(e) => {
                    traces.insert(e.request_id, trace);
                    inputs.push(Input::Accepted(e));
                }
                Event::MatchRejected(e) => {
                    traces.insert(e.request_id, trace);
                    inputs.push(Input::Rejected(e));
                }
                Event::Ride(e) if e.status == RideStatus::Pickup && ended.contains(&e.ride_id) => {
                    tracing::debug!(ride_id = %e.ride_id, "ride.pickup ignored: the ride has ended");
                }
                Event::Ride(e) => inputs.push(Input::Ride(e)),
                Event::MatchFound(_)
                | Event::LocationUpdate(_)
                | Event::LocationAggregate(_)
                | Event::PaymentCapture(_)
                | Event::Act(_) => {}
            }
        }
        // From here until the commit the engine is ahead of the rows. `rolled_back` makes it load them again.
        let (mut output, mut recorded) = self.step(inputs, now);
        self.write(tx, (&mut output, &mut recorded), now).await?;
        let requests: Vec<RequestId> = output.events.iter().filter_map(request_of).collect();
        // Of a search that waited, the batch has no message.
        let waited: Vec<Uuid> = requests.iter().filter(|id| !traces.contains_key(id)).map(|id| id.0).collect();
        let stored = tx.traces_of(&waited).await?;
        for event in &output.events {
            let of = |id: RequestId| traces.get(&id).copied().or_else(|| stored.get(&id.0));
            match request_of(event).and_then(of) {
                Some(trace) => tx.publish(event, trace),
                None => tx.publish(event, &self.spans.root(&self.world)),
            };
        }
        if self.config.record_hours > 0 {
            record::rows::insert(tx, &recorded, now).await?;
        }
        let ids: Vec<i64> = waiting.iter().map(|(id, _)| *id).collect();
        inputs::delete(tx, self.zone.number, &ids).await?;
        self.waiting.answers = answers;
        self.unseen = recorded;
        self.stepped_at = now;
        self.uncommitted = output;
        Ok(())
    }
}

impl Handler for Matcher {
    type Tables = Tables;

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        let handled = self.handle_all(tx, batch).await;
        if let Err(failure) = &handled {
            self.waiting.failure = failure.to_string();
        }
        self.waiting.has_failed = handled.as_ref().is_err_and(|failure| match failure {
            Failure::Store(StoreError::Unavailable(_) | StoreError::Serialization(_))
            | Failure::Busy(_)
            | Failure::Fenced => false,
            Failure::Store(_) | Failure::Transient(_) | Failure::Permanent(_) => true,
        });
        handled
    }

    async fn committed(&mut self, _batch: &[&Received]) {
        (self.waiting.in_hand, self.waiting.failure) = (None, String::new());
        self.store_letters().await;
        router::wake(&self.platform, std::mem::take(&mut self.woken)).await;
        let mut output = std::mem::take(&mut self.uncommitted);
        if !output.wanted.is_empty() {
            let count = output.wanted.len();
            if !self.roads.send(std::mem::take(&mut output.wanted)) {
                self.metrics.road_ways_left_out.with_label_values(&["requests"]).inc_by(count as u64);
            }
        }
        if output.ways_left_out > 0 {
            self.metrics.road_ways_left_out.with_label_values(&["step"]).inc_by(output.ways_left_out as u64);
        }
        let recorded = std::mem::take(&mut self.unseen);
        if let Some(shadow) = &mut self.shadow
            && (self.has_ticked || !recorded.entries.is_empty())
        {
            shadow.see(recorded, self.engine.rules(), self.stepped_at);
        }
        let count = |outcome: &str| self.metrics.matches.with_label_values(&[outcome]).inc();
        for event in &output.events {
            match event {
                Event::MatchFound(e) => {
                    count("found");
                    tracing::debug!(match_id = %e.match_id, request_id = %e.request_id, driver_id = %e.driver_id, "match found");
                }
                Event::MatchRejected(e) => count(label(e.reason)),
                _ => {}
            }
        }
        self.waiting.answers.drain(..).for_each(count);
        for match_id in &output.overdue {
            tracing::warn!(%match_id, "accepted more than a minute ago, but rides has neither made a ride of it nor refused it");
        }
        for match_id in &output.released {
            tracing::warn!(%match_id, "rides never answered an accepted offer: driver and passenger are released");
        }
    }

    fn rolled_back(&mut self) {
        self.stale = true;
        if let Some((first, last)) = self.waiting.in_hand.take().filter(|_| self.waiting.has_failed) {
            if first == last {
                let before = self.waiting.failed.filter(|(failed, _)| *failed == first).map_or(0, |(_, count)| count);
                self.waiting.failed = Some((first, before + 1));
            }
            self.waiting.single_until = self.waiting.single_until.max(Some(last));
        }
        self.waiting.has_failed = false;
        self.woken = ZoneSet::default();
        self.letters.read.clear();
        self.uncommitted = StepOutput::default();
        self.unseen = Recorded::default();
    }

    fn wake_at(&self) -> Option<DateTime<Utc>> {
        let letters = self.letters.read_at.filter(|_| !self.zone.partition.is_one() || !self.letters.stored.is_empty());
        self.engine_wake_at().into_iter().chain(letters).min()
    }
}

/// A shadow follows the record, whether it is stored or not.
fn recorder(config: &Config, epoch: i64) -> Option<Recorder> {
    match config.shadow_policy {
        Some(_) => Some(Recorder::new(epoch).with_all_moves()),
        None => (config.record_hours > 0).then(|| Recorder::new(epoch)),
    }
}

/// The search that an event of the engine is about.
fn request_of(event: &Event) -> Option<RequestId> {
    match event {
        Event::MatchFound(e) => Some(e.request_id),
        Event::MatchRejected(e) => Some(e.request_id),
        _ => None,
    }
}

/// The label of the metric, of an answer of a driver.
fn answer(event: &Event) -> Option<&'static str> {
    match event {
        Event::MatchAccepted(_) => Some("accepted"),
        Event::MatchRejected(e) if e.reason == RejectReason::Declined => Some("declined"),
        _ => None,
    }
}

fn pickup(event: &Event) -> Option<RideId> {
    match event {
        Event::Ride(e) if e.status == RideStatus::Pickup => Some(e.ride_id),
        _ => None,
    }
}

/// The label of the metric.
const fn label(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::Declined => "declined",
        RejectReason::Expired => "expired",
        RejectReason::Cancelled => "cancelled",
        RejectReason::Superseded => "superseded",
    }
}

pub(crate) fn lock(positions: &Mutex<DriverPositions>) -> MutexGuard<'_, DriverPositions> {
    positions.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records the positions of location.update. It writes no rows: a driver's next point, which comes soon, replaces this one.
pub(crate) struct PositionListener {
    positions: Arc<Mutex<DriverPositions>>,
    world: World,
    progress: ProgressReporter,
}

impl PositionListener {
    pub(crate) fn new(platform: &Platform, positions: Arc<Mutex<DriverPositions>>) -> Self {
        Self { positions, world: platform.world.clone(), progress: ProgressReporter::new(platform) }
    }
}

impl Handler for PositionListener {
    type Tables = Tables;
    const INBOX: bool = false;

    fn writes(&self, _batch: &[&Received]) -> bool {
        false
    }

    async fn handle(&mut self, _tx: &mut Transaction<Tables>, _batch: &[&Received]) -> Result<(), Failure> {
        Ok(())
    }

    async fn committed(&mut self, batch: &[&Received]) {
        let now = self.world.now();
        {
            let mut positions = lock(&self.positions);
            for received in batch {
                if let Event::LocationUpdate(e) = &received.event {
                    positions.record(e.user_id, &Fix::of(e, received.stored_at.min(now)));
                }
            }
        }
        self.progress.read(batch).await;
    }
}

#[cfg(test)]
mod tests {
    use roads::{Roads, Way};
    use streams::Position;
    use streams::memory::MemoryBus;

    use super::*;

    /// A worker that is woken opens a transaction.
    #[tokio::test]
    async fn nothing_wakes_the_matcher_once_the_road_times_are_there_and_nobody_waits() {
        let world = World::real();
        let platform = Platform::new(world.clone(), streams::Bus::Memory(MemoryBus::new(world.now(), 1)), "a");
        let store: platform::Store<Tables> = platform::Store::memory(&world, &"a".into());
        let mut tx = store.begin().await.unwrap();
        let at = (world.now(), 5_000.0);
        let epoch = lease::take(&mut tx, Zone::ONLY, "a", Duration::hours(1), at).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        // Nobody listens there: the answer, that nobody can say, comes at once.
        let roads = Some(Roads::new(&platform, "http://127.0.0.1:9"));
        let config = Config { roads, ..Config::default() };
        let mut matcher = Matcher::new(&platform, &config, Arc::default(), Zone::ONLY, epoch);
        let mut tx = store.begin().await.unwrap();
        matcher.handle(&mut tx, &[]).await.unwrap();
        assert_eq!(matcher.wake_at(), None);
        let at = |lng| Position { lat: 40.0, lng };
        let _ = matcher.roads.send(vec![Way { from: at(0.0), to: at(1.0) }]);
        assert!(matcher.wake_at().is_some(), "an answer will come");
        let until_quiet = async {
            while matcher.wake_at().is_some() {
                matcher.handle(&mut tx, &[]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), until_quiet).await.expect("woken for ever");
    }

    /// What it records is a snapshot of all drivers, and a step each time.
    #[tokio::test(start_paused = true)]
    async fn a_zone_for_which_nothing_waits_records_its_beginning_alone() {
        let world = World::seeded(DateTime::UNIX_EPOCH, 1);
        let platform = Platform::new(world.clone(), streams::Bus::Memory(MemoryBus::new(world.now(), 1)), "a");
        let store: platform::Store<Tables> = platform::Store::memory(&world, &"a".into());
        let zone = Zone { partition: crate::zones::Partition::new(3, 1_000), number: 1 };
        let mut tx = store.begin().await.unwrap();
        let at = (world.now(), 5_000.0);
        let epoch = lease::take(&mut tx, zone, "a", Duration::hours(1), at).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        let mut matcher = Matcher::new(&platform, &Config::default(), Arc::default(), zone, epoch);
        let mut recorded = Vec::new();
        for _ in 0..20 {
            let mut tx = store.begin().await.unwrap();
            matcher.handle(&mut tx, &[]).await.unwrap();
            let platform::On::Memory(tables) = tx.on() else { unreachable!() };
            recorded.push(tables.recorded_steps.len());
            tx.commit().await.unwrap();
            matcher.committed(&[]).await;
            let until = matcher.wake_at().expect("letters are looked for each minute");
            tokio::time::advance((until - world.now()).to_std().unwrap()).await;
        }
        assert_eq!(recorded, [recorded[0]; 20]);
    }
}
