//! The HTTP server of a process: the routes of its services, health, metrics and stats; limits on requests and connections.

mod admission;
mod connections;
mod console;
mod faults;
mod headers;
mod serve;
mod stats;
mod traced;
mod write_timeout;

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use platform::routes::Routes;
use platform::{Platform, Problem, pod, problem};
use serde_json::{Value, json};
use streams::Service;
use streams::pods::{PartHealth, PodHealth, Status};

pub use admission::limited;
pub use faults::Faults;
pub use serve::serve;
use stats::Stats;
use traced::traced;

use crate::admin::{self, Api};

/// The wait for the answer to a request.
const REQUEST_WAIT: Duration = Duration::from_secs(20);

/// Whether the process lives and is ready.
fn health(platform: &Platform, services: &[Service]) -> Routes {
    let services = services.to_vec();
    Routes::default()
        .get("/health/live", async || axum::Json(json!({"status": "live"})))
        .get("/health/ready", async move |State(platform)| ready(&pod::health(&platform, &services)))
        .with_state(platform.clone())
}

/// What operators read and do.
fn operators(platform: &Platform, api: &Api) -> Routes {
    let last_stats = Stats::default();
    let read = Routes::default()
        .get("/metrics", metrics)
        .get("/stats", async move |State(platform)| stats(platform, last_stats).await)
        .with_state(platform.clone());
    read.merge(admin::routes(api)).merge(console::routes())
}

/// The routes of HTTP_ADDR, and those of ADMIN_ADDR if operators have a listener of their own. Health is on both.
#[derive(Debug)]
pub struct Listeners {
    pub http: Routes,
    pub admin: Option<Routes>,
}

impl Listeners {
    pub fn new(platform: &Platform, services: &[Service], of_services: Vec<Routes>, api: &Api, has_own: bool) -> Self {
        let http = of_services.into_iter().fold(health(platform, services), Routes::merge);
        let operators = operators(platform, api);
        match has_own {
            true => Self { http, admin: Some(health(platform, services).merge(operators)) },
            false => Self { http: http.merge(operators), admin: None },
        }
    }
}

/// The routes with what holds for all of them: answers for what is no route, a limit of the time, a span.
pub fn router(routes: Routes, platform: &Platform) -> Router {
    let traced = middleware::from_fn_with_state(platform.clone(), traced);
    problem::with_fallbacks(routes.into_router()).layer(middleware::from_fn(in_time)).layer(traced)
}

/// Limits the time of every request. A WebSocket's upgrade is answered at once, and its session has limits of its own.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_WAIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable().into_response(),
    }
}

/// The same parts as `pods.<pod id>.health`, in the form that this route has always had.
fn ready(health: &PodHealth) -> Response {
    let detail = |part: &PartHealth| Value::from(part.detail.clone());
    let breakers =
        health.parts.iter().filter_map(|part| Some((part.name.strip_prefix("breaker ")?.to_owned(), detail(part))));
    let breakers: serde_json::Map<String, Value> = breakers.collect();
    if health.status == Status::Ready {
        return axum::Json(json!({"status": "ready", "breakers": breakers})).into_response();
    }
    let faults = health.parts.iter().filter(|part| part.status == Status::NotReady);
    let faults: serde_json::Map<String, Value> = faults.map(|part| (part.name.clone(), detail(part))).collect();
    (
        StatusCode::SERVICE_UNAVAILABLE,
        axum::Json(json!({"status": "not ready", "faults": faults, "breakers": breakers})),
    )
        .into_response()
}

/// In the format of OpenMetrics, with exemplars, for those who name it first; in Prometheus' own for everybody else.
async fn metrics(State(platform): State<Platform>, headers: HeaderMap) -> Response {
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accepted.trim_start().starts_with("application/openmetrics-text") {
        let kind = [("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")];
        return (kind, platform.metrics.open_metrics(&platform.health)).into_response();
    }
    let kind = [("content-type", "text/plain; version=0.0.4; charset=utf-8")];
    (kind, platform.metrics.text(&platform.health)).into_response()
}

async fn stats(platform: Platform, stats: Stats) -> Response {
    match stats.get(&platform).await {
        Ok(stats) => axum::Json(stats).into_response(),
        Err(problem) => problem.into_response(),
    }
}
