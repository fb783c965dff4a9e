//! The rows of `offers`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::event::RejectReason;
use streams::{MatchId, RequestId, UserId};

use super::{Offer, OfferState, RETENTION, rejected};
use crate::tables::Tables;
use crate::trip::Trip;

fn read_state(row: &PgRow) -> Result<OfferState, StoreError> {
    let state: &str = row.try_get("state")?;
    let known = OfferState::ALL.into_iter().find(|s| s.as_str() == state);
    known.ok_or_else(|| StoreError::Other(format!("unknown state `{state}` of an offer")))
}

fn read(row: &PgRow) -> Result<Offer, StoreError> {
    Ok(Offer {
        match_id: MatchId(row.try_get("match_id")?),
        request_id: RequestId(row.try_get("request_id")?),
        driver_id: UserId(row.try_get("driver_id")?),
        passenger_id: UserId(row.try_get("passenger_id")?),
        trip: Trip::from_row(row)?,
        expires_at: row.try_get("expires_at")?,
        state: read_state(row)?,
    })
}

/// Inserts offers, except those that have a row already. Returns those that it inserted.
pub(crate) async fn insert(tx: &mut Transaction<Tables>, offers: &[Offer]) -> Result<BTreeSet<MatchId>, StoreError> {
    if offers.is_empty() {
        return Ok(BTreeSet::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "insert into offers (match_id, request_id, driver_id, passenger_id, pickup_lat, pickup_lng, dropoff_lat, \
                 dropoff_lng, vehicle_type, expires_at, state) select m, r, d, p, a, b, c, e, v, x, s \
                 from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::float8[], $6::float8[], $7::float8[], \
                 $8::float8[], $9::text[], $10::timestamptz[], $11::text[]) as o (m, r, d, p, a, b, c, e, v, x, s) \
                 order by m on conflict on constraint offers_pkey do nothing returning match_id",
            )
            .bind(column(offers, |o| o.match_id.0))
            .bind(column(offers, |o| o.request_id.0))
            .bind(column(offers, |o| o.driver_id.0))
            .bind(column(offers, |o| o.passenger_id.0))
            .bind(column(offers, |o| o.trip.pickup.lat))
            .bind(column(offers, |o| o.trip.pickup.lng))
            .bind(column(offers, |o| o.trip.dropoff.lat))
            .bind(column(offers, |o| o.trip.dropoff.lng))
            .bind(column(offers, |o| o.trip.vehicle_type.as_str()))
            .bind(column(offers, |o| o.expires_at))
            .bind(column(offers, |o| o.state.as_str()))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(MatchId(row.try_get("match_id")?))).collect()
        }
        On::Memory(tables) => {
            let mut inserted = BTreeSet::new();
            for offer in offers.iter().filter(|offer| !tables.offers.contains_key(&offer.match_id)).collect::<Vec<_>>()
            {
                tables.offers.insert(offer.match_id, *offer);
                tables.offers_of_search.insert((offer.request_id, offer.match_id));
                inserted.insert(offer.match_id);
            }
            Ok(inserted)
        }
    }
}

/// The open and the accepted offers of `searches`, locked in the order of their ids until the transaction ends.
pub(crate) async fn lock_live(tx: &mut Transaction<Tables>, searches: &[RequestId]) -> Result<Vec<Offer>, StoreError> {
    if searches.is_empty() {
        return Ok(Vec::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select match_id, request_id, driver_id, passenger_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, \
                 vehicle_type, expires_at, state from offers where request_id = any($1) \
                 and state in ('open', 'accepted') order by match_id for update",
            )
            .bind(column(searches, |s| s.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let of_all = searches.iter().flat_map(|search| tables.offers_of(*search));
            let live = of_all.filter(|offer| matches!(offer.state, OfferState::Open | OfferState::Accepted));
            let mut live: Vec<Offer> = live.copied().collect();
            live.sort_by_key(|offer| offer.match_id);
            Ok(live)
        }
    }
}

/// Those of `searches` of which a driver has accepted an offer.
pub(crate) async fn accepted(
    tx: &mut Transaction<Tables>,
    searches: &[RequestId],
) -> Result<BTreeSet<RequestId>, StoreError> {
    if searches.is_empty() {
        return Ok(BTreeSet::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select request_id from offers where request_id = any($1) and state = 'accepted'")
                .bind(column(searches, |s| s.0))
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(|row| Ok(RequestId(row.try_get("request_id")?))).collect()
        }
        On::Memory(tables) => Ok(searches.iter().filter(|search| tables.is_accepted(**search)).copied().collect()),
    }
}

/// The searches of offers, with their passengers.
pub(crate) async fn searches_of(
    tx: &mut Transaction<Tables>,
    offers: &[MatchId],
) -> Result<Vec<(RequestId, UserId)>, StoreError> {
    if offers.is_empty() {
        return Ok(Vec::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select request_id, passenger_id from offers where match_id = any($1)")
                .bind(column(offers, |m| m.0))
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(|row| Ok((RequestId(row.try_get(0)?), UserId(row.try_get(1)?)))).collect()
        }
        On::Memory(tables) => {
            let found = offers.iter().filter_map(|id| tables.offers.get(id));
            Ok(found.map(|offer| (offer.request_id, offer.passenger_id)).collect())
        }
    }
}

/// Closes those of `offers` that are accepted: they had become rides, and their searches go on. Returns them.
pub(crate) async fn close_ridden(
    tx: &mut Transaction<Tables>,
    offers: &[MatchId],
) -> Result<BTreeSet<MatchId>, StoreError> {
    if offers.is_empty() {
        return Ok(BTreeSet::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "with locked as (select match_id from offers where match_id = any($1) and state = 'accepted' \
                 order by match_id for update) update offers set state = 'closed' from locked \
                 where offers.match_id = locked.match_id and offers.state = 'accepted' returning offers.match_id",
            )
            .bind(column(offers, |id| id.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(MatchId(row.try_get("match_id")?))).collect()
        }
        On::Memory(tables) => {
            let mut closed = BTreeSet::new();
            for id in offers {
                if let Some(row) = tables.offers.get_mut(id).filter(|row| row.state == OfferState::Accepted) {
                    row.state = OfferState::Closed;
                    closed.insert(*id);
                }
            }
            Ok(closed)
        }
    }
}

/// Closes offers that the caller has locked.
pub(crate) async fn close(tx: &mut Transaction<Tables>, offers: &[Offer]) -> Result<(), StoreError> {
    if offers.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update offers set state = 'closed' where match_id = any($1)")
                .bind(column(offers, |o| o.match_id.0))
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            for offer in offers {
                if let Some(row) = tables.offers.get_mut(&offer.match_id) {
                    row.state = OfferState::Closed;
                }
            }
        }
    }
    Ok(())
}

