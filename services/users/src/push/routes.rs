//! The routes of devices that receive pushes.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use platform::problem::Json;
use platform::routes::Routes;
use platform::{Access, Problem};
use serde::Deserialize;
use serde_json::{Value, json};
use streams::UserId;
use streams::event::rfc3339;
use uuid::Uuid;

use super::config::VapidConfig;
use super::device::{self, PushDevice, PushPlatform};
use super::{rows, webhook};
use crate::context::Context;

pub(crate) fn routes() -> Routes<Context> {
    Routes::default()
        .post("/v1/devices", register)
        .get("/v1/devices", list)
        .delete("/v1/devices", remove_named)
        .delete("/v1/devices/{id}", remove)
}

#[derive(Deserialize)]
struct Registration {
    platform: String,
    token: Value,
}

/// 201, also for a repeat, which changes nothing but the sign-in that the device belongs to.
async fn register(
    State(context): State<Context>,
    access: Access,
    Json(request): Json<Registration>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let platform = PushPlatform::parse(&request.platform)
        .ok_or_else(|| Problem::field("platform", "must be one of fcm, apns, webpush and webhook"))?;
    let token = device::parse_token(platform, &request.token, context.config.push.reach)?;
    let world = &context.platform.world;
    let new = PushDevice {
        id: world.id(),
        user: access.user,
        platform,
        token,
        sign_in: access.sign_in,
        created_at: world.now(),
    };
    let mut tx = context.store.begin().await?;
    let id = rows::register(&mut tx, new).await?;
    tx.commit().await?;
    tracing::info!(user_id = %access.user, device_id = %id, platform = platform.as_str(), "a device receives pushes");
    let mut answer = json!({"device_id": id});
    if platform == PushPlatform::Webhook {
        answer["secret"] = webhook::secret(&context.tokens, id).into();
    }
    Ok((StatusCode::CREATED, Json(answer)))
}

async fn list(State(context): State<Context>, access: Access) -> Result<Json<Value>, Problem> {
    let mut tx = context.store.begin().await?;
    let devices = rows::of_user(&mut tx, access.user).await?;
    let view = |device: &PushDevice| {
        let mut view = view(device);
        view["current"] = (device.sign_in.is_some() && device.sign_in == access.sign_in).into();
        view
    };
    // With it a browser subscribes; null if this platform does not push to browsers.
    let vapid_public_key = context.config.push.vapid.as_ref().map(VapidConfig::public_key);
    let devices: Vec<Value> = devices.iter().map(view).collect();
    Ok(Json(json!({"devices": devices, "vapid_public_key": vapid_public_key})))
}

/// A device as its owner is shown it, without the token, by which anybody could send to it.
pub(crate) fn view(device: &PushDevice) -> Value {
    json!({
        "device_id": device.id,
        "platform": device.platform.as_str(),
        "token": device::shown(device.platform, &device.token),
        "created_at": rfc3339::text(&device.created_at),
    })
}

#[derive(Deserialize)]
struct Removal {
    device_id: Uuid,
}

async fn remove_named(
    State(context): State<Context>,
    access: Access,
    Json(request): Json<Removal>,
) -> Result<StatusCode, Problem> {
    remove_of(&context, access.user, request.device_id).await
}

async fn remove(
    State(context): State<Context>,
    access: Access,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let id = id.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(|| Problem::not_found("device"))?;
    remove_of(&context, access.user, id).await
}

/// Another user's device is not found, like one that does not exist.
async fn remove_of(context: &Context, user: UserId, id: Uuid) -> Result<StatusCode, Problem> {
    let mut tx = context.store.begin().await?;
    if !rows::remove(&mut tx, user, id).await? {
        return Err(Problem::not_found("device"));
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
