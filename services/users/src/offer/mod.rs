//! Offers to drivers: what an answer does to each, and their rows. Whom an offer goes to is match's to decide.
//!
//! The row is written in the transaction that posts `match.found` to the driver's mailbox, so whoever knows an offer's id
//! finds the row.

use chrono::{DateTime, Duration, Utc};
use imbl::OrdMap;
use platform::{On, Problem, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::event::{MatchAccepted, MatchFound, MatchRejected, RejectReason};
use streams::{Event, MatchId, RequestId, Service, UserId};
use uuid::Uuid;

use crate::Tables;
use crate::gateway::frame::Trip;
use crate::search::read_trip;

/// How long an offer is kept after its end, so that a repeated answer is told what became of it.
const KEPT: Duration = Duration::hours(24);

/// Offers in memory.
pub(crate) type Rows = OrdMap<MatchId, Offer>;

/// Where an offer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It waits for the driver, until it expires.
    Open,
    /// The driver said yes.
    Accepted,
    /// The driver said no.
    Declined,
    /// It ended otherwise.
    Closed,
}

impl State {
    const ALL: [Self; 4] = [Self::Open, Self::Accepted, Self::Declined, Self::Closed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Accepted => "accepted",
            Self::Declined => "declined",
            Self::Closed => "closed",
        }
    }
}

/// A driver's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Yes.
    Accept,
    /// No.
    Reject,
}

/// An offer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Offer {
    pub(crate) match_id: MatchId,
    pub(crate) request_id: RequestId,
    pub(crate) driver_id: UserId,
    pub(crate) passenger_id: UserId,
    pub(crate) trip: Trip,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) state: State,
}

impl Offer {
    /// The offer of a `match.found`.
    pub(crate) fn of(found: &MatchFound) -> Self {
        let MatchFound { pickup, dropoff, vehicle_type, .. } = *found;
        Self {
            match_id: found.match_id,
            request_id: found.request_id,
            driver_id: found.driver_id,
            passenger_id: found.passenger_id,
            trip: Trip { pickup, dropoff, vehicle_type },
            expires_at: found.expires_at,
            state: State::Open,
        }
    }

    /// What the driver's answer leads to: a new state with its event, or nothing, for the repeat of an answer.
    ///
    /// # Errors
    /// `offer_closed` if it has ended, `offer_expired` if its time is over.
    pub(crate) fn answered(&self, answer: Answer, now: DateTime<Utc>) -> Result<Option<(State, Event)>, Problem> {
        match (self.state, answer) {
            (State::Accepted, Answer::Accept) | (State::Declined, Answer::Reject) => Ok(None),
            (State::Open, _) if now >= self.expires_at => {
                Err(Problem::conflict("offer_expired", "the time to answer this offer is over"))
            }
            (State::Open, Answer::Accept) => Ok(Some((State::Accepted, self.accepted(now)))),
            (State::Open, Answer::Reject) => Ok(Some((State::Declined, self.declined(now)))),
            (State::Accepted, Answer::Reject) => {
                Err(Problem::conflict("offer_closed", "you accepted this offer: cancel the ride instead"))
            }
            (State::Declined, Answer::Accept) => Err(Problem::conflict("offer_closed", "you declined this offer")),
            (State::Closed, _) => Err(Problem::conflict("offer_closed", "this offer has ended")),
        }
    }

    fn accepted(&self, now: DateTime<Utc>) -> Event {
        Event::MatchAccepted(MatchAccepted {
            match_id: self.match_id,
            request_id: self.request_id,
            driver_id: self.driver_id,
            passenger_id: self.passenger_id,
            pickup: self.trip.pickup,
            dropoff: self.trip.dropoff,
            vehicle_type: self.trip.vehicle_type,
            accepted_at: now,
        })
    }

    fn declined(&self, now: DateTime<Utc>) -> Event {
        Event::MatchRejected(MatchRejected {
            match_id: self.match_id,
            request_id: self.request_id,
            driver_id: self.driver_id,
            passenger_id: self.passenger_id,
            reason: RejectReason::Declined,
            rejected_at: MatchRejected::time(Service::Users, now),
        })
    }
}

/// What `match.rejected` makes of an offer in `state`. An acceptance stands against all but `superseded`: only then will
/// there be no ride of it.
pub(crate) fn rejected(state: State, reason: RejectReason) -> State {
    match (state, reason) {
        (State::Open, RejectReason::Declined) => State::Declined,
        (State::Open, _) | (State::Accepted, RejectReason::Superseded) => State::Closed,
        (state, _) => state,
    }
}

