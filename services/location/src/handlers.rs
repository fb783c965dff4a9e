//! What location does with events. [`LocationUpdates`] stores the points of rides and records newest positions.
//! [`RideTracks`] writes a ride's start, arrival and end to its track's row, and publishes aggregates of tracks by a timer. It also
//! writes what a restart must know of drivers: each beacon, and from time to time the places of those who moved.
//! Neither decides which points count (`track/mod.rs`).
//!
//! A point of a ride waits for others for some seconds before it becomes part of a row. It is acknowledged once it is, before any
//! aggregate includes it. Every process computes aggregates from the rows,
//! so nothing is lost and several processes can share one ride.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Duration, SubsecRound, Utc};
use platform::consumer::ProgressReporter;
use platform::store::rows::column;
use platform::{Failure, Handler, Platform, Received, StoreError, Waiting};
use streams::event::{LocationAggregate, LocationUpdate, RideEvent, UserBeacon};
use streams::{Event, RideId, RideStatus, Service, UserId};

use crate::cache::Cache;
use crate::config::Config;
use crate::driver::rows::StoredPlace;
use crate::driver::{self, DriverRow};
use crate::tables::{PointRow, Tables, TrackRow, Tx};
use crate::track::point_rows::{self, PointQuery};
use crate::track::rows;
use crate::track::{self, Measured, Point};
use crate::zones::exchange::Exchange;
use crate::zones::zone::Scope;

/// The most aggregates in one transaction of the timer. If more are due, the next transaction follows at once.
const DUE_MAX: usize = 200;
const AGGREGATE_INTERVAL: Duration = Duration::milliseconds(500);
/// How often the timer also reads what other processes have written.
const RELOAD_INTERVAL: Duration = Duration::seconds(5);
const PRUNE_INTERVAL: Duration = Duration::seconds(60);
/// How often the places of drivers who moved are stored, and the most of one transaction.
const STORE_INTERVAL: Duration = Duration::seconds(15);
const STORE_MAX: usize = 1_000;
/// How far back a process looks for beacons that another one has handled: longer than a transaction takes, and than clocks differ.
const BEACONS_SINCE: Duration = Duration::seconds(90);
/// How often the rows are read of drivers of this process's zones who are silent: they may have gone to another zone without this process
/// learning of it. The next ones follow the next time.
const SILENT_INTERVAL: Duration = Duration::seconds(60);
const SILENT_MAX: usize = 1_000;
/// How often a ride that waits for its phone is measured again.
const WAIT_INTERVAL: Duration = Duration::seconds(1);
/// For so long a ride waits whose phone has sent where it is now, but not all of the way: a phone that was offline and comes back sends what
/// it held back at once.
const BACKLOG_WAIT: Duration = Duration::seconds(10);
/// The part of a billed distance that late points may change without a warning.
const LATE_CHANGE: f64 = 0.02;

/// The shortest time between two transactions that end the wait early, because somebody arrived and needs all points up to then.
const EARLY_INTERVAL: Duration = Duration::seconds(10);
/// The same if a client waits for the fee of a cancelled ride.
const AT_ONCE_INTERVAL: Duration = Duration::milliseconds(500);

pub(crate) struct LocationUpdates {
    platform: Platform,
    cache: Arc<Cache>,
    exchange: Exchange,
    progress: ProgressReporter,
    points_wait: Duration,
    next_early: DateTime<Utc>,
    next_at_once: DateTime<Utc>,
}

impl LocationUpdates {
    pub(crate) fn new(platform: &Platform, config: &Config, cache: &Arc<Cache>) -> Self {
        let (points_wait, next_early) = (config.points_wait, platform.world.now());
        let (exchange, progress) = (Exchange::new(platform, cache), ProgressReporter::new(platform));
        let next_at_once = next_early;
        let (platform, cache) = (platform.clone(), cache.clone());
        Self { platform, cache, exchange, progress, points_wait, next_early, next_at_once }
    }
}

fn update(received: &Received) -> Option<&LocationUpdate> {
    match &received.event {
        Event::LocationUpdate(update) => Some(update),
        _ => None,
    }
}

