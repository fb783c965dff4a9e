//! Money to be captured: `payment.capture`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{PaymentId, RideId, UserId};
use super::money::Money;
use super::validation::{EventError, Fields};

/// Money to be captured from a passenger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PaymentCapture {
    /// The capture, the same on every try; the entity of the message id.
    pub payment_id: PaymentId,
    /// The ride whose fare or fee this pays.
    pub ride_id: RideId,
    /// Who pays.
    pub passenger_id: UserId,
    /// Who is paid.
    pub driver_id: UserId,
    /// 0 or more.
    pub amount: Money,
    /// The market of the ride; an event of the version before markets has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market_id: Option<String>,
}

impl PaymentCapture {
    pub(super) fn validate(&self, fields: &Fields) -> Result<(), EventError> {
        if self.amount.amount < 0 {
            return Err(fields.error("amount.amount", "must be 0 or more"));
        }
        Ok(())
    }
}
