//! A server that misbehaves on purpose, for people who test an app: `rideshare demo --faults`. The schedule says what happens to which
//! request and socket, the line of a connection carries it out. Nothing of it is known to the services, and what they do is never changed.

mod line;
mod schedule;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use platform::Problem;
use tokio::time::sleep;

use self::line::Cut;
pub(super) use self::line::{FaultyIo, Line};
use self::schedule::{RequestFault, Schedule};

/// The most names whose requests and sockets are counted. All others are one.
const NAMES_MAX: usize = 1_024;
/// The parts of a path that are ids have this length.
const UUID_LEN: usize = 36;

/// The faults of one listener.
#[derive(Debug)]
pub struct Faults {
    schedule: Schedule,
    /// How many there were of each name.
    counts: Mutex<BTreeMap<String, u64>>,
}

impl Faults {
    /// Those of `seed`.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { schedule: Schedule(seed), counts: Mutex::default() })
    }

    /// `router` with faults.
    pub(super) fn wrap(self: &Arc<Self>, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(self.clone(), misbehave))
    }

    /// The next number of `name`.
    fn next(&self, name: &str) -> u64 {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let name = if counts.len() < NAMES_MAX || counts.contains_key(name) { name } else { "others" };
        let count = counts.entry(name.to_owned()).or_default();
        *count += 1;
        *count - 1
    }
}

async fn misbehave(State(faults): State<Arc<Faults>>, mut request: Request, next: Next) -> Response {
    let Some(line) = request.extensions_mut().remove::<Arc<Line>>() else { return next.run(request).await };
    let path = request.uri().path();
    if path.starts_with("/health/") {
        return next.run(request).await;
    }
    if path == "/v1/ws" {
        return open_socket(&faults, &line, request, next).await;
    }
    let name = format!("{} {}", request.method(), without_ids(path));
    let number = faults.next(&name);
    let fault = faults.schedule.request(&name, number);
    if fault != RequestFault::None {
        tracing::info!(?fault, "{name}, request {number}");
    }
    match fault {
        RequestFault::None => next.run(request).await,
        RequestFault::Late(ms) => {
            let response = next.run(request).await;
            sleep(Duration::from_millis(ms)).await;
            response
        }
        RequestFault::Unavailable(seconds) => {
            Problem { retry_after_s: Some(seconds), ..Problem::unavailable() }.into_response()
        }
        RequestFault::TooMany(seconds) => {
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "on purpose, by the seed");
            Problem { retry_after_s: Some(seconds), limit: Some("http_address"), ..problem }.into_response()
        }
        RequestFault::CutBefore => {
            line.cut(Cut::Now);
            Problem::unavailable().into_response()
        }
        RequestFault::AnswerLost => {
            let response = next.run(request).await;
            line.cut(Cut::Now);
            response
        }
    }
}

async fn open_socket(faults: &Faults, line: &Line, request: Request, next: Next) -> Response {
    let device = device(request.uri());
    let response = next.run(request).await;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let number = faults.next(&format!("socket of {device}"));
        let plan = faults.schedule.socket(&device, number);
        tracing::info!(end = ?plan.end, "socket {number} of device `{device}`");
        line.cut(Cut::Planned(plan));
    }
    response
}

fn device(uri: &Uri) -> String {
    let query = Query::<Vec<(String, String)>>::try_from_uri(uri).map(|Query(query)| query).unwrap_or_default();
    query.into_iter().find(|(name, _)| name == "device").map(|(_, device)| device).unwrap_or_default()
}

/// Ids differ from run to run.
fn without_ids(path: &str) -> String {
    path.split('/').map(|part| if part.len() == UUID_LEN { "{id}" } else { part }).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route() {
        let faults = Faults::new(1);
        let ride = |n: u8| without_ids(&format!("/v1/rides/0190b7a0-0000-7000-8000-00000000000{n}/rating"));
        assert_eq!(ride(1), "/v1/rides/{id}/rating");
        assert_eq!([1, 2, 3].map(|n| faults.next(&ride(n))), [0, 1, 2]);
        assert_eq!(faults.next("GET /v1/me"), 0);
        for n in 0..2 * NAMES_MAX {
            faults.next(&n.to_string());
        }
        assert_eq!(faults.counts.lock().unwrap().len(), NAMES_MAX + 1);
        assert_eq!(faults.next("GET /v1/me"), 1);
    }
}
