//! One address for processes that serve different routes, as an ingress is: each connection goes to a process that has the route of its
//! first request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use platform::routes::Route;
use server::app::App;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The longest first line of a request.
const LINE_MAX: usize = 4_096;

/// A process: its address and its routes.
type Behind = (SocketAddr, Vec<Route>);

pub(crate) struct Front {
    pub(crate) addr: SocketAddr,
    behind: Arc<Mutex<Vec<Behind>>>,
    _serving: JoinSet<()>,
}

impl Front {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let behind = Arc::<Mutex<Vec<Behind>>>::default();
        let mut serving = JoinSet::new();
        let processes = behind.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(forward(client, processes.clone()));
            }
        });
        Self { addr, behind, _serving: serving }
    }

    /// From here on these processes are behind it.
    pub(crate) fn set(&self, apps: &[App]) {
        *self.behind.lock().unwrap() = apps.iter().map(|app| (app.addr, app.routes.clone())).collect();
    }
}

async fn forward(mut client: TcpStream, processes: Arc<Mutex<Vec<Behind>>>) {
    let Some(path) = path(&client).await else { return };
    let to = process(&processes.lock().unwrap(), &path);
    let Some(to) = to else { return };
    if let Ok(mut server) = TcpStream::connect(to).await {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}

/// The path of the first request, which stays unread.
async fn path(client: &TcpStream) -> Option<String> {
    let mut bytes = [0; LINE_MAX];
    loop {
        let read = client.peek(&mut bytes).await.ok()?;
        let line = std::str::from_utf8(&bytes[..read]).ok()?;
        if let Some((line, _)) = line.split_once("\r\n") {
            let path = line.split(' ').nth(1)?;
            return Some(path.split('?').next().unwrap_or(path).to_owned());
        }
        if read == 0 || read == LINE_MAX {
            return None;
        }
        tokio::task::yield_now().await;
    }
}

/// The first process with a route of this path, else the first of all, which says that there is none.
fn process(processes: &[Behind], path: &str) -> Option<SocketAddr> {
    let has_route = |(_, routes): &&Behind| routes.iter().any(|route| is_of(route.path, path));
    processes.iter().find(has_route).or(processes.first()).map(|(addr, _)| *addr)
}

/// Whether a path is of this pattern, as in `/v1/rides/{id}`.
fn is_of(pattern: &str, path: &str) -> bool {
    let (mut parts, mut of_path) = (pattern.split('/'), path.split('/'));
    loop {
        match (parts.next(), of_path.next()) {
            (None, None) => return true,
            (Some(part), Some(other)) if part == other || (part.starts_with('{') && !other.is_empty()) => {}
            _ => return false,
        }
    }
}
