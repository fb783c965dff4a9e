//! The events of the system: one closed enum, parsed and validated in one place, with a file for each noun.
//!
//! Bodies are exactly those of the contract, section 2. Unknown fields are ignored; a missing or malformed field is an
//! [`EventError`], and no retry can repair it. Nothing here knows a stream or a bus.

pub mod ids;
mod location;
mod matching;
mod money;
mod operator;
mod payment;
mod position;
mod ride;
mod subject;
mod user;
mod validation;

pub mod rfc3339;

use chrono::{DateTime, Duration, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::{Value, json};

pub use location::{LocationAggregate, LocationUpdate, Reception, TrackPoint};
pub use matching::{MatchAccepted, MatchFound, MatchRejected, RejectReason};
pub use money::{Currency, Fare, FareLine, Money};
pub use operator::{ActKind, OperatorAct, OperatorRole};
pub use payment::PaymentCapture;
pub use position::Position;
pub use ride::{CancelCode, Party, RideEvent, RideStatus, RideTerms};
pub use subject::{Service, Subject, UnknownSubject};
pub use user::{CancelledRide, UserBeacon, UserFinder, VehicleType};
pub use validation::EventError;

use validation::Fields;

/// By how much a time in a body may be later than the time at which the stream stored it.
pub const CLOCK_AHEAD_MAX: Duration = Duration::seconds(60);

/// Anything that happens in the system.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// `user.beacon`
    UserBeacon(UserBeacon),
    /// `user.finder`
    UserFinder(UserFinder),
    /// `match.found`
    MatchFound(MatchFound),
    /// `match.rejected`
    MatchRejected(MatchRejected),
    /// `match.accepted`
    MatchAccepted(MatchAccepted),
    /// `ride.*`; the body's status says which.
    Ride(Box<RideEvent>),
    /// `location.update`
    LocationUpdate(LocationUpdate),
    /// `location.aggregate`
    LocationAggregate(LocationAggregate),
    /// `payment.capture`
    PaymentCapture(PaymentCapture),
    /// `admin.*`; the body's act says which.
    Act(Box<OperatorAct>),
}

impl Event {
    /// The subject on which it is published.
    pub fn subject(&self) -> Subject {
        match self {
            Self::UserBeacon(_) => Subject::UserBeacon,
            Self::UserFinder(_) => Subject::UserFinder,
            Self::MatchFound(_) => Subject::MatchFound,
            Self::MatchRejected(_) => Subject::MatchRejected,
            Self::MatchAccepted(_) => Subject::MatchAccepted,
            Self::Ride(ride) => ride.status.subject(),
            Self::LocationUpdate(_) => Subject::LocationUpdate,
            Self::LocationAggregate(_) => Subject::LocationAggregate,
            Self::PaymentCapture(_) => Subject::PaymentCapture,
            Self::Act(act) => act.act.subject(),
        }
    }

    /// The id of the entity that the event is about: the user of a beacon or position, the request of a search, the match,
    /// the ride, the payment, the act.
    pub fn entity_id(&self) -> uuid::Uuid {
        match self {
            Self::UserBeacon(e) => e.user_id.0,
            Self::UserFinder(e) => e.request_id.0,
            Self::MatchFound(e) => e.match_id.0,
            Self::MatchRejected(e) => e.match_id.0,
            Self::MatchAccepted(e) => e.match_id.0,
            Self::Ride(e) => e.ride_id.0,
            Self::LocationUpdate(e) => e.user_id.0,
            Self::LocationAggregate(e) => e.ride_id.0,
            Self::PaymentCapture(e) => e.payment_id.0,
            Self::Act(e) => e.act_id.0,
        }
    }