fn read(row: &PgRow) -> Result<Offer, StoreError> {
    let state: String = row.try_get("state")?;
    Ok(Offer {
        match_id: MatchId(row.try_get("match_id")?),
        request_id: RequestId(row.try_get("request_id")?),
        driver_id: UserId(row.try_get("driver_id")?),
        passenger_id: UserId(row.try_get("passenger_id")?),
        trip: read_trip(row)?,
        expires_at: row.try_get("expires_at")?,
        state: State::ALL
            .into_iter()
            .find(|s| s.as_str() == state)
            .ok_or_else(|| StoreError::Other(format!("unknown state `{state}` of an offer")))?,
    })
}

/// Opens offers that are not known yet.
pub(crate) async fn insert(tx: &mut Transaction<Tables>, offers: &[Offer]) -> Result<(), StoreError> {
    if offers.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let ids = |f: fn(&Offer) -> Uuid| offers.iter().map(f).collect::<Vec<_>>();
            let degrees = |f: fn(&Offer) -> f64| offers.iter().map(f).collect::<Vec<_>>();
            sqlx::query(
                "insert into offers (match_id, request_id, driver_id, passenger_id, pickup_lat, pickup_lng, dropoff_lat, \
                 dropoff_lng, vehicle_type, expires_at, state) select m, r, d, p, a, b, c, e, v, x, 'open' \
                 from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::float8[], $6::float8[], $7::float8[], \
                 $8::float8[], $9::text[], $10::timestamptz[]) as o (m, r, d, p, a, b, c, e, v, x) order by m \
                 on conflict on constraint offers_pkey do nothing",
            )
            .bind(ids(|o| o.match_id.0))
            .bind(ids(|o| o.request_id.0))
            .bind(ids(|o| o.driver_id.0))
            .bind(ids(|o| o.passenger_id.0))
            .bind(degrees(|o| o.trip.pickup.lat))
            .bind(degrees(|o| o.trip.pickup.lng))
            .bind(degrees(|o| o.trip.dropoff.lat))
            .bind(degrees(|o| o.trip.dropoff.lng))
            .bind(offers.iter().map(|o| o.trip.vehicle_type.as_str()).collect::<Vec<_>>())
            .bind(offers.iter().map(|o| o.expires_at).collect::<Vec<_>>())
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            let rows = &mut m.offers;
            for offer in offers {
                rows.entry(offer.match_id).or_insert(*offer);
            }
        }
    }
    Ok(())
}

/// The offer `id` if it was made to `driver`, held until the transaction ends. A stranger's does not exist.
pub(crate) async fn of_driver(
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
        On::Memory(m) => Ok(m.offers.get(&id).filter(|o| o.driver_id == driver).copied()),
    }
}

/// Puts the offer `id` into `state`.
pub(crate) async fn change(tx: &mut Transaction<Tables>, id: MatchId, state: State) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update offers set state = $2 where match_id = $1")
                .bind(id.0)
                .bind(state.as_str())
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(m) => {
            if let Some(offer) = m.offers.get_mut(&id) {
                offer.state = state;
            }
        }
    }
    Ok(())
}

/// Applies [`rejected`] to each; offers that are not known are passed over.
pub(crate) async fn reject(
    tx: &mut Transaction<Tables>,
    rejections: &[(MatchId, RejectReason)],
) -> Result<(), StoreError> {
    if rejections.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            // The table of `rejected`, as SQL; a test holds the two equal.
            sqlx::query(
                "with ended as (select o.match_id, r.reason from offers o join unnest($1::uuid[], $2::text[]) \
                 as r (match_id, reason) using (match_id) order by o.match_id for update of o) \
                 update offers set state = case when ended.reason = 'declined' then 'declined' else 'closed' end \
                 from ended where offers.match_id = ended.match_id \
                 and (offers.state = 'open' or offers.state = 'accepted' and ended.reason = 'superseded')",
            )
            .bind(rejections.iter().map(|(id, _)| id.0).collect::<Vec<Uuid>>())
            .bind(rejections.iter().map(|(_, reason)| reason_text(*reason)).collect::<Vec<_>>())
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            for (id, reason) in rejections {
                if let Some(offer) = m.offers.get_mut(id) {
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

/// Deletes offers that ended a day ago.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    let before = now - KEPT;
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from offers where expires_at < $1").bind(before).execute(&mut *pg).await?;
        }
        On::Memory(m) => {
            let rows = &mut m.offers;
            *rows = rows.iter().filter(|(_, o)| o.expires_at >= before).map(|(id, o)| (*id, *o)).collect();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
