//! The newest position of every driver, and grids of those who are available. Pure.
//!
//! The engine says who is available; beacons and the listener of location.update move drivers, by the rules of
//! [`geospatial::newest`]. Nothing here is persisted: a new active process begins with the places in the beacons' rows and with
//! those that location knows.

use chrono::{DateTime, Duration, Utc};
use geospatial::newest::{Fix, Newest, Place, Summary};
use geospatial::{Grid, Hashed, Near};
use streams::event::UserBeacon;
use streams::{Position, UserId, VehicleType};

/// A driver who is off duty and of whom nothing was received for longer is forgotten.
const KNOWN_FOR: Duration = Duration::minutes(5);

#[derive(Debug, Clone, Default)]
struct DriverPosition {
    newest: Newest,
    available: Option<VehicleType>,
    /// In [`DriverPositions::moved`].
    has_moved: bool,
}

#[derive(Debug, Clone, Default)]
pub struct DriverPositions {
    drivers: Hashed<UserId, DriverPosition>,
    grids: [Grid; 3],
    /// Drivers of whom a position was received since the last [`DriverPositions::take_moves`]; each at most once. `None`: nobody asks.
    moved: Option<Vec<UserId>>,
}

/// All that is known of one driver: with the vehicle in which they are available.
pub type DriverState = (UserId, Summary, Option<VehicleType>);

impl DriverPositions {
    /// Takes a position into account.
    pub fn record(&mut self, id: UserId, fix: &Fix<'_>) {
        self.change(id, |newest| newest.update(fix));
        if let Some(moved) = &mut self.moved
            && let Some(driver) = self.drivers.get_mut(&id)
            && !std::mem::replace(&mut driver.has_moved, true)
        {
            moved.push(id);
        }
    }

    /// Takes a beacon into account. True if the driver was unknown.
    pub fn record_beacon(&mut self, beacon: &UserBeacon, stored_at: DateTime<Utc>) -> bool {
        let is_new = !self.drivers.contains_key(&beacon.user_id);
        self.change(beacon.user_id, |newest| newest.beacon(beacon, stored_at));
        is_new
    }

    /// Takes into account where another service saw a driver, and on which device.
    pub fn restore(&mut self, id: UserId, place: Place, device: &str) {
        self.change(id, |newest| {
            newest.restore(place, device);
            true
        });
    }

    /// Takes into account whoever is known elsewhere and not here.
    pub(crate) fn merge(&mut self, other: Self) {
        for (id, driver) in other.drivers {
            self.drivers.entry(id).or_insert(driver);
        }
    }

    /// `moves` is true if the driver has another place after it.
    fn change(&mut self, id: UserId, moves: impl FnOnce(&mut Newest) -> bool) {
        let driver = self.drivers.entry(id).or_default();
        if moves(&mut driver.newest)
            && let (Some(vehicle), Some(position)) = (driver.available, driver.newest.position())
        {
            self.grids[index(vehicle)].place(id, position);
        }
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
        if let (Some(now), Some(position)) = (vehicle, driver.newest.position()) {
            self.grids[index(now)].place(id, position);
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
        self.drivers.get(&id).and_then(|driver| driver.newest.position())
    }

    /// The `k` nearest available drivers that pass `filter`, nearest first.
    pub fn nearest(
        &self,
        vehicle: VehicleType,
        from: &Position,
        k: usize,
        radius_m: f64,
        filter: impl FnMut(UserId) -> bool,
    ) -> Vec<Near> {
        self.grids[index(vehicle)].nearest(from, k, radius_m, filter)
    }

    /// What is known of the drivers of whom a position was received since the last call. The first call begins to collect them, and
    /// returns nobody.
    pub fn take_moves(&mut self) -> Vec<(UserId, Summary)> {
        let moved = self.moved.replace(Vec::new()).unwrap_or_default();
        let state = |id: UserId| {
            let driver = self.drivers.get_mut(&id)?;
            driver.has_moved = false;
            Some((id, driver.newest.summary()))
        };
        moved.into_iter().filter_map(state).collect()
    }

    pub fn has_moves(&self) -> bool {
        self.moved.as_ref().is_some_and(|moved| !moved.is_empty())
    }

    /// What [`Self::take_moves`] returned elsewhere. Beacons are no part of it.
    pub fn replay_move(&mut self, id: UserId, summary: &Summary) {
        let beacon_at = self.drivers.get(&id).and_then(|driver| driver.newest.summary().beacon_at);
        self.change(id, |newest| {
            *newest = Newest::from_summary(&Summary { beacon_at, ..*summary });
            true
        });
    }

    /// In the order of their ids.
    pub fn states(&self) -> Vec<DriverState> {
        let state = |(id, driver): (&UserId, &DriverPosition)| (*id, driver.newest.summary(), driver.available);
        let mut states: Vec<DriverState> = self.drivers.iter().map(state).collect();
        states.sort_unstable_by_key(|(id, ..)| *id);
        states
    }

    pub fn from_states(states: impl IntoIterator<Item = DriverState>) -> Self {
        let mut positions = Self::default();
        for (id, summary, available) in states {
            positions.change(id, |newest| {
                *newest = Newest::from_summary(&summary);
                false
            });
            positions.set_available(id, available);
        }
        positions
    }

    /// Forgets drivers who are not on duty and long silent.
    pub fn prune(&mut self, now: DateTime<Utc>, is_on_duty: impl Fn(UserId) -> bool) {
        self.drivers.retain(|id, driver| {
            let is_recent = driver.newest.received_at().is_some_and(|at| now - at <= KNOWN_FOR);
            driver.available.is_some() || is_recent || is_on_duty(*id)
        });
    }
}

const fn index(vehicle: VehicleType) -> usize {
    match vehicle {
        VehicleType::Car => 0,
        VehicleType::Motorcycle => 1,
        VehicleType::Van => 2,
    }
}
