//! The routes by which a sign-in begins, of profiles and of drivers. A sign-in goes on in `sign_in/routes.rs`, a WebSocket begins
//! in `gateway/upgrade.rs`.
//!
//! No route takes a user's id: whose profile it is follows from the access token alone.

use axum::extract::State;
use axum::http::HeaderMap;
use platform::api::{Created, NoContent};
use platform::problem::Json;
use platform::routes::Routes;
use platform::{ClientAddress, Problem, SignedIn, StoreError, Transaction};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use streams::{UserId, VehicleType};

use crate::account::export::Export;
use crate::account::rows::VEHICLE_KEYS;
use crate::account::{self, Driver, Profile, standing, suspension};
use crate::context::Context;
use crate::sign_in::otp;
use crate::sign_in::otp::routes::TokenRequest;
use crate::sign_in::routes::{TokenResponse, begin};
use crate::state::StateView;
use crate::tables::Tables;
use crate::{commands, missed_offers, party, phone_change, state};

pub(crate) fn routes() -> Routes<Context> {
    Routes::default()
        .post("/v1/auth/otp", otp::routes::request_code)
        .described("Send a one-time code to a phone.", &[])
        .post("/v1/auth/token", sign_in_by_code)
        .described("Sign in with a code. An unknown phone becomes a passenger.", &["invalid_code"])
        .get("/v1/me", me)
        .described("The caller's profile.", &[])
        .patch("/v1/me", change_me)
        .described("Change the caller's profile.", &[])
        .delete("/v1/me", delete_me)
        .described("Delete the account.", &["debt_open", "ride_live"])
        .get("/v1/me/export", export_me)
        .described("All that is stored of the caller.", &[])
        .get("/v1/me/missed-offers", missed_offers::get)
        .described(
            "Why others were offered the searches around the caller, a driver.",
            &["driver_not_approved", "not_driver"],
        )
        .post("/v1/me/phone", phone_change::routes::request)
        .described("Ask for another phone number: a code goes to the old and to the new one.", &["same_phone"])
        .post("/v1/me/phone/confirm", phone_change::routes::confirm)
        .described("Change the phone number, with both codes.", &["invalid_code", "phone_taken"])
        .post("/v1/drivers", register_driver)
        .described("Become a driver.", &["already_driver", "plate_taken"])
        .patch("/v1/drivers", change_vehicle)
        .described("Change the vehicle.", &["not_driver", "ride_live", "plate_taken"])
        .get("/v1/state", state)
        .described("Everything that a client needs to draw its screen.", &[])
        .post("/v1/commands", commands::routes::run)
        .with(commands::routes::describe)
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

async fn state(State(context): State<Context>, SignedIn(user): SignedIn) -> Result<Json<StateView>, Problem> {
    Ok(Json(state::of(&context, user).await?))
}

/// A merge patch (RFC 7396). Fields that a user may not change are ignored, above all roles.
#[derive(Debug, Deserialize, JsonSchema)]
struct ProfilePatch {
    /// Absent: the name stays. Null: the name is removed.
    #[serde(default, deserialize_with = "present")]
    #[schemars(length(min = 1, max = 100))]
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

/// 204. After it the access token is refused, as after a sign-out.
async fn delete_me(State(context): State<Context>, SignedIn(user): SignedIn) -> Result<NoContent, Problem> {
    account::deletion::delete(&context, user).await?;
    Ok(NoContent)
}

async fn export_me(State(context): State<Context>, SignedIn(user): SignedIn) -> Result<Json<Export>, Problem> {
    account::export::of(&context, user).await?.map(Json).ok_or_else(no_such_user)
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "DriverRegistration")]
struct Registration {
    vehicle_type: VehicleType,
    /// 1 to 16 letters or digits of any script, and spaces and hyphens.
    #[schemars(length(min = 1))]
    plate: String,
    #[schemars(length(min = 1))]
    make: Option<String>,
    #[schemars(length(min = 1))]
    model: Option<String>,
    #[schemars(length(min = 1))]
    color: Option<String>,
}

/// 201, also for a repeat of the same registration. Another vehicle of a registered driver is a conflict.
async fn register_driver(
    State(context): State<Context>,
    SignedIn(user): SignedIn,
    Json(registration): Json<Registration>,
) -> Result<Created<Profile>, Problem> {
    let Registration { vehicle_type, plate, make, model, color } = registration;
    let word = |field: &str, word: Option<String>| word.map(|word| account::validate_word(field, &word)).transpose();
    let driver = Driver {
        make: word("make", make)?,
        model: word("model", model)?,
        color: word("color", color)?,
        status: context.config.driver_approval.of_new(),
        ..Driver::new(vehicle_type, account::plate::normalize(&plate)?)
    };
    let mut tx = context.store.begin().await?;
    if !account::rows::lock(&mut tx, user).await? {
        return Err(no_such_user());
    }
    match account::rows::driver_of(&mut tx, user).await? {
        Some(known) if known.is_registered_by(&driver) => {}
        Some(known) => {
            let vehicle = format!("{} {}", known.vehicle_type.as_str(), known.plate);
            let message = format!("you are a driver already, with {vehicle}: change it with PATCH /v1/drivers");
            return Err(Problem::conflict("already_driver", message));
        }
        None => match insert_driver(&context, &mut tx, user, driver).await {
            Err(StoreError::Conflict { constraint }) if VEHICLE_KEYS.contains(&&*constraint) => {
                return Err(standing::plate_taken());
            }
            inserted => inserted?,
        },
    }
    let profile = account::rows::profile_of(&mut tx, user).await?.ok_or_else(no_such_user)?;
    tx.commit().await?;
    party::changed(&context, user).await;
    Ok(Created(profile))
}

/// A new driver; one who was suspended under an earlier account does not come back as approved.
async fn insert_driver(
    context: &Context,
    tx: &mut Transaction<Tables>,
    user: UserId,
    driver: Driver,
) -> Result<(), StoreError> {
    let Some(phone) = account::rows::phone_of(tx, user).await? else { return Ok(()) };
    let status = suspension::status_of_new(context, tx, (&phone, &driver.plate), driver.status).await?;
    account::rows::insert_driver(tx, user, &Driver { status, ..driver }, context.platform.world.now()).await
}

/// A merge patch (RFC 7396) of what the caller drives.
#[derive(Debug, Deserialize, JsonSchema)]
struct VehiclePatch {
    vehicle_type: Option<VehicleType>,
    plate: Option<String>,
    /// Absent: it stays. Null: it is removed.
    #[serde(default, deserialize_with = "present")]
    make: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    model: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    color: Option<Option<String>>,
}

async fn change_vehicle(
    State(context): State<Context>,
    SignedIn(user): SignedIn,
    Json(patch): Json<VehiclePatch>,
) -> Result<Json<Profile>, Problem> {
    let VehiclePatch { vehicle_type, plate, make, model, color } = patch;
    let plate = plate.map(|plate| account::plate::normalize(&plate)).transpose()?;
    let word = |field: &str, word: Option<Option<String>>| {
        word.map(|word| word.map(|word| account::validate_word(field, &word)).transpose()).transpose()
    };
    let (make, model, color) = (word("make", make)?, word("model", model)?, word("color", color)?);
    standing::change_vehicle(&context, user, |driver| Driver {
        vehicle_type: vehicle_type.unwrap_or(driver.vehicle_type),
        plate: plate.clone().unwrap_or(driver.plate),
        make: make.clone().unwrap_or(driver.make),
        model: model.clone().unwrap_or(driver.model),
        color: color.clone().unwrap_or(driver.color),
        status: driver.status,
    })
    .await?;
    party::changed(&context, user).await;
    me(State(context), SignedIn(user)).await
}

/// The token is valid but has no user: it is from another database, or from a memory store that is gone.
fn no_such_user() -> Problem {
    Problem::unauthorized("there is no such user any more: sign in again")
}
