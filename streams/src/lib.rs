//! What two services must agree on, and nothing else: the events, the topology of streams and consumers, the one command that
//! users passes on to rides, the requests for where drivers are, how far a ride has come, for debts, ratings, missed offers, what is stored of a person, the parties of a ride and how they are reached, the
//! sign-ins that have ended, what processes say of themselves, how far positions are read, what operators ask of a service, and the bus that carries them.
//! It knows no service, no database and no HTTP.

#![warn(missing_docs)]

pub mod bus;
pub mod connected_drivers;
pub mod contacts;
pub mod debts;
pub mod driven_distance;
pub mod event;
pub mod explanation;
pub mod fleet;
#[doc(hidden)]
pub mod fuzzing;
pub mod match_zones;
pub mod memory;
pub mod missed_offers;
pub mod nats;
pub mod newest_position;
pub mod operators;
pub mod parties;
pub mod person;
pub mod pods;
pub mod position_progress;
pub mod ratings;
pub mod ride_command;
pub mod sign_ins;
pub mod simulation;
pub mod topology;

pub use bus::{Bus, BusError, Delivery, Headers, Message};
pub use event::{
    Currency, Event, EventError, Money, Position, RideStatus, Service, Subject, VehicleType,
    ids::{ActId, MatchId, PaymentId, RequestId, RideId, SignInId, UserId},
};
