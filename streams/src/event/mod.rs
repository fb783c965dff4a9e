//! The events of the system, their ids and their units: one closed enum, parsed and validated in one place.
//!
//! Bodies are exactly those of the contract, section 2. Unknown fields are ignored; a missing or malformed one is an
//! [`EventError`], which no retry can mend.

use std::fmt;

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A time on the wire: RFC 3339, UTC, microseconds.
pub mod rfc3339 {
    use super::*;

    /// Writes `time` with microseconds and `Z`.
    pub fn serialize<S: Serializer>(time: &DateTime<Utc>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text(time))
    }

    /// Reads any RFC 3339 time of the years 1970 to 9999 and turns it to UTC.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DateTime<Utc>, D::Error> {
        let time = DateTime::<Utc>::deserialize(from)?;
        // Far-off years are legal RFC 3339 to the parser, and overflow as soon as somebody adds a second.
        if !(1970..=9999).contains(&time.year()) {
            return Err(serde::de::Error::custom("the year must be within 1970 to 9999"));
        }
        Ok(time)
    }

    /// The text form: `2026-11-21T04:05:06.123456Z`.
    pub fn text(time: &DateTime<Utc>) -> String {
        time.to_rfc3339_opts(SecondsFormat::Micros, true)
    }
}

/// Typed ids. All are UUIDs, version 7 when made here.
pub mod id {
    use super::*;
    use uuid::Uuid;

    macro_rules! id {
        ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
            #[serde(transparent)]
            pub struct $name(pub Uuid);

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.fmt(f)
                }
            }

            impl std::str::FromStr for $name {
                type Err = uuid::Error;
                fn from_str(text: &str) -> Result<Self, Self::Err> {
                    Uuid::parse_str(text).map(Self)
                }
            }

            impl From<Uuid> for $name {
                fn from(id: Uuid) -> Self {
                    Self(id)
                }
            }
        )+};
    }

    id!(
        /// A user: a passenger, a driver, or both.
        UserId,
        /// A passenger's search for a driver.
        RequestId,
        /// One offer of a request to one driver.
        MatchId,
        /// What an accepted match becomes.
        RideId,
        /// One capture of money.
        PaymentId,
    );
}

use id::{MatchId, PaymentId, RequestId, RideId, UserId};

/// The four services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Sign-in, profiles, the WebSocket gateway.
    Users,
    /// The driver pool, requests and offers.
    Match,
    /// The lifecycle of a ride, fares, ledger, payments.
    Rides,
    /// Newest positions, tracks, distances.
    Location,
}

impl Service {
    /// All, in the order in which a ride meets them.
    pub const ALL: [Self; 4] = [Self::Users, Self::Match, Self::Rides, Self::Location];

