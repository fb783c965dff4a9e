//! The rows of `offers`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::event::{MatchRejected, RejectReason};
use streams::{MatchId, RequestId, UserId};

use super::{Before, Offer, OfferState, Offered, RETENTION, rejected};
use crate::tables::Tables;
use crate::trip::Trip;

/// The ids of offers of the users `$1` that are open, or whose end they have not received.
macro_rules! of_parties {
    () => {
        "select match_id from offers where driver_id = any($1) and end_event is not null and not end_shown \
         union select match_id from offers where passenger_id = any($1) and end_event is not null and not end_shown \
         union select match_id from offers where driver_id = any($1) and state = 'open' \
         union select match_id from offers where passenger_id = any($1) and state = 'open'"
    };
}

fn read_state(row: &PgRow) -> Result<OfferState, StoreError> {
    OfferState::parse(row.try_get("state")?)
}

pub(crate) fn read(row: &PgRow) -> Result<Offer, StoreError> {
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

/// Inserts offers, except those that have a row already, with the bodies of their match.found. Returns those that it inserted.
pub(crate) async fn insert(
    tx: &mut Transaction<Tables>,
    offers: &[Offer],
    found: &BTreeMap<MatchId, String>,
) -> Result<BTreeSet<MatchId>, StoreError> {
    if offers.is_empty() {
        return Ok(BTreeSet::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "insert into offers (match_id, request_id, driver_id, passenger_id, pickup_lat, pickup_lng, dropoff_lat, \
                 dropoff_lng, vehicle_type, expires_at, state, found) select m, r, d, p, a, b, c, e, v, x, s, f \
                 from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::float8[], $6::float8[], $7::float8[], \
                 $8::float8[], $9::text[], $10::timestamptz[], $11::text[], $12::text[]) \
                 as o (m, r, d, p, a, b, c, e, v, x, s, f) \
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
            .bind(column(offers, |o| found.get(&o.match_id).map(String::as_str)))
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
                tables.found_events.extend(found.get(&offer.match_id).map(|body| (offer.match_id, body.clone())));
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

/// Closes offers, which the caller has locked, with these events.
pub(crate) async fn close(tx: &mut Transaction<Tables>, ends: &[MatchRejected]) -> Result<(), StoreError> {
    if ends.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "update offers set state = 'closed', end_event = e.event \
                 from unnest($1::uuid[], $2::text[]) as e (match_id, event) where offers.match_id = e.match_id",
            )
            .bind(column(ends, |e| e.match_id.0))
            .bind(column(ends, json_of))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            for end in ends {
                if let Some(row) = tables.offers.get_mut(&end.match_id) {
                    row.state = OfferState::Closed;
                    tables.offer_ends.entry(end.match_id).or_default().event = Some(end.clone());
                }
            }
        }
    }
    Ok(())
}

/// The offer `id` if it was made to `driver`, with what it says of its ride. Its row stays locked until the transaction ends.
pub(crate) async fn lock_of_driver(
    tx: &mut Transaction<Tables>,
    id: MatchId,
    driver: UserId,
) -> Result<Option<(Offer, Offered)>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select match_id, request_id, driver_id, passenger_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, \
                 vehicle_type, expires_at, state, found from offers where match_id = $1 and driver_id = $2 for update",
            )
            .bind(id.0)
            .bind(driver.0)
            .fetch_optional(&mut *pg)
            .await?;
            let read = |row: &PgRow| {
                Ok::<_, StoreError>((read(row)?, Offered::from_found(row.try_get::<Option<&str>, _>("found")?)))
            };
            row.as_ref().map(read).transpose()
        }
        On::Memory(tables) => {
            let offer = tables.offers.get(&id).filter(|offer| offer.driver_id == driver).copied();
            let offered = Offered::from_found(tables.found_events.get(&id).map(String::as_str));
            Ok(offer.map(|offer| (offer, offered)))
        }
    }
}

