//! The accept loop: connections within their limits, and what ends them.
//!
//! hyper ends a connection whose next head does not come in time, which includes an idle one; bodies have a limit of their own in
//! `platform::problem`; and a peer that does not read its answers is cut off here.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use platform::limits::TrustedProxies;
use platform::{Limit, Platform};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::admission::Peer;
use super::connections::{Connections, bounds};
use super::faults::{Faults, FaultyIo, Line};
use super::write_timeout::WriteTimeout;
use crate::open_files;

/// The wait for a request's head, also between two requests; and for connections to end at shutdown.
const HEAD_WAIT: Duration = Duration::from_secs(10);
const CLOSE_WAIT: Duration = Duration::from_secs(10);
/// How long a peer may take nothing of what is sent to it.
const WRITE_WAIT: Duration = Duration::from_secs(10);
/// The answer to a connection too many of one address.
const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/problem+json\r\n\
    Retry-After: 10\r\nConnection: close\r\nContent-Length: 143\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Too Many Requests\",\"status\":429,\"code\":\"too_many_requests\",\
    \"limit\":\"connections_address\",\"detail\":\"close some\"}\n";

/// Serves until shutdown begins; then requests in progress may finish, within a limit. With `faults` it misbehaves on purpose.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    platform: Platform,
    proxies: TrustedProxies,
    faults: Option<Arc<Faults>>,
) {
    let router = faults.iter().fold(router, |router, faults| faults.wrap(router));
    let by_address = platform.limiter.limits().count(Limit::ConnectionsAddress);
    let (connections_max, by_address) = bounds(open_files::limit(), by_address);
    let connections = Connections::new(by_address);
    let permits = Arc::new(Semaphore::new(connections_max));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT).max_buf_size(64 * 1024);
    loop {
        let permit = tokio::select! {
            biased;
            () = platform.shutdown.cancelled() => break,
            permit = permits.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            biased;
            () = platform.shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most likely the process is out of file descriptors: other connections must end first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // A proxy has the connections of all its clients.
        let is_proxy = proxies.contains(peer.ip());
        let open = if is_proxy { None } else { connections.open(peer.ip()) };
        if open.is_none() && !is_proxy {
            platform.limit_reached(Limit::ConnectionsAddress);
            // What does not fit into the socket's empty buffer is not sent.
            let _ = socket.try_write(TOO_MANY_CONNECTIONS);
            continue;
        }
        let _ = socket.set_nodelay(true);
        let (router, peer) = (router.clone(), Peer::new(peer.ip()));
        let line = faults.as_ref().map(|_| Arc::new(Line::default()));
        let io = TokioIo::new(FaultyIo::new(WriteTimeout::new(socket, WRITE_WAIT), line.clone()));
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            line.iter().for_each(|line| _ = request.extensions_mut().insert(line.clone()));
            router.clone().oneshot(request)
        });
        let connection = builder.serve_connection(io, service).with_upgrades();
        let shutdown = platform.shutdown.clone();
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                biased;
                ended = connection.as_mut() => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection");
            }
            drop((permit, open));
        });
    }
    drop(listener);
    let all = u32::try_from(connections_max).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(CLOSE_WAIT, permits.acquire_many(all)).await;
}
