//! Places and directions rounded for people who are not to know them exactly.

use streams::Position;

use crate::cells::DEGREE_M;

/// The next point of a grid whose lines are `step_m` metres apart.
pub fn snapped(position: &Position, step_m: f64) -> Position {
    let step = step_m / DEGREE_M;
    let lat = ((position.lat / step).round() * step).clamp(-90.0, 90.0);
    // At a pole all longitudes are one place.
    let step = step / lat.to_radians().cos().max(1e-3);
    let lng = ((position.lng / step).round() * step).clamp(-180.0, 180.0);
    // Minus zero is zero.
    Position { lat: lat + 0.0, lng: lng + 0.0 }
}

/// The direction in which the great circle leaves `from` for `to`, degrees clockwise from north, 0 to below 360.
pub fn bearing_deg(from: &Position, to: &Position) -> f64 {
    let (from_lat, to_lat, lng) = (from.lat.to_radians(), to.lat.to_radians(), (to.lng - from.lng).to_radians());
    let y = lng.sin() * to_lat.cos();
    let x = from_lat.cos() * to_lat.sin() - from_lat.sin() * to_lat.cos() * lng.cos();
    y.atan2(x).to_degrees().rem_euclid(360.0) + 0.0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn positions_are_snapped_to_100_m_everywhere() {
        for (lat, lng) in
            [(40.748_400_123, -73.985_700_456), (0.0, 30.0), (-33.9, 151.2), (89.999_9, 12.0), (90.0, 180.0)]
        {
            let snapped = |lat: f64, lng: f64| snapped(&Position { lat, lng }, 100.0);
            let at = snapped(lat, lng);
            assert!(at.is_valid(), "{at:?}");
            assert!((at.lat - lat).abs() * DEGREE_M <= 50.1, "{at:?}");
            assert!((at.lng - lng).abs() * DEGREE_M * lat.to_radians().cos() <= 50.1, "{at:?}");
            // Whoever moves a little is shown at the same place, unless a line of the grid is between.
            let places = (0..100).map(|m| snapped(lat - f64::from(m) / DEGREE_M, lng).lat.to_bits());
            assert!(places.collect::<BTreeSet<_>>().len() <= 2, "{lat}");
        }
    }

    #[test]
    fn bearings_are_clockwise_from_north() {
        let bearing = |from: (f64, f64), to: (f64, f64)| {
            let [from, to] = [from, to].map(|(lat, lng)| Position { lat, lng });
            bearing_deg(&from, &to).round()
        };
        let here = (10.0, 20.0);
        for (to, expected) in [((11.0, 20.0), 0.0), ((9.0, 20.0), 180.0), ((10.0, 20.01), 90.0), ((10.0, 19.99), 270.0)]
        {
            assert_eq!(bearing(here, to), expected, "{to:?}");
        }
        assert_eq!(bearing((0.0, 179.9), (0.0, -179.9)), 90.0, "over the antimeridian");
        assert_eq!(bearing(here, here), 0.0);
    }
}
