//! A trip: from where to where, in which kind of vehicle. Searches and offers both store one.

use platform::StoreError;
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{Position, VehicleType};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Trip {
    pub(crate) pickup: Position,
    pub(crate) dropoff: Position,
    pub(crate) vehicle_type: VehicleType,
}

impl Trip {
    /// Reads the columns `pickup_lat`, `pickup_lng`, `dropoff_lat`, `dropoff_lng` and `vehicle_type`.
    pub(crate) fn from_row(row: &PgRow) -> Result<Self, StoreError> {
        let vehicle_type: &str = row.try_get("vehicle_type")?;
        Ok(Self {
            pickup: Position { lat: row.try_get("pickup_lat")?, lng: row.try_get("pickup_lng")? },
            dropoff: Position { lat: row.try_get("dropoff_lat")?, lng: row.try_get("dropoff_lng")? },
            vehicle_type: vehicle_type.parse().map_err(StoreError::Other)?,
        })
    }
}
