//! The newest position of every driver, and who is free nearby. Pure.
//!
//! Where a driver is follows from beacons and positions by the rules of [`geospatial::newest`]. A driver is free who is on duty, as the
//! newest beacon says, standing still or not, and has no live ride. Which rides are live comes from events and rows.
//!
//! Every process knows every driver, and each driver's zone. Where in the zone a driver is, its owner knows at once (`zones/`): so what is
//! asked for names a [`Scope`], the zones in question.

use std::collections::{BTreeMap, BTreeSet, Bound};

use chrono::{DateTime, Duration, SubsecRound, Utc};
use geospatial::newest::{Fix, Newest};
use geospatial::{Grid, Hashed, Near, rounding};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use streams::connected_drivers::ConnectedDriver;
use streams::event::{LocationUpdate, UserBeacon, rfc3339};
use streams::fleet::{FleetDriver, FleetReply};
use streams::newest_position::NewestPosition;
use streams::operators::MapBox;
use streams::{Position, RideId, UserId, VehicleType};

use crate::driver::rows::StoredPlace;
use crate::driver::{self, DriverRow};
use crate::tables::PointRow;
use crate::zones::zone::{Scope, Zone};

/// A driver who is not on duty and of whom nothing was received for longer is forgotten.
const KNOWN_FOR: Duration = Duration::minutes(10);
/// Others see a driver's position to so many metres.
const SNAP_M: f64 = 100.0;
/// A position is shown less than so many metres from where it is.
pub(crate) const SNAPPED_WITHIN_M: f64 = SNAP_M;
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
    /// Of the newest place.
    zone: Option<Zone>,
}

impl DriverPosition {
    fn is_on_duty(&self) -> bool {
        self.beacon.is_some_and(|(_, active)| active)
    }

    /// The newest beacon counts.
    fn record_beacon(&mut self, recorded_at: DateTime<Utc>, active: bool, vehicle_type: VehicleType) {
        self.beacon = Some((recorded_at, active));
        self.vehicle_type = Some(vehicle_type);
    }

    fn is_in(&self, scope: &Scope) -> bool {
        self.zone.is_some_and(|zone| scope.contains(zone))
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
    /// Drivers who came into another zone, until [`take_entered`](Self::take_entered).
    entered: BTreeSet<UserId>,
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FreeDriver {
    /// To 100 m.
    position: Position,
    #[schemars(range(min = 0))]
    pub(crate) distance_m: f64,
    vehicle_type: Option<VehicleType>,
    /// To a second.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub(crate) recorded_at: DateTime<Utc>,
}

/// A free driver as the processes of location see them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct NearDriver {
    pub(crate) user_id: UserId,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub(crate) received_at: DateTime<Utc>,
    pub(crate) free: FreeDriver,
}

/// A driver as operators see them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ShownDriver {
    pub(crate) user_id: UserId,
    pub(crate) location: Position,
    pub(crate) heading_deg: Option<f64>,
    pub(crate) speed_mps: Option<f64>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub(crate) recorded_at: DateTime<Utc>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub(crate) received_at: DateTime<Utc>,
    pub(crate) vehicle_type: Option<VehicleType>,
    pub(crate) on_duty: bool,
    /// Of a ride that is live, as far as this process knows.
    pub(crate) ride_id: Option<RideId>,
}

/// In the order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ShownDrivers {
    pub(crate) drivers: Vec<ShownDriver>,
    /// There are more.
    pub(crate) truncated: bool,
}

/// All that one process knows of a driver, for another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct KnownDriver {
    pub(crate) user_id: UserId,
    newest: NewestPosition,
    /// Of the newest point.
    ride_id: Option<RideId>,
    beacon: Option<KnownBeacon>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct KnownBeacon {
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    recorded_at: DateTime<Utc>,
    active: bool,
    vehicle_type: VehicleType,
    device: Option<String>,
}

impl KnownDriver {
    fn of(user_id: UserId, driver: &DriverPosition) -> Option<Self> {
        let device = driver.newest.beacon_device().map(str::to_owned);
        let beacon = driver.beacon.zip(driver.vehicle_type).map(|((recorded_at, active), vehicle_type)| KnownBeacon {
            recorded_at,
            active,
            vehicle_type,
            device,
        });
        Some(Self { user_id, newest: driver.newest.newest_position()?, ride_id: driver.ride_id, beacon })
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.newest.location.is_valid()
    }
}

