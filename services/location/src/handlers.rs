//! What location does with events: points become rows and newest positions; a ride's course (start, arrival, end) becomes
//! its track's row; and, by the timer, tracks become aggregates. Nothing here decides which points count (`track.rs`).
//!
//! A point of a ride is acknowledged once it is a row, not only once an aggregate holds it: every later aggregate, of
//! whichever process, is made of the rows. That is stronger, and several processes can share one ride.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, SubsecRound, Utc};
use platform::{Failure, Handler, Received, StoreError, Transaction};
use streams::bus::ConsumerInfo;
use streams::event::{LocationAggregate, LocationUpdate, RideEvent};
use streams::{Event, RideId, RideStatus};

use crate::Location;
use crate::position_broadcast::Share;
use crate::track::rows::{self, Needless, Point, Tables, TrackRow, Wanted};
use crate::track::{Fix, Summary, Track};

/// Tracks in one transaction of the timer; if more are due, the next one follows at once.
const DUE_MAX: usize = 200;
/// How often the timer looks, and how often also at what other processes did.
const LOOK_EVERY: Duration = Duration::milliseconds(500);
const OTHERS_EVERY: Duration = Duration::seconds(5);
const PRUNE_EVERY: Duration = Duration::seconds(60);

/// location.update → rows for points of rides, and newest positions.
pub(crate) struct Updates {
    location: Location,
    share: Share,
}

impl Updates {
    pub(crate) fn new(location: &Location) -> Self {
        Self { location: location.clone(), share: Share::new(&location.platform) }
    }
}

fn update(received: &Received) -> Option<&LocationUpdate> {
    match &received.event {
        Event::LocationUpdate(update) => Some(update),
        _ => None,
    }
}

impl Handler for Updates {
    type Tables = Tables;

    /// The key of a point tells its repeats.
    const INBOX: bool = false;

    /// Most drivers wait: their points cost no transaction.
    fn writes(&self, batch: &[&Received]) -> bool {
        batch.iter().any(|r| update(r).is_some_and(|u| u.ride_id.is_some()))
    }

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        let now = self.location.platform.world.now();
        let of_rides: Vec<(RideId, &LocationUpdate)> =
            batch.iter().filter_map(|r| update(r)).filter_map(|u| Some((u.ride_id?, u))).collect();
        let rides: BTreeSet<RideId> = of_rides.iter().map(|(ride, _)| *ride).collect();
        let tracks = rows::lock_tracks(tx, &rides, now).await?;
        let mut points = Vec::with_capacity(of_rides.len());
        for (ride_id, update) in of_rides {
            let Some(track) = tracks.get(&ride_id) else { continue };
            // To the microsecond, as PostgreSQL keeps it: the key must be the same in both stores.
            let recorded_at = update.recorded_at.trunc_subsecs(6);
            if track.takes(update.user_id, recorded_at) {
                let (position, accuracy_m) = (update.location, update.accuracy_m);
                let fix = Fix { recorded_at, position, accuracy_m };
                points.push(Point { ride_id, user_id: update.user_id, fix, version: track.version + 1 });
            }
        }
        if !points.is_empty() {
            rows::add_points(tx, &points, now).await?;
        }
        Ok(())
    }

    async fn committed(&mut self, batch: &[&Received]) {
        {
            let mut positions = self.location.positions();
            for received in batch {
                if let Some(update) = update(received) {
                    positions.hear_update(update, received.stored_at);
                }
            }
        }
        self.share.send(batch).await;
    }
}

/// ride.* and user.beacon → courses; and the timer that makes aggregates.
pub(crate) struct Courses {
    location: Location,
    share: Share,
    /// Tracks with the version of their rows up to which they hold the points.
    cache: BTreeMap<RideId, (i64, Track)>,
    next_look: DateTime<Utc>,
    next_others: DateTime<Utc>,
    next_prune: DateTime<Utc>,
    /// Final aggregates of the transaction in hand.
    finalised: Vec<RideId>,
}

impl Courses {
    pub(crate) fn new(location: &Location) -> Self {
        let now = location.platform.world.now();
        Self {
            location: location.clone(),
            share: Share::new(&location.platform),
            cache: BTreeMap::new(),
            next_look: now + LOOK_EVERY,
            next_others: now + OTHERS_EVERY,
            next_prune: now + PRUNE_EVERY,
            finalised: Vec::new(),
        }
    }

