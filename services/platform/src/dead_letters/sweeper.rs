//! The sweeper: brings to the dead letters what no worker could. A process that dies or hangs on the last delivery of a message
//! leaves it stored with every lag at 0, for ever; but the server says so, in an advisory that a stream keeps
//! (`Topology::with_sweeper`). Every process pulls these and shares the work.
//!
//! For each: the letter, under the id that a worker would give it; its acknowledgement; the message released for that one
//! consumer; the advisory acknowledged. Dying anywhere in between repeats it, without a second letter.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use streams::bus::StoredMessage;
use streams::topology::{Consumer, GIVEN_UP_STREAM, SWEEPER, subject_matches};
use streams::{BusError, Delivery};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::consumer::{FULL_WAIT, part, pull, put_back};
use crate::dead_letters::{self, Answer, Ask, CLOCKS_APART, Failed, ask};
use crate::{Platform, retry};

/// Advisories taken at once: few, for each takes some requests, and other processes share the work.
const BATCH_MAX: usize = 8;
/// The wait for a worker's word.
const ASK_WAIT: Duration = Duration::from_secs(5);

/// What the server says when it gives a message up.
#[derive(Debug, Deserialize)]
struct GivenUp {
    stream: String,
    consumer: String,
    stream_seq: u64,
    deliveries: u64,
    timestamp: DateTime<Utc>,
}

/// What comes of an advisory.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nothing is left to do.
    Done,
    /// Look again after that.
    Later(Duration),
}

/// Sweeps until shutdown.
pub async fn run(platform: Platform) {
    let stop = platform.shutdown.clone();
    let whole = platform.topology.with_sweeper();
    let consumer = whole.consumers.iter().find(|c| c.durable == SWEEPER).expect("it is what was added").clone();
    let (to, mut from) = mpsc::channel(1);
    let mut pulling = JoinSet::new();
    pulling.spawn(pull(platform.clone(), consumer.clone(), BATCH_MAX, to, stop.clone()));
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
                settle(&platform, &delivery).await;
            }
        }
    }
    from.close();
    while let Some(deliveries) = from.recv().await {
        put_back(&deliveries).await;
    }
    while pulling.join_next().await.is_some() {}
    platform.health.remove(&part(&consumer));
}

async fn settle(platform: &Platform, delivery: &Delivery) {
    // Those before it may have taken a while.
    let _ = delivery.in_progress().await;
    let swept = match serde_json::from_slice::<GivenUp>(&delivery.message.payload) {
        Ok(given_up) => sweep(platform, &given_up, delivery.message.stored_at).await,
        Err(error) => {
            tracing::error!(%error, subject = delivery.message.subject, "an advisory cannot be read; passed over");
            Ok(Next::Done)
        }
    };
    let answered = match swept {
        Ok(Next::Done) => delivery.ack_confirmed().await,
        Ok(Next::Later(wait)) => delivery.retry(wait).await,
        Err(BusError::Full(why)) => {
            tracing::error!(why, "no room for a dead letter: empty DEAD_LETTER_STREAM");
            delivery.retry(FULL_WAIT).await
        }
        Err(error) => {
            tracing::warn!(%error, subject = delivery.message.subject, "not swept yet");
            delivery.retry(retry::redelivery(delivery.deliveries)).await
        }
    };
    if let Err(error) = answered {
        tracing::warn!(%error, "an advisory was not answered; its repeat finds everything done");
    }
}

async fn sweep(platform: &Platform, given_up: &GivenUp, told_at: DateTime<Utc>) -> Result<Next, BusError> {
    let GivenUp { stream, consumer, stream_seq: sequence, deliveries, .. } = given_up;
    let bus = &platform.bus;
    let is_it = |c: &&Consumer| c.stream == *stream && c.durable == *consumer;
    let Some(config) = platform.topology.consumers.iter().find(is_it) else {
        tracing::info!(stream, consumer, sequence, "another's consumer gave a message up");
        return Ok(Next::Done);
    };
    let message = match bus.get_message(stream, *sequence).await {
        Ok(message) => message,
        // Acknowledged after all, dead-lettered and terminated, or older than its stream keeps.
        Err(BusError::NotFound(_)) => return Ok(Next::Done),
        Err(error) => return Err(error),
    };
    let delivered = bus.consumer_info(stream, consumer).await?.delivered;
    if let Some(why) = is_another(given_up, &message, config, delivered) {
        tracing::info!(stream, consumer, sequence, why, "an advisory that is not of this message any more");
        return Ok(Next::Done);
    }
    // Given up by the server is not failed yet: somebody slow may hold the last delivery, finish, and acknowledge too late.
    // Nothing on the server tells (the message may stay for other consumers, and the consumer's state is but counts), but the
    // inbox of the service does. If nobody of the service runs, nobody holds it.
    let id = dead_letters::message_id(stream, &message);
    let note = dead_letters::note(&id, stream, *sequence, message.stored_at);
    match ask(bus, consumer, &Ask::Handled { note }, ASK_WAIT).await {
        Ok(Answer::DoneBefore) => {
            bus.release(stream, consumer, *sequence).await?;
            return Ok(Next::Done);
        }
        Err(BusError::NoResponders(_)) => {}
        Ok(_) | Err(_) => {
            // It had one ack wait already; after another one it is not slow but gone. Should it be done later still, the
            // letter says too much, and requeueing it does nothing: the inbox knows.
            let waited = (bus.server_time(GIVEN_UP_STREAM).await? - told_at).to_std().unwrap_or_default();
            if waited < config.ack_wait {
                return Ok(Next::Later(config.ack_wait - waited));
            }
        }
    }
    let reason = format!("delivered {deliveries} times and never answered: a process died or hung each time");
    let failed = Failed { stream, consumer, message: &message, deliveries: *deliveries, reason: &reason };
    let mut letter = failed.letter(platform.world.now());
    if dead_letters::store(platform, &mut letter, message.stored_at).await? {
        platform.metrics.dead_lettered.with_label_values(&[consumer]).inc();
        tracing::error!(consumer, reason, sequence, deliveries, "dead letter");
    }
    // Only now that it is stored elsewhere.
    bus.release(stream, consumer, *sequence).await?;
    Ok(Next::Done)
}

/// Why the message is not the one that was given up, or will come again by itself.
fn is_another(given_up: &GivenUp, message: &StoredMessage, config: &Consumer, delivered: u64) -> Option<&'static str> {
    let apart = chrono::Duration::from_std(CLOCKS_APART).unwrap_or_default();
    if message.stored_at > given_up.timestamp + apart {
        Some("the stream was made anew since, and counts again")
    } else if !subject_matches(&config.filter, &message.subject) {
        Some("the consumer does not read its subject")
    } else if delivered < given_up.stream_seq {
        Some("the consumer was made anew since, and will be given it again")
    } else {
        None
    }
}
