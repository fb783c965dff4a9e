//! What the routes of operators work with, and how they ask the owners.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use chrono::TimeDelta;
use platform::breaker::Rules;
use platform::{Asking, Limit, Platform, Problem, Tokens, operators};
use serde::Serialize;
use serde_json::Value;
use streams::bus::StreamInfo;
use streams::operators::{
    ACT_WAIT, LOCATION_OPERATORS, LocationRequest, Operator, QUESTION_WAIT, RIDES_OPERATORS, RidesRequest,
    USERS_OPERATORS, UsersRequest,
};
use streams::topology::ADMIN_STREAM;
use streams::{ActId, Service};
use tokio::sync::Semaphore;

use super::pods::Pods;
use super::query::key;
use super::tokens;

/// Operators look again when they see nothing.
const RULES: Rules = Rules { failures_max: 5, open_for: TimeDelta::seconds(2) };
/// Questions of this process to one owner that await the reply at once.
const IN_FLIGHT_MAX: usize = 64;
/// ADMIN_STREAM is full for acts when fewer bytes than these are left: what the owners did since it was observed needs a place as well.
const ACTS_ROOM: u64 = 32 * 1_024;
/// Looking for people leaves this part of the stream to acts that must be done.
const LOOK_UPS_ROOM: f64 = 0.1;

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
    pub(super) platform: Platform,
    tokens: Tokens,
    pub(super) operators: tokens::Current,
    users: Asking,
    rides: Asking,
    location: Asking,
    pub(super) pods: Arc<Pods>,
    /// A permit for each event stream.
    pub(super) streams: Arc<Semaphore>,
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

    /// The id of an act: the caller's key, or a new one.
    ///
    /// # Errors
    /// A problem with the key.
    pub(super) fn act_id(&self, headers: &HeaderMap) -> Result<ActId, Problem> {
        Ok(key(headers)?.unwrap_or_else(|| self.platform.world.id()))
    }

    /// Counts an act, unless its event would have no place.
    ///
    /// # Errors
    /// 429, or 503 `acts_full`.
    async fn admit(&self, operator: &Operator, limit: Limit) -> Result<(), Problem> {
        // Without an observation the act is done, and its event waits in the outbox.
        if let Ok(observed) = self.platform.observed_recently().await
            && let Ok(stream) = observed.state.stream(ADMIN_STREAM)
            && is_full(&stream.info, limit)
        {
            let message = "ADMIN_STREAM, where every act is recorded, is full, and nothing was done: raise ADMIN_STREAM_MAX_BYTES";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "acts_full", message));
        }
        Ok(self.platform.take(limit, operator, 1)?)
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

    pub(super) async fn ask_users(&self, operator: &Operator, request: UsersRequest) -> Result<Value, Problem> {
        self.ask(&self.users, operator, request, QUESTION_WAIT).await
    }

    pub(super) async fn ask_rides(&self, operator: &Operator, request: RidesRequest) -> Result<Value, Problem> {
        self.ask(&self.rides, operator, request, QUESTION_WAIT).await
    }

    pub(super) async fn ask_location(&self, operator: &Operator, request: LocationRequest) -> Result<Value, Problem> {
        self.ask(&self.location, operator, request, QUESTION_WAIT).await
    }

    pub(super) async fn have_users(&self, operator: &Operator, request: UsersRequest) -> Result<Value, Problem> {
        let limit = match request {
            UsersRequest::LookUp { .. } => Limit::AdminLookUps,
            _ => Limit::AdminActs,
        };
        self.admit(operator, limit).await?;
        self.ask(&self.users, operator, request, ACT_WAIT).await
    }

    pub(super) async fn have_rides(&self, operator: &Operator, request: RidesRequest) -> Result<Value, Problem> {
        self.admit(operator, Limit::AdminActs).await?;
        self.ask(&self.rides, operator, request, ACT_WAIT).await
    }
}

/// Whether the event of an act that `limit` counts has no place in the stream.
fn is_full(stream: &StreamInfo, limit: Limit) -> bool {
    let Some(max_bytes) = u64::try_from(stream.max_bytes).ok().filter(|max| *max > 0) else { return false };
    let room = match limit {
        Limit::AdminLookUps => (max_bytes as f64 * LOOK_UPS_ROOM) as u64,
        _ => ACTS_ROOM,
    };
    stream.bytes.saturating_add(room) > max_bytes
}

/// What an owner said, or that it is unavailable: for screens that show the rest.
pub(super) fn part(answer: Result<Value, Problem>, owner: &'static str, unavailable: &mut Vec<&'static str>) -> Value {
    answer.unwrap_or_else(|problem| {
        tracing::debug!(owner, code = %problem.code, "a part of an operator's screen is missing");
        if !unavailable.contains(&owner) {
            unavailable.push(owner);
        }
        Value::Null
    })
}
