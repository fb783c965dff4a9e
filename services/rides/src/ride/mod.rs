//! A ride and the decision on each command; pure.
//!
//! Ride, command and time go in; the next ride, its event and the bill come out. `version` counts the events, and each event holds
//! the hash of the one before. Nothing here reads a clock, a store or a bus.

pub mod cancellation;
mod distance;
pub mod lifecycle;
pub(crate) mod requests;
pub(crate) mod rows;
pub(crate) mod update;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use chrono::{DateTime, Duration, Utc};
use pricing::{self, Minimum, Priced, Tariff, Tariffs, Trip, WaitingRules};
use streams::event::{CancelCode, Currency, Fare, MatchAccepted, Party, RideEvent, RideTerms};
use streams::{MatchId, Money, PaymentId, Position, RequestId, RideId, RideStatus, UserId, VehicleType};

pub use self::cancellation::{Cancellation, DrivenSoFar};
use self::cancellation::{CancelledRide, Charge};
use self::distance::COVERED_MIN;
pub use self::distance::Distance;
use self::lifecycle::{Command, REASON_MAX, Refusal, Step, WAIT_WITHIN_M, step};
use crate::hash_chain::{self, NO_PREVIOUS_HASH};

/// Wrong PINs before a pause.
pub const PIN_TRIES: u32 = 5;
/// The pause between two tries after that, seconds.
pub const PIN_PAUSE_S: i64 = 30;

#[derive(Debug, Clone, PartialEq)]
pub struct Ride {
    pub ride_id: RideId,
    pub match_id: MatchId,
    pub driver_id: UserId,
    pub passenger_id: UserId,
    /// That of its newest event: 1, 2, 3 …
    pub version: u32,
    pub status: RideStatus,
    pub pickup: Position,
    pub dropoff: Position,
    pub vehicle_type: VehicleType,
    /// When its first event occurred.
    pub created_at: DateTime<Utc>,
    /// When its newest event occurred.
    pub updated_at: DateTime<Utc>,
    pub waiting_at: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub arrived_at: Option<DateTime<Utc>>,
    /// `hash` of its newest event.
    pub last_hash: String,
    /// Only once completed.
    pub receipt: Option<Receipt>,
    /// Only once cancelled.
    pub cancellation: Option<Cancellation>,
    /// The market of the pickup; a ride of the version before has none, and no terms.
    pub market_id: Option<String>,
    /// What it costs, as it was when the ride began.
    pub terms: Option<RideTerms>,
}

/// Wrong PINs given for a ride that has not started. They are not part of the ride's history: they only limit the next tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PinTries {
    pub failures: u32,
    /// When the last wrong PIN was given.
    pub failed_at: Option<DateTime<Utc>>,
}

/// What a completed ride was billed for. `fare.total` = `platform_fee` + `driver_payout`.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    /// From start to arrival, metres.
    pub distance_m: f64,
    /// From start to arrival, seconds.
    pub duration_s: f64,
    pub fare: Fare,
    pub platform_fee: Money,
    pub driver_payout: Money,
}

/// A command with the data that [`decide`] needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CommandInput<'a> {
    Wait {
        /// Where the driver is, as far as the platform knows.
        driver_at: Option<Position>,
    },
    Start {
        /// What the driver gave.
        pin: &'a str,
        /// The right PIN.
        right: &'a str,
        /// The wrong PINs so far.
        tries: PinTries,
    },
    Arrive,
    Cancel {
        /// A code or words, 1 to [`REASON_MAX`] bytes.
        reason: &'a str,
        /// Words beside a code, as long at most.
        note: Option<&'a str>,
        /// How far a started ride has come.
        driven: Option<DrivenSoFar>,
        /// The search that became this ride, as far as it is known.
        search: Option<RequestId>,
    },
    Complete(Distance),
}

impl CommandInput<'_> {
    pub const fn command(&self) -> Command {
        match self {
            Self::Wait { .. } => Command::Wait,
            Self::Start { .. } => Command::Start,
            Self::Arrive => Command::Arrive,
            Self::Cancel { .. } => Command::Cancel,
            Self::Complete(_) => Command::Complete,
        }
    }
}

/// What to bill for a final aggregate. `covered` is the part of the ride's time that its positions show; an aggregate that does not
/// say so is believed.
pub(crate) fn billed_distance(ride: &Ride, metres: f64, covered: Option<f64>, max_speed_mps: f64) -> Distance {
    if covered.is_some_and(|covered| covered < COVERED_MIN) {
        return Distance::Estimated;
    }
    plausible(ride, metres, ride.duration_s(), max_speed_mps)
}

