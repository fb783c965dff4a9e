//! The lifecycle of a ride: what each command does in each status, and which status may follow which; pure.

use chrono::{DateTime, Utc};
use streams::RideStatus;
use streams::event::rfc3339;

/// A driver waits at the pickup if not farther from it than this, metres.
pub const WAIT_WITHIN_M: f64 = 150.0;
/// The longest reason of a cancellation, bytes; the shortest has 1.
pub const REASON_MAX: usize = 500;

/// What can be commanded of a ride.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// The driver waits at the pickup.
    Wait,
    /// The passenger got in.
    Start,
    /// The vehicle reached the dropoff.
    Arrive,
    /// A party or the platform ends the ride early.
    Cancel,
    /// Bill the ride: its distance is known, or did not come in time.
    Complete,
}

impl Command {
    pub const ALL: [Self; 5] = [Self::Wait, Self::Start, Self::Arrive, Self::Cancel, Self::Complete];
}

/// What a command does to a ride in some status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The ride goes to this status, with an event.
    To(RideStatus),
    /// The command was done before: the same answer, without a second effect.
    AlreadyDone,
    Refused(Refusal),
}

/// Why a command is refused. The texts and codes are answers to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("only the ride's driver may do this")]
    NotYours,
    #[error("the driver is {0} m from the pickup: waiting begins within {WAIT_WITHIN_M} m of it")]
    TooFar(u64),
    #[error("it is not known where the driver is: send a position first")]
    PlaceUnknown,
    #[error("the driver does not wait at the pickup: `ride.wait` comes first")]
    NotWaiting,
    /// Until then the passenger may still come.
    #[error("the passenger still has time to come, until {}", rfc3339::text(.0))]
    TooEarly(DateTime<Utc>),
    #[error("the ride has started")]
    Started,
    #[error("the ride has not started: `ride.start` with the passenger's PIN comes first")]
    NotStarted,
    #[error("the ride has not arrived: `ride.arrive` comes first")]
    NotArrived,
    /// It is being billed.
    #[error("the ride has arrived at its dropoff and can no longer be cancelled")]
    Arrived,
    /// It is completed or cancelled.
    #[error("the ride has ended")]
    Ended,
    #[error("this is not the passenger's PIN: ask the passenger for the four digits")]
    WrongPin,
    /// Seconds until the next try. The PIN was not even compared.
    #[error("too many wrong PINs: try again in {0} s")]
    PinLocked(i64),
    #[error("the reason must have 1 to {REASON_MAX} bytes, none of them 0")]
    Reason,
    #[error("the note must have 1 to {REASON_MAX} bytes, none of them 0, or be left out")]
    Note,
}

impl Refusal {
    /// The stable `code` of the answer.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotYours => "forbidden",
            Self::TooFar(_) => "too_far",
            Self::PlaceUnknown => "place_unknown",
            Self::NotWaiting => "ride_not_waiting",
            Self::TooEarly(_) => "too_early",
            Self::Started => "ride_started",
            Self::NotStarted => "ride_not_started",
            Self::NotArrived => "ride_not_arrived",
            Self::Arrived => "ride_arrived",
            Self::Ended => "ride_ended",
            Self::WrongPin => "wrong_pin",
            Self::PinLocked(_) => "pin_locked",
            Self::Reason | Self::Note => "invalid_field",
        }
    }

    /// The field of the command that is at fault, if one is.
    pub const fn field(self) -> Option<&'static str> {
        match self {
            Self::WrongPin | Self::PinLocked(_) => Some("pin"),
            Self::Reason => Some("reason"),
            Self::Note => Some("note"),
            Self::NotWaiting | Self::TooEarly(_) => Some("reason"),
            Self::NotYours
            | Self::TooFar(_)
            | Self::PlaceUnknown
            | Self::Started
            | Self::NotStarted
            | Self::NotArrived
            | Self::Arrived
            | Self::Ended => None,
        }
    }

    /// When the same command is allowed, if it came too early.
    pub const fn allowed_at(self) -> Option<DateTime<Utc>> {
        match self {
            Self::TooEarly(at) => Some(at),
            _ => None,
        }
    }
}

/// The table of the lifecycle: what `command` does to a ride in `status`. `ride::decide` also checks the caller and the PIN.
pub const fn step(status: RideStatus, command: Command) -> Step {
    use Command::{Arrive, Cancel, Complete, Start, Wait};
    use RideStatus::{Arrived, Cancelled, Completed, Pickup, Started, Waiting};
    use Step::{AlreadyDone, Refused, To};
    match (status, command) {
        (Pickup, Wait) => To(Waiting),
        // `ride::decide` refuses it where the driver had not waited.
        (Waiting | Started | Arrived | Completed, Wait) => AlreadyDone,
        (Pickup | Waiting, Start) => To(Started),
        (Pickup | Waiting, Arrive) => Refused(Refusal::NotStarted),
        (Pickup | Waiting, Cancel) => To(Cancelled),
        (Pickup | Waiting | Started, Complete) => Refused(Refusal::NotArrived),
        (Started, Start) => AlreadyDone,
        (Started, Arrive) => To(Arrived),
        (Started, Cancel) => To(Cancelled),
        (Arrived, Start | Arrive) => AlreadyDone,
        (Arrived, Cancel) => Refused(Refusal::Arrived),
        (Arrived, Complete) => To(Completed),
        (Completed, Start | Arrive | Complete) => AlreadyDone,
        (Completed, Cancel) => Refused(Refusal::Ended),
        (Cancelled, Cancel) => AlreadyDone,
        (Cancelled, Wait | Start | Arrive | Complete) => Refused(Refusal::Ended),
    }
}

/// Whether an event with the status `to` may follow one with the status `from` (`None`: be the first).
pub fn may_follow(from: Option<RideStatus>, to: RideStatus) -> bool {
    match from {
        None => to == RideStatus::Pickup,
        Some(from) => Command::ALL.into_iter().any(|command| step(from, command) == Step::To(to)),
    }
}
