//! The life of a ride: one table of what may follow what, and the decision on each command; pure.
//!
//! State, command and time come in; the ride after it, its event and what is to be billed go out. `version` counts the
//! events, each of which is sealed with the hash of the one before. Nothing here reads a clock, a store or a bus.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use chrono::{DateTime, Duration, Utc};
use pricing::{self, Priced, Tariff, Tariffs};
use streams::event::{Fare, MatchAccepted, Party, RideEvent};
use streams::{MatchId, Money, PaymentId, Position, RideId, RideStatus, UserId, VehicleType};

use crate::hash_chain;

pub mod lifecycle;
pub(crate) mod rows;

use self::lifecycle::{Command, Refusal, Step, step};

/// Wrong PINs before a pause.
pub const PIN_TRIES: u32 = 5;
/// The pause between two tries after that.
pub const PIN_PAUSE_S: i64 = 30;
/// A passenger who cancels this soon after the ride came to be pays nothing.
pub const FREE_CANCELLATION_S: i64 = 120;
/// The longest reason of a cancellation, in bytes; the shortest has 1.
pub const REASON_MAX: usize = 500;

/// A ride as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Ride {
    /// The ride.
    pub ride_id: RideId,
    /// The match that it came from.
    pub match_id: MatchId,
    /// The driver.
    pub driver_id: UserId,
    /// The passenger.
    pub passenger_id: UserId,
    /// That of its newest event: 1, 2, 3 …
    pub version: u32,
    /// Where it stands.
    pub status: RideStatus,
    /// From where.
    pub pickup: Position,
    /// To where.
    pub dropoff: Position,
    /// In what.
    pub vehicle_type: VehicleType,
    /// When the ride came to be.
    pub created_at: DateTime<Utc>,
    /// When its newest event occurred.
    pub updated_at: DateTime<Utc>,
    /// When the passenger got in.
    pub started_at: Option<DateTime<Utc>>,
    /// When the vehicle was at the dropoff.
    pub arrived_at: Option<DateTime<Utc>>,
    /// `hash` of its newest event.
    pub last_hash: String,
    /// What it came to, once completed.
    pub receipt: Option<Receipt>,
    /// How it ended early, if it did.
    pub cancelled: Option<Cancelled>,
}

/// Wrong PINs given for a ride that has not started: no part of what happened to it, but a guard of the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PinTries {
    /// So far.
    pub failures: u32,
    /// When the last of them was given.
    pub failed_at: Option<DateTime<Utc>>,
}

/// What a completed ride came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    /// From start to arrival, metres.
    pub distance_m: f64,
    /// From start to arrival, seconds.
    pub duration_s: f64,
    /// What the passenger pays.
    pub fare: Fare,
    /// The platform's part.
    pub platform_fee: Money,
    /// The driver's part.
    pub driver_payout: Money,
}

/// How a ride ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancelled {
    /// By whom.
    pub by: Party,
    /// In the canceller's words.
    pub reason: String,
    /// What the passenger pays for it.
    pub fee: Money,
    /// The platform's part of the fee.
    pub platform_fee: Money,
    /// The driver's part of it.
    pub driver_payout: Money,
}

/// A command with what is needed to decide on it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Order<'a> {
    /// The PIN that the driver gave, the right one, and how often it was wrong before.
    Start {
        /// Given.
        pin: &'a str,
        /// Right.
        right: &'a str,
        /// Before.
        tries: PinTries,
    },
    /// At the dropoff.
    Arrive,
    /// In the caller's words.
    Cancel {
        /// 1 to [`REASON_MAX`] bytes.
        reason: &'a str,
    },
    /// Bill it.
    Complete(Distance),
}

impl Order<'_> {
    /// Which command it is.
    pub const fn command(&self) -> Command {
        match self {
            Self::Start { .. } => Command::Start,
            Self::Arrive => Command::Arrive,
            Self::Cancel { .. } => Command::Cancel,
            Self::Complete(_) => Command::Complete,
        }
    }
}

/// What the distance of a fare rests on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distance {
    /// The final aggregate: cumulative since the start, metres.
    Measured(f64),
    /// None came in time: the estimate from pickup to dropoff.
    Estimated,
}

/// A ride after an event, and the event.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The ride as it is now.
    pub ride: Ride,
    /// What is to be published and kept.
    pub event: RideEvent,
    /// What the passenger owes for it, if anything.
    pub bill: Option<Bill>,
}

/// What a passenger owes; `total` = `platform_fee` + `driver_payout`, and more than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bill {
    /// For a ride, or for cancelling one.
    pub cause: Cause,
    /// What the passenger pays.
    pub total: Money,
    /// The platform's part.
    pub platform_fee: Money,
    /// The driver's part.
    pub driver_payout: Money,
}

