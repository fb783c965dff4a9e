//! The commands of the program: in each file the arguments of a command and what it does. None knows another, but `streams` knows `nats_permissions`.

pub mod api;
pub mod audit;
pub mod dead_letters;
pub mod dispatch;
pub mod markets;
pub mod misbehave;
pub mod nats_permissions;
mod progress;
pub mod run;
pub mod simulate;
pub mod sos;
pub mod streams;
