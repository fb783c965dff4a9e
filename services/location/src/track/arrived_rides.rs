//! Rides that have arrived, until their final aggregate: it must not be published before all their points are rows. Pure.
//!
//! A point may still be on its way to LOCATION_STREAM when ride.arrived is handled. So each ride waits [`SETTLE_TIME`], and
//! then gets a watermark: the stream's last sequence at that moment. Once this service's consumer has acknowledged everything
//! up to the watermark, all points of the ride are rows, because a message is acknowledged after its commit. Under steady load
//! the consumer always has messages pending, so waiting until it has none would never end.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use streams::RideId;
use streams::bus::ConsumerInfo;

/// The longest time that a point is on its way from the socket to the stream.
const SETTLE_TIME: Duration = Duration::seconds(1);
/// After this long the final aggregate is published even if points may be missing.
const GIVE_UP_AFTER: Duration = Duration::seconds(30);
/// What another process waits for is forgotten when it has not said so for this long; while it waits it says so four times a second.
const NEEDED_ELSEWHERE_FOR: Duration = Duration::seconds(5);

/// The sequence, unless it was said too long ago. Of a stream that was recreated since, it would be above all sequences for ever.
fn valid(said: Option<(u64, DateTime<Utc>)>, now: DateTime<Utc>) -> u64 {
    said.filter(|(_, said_at)| now <= *said_at + NEEDED_ELSEWHERE_FOR).map_or(0, |(sequence, _)| sequence)
}

#[derive(Debug, Default)]
pub(crate) struct ArrivedRides {
    rides: BTreeMap<RideId, ArrivedRide>,
    /// The highest watermark that another process waits for, and when it last said so. Of a stream that was recreated since, it would
    /// otherwise be above all sequences for ever.
    needed_elsewhere: Option<(u64, DateTime<Utc>)>,
    /// The highest sequence up to which a cancelled ride must be measured now, because a client waits for its fee, and since when.
    needed_at_once: Option<(u64, DateTime<Utc>)>,
}

#[derive(Debug, Clone, Copy)]
struct ArrivedRide {
    since: DateTime<Utc>,
    /// The stream's last sequence after the settle time.
    watermark: Option<u64>,
    /// Every point up to the watermark is a row.
    caught_up: bool,
}

impl ArrivedRides {
    pub(crate) fn add(&mut self, ride: RideId, since: DateTime<Utc>) {
        self.rides.entry(ride).or_insert(ArrivedRide { since, watermark: None, caught_up: false });
    }

    pub(crate) fn remove(&mut self, ride: RideId) {
        self.rides.remove(&ride);
    }

    /// Whether a ride that has settled has not caught up yet.
    pub(crate) fn needs_stream_state(&self, now: DateTime<Utc>) -> bool {
        self.rides.values().any(|ride| !ride.caught_up && ride.since + SETTLE_TIME <= now)
    }

    /// Sets the watermark of rides that have settled by `at`, when the stream's last sequence was `last_sequence`.
    pub(crate) fn set_watermarks(&mut self, at: DateTime<Utc>, last_sequence: u64) {
        for ride in self.rides.values_mut().filter(|r| r.watermark.is_none() && r.since + SETTLE_TIME <= at) {
            ride.watermark = Some(last_sequence);
        }
    }

    /// `info` must be newer than the watermarks. An idle consumer has caught up with every watermark, also if the stream was
    /// recreated and counts from 1 again.
    pub(crate) fn apply_consumer_info(&mut self, info: &ConsumerInfo) {
        let is_idle = info.pending == 0 && info.ack_pending == 0;
        for ride in self.rides.values_mut() {
            ride.caught_up |= ride.watermark.is_some_and(|watermark| is_idle || info.ack_floor >= watermark);
        }
    }

    pub(crate) fn contains(&self, ride: RideId) -> bool {
        self.rides.contains_key(&ride)
    }

