//! Who sends a command, and from where.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use streams::UserId;

use super::publish_lane::PublishLane;
use crate::live_ride::CurrentRide;
use crate::mailbox::Device;
use crate::presence::known::KnownDriver;

/// How a command came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Socket,
    /// `POST /v1/commands`: by it nobody is connected.
    Request,
}

#[derive(Debug, Clone)]
pub(crate) struct Sender {
    pub(crate) via: Via,
    pub(crate) user: UserId,
    pub(crate) device: Device,
    /// The name under which positions go out, see [`crate::gateway::sockets`].
    pub(crate) device_name: Arc<str>,
    /// The live ride that the user drives, to which a driver's positions belong.
    pub(crate) ride: Option<CurrentRide>,
    /// Whether this device accepted that ride.
    pub(crate) ride_device: bool,
    /// The way of the user's positions to the stream, over all sockets.
    pub(crate) publish_lane: Arc<PublishLane>,
    /// What this pod knows of the driver, over all sockets.
    pub(crate) known_driver: Arc<Mutex<KnownDriver>>,
}

impl Sender {
    pub(crate) fn driver(&self) -> MutexGuard<'_, KnownDriver> {
        self.known_driver.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
