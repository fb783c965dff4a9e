//! The tables of location in memory, their rows, and the transaction on them. `track/rows.rs` and `driver/rows.rs` read and write
//! them.

use chrono::{DateTime, Utc};
use imbl::OrdMap;
use platform::Transaction;
use streams::{RideId, UserId};

use crate::driver::DriverRow;
use crate::track::{Fix, TrackSummary};

#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub(crate) tracks: OrdMap<RideId, TrackRow>,
    pub(crate) points: OrdMap<(RideId, UserId, DateTime<Utc>), PointRow>,
    pub(crate) drivers: OrdMap<UserId, DriverRow>,
}

/// A transaction on the tables of location.
pub(crate) type Tx = Transaction<Tables>;

/// The track of one ride.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrackRow {
    pub(crate) ride_id: RideId,
    /// The driver, whose points count. `None` until the first event of the ride is handled.
    pub(crate) driver_id: Option<UserId>,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) arrived_at: Option<DateTime<Utc>>,
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
    pub(crate) created_at: DateTime<Utc>,
}

impl TrackRow {
    pub(crate) fn new(ride_id: RideId, now: DateTime<Utc>) -> Self {
        Self {
            ride_id,
            driver_id: None,
            started_at: None,
            arrived_at: None,
            arrived_seen_at: None,
            closed_at: None,
            version: 0,
            reported_version: 0,
            reported_at: None,
            finalised: false,
            reported: TrackSummary::default(),
            created_at: now,
        }
    }

    /// Whether a point that `user` recorded at `at` may belong to the ride. What is not known yet does not exclude it.
    pub(crate) fn accepts(&self, user: UserId, at: DateTime<Utc>) -> bool {
        self.closed_at.is_none()
            && !self.finalised
            && self.driver_id.is_none_or(|driver| driver == user)
            && self.started_at.is_none_or(|started| started <= at)
            && self.arrived_at.is_none_or(|arrived| at <= arrived)
    }
}

/// One point of a ride.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PointRow {
    pub(crate) ride_id: RideId,
    pub(crate) user_id: UserId,
    pub(crate) fix: Fix,
    /// The version of the track that first has this point.
    pub(crate) version: i64,
}
