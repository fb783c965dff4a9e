//! Dead letters: made of a failed message, stored once, read, requeued to the consumer that failed the message, removed.
//!
//! Whoever gives a message up stores its dead letter here, and only then releases the message. That is the worker
//! (`consumer/worker.rs`), or the sweeper (`sweeper.rs`) for a message whose process died on the last delivery. Nothing here
//! changes a durable consumer.

pub mod sweeper;

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use streams::bus::{MESSAGE_ID, ReplayStart, StoredMessage};
use streams::event::rfc3339;
use streams::topology::DEAD_LETTER_STREAM;
use streams::{Bus, BusError, Headers, Message, Service};

use crate::Platform;
use crate::api::{SchemaOf, Schemas};

/// What remains of a body that makes its dead letter too large, bytes.
const CUT_BODY: usize = 64 * 1024;
/// By how much the clocks of two servers of a cluster may differ.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// How long a read of the stream waits for a letter that must be there, and how many it reads at once.
const READ_WAIT: Duration = Duration::from_secs(5);
const READ_BATCH: usize = 256;
/// A worker begins a requeue no later than this after the request; after as long again the requester gives up.
pub(crate) const REQUEUE_WAIT: Duration = Duration::from_secs(20);
/// A worker that is there says so within this time.
const PING_WAIT: Duration = Duration::from_secs(5);
/// The pause before a message is redelivered whose dead letter finds the stream full.
pub(crate) const FULL_STREAM_WAIT: Duration = Duration::from_secs(60);

/// The id of a message: its Nats-Msg-Id, or, if its producer set none, `{stream}-{sequence}`.
pub(crate) fn message_id(stream: &str, message: &StoredMessage) -> String {
    match message.headers.find(MESSAGE_ID) {
        Some(id) if !id.is_empty() => id.to_owned(),
        _ => place(stream, message.sequence),
    }
}

fn place(stream: &str, sequence: u64) -> String {
    format!("{stream}-{sequence}")
}

/// What the inbox records of a message with this id, if it is not the id: to one of the form `{stream}-{sequence}` it adds the time of
/// storage, because a recreated stream counts from 1 again.
pub(crate) fn inbox_key(id: &str, stream: &str, sequence: u64, stored_at: DateTime<Utc>) -> Option<String> {
    let number = id.strip_prefix(stream).and_then(|rest| rest.strip_prefix('-'));
    // Most ids are of events, and begin otherwise.
    let is_place = number.is_some() && id == place(stream, sequence);
    is_place.then(|| format!("{id}@{}", stored_at.timestamp_micros()))
}

/// A message that a consumer gives up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FailedMessage<'a> {
    pub(crate) stream: &'a str,
    pub(crate) consumer: &'a str,
    pub(crate) message: &'a StoredMessage,
    pub(crate) deliveries: u64,
    pub(crate) reason: &'a str,
}

impl FailedMessage<'_> {
    /// The dead letter: the message's body and headers, and what happened to it. Its id consists of stream, consumer,
    /// sequence and time of storage (a recreated stream counts from 1 again), so it is the same whoever makes the letter.
    /// Headers that instruct a NATS server are left out: they were meant for the first publish.
    pub(crate) fn dead_letter(&self, now: DateTime<Utc>) -> Message {
        let Self { stream, consumer, message, deliveries, reason } = *self;
        let mut headers = Headers::default();
        for (name, value) in message.headers.iter() {
            let meant_for_server = name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"));
            if !meant_for_server {
                headers.add(name, value);
            }
        }
        // A header value is one line; the message of a parser may have more.
        let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1_000).collect();
        let stored = message.stored_at.timestamp_micros();
        headers.set(MESSAGE_ID, format!("dead_letter-{stream}-{consumer}-{}-{stored}", message.sequence));
        headers.set("Dead-Letter-Stream", stream);
        headers.set("Dead-Letter-Subject", &message.subject);
        headers.set("Dead-Letter-Sequence", message.sequence.to_string());
        headers.set("Dead-Letter-Consumer", consumer);
        headers.set("Dead-Letter-Deliveries", deliveries.to_string());
        headers.set("Dead-Letter-Reason", reason);
        headers.set("Dead-Letter-Time", rfc3339::text(&now));
        headers.set("Dead-Letter-Message-Id", message_id(stream, message));
        Message { subject: subject(consumer), headers, payload: message.payload.clone() }
    }
}