/// When users received it; of a foreign producer's, when the stream stored it.
fn received_at(update: &LocationUpdate, stored_at: DateTime<Utc>) -> DateTime<Utc> {
    update.reception.as_ref().map_or(stored_at, |reception| reception.received_at)
}

fn is_late(update: &LocationUpdate, stored_at: DateTime<Utc>) -> bool {
    update.is_late(received_at(update, stored_at))
}

fn point_row(track: &TrackRow, update: &LocationUpdate, stored_at: DateTime<Utc>) -> PointRow {
    // Cut to PostgreSQL's precision, so that the keys are the same in memory.
    let cut = |at: DateTime<Utc>| at.trunc_subsecs(6);
    let reception = update.reception.as_ref();
    let point = Point {
        device: reception.map_or_else(String::new, |r| r.device.clone()),
        ride_device: reception.is_none_or(|r| r.ride_device),
        device_at: reception.map(|r| cut(r.device_at)),
        sent_at: reception.and_then(|r| r.sent_at).map(cut),
        received_at: cut(received_at(update, stored_at)),
        recorded_at: cut(update.recorded_at),
        position: update.location,
        accuracy_m: update.accuracy_m,
        speed_mps: update.speed_mps,
    };
    PointRow { ride_id: track.ride_id, user_id: update.user_id, point, version: track.version + 1 }
}

impl Handler for LocationUpdates {
    type Tables = Tables;

    /// The key of points finds repeats.
    const INBOX: bool = false;

    async fn arrived(&mut self, batch: &[&Received]) {
        let recorded = &self.platform.metrics.positions_recorded;
        recorded.with_label_values(&["stream"]).inc_by(batch.len() as u64);
        let newest: Vec<&Received> = {
            let mut positions = self.cache.positions();
            let is_newest = |received: &&&Received| {
                update(received).is_some_and(|update| positions.record_own_update(update, received.stored_at))
            };
            batch.iter().filter(is_newest).copied().collect()
        };
        // Of a driver of whom this process knows something newer, the owner of a late point's zone may know nothing.
        self.exchange.send(&newest).await;
        self.progress.read(batch).await;
    }

    /// Points of rides under way do.
    fn may_wait(&self, received: &Received) -> bool {
        update(received).is_some_and(|update| {
            let is_under_way = |ride: RideId| !self.cache.arrived_rides().contains(ride);
            update.ride_id.is_some_and(is_under_way) && !is_late(update, received.stored_at)
        })
    }

    fn handle_waiting_at(&mut self, waiting: &Waiting) -> DateTime<Utc> {
        let now = self.platform.world.now();
        let (at_once, soon) = {
            let arrived_rides = self.cache.arrived_rides();
            (arrived_rides.needed_at_once(now), arrived_rides.needed_up_to(now))
        };
        let (next, interval) = if waiting.lowest_sequence <= at_once {
            (&mut self.next_at_once, AT_ONCE_INTERVAL)
        } else if waiting.lowest_sequence <= soon {
            (&mut self.next_early, EARLY_INTERVAL)
        } else {
            return waiting.since + self.points_wait;
        };
        let at = (*next).max(waiting.since);
        if at <= now {
            *next = now + interval;
        }
        at
    }

    /// Most drivers have no ride: their points cost no transaction.
    fn writes(&self, batch: &[&Received]) -> bool {
        batch.iter().any(|r| update(r).is_some_and(|u| u.ride_id.is_some() || is_late(u, r.stored_at)))
    }

