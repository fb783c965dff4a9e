//! The HTTP server of a process: the routes of its services, health, metrics and stats; limits on requests and connections.

mod admission;
mod connections;
mod headers;
mod serve;
mod stats;
mod write_timeout;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
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
pub use serve::serve;
use stats::{Stats, Totals};

/// The wait for the answer to a request.
const REQUEST_WAIT: Duration = Duration::from_secs(20);

/// The operators' routes and those of the services.
pub fn routes(platform: &Platform, services: &[Service], of_services: Vec<Routes>) -> Routes {
    of_services.into_iter().fold(operators(services).with_state(platform.clone()), Routes::merge)
}

/// The operators' routes with their operations.
pub(crate) fn operations() -> Vec<Route> {
    operators(&Service::ALL).into_list()
}

fn operators(services: &[Service]) -> Routes<Platform> {
    let services = services.to_vec();
    let last_stats = Stats::default();
    let for_operators = |operation: &mut Operation| operation.is_for_operators = true;
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
        .get("/metrics", metrics)
        .described("Metrics for Prometheus.", &[])
        .with(for_operators)
        .with(|operation| operation.add_answer(200, Some((METRICS, Schemas::written::<String>))))
        .get("/stats", async move |State(platform)| stats(platform, last_stats).await)
        .described("Totals of the process, and how each consumer stands.", &[])
        .with(for_operators)
}

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

async fn metrics(State(platform): State<Platform>) -> Response {
    ([(CONTENT_TYPE, METRICS)], platform.metrics.text(&platform.health)).into_response()
}

async fn stats(platform: Platform, stats: Stats) -> Result<Json<Totals>, Problem> {
    stats.get(&platform).await.map(Json)
}
