//! `POST /v1/commands`: one command in the body of a request, as in a frame of a socket. What it does, and what it is refused for, is the
//! same code; here is only who sends it.

use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use platform::api::{Operation, RequestBody, Schemas};
use platform::limits::Limit;
use platform::problem::{Json, Object, read_body, read_json, require_json};
use platform::{Problem, SignedIn, StoreError, spans};
use schemars::JsonSchema;
use serde::Deserialize;
use streams::UserId;

use super::ack::Ack;
use super::command::{self, Answer, COMMAND_CODES, Command, Refusal};
use super::execute;
use super::sender::{Sender, Via};
use crate::context::Context;
use crate::gateway::description;
use crate::gateway::frame::{self, Frame};
use crate::gateway::sockets::Shared;
use crate::gateway::transport::FRAME_MAX;
use crate::live_ride;
use crate::mailbox::Device;

/// What a body may have beside the fields of a frame.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct OnDevice {
    /// The installation of the app, of its own choosing; in the query or in the body.
    #[schemars(length(min = 1, max = 64))]
    device: Option<String>,
}

/// The handler reads the body as a frame, so that its types do not say what it is.
pub(crate) fn describe(operation: &mut Operation) {
    operation.summary = "One command, as over the socket: the same body, the same codes, the same idempotence.";
    operation.query = Some(Schemas::read::<OnDevice>);
    operation.body = Some(RequestBody { schema: description::command_body, is_optional: false });
    operation.add_codes(&["unsupported_media_type", "body_too_large", "body_too_slow", "frame_too_large"]);
    operation.add_codes(COMMAND_CODES);
}

pub(crate) async fn run(
    State(context): State<Context>,
    SignedIn(user): SignedIn,
    request: Request,
) -> Result<Json<Ack>, Problem> {
    require_json(request.headers())?;
    let query = Query::<OnDevice>::try_from_uri(request.uri()).map(|Query(query)| query.device).unwrap_or_default();
    let body = read_body(request, &context, FRAME_MAX).await?;
    let invalid = || Problem::new(StatusCode::BAD_REQUEST, "invalid_json", "the body is not UTF-8");
    let text = std::str::from_utf8(&body).map_err(|_| invalid())?;
    let now = context.platform.world.now();
    // Of the request, which the header of the client's own trace began; without one the frame may have it.
    let caller = spans::current();
    let Frame { request, traceparent, .. } =
        frame::parse(text, now).map_err(|refused| refused.refusal.into_problem())?;
    let frame::Request::Command(mut command) = request else {
        let message = "only a socket goes by an access token: send the new one with your next request";
        return Err(Refusal { field: Some("type".to_owned()), ..Refusal::new("unknown_type", message) }.into_problem());
    };
    let Object(OnDevice { device }) = read_json(text.as_bytes())?;
    let device = query.or(device);
    let device = match device {
        None => Device::UNNAMED,
        Some(name) => {
            Device::named(&name).ok_or_else(|| Problem::field("device", "must have 1 to 64 visible characters"))?
        }
    };
    let device_name: Arc<str> = device.as_str().into();
    let points = context.platform.limiter.limits().quota(Limit::Points);
    let (shared, clock) = context.sockets.caller(user, &device_name, points);
    command::begin(&context.platform, user, &mut command, &clock, Answer::Ack)
        .map_err(|not_begun| not_begun.into_refusal().into_problem())?;
    let sender = sender(&context, user, (device, device_name), shared, &command).await?;
    let caller = caller.or_else(|| context.platform.spans.of_client(&traceparent?));
    execute(&context, sender, command, caller).await.map(Json).map_err(Refusal::into_problem)
}

async fn sender(
    context: &Context,
    user: UserId,
    (device, device_name): (Device, Arc<str>),
    shared: Shared,
    command: &Command,
) -> Result<Sender, StoreError> {
    let Shared { publish_lane, known_driver } = shared;
    let mut sender = Sender {
        via: Via::Request,
        user,
        device,
        device_name,
        ride: None,
        ride_device: false,
        publish_lane,
        known_driver,
    };
    if matches!(command, Command::Positions(_)) {
        // To which ride positions belong, a socket knows from its events.
        let mut tx = context.store.begin().await?;
        sender.ride = live_ride::rows::current(&mut tx, user).await?.driven;
        if let Some(ride) = sender.ride {
            let device = live_ride::rows::device_of(&mut tx, ride.ride_id).await?;
            sender.ride_device = device.as_deref() == Some(&*sender.device_name);
        }
    }
    Ok(sender)
}
