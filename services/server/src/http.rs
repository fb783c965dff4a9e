//! The HTTP server of a process: the routes of its services, health, metrics and stats; limits on headers and connections.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::future::join_all;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use platform::{Platform, Problem, problem};
use serde_json::{Value, json};
use streams::BusError;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// The wait for a request's head, and for connections to end at shutdown.
const HEAD_WAIT: Duration = Duration::from_secs(10);
const CLOSE_WAIT: Duration = Duration::from_secs(10);
/// The wait for the answer to a request.
const REQUEST_WAIT: Duration = Duration::from_secs(20);
/// Open connections; more wait in the kernel's accept queue.
const CONNECTIONS_MAX: usize = 65_536;

/// The operators' routes and those of the services.
pub fn router(platform: &Platform, routes: Vec<Router>) -> Router {
    let operators = Router::new()
        .route("/health/live", get(async || axum::Json(json!({"status": "live"}))))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/stats", get(stats))
        .with_state(platform.clone());
    problem::with_fallbacks(routes.into_iter().fold(operators, Router::merge)).layer(middleware::from_fn(in_time))
}

/// Limits the time of every request. A WebSocket's upgrade is answered at once, and its session has limits of its own.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_WAIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable().into_response(),
    }
}

async fn ready(State(platform): State<Platform>) -> Response {
    let mut faults = platform.health.faults();
    if platform.shutdown.is_cancelled() {
        faults.push(("process".to_owned(), "shutting down".to_owned()));
    }
    if faults.is_empty() {
        return axum::Json(json!({"status": "ready"})).into_response();
    }
    let parts: serde_json::Map<String, Value> = faults.into_iter().map(|(part, why)| (part, why.into())).collect();
    (StatusCode::SERVICE_UNAVAILABLE, axum::Json(json!({"status": "not ready", "faults": parts}))).into_response()
}

async fn metrics(State(platform): State<Platform>) -> Response {
    let kind = [("content-type", "text/plain; version=0.0.4; charset=utf-8")];
    (kind, platform.metrics.text()).into_response()
}

async fn stats(State(platform): State<Platform>) -> Response {
    let metrics = &platform.metrics;
    let mut consumers = Vec::new();
    let (mut waiting, mut done, mut errors) = (0, 0, 0);
    let all = &platform.topology.consumers;
    let infos = join_all(all.iter().map(|c| platform.bus.consumer_info(&c.stream, &c.durable))).await;
    for (consumer, info) in all.iter().zip(infos) {
        let name = consumer.durable.as_str();
        let dead_lettered = metrics.dead_lettered.with_label_values(&[name]).get();
        done += metrics.handled.with_label_values(&[name]).get() + dead_lettered;
        errors += metrics.failed.with_label_values(&[name]).get();
        match info {
            Ok(info) => {
                waiting += info.pending + info.ack_pending;
                consumers.push(json!({
                    "name": name, "pending": info.pending, "ack_pending": info.ack_pending,
                    "redelivered": info.redelivered, "dead_lettered": dead_lettered,
                }));
            }
            // Deleted by somebody; the topology reconciler creates it again within seconds.
            Err(BusError::NotFound(_)) => {}
            Err(error) => {
                tracing::warn!(%error, consumer = name, "no statistics");
                return Problem::unavailable().into_response();
            }
        }
    }
    let (mut enqueued, mut seconds) = (0, 0.0);
    for service in streams::Service::ALL {
        enqueued += metrics.published.with_label_values(&[service.name()]).get();
        seconds += metrics.handler_seconds.with_label_values(&[service.name()]).get_sample_sum();
    }
    axum::Json(json!({
        "queue": {"total_enqueued": enqueued, "total_dequeued": done, "current_size": waiting},
        "pool": {"processed_count": done, "error_count": errors, "total_duration": seconds},
        "consumers": consumers,
    }))
    .into_response()
}

/// Serves until shutdown begins; then requests in progress may finish, within a limit.
pub async fn serve(listener: TcpListener, router: Router, platform: Platform) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
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
        let (socket, _) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most likely the process is out of file descriptors: other connections must end first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = socket.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = builder.serve_connection(TokioIo::new(socket), service).with_upgrades();
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
            drop(permit);
        });
    }
    drop(listener);
    let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(CLOSE_WAIT, permits.acquire_many(all)).await;
}
