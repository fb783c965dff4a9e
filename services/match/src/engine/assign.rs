//! Which driver is offered to which request: the policy, and the part of the engine that will change most. Pure. It sees
//! waiting requests, can ask for the free drivers near each, and changes nothing itself.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use geospatial::Near;
use streams::{Position, RequestId, UserId, VehicleType};

/// A live request whose passenger has no driver.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitingRequest {
    pub request_id: RequestId,
    pub passenger_id: UserId,
    pub pickup: Position,
    pub vehicle_type: VehicleType,
    pub opened_at: DateTime<Utc>,
}

/// A driver to be offered to a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assignment {
    pub request_id: RequestId,
    pub driver: Near,
}

/// Finds free drivers for a request: the `k` nearest within the radius, without those in the set.
pub type NearestDrivers<'a> = dyn FnMut(&WaitingRequest, usize, &BTreeSet<UserId>) -> Vec<Near> + 'a;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// The request that has waited longest chooses first, and takes the nearest driver that is left.
    #[default]
    FirstCome,
}

impl Policy {
    /// Assignments for `waiting`, which is ordered by `opened_at`. Nobody is in two of them.
    pub fn assign(self, waiting: &[WaitingRequest], nearest: &mut NearestDrivers<'_>) -> Vec<Assignment> {
        match self {
            Self::FirstCome => first_come(waiting, nearest),
        }
    }
}

fn first_come(waiting: &[WaitingRequest], nearest: &mut NearestDrivers<'_>) -> Vec<Assignment> {
    let mut assigned = BTreeSet::new();
    let mut assignments = Vec::new();
    for request in waiting {
        // The passenger may also be a driver, and assigned to another request.
        if assigned.contains(&request.passenger_id) {
            continue;
        }
        if let Some(&driver) = nearest(request, 1, &assigned).first() {
            assigned.extend([driver.id, request.passenger_id]);
            assignments.push(Assignment { request_id: request.request_id, driver });
        }
    }
    assignments
}
