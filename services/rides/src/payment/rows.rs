//! Payments and debts in the store, PostgreSQL and memory side by side.

use platform::{On, StoreError, Transaction};
use sqlx::Row;
use streams::{Money, PaymentId, RideId, UserId};

use crate::payment::{Debt, Payment, PaymentStatus};
use crate::tables::Tables;

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
