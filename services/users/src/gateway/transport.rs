//! A socket as a session sees it, whatever carries it: a WebSocket, or a pipe in memory in a test or a simulation.

use std::time::Duration;

use platform::token::Access;

use crate::mailbox::Device;

/// The most bytes of a frame.
pub(crate) const FRAME_MAX: usize = 64 * 1024;
/// The most points of one `location.update`.
pub(crate) const POINTS_MAX: usize = 100;
/// A client that sends nothing for this long, not even a pong, is gone.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Who opens a socket, and with what.
#[derive(Debug, Clone)]
pub struct SocketRequest {
    pub access: Access,
    /// The newest event that the client has; without it the client gets only events from now on.
    pub last_seq: Option<u64>,
    pub(crate) device: Device,
}

impl SocketRequest {
    pub fn new(access: Access, last_seq: Option<u64>) -> Self {
        Self { access, last_seq, device: Device::UNNAMED }
    }

    /// The same on the device of this name; `None` unless the name has 1 to 64 visible characters.
    pub fn on_device(self, name: &str) -> Option<Self> {
        Device::named(name).map(|device| Self { device, ..self })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    Text(String),
    /// A binary frame, which the contract does not have.
    Binary,
    /// A ping or a pong: the client is alive.
    Alive,
    /// A frame too large to be read. Nothing can be read after it.
    TooLarge,
    /// Too many frames that end no message.
    TooFast,
    /// A text frame that is not UTF-8. Nothing can be read after it.
    NotUtf8,
    /// Bytes that are no WebSocket frames. Nothing can be read after them.
    NotWebSocket,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    Text(String),
    Ping,
    /// The last frame: a close code and its reason.
    Close(u16, &'static str),
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The client is gone, or nothing can be sent to it.
    Disconnected,
    /// The server closes the socket with this code and reason.
    Close(u16, &'static str),
}

pub(crate) const SHUTDOWN: SessionEnd = SessionEnd::Close(1001, "the server stops");
pub(crate) const SILENT: SessionEnd = SessionEnd::Close(1001, "nothing came for 60 s");
pub(crate) const NOT_WEBSOCKET: SessionEnd = SessionEnd::Close(1002, "not a WebSocket frame");
pub(crate) const NOT_UTF8: SessionEnd = SessionEnd::Close(1007, "a text frame must be UTF-8");
pub(crate) const TOO_LARGE: SessionEnd = SessionEnd::Close(1009, "a frame may have at most 64 KiB");
pub(crate) const TRY_LATER: SessionEnd = SessionEnd::Close(1013, "try again later");
pub(crate) const TOKEN_EXPIRED: SessionEnd = SessionEnd::Close(4001, "the access token has expired");
pub(crate) const SIGN_IN_ENDED: SessionEnd = SessionEnd::Close(4001, "the sign-in has ended");
pub(crate) const TOO_SLOW: SessionEnd = SessionEnd::Close(4008, "reading too slowly");
pub(crate) const TOO_FAST: SessionEnd = SessionEnd::Close(4009, "sending too fast");
pub(crate) const TOO_MANY: SessionEnd = SessionEnd::Close(4010, "a newer socket of yours took its place");

/// Every way in which the server closes a socket.
pub(crate) const ENDS: [SessionEnd; 11] = [
    SHUTDOWN,
    SILENT,
    NOT_WEBSOCKET,
    NOT_UTF8,
    TOO_LARGE,
    TRY_LATER,
    TOKEN_EXPIRED,
    SIGN_IN_ENDED,
    TOO_SLOW,
    TOO_FAST,
    TOO_MANY,
];
