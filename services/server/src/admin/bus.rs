//! What is on the bus: streams, consumers, dead letters, and the acts of operators.

use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use futures_util::future::join_all;
use platform::Problem;
use platform::dead_letters::{self, DeadLetter};
use platform::problem::Json;
use serde_json::{Map, Value, json};
use streams::BusError;
use streams::bus::{ConsumerInfo, StoredMessage, StreamInfo};
use streams::event::rfc3339;
use streams::operators::UsersRequest;
use streams::topology::{ADMIN_STREAM, Consumer, ConsumerState, DEAD_LETTER_STREAM, Stream, StreamState, is_fast};
use tokio::time::timeout;

use super::api::Api;
use super::caller::{Support, Viewer};
use super::query::{Fields, MayBeWhy, RawId, RawQuery, id, not_found, optional_head};

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

/// `ok`, `missing` or `unknown`, with what is to be said of it.
fn state_of<S>(state: &Result<S, BusError>) -> (&'static str, Option<String>) {
    match state {
        Ok(_) => ("ok", None),
        Err(error @ BusError::NotFound(_)) => ("missing", Some(error.to_string())),
        Err(error) => ("unknown", Some(error.to_string())),
    }
}

pub(super) async fn streams(State(api): State<Api>, _: Viewer) -> Result<Json<Value>, Problem> {
    let observed = api.platform.observed_recently().await.map_err(|error| unavailable(&error))?;
    let topology = api.platform.topology.with_sweeper();
    let views = topology.streams.iter().map(|stream| stream_view(stream, observed.state.stream(&stream.name)));
    Ok(Json(json!({
        "streams": views.collect::<Vec<_>>(),
        "differences": observed.state.differences,
        "observed_ago_s": observed.began_at.elapsed().as_secs_f64(),
    })))
}

fn stream_view(stream: &Stream, found: Result<&StreamState, BusError>) -> Value {
    let (state, detail) = state_of(&found);
    let found = found.ok();
    let info = found.map(|found| &found.info);
    let number = |field: fn(&StreamInfo) -> u64| info.map(field);
    // A limit that was raised on the server by hand stays.
    let max_bytes = info.map_or(stream.max_bytes, |info| info.max_bytes);
    let config = stream.to_json(1);
    json!({
        "name": stream.name, "subjects": stream.subjects, "retention": config["retention"],
        "storage": config["storage"], "discard": config["discard"], "max_age_s": stream.max_age.as_secs(),
        "max_bytes": max_bytes, "messages": number(|i| i.messages), "bytes": number(|i| i.bytes),
        "fill": info.filter(|_| max_bytes > 0).map(|info| info.bytes as f64 / max_bytes as f64),
        "first_sequence": number(|i| i.first_sequence), "last_sequence": number(|i| i.last_sequence),
        "consumers": number(|i| i.consumers), "created_at": found.map(|found| rfc3339::text(&found.created_at)),
        "state": state, "detail": detail,
    })
}

pub(super) async fn consumers(State(api): State<Api>, _: Viewer) -> Result<Json<Value>, Problem> {
    let observed = api.platform.observed_recently().await.map_err(|error| unavailable(&error))?;
    let topology = api.platform.topology.with_sweeper();
    let view = |c: &Consumer| consumer_view(c, observed.state.consumer(&c.stream, &c.durable));
    Ok(Json(json!({
        "consumers": topology.consumers.iter().map(view).collect::<Vec<_>>(),
        "observed_ago_s": observed.began_at.elapsed().as_secs_f64(),
    })))
}

fn consumer_view(consumer: &Consumer, found: Result<&ConsumerState, BusError>) -> Value {
    let (state, detail) = state_of(&found);
    let found = found.ok();
    let number = |field: fn(&ConsumerInfo) -> u64| found.map(|found| field(&found.info));
    let service = streams::Service::ALL.into_iter().find(|s| consumer.durable.ends_with(&format!("_{}", s.name())));
    json!({
        "name": consumer.durable, "stream": consumer.stream, "subject": consumer.filter,
        "service": service.map(streams::Service::name), "pending": number(|i| i.pending),
        "ack_pending": number(|i| i.ack_pending), "redelivered": number(|i| i.redelivered),
        "lag": number(|i| i.pending + i.ack_pending), "ack_floor": number(|i| i.ack_floor),
        "delivered": number(|i| i.delivered), "ack_wait_s": consumer.ack_wait.as_secs(),
        "max_deliver": consumer.max_deliver, "max_ack_pending": consumer.max_ack_pending,
        "fast": service.is_some_and(|service| is_fast(&consumer.filter, service)),
        "created_at": found.map(|found| rfc3339::text(&found.created_at)), "state": state, "detail": detail,
    })
}

