//! What a client may request over a socket, checked; and why a request is refused.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use platform::limits::{Limit, Refused};
use platform::store::TransactionError;
use platform::{Problem, StoreError};
use serde::Serialize;
use streams::ride_command::RideAction;
use streams::{MatchId, Position, RideId};

use crate::offer::DriverAnswer;
use crate::presence::BeaconUpdate;
use crate::trip::Trip;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    /// `location.update`: goes straight to the stream.
    Positions(Vec<Point>),
    /// `ride.start`, `ride.arrive`, `ride.cancel`: a NATS request to rides.
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

/// One measured position.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub(crate) location: Position,
    pub(crate) accuracy_m: Option<f64>,
    pub(crate) speed_mps: Option<f64>,
    pub(crate) heading_deg: Option<f64>,
    pub(crate) recorded_at: DateTime<Utc>,
}

impl Command {
    /// The limit by which it counts, and how many it is. Ends are free, so that nobody is held to what they began.
    pub(crate) fn cost(&self) -> Option<(Limit, u32)> {
        match self {
            Self::Positions(points) => Some((Limit::Points, u32::try_from(points.len()).unwrap_or(u32::MAX))),
            Self::Rows(RowCommand::Beacon(BeaconUpdate::Inactive(None)) | RowCommand::EndSearch) => None,
            Self::Rows(RowCommand::Beacon(_) | RowCommand::Search(_)) => Some((Limit::Commands, 1)),
            Self::Rows(RowCommand::Answer(..) | RowCommand::MailboxAck(_)) | Self::Ride(..) => None,
        }
    }

    /// The `type` of its frame.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Positions(_) => "location.update",
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

/// Why a frame or a command is refused: the `error` of an error frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
}

impl Refusal {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        let code = Cow::Borrowed(code);
        Self { code, message: message.into(), field: None, limit: None, retry_after_s: None }
    }

    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new("invalid_field", message) }
    }

    pub(crate) fn unavailable() -> Self {
        Problem::unavailable().into()
    }

    pub(crate) fn not_driver() -> Self {
        Self::new("not_driver", "only a driver may do this: register with POST /v1/drivers")
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let Problem { code, message, field, retry_after_s, limit, .. } = problem;
        Self { code: Cow::Borrowed(code), message, field, limit, retry_after_s }
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
