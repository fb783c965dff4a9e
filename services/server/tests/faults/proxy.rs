//! A TCP proxy between any two: open, cut, a black hole, slow. It looks at no byte that it carries.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What the line is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// As if the proxy were not there.
    Open,
    /// Connections end, and new ones end at once.
    Cut,
    /// Connections stay, and nothing comes through.
    BlackHole,
    /// Everything comes late, milliseconds.
    Delay(u64),
    /// So many bytes at a time, with a pause between them.
    Drip(usize),
}

const DRIP_PAUSE: Duration = Duration::from_millis(5);

/// Carries connections to one address.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    line: Arc<watch::Sender<Line>>,
    _carrying: JoinSet<()>,
}

impl Proxy {
    /// To `port` of this machine.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", crate::processes::free_port())).await.unwrap();
        let address = listener.local_addr().unwrap();
        let line = Arc::new(watch::Sender::new(Line::Open));
        let mut carrying = JoinSet::new();
        carrying.spawn(accept(listener, SocketAddr::from(([127, 0, 0, 1], port)), line.clone()));
        Self { port: address.port(), line, _carrying: carrying }
    }

    pub(crate) fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, line: Arc<watch::Sender<Line>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => if let Ok((from, _)) = accepted {
                connections.spawn(carry(from, to, line.subscribe()));
            }
        }
    }
}

async fn carry(from: TcpStream, to: SocketAddr, mut line: watch::Receiver<Line>) {
    let mut other = line.clone();
    let both = async {
        // Through a black hole not even the connection comes.
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

/// Until one side has ended; the other is ended with it.
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
async fn each_line_does_what_it_says() {
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
    assert!(nothing.is_err(), "nothing comes through a black hole");
    proxy.set(Line::Open);
    here.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"pong", "what was sent into it comes once it is healed");
    proxy.set(Line::Cut);
    assert_eq!(here.read(&mut four).await.unwrap_or(0), 0);
    let mut again = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    assert_eq!(again.read(&mut four).await.unwrap_or(0), 0, "new connections end at once");
}
