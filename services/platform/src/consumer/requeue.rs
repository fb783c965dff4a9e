//! Requests to a worker about the messages of its consumers: to handle a dead-lettered one again, and whether one was
//! processed. The reply is sent after the commit, never before.

use std::sync::Arc;

use streams::topology::{Consumer, DEAD_LETTER_STREAM};
use streams::{Event, EventError, Service};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tracing::Instrument;

use super::attempt::Executor;
use super::{Ended, Failure, Handler, Received, occurred_at};
use crate::dead_letters::{DeadLetter, REQUEUE_WAIT, WorkerReply, WorkerRequest, inbox_key, sweeper, worker_subject};
use crate::event_metrics::EventPath;
use crate::responder::{self, Endpoint, Reply};
use crate::store::{Retries, Retry, Store};
use crate::world::{Trace, World};
use crate::{CancellationToken, Platform};

/// Requeue requests that wait for a worker; more wait on the bus.
pub(super) const REQUESTS_MAX: usize = 16;

/// Advisories that are swept at once for other processes.
const SWEEPS_MAX: usize = 4;

/// A request to handle the message of a dead letter.
#[derive(Debug)]
pub(super) struct RequeueRequest {
    consumer: String,
    /// Of the letter in DEAD_LETTER_STREAM.
    sequence: u64,
    /// Of the letter.
    id: String,
    reply: oneshot::Sender<WorkerReply>,
    /// The requester waits no longer than that.
    deadline: Instant,
}

/// Answers the requests about one consumer, and hands requeue requests to its worker.
pub(super) async fn listen<H: Handler>(
    platform: Platform,
    service: Service,
    store: Store<H::Tables>,
    consumer: Consumer,
    to: mpsc::Sender<RequeueRequest>,
) {
    let durable = consumer.durable;
    let endpoint = Endpoint {
        service: Some(service),
        name: durable.clone(),
        subject: worker_subject(&durable),
        queue_group: Some(durable.clone()),
        accepted_max: REQUESTS_MAX + SWEEPS_MAX,
        wait: REQUEUE_WAIT,
        health_part: None,
    };
    let sweeps = Arc::new(Semaphore::new(SWEEPS_MAX));
    // The worker that runs this aborts it.
    let never = CancellationToken::new();
    responder::serve(platform.clone(), endpoint, never, move |request| {
        let (platform, store, durable) = (platform.clone(), store.clone(), durable.clone());
        let (to, sweeps) = (to.clone(), sweeps.clone());
        async move {
            let reply = match serde_json::from_slice(&request) {
                Ok(WorkerRequest::Requeue { sequence, id }) => {
                    let (reply, replied) = oneshot::channel();
                    let deadline = Instant::now() + REQUEUE_WAIT;
                    let request = RequeueRequest { consumer: durable, sequence, id, reply, deadline };
                    // Without a reply, the requester asks again: the worker has ended, or had no time for it.
                    if to.send(request).await.is_err() {
                        return Reply::none("the worker has ended");
                    }
                    match replied.await {
                        Ok(reply) => reply,
                        Err(_) => return Reply::none("the worker has ended, or had no time"),
                    }
                }
                Ok(WorkerRequest::IsProcessed { inbox_key }) => is_processed::<H>(&store, &durable, &inbox_key).await,
                Ok(WorkerRequest::Ping) => WorkerReply::NotDone,
                Ok(WorkerRequest::Sweep { advisory }) => match sweeps.try_acquire() {
                    Ok(_permit) => sweep(&platform, &durable, advisory).await,
                    // The requester asks again.
                    Err(_) => WorkerReply::Failed { why: "it is busy".to_owned() },
                },
                Err(error) => WorkerReply::Failed { why: format!("the request cannot be read: {error}") },
            };
            let body = serde_json::to_vec(&reply).expect("replies have string keys");
            match reply {
                WorkerReply::Failed { why } => Reply::failed(body, why),
                _ => Reply::done(body),
            }
        }
    })
    .await;
}

