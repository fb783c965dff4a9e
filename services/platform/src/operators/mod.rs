//! The operators' API between processes: any process serves it by HTTP, and asks the service that owns what is shown or changed.
//!
//! A request is sealed with a keyed hash and is fresh for 90 s: who has the password of one NATS user can neither act as an operator nor
//! repeat later what one did; within that time a repeat has no second effect (`acts.rs`).

pub mod acts;

use axum::http::StatusCode;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;
use streams::Service;
use streams::operators::{Asked, FRESH_FOR, Operator, OperatorReply};

use crate::asking::Asking;
use crate::responder::{self, Endpoint, Reply};
use crate::{CancellationToken, Platform, Problem, Tokens};

/// Names the key that seals requests.
const PURPOSE: &str = "operators";
/// Requests in hand at most: each but a requeue holds a connection to the database.
const ACCEPTED_MAX: usize = 16;
/// Limit of one request. A requeue waits for its worker, which may take so long.
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
    ((now - asked.at).abs() <= FRESH_FOR).then_some(asked)
}

/// Asks the owner.
///
/// # Errors
/// The owner's refusal; `unavailable` without an answer.
pub async fn ask<R: Serialize>(
    (platform, tokens): (&Platform, &Tokens),
    owner: &Asking,
    operator: &Operator,
    request: R,
    wait: Duration,
) -> Result<Value, Problem> {
    let asked = Asked { at: platform.world.now(), operator: operator.clone(), request };
    match owner.ask_bytes(seal(tokens, &asked), wait).await {
        Some(OperatorReply::Done(value)) => Ok(value),
        Some(OperatorReply::Refused { status, code, message, field }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Err(Problem { field, ..Problem::new(status, code, message) })
        }
        None => Err(Problem::unavailable()),
    }
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
        let answer = open(&tokens, &message, world.now()).map(&respond);
        async move {
            let Some(answer) = answer else {
                tracing::warn!("a request of an operator is not from this platform, or is old: ignored");
                return Reply::none("it is not sealed by this platform, or is old");
            };
            Reply::json(&match answer.await {
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
    use chrono::TimeDelta;
    use streams::event::OperatorRole;
    use streams::operators::RidesRequest;

    use super::*;
    use crate::World;

    #[test]
    fn only_a_fresh_request_of_the_platform_is_opened() {
        let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 1);
        let tokens = Tokens::new(&world, &[7; 32]).unwrap();
        let now = world.now();
        let asked = Asked {
            at: now,
            operator: Operator { name: "ann".to_owned(), role: OperatorRole::Viewer },
            request: RidesRequest::Ride { ride_id: world.id() },
        };
        let sealed = seal(&tokens, &asked);
        let opened = |message: &[u8], now| open::<RidesRequest>(&tokens, message, now);
        assert_eq!(opened(&sealed, now), Some(asked.clone()));
        for (ahead_s, is_open) in [(90, true), (-90, true), (91, false), (-91, false)] {
            assert_eq!(opened(&sealed, now + TimeDelta::seconds(ahead_s)).is_some(), is_open, "{ahead_s}");
        }
        assert!(open::<RidesRequest>(&Tokens::new(&world, &[8; 32]).unwrap(), &sealed, now).is_none());
        let mut other = sealed.to_vec();
        let place = other.windows(6).position(|part| part == b"viewer").unwrap();
        other[place..place + 6].copy_from_slice(b"admin ");
        for forged in [&b""[..], &sealed[1..], &other, &[b'z'; 70]] {
            assert_eq!(opened(forged, now), None);
        }
    }
}
