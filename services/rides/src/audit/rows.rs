//! What an audit reads of the tables, in pages, and what a rebuild writes. Nothing here decides.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use platform::{On, Store, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{Currency, Money, RideId};
use uuid::Uuid;

use super::database::Account;
use crate::event_log::KeptEvent;
use crate::ledger::{Entry, Kind};
use crate::payment;
use crate::ride::Ride;
use crate::tables::Tables;

macro_rules! event_columns {
    () => {
        "ride_id, version, message_id, subject, body, hash, occurred_at, traceparent"
    };
}

/// A transaction that sees the tables as they are at its first read, all the time, and writes nothing.
pub(super) async fn snapshot(store: &Store<Tables>) -> Result<Transaction<Tables>, StoreError> {
    let mut tx = store.begin().await?;
    if let On::Postgres(pg) = tx.on() {
        sqlx::query("set transaction isolation level repeatable read, read only").execute(&mut *pg).await?;
    }
    Ok(tx)
}

/// The accounts of up to `limit` rides after `after`, by id, with whatever has the id of a ride between them and no row.
/// Fewer than `limit` rows is the end: then everything after `after` is in it.
pub(super) async fn accounts(
    tx: &mut Transaction<Tables>,
    after: Option<RideId>,
    limit: usize,
) -> Result<(Vec<Account>, Option<RideId>), StoreError> {
    let from = after.map_or(Uuid::nil(), |ride| ride.0);
    let rides = rides(tx, from, limit).await?;
    let next = if rides.len() == limit { rides.last().map(|r| r.ride_id) } else { None };
    let to = next.map_or(Uuid::max(), |ride| ride.0);
    let mut accounts: BTreeMap<RideId, Account> = BTreeMap::new();
    let new = |ride_id| Account {
        ride_id,
        row: None,
        events: Vec::new(),
        entries: Vec::new(),
        payments: Vec::new(),
        debts: Vec::new(),
    };
    for ride in rides {
        let id = ride.ride_id;
        accounts.entry(id).or_insert_with(|| new(id)).row = Some(ride);
    }
    for event in events_between(tx, from, to).await? {
        accounts.entry(event.ride_id).or_insert_with(|| new(event.ride_id)).events.push(event);
    }
    for entry in entries_between(tx, from, to).await? {
        accounts.entry(entry.ride_id).or_insert_with(|| new(entry.ride_id)).entries.push(entry);
    }
    let ids: Vec<RideId> = accounts.keys().copied().collect();
    let payments = payment::rows::payments_of(tx, &ids).await?;
    let debts = payment::rows::debts_of_rides(tx, &ids).await?;
    for payment in payments {
        if let Some(account) = accounts.get_mut(&payment.ride_id) {
            account.payments.push(payment);
        }
    }
    for debt in debts {
        if let Some(account) = accounts.get_mut(&debt.ride_id) {
            account.debts.push(debt);
        }
    }
    Ok((accounts.into_values().collect(), next))
}

async fn rides(tx: &mut Transaction<Tables>, from: Uuid, limit: usize) -> Result<Vec<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(concat!(
                "select ",
                crate::ride::rows::columns!(),
                " from rides where ride_id > $1 order by ride_id limit $2"
            ))
            .bind(from)
            .bind(limit as i64)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(crate::ride::rows::read).collect()
        }
        On::Memory(m) => {
            let rides = m.rides.values().filter(|r| r.ride_id.0 > from);
            Ok(rides.take(limit).cloned().collect())
        }
    }
}

async fn events_between(tx: &mut Transaction<Tables>, from: Uuid, to: Uuid) -> Result<Vec<KeptEvent>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(concat!(
                "select ",
                event_columns!(),
                " from events where ride_id > $1 and ride_id <= $2 order by ride_id, version"
            ))
            .bind(from)
            .bind(to)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(KeptEvent::read).collect()
        }
        On::Memory(m) => {
            let events = m.events.values();
            Ok(events.filter(|e| e.ride_id.0 > from && e.ride_id.0 <= to).cloned().collect())
        }
    }
}

fn entry(row: &PgRow) -> Result<Entry, StoreError> {
    let kind: String = row.try_get("kind")?;
    let kind = [Kind::Fare, Kind::Cancellation, Kind::Capture].into_iter().find(|k| k.as_str() == kind);
    Ok(Entry {
        entry_id: row.try_get("entry_id")?,
        transaction_id: row.try_get("transaction_id")?,
        ride_id: RideId(row.try_get("ride_id")?),
        kind: kind.ok_or_else(|| StoreError::Other("an entry of the ledger has an unknown kind".to_owned()))?,
        account: row.try_get("account")?,
        amount: Money { amount: row.try_get("amount")?, currency: Currency::Usd },
        at: row.try_get("at")?,
    })
}

