//! What rides does with events: an accepted match becomes a ride, the final distance of a ride its fare, a capture money
//! or a debt; and the timer that bills a ride whose final distance does not come.
//!
//! Decisions are those of `ride.rs`; here they are fetched, asked for and written, a batch in a handful of statements.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use platform::{Failure, Handler, Received, StoreError, Trace, Transaction};
use streams::event::{Event, LocationAggregate, MatchAccepted, MatchRejected, Party, PaymentCapture, RejectReason};
use streams::{RideId, RideStatus, Service};

use crate::event_log::{self, KeptEvent};
use crate::payment::{self, CaptureError, Payment, PaymentStatus};
use crate::ride::rows;
use crate::ride::{Change, Distance, Order, Outcome, Ride, decide};
use crate::tables::Tables;
use crate::{Rides, ledger};

/// Rides that the timer bills in one transaction.
const OVERDUE_MAX: u32 = 100;
/// How often the timer looks.
const LOOK_EVERY_S: i64 = 1;

/// A change to a ride that is in the store with version `was`.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) was: u32,
    pub(crate) change: Change,
    pub(crate) trace: Trace,
}

/// Writes changes and all that follows from them: the rows, the events, what is owed, and the captures.
pub(crate) async fn write(tx: &mut Transaction<Tables>, written: Vec<Written>) -> Result<(), StoreError> {
    if written.is_empty() {
        return Ok(());
    }
    let updated: Vec<(u32, Ride)> = written.iter().map(|w| (w.was, w.change.ride.clone())).collect();
    rows::update_rides(tx, &updated).await?;
    let (mut movements, mut payments, mut events) = (Vec::new(), Vec::new(), Vec::new());
    for Written { change, trace, .. } in written {
        tx.publish(&Event::Ride(Box::new(change.event.clone())), &trace);
        if let Some(bill) = &change.bill {
            let ride = &change.ride;
            let due = ledger::owed(ride, bill).map_err(|e| StoreError::Other(format!("ride {}: {e}", ride.ride_id)))?;
            movements.push(due);
            let payment = Payment::due(ride, bill.total);
            tx.publish(&Event::PaymentCapture(payment.capture()), &trace);
            payments.push(payment);
        }
        events.push(KeptEvent::of(&change.event, trace.as_str()));
    }
    event_log::keep_events(tx, events).await?;
    if !payments.is_empty() {
        payment::rows::insert_payments(tx, &payments).await?;
        ledger::rows::post(tx, &movements).await?;
    }
    Ok(())
}

/// match.accepted → a ride, or match.rejected for the loser of a race.
pub(crate) struct Accepted {
    rides: Rides,
    created: u64,
}

impl Accepted {
    pub(crate) fn new(rides: &Rides) -> Self {
        Self { rides: rides.clone(), created: 0 }
    }
}

impl Handler for Accepted {
    type Tables = Tables;

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        self.created = 0;
        let world = &self.rides.platform.world;
        let now = world.now();
        // A match that stands twice in the batch is one match; the driver's first word counts.
        let mut matches: BTreeMap<_, (&MatchAccepted, &Trace)> = BTreeMap::new();
        for received in batch {
            if let Event::MatchAccepted(accepted) = &received.event {
                if accepted.driver_id == accepted.passenger_id {
                    return Err(Failure::Permanent("driver_id and passenger_id are the same user".to_owned()));
                }
                matches.entry(accepted.match_id).or_insert((accepted, &received.trace));
            }
        }
        let changes: Vec<Change> =
            matches.values().map(|(accepted, _)| Ride::create(accepted, world.id(), now)).collect();
        let requests = matches.values().map(|(accepted, _)| accepted.request_id);
        let rides: Vec<_> = requests.zip(&changes).map(|(request, change)| (request, change.ride.clone())).collect();
        let inserted = rows::insert_live_rides(tx, &rides).await?;
        let changes: Vec<Change> = changes.into_iter().filter(|c| inserted.contains(&c.ride.match_id)).collect();
        let mut events = Vec::with_capacity(changes.len());
        for change in &changes {
            if let Some((_, trace)) = matches.remove(&change.ride.match_id) {
                tx.publish(&Event::Ride(Box::new(change.event.clone())), trace);
                events.push(KeptEvent::of(&change.event, trace.as_str()));
            }
        }
        if !events.is_empty() {
            event_log::keep_events(tx, events).await?;
        }
        self.created = changes.len() as u64;
        if matches.is_empty() {
            return Ok(());
        }
        // What remains has its ride from before, or lost it to another one.
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
            tracing::info!(match_id = %accepted.match_id, "a match is superseded: its request had a ride, or one of the two has a live one");
            tx.publish(&Event::MatchRejected(rejected), trace);
        }
        Ok(())
    }

    async fn committed(&mut self, _batch: &[&Received]) {
        self.rides.count(RideStatus::Pickup, std::mem::take(&mut self.created));
    }

    fn rolled_back(&mut self) {
        self.created = 0;
    }
}

/// location.aggregate, the final ones only → ride.completed; and, by the timer, the same without one.
pub(crate) struct Completion {
    rides: Rides,
    next_look: DateTime<Utc>,
    completed: u64,
}

