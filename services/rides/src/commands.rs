//! The ride commands ride.wait, ride.start, ride.arrive and ride.cancel, and the end of a search: NATS requests with a deadline.
//!
//! One process of the queue group gets each request. It replies after the commit, never before. Without a reply the outcome is
//! unknown: the client repeats the command, which has no second effect.

use std::sync::Arc;

use bytes::Bytes;
use platform::responder::{self, Endpoint, Reply};
use platform::spans::{self, Span, SpanKind};
use platform::store::Retry;
use platform::{CancellationToken, Platform, Store, StoreError, Tokens, Trace, Transaction, kill_point};
use serde_json::json;
use streams::driven_distance::{DRIVEN_DISTANCE, DRIVEN_DISTANCE_WAIT, DrivenDistance, DrivenDistanceRequest};
use streams::event::Party;
use streams::ride_command::{
    EndSearch, RIDE_COMMAND_WAIT, RIDE_COMMANDS, RideAck, RideAction, RideCommand, RideReply, RidesRequest,
    SEARCH_FULFILLED,
};
use streams::{RideStatus, Service};
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::config::Config;
use crate::ride::lifecycle::Refusal;
use crate::ride::requests::{self, Fate};
use crate::ride::update::{RideUpdate, count, write_updates};
use crate::ride::{CommandInput, DrivenSoFar, Outcome, PinTries, Ride, decide, rows};
use crate::tables::Tables;

/// The queue group of all rides processes.
const QUEUE_GROUP: &str = "rides";
/// Commands that are worked on at once; each holds a connection to the database.
const CONCURRENCY: usize = 64;
/// Commands that this process takes from the bus at most, worked on or waiting.
const ACCEPTED_MAX: usize = 1_024;

/// The name of this part in the health report.
const PART: &str = "ride commands";

/// What one transaction of a command comes to.
enum Pass {
    Done(RideReply),
    /// It cancels this started ride: how far has it come?
    AskDriven(Box<Ride>),
}

impl From<RideReply> for Pass {
    fn from(reply: RideReply) -> Self {
        Self::Done(reply)
    }
}

/// Executes ride commands; clones share its state.
#[derive(Clone)]
pub(crate) struct RideCommands {
    platform: Platform,
    store: Store<Tables>,
    tokens: Tokens,
    config: Arc<Config>,
}

impl RideCommands {
    pub(crate) fn new(platform: &Platform, store: &Store<Tables>, tokens: Tokens, config: &Arc<Config>) -> Self {
        Self { platform: platform.clone(), store: store.clone(), tokens, config: config.clone() }
    }

    /// Serves until `stop`, then finishes the commands in hand.
    pub(crate) async fn serve(self, stop: CancellationToken) {
        let endpoint = Endpoint {
            service: Some(Service::Rides),
            name: "command".to_owned(),
            subject: RIDE_COMMANDS.to_owned(),
            queue_group: Some(QUEUE_GROUP.to_owned()),
            accepted_max: ACCEPTED_MAX,
            wait: RIDE_COMMAND_WAIT,
            health_part: Some(PART),
        };
        let permits = Arc::new(Semaphore::new(CONCURRENCY));
        responder::serve(self.platform.clone(), endpoint, stop, move |request| {
            self.clone().reply(permits.clone(), request)
        })
        .await;
    }

    async fn reply(self, permits: Arc<Semaphore>, request: Bytes) -> Reply {
        let Ok(_permit) = permits.acquire().await else { return Reply::none("it ends") };
        let reply = self.execute(&request).await;
        let body = serde_json::to_vec(&reply).expect("replies have string keys");
        match reply {
            RideReply::Ok(_) => Reply::done(body),
            RideReply::Error { code, .. } if code == "unavailable" => Reply::failed(body, code),
            RideReply::Error { code, .. } => Reply::refused(body, code),
        }
    }

