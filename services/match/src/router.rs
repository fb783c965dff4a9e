//! Which event is for which zone. With more than one zone every process pulls events ([`Router`]) and writes them, in the transaction that
//! records them as received, into the rows that wait for the owners of zones; and it passes positions on to the owners of the zones
//! around them ([`Forwarder`]). Nothing here decides about matching.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use platform::consumer::ProgressReporter;
use platform::{Failure, Handler, Platform, Received, Trace, Transaction};
use streams::event::{MatchRejected, Party, RejectReason, RideEvent};
use streams::match_zones::{ZONE_POSITIONS_MAX, ZonePosition, ZonePositions, inputs_of, positions_of};
use streams::{Event, RideStatus, Service, UserId};

use crate::borders::{self, Ids, Zones};
use crate::config::Config;
use crate::engine::Driver;
use crate::inputs;
use crate::lease;
use crate::tables::Tables;
use crate::zone_input::{Content, ZoneInput};
use crate::zones::ZoneSet;

/// How often it is looked at whether too much waits for a zone.
const LOOK_INTERVAL: Duration = Duration::seconds(1);
/// After this long it is looked at again whether the zones around a driver know them.
const CONFIRMED_FOR: Duration = Duration::seconds(30);
/// A zone gets the positions of a driver who was near it so long ago: should one be lost, a later one says that they have left.
const FOLLOWED_FOR: Duration = Duration::seconds(30);
/// After this long nothing is known of a driver any more.
const KNOWN_FOR: Duration = Duration::minutes(5);

/// Says to the owners of zones that something waits for them.
pub(crate) async fn wake(platform: &Platform, zones: ZoneSet) {
    for zone in zones.iter() {
        let body = serde_json::to_vec(&zone).expect("a number is JSON");
        if let Err(error) = platform.bus.publish_core(&inputs_of(zone), body.into()).await {
            tracing::debug!(%error, zone, "the owner of a zone was not woken; it looks by itself");
        }
    }
}

pub(crate) fn zones_of(inputs: &[ZoneInput]) -> ZoneSet {
    inputs.iter().fold(ZoneSet::default(), |zones, input| zones.union(ZoneSet::of(input.zone)))
}

pub(crate) struct Router {
    platform: Platform,
    config: Arc<Config>,
    look_at: DateTime<Utc>,
    /// Of the transaction under way.
    woken: ZoneSet,
}

impl Router {
    pub(crate) fn new(platform: &Platform, config: &Arc<Config>) -> Self {
        let (platform, config, woken) = (platform.clone(), config.clone(), ZoneSet::default());
        Self { look_at: platform.world.now(), platform, config, woken }
    }

    /// Holds all messages back while too much waits for a zone: their streams keep them.
    async fn hold_back(&mut self, tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), Failure> {
        if now < self.look_at {
            return Ok(());
        }
        if let Some(zone) = inputs::full(tx).await? {
            let why = format!("{} events wait for zone {zone}", inputs::WAITING_MAX);
            return Err(Failure::Busy(why));
        }
        self.look_at = now + LOOK_INTERVAL;
        Ok(())
    }

    /// The zones that are to know of each beacon's driver.
    async fn beacons(
        &self,
        tx: &mut Transaction<Tables>,
        batch: &[&Received],
        now: DateTime<Utc>,
    ) -> Result<BTreeMap<UserId, (DateTime<Utc>, ZoneSet)>, Failure> {
        let (partition, radius_m) = (self.config.partition, self.config.largest_radius_m());
        // The newest of each driver.
        let mut drivers: BTreeMap<UserId, (Driver, ZoneSet)> = BTreeMap::new();
        for received in batch {
            let Event::UserBeacon(e) = &received.event else { continue };
            let driver = Driver::of(e, received.stored_at, now);
            if drivers.get(&e.user_id).is_none_or(|(before, _)| before.recorded_at <= driver.recorded_at) {
                drivers.insert(e.user_id, (driver, partition.zones_near(&e.location, radius_m)));
            }
        }
        if drivers.is_empty() {
            return Ok(BTreeMap::new());
        }
        let times: BTreeMap<UserId, DateTime<Utc>> = drivers.iter().map(|(id, (d, _))| (*id, d.recorded_at)).collect();
        let drivers: Vec<(Driver, ZoneSet)> = drivers.into_values().collect();
        let written = borders::write_beacons(tx, &drivers).await?;
        Ok(written.into_iter().map(|(id, zones)| (id, (times[&id], zones))).collect())
    }
}

/// Whether the engine has something to do with it: it ignores its own.
fn is_of_use(e: &MatchRejected) -> bool {
    match e.reason {
        RejectReason::Declined | RejectReason::Superseded => true,
        RejectReason::Expired => false,
        RejectReason::Cancelled => e.is_from(Service::Users),
    }
}

