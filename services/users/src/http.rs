//! The routes by which a sign-in begins, of profiles and of drivers. A sign-in goes on in `sign_in/routes.rs`, a WebSocket begins
//! in `gateway/upgrade.rs`.
//!
//! No route takes a user's id: whose profile it is follows from the access token alone.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use platform::problem::Json;
use platform::routes::Routes;
use platform::{ClientAddress, Problem, SignedIn, StoreError};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use streams::VehicleType;

use crate::account::rows::PLATE_KEY;
use crate::account::{self, Driver, Profile};
use crate::context::Context;
use crate::sign_in::otp;
use crate::sign_in::otp::routes::TokenRequest;
use crate::sign_in::routes::{TokenResponse, begin};
use crate::{commands, party, state};

pub(crate) fn routes() -> Routes<Context> {
    Routes::default()
        .post("/v1/auth/otp", otp::routes::request_code)
        .post("/v1/auth/token", sign_in_by_code)
        .get("/v1/me", me)
        .patch("/v1/me", change_me)
        .post("/v1/drivers", register_driver)
        .get("/v1/state", state)
        .post("/v1/commands", commands::routes::run)
}

async fn sign_in_by_code(
    State(context): State<Context>,
    address: ClientAddress,
    headers: HeaderMap,
    Json(request): Json<TokenRequest>,
) -> Result<Json<TokenResponse>, Problem> {
    let (mut tx, phone) = otp::routes::verify(&context, address, &request).await?;
    let world = &context.platform.world;
    let now = world.now();
    let user = account::rows::get_or_insert(&mut tx, &phone, world.id(), now).await?;
    begin(&context, tx, user, &headers).await
}

async fn me(State(context): State<Context>, SignedIn(user): SignedIn) -> Result<Json<Profile>, Problem> {
    let mut tx = context.store.begin().await?;
    account::rows::profile_of(&mut tx, user).await?.map(Json).ok_or_else(no_such_user)
}

async fn state(State(context): State<Context>, SignedIn(user): SignedIn) -> Result<Json<Value>, Problem> {
    Ok(Json(state::of(&context, user).await?))
}

/// A merge patch (RFC 7396). Fields that a user may not change are ignored, above all roles.
#[derive(Debug, Deserialize)]
struct ProfilePatch {
    /// Absent: the name stays. Null: the name is removed.
    #[serde(default, deserialize_with = "present")]
    name: Option<Option<String>>,
}

fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(from).map(Some)
}

async fn change_me(
    State(context): State<Context>,
    SignedIn(user): SignedIn,
    Json(patch): Json<ProfilePatch>,
) -> Result<Json<Profile>, Problem> {
    let name = patch.name.map(|name| name.as_deref().map(account::validate_name).transpose()).transpose()?;
    let mut tx = context.store.begin().await?;
    if let Some(name) = name {
        account::rows::set_name(&mut tx, user, name.as_deref()).await?;
    }
    let profile = account::rows::profile_of(&mut tx, user).await?.ok_or_else(no_such_user)?;
    tx.commit().await?;
    party::changed(&context, user).await;
    Ok(Json(profile))
}

#[derive(Debug, Deserialize)]
struct Registration {
    vehicle_type: VehicleType,
    plate: String,
}

/// 201, also for a repeat of the same registration. Another vehicle of a registered driver is a conflict.
async fn register_driver(
    State(context): State<Context>,
    SignedIn(user): SignedIn,
    Json(registration): Json<Registration>,
) -> Result<(StatusCode, Json<Profile>), Problem> {
    let plate = account::normalize_plate(&registration.plate)?;
    let driver = Driver::new(registration.vehicle_type, plate);
    let now = context.platform.world.now();
    let mut tx = context.store.begin().await?;
    if !account::rows::lock(&mut tx, user).await? {
        return Err(no_such_user());
    }
    match account::rows::driver_of(&mut tx, user).await? {
        Some(known) if known == driver => {}
        Some(known) => {
            let message = format!("you are a driver already, with {} {}", known.vehicle_type.as_str(), known.plate);
            return Err(Problem::conflict("already_driver", message));
        }
        None => match account::rows::insert_driver(&mut tx, user, &driver, now).await {
            Err(StoreError::Conflict { constraint }) if constraint == PLATE_KEY => {
                return Err(Problem::conflict("plate_taken", "another driver has this plate"));
            }
            inserted => inserted?,
        },
    }
    let profile = account::rows::profile_of(&mut tx, user).await?.ok_or_else(no_such_user)?;
    tx.commit().await?;
    party::changed(&context, user).await;
    Ok((StatusCode::CREATED, Json(profile)))
}

/// The token is valid but has no user: it is from another database, or from a memory store that is gone.
fn no_such_user() -> Problem {
    Problem::unauthorized("there is no such user any more: sign in again")
}
