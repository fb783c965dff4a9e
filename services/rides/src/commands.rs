//! Answers what is asked of a ride: ride.start, ride.arrive and ride.cancel, as requests with a deadline.
//!
//! Of all processes one gets each request. An answer is sent after the commit, never before; no answer means that the
//! outcome is not known, and the client repeats, which has no second effect.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use platform::{CancellationToken, StoreError, Trace, kill_point, retry};
use serde_json::json;
use streams::RideStatus;
use streams::bus::CoreMessage;
use streams::event::Party;
use streams::ride_command::{RIDE_COMMAND_WAIT, RIDE_COMMANDS, RideAction, RideCommand, RideReply};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::Rides;
use crate::handlers::{Written, write};
use crate::ride::rows;
use crate::ride::{Order, Outcome, PinTries, Ride, decide};

/// The queue group of all rides processes.
const QUEUE: &str = "rides";
/// Commands worked on at once; each holds a connection to the database.
const AT_ONCE: usize = 64;
/// Commands that may wait for that; beyond it they wait on the bus.
const WAITING_MAX: usize = 1_024;
/// Tries of a command that meets another transaction.
const MEETINGS: u32 = 5;

const PART: &str = "ride commands";

/// Serves until `stop` has begun, and finishes what is in hand.
pub(crate) async fn serve(rides: Rides, stop: CancellationToken) {
    let mut delays = retry::dependency();
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    while !stop.is_cancelled() {
        let subscribed = rides.platform.bus.subscribe(RIDE_COMMANDS, Some(QUEUE)).await;
        let why = match subscribed {
            Ok(mut requests) => {
                rides.platform.health.set_healthy(PART);
                delays.reset();
                loop {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                        next = requests.next(), if tasks.len() < WAITING_MAX => match next {
                            Some(request) => {
                                let deadline = Instant::now() + RIDE_COMMAND_WAIT;
                                tasks.spawn(answer(rides.clone(), at_once.clone(), request, deadline));
                            }
                            None => break,
                        }
                    }
                }
                "the subscription ended".to_owned()
            }
            Err(error) => error.to_string(),
        };
        if stop.is_cancelled() {
            break;
        }
        rides.platform.health.set_unhealthy(PART, why);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = sleep(delays.next_delay()) => {}
        }
    }
    while tasks.join_next().await.is_some() {}
    rides.platform.health.remove(PART);
}

async fn answer(rides: Rides, at_once: Arc<Semaphore>, request: CoreMessage, deadline: Instant) {
    let Some(to) = request.reply.clone() else { return };
    let work = async {
        let _permit = at_once.acquire().await.ok()?;
        Some(rides.execute(&request.payload).await)
    };
    // Past the deadline nobody listens any more.
    let Ok(Some(reply)) = timeout_at(deadline, work).await else {
        tracing::warn!("a ride command found no time before its deadline; the client repeats it");
        return;
    };
    let body = serde_json::to_vec(&reply).expect("replies have string keys");
    if let Err(error) = rides.platform.bus.publish_core(&to, Bytes::from(body)).await {
        tracing::warn!(%error, "the answer to a ride command was not sent; the client repeats it");
    }
}

fn error(code: &str, message: impl Into<String>, field: Option<&str>) -> RideReply {
    RideReply::Error { code: code.to_owned(), message: message.into(), field: field.map(str::to_owned) }
}

fn done(ride: &Ride) -> RideReply {
    RideReply::Ok(json!({"ride_id": ride.ride_id, "status": ride.status, "version": ride.version}))
}

impl Rides {
    async fn execute(&self, body: &[u8]) -> RideReply {
        let command: RideCommand = match serde_json::from_slice(body) {
            Ok(command) => command,
            Err(why) => return error("invalid_field", format!("the command cannot be read: {why}"), None),
        };
        let mut meetings = 0;
        loop {
            match self.command(&command).await {
                Ok(reply) => return reply,
                Err(StoreError::Serialization(_)) if meetings < MEETINGS => {
                    meetings += 1;
                    sleep(Duration::from_millis(u64::from(5 + self.platform.world.below(20)))).await;
                }
                Err(failure) => {
                    tracing::warn!(%failure, ride_id = %command.ride_id, "a ride command failed");
                    return error("unavailable", "not possible at the moment: try the same again", None);
                }
            }
        }
    }

    /// Does a command, in one transaction; the reply holds once this returns.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known to have been done, and the same may be tried again.
    pub async fn command(&self, command: &RideCommand) -> Result<RideReply, StoreError> {
        let world = &self.platform.world;
        let mut tx = self.store.begin().await?;
        // Another's ride is not found: not even that it exists is told.
        let found = rows::lock_ride_of(&mut tx, command.ride_id, command.user_id).await?;
        let Some((ride, by)) = found.and_then(|ride| ride.party(command.user_id).map(|by| (ride, by))) else {
            return Ok(error("not_found", "no such ride of yours", Some("ride_id")));
        };
        let right = self.tokens.ride_pin(ride.ride_id);
        let mut tried = ride.status == RideStatus::Pickup;
        let order = match &command.action {
            RideAction::Start { pin } => {
                let tries = rows::pin_tries(&mut tx, ride.ride_id).await?;
                tried &= tries.failures > 0;
                Order::Start { pin, right: &right, tries }
            }
            RideAction::Arrive => Order::Arrive,
            RideAction::Cancel { reason } => Order::Cancel { reason },
        };
        debug_assert!(by != Party::System);
        match decide(&ride, by, &order, &self.config.tariffs, world.now()) {
            Ok(Outcome::Changed(change)) => {
                let trace = Trace::follow(Some(&command.traceparent), world);
                let (now, reply) = (change.ride.status, done(&change.ride));
                if tried {
                    rows::keep_pin_tries(&mut tx, ride.ride_id, &PinTries::default()).await?;
                }
                write(&mut tx, vec![Written { was: ride.version, change: *change, trace }]).await?;
                tx.commit().await?;
                kill_point::reached("ride_command.before_reply");
                self.count(now, 1);
                Ok(reply)
            }
            Ok(Outcome::Again) => Ok(done(&ride)),
            Ok(Outcome::WrongPin(counted)) => {
                rows::keep_pin_tries(&mut tx, ride.ride_id, &counted).await?;
                tx.commit().await?;
                Ok(refused(crate::ride::lifecycle::Refusal::WrongPin))
            }
            Err(refusal) => Ok(refused(refusal)),
        }
    }
}

fn refused(refusal: crate::ride::lifecycle::Refusal) -> RideReply {
    error(refusal.code(), refusal.to_string(), refusal.field())
}
