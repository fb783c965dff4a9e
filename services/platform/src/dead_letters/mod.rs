//! Dead letters: how one is made of a message, stored once, read again, given back to the consumer that failed it, removed.
//!
//! Who gives a message up publishes its letter here and only then releases the message: the worker (`consumer.rs`), or the
//! sweeper for one that died with its tries (`consumer/sweeper.rs`). Nothing here touches a durable consumer.

pub mod sweeper;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use streams::bus::{MESSAGE_ID, ReplayStart, StoredMessage};
use streams::event::rfc3339;
use streams::topology::DEAD_LETTER_STREAM;
use streams::{Bus, BusError, Headers, Message};

use crate::Platform;

/// What is kept of a body that makes its dead letter too large.
const LETTER_CUT: usize = 64 * 1024;
/// How far the clocks of two servers of a cluster may be apart.
pub(crate) const CLOCKS_APART: Duration = Duration::from_secs(60);
/// The wait for one letter of a read that must be there, and the most that is read at once.
const READ_WAIT: Duration = Duration::from_secs(5);
const READ_BATCH: usize = 256;
/// The wait for the answer to a requeue; whoever does it starts it no later than that.
pub(crate) const REQUEUE_WAIT: Duration = Duration::from_secs(20);

/// The id by which a message is told from others: its header, or for a foreign producer its place.
pub(crate) fn message_id(stream: &str, message: &StoredMessage) -> String {
    match message.headers.find(MESSAGE_ID) {
        Some(id) if !id.is_empty() => id.to_owned(),
        _ => place(stream, message.sequence),
    }
}

fn place(stream: &str, sequence: u64) -> String {
    format!("{stream}-{sequence}")
}

/// What the inbox notes of a message with this id: the id, or, for a message without one, its place and the time of its
/// storage, because the sequences of a stream made anew begin again.
pub(crate) fn note(id: &str, stream: &str, sequence: u64, stored_at: DateTime<Utc>) -> String {
    if id == place(stream, sequence) { format!("{id}@{}", stored_at.timestamp_micros()) } else { id.to_owned() }
}

/// A message that a consumer gives up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failed<'a> {
    pub(crate) stream: &'a str,
    pub(crate) consumer: &'a str,
    pub(crate) message: &'a StoredMessage,
    pub(crate) deliveries: u64,
    pub(crate) reason: &'a str,
}