/// What is looked up to find the zone of each event.
fn ids(batch: &[&Received]) -> (Ids, Vec<UserId>) {
    let (mut ids, mut passengers) = (Ids::default(), Vec::new());
    for received in batch {
        match &received.event {
            Event::MatchAccepted(e) => {
                ids.offers.push(e.match_id);
                ids.requests.push(e.request_id);
            }
            Event::MatchRejected(e) => {
                ids.offers.push(e.match_id);
                ids.requests.push(e.request_id);
            }
            Event::Ride(e) => {
                ids.offers.push(e.match_id);
                ids.rides.push(e.ride_id);
                passengers.push(e.passenger_id);
            }
            _ => {}
        }
    }
    (ids, passengers)
}

/// Whether the end or the beginning of a ride is of interest to the zone of the passenger's search.
fn is_about_search(e: &RideEvent) -> bool {
    e.status == RideStatus::Pickup || (e.status == RideStatus::Cancelled && e.by == Some(Party::Driver))
}

impl Handler for Router {
    type Tables = Tables;

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        let (now, partition) = (self.platform.world.now(), self.config.partition);
        self.woken = ZoneSet::default();
        lease::guard_division(tx, partition).await?;
        self.hold_back(tx, now).await?;
        let beacons = self.beacons(tx, batch, now).await?;
        let mut finders: BTreeMap<UserId, u16> = BTreeMap::new();
        for received in batch {
            if let Event::UserFinder(e) = &received.event {
                finders.entry(e.user_id).or_insert_with(|| partition.zone_of(&e.pickup));
            }
        }
        let finders = inputs::join(tx, &finders, now).await?;
        let (ids, passengers) = ids(batch);
        let Zones { offers, requests, rides } = borders::zones_of(tx, &ids, partition).await?;
        let passengers = inputs::zones_of(tx, &passengers).await?;
        let mut routed = Vec::with_capacity(batch.len());
        for received in batch {
            let mut add = |zone: u16, elsewhere: bool| {
                let content = Content::Event { event: Box::new(received.event.clone()), elsewhere };
                routed.push(ZoneInput {
                    zone,
                    content,
                    body: String::from_utf8_lossy(&received.body).into_owned(),
                    message_id: received.id.clone(),
                    sequence: received.sequence,
                    stored_at: received.stored_at,
                    trace: received.trace.clone(),
                });
            };
            match &received.event {
                Event::UserBeacon(e) => {
                    let written = beacons.get(&e.user_id);
                    let is_newest = |at: &DateTime<Utc>| *at <= crate::engine::micros(e.recorded_at);
                    if let Some((_, zones)) = written.filter(|(at, _)| is_newest(at)) {
                        zones.iter().for_each(|zone| add(zone, false));
                    }
                }
                Event::UserFinder(e) => add(finders[&e.user_id], false),
                Event::MatchAccepted(e) => {
                    let zone = offers.get(&e.match_id).or_else(|| requests.get(&e.request_id));
                    add(zone.copied().unwrap_or_else(|| partition.zone_of_id(e.match_id.0)), false);
                }
                Event::MatchRejected(e) if is_of_use(e) => {
                    let of_request = requests.get(&e.request_id).copied();
                    let zone = offers.get(&e.match_id).copied().or(of_request);
                    let zone = zone.unwrap_or_else(|| partition.zone_of_id(e.match_id.0));
                    add(zone, false);
                    if let Some(other) = of_request.filter(|other| *other != zone) {
                        add(other, true);
                    }
                }
                Event::Ride(e) => {
                    let zone = rides.get(&e.ride_id).or_else(|| offers.get(&e.match_id)).copied();
                    let zone = zone.unwrap_or_else(|| partition.zone_of(&e.pickup));
                    add(zone, false);
                    let other = passengers.get(&e.passenger_id).copied().filter(|_| is_about_search(e));
                    if let Some(other) = other.filter(|other| *other != zone) {
                        add(other, true);
                    }
                }
                Event::MatchRejected(_)
                | Event::MatchFound(_)
                | Event::LocationUpdate(_)
                | Event::LocationAggregate(_)
                | Event::PaymentCapture(_)
                | Event::Act(_) => {}
            }
        }
        inputs::insert(tx, &routed).await?;
        self.woken = zones_of(&routed);
        Ok(())
    }

    async fn committed(&mut self, _batch: &[&Received]) {
        wake(&self.platform, std::mem::take(&mut self.woken)).await;
    }
}

/// What is known of the zones around a driver.
#[derive(Debug, Default)]
struct Followed {
    /// That know the driver, as far as they were looked up, and when.
    confirmed: ZoneSet,
    confirmed_at: Option<DateTime<Utc>>,
    /// When the driver was last near a zone.
    near: BTreeMap<u16, DateTime<Utc>>,
}