/// The open offers of a driver, and those accepted in the last day, locked in the order of their ids until the transaction ends.
pub(crate) async fn lock_live_of_driver(
    tx: &mut Transaction<Tables>,
    driver: UserId,
) -> Result<Vec<Offer>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select match_id, request_id, driver_id, passenger_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, \
                 vehicle_type, expires_at, state from offers where match_id in \
                 (select match_id from offers where driver_id = $1 and state = 'open' \
                 union select match_id from offers where driver_id = $1 and state = 'accepted') \
                 order by match_id for update",
            )
            .bind(driver.0)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let live = |offer: &&Offer| matches!(offer.state, OfferState::Open | OfferState::Accepted);
            Ok(tables.offers.values().filter(|o| o.driver_id == driver).filter(live).copied().collect())
        }
    }
}

/// How long an accepted offer is expected to become a ride.
const RIDE_EXPECTED: Duration = Duration::minutes(5);

/// Whether a ride is still to come of one of `accepted`.
pub(crate) async fn any_without_ride(
    tx: &mut Transaction<Tables>,
    accepted: &[MatchId],
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    if accepted.is_empty() {
        return Ok(false);
    }
    let since = now - RIDE_EXPECTED;
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select 1 from offers o where match_id = any($1) and expires_at > $2 \
                 and not exists (select from live_rides l where l.match_id = o.match_id) limit 1",
            )
            .bind(column(accepted, |id| id.0))
            .bind(since)
            .fetch_optional(&mut *pg)
            .await?;
            Ok(row.is_some())
        }
        On::Memory(tables) => {
            let is_ride = |id: &MatchId| tables.ride_events.values().any(|(of, _)| of == id);
            let recent = |id: &MatchId| tables.offers.get(id).is_some_and(|offer| offer.expires_at > since);
            Ok(accepted.iter().any(|id| recent(id) && !is_ride(id)))
        }
    }
}

/// The driver has accepted the offer on this device.
pub(crate) async fn accept(tx: &mut Transaction<Tables>, id: MatchId, device: &str) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update offers set state = 'accepted', device = $2 where match_id = $1")
                .bind(id.0)
                .bind(device)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            if let Some(offer) = tables.offers.get_mut(&id) {
                offer.state = OfferState::Accepted;
                tables.accepting_devices.insert(id, device.to_owned());
            }
        }
    }
    Ok(())
}

/// The driver has declined the offer, with this event.
pub(crate) async fn decline(tx: &mut Transaction<Tables>, end: &MatchRejected) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update offers set state = 'declined', end_event = $2 where match_id = $1")
                .bind(end.match_id.0)
                .bind(json_of(end))
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            if let Some(offer) = tables.offers.get_mut(&end.match_id) {
                offer.state = OfferState::Declined;
                tables.offer_ends.entry(end.match_id).or_default().event = Some(end.clone());
            }
        }
    }
    Ok(())
}

/// The event as JSON.
fn json_of(end: &MatchRejected) -> String {
    serde_json::to_string(end).expect("events have string keys and no failing serializer")
}

/// Locks, in the order of their ids until the transaction ends, the offers that a batch may end: those of `rejections`, and those of
/// these parties that are open, or whose end they have not received.
pub(crate) async fn lock_ending(
    tx: &mut Transaction<Tables>,
    rejections: &[MatchId],
    parties: &[UserId],
) -> Result<(), StoreError> {
    if rejections.is_empty() && parties.is_empty() {
        return Ok(());
    }
    if let On::Postgres(pg) = tx.on() {
        sqlx::query(concat!(
            "select from offers where match_id in (",
            of_parties!(),
            " union select unnest($2::uuid[])) order by match_id for update"
        ))
        .bind(column(parties, |user| user.0))
        .bind(column(rejections, |id| id.0))
        .execute(&mut *pg)
        .await?;
    }
    Ok(())
}

/// An offer that has ended before another one to a party of it was made, and whose end the parties have not received.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unshown {
    pub(crate) offer: Offer,
    /// With which this service ended it; `None` if it is open.
    pub(crate) end: Option<MatchRejected>,
}

