//! What rides does with events: an accepted match becomes a ride, the final distance of a ride its fare, a capture money or a
//! debt. A timer bills rides whose final distance does not come.
//!
//! `ride::decide` decides. The handlers read and write, each batch in a handful of statements.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use platform::store::rows::column;
use platform::{Failure, Handler, Platform, Received, Trace, Transaction};
use pricing::market::Markets;
use streams::event::{
    Event, LocationAggregate, MatchAccepted, MatchRejected, Party, PaymentCapture, RejectReason, RideEvent, RideTerms,
};
use streams::{RequestId, RideId, RideStatus, Service};

use crate::config::Config;
use crate::event_log::{self, EventRow};
use crate::ledger;
use crate::payment::{self, CaptureError, Payment, PaymentStatus};
use crate::ride::update::{RideUpdate, count, write_updates};
use crate::ride::{Change, CommandInput, Distance, Outcome, Ride, billed_distance, decide, plausible, rows};
use crate::tables::Tables;

/// Rides that the timer bills in one transaction.
const OVERDUE_PAGE: u32 = 100;
const OVERDUE_INTERVAL_S: i64 = 1;

/// match.accepted → a ride, or match.rejected (superseded) if the match cannot become one.
pub(crate) struct AcceptedMatches {
    platform: Platform,
    config: Arc<Config>,
    created: u64,
}

impl AcceptedMatches {
    pub(crate) fn new(platform: &Platform, config: &Arc<Config>) -> Self {
        Self { platform: platform.clone(), config: config.clone(), created: 0 }
    }
}

impl Handler for AcceptedMatches {
    type Tables = Tables;

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        self.created = 0;
        let world = &self.platform.world;
        let now = world.now();
        // A match may be in the batch twice: the first acceptance counts.
        let mut matches: BTreeMap<_, (&MatchAccepted, &Trace)> = BTreeMap::new();
        for received in batch {
            if let Event::MatchAccepted(accepted) = &received.event {
                if accepted.driver_id == accepted.passenger_id {
                    return Err(Failure::Permanent("driver_id and passenger_id are the same user".to_owned()));
                }
                matches.entry(accepted.match_id).or_insert((accepted, &received.trace));
            }
        }
        let markets = self.config.markets.get();
        let create = |accepted: &MatchAccepted| {
            let place = place_of(accepted, &markets, now);
            if place.is_none() {
                tracing::warn!(match_id = %accepted.match_id, market_id = accepted.market_id, "no ride comes of an accepted match: MARKETS_FILE of this process has no market for it");
            }
            place.map(|place| (accepted.request_id, Ride::create(accepted, world.id(), Some(place), now)))
        };
        let changes: Vec<(RequestId, Change)> = matches.values().filter_map(|(accepted, _)| create(accepted)).collect();
        let rides: Vec<_> = changes.iter().map(|(request, change)| (*request, change.ride.clone())).collect();
        let inserted = rows::insert_live_rides(tx, &rides).await?;
        let changes = changes.into_iter().map(|(_, change)| change);
        let changes: Vec<Change> = changes.filter(|c| inserted.contains(&c.ride.match_id)).collect();
        let mut events = Vec::with_capacity(changes.len());
        for change in &changes {
            if let Some((_, trace)) = matches.remove(&change.ride.match_id) {
                // The rest of a ride for which somebody waited long is exported, also by the other processes.
                let is_slow = self.platform.spans.is_slow_ride(now - searched_since(&change.event, now));
                let trace = if is_slow { trace.clone().with_sampled(true) } else { trace.clone() };
                let traceparent = tx.publish(&Event::Ride(Box::new(change.event.clone())), &trace);
                events.push(EventRow::new(&change.event, traceparent));
            }
        }
        if !events.is_empty() {
            event_log::rows::append_events(tx, events).await?;
        }
        self.created = changes.len() as u64;
        if matches.is_empty() {
            return Ok(());
        }
        // Each of the others has a ride already, or lost the race for one, or is of no market.
        let others: Vec<_> = matches.keys().copied().collect();
        let lost = rows::supersede(tx, &others, now).await?;
        for (accepted, trace) in matches.values().filter(|(accepted, _)| lost.contains(&accepted.match_id)) {
            let rejected = MatchRejected {
                match_id: accepted.match_id,
                request_id: accepted.request_id,
                driver_id: accepted.driver_id,
                passenger_id: accepted.passenger_id,
                reason: RejectReason::Superseded,
                rejected_at: MatchRejected::time(Service::Rides, now),
            };
            tracing::info!(match_id = %accepted.match_id, "match superseded: its request has become a ride, or its driver or passenger has a live ride");
            tx.publish(&Event::MatchRejected(rejected), trace);
        }
        Ok(())
    }

    async fn committed(&mut self, _batch: &[&Received]) {
        count(&self.platform.metrics, RideStatus::Pickup, std::mem::take(&mut self.created));
    }

    fn rolled_back(&mut self) {
        self.created = 0;
    }
}