    /// The name in consumer names, `ce-source` and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Match => "match",
            Self::Rides => "rides",
            Self::Location => "location",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! subjects {
    ($($(#[$doc:meta])* $name:ident = $text:literal),+ $(,)?) => {
        /// The subject of an event: what happened, as `noun.verb`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Subject { $($(#[$doc])* $name),+ }

        impl Subject {
            /// Every subject, in the order of the contract.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The subject as NATS has it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }

        impl std::str::FromStr for Subject {
            type Err = EventError;
            fn from_str(text: &str) -> Result<Self, EventError> {
                match text {
                    $($text => Ok(Self::$name),)+
                    other => Err(EventError::UnknownSubject(other.to_owned())),
                }
            }
        }
    };
}

subjects! {
    /// A driver went online, offline or moved while waiting.
    UserBeacon = "user.beacon",
    /// A passenger began or ended a search.
    UserFinder = "user.finder",
    /// A driver is proposed to a passenger.
    MatchFound = "match.found",
    /// An offer ended without a ride.
    MatchRejected = "match.rejected",
    /// The driver took the offer.
    MatchAccepted = "match.accepted",
    /// The ride exists; the driver is on the way.
    RidePickup = "ride.pickup",
    /// The passenger is in the vehicle.
    RideStarted = "ride.started",
    /// The vehicle is at the dropoff.
    RideArrived = "ride.arrived",
    /// The fare is known; final.
    RideCompleted = "ride.completed",
    /// Ended early by one of the two; final.
    RideCancelled = "ride.cancelled",
    /// One position of a driver.
    LocationUpdate = "location.update",
    /// The distance of a ride so far.
    LocationAggregate = "location.aggregate",
    /// Money to be taken from a passenger.
    PaymentCapture = "payment.capture",
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a message is not an event. Permanent: the same bytes will fail again.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// No event has this subject.
    #[error("unknown subject `{0}`")]
    UnknownSubject(String),
    /// Not JSON, or a field is missing or has another type.
    #[error("{subject}: {source}")]
    Body {
        /// The subject whose body it should have been.
        subject: Subject,
        /// What serde found, with line and column.
        source: serde_json::Error,
    },
    /// A field has a value outside its range.
    #[error("{subject}: field `{field}`: {problem}")]
    Field {
        /// The subject whose body it should have been.
        subject: Subject,
        /// The field, with dots for nesting.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

/// A point on the earth, degrees, WGS 84.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Latitude, −90 to 90.
    pub lat: f64,
    /// Longitude, −180 to 180.
    pub lng: f64,
}

impl Position {
    /// Whether both degrees are finite and in range.
    pub fn is_valid(&self) -> bool {
        (-90.0..=90.0).contains(&self.lat) && (-180.0..=180.0).contains(&self.lng)
    }

    /// Great-circle distance in metres (haversine on the mean radius 6,371,008.8 m, the `geo` crate).
    pub fn distance_m(&self, other: &Self) -> f64 {
        use geo::{Distance, Haversine};
        Haversine.distance(geo::Point::new(self.lng, self.lat), geo::Point::new(other.lng, other.lat))
    }
}

/// ISO 4217 code of the currency of an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Currency {
    /// United States dollar.
    Usd,
}

/// An amount of money in minor units (cents); never a float.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// Minor units; may be negative in a ledger.
    pub amount: i64,
    /// The currency.
    pub currency: Currency,
}

impl Money {
    /// So many US cents.
    pub const fn usd(cents: i64) -> Self {
        Self { amount: cents, currency: Currency::Usd }
    }
}

/// What a driver drives and a passenger asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VehicleType {
    /// Up to four passengers.
    Car,
    /// One passenger.
    Motorcycle,
    /// Up to seven passengers.
    Van,
}

impl VehicleType {
    /// All vehicle types.
    pub const ALL: [Self; 3] = [Self::Car, Self::Motorcycle, Self::Van];

    /// The name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Car => "car",
            Self::Motorcycle => "motorcycle",
            Self::Van => "van",
        }
    }
}

impl std::str::FromStr for VehicleType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|v| v.as_str() == text)
            .ok_or_else(|| format!("unknown vehicle type `{text}`: use car, motorcycle or van"))
    }
}

/// A driver went online or offline, or moved while waiting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserBeacon {
    /// The driver.
    pub user_id: UserId,
    /// Whether rides may be offered.
    pub active: bool,
    /// What the driver drives.
    pub vehicle_type: VehicleType,
    /// Where the driver is.
    pub location: Position,
    /// When.
    #[serde(with = "rfc3339")]
    pub recorded_at: DateTime<Utc>,
}

/// A passenger began or ended a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserFinder {
    /// The search.
    pub request_id: RequestId,
    /// The passenger.
    pub user_id: UserId,
    /// Whether the search is on.
    pub active: bool,
    /// From where.
    pub pickup: Position,
    /// To where.
    pub dropoff: Position,
    /// In what.
    pub vehicle_type: VehicleType,
    /// When it began or ended.
    #[serde(with = "rfc3339")]
    pub recorded_at: DateTime<Utc>,
}

/// A driver is proposed to a passenger, and has until `expires_at` to answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MatchFound {
    /// The offer.
    pub match_id: MatchId,
    /// The search that it answers.
    pub request_id: RequestId,
    /// The driver, held until the offer ends.
    pub driver_id: UserId,
    /// The passenger, held until the offer ends.
    pub passenger_id: UserId,
    /// Where the driver is.
    pub driver_location: Position,
    /// From where.
    pub pickup: Position,
    /// To where.
    pub dropoff: Position,
    /// In what.
    pub vehicle_type: VehicleType,
    /// From the driver to the pickup, metres.
    pub pickup_distance_m: f64,
    /// From the driver to the pickup, seconds.
    pub pickup_eta_s: f64,
    /// What the ride will cost about.
    pub fare_estimate: Money,
    /// When the offer was made.
    #[serde(with = "rfc3339")]
    pub found_at: DateTime<Utc>,
    /// The last moment for an answer.
    #[serde(with = "rfc3339")]
    pub expires_at: DateTime<Utc>,
}

