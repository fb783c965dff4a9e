//! The sweeper: dead-letters the messages that no worker could.
//!
//! A process that dies or hangs on the last delivery of a message leaves the message in the stream for ever, and no lag shows
//! it. But the server publishes a max-deliveries advisory, which a stream stores (`Topology::with_sweeper`). The sweepers of
//! all processes pull these advisories and share the work.
//!
//! A process releases messages for consumers of its own services only, so that permissions on the server can keep one service
//! from acknowledging for another. All processes share one consumer of advisories; one that pulls the advisory of another service
//! hands it over to a worker of that service (`sweep_for`). If none runs, it stores the letter itself, and the advisory waits.
//!
//! For each advisory the sweeper stores the dead letter, under the id that a worker would give it, then releases the message
//! for that one consumer, then acknowledges the advisory. If it dies in between, the advisory is redelivered, and no second
//! letter is made.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use streams::bus::StoredMessage;
use streams::topology::{Consumer, GIVEN_UP_STREAM, SWEEPER, subject_matches};
use streams::{BusError, Delivery, Service};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{CLOCK_SKEW, FULL_STREAM_WAIT, FailedMessage, WorkerReply, WorkerRequest, ask_worker};
use crate::consumer::{Pulling, health_part, put_back};
use crate::{Platform, retry};

/// Advisories pulled at once: few, because each takes several requests, and other processes share the work.
const BATCH_MAX: usize = 8;
/// How long a worker may take to reply.
const REPLY_WAIT: Duration = Duration::from_secs(5);
/// How long a worker may take to sweep for another process.
const SWEEP_WAIT: Duration = Duration::from_secs(15);
/// The pause before an advisory is redelivered of whose service no process runs.
const OWNER_WAIT: Duration = Duration::from_secs(10);

/// The server's max-deliveries advisory.
#[derive(Debug, Deserialize)]
struct Advisory {
    stream: String,
    consumer: String,
    stream_seq: u64,
    deliveries: u64,
    timestamp: DateTime<Utc>,
}

/// What is left to do about an advisory.
#[derive(Debug, PartialEq, Eq)]
enum Swept {
    Done,
    /// It is to be redelivered after this delay.
    Later(Duration),
}

/// Whose consumer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// A service of this process.
    Here,
    /// Another service.
    Elsewhere,
}

/// Sweeps until shutdown; `services` are those of this process.
pub async fn run(platform: Platform, services: Vec<Service>) {
    let stop = platform.shutdown.clone();
    let topology = platform.topology.with_sweeper();
    let consumer = topology.consumers.into_iter().find(|c| c.durable == SWEEPER).expect("with_sweeper adds it");
    let part = health_part(&consumer);
    let (to, mut from) = mpsc::channel(1);
    let mut pulling = JoinSet::new();
    pulling.spawn(Pulling { platform: platform.clone(), consumer, batch_max: BATCH_MAX }.run(to, stop.clone()));
    loop {
        let deliveries = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            next = from.recv() => match next {
                Some(deliveries) => deliveries,
                None => break,
            },
        };
        for delivery in deliveries {
            if stop.is_cancelled() {
                put_back(&[delivery]).await;
            } else {
                settle(&platform, &services, &delivery).await;
            }
        }
    }
    from.close();
    while let Some(deliveries) = from.recv().await {
        put_back(&deliveries).await;
    }
    while pulling.join_next().await.is_some() {}
    platform.health.remove(&part);
}

async fn settle(platform: &Platform, services: &[Service], delivery: &Delivery) {
    // The advisories before it in the batch may have used up most of its ack wait.
    let _ = delivery.in_progress().await;
    let swept = match serde_json::from_slice::<Advisory>(&delivery.message.payload) {
        Ok(advisory) => {
            let is_own = |&service: &Service| {
                platform.topology.consumers_of(service).any(|consumer| consumer.durable == advisory.consumer)
            };
            if services.iter().any(is_own) {
                sweep(platform, &advisory, delivery.message.stored_at, Owner::Here).await
            } else {
                hand_over(platform, &advisory, &delivery.message).await
            }
        }
        Err(error) => {
            tracing::error!(%error, subject = delivery.message.subject, "an advisory cannot be read; ignored");
            Ok(Swept::Done)
        }
    };
    let answered = match swept {
        Ok(Swept::Done) => delivery.ack_confirmed().await,
        Ok(Swept::Later(delay)) => delivery.retry(delay).await,
        Err(BusError::Full(why)) => {
            tracing::error!(why, "no room for a dead letter: empty DEAD_LETTER_STREAM");
            delivery.retry(FULL_STREAM_WAIT).await
        }
        Err(error) => {
            tracing::warn!(%error, subject = delivery.message.subject, "an advisory could not be swept yet");
            // At least as many as attempts failed: a delivery that only waited counts too, and the delay is a little longer.
            delivery.retry(retry::redelivery(delivery.deliveries)).await
        }
    };
    if let Err(error) = answered {
        tracing::warn!(%error, "an advisory was not acknowledged; its redelivery finds everything done");
    }
}

/// Has a worker of the advisory's consumer sweep it.
async fn hand_over(platform: &Platform, advisory: &Advisory, stored: &StoredMessage) -> Result<Swept, BusError> {
    if !platform.topology.consumers.iter().any(|consumer| consumer.durable == advisory.consumer) {
        return sweep(platform, advisory, stored.stored_at, Owner::Elsewhere).await;
    }
    let request = WorkerRequest::Sweep { advisory: stored.sequence };
    match ask_worker(&platform.bus, &advisory.consumer, &request, SWEEP_WAIT).await {
        Ok(WorkerReply::Done | WorkerReply::DoneBefore) => Ok(Swept::Done),
        Ok(WorkerReply::NotDone) => Ok(Swept::Later(OWNER_WAIT)),
        Ok(WorkerReply::Failed { why }) => Err(BusError::Unavailable(format!("{}: {why}", advisory.consumer))),
        // Nobody is there, or somebody watches all subjects and nobody is there.
        Err(_) => sweep(platform, advisory, stored.stored_at, Owner::Elsewhere).await,
    }
}