/// Passes positions on. Of a driver who comes near a zone that does not know them yet it gets the beacon to that zone.
pub(crate) struct Forwarder {
    platform: Platform,
    config: Arc<Config>,
    progress: ProgressReporter,
    drivers: BTreeMap<UserId, Followed>,
    next_purge: DateTime<Utc>,
    woken: ZoneSet,
}

impl Forwarder {
    pub(crate) fn new(platform: &Platform, config: &Arc<Config>) -> Self {
        Self {
            platform: platform.clone(),
            config: config.clone(),
            progress: ProgressReporter::new(platform),
            drivers: BTreeMap::new(),
            next_purge: platform.world.now() + KNOWN_FOR,
            woken: ZoneSet::default(),
        }
    }

    /// The drivers of whom it is to be looked up whether the zones around them know them.
    fn unconfirmed(&self, batch: &[&Received], now: DateTime<Utc>) -> BTreeMap<UserId, ZoneSet> {
        let radius_m = self.config.largest_radius_m();
        let mut unconfirmed: BTreeMap<UserId, ZoneSet> = BTreeMap::new();
        for received in batch {
            let Event::LocationUpdate(e) = &received.event else { continue };
            let near = self.config.partition.zones_near(&e.location, radius_m);
            let is_confirmed = self.drivers.get(&e.user_id).is_some_and(|driver| {
                near.without(driver.confirmed).is_empty()
                    && driver.confirmed_at.is_some_and(|at| at + CONFIRMED_FOR > now)
            });
            if !is_confirmed {
                let zones = unconfirmed.entry(e.user_id).or_default();
                *zones = zones.union(near);
            }
        }
        unconfirmed
    }

    fn purge(&mut self, now: DateTime<Utc>) {
        if now < self.next_purge {
            return;
        }
        self.next_purge = now + KNOWN_FOR;
        self.drivers.retain(|_, driver| driver.near.values().any(|at| *at + KNOWN_FOR > now));
    }
}

impl Handler for Forwarder {
    type Tables = Tables;
    const INBOX: bool = false;

    fn writes(&self, batch: &[&Received]) -> bool {
        !self.unconfirmed(batch, self.platform.world.now()).is_empty()
    }

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        let now = self.platform.world.now();
        lease::guard_division(tx, self.config.partition).await?;
        let unconfirmed = self.unconfirmed(batch, now);
        let added = borders::add_zones(tx, &unconfirmed).await?;
        let mut routed = Vec::new();
        for (driver, zones) in added {
            let trace: Trace = self.platform.new_trace();
            for zone in zones.iter() {
                let content = Content::Event { event: Box::new(Event::UserBeacon(driver.beacon())), elsewhere: false };
                routed.push(ZoneInput::between_zones(zone, content, driver.seen_at, trace.clone()));
            }
        }
        inputs::insert(tx, &routed).await?;
        self.woken = zones_of(&routed);
        for (id, near) in unconfirmed {
            let driver = self.drivers.entry(id).or_default();
            let is_recent = driver.confirmed_at.is_some_and(|at| at + CONFIRMED_FOR > now);
            driver.confirmed = if is_recent { driver.confirmed.union(near) } else { near };
            if !is_recent {
                driver.confirmed_at = Some(now);
            }
        }
        Ok(())
    }

    fn rolled_back(&mut self) {
        self.woken = ZoneSet::default();
        self.drivers.clear();
    }

    async fn committed(&mut self, batch: &[&Received]) {
        wake(&self.platform, std::mem::take(&mut self.woken)).await;
        let (now, radius_m) = (self.platform.world.now(), self.config.largest_radius_m());
        let mut to: BTreeMap<u16, Vec<ZonePosition>> = BTreeMap::new();
        for received in batch {
            let Event::LocationUpdate(e) = &received.event else { continue };
            let near = &mut self.drivers.entry(e.user_id).or_default().near;
            near.retain(|_, at| *at + FOLLOWED_FOR > now);
            near.extend(self.config.partition.zones_near(&e.location, radius_m).iter().map(|zone| (zone, now)));
            for zone in near.keys() {
                let position = ZonePosition { update: e.clone(), stored_at: received.stored_at };
                to.entry(*zone).or_default().push(position);
            }
        }
        for (zone, positions) in to {
            for positions in positions.chunks(ZONE_POSITIONS_MAX) {
                let body = serde_json::to_vec(&ZonePositions { positions: positions.to_vec() });
                let body = body.expect("positions have string keys and finite numbers");
                if let Err(error) = self.platform.bus.publish_core(&positions_of(zone), body.into()).await {
                    tracing::debug!(%error, zone, "positions were not passed on; newer ones follow");
                }
            }
        }
        self.purge(now);
        self.progress.read(batch).await;
    }
}
