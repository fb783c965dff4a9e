//! A TCP proxy: open, cut, a black hole, or slow. It looks at no byte that it forwards.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How a proxy treats its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// As if the proxy were not there.
    Open,
    /// Open connections are closed, and new ones at once.
    Cut,
    /// Connections stay open, and nothing is forwarded.
    BlackHole,
    /// Everything is forwarded so many milliseconds late.
    Delay(u64),
    /// So many bytes are forwarded at a time, with a pause after each part.
    Drip(usize),
}

const DRIP_PAUSE: Duration = Duration::from_millis(5);

/// Forwards connections to one address, which may change.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    line: Arc<watch::Sender<Line>>,
    to: Arc<AtomicU16>,
    _forwarding: JoinSet<()>,
}

impl Proxy {
    /// To `port` of this machine.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", crate::processes::free_port())).await.unwrap();
        let address = listener.local_addr().unwrap();
        let line = Arc::new(watch::Sender::new(Line::Open));
        let mut forwarding = JoinSet::new();
        let to = Arc::new(AtomicU16::new(port));
        forwarding.spawn(accept(listener, to.clone(), line.clone()));
        Self { port: address.port(), line, to, _forwarding: forwarding }
    }

    /// Sends new connections to another port.
    pub(crate) fn move_to(&self, port: u16) {
        self.to.store(port, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

async fn accept(listener: TcpListener, to: Arc<AtomicU16>, line: Arc<watch::Sender<Line>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => if let Ok((from, _)) = accepted {
                let to = SocketAddr::from(([127, 0, 0, 1], to.load(Ordering::Relaxed)));
                connections.spawn(forward(from, to, line.subscribe()));
            }
        }
    }
}

async fn forward(from: TcpStream, to: SocketAddr, mut line: watch::Receiver<Line>) {
    let mut other = line.clone();
    let both = async {
        // A black hole does not even let a connection be opened.
        if line.clone().wait_for(|line| *line != Line::BlackHole).await.is_err() {
            return;
        }
        let Ok(to) = TcpStream::connect(to).await else { return };
        let _ = (from.set_nodelay(true), to.set_nodelay(true));
        let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
        tokio::select! {
            biased;
            () = pump(from_read, to_write, line.clone()) => {}
            () = pump(to_read, from_write, line.clone()) => {}
        }
    };
    tokio::select! {
        biased;
        _ = other.wait_for(|line| *line == Line::Cut) => {}
        () = both => {}
    }
    line.mark_unchanged();
}

/// Forwards one direction until it is closed; the other is closed with it.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut line: watch::Receiver<Line>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        let mut left = &buffer[..read];
        while !left.is_empty() {
            let Ok(now) = line.wait_for(|line| *line != Line::BlackHole).await.map(|line| *line) else { return };
            let part = match now {
                Line::Drip(bytes) => left.len().min(bytes),
                _ => left.len(),
            };
            match now {
                Line::Delay(ms) => sleep(Duration::from_millis(ms)).await,
                Line::Drip(_) => sleep(DRIP_PAUSE).await,
                _ => {}
            }
            if to.write_all(&left[..part]).await.is_err() {
                return;
            }
            left = &left[part..];
        }
    }
}

#[tokio::test]
async fn a_proxy_forwards_delays_withholds_and_cuts() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::to(server.local_addr().unwrap().port()).await;
    let mut here = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    let (mut there, _) = server.accept().await.unwrap();
    let mut four = [0; 4];
    for line in [Line::Open, Line::Delay(10), Line::Drip(1)] {
        proxy.set(line);
        here.write_all(b"ping").await.unwrap();
        there.read_exact(&mut four).await.unwrap();
        assert_eq!(&four, b"ping", "{line:?}");
    }
    proxy.set(Line::BlackHole);
    there.write_all(b"pong").await.unwrap();
    let nothing = tokio::time::timeout(Duration::from_millis(200), here.read_exact(&mut four)).await;
    assert!(nothing.is_err(), "a black hole forwards nothing");
    proxy.set(Line::Open);
    here.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"pong", "what was sent into it arrives once it is healed");
    proxy.set(Line::Cut);
    assert_eq!(here.read(&mut four).await.unwrap_or(0), 0);
    let mut again = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    assert_eq!(again.read(&mut four).await.unwrap_or(0), 0, "new connections end at once");
}