    async fn handle(&mut self, tx: &mut Tx, batch: &[&Received]) -> Result<(), Failure> {
        let now = self.platform.world.now();
        let updates: Vec<(&LocationUpdate, DateTime<Utc>)> =
            batch.iter().filter_map(|r| Some((update(r)?, r.stored_at))).collect();
        // What a phone held back carries the ride of now, or none.
        let late = updates.iter().filter(|(update, stored_at)| is_late(update, *stored_at));
        let late: Vec<(UserId, DateTime<Utc>)> = late.map(|(update, _)| (update.user_id, update.recorded_at)).collect();
        let ended = rows::rides_at(tx, &late).await?;
        let rides: BTreeSet<RideId> = updates.iter().filter_map(|(u, _)| u.ride_id).chain(ended.clone()).collect();
        let tracks = rows::lock_tracks(tx, &rides, now).await?;
        let mut points = Vec::new();
        for (update, stored_at) in &updates {
            let of_ended = ended.iter().filter(|_| is_late(update, *stored_at)).filter_map(|ride| tracks.get(ride));
            let at_its_time = of_ended.filter(|t| t.driver_id == Some(update.user_id) && t.covers(update.recorded_at));
            let own = update.ride_id.and_then(|ride| tracks.get(&ride));
            let own = own.filter(|track| track.accepts(update.user_id, update.recorded_at));
            let of: BTreeMap<RideId, &TrackRow> = at_its_time.chain(own).map(|track| (track.ride_id, track)).collect();
            points.extend(of.into_values().map(|track| point_row(track, update, *stored_at)));
        }
        if !points.is_empty() {
            point_rows::add(tx, &points).await?;
        }
        Ok(())
    }
}

/// An arrived ride whose points are not complete.
#[derive(Debug)]
struct WaitingRide {
    /// Of the track when it was measured.
    version: i64,
    /// When it is looked at again.
    again_at: DateTime<Utc>,
    /// How long after the arrival it waits at most.
    longest: Duration,
}

pub(crate) struct RideTracks {
    platform: Platform,
    config: Arc<Config>,
    cache: Arc<Cache>,
    exchange: Exchange,
    /// Points in memory, each track's with the version of its row up to which they are here.
    tracks: BTreeMap<RideId, (i64, Vec<Point>)>,
    /// Arrived rides whose phone may hold more.
    waiting: BTreeMap<RideId, WaitingRide>,
    next_aggregates: DateTime<Utc>,
    next_reload: DateTime<Utc>,
    next_prune: DateTime<Utc>,
    next_store: DateTime<Utc>,
    next_silent: DateTime<Utc>,
    /// The last driver of those read because they were silent; `None`: the next ones are the first.
    last_silent: Option<UserId>,
    /// Places in the transaction under way.
    uncommitted_places: Vec<StoredPlace>,
    /// Rides whose final aggregate is in the transaction under way.
    uncommitted_finals: Vec<RideId>,
}

impl RideTracks {
    pub(crate) fn new(platform: &Platform, config: &Arc<Config>, cache: &Arc<Cache>) -> Self {
        let now = platform.world.now();
        Self {
            platform: platform.clone(),
            config: config.clone(),
            cache: cache.clone(),
            exchange: Exchange::new(platform, cache),
            tracks: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_aggregates: now + AGGREGATE_INTERVAL,
            next_reload: now + RELOAD_INTERVAL,
            next_prune: now + PRUNE_INTERVAL,
            next_store: now + STORE_INTERVAL,
            next_silent: now + SILENT_INTERVAL,
            last_silent: None,
            uncommitted_places: Vec::new(),
            uncommitted_finals: Vec::new(),
        }
    }

    async fn on_timer(&mut self, tx: &mut Tx) -> Result<(), Failure> {
        let now = self.platform.world.now();
        self.next_aggregates = now + AGGREGATE_INTERVAL;
        if now >= self.next_reload {
            self.next_reload = now + RELOAD_INTERVAL;
            self.reload(tx, now).await?;
            self.measure_late(tx).await?;
        }
        if now >= self.next_prune {
            self.next_prune = now + PRUNE_INTERVAL;
            let mut positions = self.cache.positions();
            positions.prune(now);
            tracing::debug!(drivers = positions.len(), "newest positions");
        }
        if self.cache.take_needs_drivers() {
            let on_duty = driver::rows::on_duty(tx).await?;
            let live = rows::live_tracks(tx).await?;
            let in_rides = point_rows::last(tx, &live).await?;
            self.cache.load_drivers(&on_duty, &in_rides);
        }
        if now >= self.next_silent {
            self.next_silent = now + SILENT_INTERVAL;
            self.find_silent(tx, now).await?;
        }
        let reported_until = now - self.config.aggregate_every;
        let mut complete = self.cache.arrived_rides().complete(now);
        self.waiting.retain(|ride, _| complete.contains(ride));
        complete.retain(|ride| self.waiting.get(ride).is_none_or(|waiting| waiting.again_at <= now));
        let due = rows::lock_due_tracks(tx, reported_until, &complete, DUE_MAX).await?;
        if due.len() == DUE_MAX {
            self.next_aggregates = now;
        }
        if !due.is_empty() {
            self.publish_aggregates(tx, due, now).await?;
        }
        if now >= self.next_store {
            self.store_places(tx, now).await?;
        }
        Ok(())
    }

