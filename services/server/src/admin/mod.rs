//! The operators' API, `/admin/v1`: every process serves all of it, whichever services it runs.
//!
//! What belongs to a service, its owner says and does, by a sealed core request (`platform/operators`): an act is one transaction of the
//! owner, with its event for ADMIN_STREAM. What is on the bus (streams, consumers, dead letters, acts) and what processes say of themselves
//! is read here. A screen of several owners names those that did not answer, and shows the rest.

mod bus;
mod caller;
mod live;
mod people;
mod pods;
mod query;
mod rides;
mod stream;
pub mod tokens;

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use platform::breaker::Rules;
use platform::routes::Routes;
use platform::{Asking, Limit, Platform, Problem, Tokens, operators};
use serde::Serialize;
use serde_json::{Value, json};
use streams::Service;
use streams::operators::{
    ACT_WAIT, LOCATION_OPERATORS, LocationRequest, Operator, QUESTION_WAIT, RIDES_OPERATORS, RidesRequest,
    USERS_OPERATORS, UsersRequest,
};
use tokio::sync::Semaphore;

use caller::Viewer;
pub use pods::Pods;

/// Operators look again when they see nothing.
const RULES: Rules = Rules { failures_max: 5, open_for: TimeDelta::seconds(2) };
/// Questions of this process to one owner that await the reply at once.
const IN_FLIGHT_MAX: usize = 64;

/// What the routes work with; clones share it.
#[derive(Debug, Clone)]
pub struct Api(Arc<Parts>);

impl std::ops::Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

#[derive(Debug)]
pub struct Parts {
    platform: Platform,
    tokens: Tokens,
    operators: tokens::Current,
    users: Asking,
    rides: Asking,
    location: Asking,
    pods: Arc<Pods>,
    /// A permit for each event stream.
    streams: Arc<Semaphore>,
}

impl Api {
    pub fn new(platform: &Platform, services: &[Service], tokens: Tokens, operators: tokens::Current) -> Self {
        let asking = |name, subject| Asking::new(platform, name, RULES, subject, IN_FLIGHT_MAX);
        Self(Arc::new(Parts {
            platform: platform.clone(),
            tokens,
            operators,
            users: asking("operators of users", USERS_OPERATORS),
            rides: asking("operators of rides", RIDES_OPERATORS),
            location: asking("operators of location", LOCATION_OPERATORS),
            pods: Arc::new(Pods::new(platform, services)),
            streams: Arc::new(Semaphore::new(platform.limiter.limits().count(Limit::AdminStreams))),
        }))
    }

    /// Of other processes, and of this one.
    pub fn pods(&self) -> Arc<Pods> {
        self.pods.clone()
    }

    pub fn routes(&self) -> Routes {
        Routes::default()
            .get("/admin/v1/me", me)
            .get("/admin/v1/rides", rides::list)
            .get("/admin/v1/rides/{id}", rides::one)
            .post("/admin/v1/rides/{id}/end", rides::end)
            .post("/admin/v1/rides/{id}/refund", rides::refund)
            .post("/admin/v1/rides/{id}/notes", rides::add_note)
            .get("/admin/v1/users", people::look_up)
            .get("/admin/v1/users/{id}", people::user)
            .post("/admin/v1/users/{id}/sign-out", people::sign_out)
            .get("/admin/v1/drivers", people::drivers)
            .post("/admin/v1/drivers/{id}/approve", people::approve)
            .post("/admin/v1/drivers/{id}/suspend", people::suspend)
            .get("/admin/v1/drivers/{id}/documents", people::documents)
            .put("/admin/v1/drivers/{id}/documents", people::set_documents)
            .get("/admin/v1/live", live::live)
            .get("/admin/v1/streams", bus::streams)
            .get("/admin/v1/consumers", bus::consumers)
            .get("/admin/v1/dead-letters", bus::dead_letters)
            .get("/admin/v1/dead-letters/{seq}", bus::dead_letter)
            .post("/admin/v1/dead-letters/{seq}/requeue", bus::requeue)
            .post("/admin/v1/dead-letters/{seq}/remove", bus::remove)
            .get("/admin/v1/pods", pods::list)
            .get("/admin/v1/acts", bus::acts)
            .get("/admin/v1/stream", stream::stream)
            .with_state(self.clone())
    }

    async fn ask<R: Serialize>(
        &self,
        owner: &Asking,
        operator: &Operator,
        request: R,
        wait: Duration,
    ) -> Result<Value, Problem> {
        operators::ask((&self.platform, &self.tokens), owner, operator, request, wait).await
    }

    async fn ask_users(&self, operator: &Operator, request: UsersRequest) -> Result<Value, Problem> {
        self.ask(&self.users, operator, request, QUESTION_WAIT).await
    }

    async fn ask_rides(&self, operator: &Operator, request: RidesRequest) -> Result<Value, Problem> {
        self.ask(&self.rides, operator, request, QUESTION_WAIT).await
    }

    async fn ask_location(&self, operator: &Operator, request: LocationRequest) -> Result<Value, Problem> {
        self.ask(&self.location, operator, request, QUESTION_WAIT).await
    }

    async fn have_users(&self, operator: &Operator, request: UsersRequest) -> Result<Value, Problem> {
        self.ask(&self.users, operator, request, ACT_WAIT).await
    }

    async fn have_rides(&self, operator: &Operator, request: RidesRequest) -> Result<Value, Problem> {
        self.ask(&self.rides, operator, request, ACT_WAIT).await
    }
}

/// What an owner said, or that it is unavailable: for screens that show the rest.
fn part(answer: Result<Value, Problem>, owner: &'static str, unavailable: &mut Vec<&'static str>) -> Value {
    answer.unwrap_or_else(|problem| {
        tracing::debug!(owner, code = %problem.code, "a part of an operator's screen is missing");
        if !unavailable.contains(&owner) {
            unavailable.push(owner);
        }
        Value::Null
    })
}

async fn me(Viewer(operator): Viewer) -> platform::problem::Json<Value> {
    platform::problem::Json(json!({"name": operator.name, "role": operator.role}))
}
