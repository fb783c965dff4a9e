//! What every process says of itself, whichever services it runs: heartbeats, and its health on request. Core messages: nothing is
//! stored, and no promise depends on them.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::event::rfc3339;
use crate::topology::TopologyState;

/// Every process publishes a JSON [`Heartbeat`] here, once in [`HEARTBEAT_INTERVAL`].
pub const HEARTBEAT: &str = "pods.heartbeat";
/// What one process observed of the topology, for all: a JSON [`SharedObservation`]. Then the others need not ask JetStream.
pub const TOPOLOGY: &str = "pods.topology";
/// The time between two heartbeats of a process.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// A process answers for its health within this time, or it does not.
pub const HEALTH_WAIT: Duration = Duration::from_secs(2);
/// The most characters of a pod id.
const POD_ID_MAX: usize = 128;

/// Where a process answers for its health: a request with any body, a JSON [`PodHealth`] as reply.
pub fn health_subject(pod: &str) -> String {
    format!("pods.{pod}.health")
}

/// The pod id of a process with this name: one token of a subject, and a part of the ids in the service API. Every character but letters,
/// digits, `-` and `_` becomes `-`, and what follows the first 128 is left out.
pub fn pod_id_from(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    name.chars().take(POD_ID_MAX).map(allowed).collect()
}

/// A process is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// The process.
    pub pod_id: String,
    /// The names of the services that it runs.
    pub services: Vec<String>,
    /// When this was sent.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub time: DateTime<Utc>,
    /// Whole seconds since the process began to send heartbeats.
    pub uptime_s: u64,
    /// Open WebSockets.
    pub sockets: u64,
    /// Core subscriptions that are open, without the inboxes of requests and pulls.
    pub subscriptions: u64,
    /// Resident memory; null where the system has no /proc, and in a simulation.
    pub memory_bytes: Option<u64>,
    /// Processor time since the last heartbeat by the time that has passed; 0 in the first one. 100 is one
    /// core. Null as `memory_bytes` is.
    pub cpu_percent: Option<f64>,
}

/// What a process observed of the topology.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedObservation {
    /// The process.
    pub pod_id: String,
    /// For how long the observation had begun when this was sent.
    pub age_ms: u64,
    /// What it observed; its differences are those to its own settings.
    #[schemars(with = "serde_json::Value")]
    pub state: TopologyState,
}

/// Whether a process can work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Status {
    /// It can.
    #[serde(rename = "ready")]
    Ready,
    /// It can, without something that it does not need for most of its work: a circuit breaker is open or half-open, or events wait to be
    /// published.
    #[serde(rename = "degraded")]
    Degraded,
    /// It cannot.
    #[serde(rename = "not ready")]
    NotReady,
}

/// The health of a process, as GET /health/ready has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PodHealth {
    /// The process.
    pub pod_id: String,
    /// `not ready` if one of the parts is, else `ready`.
    pub status: Status,
    /// The names of the services that it runs.
    pub services: Vec<String>,
    /// In the order of their names; then the circuit breakers, as `breaker <name>`.
    pub parts: Vec<PartHealth>,
    /// Open WebSockets.
    pub sockets: u64,
    /// When this was sent.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub time: DateTime<Utc>,
}

/// The health of a part of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartHealth {
    /// Such as `bus`, `database users`, `consumer match_found_users`.
    pub name: String,
    /// Of this part.
    pub status: Status,
    /// What is wrong, or the state of a breaker; null if there is nothing to say.
    pub detail: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_id_is_one_token_of_a_subject() {
        for pod in ["one", "pod-1", "Host_7-4711", &"x".repeat(POD_ID_MAX)] {
            assert_eq!(pod_id_from(pod), pod);
        }
        for (name, pod) in [("node 1.example.org-42", "node-1-example-org-42"), ("*.>/\n\u{e4}", "------")] {
            assert_eq!(pod_id_from(name), pod);
        }
        assert_eq!(pod_id_from(&"\u{e9}.".repeat(POD_ID_MAX)), "-".repeat(POD_ID_MAX));
    }
}
