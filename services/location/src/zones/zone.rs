//! Zones: the earth in cells of 12 km, and the cells in a fixed number of zones. Pure.
//!
//! Every process of location computes the same zone of a place. What changes here must change [`VERSION`](super::members::VERSION).

use std::collections::BTreeSet;

use geospatial::Cells;
use serde::{Deserialize, Serialize};
use streams::Position;

/// So many that zones are shared out evenly among as many processes as there may be, and so few that all fit into a request.
pub(crate) const ZONES: u16 = 256;
/// More than the diameter of the largest circle that is searched, so that it touches four cells at most, except at a pole.
const CELLS: Cells = Cells::of_size(12_000.0);

/// From 0 to [`ZONES`] - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Zone(u16);

impl Zone {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..ZONES).map(Self)
    }

    pub(crate) fn of(position: &Position) -> Self {
        Self::of_cell(CELLS.at(*position))
    }

    /// The zones of all places in a circle.
    pub(crate) fn around(center: &Position, radius_m: f64) -> BTreeSet<Self> {
        CELLS.around(*center, radius_m).map(Self::of_cell).collect()
    }

    fn of_cell(cell: geospatial::Cell) -> Self {
        // The remainder is less than ZONES.
        Self((mixed(cell.key()) % u64::from(ZONES)) as u16)
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The finalizer of MurmurHash3, which every process has in every version, as a hasher of a library may not.
pub(super) fn mixed(mut hash: u64) -> u64 {
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ hash >> 33).wrapping_mul(factor);
    }
    hash ^ hash >> 33
}

/// Which drivers are meant: those in some zones, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    Zones(BTreeSet<Zone>),
}

impl Scope {
    pub(crate) fn contains(&self, zone: Zone) -> bool {
        match self {
            Self::All => true,
            Self::Zones(zones) => zones.contains(&zone),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_zone_of_a_place_is_the_same_in_every_process_of_this_version() {
        let zone = |lat, lng| Zone::of(&Position { lat, lng }).0;
        let zones = [zone(40.75, -73.98), zone(-33.86, 151.2), zone(0.0, 30.0), zone(90.0, 0.0), zone(0.0, 180.0)];
        assert_eq!(zones, [90, 122, 214, 171, 193], "another hash is another version");
        assert_eq!(zone(0.0, 180.0), zone(0.0, -180.0));
    }

    #[test]
    fn a_city_is_in_many_zones_and_a_circle_in_four_at_most() {
        let step = |n: i32| f64::from(n) / 100.0;
        let places =
            (0..50).flat_map(|n| (0..50).map(move |m| Position { lat: 40.5 + step(n), lng: -74.25 + step(m) }));
        let zones: BTreeSet<Zone> = places.clone().map(|place| Zone::of(&place)).collect();
        assert!(zones.len() >= 15, "{zones:?}");
        for place in places {
            assert!(Zone::around(&place, 5_100.0).len() <= 4);
        }
    }

    proptest! {
        #[test]
        fn the_zone_of_every_place_in_a_circle_is_one_of_the_circles(
            (lat, lng) in (-90.0..=90.0_f64, -180.0..=180.0_f64),
            (north, east) in (-0.045..0.045_f64, -0.045..0.045_f64),
        ) {
            let center = Position { lat, lng };
            let (lat, lng) = (lat + north, lng + east + 540.0);
            let place = Position { lat: f64::clamp(lat, -90.0, 90.0), lng: f64::rem_euclid(lng, 360.0) - 180.0 };
            prop_assert!(Zone::around(&center, center.distance_m(&place)).contains(&Zone::of(&place)));
        }
    }
}
