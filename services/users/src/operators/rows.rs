//! What operators read of the tables of users: by no owner. PostgreSQL and memory side by side.

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use serde::Deserialize;
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::event::{MatchRejected, rfc3339};
use streams::operators::MapBox;
use streams::{MatchId, RequestId, RideId, UserId};
use uuid::Uuid;

use crate::account::rows::read_driver;
use crate::account::{Driver, DriverStatus};
use crate::offer::Offer;
use crate::offer::rows::read as read_offer;
use crate::search::Search;
use crate::search::rows::read as read_search;
use crate::sign_in::phone::Phone;
use crate::tables::Tables;

/// Offers of a search that are shown.
const OFFERS_MAX: i64 = 200;

/// A user, whose account has not ended.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub(super) user_id: UserId,
    pub(super) phone: String,
    pub(super) name: Option<String>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) driver: Option<KnownDriver>,
}

#[derive(Debug, Clone)]
pub(super) struct KnownDriver {
    pub(super) vehicle: Driver,
    pub(super) reviewed: bool,
    pub(super) registered_at: DateTime<Utc>,
    pub(super) suspended_until: Option<DateTime<Utc>>,
    /// `None` before the first beacon.
    pub(super) on_duty: Option<bool>,
}

fn read_person(row: &PgRow) -> Result<Person, StoreError> {
    let driver = match read_driver(row)? {
        Some(vehicle) => Some(KnownDriver {
            vehicle,
            reviewed: row.try_get("reviewed")?,
            registered_at: row.try_get("registered_at")?,
            suspended_until: row.try_get("ends_at")?,
            on_duty: row.try_get("active")?,
        }),
        None => None,
    };
    Ok(Person {
        user_id: UserId(row.try_get("user_id")?),
        phone: row.try_get("phone")?,
        name: row.try_get("name")?,
        created_at: row.try_get("created_at")?,
        driver,
    })
}

/// Those of `users` who have an account, in the order of their ids.
pub(super) async fn people(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<Vec<Person>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select u.user_id, u.phone, u.name, u.created_at, d.vehicle_type, d.plate, d.make, d.model, d.color, d.status, \
                 d.reviewed, d.registered_at, s.ends_at, b.active from users u left join drivers d using (user_id) \
                 left join suspension_ends s using (user_id) left join beacons b using (user_id) \
                 where u.user_id = any($1) and u.deleted_at is null and u.phone is not null order by u.user_id",
            )
            .bind(column(users, |user| user.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read_person).collect()
        }
        On::Memory(tables) => {
            let accounts = &tables.accounts;
            let mut users = users.to_vec();
            users.sort_unstable();
            users.dedup();
            let driver = |user: &UserId| {
                Some(KnownDriver {
                    vehicle: accounts.drivers.get(user)?.clone(),
                    reviewed: accounts.reviewed.contains(user),
                    registered_at: *accounts.registered.get(user)?,
                    suspended_until: tables.suspension_ends.get(user).and_then(|(ends_at, _)| *ends_at),
                    on_duty: tables.presence.beacons.get(user).map(|beacon| beacon.active),
                })
            };
            let person = |user: &UserId| {
                let row = accounts.users.get(user)?;
                Some(Person {
                    user_id: *user,
                    phone: row.phone.as_str().to_owned(),
                    name: row.name.clone(),
                    created_at: row.created_at,
                    driver: driver(user),
                })
            };
            Ok(users.iter().filter_map(person).collect())
        }
    }
}

pub(super) async fn with_phone(tx: &mut Transaction<Tables>, phone: &Phone) -> Result<Option<UserId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select user_id from users where phone = $1 and deleted_at is null")
                .bind(phone.as_str())
                .fetch_optional(&mut *pg)
                .await?;
            row.map(|row| Ok(UserId(row.try_get("user_id")?))).transpose()
        }
        On::Memory(tables) => Ok(tables.accounts.phones.get(phone).copied()),
    }
}

