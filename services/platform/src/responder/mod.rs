//! Answers core requests: one loop for every subject on which a process is asked something. It subscribes again when the subscription
//! ends, bounds the requests in hand and the time of each, and counts for the service API (`pod/service_api.rs`).

mod endpoints;

use std::time::Duration;

use bytes::Bytes;
use streams::Service;
use streams::bus::CoreMessage;
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
}

impl Reply {
    pub fn done(body: impl Into<Bytes>) -> Self {
        Self { body: Some(body.into()), error: None }
    }

    /// A reply that says that it was not done.
    pub fn failed(body: impl Into<Bytes>, why: impl Into<String>) -> Self {
        Self { body: Some(body.into()), error: Some(why.into()) }
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

    /// No reply: nobody waits for it, or nobody can say.
    pub fn none(why: impl Into<String>) -> Self {
        Self { body: None, error: Some(why.into()) }
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
    if let Err(error) = platform.bus.publish_core(to, body.clone()).await {
        tracing::debug!(%error, subject, "a reply was not sent");
    }
}