/// Sweeps the advisory with this sequence for a process of another service. It is read from its stream, which only the server
/// writes: a requester cannot have another message released.
///
/// # Errors
/// [`BusError`]; the requester's advisory is redelivered.
pub(crate) async fn sweep_for(platform: &Platform, durable: &str, sequence: u64) -> Result<WorkerReply, BusError> {
    let stored = match platform.bus.get_message(GIVEN_UP_STREAM, sequence).await {
        Ok(stored) => stored,
        // Acknowledged meanwhile: another process has done it.
        Err(BusError::NotFound(_)) => return Ok(WorkerReply::DoneBefore),
        Err(error) => return Err(error),
    };
    let advisory: Advisory = serde_json::from_slice(&stored.payload)
        .map_err(|error| BusError::Refused(format!("advisory {sequence} cannot be read: {error}")))?;
    if advisory.consumer != durable {
        return Err(BusError::Refused(format!("advisory {sequence} is about {}, not {durable}", advisory.consumer)));
    }
    Ok(match sweep(platform, &advisory, stored.stored_at, Owner::Here).await? {
        Swept::Done => WorkerReply::Done,
        Swept::Later(_) => WorkerReply::NotDone,
    })
}

async fn sweep(
    platform: &Platform,
    advisory: &Advisory,
    advised_at: DateTime<Utc>,
    owner: Owner,
) -> Result<Swept, BusError> {
    let Advisory { stream, consumer, stream_seq: sequence, deliveries, .. } = advisory;
    let bus = &platform.bus;
    let is_its = |c: &&Consumer| c.stream == *stream && c.durable == *consumer;
    let Some(config) = platform.topology.consumers.iter().find(is_its) else {
        tracing::info!(stream, consumer, sequence, "the advisory is about a consumer of another system; ignored");
        return Ok(Swept::Done);
    };
    let message = match bus.get_message(stream, *sequence).await {
        Ok(message) => message,
        // Acknowledged after all, or dead-lettered and terminated, or deleted by its stream's max age.
        Err(BusError::NotFound(_)) => return Ok(Swept::Done),
        Err(error) => return Err(error),
    };
    let delivered = bus.consumer_info(stream, consumer).await?.delivered;
    if let Some(why) = is_outdated(advisory, &message, config, delivered) {
        tracing::info!(stream, consumer, sequence, why, "the advisory is about an earlier message; ignored");
        return Ok(Swept::Done);
    }
    // The server gave the message up, but a slow worker may still hold the last delivery, commit, and acknowledge too late.
    // The server cannot tell: other consumers may keep the message in the stream, and a consumer's state is only counts. The
    // inbox of the service can. If no process of the service runs, no worker holds the message.
    let id = super::message_id(stream, &message);
    let inbox_key = super::inbox_key(&id, stream, *sequence, message.stored_at).unwrap_or(id);
    match ask_worker(bus, consumer, &WorkerRequest::IsProcessed { inbox_key }, REPLY_WAIT).await {
        Ok(WorkerReply::DoneBefore) => {
            return release(platform, advisory, owner).await;
        }
        Err(BusError::NoResponders(_)) => {}
        Ok(_) | Err(_) => {
            // The last delivery had one ack wait. After a second one its worker is taken for dead. Should it commit even
            // later, there is a letter too many, and a requeue of it does nothing: the inbox knows the message.
            let waited = (bus.server_time(GIVEN_UP_STREAM).await? - advised_at).to_std().unwrap_or_default();
            if waited < config.ack_wait {
                return Ok(Swept::Later(config.ack_wait - waited));
            }
        }
    }
    let reason = format!("delivered {deliveries} times and never answered: a process died or hung each time");
    let failed = FailedMessage { stream, consumer, message: &message, deliveries: *deliveries, reason: &reason };
    let mut letter = failed.dead_letter(platform.world.now());
    if super::store_once(platform, &mut letter, message.stored_at).await? {
        platform.metrics.dead_lettered.with_label_values(&[consumer]).inc();
        tracing::error!(consumer, reason, sequence, deliveries, "dead letter");
    }
    release(platform, advisory, owner).await
}

/// The last step, which only a process of the consumer's service takes.
async fn release(platform: &Platform, advisory: &Advisory, owner: Owner) -> Result<Swept, BusError> {
    let Advisory { stream, consumer, stream_seq, .. } = advisory;
    match owner {
        Owner::Here => platform.bus.release(stream, consumer, *stream_seq).await.map(|()| Swept::Done),
        Owner::Elsewhere => {
            tracing::info!(stream, consumer, sequence = stream_seq, "the message is released once its service runs");
            Ok(Swept::Later(OWNER_WAIT))
        }
    }
}

/// Why the stored message is not the one of the advisory, or will be delivered again without a sweeper.
fn is_outdated(
    advisory: &Advisory,
    message: &StoredMessage,
    config: &Consumer,
    delivered: u64,
) -> Option<&'static str> {
    let skew = chrono::Duration::from_std(CLOCK_SKEW).unwrap_or_default();
    if message.stored_at > advisory.timestamp + skew {
        Some("the stream was recreated since, and counts its sequences from 1 again")
    } else if !subject_matches(&config.filter, &message.subject) {
        Some("the consumer does not read its subject")
    } else if delivered < advisory.stream_seq {
        Some("the consumer was recreated since, and will be delivered the message again")
    } else {
        None
    }
}
