//! Requests to rides: a NATS request with a deadline, which rides answers after its commit. `ride.start`, `ride.arrive` and
//! `ride.cancel` are nothing else; `ride.wait` also says where the driver is.

use chrono::Duration;
use serde_json::Value;
use streams::newest_position::{NEWEST_POSITION, NEWEST_POSITION_WAIT, NewestPosition, NewestPositionRequest};
use streams::ride_command::{RIDE_COMMAND_WAIT, RIDE_COMMANDS, RideAction, RideCommand, RideReply};
use streams::{RideId, UserId};

use super::command::Refusal;
use super::sender::Sender;
use crate::context::Context;
use crate::presence::Located;

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
        Ok(RideReply::Error { code, message, field, allowed_at }) => {
            Err(Refusal { code: code.into(), field, allowed_at, ..Refusal::new("", message) })
        }
        Err(unanswered) => {
            if let Unanswered::Failed(error) = unanswered {
                tracing::warn!(error, %ride_id, "rides did not answer a command");
            }
            Err(Refusal::unavailable())
        }
    }
}

/// A place this old is asked of location: another process may have received a newer one.
const PLACE_AGE_MAX: Duration = Duration::seconds(15);

/// `ride.wait`: rides decides by the driver's place as the platform knows it.
pub(crate) async fn wait(context: &Context, sender: &Sender, ride_id: RideId) -> Result<Value, Refusal> {
    let driver_at = place_of_driver(context, sender).await.map(|located| located.location);
    request(context, sender.user, ride_id, RideAction::Wait { driver_at }).await
}

/// The newest place of the sender that this pod or location knows. However old it is, nobody knows a better one; without one the
/// driver is asked for a position, because waiting costs the passenger money.
async fn place_of_driver(context: &Context, sender: &Sender) -> Option<Located> {
    let here = sender.driver().located();
    let recent = context.platform.world.now() - PLACE_AGE_MAX;
    if here.is_some_and(|located| located.at >= recent) {
        return here;
    }
    let request = serde_json::to_vec(&NewestPositionRequest { driver_id: sender.user }).expect("an id is JSON");
    let reply = context.platform.bus.request(NEWEST_POSITION, request.into(), NEWEST_POSITION_WAIT).await.ok();
    let newest: Option<NewestPosition> = reply.and_then(|reply| serde_json::from_slice(&reply).ok()).flatten();
    let there = newest.map(|newest| Located { location: newest.location, at: newest.received_at });
    here.into_iter().chain(there).max_by_key(|located| located.at)
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