/// What to bill for a final distance: nothing that nobody can have driven.
pub(crate) fn plausible(ride: &Ride, metres: f64, duration_s: f64, max_speed_mps: f64) -> Distance {
    distance::plausible((&ride.pickup, &ride.dropoff), metres, duration_s, max_speed_mps)
}

/// The next version of a ride, the event that leads to it, and the bill.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub ride: Ride,
    pub event: RideEvent,
    pub bill: Option<Bill>,
}

/// What a passenger owes. `total` = `platform_fee` + `driver_payout`, and more than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bill {
    pub reason: BillReason,
    pub total: Money,
    pub platform_fee: Money,
    pub driver_payout: Money,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BillReason {
    /// A completed ride.
    Fare,
    /// A late cancellation.
    Cancellation,
}

/// The decision on a command that is not refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Changed(Box<Change>),
    /// The command was done before: the same answer, without a second effect.
    AlreadyDone,
    /// The PIN was wrong. The caller stores the count, although the command is refused.
    WrongPin(PinTries),
}

impl Ride {
    /// The ride that an accepted match becomes, and its first event; `place` is the market of the pickup, with the terms of such a ride.
    pub fn create(
        accepted: &MatchAccepted,
        ride_id: RideId,
        place: Option<(String, RideTerms)>,
        now: DateTime<Utc>,
    ) -> Change {
        let (market_id, terms) = place.unzip();
        let mut event = RideEvent {
            ride_id,
            match_id: accepted.match_id,
            driver_id: accepted.driver_id,
            passenger_id: accepted.passenger_id,
            version: 1,
            status: RideStatus::Pickup,
            pickup: accepted.pickup,
            dropoff: accepted.dropoff,
            vehicle_type: accepted.vehicle_type,
            occurred_at: now,
            previous_hash: NO_PREVIOUS_HASH.to_owned(),
            hash: String::new(),
            by: None,
            reason: None,
            reason_code: None,
            note: None,
            fee: None,
            distance_m: None,
            duration_s: None,
            fare: None,
            platform_fee: None,
            driver_payout: None,
            search_continues: None,
            request_id: Some(accepted.request_id),
            market_id,
            terms,
        };
        event.hash = hash_chain::hash(&event);
        Change { ride: Self::from_event(&event), event, bill: None }
    }

    /// The ride as `event` alone describes it: after a first event, all of it.
    pub(crate) fn from_event(event: &RideEvent) -> Self {
        Self {
            ride_id: event.ride_id,
            match_id: event.match_id,
            driver_id: event.driver_id,
            passenger_id: event.passenger_id,
            version: event.version,
            status: event.status,
            pickup: event.pickup,
            dropoff: event.dropoff,
            vehicle_type: event.vehicle_type,
            created_at: event.occurred_at,
            updated_at: event.occurred_at,
            waiting_at: None,
            started_at: None,
            arrived_at: None,
            last_hash: event.hash.clone(),
            receipt: None,
            cancellation: None,
            market_id: event.market_id.clone(),
            terms: event.terms.clone(),
        }
    }

    /// What the ride costs, and its rules of waiting; `tariffs` are for a ride that has no terms.
    fn tariff(&self, tariffs: &Tariffs) -> (Tariff, WaitingRules) {
        let general = || (*tariffs.of(self.vehicle_type), tariffs.waiting);
        self.terms.as_ref().map_or_else(general, pricing::of_terms)
    }

    /// The currency of every amount of the ride.
    pub fn currency(&self) -> Currency {
        self.terms.as_ref().map_or(Currency::USD, |terms| terms.currency)
    }

    /// The id of the payment for its newest event; always the same for the same event.
    pub fn payment_id(&self) -> PaymentId {
        PaymentId(hash_chain::derived_id(self.updated_at, &self.last_hash, "payment"))
    }

    /// The platform's and the driver's part of what the passenger pays; `None` before the end, and for a free cancellation.
    pub fn parts(&self) -> Option<(Money, Money)> {
        let fare = self.receipt.as_ref().map(|r| (r.platform_fee, r.driver_payout));
        let fee = || self.cancellation.as_ref().filter(|c| c.fee.amount > 0).map(|c| (c.platform_fee, c.driver_payout));
        fare.or_else(fee)
    }