/// The market of the ride to come and what it costs, as offered. An acceptance of the version before does not say it: it is of the market that it names, or that
/// has its pickup, at the fares of now. `None`: in no market that this process knows.
fn place_of(accepted: &MatchAccepted, markets: &Markets, now: DateTime<Utc>) -> Option<(String, RideTerms)> {
    if let (Some(market_id), Some(terms)) = (&accepted.market_id, &accepted.terms) {
        return Some((market_id.clone(), RideTerms::clone(terms)));
    }
    let market = markets.of(accepted.market_id.as_deref(), &accepted.pickup)?;
    Some((market.market_id.clone(), markets.terms(market, accepted.vehicle_type, now)))
}

/// A final location.aggregate → ride.completed. The timer completes a ride without one.
pub(crate) struct Completions {
    platform: Platform,
    config: Arc<Config>,
    next_check: DateTime<Utc>,
    completed: u64,
}

impl Completions {
    pub(crate) fn new(platform: &Platform, config: &Arc<Config>) -> Self {
        let next_check = platform.world.now() + Duration::seconds(OVERDUE_INTERVAL_S);
        Self { platform: platform.clone(), config: config.clone(), next_check, completed: 0 }
    }

    fn complete(&self, ride: &Ride, distance: Distance, trace: &Trace) -> Result<Option<RideUpdate>, Failure> {
        let now = self.platform.world.now();
        let input = CommandInput::Complete(distance);
        match decide(ride, Party::System, &input, &self.config.markets.get().general, now) {
            Ok(Outcome::Changed(change)) => {
                Ok(Some(RideUpdate { expected_version: ride.version, change: *change, trace: trace.clone() }))
            }
            // Completed before, by the timer or by an earlier aggregate.
            Ok(Outcome::AlreadyDone | Outcome::WrongPin(_)) => Ok(None),
            Err(_) if ride.status.is_final() => Ok(None),
            Err(refusal) => Err(Failure::Transient(format!("ride {}: {refusal}", ride.ride_id))),
        }
    }

    async fn complete_final(
        &self,
        tx: &mut Transaction<Tables>,
        batch: &[&Received],
    ) -> Result<Vec<RideUpdate>, Failure> {
        let finals: Vec<(&LocationAggregate, &Trace)> = batch.iter().filter_map(|r| final_aggregate(r)).collect();
        let ids: BTreeSet<RideId> = finals.iter().map(|(aggregate, _)| aggregate.ride_id).collect();
        let ids: Vec<RideId> = ids.into_iter().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let rides = rows::lock_rides(tx, &ids).await?;
        let mut rides: BTreeMap<RideId, Ride> = rides.into_iter().map(|ride| (ride.ride_id, ride)).collect();
        let mut updates = Vec::new();
        for (aggregate, trace) in finals {
            let id = aggregate.ride_id;
            let ride = rides.get_mut(&id).ok_or_else(|| Failure::Permanent(format!("there is no ride {id}")))?;
            if aggregate.driver_id != ride.driver_id {
                return Err(Failure::Permanent(format!("driver_id {} does not drive ride {id}", aggregate.driver_id)));
            }
            let (metres, max_speed_mps) = (aggregate.distance_m, self.config.max_speed_mps);
            let distance = billed_distance(ride, metres, aggregate.covered, max_speed_mps);
            if let Some(update) = self.complete(ride, distance, trace)? {
                if plausible(ride, metres, ride.duration_s(), max_speed_mps) == Distance::Estimated {
                    tracing::warn!(ride_id = %id, distance_m = aggregate.distance_m, duration_s = ride.duration_s(), "nobody can have driven the final distance: billed by the estimate");
                    self.platform.metrics.distances_refused.with_label_values(&[Service::Rides.name()]).inc();
                } else if distance == Distance::Estimated {
                    tracing::info!(ride_id = %id, distance_m = metres, covered = aggregate.covered, "positions show too little of the ride: billed by the estimate");
                }
                *ride = update.change.ride.clone();
                updates.push(update);
            }
        }
        Ok(updates)
    }

