//! What the service does with events: it updates offers, live rides and searches, appends each event to the mailboxes of the
//! users concerned, and after the commit notifies the pods that hold their sockets.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use platform::store::rows::column;
use platform::{Failure, Handler, Received, StoreError, Trace, Transaction};
use streams::event::{LocationAggregate, MatchAccepted, MatchFound, MatchRejected, RejectReason, RideEvent};
use streams::{Event, MatchId, Position, RequestId, RideId, RideStatus, Subject, UserId};

use crate::context::Context;
use crate::gateway::publish_frames;
use crate::mailbox::{Appended, NewEntry};
use crate::offer::rows::Unshown;
use crate::offer::{Before, Offer, OfferState};
use crate::party::FrameBody;
use crate::presence::Route;
use crate::search::ending::ENDING_WAIT;
use crate::search::{Search, SearchKey};
use crate::shown::WithPin;
use crate::tables::Tables;
use crate::{account, live_ride, mailbox, offer, party, presence, search};

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
        Subject::RideWaiting,
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
    appended: Vec<(NewEntry, Appended)>,
    /// Where the sockets of their users are.
    routes: BTreeMap<UserId, Vec<Route>>,
    /// Offers of this transaction that were closed at once, because their search has ended.
    closed: u64,
    /// Ends of older offers that come before the offers of this transaction, each with the time before which it is sorted.
    earlier_ends: Vec<(DateTime<Utc>, MatchRejected)>,
}

