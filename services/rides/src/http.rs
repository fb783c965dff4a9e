//! The routes of rides: a user's own rides, what a party says of one, and estimates. Another user's ride is not found. Who the other party is, users says when it is asked (`parties.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRef, Path, State};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use platform::api::{Created, NoContent, Schemas};
use platform::problem::{Json, Query};
use platform::routes::{Route, Routes};
use platform::{ClientAddress, Limit, Platform, Problem, SignedIn, Store, Tokens};
use roads::{Leg, Road};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use streams::event::{CancelCode, Fare, Party, rfc3339};
use streams::parties::{DriverView, PassengerView};
use streams::person::RatingGiven;
use streams::{MatchId, Money, Position, RideId, RideStatus, UserId, VehicleType};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::config::Config;
use crate::parties::{OtherParty, Shown};
use crate::payment::{self, Payment, PaymentStatus};
use crate::rating;
use crate::rating::routes::{RatingRequest, RatingView};
use crate::ride::Ride;
use crate::ride::rows::{self, After};
use crate::share;
use crate::share::routes::{NewShare, ShareList};
use crate::share::viewed::{self, NotShown, SharedRide, Whereabouts};
use crate::sos;
use crate::sos::routes::{SosRequest, SosView};
use crate::tables::Tables;

const LIMIT_DEFAULT: u32 = 20;
const LIMIT_MAX: u32 = 100;

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
    unbound().with_state(api)
}

/// The routes with their operations.
pub(crate) fn operations() -> Vec<Route> {
    unbound().into_list()
}

fn unbound() -> Routes<Api> {
    Routes::default()
        .get("/v1/rides", list)
        .described("The caller's rides, the newest first.", &[])
        .get("/v1/rides/{id}", one)
        .described("A ride of the caller.", &[])
        .post("/v1/rides/{id}/rating", rate)
        .described(
            "Rate the other party, once, within 72 hours of the end.",
            &["already_rated", "rating_closed", "ride_not_over", "ride_not_started"],
        )
        .post("/v1/rides/{id}/sos", call_for_help)
        .described("Call for help. A repeat is the same call.", &["ride_over"])
        .post("/v1/rides/{id}/share", share_ride)
        .described("Make a link by which anybody sees the ride.", &["ride_over", "too_many_shares"])
        .get("/v1/rides/{id}/share", shares)
        .described("The caller's open links of a ride.", &[])
        .delete("/v1/rides/{id}/share/{share_id}", revoke_share)
        .described("Revoke a link.", &[])
        .get("/v1/shares/{token}", shared)
        .described("The ride of a link.", &["share_ended"])
        .get("/s/{token}", shared_page)
        .described("The ride of a link as a page for a browser.", &[])
        .with(|operation| {
            // What is wrong is a page, too.
            operation.codes.clear();
            for status in [200, 404, 410, 429, 503] {
                operation.add_answer(status, Some(("text/html; charset=utf-8", Schemas::read::<String>)));
            }
        })
        .get("/v1/estimates", estimate)
        .described("Distance, duration and fare of a trip.", &["out_of_area"])
}

async fn one(State(api): State<Api>, SignedIn(user): SignedIn, id: RawId) -> Result<Json<RideView>, Problem> {
    let id = ride_id(id)?;
    let mut tx = api.store.begin().await?;
    let ride = rows::ride_of(&mut tx, id, user).await?.ok_or_else(|| Problem::not_found("ride"))?;
    let payments = payment::rows::payments_of(&mut tx, &[id]).await?;
    let ratings = rating::rows::of_rides(&mut tx, &[id]).await?;
    let other = if user == ride.driver_id { ride.passenger_id } else { ride.driver_id };
    let mean = rating::rows::means(&mut tx, &[other], api.platform.world.now()).await?;
    drop(tx);
    let mut view = api.view(&ride, user, payments.first());
    view.rating = Some(rating::routes::own(&ride, user, &ratings).map(rating::routes::view));
    let mean = mean.first().map(|rating| rating.mean);
    match api.parties.shown(&ride, user).await {
        Some(Shown::Driver(driver)) => view.driver = Some(driver.map(|driver| DriverView { rating: mean, ..driver })),
        Some(Shown::Passenger(passenger)) => {
            view.passenger = Some(passenger.map(|passenger| PassengerView { rating: mean, ..passenger }));
        }
        None => {}
    }
    Ok(Json(view))
}

async fn rate(
    State(api): State<Api>,
    SignedIn(user): SignedIn,
    id: RawId,
    Json(request): Json<RatingRequest>,
) -> Result<Created<RatingGiven>, Problem> {
    rating::routes::rate(&api.store, &api.platform.world, (ride_id(id)?, user), request).await.map(Created)
}

