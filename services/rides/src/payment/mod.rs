//! Payments: the provider that takes the money, and what came of each capture.
//!
//! It owns the tables `payments` and `debts`. A payment is born pending with the ride's last event and settled once, by
//! the work queue; that the ride is over for both people never waits for it.

pub(crate) mod rows;

use std::str::FromStr;

use chrono::{DateTime, Utc};
use platform::StoreError;
use streams::event::PaymentCapture;
use streams::{Money, PaymentId, RideId, UserId};

use crate::ride::Ride;

/// Who takes the money. All are built in and answer at once; one over a network would be asked before the transaction,
/// by the payment's id as its idempotency key, as its answer may come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// Takes everything: the money stands in the ledger alone.
    #[default]
    Ledger,
    /// Refuses everything, as a bank may.
    Refusing,
    /// Never answers, as a bank may too.
    Away,
}

impl FromStr for Provider {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ledger" => Ok(Self::Ledger),
            "refuse" => Ok(Self::Refusing),
            "away" => Ok(Self::Away),
            other => Err(format!("unknown payment provider `{other}`: use ledger, refuse or away")),
        }
    }
}

/// Why a provider did not take the money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// It will not: the money is owed.
    #[error("the provider refused")]
    Refused,
    /// It cannot now: ask again, with the same payment.
    #[error("the provider does not answer")]
    Unavailable,
}

impl Provider {
    /// The name in the accounts of the ledger.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Refusing => "refuse",
            Self::Away => "away",
        }
    }

    /// Takes the money; returns the provider's reference. The same payment is taken once, however often it is asked for.
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

/// Where a payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentStatus {
    /// Not asked for, or without an answer so far.
    Pending,
    /// Taken.
    Captured,
    /// Refused: owed.
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

    fn read(text: &str) -> Result<Self, StoreError> {
        [Self::Pending, Self::Captured, Self::Refused]
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| StoreError::Other(format!("unknown payment status `{text}`")))
    }
}

/// Money to be taken from a passenger, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// The capture.
    pub payment_id: PaymentId,
    /// The ride that it pays for; a ride has at most one payment.
    pub ride_id: RideId,
    /// Who pays.
    pub passenger_id: UserId,
    /// Who is paid.
    pub driver_id: UserId,
    /// How much.
    pub amount: Money,
    /// Where it stands.
    pub status: PaymentStatus,
    /// The provider's, once captured.
    pub reference: Option<String>,
    /// When it was born.
    pub created_at: DateTime<Utc>,
    /// When it was settled.
    pub tried_at: Option<DateTime<Utc>>,
}

impl Payment {
    /// What the newest event of `ride` bills, not asked for yet.
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
        }
    }

    /// The message that asks for it.
    pub fn capture(&self) -> PaymentCapture {
        PaymentCapture {
            payment_id: self.payment_id,
            ride_id: self.ride_id,
            passenger_id: self.passenger_id,
            driver_id: self.driver_id,
            amount: self.amount,
        }
    }

    /// Whether `wanted` is this payment and nothing else. A message that names another amount, ride or person is not what
    /// was billed.
    pub fn is_for(&self, wanted: &PaymentCapture) -> bool {
        self.capture() == *wanted
    }
}

/// What a passenger owes because the provider refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debt {
    /// The payment that was refused.
    pub payment_id: PaymentId,
    /// The ride.
    pub ride_id: RideId,
    /// Who owes it.
    pub passenger_id: UserId,
    /// How much.
    pub amount: Money,
    /// Since when.
    pub at: DateTime<Utc>,
}