/// What is shown of a letter in a list.
fn letter_view(letter: &DeadLetter) -> Map<String, Value> {
    let view = json!({
        "sequence": letter.sequence, "stored_at": rfc3339::text(&letter.stored_at), "failed_at": letter.failed_at,
        "consumer": letter.consumer, "stream": letter.stream, "stream_sequence": letter.stream_sequence,
        "subject": letter.subject, "message_id": letter.message_id, "deliveries": letter.deliveries,
        "reason": letter.reason,
    });
    match view {
        Value::Object(fields) => fields,
        _ => unreachable!("an object is written above"),
    }
}

/// Newest first. Letters are read whole, so that a page looks at few of them, and at more only while it is not full; with `limit` 0 it reads
/// none, and says how many there are.
pub(super) async fn dead_letters(State(api): State<Api>, _: Viewer, query: RawQuery) -> Result<Json<Value>, Problem> {
    let query = Fields::read(query)?;
    let (consumer, limit) = (query.text("consumer"), query.limit_or_none()? as usize);
    let bus = &api.platform.bus;
    let info = bus.stream_info(DEAD_LETTER_STREAM).await.map_err(|error| unavailable(&error))?;
    let before = query.cursor::<u64>()?.unwrap_or(u64::MAX).min(info.last_sequence + 1);
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
    Ok(Json(json!({
        "dead_letters": letters.iter().map(letter_view).collect::<Vec<_>>(),
        "total": consumer.is_none().then_some(info.messages),
        "next_cursor": next.map(|sequence| sequence.to_string()),
    })))
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

pub(super) async fn dead_letter(State(api): State<Api>, _: Viewer, sequence: RawId) -> Result<Json<Value>, Problem> {
    let sequence = id(sequence, "dead letter")?;
    let letter = match api.platform.bus.get_message(DEAD_LETTER_STREAM, sequence).await {
        Ok(stored) => DeadLetter::parse(stored),
        Err(BusError::NotFound(_)) => return Err(not_found("dead letter")),
        Err(error) => return Err(unavailable(&error)),
    };
    let mut view = letter_view(&letter);
    view.insert("headers".to_owned(), letter.headers.iter().map(|(name, value)| json!([name, value])).collect());
    let body = serde_json::from_slice::<Value>(&letter.payload);
    let body = body.unwrap_or_else(|_| String::from_utf8_lossy(&letter.payload).into_owned().into());
    view.insert("body".to_owned(), body);
    Ok(Json(json!({"dead_letter": view})))
}

pub(super) async fn requeue(
    State(api): State<Api>,
    Support(operator): Support,
    sequence: RawId,
    headers: HeaderMap,
    body: Option<Json<MayBeWhy>>,
) -> Result<Json<Value>, Problem> {
    let sequence = id(sequence, "dead letter")?;
    let act = optional_head(api.act_id(&headers)?, body)?;
    api.have_users(&operator, (act.act_id, UsersRequest::Requeue { act, sequence })).await.map(Json)
}

pub(super) async fn remove(
    State(api): State<Api>,
    Support(operator): Support,
    sequence: RawId,
    headers: HeaderMap,
    body: Option<Json<MayBeWhy>>,
) -> Result<Json<Value>, Problem> {
    let sequence = id(sequence, "dead letter")?;
    let act = optional_head(api.act_id(&headers)?, body)?;
    api.have_users(&operator, (act.act_id, UsersRequest::Remove { act, sequence })).await.map(Json)
}

/// Newest first. Nothing is deleted of the stream but by age, so that its sequences have no gaps.
pub(super) async fn acts(State(api): State<Api>, _: Viewer, query: RawQuery) -> Result<Json<Value>, Problem> {
    let query = Fields::read(query)?;
    let limit = u64::from(query.limit()?);
    let bus = &api.platform.bus;
    let info = bus.stream_info(ADMIN_STREAM).await.map_err(|error| unavailable(&error))?;
    let before = query.cursor::<u64>()?.unwrap_or(u64::MAX).min(info.last_sequence + 1);
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
    Ok(Json(json!({"acts": acts, "next_cursor": next})))
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
