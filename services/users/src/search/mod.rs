//! Passengers' searches: the rows of those that are open, at most one a passenger. It never offers anything: that is
//! match's, which hears of a search by its event.

use chrono::{DateTime, Duration, Utc};
use imbl::OrdMap;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::event::UserFinder;
use streams::{Event, MatchId, Position, RequestId, UserId};
use uuid::Uuid;

use crate::Tables;
use crate::gateway::frame::Trip;

/// The constraint that keeps a passenger to one open search.
const USER_KEY: &str = "searches_user_key";
/// Searches that one look ends at most.
pub(crate) const EXPIRE_MAX: usize = 256;

/// Open searches in memory, by passenger.
pub(crate) type Rows = OrdMap<UserId, Search>;

/// An open search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Search {
    pub(crate) request_id: RequestId,
    pub(crate) user_id: UserId,
    pub(crate) trip: Trip,
    pub(crate) began_at: DateTime<Utc>,
    pub(crate) expires_at: DateTime<Utc>,
}

impl Search {
    /// It began.
    pub(crate) fn began(&self) -> Event {
        self.event(true, self.began_at)
    }

    /// It ended. An event of its own also when that happened within the clock's step in which it began.
    pub(crate) fn ended(&self, now: DateTime<Utc>) -> Event {
        self.event(false, now.max(self.began_at + Duration::microseconds(1)))
    }

    fn event(&self, active: bool, recorded_at: DateTime<Utc>) -> Event {
        Event::UserFinder(UserFinder {
            request_id: self.request_id,
            user_id: self.user_id,
            active,
            pickup: self.trip.pickup,
            dropoff: self.trip.dropoff,
            vehicle_type: self.trip.vehicle_type,
            recorded_at,
        })
    }
}

/// The columns of a trip.
pub(crate) fn read_trip(row: &PgRow) -> Result<Trip, StoreError> {
    let vehicle_type: String = row.try_get("vehicle_type")?;
    Ok(Trip {
        pickup: Position { lat: row.try_get("pickup_lat")?, lng: row.try_get("pickup_lng")? },
        dropoff: Position { lat: row.try_get("dropoff_lat")?, lng: row.try_get("dropoff_lng")? },
        vehicle_type: vehicle_type.parse().map_err(StoreError::Other)?,
    })
}

fn read(row: &PgRow) -> Result<Search, StoreError> {
    Ok(Search {
        request_id: RequestId(row.try_get("request_id")?),
        user_id: UserId(row.try_get("user_id")?),
        trip: read_trip(row)?,
        began_at: row.try_get("began_at")?,
        expires_at: row.try_get("expires_at")?,
    })
}

/// The open search of `user`, held until the transaction ends.
pub(crate) async fn open_of(tx: &mut Transaction<Tables>, user: UserId) -> Result<Option<Search>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select request_id, user_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, vehicle_type, began_at, \
                 expires_at from searches where user_id = $1 for update",
            )
            .bind(user.0)
            .fetch_optional(&mut *pg)
            .await?;
            row.as_ref().map(read).transpose()
        }
        On::Memory(m) => Ok(m.searches.get(&user).copied()),
    }
}

/// Opens a search; refused by [`USER_KEY`] if its passenger has one.
pub(crate) async fn insert(tx: &mut Transaction<Tables>, search: &Search) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let Trip { pickup, dropoff, vehicle_type } = search.trip;
            sqlx::query(
                "insert into searches (request_id, user_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, \
                 vehicle_type, began_at, expires_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .bind(search.request_id.0)
            .bind(search.user_id.0)
            .bind(pickup.lat)
            .bind(pickup.lng)
            .bind(dropoff.lat)
            .bind(dropoff.lng)
            .bind(vehicle_type.as_str())
            .bind(search.began_at)
            .bind(search.expires_at)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            let rows = &mut m.searches;
            if rows.contains_key(&search.user_id) {
                return Err(StoreError::Conflict { constraint: USER_KEY.to_owned() });
            }
            rows.insert(search.user_id, *search);
        }
    }
    Ok(())
}

/// Takes away an open search.
pub(crate) async fn remove(tx: &mut Transaction<Tables>, search: &Search) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from searches where request_id = $1")
                .bind(search.request_id.0)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(m) => {
            m.searches.remove(&search.user_id);
        }
    }
    Ok(())
}

/// Takes away the searches that became rides by these offers, and no newer search of the same passengers.
pub(crate) async fn fulfil(tx: &mut Transaction<Tables>, matches: &[MatchId]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "with fulfilled as (select s.request_id from searches s join offers o using (request_id) \
                 where o.match_id = any($1) order by s.request_id for update of s) \
                 delete from searches using fulfilled where searches.request_id = fulfilled.request_id",
            )
            .bind(matches.iter().map(|m| m.0).collect::<Vec<Uuid>>())
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(m) => {
            let tables = m;
            for offer in matches.iter().filter_map(|m| tables.offers.get(m)) {
                if tables.searches.get(&offer.passenger_id).is_some_and(|s| s.request_id == offer.request_id) {
                    tables.searches.remove(&offer.passenger_id);
                }
            }
        }
    }
    Ok(())
}

/// Takes away at most [`EXPIRE_MAX`] searches whose time is over, the oldest first, and returns them.
pub(crate) async fn expire(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<Vec<Search>, StoreError> {
    let mut expired: Vec<Search> = match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "delete from searches where request_id in (select request_id from searches where expires_at <= $1 \
                 order by expires_at limit $2 for update skip locked) returning request_id, user_id, pickup_lat, \
                 pickup_lng, dropoff_lat, dropoff_lng, vehicle_type, began_at, expires_at",
            )
            .bind(now)
            .bind(EXPIRE_MAX as i64)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect::<Result<_, _>>()?
        }
        On::Memory(m) => {
            let rows = &mut m.searches;
            let mut over: Vec<Search> = rows.values().filter(|s| s.expires_at <= now).copied().collect();
            over.sort_by_key(|s| (s.expires_at, s.request_id));
            over.truncate(EXPIRE_MAX);
            for search in &over {
                rows.remove(&search.user_id);
            }
            over
        }
    };
    expired.sort_by_key(|s| (s.expires_at, s.request_id));
    Ok(expired)
}