impl Completion {
    pub(crate) fn new(rides: &Rides) -> Self {
        let next_look = rides.platform.world.now() + Duration::seconds(LOOK_EVERY_S);
        Self { rides: rides.clone(), next_look, completed: 0 }
    }

    fn complete(&self, ride: &Ride, distance: Distance, trace: &Trace) -> Result<Option<Written>, Failure> {
        let now = self.rides.platform.world.now();
        let order = Order::Complete(distance);
        match decide(ride, Party::System, &order, &self.rides.config.tariffs, now) {
            Ok(Outcome::Changed(change)) => {
                Ok(Some(Written { was: ride.version, change: *change, trace: trace.clone() }))
            }
            // Completed before, by the timer or an earlier one.
            Ok(Outcome::Again | Outcome::WrongPin(_)) => Ok(None),
            Err(_) if ride.status.is_final() => Ok(None),
            Err(refusal) => Err(Failure::Transient(format!("ride {}: {refusal}", ride.ride_id))),
        }
    }

    async fn finals(&self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<Vec<Written>, Failure> {
        let finals: Vec<(&LocationAggregate, &Trace)> = batch.iter().filter_map(|r| final_of(r)).collect();
        let ids: BTreeSet<RideId> = finals.iter().map(|(aggregate, _)| aggregate.ride_id).collect();
        let ids: Vec<RideId> = ids.into_iter().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let rides = rows::lock_rides(tx, &ids).await?;
        let mut rides: BTreeMap<RideId, Ride> = rides.into_iter().map(|ride| (ride.ride_id, ride)).collect();
        let mut written = Vec::new();
        for (aggregate, trace) in finals {
            let id = aggregate.ride_id;
            let ride = rides.get_mut(&id).ok_or_else(|| Failure::Permanent(format!("there is no ride {id}")))?;
            if aggregate.driver_id != ride.driver_id {
                return Err(Failure::Permanent(format!("driver_id {} does not drive ride {id}", aggregate.driver_id)));
            }
            if let Some(change) = self.complete(ride, Distance::Measured(aggregate.distance_m), trace)? {
                *ride = change.change.ride.clone();
                written.push(change);
            }
        }
        Ok(written)
    }

    async fn overdue(&self, tx: &mut Transaction<Tables>) -> Result<Vec<Written>, Failure> {
        let world = &self.rides.platform.world;
        let before = world.now() - Duration::seconds(self.rides.config.completion_wait_s);
        let mut written = Vec::new();
        for ride in rows::lock_arrived(tx, before, OVERDUE_MAX).await? {
            tracing::warn!(ride_id = %ride.ride_id, "no final distance came: billed by the estimate");
            written.extend(self.complete(&ride, Distance::Estimated, &world.trace())?);
        }
        Ok(written)
    }
}

fn final_of(received: &Received) -> Option<(&LocationAggregate, &Trace)> {
    match &received.event {
        Event::LocationAggregate(aggregate) if aggregate.is_final => Some((aggregate, &received.trace)),
        _ => None,
    }
}

impl Handler for Completion {
    type Tables = Tables;

    /// Most aggregates tell of rides under way: they cost no transaction.
    fn writes(&self, batch: &[&Received]) -> bool {
        batch.iter().any(|received| final_of(received).is_some())
    }

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        self.completed = 0;
        let written = if batch.is_empty() {
            let written = self.overdue(tx).await?;
            // A full page means that more may wait.
            let pause = if written.len() < OVERDUE_MAX as usize { LOOK_EVERY_S } else { 0 };
            self.next_look = self.rides.platform.world.now() + Duration::seconds(pause);
            written
        } else {
            self.finals(tx, batch).await?
        };
        self.completed = written.len() as u64;
        write(tx, written).await?;
        Ok(())
    }

    async fn committed(&mut self, _batch: &[&Received]) {
        self.rides.count(RideStatus::Completed, std::mem::take(&mut self.completed));
    }

    fn rolled_back(&mut self) {
        self.completed = 0;
    }

    fn wake_at(&self) -> Option<DateTime<Utc>> {
        Some(self.next_look)
    }
}

/// payment.capture → money, or a debt.
pub(crate) struct Captures {
    rides: Rides,
}

impl Captures {
    pub(crate) fn new(rides: &Rides) -> Self {
        Self { rides: rides.clone() }
    }
}

impl Handler for Captures {
    type Tables = Tables;

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        let wanted: BTreeMap<_, &PaymentCapture> = batch
            .iter()
            .filter_map(|received| match &received.event {
                Event::PaymentCapture(capture) => Some((capture.payment_id, capture)),
                _ => None,
            })
            .collect();
        let ids: Vec<_> = wanted.keys().copied().collect();
        let payments = payment::rows::lock_payments(tx, &ids).await?;
        let payments: BTreeMap<_, Payment> = payments.into_iter().map(|p| (p.payment_id, p)).collect();
        let (world, provider) = (&self.rides.platform.world, self.rides.config.provider);
        let (mut settled, mut movements) = (Vec::new(), Vec::new());
        for (id, capture) in wanted {
            // Only what rides itself has billed is ever taken.
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
                    tracing::warn!(ride_id = %payment.ride_id, payment_id = %id, "payment refused: it is a debt now");
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
