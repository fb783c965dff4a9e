//! The newest position of every driver, and who is free nearby. Pure.
//!
//! Where a driver is follows from beacons and positions by the rules of [`geospatial::newest`]. A driver is free who is on duty, as the
//! newest beacon says, standing still or not, and has no live ride. Which rides are live comes from events and rows.

use std::collections::{BTreeMap, BTreeSet, Bound};

use chrono::{DateTime, Duration, SubsecRound, Utc};
use geospatial::newest::{Fix, Newest, Place};
use geospatial::{Grid, Hashed, Near, rounding};
use schemars::JsonSchema;
use serde::Serialize;
use streams::event::{LocationUpdate, UserBeacon, rfc3339};
use streams::fleet::{FLEET_PAGE, FleetDriver, FleetReply};
use streams::newest_position::NewestPosition;
use streams::operators::MapBox;
use streams::{Position, RideId, UserId, VehicleType};

use crate::driver::rows::StoredPlace;
use crate::driver::{self, DriverRow};

/// A driver who is not on duty and of whom nothing was received for longer is forgotten.
const KNOWN_FOR: Duration = Duration::minutes(10);
/// Others see a driver's position to so many metres.
const SNAP_M: f64 = 100.0;
/// A driver who moved less since the place that is stored is not stored again.
const STORED_WITHIN_M: f64 = 50.0;
/// How long an ended ride is remembered, so that a late point does not make its driver busy again.
const ENDED_REMEMBERED: Duration = Duration::hours(1);

#[derive(Debug, Clone, Default)]
struct DriverPosition {
    newest: Newest,
    vehicle_type: Option<VehicleType>,
    /// When the newest beacon was recorded, and its `active`.
    beacon: Option<(DateTime<Utc>, bool)>,
    /// The ride of the newest point.
    ride_id: Option<RideId>,
    /// The place that is stored.
    stored: Option<Position>,
}

impl DriverPosition {
    fn is_on_duty(&self) -> bool {
        self.beacon.is_some_and(|(_, active)| active)
    }
}

/// Where a driver is shown.
fn snapped(position: &Position) -> Position {
    rounding::snapped(position, SNAP_M)
}

#[derive(Debug, Default)]
pub(crate) struct DriverPositions {
    drivers: Hashed<UserId, DriverPosition>,
    /// Those on duty, in the order of the pages of the fleet.
    on_duty: BTreeSet<UserId>,
    /// Drivers who moved since their places were stored, as far as this process received it from the stream.
    moved: BTreeSet<UserId>,
    /// Drivers on duty, at their snapped positions: so the distance, and whether a driver is within a radius, tells no
    /// more than the position that is shown.
    grid: Grid,
    /// Live rides, by events and rows.
    live_rides: BTreeMap<RideId, UserId>,
    /// How many live rides each driver has; no entry for none.
    live_count: BTreeMap<UserId, u32>,
    ended_rides: BTreeMap<RideId, DateTime<Utc>>,
}

/// A free driver as others see them: no identity.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub(crate) struct FreeDriver {
    /// To 100 m.
    position: Position,
    #[schemars(range(min = 0))]
    distance_m: f64,
    vehicle_type: Option<VehicleType>,
    /// To a second.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    recorded_at: DateTime<Utc>,
}

/// A driver as operators see them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ShownDriver {
    pub(crate) user_id: UserId,
    pub(crate) place: Place,
    pub(crate) vehicle_type: Option<VehicleType>,
    pub(crate) on_duty: bool,
    /// Of a ride that is live, as far as this process knows.
    pub(crate) ride_id: Option<RideId>,
}

impl DriverPositions {
    /// True if it is the driver's newest place.
    pub(crate) fn record_update(&mut self, update: &LocationUpdate, stored_at: DateTime<Utc>) -> bool {
        let driver = self.drivers.entry(update.user_id).or_default();
        if !driver.newest.update(&Fix::of(update, stored_at)) {
            return false;
        }
        driver.ride_id = update.ride_id;
        if driver.is_on_duty() {
            self.grid.place(update.user_id, snapped(&update.location));
        }
        true
    }