    async fn look(&mut self, tx: &mut Transaction<Tables>) -> Result<(), Failure> {
        let now = self.location.platform.world.now();
        self.next_look = now + LOOK_EVERY;
        if now >= self.next_others {
            self.next_others = now + OTHERS_EVERY;
            self.learn_from_rows(tx, now).await?;
        }
        if now >= self.next_prune {
            self.next_prune = now + PRUNE_EVERY;
            let mut positions = self.location.positions();
            positions.prune(now);
            tracing::debug!(drivers = positions.len(), "newest positions");
        }
        let until = now - self.location.config.aggregate_every;
        let settled = self.location.arrivals().settled(now);
        let tracks = rows::due_tracks(tx, until, &settled, DUE_MAX).await?;
        if tracks.len() == DUE_MAX {
            self.next_look = now;
        }
        if !tracks.is_empty() {
            self.report(tx, tracks, now).await?;
        }
        Ok(())
    }

    /// What another process heard, which only rows tell here.
    async fn learn_from_rows(&mut self, tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
        let live = rows::live_tracks(tx).await?;
        let busy = self.location.positions().busy_rides();
        let ended = rows::ended_rides(tx, &busy).await?;
        self.location.learn(&live, &ended, now);
        let live: BTreeSet<RideId> = live.iter().map(|track| track.ride_id).collect();
        self.cache.retain(|ride, _| live.contains(ride));
        Ok(())
    }

    async fn report(
        &mut self,
        tx: &mut Transaction<Tables>,
        mut tracks: Vec<TrackRow>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let wanted: Vec<Wanted> = tracks.iter().filter_map(|track| self.wanted(track)).collect();
        let mut points: BTreeMap<RideId, Vec<Point>> = BTreeMap::new();
        for point in rows::points(tx, &wanted).await? {
            points.entry(point.ride_id).or_default().push(point);
        }
        for track in &mut tracks {
            let Some(driver_id) = track.driver_id else { continue };
            let summary = self.summary(track, points.remove(&track.ride_id).unwrap_or_default());
            track.finalised = track.arrived_at.is_some();
            track.reported_version = track.version;
            track.reported_at = Some(now);
            track.reported = summary;
            if track.finalised {
                self.finalised.push(track.ride_id);
            }
            let aggregate = LocationAggregate {
                ride_id: track.ride_id,
                driver_id,
                distance_m: summary.distance_m,
                points: summary.points,
                last: summary.last,
                is_final: track.finalised,
            };
            tx.publish(&Event::LocationAggregate(aggregate), &self.location.platform.world.trace());
        }
        rows::save_reports(tx, &tracks).await
    }

    /// Points that are not in the cache; all, for the final word.
    fn wanted(&mut self, track: &TrackRow) -> Option<Wanted> {
        let driver_id = track.driver_id?;
        if track.arrived_at.is_some() {
            self.cache.remove(&track.ride_id);
        }
        let after_version = self.cache.get(&track.ride_id).map_or(0, |(version, _)| *version);
        Some(Wanted { ride_id: track.ride_id, driver_id, after_version })
    }

    fn summary(&mut self, row: &TrackRow, points: Vec<Point>) -> Summary {
        let max_speed_mps = self.location.config.max_speed_mps;
        let (version, track) = self.cache.entry(row.ride_id).or_insert_with(|| (0, Track::new(max_speed_mps)));
        for point in points {
            let at = point.fix.recorded_at;
            if row.started_at.is_some_and(|from| from <= at) && row.arrived_at.is_none_or(|to| at <= to) {
                track.add(point.fix);
            }
        }
        *version = row.version;
        track.summary()
    }

