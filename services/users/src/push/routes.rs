//! The routes of devices that receive pushes.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use chrono::{DateTime, Utc};
use platform::api::{Created, NoContent};
use platform::problem::Json;
use platform::routes::Routes;
use platform::{Access, Problem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use streams::UserId;
use streams::event::rfc3339;
use uuid::Uuid;

use super::config::VapidConfig;
use super::device::{self, PushDevice, PushPlatform, Subscription};
use super::{rows, webhook};
use crate::context::Context;

pub(crate) fn routes() -> Routes<Context> {
    Routes::default()
        .post("/v1/devices", register)
        .described("Register a device for pushes.", &[])
        .get("/v1/devices", list)
        .described("The caller's devices.", &[])
        .delete("/v1/devices", remove_named)
        .described("Remove a device, named in the body.", &["not_found"])
        .delete("/v1/devices/{id}", remove)
        .described("Remove a device.", &[])
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "DeviceRegistration")]
struct Registration {
    #[schemars(with = "PushPlatform")]
    platform: String,
    /// A registration token of FCM, a device token of APNs, the subscription of a browser (as an object or as its text), or the https address
    /// of a webhook.
    #[schemars(with = "DeviceToken")]
    token: Value,
}

/// What a client may give as a token.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "its schema alone is used: the token is read by its platform")]
enum DeviceToken {
    Text(String),
    Browser(Subscription),
}

#[derive(Serialize, JsonSchema)]
struct RegisteredDevice {
    device_id: Uuid,
    /// The key of the signatures of a webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// A device as its owner is shown it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Device")]
pub(crate) struct DeviceView {
    device_id: Uuid,
    #[schemars(with = "PushPlatform")]
    platform: &'static str,
    /// Its end alone: who has the whole can send to the device.
    token: String,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    created_at: DateTime<Utc>,
    /// In the list: whether the caller's sign-in registered it.
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<bool>,
}

#[derive(Serialize, JsonSchema)]
struct DeviceList {
    devices: Vec<DeviceView>,
    /// With it a browser subscribes; null if this platform does not push to browsers.
    vapid_public_key: Option<String>,
}

/// 201, also for a repeat, which changes nothing but the sign-in that the device belongs to.
async fn register(
    State(context): State<Context>,
    access: Access,
    Json(request): Json<Registration>,
) -> Result<Created<RegisteredDevice>, Problem> {
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
    let secret = (platform == PushPlatform::Webhook).then(|| webhook::secret(&context.tokens, id));
    Ok(Created(RegisteredDevice { device_id: id, secret }))
}

async fn list(State(context): State<Context>, access: Access) -> Result<Json<DeviceList>, Problem> {
    let mut tx = context.store.begin().await?;
    let devices = rows::of_user(&mut tx, access.user).await?;
    let view = |device: &PushDevice| DeviceView {
        current: Some(device.sign_in.is_some() && device.sign_in == access.sign_in),
        ..view(device)
    };
    let vapid_public_key = context.config.push.vapid.as_ref().map(VapidConfig::public_key);
    Ok(Json(DeviceList { devices: devices.iter().map(view).collect(), vapid_public_key }))
}

/// A device as its owner is shown it, without the token, by which anybody could send to it.
pub(crate) fn view(device: &PushDevice) -> DeviceView {
    DeviceView {
        device_id: device.id,
        platform: device.platform.as_str(),
        token: device::shown(device.platform, &device.token),
        created_at: device.created_at,
        current: None,
    }
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "DeviceRemoval")]
struct Removal {
    device_id: Uuid,
}

async fn remove_named(
    State(context): State<Context>,
    access: Access,
    Json(request): Json<Removal>,
) -> Result<NoContent, Problem> {
    remove_of(&context, access.user, request.device_id).await
}

async fn remove(
    State(context): State<Context>,
    access: Access,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<NoContent, Problem> {
    let Path(id) = id.map_err(|_| Problem::not_found("device"))?;
    remove_of(&context, access.user, id).await
}

/// Another user's device is not found, like one that does not exist.
async fn remove_of(context: &Context, user: UserId, id: Uuid) -> Result<NoContent, Problem> {
    let mut tx = context.store.begin().await?;
    if !rows::remove(&mut tx, user, id).await? {
        return Err(Problem::not_found("device"));
    }
    tx.commit().await?;
    Ok(NoContent)
}