/// The offer `id` if it was made to `driver`. Its row stays locked until the transaction ends.
pub(crate) async fn lock_of_driver(
    tx: &mut Transaction<Tables>,
    id: MatchId,
    driver: UserId,
) -> Result<Option<Offer>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select match_id, request_id, driver_id, passenger_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, \
                 vehicle_type, expires_at, state from offers where match_id = $1 and driver_id = $2 for update",
            )
            .bind(id.0)
            .bind(driver.0)
            .fetch_optional(&mut *pg)
            .await?;
            row.as_ref().map(read).transpose()
        }
        On::Memory(tables) => Ok(tables.offers.get(&id).filter(|o| o.driver_id == driver).copied()),
    }
}

/// The state after the driver's answer, and the device on which the driver accepted.
pub(crate) async fn answer(
    tx: &mut Transaction<Tables>,
    id: MatchId,
    state: OfferState,
    device: Option<&str>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update offers set state = $2, device = $3 where match_id = $1")
                .bind(id.0)
                .bind(state.as_str())
                .bind(device)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            if let Some(offer) = tables.offers.get_mut(&id) {
                offer.state = state;
                tables.accepting_devices.extend(device.map(|device| (id, device.to_owned())));
            }
        }
    }
    Ok(())
}

/// The newest offer that the driver has accepted, and on which device.
pub(crate) async fn newest_accepted(
    tx: &mut Transaction<Tables>,
    driver: UserId,
) -> Result<Option<(MatchId, String)>, StoreError> {
    let newest = match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select match_id, device from offers where driver_id = $1 and state = 'accepted' \
                 order by expires_at desc limit 1",
            )
            .bind(driver.0)
            .fetch_optional(&mut *pg)
            .await?;
            row.map(|row| Ok::<_, sqlx::Error>((MatchId(row.try_get("match_id")?), row.try_get("device")?)))
                .transpose()?
        }
        On::Memory(tables) => {
            let accepted = tables.offers.values().filter(|o| o.driver_id == driver && o.state == OfferState::Accepted);
            let newest = accepted.max_by_key(|o| o.expires_at).map(|o| o.match_id);
            newest.map(|id| (id, tables.accepting_devices.get(&id).cloned()))
        }
    };
    Ok(newest.and_then(|(id, device): (MatchId, Option<String>)| Some((id, device?))))
}

/// Applies [`rejected`] to each offer; offers without a row are ignored. Returns the states before.
pub(crate) async fn reject(
    tx: &mut Transaction<Tables>,
    rejections: &[(MatchId, RejectReason)],
) -> Result<BTreeMap<MatchId, OfferState>, StoreError> {
    if rejections.is_empty() {
        return Ok(BTreeMap::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            // The same rule as `rejected`, in SQL. A test proves the two equal.
            let rows = sqlx::query(
                "with ended as (select o.match_id, o.state, r.reason from offers o join unnest($1::uuid[], $2::text[]) \
                 as r (match_id, reason) using (match_id) order by o.match_id for update of o), \
                 closed as (update offers set state = case when ended.reason = 'declined' then 'declined' else 'closed' end \
                 from ended where offers.match_id = ended.match_id \
                 and (ended.state = 'open' or ended.state = 'accepted' and ended.reason = 'superseded')) \
                 select match_id, state from ended",
            )
            .bind(column(rejections, |(id, _)| id.0))
            .bind(column(rejections, |(_, reason)| reason_text(*reason)))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok((MatchId(row.try_get("match_id")?), read_state(row)?))).collect()
        }
        On::Memory(tables) => {
            let mut before = BTreeMap::new();
            for (id, reason) in rejections {
                if let Some(offer) = tables.offers.get_mut(id) {
                    before.entry(*id).or_insert(offer.state);
                    offer.state = rejected(offer.state, *reason);
                }
            }
            Ok(before)
        }
    }
}

fn reason_text(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::Declined => "declined",
        RejectReason::Expired => "expired",
        RejectReason::Cancelled => "cancelled",
        RejectReason::Superseded => "superseded",
    }
}

/// Deletes offers that expired longer than [`RETENTION`] ago.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    let before = now - RETENTION;
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from offers where expires_at < $1").bind(before).execute(&mut *pg).await?;
        }
        On::Memory(tables) => {
            let old: Vec<Offer> = tables.offers.values().filter(|o| o.expires_at < before).copied().collect();
            for offer in old {
                tables.offers.remove(&offer.match_id);
                tables.accepting_devices.remove(&offer.match_id);
                tables.offers_of_search.remove(&(offer.request_id, offer.match_id));
            }
        }
    }
    Ok(())
}
