//! The WebSocket gateway. `upgrade` accepts a client, `session` serves its socket, with `delivery` for its events,
//! `live` for the positions of its ride and `in_flight` for its commands; `sockets` is the registry of those open on this pod, and `frame` is the protocol as pure
//! functions.

pub(crate) mod client_limits;
pub(crate) mod connection;
mod delivery;
pub(crate) mod frame;
mod frame_meter;
mod in_flight;
mod live;
mod outbound;
mod rate_limit;
pub(crate) mod session;
pub(crate) mod sockets;
pub(crate) mod transport;
pub(crate) mod upgrade;