async fn entries_between(tx: &mut Transaction<Tables>, from: Uuid, to: Uuid) -> Result<Vec<Entry>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select entry_id, transaction_id, ride_id, kind, account, amount, at from ledger_entries \
                 where ride_id > $1 and ride_id <= $2 order by ride_id, kind, account",
            )
            .bind(from)
            .bind(to)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(entry).collect()
        }
        On::Memory(m) => {
            let entries = m.entries.values();
            Ok(entries.filter(|e| e.ride_id.0 > from && e.ride_id.0 <= to).cloned().collect())
        }
    }
}

/// Up to `limit` kept events that occurred at `from` or later and stand after `after`, by time, ride and version: the order
/// in which they happened, and that of each ride.
pub(super) async fn events_since(
    tx: &mut Transaction<Tables>,
    from: DateTime<Utc>,
    after: Option<(DateTime<Utc>, RideId, u32)>,
    limit: usize,
) -> Result<Vec<KeptEvent>, StoreError> {
    let (at, ride, version) = after.unwrap_or((from, RideId(Uuid::nil()), 0));
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(concat!(
                "select ",
                event_columns!(),
                " from events where (occurred_at, ride_id, version) > ($1, $2, $3) \
                 order by occurred_at, ride_id, version limit $4"
            ))
            .bind(at)
            .bind(ride.0)
            .bind(i32::try_from(version).unwrap_or(i32::MAX))
            .bind(limit as i64)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(KeptEvent::read).collect()
        }
        On::Memory(m) => {
            let key = |e: &KeptEvent| (e.occurred_at, e.ride_id, e.version);
            let mut later: Vec<&KeptEvent> = m.events.values().filter(|e| key(e) > (at, ride, version)).collect();
            later.sort_by_key(|e| key(e));
            Ok(later.into_iter().take(limit).cloned().collect())
        }
    }
}

/// Kept events by ride and version; what is not there is left out.
pub(super) async fn events_at(
    tx: &mut Transaction<Tables>,
    keys: &[(RideId, u32)],
) -> Result<BTreeMap<(RideId, u32), KeptEvent>, StoreError> {
    let found: Vec<KeptEvent> = match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(concat!(
                "select ",
                event_columns!(),
                " from events where (ride_id, version) in (select r, v from unnest($1::uuid[], $2::int[]) as u (r, v))"
            ))
            .bind(keys.iter().map(|(ride, _)| ride.0).collect::<Vec<_>>())
            .bind(keys.iter().map(|(_, version)| i32::try_from(*version).unwrap_or(i32::MAX)).collect::<Vec<_>>())
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(KeptEvent::read).collect::<Result<_, _>>()?
        }
        On::Memory(m) => {
            let t = m;
            keys.iter().filter_map(|key| t.events.get(key).cloned()).collect()
        }
    };
    Ok(found.into_iter().map(|event| ((event.ride_id, event.version), event)).collect())
}

/// Keeps everybody else from writing rides until the transaction ends, and says which of the tables has a row, if one has.
pub(super) async fn lock_empty(tx: &mut Transaction<Tables>) -> Result<Option<&'static str>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("lock table rides, events, ledger_entries, payments, superseded in exclusive mode")
                .execute(&mut *pg)
                .await?;
            let row = sqlx::query(
                "select exists (select 1 from rides), exists (select 1 from events), \
                 exists (select 1 from ledger_entries), exists (select 1 from payments), \
                 exists (select 1 from superseded)",
            )
            .fetch_one(&mut *pg)
            .await?;
            for (n, table) in ["rides", "events", "ledger_entries", "payments", "superseded"].into_iter().enumerate() {
                if row.try_get::<bool, _>(n)? {
                    return Ok(Some(table));
                }
            }
            Ok(None)
        }
        On::Memory(m) => {
            let t = m;
            let tables = [
                ("rides", t.rides.is_empty()),
                ("events", t.events.is_empty()),
                ("ledger_entries", t.entries.is_empty()),
                ("payments", t.payments.is_empty()),
            ];
            Ok(tables.into_iter().find(|(_, empty)| !empty).map(|(table, _)| table))
        }
    }
}