/// 201, also for a repeat. The body may be left out: who cannot type calls all the same.
async fn call_for_help(
    State(api): State<Api>,
    SignedIn(user): SignedIn,
    id: RawId,
    request: Option<Json<SosRequest>>,
) -> Result<Created<SosView>, Problem> {
    let request = request.map(|Json(request)| request).unwrap_or_default();
    let has_sink = api.config.sos_sink.is_some();
    let called = sos::routes::call((&api.platform, &api.store), (ride_id(id)?, user), request, has_sink).await?;
    api.raised.notify_one();
    Ok(Created(called))
}

/// 201. The token is in this answer alone.
async fn share_ride(State(api): State<Api>, SignedIn(user): SignedIn, id: RawId) -> Result<Created<NewShare>, Problem> {
    let parts = (&api.store, &api.tokens, &api.platform.world);
    let made = share::routes::make(parts, &api.config.public_url, (ride_id(id)?, user)).await?;
    Ok(Created(made))
}

async fn shares(State(api): State<Api>, SignedIn(user): SignedIn, id: RawId) -> Result<Json<ShareList>, Problem> {
    share::routes::list(&api.store, &api.platform.world, (ride_id(id)?, user)).await.map(Json)
}

async fn revoke_share(
    State(api): State<Api>,
    SignedIn(user): SignedIn,
    ids: Result<Path<(RideId, Uuid)>, PathRejection>,
) -> Result<NoContent, Problem> {
    let Path((ride, share)) = ids.map_err(|_| Problem::not_found("link"))?;
    share::routes::revoke(&api.store, &api.platform.world, (ride, user), share).await?;
    Ok(NoContent)
}

/// Needs no sign-in: the link is enough.
async fn shared(State(api): State<Api>, address: ClientAddress, token: RawToken) -> Result<Json<SharedRide>, Problem> {
    api.platform.take(Limit::Shares, address, 1)?;
    Ok(Json(api.shared_ride(token).await?))
}

async fn shared_page(State(api): State<Api>, address: ClientAddress, token: RawToken) -> Response {
    if let Err(refused) = api.platform.take(Limit::Shares, address, 1) {
        return share::page::refused(&Problem::from(refused).into_response());
    }
    share::page::response(api.shared_ride(token).await)
}

type RawId = Result<Path<RideId>, PathRejection>;
type RawToken = Result<Path<String>, PathRejection>;

fn ride_id(id: RawId) -> Result<RideId, Problem> {
    id.map(|Path(id)| id).map_err(|_| Problem::not_found("ride"))
}

/// The parameters are parsed here and not by serde, so that an error can name the field; so are those of an estimate.
#[derive(Deserialize, JsonSchema)]
struct RidesQuery {
    /// 20 without it.
    #[schemars(with = "Option<u32>", range(min = 1, max = LIMIT_MAX))]
    limit: Option<String>,
    /// The `next_cursor` of an earlier answer.
    cursor: Option<String>,
}

/// A page of rides.
#[derive(Serialize, JsonSchema)]
struct RidePage {
    rides: Vec<RideView>,
    /// Null on the last page.
    next_cursor: Option<String>,
}

async fn list(
    State(api): State<Api>,
    SignedIn(user): SignedIn,
    Query(query): Query<RidesQuery>,
) -> Result<Json<RidePage>, Problem> {
    let limit = match query.limit {
        None => LIMIT_DEFAULT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|n| (1..=LIMIT_MAX).contains(n))
            .ok_or_else(|| Problem::field("limit", format!("must be a number from 1 to {LIMIT_MAX}")))?,
    };
    let after = match query.cursor {
        None => After::NEWEST,
        Some(text) => read_cursor(&text)
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
    let rides = found.iter().map(|ride| api.view(ride, user, payments.get(&ride.ride_id))).collect();
    Ok(Json(RidePage { rides, next_cursor: next }))
}

#[derive(Deserialize, JsonSchema)]
struct EstimateQuery {
    /// `lat,lng` in degrees.
    #[schemars(with = "String", regex(pattern = LAT_LNG), required)]
    pickup: Option<String>,
    /// `lat,lng` in degrees.
    #[schemars(with = "String", regex(pattern = LAT_LNG), required)]
    dropoff: Option<String>,
    #[schemars(with = "VehicleType", required)]
    vehicle_type: Option<String>,
}

/// Two decimal numbers: latitude −90 to 90, longitude −180 to 180.
const LAT_LNG: &str = r"^-?(90(\.0+)?|([1-8]?[0-9])(\.[0-9]+)?),-?(180(\.0+)?|(1[0-7][0-9]|[1-9]?[0-9])(\.[0-9]+)?)$";

/// What a trip is expected to cost.
#[derive(Serialize, JsonSchema)]
struct Estimate {
    #[schemars(range(min = 0))]
    distance_m: f64,
    #[schemars(range(min = 0))]
    duration_s: f64,
    fare: Fare,
    vehicle_type: VehicleType,
    market_id: String,
    /// False: distance and time are those of a street network. True: the great circle times 1.3.
    estimated: bool,
}

