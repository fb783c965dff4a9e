//! Subjects, and the services that publish and read them.

use std::fmt;

/// A service: the owner of a schema, of consumers, and of the events that it publishes.
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
    /// All four, in the order in which a ride passes through them.
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

    /// The `ce-source` of its messages.
    pub const fn source(self) -> &'static str {
        match self {
            Self::Users => "/users",
            Self::Match => "/match",
            Self::Rides => "/rides",
            Self::Location => "/location",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No event has this subject.
#[derive(Debug, thiserror::Error)]
#[error("unknown subject `{0}`")]
pub struct UnknownSubject(pub String);

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
            type Err = UnknownSubject;
            fn from_str(text: &str) -> Result<Self, UnknownSubject> {
                match text {
                    $($text => Ok(Self::$name),)+
                    other => Err(UnknownSubject(other.to_owned())),
                }
            }
        }
    };
}

subjects! {
    /// A driver went online or offline, or moved while waiting.
    UserBeacon = "user.beacon",
    /// A passenger began or ended a search.
    UserFinder = "user.finder",
    /// A driver is proposed to a passenger.
    MatchFound = "match.found",
    /// An offer ended without a ride.
    MatchRejected = "match.rejected",
    /// The driver accepted the offer.
    MatchAccepted = "match.accepted",
    /// The ride exists; the driver is on the way.
    RidePickup = "ride.pickup",
    /// The driver waits at the pickup.
    RideWaiting = "ride.waiting",
    /// The passenger is in the vehicle.
    RideStarted = "ride.started",
    /// The vehicle is at the dropoff.
    RideArrived = "ride.arrived",
    /// The fare is known; final.
    RideCompleted = "ride.completed",
    /// Driver, passenger or platform ended the ride early; final.
    RideCancelled = "ride.cancelled",
    /// One position of a driver.
    LocationUpdate = "location.update",
    /// The distance of a ride so far.
    LocationAggregate = "location.aggregate",
    /// Money to be captured from a passenger.
    PaymentCapture = "payment.capture",
    /// An operator ended a stuck ride.
    AdminRideEnded = "admin.ride_ended",
    /// An operator refunded a part of what was captured for a ride.
    AdminRideRefunded = "admin.ride_refunded",
    /// An operator added a note to a ride.
    AdminRideNoteAdded = "admin.ride_note_added",
    /// An operator looked for a user by phone.
    AdminUserLookedUp = "admin.user_looked_up",
    /// An operator ended all sign-ins of a user.
    AdminUserSignedOut = "admin.user_signed_out",
    /// An operator approved a driver.
    AdminDriverApproved = "admin.driver_approved",
    /// An operator suspended a driver.
    AdminDriverSuspended = "admin.driver_suspended",
    /// An operator replaced the documents of a driver.
    AdminDriverDocumentsSet = "admin.driver_documents_set",
    /// An operator requeued a dead letter.
    AdminDeadLetterRequeued = "admin.dead_letter_requeued",
    /// An operator removed a dead letter.
    AdminDeadLetterRemoved = "admin.dead_letter_removed",
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
