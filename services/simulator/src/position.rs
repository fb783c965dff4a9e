//! Positions and straight lines between them: the simulated city has no roads. Pure.

use geo::{Bearing, Distance, Haversine, Point};
use serde::{Deserialize, Serialize};

/// Mean radius of the earth (IUGG R1), metres.
const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// Degrees, WGS 84: latitude −90 to 90, longitude −180 to 180.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Position {
    pub lat: f64,
    pub lng: f64,
}

impl Position {
    pub(crate) fn is_in_range(&self) -> bool {
        (-90.0..=90.0).contains(&self.lat) && (-180.0..=180.0).contains(&self.lng)
    }

    /// Whether both are in range, and not both 0: taxi records use 0, 0 for "unknown".
    pub(crate) fn is_plausible(&self) -> bool {
        self.is_in_range() && (self.lat.abs() > 1e-6 || self.lng.abs() > 1e-6)
    }

    /// Great-circle distance in metres.
    pub(crate) fn distance_m(&self, other: &Self) -> f64 {
        Haversine.distance(self.point(), other.point())
    }

    /// Initial bearing of the great circle to `other`: degrees from true north, 0 to below 360.
    pub(crate) fn heading_deg(&self, other: &Self) -> f64 {
        Haversine.bearing(self.point(), other.point())
    }

    fn point(&self) -> Point {
        Point::new(self.lng, self.lat)
    }

    /// The point `step_m` from here on the straight line to `target`, or `target` if it is nearer.
    pub(crate) fn toward(&self, target: &Self, step_m: f64) -> Self {
        let distance_m = self.distance_m(target);
        if distance_m <= step_m || distance_m <= f64::EPSILON {
            return *target;
        }
        let share = step_m / distance_m;
        Self { lat: self.lat + (target.lat - self.lat) * share, lng: self.lng + (target.lng - self.lng) * share }
    }

    /// The point so many metres to the north and to the east, for distances within a city.
    pub(crate) fn offset(&self, north_m: f64, east_m: f64) -> Self {
        let lat = self.lat + (north_m / EARTH_RADIUS_M).to_degrees();
        let around_m = EARTH_RADIUS_M * self.lat.to_radians().cos().max(0.01);
        let lng = self.lng + (east_m / around_m).to_degrees();
        Self { lat: lat.clamp(-89.9, 89.9), lng: (lng + 180.0).rem_euclid(360.0) - 180.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNION_SQUARE: Position = Position { lat: 40.7359, lng: -73.9911 };

    #[test]
    fn a_step_covers_its_metres_and_stops_at_the_target() {
        let target = UNION_SQUARE.offset(300.0, 400.0);
        assert!((UNION_SQUARE.distance_m(&target) - 500.0).abs() < 1.0);
        let halfway = UNION_SQUARE.toward(&target, 250.0);
        assert!((halfway.distance_m(&target) - 250.0).abs() < 1.0);
        assert_eq!(halfway.toward(&target, 1_000.0), target);
    }

    #[test]
    fn headings_are_degrees_from_north() {
        assert!(UNION_SQUARE.heading_deg(&UNION_SQUARE.offset(100.0, 0.0)) < 0.1);
        assert!((UNION_SQUARE.heading_deg(&UNION_SQUARE.offset(0.0, 100.0)) - 90.0).abs() < 0.1);
        assert!((UNION_SQUARE.heading_deg(&UNION_SQUARE.offset(0.0, -100.0)) - 270.0).abs() < 0.1);
    }

    #[test]
    fn unknown_and_out_of_range_points_are_not_plausible() {
        assert!(UNION_SQUARE.is_plausible());
        for (lat, lng) in [(0.0, 0.0), (91.0, 0.0), (40.0, 181.0), (f64::NAN, 1.0)] {
            assert!(!Position { lat, lng }.is_plausible(), "{lat}, {lng}");
        }
    }
}
