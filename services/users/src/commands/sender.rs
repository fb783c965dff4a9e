//! Who sends a command, and from where.

use std::sync::Arc;

use streams::{RideId, UserId};

use super::publish_lane::PublishLane;
use crate::mailbox::Device;

#[derive(Debug, Clone)]
pub(crate) struct Sender {
    pub(crate) user: UserId,
    pub(crate) device: Device,
    /// The ride to which a driver's positions belong.
    pub(crate) ride: Option<RideId>,
    /// The way of the user's positions to the stream, over all sockets.
    pub(crate) publish_lane: Arc<PublishLane>,
}
