//! Positions on the earth and the distance between two of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A point on the earth, in degrees, WGS 84.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Position {
    /// Latitude, −90 to 90.
    #[schemars(range(min = -90, max = 90))]
    pub lat: f64,
    /// Longitude, −180 to 180.
    #[schemars(range(min = -180, max = 180))]
    pub lng: f64,
}

impl Position {
    /// Whether both degrees are finite and in range, bounds included.
    pub fn is_valid(&self) -> bool {
        (-90.0..=90.0).contains(&self.lat) && (-180.0..=180.0).contains(&self.lng)
    }

    /// Great-circle distance in metres (haversine on the mean radius 6,371,008.8 m, the `geo` crate).
    pub fn distance_m(&self, other: &Self) -> f64 {
        use geo::{Distance, Haversine};
        Haversine.distance(geo::Point::new(self.lng, self.lat), geo::Point::new(other.lng, other.lat))
    }
}