    /// The highest watermark of the rides here that have not caught up; 0 if all have.
    pub(crate) fn needed_here(&self) -> u64 {
        self.rides.values().filter(|ride| !ride.caught_up).filter_map(|ride| ride.watermark).max().unwrap_or(0)
    }

    pub(crate) fn set_needed_elsewhere(&mut self, sequence: u64, now: DateTime<Utc>) {
        self.needed_elsewhere = Some((sequence, now));
    }

    pub(crate) fn set_needed_at_once(&mut self, sequence: u64, now: DateTime<Utc>) {
        self.needed_at_once = Some((sequence, now));
    }

    /// Points of the stream up to this sequence should become rows at once.
    pub(crate) fn needed_at_once(&self, now: DateTime<Utc>) -> u64 {
        valid(self.needed_at_once, now)
    }

    /// Points of the stream up to this sequence should become rows soon: a ride waits for one of them.
    pub(crate) fn needed_up_to(&self, now: DateTime<Utc>) -> u64 {
        valid(self.needed_elsewhere, now).max(self.needed_here())
    }

    /// Rides whose final aggregate can be published.
    pub(crate) fn complete(&self, now: DateTime<Utc>) -> BTreeSet<RideId> {
        let complete = self.rides.iter().filter(|(_, ride)| ride.caught_up || ride.since + GIVE_UP_AFTER <= now);
        complete.map(|(id, _)| *id).collect()
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
        let is_complete = |rides: &ArrivedRides, second| rides.complete(at(second)).contains(&ride);
        let mut rides = ArrivedRides::default();
        rides.add(ride, at(10));
        assert!(!rides.needs_stream_state(at(10)), "its points may still be on their way to the stream");
        rides.set_watermarks(at(10), 500);
        rides.apply_consumer_info(&busy(500));
        assert!(!is_complete(&rides, 10));
        assert!(rides.needs_stream_state(at(11)));
        rides.set_watermarks(at(11), 700);
        rides.set_watermarks(at(12), 900);
        rides.apply_consumer_info(&busy(699));
        assert!(!is_complete(&rides, 12));
        rides.apply_consumer_info(&busy(700));
        assert!(is_complete(&rides, 12) && !rides.needs_stream_state(at(12)));
        rides.remove(ride);
        assert!(!is_complete(&rides, 12));
    }

    #[test]
    fn an_idle_consumer_has_caught_up_and_a_stuck_one_is_waited_for_30_s() {
        let (one, other) = (RideId(Uuid::from_u128(1)), RideId(Uuid::from_u128(2)));
        let mut rides = ArrivedRides::default();
        rides.add(one, at(10));
        rides.set_watermarks(at(11), 500);
        // The stream was recreated, and its sequences begin at 1 again.
        rides.apply_consumer_info(&ConsumerInfo { pending: 0, ack_pending: 0, ..busy(3) });
        rides.add(other, at(11));
        rides.set_watermarks(at(12), 4);
        assert_eq!(rides.complete(at(12)), BTreeSet::from([one]));
        assert_eq!((rides.complete(at(40)), rides.needed_up_to(at(40))), (BTreeSet::from([one]), 4));
        assert_eq!(rides.complete(at(41)), BTreeSet::from([one, other]));
    }

    #[test]
    fn what_another_process_needed_is_forgotten_when_it_no_longer_says_so() {
        let ride = RideId(Uuid::from_u128(1));
        let mut rides = ArrivedRides::default();
        rides.add(ride, at(0));
        rides.set_watermarks(at(1), 4);
        rides.set_needed_elsewhere(500_000, at(10));
        assert_eq!((rides.needed_here(), rides.needed_up_to(at(15))), (4, 500_000));
        assert_eq!(rides.needed_up_to(at(16)), 4, "it has ended, or LOCATION_STREAM was recreated");
        rides.set_needed_elsewhere(9, at(20));
        rides.remove(ride);
        assert_eq!((rides.needed_here(), rides.needed_up_to(at(20))), (0, 9));
    }
}
