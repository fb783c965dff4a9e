//! Answers core requests: one loop for every subject on which a process is asked something. It subscribes again when the subscription
//! ends, bounds the requests in hand and the time of each, and counts for the service API (`pod/service_api.rs`).

//!
//! A reply that says that something was not done says so in its headers as well, as the service API of NATS does (ADR-32): for whoever
//! asks with `nats request`, and for tools that know no body of this platform.

mod endpoints;

use std::time::Duration;

use bytes::Bytes;
use streams::Service;
use streams::bus::{CoreMessage, Headers};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{CancellationToken, Platform, retry};

pub use endpoints::{Endpoints, Listed, Statistics};

/// A subject on which a service answers requests.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The service that the service API lists it under; `None`: it is not listed.
    pub service: Option<Service>,
    /// Its name there: letters, digits, `-` and `_`.
    pub name: String,
    pub subject: String,
    /// One member of the group gets each request; without one every subscriber does.
    pub queue_group: Option<String>,
    /// The most requests in hand; more wait in the subscription.
    pub accepted_max: usize,
    /// A request that takes longer is given up without a reply: nobody waits for it any more.
    pub wait: Duration,
    /// The part of the health report that says whether requests come in.
    pub health_part: Option<&'static str>,
}

/// What becomes of a request.
#[derive(Debug)]
pub struct Reply {
    /// `None`: the requester gets no reply.
    pub(crate) body: Option<Bytes>,
    /// What the service API counts as an error.
    error: Option<String>,
    /// Its code in the headers of the reply.
    code: &'static str,
}

const ERROR: &str = "Nats-Service-Error";
const ERROR_CODE: &str = "Nats-Service-Error-Code";
/// The most characters of an error in a header.
const ERROR_MAX: usize = 200;
/// As HTTP has them: the requester must ask for something else, or ask again.
const REFUSED: &str = "400";
const FAILED: &str = "500";

impl Reply {
    pub fn done(body: impl Into<Bytes>) -> Self {
        Self { body: Some(body.into()), error: None, code: "" }
    }

    /// A reply that says that it was not done, and may be done later.
    pub fn failed(body: impl Into<Bytes>, why: impl Into<String>) -> Self {
        Self { body: Some(body.into()), error: Some(why.into()), code: FAILED }
    }

    /// A reply that says that this cannot be done.
    pub fn refused(body: impl Into<Bytes>, why: impl Into<String>) -> Self {
        Self { body: Some(body.into()), error: Some(why.into()), code: REFUSED }
    }

    /// What the reply says beside its body: nothing unless it is an error. A header is one line.
    fn headers(&self) -> Headers {
        let mut headers = Headers::default();
        if let Some(error) = &self.error {
            let line = error.chars().map(|c| if c.is_control() { ' ' } else { c });
            headers.set(ERROR, line.take(ERROR_MAX).collect::<String>());
            headers.set(ERROR_CODE, self.code);
        }
        headers
    }

    /// No reply, to a request that cannot be read. What it held is not repeated: everybody sees the statistics.
    pub fn unreadable(why: &serde_json::Error) -> Self {
        let (line, column) = (why.line(), why.column());
        Self::none(format!("the request cannot be read: {:?} error at {line}:{column}", why.classify()))
    }

    /// The value as JSON.
    pub fn json(value: &impl serde::Serialize) -> Self {
        Self::done(serde_json::to_vec(value).expect("bodies have string keys"))
    }

    /// No reply, because another process replies.
    pub fn of_others() -> Self {
        Self { body: None, error: None, code: "" }
    }

    /// No reply: nobody waits for it, or nobody can say.
    pub fn none(why: impl Into<String>) -> Self {
        Self { body: None, error: Some(why.into()), code: FAILED }
    }
}

