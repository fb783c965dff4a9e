//! What is on the bus: streams, consumers, dead letters, and the acts of operators.

use std::time::Duration;

use axum::extract::State;
use futures_util::future::join_all;
use platform::Problem;
use platform::api::Passed;
use platform::dead_letters::{self, DeadLetter};
use platform::problem::{Json, Query};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use streams::BusError;
use streams::bus::{ConsumerInfo, StoredMessage, StreamInfo};
use streams::operators::shown::{
    ActPage, Letter, LetterDone, LetterPage, LetterScreen, OperatorsConsumer, OperatorsConsumers, OperatorsStream,
    OperatorsStreams, Presence, WholeLetter,
};
use streams::operators::{PAGE_MAX, UsersRequest};
use streams::topology::{ADMIN_STREAM, Consumer, ConsumerState, DEAD_LETTER_STREAM, Stream, StreamState, is_fast};
use tokio::time::timeout;

use super::api::Api;
use super::caller::{Key, Support, Viewer};
use super::query::{MayBeWhy, PageQuery, Parameter, RawId, cursor, id, limit_or_none, not_found, optional_head, text};

/// Sequences that one page of dead letters looks at, at most.
const WINDOW: u64 = 2_000;
/// It looks first at so many more than fit into it: some letters were removed.
const SPARE: u64 = 16;
/// How long a page waits for its turn, and for the stream.
const READ_WAIT: Duration = Duration::from_secs(5);

fn unavailable(error: &BusError) -> Problem {
    tracing::warn!(%error, "operators were not shown what is on the bus");
    Problem::unavailable()
}

/// With what is to be said of it.
fn state_of<S>(state: &Result<S, BusError>) -> (Presence, Option<String>) {
    match state {
        Ok(_) => (Presence::Ok, None),
        Err(error @ BusError::NotFound(_)) => (Presence::Missing, Some(error.to_string())),
        Err(error) => (Presence::Unknown, Some(error.to_string())),
    }
}

pub(super) async fn streams(State(api): State<Api>, _: Viewer) -> Result<Json<OperatorsStreams>, Problem> {
    let observed = api.platform.observed_recently().await.map_err(|error| unavailable(&error))?;
    let topology = api.platform.topology.with_sweeper();
    let view = |stream: &Stream| stream_view(stream, observed.state.stream(&stream.name));
    Ok(Json(OperatorsStreams {
        streams: topology.streams.iter().map(view).collect(),
        differences: observed.state.differences.clone(),
        observed_ago_s: observed.began_at.elapsed().as_secs_f64(),
    }))
}

fn stream_view(stream: &Stream, found: Result<&StreamState, BusError>) -> OperatorsStream {
    let (state, detail) = state_of(&found);
    let found = found.ok();
    let info = found.map(|found| &found.info);
    let number = |field: fn(&StreamInfo) -> u64| info.map(field);
    // A limit that was raised on the server by hand stays.
    let max_bytes = info.map_or(stream.max_bytes, |info| info.max_bytes);
    let config = stream.to_json(1);
    let text = |field: &str| config[field].as_str().unwrap_or_default().to_owned();
    OperatorsStream {
        name: stream.name.clone(),
        subjects: stream.subjects.clone(),
        retention: text("retention"),
        storage: text("storage"),
        discard: text("discard"),
        max_age_s: stream.max_age.as_secs(),
        max_bytes,
        messages: number(|i| i.messages),
        bytes: number(|i| i.bytes),
        fill: info.filter(|_| max_bytes > 0).map(|info| info.bytes as f64 / max_bytes as f64),
        first_sequence: number(|i| i.first_sequence),
        last_sequence: number(|i| i.last_sequence),
        consumers: number(|i| i.consumers),
        created_at: found.map(|found| found.created_at.into()),
        state,
        detail,
    }
}

pub(super) async fn consumers(State(api): State<Api>, _: Viewer) -> Result<Json<OperatorsConsumers>, Problem> {
    let observed = api.platform.observed_recently().await.map_err(|error| unavailable(&error))?;
    let topology = api.platform.topology.with_sweeper();
    let view = |c: &Consumer| consumer_view(c, observed.state.consumer(&c.stream, &c.durable));
    Ok(Json(OperatorsConsumers {
        consumers: topology.consumers.iter().map(view).collect(),
        observed_ago_s: observed.began_at.elapsed().as_secs_f64(),
    }))
}

