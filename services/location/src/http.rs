//! GET /v1/drivers/nearby: roughly where free drivers are and how far away, but not who they are; so often that a map can be drawn,
//! and no driver followed.

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRef, Query, State};
use platform::problem::Json;
use platform::routes::Routes;
use platform::{Limit, Platform, Problem, SignedIn, Tokens};
use serde::{Deserialize, Serialize};
use streams::Position;

use crate::positions::FreeDriver;
use crate::zones::questions::Questions;

const LIMIT_DEFAULT: usize = 10;
const LIMIT_MAX: usize = 100;
const RADIUS_DEFAULT_M: f64 = 2_000.0;
const RADIUS_MAX_M: f64 = 5_000.0;

#[derive(Clone)]
pub(crate) struct NearbyState {
    pub(crate) tokens: Tokens,
    pub(crate) platform: Platform,
    pub(crate) questions: Questions,
}

impl FromRef<NearbyState> for Tokens {
    fn from_ref(state: &NearbyState) -> Self {
        state.tokens.clone()
    }
}

pub(crate) fn routes(state: NearbyState) -> Routes {
    Routes::default().get("/v1/drivers/nearby", nearby).with_state(state)
}

/// Parsed from text here and not by serde, so that an error can name the field.
#[derive(Deserialize)]
struct NearbyQuery {
    lat: Option<String>,
    lng: Option<String>,
    radius_m: Option<String>,
    limit: Option<String>,
}

#[derive(Serialize)]
struct NearbyResponse {
    drivers: Vec<FreeDriver>,
}

fn number(field: &'static str, text: Option<&String>, least: f64, most: f64) -> Result<Option<f64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    match text.parse::<f64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(Problem::field(field, format!("must be a number from {least} to {most}"))),
    }
}

async fn nearby(
    State(state): State<NearbyState>,
    SignedIn(user): SignedIn,
    query: Result<Query<NearbyQuery>, QueryRejection>,
) -> Result<Json<NearbyResponse>, Problem> {
    state.platform.take(Limit::Nearby, user, 1)?;
    let Query(query) = query.map_err(|why| Problem::field("query", why.body_text()))?;
    let required = |field, value: Option<f64>| value.ok_or_else(|| Problem::field(field, "is missing"));
    let lat = required("lat", number("lat", query.lat.as_ref(), -90.0, 90.0)?)?;
    let lng = required("lng", number("lng", query.lng.as_ref(), -180.0, 180.0)?)?;
    let radius_m = number("radius_m", query.radius_m.as_ref(), 1.0, RADIUS_MAX_M)?.unwrap_or(RADIUS_DEFAULT_M);
    let limit = query.limit.as_ref().map_or(Ok(LIMIT_DEFAULT), |text| match text.parse::<usize>() {
        Ok(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        _ => Err(Problem::field("limit", format!("must be a whole number from 1 to {LIMIT_MAX}"))),
    })?;
    let drivers = state.questions.nearby(Position { lat, lng }, radius_m, limit).await;
    Ok(Json(NearbyResponse { drivers }))
}
