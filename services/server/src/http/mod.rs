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

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use platform::api::{JSON, Operation, Schemas};
use platform::problem::Json;
use platform::routes::{Route, Routes};
use platform::{Platform, Problem, pod, problem};
use schemars::JsonSchema;
use serde::Serialize;
use streams::Service;
use streams::pods::{PodHealth, Status};

pub use admission::limited;
pub use faults::Faults;
pub use serve::serve;
use stats::{Stats, Totals};
use traced::traced;

use crate::admin::{self, Api};

/// The wait for the answer to a request.
const REQUEST_WAIT: Duration = Duration::from_secs(20);

/// Every route of operators, and those for health, with their operations.
pub(crate) fn operations() -> Vec<Route> {
    let own = [health(&Service::ALL), operators()].into_iter().flat_map(Routes::into_list);
    own.chain(admin::operations()).chain(console::routes().into_list()).collect()
}

fn for_operators(operation: &mut Operation) {
    operation.is_for_operators = true;
}

/// Whether the process lives and is ready.
fn health(services: &[Service]) -> Routes<Platform> {
    let services = services.to_vec();
    Routes::default()
        .get("/health/live", async || Json(Live { status: "live" }))
        .described("Whether the process runs.", &[])
        .get("/health/ready", async move |State(platform)| ready(&pod::health(&platform, &services)))
        .described("Whether the process can work.", &[])
        .with(for_operators)
        .with(|operation| {
            operation.add_answer(200, Some((JSON, Schemas::written::<Ready>)));
            operation.add_answer(503, Some((JSON, Schemas::written::<NotReady>)));
        })
}

/// How the process does.
fn operators() -> Routes<Platform> {
    let last_stats = Stats::default();
    Routes::default()
        .get("/metrics", metrics)
        .described("Metrics for Prometheus.", &[])
        .with(for_operators)
        .with(|operation| {
            operation.add_answer(200, Some((METRICS, Schemas::written::<String>)));
            operation.add_answer(200, Some((OPEN_METRICS, Schemas::written::<String>)));
        })
        .get("/stats", async move |State(platform)| stats(platform, last_stats).await)
        .described("Totals of the process, and how each consumer stands.", &[])
        .with(for_operators)
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Serialize, JsonSchema)]
struct Live {
    status: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct Ready {
    #[schemars(extend("const" = "ready"))]
    status: &'static str,
    /// The state of each circuit breaker that is not closed.
    breakers: BTreeMap<String, Option<String>>,
}

#[derive(Serialize, JsonSchema)]
struct NotReady {
    #[schemars(extend("const" = "not ready"))]
    status: &'static str,
    /// What is wrong, by the part of the process.
    faults: BTreeMap<String, Option<String>>,
    breakers: BTreeMap<String, Option<String>>,
}

/// The routes of HTTP_ADDR, and those of ADMIN_ADDR if operators have a listener of their own. Health is on both.
#[derive(Debug)]
pub struct Listeners {
    pub http: Routes,
    pub admin: Option<Routes>,
}

impl Listeners {
    pub fn new(platform: &Platform, services: &[Service], of_services: Vec<Routes>, api: &Api, has_own: bool) -> Self {
        let health = || health(services).with_state(platform.clone());
        let http = of_services.into_iter().fold(health(), Routes::merge);
        let operators = operators().with_state(platform.clone()).merge(admin::routes(api)).merge(console::routes());
        match has_own {
            true => Self { http, admin: Some(health().merge(operators)) },
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
    let breakers = health.parts.iter().filter_map(|part| Some((part.name.strip_prefix("breaker ")?, &part.detail)));
    let breakers = breakers.map(|(name, detail)| (name.to_owned(), detail.clone())).collect();
    if health.status == Status::Ready {
        return Json(Ready { status: "ready", breakers }).into_response();
    }
    let faults = health.parts.iter().filter(|part| part.status == Status::NotReady);
    let faults = faults.map(|part| (part.name.clone(), part.detail.clone())).collect();
    (StatusCode::SERVICE_UNAVAILABLE, Json(NotReady { status: "not ready", faults, breakers })).into_response()
}

/// In the format of OpenMetrics, with exemplars, for those who name it first; in Prometheus' own for everybody else.
async fn metrics(State(platform): State<Platform>, headers: HeaderMap) -> Response {
    let accepted = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accepted.trim_start().starts_with("application/openmetrics-text") {
        return ([(CONTENT_TYPE, OPEN_METRICS)], platform.metrics.open_metrics(&platform.health)).into_response();
    }
    ([(CONTENT_TYPE, METRICS)], platform.metrics.text(&platform.health)).into_response()
}

async fn stats(platform: Platform, stats: Stats) -> Result<Json<Totals>, Problem> {
    stats.get(&platform).await.map(Json)
}
