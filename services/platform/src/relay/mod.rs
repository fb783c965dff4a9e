//! The outbox and its relay: what was committed is published, in order for each key, under the same id however often.
//!
//! The relay is woken by commits with the rows themselves; a poll is the floor under it, and takes what another process
//! left. A row is marked only after the stream acknowledged it: dying between the two publishes it again, and the stream's
//! duplicate window, or the readers' inbox, makes that harmless.

pub mod recovery;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::event::rfc3339;
use streams::{BusError, Event, Headers, Message, Service, bus};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::store::{Store, Tables};
use crate::world::Trace;
use crate::{Platform, kill_point, retry};

/// Rows handed from commits to the relay without a read; beyond that it reads them from the table.
const HANDED_MAX: usize = 4_096;
/// Rows read at once.
pub(crate) const PAGE: usize = 1_000;
/// How often the floor looks, and from what age on it takes anybody's rows.
const FLOOR: Duration = Duration::from_secs(1);
const FLOOR_AGE: Duration = Duration::from_secs(2);
/// The age from which on a row that waits is a fault, seconds.
const LATE_S: f64 = 60.0;
/// The wait for the last rows at shutdown.
const DRAIN_WAIT: Duration = Duration::from_secs(10);

/// An event on its way to its stream.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    pub(crate) seq: i64,
    pub(crate) message_id: String,
    pub(crate) key: Uuid,
    pub(crate) subject: String,
    pub(crate) body: String,
    pub(crate) traceparent: String,
    pub(crate) occurred_at: DateTime<Utc>,
    pub(crate) created_at: DateTime<Utc>,
}

impl OutboxRow {
    pub(crate) fn of(event: &Event, trace: &Trace, now: DateTime<Utc>) -> Self {
        Self {
            seq: 0,
            message_id: event.message_id(now),
            key: event.entity_id(),
            subject: event.subject().as_str().to_owned(),
            body: String::from_utf8(event.body()).expect("JSON is UTF-8"),
            traceparent: trace.as_str().to_owned(),
            occurred_at: event.occurred_at().unwrap_or(now),
            created_at: now,
        }
    }

    pub(crate) fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            seq: row.try_get("seq")?,
            message_id: row.try_get("message_id")?,
            key: row.try_get("key")?,
            subject: row.try_get("subject")?,
            body: row.try_get("body")?,
            traceparent: row.try_get("traceparent")?,
            occurred_at: row.try_get("occurred_at")?,
            created_at: row.try_get("created_at")?,
        })
    }

    fn message(&self, service: Service) -> Message {
        let key = self.key.to_string();
        let body = Bytes::from(self.body.clone());
        message(&self.subject, &self.message_id, &key, self.occurred_at, &self.traceparent, service, body)
    }
}

/// A message with the headers of the contract: its id, CloudEvents 1.0 in binary mode, W3C trace context.
pub fn message(
    subject: &str,
    message_id: &str,
    entity: &str,
    at: DateTime<Utc>,
    traceparent: &str,
    service: Service,
    payload: Bytes,
) -> Message {
    let mut headers = Headers::default();
    headers.set(bus::MESSAGE_ID, message_id);
    headers.set("ce-specversion", "1.0");
    headers.set("ce-id", message_id);
    headers.set("ce-type", subject);
    headers.set("ce-source", format!("/{}", service.name()));
    headers.set("ce-time", rfc3339::text(&at));
    headers.set("ce-subject", entity);
    if !traceparent.is_empty() {
        headers.set("traceparent", traceparent);
    }
    headers.set("content-type", "application/json");
    Message { subject: subject.to_owned(), headers, payload }
}

/// What commits tell the relay.
#[derive(Clone, Default)]
pub(crate) struct Hints {
    inner: Arc<(Mutex<Handed>, Notify)>,
}

impl fmt::Debug for Hints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hints")
    }
}

#[derive(Default)]
struct Handed {
    rows: Vec<OutboxRow>,
    read: bool,
}

impl Hints {
    /// `blocked`: an older row of the same key waits, so the table must be read to keep the order.
    pub(crate) fn committed(&self, rows: Vec<OutboxRow>, blocked: bool) {
        if rows.is_empty() && !blocked {
            return;
        }
        let mut handed = self.inner.0.lock().unwrap_or_else(PoisonError::into_inner);
        if blocked || handed.read || handed.rows.len() + rows.len() > HANDED_MAX {
            handed.read = true;
        } else {
            handed.rows.extend(rows);
        }
        drop(handed);
        self.inner.1.notify_one();
    }

    fn take(&self) -> (Vec<OutboxRow>, bool) {
        let mut handed = self.inner.0.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut handed.rows), std::mem::take(&mut handed.read))
    }
}

/// Whether all rows were published and marked; the worse is the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Done {
    All,
    Partly,
    /// Not all, for a stream is missing.
    Missing,
}

