//! The state of a user from the rows of the other nouns: one statement, and so one snapshot.

use chrono::{DateTime, Duration, Utc};
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{MatchId, Position, RequestId, RideId, UserId};
use uuid::Uuid;

use crate::account::Profile;
use crate::account::rows::read_profile;
use crate::live_ride::{CurrentRide, Places};
use crate::offer::{Offer, OfferState};
use crate::presence::Beacon;
use crate::search::Search;
use crate::tables::Tables;
use crate::trip::Trip;

/// What the tables say of a user.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct StateRows {
    /// The newest `seq` of the mailbox.
    pub(crate) seq: u64,
    pub(crate) profile: Option<Profile>,
    pub(crate) search: Option<Search>,
    /// The one that is made to the user as a driver, or else for the user's search: open, or accepted and not yet a ride. With the body
    /// of its match.found.
    pub(crate) offer: Option<(Offer, Option<String>)>,
    /// The live one, with the body of its newest event.
    pub(crate) ride: Option<(CurrentRide, Option<String>)>,
    pub(crate) beacon: Option<Beacon>,
}

/// For how long after its expiry an accepted offer is shown while no ride has come of it. Then something went wrong, and the search
/// says how it is.
const ACCEPTED_SHOWN: Duration = Duration::minutes(5);

const READ: &str = "select u.phone, u.name, d.vehicle_type, d.plate, d.make, d.model, d.color, d.status, coalesce(h.last_seq, 0) as seq, \
     s.request_id as s_request_id, s.pickup_lat as s_pickup_lat, s.pickup_lng as s_pickup_lng, \
     s.dropoff_lat as s_dropoff_lat, s.dropoff_lng as s_dropoff_lng, s.vehicle_type as s_vehicle_type, \
     s.began_at as s_began_at, s.expires_at as s_expires_at, s.market_id as s_market_id, \
     o.match_id as o_match_id, o.request_id as o_request_id, o.driver_id as o_driver_id, o.passenger_id as o_passenger_id, \
     o.pickup_lat as o_pickup_lat, o.pickup_lng as o_pickup_lng, o.dropoff_lat as o_dropoff_lat, \
     o.dropoff_lng as o_dropoff_lng, o.vehicle_type as o_vehicle_type, o.expires_at as o_expires_at, o.state as o_state, \
     o.found as o_found, r.ride_id as r_ride_id, r.driver_id as r_driver_id, r.passenger_id as r_passenger_id, \
     r.version as r_version, r.status as r_status, r.event as r_event, r.pickup_lat as r_pickup_lat, \
     r.pickup_lng as r_pickup_lng, r.dropoff_lat as r_dropoff_lat, r.dropoff_lng as r_dropoff_lng, \
     b.user_id as b_user_id, b.active as b_active, b.connected as b_connected, b.vehicle_type as b_vehicle_type, \
     b.lat as b_lat, b.lng as b_lng, coalesce(b.located_at, b.published_at) as b_located_at, b.device as b_device, \
     b.published_at as b_published_at \
     from (select $1::uuid as user_id) me left join users u using (user_id) left join drivers d using (user_id) \
     left join mailbox_heads h using (user_id) left join searches s using (user_id) left join beacons b using (user_id) \
     left join lateral (select * from live_rides l where l.ride_id in \
     (select ride_id from live_rides where driver_id = me.user_id and status in ('pickup', 'waiting', 'started', 'arrived') \
     union select ride_id from live_rides where passenger_id = me.user_id and status in ('pickup', 'waiting', 'started', 'arrived')) \
     order by l.changed_at desc limit 1) r on true \
     left join lateral (select * from offers q where q.match_id in \
     (select match_id from offers where driver_id = me.user_id and state = 'open' and expires_at > $2 \
     union select match_id from offers where driver_id = me.user_id and state = 'accepted' and expires_at > $3 \
     union select match_id from offers where request_id = s.request_id \
     and (state = 'open' and expires_at > $2 or state = 'accepted' and expires_at > $3)) \
     and (q.state = 'open' or not exists (select from live_rides l where l.match_id = q.match_id)) \
     order by (q.driver_id = me.user_id) desc, q.expires_at desc limit 1) o on true";

/// Reads all of it at one moment.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn read(
    tx: &mut Transaction<Tables>,
    user: UserId,
    now: DateTime<Utc>,
) -> Result<StateRows, StoreError> {
    let accepted_after = now - ACCEPTED_SHOWN;
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(READ).bind(user.0).bind(now).bind(accepted_after).fetch_one(&mut *pg).await?;
            Ok(StateRows {
                seq: u64::try_from(row.try_get::<i64, _>("seq")?).unwrap_or(0),
                profile: read_profile(&row, user)?,
                search: read_search(&row, user)?,
                offer: read_offer(&row)?,
                ride: read_ride(&row)?,
                beacon: read_beacon(&row)?,
            })
        }
        On::Memory(tables) => Ok(of_tables(tables, user, now, accepted_after)),
    }
}

