//! The bus in memory: JetStream's semantics in one process, without a server.
//!
//! Time is tokio's clock on top of a wall time at the start, so a test that pauses the clock controls all of it. There is no
//! randomness and no iteration over unordered maps: the same calls at the same times give the same results. One lock holds
//! everything; it is held for one operation, and never across an `await`.
//!
//! `server`, `stream`, `consumer` and `core` are synchronous and take the time as an argument; `bus`, `pull` and `replay` make
//! them wait.

mod alarm;
mod bus;
mod consumer;
mod core;
mod pull;
mod replay;
mod server;
mod stream;

pub use bus::{MemoryBus, Subscription};
pub use pull::{AckHandle, Puller};
pub use replay::Replay;
