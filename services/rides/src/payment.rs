//! Payments: the provider that takes the money, and what came of each capture.
//!
//! It owns the tables `payments` and `debts`. A payment is born pending with the ride's last event and settled once, by
//! the work queue; that the ride is over for both people never waits for it.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use streams::event::PaymentCapture;
use streams::{Money, PaymentId, RideId, UserId};

use crate::ride::Ride;
use crate::store::Tables;

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

/// Writes new payments, pending.
pub(crate) async fn insert_payments(tx: &mut Transaction<Tables>, payments: &[Payment]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into payments (payment_id, ride_id, passenger_id, driver_id, amount, currency, status, created_at) \
                 select p, r, g, d, a, 'USD', 'pending', c from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], \
                 $5::bigint[], $6::timestamptz[]) as u (p, r, g, d, a, c)",
            )
            .bind(payments.iter().map(|c| c.payment_id.0).collect::<Vec<_>>())
            .bind(payments.iter().map(|c| c.ride_id.0).collect::<Vec<_>>())
            .bind(payments.iter().map(|c| c.passenger_id.0).collect::<Vec<_>>())
            .bind(payments.iter().map(|c| c.driver_id.0).collect::<Vec<_>>())
            .bind(payments.iter().map(|c| c.amount.amount).collect::<Vec<_>>())
            .bind(payments.iter().map(|c| c.created_at).collect::<Vec<_>>())
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            let t = m;
            for c in payments {
                if t.payment_of.contains_key(&c.ride_id) {
                    return Err(StoreError::Conflict { constraint: "payments_ride".to_owned() });
                }
                t.payment_of.insert(c.ride_id, c.payment_id);
                t.payments.insert(c.payment_id, c.clone());
            }
        }
    }
    Ok(())
}

fn read(row: &sqlx::postgres::PgRow) -> Result<Payment, StoreError> {
    Ok(Payment {
        payment_id: PaymentId(row.try_get("payment_id")?),
        ride_id: RideId(row.try_get("ride_id")?),
        passenger_id: UserId(row.try_get("passenger_id")?),
        driver_id: UserId(row.try_get("driver_id")?),
        amount: Money::usd(row.try_get("amount")?),
        status: PaymentStatus::read(row.try_get("status")?)?,
        reference: row.try_get("reference")?,
        created_at: row.try_get("created_at")?,
        tried_at: row.try_get("tried_at")?,
    })
}

/// Payments by id, locked in the order of their ids until the transaction ends.
pub(crate) async fn lock_payments(
    tx: &mut Transaction<Tables>,
    payments: &[PaymentId],
) -> Result<Vec<Payment>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select payment_id, ride_id, passenger_id, driver_id, amount, status, reference, created_at, tried_at \
                 from payments where payment_id = any($1) order by payment_id for update",
            )
            .bind(payments.iter().map(|p| p.0).collect::<Vec<_>>())
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(m) => {
            let t = m;
            Ok(payments.iter().filter_map(|id| t.payments.get(id).cloned()).collect())
        }
    }
}

/// Writes what came of payments that were pending, with a debt for each refused one. `StoreError::Serialization` if one is
/// pending no longer.
pub(crate) async fn settle_payments(tx: &mut Transaction<Tables>, settled: &[Payment]) -> Result<(), StoreError> {
    let written = match tx.on() {
        On::Postgres(pg) => {
            let written = sqlx::query(
                "update payments set status = u.status, reference = u.reference, tried_at = u.tried_at \
                 from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) as u (id, status, reference, tried_at) \
                 where payments.payment_id = u.id and payments.status = 'pending'",
            )
            .bind(settled.iter().map(|p| p.payment_id.0).collect::<Vec<_>>())
            .bind(settled.iter().map(|p| p.status.as_str()).collect::<Vec<_>>())
            .bind(settled.iter().map(|p| p.reference.as_deref()).collect::<Vec<_>>())
            .bind(settled.iter().map(|p| p.tried_at).collect::<Vec<_>>())
            .execute(&mut *pg)
            .await?
            .rows_affected();
            let refused: Vec<_> =
                settled.iter().filter(|p| p.status == PaymentStatus::Refused).map(|p| p.payment_id.0).collect();
            if !refused.is_empty() {
                sqlx::query(
                    "insert into debts (payment_id, ride_id, passenger_id, amount, currency, at) \
                     select payment_id, ride_id, passenger_id, amount, currency, tried_at from payments \
                     where payment_id = any($1)",
                )
                .bind(refused)
                .execute(&mut *pg)
                .await?;
            }
            written
        }
        On::Memory(m) => {
            let t = m;
            let mut written = 0;
            for payment in settled {
                if t.payments.get(&payment.payment_id).is_none_or(|p| p.status != PaymentStatus::Pending) {
                    continue;
                }
                written += 1;
                t.payments.insert(payment.payment_id, payment.clone());
                if let (PaymentStatus::Refused, Some(at)) = (payment.status, payment.tried_at) {
                    let Payment { payment_id, ride_id, passenger_id, amount, .. } = *payment;
                    t.debts.insert(payment_id, Debt { payment_id, ride_id, passenger_id, amount, at });
                }
            }
            written
        }
    };
    if written == settled.len() as u64 {
        return Ok(());
    }
    Err(StoreError::Serialization("a payment was settled meanwhile".to_owned()))
}

/// The payments of rides, by ride. The caller has asked for the rides' owner.
pub(crate) async fn payments_of(tx: &mut Transaction<Tables>, rides: &[RideId]) -> Result<Vec<Payment>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select payment_id, ride_id, passenger_id, driver_id, amount, status, reference, created_at, tried_at \
                 from payments where ride_id = any($1)",
            )
            .bind(rides.iter().map(|r| r.0).collect::<Vec<_>>())
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(m) => {
            let t = m;
            let ids = rides.iter().filter_map(|ride| t.payment_of.get(ride));
            Ok(ids.filter_map(|id| t.payments.get(id).cloned()).collect())
        }
    }
}

/// What a passenger owes.
pub(crate) async fn debts_of(tx: &mut Transaction<Tables>, passenger: UserId) -> Result<Vec<Debt>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select payment_id, ride_id, passenger_id, amount, at from debts where passenger_id = $1 order by at",
            )
            .bind(passenger.0)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(debt).collect()
        }
        On::Memory(m) => Ok(m.debts.values().filter(|d| d.passenger_id == passenger).cloned().collect()),
    }
}

/// What is owed for rides after refused payments.
pub(crate) async fn debts_of_rides(tx: &mut Transaction<Tables>, rides: &[RideId]) -> Result<Vec<Debt>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select d.payment_id, d.ride_id, d.passenger_id, d.amount, d.at from debts d \
                 join payments p on p.payment_id = d.payment_id where p.ride_id = any($1)",
            )
            .bind(rides.iter().map(|r| r.0).collect::<Vec<_>>())
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(debt).collect()
        }
        On::Memory(m) => {
            let t = m;
            let payments = rides.iter().filter_map(|ride| t.payment_of.get(ride));
            Ok(payments.filter_map(|id| t.debts.get(id).cloned()).collect())
        }
    }
}

fn debt(row: &sqlx::postgres::PgRow) -> Result<Debt, StoreError> {
    Ok(Debt {
        payment_id: PaymentId(row.try_get("payment_id")?),
        ride_id: RideId(row.try_get("ride_id")?),
        passenger_id: UserId(row.try_get("passenger_id")?),
        amount: Money::usd(row.try_get("amount")?),
        at: row.try_get("at")?,
    })
}
