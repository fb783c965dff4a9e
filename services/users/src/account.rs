//! Users, drivers and profiles: rows, SQL and routes. It never touches codes, tokens or sockets.

use axum::Router;
use platform::{StoreError, Transaction};
use streams::{UserId, VehicleType};

use crate::{Tables, Users};

/// Users and drivers in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {}

/// What a user drives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Driver {
    pub(crate) vehicle_type: VehicleType,
    pub(crate) plate: String,
}

pub(crate) fn router() -> Router<Users> {
    Router::new()
}

/// What `user` drives; none if the user is no driver.
pub(crate) async fn driver_of(_tx: &mut Transaction<Tables>, _user: UserId) -> Result<Option<Driver>, StoreError> {
    Ok(None)
}
