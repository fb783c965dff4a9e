//! What a link shows: read from rows and asked of users (who drives) and location (where). Nobody is signed in.

use chrono::{DateTime, Duration, Utc};
use platform::breaker::Rules;
use platform::{Asking, Platform, Problem, Store, Tokens};
use pricing::market::{Market, Markets};
use schemars::JsonSchema;
use serde::Serialize;
use streams::event::rfc3339;
use streams::newest_position::{NEWEST_POSITION, NewestPosition, NewestPositionRequest};
use streams::parties::{DriverView, PARTIES_WAIT};
use streams::{Position, RideStatus, UserId, VehicleType};

use super::{Share, first_name, hashes, rows};
use crate::parties::OtherParty;
use crate::ride::Ride;
use crate::ride::rows::ride_of;
use crate::tables::Tables;

/// After this time a position is not where the vehicle is.
const FRESH: Duration = Duration::seconds(15);
/// The most characters of a token that is looked for.
const TOKEN_MAX: usize = 128;
const RULES: Rules = Rules { failures_max: 5, open_for: Duration::seconds(2) };
/// Links that await the reply at once.
const IN_FLIGHT_MAX: usize = 256;

/// A shared ride.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct SharedRide {
    pub(crate) status: RideStatus,
    pub(crate) vehicle: SharedVehicle,
    /// Null while users does not answer, or if the driver gave no name.
    pub(crate) driver: SharedDriver,
    /// Null if it is unknown, with all that follows from it.
    pub(crate) location: Option<Position>,
    pub(crate) heading_deg: Option<f64>,
    pub(crate) speed_mps: Option<f64>,
    #[serde(with = "rfc3339::optional")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    pub(crate) recorded_at: Option<DateTime<Utc>>,
    /// Seconds, to `eta_to`.
    pub(crate) eta_s: Option<f64>,
    #[schemars(extend("enum" = ["pickup", "dropoff"]))]
    pub(crate) eta_to: &'static str,
    pub(crate) stale: bool,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub(crate) server_time: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct SharedVehicle {
    pub(crate) vehicle_type: VehicleType,
    pub(crate) plate: Option<String>,
    pub(crate) make: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) color: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct SharedDriver {
    pub(crate) first_name: Option<String>,
}

/// Why a link shows nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotShown {
    /// There is no such link.
    Unknown,
    /// It was revoked, or the ride is over: which of them, nobody learns.
    Ended,
    Unavailable,
}

impl From<NotShown> for Problem {
    fn from(why: NotShown) -> Self {
        match why {
            NotShown::Unknown => Self::not_found("link"),
            NotShown::Ended => Self::new(axum::http::StatusCode::GONE, "share_ended", "the link has ended"),
            NotShown::Unavailable => Self::unavailable(),
        }
    }
}

/// Where drivers are, as location says.
#[derive(Debug)]
pub(crate) struct Whereabouts(Asking);

impl Whereabouts {
    pub(crate) fn new(platform: &Platform) -> Self {
        Self(Asking::new(platform, "newest", RULES, NEWEST_POSITION, IN_FLIGHT_MAX))
    }

    /// `None` if location knows none or does not answer.
    pub(crate) async fn of(&self, driver_id: UserId) -> Option<NewestPosition> {
        self.0.ask::<Option<NewestPosition>>(&NewestPositionRequest { driver_id }, PARTIES_WAIT).await.flatten()
    }
}

/// The ride of a link.
///
/// # Errors
/// [`NotShown`].
pub(crate) async fn shared_ride(
    (store, tokens): (&Store<Tables>, &Tokens),
    markets: &Markets,
    parties: &OtherParty,
    whereabouts: &Whereabouts,
    token: &str,
    now: DateTime<Utc>,
) -> Result<SharedRide, NotShown> {
    let ride = ride_of_token(store, tokens, token, now).await?;
    let (driver, newest) = tokio::join!(parties.driver_of(&ride), whereabouts.of(ride.driver_id));
    let market = markets.of(ride.market_id.as_deref(), &ride.pickup);
    Ok(shown(&ride, market, driver, newest, now))
}

async fn ride_of_token(
    store: &Store<Tables>,
    tokens: &Tokens,
    token: &str,
    now: DateTime<Utc>,
) -> Result<Ride, NotShown> {
    let unavailable = |error: platform::StoreError| {
        tracing::warn!(%error, "a shared ride could not be read");
        NotShown::Unavailable
    };
    // Every token is hashed and looked for, so that the time of the answer says nothing.
    let token = token.get(..TOKEN_MAX).unwrap_or(token);
    let hashes = hashes(tokens, token);
    let mut tx = store.begin().await.map_err(unavailable)?;
    let share: Share = rows::by_token(&mut tx, &hashes).await.map_err(unavailable)?.ok_or(NotShown::Unknown)?;
    if !share.is_open(now) {
        return Err(NotShown::Ended);
    }
    let ride = ride_of(&mut tx, share.ride_id, share.user).await.map_err(unavailable)?;
    ride.filter(|ride| !ride.status.is_final()).ok_or(NotShown::Ended)
}

/// At the speed of its market; if this process does not know that, at the one with which the ride began.
fn eta_s(ride: &Ride, market: Option<&Market>, (from, to): (&Position, &Position), now: DateTime<Utc>) -> f64 {
    let (metres, usual_s) = pricing::estimate(from, to);
    match (market, &ride.terms) {
        (Some(market), _) => market.estimate(from, to, now).1,
        (None, Some(terms)) => metres / (f64::from(terms.speed_mm_s) / 1_000.0),
        (None, None) => usual_s,
    }
}

fn shown(
    ride: &Ride,
    market: Option<&Market>,
    driver: Option<DriverView>,
    newest: Option<NewestPosition>,
    now: DateTime<Utc>,
) -> SharedRide {
    let (eta_to, destination) = match ride.status {
        RideStatus::Pickup | RideStatus::Waiting => ("pickup", ride.pickup),
        _ => ("dropoff", ride.dropoff),
    };
    let name = driver.as_ref().and_then(|driver| driver.name.as_deref()).map(first_name);
    let vehicle = SharedVehicle {
        vehicle_type: ride.vehicle_type,
        plate: driver.as_ref().map(|driver| driver.plate.clone()),
        make: driver.as_ref().and_then(|driver| driver.make.clone()),
        model: driver.as_ref().and_then(|driver| driver.model.clone()),
        color: driver.as_ref().and_then(|driver| driver.color.clone()),
    };
    let newest = newest.as_ref();
    SharedRide {
        status: ride.status,
        vehicle,
        driver: SharedDriver { first_name: name.filter(|name| !name.is_empty()).map(str::to_owned) },
        location: newest.map(|newest| newest.location),
        heading_deg: newest.and_then(|newest| newest.heading_deg),
        speed_mps: newest.and_then(|newest| newest.speed_mps),
        recorded_at: newest.map(|newest| newest.recorded_at),
        eta_s: newest.map(|newest| eta_s(ride, market, (&newest.location, &destination), now)),
        eta_to,
        stale: newest.is_none_or(|newest| now - newest.recorded_at > FRESH),
        server_time: now,
    }
}
