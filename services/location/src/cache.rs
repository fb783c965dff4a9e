//! What a process of location holds in memory: positions, and the rides that wait for their last points. Everything in it can
//! be loaded from rows, or comes back with the next points.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use platform::Platform;
use streams::RideId;
use tokio::sync::Notify;

use crate::driver::DriverRow;
use crate::positions::DriverPositions;
use crate::tables::{PointRow, TrackRow};
use crate::track::arrived_rides::ArrivedRides;
use crate::zones::members::Members;

#[derive(Debug, Default)]
pub(crate) struct Cache {
    positions: Mutex<DriverPositions>,
    arrived_rides: Mutex<ArrivedRides>,
    /// Locked before `positions`, if both are.
    members: Mutex<Members>,
    members_changed: Notify,
    /// This process owns new zones: the rows of drivers are to be read again.
    needs_drivers: AtomicBool,
    zones_gained: Notify,
}

impl Cache {
    pub(crate) fn new(platform: &Platform) -> Self {
        Self { members: Mutex::new(Members::new(platform.pod.clone())), ..Self::default() }
    }

    pub(crate) fn positions(&self) -> MutexGuard<'_, DriverPositions> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn arrived_rides(&self) -> MutexGuard<'_, ArrivedRides> {
        self.arrived_rides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notified if a process is found to be gone by somebody else than the receiver of positions.
    pub(crate) fn members_changed(&self) -> &Notify {
        &self.members_changed
    }

    pub(crate) fn need_drivers(&self) {
        self.needs_drivers.store(true, Ordering::Relaxed);
        self.zones_gained.notify_one();
    }

    /// Notified when this process owns new zones.
    pub(crate) fn zones_gained(&self) -> &Notify {
        &self.zones_gained
    }

    /// Whether the rows of drivers are to be read again; true once.
    pub(crate) fn take_needs_drivers(&self) -> bool {
        self.needs_drivers.swap(false, Ordering::Relaxed)
    }

    /// Adds where drivers on duty were, and then where those in rides were since.
    pub(crate) fn load_drivers(&self, on_duty: &[DriverRow], in_rides: &[PointRow]) {
        let mut positions = self.positions();
        positions.load(on_duty);
        positions.load_points(in_rides);
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