    /// The time in the body; `None` for an aggregate and a capture, which have none.
    pub fn occurred_at(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::UserBeacon(e) => Some(e.recorded_at),
            Self::UserFinder(e) => Some(e.recorded_at),
            Self::MatchFound(e) => Some(e.found_at),
            Self::MatchRejected(e) => Some(e.rejected_at),
            Self::MatchAccepted(e) => Some(e.accepted_at),
            Self::Ride(e) => Some(e.occurred_at),
            Self::LocationUpdate(e) => Some(e.recorded_at),
            Self::Act(e) => Some(e.acted_at),
            Self::LocationAggregate(_) | Self::PaymentCapture(_) => None,
        }
    }

    /// The newest time at which the body says that something has happened, and its field; not when something will.
    fn newest_time(&self) -> Option<(&'static str, DateTime<Utc>)> {
        Some(match self {
            Self::UserBeacon(e) => ("recorded_at", e.recorded_at),
            Self::UserFinder(e) => ("recorded_at", e.recorded_at),
            Self::MatchFound(e) => ("found_at", e.found_at),
            Self::MatchRejected(e) => ("rejected_at", e.rejected_at),
            Self::MatchAccepted(e) => ("accepted_at", e.accepted_at),
            Self::Ride(e) => ("occurred_at", e.occurred_at),
            Self::LocationUpdate(e) => ("recorded_at", e.recorded_at),
            Self::LocationAggregate(e) => ("last.recorded_at", e.last?.recorded_at),
            Self::Act(e) => ("acted_at", e.acted_at),
            Self::PaymentCapture(_) => return None,
        })
    }

    /// Checks that nothing in the body has happened after the stream stored it, up to [`CLOCK_AHEAD_MAX`]. Readers keep the
    /// newest of two events, so one time of the far future would hide every later event of its entity.
    ///
    /// # Errors
    /// [`EventError::Field`] names the time.
    pub fn check_times(&self, stored_at: DateTime<Utc>) -> Result<(), EventError> {
        match self.newest_time() {
            Some((field, at)) if at > stored_at + CLOCK_AHEAD_MAX => {
                let ahead_s = CLOCK_AHEAD_MAX.num_seconds();
                let stored_at = rfc3339::text(&stored_at);
                let problem = format!("is more than {ahead_s} s later than the time of storage, {stored_at}");
                Err(Fields(self.subject()).error(field, &problem))
            }
            _ => Ok(()),
        }
    }

    /// The message id: `{subject}-{entity id}-{occurred_at in microseconds}`, the same on every retry of this event.
    /// `at` is used if the body has no time of its own.
    pub fn message_id(&self, at: DateTime<Utc>) -> String {
        if let Self::LocationUpdate(update) = self {
            return update.message_id();
        }
        let at = self.occurred_at().unwrap_or(at);
        format!("{}-{}-{}", self.subject(), self.entity_id(), at.timestamp_micros())
    }

    /// The body as JSON.
    pub fn body(&self) -> Vec<u8> {
        let body = match self {
            Self::UserBeacon(e) => serde_json::to_vec(e),
            Self::UserFinder(e) => serde_json::to_vec(e),
            Self::MatchFound(e) => serde_json::to_vec(e),
            Self::MatchRejected(e) => serde_json::to_vec(e),
            Self::MatchAccepted(e) => serde_json::to_vec(e),
            Self::Ride(e) => serde_json::to_vec(e),
            Self::LocationUpdate(e) => return e.body(),
            Self::LocationAggregate(e) => serde_json::to_vec(e),
            Self::PaymentCapture(e) => serde_json::to_vec(e),
            Self::Act(e) => serde_json::to_vec(e),
        };
        body.expect("events have string keys and no failing serializer")
    }

    /// Reads and validates the body of a message on `subject`.
    ///
    /// # Errors
    /// [`EventError`] names the field and what is wrong with it; the same bytes will always fail.
    pub fn parse(subject: &str, body: &[u8]) -> Result<Self, EventError> {
        let subject: Subject = subject.parse()?;
        fn read<'a, T: Deserialize<'a>>(subject: Subject, body: &'a [u8]) -> Result<T, EventError> {
            serde_json::from_slice(body).map_err(|source| EventError::Body { subject, source })
        }
        let event = match subject {
            Subject::UserBeacon => Self::UserBeacon(read(subject, body)?),
            Subject::UserFinder => Self::UserFinder(read(subject, body)?),
            Subject::MatchFound => Self::MatchFound(read(subject, body)?),
            Subject::MatchRejected => Self::MatchRejected(read(subject, body)?),
            Subject::MatchAccepted => Self::MatchAccepted(read(subject, body)?),
            Subject::RidePickup
            | Subject::RideWaiting
            | Subject::RideStarted
            | Subject::RideArrived
            | Subject::RideCompleted
            | Subject::RideCancelled => Self::Ride(read(subject, body)?),
            Subject::LocationUpdate => Self::LocationUpdate(read(subject, body)?),
            Subject::LocationAggregate => Self::LocationAggregate(read(subject, body)?),
            Subject::PaymentCapture => Self::PaymentCapture(read(subject, body)?),
            Subject::AdminRideEnded
            | Subject::AdminRideRefunded
            | Subject::AdminRideNoteAdded
            | Subject::AdminUserLookedUp
            | Subject::AdminUserSignedOut
            | Subject::AdminDriverApproved
            | Subject::AdminDriverSuspended
            | Subject::AdminDriverDocumentsSet
            | Subject::AdminDeadLetterRequeued
            | Subject::AdminDeadLetterRemoved => Self::Act(read(subject, body)?),
        };
        event.validate(&Fields(subject))?;
        Ok(event)
    }

    fn validate(&self, fields: &Fields) -> Result<(), EventError> {
        match self {
            Self::UserBeacon(e) => e.validate(fields),
            Self::UserFinder(e) => e.validate(fields),
            Self::MatchFound(e) => e.validate(fields),
            Self::MatchAccepted(e) => e.validate(fields),
            Self::MatchRejected(_) => Ok(()),
            Self::Ride(e) => e.validate(fields),
            Self::LocationUpdate(e) => e.validate(fields),
            Self::LocationAggregate(e) => e.validate(fields),
            Self::PaymentCapture(e) => e.validate(fields),
            Self::Act(e) => e.validate(fields),
        }
    }
}