/// A message that its consumer has acknowledged, because a row was written for it, and that the service gives up when it handles the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// The name of the row, unique in the service.
    pub row: String,
    /// Of the message.
    pub subject: String,
    /// Of the message.
    pub body: String,
    /// Of the message; empty if the service made the row by itself.
    pub message_id: String,
    /// Of the message in its stream, 0 without one.
    pub sequence: u64,
    /// When the stream stored the message.
    pub stored_at: DateTime<Utc>,
    /// Of the message's trace.
    pub traceparent: String,
    /// Why it failed.
    pub reason: String,
}

impl GivenUp {
    /// Stores the dead letter, unless it is stored already. Its message has an id of its own, `{id}/{row}`: the inbox has the message's,
    /// and a requeue is to be handled.
    ///
    /// # Errors
    /// [`BusError`]; the caller tries again later.
    pub async fn store(&self, platform: &Platform, service: Service) -> Result<(), BusError> {
        let mut letter = self.letter(platform, service);
        if store_once(platform, &mut letter, self.stored_at).await? {
            let consumer = letter.headers.find("Dead-Letter-Consumer").unwrap_or_default();
            platform.metrics.dead_lettered.with_label_values(&[consumer]).inc();
            tracing::error!(consumer, reason = self.reason, row = self.row, "dead letter");
        }
        Ok(())
    }

    fn letter(&self, platform: &Platform, service: Service) -> Message {
        let consumer = format!("{}_{}", self.subject.replace('.', "_"), service.name());
        let stream = platform.topology.consumers.iter().find(|c| c.durable == consumer);
        let stream = stream.map_or("", |consumer| consumer.stream.as_str());
        let mut headers = Headers::default();
        headers.set("traceparent", &self.traceparent);
        headers.set("content-type", "application/json");
        let payload = self.body.clone().into_bytes().into();
        let (sequence, stored_at) = (self.sequence, self.stored_at);
        let message = StoredMessage { subject: self.subject.clone(), headers, payload, sequence, stored_at };
        let failed =
            FailedMessage { stream, consumer: &consumer, message: &message, deliveries: 1, reason: &self.reason };
        let mut letter = failed.dead_letter(platform.world.now());
        let (row, micros) = (&self.row, stored_at.timestamp_micros());
        letter.headers.set(MESSAGE_ID, format!("dead_letter-{stream}-{consumer}-{sequence}-{row}-{micros}"));
        letter.headers.set("Dead-Letter-Message-Id", format!("{}/{row}", self.message_id));
        letter
    }
}

fn subject(consumer: &str) -> String {
    format!("dead_letter.{consumer}")
}