fn consumer_view(consumer: &Consumer, found: Result<&ConsumerState, BusError>) -> OperatorsConsumer {
    let (state, detail) = state_of(&found);
    let found = found.ok();
    let number = |field: fn(&ConsumerInfo) -> u64| found.map(|found| field(&found.info));
    let service = streams::Service::ALL.into_iter().find(|s| consumer.durable.ends_with(&format!("_{}", s.name())));
    OperatorsConsumer {
        name: consumer.durable.clone(),
        stream: consumer.stream.clone(),
        subject: consumer.filter.clone(),
        service: service.map(streams::Service::name),
        pending: number(|i| i.pending),
        ack_pending: number(|i| i.ack_pending),
        redelivered: number(|i| i.redelivered),
        lag: number(|i| i.pending + i.ack_pending),
        ack_floor: number(|i| i.ack_floor),
        delivered: number(|i| i.delivered),
        ack_wait_s: consumer.ack_wait.as_secs(),
        max_deliver: consumer.max_deliver,
        max_ack_pending: consumer.max_ack_pending,
        fast: service.is_some_and(|service| is_fast(&consumer.filter, service)),
        created_at: found.map(|found| found.created_at.into()),
        state,
        detail,
    }
}

/// What is shown of a letter in a list.
fn letter_view(letter: &DeadLetter) -> Letter {
    Letter {
        sequence: letter.sequence,
        stored_at: letter.stored_at.into(),
        failed_at: letter.failed_at.clone(),
        consumer: letter.consumer.clone(),
        stream: letter.stream.clone(),
        stream_sequence: letter.stream_sequence,
        subject: letter.subject.clone(),
        message_id: letter.message_id.clone(),
        deliveries: letter.deliveries,
        reason: letter.reason.clone(),
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct LettersQuery {
    /// Only those of this consumer.
    consumer: Parameter,
    /// The `next_cursor` of the page before.
    #[schemars(with = "Option<u64>")]
    cursor: Parameter,
    /// How many rows, 50 if it is left out; with 0 the answer says only how many letters there are.
    #[schemars(with = "Option<u32>", range(min = 0, max = PAGE_MAX))]
    limit: Parameter,
}

/// Newest first. Letters are read whole, so that a page looks at few of them, and at more only while it is not full; with `limit` 0 it reads
/// none, and says how many there are.
pub(super) async fn dead_letters(
    State(api): State<Api>,
    _: Viewer,
    Query(query): Query<LettersQuery>,
) -> Result<Json<LetterPage>, Problem> {
    let (consumer, limit) = (text(query.consumer), limit_or_none(&query.limit)? as usize);
    let bus = &api.platform.bus;
    let info = bus.stream_info(DEAD_LETTER_STREAM).await.map_err(|error| unavailable(&error))?;
    let before = cursor::<u64>(&query.cursor)?.unwrap_or(u64::MAX).min(info.last_sequence + 1);
    let (mut letters, mut from): (Vec<DeadLetter>, u64) = (Vec::new(), before);
    if limit > 0 {
        let _permit = timeout(READ_WAIT, api.letter_pages.acquire()).await.map_err(|_| Problem::unavailable())?;
        for (first, end) in parts_of_window(info.first_sequence, before, limit as u64) {
            let read =
                dead_letters::between(bus, (first, end), READ_WAIT).await.map_err(|error| unavailable(&error))?;
            let of_consumer = |letter: &DeadLetter| consumer.as_ref().is_none_or(|name| *name == letter.consumer);
            letters.extend(read.into_iter().rev().filter(of_consumer));
            from = first;
            if letters.len() > limit {
                break;
            }
        }
    }
    let is_full = letters.len() > limit;
    letters.truncate(limit);
    let next = match letters.last().filter(|_| is_full) {
        Some(last) => Some(last.sequence),
        None => (limit > 0 && from > info.first_sequence).then_some(from),
    };
    Ok(Json(LetterPage {
        dead_letters: letters.iter().map(letter_view).collect(),
        total: consumer.is_none().then_some(info.messages),
        next_cursor: next.map(|sequence| sequence.to_string()),
    }))
}

/// The parts in which a page of `limit` letters before `before` looks for them, newest first, each larger than the one before.
fn parts_of_window(oldest: u64, before: u64, limit: u64) -> impl Iterator<Item = (u64, u64)> {
    let lowest = before.saturating_sub(WINDOW).max(oldest);
    let (mut end, mut length) = (before, limit + SPARE);
    std::iter::from_fn(move || {
        let first = end.saturating_sub(length).max(lowest);
        let part = (first < end).then_some((first, end));
        (end, length) = (first, length * 4);
        part
    })
}

pub(super) async fn dead_letter(
    State(api): State<Api>,
    _: Viewer,
    sequence: RawId,
) -> Result<Json<LetterScreen>, Problem> {
    let sequence = id(sequence, "dead letter")?;
    let letter = match api.platform.bus.get_message(DEAD_LETTER_STREAM, sequence).await {
        Ok(stored) => DeadLetter::parse(stored),
        Err(BusError::NotFound(_)) => return Err(not_found("dead letter")),
        Err(error) => return Err(unavailable(&error)),
    };
    let headers = letter.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let body = serde_json::from_slice::<Value>(&letter.payload);
    let body = body.unwrap_or_else(|_| String::from_utf8_lossy(&letter.payload).into_owned().into());
    Ok(Json(LetterScreen { dead_letter: WholeLetter { letter: letter_view(&letter), headers, body } }))
}

pub(super) async fn requeue(
    State(api): State<Api>,
    Support(operator): Support,
    sequence: RawId,
    Key(act): Key,
    body: Option<Json<MayBeWhy>>,
) -> Result<Passed<LetterDone>, Problem> {
    let sequence = id(sequence, "dead letter")?;
    let act = optional_head(act, body)?;
    api.have_users(&operator, (act.act_id, UsersRequest::Requeue { act, sequence })).await.map(Passed::new)
}

pub(super) async fn remove(
    State(api): State<Api>,
    Support(operator): Support,
    sequence: RawId,
    Key(act): Key,
    body: Option<Json<MayBeWhy>>,
) -> Result<Passed<LetterDone>, Problem> {
    let sequence = id(sequence, "dead letter")?;
    let act = optional_head(act, body)?;
    api.have_users(&operator, (act.act_id, UsersRequest::Remove { act, sequence })).await.map(Passed::new)
}

/// Newest first. Nothing is deleted of the stream but by age, so that its sequences have no gaps.
pub(super) async fn acts(
    State(api): State<Api>,
    _: Viewer,
    Query(page): Query<PageQuery<u64>>,
) -> Result<Passed<ActPage>, Problem> {
    let limit = u64::from(page.limit()?);
    let bus = &api.platform.bus;
    let info = bus.stream_info(ADMIN_STREAM).await.map_err(|error| unavailable(&error))?;
    let before = page.cursor()?.unwrap_or(u64::MAX).min(info.last_sequence + 1);
    let from = before.saturating_sub(limit).max(info.first_sequence);
    let read = join_all((from..before).rev().map(|sequence| bus.get_message(ADMIN_STREAM, sequence))).await;
    let mut acts = Vec::new();
    for stored in read {
        match stored {
            Ok(stored) => acts.push(act_view(&stored)),
            // Its age is over.
            Err(BusError::NotFound(_)) => {}
            Err(error) => return Err(unavailable(&error)),
        }
    }
    let next = (from > info.first_sequence).then(|| from.to_string());
    Ok(Passed::new(json!({"acts": acts, "next_cursor": next})))
}

fn act_view(stored: &StoredMessage) -> Value {
    let mut view: Value = serde_json::from_slice(&stored.payload).unwrap_or_default();
    if !view.is_object() {
        view = json!({});
    }
    view["sequence"] = stored.sequence.into();
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_letters_looks_at_more_only_step_by_step() {
        let parts = |oldest, before, limit| parts_of_window(oldest, before, limit).collect::<Vec<_>>();
        assert_eq!(parts(1, 1, 50), []);
        assert_eq!(parts(1, 10, 1), [(1, 10)]);
        assert_eq!(parts(1, 100, 1), [(83, 100), (15, 83), (1, 15)]);
        let whole = parts(1, 10_001, 200);
        assert_eq!(whole, [(9_785, 10_001), (8_921, 9_785), (8_001, 8_921)], "no more than the window");
    }
}