    /// What the passenger pays, line by line; `None` before the end, and for a free cancellation.
    pub fn fare(&self) -> Option<&Fare> {
        let cancelled = || self.cancellation.as_ref().and_then(|c| c.fare.as_ref());
        self.receipt.as_ref().map(|r| &r.fare).or_else(cancelled)
    }

    /// The part that `user` has in this ride, if any.
    pub fn party(&self, user: UserId) -> Option<Party> {
        if user == self.driver_id {
            Some(Party::Driver)
        } else if user == self.passenger_id {
            Some(Party::Passenger)
        } else {
            None
        }
    }

    /// From start to arrival, seconds; 0 before the arrival.
    pub fn duration_s(&self) -> f64 {
        match (self.started_at, self.arrived_at) {
            (Some(from), Some(to)) => (to - from).as_seconds_f64().max(0.0),
            _ => 0.0,
        }
    }

    /// How long the driver waited at the pickup beyond the free time, seconds; 0 before the start.
    pub fn waited_s(&self, rules: &WaitingRules) -> f64 {
        match (self.waiting_at, self.started_at) {
            (Some(from), Some(to)) => ((to - from).as_seconds_f64() - f64::from(rules.free_s)).max(0.0),
            _ => 0.0,
        }
    }

    fn at_cancellation(&self, rules: &WaitingRules) -> CancelledRide {
        let Self { status, pickup, dropoff, created_at, waiting_at, started_at, .. } = *self;
        let waited_s = self.waited_s(rules);
        let of_terms = |terms: &RideTerms| f64::from(terms.speed_mm_s) / 1_000.0;
        let speed_mps = self.terms.as_ref().map_or(pricing::ESTIMATED_MPS, of_terms);
        CancelledRide { status, pickup, dropoff, created_at, waiting_at, started_at, waited_s, speed_mps }
    }

    /// The next version and its event, with the hash; `change` sets what the command changes, and returns the bill.
    fn advance(
        &self,
        status: RideStatus,
        now: DateTime<Utc>,
        change: impl FnOnce(&mut Self) -> Option<Bill>,
    ) -> Change {
        let mut ride = self.clone();
        ride.version += 1;
        ride.status = status;
        // The clocks of two processes differ; the events of a ride must not go back in time.
        ride.updated_at = now.max(self.updated_at);
        let bill = change(&mut ride).filter(|bill| bill.total.amount > 0);
        let mut event = ride.event();
        event.hash = hash_chain::hash(&event);
        ride.last_hash.clone_from(&event.hash);
        Change { ride, event, bill }
    }

    fn event(&self) -> RideEvent {
        let (receipt, cancelled) = (self.receipt.as_ref(), self.cancellation.as_ref());
        let continues = cancelled.and_then(|c| c.continues);
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
            reason_code: cancelled.and_then(|c| c.code),
            note: cancelled.and_then(|c| c.note.clone()),
            fee: cancelled.map(|c| c.fee),
            distance_m: receipt.map(|r| r.distance_m).or_else(|| cancelled?.distance_m),
            duration_s: receipt.map(|r| r.duration_s).or_else(|| cancelled?.duration_s),
            fare: self.fare().cloned(),
            platform_fee: self.parts().map(|(fee, _)| fee),
            driver_payout: self.parts().map(|(_, payout)| payout),
            search_continues: continues.map(|_| true),
            request_id: continues,
            market_id: self.market_id.clone(),
            terms: None,
        }
    }
}