/// Stores the dead letter of a message that was stored at `stored_at`, unless it is stored already. True if it is new.
///
/// Each message and consumer has at most one letter, whoever publishes it and how often. Within the duplicate window the
/// stream itself recognises the id. A second publish may come later: the process that stored the letter may have died before
/// its `term`, and perhaps no process of the service, and no sweeper, has run for an hour since. A letter is never older than
/// its message. So while the message is younger than the window, the window covers every possible earlier publish. After
/// that, the letters of the consumer since then are searched before one is published. Ages are by the server's clock. If two
/// processes search at the same moment and both find nothing, they publish within one window of each other.
///
/// # Errors
/// [`BusError::Full`] if the stream has no room; otherwise the caller should try again.
pub(crate) async fn store_once(
    platform: &Platform,
    letter: &mut Message,
    stored_at: DateTime<Utc>,
) -> Result<bool, BusError> {
    let bus = &platform.bus;
    let window = platform.topology.streams.iter().find(|s| s.name == DEAD_LETTER_STREAM).map(|s| s.duplicate_window);
    let window = chrono::Duration::from_std(window.unwrap_or_default()).unwrap_or_default();
    let skew = chrono::Duration::from_std(CLOCK_SKEW).unwrap_or_default();
    if bus.server_time(DEAD_LETTER_STREAM).await? - stored_at > window - skew
        && is_stored(bus, letter, stored_at - skew).await?
    {
        return Ok(false);
    }
    match bus.publish(letter.clone()).await {
        Err(BusError::Refused(why))
            if letter.payload.len() > CUT_BODY || letter.headers != own_headers(&letter.headers) =>
        {
            // Most likely the letter is too large. A part of the body is better than no letter.
            tracing::warn!(subject = letter.subject, why, "a dead letter is cut short");
            letter.payload.truncate(CUT_BODY);
            letter.headers = own_headers(&letter.headers);
            bus.publish(letter.clone()).await.map(|published| !published.duplicate)
        }
        published => Ok(!published?.duplicate),
    }
}

/// The headers that say what happened, without those of the message itself.
fn own_headers(headers: &Headers) -> Headers {
    let mut own = Headers::default();
    for (name, value) in headers.iter().filter(|(name, _)| is_own_header(name)) {
        own.add(name, value);
    }
    own
}

fn is_own_header(name: &str) -> bool {
    name.starts_with("Dead-Letter-") || name == MESSAGE_ID
}