    /// Reads the rows of silent drivers of this process's zones. A process that is alone knows all positions.
    async fn find_silent(&mut self, tx: &mut Tx, now: DateTime<Utc>) -> Result<(), StoreError> {
        let own = self.cache.members().plan(&Scope::All, now).own;
        if own == Scope::All {
            return Ok(());
        }
        let silent = self.cache.positions().silent_since(&own, now - SILENT_INTERVAL, self.last_silent, SILENT_MAX);
        self.last_silent = silent.last().copied().filter(|_| silent.len() == SILENT_MAX);
        let drivers = driver::rows::find(tx, &silent).await?;
        self.cache.positions().load(&drivers);
        Ok(())
    }

    async fn store_places(&mut self, tx: &mut Tx, now: DateTime<Utc>) -> Result<(), StoreError> {
        let places = self.cache.positions().to_store(STORE_MAX);
        if places.len() < STORE_MAX {
            self.next_store = now + STORE_INTERVAL;
        }
        if !places.is_empty() {
            driver::rows::move_to(tx, &places).await?;
            self.uncommitted_places = places;
        }
        Ok(())
    }

    /// Writes the rows of the drivers of beacons, which the stream stored at these times.
    async fn write_beacons(&mut self, tx: &mut Tx, beacons: &[(&UserBeacon, DateTime<Utc>)]) -> Result<(), StoreError> {
        if beacons.is_empty() {
            return Ok(());
        }
        let now = self.platform.world.now();
        let ids: BTreeSet<UserId> = beacons.iter().map(|(beacon, _)| beacon.user_id).collect();
        let before = driver::rows::lock(tx, &ids).await?;
        let mut after = before.clone();
        for (beacon, stored_at) in beacons {
            if let Some(row) = DriverRow::after(after.get(&beacon.user_id), beacon, *stored_at, now) {
                after.insert(row.user_id, row);
            }
        }
        let changed: Vec<DriverRow> = after.into_values().filter(|row| before.get(&row.user_id) != Some(row)).collect();
        driver::rows::put(tx, &changed).await
    }

    /// Reads from rows what another process has handled: each ride event is delivered to one process only.
    async fn reload(&mut self, tx: &mut Tx, now: DateTime<Utc>) -> Result<(), StoreError> {
        let live = rows::live_tracks(tx).await?;
        let busy = self.cache.positions().busy_rides();
        let ended = rows::ended_rides(tx, &busy).await?;
        self.cache.load_from_rows(&live, &ended, now);
        let drivers = driver::rows::changed_since(tx, now - BEACONS_SINCE).await?;
        self.cache.positions().load(&drivers);
        let live: BTreeSet<RideId> = live.iter().map(|track| track.ride_id).collect();
        self.tracks.retain(|ride, _| live.contains(ride));
        Ok(())
    }