/// Decides on a command by `by`, who is one of the ride's two people, or the system. `tariffs` are for a ride that has no terms of its own.
///
/// # Errors
/// [`Refusal`]: nothing changes.
pub fn decide(
    ride: &Ride,
    by: Party,
    input: &CommandInput<'_>,
    tariffs: &Tariffs,
    now: DateTime<Utc>,
) -> Result<Outcome, Refusal> {
    let may = match input.command() {
        Command::Wait | Command::Start | Command::Arrive => by == Party::Driver,
        Command::Cancel => true,
        Command::Complete => by == Party::System,
    };
    if !may {
        return Err(Refusal::NotYours);
    }
    let to = match step(ride.status, input.command()) {
        Step::Refused(refusal) => return Err(refusal),
        Step::AlreadyDone => None,
        Step::To(status) => Some(status),
    };
    let change = match (*input, to) {
        (CommandInput::Wait { .. }, None) if ride.waiting_at.is_none() => return Err(Refusal::Started),
        (CommandInput::Wait { driver_at }, Some(to)) => {
            let away_m = driver_at.ok_or(Refusal::PlaceUnknown)?.distance_m(&ride.pickup);
            if away_m > WAIT_WITHIN_M {
                return Err(Refusal::TooFar(away_m.round() as u64));
            }
            ride.advance(to, now, |next| {
                next.waiting_at = Some(next.updated_at);
                None
            })
        }
        (CommandInput::Start { pin, right, tries }, to) => return start(ride, pin, right, tries, to, now),
        (CommandInput::Cancel { .. }, None) => {
            // The party that cancelled may repeat the command; for the other one the ride has ended.
            let same = ride.cancellation.as_ref().is_some_and(|c| c.by == by);
            return if same { Ok(Outcome::AlreadyDone) } else { Err(Refusal::Ended) };
        }
        (_, None) => return Ok(Outcome::AlreadyDone),
        (CommandInput::Cancel { reason, note, driven, search }, Some(to)) => {
            if !is_text(reason) {
                return Err(Refusal::Reason);
            }
            if note.is_some_and(|note| !is_text(note)) {
                return Err(Refusal::Note);
            }
            let (tariff, waiting) = ride.tariff(tariffs);
            let (code, cancelled) = (CancelCode::of(reason), ride.at_cancellation(&waiting));
            if by == Party::Driver && code == CancelCode::NoShow {
                cancellation::check_no_show(&cancelled, &waiting, now)?;
            }
            let charge = cancellation::charge(&cancelled, by, code, &tariff, driven.as_ref(), now);
            let continues = search.filter(|_| cancellation::continues_search(&cancelled, by, code));
            let words = (reason.to_owned(), note.map(str::to_owned));
            ride.advance(to, now, |next| Some(cancel(next, by, words, charge, continues)))
        }
        (CommandInput::Arrive, Some(to)) => ride.advance(to, now, |next| {
            next.arrived_at = Some(next.updated_at);
            None
        }),
        (CommandInput::Complete(distance), Some(to)) => {
            ride.advance(to, now, |next| Some(complete(next, tariffs, distance)))
        }
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
    // Compared in constant time, so that the time of an answer does not reveal digits.
    let is_right = verify_slices_are_equal(pin.as_bytes(), right.as_bytes()).is_ok();
    let Some(to) = to else {
        return if is_right { Ok(Outcome::AlreadyDone) } else { Err(Refusal::WrongPin) };
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

fn complete(ride: &mut Ride, tariffs: &Tariffs, distance: Distance) -> Bill {
    let (tariff, waiting) = ride.tariff(tariffs);
    let waited_s = ride.waited_s(&waiting);
    let duration_s = ride.duration_s();
    let distance_m = match distance {
        Distance::Measured(metres) => metres,
        Distance::Estimated => pricing::estimate(&ride.pickup, &ride.dropoff).0,
    };
    let Priced { mut fare, platform_fee, driver_payout } =
        pricing::bill(&tariff, &Trip { distance_m, duration_s, waited_s }, Minimum::Applies);
    fare.estimated = distance == Distance::Estimated;
    let bill = Bill { reason: BillReason::Fare, total: fare.total, platform_fee, driver_payout };
    ride.receipt = Some(Receipt { distance_m, duration_s, fare, platform_fee, driver_payout });
    bill
}

/// Whether a text of a canceller can be stored: PostgreSQL's type text cannot hold a NUL byte.
fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= REASON_MAX && !text.contains('\0')
}

fn cancel(
    ride: &mut Ride,
    by: Party,
    (reason, note): (String, Option<String>),
    charge: Charge,
    continues: Option<RequestId>,
) -> Bill {
    let Charge { priced, distance_m, duration_s } = charge;
    let zero = Money::new(0, ride.currency());
    let (fare, platform_fee, driver_payout) = match priced {
        Some(Priced { fare, platform_fee, driver_payout }) => (Some(fare), platform_fee, driver_payout),
        None => (None, zero, zero),
    };
    let fee = fare.as_ref().map_or(zero, |fare| fare.total);
    let code = Some(CancelCode::of(&reason));
    ride.cancellation = Some(Cancellation {
        by,
        reason,
        code,
        note,
        fee,
        fare,
        distance_m,
        duration_s,
        platform_fee,
        driver_payout,
        continues,
    });
    Bill { reason: BillReason::Cancellation, total: fee, platform_fee, driver_payout }
}

#[cfg(test)]
pub(crate) mod tests;