impl Failed<'_> {
    /// The dead letter: the message's body and headers, and what happened to it. Its id is made of stream, consumer,
    /// sequence and the time of storage (a stream made anew counts from 1 again), so that it is the same whoever makes it.
    /// Headers that tell a NATS server what to do are left out: they were meant for the first publish.
    pub(crate) fn letter(&self, now: DateTime<Utc>) -> Message {
        let Self { stream, consumer, message, deliveries, reason } = *self;
        let mut headers = Headers::default();
        for (name, value) in message.headers.iter() {
            let meant_for_server = name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"));
            if !meant_for_server {
                headers.add(name, value);
            }
        }
        // Header values are one line; a parser's message may have more.
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

fn subject(consumer: &str) -> String {
    format!("dead_letter.{consumer}")
}

/// Stores `letter`, which is that of a message stored at `stored_at`, unless it is stored already; true if it is new.
///
/// At most one for each failed message and consumer, whoever publishes it how often. Within the duplicate window the stream itself
/// tells a repeat by its id. A repeat may well come later, for nothing comes again while no process of the service runs: the one
/// that stored the letter and died before its `term` may be away for an hour, and the sweeper with it. A letter is never
/// older than its message, so as long as the message is younger than the window, the window has it all; after that the
/// letters of its consumer since then are looked through before one is published. Ages are by the server's clock. Two that
/// look at the same moment and both find none publish within the window of each other.
///
/// # Errors
/// [`BusError::Full`] if the stream has no room; otherwise [`BusError`] that says to try again.
pub(crate) async fn store(
    platform: &Platform,
    letter: &mut Message,
    stored_at: DateTime<Utc>,
) -> Result<bool, BusError> {
    let bus = &platform.bus;
    let window = platform.topology.streams.iter().find(|s| s.name == DEAD_LETTER_STREAM).map(|s| s.duplicate_window);
    let window = chrono::Duration::from_std(window.unwrap_or_default()).unwrap_or_default();
    let apart = chrono::Duration::from_std(CLOCKS_APART).unwrap_or_default();
    if bus.server_time(DEAD_LETTER_STREAM).await? - stored_at > window - apart
        && is_stored(bus, letter, stored_at - apart).await?
    {
        return Ok(false);
    }
    match bus.publish(letter.clone()).await {
        Err(BusError::Refused(why)) if letter.payload.len() > LETTER_CUT || letter.headers != ours(&letter.headers) => {
            // Too large, most likely: what happened is worth more than all of the body.
            tracing::warn!(subject = letter.subject, why, "a dead letter is cut short");
            letter.payload.truncate(LETTER_CUT);
            letter.headers = ours(&letter.headers);
            bus.publish(letter.clone()).await.map(|published| !published.duplicate)
        }
        published => Ok(!published?.duplicate),
    }
}

/// The headers that say what happened, without those of the message itself.
fn ours(headers: &Headers) -> Headers {
    let mut kept = Headers::default();
    for (name, value) in headers.iter().filter(|(name, _)| is_ours(name)) {
        kept.add(name, value);
    }
    kept
}

fn is_ours(name: &str) -> bool {
    name.starts_with("Dead-Letter-") || name == MESSAGE_ID
}

/// Whether a letter with this id was stored at `since` or later.
async fn is_stored(bus: &Bus, letter: &Message, since: DateTime<Utc>) -> Result<bool, BusError> {
    // Most often there is none, and that is told by one request.
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
pub struct Letter {
    /// Its place in [`DEAD_LETTER_STREAM`].
    pub sequence: u64,
    /// When it was stored.
    pub stored_at: DateTime<Utc>,
    /// Its own id there.
    pub id: String,
    /// The consumer that failed the message.
    pub consumer: String,
    /// The message's stream.
    pub stream: String,
    /// The message's sequence there.
    pub stream_sequence: u64,
    /// The message's subject.
    pub subject: String,
    /// The message's id: the same for each repeat.
    pub message_id: String,
    /// How often it was delivered.
    pub deliveries: u64,
    /// Why it failed.
    pub reason: String,
    /// When it was given up, by the clock of the process that did so.
    pub failed_at: String,
    /// The message's own headers, without its id and what was meant for the server.
    pub headers: Headers,
    /// The message's body.
    pub payload: bytes::Bytes,
}

impl Letter {
    /// What a stored dead letter says. What a foreign writer left out is empty or 0.
    pub fn read(stored: StoredMessage) -> Self {
        let header = |name: &str| stored.headers.find(name).unwrap_or_default().to_owned();
        let number = |name: &str| header(name).parse().unwrap_or(0);
        let mut headers = Headers::default();
        for (name, value) in stored.headers.iter().filter(|(name, _)| !is_ours(name)) {
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

    /// When its stream stored the message: the last part of the letter's id.
    pub(crate) fn message_stored_at(&self) -> Option<DateTime<Utc>> {
        let micros = self.id.rsplit_once('-')?.1.parse().ok()?;
        DateTime::from_timestamp_micros(micros)
    }
}

/// Reads every letter that is stored now, oldest first.
///
/// # Errors
/// [`BusError`] if the stream is missing or the server away.
pub async fn for_each(bus: &Bus, mut letter: impl FnMut(Letter)) -> Result<(), BusError> {
    let mut replay = bus.replay(DEAD_LETTER_STREAM, None, ReplayStart::Sequence(1)).await?;
    // Those that are there now: somebody may be adding to them without an end.
    let end = bus.stream_info(DEAD_LETTER_STREAM).await?.last_sequence;
    while !replay.is_at_end() {
        let read = replay.batch(READ_BATCH, READ_WAIT).await?;
        let is_last = read.last().is_none_or(|stored| stored.sequence >= end);
        read.into_iter().map(Letter::read).for_each(&mut letter);
        if is_last {
            break;
        }
    }
    Ok(())
}

/// What a worker is asked about the messages of its consumer, on [`ask_subject`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Handle the message of this letter now.
    Requeue { sequence: u64, id: String },
    /// Was the message with this note handled?
    Handled { note: String },
}

/// What it says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// It is handled now: everything that follows from it is committed.
    Done,
    /// It was handled before; nothing was done.
    DoneBefore,
    /// It was not, as far as is known.
    NotDone,
    /// It could not be handled, and nothing was changed.
    Failed { why: String },
}

/// Where the workers of a consumer are asked; one of them gets each request.
pub(crate) fn ask_subject(consumer: &str) -> String {
    format!("dead_letters.{consumer}")
}

pub(crate) async fn ask(bus: &Bus, consumer: &str, ask: &Ask, wait: Duration) -> Result<Answer, BusError> {
    let body = serde_json::to_vec(ask).expect("asks have string keys");
    let answer = bus.request(&ask_subject(consumer), body.into(), wait).await?;
    serde_json::from_slice(&answer)
        .map_err(|e| BusError::Refused(format!("the worker of {consumer} gave an answer that is none: {e}")))
}

/// How a requeue went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeued {
    /// The message is handled now, as if it had never failed; the letter is gone.
    Done,
    /// The message had been handled before, so only the letter was removed.
    DoneBefore,
}

/// Why a letter was not requeued; it stays.
#[derive(Debug, thiserror::Error)]
pub enum RequeueError {
    /// No process of the service runs that could handle it.
    #[error(
        "nobody handles {0}: no process of its service is running (for match: none is active); start one and try again"
    )]
    NobodyRuns(String),
    /// It failed again; nothing was changed.
    #[error("it failed again, and nothing was changed: {0}")]
    Failed(String),
    /// It is not known whether it was handled. Requeue it again: what was handled has no second effect.
    #[error("no word of how it went: {0}; requeue it again: what was handled is not handled twice")]
    Unknown(BusError),
    /// It was handled, and the letter is still there.
    #[error("it is handled, but its letter could not be removed: {0}; remove it, or requeue it again without effect")]
    NotRemoved(BusError),
}