/// At most `limit` drivers after `after`, in the order of their ids.
pub(super) async fn statuses(
    tx: &mut Transaction<Tables>,
    after: Option<UserId>,
    limit: u32,
) -> Result<Vec<(UserId, DriverStatus)>, StoreError> {
    let after = after.map(|after| after.0).unwrap_or_default();
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select user_id, status from drivers where user_id > $1 order by user_id limit $2")
                .bind(after)
                .bind(i64::from(limit))
                .fetch_all(&mut *pg)
                .await?;
            let read =
                |row: &PgRow| Ok((UserId(row.try_get("user_id")?), DriverStatus::parse(row.try_get("status")?)?));
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let later = tables.accounts.drivers.iter().filter(|(user, _)| user.0 > after);
            Ok(later.take(limit as usize).map(|(user, driver)| (*user, driver.status)).collect())
        }
    }
}

/// At most `limit` open searches with a pickup in the box, oldest first.
pub(super) async fn searches(
    tx: &mut Transaction<Tables>,
    within: Option<&MapBox>,
    limit: u32,
) -> Result<Vec<Search>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select request_id, user_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, vehicle_type, began_at, \
                 expires_at, market_id from searches where $1::float8 is null or (pickup_lat between $1 and $3 \
                 and case when $2 <= $4 then pickup_lng between $2 and $4 else pickup_lng >= $2 or pickup_lng <= $4 end) \
                 order by request_id limit $5",
            )
            .bind(within.map(|within| within.south))
            .bind(within.map(|within| within.west))
            .bind(within.map(|within| within.north))
            .bind(within.map(|within| within.east))
            .bind(i64::from(limit))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read_search).collect()
        }
        On::Memory(tables) => {
            let found = tables.searches.values();
            let found = found.filter(|search| within.is_none_or(|within| within.contains(&search.trip.pickup)));
            let mut found: Vec<Search> = found.cloned().collect();
            found.sort_by_key(|search| search.request_id);
            found.truncate(limit as usize);
            Ok(found)
        }
    }
}

pub(super) async fn search_of(tx: &mut Transaction<Tables>, user: UserId) -> Result<Option<Search>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select request_id, user_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, vehicle_type, began_at, \
                 expires_at, market_id from searches where user_id = $1",
            )
            .bind(user.0)
            .fetch_optional(&mut *pg)
            .await?;
            row.as_ref().map(read_search).transpose()
        }
        On::Memory(tables) => Ok(tables.searches.get(&user).cloned()),
    }
}

/// The rides of a user that have not ended, as far as users knows.
pub(super) async fn live_rides(tx: &mut Transaction<Tables>, user: UserId) -> Result<Vec<RideId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select ride_id from live_rides where driver_id = $1 and status in ('pickup', 'waiting', 'started', 'arrived') \
                 union select ride_id from live_rides where passenger_id = $1 \
                 and status in ('pickup', 'waiting', 'started', 'arrived') order by ride_id",
            )
            .bind(user.0)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(RideId(row.try_get("ride_id")?))).collect()
        }
        On::Memory(tables) => {
            let of_user =
                tables.live_rides.iter().filter(|(_, ride)| ride.driver_id == user || ride.passenger_id == user);
            Ok(of_user.filter(|(_, ride)| !ride.status.is_final()).map(|(id, _)| *id).collect())
        }
    }
}

/// An offer with what became of it.
#[derive(Debug, Clone)]
pub(super) struct OfferRow {
    pub(super) offer: Offer,
    /// `None` if the end of the offer came before its match.found.
    pub(super) found: Option<FoundDriver>,
    /// With which users ended it.
    pub(super) end: Option<MatchRejected>,
    /// Why another service ended it.
    pub(super) end_reason: Option<String>,
}

/// What the driver was to drive to the pickup, as match.found says.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct FoundDriver {
    #[serde(with = "rfc3339")]
    pub(super) found_at: DateTime<Utc>,
    pub(super) pickup_distance_m: f64,
    pub(super) pickup_eta_s: f64,
}