impl<T: Tables> Store<T> {
    /// Publishes what is committed until `stop` has begun and nothing of this pod waits (or 10 s are over).
    pub async fn relay(self, platform: Platform, service: Service, stop: crate::CancellationToken) {
        let part = format!("outbox {service}");
        let mut delays = retry::dependency();
        let mut next_floor = Instant::now() + FLOOR;
        let mut retry_at: Option<Instant> = None;
        let mut drain_until = None;
        let mut watch = recovery::Watch::default();
        loop {
            // Looked at once a round: a round that began before the stop does not know what was committed since.
            let stopping = stop.is_cancelled();
            let (rows, handed_read) = self.hints().take();
            let now = Instant::now();
            let retry = retry_at.is_some_and(|at| now >= at);
            let read = handed_read || retry || stopping;
            let mut done = self.mend(&platform, service, &mut watch, &stop).await;
            let sound = done == Done::All;
            // Where the table must be read, the rows in hand are read with it: sent first, they might overtake.
            if sound && !rows.is_empty() && !read {
                done = self.send(&platform, service, rows, &mut HashSet::new()).await;
            }
            if read || now >= next_floor {
                if sound {
                    done = done.max(self.send_waiting(&platform, service, (!read).then_some(FLOOR_AGE)).await);
                }
                self.tell_age(&platform, service, &part).await;
                next_floor = Instant::now() + FLOOR;
            }
            if done == Done::All && (retry || retry_at.is_none()) {
                delays.reset();
                retry_at = None;
            } else if done != Done::All && (retry || retry_at.is_none()) {
                // What failed is read again from the table, after a pause that grows; what is new does not wait for it.
                retry_at = Some(Instant::now() + delays.next_delay());
            }
            watch.note(done);
            if stopping {
                let until = *drain_until.get_or_insert_with(|| Instant::now() + DRAIN_WAIT);
                if done == Done::All {
                    return;
                }
                if Instant::now() >= until {
                    tracing::warn!(service = service.name(), "events stay in the outbox for the next start");
                    return;
                }
            }
            let wake = retry_at.map_or(next_floor, |at| at.min(next_floor));
            tokio::select! {
                biased;
                () = self.hints().inner.1.notified() => {}
                () = stop.cancelled(), if drain_until.is_none() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Publishes what waits in the table, page by page.
    async fn send_waiting(&self, platform: &Platform, service: Service, older_than: Option<Duration>) -> Done {
        let (mut after, mut done, mut stuck) = (i64::MIN, Done::All, HashSet::new());
        loop {
            match self.unpublished(older_than, after).await {
                Ok(rows) => {
                    let full = rows.len() == PAGE;
                    after = rows.last().map_or(after, |row| row.seq);
                    if !rows.is_empty() {
                        done = done.max(self.send(platform, service, rows, &mut stuck).await);
                    }
                    if !full {
                        return done;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, service = service.name(), "outbox cannot be read");
                    return Done::Partly;
                }
            }
        }
    }

    async fn tell_age(&self, platform: &Platform, service: Service, part: &str) {
        let Ok(oldest) = self.oldest_unpublished().await else {
            platform.health.set_unhealthy(part, "cannot be read");
            return;
        };
        let age = oldest.map_or(0.0, |at| (self.world().now() - at).as_seconds_f64().max(0.0));
        platform.metrics.outbox_age.with_label_values(&[service.name()]).set(age);
        if age > LATE_S {
            platform.health.set_unhealthy(part, format!("an event waits for {age:.0} s to be published"));
        } else {
            platform.health.set_healthy(part);
        }
    }

    /// Publishes rows and marks them; rows of one key never overtake each other, and none of a key in `stuck` is sent.
    async fn send(
        &self,
        platform: &Platform,
        service: Service,
        mut rows: Vec<OutboxRow>,
        stuck: &mut HashSet<Uuid>,
    ) -> Done {
        let mut all = Done::All;
        while !rows.is_empty() {
            let mut keys = HashSet::new();
            let (wave, rest): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| keys.insert(row.key));
            rows = rest;
            let wave: Vec<OutboxRow> = wave.into_iter().filter(|row| !stuck.contains(&row.key)).collect();
            if !wave.is_empty() {
                kill_point::reached("relay.before_publish");
            }
            let results = platform.bus.publish_all(wave.iter().map(|row| row.message(service)).collect()).await;
            let mut published = Vec::with_capacity(wave.len());
            for (row, result) in wave.iter().zip(results) {
                match result {
                    Ok(_) => published.push(row.seq),
                    Err(error) => {
                        if all == Done::All {
                            tracing::warn!(%error, message_id = row.message_id, "an event waits in the outbox");
                        }
                        let missing = matches!(error, BusError::NotFound(_));
                        all = all.max(if missing { Done::Missing } else { Done::Partly });
                        stuck.insert(row.key);
                    }
                }
            }
            platform.metrics.published.with_label_values(&[service.name()]).inc_by(published.len() as u64);
            if published.is_empty() {
                continue;
            }
            kill_point::reached("relay.before_mark");
            if let Err(error) = self.mark_published(&published).await {
                tracing::warn!(%error, "published events could not be marked; they will be published again");
                all = all.max(Done::Partly);
            }
        }
        all
    }
}
