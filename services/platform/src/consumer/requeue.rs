//! What a worker is asked about the messages of its consumers: to handle one again that was dead-lettered, and whether one
//! was handled. It answers after the commit, never before.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use streams::Event;
use streams::topology::{Consumer, DEAD_LETTER_STREAM};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::worker::{Ended, Failure, Handler, MEETINGS, Received, TRY_WAIT, Worker};
use crate::dead_letters::{Answer, Ask, Letter, REQUEUE_WAIT, ask_subject, note};
use crate::store::{Store, StoreError};
use crate::world::{Trace, World};
use crate::{Platform, retry};

/// Requeues that wait for a worker; more wait on the bus.
pub(super) const ASKED_MAX: usize = 16;

/// A requeue that somebody waits for.
#[derive(Debug)]
pub(super) struct Asked {
    consumer: String,
    sequence: u64,
    id: String,
    reply: String,
    /// Nobody listens any more after that.
    until: Instant,
}

/// Hears what is asked of one consumer, and hands requeues to its worker.
pub(super) async fn listen<H: Handler>(
    platform: Platform,
    store: Store<H::Tables>,
    consumer: Consumer,
    to: mpsc::Sender<Asked>,
) {
    let durable = consumer.durable;
    let mut delays = retry::dependency();
    loop {
        match platform.bus.subscribe(&ask_subject(&durable), Some(&durable)).await {
            Ok(mut requests) => {
                delays.reset();
                while let Some(request) = requests.next().await {
                    let Some(reply) = request.reply else { continue };
                    let said = match serde_json::from_slice(&request.payload) {
                        Ok(Ask::Requeue { sequence, id }) => {
                            let until = Instant::now() + REQUEUE_WAIT;
                            let asked = Asked { consumer: durable.clone(), sequence, id, reply, until };
                            if to.send(asked).await.is_err() {
                                return;
                            }
                            continue;
                        }
                        Ok(Ask::Handled { note }) => handled::<H>(&store, &durable, &note).await,
                        Err(error) => Answer::Failed { why: format!("the request cannot be read: {error}") },
                    };
                    answer(&platform, &reply, &said).await;
                }
            }
            Err(error) => tracing::warn!(%error, consumer = durable, "nobody can be answered about dead letters"),
        }
        sleep(delays.next_delay()).await;
    }
}

async fn handled<H: Handler>(store: &Store<H::Tables>, consumer: &str, note: &str) -> Answer {
    if !H::INBOX {
        return Answer::NotDone;
    }
    let noted = async { store.begin().await?.is_processed(consumer, note).await };
    match noted.await {
        Ok(true) => Answer::DoneBefore,
        Ok(false) => Answer::NotDone,
        Err(error) => Answer::Failed { why: error.to_string() },
    }
}

async fn answer(platform: &Platform, reply: &str, answer: &Answer) {
    let body = serde_json::to_vec(answer).expect("answers have string keys");
    if let Err(error) = platform.bus.publish_core(reply, body.into()).await {
        tracing::warn!(%error, "an answer about a dead letter was not sent; it is asked again");
    }
}

/// The message of a letter, as its consumer was given it.
fn received(letter: &Letter, world: &World) -> Result<Received, Failure> {
    let Letter { consumer, stream, stream_sequence, subject, message_id, .. } = letter;
    let event = Event::parse(subject, &letter.payload).map_err(|e| Failure::Permanent(e.to_string()))?;
    let stored_at = letter.message_stored_at().filter(|_| !message_id.is_empty()).ok_or_else(|| {
        Failure::Permanent("it is no dead letter of this system: its headers do not say of what".to_owned())
    })?;
    Ok(Received {
        event,
        note: note(message_id, stream, *stream_sequence, stored_at),
        id: message_id.clone(),
        trace: Trace::follow(letter.headers.find("traceparent"), world),
        consumer: consumer.clone(),
        stored_at,
        deliveries: letter.deliveries + 1,
    })
}

impl<H: Handler> Worker<H> {
    /// Handles the message of a letter and says how it went. Returns why the worker must end, if it must.
    pub(super) async fn requeue(&mut self, asked: Asked) -> Option<Ended> {
        if Instant::now() >= asked.until {
            return None;
        }
        let (said, ended) = match self.handle_again(&asked).await {
            Ok(true) => (Answer::Done, None),
            Ok(false) => (Answer::DoneBefore, None),
            Err(failure) => {
                let ended = matches!(failure, Failure::Fenced).then_some(Ended::Fenced);
                (Answer::Failed { why: failure.to_string() }, ended)
            }
        };
        tracing::info!(consumer = asked.consumer, letter = asked.sequence, answer = ?said, "dead letter requeued");
        answer(&self.platform, &asked.reply, &said).await;
        ended
    }

    /// One transaction, as for any delivery; false if the message was handled before.
    async fn handle_again(&mut self, asked: &Asked) -> Result<bool, Failure> {
        let stored = self.platform.bus.get_message(DEAD_LETTER_STREAM, asked.sequence).await;
        let letter = Letter::read(stored.map_err(|e| Failure::Transient(e.to_string()))?);
        if (&letter.consumer, &letter.id) != (&asked.consumer, &asked.id) {
            return Err(Failure::Transient("another letter stands there now: list them again".to_owned()));
        }
        let received = received(&letter, &self.platform.world)?;
        let mut meetings = 0;
        loop {
            let all = [&received];
            let attempt = AssertUnwindSafe(self.attempt(&all)).catch_unwind();
            let failure = match timeout(TRY_WAIT, attempt).await {
                Ok(Ok(Ok(new))) => {
                    self.handler.committed(&new).await;
                    self.platform.metrics.handled.with_label_values(&[&letter.consumer]).inc_by(new.len() as u64);
                    return Ok(!new.is_empty());
                }
                Ok(Ok(Err(failure))) => failure,
                Ok(Err(_)) => Failure::Permanent("the handler panicked".to_owned()),
                Err(_) => StoreError::Unavailable(format!("not done in {TRY_WAIT:?}")).into(),
            };
            self.handler.rolled_back();
            match failure {
                Failure::Store(StoreError::Serialization(_)) if meetings < MEETINGS => {
                    meetings += 1;
                    sleep(Duration::from_millis(u64::from(5 + self.platform.world.below(20)))).await;
                }
                failure => return Err(failure),
            }
        }
    }
}
