//! What a client may request over a socket, checked; and why a request is refused.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;
use chrono::{DateTime, Duration, Utc};
use geospatial::device_clock::{DeviceClock, Reading};
use platform::api::codes;
use platform::limits::{Limit, Refused};
use platform::store::TransactionError;
use platform::{Platform, Problem, StoreError};
use schemars::JsonSchema;
use serde::Serialize;
use streams::event::rfc3339;
use streams::ride_command::RideAction;
use streams::{MatchId, Position, RideId, UserId};

use crate::account::DriverStatus;
use crate::offer::DriverAnswer;
use crate::presence::BeaconUpdate;
use crate::trip::Trip;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    /// `location.update`: goes straight to the stream.
    Positions(Positions),
    /// `ride.wait`, `ride.start`, `ride.arrive`, `ride.cancel`: a NATS request to rides.
    Ride(RideId, RideAction),
    /// Everything else: one transaction on the rows of this service.
    Rows(RowCommand),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RowCommand {
    /// `beacon.update`
    Beacon(BeaconUpdate),
    /// `finder.update` with `active` true.
    Search(Trip),
    /// `finder.update` with `active` false.
    EndSearch,
    /// `match.accept`, `match.reject`
    Answer(MatchId, DriverAnswer),
    /// `mailbox.ack`
    MailboxAck(u64),
}

/// The positions of one frame.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Positions {
    pub(crate) points: Vec<Point>,
    /// Points of a batch that are left out.
    pub(crate) refused: Vec<RefusedPoint>,
    /// Whether the frame has a list of points. A single point that is bad is an error.
    pub(crate) is_batch: bool,
    /// When the frame was received, by the server's clock.
    pub(crate) received_at: DateTime<Utc>,
}

/// One measured position.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    /// Its place in the frame.
    pub(crate) index: usize,
    pub(crate) location: Position,
    pub(crate) accuracy_m: Option<f64>,
    pub(crate) speed_mps: Option<f64>,
    pub(crate) heading_deg: Option<f64>,
    /// When the device measured it and when it sent it, by its own clock.
    pub(crate) device_at: DateTime<Utc>,
    pub(crate) sent_at: Option<DateTime<Utc>>,
    /// `device_at` by the server's clock, as far as the device's is known: what [`Positions::correct`] makes of it.
    pub(crate) recorded_at: DateTime<Utc>,
}

/// A point of a batch that was left out: what is wrong with which of its fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct RefusedPoint {
    pub(crate) index: usize,
    pub(crate) field: String,
    pub(crate) message: String,
}

impl Positions {
    /// How many points the frame has, good and bad.
    pub(crate) fn count(&self) -> usize {
        self.points.len() + self.refused.len()
    }

    /// Corrects the times of the points by the clock of their device, which learns from them first, and leaves out those that are
    /// too far from the server's time.
    ///
    /// # Errors
    /// A single point is too far from it.
    pub(crate) fn correct(&mut self, clock: &mut DeviceClock) -> Result<(), Refusal> {
        let received_at = self.received_at;
        let reading = |point: &Point| Reading { device_at: point.device_at, sent_at: point.sent_at, received_at };
        if let Some(newest) = self.points.iter().max_by_key(|point| point.device_at) {
            clock.read(&reading(newest));
        }
        let (is_batch, refused) = (self.is_batch, &mut self.refused);
        let mut error = None;
        self.points.retain_mut(|point| {
            let claimed = clock.claimed(&reading(&*point));
            if claimed > received_at + AHEAD_MAX || claimed < received_at - BEHIND_MAX {
                let (field, message) = ("recorded_at".to_owned(), TOO_FAR.to_owned());
                if is_batch {
                    refused.push(RefusedPoint { index: point.index, field, message });
                } else {
                    error = Some(Refusal::field(field, message));
                }
                return false;
            }
            true
        });
        let readings: Vec<Reading> = self.points.iter().map(reading).collect();
        for (point, recorded_at) in self.points.iter_mut().zip(clock.corrected_message(&readings)) {
            point.recorded_at = recorded_at;
        }
        self.refused.sort_by_key(|point| point.index);
        error.map_or(Ok(()), Err)
    }
}

/// How far a corrected `recorded_at` may be ahead of the server's clock, and behind it.
const AHEAD_MAX: Duration = Duration::seconds(60);
const BEHIND_MAX: Duration = Duration::hours(24);
const TOO_FAR: &str = "must be at most 60 s ahead of the server's clock and at most 24 h behind it";

impl Command {
    /// The limit by which it counts, and how many it is. Ends are free, so that nobody is held to what they began.
    pub(crate) fn cost(&self) -> Option<(Limit, u32)> {
        match self {
            Self::Positions(positions) => Some((Limit::Points, u32::try_from(positions.count()).unwrap_or(u32::MAX))),
            Self::Rows(RowCommand::Beacon(BeaconUpdate::Inactive(None)) | RowCommand::EndSearch) => None,
            Self::Rows(RowCommand::Beacon(_) | RowCommand::Search(_)) => Some((Limit::Commands, 1)),
            Self::Rows(RowCommand::Answer(..) | RowCommand::MailboxAck(_)) | Self::Ride(..) => None,
        }
    }

    /// The `type` of its frame.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Positions(_) => "location.update",
            Self::Ride(_, RideAction::Wait { .. }) => "ride.wait",
            Self::Ride(_, RideAction::Start { .. }) => "ride.start",
            Self::Ride(_, RideAction::Arrive) => "ride.arrive",
            Self::Ride(_, RideAction::Cancel { .. }) => "ride.cancel",
            Self::Rows(RowCommand::Beacon(_)) => "beacon.update",
            Self::Rows(RowCommand::Search(_) | RowCommand::EndSearch) => "finder.update",
            Self::Rows(RowCommand::Answer(_, DriverAnswer::Accept)) => "match.accept",
            Self::Rows(RowCommand::Answer(_, DriverAnswer::Reject)) => "match.reject",
            Self::Rows(RowCommand::MailboxAck(_)) => "mailbox.ack",
        }
    }
}

