//! What a client's command does, and the data of its `ack`, whether it came over a socket or by `POST /v1/commands` (`routes`). It touches
//! no socket, and changes only rows of the caller.

pub(crate) mod ack;
pub(crate) mod command;

pub(crate) mod beacon;
mod begun;
pub(crate) mod joint_publish;
pub(crate) mod joint_search;
mod mailbox;
mod offer;
pub(crate) mod positions;
pub(crate) mod publish_lane;
pub(crate) mod ride;
pub(crate) mod routes;
pub(crate) mod search;
pub(crate) mod sender;
pub(crate) mod stream_room;
pub(crate) mod window;

use platform::{Retry, Trace, kill_point, spans};
use streams::ride_command::RideAction;

use crate::context::Context;
use ack::Ack;
use begun::Begun;
use command::{Command, CommandError, Refusal, RowCommand};
use sender::Sender;

/// Executes a command that came in the span `caller`. The effect is durable on return.
///
/// # Errors
/// [`Refusal`], and nothing was changed. After `unavailable` the client repeats the same command.
pub(crate) async fn execute(
    context: &Context,
    sender: Sender,
    command: Command,
    caller: Option<Trace>,
) -> Result<Ack, Refusal> {
    let begun = Begun::new(context, sender.user, &command, caller).await;
    let done = spans::within(begun.trace().cloned(), execute_now(context, sender, command)).await;
    begun.end(context, &done);
    done
}

async fn execute_now(context: &Context, sender: Sender, command: Command) -> Result<Ack, Refusal> {
    match command {
        Command::Ride(ride_id, RideAction::Wait { .. }) => ride::wait(context, &sender, ride_id).await.map(Ack::Ride),
        Command::Ride(ride_id, action) => ride::request(context, sender.user, ride_id, action).await.map(Ack::Ride),
        Command::Positions(positions) => positions::publish(context, &sender, positions).await.map(Ack::Positions),
        Command::Rows(command) => {
            let data = execute_rows(context, &sender, command).await?;
            kill_point::reached("command.before_ack");
            Ok(data)
        }
    }
}

async fn execute_rows(context: &Context, sender: &Sender, command: RowCommand) -> Result<Ack, Refusal> {
    // A conflict means that another command of the same user committed first. The retry sees its rows.
    let retry = Retry::SerializationOrConflict;
    let user = sender.user;
    let done = match command {
        RowCommand::Search(trip) => return search::begin(context, user, trip).await.map(Ack::Search),
        RowCommand::EndSearch => return search::end(context, user).await.map(Ack::Search),
        RowCommand::Beacon(update) => {
            context.store.transact(retry, |tx| beacon::update(context, tx, sender, update)).await.map(Ack::Beacon)
        }
        RowCommand::Answer(id, answer) => {
            context.store.transact(retry, |tx| offer::answer(context, tx, sender, id, answer)).await.map(Ack::Offer)
        }
        RowCommand::MailboxAck(seq) => {
            let acked = context.store.transact(retry, |tx| mailbox::ack(context, tx, user, &sender.device, seq)).await;
            acked.map(Ack::Mailbox)
        }
    };
    done.map_err(CommandError::into_refusal)
}