/// Gives the message of a letter to the consumer that failed it, and to nobody else: a worker of that consumer runs it through
/// its handler's ordinary transaction, under the id that it always had, so that its repeats (also of this call) are told by
/// the inbox for as long as that remembers, 8 days. A message that failed was never noted there. Once it is handled, the letter
/// is removed.
///
/// # Errors
/// [`RequeueError`]; the letter stays.
pub async fn requeue(bus: &Bus, letter: &Letter) -> Result<Requeued, RequeueError> {
    let wanted = Ask::Requeue { sequence: letter.sequence, id: letter.id.clone() };
    // As long again as the worker may take to begin, for what it then does is bounded as well.
    let done = match ask(bus, &letter.consumer, &wanted, 2 * REQUEUE_WAIT).await {
        Ok(Answer::Done) => Requeued::Done,
        Ok(Answer::DoneBefore) => Requeued::DoneBefore,
        Ok(Answer::Failed { why }) => return Err(RequeueError::Failed(why)),
        Ok(Answer::NotDone) => return Err(RequeueError::Failed("the worker did not do it".to_owned())),
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
/// [`BusError::NotFound`] if it is gone already.
pub async fn remove(bus: &Bus, letter: &Letter) -> Result<(), BusError> {
    bus.delete_message(DEAD_LETTER_STREAM, letter.sequence).await
}