fn all_of(general: Schema, special: Value) -> Schema {
    [("allOf".to_owned(), json!([general, special]))].into_iter().collect::<serde_json::Map<_, _>>().into()
}

/// The schema of the body of an event with this subject.
pub fn schema(subject: Subject, schemas: &mut SchemaGenerator) -> Schema {
    fn of<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Schema {
        schemas.subschema_for::<T>()
    }
    match subject {
        Subject::UserBeacon => of::<UserBeacon>(schemas),
        Subject::UserFinder => of::<UserFinder>(schemas),
        Subject::MatchFound => of::<MatchFound>(schemas),
        Subject::MatchAccepted => of::<MatchAccepted>(schemas),
        Subject::MatchRejected => of::<MatchRejected>(schemas),
        Subject::LocationUpdate => of::<LocationUpdate>(schemas),
        Subject::LocationAggregate => of::<LocationAggregate>(schemas),
        Subject::PaymentCapture => of::<PaymentCapture>(schemas),
        Subject::AdminRideEnded
        | Subject::AdminRideRefunded
        | Subject::AdminRideNoteAdded
        | Subject::AdminUserLookedUp
        | Subject::AdminUserSignedOut
        | Subject::AdminDriverApproved
        | Subject::AdminDriverSuspended
        | Subject::AdminDriverDocumentsSet
        | Subject::AdminDeadLetterRequeued
        | Subject::AdminDeadLetterRemoved => {
            let act = ActKind::ALL.iter().find(|act| act.subject() == subject).map(|act| act.as_str());
            all_of(of::<OperatorAct>(schemas), json!({"type": "object", "properties": {"act": {"const": act}}}))
        }
        Subject::RidePickup
        | Subject::RideWaiting
        | Subject::RideStarted
        | Subject::RideArrived
        | Subject::RideCompleted
        | Subject::RideCancelled => {
            let event = of::<RideEvent>(schemas);
            let status = RideStatus::ALL.into_iter().find(|status| status.subject() == subject);
            let status = status.expect("a status leads to each event of a ride");
            let own = json!({
                "type": "object",
                "properties": {"status": {"const": status.as_str()}},
                "required": status.required_fields(),
            });
            all_of(event, own)
        }
    }
}

#[cfg(test)]
mod tests;
