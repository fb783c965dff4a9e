//! The two handlers: the matcher, which brings events to the engine and its rows and events to the store, and the one that
//! hears positions. They decide nothing about matching.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Duration, Utc};
use platform::{Failure, Handler, Metrics, Platform, Received, Trace, Transaction, World, kill_point};
use streams::event::RejectReason;
use streams::{Event, RequestId, RideId, RideStatus};

use crate::engine::rows::{self, Tables};
use crate::engine::rules::{Input, Stepped};
use crate::engine::{Engine, Rules};
use crate::lease;
use crate::positions::Positions;

/// How often waiting requests are tried again, for drivers move.
const TICK: Duration = Duration::seconds(1);
/// How often what is long over is forgotten.
const HOUSEKEEPING: Duration = Duration::seconds(60);

/// The engine with what it needs to be one process's handler.
pub(crate) struct Matcher {
    engine: Engine,
    positions: Arc<Mutex<Positions>>,
    world: World,
    metrics: Arc<Metrics>,
    epoch: i64,
    /// The engine is not what the rows say: load it first.
    stale: bool,
    next_tick: DateTime<Utc>,
    next_housekeeping: DateTime<Utc>,
    /// To be counted and told once it is committed.
    prepared: Stepped,
}

impl Matcher {
    pub(crate) fn new(platform: &Platform, rules: Rules, positions: Arc<Mutex<Positions>>, epoch: i64) -> Self {
        let now = platform.world.now();
        Self {
            engine: Engine::new(rules),
            positions,
            world: platform.world.clone(),
            metrics: platform.metrics.clone(),
            epoch,
            stale: true,
            next_tick: now,
            next_housekeeping: now + HOUSEKEEPING,
            prepared: Stepped::default(),
        }
    }

    async fn reload(&mut self, tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), Failure> {
        let rules = self.engine.rules.clone();
        let rows = rows::load(tx, now, rules.request_ttl).await?;
        tracing::info!(
            epoch = self.epoch,
            drivers = rows.drivers.len(),
            requests = rows.requests.len(),
            offers = rows.offers.len(),
            rides = rows.rides.len(),
            "match engine loaded"
        );
        self.engine = Engine::from_rows(rules, rows);
        self.engine.show_in(&mut self.positions.lock().unwrap_or_else(PoisonError::into_inner));
        self.next_tick = now;
        self.stale = false;
        kill_point::reached("match.after_load");
        Ok(())
    }

    fn step(&mut self, mut inputs: Vec<Input<'_>>, now: DateTime<Utc>) -> Stepped {
        if now >= self.next_tick {
            inputs.push(Input::Tick);
            self.next_tick = now + TICK;
        }
        if now >= self.next_housekeeping {
            inputs.push(Input::Housekeeping);
            self.next_housekeeping = now + HOUSEKEEPING;
        }
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let world = self.world.clone();
        self.engine.step(&inputs, &mut positions, now, &mut || world.id())
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
        let mut inputs = Vec::with_capacity(batch.len() + 2);
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
                    tracing::debug!(ride_id = %e.ride_id, "ride.pickup came after the ride's end");
                }
                Event::Ride(e) => inputs.push(Input::Ride(e)),
                Event::MatchFound(_)
                | Event::LocationUpdate(_)
                | Event::LocationAggregate(_)
                | Event::PaymentCapture(_) => {}
            }
        }
        // From here on the engine is ahead of the rows, until the commit.
        let stepped = self.step(inputs, now);
        for event in &stepped.events {
            let request = match event {
                Event::MatchFound(e) => Some(e.request_id),
                Event::MatchRejected(e) => Some(e.request_id),
                _ => None,
            };
            match request.and_then(|id| traces.get(&id)) {
                Some(trace) => tx.publish(event, trace),
                None => tx.publish(event, &self.world.trace()),
            }
        }
        rows::write(tx, &stepped.rows).await?;
        self.prepared = stepped;
        Ok(())
    }

    async fn committed(&mut self, batch: &[&Received]) {
        let done = std::mem::take(&mut self.prepared);
        let count = |outcome: &str| self.metrics.matches.with_label_values(&[outcome]).inc();
        for event in &done.events {
            match event {
                Event::MatchFound(e) => {
                    count("found");
                    tracing::debug!(match_id = %e.match_id, request_id = %e.request_id, driver_id = %e.driver_id, "match found");
                }
                Event::MatchRejected(e) => count(reason(e.reason)),
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
        for match_id in &done.overdue {
            tracing::warn!(%match_id, "accepted a minute ago or more, and rides has neither made a ride of it nor refused it");
        }
        for match_id in &done.released {
            tracing::warn!(%match_id, "accepted long ago, rides never answered: driver and passenger are free again");
        }
    }

    fn rolled_back(&mut self) {
        self.stale = true;
        self.prepared = Stepped::default();
    }

    fn wake_at(&self) -> Option<DateTime<Utc>> {
        if self.stale {
            return Some(self.world.now());
        }
        let tick = self.engine.has_live_requests().then_some(self.next_tick);
        [tick, self.engine.next_deadline()].into_iter().flatten().min()
    }
}

fn pickup(event: &Event) -> Option<RideId> {
    match event {
        Event::Ride(e) if e.status == RideStatus::Pickup => Some(e.ride_id),
        _ => None,
    }
}

const fn reason(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::Declined => "declined",
        RejectReason::Expired => "expired",
        RejectReason::Cancelled => "cancelled",
        RejectReason::Superseded => "superseded",
    }
}

/// Hears location.update. It changes no rows: the newest position is all that counts, and the next one comes soon.
pub(crate) struct Listener {
    pub(crate) positions: Arc<Mutex<Positions>>,
    pub(crate) world: World,
}

impl Handler for Listener {
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
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        for received in batch {
            if let Event::LocationUpdate(e) = &received.event {
                positions.heard(e.user_id, e.location, e.recorded_at, received.stored_at.min(now));
            }
        }
    }
}
