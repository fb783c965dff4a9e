//! The two handlers: [`Matcher`] gives events to the engine and writes its output, [`PositionListener`] records positions.
//! They decide nothing about matching.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Duration, Utc};
use geospatial::newest::Fix;
use platform::consumer::ProgressReporter;
use platform::{Failure, Handler, Metrics, Platform, Received, Spans, Trace, Transaction, World, kill_point};
use streams::event::RejectReason;
use streams::{Event, MatchId, RequestId, RideId, RideStatus};
use uuid::Uuid;

use crate::config::Config;
use crate::engine::assign::Assignment;
use crate::engine::{self, Engine, Input, StepOutput, rows};
use crate::lease;
use crate::positions::DriverPositions;
use crate::record::{self, Recorded, Recorder};
use crate::road_requests::RoadRequests;
use crate::shadow::Shadow;
use crate::tables::Tables;

/// How often waiting requests are tried again, because drivers move.
const TICK_INTERVAL: Duration = Duration::seconds(1);
const HOUSEKEEPING_INTERVAL: Duration = Duration::seconds(60);
/// How often the engine looks for road times that it waits for.
const ROADS_POLL: Duration = Duration::milliseconds(20);
/// For so long after a take-over no offer expires: the driver's answer may wait in the stream since before its deadline, and the
/// driver must not be offered to somebody else first.
const TAKE_OVER_GRACE: Duration = Duration::seconds(2);

pub(crate) struct Matcher {
    engine: Engine,
    positions: Arc<Mutex<DriverPositions>>,
    world: World,
    spans: Spans,
    metrics: Arc<Metrics>,
    config: Config,
    epoch: i64,
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
}

impl Matcher {
    pub(crate) fn new(
        platform: &Platform,
        config: &Config,
        positions: Arc<Mutex<DriverPositions>>,
        epoch: i64,
    ) -> Self {
        let now = platform.world.now();
        Self {
            engine: Engine::new(config.rules()),
            config: config.clone(),
            positions,
            world: platform.world.clone(),
            spans: platform.spans.clone(),
            metrics: platform.metrics.clone(),
            epoch,
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
        }
    }

    async fn reload(&mut self, tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), Failure> {
        let rules = self.config.rules();
        let rows = rows::load(tx, now, rules.longest_request_ttl()).await?;
        tracing::info!(
            epoch = self.epoch,
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

    fn step(&mut self, mut inputs: Vec<Input<'_>>, now: DateTime<Utc>) -> (StepOutput, Recorded) {
        if !Arc::ptr_eq(&self.engine.rules().markets, &self.config.markets.get()) {
            self.engine.set_rules(self.config.rules());
        }
        self.has_ticked = now >= self.next_tick;
        if self.has_ticked {
            inputs.push(Input::Tick);
            self.next_tick = now + TICK_INTERVAL;
        }
        if now >= self.next_housekeeping {
            inputs.push(Input::Housekeeping);
            self.next_housekeeping = now + HOUSEKEEPING_INTERVAL;
        }
        let Self { engine, world, recorder, .. } = self;
        let mut positions = lock(&self.positions);
        let recording = recorder.as_mut().map(|r| r.before(engine, &mut positions, &inputs, now));
        let mut match_ids: Vec<MatchId> = Vec::new();
        let mut new_match_id = |_: &Assignment| {
            match_ids.push(world.id());
            match_ids[match_ids.len() - 1]
        };
        let output = engine::step(engine, &inputs, &mut positions, now, &mut new_match_id);
        let recorded = recorder.as_mut().zip(recording).map(|(recorder, recording)| {
            recorder.after(recording, engine, &mut positions, &inputs, now, (&match_ids, &output))
        });
        (output, recorded.unwrap_or_default())
    }
}

impl Handler for Matcher {
    type Tables = Tables;

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        lease::guard(tx, self.epoch).await?;
        let now = self.world.now();
        if self.stale {
            self.reload(tx, now).await?;
        }
        let pickups: Vec<RideId> = batch.iter().filter_map(|r| pickup(&r.event)).collect();
        let ended = if pickups.is_empty() { Default::default() } else { rows::ended_rides(tx, &pickups).await? };
        let mut traces: BTreeMap<RequestId, &Trace> = BTreeMap::new();
        let mut inputs = Vec::with_capacity(batch.len() + 3);
        let roads = self.roads.take_answers();
        if !roads.is_empty() {
            inputs.push(Input::Roads(&roads));
        }
        for received in batch {
            match &received.event {
                Event::UserBeacon(e) => inputs.push(Input::Beacon(e, received.stored_at)),
                Event::UserFinder(e) => {
                    traces.insert(e.request_id, &received.trace);
                    inputs.push(Input::Finder(e));
                }
                Event::MatchAccepted(e) => {
                    traces.insert(e.request_id, &received.trace);
                    inputs.push(Input::Accepted(e));
                }
                Event::MatchRejected(e) => {
                    traces.insert(e.request_id, &received.trace);
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
        let (output, recorded) = self.step(inputs, now);
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
        rows::write(tx, &output.rows).await?;
        if self.config.record_hours > 0 {
            record::rows::insert(tx, &recorded, now).await?;
        }
        self.unseen = recorded;
        self.stepped_at = now;
        self.uncommitted = output;
        Ok(())
    }

    async fn committed(&mut self, batch: &[&Received]) {
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
        for received in batch {
            match &received.event {
                Event::MatchAccepted(_) => count("accepted"),
                Event::MatchRejected(e) if e.reason == RejectReason::Declined => count("declined"),
                _ => {}
            }
        }
        for match_id in &output.overdue {
            tracing::warn!(%match_id, "accepted more than a minute ago, but rides has neither made a ride of it nor refused it");
        }
        for match_id in &output.released {
            tracing::warn!(%match_id, "rides never answered an accepted offer: driver and passenger are released");
        }
    }

    fn rolled_back(&mut self) {
        self.stale = true;
        self.uncommitted = StepOutput::default();
        self.unseen = Recorded::default();
    }

    fn wake_at(&self) -> Option<DateTime<Utc>> {
        if self.stale {
            return Some(self.world.now());
        }
        let tick = self.engine.has_live_requests().then_some(self.next_tick);
        let roads = self.roads.is_open().then(|| self.world.now() + ROADS_POLL);
        [tick, self.engine.next_deadline(), roads].into_iter().flatten().min()
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

fn lock(positions: &Mutex<DriverPositions>) -> MutexGuard<'_, DriverPositions> {
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
        let epoch = lease::take(&mut tx, "a", Duration::hours(1), world.now()).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        // Nobody listens there: the answer, that nobody can say, comes at once.
        let roads = Some(Roads::new(&platform, "http://127.0.0.1:9"));
        let mut matcher = Matcher::new(&platform, &Config { roads, ..Config::default() }, Arc::default(), epoch);
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
}