/// The driver took the offer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MatchAccepted {
    /// The offer.
    pub match_id: MatchId,
    /// The search that it answers.
    pub request_id: RequestId,
    /// The driver.
    pub driver_id: UserId,
    /// The passenger.
    pub passenger_id: UserId,
    /// From where.
    pub pickup: Position,
    /// To where.
    pub dropoff: Position,
    /// In what.
    pub vehicle_type: VehicleType,
    /// When.
    #[serde(with = "rfc3339")]
    pub accepted_at: DateTime<Utc>,
}

/// Why an offer ended without a ride.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RejectReason {
    /// The driver said no.
    Declined,
    /// Nobody answered in time.
    Expired,
    /// The passenger ended the search.
    Cancelled,
    /// One of the two is in another ride already.
    Superseded,
}

/// An offer ended without a ride.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MatchRejected {
    /// The offer.
    pub match_id: MatchId,
    /// The search that it answered.
    pub request_id: RequestId,
    /// The driver.
    pub driver_id: UserId,
    /// The passenger.
    pub passenger_id: UserId,
    /// Why.
    pub reason: RejectReason,
    /// When.
    #[serde(with = "rfc3339")]
    pub rejected_at: DateTime<Utc>,
}

impl MatchRejected {
    /// When `writer` ends an offer at `now`: that moment, or up to 2 µs before it. The message id is made of the offer and
    /// this time, and two services may end one offer within one microsecond (a driver declines while the search is
    /// cancelled); so each has microseconds of its own, or the stream would take the second event for a repeat.
    pub fn time(writer: Service, now: DateTime<Utc>) -> DateTime<Utc> {
        let own = match writer {
            Service::Users | Service::Location => 0,
            Service::Match => 1,
            Service::Rides => 2,
        };
        now - chrono::Duration::microseconds((now.timestamp_micros() - own).rem_euclid(3))
    }
}

/// Where a ride stands; also the last part of its event's subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RideStatus {
    /// The driver is on the way to the pickup.
    Pickup,
    /// The passenger is in the vehicle.
    Started,
    /// At the dropoff; the fare is being made.
    Arrived,
    /// Final: paid for, or owed.
    Completed,
    /// Final: ended early.
    Cancelled,
}

impl RideStatus {
    /// All, in legal order.
    pub const ALL: [Self; 5] = [Self::Pickup, Self::Started, Self::Arrived, Self::Completed, Self::Cancelled];

    /// The subject of the event that leads here.
    pub const fn subject(self) -> Subject {
        match self {
            Self::Pickup => Subject::RidePickup,
            Self::Started => Subject::RideStarted,
            Self::Arrived => Subject::RideArrived,
            Self::Completed => Subject::RideCompleted,
            Self::Cancelled => Subject::RideCancelled,
        }
    }

    /// The name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pickup => "pickup",
            Self::Started => "started",
            Self::Arrived => "arrived",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing can follow.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled)
    }
}

impl std::str::FromStr for RideStatus {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| format!("unknown ride status `{text}`"))
    }
}

/// One of the two people of a ride, or the platform itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    /// The ride's driver.
    Driver,
    /// The ride's passenger.
    Passenger,
    /// The platform, for example after a driver was gone too long.
    System,
}

/// One line of a fare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FareLine {
    /// `base`, `distance`, `time`, `minimum` …
    pub name: String,
    /// Its amount.
    pub amount: Money,
}

/// What the passenger pays; the lines add up to the total.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fare {
    /// In the order in which a receipt shows them.
    pub lines: Vec<FareLine>,
    /// Their sum.
    pub total: Money,
    /// True if the distance is the estimate, because no final aggregate came in time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}

/// One step of a ride. The optional fields belong to `ride.cancelled` (`by`, `reason`, `fee`) and to `ride.completed`
/// (`distance_m` to `driver_payout`), where they are required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RideEvent {
    /// The ride.
    pub ride_id: RideId,
    /// The match that it came from.
    pub match_id: MatchId,
    /// The driver.
    pub driver_id: UserId,
    /// The passenger.
    pub passenger_id: UserId,
    /// 1, 2, 3 … for each ride, without gaps.
    pub version: u32,
    /// The status after this event.
    pub status: RideStatus,
    /// From where.
    pub pickup: Position,
    /// To where.
    pub dropoff: Position,
    /// In what.
    pub vehicle_type: VehicleType,
    /// When.
    #[serde(with = "rfc3339")]
    pub occurred_at: DateTime<Utc>,
    /// `hash` of the version before; 64 zeros for version 1.
    pub previous_hash: String,
    /// SHA-256, lower-case hex, of the RFC 8785 form of this body without `hash`.
    pub hash: String,
    /// Cancelled: by whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Party>,
    /// Cancelled: why, in the canceller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Cancelled: what the passenger pays for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee: Option<Money>,
    /// Completed: driven from start to arrival, metres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance_m: Option<f64>,
    /// Completed: from start to arrival, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<f64>,
    /// Completed: what the passenger pays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fare: Option<Fare>,
    /// Completed: the platform's part of the fare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform_fee: Option<Money>,
    /// Completed: the driver's part of the fare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_payout: Option<Money>,
}