/// Whether a letter with this id was stored at `since` or later.
async fn is_stored(bus: &Bus, letter: &Message, since: DateTime<Utc>) -> Result<bool, BusError> {
    // Usually there is none, and one request says so.
    match bus.last_message(DEAD_LETTER_STREAM, &letter.subject).await {
        Ok(last) if last.stored_at >= since => {}
        Ok(_) | Err(BusError::NotFound(_)) => return Ok(false),
        Err(error) => return Err(error),
    }
    let mut replay = bus.replay(DEAD_LETTER_STREAM, Some(&letter.subject), ReplayStart::Time(since)).await?;
    while !replay.is_at_end() {
        let Some(found) = replay.next(READ_WAIT).await? else {
            return Err(BusError::Unavailable(format!("{} was not read to its end", letter.subject)));
        };
        if found.headers.find(MESSAGE_ID) == letter.headers.find(MESSAGE_ID) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A dead letter as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// In DEAD_LETTER_STREAM.
    pub sequence: u64,
    /// When the letter was stored.
    pub stored_at: DateTime<Utc>,
    /// The letter's own message id.
    pub id: String,
    /// The consumer that failed the message.
    pub consumer: String,
    /// The message's stream.
    pub stream: String,
    /// The message's sequence there.
    pub stream_sequence: u64,
    /// The message's subject.
    pub subject: String,
    /// The message's id: the same for each redelivery.
    pub message_id: String,
    /// How often the message was delivered.
    pub deliveries: u64,
    /// Why it failed.
    pub reason: String,
    /// When the message was given up, by the clock of the process that did so.
    pub failed_at: String,
    /// The message's own headers, without its id and those that instruct the server.
    pub headers: Headers,
    /// The message's body.
    pub payload: bytes::Bytes,
}

impl DeadLetter {
    /// Reads a stored letter. What a foreign producer left out is empty or 0.
    pub fn parse(stored: StoredMessage) -> Self {
        let header = |name: &str| stored.headers.find(name).unwrap_or_default().to_owned();
        let number = |name: &str| header(name).parse().unwrap_or(0);
        let mut headers = Headers::default();
        for (name, value) in stored.headers.iter().filter(|(name, _)| !is_own_header(name)) {
            headers.add(name, value);
        }
        let consumer = stored.subject.strip_prefix("dead_letter.").unwrap_or_default().to_owned();
        Self {
            sequence: stored.sequence,
            stored_at: stored.stored_at,
            id: header(MESSAGE_ID),
            consumer,
            stream: header("Dead-Letter-Stream"),
            stream_sequence: number("Dead-Letter-Sequence"),
            subject: header("Dead-Letter-Subject"),
            message_id: header("Dead-Letter-Message-Id"),
            deliveries: number("Dead-Letter-Deliveries"),
            reason: header("Dead-Letter-Reason"),
            failed_at: header("Dead-Letter-Time"),
            headers,
            payload: stored.payload,
        }
    }

    /// When its stream stored the message, by the last part of the letter's id; none if the letter is not of this system.
    pub(crate) fn message_stored_at(&self) -> Option<DateTime<Utc>> {
        let micros = self.id.rsplit_once('-')?.1.parse().ok()?;
        DateTime::from_timestamp_micros(micros)
    }
}

/// Calls `letter` with every letter that is stored now, oldest first.
///
/// # Errors
/// [`BusError`] if the stream is missing or the server away.
pub async fn for_each(bus: &Bus, mut letter: impl FnMut(DeadLetter)) -> Result<(), BusError> {
    let mut replay = bus.replay(DEAD_LETTER_STREAM, None, ReplayStart::Sequence(1)).await?;
    // Letters may be added faster than they are read: it ends with the last that is there now.
    let end = bus.stream_info(DEAD_LETTER_STREAM).await?.last_sequence;
    while !replay.is_at_end() {
        let read = replay.batch(READ_BATCH, READ_WAIT).await?;
        let is_last = read.last().is_none_or(|stored| stored.sequence >= end);
        read.into_iter().map(DeadLetter::parse).for_each(&mut letter);
        if is_last {
            break;
        }
    }
    Ok(())
}

/// The letters with these sequences that are stored now, oldest first, the second one excluded. A service may read them.
///
/// # Errors
/// [`BusError`] if the stream is missing or the server away.
pub async fn between(bus: &Bus, (from, before): (u64, u64), wait: Duration) -> Result<Vec<DeadLetter>, BusError> {
    let mut letters = Vec::new();
    if from >= before {
        return Ok(letters);
    }
    let mut replay = bus.replay(DEAD_LETTER_STREAM, Some("dead_letter.*"), ReplayStart::Sequence(from)).await?;
    while !replay.is_at_end() {
        let Some(stored) = replay.next(wait).await? else {
            return Err(BusError::Unavailable(format!("{DEAD_LETTER_STREAM} was not read to its end")));
        };
        if stored.sequence >= before {
            break;
        }
        letters.push(DeadLetter::parse(stored));
    }
    Ok(letters)
}

/// A request to the workers of a consumer, on [`worker_subject`].
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum WorkerRequest {
    /// Handle the message of this letter now.
    Requeue { sequence: u64, id: String },
    /// Is the message with this inbox key processed?
    #[serde(rename = "handled")]
    IsProcessed {
        #[serde(rename = "note")]
        inbox_key: String,
    },
    /// Is anybody there at all?
    Ping,
    /// Do what the advisory with this sequence in GIVEN_UP_STREAM needs: the requester's process is of another service.
    Sweep { advisory: u64 },
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum WorkerReply {
    /// The message is processed now: everything that follows from it is committed.
    Done,
    /// It was processed before; nothing was done.
    DoneBefore,
    /// It is not processed, as far as is known.
    NotDone,
    /// It could not be handled, and nothing was changed. Workers of the version before answer so to what they do not know.
    Failed { why: String },
}

/// Where the workers of a consumer answer; one of them gets each request.
pub(crate) fn worker_subject(consumer: &str) -> String {
    format!("dead_letters.{consumer}")
}

/// The schemas of a request to the workers of a consumer and of its reply.
pub fn worker_schemas() -> (SchemaOf, SchemaOf) {
    (Schemas::written::<WorkerRequest>, Schemas::written::<WorkerReply>)
}

pub(crate) async fn ask_worker(
    bus: &Bus,
    consumer: &str,
    request: &WorkerRequest,
    wait: Duration,
) -> Result<WorkerReply, BusError> {
    let body = serde_json::to_vec(request).expect("requests have string keys");
    let reply = bus.request(&worker_subject(consumer), body.into(), wait).await?;
    serde_json::from_slice(&reply)
        .map_err(|e| BusError::Refused(format!("the reply of the worker of {consumer} cannot be read: {e}")))
}

/// How a requeue went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeued {
    /// The message is processed now, as if it had never failed, and the letter is removed.
    Done,
    /// The message had been processed before, so only the letter was removed.
    DoneBefore,
}

/// Why a letter was not requeued; it stays in the stream.
#[derive(Debug, thiserror::Error)]
pub enum RequeueError {
    /// No process of the service runs that could handle it.
    #[error(
        "nobody handles {0}: no process of its service is running (for match: none is active); start one and try again"
    )]
    NobodyRuns(String),
    /// The bus is away, so no worker was asked.
    #[error("the worker was not reached: {0}")]
    NotAsked(BusError),
    /// It failed again; nothing was changed.
    #[error("it failed again, and nothing was changed: {0}")]
    Failed(String),
    /// The outcome is unknown. The caller may requeue it again: the inbox keeps a second one from having an effect.
    #[error("the outcome is unknown: {0}; requeue it again: what is handled is not handled twice")]
    Unknown(BusError),
    /// The message is processed, and its letter is still there.
    #[error("it is handled, but its letter could not be removed: {0}; remove it, or requeue it again without effect")]
    NotRemoved(BusError),
}

