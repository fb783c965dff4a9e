//! The WebSocket gateway. `upgrade` accepts a client, `session` serves its socket, `sockets` is the registry of those open
//! on this pod, and `frame` is the protocol as pure functions.

pub(crate) mod connection;
pub(crate) mod frame;
mod outbound;
mod rate_limit;
pub(crate) mod session;
pub(crate) mod sockets;
pub(crate) mod transport;
pub(crate) mod upgrade;
