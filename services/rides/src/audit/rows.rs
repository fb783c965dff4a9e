//! What an audit reads of the tables, in pages of rides. Nothing here decides.

use std::collections::BTreeMap;

use platform::{On, StoreError, Transaction};
use sqlx::Row;
use streams::RideId;
use uuid::Uuid;

use super::database::RideRecords;
use crate::event_log::rows::events_between;
use crate::ledger::rows::entries_between;
use crate::payment::rows::{debts_of_rides, payments_of};
use crate::refund;
use crate::ride::rows::rides_from;
use crate::tables::Tables;

/// A page of rides, by id, with everything that has one of their ids.
pub(super) struct Page {
    pub(super) records: Vec<RideRecords>,
    /// The page has everything up to this id.
    pub(super) last: RideId,
    /// Where the next page begins.
    pub(super) next: Option<RideId>,
}

/// The page from `first` on, of up to `limit` rows of `rides` and not beyond `bound`. It includes rides that have no row, but events
/// or ledger entries.
pub(super) async fn records(
    tx: &mut Transaction<Tables>,
    first: RideId,
    bound: Option<RideId>,
    limit: usize,
) -> Result<Page, StoreError> {
    let mut rides = rides_from(tx, first, limit).await?;
    let end = RideId(Uuid::max());
    let full = rides.last().filter(|_| rides.len() == limit).map_or(end, |ride| ride.ride_id);
    let last = full.min(bound.unwrap_or(end));
    rides.retain(|ride| ride.ride_id <= last);
    let mut records: BTreeMap<RideId, RideRecords> = BTreeMap::new();
    for ride in rides {
        let id = ride.ride_id;
        records.insert(id, RideRecords { row: Some(ride), ..RideRecords::new(id) });
    }
    for event in events_between(tx, first, last).await? {
        records.entry(event.ride_id).or_insert_with(|| RideRecords::new(event.ride_id)).events.push(event);
    }
    for entry in entries_between(tx, first, last).await? {
        records.entry(entry.ride_id).or_insert_with(|| RideRecords::new(entry.ride_id)).entries.push(entry);
    }
    let ids: Vec<RideId> = records.keys().copied().collect();
    for payment in payments_of(tx, &ids).await? {
        if let Some(ride) = records.get_mut(&payment.ride_id) {
            ride.payments.push(payment);
        }
    }
    for debt in debts_of_rides(tx, &ids).await? {
        if let Some(ride) = records.get_mut(&debt.ride_id) {
            ride.debts.push(debt);
        }
    }
    for refund in refund::rows::of_rides(tx, &ids).await? {
        if let Some(ride) = records.get_mut(&refund.ride_id) {
            ride.refunds.push(refund);
        }
    }
    let next = last.0.as_u128().checked_add(1).map(|next| RideId(Uuid::from_u128(next)));
    Ok(Page { records: records.into_values().collect(), last, next })
}

/// Keeps every other transaction from writing rides.
pub(super) async fn lock(tx: &mut Transaction<Tables>) -> Result<(), StoreError> {
    if let On::Postgres(pg) = tx.on() {
        sqlx::query(
            "lock table rides, events, ledger_entries, payments, superseded, served, refunds in exclusive mode",
        )
        .execute(&mut *pg)
        .await?;
    }
    Ok(())
}

/// Keeps every other transaction from writing rides, and returns the first table that has a row, if one has.
pub(super) async fn lock_empty(tx: &mut Transaction<Tables>) -> Result<Option<&'static str>, StoreError> {
    lock(tx).await?;
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select exists (select 1 from rides), exists (select 1 from events), \
                 exists (select 1 from ledger_entries), exists (select 1 from payments), \
                 exists (select 1 from superseded), exists (select 1 from served), exists (select 1 from refunds)",
            )
            .fetch_one(&mut *pg)
            .await?;
            let tables = ["rides", "events", "ledger_entries", "payments", "superseded", "served", "refunds"];
            for (n, table) in tables.into_iter().enumerate() {
                if row.try_get::<bool, _>(n)? {
                    return Ok(Some(table));
                }
            }
            Ok(None)
        }
        On::Memory(tables) => {
            let empty = [
                ("rides", tables.rides.is_empty()),
                ("events", tables.events.is_empty()),
                ("ledger_entries", tables.entries.is_empty()),
                ("payments", tables.payments.is_empty()),
                ("superseded", tables.superseded.is_empty()),
                ("served", tables.decided_requests.is_empty()),
                ("refunds", tables.refunds.is_empty()),
            ];
            Ok(empty.into_iter().find(|(_, empty)| !empty).map(|(table, _)| table))
        }
    }
}