    /// What is committed, into what memory holds.
    fn take_in(&mut self, batch: &[&Received]) {
        let now = self.location.platform.world.now();
        let mut positions = self.location.positions();
        let mut arrivals = self.location.arrivals();
        for ride_id in self.finalised.drain(..) {
            arrivals.forget(ride_id);
            self.cache.remove(&ride_id);
        }
        for received in batch {
            match &received.event {
                Event::UserBeacon(beacon) => positions.hear_beacon(beacon, received.stored_at),
                Event::Ride(ride) if ride.status.is_final() => {
                    positions.ride_ended(ride.ride_id, now);
                    arrivals.forget(ride.ride_id);
                    self.cache.remove(&ride.ride_id);
                }
                Event::Ride(ride) => {
                    positions.ride_live(ride.ride_id, ride.driver_id);
                    if ride.status == RideStatus::Arrived {
                        arrivals.wait(ride.ride_id, now);
                    }
                }
                _ => {}
            }
        }
    }

    async fn follow(&mut self, tx: &mut Transaction<Tables>, rides: &[&RideEvent]) -> Result<(), StoreError> {
        let now = self.location.platform.world.now();
        let ids: BTreeSet<RideId> = rides.iter().map(|ride| ride.ride_id).collect();
        let mut tracks = rows::lock_tracks(tx, &ids, now).await?;
        let mut needless = Vec::new();
        for ride in rides {
            let Some(track) = tracks.get_mut(&ride.ride_id) else { continue };
            track.driver_id = Some(ride.driver_id);
            let driver_id = ride.driver_id;
            match ride.status {
                RideStatus::Started if track.started_at.is_none() => {
                    track.started_at = Some(ride.occurred_at);
                    needless.push(Needless { ride_id: ride.ride_id, driver_id, before: Some(ride.occurred_at) });
                }
                RideStatus::Arrived if track.arrived_at.is_none() => {
                    track.arrived_at = Some(ride.occurred_at);
                    track.arrived_seen_at = Some(now);
                }
                RideStatus::Completed | RideStatus::Cancelled => {
                    track.closed_at = Some(track.closed_at.unwrap_or(now));
                    needless.push(Needless { ride_id: ride.ride_id, driver_id, before: None });
                }
                RideStatus::Pickup | RideStatus::Started | RideStatus::Arrived => {}
            }
        }
        let tracks: Vec<TrackRow> = tracks.into_values().collect();
        rows::save_courses(tx, &tracks).await?;
        if !needless.is_empty() {
            rows::forget_points(tx, &needless).await?;
        }
        Ok(())
    }
}

fn ride<'a>(received: &&'a Received) -> Option<&'a RideEvent> {
    match &received.event {
        Event::Ride(ride) => Some(ride),
        _ => None,
    }
}

impl Handler for Courses {
    type Tables = Tables;

    /// Beacons change no row.
    fn writes(&self, batch: &[&Received]) -> bool {
        batch.iter().any(|received| ride(received).is_some())
    }

    async fn handle(&mut self, tx: &mut Transaction<Tables>, batch: &[&Received]) -> Result<(), Failure> {
        self.finalised.clear();
        if batch.is_empty() {
            return self.look(tx).await;
        }
        let rides: Vec<&RideEvent> = batch.iter().filter_map(ride).collect();
        Ok(self.follow(tx, &rides).await?)
    }

    async fn committed(&mut self, batch: &[&Received]) {
        self.take_in(batch);
        self.share.send(batch).await;
    }

    fn rolled_back(&mut self) {
        self.finalised.clear();
        self.cache.clear();
    }

    fn wake_at(&self) -> Option<DateTime<Utc>> {
        Some(self.next_look)
    }
}

/// Rides that have arrived and wait for their last points.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    waiting: BTreeMap<RideId, Waiting>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    since: DateTime<Utc>,
    /// The last message on the stream once the points had time to get there.
    mark: Option<u64>,
    /// Every point up to the mark is a row by now.
    caught_up: bool,
}

impl Arrivals {
    /// A point may be so long on its way from the socket to the stream.
    const SETTLE: Duration = Duration::seconds(1);
    /// The longest wait for the points to catch up.
    const GIVE_UP: Duration = Duration::seconds(20);

    pub(crate) fn wait(&mut self, ride: RideId, since: DateTime<Utc>) {
        self.waiting.entry(ride).or_insert(Waiting { since, mark: None, caught_up: false });
    }

    fn forget(&mut self, ride: RideId) {
        self.waiting.remove(&ride);
    }

