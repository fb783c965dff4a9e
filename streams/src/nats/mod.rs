//! The bus on a NATS server or cluster.
//!
//! It uses async-nats' core client, and speaks JetStream's protocol itself where the client library would prefetch too much,
//! hide that a consumer was deleted, or silently keep an old configuration.

mod apply;
mod client;
mod limits;
mod login;
pub(crate) mod message_api;
mod observe;
mod pull;
mod replay;
mod server_limits;

pub use client::{INBOX_PREFIX, NatsBus, NatsSettings, Subscription};
pub use login::{Login, Secret};
pub use pull::{AckHandle, Puller};
pub use replay::Replay;