impl EventHandler {
    pub(crate) fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            appended: Vec::new(),
            routes: BTreeMap::new(),
            closed: 0,
            earlier_ends: Vec::new(),
        }
    }

    /// Returns the ids of the messages that nobody is shown.
    async fn update_rows(
        &mut self,
        tx: &mut Transaction<Tables>,
        batch: &[&Received],
    ) -> Result<BTreeSet<String>, Failure> {
        let (mut found, mut traces): (Vec<&MatchFound>, Vec<&Trace>) = Default::default();
        let mut rejections: Vec<(&str, &MatchRejected)> = Vec::new();
        let mut rides: Vec<&RideEvent> = Vec::new();
        let mut cancelled: Vec<(&RideEvent, &Trace)> = Vec::new();
        for received in batch {
            match &received.event {
                Event::MatchFound(e) => {
                    found.push(e);
                    traces.push(&received.trace);
                }
                Event::MatchRejected(e) => rejections.push((received.id.as_str(), e)),
                Event::Ride(e) => {
                    rides.push(e);
                    cancelled.extend(e.search_continues.map(|_| (&**e, &received.trace)));
                }
                _ => {}
            }
        }
        let superseded = rejections.iter().filter(|(_, e)| e.reason == RejectReason::Superseded);
        let superseded: Vec<RequestId> = superseded.map(|(_, e)| e.request_id).collect();
        let since = self.context.platform.world.now() - ENDING_WAIT;
        if search::rows::any_ending(tx, &superseded, since).await? {
            return Err(Failure::Transient("the search of a superseded offer is just ending".to_owned()));
        }
        // Every transaction locks the tables in this order, searches first and mailboxes last, so that no two deadlock.
        let fulfilled = Self::fulfilled(tx, &found, &rides).await?;
        let open = Self::open_searches(tx, &found, &fulfilled).await?;
        search::rows::delete(tx, &fulfilled).await?;
        // An offer of a search that has ended is closed at once, and its parties receive the end.
        let state = |e: &MatchFound| if open.contains(&e.request_id) { OfferState::Open } else { OfferState::Closed };
        let offers: Vec<Offer> = found.iter().map(|e| Offer::from_found(e, state(e))).collect();
        let body = |e: &&MatchFound| (e.match_id, json_of(&Event::MatchFound((*e).clone())));
        let bodies: BTreeMap<MatchId, String> = found.iter().map(body).collect();
        let parties: Vec<UserId> = found.iter().flat_map(|e| [e.driver_id, e.passenger_id]).collect();
        let ended: Vec<MatchId> = rejections.iter().map(|(_, e)| e.match_id).collect();
        offer::rows::lock_ending(tx, &ended, &parties).await?;
        let inserted = offer::rows::insert(tx, &offers, &bodies).await?;
        let reasons: Vec<_> = rejections.iter().map(|(_, e)| (e.match_id, e.reason)).collect();
        let before = offer::rows::reject(tx, &reasons).await?;
        let now = self.context.platform.world.now();
        live_ride::rows::apply(tx, &rides, now).await?;
        self.continue_searches(tx, &cancelled, now).await?;
        self.closed = 0;
        for ((offer, e), trace) in offers.iter().zip(&found).zip(traces) {
            if offer.state == OfferState::Closed && inserted.contains(&offer.match_id) {
                // Later than match.found, also if the clock of match is ahead.
                let cancelled = offer.cancelled(now.max(e.found_at + Duration::microseconds(3)));
                offer::rows::close(tx, std::slice::from_ref(&cancelled)).await?;
                tx.publish(&Event::MatchRejected(cancelled), trace);
                self.closed += 1;
            }
        }
        let unknown = Self::store_unknown(tx, &rejections, &before).await?;
        let (mut hidden, mut shown) = (BTreeSet::new(), BTreeSet::new());
        for (id, e) in &rejections {
            let is_shown = unknown.contains(id) || offer::is_shown(before.get(&e.match_id).copied(), e);
            if !is_shown || !shown.insert(e.match_id) {
                hidden.insert((*id).to_owned());
            }
        }
        let new: Vec<&MatchFound> = found.into_iter().filter(|e| inserted.contains(&e.match_id)).collect();
        self.earlier_ends = self.earlier_ends(tx, &new, &parties, &mut shown).await?;
        offer::rows::set_end_shown(tx, &shown.into_iter().collect::<Vec<_>>()).await?;
        Ok(hidden)
    }

    /// The ends of older offers of the parties of `new` that they have not received: one live offer at a time, in everybody's eyes. match
    /// makes an offer only to people who have none, so the older ones are over. One that is open here has expired: match says so as well,
    /// and this comes first. `shown` are those whose ends are in this batch, and in the end all whose ends are shown by it.
    async fn earlier_ends(
        &self,
        tx: &mut Transaction<Tables>,
        new: &[&MatchFound],
        parties: &[UserId],
        shown: &mut BTreeSet<MatchId>,
    ) -> Result<Vec<(DateTime<Utc>, MatchRejected)>, StoreError> {
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let (mut ends, mut expired) = (Vec::new(), Vec::new());
        for Unshown { offer, end } in offer::rows::unshown(tx, parties).await? {
            let is_next = |e: &&&MatchFound| {
                e.match_id > offer.match_id && (e.driver_id == offer.driver_id || e.passenger_id == offer.passenger_id)
            };
            let Some(next) = new.iter().filter(is_next).min_by_key(|e| e.found_at) else { continue };
            if shown.contains(&offer.match_id) {
                continue;
            }
            let end = match end {
                Some(end) => end,
                None if next.found_at >= offer.expires_at => {
                    let end = offer.expired(self.context.platform.world.now());
                    let traces = tx.traces_of(&[offer.match_id.0]).await?;
                    self.context.publish_about(tx, &Event::MatchRejected(end.clone()), offer.match_id.0, &traces);
                    expired.push(end.clone());
                    end
                }
                None => continue,
            };
            shown.insert(offer.match_id);
            ends.push((before(next), end));
        }
        offer::rows::close(tx, &expired).await?;
        Ok(ends)
    }

    /// Opens the searches again whose rides were cancelled by their drivers, unless the passenger is in another ride or search by now.
    async fn continue_searches(
        &self,
        tx: &mut Transaction<Tables>,
        cancelled: &[(&RideEvent, &Trace)],
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let markets = self.context.config.markets.get();
        let ttl = |id: Option<&str>, pickup: &Position| self.context.config.request_ttl(markets.of(id, pickup));
        let searches: Vec<_> = cancelled
            .iter()
            .filter_map(|(ride, trace)| Some((*ride, *trace, Search::continued(ride, now, ttl)?)))
            .collect();
        // A later end of the search must not find the accepted offer of a ride that is over. And if the passenger has ended the search
        // meanwhile, which closed the offer, it does not go on.
        let ridden = offer::rows::close_ridden(tx, &column(&searches, |(ride, ..)| ride.match_id)).await?;
        for (ride, trace, search) in searches.iter().filter(|(ride, ..)| ridden.contains(&ride.match_id)) {
            let is_free = live_ride::rows::of_passenger(tx, search.user_id).await?.is_none();
            if is_free && search::rows::put_continued(tx, search).await? {
                tx.publish(&search.goes_on(ride), trace);
            }
        }
        Ok(())
    }

    /// Stores the ends of offers that have no row yet, so that a match.found that arrives later opens nothing. Returns the ids of the
    /// messages that are the first of their offer.
    async fn store_unknown<'a>(
        tx: &mut Transaction<Tables>,
        rejections: &[(&'a str, &MatchRejected)],
        before: &BTreeMap<MatchId, Before>,
    ) -> Result<BTreeSet<&'a str>, StoreError> {
        let mut unknown: BTreeMap<MatchId, (&str, &MatchRejected)> = BTreeMap::new();
        for (id, e) in rejections.iter().filter(|(_, e)| !before.contains_key(&e.match_id)) {
            unknown.entry(e.match_id).or_insert((id, e));
        }
        let ended: Vec<Offer> = unknown.values().map(|(_, e)| Offer::from_rejected(e)).collect();
        let inserted = offer::rows::insert(tx, &ended, &BTreeMap::new()).await?;
        // Another process has just stored the match.found.
        let found: Vec<_> = unknown.values().filter(|(_, e)| !inserted.contains(&e.match_id)).collect();
        let reasons: Vec<_> = found.iter().map(|(_, e)| (e.match_id, e.reason)).collect();
        offer::rows::reject(tx, &reasons).await?;
        Ok(unknown.into_values().map(|(id, _)| id).collect())
    }

    /// The searches that have become rides.
    async fn fulfilled(
        tx: &mut Transaction<Tables>,
        found: &[&MatchFound],
        rides: &[&RideEvent],
    ) -> Result<Vec<SearchKey>, StoreError> {
        let (mut searches, mut unknown) = (Vec::new(), Vec::new());
        let pickups = rides.iter().filter(|ride| ride.status == RideStatus::Pickup);
        // A ride.pickup that comes after the end of its ride says nothing of a search that went on.
        let ended = live_ride::rows::ended(tx, &column(pickups.clone(), |ride| ride.ride_id)).await?;
        for ride in pickups.filter(|ride| !ended.contains(&ride.ride_id)) {
            let offer = found.iter().find(|e| e.match_id == ride.match_id);
            match ride.request_id.or(offer.map(|e| e.request_id)) {
                Some(request) => searches.push((request, ride.passenger_id)),
                // It was published by a process that did not name the request yet.
                None => unknown.push(ride.match_id),
            }
        }
        searches.extend(offer::rows::searches_of(tx, &unknown).await?);
        Ok(searches)
    }

    /// Those of the searches of `found` whose offers a driver may accept; their rows and those of `fulfilled` stay locked. Offers of
    /// a search that has become a ride are among them: rides supersedes their acceptance.
    async fn open_searches(
        tx: &mut Transaction<Tables>,
        found: &[&MatchFound],
        fulfilled: &[SearchKey],
    ) -> Result<BTreeSet<RequestId>, StoreError> {
        if found.is_empty() {
            return Ok(BTreeSet::new());
        }
        let mut searches: Vec<SearchKey> = found.iter().map(|e| (e.request_id, e.passenger_id)).collect();
        searches.extend(fulfilled);
        let mut open = search::rows::lock_open(tx, &searches).await?;
        let others: Vec<RequestId> =
            found.iter().map(|e| e.request_id).filter(|request| !open.contains(request)).collect();
        open.extend(offer::rows::accepted(tx, &others).await?);
        Ok(open)
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
        let body = match event {
            // What the ride will cost is in ride.pickup: a mailbox has it once.
            Event::MatchFound(e) => json_of(&Event::MatchFound(MatchFound { terms: None, ..e.clone() })),
            Event::MatchAccepted(e) => json_of(&Event::MatchAccepted(MatchAccepted { terms: None, ..e.clone() })),
            event => json_of(event),
        };
        let both = |driver: UserId, passenger: UserId, body: String| {
            if driver == passenger { vec![(driver, body)] } else { vec![(driver, body.clone()), (passenger, body)] }
        };
        match event {
            Event::UserBeacon(e) => vec![(e.user_id, body)],
            Event::UserFinder(e) => vec![(e.user_id, body)],
            Event::MatchFound(e) if e.driver_id != e.passenger_id => {
                let of_driver = serde_json::to_string(&offer::view::for_driver(e)).expect("an offer is JSON");
                vec![(e.driver_id, of_driver), (e.passenger_id, body)]
            }
            Event::MatchFound(e) => vec![(e.driver_id, body)],
            Event::MatchAccepted(e) => both(e.driver_id, e.passenger_id, body),
            Event::MatchRejected(e) => both(e.driver_id, e.passenger_id, body),
            Event::Ride(e) if e.status == RideStatus::Pickup && e.driver_id != e.passenger_id => {
                let pin = WithPin { pin: Some(self.context.tokens.ride_pin(e.ride_id)) };
                let pin = serde_json::to_string(&pin).expect("a text is JSON");
                let with_pin = format!("{},{}", body.strip_suffix('}').unwrap_or(&body), pin.trim_start_matches('{'));
                vec![(e.driver_id, body), (e.passenger_id, with_pin)]
            }
            Event::Ride(e) => both(e.driver_id, e.passenger_id, body),
            Event::LocationAggregate(e) => passengers.get(&e.ride_id).map(|p| (*p, body)).into_iter().collect(),
            Event::LocationUpdate(_) | Event::PaymentCapture(_) | Event::Act(_) => Vec::new(),
        }
    }

    /// The entry of each user whom an event concerns, to be sorted by `at`.
    fn add_entries(&self, entries: &mut Vec<(DateTime<Utc>, NewEntry)>, at: DateTime<Utc>, of: &Occurred<'_>) {
        for (user, body) in self.recipients(of.event, of.passengers) {
            let (event_id, subject, time) = (of.id.to_owned(), of.event.subject(), of.time);
            entries.push((at, NewEntry { user, event_id, subject, time, body }));
        }
    }

    fn new_entries(
        &self,
        batch: &[&Received],
        hidden: &BTreeSet<String>,
        passengers: &BTreeMap<RideId, UserId>,
    ) -> Vec<NewEntry> {
        let found: Vec<&MatchFound> = batch
            .iter()
            .filter_map(|received| match &received.event {
                Event::MatchFound(e) => Some(e),
                _ => None,
            })
            .collect();
        let mut entries: Vec<(DateTime<Utc>, NewEntry)> = Vec::new();
        for received in batch.iter().filter(|received| !hidden.contains(&received.id)) {
            let time = received.event.occurred_at().unwrap_or(received.stored_at);
            let occurred = Occurred { event: &received.event, id: &received.id, time, passengers };
            self.add_entries(&mut entries, sort_time(&received.event, time, &found), &occurred);
        }
        for (at, end) in &self.earlier_ends {
            let (event, time) = (Event::MatchRejected(end.clone()), end.rejected_at);
            let occurred = Occurred { event: &event, id: &event.message_id(time), time, passengers };
            self.add_entries(&mut entries, time.min(*at), &occurred);
        }
        // The worker has sorted the batch by entity. In a mailbox, events are in the order of their times.
        entries.sort_by_key(|(at, _)| *at);
        entries.into_iter().map(|(_, entry)| entry).collect()
    }
}

