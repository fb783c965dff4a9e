//! The operators' API between processes: any process serves it by HTTP, and asks the service that owns what is shown or changed.
//!
//! A request is sealed with a keyed hash and is fresh for 90 s, an act for as long as its asker waits: who has the password of one NATS user
//! can neither act as an operator nor repeat later what one did; within that time a repeat has no second effect (`acts.rs`). What the asker
//! has given up is not begun, and what has begun is given up with it: the problem that the operator got says how to repeat it.

pub mod acts;

use axum::http::StatusCode;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;
use streams::operators::{Asked, FRESH_FOR, Operator, OperatorReply};
use streams::{ActId, Service};
use tokio::time::timeout;

use crate::asking::{Asking, Unanswered};
use crate::responder::{self, Endpoint, Reply};
use crate::{CancellationToken, Platform, Problem, Tokens};

/// Names the key that seals requests.
const PURPOSE: &str = "operators";
/// Requests in hand at most: each but a requeue holds a connection to the database.
const ACCEPTED_MAX: usize = 16;
/// Limit of one request; that of an act is shorter.
const REQUEST_WAIT: Duration = Duration::from_secs(60);

/// What a service answers, as JSON.
pub fn shown<T: Serialize>(view: &T) -> Value {
    serde_json::to_value(view).expect("a view has string keys and finite numbers")
}

/// The message with this request.
pub fn seal<R: Serialize>(tokens: &Tokens, asked: &Asked<R>) -> Bytes {
    let body = serde_json::to_vec(asked).expect("a request has string keys and finite numbers");
    let mut message = hex::encode(tokens.keyed_hash_of(PURPOSE, &body)).into_bytes();
    message.extend(body);
    message.into()
}

/// The request of a message; `None` if no process of the platform made it, or not just now.
fn open<R: DeserializeOwned>(tokens: &Tokens, message: &[u8], now: DateTime<Utc>) -> Option<Asked<R>> {
    let (seal, body) = message.split_at_checked(64)?;
    let seal = hex::decode(seal).ok()?;
    tokens.is_keyed_hash(PURPOSE, body, &seal).then_some(())?;
    let asked: Asked<R> = serde_json::from_slice(body).ok()?;
    let valid = FRESH_FOR.min(Duration::from_secs(asked.valid_s));
    ((now - asked.at).abs().to_std().ok()? <= valid).then_some(asked)
}

/// How much longer the request may be worked on.
fn time_left<R>(asked: &Asked<R>, now: DateTime<Utc>) -> Duration {
    Duration::from_secs(asked.valid_s).saturating_sub((now - asked.at).to_std().unwrap_or_default())
}

/// Asks the owner a question, which changes nothing.
///
/// # Errors
/// The owner's refusal; `unavailable` without an answer.
pub async fn ask<R: Serialize>(
    with: (&Platform, &Tokens),
    owner: &Asking,
    operator: &Operator,
    request: R,
    wait: Duration,
) -> Result<Value, Problem> {
    let answered = send(with, owner, operator, (request, wait, FRESH_FOR)).await;
    answered.unwrap_or_else(|_| Err(Problem::unavailable()))
}

/// Has the owner do an act, which it does not begin after `wait`.
///
/// # Errors
/// The owner's refusal; `unavailable` if nothing was done; `outcome_unknown` without an answer.
pub async fn act<R: Serialize>(
    with: (&Platform, &Tokens),
    owner: &Asking,
    operator: &Operator,
    (act_id, request): (ActId, R),
    wait: Duration,
) -> Result<Value, Problem> {
    let answered = send(with, owner, operator, (request, wait, wait)).await;
    answered.unwrap_or_else(|why| {
        Err(match why {
            Unanswered::NotAsked => Problem::unavailable(),
            Unanswered::NoReply => outcome_unknown(act_id),
        })
    })
}

fn outcome_unknown(act_id: ActId) -> Problem {
    let message = format!(
        "there was no answer in time: it may have been done, or not. Send the same again with the header \
         `Idempotency-Key: {act_id}`: it is done once, however often it is sent with that key"
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", message)
}

async fn send<R: Serialize>(
    (platform, tokens): (&Platform, &Tokens),
    owner: &Asking,
    operator: &Operator,
    (request, wait, valid): (R, Duration, Duration),
) -> Result<Result<Value, Problem>, Unanswered> {
    let asked = Asked { at: platform.world.now(), valid_s: valid.as_secs(), operator: operator.clone(), request };
    Ok(match owner.ask_bytes(seal(tokens, &asked), wait).await? {
        OperatorReply::Done(value) => Ok(value),
        OperatorReply::Refused { status, code, message, field } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Err(Problem { field, ..Problem::new(status, code, message) })
        }
    })
}

