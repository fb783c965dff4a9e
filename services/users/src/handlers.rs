//! What the users service does with what happens: it keeps offers, live rides and searches current, puts every event into
//! the mailboxes of whom it concerns, and after the commit wakes their sockets on whichever pod they are.

use std::collections::BTreeMap;

use platform::{Failure, Handler, Received, Transaction, Worker};
use streams::event::{LocationAggregate, RideEvent};
use streams::topology::Consumer;
use streams::{Event, MatchId, RideId, RideStatus, Service, Subject, UserId};

use crate::gateway::frame;
use crate::mailbox::Post;
use crate::offer::Offer;
use crate::{Tables, Users, live_ride, mailbox, offer, search};

/// The most messages that one transaction takes.
const BATCH_MAX: usize = 256;

/// The consumers that one worker works for. What leads from an offer to a ride's end goes through one, so that a user's
/// events come in the order in which they happened, as far as they arrived together.
const LANES: [&[Subject]; 4] = [
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

/// The subject of the core messages that wake the sockets of `user`.
pub(crate) fn wake_subject(user: UserId) -> String {
    format!("users.session.{user}.notify")
}

impl Users {
    /// The workers of every consumer of the service.
    pub(crate) fn workers(&self) -> impl Iterator<Item = Worker<Events>> {
        LANES.iter().map(|subjects| {
            let consumer =
                |subject: &Subject| -> Consumer { self.platform.topology.consumer(*subject, Service::Users).clone() };
            let consumers = subjects.iter().map(consumer).collect();
            Worker::new(&self.platform, Service::Users, &self.store, consumers, BATCH_MAX, Events::new(self))
        })
    }
}

/// The handler of all consumers.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    users: Users,
    /// What this transaction posted, with each one's `seq`.
    posted: Vec<(Post, u64)>,
}

impl Events {
    pub(crate) fn new(users: &Users) -> Self {
        Self { users: users.clone(), posted: Vec::new() }
    }

    async fn keep(tx: &mut Transaction<Tables>, batch: &[&Received], users: &Users) -> Result<(), Failure> {
        let mut offers: Vec<Offer> = Vec::new();
        let mut rejections = Vec::new();
        let mut rides: Vec<&RideEvent> = Vec::new();
        for received in batch {
            match &received.event {
                Event::MatchFound(found) => offers.push(Offer::of(found)),
                Event::MatchRejected(rejected) => rejections.push((rejected.match_id, rejected.reason)),
                Event::Ride(ride) => rides.push(ride),
                _ => {}
            }
        }
        // The tables always in this order, and the mailboxes last.
        offer::insert(tx, &offers).await?;
        offer::reject(tx, &rejections).await?;
        live_ride::apply(tx, &rides, users.platform.world.now()).await?;
        let begun: Vec<MatchId> = rides.iter().filter(|r| r.status == RideStatus::Pickup).map(|r| r.match_id).collect();
        if !begun.is_empty() {
            search::fulfil(tx, &begun).await?;
        }
        Ok(())
    }

    /// The passengers of the rides of which there are aggregates.
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
        let passengers = live_ride::passengers(tx, &rides).await?;
        match rides.iter().find(|ride| !passengers.contains_key(ride)) {
            // Its ride.pickup is on the way, or the ride is none: the tries tell.
            Some(ride) => Err(Failure::Transient(format!("the ride {ride} of an aggregate is not known here yet"))),
            None => Ok(passengers),
        }
    }

    /// Whom an event concerns, each with the body that they see.
    fn addressees(&self, event: &Event, passengers: &BTreeMap<RideId, UserId>) -> Vec<(UserId, String)> {
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
                let pin = self.users.tokens.ride_pin(e.ride_id);
                let with_pin = format!(r#"{},"pin":"{pin}"}}"#, body.strip_suffix('}').unwrap_or(&body));
                vec![(e.driver_id, body), (e.passenger_id, with_pin)]
            }
            Event::Ride(e) => both(e.driver_id, e.passenger_id, body),
            Event::LocationAggregate(e) => passengers.get(&e.ride_id).map(|p| (*p, body)).into_iter().collect(),
            Event::LocationUpdate(_) | Event::PaymentCapture(_) => Vec::new(),
        }
    }

    fn posts(&self, batch: &[&Received], passengers: &BTreeMap<RideId, UserId>) -> Vec<Post> {
        let mut posts: Vec<Post> = batch
            .iter()
            .flat_map(|received| {
                let time = received.event.occurred_at().unwrap_or(received.stored_at);
                let subject = received.event.subject();
                let addressees = self.addressees(&received.event, passengers).into_iter();
                addressees.map(move |(user, body)| Post { user, event_id: received.id.clone(), subject, time, body })
            })
            .collect();
        // The worker sorts a batch by entity: a mailbox has it by time.
        posts.sort_by_key(|post| post.time);
        posts
    }
}

impl Handler for Events {
    type Tables = Tables;

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        Self::keep(tx, batch, &self.users).await?;
        let passengers = Self::passengers(tx, batch).await?;
        let posts = self.posts(batch, &passengers);
        let seqs = mailbox::post(tx, &posts, self.users.platform.world.now()).await?;
        self.posted = posts.into_iter().zip(seqs).collect();
        Ok(())
    }

    async fn committed(&mut self, _batch: &[&Received]) {
        for (post, seq) in self.posted.drain(..) {
            let event = frame::event(post.subject.as_str(), seq, &post.event_id, post.time, &post.body);
            if let Err(error) = self.users.platform.bus.publish_core(&wake_subject(post.user), event.into()).await {
                // The sockets' own look at the mailbox finds it.
                tracing::debug!(%error, "a wake-up was not sent");
            }
        }
    }

    fn rolled_back(&mut self) {
        self.posted.clear();
    }
}