/// For what somebody pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A completed ride.
    Fare,
    /// A late cancellation.
    Cancellation,
}

/// What comes of a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is done.
    Changed(Box<Change>),
    /// It was done before.
    Again,
    /// The PIN was wrong: the tries with this one counted, to be kept although the command is refused.
    WrongPin(PinTries),
}

impl Ride {
    /// The ride that an accepted match becomes, with its first event.
    pub fn create(accepted: &MatchAccepted, ride_id: RideId, now: DateTime<Utc>) -> Change {
        let ride = Self {
            ride_id,
            match_id: accepted.match_id,
            driver_id: accepted.driver_id,
            passenger_id: accepted.passenger_id,
            version: 0,
            status: RideStatus::Pickup,
            pickup: accepted.pickup,
            dropoff: accepted.dropoff,
            vehicle_type: accepted.vehicle_type,
            created_at: now,
            updated_at: now,
            started_at: None,
            arrived_at: None,
            last_hash: hash_chain::NOTHING_BEFORE.to_owned(),
            receipt: None,
            cancelled: None,
        };
        ride.advance(RideStatus::Pickup, now, |_| None)
    }

    /// The id of the payment of what its newest event bills: the same whenever it is asked for.
    pub fn payment_id(&self) -> PaymentId {
        PaymentId(hash_chain::derived_id(self.updated_at, &self.last_hash, "payment"))
    }

    /// The platform's and the driver's part of what the passenger pays; `None` before the end, and of a free cancellation.
    pub fn parts(&self) -> Option<(Money, Money)> {
        let fare = self.receipt.as_ref().map(|r| (r.platform_fee, r.driver_payout));
        let fee = || self.cancelled.as_ref().filter(|c| c.fee.amount > 0).map(|c| (c.platform_fee, c.driver_payout));
        fare.or_else(fee)
    }

    /// As whom `user` takes part, if at all.
    pub fn party(&self, user: UserId) -> Option<Party> {
        if user == self.driver_id {
            Some(Party::Driver)
        } else if user == self.passenger_id {
            Some(Party::Passenger)
        } else {
            None
        }
    }

    /// From the start to `now`, or to the arrival if it is over, seconds; 0 before the start.
    pub fn duration_s(&self) -> f64 {
        match (self.started_at, self.arrived_at) {
            (Some(from), Some(to)) => (to - from).as_seconds_f64().max(0.0),
            _ => 0.0,
        }
    }

    /// The next version, with its event sealed; `change` sets what is particular to it and says what it costs.
    fn advance(
        &self,
        status: RideStatus,
        now: DateTime<Utc>,
        change: impl FnOnce(&mut Self) -> Option<Bill>,
    ) -> Change {
        let mut ride = self.clone();
        ride.version += 1;
        ride.status = status;
        // Clocks of two processes differ; the events of a ride do not go back in time for that.
        ride.updated_at = now.max(self.updated_at);
        let bill = change(&mut ride).filter(|bill| bill.total.amount > 0);
        let mut event = ride.event();
        event.hash = hash_chain::hash(&event);
        ride.last_hash.clone_from(&event.hash);
        Change { ride, event, bill }
    }

    fn event(&self) -> RideEvent {
        let (receipt, cancelled) = (self.receipt.as_ref(), self.cancelled.as_ref());
        RideEvent {
            ride_id: self.ride_id,
            match_id: self.match_id,
            driver_id: self.driver_id,
            passenger_id: self.passenger_id,
            version: self.version,
            status: self.status,
            pickup: self.pickup,
            dropoff: self.dropoff,
            vehicle_type: self.vehicle_type,
            occurred_at: self.updated_at,
            previous_hash: self.last_hash.clone(),
            hash: String::new(),
            by: cancelled.map(|c| c.by),
            reason: cancelled.map(|c| c.reason.clone()),
            fee: cancelled.map(|c| c.fee),
            distance_m: receipt.map(|r| r.distance_m),
            duration_s: receipt.map(|r| r.duration_s),
            fare: receipt.map(|r| r.fare.clone()),
            platform_fee: self.parts().map(|(fee, _)| fee),
            driver_payout: self.parts().map(|(_, payout)| payout),
        }
    }
}

