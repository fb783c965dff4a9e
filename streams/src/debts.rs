//! What users asks rides about a person's debts, to show them in that person's state. It is a hint for a screen: without a reply the
//! state says that they are unknown.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::Money;
use crate::event::ids::{PaymentId, RideId, UserId};
use crate::event::rfc3339;

/// The subject of the request; rides subscribes in the queue group of the same name.
pub const DEBTS: &str = "rides.debts";
/// How long users waits for the reply. A client waits for its screen meanwhile.
pub const DEBTS_WAIT: Duration = Duration::from_millis(500);
/// The most debts of one reply, the oldest first.
pub const DEBTS_MAX: usize = 100;

/// The request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DebtsRequest {
    /// The passenger, authenticated by users.
    pub user_id: UserId,
}

/// What a passenger owes for a ride. The reply is a list of them, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DebtView {
    /// That of the payment that was refused.
    pub debt_id: PaymentId,
    /// The ride.
    pub ride_id: RideId,
    /// What is owed.
    pub amount: Money,
    /// Since when.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub since: DateTime<Utc>,
}
