//! The newest position of every driver, and who is free nearby. Pure.
//!
//! A cache of what drivers send: after a start it is complete again within [`FRESH_FOR`]. A driver is free who is not offline
//! and has no live ride. Which rides are live comes from events and rows.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, SubsecRound, Utc};
use geospatial::{Grid, Hashed, Near};
use serde::Serialize;
use streams::event::{LocationUpdate, UserBeacon, rfc3339};
use streams::{Position, RideId, UserId, VehicleType};

/// A driver of whom nothing was received for longer is not shown.
const FRESH_FOR: Duration = Duration::seconds(60);
/// A driver of whom nothing was received for longer is forgotten, and so is that they are offline.
const KNOWN_FOR: Duration = Duration::minutes(10);
/// Others see a driver's position to so many metres.
const SNAP_M: f64 = 100.0;
/// The mean radius of the Earth, metres.
const EARTH_RADIUS_M: f64 = 6_371_008.8;
/// How long an ended ride is remembered, so that a late point does not make its driver busy again.
const ENDED_REMEMBERED: Duration = Duration::hours(1);

#[derive(Debug, Clone, Copy)]
struct DriverPosition {
    position: Position,
    recorded_at: DateTime<Utc>,
    seen_at: DateTime<Utc>,
    vehicle_type: Option<VehicleType>,
    /// When the newest beacon was recorded, and its `active`.
    beacon: Option<(DateTime<Utc>, bool)>,
    /// The ride of the newest point.
    ride_id: Option<RideId>,
}

/// The next point of a grid whose lines are [`SNAP_M`] metres apart.
fn snapped(position: &Position) -> Position {
    const DEGREE_M: f64 = EARTH_RADIUS_M * std::f64::consts::PI / 180.0;
    let step = SNAP_M / DEGREE_M;
    let lat = ((position.lat / step).round() * step).clamp(-90.0, 90.0);
    // At a pole all longitudes are one place.
    let step = step / lat.to_radians().cos().max(1e-3);
    let lng = ((position.lng / step).round() * step).clamp(-180.0, 180.0);
    // Minus zero is zero.
    Position { lat: lat + 0.0, lng: lng + 0.0 }
}

#[derive(Debug, Default)]
pub(crate) struct DriverPositions {
    drivers: Hashed<UserId, DriverPosition>,
    /// Drivers who are not offline, at their snapped positions: so the distance, and whether a driver is within a radius, tells no
    /// more than the position that is shown.
    grid: Grid,
    /// Live rides, by events and rows.
    live_rides: BTreeMap<RideId, UserId>,
    /// How many live rides each driver has; no entry for none.
    live_count: BTreeMap<UserId, u32>,
    ended_rides: BTreeMap<RideId, DateTime<Utc>>,
}

/// A free driver as others see them: no identity.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct FreeDriver {
    position: Position,
    distance_m: f64,
    vehicle_type: Option<VehicleType>,
    #[serde(with = "rfc3339")]
    recorded_at: DateTime<Utc>,
}

impl DriverPositions {
    pub(crate) fn record_update(&mut self, update: &LocationUpdate, seen_at: DateTime<Utc>) {
        let driver = self.drivers.entry(update.user_id).or_insert(DriverPosition {
            position: update.location,
            recorded_at: update.recorded_at,
            seen_at,
            vehicle_type: None,
            beacon: None,
            ride_id: update.ride_id,
        });
        driver.seen_at = driver.seen_at.max(seen_at);
        if update.recorded_at < driver.recorded_at {
            return;
        }
        driver.position = update.location;
        driver.recorded_at = update.recorded_at;
        driver.ride_id = update.ride_id;
        if driver.beacon.is_none_or(|(_, active)| active) {
            self.grid.place(update.user_id, snapped(&update.location));
        }
    }

