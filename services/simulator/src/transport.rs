//! How connections to the platform are opened: over TCP, or over in-memory pipes to processes simulated in this one. HTTP and
//! WebSocket run over either.

use std::fmt;
use std::io;
use std::sync::Arc;

use hyper_util::client::legacy::connect::{Connected, Connection as HttpConnection};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;

/// Opens a pipe to a `host:port`. The function itself hands the other end to whoever serves it.
pub type Pipes = dyn Fn(&str) -> io::Result<DuplexStream> + Send + Sync;

#[derive(Clone, Default)]
pub enum Transport {
    #[default]
    Tcp,
    Memory(Arc<Pipes>),
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "Tcp",
            Self::Memory(_) => "Memory",
        })
    }
}

/// A connection of either kind, as bytes in and out.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl ByteStream for TcpStream {}
impl ByteStream for DuplexStream {}

pub(crate) type Connection = Box<dyn ByteStream>;

impl HttpConnection for Connection {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Transport {
    /// # Errors
    /// Nobody listens at the address.
    pub(crate) async fn connect(&self, authority: &str) -> io::Result<Connection> {
        Ok(match self {
            Self::Tcp => {
                let tcp = TcpStream::connect(authority).await?;
                // Small frames are latency-bound: Nagle's algorithm would hold them back.
                tcp.set_nodelay(true)?;
                Box::new(tcp)
            }
            Self::Memory(pipes) => Box::new(pipes(authority)?),
        })
    }
}