/// Decides on `order` by `by` (who is one of the ride's two people, or the system).
///
/// # Errors
/// [`Refusal`]: nothing is to be changed.
pub fn decide(
    ride: &Ride,
    by: Party,
    order: &Order<'_>,
    tariffs: &Tariffs,
    now: DateTime<Utc>,
) -> Result<Outcome, Refusal> {
    let may = match order.command() {
        Command::Start | Command::Arrive => by == Party::Driver,
        Command::Cancel => true,
        Command::Complete => by == Party::System,
    };
    if !may {
        return Err(Refusal::NotYours);
    }
    let to = match step(ride.status, order.command()) {
        Step::Refused(refusal) => return Err(refusal),
        Step::Again => None,
        Step::To(status) => Some(status),
    };
    let tariff = tariffs.of(ride.vehicle_type);
    let change = match (*order, to) {
        (Order::Start { pin, right, tries }, to) => return start(ride, pin, right, tries, to, now),
        (Order::Cancel { .. }, None) => {
            // The same party may repeat it; the other one comes too late.
            let same = ride.cancelled.as_ref().is_some_and(|c| c.by == by);
            return if same { Ok(Outcome::Again) } else { Err(Refusal::Ended) };
        }
        (_, None) => return Ok(Outcome::Again),
        (Order::Cancel { reason }, Some(to)) => {
            // PostgreSQL's text has no place for a zero.
            if reason.is_empty() || reason.len() > REASON_MAX || reason.contains('\0') {
                return Err(Refusal::Reason);
            }
            let fee = cancellation_fee(tariff, by, ride.status, now - ride.created_at);
            ride.advance(to, now, |next| {
                let (platform_fee, driver_payout) = pricing::split(tariff, fee.amount);
                next.cancelled = Some(Cancelled { by, reason: reason.to_owned(), fee, platform_fee, driver_payout });
                Some(Bill { cause: Cause::Cancellation, total: fee, platform_fee, driver_payout })
            })
        }
        (Order::Arrive, Some(to)) => ride.advance(to, now, |next| {
            next.arrived_at = Some(next.updated_at);
            None
        }),
        (Order::Complete(distance), Some(to)) => ride.advance(to, now, |next| Some(complete(next, tariff, distance))),
    };
    Ok(Outcome::Changed(Box::new(change)))
}

fn start(
    ride: &Ride,
    pin: &str,
    right: &str,
    tries: PinTries,
    to: Option<RideStatus>,
    now: DateTime<Utc>,
) -> Result<Outcome, Refusal> {
    // The digits are not to be learnt from how long a wrong answer takes.
    let is_right = verify_slices_are_equal(pin.as_bytes(), right.as_bytes()).is_ok();
    let Some(to) = to else {
        return if is_right { Ok(Outcome::Again) } else { Err(Refusal::WrongPin) };
    };
    if let Some(failed_at) = tries.failed_at.filter(|_| tries.failures >= PIN_TRIES) {
        let until = failed_at + Duration::seconds(PIN_PAUSE_S);
        if now < until {
            return Err(Refusal::PinLocked((until - now).num_seconds().max(1)));
        }
    }
    if !is_right {
        return Ok(Outcome::WrongPin(PinTries { failures: tries.failures.saturating_add(1), failed_at: Some(now) }));
    }
    Ok(Outcome::Changed(Box::new(ride.advance(to, now, |next| {
        next.started_at = Some(next.updated_at);
        None
    }))))
}

fn complete(ride: &mut Ride, tariff: &Tariff, distance: Distance) -> Bill {
    let duration_s = ride.duration_s();
    let distance_m = match distance {
        Distance::Measured(metres) => metres,
        Distance::Estimated => pricing::estimate(&ride.pickup, &ride.dropoff).0,
    };
    let Priced { mut fare, platform_fee, driver_payout } = pricing::price(tariff, distance_m, duration_s);
    fare.estimated = distance == Distance::Estimated;
    let bill = Bill { cause: Cause::Fare, total: fare.total, platform_fee, driver_payout };
    ride.receipt = Some(Receipt { distance_m, duration_s, fare, platform_fee, driver_payout });
    bill
}

/// What a passenger pays for a ride that ends early. Nothing if the driver or the platform ends it, whenever that is. A
/// passenger pays nothing in the first [`FREE_CANCELLATION_S`] after the ride came to be, then the tariff's cancellation
/// fee, and once in the vehicle the tariff's minimum. It is split like a fare.
pub fn cancellation_fee(tariff: &Tariff, by: Party, status: RideStatus, since_created: Duration) -> Money {
    let cents = match (by, status) {
        (Party::Driver | Party::System, _) => 0,
        (Party::Passenger, RideStatus::Started) => tariff.minimum,
        (Party::Passenger, _) if since_created <= Duration::seconds(FREE_CANCELLATION_S) => 0,
        (Party::Passenger, _) => tariff.cancellation,
    };
    Money::usd(cents)
}

#[cfg(test)]
pub(crate) mod tests;