    /// The same of a position that this process has to store.
    pub(crate) fn record_own_update(&mut self, update: &LocationUpdate, stored_at: DateTime<Utc>) {
        if !self.record_update(update, stored_at) {
            return;
        }
        if let Some(driver) = self.drivers.get(&update.user_id)
            && driver.stored.is_none_or(|stored| stored.distance_m(&update.location) > STORED_WITHIN_M)
        {
            self.moved.insert(update.user_id);
        }
    }

    pub(crate) fn record_beacon(&mut self, beacon: &UserBeacon, stored_at: DateTime<Utc>) {
        let driver = self.drivers.entry(beacon.user_id).or_default();
        driver.newest.beacon(beacon, stored_at);
        if driver.beacon.is_none_or(|(at, _)| at <= beacon.recorded_at) {
            driver.beacon = Some((beacon.recorded_at, beacon.active));
            driver.vehicle_type = Some(beacon.vehicle_type);
        }
        self.show(beacon.user_id);
    }

    /// Adds what is stored.
    pub(crate) fn load(&mut self, rows: &[DriverRow]) {
        for row in rows {
            let driver = self.drivers.entry(row.user_id).or_default();
            row.restore(&mut driver.newest);
            if driver.beacon.is_none_or(|(at, _)| at < row.beacon_at) {
                driver.beacon = Some((row.beacon_at, row.active));
                driver.vehicle_type = Some(row.vehicle_type);
            }
            driver.stored = Some(row.place.position);
            self.show(row.user_id);
        }
    }

    fn show(&mut self, id: UserId) {
        let Some(driver) = self.drivers.get(&id) else { return };
        if driver.is_on_duty() {
            self.on_duty.insert(id);
        } else {
            self.on_duty.remove(&id);
        }
        match driver.newest.position() {
            Some(position) if driver.is_on_duty() => self.grid.place(id, snapped(&position)),
            _ => _ = self.grid.remove(id),
        }
    }

    /// At most `max` places that are to be stored, in the order of drivers. A driver without a beacon has no row yet. A driver in a ride is
    /// left out until it is over: the positions of rides are rows already.
    pub(crate) fn to_store(&self, max: usize) -> Vec<StoredPlace> {
        let free = self.moved.iter().filter(|id| !self.is_busy(**id));
        let place = |id: &UserId| {
            let DriverPosition { newest, beacon: Some(_), .. } = self.drivers.get(id)? else { return None };
            Some((*id, driver::stored(newest.place()?), newest.device().to_owned()))
        };
        free.filter_map(place).take(max).collect()
    }

    /// These places are stored now.
    pub(crate) fn set_stored(&mut self, places: &[StoredPlace]) {
        for (id, place, _) in places {
            if let Some(driver) = self.drivers.get_mut(id) {
                driver.stored = Some(place.position);
            }
            self.moved.remove(id);
        }
    }

    /// Where the driver is, as far as this process knows.
    pub(crate) fn newest_of(&self, id: UserId) -> Option<NewestPosition> {
        let newest = &self.drivers.get(&id)?.newest;
        let place = newest.place()?;
        Some(NewestPosition {
            location: place.position,
            heading_deg: place.heading_deg,
            speed_mps: place.speed_mps,
            recorded_at: place.recorded_at,
            received_at: place.received_at,
            device: newest.device().to_owned(),
            ride_device: place.ride_device,
            device_at: place.device_at,
            is_beacon: place.is_beacon,
        })
    }

    /// Who is on duty or in a ride, in no order, and a driver of both twice, the second time with the ride: [`first_shown`] sorts them
    /// without the lock. Of the whole map the first `most` on duty in the order of their ids, and everybody in a ride.
    pub(crate) fn shown(&self, within: Option<&MapBox>, most: usize) -> Vec<ShownDriver> {
        let shown = |user_id: UserId, ride_id: Option<RideId>| {
            let driver = self.drivers.get(&user_id)?;
            let place = *driver.newest.place()?;
            let (vehicle_type, on_duty) = (driver.vehicle_type, driver.is_on_duty());
            let is_in = within.is_none_or(|within| within.contains(&place.position));
            is_in.then_some(ShownDriver { user_id, place, vehicle_type, on_duty, ride_id })
        };
        let mut all: Vec<ShownDriver> = match within {
            Some(within) => self.on_duty_in_cells(within).into_iter().filter_map(|id| shown(id, None)).collect(),
            None => self.on_duty.iter().filter_map(|id| shown(*id, None)).take(most).collect(),
        };
        all.extend(self.live_rides.iter().filter_map(|(ride, driver)| shown(*driver, Some(*ride))));
        all
    }

