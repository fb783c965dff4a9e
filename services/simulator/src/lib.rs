//! A city of simulated drivers and passengers, and a checker of what they see.
//!
//! The people are real WebSocket clients that speak only the contract. A seed decides what they do: rides, declines,
//! cancellations, lost connections, resumes. The crate owns no part of the platform and depends on none of its crates.
//! Over in-memory pipes, in one thread and with tokio's clock paused, the same seed and the same answers of the platform
//! give the same run.

mod account;
pub mod busy;
mod checker;
mod city;
mod client;
mod clock;
mod config;
mod driver;
mod frame;
mod http;
pub mod load;
mod observation;
mod passenger;
mod position;
mod progress;
mod requests;
mod ride_comparison;
mod run;
mod statistics;
mod summary;
mod transport;

pub use config::{Config, Faults};
pub use observation::Observation;
pub use position::Position;
pub use requests::{LeftOut, RIDE_MIN_M, Request, Trips, Usable, read_requests};
pub use run::run;
pub use statistics::Distribution;
pub use summary::Summary;
pub use transport::{Pipes, Transport};