/// The offers of these parties that are open, or whose end they have not received.
pub(crate) async fn unshown(tx: &mut Transaction<Tables>, parties: &[UserId]) -> Result<Vec<Unshown>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(concat!(
                "select match_id, request_id, driver_id, passenger_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, \
                 vehicle_type, expires_at, state, end_event from offers where match_id in (",
                of_parties!(),
                ") order by match_id"
            ))
            .bind(column(parties, |user| user.0))
            .fetch_all(&mut *pg)
            .await?;
            let read = |row: &PgRow| -> Result<Unshown, StoreError> {
                let end = row.try_get::<Option<&str>, _>("end_event")?.map(serde_json::from_str).transpose();
                Ok(Unshown { offer: read(row)?, end: end.map_err(|error| StoreError::Other(error.to_string()))? })
            };
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let of_parties = |offer: &&Offer| [offer.driver_id, offer.passenger_id].iter().any(|u| parties.contains(u));
            let end = |offer: &Offer| tables.offer_ends.get(&offer.match_id).cloned().unwrap_or_default();
            let found = tables.offers.values().filter(of_parties).map(|offer| (offer, end(offer)));
            let unshown =
                found.filter(|(offer, end)| offer.state == OfferState::Open || end.event.is_some() && !end.is_shown);
            Ok(unshown.map(|(offer, end)| Unshown { offer: *offer, end: end.event }).collect())
        }
    }
}

/// The parties of these offers have received their ends.
pub(crate) async fn set_end_shown(tx: &mut Transaction<Tables>, offers: &[MatchId]) -> Result<(), StoreError> {
    if offers.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update offers set end_shown = true where match_id = any($1)")
                .bind(column(offers, |id| id.0))
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => offers.iter().for_each(|id| tables.offer_ends.entry(*id).or_default().is_shown = true),
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

/// Applies [`rejected`] to each offer; offers without a row are ignored. Returns what they were before.
pub(crate) async fn reject(
    tx: &mut Transaction<Tables>,
    rejections: &[(MatchId, RejectReason)],
) -> Result<BTreeMap<MatchId, Before>, StoreError> {
    if rejections.is_empty() {
        return Ok(BTreeMap::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            // The same rule as `rejected`, in SQL. A test proves the two equal.
            let rows = sqlx::query(
                "with ended as (select o.match_id, o.state, o.end_shown, r.reason from offers o join unnest($1::uuid[], $2::text[]) \
                 as r (match_id, reason) using (match_id) order by o.match_id for update of o), \
                 closed as (update offers set state = case when ended.reason = 'declined' then 'declined' else 'closed' end, \
                 end_reason = ended.reason \
                 from ended where offers.match_id = ended.match_id \
                 and (ended.state = 'open' or ended.state = 'accepted' and ended.reason = 'superseded')) \
                 select match_id, state, end_shown from ended",
            )
            .bind(column(rejections, |(id, _)| id.0))
            .bind(column(rejections, |(_, reason)| reason_text(*reason)))
            .fetch_all(&mut *pg)
            .await?;
            let before = |row: &PgRow| -> Result<Before, StoreError> {
                Ok(Before { state: read_state(row)?, end_shown: row.try_get("end_shown")? })
            };
            rows.iter().map(|row| Ok((MatchId(row.try_get("match_id")?), before(row)?))).collect()
        }
        On::Memory(tables) => {
            let mut before = BTreeMap::new();
            for (id, reason) in rejections {
                let end_shown = tables.offer_ends.get(id).is_some_and(|end| end.is_shown);
                if let Some(offer) = tables.offers.get_mut(id) {
                    before.entry(*id).or_insert(Before { state: offer.state, end_shown });
                    let after = rejected(offer.state, *reason);
                    if after != offer.state {
                        tables.offer_end_reasons.insert(*id, reason_text(*reason));
                    }
                    offer.state = after;
                }
            }
            Ok(before)
        }
    }
}

pub(crate) fn reason_text(reason: RejectReason) -> &'static str {
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
                tables.found_events.remove(&offer.match_id);
                tables.offer_ends.remove(&offer.match_id);
                tables.offer_end_reasons.remove(&offer.match_id);
                tables.offers_of_search.remove(&(offer.request_id, offer.match_id));
            }
        }
    }
    Ok(())
}
