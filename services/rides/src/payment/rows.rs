//! Payments and debts in the store, PostgreSQL and memory side by side. It owns the tables `payments` and `debts`.

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use streams::{Currency, Money, PaymentId, RideId, UserId};
use uuid::Uuid;

use crate::payment::{Debt, Payment, PaymentStatus};
use crate::tables::Tables;

#[derive(sqlx::FromRow)]
struct PaymentRow {
    payment_id: Uuid,
    ride_id: Uuid,
    passenger_id: Uuid,
    driver_id: Uuid,
    amount: i64,
    #[sqlx(try_from = "String")]
    currency: Currency,
    #[sqlx(try_from = "String")]
    status: PaymentStatus,
    reference: Option<String>,
    created_at: DateTime<Utc>,
    tried_at: Option<DateTime<Utc>>,
    market_id: Option<String>,
}

impl From<PaymentRow> for Payment {
    fn from(row: PaymentRow) -> Self {
        Self {
            payment_id: PaymentId(row.payment_id),
            ride_id: RideId(row.ride_id),
            passenger_id: UserId(row.passenger_id),
            driver_id: UserId(row.driver_id),
            amount: Money::new(row.amount, row.currency),
            status: row.status,
            reference: row.reference,
            created_at: row.created_at,
            tried_at: row.tried_at,
            market_id: row.market_id,
        }
    }
}

#[derive(sqlx::FromRow)]
struct DebtRow {
    payment_id: Uuid,
    ride_id: Uuid,
    passenger_id: Uuid,
    amount: i64,
    #[sqlx(try_from = "String")]
    currency: Currency,
    at: DateTime<Utc>,
}

impl From<DebtRow> for Debt {
    fn from(row: DebtRow) -> Self {
        Self {
            payment_id: PaymentId(row.payment_id),
            ride_id: RideId(row.ride_id),
            passenger_id: UserId(row.passenger_id),
            amount: Money::new(row.amount, row.currency),
            at: row.at,
        }
    }
}

/// Inserts payments, pending.
pub(crate) async fn insert_payments(tx: &mut Transaction<Tables>, payments: &[Payment]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into payments (payment_id, ride_id, passenger_id, driver_id, amount, currency, status, created_at, \
                 market_id) select p, r, g, d, a, y, 'pending', c, m from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], \
                 $5::bigint[], $6::timestamptz[], $7::text[], $8::text[]) as u (p, r, g, d, a, c, y, m)",
            )
            .bind(column(payments, |c| c.payment_id.0))
            .bind(column(payments, |c| c.ride_id.0))
            .bind(column(payments, |c| c.passenger_id.0))
            .bind(column(payments, |c| c.driver_id.0))
            .bind(column(payments, |c| c.amount.amount))
            .bind(column(payments, |c| c.created_at))
            .bind(column(payments, |c| c.amount.currency.as_str()))
            .bind(column(payments, |c| c.market_id.as_deref()))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            for c in payments {
                if tables.payment_of.contains_key(&c.ride_id) {
                    return Err(StoreError::Conflict { constraint: "payments_ride".to_owned() });
                }
                tables.payment_of.insert(c.ride_id, c.payment_id);
                tables.payments.insert(c.payment_id, c.clone());
            }
        }
    }
    Ok(())
}

/// Payments by id, locked in the order of their ids until the transaction ends.
pub(crate) async fn lock_payments(
    tx: &mut Transaction<Tables>,
    payments: &[PaymentId],
) -> Result<Vec<Payment>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query_as::<_, PaymentRow>(
                "select payment_id, ride_id, passenger_id, driver_id, amount, currency, market_id, status, reference, created_at, tried_at \
                 from payments where payment_id = any($1) order by payment_id for update",
            )
            .bind(column(payments, |p| p.0))
            .fetch_all(&mut *pg)
            .await?;
            Ok(rows.into_iter().map(Payment::from).collect())
        }
        On::Memory(tables) => Ok(payments.iter().filter_map(|id| tables.payments.get(id).cloned()).collect()),
    }
}