impl DriverPositions {
    /// True if it is the driver's newest place.
    pub(crate) fn record_update(&mut self, update: &LocationUpdate, stored_at: DateTime<Utc>) -> bool {
        let driver = self.drivers.entry(update.user_id).or_default();
        if !driver.newest.update(&Fix::of(update, stored_at)) {
            return false;
        }
        driver.ride_id = update.ride_id;
        let zone = Zone::of(&update.location);
        if driver.zone.replace(zone) != Some(zone) {
            self.entered.insert(update.user_id);
        }
        if driver.is_on_duty() {
            self.grid.place(update.user_id, snapped(&update.location));
        }
        true
    }

    /// The same of a position that this process has to store.
    pub(crate) fn record_own_update(&mut self, update: &LocationUpdate, stored_at: DateTime<Utc>) -> bool {
        if !self.record_update(update, stored_at) {
            return false;
        }
        if let Some(driver) = self.drivers.get(&update.user_id)
            && driver.stored.is_none_or(|stored| stored.distance_m(&update.location) > STORED_WITHIN_M)
        {
            self.moved.insert(update.user_id);
        }
        true
    }

    pub(crate) fn record_beacon(&mut self, beacon: &UserBeacon, stored_at: DateTime<Utc>) {
        let driver = self.drivers.entry(beacon.user_id).or_default();
        driver.newest.beacon(beacon, stored_at);
        if driver.beacon.is_none_or(|(at, _)| at <= beacon.recorded_at) {
            driver.record_beacon(beacon.recorded_at, beacon.active, beacon.vehicle_type);
        }
        if self.show(beacon.user_id) {
            self.entered.insert(beacon.user_id);
        }
    }

    /// Adds what is stored.
    pub(crate) fn load(&mut self, rows: &[DriverRow]) {
        for row in rows {
            let driver = self.drivers.entry(row.user_id).or_default();
            row.restore(&mut driver.newest);
            if driver.beacon.is_none_or(|(at, _)| at < row.beacon_at) {
                driver.record_beacon(row.beacon_at, row.active, row.vehicle_type);
            }
            driver.stored = Some(row.place.position);
            self.show(row.user_id);
        }
    }

    /// Adds stored points of rides under way, whose drivers' places are not stored apart from them.
    pub(crate) fn load_points(&mut self, rows: &[PointRow]) {
        let mut rows: Vec<&PointRow> = rows.iter().collect();
        rows.sort_by_key(|row| (row.point.received_at, row.point.recorded_at));
        for row in rows {
            self.record_update(&row.update(), row.point.received_at);
        }
    }

    /// Adds what another process knows. If this one knows a newer place in another zone, it is to be announced: the other did not know it.
    pub(crate) fn restore(&mut self, known: &KnownDriver) {
        let driver = self.drivers.entry(known.user_id).or_default();
        if let Some(beacon) = &known.beacon {
            driver.newest.restore_beacon(beacon.recorded_at, beacon.device.as_deref());
            if driver.beacon.is_none_or(|(at, _)| at < beacon.recorded_at) {
                driver.record_beacon(beacon.recorded_at, beacon.active, beacon.vehicle_type);
            }
        }
        let (recorded_at, received_at) = (known.newest.recorded_at, known.newest.received_at);
        let before = driver.newest.place().map(|known| (known.recorded_at, known.received_at));
        let is_newer = driver.newest.merge(&known.newest, known.ride_id);
        if is_newer {
            driver.ride_id = known.ride_id;
        } else if before > Some((recorded_at, received_at)) && driver.zone != Some(Zone::of(&known.newest.location)) {
            // In one order of all places, so that two processes that each refuse the other's place do not announce theirs without end.
            self.entered.insert(known.user_id);
        }
        self.show(known.user_id);
    }

    /// Adds what the pod of a driver's socket knows. A newer place is to be stored as one from the stream is: it may be of points that
    /// were acknowledged already, or that come again late.
    pub(crate) fn restore_connected(&mut self, connected: &ConnectedDriver) {
        let ConnectedDriver { user_id, ride_id, position } = connected;
        if !position.location.is_valid() {
            return;
        }
        self.restore(&KnownDriver { user_id: *user_id, newest: position.clone(), ride_id: *ride_id, beacon: None });
        if let Some(driver) = self.drivers.get(user_id)
            && driver.newest.place().is_some_and(|place| place.received_at == position.received_at)
            && driver.stored.is_some_and(|stored| stored.distance_m(&position.location) > STORED_WITHIN_M)
        {
            self.moved.insert(*user_id);
        }
    }

    /// The drivers who came into another zone, if it is one of those of this process.
    pub(crate) fn take_entered(&mut self, is_own: impl Fn(Zone) -> bool) -> Vec<KnownDriver> {
        let entered = std::mem::take(&mut self.entered);
        let own = entered.into_iter().filter_map(|id| Some((id, self.drivers.get(&id)?)));
        own.filter(|(_, driver)| driver.zone.is_some_and(&is_own))
            .filter_map(|(id, driver)| KnownDriver::of(id, driver))
            .collect()
    }