/// An event with its id and time, and the passengers of rides.
struct Occurred<'a> {
    event: &'a Event,
    id: &'a str,
    time: DateTime<Utc>,
    passengers: &'a BTreeMap<RideId, UserId>,
}

/// Where an event comes among those of its batch: by its time, but the end of an offer before the next offer to one of its parties,
/// whatever the clocks of the services that wrote the two say. Ids of matches are in the order in which match made them.
fn sort_time(event: &Event, time: DateTime<Utc>, found: &[&MatchFound]) -> DateTime<Utc> {
    let Event::MatchRejected(end) = event else { return time };
    let is_next = |e: &&&MatchFound| {
        e.match_id > end.match_id && (e.driver_id == end.driver_id || e.passenger_id == end.passenger_id)
    };
    found.iter().filter(is_next).map(|e| before(e)).min().map_or(time, |at| time.min(at))
}

/// The time before an offer was made.
fn before(found: &MatchFound) -> DateTime<Utc> {
    found.found_at - chrono::Duration::microseconds(1)
}

/// The body of an event.
fn json_of(event: &Event) -> String {
    String::from_utf8(event.body()).expect("JSON is UTF-8")
}

impl Handler for EventHandler {
    type Tables = Tables;

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        let hidden = self.update_rows(tx, batch).await?;
        let passengers = Self::passengers(tx, batch).await?;
        let mut entries = self.new_entries(batch, &hidden, &passengers);
        // Nothing is stored for a person whose account has ended.
        let deleted = account::rows::deleted(tx, &column(&entries, |entry| entry.user)).await?;
        entries.retain(|entry| !deleted.contains(&entry.user));
        let frames: Vec<FrameBody<'_>> = entries.iter().map(publish_frames::body_of).collect();
        party::read_ahead(&self.context, tx, &frames).await?;
        drop(frames);
        let appended = mailbox::rows::append(tx, &entries, self.context.platform.world.now()).await?;
        // After the entries: a socket that opens meanwhile reads its mailbox with a lock that waits for this transaction, or was recorded
        // before it.
        let mut users: Vec<UserId> = entries.iter().map(|entry| entry.user).collect();
        users.sort_unstable();
        users.dedup();
        self.routes = presence::rows::routes(tx, &users).await?;
        self.appended = entries.into_iter().zip(appended).collect();
        Ok(())
    }

    async fn committed(&mut self, batch: &[&Received]) {
        let cancelled = self.context.platform.metrics.matches.with_label_values(&["cancelled"]);
        cancelled.inc_by(std::mem::take(&mut self.closed));
        let traced = batch.iter().filter(|_| self.context.platform.spans.is_on());
        let traces = traced.map(|received| (received.id.as_str(), &received.trace)).collect();
        publish_frames::publish(&self.context, std::mem::take(&mut self.appended), &self.routes, &traces).await;
    }

    fn rolled_back(&mut self) {
        self.closed = 0;
        self.earlier_ends.clear();
        self.appended.clear();
        self.routes.clear();
    }
}
