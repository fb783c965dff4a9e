//! What operators say of a ride among themselves. No event has it, and nothing follows from it.

pub(crate) mod rows;

use chrono::{DateTime, Utc};
use streams::{ActId, RideId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// That of the act.
    pub(crate) note_id: ActId,
    pub(crate) ride_id: RideId,
    pub(crate) text: String,
    /// The operator.
    pub(crate) by: String,
    pub(crate) at: DateTime<Utc>,
}