    /// The drivers of `scope` of whom something was received since then, in the order of their ids.
    pub(crate) fn received_since(&self, scope: &Scope, since: DateTime<Utc>) -> Vec<KnownDriver> {
        let recent = |driver: &DriverPosition| driver.newest.received_at().is_some_and(|at| at >= since);
        let drivers = self.drivers.iter().filter(|(_, driver)| driver.is_in(scope) && recent(driver));
        let mut known: Vec<KnownDriver> = drivers.filter_map(|(id, driver)| KnownDriver::of(*id, driver)).collect();
        known.sort_unstable_by_key(|driver| driver.user_id);
        known
    }

    /// At most `max` drivers after `after` who are on duty in `scope` and of whom nothing was received since then, in the order of their ids.
    pub(crate) fn silent_since(
        &self,
        scope: &Scope,
        since: DateTime<Utc>,
        after: Option<UserId>,
        max: usize,
    ) -> BTreeSet<UserId> {
        let silent = |driver: &DriverPosition| driver.newest.received_at().is_none_or(|at| at < since);
        let on_duty = self.on_duty_in(scope, after).filter(|(_, driver)| silent(driver));
        on_duty.map(|(id, _)| id).take(max).collect()
    }

    /// Those on duty, in the order of their ids.
    fn on_duty_in(&self, scope: &Scope, after: Option<UserId>) -> impl Iterator<Item = (UserId, &DriverPosition)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ids = self.on_duty.range((from, Bound::Unbounded));
        ids.filter_map(|id| Some((*id, self.drivers.get(id)?))).filter(|(_, driver)| driver.is_in(scope))
    }

    pub(crate) fn zone_of(&self, id: UserId) -> Option<Zone> {
        self.drivers.get(&id)?.zone
    }

    /// True if the driver is in another zone than before.
    fn show(&mut self, id: UserId) -> bool {
        let Some(driver) = self.drivers.get_mut(&id) else { return false };
        let zone = driver.newest.position().map(|position| Zone::of(&position));
        let has_entered = std::mem::replace(&mut driver.zone, zone) != zone;
        if driver.is_on_duty() {
            self.on_duty.insert(id);
        } else {
            self.on_duty.remove(&id);
        }
        match driver.newest.position() {
            Some(position) if driver.is_on_duty() => self.grid.place(id, snapped(&position)),
            _ => _ = self.grid.remove(id),
        }
        has_entered
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
        self.drivers.get(&id)?.newest.newest_position()
    }

    /// Who in `scope` is on duty or in a ride, in no order, and a driver of both twice, the second time with the ride: [`first_shown`] sorts
    /// them without the lock. Of the whole map the first `most` on duty in the order of their ids, and everybody in a ride.
    pub(crate) fn shown(&self, within: Option<&MapBox>, most: usize, scope: &Scope) -> Vec<ShownDriver> {
        let shown = |user_id: UserId, ride_id: Option<RideId>| {
            let driver = self.drivers.get(&user_id).filter(|driver| driver.is_in(scope))?;
            let place = driver.newest.place()?;
            within.is_none_or(|within| within.contains(&place.position)).then(|| ShownDriver {
                user_id,
                location: place.position,
                heading_deg: place.heading_deg,
                speed_mps: place.speed_mps,
                recorded_at: place.recorded_at,
                received_at: place.received_at,
                vehicle_type: driver.vehicle_type,
                on_duty: driver.is_on_duty(),
                ride_id,
            })
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

    /// A page of where the drivers on duty in `scope` are, in the order of their ids.
    pub(crate) fn fleet(&self, after: Option<UserId>, limit: usize, scope: &Scope) -> FleetReply {
        let mut drivers = self.on_duty_in(scope, after).filter_map(|(user_id, driver)| {
            let place = driver.newest.place()?;
            Some(FleetDriver {
                user_id,
                location: place.position,
                device: driver.newest.device().to_owned(),
                is_beacon: place.is_beacon,
                device_at: place.device_at,
                recorded_at: place.recorded_at,
                received_at: place.received_at,
            })
        });
        let page = drivers.by_ref().take(limit).collect();
        FleetReply { drivers: page, more: drivers.next().is_some() }
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

    /// The `limit` nearest free drivers of `scope` within `radius_m`, nearest first.
    pub(crate) fn nearby(&self, from: &Position, radius_m: f64, limit: usize, scope: &Scope) -> Vec<NearDriver> {
        let near = |near: Near| {
            let DriverPosition { vehicle_type, newest, .. } = self.drivers.get(&near.id)?;
            let place = newest.place()?;
            let (position, distance_m, vehicle_type) = (near.position, near.distance_m, *vehicle_type);
            let free =
                FreeDriver { position, distance_m, vehicle_type, recorded_at: place.recorded_at.trunc_subsecs(0) };
            Some(NearDriver { user_id: near.id, received_at: place.received_at, free })
        };
        let is_meant = |id| *scope == Scope::All || self.drivers.get(&id).is_some_and(|driver| driver.is_in(scope));
        let found = self.grid.nearest(from, limit, radius_m, |id| is_meant(id) && !self.is_busy(id));
        found.into_iter().filter_map(near).collect()
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

/// The first `most` of what [`DriverPositions::shown`] found, in the order of their ids, each once.
pub(crate) fn first_shown(mut drivers: Vec<ShownDriver>, most: usize) -> ShownDrivers {
    drivers.sort_unstable_by_key(|driver| (driver.user_id, std::cmp::Reverse(driver.ride_id)));
    drivers.dedup_by_key(|driver| driver.user_id);
    let truncated = drivers.len() > most;
    drivers.truncate(most);
    ShownDrivers { drivers, truncated }
}

#[cfg(test)]
mod tests {
    use streams::fleet::FLEET_PAGE;
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
            let FleetReply { drivers, more } = positions.fleet(after, FLEET_PAGE, &Scope::All);
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

    fn point(n: u128, second: i64, lng: f64) -> LocationUpdate {
        let json = serde_json::json!({
            "user_id": UserId(Uuid::from_u128(n)), "ride_id": null, "location": {"lat": 0.0, "lng": lng}, "accuracy_m": null,
            "speed_mps": 7.5, "heading_deg": 90.0,
            "recorded_at": rfc3339::text(&(DateTime::UNIX_EPOCH + Duration::seconds(second))),
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn who_comes_into_a_zone_is_announced_by_its_owner_and_leaves_the_other_one_everywhere() {
        let at = |second| DateTime::UNIX_EPOCH + Duration::seconds(second);
        let (west, east) = (30.0, 30.2);
        let zones = [west, east].map(|lng| Zone::of(&Position { lat: 0.0, lng }));
        assert_ne!(zones[0], zones[1]);
        let [in_west, in_east] = zones.map(|own| move |zone| zone == own);
        let mut owners = [DriverPositions::default(), DriverPositions::default()];
        let record = |positions: &mut DriverPositions, second, lng| {
            positions.record_update(&point(1, second, lng), at(second));
        };
        record(&mut owners[0], 10, west);
        let [first] = &owners[0].take_entered(in_west)[..] else { panic!("one driver came") };
        owners[1].restore(first);
        assert_eq!(owners[1].take_entered(in_east), [], "it is not its zone");
        record(&mut owners[0], 14, west);
        assert_eq!(owners[0].take_entered(in_west), [], "the same zone");
        // East, and back before the owner in the west has received that.
        record(&mut owners[1], 18, east);
        let came_east = owners[1].take_entered(in_east);
        record(&mut owners[0], 22, west);
        assert_eq!((came_east.len(), owners[0].take_entered(in_west)), (1, Vec::new()));
        owners[0].restore(&came_east[0]);
        let came_west = owners[0].take_entered(in_west);
        assert_eq!(came_west.len(), 1, "the other owner did not know it");
        owners[1].restore(&came_west[0]);
        assert_eq!(owners[1].take_entered(in_east), []);
        for positions in &owners {
            assert_eq!(positions.zone_of(UserId(Uuid::from_u128(1))), Some(zones[0]));
            assert_eq!(
                positions.newest_of(UserId(Uuid::from_u128(1))),
                owners[0].newest_of(UserId(Uuid::from_u128(1)))
            );
        }
        // Announcements that cross and say the same end.
        owners[0].restore(&came_west[0]);
        assert_eq!(owners[0].take_entered(in_west), []);
    }

    #[test]
    fn a_late_point_in_another_zone_does_not_replace_a_newer_place_that_another_process_knows() {
        let at = |second| DateTime::UNIX_EPOCH + Duration::seconds(second);
        let id = UserId(Uuid::from_u128(1));
        let (west, east) = (30.0, 30.2);
        let own = |lng| move |zone| zone == Zone::of(&Position { lat: 0.0, lng });
        let mut owners = [DriverPositions::default(), DriverPositions::default()];
        assert!(owners[0].record_own_update(&point(1, 100, west), at(100)));
        owners[0].take_entered(own(west));
        // The process that reads the late point knows the newer one, or does not.
        assert!(!owners[0].record_own_update(&point(1, 60, east), at(101)));
        assert!(owners[1].record_own_update(&point(1, 60, east), at(101)));
        let came_east = owners[1].take_entered(own(east));
        owners[0].restore(&came_east[0]);
        let known = owners[0].take_entered(own(west));
        assert_eq!(known.len(), 1, "the other owner did not know it");
        owners[1].restore(&known[0]);
        for owner in &mut owners {
            assert_eq!(owner.newest_of(id).unwrap().location.lng, west);
            assert!(owner.take_entered(|_| true).iter().all(|driver| driver.newest.location.lng == west));
        }
    }

    #[test]
    fn what_is_handed_over_is_all_that_is_known_of_who_was_lately_received_in_these_zones() {
        let at = |second| DateTime::UNIX_EPOCH + Duration::seconds(second);
        let mut positions = DriverPositions::default();
        for (n, second, lng) in [(1, 10, 30.0), (2, 100, 30.0), (3, 100, 30.2)] {
            positions.record_update(&point(n, second, lng), at(second));
        }
        let beacon = serde_json::json!({
            "user_id": UserId(Uuid::from_u128(2)), "active": true, "location": {"lat": 0.0, "lng": 30.0}, "vehicle_type": "van",
            "recorded_at": rfc3339::text(&at(90)), "located_at": rfc3339::text(&at(80)), "device": "phone",
        });
        positions.record_beacon(&serde_json::from_value(beacon).unwrap(), at(90));
        let west = Scope::Zones(BTreeSet::from([Zone::of(&Position { lat: 0.0, lng: 30.0 })]));
        let known = positions.received_since(&west, at(50));
        assert_eq!(known.iter().map(|driver| driver.user_id.0.as_u128()).collect::<Vec<_>>(), [2]);
        let sent: KnownDriver = serde_json::from_slice(&serde_json::to_vec(&known[0]).unwrap()).unwrap();
        let mut next = DriverPositions::default();
        next.restore(&sent);
        assert_eq!(next.received_since(&west, at(50)), known);
        let from = Position { lat: 0.0, lng: 30.0 };
        assert_eq!(next.nearby(&from, 100.0, 9, &west), positions.nearby(&from, 100.0, 9, &west));
        assert_eq!(next.nearby(&from, 100.0, 9, &west).len(), 1, "on duty");
        assert_eq!(next.nearby(&from, 100.0, 9, &Scope::Zones(BTreeSet::new())), [], "in no other zone");
        // Who is silent, by pages.
        let silent = |after| next.silent_since(&Scope::All, at(200), after, 1).len();
        assert_eq!((silent(None), silent(Some(UserId(Uuid::from_u128(2))))), (1, 0));
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
            let copied = positions.shown(within.as_ref(), most + 1, &Scope::All);
            let count = copied.len();
            let ShownDrivers { drivers: shown, truncated } = first_shown(copied, most);
            let is_in = |n: u32| within.is_none_or(|w| w.contains(&positions.newest_of(id(n)).unwrap().location));
            let is_shown = |n: &u32| (!n.is_multiple_of(5) || (n.is_multiple_of(4) && *n < 1_200)) && is_in(*n);
            let expected: Vec<u32> = (0..2_400).filter(is_shown).collect();
            assert_eq!(truncated, expected.len() > most, "{within:?}");
            let ids: Vec<UserId> = shown.iter().map(|driver| driver.user_id).collect();
            assert_eq!(ids, expected.iter().take(most).map(|n| id(*n)).collect::<Vec<_>>(), "{within:?}");
            let most_on_duty = if within.is_some() { expected.len() } else { most + 1 };
            assert!(count <= most_on_duty + 301, "{count} are copied for {}", shown.len());
            for driver in shown.iter().filter(|driver| driver.user_id == id(4)) {
                assert_eq!(driver.ride_id, Some(ride(9_999)));
            }
        }
        // Each in one of two scopes that share out the zones.
        let (even, odd): (BTreeSet<Zone>, BTreeSet<Zone>) =
            Zone::all().partition(|zone| zone.index().is_multiple_of(2));
        for within in [None, Some(across)] {
            let shown = |scope| first_shown(positions.shown(within.as_ref(), 10_001, &scope), 10_000).drivers;
            let mut parts = [shown(Scope::Zones(even.clone())), shown(Scope::Zones(odd.clone()))].concat();
            parts.sort_unstable_by_key(|driver| driver.user_id);
            assert_eq!(parts, shown(Scope::All), "{within:?}");
        }
    }
}
