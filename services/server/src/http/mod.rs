//! The HTTP server of a process: the routes of its services, health, metrics and stats; limits on requests and connections.

mod admission;
mod connections;
mod headers;
mod serve;
mod stats;
mod write_timeout;

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use platform::routes::Routes;
use platform::{Platform, Problem, problem};
use serde_json::{Value, json};

pub use admission::limited;
pub use serve::serve;
use stats::Stats;

/// The wait for the answer to a request.
const REQUEST_WAIT: Duration = Duration::from_secs(20);

/// The operators' routes and those of the services.
pub fn routes(platform: &Platform, services: Vec<Routes>) -> Routes {
    let last_stats = Stats::default();
    let operators = Routes::default()
        .get("/health/live", async || axum::Json(json!({"status": "live"})))
        .get("/health/ready", ready)
        .get("/metrics", metrics)
        .get("/stats", async move |State(platform)| stats(platform, last_stats).await)
        .with_state(platform.clone());
    services.into_iter().fold(operators, Routes::merge)
}

/// The routes with what holds for all of them: answers for what is no route, and a limit of the time.
pub fn router(routes: Routes) -> Router {
    problem::with_fallbacks(routes.into_router()).layer(middleware::from_fn(in_time))
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
    let breakers: serde_json::Map<String, Value> =
        platform.health.breakers().into_iter().map(|(breaker, state)| (breaker.to_owned(), state.into())).collect();
    if faults.is_empty() {
        return axum::Json(json!({"status": "ready", "breakers": breakers})).into_response();
    }
    let parts: serde_json::Map<String, Value> = faults.into_iter().map(|(part, why)| (part, why.into())).collect();
    (StatusCode::SERVICE_UNAVAILABLE, axum::Json(json!({"status": "not ready", "faults": parts, "breakers": breakers})))
        .into_response()
}

async fn metrics(State(platform): State<Platform>) -> Response {
    let kind = [("content-type", "text/plain; version=0.0.4; charset=utf-8")];
    (kind, platform.metrics.text()).into_response()
}

async fn stats(platform: Platform, stats: Stats) -> Response {
    match stats.get(&platform).await {
        Ok(stats) => axum::Json(stats).into_response(),
        Err(problem) => problem.into_response(),
    }
}