/// Answers the requests on the subject of `endpoint` until `stop`, then finishes those in hand. What has no reply subject is no
/// request: such as a message of somebody who only watches.
pub async fn serve<F, R>(platform: Platform, endpoint: Endpoint, stop: CancellationToken, respond: F)
where
    F: Fn(Bytes) -> R,
    R: Future<Output = Reply> + Send + 'static,
{
    let endpoints = platform.endpoints.clone();
    let registered = endpoints.register(&endpoint);
    let mut delays = retry::dependency();
    let mut in_hand = JoinSet::new();
    while !stop.is_cancelled() {
        let why = match platform.bus.subscribe(&endpoint.subject, endpoint.queue_group.as_deref()).await {
            Ok(mut requests) => {
                endpoint.health_part.iter().for_each(|part| platform.health.set_healthy(part));
                delays.reset();
                loop {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        Some(_) = in_hand.join_next(), if !in_hand.is_empty() => {}
                        next = requests.next(), if in_hand.len() < endpoint.accepted_max => match next {
                            Some(CoreMessage { payload, reply: Some(to), .. }) => {
                                let began = Instant::now();
                                let reply = respond(payload);
                                let (platform, statistics) = (platform.clone(), registered.statistics());
                                let (subject, deadline) = (endpoint.subject.clone(), began + endpoint.wait);
                                in_hand.spawn(async move {
                                    let reply = timeout_at(deadline, reply).await.unwrap_or_else(|_| {
                                        tracing::warn!(subject, "a request was not answered in time");
                                        Reply::none("it was not answered in time")
                                    });
                                    send(&platform, &subject, &to, &reply).await;
                                    statistics.record(began.elapsed(), reply.error);
                                });
                            }
                            Some(_) => {}
                            None => break,
                        }
                    }
                }
                "the subscription ended".to_owned()
            }
            Err(error) => error.to_string(),
        };
        if stop.is_cancelled() {
            break;
        }
        tracing::warn!(why, subject = endpoint.subject, "requests do not come in; the subscription is made again");
        endpoint.health_part.iter().for_each(|part| platform.health.set_unhealthy(part, why.clone()));
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = sleep(delays.next_delay()) => {}
        }
    }
    while in_hand.join_next().await.is_some() {}
    endpoint.health_part.iter().for_each(|part| platform.health.remove(part));
}

async fn send(platform: &Platform, subject: &str, to: &str, reply: &Reply) {
    if let Some(error) = &reply.error {
        tracing::debug!(error, subject, "a request failed");
    }
    let Some(body) = &reply.body else { return };
    let headers = reply.headers();
    let sent = match headers.is_empty() {
        true => platform.bus.publish_core(to, body.clone()).await,
        false => platform.bus.reply(to, headers, body.clone()).await,
    };
    if let Err(error) = sent {
        tracing::debug!(%error, subject, "a reply was not sent");
    }
}

#[cfg(test)]
mod tests {
    use streams::Bus;
    use streams::memory::MemoryBus;

    use super::*;
    use crate::World;

    #[tokio::test]
    async fn a_reply_that_is_an_error_says_so_in_its_headers() {
        let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 1);
        let platform = Platform::new(world.clone(), Bus::Memory(MemoryBus::new(world.now(), 1)), "pod");
        let mut inbox = platform.bus.subscribe("inbox", None).await.unwrap();
        for (reply, error, code) in [
            (Reply::done("yes"), None, None),
            (Reply::failed("no", "it is\r\nbusy"), Some("it is  busy"), Some("500")),
            (Reply::refused("no", "wrong_pin"), Some("wrong_pin"), Some("400")),
        ] {
            send(&platform, "subject", "inbox", &reply).await;
            let CoreMessage { headers, payload, .. } = inbox.next().await.unwrap();
            assert_eq!(Some(payload), reply.body);
            assert_eq!((headers.find(ERROR), headers.find(ERROR_CODE)), (error, code));
        }
        let long = Reply::failed("", "x".repeat(1_000)).headers();
        assert_eq!(long.find(ERROR).map(str::len), Some(ERROR_MAX));
    }
}
