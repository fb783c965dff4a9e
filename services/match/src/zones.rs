//! How the map is divided into zones. The cells of a grid are spread over the zones by a hash, so that a city has a part of each. Pure.
//!
//! A zone divides requests, and is no border for drivers: each zone that has a cell within the largest radius around a driver knows
//! them. What two zones want at once, the database decides (`engine/rows.rs`).

use streams::Position;

/// The most zones: a driver's are the bits of a number.
pub const ZONES_MAX: u16 = 64;

const METERS_PER_DEGREE: f64 = 111_320.0;
/// Columns of a row near a pole are not narrower than at this latitude.
const LATITUDE_MAX: f64 = 89.0;
/// A circle of more cells than this is in all zones.
const CELLS_MAX: i64 = 4_096;

/// The zones of a driver, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZoneSet(pub u64);

impl ZoneSet {
    pub fn of(zone: u16) -> Self {
        Self(1 << zone)
    }

    pub fn contains(self, zone: u16) -> bool {
        self.0 & (1 << zone) != 0
    }

    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = u16> {
        (0..ZONES_MAX).filter(move |zone| self.contains(*zone))
    }
}

/// A division of the map: all processes that match at the same time have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    zones: u16,
    /// The edge of a cell.
    cell_m: u32,
}

impl Partition {
    /// One zone: one process matches at a time.
    pub const ONE: Self = Self { zones: 1, cell_m: 0 };

    /// `zones` of 1 to [`ZONES_MAX`], of cells with edges of `cell_m`.
    pub fn new(zones: u16, cell_m: u32) -> Self {
        match zones.clamp(1, ZONES_MAX) {
            1 => Self::ONE,
            zones => Self { zones, cell_m: cell_m.max(1) },
        }
    }

    pub fn zones(self) -> u16 {
        self.zones
    }

    pub fn cell_m(self) -> u32 {
        self.cell_m
    }

    pub fn is_one(self) -> bool {
        self.zones == 1
    }

    /// The zone of a pickup.
    pub fn zone_of(self, at: &Position) -> u16 {
        if self.is_one() {
            return 0;
        }
        let row = self.row(at.lat);
        self.zone(row, self.column(row, at.lng))
    }

    /// The zones that have a cell within `radius_m` of a place, and perhaps one a little farther away.
    pub fn zones_near(self, at: &Position, radius_m: f64) -> ZoneSet {
        let all = ZoneSet(u64::MAX >> (u32::from(ZONES_MAX) - u32::from(self.zones)));
        let reach = radius_m / METERS_PER_DEGREE;
        let (first, last) = (self.row(at.lat - reach), self.row(at.lat + reach));
        let mut zones = ZoneSet::default();
        let mut cells = 0;
        for row in first..=last {
            let reach = radius_m / (METERS_PER_DEGREE * self.shrink(row));
            let (from, to) = (self.column_unwrapped(row, at.lng - reach), self.column_unwrapped(row, at.lng + reach));
            let columns = self.columns(row);
            cells += to - from + 1;
            if cells > CELLS_MAX {
                return all;
            }
            for column in from..=to {
                zones = zones.union(ZoneSet::of(self.zone(row, column.rem_euclid(columns))));
            }
            if zones == all {
                return all;
            }
        }
        zones
    }

    fn row(self, lat: f64) -> i64 {
        (lat * METERS_PER_DEGREE / f64::from(self.cell_m)).floor() as i64
    }

    /// By how much a degree of longitude is shorter than at the equator, at the edge of the row that is nearer to a pole.
    fn shrink(self, row: i64) -> f64 {
        let edge = |row: i64| (row as f64 * f64::from(self.cell_m) / METERS_PER_DEGREE).abs();
        edge(row).max(edge(row + 1)).min(LATITUDE_MAX).to_radians().cos()
    }

    fn columns(self, row: i64) -> i64 {
        ((360.0 * METERS_PER_DEGREE * self.shrink(row) / f64::from(self.cell_m)).floor() as i64).max(1)
    }

    fn column(self, row: i64, lng: f64) -> i64 {
        self.column_unwrapped(row, lng).rem_euclid(self.columns(row))
    }

    fn column_unwrapped(self, row: i64, lng: f64) -> i64 {
        (lng / 360.0 * self.columns(row) as f64).floor() as i64
    }

    fn zone(self, row: i64, column: i64) -> u16 {
        // The mixer of splitmix64.
        let mut z = (row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ column as u64;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(self.zones)) as u16
    }

    /// The share of a process, before which `before` of all `members` come: together they have all zones, and no two differ by more than
    /// one.
    pub fn share(self, members: usize, before: usize) -> usize {
        let (zones, members) = (usize::from(self.zones), members.max(1));
        zones / members + usize::from(before < zones % members)
    }

    /// A zone for what has no place: the same for the same id.
    pub fn zone_of_id(self, id: uuid::Uuid) -> u16 {
        (id.as_u128() % u128::from(self.zones)) as u16
    }
}

/// One zone of a division.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone {
    pub partition: Partition,
    pub number: u16,
}

impl Zone {
    /// The only one.
    pub const ONLY: Self = Self { partition: Partition::ONE, number: 0 };

    /// The zone that a pickup belongs to, if it is another one.
    pub fn other_zone_of(self, pickup: &Position) -> Option<u16> {
        Some(self.partition.zone_of(pickup)).filter(|zone| *zone != self.number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_city_is_in_all_zones_and_one_zone_is_everywhere() {
        let partition = Partition::new(4, 1_000);
        let mut seen = ZoneSet::default();
        for n in 0..20 {
            let at = Position { lat: 40.7 + f64::from(n) / 100.0, lng: -73.98 };
            seen = seen.union(ZoneSet::of(partition.zone_of(&at)));
            assert_eq!(Partition::ONE.zone_of(&at), 0);
        }
        assert_eq!(seen, ZoneSet(0b1111));
        let shares =
            |members: usize| (0..members.max(1)).map(|before| partition.share(members, before)).collect::<Vec<_>>();
        assert_eq!((shares(0), shares(3), shares(5)), (vec![4], vec![2, 1, 1], vec![1, 1, 1, 1, 0]));
    }

    proptest! {
        #[test]
        fn whoever_is_within_the_radius_of_a_pickup_is_known_to_its_zone(
            lat in -85.0..85.0_f64, lng in -180.0..180.0_f64, bearing in 0.0..std::f64::consts::TAU, part in 0.0..0.99_f64,
            zones in 2..=64_u16, cell_m in 300..30_000_u32,
        ) {
            let (partition, radius_m) = (Partition::new(zones, cell_m), 5_000.0);
            let pickup = Position { lat, lng };
            let reach = radius_m * part / METERS_PER_DEGREE;
            let mut lng = lng + reach * bearing.sin() / lat.to_radians().cos();
            if lng > 180.0 { lng -= 360.0 } else if lng < -180.0 { lng += 360.0 }
            let driver = Position { lat: lat + reach * bearing.cos(), lng };
            prop_assume!(driver.distance_m(&pickup) <= radius_m);
            prop_assert!(partition.zones_near(&driver, radius_m).contains(partition.zone_of(&pickup)));
        }
    }
}
