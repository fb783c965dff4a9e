//! The lifecycle of a ride: what each command does in each status, and which status may follow which; pure.

use streams::RideStatus;

use crate::ride::REASON_MAX;

/// What can be wanted of a ride.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// The passenger is in.
    Start,
    /// The vehicle is at the dropoff.
    Arrive,
    /// One of the two ends it.
    Cancel,
    /// The distance is known, or is known not to come.
    Complete,
}

impl Command {
    /// All commands.
    pub const ALL: [Self; 4] = [Self::Start, Self::Arrive, Self::Cancel, Self::Complete];
}

/// What a command does to a ride in some status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It goes to this status, with an event.
    To(RideStatus),
    /// It was done before: answered as then, without a second effect.
    Again,
    /// It does not fit.
    Refused(Refusal),
}

/// Why a command is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Only one of the ride's two people, or only the driver, may want this.
    #[error("only the ride's driver may do this")]
    NotYours,
    /// It must be started first.
    #[error("the ride has not started: `ride.start` with the passenger's PIN comes first")]
    NotStarted,
    /// It must arrive first.
    #[error("the ride has not arrived: `ride.arrive` comes first")]
    NotArrived,
    /// It has arrived, and is being billed.
    #[error("the ride has arrived at its dropoff and can no longer be cancelled")]
    Arrived,
    /// It is completed or cancelled.
    #[error("the ride has ended")]
    Ended,
    /// Not the passenger's PIN.
    #[error("this is not the passenger's PIN: ask the passenger for the four digits")]
    WrongPin,
    /// Too many wrong PINs; not even looked at.
    #[error("too many wrong PINs: try again in {0} s")]
    PinLocked(i64),
    /// Empty, too long, or with a character that no text may have.
    #[error("the reason must have 1 to {REASON_MAX} bytes, none of them 0")]
    Reason,
}

impl Refusal {
    /// The stable code that the client hears.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotYours => "forbidden",
            Self::NotStarted => "ride_not_started",
            Self::NotArrived => "ride_not_arrived",
            Self::Arrived => "ride_arrived",
            Self::Ended => "ride_ended",
            Self::WrongPin => "wrong_pin",
            Self::PinLocked(_) => "pin_locked",
            Self::Reason => "invalid_field",
        }
    }

    /// The field at fault, if it is one.
    pub const fn field(self) -> Option<&'static str> {
        match self {
            Self::WrongPin | Self::PinLocked(_) => Some("pin"),
            Self::Reason => Some("reason"),
            Self::NotYours | Self::NotStarted | Self::NotArrived | Self::Arrived | Self::Ended => None,
        }
    }
}

/// The table: what `command` does to a ride in `status`. Whether the caller may, and the PIN, come on top of it.
pub const fn step(status: RideStatus, command: Command) -> Step {
    use Command::{Arrive, Cancel, Complete, Start};
    use RideStatus::{Arrived, Cancelled, Completed, Pickup, Started};
    use Step::{Again, Refused, To};
    match (status, command) {
        (Pickup, Start) => To(Started),
        (Pickup, Arrive) => Refused(Refusal::NotStarted),
        (Pickup, Cancel) => To(Cancelled),
        (Pickup | Started, Complete) => Refused(Refusal::NotArrived),
        (Started, Start) => Again,
        (Started, Arrive) => To(Arrived),
        (Started, Cancel) => To(Cancelled),
        (Arrived, Start | Arrive) => Again,
        (Arrived, Cancel) => Refused(Refusal::Arrived),
        (Arrived, Complete) => To(Completed),
        (Completed, Start | Arrive | Complete) => Again,
        (Completed, Cancel) => Refused(Refusal::Ended),
        (Cancelled, Cancel) => Again,
        (Cancelled, Start | Arrive | Complete) => Refused(Refusal::Ended),
    }
}

/// Whether an event with status `to` may come after one with status `from` (`None`: as the first).
pub fn may_follow(from: Option<RideStatus>, to: RideStatus) -> bool {
    match from {
        None => to == RideStatus::Pickup,
        Some(from) => Command::ALL.into_iter().any(|command| step(from, command) == Step::To(to)),
    }
}
