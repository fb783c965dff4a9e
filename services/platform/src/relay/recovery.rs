//! Streams that were lost: with a disk, by a hand, with the memory of a server that was started again. What such a stream
//! held is published again from the outbox, which keeps its rows for a day.
//!
//! A stream is told from its successor by the time when it was made. Where a message is kept only for the consumers that
//! wait for it, their times count as well: what was published before the last of them was there is not in the stream. The
//! time is remembered in the service's own schema, so that it is noticed also by a process that starts afterwards. Nothing
//! is sent while a subject's stream or one of its consumers is missing. That a reader has handled some of it before is told
//! by its inbox; that two processes do it at once, by the stream's duplicate window.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, Row};
use streams::topology::{Retention, Stream, TABLE, Topology};
use streams::{Bus, BusError, Service};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Done, OutboxRow, PAGE};
use crate::store::{Store, StoreError, Tables, relayed};
use crate::{CancellationToken, Platform, kill_point};

/// How often the streams are looked at without a reason, and with one.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the last look at the streams found.
#[derive(Debug, Default)]
pub(super) struct Watch {
    looked_at: Option<Instant>,
    reconnects: u64,
    /// All of them are there, and hold what was published to them.
    is_sound: bool,
    /// Something could not be published since: perhaps its stream is another one by now.
    is_suspect: bool,
}

impl Watch {
    /// How it went to publish.
    pub(super) fn note(&mut self, done: Done) {
        self.is_suspect |= done != Done::All;
        // Made anew, it might keep for one consumer what another one, not made yet, would not get.
        self.is_sound &= done != Done::Missing;
    }

    fn is_due(&self, now: Instant, reconnects: u64) -> bool {
        let every = if self.is_sound && !self.is_suspect { LOOK_EVERY } else { LOOK_AGAIN };
        self.reconnects != reconnects || self.looked_at.is_none_or(|at| now >= at + every)
    }
}

/// A subject of which rows are to be published again.
struct Lost {
    subject: String,
    made: DateTime<Utc>,
    after: i64,
    until: i64,
    /// When the newest of them are to be published once more.
    later: Option<DateTime<Utc>>,
}

/// When what a subject is published to was made.
struct Made {
    at: DateTime<Utc>,
    /// A stream that keeps only what is waited for remembers the id of what it did not keep for a consumer that was not there,
    /// and takes it for a repeat for this long.
    remembers: Option<Duration>,
}

/// The streams that `service` publishes to by its outbox, with the subjects of each.
fn written(topology: &Topology, service: Service) -> Vec<(&Stream, Vec<&'static str>)> {
    let of = |stream: &Stream| {
        let rows = TABLE.iter().filter(|row| row.stream == stream.name && row.writers.contains(&service));
        // Positions are not kept by the service that publishes them.
        rows.map(|row| row.subject).filter(|s| *s != streams::Subject::LocationUpdate).map(|s| s.as_str()).collect()
    };
    let all = topology.streams.iter().map(|stream| (stream, of(stream)));
    all.filter(|(_, subjects): &(_, Vec<_>)| !subjects.is_empty()).collect()
}

/// When what each subject is published to was made.
async fn made(bus: &Bus, topology: &Topology, service: Service) -> Result<BTreeMap<String, Made>, BusError> {
    let mut all = BTreeMap::new();
    for (stream, subjects) in written(topology, service) {
        for subject in subjects {
            // A stream that keeps everything gives it to a new consumer from the beginning.
            let readers = topology.consumers.iter().filter(|c| c.stream == stream.name && c.filter == subject);
            let (readers, remembers): (Vec<&str>, _) = match stream.retention {
                Retention::Limits => (Vec::new(), None),
                Retention::Interest | Retention::WorkQueue => {
                    (readers.map(|c| c.durable.as_str()).collect(), Some(stream.duplicate_window))
                }
            };
            let at = to_micros(bus.created_at(&stream.name, &readers).await?);
            all.insert(subject.to_owned(), Made { at, remembers });
        }
    }
    Ok(all)
}

/// As PostgreSQL keeps it.
fn to_micros(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(at.timestamp_micros()).unwrap_or(at)
}

impl<T: Tables> Store<T> {
    /// Looks at the streams if it is time to, and publishes again what a lost one held. [`Done::Partly`] if they are not
    /// all known to be there, or not all of it is published yet: then nothing else may be, for it would come before.
    pub(super) async fn mend(
        &self,
        platform: &Platform,
        service: Service,
        watch: &mut Watch,
        stop: &CancellationToken,
    ) -> Done {
        // What is gone with this process could not be told again.
        let Some(pool) = self.relay_pool() else { return Done::All };
        let reconnects = platform.bus.reconnects();
        if watch.is_due(Instant::now(), reconnects) {
            let is_sound = match self.look(platform, service, pool, stop).await {
                Ok(done) => done == Done::All,
                Err(why) => {
                    // Once, not each second.
                    if watch.is_sound || watch.looked_at.is_none() {
                        tracing::warn!(
                            why,
                            service = service.name(),
                            "nothing is published before its streams are known to be there"
                        );
                    }
                    false
                }
            };
            *watch = Watch { looked_at: Some(Instant::now()), reconnects, is_sound, is_suspect: false };
        }
        if watch.is_sound { Done::All } else { Done::Partly }
    }

