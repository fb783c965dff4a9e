//! Payments and their providers; pure.
//!
//! A payment is created pending, with the ride's last event, and settled once, by the work queue `payment.capture`. Neither person
//! waits for it: the ride is over before.

pub mod rows;

use std::str::FromStr;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use streams::event::PaymentCapture;
use streams::{Money, PaymentId, RideId, UserId};

use crate::ride::Ride;

/// Who captures the money. All are built in and answer at once. A provider over a network must be called before the transaction, with
/// the payment's id as the idempotency key, because a capture may be delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// Captures everything: the money is only in the ledger.
    #[default]
    Ledger,
    /// Refuses everything.
    Refusing,
    /// Never answers.
    Away,
}

impl FromStr for Provider {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ledger" => Ok(Self::Ledger),
            "refuse" => Ok(Self::Refusing),
            "away" => Ok(Self::Away),
            // Not repeated: it may be an address with a password.
            _ => Err("unknown payment provider: use ledger, refuse or away".to_owned()),
        }
    }
}

/// Why a provider did not capture the money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// Final: the amount becomes a debt.
    #[error("the provider refused")]
    Refused,
    /// The same payment must be tried again.
    #[error("the provider does not answer")]
    Unavailable,
}

impl Provider {
    /// The name in the accounts of the ledger and in the settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Refusing => "refuse",
            Self::Away => "away",
        }
    }

    /// Captures the money; returns the provider's reference. A provider captures the same payment once, however often this is called.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn capture(self, payment: PaymentId, _amount: Money) -> Result<String, CaptureError> {
        match self {
            Self::Ledger => Ok(format!("ledger-{payment}")),
            Self::Refusing => Err(CaptureError::Refused),
            Self::Away => Err(CaptureError::Unavailable),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PaymentStatus {
    /// No provider has answered yet.
    Pending,
    Captured,
    /// The amount is a debt.
    Refused,
}

impl PaymentStatus {
    /// The name in the database and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Captured => "captured",
            Self::Refused => "refused",
        }
    }
}

impl TryFrom<String> for PaymentStatus {
    type Error = UnknownStatus;
    fn try_from(text: String) -> Result<Self, UnknownStatus> {
        let all = [Self::Pending, Self::Captured, Self::Refused];
        all.into_iter().find(|status| status.as_str() == text).ok_or(UnknownStatus(text))
    }
}

/// A status in the database that this version does not know.
#[derive(Debug, thiserror::Error)]
#[error("unknown payment status `{0}`")]
pub struct UnknownStatus(String);

/// The capture of what a ride costs, and its result. A ride has at most one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    pub payment_id: PaymentId,
    pub ride_id: RideId,
    pub passenger_id: UserId,
    pub driver_id: UserId,
    pub amount: Money,
    pub status: PaymentStatus,
    /// The provider's reference, once captured.
    pub reference: Option<String>,
    /// When the event occurred that billed it.
    pub created_at: DateTime<Utc>,
    /// When it was settled.
    pub tried_at: Option<DateTime<Utc>>,
    /// The market of the ride.
    pub market_id: Option<String>,
}

impl Payment {
    /// The pending payment of what the newest event of `ride` bills.
    pub fn due(ride: &Ride, amount: Money) -> Self {
        Self {
            payment_id: ride.payment_id(),
            ride_id: ride.ride_id,
            passenger_id: ride.passenger_id,
            driver_id: ride.driver_id,
            amount,
            status: PaymentStatus::Pending,
            reference: None,
            created_at: ride.updated_at,
            tried_at: None,
            market_id: ride.market_id.clone(),
        }
    }

    /// The message that requests the capture.
    pub fn capture(&self) -> PaymentCapture {
        PaymentCapture {
            payment_id: self.payment_id,
            ride_id: self.ride_id,
            passenger_id: self.passenger_id,
            driver_id: self.driver_id,
            amount: self.amount,
            market_id: self.market_id.clone(),
        }
    }

    /// Whether `capture` requests exactly this payment. A message with another amount, ride or person was not sent by rides.
    pub fn is_for(&self, capture: &PaymentCapture) -> bool {
        self.capture() == *capture
    }
}

/// What a passenger owes because the provider refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debt {
    pub payment_id: PaymentId,
    pub ride_id: RideId,
    pub passenger_id: UserId,
    pub amount: Money,
    /// When the provider refused.
    pub at: DateTime<Utc>,
}
