//! The WebSocket gateway. `upgrade` accepts a client, `session` serves its socket, with `delivery` for its events,
//! `live` for the positions of its ride and `in_flight` for its commands; `sockets` is the registry of those open on this pod, and `frame` is the protocol as pure
//! functions. `publish_frames` and `pod_link` are the two ends of what
//! pods send each other in `pod_message`s, and `displacement` keeps the limit of sockets a user.

pub(crate) mod client_limits;
pub(crate) mod connection;
mod delivery;
pub(crate) mod description;
mod displacement;
pub(crate) mod frame;
mod frame_meter;
mod in_flight;
mod inbox;
mod live;
mod outbound;
pub(crate) mod pod_link;
pub(crate) mod pod_message;
pub(crate) mod publish_frames;
mod rate_limit;
pub(crate) mod session;
pub(crate) mod sockets;
pub(crate) mod transport;
pub(crate) mod upgrade;