    async fn look(
        &self,
        platform: &Platform,
        service: Service,
        pool: &PgPool,
        stop: &CancellationToken,
    ) -> Result<Done, String> {
        let made = made(&platform.bus, &platform.topology, service).await.map_err(|e| e.to_string())?;
        let lost = notice(pool, &made, self.world().now()).await.map_err(|e| e.to_string())?;
        if lost.is_empty() {
            return Ok(Done::All);
        }
        self.publish_again(platform, service, pool, &lost, stop).await.map_err(|e| e.to_string())
    }

    /// Page by page in the order of writing. A crash in between goes on behind the last whole page.
    async fn publish_again(
        &self,
        platform: &Platform,
        service: Service,
        pool: &PgPool,
        lost: &[Lost],
        stop: &CancellationToken,
    ) -> Result<Done, StoreError> {
        let subjects: Vec<&str> = lost.iter().map(|l| l.subject.as_str()).collect();
        tracing::warn!(
            service = service.name(),
            ?subjects,
            "streams were made anew; what they held is published again"
        );
        let mut after = lost.iter().map(|l| l.after).min().unwrap_or(0);
        let until = lost.iter().map(|l| l.until).max().unwrap_or(0);
        let mut count = 0_u64;
        while after < until {
            if stop.is_cancelled() {
                return Ok(Done::Partly);
            }
            let rows = page(pool, &subjects, after, until).await?;
            let last = if rows.len() == PAGE { rows.last().map_or(until, |row| row.seq) } else { until };
            // What its stream would have forgotten by now nobody waits for.
            let now = self.world().now();
            let is_young = |row: &OutboxRow| {
                let stream = platform.topology.streams.iter().find(|s| s.subjects.contains(&row.subject));
                stream.is_none_or(|s| (now - row.created_at).to_std().unwrap_or_default() < s.max_age)
            };
            let rows: Vec<OutboxRow> = rows.into_iter().filter(is_young).collect();
            let fresh = rows.len() as u64;
            count += fresh;
            kill_point::reached("lost.before_publish");
            for part in runs(rows) {
                for result in platform.bus.publish_all(part.iter().map(|row| row.message(service)).collect()).await {
                    if let Err(error) = result {
                        tracing::warn!(%error, service = service.name(), "what a lost stream held is not all published yet");
                        return Ok(Done::Partly);
                    }
                }
            }
            kill_point::reached("lost.before_advance");
            advance(pool, lost, last).await?;
            platform.metrics.published_again.with_label_values(&[service.name()]).inc_by(fresh);
            after = last;
        }
        tracing::warn!(service = service.name(), count, "what lost streams held is published again");
        Ok(Done::All)
    }

    /// Takes the streams of these subjects, made at these times, for what they ought to be: somebody else has published
    /// again what they lack.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn settle_streams(&self, made: &BTreeMap<String, DateTime<Utc>>) -> Result<(), StoreError> {
        let Some(pool) = self.relay_pool() else { return Ok(()) };
        let (subjects, times): (Vec<&str>, Vec<_>) = made.iter().map(|(s, at)| (s.as_str(), to_micros(*at))).unzip();
        let statement = sqlx::query(
            "insert into outbox_subjects as known (subject, made) select * from unnest($1::text[], $2::timestamptz[]) order by 1 \
             on conflict (subject) do update set made = excluded.made, again_after = 0, again_until = 0, later = null \
             where known.made <> excluded.made",
        );
        relayed(statement.bind(subjects).bind(times).execute(pool)).await.map(drop)
    }
}

/// Rows in parts, in order; in each a key stands once, so that no row can overtake another of its key when one fails.
fn runs(rows: Vec<OutboxRow>) -> Vec<Vec<OutboxRow>> {
    let mut runs: Vec<Vec<OutboxRow>> = Vec::new();
    let mut keys: HashSet<Uuid> = HashSet::new();
    for row in rows {
        if !keys.insert(row.key) || runs.is_empty() {
            keys = HashSet::from([row.key]);
            runs.push(Vec::new());
        }
        runs.last_mut().expect("one was begun").push(row);
    }
    runs
}

