//! The relay: publishes what is committed, in order for each key, and under the same message id however often it has to.
//!
//! Commits wake the relay and hand it their rows. Once a second it also reads the table, and so takes what another process
//! left behind. It marks a row only after the stream acknowledged it. If the process dies between the two, the row is
//! published again, and the stream's duplicate window or the readers' inbox makes that harmless.

mod recovery;
pub(crate) mod row;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use streams::{BusError, Service};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::store::{Store, StoreError, Tables};
use crate::{CancellationToken, Platform, kill_point, retry};
use recovery::RecoveryState;
pub use row::message;
use row::{OutboxRow, PAGE, RelayOutcome};

/// How often the relay reads the table without being woken.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The age from which a poll takes the rows of any pod: until then the relay of the pod that wrote them is expected to.
const ORPHAN_AGE: Duration = Duration::from_secs(2);
/// The age from which an unpublished row degrades the process, seconds.
const LATE_S: f64 = 60.0;
/// Limit of the wait for the last rows at shutdown.
const DRAIN_WAIT: Duration = Duration::from_secs(10);

/// Publishes the outbox of one service.
#[derive(Debug)]
pub struct Relay<T> {
    store: Store<T>,
    platform: Platform,
    service: Service,
    recovery: RecoveryState,
    health_part: String,
}

impl<T: Tables> Relay<T> {
    /// The relay of `service`, whose outbox is in `store`.
    pub fn new(platform: &Platform, service: Service, store: &Store<T>) -> Self {
        Self {
            store: store.clone(),
            platform: platform.clone(),
            service,
            recovery: RecoveryState::default(),
            health_part: format!("outbox {service}"),
        }
    }

