//! A city of simulated drivers and passengers: real WebSocket clients that speak only the contract, from a seed, with
//! declines, cancellations, lost connections and resumes; and a checker of what they see. It owns no part of the
//! platform and depends on none of its crates. Over pipes in memory, with tokio's clock paused and in one thread, the same
//! seed and the same answers make the same city.

mod account;
mod audit;
mod checks;
mod city;
mod client;
mod clock;
mod config;
mod driver;
mod http;
mod ledger;
pub mod load;
mod passenger;
mod position;
mod progress;
mod requests;
mod run;
mod socket;
mod summary;
mod tally;
mod track;
mod transport;
mod wire;

pub use config::{Config, Faults};
pub use ledger::{Ledger, Note};
pub use position::Position;
pub use requests::{Request, Trips, read_requests};
pub use run::run;
pub use summary::Summary;
pub use tally::Distribution;
pub use transport::{Pipes, Transport};