/// Takes note of when the streams were made; the subjects of which rows are to be published again.
async fn notice(pool: &PgPool, made: &BTreeMap<String, Made>, now: DateTime<Utc>) -> Result<Vec<Lost>, StoreError> {
    let subjects: Vec<&str> = made.keys().map(String::as_str).collect();
    let mut all = known(pool, &subjects).await?;
    let is_known = |(subject, made): (&String, &Made)| all.iter().any(|l| l.subject == *subject && l.made == made.at);
    if !made.iter().all(is_known) {
        // One that is seen for the first time has lost nothing. Twice the time, for the clocks of two machines differ.
        let statement = sqlx::query(
            "insert into outbox_subjects as known (subject, made) select s, m from \
             unnest($1::text[], $2::timestamptz[]) as u (s, m) order by 1 \
             on conflict (subject) do update set made = excluded.made, again_after = 0, \
             again_until = (select coalesce(max(seq), 0) from outbox), \
             later = (select l from unnest($1::text[], $3::timestamptz[]) as v (s, l) where s = known.subject) \
             where known.made <> excluded.made",
        );
        let times: Vec<DateTime<Utc>> = made.values().map(|made| made.at).collect();
        let later: Vec<Option<DateTime<Utc>>> =
            made.values().map(|made| made.remembers.map(|window| made.at + 2 * window)).collect();
        relayed(statement.bind(&subjects).bind(times).bind(later).execute(pool)).await?;
        all = known(pool, &subjects).await?;
    }
    if all.iter().any(|lost| lost.later.is_some_and(|later| later <= now)) {
        let statement = sqlx::query(
            "update outbox_subjects set later = null, again_after = coalesce((select min(seq) - 1 from outbox where \
             published_at >= made - (later - made)), again_until) \
             where subject = any($1) and later <= $2 and again_after >= again_until",
        );
        relayed(statement.bind(&subjects).bind(now).execute(pool)).await?;
        all = known(pool, &subjects).await?;
    }
    Ok(all.into_iter().filter(|lost| lost.after < lost.until).collect())
}

async fn known(pool: &PgPool, subjects: &[&str]) -> Result<Vec<Lost>, StoreError> {
    let statement = sqlx::query(
        "select subject, made, again_after, again_until, later from outbox_subjects where subject = any($1) order by 1",
    );
    let mut all = Vec::new();
    for row in relayed(statement.bind(subjects).fetch_all(pool)).await? {
        all.push(Lost {
            subject: row.try_get(0)?,
            made: row.try_get(1)?,
            after: row.try_get(2)?,
            until: row.try_get(3)?,
            later: row.try_get(4)?,
        });
    }
    Ok(all)
}

/// Published or not: a process that was stopped may yet mark a row that it published to the stream that is lost.
async fn page(pool: &PgPool, subjects: &[&str], after: i64, until: i64) -> Result<Vec<OutboxRow>, StoreError> {
    let statement = sqlx::query(
        "select seq, message_id, key, subject, body, traceparent, occurred_at, created_at from outbox \
         where seq > $1 and seq <= $2 and subject = any($3) order by seq limit $4",
    );
    let rows = relayed(statement.bind(after).bind(until).bind(subjects).bind(PAGE as i64).fetch_all(pool)).await?;
    rows.iter().map(|row| OutboxRow::read(row).map_err(StoreError::from)).collect()
}

/// Up to `last` all is published to the streams made at these times, and not to others.
async fn advance(pool: &PgPool, lost: &[Lost], last: i64) -> Result<(), StoreError> {
    let statement = sqlx::query(
        "update outbox_subjects as known set again_after = $3 from unnest($1::text[], $2::timestamptz[]) as u (subject, made) \
         where known.subject = u.subject and known.made = u.made and known.again_after < $3",
    );
    let subjects: Vec<&str> = lost.iter().map(|l| l.subject.as_str()).collect();
    let times: Vec<DateTime<Utc>> = lost.iter().map(|l| l.made).collect();
    relayed(statement.bind(subjects).bind(times).bind(last).execute(pool)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_run_every_key_stands_once_and_the_order_is_kept() {
        let row = |seq: i64, key: u128| OutboxRow {
            seq,
            message_id: seq.to_string(),
            key: Uuid::from_u128(key),
            subject: "ride.pickup".to_owned(),
            body: String::new(),
            traceparent: String::new(),
            occurred_at: DateTime::UNIX_EPOCH,
            created_at: DateTime::UNIX_EPOCH,
        };
        let keys = [1, 2, 1, 1, 3, 2, 4, 3];
        let rows = keys.iter().zip(1..).map(|(key, seq)| row(seq, *key)).collect();
        let runs: Vec<Vec<i64>> = runs(rows).iter().map(|run| run.iter().map(|row| row.seq).collect()).collect();
        assert_eq!(runs, [vec![1, 2], vec![3], vec![4, 5, 6, 7], vec![8]]);
        assert!(super::runs(Vec::new()).is_empty());
    }

    #[test]
    fn each_service_looks_after_what_its_outbox_holds() {
        let topology = Topology::rideshare();
        let of = |service| -> Vec<(&str, usize)> {
            written(&topology, service)
                .iter()
                .map(|(stream, subjects)| (stream.name.as_str(), subjects.len()))
                .collect()
        };
        assert_eq!(of(Service::Users), [("USER_STREAM", 2), ("MATCH_STREAM", 2)]);
        assert_eq!(of(Service::Match), [("MATCH_STREAM", 2)]);
        assert_eq!(of(Service::Rides), [("MATCH_STREAM", 1), ("RIDE_STREAM", 5), ("PAYMENT_STREAM", 1)]);
        assert_eq!(of(Service::Location), [("LOCATION_STREAM", 1)]);
    }
}
