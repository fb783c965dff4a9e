//! Refunds in the store, PostgreSQL and memory side by side. It owns the table `refunds`.

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use streams::{ActId, Currency, Money, PaymentId, RideId, UserId};
use uuid::Uuid;

use super::Refund;
use crate::tables::Tables;

#[derive(sqlx::FromRow)]
struct RefundRow {
    refund_id: Uuid,
    ride_id: Uuid,
    payment_id: Uuid,
    amount: i64,
    #[sqlx(try_from = "String")]
    currency: Currency,
    reason: Option<String>,
    by_operator: String,
    at: DateTime<Utc>,
}

impl From<RefundRow> for Refund {
    fn from(row: RefundRow) -> Self {
        Self {
            refund_id: ActId(row.refund_id),
            ride_id: RideId(row.ride_id),
            payment_id: PaymentId(row.payment_id),
            amount: Money::new(row.amount, row.currency),
            reason: row.reason,
            by: row.by_operator,
            at: row.at,
        }
    }
}

/// Inserts a refund; false if it is there already.
pub(crate) async fn insert(tx: &mut Transaction<Tables>, refund: &Refund) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let done = sqlx::query(
                "insert into refunds (refund_id, ride_id, payment_id, amount, currency, reason, by_operator, at) \
                 values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing",
            )
            .bind(refund.refund_id.0)
            .bind(refund.ride_id.0)
            .bind(refund.payment_id.0)
            .bind(refund.amount.amount)
            .bind(refund.amount.currency.as_str())
            .bind(&refund.reason)
            .bind(&refund.by)
            .bind(refund.at)
            .execute(&mut *pg)
            .await?;
            Ok(done.rows_affected() > 0)
        }
        On::Memory(tables) => {
            if tables.refunds.contains_key(&refund.refund_id) {
                return Ok(false);
            }
            tables.refunds_of.insert((refund.ride_id, refund.at, refund.refund_id));
            tables.refunds.insert(refund.refund_id, refund.clone());
            Ok(true)
        }
    }
}

/// The refunds of rides, the oldest of each first.
pub(crate) async fn of_rides(tx: &mut Transaction<Tables>, rides: &[RideId]) -> Result<Vec<Refund>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query_as::<_, RefundRow>(
                "select refund_id, ride_id, payment_id, amount, currency, reason, by_operator, at from refunds \
                 where ride_id = any($1) order by ride_id, at, refund_id",
            )
            .bind(column(rides, |ride| ride.0))
            .fetch_all(&mut *pg)
            .await?;
            Ok(rows.into_iter().map(Refund::from).collect())
        }
        On::Memory(tables) => {
            let mut rides = rides.to_vec();
            rides.sort_unstable();
            let found = rides.iter().flat_map(|ride| {
                let first = (*ride, DateTime::<Utc>::MIN_UTC, ActId(Uuid::nil()));
                tables.refunds_of.range(first..).take_while(move |(of, ..)| of == ride)
            });
            Ok(found.filter_map(|(.., id)| tables.refunds.get(id).cloned()).collect())
        }
    }
}

/// Erases what operators said of refunds of these people's rides. The amounts stay.
pub(crate) async fn erase_people(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "update refunds set reason = null where reason is not null and ride_id in \
                 (select ride_id from rides where driver_id = any($1) union \
                 select ride_id from rides where passenger_id = any($1))",
            )
            .bind(column(users, |user| user.0))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let rides = tables.rides.clone();
            let is_theirs =
                |ride: &RideId| rides.get(ride).is_some_and(|r| users.iter().any(|u| r.party(*u).is_some()));
            let theirs: Vec<Refund> =
                tables.refunds.values().filter(|refund| is_theirs(&refund.ride_id)).cloned().collect();
            for refund in theirs {
                tables.refunds.insert(refund.refund_id, Refund { reason: None, ..refund });
            }
        }
    }
    Ok(())
}

/// Erases what operators said of refunds of before `before`. The amounts stay.
pub(crate) async fn erase_reasons(tx: &mut Transaction<Tables>, before: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update refunds set reason = null where reason is not null and at < $1")
                .bind(before)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            let old = tables.refunds.values().filter(|refund| refund.at < before && refund.reason.is_some());
            for refund in old.cloned().collect::<Vec<_>>() {
                tables.refunds.insert(refund.refund_id, Refund { reason: None, ..refund });
            }
        }
    }
    Ok(())
}