    async fn publish_aggregates(
        &mut self,
        tx: &mut Tx,
        mut due: Vec<TrackRow>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        due.retain(|track| !self.waits_without_news(track, now));
        let mut points = self.read_missing_points(tx, &due).await?;
        let traces = tx.traces_of(&column(&due, |track| track.ride_id.0)).await?;
        let mut reported = Vec::with_capacity(due.len());
        for mut track in due {
            let Some(driver_id) = track.driver_id else { continue };
            let measured = self.measure(&track, points.remove(&track.ride_id).unwrap_or_default());
            let final_wait = self.config.final_wait;
            let longest = if measured.reaches_arrival { final_wait.min(BACKLOG_WAIT) } else { final_wait };
            if track.arrived_at.is_some() && !measured.is_complete && !has_waited(&track, now, longest) {
                let waiting = WaitingRide { version: track.version, again_at: now + WAIT_INTERVAL, longest };
                self.waiting.insert(track.ride_id, waiting);
                continue;
            }
            let summary = measured.summary;
            track.finalised = track.arrived_at.is_some();
            track.reported_version = track.version;
            track.reported_at = Some(now);
            track.reported = summary;
            if track.finalised {
                self.uncommitted_finals.push(track.ride_id);
            }
            let aggregate = LocationAggregate {
                ride_id: track.ride_id,
                driver_id,
                distance_m: summary.distance_m,
                points: summary.points,
                last: summary.last,
                is_final: track.finalised,
                covered: track.finalised.then_some(measured.covered),
            };
            let trace = traces.get(&track.ride_id.0).filter(|_| track.finalised).cloned();
            let trace = trace.unwrap_or_else(|| self.platform.new_trace());
            // What a ride has come to so far is in no trace: it comes every few seconds.
            let is_exported = track.finalised || !self.platform.spans.is_on();
            let trace = if is_exported { trace } else { trace.with_sampled(false) };
            tx.publish(&Event::LocationAggregate(aggregate), &trace);
            reported.push(track);
        }
        if reported.is_empty() {
            return Ok(());
        }
        rows::save_reported(tx, &reported).await
    }

    /// Whether the ride waits for its phone, and nothing has come since it was measured.
    fn waits_without_news(&mut self, track: &TrackRow, now: DateTime<Utc>) -> bool {
        let waiting = self.waiting.get_mut(&track.ride_id).filter(|waiting| waiting.version == track.version);
        match waiting {
            Some(waiting) if !has_waited(track, now, waiting.longest) => {
                waiting.again_at = now + WAIT_INTERVAL;
                true
            }
            _ => false,
        }
    }

    /// What points that came after the final aggregates would have changed. Bills stay as they are; operators learn of it.
    async fn measure_late(&mut self, tx: &mut Tx) -> Result<(), StoreError> {
        let mut late = rows::lock_late_tracks(tx, DUE_MAX).await?;
        if late.is_empty() {
            return Ok(());
        }
        let mut points = self.read_missing_points(tx, &late).await?;
        for track in &mut late {
            let measured = self.measure(track, points.remove(&track.ride_id).unwrap_or_default());
            self.tracks.remove(&track.ride_id);
            let (billed_m, late_m) = (track.reported.distance_m, measured.summary.distance_m);
            track.reported_version = track.version;
            track.late_distance_m = Some(late_m);
            if (late_m - billed_m).abs() > LATE_CHANGE * billed_m.max(1.0) {
                let ride_id = track.ride_id;
                tracing::warn!(%ride_id, billed_m, late_m, "positions that came after the final distance change it by more than 2 %");
                self.platform.metrics.distances_late.with_label_values(&[Service::Location.name()]).inc();
            }
        }
        rows::save_reported(tx, &late).await
    }

    /// The points that are not in memory. Of an arrived ride all points are read again.
    async fn read_missing_points(
        &mut self,
        tx: &mut Tx,
        tracks: &[TrackRow],
    ) -> Result<BTreeMap<RideId, Vec<PointRow>>, StoreError> {
        let queries: Vec<PointQuery> = tracks.iter().filter_map(|track| self.missing_points(track)).collect();
        let mut points: BTreeMap<RideId, Vec<PointRow>> = BTreeMap::new();
        for point in point_rows::read(tx, &queries).await? {
            points.entry(point.ride_id).or_default().push(point);
        }
        Ok(points)
    }

    fn missing_points(&mut self, track: &TrackRow) -> Option<PointQuery> {
        let driver_id = track.driver_id?;
        if track.arrived_at.is_some() {
            self.tracks.remove(&track.ride_id);
        }
        let after_version = self.tracks.get(&track.ride_id).map_or(0, |(version, _)| *version);
        Some(PointQuery { ride_id: track.ride_id, driver_id, after_version })
    }

    fn measure(&mut self, row: &TrackRow, new: Vec<PointRow>) -> Measured {
        let (version, points) = self.tracks.entry(row.ride_id).or_default();
        points.extend(new.into_iter().map(|point| point.point));
        *version = row.version;
        let max_speed_mps = self.config.max_speed_mps;
        row.ride_times().map_or_else(Measured::default, |ride| track::measure(points, &ride, max_speed_mps))
    }

