//! The routes of rides: a user's own rides, what a party says of one, and estimates. Another user's ride is not found. Who the other party is, users says when it is asked (`parties.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRef, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::DateTime;
use platform::problem::Json;
use platform::routes::Routes;
use platform::{ClientAddress, Limit, Platform, Problem, SignedIn, Store, Tokens};
use roads::{Leg, Road};
use serde_json::{Value, json};
use streams::event::rfc3339;
use streams::{Position, RideId, RideStatus, UserId, VehicleType};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::config::Config;
use crate::parties::OtherParty;
use crate::payment::{self, Payment};
use crate::rating;
use crate::rating::routes::RatingRequest;
use crate::ride::Ride;
use crate::ride::rows::{self, After};
use crate::share;
use crate::share::viewed::{self, NotShown, SharedRide, Whereabouts};
use crate::sos;
use crate::sos::routes::SosRequest;
use crate::tables::Tables;

const LIMIT_DEFAULT: u32 = 20;
const LIMIT_MAX: u32 = 100;

type RawQuery = Result<Query<BTreeMap<String, String>>, QueryRejection>;

#[derive(Clone)]
struct Api {
    platform: Platform,
    store: Store<Tables>,
    tokens: Tokens,
    config: Arc<Config>,
    parties: Arc<OtherParty>,
    whereabouts: Arc<Whereabouts>,
    raised: Arc<Notify>,
}

impl FromRef<Api> for Tokens {
    fn from_ref(api: &Api) -> Self {
        api.tokens.clone()
    }
}

pub(crate) fn routes(
    platform: &Platform,
    store: &Store<Tables>,
    tokens: &Tokens,
    config: &Arc<Config>,
    whereabouts: &Arc<Whereabouts>,
    raised: &Arc<Notify>,
) -> Routes {
    let api = Api {
        platform: platform.clone(),
        store: store.clone(),
        tokens: tokens.clone(),
        config: config.clone(),
        parties: Arc::new(OtherParty::new(platform)),
        whereabouts: whereabouts.clone(),
        raised: raised.clone(),
    };
    Routes::default()
        .get("/v1/rides", list)
        .get("/v1/rides/{id}", one)
        .post("/v1/rides/{id}/rating", rate)
        .post("/v1/rides/{id}/sos", call_for_help)
        .post("/v1/rides/{id}/share", share_ride)
        .get("/v1/rides/{id}/share", shares)
        .delete("/v1/rides/{id}/share/{share_id}", revoke_share)
        .get("/v1/shares/{token}", shared)
        .get("/s/{token}", shared_page)
        .get("/v1/estimates", estimate)
        .with_state(api)
}

async fn one(State(api): State<Api>, SignedIn(user): SignedIn, id: RawId) -> Result<Json<Value>, Problem> {
    let id = ride_id(id)?;
    let mut tx = api.store.begin().await?;
    let ride = rows::ride_of(&mut tx, id, user).await?.ok_or_else(|| Problem::not_found("ride"))?;
    let payments = payment::rows::payments_of(&mut tx, &[id]).await?;
    let ratings = rating::rows::of_rides(&mut tx, &[id]).await?;
    let other = if user == ride.driver_id { ride.passenger_id } else { ride.driver_id };
    let mean = rating::rows::means(&mut tx, &[other], api.platform.world.now()).await?;
    drop(tx);
    let mut view = api.view(&ride, user, payments.first());
    view["rating"] = json!(rating::routes::own(&ride, user, &ratings).map(rating::routes::view));
    if let Some((field, mut party)) = api.parties.shown(&ride, user).await {
        if party.is_object() {
            party["rating"] = json!(mean.first().map(|rating| rating.mean));
        }
        view[field] = party;
    }
    Ok(Json(view))
}

async fn rate(
    State(api): State<Api>,
    SignedIn(user): SignedIn,
    id: RawId,
    Json(request): Json<RatingRequest>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let (status, body) = rating::routes::rate(&api.store, &api.platform.world, (ride_id(id)?, user), request).await?;
    Ok((status, Json(body)))
}

/// 201, also for a repeat. The body may be left out: who cannot type calls all the same.
async fn call_for_help(
    State(api): State<Api>,
    SignedIn(user): SignedIn,
    id: RawId,
    request: Option<Json<SosRequest>>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let request = request.map(|Json(request)| request).unwrap_or_default();
    let has_sink = api.config.sos_sink.is_some();
    let called = sos::routes::call((&api.platform, &api.store), (ride_id(id)?, user), request, has_sink).await?;
    api.raised.notify_one();
    Ok((StatusCode::CREATED, Json(called)))
}

