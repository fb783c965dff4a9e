//! Where drivers are and when they were last heard of; shared by the engine, which says who is available, and the worker
//! of location.update, which moves them. Not persisted: a take-over begins with the beacons' rows, and the next points
//! bring the rest.

use chrono::{DateTime, Duration, Utc};
use streams::{Position, UserId, VehicleType};

use geospatial::{Grid, Hashed, Near};

/// A driver who was silent longer is offered nothing.
pub const SILENCE: Duration = Duration::seconds(60);

#[derive(Debug, Clone)]
struct Fix {
    position: Position,
    recorded_at: DateTime<Utc>,
    seen_at: DateTime<Utc>,
    available: Option<VehicleType>,
}

/// The newest position of each driver, and grids of those who are available.
#[derive(Debug, Default)]
pub struct Positions {
    fixes: Hashed<UserId, Fix>,
    grids: [Grid; 3],
}

impl Positions {
    /// Notes a position: `recorded_at` by the sender's clock decides which is the newest, `seen_at` is when the stream
    /// had it. True if the driver had been silent, or unknown.
    pub fn heard(
        &mut self,
        id: UserId,
        position: Position,
        recorded_at: DateTime<Utc>,
        seen_at: DateTime<Utc>,
    ) -> bool {
        let Some(fix) = self.fixes.get_mut(&id) else {
            self.fixes.insert(id, Fix { position, recorded_at, seen_at, available: None });
            return true;
        };
        let silent = seen_at - fix.seen_at > SILENCE;
        fix.seen_at = fix.seen_at.max(seen_at);
        if recorded_at >= fix.recorded_at {
            fix.recorded_at = recorded_at;
            fix.position = position;
            if let Some(vehicle) = fix.available {
                self.grids[index(vehicle)].place(id, position);
            }
        }
        silent
    }

    /// Says in which vehicle a driver can be offered rides now, if at all. True if they could not before.
    pub fn set_available(&mut self, id: UserId, vehicle: Option<VehicleType>) -> bool {
        let Some(fix) = self.fixes.get_mut(&id) else { return false };
        if fix.available == vehicle {
            return false;
        }
        if let Some(before) = fix.available {
            self.grids[index(before)].remove(id);
        }
        if let Some(now) = vehicle {
            self.grids[index(now)].place(id, fix.position);
        }
        fix.available = vehicle;
        vehicle.is_some()
    }

    /// Nobody is available any more; positions stay.
    pub fn withdraw_all(&mut self) {
        self.grids = Default::default();
        for fix in self.fixes.values_mut() {
            fix.available = None;
        }
    }

    /// The newest position of a driver.
    pub fn newest(&self, id: UserId) -> Option<Position> {
        self.fixes.get(&id).map(|fix| fix.position)
    }

    /// Whether a driver was heard of in the last [`SILENCE`] before `now`.
    pub fn is_heard(&self, id: UserId, now: DateTime<Utc>) -> bool {
        self.fixes.get(&id).is_some_and(|fix| now - fix.seen_at <= SILENCE)
    }

    /// The `k` nearest available drivers who were heard of lately and whom `keep` lets pass.
    pub fn nearest(
        &self,
        vehicle: VehicleType,
        from: &Position,
        k: usize,
        radius_m: f64,
        now: DateTime<Utc>,
        mut keep: impl FnMut(UserId) -> bool,
    ) -> Vec<Near> {
        self.grids[index(vehicle)].nearest(from, k, radius_m, |id| keep(id) && self.is_heard(id, now))
    }

    /// Forgets who is not available and was not heard of since `before`.
    pub fn forget(&mut self, before: DateTime<Utc>) {
        self.fixes.retain(|_, fix| fix.available.is_some() || fix.seen_at >= before);
    }
}

const fn index(vehicle: VehicleType) -> usize {
    match vehicle {
        VehicleType::Car => 0,
        VehicleType::Motorcycle => 1,
        VehicleType::Van => 2,
    }
}