/// Needs no sign-in: an estimate reveals nothing about anybody.
async fn estimate(State(api): State<Api>, Query(query): Query<EstimateQuery>) -> Result<Json<Estimate>, Problem> {
    let (pickup, dropoff) = (position("pickup", query.pickup)?, position("dropoff", query.dropoff)?);
    let vehicle: VehicleType = query
        .vehicle_type
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
    let market_id = market.market_id.clone();
    Ok(Json(Estimate { distance_m, duration_s, fare: priced.fare, vehicle_type: vehicle, market_id, estimated }))
}

fn position(field: &str, text: Option<String>) -> Result<Position, Problem> {
    let wrong = || Problem::field(field, "must be `lat,lng` in degrees, for example 40.7128,-74.0060");
    let (lat, lng) = text.as_deref().and_then(|text| text.split_once(',')).ok_or_else(wrong)?;
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
    async fn shared_ride(&self, token: RawToken) -> Result<SharedRide, NotShown> {
        let Path(token) = token.map_err(|_| NotShown::Unknown)?;
        let now = self.platform.world.now();
        let (store, markets) = ((&self.store, &self.tokens), self.config.markets.get());
        viewed::shared_ride(store, &markets, &self.parties, &self.whereabouts, &token, now).await
    }

    /// A ride as its driver or its passenger sees it; only the passenger sees the PIN.
    fn view(&self, ride: &Ride, viewer: UserId, payment: Option<&Payment>) -> RideView {
        let receipt = ride.receipt.as_ref();
        let cancelled = ride.cancellation.as_ref();
        let parts = ride.parts();
        let is_shown_pin =
            viewer == ride.passenger_id && matches!(ride.status, RideStatus::Pickup | RideStatus::Waiting);
        RideView {
            ride_id: ride.ride_id,
            match_id: ride.match_id,
            driver_id: ride.driver_id,
            passenger_id: ride.passenger_id,
            status: ride.status,
            version: ride.version,
            pickup: ride.pickup,
            dropoff: ride.dropoff,
            vehicle_type: ride.vehicle_type,
            created_at: ride.created_at,
            updated_at: ride.updated_at,
            waiting_at: ride.waiting_at,
            started_at: ride.started_at,
            arrived_at: ride.arrived_at,
            distance_m: receipt.map(|r| r.distance_m).or_else(|| cancelled?.distance_m),
            duration_s: receipt.map(|r| r.duration_s).or_else(|| cancelled?.duration_s),
            fare: ride.fare().cloned(),
            platform_fee: parts.map(|(fee, _)| fee),
            driver_payout: parts.map(|(_, payout)| payout),
            cancelled: cancelled.map(|c| CancelledView {
                by: c.by,
                reason: c.reason.clone(),
                reason_code: c.code,
                note: c.note.clone(),
                fee: c.fee,
            }),
            market_id: ride.market_id.clone(),
            payment: payment.map(|payment| PaymentView { status: payment.status }),
            pin: is_shown_pin.then(|| self.tokens.ride_pin(ride.ride_id)),
            rating: None,
            driver: None,
            passenger: None,
        }
    }
}

/// A ride as one of its parties sees it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Ride")]
struct RideView {
    ride_id: RideId,
    match_id: MatchId,
    driver_id: UserId,
    passenger_id: UserId,
    status: RideStatus,
    /// That of its newest event.
    version: u32,
    pickup: Position,
    dropoff: Position,
    vehicle_type: VehicleType,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    created_at: DateTime<Utc>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    updated_at: DateTime<Utc>,
    #[serde(with = "rfc3339::optional")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    waiting_at: Option<DateTime<Utc>>,
    #[serde(with = "rfc3339::optional")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    started_at: Option<DateTime<Utc>>,
    #[serde(with = "rfc3339::optional")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    arrived_at: Option<DateTime<Utc>>,
    /// Null until it is known.
    distance_m: Option<f64>,
    /// Null until it is known.
    duration_s: Option<f64>,
    /// Null until it is known.
    fare: Option<Fare>,
    platform_fee: Option<Money>,
    driver_payout: Option<Money>,
    /// Null unless somebody has ended the ride early.
    cancelled: Option<CancelledView>,
    /// The market of the pickup.
    market_id: Option<String>,
    payment: Option<PaymentView>,
    /// To the passenger, until the ride starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9]{4}$"))]
    pin: Option<String>,
    /// Of a single ride: the one that the caller gave, or null.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<RatingView>")]
    #[allow(clippy::option_option)]
    rating: Option<Option<RatingView>>,
    /// Of a single ride, to the passenger, until a day after its end: null while it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DriverView>")]
    #[allow(clippy::option_option)]
    driver: Option<Option<DriverView>>,
    /// Of a single ride, to the driver, until a day after its end: null while it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PassengerView>")]
    #[allow(clippy::option_option)]
    passenger: Option<Option<PassengerView>>,
}

/// The end of a cancelled ride.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Cancellation")]
struct CancelledView {
    by: Party,
    reason: String,
    reason_code: Option<CancelCode>,
    note: Option<String>,
    fee: Money,
}

/// How the payment of a ride stands.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Payment")]
struct PaymentView {
    status: PaymentStatus,
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