    /// Writes the start, arrival and end of rides to their tracks' rows.
    async fn write_ride_events(&mut self, tx: &mut Tx, rides: &[&RideEvent]) -> Result<(), StoreError> {
        let now = self.platform.world.now();
        let ids: BTreeSet<RideId> = rides.iter().map(|ride| ride.ride_id).collect();
        let mut tracks = rows::lock_tracks(tx, &ids, now).await?;
        for ride in rides {
            let Some(track) = tracks.get_mut(&ride.ride_id) else { continue };
            track.driver_id = Some(ride.driver_id);
            track.pickup = Some(ride.pickup);
            track.dropoff = Some(ride.dropoff);
            match ride.status {
                RideStatus::Started if track.started_at.is_none() => {
                    track.started_at = Some(ride.occurred_at);
                }
                RideStatus::Arrived if track.arrived_at.is_none() => {
                    track.arrived_at = Some(ride.occurred_at);
                    track.arrived_seen_at = Some(now);
                }
                RideStatus::Completed | RideStatus::Cancelled => {
                    track.closed_at = Some(track.closed_at.unwrap_or(now));
                }
                RideStatus::Pickup | RideStatus::Waiting | RideStatus::Started | RideStatus::Arrived => {}
            }
        }
        let tracks: Vec<TrackRow> = tracks.into_values().collect();
        rows::save_ride_times(tx, &tracks).await
    }

    fn apply_committed(&mut self, batch: &[&Received]) {
        let now = self.platform.world.now();
        let mut positions = self.cache.positions();
        positions.set_stored(&std::mem::take(&mut self.uncommitted_places));
        let mut arrived_rides = self.cache.arrived_rides();
        for ride_id in self.uncommitted_finals.drain(..) {
            arrived_rides.remove(ride_id);
            self.tracks.remove(&ride_id);
            self.waiting.remove(&ride_id);
        }
        for received in batch {
            match &received.event {
                Event::UserBeacon(beacon) => positions.record_beacon(beacon, received.stored_at),
                Event::Ride(ride) if ride.status.is_final() => {
                    positions.ride_ended(ride.ride_id, now);
                    arrived_rides.remove(ride.ride_id);
                    self.tracks.remove(&ride.ride_id);
                }
                Event::Ride(ride) => {
                    positions.ride_live(ride.ride_id, ride.driver_id);
                    if ride.status == RideStatus::Arrived {
                        arrived_rides.add(ride.ride_id, now);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Whether the longest wait for the phone of an arrived ride is over.
fn has_waited(track: &TrackRow, now: DateTime<Utc>, longest: Duration) -> bool {
    track.arrived_seen_at.is_none_or(|since| since + longest <= now)
}

fn beacon(event: &Event) -> Option<&UserBeacon> {
    match event {
        Event::UserBeacon(beacon) => Some(beacon),
        _ => None,
    }
}

fn ride<'a>(received: &&'a Received) -> Option<&'a RideEvent> {
    match &received.event {
        Event::Ride(ride) => Some(ride),
        _ => None,
    }
}

impl Handler for RideTracks {
    type Tables = Tables;

    async fn handle(&mut self, tx: &mut Tx, batch: &[&Received]) -> Result<(), Failure> {
        self.uncommitted_finals.clear();
        self.uncommitted_places.clear();
        if batch.is_empty() {
            return self.on_timer(tx).await;
        }
        let rides: Vec<&RideEvent> = batch.iter().filter_map(ride).collect();
        if !rides.is_empty() {
            self.write_ride_events(tx, &rides).await?;
        }
        // Tracks before drivers, as the timer does.
        let beacons: Vec<_> = batch.iter().filter_map(|r| Some((beacon(&r.event)?, r.stored_at))).collect();
        Ok(self.write_beacons(tx, &beacons).await?)
    }

    async fn committed(&mut self, batch: &[&Received]) {
        self.apply_committed(batch);
        self.exchange.send(batch).await;
    }

    fn rolled_back(&mut self) {
        self.uncommitted_finals.clear();
        self.uncommitted_places.clear();
        self.tracks.clear();
    }

    fn wake_at(&self) -> Option<DateTime<Utc>> {
        Some(self.next_aggregates)
    }
}
