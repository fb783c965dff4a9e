//! The commands of one socket that have begun: at most one that is answered, and a bounded number of frames of positions.

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use platform::Trace;
use serde_json::value::RawValue;
use tracing::field::Empty;
use tracing::{Instrument, debug_span, info_span};

use super::connection::Role;
use super::frame::{self, Id};
use crate::commands;
use crate::commands::ack::Ack;
use crate::commands::command::{Command, Refusal, RowCommand};
use crate::commands::sender::Sender;
use crate::context::Context;

/// Frames with positions of one socket that await the stream's acknowledgement at once.
const PUBLISHES_MAX: usize = 64;

/// What the session must know of a command when its result comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CommandKind {
    Positions,
    Beacon,
    Other,
}

impl CommandKind {
    fn of(command: &Command) -> Self {
        match command {
            Command::Positions(_) => Self::Positions,
            Command::Rows(RowCommand::Beacon(_)) => Self::Beacon,
            Command::Rows(_) | Command::Ride(..) => Self::Other,
        }
    }
}

/// The result of a command.
pub(crate) struct Reply {
    /// What the client gets, if anything.
    pub(crate) frame: Option<String>,
    /// The role of the user, if the result proves it.
    pub(crate) role: Option<Role>,
}

impl Reply {
    fn new(id: Option<Id>, result: Result<Ack, Refusal>, kind: CommandKind) -> Self {
        // Only drivers may send positions and beacons.
        let role = (kind != CommandKind::Other && result.is_ok()).then_some(Role::Driver);
        let frame = match result {
            // The contract acknowledges positions only if they have an id.
            Ok(_) if kind == CommandKind::Positions && id.is_none() => None,
            Ok(data) => Some(frame::ack(id.as_deref(), &data)),
            Err(refusal) => Some(frame::error(id.as_deref(), &refusal)),
        };
        Self { frame, role }
    }
}

/// What has finished.
pub(crate) enum Finished {
    Reply(Reply),
    /// A frame of positions without an id was published, or refused.
    Published(Option<Refusal>),
}

#[derive(Default)]
pub(crate) struct InFlight<'a> {
    command: Option<BoxFuture<'a, Reply>>,
    publishes: FuturesUnordered<BoxFuture<'a, Option<Refusal>>>,
}

impl<'a> InFlight<'a> {
    /// Whether one more may begin.
    pub(crate) fn has_room(&self) -> bool {
        self.command.is_none() && self.publishes.len() < PUBLISHES_MAX
    }

    /// Begins a command. The session reads the next frame when it has finished, except that a driver's positions without an
    /// id are published while further frames are read.
    /// `caller` is the client's own span.
    pub(crate) fn begin(
        &mut self,
        context: &'a Context,
        sender: Sender,
        id: Option<Id>,
        command: Command,
        role: Role,
        caller: Option<Trace>,
    ) {
        let kind = CommandKind::of(&command);
        // The trace begins where the command publishes.
        let (kind_name, raw_id) = (command.kind(), id.as_deref().map(RawValue::get));
        // Positions are most of all frames, and a span costs more than reading one.
        let span = match command {
            Command::Positions(_) => debug_span!("command", "type" = kind_name, id = raw_id, trace_id = Empty),
            _ => info_span!("command", "type" = kind_name, id = raw_id, trace_id = Empty),
        };
        match (command, role) {
            (Command::Positions(positions), Role::Driver) if id.is_none() => {
                let publish = async move { commands::positions::publish(context, &sender, positions).await.err() };
                self.publishes.push(publish.instrument(span).boxed());
            }
            (Command::Positions(positions), Role::Driver) => {
                let publish = async move {
                    let acked = commands::positions::publish(context, &sender, positions).await;
                    Reply::new(id, acked.map(Ack::Positions), kind)
                };
                self.command = Some(publish.instrument(span).boxed());
            }
            (command, _) => {
                let execute =
                    async move { Reply::new(id, commands::execute(context, sender, command, caller).await, kind) };
                self.command = Some(execute.instrument(span).boxed());
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.command.is_none() && self.publishes.is_empty()
    }

    /// The next that finishes; pending for ever if none is in flight.
    pub(crate) async fn next(&mut self) -> Finished {
        let Self { command, publishes } = self;
        tokio::select! {
            biased;
            Some(refused) = publishes.next(), if !publishes.is_empty() => Finished::Published(refused),
            reply = async {
                match command {
                    Some(command) => command.await,
                    None => std::future::pending().await,
                }
            } => {
                *command = None;
                Finished::Reply(reply)
            }
        }
    }
}
