//! GET /v1/drivers/nearby: free drivers, where they are and how far, not who they are.

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRef, Query, State};
use axum::routing::get;
use chrono::{DateTime, Utc};
use platform::problem::Json;
use platform::{Problem, SignedIn, Tokens};
use serde::{Deserialize, Serialize};
use streams::event::rfc3339;
use streams::{Position, VehicleType};

use crate::Location;

const LIMIT_DEFAULT: usize = 10;
const LIMIT_MAX: usize = 100;
const RADIUS_DEFAULT_M: f64 = 2_000.0;
const RADIUS_MAX_M: f64 = 50_000.0;

impl FromRef<Location> for Tokens {
    fn from_ref(location: &Location) -> Self {
        location.tokens.clone()
    }
}

pub(crate) fn router(location: Location) -> Router {
    Router::new().route("/v1/drivers/nearby", get(nearby)).with_state(location)
}

/// As text, so that an error can name the field.
#[derive(Deserialize)]
struct Asked {
    lat: Option<String>,
    lng: Option<String>,
    radius_m: Option<String>,
    limit: Option<String>,
}

#[derive(Serialize)]
struct Nearby {
    drivers: Vec<Near>,
}

#[derive(Serialize)]
struct Near {
    position: Position,
    distance_m: f64,
    vehicle_type: Option<VehicleType>,
    #[serde(with = "rfc3339")]
    recorded_at: DateTime<Utc>,
}

fn number(field: &'static str, text: Option<&String>, least: f64, most: f64) -> Result<Option<f64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    match text.parse::<f64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(Problem::field(field, format!("must be a number from {least} to {most}"))),
    }
}

async fn nearby(
    State(location): State<Location>,
    _: SignedIn,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Nearby>, Problem> {
    let Query(asked) = asked.map_err(|why| Problem::field("query", why.body_text()))?;
    let required = |field, value: Option<f64>| value.ok_or_else(|| Problem::field(field, "is missing"));
    let lat = required("lat", number("lat", asked.lat.as_ref(), -90.0, 90.0)?)?;
    let lng = required("lng", number("lng", asked.lng.as_ref(), -180.0, 180.0)?)?;
    let radius_m = number("radius_m", asked.radius_m.as_ref(), 1.0, RADIUS_MAX_M)?.unwrap_or(RADIUS_DEFAULT_M);
    let limit = asked.limit.as_ref().map_or(Ok(LIMIT_DEFAULT), |text| match text.parse::<usize>() {
        Ok(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        _ => Err(Problem::field("limit", format!("must be a whole number from 1 to {LIMIT_MAX}"))),
    })?;
    let now = location.platform.world.now();
    let free = location.positions().nearby(&Position { lat, lng }, radius_m, limit, now);
    let drivers = free.into_iter().map(|driver| Near {
        position: driver.position,
        distance_m: driver.distance_m,
        vehicle_type: driver.vehicle_type,
        recorded_at: driver.recorded_at,
    });
    Ok(Json(Nearby { drivers: drivers.collect() }))
}