/// Writes the results of pending payments, and a debt for each refused one. `StoreError::Serialization` if one is no longer
/// pending.
pub(crate) async fn settle_payments(tx: &mut Transaction<Tables>, settled: &[Payment]) -> Result<(), StoreError> {
    let written = match tx.on() {
        On::Postgres(pg) => {
            let written = sqlx::query(
                "update payments set status = u.status, reference = u.reference, tried_at = u.tried_at \
                 from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) as u (id, status, reference, tried_at) \
                 where payments.payment_id = u.id and payments.status = 'pending'",
            )
            .bind(column(settled, |p| p.payment_id.0))
            .bind(column(settled, |p| p.status.as_str()))
            .bind(column(settled, |p| p.reference.as_deref()))
            .bind(column(settled, |p| p.tried_at))
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
        On::Memory(tables) => {
            let mut written = 0;
            for payment in settled {
                if tables.payments.get(&payment.payment_id).is_none_or(|p| p.status != PaymentStatus::Pending) {
                    continue;
                }
                written += 1;
                tables.payments.insert(payment.payment_id, payment.clone());
                if let (PaymentStatus::Refused, Some(at)) = (payment.status, payment.tried_at) {
                    let Payment { payment_id, ride_id, passenger_id, amount, .. } = *payment;
                    tables.debts.insert(payment_id, Debt { payment_id, ride_id, passenger_id, amount, at });
                }
            }
            written
        }
    };
    if written == settled.len() as u64 {
        return Ok(());
    }
    Err(StoreError::Serialization("a concurrent transaction settled a payment".to_owned()))
}

/// A page of all payments, by id: the first ones after `after`.
pub(crate) async fn payments_after(
    tx: &mut Transaction<Tables>,
    after: PaymentId,
    limit: usize,
) -> Result<Vec<Payment>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query_as::<_, PaymentRow>(
                "select payment_id, ride_id, passenger_id, driver_id, amount, currency, market_id, status, reference, created_at, tried_at \
                 from payments where payment_id > $1 order by payment_id limit $2",
            )
            .bind(after.0)
            .bind(limit as i64)
            .fetch_all(&mut *pg)
            .await?;
            Ok(rows.into_iter().map(Payment::from).collect())
        }
        On::Memory(tables) => {
            let all = tables.payments.values().filter(|payment| payment.payment_id > after);
            Ok(all.take(limit).cloned().collect())
        }
    }
}

/// The payments of rides. The caller has checked who owns the rides.
///
/// # Errors
/// [`StoreError`].
pub async fn payments_of(tx: &mut Transaction<Tables>, rides: &[RideId]) -> Result<Vec<Payment>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query_as::<_, PaymentRow>(
                "select payment_id, ride_id, passenger_id, driver_id, amount, currency, market_id, status, reference, created_at, tried_at \
                 from payments where ride_id = any($1)",
            )
            .bind(column(rides, |r| r.0))
            .fetch_all(&mut *pg)
            .await?;
            Ok(rows.into_iter().map(Payment::from).collect())
        }
        On::Memory(tables) => {
            let ids = rides.iter().filter_map(|ride| tables.payment_of.get(ride));
            Ok(ids.filter_map(|id| tables.payments.get(id).cloned()).collect())
        }
    }
}

/// The debts of a passenger, oldest first.
///
/// # Errors
/// [`StoreError`].
pub async fn debts_of(tx: &mut Transaction<Tables>, passenger: UserId) -> Result<Vec<Debt>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query_as::<_, DebtRow>(
                "select payment_id, ride_id, passenger_id, amount, currency, at from debts where passenger_id = $1 order by at",
            )
            .bind(passenger.0)
            .fetch_all(&mut *pg)
            .await?;
            Ok(rows.into_iter().map(Debt::from).collect())
        }
        On::Memory(tables) => Ok(tables.debts.values().filter(|d| d.passenger_id == passenger).cloned().collect()),
    }
}

/// The debts for rides.
pub(crate) async fn debts_of_rides(tx: &mut Transaction<Tables>, rides: &[RideId]) -> Result<Vec<Debt>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query_as::<_, DebtRow>(
                "select d.payment_id, d.ride_id, d.passenger_id, d.amount, d.currency, d.at from debts d \
                 join payments p on p.payment_id = d.payment_id where p.ride_id = any($1)",
            )
            .bind(column(rides, |r| r.0))
            .fetch_all(&mut *pg)
            .await?;
            Ok(rows.into_iter().map(Debt::from).collect())
        }
        On::Memory(tables) => {
            let payments = rides.iter().filter_map(|ride| tables.payment_of.get(ride));
            Ok(payments.filter_map(|id| tables.debts.get(id).cloned()).collect())
        }
    }
}