/// 201. The token is in this answer alone.
async fn share_ride(
    State(api): State<Api>,
    SignedIn(user): SignedIn,
    id: RawId,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let parts = (&api.store, &api.tokens, &api.platform.world);
    let made = share::routes::make(parts, &api.config.public_url, (ride_id(id)?, user)).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

async fn shares(State(api): State<Api>, SignedIn(user): SignedIn, id: RawId) -> Result<Json<Value>, Problem> {
    share::routes::list(&api.store, &api.platform.world, (ride_id(id)?, user)).await.map(Json)
}

async fn revoke_share(
    State(api): State<Api>,
    SignedIn(user): SignedIn,
    ids: Result<Path<(String, String)>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let not_found = || Problem::not_found("link");
    let Path((ride, share)) = ids.map_err(|_| not_found())?;
    let (ride, share) = (ride.parse().map_err(|_| not_found())?, share.parse().map_err(|_| not_found())?);
    share::routes::revoke(&api.store, &api.platform.world, (ride, user), share).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Needs no sign-in: the link is enough.
async fn shared(State(api): State<Api>, address: ClientAddress, token: RawId) -> Result<Json<SharedRide>, Problem> {
    api.platform.take(Limit::Shares, address, 1)?;
    Ok(Json(api.shared_ride(token).await?))
}

async fn shared_page(State(api): State<Api>, address: ClientAddress, token: RawId) -> Response {
    if let Err(refused) = api.platform.take(Limit::Shares, address, 1) {
        return share::page::refused(&Problem::from(refused).into_response());
    }
    share::page::response(api.shared_ride(token).await)
}

type RawId = Result<Path<String>, PathRejection>;

fn ride_id(id: RawId) -> Result<RideId, Problem> {
    id.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(|| Problem::not_found("ride"))
}

async fn list(State(api): State<Api>, SignedIn(user): SignedIn, query: RawQuery) -> Result<Json<Value>, Problem> {
    let query = fields(query)?;
    let limit = match query.get("limit") {
        None => LIMIT_DEFAULT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|n| (1..=LIMIT_MAX).contains(n))
            .ok_or_else(|| Problem::field("limit", format!("must be a number from 1 to {LIMIT_MAX}")))?,
    };
    let after = match query.get("cursor") {
        None => After::NEWEST,
        Some(text) => read_cursor(text)
            .ok_or_else(|| Problem::field("cursor", "must be the `next_cursor` of an earlier answer"))?,
    };
    let mut tx = api.store.begin().await?;
    // One more than `limit`, to know whether there is a next page.
    let mut found = rows::rides_of(&mut tx, user, after, limit + 1).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let ids: Vec<RideId> = found.iter().map(|ride| ride.ride_id).collect();
    let payments = payment::rows::payments_of(&mut tx, &ids).await?;
    drop(tx);
    let payments: BTreeMap<RideId, Payment> = payments.into_iter().map(|p| (p.ride_id, p)).collect();
    let next = found.last().filter(|_| more).map(cursor);
    let views: Vec<Value> = found.iter().map(|ride| api.view(ride, user, payments.get(&ride.ride_id))).collect();
    Ok(Json(json!({"rides": views, "next_cursor": next})))
}

/// Needs no sign-in: an estimate reveals nothing about anybody.
async fn estimate(State(api): State<Api>, query: RawQuery) -> Result<Json<Value>, Problem> {
    let query = fields(query)?;
    let (pickup, dropoff) = (position(&query, "pickup")?, position(&query, "dropoff")?);
    let vehicle: VehicleType = query
        .get("vehicle_type")
        .ok_or_else(|| Problem::field("vehicle_type", "is missing: use car, motorcycle or van"))?
        .parse()
        .map_err(|why: String| Problem::field("vehicle_type", why))?;
    let markets = api.config.markets.get();
    let market = markets
        .serving(&pickup, &dropoff, vehicle)
        .map_err(|why| Problem { code: why.code().into(), ..Problem::field(why.field(), why.to_string()) })?;
    let road = match &api.config.roads {
        Some(roads) => roads.way(pickup, dropoff).await,
        None => None,
    };
    let (distance_m, duration_s, estimated) = match road {
        Some(Road::Leg(Leg { distance_m, duration_s })) => (distance_m, duration_s, false),
        Some(Road::None) | None => {
            let (distance_m, duration_s) = market.estimate(&pickup, &dropoff, api.platform.world.now());
            (distance_m, duration_s, true)
        }
    };
    let priced = market.price(vehicle, distance_m, duration_s);
    Ok(Json(json!({
        "distance_m": distance_m, "duration_s": duration_s, "fare": priced.fare, "vehicle_type": vehicle,
        "market_id": market.market_id, "estimated": estimated,
    })))
}

fn fields(query: RawQuery) -> Result<BTreeMap<String, String>, Problem> {
    query.map(|Query(fields)| fields).map_err(|why| Problem::field("query", why.body_text()))
}

fn position(query: &BTreeMap<String, String>, field: &str) -> Result<Position, Problem> {
    let wrong = || Problem::field(field, "must be `lat,lng` in degrees, for example 40.7128,-74.0060");
    let (lat, lng) = query.get(field).and_then(|text| text.split_once(',')).ok_or_else(wrong)?;
    let degrees = |text: &str| text.trim().parse::<f64>().map_err(|_| wrong());
    let position = Position { lat: degrees(lat)?, lng: degrees(lng)? };
    if position.is_valid() { Ok(position) } else { Err(wrong()) }
}

/// Opaque to clients: creation time in microseconds, and id, in hexadecimal.
fn cursor(ride: &Ride) -> String {
    let mut bytes = ride.created_at.timestamp_micros().to_be_bytes().to_vec();
    bytes.extend_from_slice(ride.ride_id.0.as_bytes());
    hex::encode(bytes)
}

fn read_cursor(text: &str) -> Option<After> {
    if text.len() != 48 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let (time, id) = text.split_at(16);
    let micros = i64::from_str_radix(time, 16).ok()?;
    let id = u128::from_str_radix(id, 16).ok()?;
    let created_at = DateTime::from_timestamp_micros(micros)?;
    // PostgreSQL refuses times beyond its range; no ride is newer than this.
    (created_at <= After::NEWEST.created_at).then_some(After { created_at, ride_id: RideId(Uuid::from_u128(id)) })
}

impl Api {
    async fn shared_ride(&self, token: RawId) -> Result<SharedRide, NotShown> {
        let Path(token) = token.map_err(|_| NotShown::Unknown)?;
        let now = self.platform.world.now();
        let (store, markets) = ((&self.store, &self.tokens), self.config.markets.get());
        viewed::shared_ride(store, &markets, &self.parties, &self.whereabouts, &token, now).await
    }

    /// A ride as its driver or its passenger sees it; only the passenger sees the PIN.
    fn view(&self, ride: &Ride, viewer: UserId, payment: Option<&Payment>) -> Value {
        let receipt = ride.receipt.as_ref();
        let cancelled = ride.cancellation.as_ref();
        let parts = ride.parts();
        let mut view = json!({
            "ride_id": ride.ride_id,
            "match_id": ride.match_id,
            "driver_id": ride.driver_id,
            "passenger_id": ride.passenger_id,
            "status": ride.status,
            "version": ride.version,
            "pickup": ride.pickup,
            "dropoff": ride.dropoff,
            "vehicle_type": ride.vehicle_type,
            "created_at": rfc3339::text(&ride.created_at),
            "updated_at": rfc3339::text(&ride.updated_at),
            "waiting_at": ride.waiting_at.as_ref().map(rfc3339::text),
            "started_at": ride.started_at.as_ref().map(rfc3339::text),
            "arrived_at": ride.arrived_at.as_ref().map(rfc3339::text),
            "distance_m": receipt.map(|r| r.distance_m).or_else(|| cancelled?.distance_m),
            "duration_s": receipt.map(|r| r.duration_s).or_else(|| cancelled?.duration_s),
            "fare": ride.fare(),
            "platform_fee": parts.map(|(fee, _)| fee),
            "driver_payout": parts.map(|(_, payout)| payout),
            "cancelled": cancelled.map(|c| json!({
                "by": c.by, "reason": c.reason, "reason_code": c.code, "note": c.note, "fee": c.fee,
            })),
            "market_id": ride.market_id,
            "payment": payment.map(|p| json!({"status": p.status.as_str()})),
        });
        if viewer == ride.passenger_id && matches!(ride.status, RideStatus::Pickup | RideStatus::Waiting) {
            view["pin"] = self.tokens.ride_pin(ride.ride_id).into();
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ride::tests::{accepted, at};

    #[test]
    fn only_a_cursor_that_was_given_out_is_read() {
        let ride = Ride::create(&accepted(), RideId(Uuid::from_u128(9)), None, at(0)).ride;
        let text = cursor(&ride);
        assert_eq!(read_cursor(&text), Some(After { created_at: ride.created_at, ride_id: ride.ride_id }));
        let (short, long) = (&text[1..], format!("{text}0"));
        for bad in [
            "",
            "x",
            short,
            &long,
            &text.replace('0', "g"),
            &"f".repeat(48),
            &"é".repeat(24),
            &format!("0700{}", "0".repeat(44)),
        ] {
            assert_eq!(read_cursor(bad), None, "{bad}");
        }
    }
}