/// One position of a driver. What may be null must still be there: a field that is missing is malformed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LocationUpdate {
    /// The driver.
    pub user_id: UserId,
    /// The driver's live ride, if there is one.
    #[serde(deserialize_with = "Option::deserialize")]
    pub ride_id: Option<RideId>,
    /// Where.
    pub location: Position,
    /// Radius of the position's uncertainty, metres.
    #[serde(deserialize_with = "Option::deserialize")]
    pub accuracy_m: Option<f64>,
    /// Speed over ground, metres a second.
    #[serde(deserialize_with = "Option::deserialize")]
    pub speed_mps: Option<f64>,
    /// Course over ground, degrees from true north, 0 to 360.
    #[serde(deserialize_with = "Option::deserialize")]
    pub heading_deg: Option<f64>,
    /// When the device measured it.
    #[serde(with = "rfc3339")]
    pub recorded_at: DateTime<Utc>,
}

/// A point of a track.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrackPoint {
    /// Where.
    pub location: Position,
    /// When.
    #[serde(with = "rfc3339")]
    pub recorded_at: DateTime<Utc>,
}

/// The distance of a ride so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LocationAggregate {
    /// The ride.
    pub ride_id: RideId,
    /// Its driver.
    pub driver_id: UserId,
    /// Since the ride started, cumulative, metres.
    pub distance_m: f64,
    /// Points that the distance rests on.
    pub points: u64,
    /// The newest of them; null if there is none.
    #[serde(deserialize_with = "Option::deserialize")]
    pub last: Option<TrackPoint>,
    /// True for the one after the ride arrived; none follows it.
    #[serde(rename = "final")]
    pub is_final: bool,
}

