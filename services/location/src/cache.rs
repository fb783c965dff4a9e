//! What a process of location holds in memory: positions, and the rides that wait for their last points. Everything in it can
//! be loaded from rows, or comes back with the next points.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use streams::RideId;

use crate::positions::DriverPositions;
use crate::tables::TrackRow;
use crate::track::arrived_rides::ArrivedRides;

#[derive(Debug, Default)]
pub(crate) struct Cache {
    positions: Mutex<DriverPositions>,
    arrived_rides: Mutex<ArrivedRides>,
    /// When another location process last said something.
    others_seen_at: Mutex<Option<DateTime<Utc>>>,
}

impl Cache {
    pub(crate) fn positions(&self) -> MutexGuard<'_, DriverPositions> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn arrived_rides(&self) -> MutexGuard<'_, ArrivedRides> {
        self.arrived_rides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn others_seen_at(&self) -> MutexGuard<'_, Option<DateTime<Utc>>> {
        self.others_seen_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies what rows say: live rides make their drivers busy, ended rides free them, arrived rides wait for their last
    /// points.
    pub(crate) fn load_from_rows(&self, live: &[TrackRow], ended: &[RideId], now: DateTime<Utc>) {
        let mut positions = self.positions();
        let mut arrived_rides = self.arrived_rides();
        for track in live {
            if let Some(driver) = track.driver_id {
                positions.ride_live(track.ride_id, driver);
            }
            match track.arrived_at {
                Some(_) if track.finalised => arrived_rides.remove(track.ride_id),
                Some(_) => arrived_rides.add(track.ride_id, track.arrived_seen_at.unwrap_or(now)),
                None => {}
            }
        }
        for ride in ended {
            positions.ride_ended(*ride, now);
            arrived_rides.remove(*ride);
        }
    }
}
