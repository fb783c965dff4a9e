//! What a client's command does, and the data of its `ack`. It touches no socket, and changes only rows of the caller.

pub(crate) mod command;

mod beacon;
mod mailbox;
mod offer;
pub(crate) mod positions;
mod ride;
mod search;
pub(crate) mod sender;

use platform::{Retry, Transaction, kill_point};
use serde_json::Value;

use crate::context::Context;
use crate::tables::Tables;
use command::{Command, CommandError, Refusal, RowCommand};
use sender::Sender;

/// Executes a command. The effect is durable on return.
///
/// # Errors
/// [`Refusal`], and nothing was changed. After `unavailable` the client repeats the same command.
pub(crate) async fn execute(context: &Context, sender: Sender, command: Command) -> Result<Value, Refusal> {
    match command {
        Command::Ride(ride_id, action) => ride::request(context, sender.user, ride_id, action).await,
        Command::Positions(points) => {
            if !positions::is_driver(context, sender.user).await? {
                return Err(Refusal::not_driver());
            }
            positions::publish(context, &sender, points).await
        }
        Command::Rows(command) => {
            // A conflict means that another command of the same user committed first. The retry sees its rows.
            let retry = Retry::SerializationOrConflict;
            let result = context.store.transact(retry, |tx| execute_in(context, tx, &sender, command)).await;
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
    sender: &Sender,
    command: RowCommand,
) -> Result<Value, CommandError> {
    let user = sender.user;
    match command {
        RowCommand::Beacon(update) => beacon::update(context, tx, user, update).await,
        RowCommand::Search(trip) => search::begin(context, tx, user, trip).await,
        RowCommand::EndSearch => search::end(context, tx, user).await,
        RowCommand::Answer(id, answer) => offer::answer(context, tx, user, id, answer).await,
        RowCommand::MailboxAck(seq) => mailbox::ack(context, tx, user, &sender.device, seq).await,
    }
}
