//! A socket as a session sees it, whatever carries it: a WebSocket, or a pipe in memory in a test or a simulation.

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    Text(String),
    /// A binary frame, which the contract does not have.
    Binary,
    /// A ping or a pong: the client is alive.
    Alive,
    /// A frame too large to be read. Nothing can be read after it.
    TooLarge,
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
pub(crate) const TOO_LARGE: SessionEnd = SessionEnd::Close(1009, "a frame may have at most 64 KiB");
pub(crate) const TRY_LATER: SessionEnd = SessionEnd::Close(1013, "try again later");
pub(crate) const TOO_SLOW: SessionEnd = SessionEnd::Close(4008, "reading too slowly");
pub(crate) const TOO_FAST: SessionEnd = SessionEnd::Close(4009, "sending too fast");
pub(crate) const TOO_MANY: SessionEnd = SessionEnd::Close(4010, "too many sockets of one user");