    /// Whether the stream must be asked about somebody's last points.
    pub(crate) fn is_waited_for(&self, now: DateTime<Utc>) -> bool {
        self.waiting.values().any(|w| !w.caught_up && w.since + Self::SETTLE <= now)
    }

    /// At `at` the stream's last message had this sequence: whoever has settled waits for the consumer to get there.
    pub(crate) fn mark(&mut self, at: DateTime<Utc>, last_sequence: u64) {
        for waiting in self.waiting.values_mut().filter(|w| w.mark.is_none() && w.since + Self::SETTLE <= at) {
            waiting.mark = Some(last_sequence);
        }
    }

    /// How the consumer of points stood after the marks were made. Under steady load it never has nothing left, so getting
    /// past the mark is enough.
    pub(crate) fn consumer_stands(&mut self, info: &ConsumerInfo) {
        let idle = info.pending == 0 && info.ack_pending == 0;
        for waiting in self.waiting.values_mut() {
            waiting.caught_up |= waiting.mark.is_some_and(|mark| idle || info.ack_floor >= mark);
        }
    }

    fn settled(&self, now: DateTime<Utc>) -> BTreeSet<RideId> {
        let settled = self.waiting.iter().filter(|(_, w)| w.caught_up || w.since + Self::GIVE_UP <= now);
        settled.map(|(ride, _)| *ride).collect()
    }
}

impl Location {
    /// Takes over what rows tell: live rides make their drivers busy, ended ones free, arrived ones are waited for.
    pub(crate) fn learn(&self, live: &[TrackRow], ended: &[RideId], now: DateTime<Utc>) {
        let mut positions = self.positions();
        let mut arrivals = self.arrivals();
        for track in live {
            if let Some(driver) = track.driver_id {
                positions.ride_live(track.ride_id, driver);
            }
            match track.arrived_at {
                Some(_) if track.finalised => arrivals.forget(track.ride_id),
                Some(_) => arrivals.wait(track.ride_id, track.arrived_seen_at.unwrap_or(now)),
                None => {}
            }
        }
        for ride in ended {
            positions.ride_ended(*ride, now);
            arrivals.forget(*ride);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::seconds(second)
    }

    fn busy(ack_floor: u64) -> ConsumerInfo {
        ConsumerInfo { pending: 9_000, ack_pending: 1_000, redelivered: 0, ack_floor, delivered: ack_floor + 1_000 }
    }

    #[test]
    fn under_steady_load_a_ride_waits_for_its_own_points_only() {
        let ride = RideId(Uuid::from_u128(1));
        let settled = |arrivals: &Arrivals, second| arrivals.settled(at(second)).contains(&ride);
        let mut arrivals = Arrivals::default();
        arrivals.wait(ride, at(10));
        assert!(!arrivals.is_waited_for(at(10)), "its points may still be on their way to the stream");
        arrivals.mark(at(10), 500);
        arrivals.consumer_stands(&busy(500));
        assert!(!settled(&arrivals, 10));
        assert!(arrivals.is_waited_for(at(11)));
        arrivals.mark(at(11), 700);
        arrivals.mark(at(12), 900);
        arrivals.consumer_stands(&busy(699));
        assert!(!settled(&arrivals, 12));
        arrivals.consumer_stands(&busy(700));
        assert!(settled(&arrivals, 12) && !arrivals.is_waited_for(at(12)));
        arrivals.forget(ride);
        assert!(!settled(&arrivals, 12));
    }

    #[test]
    fn an_idle_consumer_is_past_every_mark_and_a_stuck_one_is_waited_for_20_s() {
        let (one, other) = (RideId(Uuid::from_u128(1)), RideId(Uuid::from_u128(2)));
        let mut arrivals = Arrivals::default();
        arrivals.wait(one, at(10));
        arrivals.mark(at(11), 500);
        // The stream was made anew, and counts from the beginning.
        arrivals.consumer_stands(&ConsumerInfo { pending: 0, ack_pending: 0, ..busy(3) });
        arrivals.wait(other, at(11));
        arrivals.mark(at(12), 4);
        assert_eq!(arrivals.settled(at(12)), BTreeSet::from([one]));
        assert_eq!(arrivals.settled(at(30)), BTreeSet::from([one]));
        assert_eq!(arrivals.settled(at(31)), BTreeSet::from([one, other]));
    }
}
