//! What a client's command does, and the data of its `ack`. It touches no socket, and changes only rows of the caller.

pub(crate) mod command;

mod beacon;
mod mailbox;
mod offer;
pub(crate) mod positions;
mod ride;
mod search;

use platform::{Retry, Transaction, kill_point};
use serde_json::Value;
use streams::{RideId, UserId};

use crate::context::Context;
use crate::tables::Tables;
use command::{Command, CommandError, Refusal, RowCommand};

/// Executes a command of `user`; `ride` is the ride to which a driver's positions belong. The effect is durable on return.
///
/// # Errors
/// [`Refusal`], and nothing was changed. After `unavailable` the client repeats the same command.
pub(crate) async fn execute(
    context: &Context,
    user: UserId,
    ride: Option<RideId>,
    command: Command,
) -> Result<Value, Refusal> {
    match command {
        Command::Ride(ride_id, action) => ride::request(context, user, ride_id, action).await,
        Command::Positions(points) => {
            if !positions::is_driver(context, user).await? {
                return Err(Refusal::not_driver());
            }
            positions::publish(context, user, ride, points).await
        }
        Command::Rows(command) => {
            // A conflict means that another command of the same user committed first. The retry sees its rows.
            let retry = Retry::SerializationOrConflict;
            let result = context.store.transact(retry, |tx| execute_in(context, tx, user, command)).await;
            let data = result.map_err(|error| match error {
                CommandError::Refused(refusal) => refusal,
                CommandError::Store(error) => error.into(),
            })?;
            kill_point::reached("command.before_ack");
            Ok(data)
        }
    }
}

async fn execute_in(
    context: &Context,
    tx: Transaction<Tables>,
    user: UserId,
    command: RowCommand,
) -> Result<Value, CommandError> {
    match command {
        RowCommand::Beacon(update) => beacon::update(context, tx, user, update).await,
        RowCommand::Search(trip) => search::begin(context, tx, user, trip).await,
        RowCommand::EndSearch => search::end(context, tx, user).await,
        RowCommand::Answer(id, answer) => offer::answer(context, tx, user, id, answer).await,
        RowCommand::MailboxAck(seq) => mailbox::ack(tx, user, seq).await,
    }
}
