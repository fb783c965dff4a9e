//! The tables of location in memory, their rows, and the transaction on them. `track/rows.rs` and `driver/rows.rs` read and write
//! them.

use chrono::{DateTime, Utc};
use imbl::{OrdMap, OrdSet};
use platform::Transaction;
use streams::event::{LocationUpdate, Reception};
use streams::{Position, RideId, UserId};

use crate::driver::DriverRow;
use crate::track::{Point, RideTimes, TrackSummary};

#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub(crate) tracks: OrdMap<RideId, TrackRow>,
    /// The tracks of each driver.
    pub(crate) driven: OrdSet<(UserId, RideId)>,
    pub(crate) points: OrdMap<PointKey, PointRow>,
    pub(crate) drivers: OrdMap<UserId, DriverRow>,
}

/// A transaction on the tables of location.
pub(crate) type Tx = Transaction<Tables>;

/// What makes two points one: ride, user, device, and the device's own time.
pub(crate) type PointKey = (RideId, UserId, String, DateTime<Utc>);

/// The track of one ride.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrackRow {
    pub(crate) ride_id: RideId,
    /// The driver, whose points count. `None` until the first event of the ride is handled.
    pub(crate) driver_id: Option<UserId>,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) arrived_at: Option<DateTime<Utc>>,
    pub(crate) pickup: Option<Position>,
    pub(crate) dropoff: Option<Position>,
    /// When ride.arrived was handled.
    pub(crate) arrived_seen_at: Option<DateTime<Utc>>,
    /// When ride.completed or ride.cancelled was handled.
    pub(crate) closed_at: Option<DateTime<Utc>>,
    /// Grows by one with each batch that adds points.
    pub(crate) version: i64,
    /// The version that the last aggregate includes.
    pub(crate) reported_version: i64,
    pub(crate) reported_at: Option<DateTime<Utc>>,
    /// The final aggregate is in the outbox.
    pub(crate) finalised: bool,
    /// The last aggregate.
    pub(crate) reported: TrackSummary,
    /// The distance with the points that came after the final aggregate, if any came.
    pub(crate) late_distance_m: Option<f64>,
    pub(crate) created_at: DateTime<Utc>,
}

impl TrackRow {
    pub(crate) fn new(ride_id: RideId, now: DateTime<Utc>) -> Self {
        Self {
            ride_id,
            driver_id: None,
            started_at: None,
            arrived_at: None,
            pickup: None,
            dropoff: None,
            arrived_seen_at: None,
            closed_at: None,
            version: 0,
            reported_version: 0,
            reported_at: None,
            finalised: false,
            reported: TrackSummary::default(),
            late_distance_m: None,
            created_at: now,
        }
    }

    /// Whether a point that `user` recorded at `at` may belong to the ride. What is not known yet does not exclude it. After the final
    /// aggregate, points between start and arrival still show what the ride was.
    pub(crate) fn accepts(&self, user: UserId, at: DateTime<Utc>) -> bool {
        let is_of_driver = self.driver_id.is_none_or(|driver| driver == user);
        let is_open = self.closed_at.is_none() && !self.finalised;
        is_of_driver && (is_open || (self.finalised && self.covers(at)))
    }

    /// Whether the ride had started, and had not arrived. False while one of both is unknown.
    pub(crate) fn covers(&self, at: DateTime<Utc>) -> bool {
        self.started_at.zip(self.arrived_at).is_some_and(|(from, to)| (from..=to).contains(&at))
    }

    /// `None` before the start is known.
    pub(crate) fn ride_times(&self) -> Option<RideTimes> {
        let (arrived_at, pickup, dropoff) = (self.arrived_at, self.pickup, self.dropoff);
        Some(RideTimes { started_at: self.started_at?, arrived_at, pickup, dropoff })
    }
}

/// One point of a ride.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PointRow {
    pub(crate) ride_id: RideId,
    pub(crate) user_id: UserId,
    pub(crate) point: Point,
    /// The version of the track that first has this point.
    pub(crate) version: i64,
}

impl PointRow {
    pub(crate) fn key(&self) -> PointKey {
        let own_time = self.point.device_at.unwrap_or(self.point.recorded_at);
        (self.ride_id, self.user_id, self.point.device.clone(), own_time)
    }

    /// As the stream brought it, but for the heading, which is not stored.
    pub(crate) fn update(&self) -> LocationUpdate {
        let Point { device, ride_device, device_at, sent_at, received_at, recorded_at, .. } = self.point.clone();
        let reception = device_at.map(|device_at| Reception { device, ride_device, device_at, sent_at, received_at });
        LocationUpdate {
            user_id: self.user_id,
            ride_id: Some(self.ride_id),
            location: self.point.position,
            accuracy_m: self.point.accuracy_m,
            speed_mps: self.point.speed_mps,
            heading_deg: None,
            recorded_at,
            reception,
        }
    }
}
