//! Where the drivers are who have a socket, as the pods of users know: each pod answers for its own. location asks when it starts, because of
//! the positions of the last seconds some are in no row yet; match when it takes over and location does not answer; users when location does
//! not say where a passenger's driver is. A hint: no promise depends on an answer.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::ids::{RideId, UserId};
use crate::newest_position::NewestPosition;

/// The subject of the request, to which every pod of users subscribes.
pub const CONNECTED_DRIVERS: &str = "users.drivers";
/// How long whoever asks waits for a reply.
pub const CONNECTED_DRIVERS_WAIT: Duration = Duration::from_secs(1);
/// After so long without another reply all pods have replied.
pub const CONNECTED_DRIVERS_QUIET: Duration = Duration::from_millis(200);
/// The most users with a socket that one reply is about: it stays below the largest message of a NATS server, if all of them drive.
pub const CONNECTED_DRIVERS_PAGE: usize = 1_000;

/// The request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectedDriversRequest {
    /// Only this pod replies; without it every pod does.
    pub pod_id: Option<String>,
    /// The `next` of the page before.
    pub after: Option<UserId>,
    /// Only this driver is meant, and only pods reply where the driver has a socket.
    pub driver_id: Option<UserId>,
}

/// The reply of one pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectedDrivers {
    /// The pod.
    pub pod_id: String,
    /// Those on duty or in a ride whose place the pod knows.
    pub drivers: Vec<ConnectedDriver>,
    /// There may be more: they come after this user.
    pub next: Option<UserId>,
}

/// Where a driver is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectedDriver {
    /// The driver.
    pub user_id: UserId,
    /// The live ride of the position; null for a beacon's.
    pub ride_id: Option<RideId>,
    /// The newest position that this pod knows.
    pub position: NewestPosition,
}