    /// All who are in the box, and some around it.
    fn on_duty_in_cells(&self, within: &MapBox) -> Vec<UserId> {
        let MapBox { south, west, north, east } = *within;
        // The grid has their snapped positions.
        let margin = rounding::margin(SNAP_M, south.abs().max(north.abs()));
        let width = if west <= east { east - west } else { east + 360.0 - west } + 2.0 * margin.lng;
        let lng = if width < 360.0 { (west - margin.lng, east + margin.lng) } else { (-180.0, 180.0) };
        self.grid.in_cells_of((south - margin.lat, north + margin.lat), lng)
    }

    /// A page of where the drivers on duty are, in the order of their ids.
    pub(crate) fn fleet(&self, after: Option<UserId>) -> FleetReply {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut ids = self.on_duty.range((from, Bound::Unbounded)).copied();
        let page: Vec<UserId> = ids.by_ref().take(FLEET_PAGE).collect();
        let more = ids.next().is_some();
        let driver = |id: UserId| {
            let newest = &self.drivers.get(&id)?.newest;
            let place = newest.place()?;
            Some(FleetDriver {
                user_id: id,
                location: place.position,
                device: newest.device().to_owned(),
                is_beacon: place.is_beacon,
                device_at: place.device_at,
                recorded_at: place.recorded_at,
                received_at: place.received_at,
            })
        };
        FleetReply { drivers: page.into_iter().filter_map(driver).collect(), more }
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

    fn is_busy(&self, id: UserId) -> bool {
        let of_point = self.drivers.get(&id).and_then(|driver| driver.ride_id);
        of_point.is_some_and(|ride| !self.ended_rides.contains_key(&ride)) || self.live_count.contains_key(&id)
    }

    /// The `limit` nearest free drivers within `radius_m`, nearest first.
    pub(crate) fn nearby(&self, from: &Position, radius_m: f64, limit: usize) -> Vec<FreeDriver> {
        let free = |near: Near| {
            let DriverPosition { vehicle_type, newest, .. } = self.drivers.get(&near.id)?;
            let recorded_at = newest.place()?.recorded_at.trunc_subsecs(0);
            let (position, distance_m, vehicle_type) = (near.position, near.distance_m, *vehicle_type);
            Some(FreeDriver { position, distance_m, vehicle_type, recorded_at })
        };
        self.grid.nearest(from, limit, radius_m, |id| !self.is_busy(id)).into_iter().filter_map(free).collect()
    }

    /// Forgets drivers who are not on duty and long silent, and rides that ended long ago.
    pub(crate) fn prune(&mut self, now: DateTime<Utc>) {
        let moved = &mut self.moved;
        self.drivers.retain(|id, driver| {
            let is_recent = driver.newest.received_at().is_some_and(|at| now - at <= KNOWN_FOR);
            let retained = driver.is_on_duty() || is_recent;
            if !retained {
                moved.remove(id);
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

/// The first `most` of what [`DriverPositions::shown`] found, in the order of their ids, each once, and whether there are more.
pub(crate) fn first_shown(mut shown: Vec<ShownDriver>, most: usize) -> (Vec<ShownDriver>, bool) {
    shown.sort_unstable_by_key(|driver| (driver.user_id, std::cmp::Reverse(driver.ride_id)));
    shown.dedup_by_key(|driver| driver.user_id);
    let is_truncated = shown.len() > most;
    shown.truncate(most);
    (shown, is_truncated)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_page_of_the_fleet_has_who_is_on_duty_in_the_order_of_ids() {
        let at = |second| DateTime::UNIX_EPOCH + Duration::seconds(second);
        let id = |n: usize| UserId(Uuid::from_u128(n as u128));
        let mut positions = DriverPositions::default();
        let mut beacon = |n: usize, second: i64, active: bool| {
            let json = serde_json::json!({
                "user_id": id(n), "active": active, "location": {"lat": 40.0, "lng": -74.0}, "vehicle_type": "car",
                "recorded_at": rfc3339::text(&at(second)),
            });
            positions.record_beacon(&serde_json::from_value(json).unwrap(), at(second));
        };
        let count = FLEET_PAGE + 3;
        (1..=count).rev().for_each(|n| beacon(n, 10, true));
        beacon(1, 20, false);
        beacon(2, 20, false);
        // Older than what is known.
        beacon(2, 5, true);
        beacon(1, 30, true);
        let page = |positions: &DriverPositions, after| {
            let FleetReply { drivers, more } = positions.fleet(after);
            (drivers.into_iter().map(|driver| driver.user_id).collect::<Vec<_>>(), more)
        };
        let all: Vec<UserId> = (1..=count).filter(|n| *n != 2).map(id).collect();
        let (first, rest) = all.split_at(FLEET_PAGE);
        assert_eq!(page(&positions, None), (first.to_vec(), true));
        assert_eq!(page(&positions, first.last().copied()), (rest.to_vec(), false));
        assert_eq!(page(&positions, Some(id(count))), (Vec::new(), false));
        // On duty, a driver is never forgotten.
        positions.prune(at(1_000_000));
        assert_eq!((positions.len(), page(&positions, None).0.len()), (count - 1, FLEET_PAGE));
    }
    #[test]
    fn the_map_shows_who_is_on_duty_or_in_a_ride_in_a_box_and_copies_few_others() {
        let at = DateTime::UNIX_EPOCH + Duration::seconds(10);
        let id = |n: u32| UserId(Uuid::from_u128(u128::from(n)));
        let place = |n: u32| (f64::from(n % 60) * 0.5 - 15.0, 170.0 + f64::from(n / 60) * 0.5);
        let mut positions = DriverPositions::default();
        let beacon = |positions: &mut DriverPositions, n: u32, active: bool| {
            let (lat, lng) = place(n);
            let lng = if lng > 180.0 { lng - 360.0 } else { lng };
            let json = serde_json::json!({
                "user_id": id(n), "active": active, "location": {"lat": lat, "lng": lng}, "vehicle_type": "car",
                "recorded_at": rfc3339::text(&at),
            });
            positions.record_beacon(&serde_json::from_value(json).unwrap(), at);
        };
        (0..2_400).for_each(|n| beacon(&mut positions, n, n % 5 != 0));
        // Some in rides, of whom some are off duty, and one who is in two at once.
        let ride = |n: u32| RideId(Uuid::from_u128(1 << 80 | u128::from(n)));
        (0..300).for_each(|n| positions.ride_live(ride(n), id(n * 4)));
        positions.ride_live(ride(9_999), id(4));
        let whole = MapBox { south: -90.0, west: -180.0, north: 90.0, east: 180.0 };
        let across = MapBox { south: -5.2, west: 178.9, north: 5.2, east: -178.9 };
        let at_edge = MapBox { south: place(3).0, west: place(3).1, north: place(4).0, east: place(3).1 };
        for (within, most) in [
            (None, 10),
            (None, 10_000),
            (Some(whole), 10_000),
            (Some(whole), 100),
            (Some(across), 10_000),
            (Some(across), 7),
            (Some(at_edge), 10),
        ] {
            let copied = positions.shown(within.as_ref(), most + 1);
            let count = copied.len();
            let (shown, is_truncated) = first_shown(copied, most);
            let is_in = |n: u32| within.is_none_or(|w| w.contains(&positions.newest_of(id(n)).unwrap().location));
            let is_shown = |n: &u32| (!n.is_multiple_of(5) || (n.is_multiple_of(4) && *n < 1_200)) && is_in(*n);
            let expected: Vec<u32> = (0..2_400).filter(is_shown).collect();
            assert_eq!(is_truncated, expected.len() > most, "{within:?}");
            let ids: Vec<UserId> = shown.iter().map(|driver| driver.user_id).collect();
            assert_eq!(ids, expected.iter().take(most).map(|n| id(*n)).collect::<Vec<_>>(), "{within:?}");
            let most_on_duty = if within.is_some() { expected.len() } else { most + 1 };
            assert!(count <= most_on_duty + 301, "{count} are copied for {}", shown.len());
            for driver in shown.iter().filter(|driver| driver.user_id == id(4)) {
                assert_eq!(driver.ride_id, Some(ride(9_999)));
            }
        }
    }
}
