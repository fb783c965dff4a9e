//! The ledger in the store, PostgreSQL and memory side by side.

use platform::{On, StoreError, Transaction};

use crate::ledger::{Entry, Movement};
use crate::tables::Tables;

/// Writes movements. `StoreError::Conflict` (`ledger_entries_once`, or the primary key, for the ids are the same too) if a ride has one of that kind already.
pub(crate) async fn post(tx: &mut Transaction<Tables>, movements: &[Movement]) -> Result<(), StoreError> {
    let entries: Vec<Entry> = movements.iter().flat_map(Movement::entries).collect();
    if entries.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into ledger_entries (entry_id, transaction_id, ride_id, kind, account, amount, currency, at) \
                 select e, t, r, k, a, m, 'USD', d from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], \
                 $5::text[], $6::bigint[], $7::timestamptz[]) as u (e, t, r, k, a, m, d)",
            )
            .bind(entries.iter().map(|e| e.entry_id).collect::<Vec<_>>())
            .bind(entries.iter().map(|e| e.transaction_id).collect::<Vec<_>>())
            .bind(entries.iter().map(|e| e.ride_id.0).collect::<Vec<_>>())
            .bind(entries.iter().map(|e| e.kind.as_str()).collect::<Vec<_>>())
            .bind(entries.iter().map(|e| e.account.as_str()).collect::<Vec<_>>())
            .bind(entries.iter().map(|e| e.amount.amount).collect::<Vec<_>>())
            .bind(entries.iter().map(|e| e.at).collect::<Vec<_>>())
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            let t = m;
            for entry in entries {
                let key = (entry.ride_id, entry.kind.as_str(), entry.account.clone());
                if t.entries.contains_key(&key) {
                    return Err(StoreError::Conflict { constraint: "ledger_entries_once".to_owned() });
                }
                t.entries.insert(key, entry);
            }
        }
    }
    Ok(())
}

/// The balance of an account, cents.
pub(crate) async fn balance(tx: &mut Transaction<Tables>, account: &str) -> Result<i64, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            Ok(sqlx::query_scalar("select coalesce(sum(amount), 0)::bigint from ledger_entries where account = $1")
                .bind(account)
                .fetch_one(&mut *pg)
                .await?)
        }
        On::Memory(m) => {
            let of_account = m.entries.values().filter(|e| e.account == account);
            Ok(of_account.map(|e| e.amount.amount).sum())
        }
    }
}
