//! The settings of location.

use chrono::Duration;

use crate::track;

#[derive(Debug, Clone)]
pub struct Config {
    /// TRACK_MAX_SPEED_MPS: a point that would need more is a jump, and not part of the distance.
    pub max_speed_mps: f64,
    /// The shortest time between two aggregates of a ride under way.
    pub aggregate_every: Duration,
    /// TRACK_FINAL_WAIT_S: how long the final aggregate waits at most for what the phone has not sent yet.
    pub final_wait: Duration,
    /// How long the points of a ride wait for others, so that a ride's points of this time are one write; less than
    /// [`WAIT_MAX`](platform::WAIT_MAX).
    pub points_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_speed_mps: track::MAX_SPEED_MPS,
            aggregate_every: Duration::seconds(90),
            final_wait: Duration::seconds(30),
            points_wait: platform::WAIT_MAX,
        }
    }
}