/// Has the message of a letter handled by the consumer that failed it, and by no other. A worker of that consumer runs it
/// through its handler's ordinary transaction, under the message's own id: for 8 days the inbox recognises a repeat, also one
/// of this call. A message that failed was never recorded there. After the commit the letter is removed.
///
/// # Errors
/// [`RequeueError`]; the letter stays.
pub async fn requeue(bus: &Bus, letter: &DeadLetter) -> Result<Requeued, RequeueError> {
    // First whether anybody is there: "no responders" says so at once, but not while somebody watches all subjects, as operators
    // do. Then only the missing reply says it.
    match ask_worker(bus, &letter.consumer, &WorkerRequest::Ping, PING_WAIT).await {
        Ok(_) | Err(BusError::Refused(_)) => {}
        Err(_) => {
            // Or the server is away.
            bus.check().await.map_err(RequeueError::NotAsked)?;
            return Err(RequeueError::NobodyRuns(letter.consumer.clone()));
        }
    }
    let request = WorkerRequest::Requeue { sequence: letter.sequence, id: letter.id.clone() };
    // The worker may begin as late as `REQUEUE_WAIT`, and its own limits end the attempt within as long again.
    let done = match ask_worker(bus, &letter.consumer, &request, 2 * REQUEUE_WAIT).await {
        Ok(WorkerReply::Done) => Requeued::Done,
        Ok(WorkerReply::DoneBefore) => Requeued::DoneBefore,
        Ok(WorkerReply::Failed { why }) => return Err(RequeueError::Failed(why)),
        Ok(WorkerReply::NotDone) => return Err(RequeueError::Failed("the worker did not do it".to_owned())),
        Err(BusError::NoResponders(_)) => return Err(RequeueError::NobodyRuns(letter.consumer.clone())),
        Err(error) => return Err(RequeueError::Unknown(error)),
    };
    match remove(bus, letter).await {
        Ok(()) | Err(BusError::NotFound(_)) => Ok(done),
        Err(error) => Err(RequeueError::NotRemoved(error)),
    }
}

/// Removes a letter for good.
///
/// # Errors
/// [`BusError::NotFound`] if it is removed already.
pub async fn remove(bus: &Bus, letter: &DeadLetter) -> Result<(), BusError> {
    bus.delete_message(DEAD_LETTER_STREAM, letter.sequence).await
}
