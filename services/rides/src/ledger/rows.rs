//! The ledger in the store, PostgreSQL and memory side by side. It owns the table `ledger_entries`.

use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{Currency, Money, RideId};

use crate::ledger::{Entry, Kind, Movement};
use crate::tables::Tables;

/// Inserts the entries of movements. `StoreError::Conflict` (`ledger_entries_once`, or `ledger_entries_pkey`, because the ids are
/// the same too) if a ride has a movement of that kind already.
pub(crate) async fn post(tx: &mut Transaction<Tables>, movements: &[Movement]) -> Result<(), StoreError> {
    let entries: Vec<Entry> = movements.iter().flat_map(Movement::entries).collect();
    if entries.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into ledger_entries (entry_id, transaction_id, ride_id, kind, account, amount, currency, at) \
                 select e, t, r, k, a, m, y, d from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], \
                 $5::text[], $6::bigint[], $7::timestamptz[], $8::text[]) as u (e, t, r, k, a, m, d, y)",
            )
            .bind(column(&entries, |e| e.entry_id))
            .bind(column(&entries, |e| e.transaction_id))
            .bind(column(&entries, |e| e.ride_id.0))
            .bind(column(&entries, |e| e.kind.key()))
            .bind(column(&entries, |e| e.account.as_str()))
            .bind(column(&entries, |e| e.amount.amount))
            .bind(column(&entries, |e| e.at))
            .bind(column(&entries, |e| e.amount.currency.as_str()))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            for entry in entries {
                let key = (entry.ride_id, entry.kind.key(), entry.account.clone());
                if tables.entries.contains_key(&key) {
                    return Err(StoreError::Conflict { constraint: "ledger_entries_once".to_owned() });
                }
                tables.entries.insert(key, entry);
            }
        }
    }
    Ok(())
}

/// The balance of an account, minor units of `currency`; debit positive.
///
/// # Errors
/// [`StoreError`].
pub async fn balance(tx: &mut Transaction<Tables>, account: &str, currency: Currency) -> Result<i64, StoreError> {
    match tx.on() {
        On::Postgres(pg) => Ok(sqlx::query_scalar(
            "select coalesce(sum(amount), 0)::bigint from ledger_entries where account = $1 and currency = $2",
        )
        .bind(account)
        .bind(currency.as_str())
        .fetch_one(&mut *pg)
        .await?),
        On::Memory(tables) => {
            let of_account = tables.entries.values().filter(|e| e.account == account && e.amount.currency == currency);
            Ok(of_account.map(|e| e.amount.amount).sum())
        }
    }
}

/// The entries of the rides from `first` to `last`, both included, by ride.
pub(crate) async fn entries_between(
    tx: &mut Transaction<Tables>,
    first: RideId,
    last: RideId,
) -> Result<Vec<Entry>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select entry_id, transaction_id, ride_id, kind, account, amount, currency, at from ledger_entries \
                 where ride_id >= $1 and ride_id <= $2 order by ride_id, kind, account",
            )
            .bind(first.0)
            .bind(last.0)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let from = tables.entries.range((first, String::new(), String::new())..);
            Ok(from.take_while(|((ride, ..), _)| *ride <= last).map(|(_, entry)| entry.clone()).collect())
        }
    }
}

fn read(row: &PgRow) -> Result<Entry, StoreError> {
    let kind: String = row.try_get("kind")?;
    let currency: Currency = row.try_get::<String, _>("currency")?.parse().map_err(StoreError::Other)?;
    let kind = Kind::of_key(&kind);
    Ok(Entry {
        entry_id: row.try_get("entry_id")?,
        transaction_id: row.try_get("transaction_id")?,
        ride_id: RideId(row.try_get("ride_id")?),
        kind: kind.ok_or_else(|| StoreError::Other("an entry of the ledger has an unknown kind".to_owned()))?,
        account: row.try_get("account")?,
        amount: Money::new(row.try_get("amount")?, currency),
        at: row.try_get("at")?,
    })
}