/// Money to be taken from a passenger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentCapture {
    /// The capture; the same on every try.
    pub payment_id: PaymentId,
    /// The ride it pays for.
    pub ride_id: RideId,
    /// Who pays.
    pub passenger_id: UserId,
    /// Who is paid.
    pub driver_id: UserId,
    /// How much.
    pub amount: Money,
}

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
    /// `ride.*`; the status tells which.
    Ride(Box<RideEvent>),
    /// `location.update`
    LocationUpdate(LocationUpdate),
    /// `location.aggregate`
    LocationAggregate(LocationAggregate),
    /// `payment.capture`
    PaymentCapture(PaymentCapture),
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
        }
    }

    /// The id of what it is about: the user of a beacon or position, the request of a search, the match, the ride, the
    /// payment.
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
        }
    }

    /// When it happened, where the body tells; an aggregate and a capture do not.
    pub fn occurred_at(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::UserBeacon(e) => Some(e.recorded_at),
            Self::UserFinder(e) => Some(e.recorded_at),
            Self::MatchFound(e) => Some(e.found_at),
            Self::MatchRejected(e) => Some(e.rejected_at),
            Self::MatchAccepted(e) => Some(e.accepted_at),
            Self::Ride(e) => Some(e.occurred_at),
            Self::LocationUpdate(e) => Some(e.recorded_at),
            Self::LocationAggregate(_) | Self::PaymentCapture(_) => None,
        }
    }

    /// The message id: `{subject}-{entity id}-{occurred_at in microseconds}`, the same on every retry of this event.
    /// `at` stands in where the body has no time of its own.
    pub fn message_id(&self, at: DateTime<Utc>) -> String {
        let at = self.occurred_at().unwrap_or(at);
        format!("{}-{}-{}", self.subject(), self.entity_id(), at.timestamp_micros())
    }

    /// The body as JSON.
    pub fn body(&self) -> Vec<u8> {
        let written = match self {
            Self::UserBeacon(e) => serde_json::to_vec(e),
            Self::UserFinder(e) => serde_json::to_vec(e),
            Self::MatchFound(e) => serde_json::to_vec(e),
            Self::MatchRejected(e) => serde_json::to_vec(e),
            Self::MatchAccepted(e) => serde_json::to_vec(e),
            Self::Ride(e) => serde_json::to_vec(e),
            Self::LocationUpdate(e) => serde_json::to_vec(e),
            Self::LocationAggregate(e) => serde_json::to_vec(e),
            Self::PaymentCapture(e) => serde_json::to_vec(e),
        };
        written.expect("events have string keys and no failing serializer")
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
            | Subject::RideStarted
            | Subject::RideArrived
            | Subject::RideCompleted
            | Subject::RideCancelled => Self::Ride(read(subject, body)?),
            Subject::LocationUpdate => Self::LocationUpdate(read(subject, body)?),
            Subject::LocationAggregate => Self::LocationAggregate(read(subject, body)?),
            Subject::PaymentCapture => Self::PaymentCapture(read(subject, body)?),
        };
        event.validate(subject)?;
        Ok(event)
    }

    fn validate(&self, subject: Subject) -> Result<(), EventError> {
        let wrong =
            |field: &'static str, problem: &str| EventError::Field { subject, field, problem: problem.to_owned() };
        let position = |field: &'static str, p: &Position| {
            if p.is_valid() {
                Ok(())
            } else {
                Err(wrong(field, "latitude must be within ±90 and longitude within ±180 degrees"))
            }
        };
        let measure = |field: &'static str, value: Option<f64>| match value {
            Some(v) if !(v.is_finite() && v >= 0.0) => Err(wrong(field, "must be a finite number, 0 or more")),
            _ => Ok(()),
        };
        match self {
            Self::UserBeacon(e) => position("location", &e.location),
            Self::UserFinder(e) => position("pickup", &e.pickup).and_then(|()| position("dropoff", &e.dropoff)),
            Self::MatchFound(e) => {
                position("driver_location", &e.driver_location)?;
                position("pickup", &e.pickup)?;
                position("dropoff", &e.dropoff)?;
                measure("pickup_distance_m", Some(e.pickup_distance_m))?;
                measure("pickup_eta_s", Some(e.pickup_eta_s))
            }
            Self::MatchAccepted(e) => position("pickup", &e.pickup).and_then(|()| position("dropoff", &e.dropoff)),
            Self::MatchRejected(_) => Ok(()),
            Self::Ride(e) => {
                position("pickup", &e.pickup)?;
                position("dropoff", &e.dropoff)?;
                if e.status.subject() != subject {
                    return Err(wrong("status", &format!("`{}` does not belong to {subject}", e.status.as_str())));
                }
                if e.version == 0 {
                    return Err(wrong("version", "counts from 1"));
                }
                for (field, value) in [("previous_hash", &e.previous_hash), ("hash", &e.hash)] {
                    if value.len() != 64 || !value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                        return Err(wrong(field, "must be 64 lower-case hexadecimal digits"));
                    }
                }
                let missing = |field| wrong(field, "is missing");
                match e.status {
                    RideStatus::Cancelled => {
                        e.by.ok_or_else(|| missing("by"))?;
                        e.reason.as_ref().ok_or_else(|| missing("reason"))?;
                        e.fee.ok_or_else(|| missing("fee"))?;
                    }
                    RideStatus::Completed => {
                        e.distance_m.ok_or_else(|| missing("distance_m"))?;
                        e.duration_s.ok_or_else(|| missing("duration_s"))?;
                        e.fare.as_ref().ok_or_else(|| missing("fare"))?;
                        e.platform_fee.ok_or_else(|| missing("platform_fee"))?;
                        e.driver_payout.ok_or_else(|| missing("driver_payout"))?;
                        measure("distance_m", e.distance_m)?;
                        measure("duration_s", e.duration_s)?;
                    }
                    RideStatus::Pickup | RideStatus::Started | RideStatus::Arrived => {}
                }
                Ok(())
            }
            Self::LocationUpdate(e) => {
                position("location", &e.location)?;
                measure("accuracy_m", e.accuracy_m)?;
                measure("speed_mps", e.speed_mps)?;
                measure("heading_deg", e.heading_deg)
            }
            Self::LocationAggregate(e) => {
                measure("distance_m", Some(e.distance_m))?;
                e.last.map_or(Ok(()), |last| position("last.location", &last.location))
            }
            Self::PaymentCapture(e) => {
                if e.amount.amount < 0 {
                    Err(wrong("amount.amount", "must be 0 or more"))
                } else {
                    Ok(())
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
