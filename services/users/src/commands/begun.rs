//! A command that has begun: in which trace it is, and how long it takes.
//!
//! What a client does to a search, an offer or a ride is a part of that ride's trace, with a link to the client's own span. Anything
//! else is in the client's trace, or begins a new one. Positions have no spans.

use chrono::{DateTime, Utc};
use platform::spans::{Span, SpanKind};
use platform::{StoreError, Trace};
use streams::{Service, UserId};
use uuid::Uuid;

use super::ack::Ack;
use super::command::{Command, Refusal, RowCommand};
use crate::context::Context;

pub(crate) struct Begun {
    kind: &'static str,
    at: DateTime<Utc>,
    span: Option<CommandSpan>,
}

struct CommandSpan {
    trace: Trace,
    /// The client's own span, of another trace.
    link: Option<Trace>,
    subject: Option<(&'static str, Uuid)>,
}

impl Begun {
    pub(crate) async fn new(context: &Context, user: UserId, command: &Command, caller: Option<Trace>) -> Self {
        let platform = &context.platform;
        let at = platform.world.now();
        let is_traced = platform.spans.is_on() && !matches!(command, Command::Positions(_));
        let span = if is_traced { Some(span(context, user, command, caller).await) } else { None };
        Self { kind: command.kind(), at, span }
    }

    pub(crate) fn trace(&self) -> Option<&Trace> {
        self.span.as_ref().map(|span| &span.trace)
    }

    pub(crate) fn end(self, context: &Context, done: &Result<Ack, Refusal>) {
        let platform = &context.platform;
        let now = platform.world.now();
        let refused = done.as_ref().err().map(|refusal| &*refusal.code);
        let outcome = refused.unwrap_or("ok");
        let took_s = (now - self.at).as_seconds_f64().max(0.0);
        let of = self.span.as_ref().map(|span| (&span.trace, now));
        platform.metrics.commands.observe(&[self.kind, outcome], took_s, of);
        let Some(CommandSpan { trace, link, subject }) = self.span else { return };
        // What a client may not do is no error of this service.
        let error = refused.filter(|code| *code == "unavailable").map(str::to_owned);
        let name = format!("command {}", self.kind);
        let mut span = Span::new(Service::Users.name(), name, SpanKind::Server, &trace, (self.at, now))
            .with("rideshare.command.outcome", outcome)
            .linked(link);
        if let Some((name, id)) = subject {
            span = span.with(name, id.to_string());
        }
        platform.spans.record(span.failed(error));
    }
}

async fn span(context: &Context, user: UserId, command: &Command, caller: Option<Trace>) -> CommandSpan {
    let world = &context.platform.world;
    let subject = match command {
        Command::Rows(RowCommand::Answer(offer, _)) => Some(("match_id", offer.0)),
        Command::Ride(ride, _) => Some(("ride_id", ride.0)),
        _ => None,
    };
    // The search that a passenger ends is the open one.
    let joined = match (command, subject) {
        (Command::Rows(RowCommand::EndSearch), _) => Some(user.0),
        (_, subject) => subject.map(|(_, id)| id),
    };
    let before = match joined {
        Some(id) => stored(context, id).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "a command begins a trace of its own");
            None
        }),
        None => None,
    };
    match (before, caller) {
        (Some(before), caller) => {
            let link = caller.filter(|caller| caller.trace_id() != before.trace_id());
            CommandSpan { trace: before.next(world), link, subject }
        }
        (None, Some(caller)) => CommandSpan { trace: caller.next(world), link: None, subject },
        (None, None) => CommandSpan { trace: context.platform.new_trace(), link: None, subject },
    }
}

async fn stored(context: &Context, subject: Uuid) -> Result<Option<Trace>, StoreError> {
    let mut tx = context.store.begin().await?;
    Ok(tx.traces_of(&[subject]).await?.remove(&subject))
}