    pub(crate) fn record_beacon(&mut self, beacon: &UserBeacon, seen_at: DateTime<Utc>) {
        let driver = self.drivers.entry(beacon.user_id).or_insert(DriverPosition {
            position: beacon.location,
            recorded_at: beacon.recorded_at,
            seen_at,
            vehicle_type: None,
            beacon: None,
            ride_id: None,
        });
        driver.seen_at = driver.seen_at.max(seen_at);
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
            self.grid.place(beacon.user_id, snapped(&position));
        } else {
            self.grid.remove(beacon.user_id);
        }
    }

    /// Makes the driver busy, unless the ride is known to have ended.
    pub(crate) fn ride_live(&mut self, ride: RideId, driver: UserId) {
        if !self.ended_rides.contains_key(&ride) && self.live_rides.insert(ride, driver).is_none() {
            *self.live_count.entry(driver).or_default() += 1;
        }
    }

    pub(crate) fn ride_ended(&mut self, ride: RideId, now: DateTime<Utc>) {
        self.ended_rides.insert(ride, now);
        if let Some(driver) = self.live_rides.remove(&ride)
            && let Some(count) = self.live_count.get_mut(&driver)
        {
            *count -= 1;
            if *count == 0 {
                self.live_count.remove(&driver);
            }
        }
    }

    /// Rides that make a driver busy here. Another process may have handled their end.
    pub(crate) fn busy_rides(&self) -> BTreeSet<RideId> {
        let of_points = self.drivers.values().filter_map(|d| d.ride_id).filter(|r| !self.ended_rides.contains_key(r));
        self.live_rides.keys().copied().chain(of_points).collect()
    }

    /// The `limit` nearest free drivers within `radius_m`, nearest first.
    pub(crate) fn nearby(&self, from: &Position, radius_m: f64, limit: usize, now: DateTime<Utc>) -> Vec<FreeDriver> {
        let is_free = |id: UserId| {
            self.drivers.get(&id).is_some_and(|driver| {
                now - driver.seen_at <= FRESH_FOR
                    && driver.ride_id.is_none_or(|ride| self.ended_rides.contains_key(&ride))
                    && !self.live_count.contains_key(&id)
            })
        };
        let free = |near: Near| {
            let DriverPosition { vehicle_type, recorded_at, .. } = *self.drivers.get(&near.id)?;
            let recorded_at = recorded_at.trunc_subsecs(0);
            Some(FreeDriver { position: near.position, distance_m: near.distance_m, vehicle_type, recorded_at })
        };
        self.grid.nearest(from, limit, radius_m, is_free).into_iter().filter_map(free).collect()
    }

    /// Forgets long silent drivers and rides that ended long ago.
    pub(crate) fn prune(&mut self, now: DateTime<Utc>) {
        let grid = &mut self.grid;
        self.drivers.retain(|id, driver| {
            let retained = now - driver.seen_at <= KNOWN_FOR;
            if !retained {
                grid.remove(*id);
            }
            retained
        });
        self.ended_rides.retain(|_, at| now - *at <= ENDED_REMEMBERED);
    }

    /// How many drivers are known.
    pub(crate) fn len(&self) -> usize {
        self.drivers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_snapped_to_100_m_everywhere() {
        const DEGREE_M: f64 = EARTH_RADIUS_M * std::f64::consts::PI / 180.0;
        for (lat, lng) in
            [(40.748_400_123, -73.985_700_456), (0.0, 30.0), (-33.9, 151.2), (89.999_9, 12.0), (90.0, 180.0)]
        {
            let at = snapped(&Position { lat, lng });
            assert!(at.is_valid(), "{at:?}");
            assert!((at.lat - lat).abs() * DEGREE_M <= 50.1, "{at:?}");
            assert!((at.lng - lng).abs() * DEGREE_M * lat.to_radians().cos() <= 50.1, "{at:?}");
            // Whoever moves a little is shown at the same place, unless a line of the grid is between.
            let places = (0..100).map(|m| snapped(&Position { lat: lat - f64::from(m) / DEGREE_M, lng }).lat.to_bits());
            assert!(places.collect::<BTreeSet<_>>().len() <= 2, "{lat}");
        }
    }
}
