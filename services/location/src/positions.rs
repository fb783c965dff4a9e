//! The newest position of every driver, in memory, and who is free nearby.
//!
//! A cache: it is filled by what drivers send, and after a start it is complete again within the time that a position
//! counts. It never touches rows. Whoever has a live ride is not free; which rides those are, the events and rows tell.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use geospatial::{Grid, Hashed, Near};
use streams::event::{LocationUpdate, UserBeacon};
use streams::{Position, RideId, UserId, VehicleType};

/// A driver who was not heard of for longer is not shown.
pub(crate) const FRESH_FOR: Duration = Duration::seconds(60);
/// A driver who was not heard of for longer is forgotten, also that he is offline.
const KNOWN_FOR: Duration = Duration::minutes(10);
/// How long an ended ride is remembered, so that a late point does not make its driver busy again.
const ENDED_FOR: Duration = Duration::hours(1);

/// All drivers.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    drivers: Hashed<UserId, Driver>,
    /// Where those are that are not offline.
    grid: Grid,
    /// Live rides that an event or a row told of.
    rides: BTreeMap<RideId, UserId>,
    /// How many of these each driver has.
    riding: BTreeMap<UserId, u32>,
    ended: BTreeMap<RideId, DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy)]
struct Driver {
    position: Position,
    recorded_at: DateTime<Utc>,
    heard_at: DateTime<Utc>,
    vehicle_type: Option<VehicleType>,
    /// The newest beacon's time, and whether it said active.
    beacon: Option<(DateTime<Utc>, bool)>,
    /// The ride that the newest point belongs to.
    ride_id: Option<RideId>,
}

/// A free driver as others see him: no identity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Free {
    pub(crate) position: Position,
    pub(crate) distance_m: f64,
    pub(crate) vehicle_type: Option<VehicleType>,
    pub(crate) recorded_at: DateTime<Utc>,
}

impl Positions {
    /// A point of a driver came in.
    pub(crate) fn hear_update(&mut self, update: &LocationUpdate, now: DateTime<Utc>) {
        let new = Driver {
            position: update.location,
            recorded_at: update.recorded_at,
            heard_at: now,
            vehicle_type: None,
            beacon: None,
            ride_id: update.ride_id,
        };
        let driver = self.drivers.entry(update.user_id).or_insert(new);
        driver.heard_at = driver.heard_at.max(now);
        if update.recorded_at < driver.recorded_at {
            return;
        }
        driver.position = update.location;
        driver.recorded_at = update.recorded_at;
        driver.ride_id = update.ride_id;
        if driver.beacon.is_none_or(|(_, active)| active) {
            self.grid.place(update.user_id, update.location);
        }
    }

    /// A driver went online or offline, or moved while waiting.
    pub(crate) fn hear_beacon(&mut self, beacon: &UserBeacon, now: DateTime<Utc>) {
        let new = Driver {
            position: beacon.location,
            recorded_at: beacon.recorded_at,
            heard_at: now,
            vehicle_type: None,
            beacon: None,
            ride_id: None,
        };
        let driver = self.drivers.entry(beacon.user_id).or_insert(new);
        driver.heard_at = driver.heard_at.max(now);
        if driver.beacon.is_some_and(|(at, _)| beacon.recorded_at < at) {
            return;
        }
        driver.beacon = Some((beacon.recorded_at, beacon.active));
        driver.vehicle_type = Some(beacon.vehicle_type);
        if beacon.recorded_at >= driver.recorded_at {
            driver.position = beacon.location;
            driver.recorded_at = beacon.recorded_at;
        }
        let position = driver.position;
        if beacon.active {
            self.grid.place(beacon.user_id, position);
        } else {
            self.grid.remove(beacon.user_id);
        }
    }

    /// The driver is in this ride, unless it is known to have ended.
    pub(crate) fn ride_live(&mut self, ride: RideId, driver: UserId) {
        if !self.ended.contains_key(&ride) && self.rides.insert(ride, driver).is_none() {
            *self.riding.entry(driver).or_default() += 1;
        }
    }

    /// The ride is over; its driver is free.
    pub(crate) fn ride_ended(&mut self, ride: RideId, now: DateTime<Utc>) {
        self.ended.insert(ride, now);
        if let Some(driver) = self.rides.remove(&ride)
            && let Some(count) = self.riding.get_mut(&driver)
        {
            *count -= 1;
            if *count == 0 {
                self.riding.remove(&driver);
            }
        }
    }

    /// Rides that make a driver busy here: asked about in case another process heard their end.
    pub(crate) fn busy_rides(&self) -> BTreeSet<RideId> {
        let by_points = self.drivers.values().filter_map(|d| d.ride_id).filter(|r| !self.ended.contains_key(r));
        self.rides.keys().copied().chain(by_points).collect()
    }

    /// The `limit` nearest free drivers within `radius_m`, nearest first.
    pub(crate) fn nearby(&self, from: &Position, radius_m: f64, limit: usize, now: DateTime<Utc>) -> Vec<Free> {
        let free = |id: UserId| {
            self.drivers.get(&id).is_some_and(|driver| {
                now - driver.heard_at <= FRESH_FOR
                    && driver.ride_id.is_none_or(|ride| self.ended.contains_key(&ride))
                    && !self.riding.contains_key(&id)
            })
        };
        let near = self.grid.nearest(from, limit, radius_m, free);
        let shown = |near: Near| {
            let driver = self.drivers.get(&near.id)?;
            let Driver { vehicle_type, recorded_at, .. } = *driver;
            Some(Free { position: near.position, distance_m: near.distance_m, vehicle_type, recorded_at })
        };
        near.into_iter().filter_map(shown).collect()
    }

    /// Forgets drivers and ended rides that were not heard of for long.
    pub(crate) fn prune(&mut self, now: DateTime<Utc>) {
        let grid = &mut self.grid;
        self.drivers.retain(|id, driver| {
            let known = now - driver.heard_at <= KNOWN_FOR;
            if !known {
                grid.remove(*id);
            }
            known
        });
        self.ended.retain(|_, at| now - *at <= ENDED_FOR);
    }

    /// Drivers known.
    pub(crate) fn len(&self) -> usize {
        self.drivers.len()
    }
}
