//! What the routes of operators work with, and how they ask the owners.

use std::sync::Arc;

use axum::http::StatusCode;
use chrono::TimeDelta;
use platform::breaker::Rules;
use platform::{Asking, Limit, Platform, Problem, Tokens, operators};
use serde::Serialize;
use serde_json::Value;
use streams::bus::StreamInfo;
use streams::operators::shown::{Owner, Unavailable};
use streams::operators::{
    ACT_WAIT, LOCATION_OPERATORS, LocationRequest, Operator, QUESTION_WAIT, RIDES_OPERATORS, RidesRequest,
    USERS_OPERATORS, UsersRequest,
};
use streams::topology::ADMIN_STREAM;
use streams::{ActId, Service};
use tokio::sync::Semaphore;

use super::pods::Pods;
use super::tokens;

/// Operators look again when they see nothing.
const RULES: Rules = Rules { failures_max: 5, open_for: TimeDelta::seconds(2) };
/// Questions of this process to one owner that await the reply at once.
const IN_FLIGHT_MAX: usize = 64;
/// Pages of dead letters that are read at once: each may have some MiB in memory.
const LETTER_PAGES_MAX: usize = 3;
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
    pub(super) admitted: tokens::Admitted,
    users: Asking,
    rides: Asking,
    location: Asking,
    // Acts take longer than questions, and requeues the longest: what does not answer these is still asked the others.
    acts_of_users: Asking,
    acts_of_rides: Asking,
    requeues: Asking,
    pub(super) pods: Arc<Pods>,
    /// A permit for each event stream.
    pub(super) streams: Arc<Semaphore>,
    /// A permit for each page of dead letters that is being read.
    pub(super) letter_pages: Semaphore,
}

impl Api {
    pub fn new(platform: &Platform, services: &[Service], tokens: Tokens, operators: tokens::Current) -> Self {
        let asking = |name, subject| Asking::new(platform, name, RULES, subject, IN_FLIGHT_MAX);
        Self(Arc::new(Parts {
            platform: platform.clone(),
            tokens,
            operators,
            admitted: tokens::Admitted::default(),
            users: asking("operators of users", USERS_OPERATORS),
            rides: asking("operators of rides", RIDES_OPERATORS),
            location: asking("operators of location", LOCATION_OPERATORS),
            acts_of_users: asking("acts on users", USERS_OPERATORS),
            acts_of_rides: asking("acts on rides", RIDES_OPERATORS),
            requeues: asking("requeues", USERS_OPERATORS),
            pods: Arc::new(Pods::new(platform, services)),
            letter_pages: Semaphore::new(LETTER_PAGES_MAX),
            streams: Arc::new(Semaphore::new(platform.limiter.limits().count(Limit::AdminStreams))),
        }))
    }

    /// Of other processes, and of this one.
    pub fn pods(&self) -> Arc<Pods> {
        self.pods.clone()
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

    async fn ask<R: Serialize>(&self, owner: &Asking, operator: &Operator, request: R) -> Result<Value, Problem> {
        operators::ask((&self.platform, &self.tokens), owner, operator, request, QUESTION_WAIT).await
    }

    async fn have<R: Serialize>(&self, owner: &Asking, operator: &Operator, act: (ActId, R)) -> Result<Value, Problem> {
        operators::act((&self.platform, &self.tokens), owner, operator, act, ACT_WAIT).await
    }

    pub(super) async fn ask_users(&self, operator: &Operator, request: UsersRequest) -> Result<Value, Problem> {
        self.ask(&self.users, operator, request).await
    }

    pub(super) async fn ask_rides(&self, operator: &Operator, request: RidesRequest) -> Result<Value, Problem> {
        self.ask(&self.rides, operator, request).await
    }

    pub(super) async fn ask_location(&self, operator: &Operator, request: LocationRequest) -> Result<Value, Problem> {
        self.ask(&self.location, operator, request).await
    }

    pub(super) async fn have_users(
        &self,
        operator: &Operator,
        (act_id, request): (ActId, UsersRequest),
    ) -> Result<Value, Problem> {
        let (limit, owner) = match request {
            UsersRequest::LookUp { .. } => (Limit::AdminLookUps, &self.acts_of_users),
            UsersRequest::Requeue { .. } => (Limit::AdminActs, &self.requeues),
            _ => (Limit::AdminActs, &self.acts_of_users),
        };
        self.admit(operator, limit).await?;
        self.have(owner, operator, (act_id, request)).await
    }

    pub(super) async fn have_rides(&self, operator: &Operator, act: (ActId, RidesRequest)) -> Result<Value, Problem> {
        self.admit(operator, Limit::AdminActs).await?;
        self.have(&self.acts_of_rides, operator, act).await
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
pub(super) fn part(answer: Result<Value, Problem>, owner: Owner, unavailable: &mut Unavailable) -> Value {
    answer.unwrap_or_else(|problem| {
        tracing::debug!(?owner, code = %problem.code, "a part of an operator's screen is missing");
        if !unavailable.contains(&owner) {
            unavailable.push(owner);
        }
        Value::Null
    })
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use platform::World;
    use streams::Bus;
    use streams::event::OperatorRole;
    use streams::memory::MemoryBus;
    use streams::operators::{ActHead, OperatorReply};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn acts_that_are_not_answered_stop_no_question() {
        let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 1);
        let platform = Platform::new(world.clone(), Bus::Memory(MemoryBus::new(world.now(), 1)), "pod");
        let tokens = Tokens::new(&world, &[7; 32]).unwrap();
        let api = Api::new(&platform, &[Service::Users], tokens, tokens::Current::default());
        let operator = Operator { name: "ann".to_owned(), role: OperatorRole::Admin };
        let mut requests = platform.bus.subscribe(USERS_OPERATORS, None).await.unwrap();
        // It answers questions, and no act.
        let users = tokio::spawn({
            let bus = platform.bus.clone();
            async move {
                while let Some(request) = requests.next().await {
                    if !String::from_utf8_lossy(&request.payload).contains("act_id") {
                        let reply = serde_json::to_vec(&OperatorReply::Done(Value::Null)).unwrap();
                        bus.publish_core(&request.reply.unwrap(), reply.into()).await.unwrap();
                    }
                }
            }
        });
        let acts = (0..u64::from(RULES.failures_max)).flat_map(|sequence| {
            let act = || ActHead { act_id: world.id(), reason: None };
            [UsersRequest::Requeue { act: act(), sequence }, UsersRequest::SignOut { act: act(), user_id: world.id() }]
        });
        let acts = acts.map(|act| api.have_users(&operator, (world.id(), act)));
        for outcome in join_all(acts).await {
            assert_eq!(outcome.unwrap_err().code, "outcome_unknown");
        }
        let states: Vec<_> = platform.health.breakers().into_iter().filter(|(_, state)| *state == "open").collect();
        assert_eq!(states, [("acts on users", "open"), ("requeues", "open")]);
        let user_id = world.id();
        assert_eq!(api.ask_users(&operator, UsersRequest::User { user_id }).await, Ok(Value::Null));
        users.abort();
    }
}
