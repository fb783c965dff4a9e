//! Requests to rides: a NATS request with a deadline, which rides answers after its commit. `ride.start`, `ride.arrive` and
//! `ride.cancel` are nothing else.

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
    match ask(context, payload).await {
        Ok(RideReply::Ok(data)) => Ok(data),
        Ok(RideReply::Error { code, message, field }) => {
            Err(Refusal { code: code.into(), field, ..Refusal::new("", message) })
        }
        Err(unanswered) => {
            if let Unanswered::Failed(error) = unanswered {
                tracing::warn!(error, %ride_id, "rides did not answer a command");
            }
            Err(Refusal::unavailable())
        }
    }
}

/// Why there is no reply of rides.
pub(crate) enum Unanswered {
    /// It was not asked: it has not answered for a while.
    NotAsked,
    /// The outcome is unknown.
    Failed(String),
}

/// The reply of rides to a request.
pub(crate) async fn ask(context: &Context, request: Vec<u8>) -> Result<RideReply, Unanswered> {
    if !context.rides.admits() {
        return Err(Unanswered::NotAsked);
    }
    let reply = match context.platform.bus.request(RIDE_COMMANDS, request.into(), RIDE_COMMAND_WAIT).await {
        Ok(reply) => {
            context.rides.succeeded();
            reply
        }
        Err(error) => {
            context.rides.failed();
            return Err(Unanswered::Failed(error.to_string()));
        }
    };
    serde_json::from_slice(&reply).map_err(|error| Unanswered::Failed(format!("the reply cannot be parsed: {error}")))
}