async fn sweep(platform: &Platform, durable: &str, advisory: u64) -> WorkerReply {
    let reply = sweeper::sweep_for(platform, durable, advisory).await;
    reply.unwrap_or_else(|error| WorkerReply::Failed { why: error.to_string() })
}

async fn is_processed<H: Handler>(store: &Store<H::Tables>, consumer: &str, inbox_key: &str) -> WorkerReply {
    if !H::INBOX {
        return WorkerReply::NotDone;
    }
    let is_processed = async { store.begin().await?.is_processed(consumer, inbox_key).await };
    match is_processed.await {
        Ok(true) => WorkerReply::DoneBefore,
        Ok(false) => WorkerReply::NotDone,
        Err(error) => WorkerReply::Failed { why: error.to_string() },
    }
}

/// Handles the message of a dead letter and replies. Returns why the worker must end, if it must.
pub(super) async fn requeue<H: Handler>(executor: &mut Executor<H>, request: RequeueRequest) -> Option<Ended> {
    if Instant::now() >= request.deadline {
        return None;
    }
    let span = tracing::info_span!("requeue", consumer = request.consumer, letter = request.sequence);
    async {
        let (reply, ended) = match handle(executor, &request).await {
            Ok(true) => (WorkerReply::Done, None),
            Ok(false) => (WorkerReply::DoneBefore, None),
            Err(failure) => {
                let ended = matches!(failure, Failure::Fenced).then_some(Ended::Fenced);
                (WorkerReply::Failed { why: failure.to_string() }, ended)
            }
        };
        tracing::info!(?reply, "dead letter requeued");
        // If nobody waits any more, the requester has given up.
        let _ = request.reply.send(reply);
        ended
    }
    .instrument(span)
    .await
}

/// One transaction, as for any delivery; false if the message was processed before.
async fn handle<H: Handler>(executor: &mut Executor<H>, request: &RequeueRequest) -> Result<bool, Failure> {
    let stored = executor.platform.bus.get_message(DEAD_LETTER_STREAM, request.sequence).await;
    let letter = DeadLetter::parse(stored.map_err(|e| Failure::Transient(e.to_string()))?);
    if (&letter.consumer, &letter.id) != (&request.consumer, &request.id) {
        return Err(Failure::Transient("another letter stands there now: list them again".to_owned()));
    }
    let received = received(&letter, &executor.platform.world)?;
    let span = tracing::info_span!("message", message_id = received.id, trace_id = received.trace.trace_id());
    let mut retries = Retries::new(Retry::Serialization);
    let new = executor.execute(&[&received], EventPath::JetStream, &mut retries).instrument(span).await?;
    executor.platform.metrics.handled.with_label_values(&[&letter.consumer]).inc_by(new.len() as u64);
    Ok(!new.is_empty())
}

/// The message of a letter, as its consumer received it.
fn received(letter: &DeadLetter, world: &World) -> Result<Received, Failure> {
    let DeadLetter { consumer, stream, stream_sequence, subject, message_id, .. } = letter;
    let permanent = |e: EventError| Failure::Permanent(e.to_string());
    let event = Event::parse(subject, &letter.payload).map_err(permanent)?;
    let stored_at = letter.message_stored_at().filter(|_| !message_id.is_empty()).ok_or_else(|| {
        Failure::Permanent("it is no dead letter of this system: its headers do not name the message".to_owned())
    })?;
    event.check_times(stored_at).map_err(permanent)?;
    Ok(Received {
        event,
        body: letter.payload.clone(),
        inbox_key: inbox_key(message_id, stream, *stream_sequence, stored_at),
        id: message_id.clone(),
        trace: Trace::follow(letter.headers.find("traceparent"), world),
        consumer: consumer.clone(),
        occurred_at: occurred_at(&letter.headers, stored_at),
        stored_at,
        deliveries: letter.deliveries + 1,
        sequence: *stream_sequence,
    })
}