/// The codes of refusals of commands, beside those that every request may have.
pub(crate) const COMMAND_CODES: &[&str] = &[
    "invalid_json",
    "invalid_frame",
    "unknown_type",
    "invalid_field",
    "unauthorized",
    "forbidden",
    "not_driver",
    "driver_not_approved",
    "documents_expired",
    "not_found",
    "out_of_area",
    "ride_live",
    "debt_open",
    "offer_closed",
    "offer_expired",
    "too_far",
    "place_unknown",
    "ride_not_waiting",
    "too_early",
    "ride_started",
    "ride_not_started",
    "ride_not_arrived",
    "ride_arrived",
    "ride_ended",
    "wrong_pin",
    "pin_locked",
    "too_many_requests",
    "unavailable",
];

/// Whether the client gets an answer to a command that succeeds. Without one nothing can name the points of a batch that are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Ack,
    None,
}

/// Why a command does not begin.
#[derive(Debug)]
pub(crate) enum NotBegun {
    /// A limit is reached.
    Limited(Refusal),
    Refused(Refusal),
}

impl NotBegun {
    pub(crate) fn into_refusal(self) -> Refusal {
        match self {
            Self::Limited(refusal) | Self::Refused(refusal) => refusal,
        }
    }
}

/// What comes before every command, however it came: its limit, and the clock of the device for positions, which learns from them in
/// the order in which they come.
///
/// # Errors
/// [`NotBegun`], and nothing was changed but the limit's bucket and the clock.
pub(crate) fn begin(
    platform: &Platform,
    user: UserId,
    command: &mut Command,
    clock: &Mutex<DeviceClock>,
    answer: Answer,
) -> Result<(), NotBegun> {
    if let Some((limit, count)) = command.cost() {
        platform.take(limit, user, count).map_err(|refused| NotBegun::Limited(refused.into()))?;
    }
    if let Command::Positions(positions) = command {
        let checked = positions.correct(&mut clock.lock().unwrap_or_else(PoisonError::into_inner));
        let unnamed = positions.refused.first().filter(|_| answer == Answer::None && positions.points.is_empty());
        let unnamed = unnamed.map(|point| Refusal::field(point.field.clone(), point.message.clone()));
        if let Some(refusal) = checked.err().or(unnamed) {
            return Err(NotBegun::Refused(refusal));
        }
    }
    Ok(())
}

/// Why a frame or a command is refused: the `error` of an error frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Refusal {
    /// Stable, for programs.
    pub(crate) code: Cow<'static, str>,
    /// For people.
    pub(crate) message: String,
    /// The field at fault: a path inside `data` with dots and indexes, or `id`, `type`, `data`.
    pub(crate) field: Option<String>,
    /// The limit that was reached, and the seconds after which the same may succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after_s: Option<u64>,
    /// When the same is allowed, if it came too early.
    #[serde(with = "rfc3339::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    pub(crate) allowed_at: Option<DateTime<Utc>>,
}

impl Refusal {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        let code = Cow::Borrowed(code);
        Self { code, message: message.into(), field: None, limit: None, retry_after_s: None, allowed_at: None }
    }

    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new("invalid_field", message) }
    }

    pub(crate) fn unavailable() -> Self {
        Problem::unavailable().into()
    }

    pub(crate) fn not_approved(status: DriverStatus) -> Self {
        let message = match status {
            DriverStatus::Suspended => "you are suspended: you are offered no rides",
            _ => "you are not approved yet: you are offered rides when you are",
        };
        Self::new("driver_not_approved", message)
    }

    pub(crate) fn documents_expired() -> Self {
        Self::new(
            "documents_expired",
            "a document of yours has expired: you are offered rides when a new one is recorded",
        )
    }

    /// The same over HTTP: code, message and field, with the status that fits the code.
    pub(crate) fn into_problem(self) -> Problem {
        let Self { code, message, field, limit, retry_after_s, allowed_at } = self;
        // A code that only a newer version of rides knows says that the state of a search, an offer or a ride forbids it.
        let known = codes::find(&code).and_then(|code| StatusCode::from_u16(code.status).ok());
        let status = known.unwrap_or(StatusCode::CONFLICT);
        Problem { status, code, message, field, retry_after_s, limit, allowed_at }
    }

    pub(crate) fn not_driver() -> Self {
        Self::new("not_driver", "only a driver may do this: register with POST /v1/drivers")
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let Problem { code, message, field, retry_after_s, limit, allowed_at, .. } = problem;
        Self { code, message, field, limit, retry_after_s, allowed_at }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let (limit, retry_after_s) = (refused.limit.name(), refused.retry_after_s);
        let message = format!("too many requests, by the limit {limit}: try again in {retry_after_s} s");
        Self { limit: Some(limit), retry_after_s: Some(retry_after_s), ..Self::new("too_many_requests", message) }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Problem::from(error).into()
    }
}

/// Why one try of a [`RowCommand`] has no result.
pub(crate) enum CommandError {
    Refused(Refusal),
    /// The transaction failed; the same command may succeed if it is tried again.
    Store(StoreError),
}

impl From<Refusal> for CommandError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Problem> for CommandError {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem.into())
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl CommandError {
    pub(crate) fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Store(error) => error.into(),
        }
    }
}

impl TransactionError for CommandError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Refused(_) => None,
            Self::Store(error) => Some(error),
        }
    }
}
