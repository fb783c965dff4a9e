//! The routes of sign-in, profiles and drivers. A WebSocket begins in `gateway/upgrade.rs`.
//!
//! No route takes a user's id: whose profile it is follows from the access token alone.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use platform::problem::Json;
use platform::token::ACCESS_TOKEN_S;
use platform::{ClientAddress, Problem, SignedIn, StoreError};
use serde::{Deserialize, Deserializer, Serialize};
use streams::{UserId, VehicleType};
use uuid::Uuid;

use crate::account::rows::PLATE_KEY;
use crate::account::{self, Driver, Profile};
use crate::context::Context;
use crate::sign_in::otp::routes::TokenRequest;
use crate::sign_in::{self, TokenStatus, otp, refresh_token_hash};

pub(crate) fn router() -> Router<Context> {
    Router::new()
        .route("/v1/auth/otp", post(otp::routes::request_code))
        .route("/v1/auth/token", post(sign_in_by_code))
        .route("/v1/auth/refresh", post(refresh))
        .route("/v1/me", get(me).patch(change_me))
        .route("/v1/drivers", post(register_driver))
}

#[derive(Serialize)]
struct TokenResponse {
    access_token: String,
    token_type: &'static str,
    expires_in_s: i64,
    refresh_token: String,
    user: Profile,
}

impl TokenResponse {
    fn new(context: &Context, user: UserId, profile: Profile, refresh_token: String) -> Json<Self> {
        let (access_token, token_type) = (context.tokens.access(user), "Bearer");
        Json(Self { access_token, token_type, expires_in_s: ACCESS_TOKEN_S, refresh_token, user: profile })
    }
}

async fn sign_in_by_code(
    State(context): State<Context>,
    address: ClientAddress,
    Json(request): Json<TokenRequest>,
) -> Result<Json<TokenResponse>, Problem> {
    let (mut tx, phone) = otp::routes::verify(&context, address, &request).await?;
    let world = &context.platform.world;
    let now = world.now();
    let user = account::rows::get_or_insert(&mut tx, &phone, world.id(), now).await?;
    let id = world.id::<Uuid>();
    sign_in::rows::insert_sign_in(&mut tx, id, user, now).await?;
    let token = sign_in::new_refresh_token(world);
    sign_in::rows::insert_refresh_token(&mut tx, &refresh_token_hash(&context.tokens, &token), id, now).await?;
    let profile = account::rows::profile_of(&mut tx, user).await?.ok_or_else(invalid_refresh_token)?;
    tx.commit().await?;
    Ok(TokenResponse::new(&context, user, profile, token))
}

#[derive(Deserialize)]
struct RefreshRequest {
    refresh_token: String,
}

async fn refresh(
    State(context): State<Context>,
    Json(request): Json<RefreshRequest>,
) -> Result<Json<TokenResponse>, Problem> {
    let hash = refresh_token_hash(&context.tokens, &request.refresh_token);
    let world = &context.platform.world;
    let now = world.now();

    let mut tx = context.store.begin().await?;
    let presented = sign_in::rows::refresh_token(&mut tx, &hash).await?.ok_or_else(invalid_refresh_token)?;
    match presented.status(now) {
        TokenStatus::Invalid => return Err(invalid_refresh_token()),
        TokenStatus::Reused => {
            sign_in::rows::revoke(&mut tx, presented.sign_in, now).await?;
            tx.commit().await?;
            tracing::warn!(user_id = %presented.user, "a refresh token was used twice: its sign-in has ended");
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "token_reused", "used before: sign in again"));
        }
        TokenStatus::Valid => {}
    }
    sign_in::rows::set_used(&mut tx, &hash, now).await?;
    let token = sign_in::new_refresh_token(world);
    let new_hash = refresh_token_hash(&context.tokens, &token);
    sign_in::rows::insert_refresh_token(&mut tx, &new_hash, presented.sign_in, now).await?;
    let profile = account::rows::profile_of(&mut tx, presented.user).await?.ok_or_else(invalid_refresh_token)?;
    tx.commit().await?;
    Ok(TokenResponse::new(&context, presented.user, profile, token))
}

fn invalid_refresh_token() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "invalid_token", "the refresh token is not valid: sign in again")
}

async fn me(State(context): State<Context>, SignedIn(user): SignedIn) -> Result<Json<Profile>, Problem> {
    let mut tx = context.store.begin().await?;
    account::rows::profile_of(&mut tx, user).await?.map(Json).ok_or_else(no_such_user)
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
    let driver = Driver { vehicle_type: registration.vehicle_type, plate };
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
    Ok((StatusCode::CREATED, Json(profile)))
}

/// The token is valid but has no user: it is from another database, or from a memory store that is gone.
fn no_such_user() -> Problem {
    Problem::unauthorized("there is no such user any more: sign in again")
}
