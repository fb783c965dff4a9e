//! `ride.start`, `ride.arrive`, `ride.cancel`: a NATS request with a deadline, which rides answers after its commit.

use serde_json::Value;
use streams::ride_command::{RIDE_COMMAND_WAIT, RIDE_COMMANDS, RideAction, RideCommand, RideReply};
use streams::{RideId, UserId};

use super::command::Refusal;
use crate::context::Context;

pub(crate) async fn request(
    context: &Context,
    user: UserId,
    ride_id: RideId,
    action: RideAction,
) -> Result<Value, Refusal> {
    let traceparent = context.new_trace().as_str().to_owned();
    let command = RideCommand { user_id: user, ride_id, action, traceparent };
    let payload = serde_json::to_vec(&command).map_err(|_| Refusal::unavailable())?;
    if !context.rides.admits() {
        return Err(Refusal::unavailable());
    }
    let reply = match context.platform.bus.request(RIDE_COMMANDS, payload.into(), RIDE_COMMAND_WAIT).await {
        Ok(reply) => {
            context.rides.succeeded();
            reply
        }
        Err(error) => {
            context.rides.failed();
            tracing::warn!(%error, %ride_id, "rides did not answer a command");
            return Err(Refusal::unavailable());
        }
    };
    match serde_json::from_slice(&reply) {
        Ok(RideReply::Ok(data)) => Ok(data),
        Ok(RideReply::Error { code, message, field }) => {
            Err(Refusal { code: code.into(), field, ..Refusal::new("", message) })
        }
        Err(error) => {
            tracing::error!(%error, %ride_id, "the reply of rides to a command cannot be parsed");
            Err(Refusal::unavailable())
        }
    }
}
