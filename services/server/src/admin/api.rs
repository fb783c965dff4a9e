//! What the routes of operators work with, and how they ask the owners.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use chrono::TimeDelta;
use platform::breaker::Rules;
use platform::{Asking, Limit, Platform, Problem, Tokens, operators};
use pricing::market;
use serde::Serialize;
use serde_json::Value;
use streams::explanation::{EXPLANATION, ExplanationReply, ExplanationRequest};
use streams::operators::{
    ACT_WAIT, LOCATION_OPERATORS, LocationRequest, Operator, QUESTION_WAIT, RIDES_OPERATORS, RidesRequest,
    USERS_OPERATORS, UsersRequest,
};
use streams::{ActId, MatchId, Service};
use tokio::sync::Semaphore;

use super::pods::Pods;
use super::query::key;
use super::tokens;

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
    pub(super) platform: Platform,
    tokens: Tokens,
    pub(super) operators: tokens::Current,
    users: Asking,
    rides: Asking,
    location: Asking,
    matching: Asking,
    /// Of this process, as MARKETS_FILE has them.
    pub(super) markets: market::Current,
    /// TRACE_URL.
    pub(super) trace_url: Option<String>,
    pub(super) pods: Arc<Pods>,
    /// A permit for each event stream.
    pub(super) streams: Arc<Semaphore>,
}

impl Api {
    pub fn new(
        platform: &Platform,
        services: &[Service],
        tokens: Tokens,
        operators: tokens::Current,
        (markets, trace_url): (market::Current, Option<String>),
    ) -> Self {
        let asking = |name, subject| Asking::new(platform, name, RULES, subject, IN_FLIGHT_MAX);
        Self(Arc::new(Parts {
            platform: platform.clone(),
            tokens,
            operators,
            users: asking("operators of users", USERS_OPERATORS),
            rides: asking("operators of rides", RIDES_OPERATORS),
            location: asking("operators of location", LOCATION_OPERATORS),
            matching: asking("operators of match", EXPLANATION),
            markets,
            trace_url,
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

    /// Why the driver of this match was offered the search.
    pub(super) async fn ask_why(&self, match_id: MatchId) -> Result<Value, Problem> {
        match self.matching.ask(&ExplanationRequest { match_id }, QUESTION_WAIT).await {
            Some(ExplanationReply::Explained(explanation)) => Ok(explanation),
            Some(ExplanationReply::Busy) => {
                let message = "there is too much to run again at once: use `rideshare dispatch explain`";
                Err(Problem { message: message.to_owned(), ..Problem::unavailable() })
            }
            None => Err(Problem::unavailable()),
        }
    }

    pub(super) async fn have_users(&self, operator: &Operator, request: UsersRequest) -> Result<Value, Problem> {
        self.ask(&self.users, operator, request, ACT_WAIT).await
    }

    pub(super) async fn have_rides(&self, operator: &Operator, request: RidesRequest) -> Result<Value, Problem> {
        self.ask(&self.rides, operator, request, ACT_WAIT).await
    }
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