    async fn execute(&self, body: &[u8]) -> RideReply {
        let retry = Retry::Serialization;
        match RidesRequest::parse(body) {
            Ok(RidesRequest::Ride(command)) => {
                let log = tracing::info_span!("ride_command", ride_id = %command.ride_id, trace_id = trace_id(&command.traceparent));
                let subject = ("ride_id", command.ride_id.to_string());
                self.traced(&command.traceparent, subject, async { reply_of(self.execute_ride(&command).await) })
                    .instrument(log)
                    .await
            }
            Ok(RidesRequest::EndSearch(end)) => {
                let log = tracing::info_span!("end_search", request_id = %end.request_id, trace_id = trace_id(&end.traceparent));
                let done = self.store.transact(retry, |tx| end_search(tx, &end));
                let subject = ("request_id", end.request_id.to_string());
                self.traced(&end.traceparent, subject, async { reply_of(done.await) }).instrument(log).await
            }
            Err(why) => error("invalid_field", format!("the command cannot be read: {why}"), None),
        }
    }

    /// Does `work`, and records its span if spans are recorded.
    async fn traced(
        &self,
        traceparent: &str,
        (name, id): (&'static str, String),
        work: impl Future<Output = RideReply>,
    ) -> RideReply {
        let Platform { world, spans, .. } = &self.platform;
        if !spans.is_on() {
            return work.await;
        }
        let (trace, began_at) = (Trace::follow(Some(traceparent), world), world.now());
        let reply = spans::within(Some(trace.clone()), work).await;
        let outcome = match &reply {
            RideReply::Ok(_) => "ok",
            RideReply::Error { code, .. } => code,
        };
        let error = (outcome == "unavailable").then(|| outcome.to_owned());
        let times = (began_at, world.now());
        let span =
            Span::new(Service::Rides.name(), format!("process {RIDE_COMMANDS}"), SpanKind::Server, &trace, times)
                .with("messaging.operation.type", "process")
                .with("messaging.operation.name", "process")
                .with("messaging.destination.name", RIDE_COMMANDS)
                .with("messaging.consumer.group.name", QUEUE_GROUP)
                .with("rideshare.command.outcome", outcome)
                .with(name, id);
        spans.record(span.failed(error));
        reply
    }

    /// Executes a command. If it cancels a started ride, location says between two transactions how far the ride has come.
    ///
    /// # Errors
    /// [`StoreError`]: the outcome is unknown, and the same command may be tried again.
    async fn execute_ride(&self, command: &RideCommand) -> Result<RideReply, StoreError> {
        let retry = Retry::Serialization;
        let mut driven = None;
        loop {
            match self.store.transact(retry, |tx| self.execute_in(tx, command, driven)).await? {
                Pass::Done(reply) => return Ok(reply),
                Pass::AskDriven(ride) => driven = Some(self.driven_so_far(&ride).await),
            }
        }
    }

    /// How far a started ride has come. Without an answer the estimate is billed.
    async fn driven_so_far(&self, ride: &Ride) -> DrivenSoFar {
        let Ride { ride_id, driver_id, pickup, .. } = *ride;
        let (until, max_speed_mps) = (self.platform.world.now(), self.config.max_speed_mps);
        let started_at = ride.started_at.unwrap_or(until);
        let request = DrivenDistanceRequest { ride_id, driver_id, pickup, started_at, until };
        let body = serde_json::to_vec(&request).expect("a request has string keys and finite numbers");
        let reply = self.platform.bus.request(DRIVEN_DISTANCE, body.into(), DRIVEN_DISTANCE_WAIT).await;
        let measured = match reply
            .map_err(|e| e.to_string())
            .and_then(|r| serde_json::from_slice::<DrivenDistance>(&r).map_err(|e| e.to_string()))
        {
            Ok(measured) => Some(measured),
            Err(error) => {
                tracing::warn!(error, %ride_id, "location does not say how far a cancelled ride came: billed by the estimate");
                None
            }
        };
        DrivenSoFar { until, measured, max_speed_mps }
    }

    /// Executes a command in one transaction. What the reply says is committed.
    async fn execute_in(
        &self,
        mut tx: Transaction<Tables>,
        command: &RideCommand,
        driven: Option<DrivenSoFar>,
    ) -> Result<Pass, StoreError> {
        let world = &self.platform.world;
        // Another user's ride is not found: not even its existence is disclosed.
        let found = rows::lock_ride_of(&mut tx, command.ride_id, command.user_id).await?;
        let Some((ride, by)) = found.and_then(|ride| ride.party(command.user_id).map(|by| (ride, by))) else {
            return Ok(error("not_found", "no such ride of yours", Some("ride_id")).into());
        };
        let cancels = matches!(command.action, RideAction::Cancel { .. });
        if cancels && ride.status == RideStatus::Started && driven.is_none() {
            return Ok(Pass::AskDriven(Box::new(ride)));
        }
        // A secret may have changed since the passenger was shown the PIN.
        let right = match &command.action {
            RideAction::Start { pin } if self.tokens.is_ride_pin(ride.ride_id, pin) => pin.clone(),
            _ => self.tokens.ride_pin(ride.ride_id),
        };
        let mut forget_tries = matches!(ride.status, RideStatus::Pickup | RideStatus::Waiting);
        let input = match &command.action {
            RideAction::Wait { driver_at } => CommandInput::Wait { driver_at: *driver_at },
            RideAction::Start { pin } => {
                let tries = rows::pin_tries(&mut tx, ride.ride_id).await?;
                forget_tries &= tries.failures > 0;
                CommandInput::Start { pin, right: &right, tries }
            }
            RideAction::Arrive => CommandInput::Arrive,
            RideAction::Cancel { reason, note } => {
                // Only then may a search go on.
                let before_start = by == Party::Driver && ride.started_at.is_none() && !ride.status.is_final();
                let search = if before_start { requests::of_match(&mut tx, ride.match_id).await? } else { None };
                CommandInput::Cancel { reason, note: note.as_deref(), driven, search }
            }
        };
        debug_assert!(by != Party::System);
        match decide(&ride, by, &input, &self.config.markets.get().general, world.now()) {
            Ok(Outcome::Changed(change)) => {
                let trace = spans::current().unwrap_or_else(|| Trace::follow(Some(&command.traceparent), world));
                let (status, reply) = (change.ride.status, ok(&change.ride));
                if forget_tries {
                    rows::store_pin_tries(&mut tx, ride.ride_id, &PinTries::default()).await?;
                }
                let continues = change.ride.cancellation.as_ref().and_then(|c| c.continues);
                if let Some(request) = continues {
                    requests::reopen(&mut tx, request, ride.match_id).await?;
                }
                let update = RideUpdate { expected_version: ride.version, change: *change, trace };
                write_updates(&mut tx, vec![update]).await?;
                tx.commit().await?;
                kill_point::reached("ride_command.before_reply");
                count(&self.platform.metrics, status, 1);
                Ok(reply.into())
            }
            Ok(Outcome::AlreadyDone) => Ok(ok(&ride).into()),
            Ok(Outcome::WrongPin(counted)) => {
                rows::store_pin_tries(&mut tx, ride.ride_id, &counted).await?;
                tx.commit().await?;
                Ok(refused(Refusal::WrongPin).into())
            }
            Err(refusal) => Ok(refused(refusal).into()),
        }
    }
}

/// Decides, in one transaction, that no ride comes of a search, unless one has come of it. An acceptance that is handled later is
/// superseded.
async fn end_search(mut tx: Transaction<Tables>, end: &EndSearch) -> Result<RideReply, StoreError> {
    match requests::end(&mut tx, end.request_id).await? {
        Fate::Ended => {
            tx.commit().await?;
            kill_point::reached("ride_command.before_reply");
            Ok(RideReply::Ok(json!({"request_id": end.request_id})))
        }
        Fate::Fulfilled(_) => Ok(error(SEARCH_FULFILLED, "this search has become a ride", Some("request_id"))),
    }
}

fn reply_of(done: Result<RideReply, StoreError>) -> RideReply {
    done.unwrap_or_else(|failure| {
        tracing::warn!(%failure, "a ride command failed");
        error("unavailable", "not possible at the moment: try the same again", None)
    })
}

/// The second field of a W3C traceparent.
fn trace_id(traceparent: &str) -> Option<&str> {
    traceparent.get(3..35)
}

fn ok(ride: &Ride) -> RideReply {
    let ack = RideAck { ride_id: ride.ride_id, status: ride.status, version: ride.version };
    RideReply::Ok(json!(ack))
}

fn refused(refusal: Refusal) -> RideReply {
    let allowed_at = refusal.allowed_at();
    let (code, field) = (refusal.code().to_owned(), refusal.field().map(str::to_owned));
    RideReply::Error { code, message: refusal.to_string(), field, allowed_at }
}

fn error(code: &str, message: impl Into<String>, field: Option<&str>) -> RideReply {
    let field = field.map(str::to_owned);
    RideReply::Error { code: code.to_owned(), message: message.into(), field, allowed_at: None }
}
