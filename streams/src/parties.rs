//! What a person is shown of the other party of a ride. users has it, and rides asks for it to answer `GET /v1/rides/{id}`. It is in no
//! stream and in no audit trail: a name that was changed or deleted is gone everywhere.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::VehicleType;
use crate::event::ids::UserId;

/// The subject of the request; users subscribes in the queue group of the same name.
pub const PARTIES: &str = "users.parties";
/// How long rides waits for the reply. Without one the ride is shown without the other party.
pub const PARTIES_WAIT: Duration = Duration::from_millis(500);
/// For how many hours after the end of a ride its parties are shown to each other.
pub const SHOWN_HOURS: i64 = 24;

/// The request: who is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartiesRequest {
    /// To the passenger.
    pub driver_id: UserId,
    /// To the driver.
    pub passenger_id: UserId,
}

/// The reply. `None`: there is no such user any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Parties {
    /// As the passenger sees the driver.
    pub driver: Option<DriverView>,
    /// As the driver sees the passenger.
    pub passenger: Option<PassengerView>,
}

/// A driver as the passenger sees them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriverView {
    /// `None` if they gave none.
    pub name: Option<String>,
    /// What they drive.
    pub vehicle_type: VehicleType,
    /// As it is on the vehicle.
    pub plate: String,
    /// `None` if it was not given, as with the next two.
    pub make: Option<String>,
    /// Of the vehicle.
    pub model: Option<String>,
    /// Of the vehicle.
    pub color: Option<String>,
    /// The mean of their ratings; `None` before there is one.
    #[schemars(range(min = 1, max = 5))]
    pub rating: Option<f64>,
}

/// A passenger as the driver sees them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PassengerView {
    /// `None` if they gave none.
    pub name: Option<String>,
    /// The mean of their ratings; `None` before there is one.
    #[schemars(range(min = 1, max = 5))]
    pub rating: Option<f64>,
}
