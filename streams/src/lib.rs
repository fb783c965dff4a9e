//! What two services must agree on, and nothing else: the events, the topology of streams and consumers, and the bus
//! that carries them. It knows no service, no database and no HTTP.

pub mod bus;
pub mod command;
pub mod event;
#[cfg(debug_assertions)]
pub mod faults;
pub mod memory;
pub mod nats;
pub mod topology;

pub use bus::{Bus, BusError, Delivery, Headers, Message};
pub use event::{
    Currency, Event, EventError, Money, Position, RideStatus, Service, Subject, VehicleType,
    id::{MatchId, PaymentId, RequestId, RideId, UserId},
};
