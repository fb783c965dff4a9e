//! Who gets whom: the one decision that will be made better. Pure; it sees waiting requests and can ask for the free
//! drivers near each, and it changes nothing itself.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use streams::{Position, RequestId, UserId, VehicleType};

use geospatial::Near;

/// A request that has no driver.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// The request.
    pub request_id: RequestId,
    /// Whose.
    pub passenger_id: UserId,
    /// From where.
    pub pickup: Position,
    /// In what.
    pub vehicle_type: VehicleType,
    /// Since when.
    pub opened_at: DateTime<Utc>,
}

/// A request and the driver to whom it is to be offered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// The request.
    pub request_id: RequestId,
    /// The driver, and where.
    pub driver: Near,
}

/// The free drivers that a request may be offered to: the `k` nearest within reach, without those in the set.
pub type Nearest<'a> = dyn FnMut(&Waiting, usize, &BTreeSet<UserId>) -> Vec<Near> + 'a;

/// How pairs are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// The longest waiting first, each the nearest driver that is left.
    #[default]
    FirstCome,
}

impl Policy {
    /// Pairs for `waiting`, which is ordered by `opened_at`; nobody is in two of them.
    pub fn assign(self, waiting: &[Waiting], nearest: &mut Nearest<'_>) -> Vec<Pair> {
        match self {
            Self::FirstCome => first_come(waiting, nearest),
        }
    }
}

fn first_come(waiting: &[Waiting], nearest: &mut Nearest<'_>) -> Vec<Pair> {
    let mut taken = BTreeSet::new();
    let mut pairs = Vec::new();
    for request in waiting {
        // A passenger may be a driver too.
        if taken.contains(&request.passenger_id) {
            continue;
        }
        if let Some(&driver) = nearest(request, 1, &taken).first() {
            taken.extend([driver.id, request.passenger_id]);
            pairs.push(Pair { request_id: request.request_id, driver });
        }
    }
    pairs
}
