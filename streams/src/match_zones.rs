//! What the processes of match tell each other where they match in zones (MATCH_ZONES): that something waits for the owner of a zone,
//! and the positions of drivers around it. Core messages: what is lost heals, because owners also look by themselves, and a newer position
//! follows.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::LocationUpdate;

/// The subjects that say to the owner of a zone that something waits for it; without a body.
pub const ZONE_INPUTS: &str = "matching.zones.inputs.*";
/// The subjects of [`ZonePositions`], one a zone.
pub const ZONE_POSITIONS: &str = "matching.zones.positions.*";
/// Positions in one message: together they are well below what a message may have.
pub const ZONE_POSITIONS_MAX: usize = 500;

/// The subject that says that something waits for a zone.
pub fn inputs_of(zone: u16) -> String {
    ZONE_INPUTS.replace('*', &zone.to_string())
}

/// The subject of the positions around a zone.
pub fn positions_of(zone: u16) -> String {
    ZONE_POSITIONS.replace('*', &zone.to_string())
}

/// Positions in the order in which they were received, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ZonePositions {
    /// At most [`ZONE_POSITIONS_MAX`].
    pub positions: Vec<ZonePosition>,
}

/// A position on its way to the owner of a zone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ZonePosition {
    /// As users published it.
    pub update: LocationUpdate,
    /// When its stream stored it.
    pub stored_at: DateTime<Utc>,
}
