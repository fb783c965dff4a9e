//! Who sends a command, and from where.

use std::sync::Arc;

use streams::{RideId, UserId};
use tokio::sync::Semaphore;

use crate::mailbox::Device;

#[derive(Debug, Clone)]
pub(crate) struct Sender {
    pub(crate) user: UserId,
    pub(crate) device: Device,
    /// The ride to which a driver's positions belong.
    pub(crate) ride: Option<RideId>,
    /// One for each position message of the user, over all sockets, whose acknowledgement is awaited.
    pub(crate) publish_permits: Arc<Semaphore>,
}