    /// Publishes until `stop` has begun and no row of this pod is unpublished, or 10 s have passed since.
    pub async fn run(mut self, stop: CancellationToken) {
        let queue = self.store.relay_queue().clone();
        let mut delays = retry::dependency();
        let mut next_poll = Instant::now() + POLL_INTERVAL;
        let mut retry_at: Option<Instant> = None;
        let mut drain_until = None;
        loop {
            // Read once a round: a round that began before the stop may have missed rows that were committed since.
            let is_stopping = stop.is_cancelled();
            let committed = queue.take();
            let now = Instant::now();
            let is_retry = retry_at.is_some_and(|at| now >= at);
            let must_read_table = committed.must_read_table || is_retry || is_stopping;
            let mut outcome = self.recovery.recover(self.store.relay_pool(), &self.platform, self.service, &stop).await;
            let is_sound = outcome == RelayOutcome::All;
            // If the table must be read, it yields the committed rows as well, in order. Publishing them first could
            // overtake an older row of the same key.
            if is_sound && !committed.rows.is_empty() && !must_read_table {
                outcome = self.publish(committed.rows, &mut HashSet::new()).await;
            }
            if must_read_table || now >= next_poll {
                if is_sound {
                    outcome = outcome.max(self.publish_table((!must_read_table).then_some(ORPHAN_AGE)).await);
                }
                self.report_age().await;
                next_poll = Instant::now() + POLL_INTERVAL;
            }
            if outcome == RelayOutcome::All && (is_retry || retry_at.is_none()) {
                delays.reset();
                retry_at = None;
            } else if outcome != RelayOutcome::All && (is_retry || retry_at.is_none()) {
                // Failed rows are read from the table again after a growing delay. New rows do not wait for them.
                retry_at = Some(Instant::now() + delays.next_delay());
            }
            self.recovery.record(outcome);
            if is_stopping {
                let until = *drain_until.get_or_insert_with(|| Instant::now() + DRAIN_WAIT);
                if outcome == RelayOutcome::All {
                    return;
                }
                if Instant::now() >= until {
                    tracing::warn!(service = self.service.name(), "events stay in the outbox until the next start");
                    return;
                }
            }
            let wake_at = retry_at.map_or(next_poll, |at| at.min(next_poll));
            tokio::select! {
                biased;
                () = queue.pushed() => {}
                () = stop.cancelled(), if drain_until.is_none() => {}
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Publishes the unpublished rows of the table, page by page.
    async fn publish_table(&self, older_than: Option<Duration>) -> RelayOutcome {
        let (mut after, mut outcome, mut blocked_keys) = (i64::MIN, RelayOutcome::All, HashSet::new());
        loop {
            match self.store.unpublished(older_than, after).await {
                Ok(rows) => {
                    let is_full = rows.len() == PAGE;
                    after = rows.last().map_or(after, |row| row.seq);
                    if !rows.is_empty() {
                        outcome = outcome.max(self.publish(rows, &mut blocked_keys).await);
                    }
                    if !is_full {
                        return outcome;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, service = self.service.name(), "the outbox cannot be read");
                    return RelayOutcome::Partly;
                }
            }
        }
    }

    /// Publishes rows and marks them. Rows of one key never overtake each other, and no row of a key in `blocked_keys`, of
    /// which an earlier row failed, is published.
    async fn publish(&self, mut rows: Vec<OutboxRow>, blocked_keys: &mut HashSet<Uuid>) -> RelayOutcome {
        let mut outcome = RelayOutcome::All;
        while !rows.is_empty() {
            let mut keys = HashSet::new();
            let (wave, rest): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| keys.insert(row.key));
            rows = rest;
            let wave: Vec<OutboxRow> = wave.into_iter().filter(|row| !blocked_keys.contains(&row.key)).collect();
            let span = self.span(&wave);
            outcome = outcome.max(self.publish_wave(&wave, blocked_keys, outcome).instrument(span).await);
        }
        outcome
    }

    /// The span of all log lines about `wave`.
    fn span(&self, wave: &[OutboxRow]) -> Span {
        let service = self.service.name();
        match wave {
            [] => Span::none(),
            [row] => {
                tracing::info_span!("publish", service, message_id = row.message_id, trace_id = row.trace_id())
            }
            _ => tracing::info_span!("publish", service, rows = wave.len()),
        }
    }

    /// Publishes and marks rows of which no two have the same key. Logs a failure only if none was logged `before`.
    async fn publish_wave(
        &self,
        wave: &[OutboxRow],
        blocked_keys: &mut HashSet<Uuid>,
        before: RelayOutcome,
    ) -> RelayOutcome {
        let mut outcome = before;
        if !wave.is_empty() {
            kill_point::reached("relay.before_publish");
        }
        let messages = wave.iter().map(|row| row.message(self.service)).collect();
        let results = self.platform.publish_all(messages).await;
        let mut published = Vec::with_capacity(wave.len());
        for (row, result) in wave.iter().zip(results) {
            match result {
                Ok(_) => {
                    published.push(row.seq);
                    if self.platform.spans.is_on() {
                        let span = row.span(self.service, self.platform.world.now());
                        span.into_iter().for_each(|span| self.platform.spans.record(span));
                    }
                }
                Err(error) => {
                    if outcome == RelayOutcome::All {
                        tracing::warn!(%error, message_id = row.message_id, "an event waits in the outbox");
                    }
                    outcome = outcome.max(match error {
                        BusError::NotFound(_) => RelayOutcome::StreamMissing,
                        _ => RelayOutcome::Partly,
                    });
                    blocked_keys.insert(row.key);
                }
            }
        }
        self.platform.metrics.published.with_label_values(&[self.service.name()]).inc_by(published.len() as u64);
        if published.is_empty() {
            return outcome;
        }
        kill_point::reached("relay.before_mark");
        if let Err(error) = self.store.mark_published(&published).await {
            tracing::warn!(%error, "published events could not be marked; they will be published again");
            outcome = outcome.max(RelayOutcome::Partly);
        }
        outcome
    }

    /// Tells metrics and health how long the oldest unpublished row has waited. A late row makes no process unready: all processes of the
    /// service read the same table, and a full stream refuses all of them. Without them nobody could even sign in or call for help.
    async fn report_age(&self) {
        let (health, part) = (&self.platform.health, &self.health_part);
        let Ok(oldest) = self.store.oldest_unpublished().await else {
            health.set_unhealthy(part, "cannot be read");
            return;
        };
        let age_s = oldest.map_or(0.0, |at| (self.platform.world.now() - at).as_seconds_f64().max(0.0));
        self.platform.metrics.outbox_age.with_label_values(&[self.service.name()]).set(age_s);
        if age_s > LATE_S {
            health.set_degraded(part, format!("an event waits for {age_s:.0} s to be published"));
        } else {
            health.set_healthy(part);
        }
    }
}

/// Records that the streams of these subjects, created at these times, hold all that they should: the caller has published
/// again what they lacked, and the relay need not.
///
/// # Errors
/// [`StoreError`].
pub async fn mark_recovered<T: Tables>(
    store: &Store<T>,
    created_at: &BTreeMap<String, DateTime<Utc>>,
) -> Result<(), StoreError> {
    match store.relay_pool() {
        Some(pool) => recovery::mark_recovered(pool, created_at).await,
        None => Ok(()),
    }
}
