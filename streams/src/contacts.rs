//! How the parties of a ride are reached: rides asks users when one of them calls for help, and passes it to the operators' sink. Never for a
//! screen, in no stream and in no log.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::ids::UserId;
use crate::parties::DriverView;

/// The subject of the request; users subscribes in the queue group of the same name.
pub const CONTACTS: &str = "users.contacts";
/// How long rides waits for the reply. Without one the call goes out without names and numbers.
pub const CONTACTS_WAIT: Duration = Duration::from_millis(500);

/// The request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContactsRequest {
    /// The ride's driver.
    pub driver_id: UserId,
    /// The ride's passenger.
    pub passenger_id: UserId,
}

/// The reply. `None`: there is no such user any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Contacts {
    /// The driver.
    pub driver: Option<Contact>,
    /// The passenger.
    pub passenger: Option<Contact>,
    /// What the driver drives.
    pub vehicle: Option<DriverView>,
}

/// A person and their number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Contact {
    /// Who it is.
    pub user_id: UserId,
    /// `None` if they gave none.
    pub name: Option<String>,
    /// E.164.
    pub phone: String,
}
