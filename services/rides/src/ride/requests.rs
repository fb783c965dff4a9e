//! What became of a passenger's search (a request): a ride, or nothing. The table `served`: the first row of a request is final,
//! whoever writes it. A row without a match is that of a search that its passenger ended, although a driver had accepted an offer
//! of it: no acceptance becomes a ride any more. Such rows follow from no event: a rebuild does not restore them. A request whose
//! ride its driver cancelled before the start has no row again, because its search goes on.

use std::collections::BTreeSet;

use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use streams::{MatchId, RequestId};
use uuid::Uuid;

use crate::tables::Tables;

/// What became of a search that is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// No ride comes of it.
    Ended,
    /// A ride of this match came of it before.
    Fulfilled(MatchId),
}

/// Ends a request unless it has become a ride; a repeat has the same result. It waits for a transaction that is just making a ride
/// of it.
pub(crate) async fn end(tx: &mut Transaction<Tables>, request: RequestId) -> Result<Fate, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("insert into served (request_id) values ($1) on conflict do nothing")
                .bind(request.0)
                .execute(&mut *pg)
                .await?;
            let row = sqlx::query("select match_id from served where request_id = $1")
                .bind(request.0)
                .fetch_one(&mut *pg)
                .await?;
            let match_id: Option<Uuid> = row.try_get(0)?;
            Ok(match_id.map_or(Fate::Ended, |id| Fate::Fulfilled(MatchId(id))))
        }
        On::Memory(tables) => {
            let decided = *tables.decided_requests.entry(request).or_insert(None);
            Ok(decided.map_or(Fate::Ended, Fate::Fulfilled))
        }
    }
}

/// The request that became a ride of this match.
pub(crate) async fn of_match(tx: &mut Transaction<Tables>, id: MatchId) -> Result<Option<RequestId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select request_id from served where match_id = $1")
                .bind(id.0)
                .fetch_optional(&mut *pg)
                .await?;
            Ok(row.map(|row| row.try_get(0)).transpose()?.map(RequestId))
        }
        On::Memory(tables) => {
            let mut decided = tables.decided_requests.iter();
            Ok(decided.find(|(_, of_match)| **of_match == Some(id)).map(|(request, _)| *request))
        }
    }
}

/// The search of this request goes on after the ride of this match: it may become a ride again.
pub(crate) async fn reopen(
    tx: &mut Transaction<Tables>,
    request: RequestId,
    of_match: MatchId,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from served where request_id = $1 and match_id = $2")
                .bind(request.0)
                .bind(of_match.0)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            if tables.decided_requests.get(&request) == Some(&Some(of_match)) {
                tables.decided_requests.remove(&request);
            }
        }
    }
    Ok(())
}

/// Records requests as fulfilled by the rides of these matches, as a rebuild has read it from their first events. Returns those of
/// which another ride is recorded.
pub(crate) async fn insert_fulfilled(
    tx: &mut Transaction<Tables>,
    requests: &[(RequestId, MatchId)],
) -> Result<Vec<(RequestId, MatchId)>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "insert into served (request_id, match_id) select * from unnest($1::uuid[], $2::uuid[]) \
                 on conflict do nothing returning match_id",
            )
            .bind(column(requests, |(request, _)| request.0))
            .bind(column(requests, |(_, of_match)| of_match.0))
            .fetch_all(&mut *pg)
            .await?;
            let inserted: BTreeSet<MatchId> =
                rows.iter().map(|row| row.try_get(0).map(MatchId)).collect::<Result<_, _>>()?;
            Ok(requests.iter().filter(|(_, of_match)| !inserted.contains(of_match)).copied().collect())
        }
        On::Memory(tables) => {
            let mut others = Vec::new();
            for (request, of_match) in requests {
                if *tables.decided_requests.entry(*request).or_insert(Some(*of_match)) != Some(*of_match) {
                    others.push((*request, *of_match));
                }
            }
            Ok(others)
        }
    }
}