    async fn complete_overdue(&self, tx: &mut Transaction<Tables>) -> Result<Vec<RideUpdate>, Failure> {
        let world = &self.platform.world;
        let before = world.now() - Duration::seconds(self.config.completion_wait_s);
        let mut updates = Vec::new();
        let rides = rows::lock_arrived(tx, before, OVERDUE_PAGE).await?;
        let traces = tx.traces_of(&column(&rides, |ride| ride.ride_id.0)).await?;
        for ride in rides {
            tracing::warn!(ride_id = %ride.ride_id, "no final distance came in time: billed by the estimate");
            let trace = traces.get(&ride.ride_id.0).cloned().unwrap_or_else(|| self.platform.new_trace());
            updates.extend(self.complete(&ride, Distance::Estimated, &trace)?);
        }
        Ok(updates)
    }
}

/// When the search of a ride began: its id is a UUIDv7, which has the time in it.
fn searched_since(ride: &RideEvent, now: DateTime<Utc>) -> DateTime<Utc> {
    let began = ride.request_id.and_then(|id| id.0.get_timestamp()).map(|at| at.to_unix());
    let began = began.and_then(|(seconds, nanos)| DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos));
    began.unwrap_or(now)
}

fn final_aggregate(received: &Received) -> Option<(&LocationAggregate, &Trace)> {
    match &received.event {
        Event::LocationAggregate(aggregate) if aggregate.is_final => Some((aggregate, &received.trace)),
        _ => None,
    }
}

impl Handler for Completions {
    type Tables = Tables;

    /// Most aggregates are of rides under way: they need no transaction.
    fn writes(&self, batch: &[&Received]) -> bool {
        batch.iter().any(|received| final_aggregate(received).is_some())
    }

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        self.completed = 0;
        let updates = if batch.is_empty() {
            let updates = self.complete_overdue(tx).await?;
            // After a full page there may be more.
            let pause = if updates.len() < OVERDUE_PAGE as usize { OVERDUE_INTERVAL_S } else { 0 };
            self.next_check = self.platform.world.now() + Duration::seconds(pause);
            updates
        } else {
            self.complete_final(tx, batch).await?
        };
        self.completed = updates.len() as u64;
        write_updates(tx, updates).await?;
        Ok(())
    }

    async fn committed(&mut self, _batch: &[&Received]) {
        count(&self.platform.metrics, RideStatus::Completed, std::mem::take(&mut self.completed));
    }

    fn rolled_back(&mut self) {
        self.completed = 0;
    }

    fn wake_at(&self) -> Option<DateTime<Utc>> {
        Some(self.next_check)
    }
}

/// payment.capture → money, or a debt.
pub(crate) struct Captures {
    platform: Platform,
    config: Arc<Config>,
}

impl Captures {
    pub(crate) fn new(platform: &Platform, config: &Arc<Config>) -> Self {
        Self { platform: platform.clone(), config: config.clone() }
    }
}

impl Handler for Captures {
    type Tables = Tables;

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        let captures: BTreeMap<_, &PaymentCapture> = batch
            .iter()
            .filter_map(|received| match &received.event {
                Event::PaymentCapture(capture) => Some((capture.payment_id, capture)),
                _ => None,
            })
            .collect();
        let ids: Vec<_> = captures.keys().copied().collect();
        let payments = payment::rows::lock_payments(tx, &ids).await?;
        let payments: BTreeMap<_, Payment> = payments.into_iter().map(|p| (p.payment_id, p)).collect();
        let (world, provider) = (&self.platform.world, self.config.provider);
        let (mut settled, mut movements) = (Vec::new(), Vec::new());
        for (id, capture) in captures {
            // Only what rides itself has billed is captured.
            let known = payments.get(&id).filter(|payment| payment.is_for(capture));
            let Some(payment) = known else {
                return Err(Failure::Permanent(format!("payment {id} was not billed like this")));
            };
            if payment.status != PaymentStatus::Pending {
                continue;
            }
            let (status, reference) = match provider.capture(id, payment.amount) {
                Ok(reference) => {
                    let paid = ledger::captured(payment, provider.name());
                    movements.push(paid.map_err(|e| Failure::Permanent(e.to_string()))?);
                    (PaymentStatus::Captured, Some(reference))
                }
                Err(CaptureError::Refused) => {
                    tracing::warn!(ride_id = %payment.ride_id, payment_id = %id, "payment refused: the amount becomes a debt");
                    (PaymentStatus::Refused, None)
                }
                Err(error @ CaptureError::Unavailable) => {
                    return Err(Failure::Transient(format!("payment {id}: {error}")));
                }
            };
            settled.push(Payment { status, reference, tried_at: Some(world.now()), ..payment.clone() });
        }
        if !settled.is_empty() {
            payment::rows::settle_payments(tx, &settled).await?;
            ledger::rows::post(tx, &movements).await?;
        }
        Ok(())
    }
}