fn of_tables(tables: &Tables, user: UserId, now: DateTime<Utc>, accepted_after: DateTime<Utc>) -> StateRows {
    let search = tables.searches.get(&user).cloned();
    let is_live = |offer: &&Offer| match offer.state {
        OfferState::Open => offer.expires_at > now,
        OfferState::Accepted => {
            offer.expires_at > accepted_after && !tables.ride_events.values().any(|(of, _)| *of == offer.match_id)
        }
        OfferState::Declined | OfferState::Closed => false,
    };
    let driven = tables.offers.values().filter(|offer| offer.driver_id == user).filter(is_live);
    let of_search = search.iter().flat_map(|search| tables.offers_of(search.request_id)).filter(is_live);
    let newest = |one: &&Offer| one.expires_at;
    let offer = driven.max_by_key(newest).or_else(|| of_search.max_by_key(newest));
    let rides = tables.live_rides.iter();
    let mine = rides.filter(|(_, ride)| !ride.status.is_final() && [ride.driver_id, ride.passenger_id].contains(&user));
    let ride = mine.max_by_key(|(_, ride)| ride.changed_at).map(|(id, ride)| ride.current(*id));
    StateRows {
        seq: tables.mailboxes.cursors.get(&user).map_or(0, |cursor| cursor.last_seq),
        profile: tables.accounts.profile(user),
        search,
        offer: offer.map(|offer| (*offer, tables.found_events.get(&offer.match_id).cloned())),
        ride: ride.map(|ride| (ride, tables.ride_events.get(&ride.ride_id).map(|(_, event)| event.clone()))),
        beacon: tables.presence.beacons.get(&user).cloned(),
    }
}

/// A column of a part that may not be there.
fn id(row: &PgRow, column: &str) -> Result<Option<Uuid>, sqlx::Error> {
    row.try_get(column)
}

fn position(row: &PgRow, prefix: &str, place: &str) -> Result<Option<Position>, sqlx::Error> {
    let degrees = |axis: &str| row.try_get::<Option<f64>, _>(format!("{prefix}_{place}_{axis}").as_str());
    Ok(degrees("lat")?.zip(degrees("lng")?).map(|(lat, lng)| Position { lat, lng }))
}

fn trip(row: &PgRow, prefix: &str) -> Result<Trip, StoreError> {
    let place = |name: &str| -> Result<Position, StoreError> {
        position(row, prefix, name)?.ok_or_else(|| StoreError::Other(format!("no {name}")))
    };
    let vehicle_type: &str = row.try_get(format!("{prefix}_vehicle_type").as_str())?;
    let vehicle_type = vehicle_type.parse().map_err(StoreError::Other)?;
    Ok(Trip { pickup: place("pickup")?, dropoff: place("dropoff")?, vehicle_type })
}

fn read_search(row: &PgRow, user_id: UserId) -> Result<Option<Search>, StoreError> {
    let Some(request) = id(row, "s_request_id")? else { return Ok(None) };
    let (began_at, expires_at) = (row.try_get("s_began_at")?, row.try_get("s_expires_at")?);
    let (request_id, market_id) = (RequestId(request), row.try_get("s_market_id")?);
    Ok(Some(Search { request_id, user_id, trip: trip(row, "s")?, began_at, expires_at, market_id }))
}

fn read_offer(row: &PgRow) -> Result<Option<(Offer, Option<String>)>, StoreError> {
    let Some(match_id) = id(row, "o_match_id")? else { return Ok(None) };
    let offer = Offer {
        match_id: MatchId(match_id),
        request_id: RequestId(row.try_get("o_request_id")?),
        driver_id: UserId(row.try_get("o_driver_id")?),
        passenger_id: UserId(row.try_get("o_passenger_id")?),
        trip: trip(row, "o")?,
        expires_at: row.try_get("o_expires_at")?,
        state: OfferState::parse(row.try_get("o_state")?)?,
    };
    Ok(Some((offer, row.try_get("o_found")?)))
}

fn read_ride(row: &PgRow) -> Result<Option<(CurrentRide, Option<String>)>, StoreError> {
    let Some(ride_id) = id(row, "r_ride_id")? else { return Ok(None) };
    let places = position(row, "r", "pickup")?.zip(position(row, "r", "dropoff")?);
    let ride = CurrentRide {
        ride_id: RideId(ride_id),
        driver_id: UserId(row.try_get("r_driver_id")?),
        passenger_id: UserId(row.try_get("r_passenger_id")?),
        version: u32::try_from(row.try_get::<i32, _>("r_version")?).unwrap_or_default(),
        status: row.try_get::<&str, _>("r_status")?.parse().map_err(StoreError::Other)?,
        places: places.map(|(pickup, dropoff)| Places { pickup, dropoff }),
    };
    Ok(Some((ride, row.try_get("r_event")?)))
}

fn read_beacon(row: &PgRow) -> Result<Option<Beacon>, StoreError> {
    let Some(user_id) = id(row, "b_user_id")? else { return Ok(None) };
    Ok(Some(Beacon {
        user_id: UserId(user_id),
        active: row.try_get("b_active")?,
        connected: row.try_get("b_connected")?,
        vehicle_type: row.try_get::<&str, _>("b_vehicle_type")?.parse().map_err(StoreError::Other)?,
        location: Position { lat: row.try_get("b_lat")?, lng: row.try_get("b_lng")? },
        located_at: row.try_get("b_located_at")?,
        device: row.try_get::<Option<&str>, _>("b_device")?.map(Into::into),
        published_at: row.try_get("b_published_at")?,
    }))
}