fn found(body: Option<&str>) -> Option<FoundDriver> {
    serde_json::from_str(body?).ok()
}

/// The offers of a search, oldest first.
pub(super) async fn offers(tx: &mut Transaction<Tables>, search: RequestId) -> Result<Vec<OfferRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select match_id, request_id, driver_id, passenger_id, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, \
                 vehicle_type, expires_at, state, found, end_event, end_reason from offers where request_id = $1 \
                 order by match_id limit $2",
            )
            .bind(search.0)
            .bind(OFFERS_MAX)
            .fetch_all(&mut *pg)
            .await?;
            let read = |row: &PgRow| -> Result<OfferRow, StoreError> {
                let end = row.try_get::<Option<&str>, _>("end_event")?.map(serde_json::from_str).transpose();
                Ok(OfferRow {
                    offer: read_offer(row)?,
                    found: found(row.try_get("found")?),
                    end: end.map_err(|error| StoreError::Other(error.to_string()))?,
                    end_reason: row.try_get("end_reason")?,
                })
            };
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let row = |offer: &Offer| OfferRow {
                offer: *offer,
                found: found(tables.found_events.get(&offer.match_id).map(String::as_str)),
                end: tables.offer_ends.get(&offer.match_id).and_then(|end| end.event.clone()),
                end_reason: tables.offer_end_reasons.get(&offer.match_id).map(|reason| (*reason).to_owned()),
            };
            let most = usize::try_from(OFFERS_MAX).unwrap_or(usize::MAX);
            Ok(tables.offers_of(search).take(most).map(row).collect())
        }
    }
}

/// What has an id: a user, a search, or an offer of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    User(UserId),
    Search { request_id: RequestId, passenger_id: UserId },
    Offer { match_id: MatchId, request_id: RequestId, passenger_id: UserId, driver_id: UserId },
}

/// Whatever has this id. Of a search that is over only its offers are stored.
pub(super) async fn find(tx: &mut Transaction<Tables>, id: Uuid) -> Result<Vec<Found>, StoreError> {
    let is_user = !people(tx, &[UserId(id)]).await?.is_empty();
    let (search, offer) = match tx.on() {
        On::Postgres(pg) => {
            let search = sqlx::query(
                "select user_id from searches where request_id = $1 \
                 union select passenger_id from offers where request_id = $1 limit 1",
            );
            let search = search.bind(id).fetch_optional(&mut *pg).await?;
            let offer =
                sqlx::query("select request_id, passenger_id, driver_id from offers where match_id = $1").bind(id);
            let offer = offer.fetch_optional(&mut *pg).await?.map(|row| -> Result<Found, StoreError> {
                Ok(Found::Offer {
                    match_id: MatchId(id),
                    request_id: RequestId(row.try_get("request_id")?),
                    passenger_id: UserId(row.try_get("passenger_id")?),
                    driver_id: UserId(row.try_get("driver_id")?),
                })
            });
            (search.map(|row| row.try_get(0)).transpose()?.map(UserId), offer.transpose()?)
        }
        On::Memory(tables) => {
            let mut searches = tables.searches.values();
            let open = searches.find(|search| search.request_id.0 == id).map(|search| search.user_id);
            let search = open.or_else(|| tables.offers_of(RequestId(id)).next().map(|offer| offer.passenger_id));
            let offer = tables.offers.get(&MatchId(id)).map(|offer| Found::Offer {
                match_id: offer.match_id,
                request_id: offer.request_id,
                passenger_id: offer.passenger_id,
                driver_id: offer.driver_id,
            });
            (search, offer)
        }
    };
    let user = is_user.then_some(Found::User(UserId(id)));
    let search = search.map(|passenger_id| Found::Search { request_id: RequestId(id), passenger_id });
    Ok([user, search, offer].into_iter().flatten().collect())
}
