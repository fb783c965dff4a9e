//! How the people reach the platform: over TCP, or over pipes in memory to what runs in the same process. It owns no protocol:
//! HTTP and WebSocket are spoken over either alike.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;

/// Opens a pipe to a `host:port`; its other end is served by whoever opened it.
pub type Pipes = dyn Fn(&str) -> io::Result<DuplexStream> + Send + Sync;

/// What connections are made of.
#[derive(Clone, Default)]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// Pipes in memory.
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

/// Bytes in and out.
pub(crate) trait Wire: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl Wire for TcpStream {}
impl Wire for DuplexStream {}

/// A connection.
pub(crate) type Connection = Box<dyn Wire>;

impl Transport {
    /// # Errors
    /// Nobody listens there.
    pub(crate) async fn connect(&self, authority: &str) -> io::Result<Connection> {
        Ok(match self {
            Self::Tcp => {
                let tcp = TcpStream::connect(authority).await?;
                // Whoever waits for the answer to a small frame does not want it held back for more to come.
                tcp.set_nodelay(true)?;
                Box::new(tcp)
            }
            Self::Memory(pipes) => Box::new(pipes(authority)?),
        })
    }
}
