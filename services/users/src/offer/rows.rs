//! The rows of `offers`.

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

fn read(row: &PgRow) -> Result<Offer, StoreError> {
    let state: &str = row.try_get("state")?;
    Ok(Offer {
        match_id: MatchId(row.try_get("match_id")?),
        request_id: RequestId(row.try_get("request_id")?),
        driver_id: UserId(row.try_get("driver_id")?),
        passenger_id: UserId(row.try_get("passenger_id")?),
        trip: Trip::from_row(row)?,
        expires_at: row.try_get("expires_at")?,
        state: OfferState::ALL
            .into_iter()
            .find(|s| s.as_str() == state)
            .ok_or_else(|| StoreError::Other(format!("unknown state `{state}` of an offer")))?,
    })
}

/// Inserts offers, except those that have a row already.
pub(crate) async fn insert(tx: &mut Transaction<Tables>, offers: &[Offer]) -> Result<(), StoreError> {
    if offers.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into offers (match_id, request_id, driver_id, passenger_id, pickup_lat, pickup_lng, dropoff_lat, \
                 dropoff_lng, vehicle_type, expires_at, state) select m, r, d, p, a, b, c, e, v, x, 'open' \
                 from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::float8[], $6::float8[], $7::float8[], \
                 $8::float8[], $9::text[], $10::timestamptz[]) as o (m, r, d, p, a, b, c, e, v, x) order by m \
                 on conflict on constraint offers_pkey do nothing",
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
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let rows = &mut tables.offers;
            for offer in offers {
                rows.entry(offer.match_id).or_insert(*offer);
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

pub(crate) async fn set_state(tx: &mut Transaction<Tables>, id: MatchId, state: OfferState) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update offers set state = $2 where match_id = $1")
                .bind(id.0)
                .bind(state.as_str())
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            if let Some(offer) = tables.offers.get_mut(&id) {
                offer.state = state;
            }
        }
    }
    Ok(())
}

/// Applies [`rejected`] to each offer; offers without a row are ignored.
pub(crate) async fn reject(
    tx: &mut Transaction<Tables>,
    rejections: &[(MatchId, RejectReason)],
) -> Result<(), StoreError> {
    if rejections.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            // The same rule as `rejected`, in SQL. A test proves the two equal.
            sqlx::query(
                "with ended as (select o.match_id, r.reason from offers o join unnest($1::uuid[], $2::text[]) \
                 as r (match_id, reason) using (match_id) order by o.match_id for update of o) \
                 update offers set state = case when ended.reason = 'declined' then 'declined' else 'closed' end \
                 from ended where offers.match_id = ended.match_id \
                 and (offers.state = 'open' or offers.state = 'accepted' and ended.reason = 'superseded')",
            )
            .bind(column(rejections, |(id, _)| id.0))
            .bind(column(rejections, |(_, reason)| reason_text(*reason)))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            for (id, reason) in rejections {
                if let Some(offer) = tables.offers.get_mut(id) {
                    offer.state = rejected(offer.state, *reason);
                }
            }
        }
    }
    Ok(())
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
            let rows = &mut tables.offers;
            *rows = rows.iter().filter(|(_, o)| o.expires_at >= before).map(|(id, o)| (*id, *o)).collect();
        }
    }
    Ok(())
}