/// Answers what operators ask of `service` on `subject`, until `stop`.
pub async fn answer<R, F, A>(
    (platform, tokens): (Platform, Tokens),
    (service, subject): (Service, &'static str),
    stop: CancellationToken,
    respond: F,
) where
    R: DeserializeOwned + Send + 'static,
    F: Fn(Asked<R>) -> A,
    A: Future<Output = Result<Value, Problem>> + Send + 'static,
{
    let endpoint = Endpoint {
        service: Some(service),
        name: "operators".to_owned(),
        subject: subject.to_owned(),
        queue_group: Some(subject.to_owned()),
        accepted_max: ACCEPTED_MAX,
        wait: REQUEST_WAIT,
        health_part: None,
    };
    let world = platform.world.clone();
    responder::serve(platform, endpoint, stop, move |message| {
        let now = world.now();
        let answer = open(&tokens, &message, now).map(|asked| (time_left(&asked, now), respond(asked)));
        async move {
            let Some((time_left, answer)) = answer else {
                tracing::warn!("a request of an operator is not from this platform, or is old: ignored");
                return Reply::none("it is not sealed by this platform, or is old");
            };
            let Ok(answer) = timeout(time_left, answer).await else {
                tracing::warn!("a request of an operator took longer than its asker waits, and was given up");
                return Reply::none("it took longer than its asker waits");
            };
            Reply::json(&match answer {
                Ok(value) => OperatorReply::Done(value),
                Err(problem) => OperatorReply::Refused {
                    status: problem.status.as_u16(),
                    code: problem.code.into_owned(),
                    message: problem.message,
                    field: problem.field,
                },
            })
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use chrono::TimeDelta;
    use streams::Bus;
    use streams::event::OperatorRole;
    use streams::memory::MemoryBus;
    use streams::operators::{ACT_WAIT, RIDES_OPERATORS, RidesRequest};

    use super::*;
    use crate::World;
    use crate::breaker::Rules;

    #[test]
    fn only_a_fresh_request_of_the_platform_is_opened() {
        let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 1);
        let tokens = Tokens::new(&world, &[7; 32]).unwrap();
        let now = world.now();
        let asked = Asked {
            at: now,
            valid_s: 90,
            operator: Operator { name: "ann".to_owned(), role: OperatorRole::Viewer },
            request: RidesRequest::Ride { ride_id: world.id() },
        };
        let sealed = seal(&tokens, &asked);
        let opened = |message: &[u8], now| open::<RidesRequest>(&tokens, message, now);
        assert_eq!(opened(&sealed, now), Some(asked.clone()));
        for (ahead_s, is_open) in [(90, true), (-90, true), (91, false), (-91, false)] {
            assert_eq!(opened(&sealed, now + TimeDelta::seconds(ahead_s)).is_some(), is_open, "{ahead_s}");
        }
        let short = seal(&tokens, &Asked { valid_s: 18, ..asked.clone() });
        assert_eq!([18, 19].map(|s| opened(&short, now + TimeDelta::seconds(s)).is_some()), [true, false]);
        let long = seal(&tokens, &Asked { valid_s: 1_000, ..asked.clone() });
        assert_eq!(opened(&long, now + TimeDelta::seconds(91)), None, "no request is fresh for longer");
        assert!(open::<RidesRequest>(&Tokens::new(&world, &[8; 32]).unwrap(), &sealed, now).is_none());
        let mut other = sealed.to_vec();
        let place = other.windows(6).position(|part| part == b"viewer").unwrap();
        other[place..place + 6].copy_from_slice(b"admin ");
        for forged in [&b""[..], &sealed[1..], &other, &[b'z'; 70]] {
            assert_eq!(opened(forged, now), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_act_whose_asker_has_given_up_is_not_done_and_can_be_repeated_safely() {
        let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 1);
        let platform = Platform::new(world.clone(), Bus::Memory(MemoryBus::new(world.now(), 1)), "pod");
        let tokens = Tokens::new(&world, &[7; 32]).unwrap();
        let (stop, done) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let owner = tokio::spawn(answer(
            (platform.clone(), tokens.clone()),
            (Service::Rides, RIDES_OPERATORS),
            stop.clone(),
            {
                let done = done.clone();
                move |_: Asked<RidesRequest>| {
                    let done = done.clone();
                    async move {
                        // As by a row that another transaction has locked.
                        tokio::time::sleep(Duration::from_secs(20)).await;
                        done.fetch_add(1, Ordering::Relaxed);
                        Ok(Value::Null)
                    }
                }
            },
        ));
        tokio::task::yield_now().await;
        let rules = Rules { failures_max: 5, open_for: TimeDelta::seconds(2) };
        let asking = Asking::new(&platform, "acts", rules, RIDES_OPERATORS, 1);
        let operator = Operator { name: "ann".to_owned(), role: OperatorRole::Admin };
        let (act_id, request) = (world.id(), RidesRequest::Debts { user_id: world.id() });
        let with = (&platform, &tokens);
        let problem = act(with, &asking, &operator, (act_id, request.clone()), ACT_WAIT).await.unwrap_err();
        assert_eq!(problem.code, "outcome_unknown");
        assert!(problem.message.contains(&format!("Idempotency-Key: {act_id}")), "{}", problem.message);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(done.load(Ordering::Relaxed), 0, "it was given up with its asker");
        stop.cancel();
        owner.await.unwrap();
        // Nobody is there any more: nothing was done.
        let problem = act(with, &asking, &operator, (act_id, request), ACT_WAIT).await.unwrap_err();
        assert_eq!(problem.code, "unavailable");
    }
}
