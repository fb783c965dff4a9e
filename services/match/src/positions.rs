//! The newest position of every driver, and grids of those who are available. Pure.
//!
//! The engine says who is available; the listener of location.update moves drivers. Nothing here is persisted: a new active
//! process begins with the positions in the beacons' rows, and each driver's next point brings a newer one.

use chrono::{DateTime, Duration, Utc};
use geospatial::{Grid, Hashed, Near};
use streams::{Position, UserId, VehicleType};

/// A driver of whom nothing was received for longer is offered no ride.
pub const FRESH_FOR: Duration = Duration::seconds(60);
/// A driver who is not available and of whom nothing was received for longer is forgotten.
const KNOWN_FOR: Duration = Duration::minutes(5);

#[derive(Debug, Clone)]
struct DriverPosition {
    position: Position,
    recorded_at: DateTime<Utc>,
    seen_at: DateTime<Utc>,
    available: Option<VehicleType>,
}

#[derive(Debug, Default)]
pub struct DriverPositions {
    drivers: Hashed<UserId, DriverPosition>,
    grids: [Grid; 3],
}

impl DriverPositions {
    /// Records a position. `recorded_at` is by the sender's clock and decides which position is the newest; `seen_at` is when
    /// the stream stored it. True if the driver was unknown, or silent for longer than [`FRESH_FOR`].
    pub fn record(
        &mut self,
        id: UserId,
        position: Position,
        recorded_at: DateTime<Utc>,
        seen_at: DateTime<Utc>,
    ) -> bool {
        let Some(driver) = self.drivers.get_mut(&id) else {
            self.drivers.insert(id, DriverPosition { position, recorded_at, seen_at, available: None });
            return true;
        };
        let was_silent = seen_at - driver.seen_at > FRESH_FOR;
        driver.seen_at = driver.seen_at.max(seen_at);
        if recorded_at >= driver.recorded_at {
            driver.recorded_at = recorded_at;
            driver.position = position;
            if let Some(vehicle) = driver.available {
                self.grids[index(vehicle)].place(id, position);
            }
        }
        was_silent
    }

    /// Sets in which vehicle a driver can be offered rides, or that they cannot. True if they have become available.
    pub fn set_available(&mut self, id: UserId, vehicle: Option<VehicleType>) -> bool {
        let Some(driver) = self.drivers.get_mut(&id) else { return false };
        if driver.available == vehicle {
            return false;
        }
        if let Some(before) = driver.available {
            self.grids[index(before)].remove(id);
        }
        if let Some(now) = vehicle {
            self.grids[index(now)].place(id, driver.position);
        }
        driver.available = vehicle;
        vehicle.is_some()
    }

    /// Makes nobody available; positions stay.
    pub fn clear_availability(&mut self) {
        self.grids = Default::default();
        for driver in self.drivers.values_mut() {
            driver.available = None;
        }
    }

    pub fn newest(&self, id: UserId) -> Option<Position> {
        self.drivers.get(&id).map(|driver| driver.position)
    }

    /// Whether something was received of a driver in the last [`FRESH_FOR`].
    pub fn is_fresh(&self, id: UserId, now: DateTime<Utc>) -> bool {
        self.drivers.get(&id).is_some_and(|driver| now - driver.seen_at <= FRESH_FOR)
    }

    /// The `k` nearest available and fresh drivers that pass `filter`, nearest first.
    pub fn nearest(
        &self,
        vehicle: VehicleType,
        from: &Position,
        k: usize,
        radius_m: f64,
        now: DateTime<Utc>,
        mut filter: impl FnMut(UserId) -> bool,
    ) -> Vec<Near> {
        self.grids[index(vehicle)].nearest(from, k, radius_m, |id| filter(id) && self.is_fresh(id, now))
    }

    /// Forgets drivers who are not available and long silent.
    pub fn prune(&mut self, now: DateTime<Utc>) {
        self.drivers.retain(|_, driver| driver.available.is_some() || now - driver.seen_at <= KNOWN_FOR);
    }
}

const fn index(vehicle: VehicleType) -> usize {
    match vehicle {
        VehicleType::Car => 0,
        VehicleType::Motorcycle => 1,
        VehicleType::Van => 2,
    }
}
