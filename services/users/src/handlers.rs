//! What the service does with events: it updates offers, live rides and searches, appends each event to the mailboxes of the
//! users concerned, and after the commit notifies the pods that hold their sockets.

use std::collections::BTreeMap;

use platform::{Failure, Handler, Received, Transaction};
use streams::event::{LocationAggregate, RideEvent};
use streams::{Event, MatchId, RideId, RideStatus, Subject, UserId};

use crate::context::Context;
use crate::gateway::frame;
use crate::mailbox::{NewEntry, notification, notify_subject};
use crate::offer::Offer;
use crate::tables::Tables;
use crate::{live_ride, mailbox, offer, search};

/// The most messages of one transaction.
pub(crate) const BATCH_MAX: usize = 256;

/// The subjects of each worker. One worker has everything from an offer to the end of its ride, so that a user's events of
/// one batch are appended in the order in which they happened.
pub(crate) const LANES: [&[Subject]; 4] = [
    &[Subject::UserBeacon],
    &[Subject::UserFinder],
    &[
        Subject::MatchFound,
        Subject::MatchRejected,
        Subject::MatchAccepted,
        Subject::RidePickup,
        Subject::RideStarted,
        Subject::RideArrived,
        Subject::RideCompleted,
        Subject::RideCancelled,
    ],
    &[Subject::LocationAggregate],
];

#[derive(Debug, Clone)]
pub(crate) struct EventHandler {
    context: Context,
    /// The entries of this transaction, each with its `seq`.
    appended: Vec<(NewEntry, u64)>,
}

impl EventHandler {
    pub(crate) fn new(context: &Context) -> Self {
        Self { context: context.clone(), appended: Vec::new() }
    }

    async fn update_rows(&self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        let mut offers: Vec<Offer> = Vec::new();
        let mut rejections = Vec::new();
        let mut rides: Vec<&RideEvent> = Vec::new();
        for received in batch {
            match &received.event {
                Event::MatchFound(found) => offers.push(Offer::from_found(found)),
                Event::MatchRejected(rejected) => rejections.push((rejected.match_id, rejected.reason)),
                Event::Ride(ride) => rides.push(ride),
                _ => {}
            }
        }
        // Every transaction locks the tables in this order, and mailboxes last, so that no two deadlock.
        offer::rows::insert(tx, &offers).await?;
        offer::rows::reject(tx, &rejections).await?;
        live_ride::rows::apply(tx, &rides, self.context.platform.world.now()).await?;
        let begun: Vec<MatchId> = rides.iter().filter(|r| r.status == RideStatus::Pickup).map(|r| r.match_id).collect();
        if !begun.is_empty() {
            search::rows::delete_fulfilled(tx, &begun).await?;
        }
        Ok(())
    }

    /// The passengers of the rides that have a `location.aggregate` in the batch.
    async fn passengers(
        tx: &mut Transaction<Tables>,
        batch: &[&Received],
    ) -> Result<BTreeMap<RideId, UserId>, Failure> {
        let rides: Vec<RideId> = batch
            .iter()
            .filter_map(|received| match &received.event {
                Event::LocationAggregate(LocationAggregate { ride_id, .. }) => Some(*ride_id),
                _ => None,
            })
            .collect();
        let passengers = live_ride::rows::passengers(tx, &rides).await?;
        match rides.iter().find(|ride| !passengers.contains_key(ride)) {
            // Its ride.pickup may still come. If there is no such ride, the message becomes a dead letter after its tries.
            Some(ride) => Err(Failure::Transient(format!("the ride {ride} of an aggregate is not known here yet"))),
            None => Ok(passengers),
        }
    }

    /// The users whom an event concerns, each with the body that they may see.
    fn recipients(&self, event: &Event, passengers: &BTreeMap<RideId, UserId>) -> Vec<(UserId, String)> {
        let body = String::from_utf8(event.body()).expect("JSON is UTF-8");
        let both = |driver: UserId, passenger: UserId, body: String| {
            if driver == passenger { vec![(driver, body)] } else { vec![(driver, body.clone()), (passenger, body)] }
        };
        match event {
            Event::UserBeacon(e) => vec![(e.user_id, body)],
            Event::UserFinder(e) => vec![(e.user_id, body)],
            Event::MatchFound(e) => both(e.driver_id, e.passenger_id, body),
            Event::MatchAccepted(e) => both(e.driver_id, e.passenger_id, body),
            Event::MatchRejected(e) => both(e.driver_id, e.passenger_id, body),
            Event::Ride(e) if e.status == RideStatus::Pickup && e.driver_id != e.passenger_id => {
                let pin = self.context.tokens.ride_pin(e.ride_id);
                let with_pin = format!(r#"{},"pin":"{pin}"}}"#, body.strip_suffix('}').unwrap_or(&body));
                vec![(e.driver_id, body), (e.passenger_id, with_pin)]
            }
            Event::Ride(e) => both(e.driver_id, e.passenger_id, body),
            Event::LocationAggregate(e) => passengers.get(&e.ride_id).map(|p| (*p, body)).into_iter().collect(),
            Event::LocationUpdate(_) | Event::PaymentCapture(_) => Vec::new(),
        }
    }

    fn new_entries(&self, batch: &[&Received], passengers: &BTreeMap<RideId, UserId>) -> Vec<NewEntry> {
        let mut entries: Vec<NewEntry> = batch
            .iter()
            .flat_map(|received| {
                let time = received.event.occurred_at().unwrap_or(received.stored_at);
                let subject = received.event.subject();
                let recipients = self.recipients(&received.event, passengers).into_iter();
                let event_id = &received.id;
                recipients.map(move |(user, body)| NewEntry { user, event_id: event_id.clone(), subject, time, body })
            })
            .collect();
        // The worker has sorted the batch by entity. In a mailbox, events are in the order of their times.
        entries.sort_by_key(|entry| entry.time);
        entries
    }
}

impl Handler for EventHandler {
    type Tables = Tables;

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        self.update_rows(tx, batch).await?;
        let passengers = Self::passengers(tx, batch).await?;
        let entries = self.new_entries(batch, &passengers);
        let seqs = mailbox::rows::append(tx, &entries, self.context.platform.world.now()).await?;
        self.appended = entries.into_iter().zip(seqs).collect();
        Ok(())
    }

    async fn committed(&mut self, _batch: &[&Received]) {
        for (entry, seq) in self.appended.drain(..) {
            let event = frame::event(entry.subject.as_str(), seq, &entry.event_id, entry.time, &entry.body);
            let message = notification::of_event(&self.context.tokens, entry.user, &event);
            let subject = notify_subject(entry.user);
            if let Err(error) = self.context.platform.bus.publish_core(&subject, message.into()).await {
                // The poll of mailboxes finds the entry.
                tracing::debug!(%error, "a notification of a new mailbox entry was not sent");
            }
        }
    }

    fn rolled_back(&mut self) {
        self.appended.clear();
    }
}
