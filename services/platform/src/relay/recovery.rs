//! Recovery of lost streams: a disk that is gone, a stream that someone deleted, a memory stream after a restart of its
//! server. What such a stream held is published again from the outbox, which keeps its rows for a day.
//!
//! The creation time tells a recreated stream from the one before. For an interest stream and a work queue, the creation
//! times of the consumers count as well: such a stream does not hold what was published before a consumer existed. The
//! newest of these times is stored for each subject in the service's own schema, so that a process that starts later notices
//! the difference too. While a subject's stream or one of its consumers is missing, nothing is published. A reader that
//! processed some of it before finds it in its inbox. If two processes publish it again at once, the stream's duplicate
//! window drops the second copy.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use streams::topology::{Retention, Stream, TABLE, Topology, TopologyState};
use streams::{BusError, Service, Subject};
use tokio::time::Instant;
use uuid::Uuid;

use super::row::{OutboxRow, PAGE, RelayOutcome};
use crate::store::connections::Connections;
use crate::store::rows::column;
use crate::store::{StoreError, relay_connection, relay_statement};
use crate::{CancellationToken, Platform, kill_point};

/// How often the streams are checked while all is well. A recent observation is good enough for such a check, also one of another
/// process, so that it needs no request of its own.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How often they are checked while one is missing, incomplete or suspected.
const SUSPECT_INTERVAL: Duration = Duration::from_secs(1);

/// What the relay knows about the streams that it publishes to.
#[derive(Debug, Default)]
pub(super) struct RecoveryState {
    checked_at: Option<Instant>,
    reconnects: u64,
    /// At the last check all streams and consumers existed, and held what was published to them.
    is_sound: bool,
    /// A publish has failed since: its stream may have been recreated.
    is_suspect: bool,
}

/// The rows of one subject that are to be published again: `seq` above `after`, up to `until`.
#[derive(Debug, sqlx::FromRow)]
struct Backfill {
    subject: String,
    #[sqlx(rename = "made")]
    created_at: DateTime<Utc>,
    #[sqlx(rename = "again_after")]
    after: i64,
    #[sqlx(rename = "again_until")]
    until: i64,
    /// When the newest of them are to be published once more, see [`StreamIdentity::duplicate_window`].
    #[sqlx(rename = "later")]
    second_pass_at: Option<DateTime<Utc>>,
}

/// What a check of the streams rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// What this process observes now.
    Now,
    /// What this process, or another one, observed a few seconds ago.
    Recent,
}

/// What tells the stream of a subject from one that is recreated under the same name.
struct StreamIdentity {
    /// The newest creation time of the stream and, unless it retains everything, of the subject's consumers.
    created_at: DateTime<Utc>,
    /// Set for interest streams and work queues: such a stream records the Nats-Msg-Id of a message even when no consumer
    /// was bound, and treats a republish within the duplicate window as a duplicate.
    duplicate_window: Option<Duration>,
}

impl RecoveryState {
    /// Records how the relay's last round went.
    pub(super) fn record(&mut self, outcome: RelayOutcome) {
        self.is_suspect |= outcome != RelayOutcome::All;
        // The reconciler recreates a missing stream and then its consumers, one after the other. A message published in
        // between would never reach the consumers that come later: so nothing is published until all of them exist.
        self.is_sound &= outcome != RelayOutcome::StreamMissing;
    }

    /// The check that is due; `None` if none is.
    ///
    /// After a reconnect or a failed publish this process observes the topology now: the streams may have been recreated since the last observation, and
    /// nothing may be published to a recreated one before it is detected.
    fn due(&self, now: Instant, reconnects: u64) -> Option<Check> {
        let Some(checked_at) = self.checked_at else { return Some(Check::Now) };
        let is_calm = self.is_sound && !self.is_suspect;
        if self.reconnects != reconnects || (!is_calm && now >= checked_at + SUSPECT_INTERVAL) {
            Some(Check::Now)
        } else if is_calm && now >= checked_at + CHECK_INTERVAL {
            Some(Check::Recent)
        } else {
            None
        }
    }

    /// Checks the streams if it is time to, and publishes again what a lost one held. If the outcome is not
    /// [`RelayOutcome::All`], the streams are not all known to exist, or not all of it is published: then the relay must
    /// publish nothing newer, which would come before the older.
    pub(super) async fn recover(
        &mut self,
        pool: Option<&Connections>,
        platform: &Platform,
        service: Service,
        stop: &CancellationToken,
    ) -> RelayOutcome {
        // The memory store keeps no published rows.
        let Some(pool) = pool else { return RelayOutcome::All };
        let reconnects = platform.bus.reconnects();
        if let Some(due) = self.due(Instant::now(), reconnects) {
            let is_sound = match check(pool, platform, service, due, stop).await {
                Ok(outcome) => outcome == RelayOutcome::All,
                Err(why) => {
                    // Logged when it begins, not at every check.
                    if self.is_sound || self.checked_at.is_none() {
                        tracing::warn!(
                            why,
                            service = service.name(),
                            "nothing is published until all streams and consumers of its subjects exist"
                        );
                    }
                    false
                }
            };
            *self = Self { checked_at: Some(Instant::now()), reconnects, is_sound, is_suspect: false };
        }
        if self.is_sound { RelayOutcome::All } else { RelayOutcome::Partly }
    }
}

/// The streams that `service` publishes to by its outbox, with the subjects of each.
fn outbox_streams(topology: &Topology, service: Service) -> Vec<(&Stream, Vec<&'static str>)> {
    let subjects_of = |stream: &Stream| {
        let rows = TABLE.iter().filter(|row| row.stream == stream.name && row.writers.contains(&service));
        // users publishes positions without an outbox.
        rows.map(|row| row.subject).filter(|s| *s != Subject::LocationUpdate).map(|s| s.as_str()).collect()
    };
    let all = topology.streams.iter().map(|stream| (stream, subjects_of(stream)));
    all.filter(|(_, subjects): &(_, Vec<_>)| !subjects.is_empty()).collect()
}

/// The identity of the stream of each subject that `service` publishes by its outbox.
///
/// # Errors
/// [`BusError::NotFound`] if a stream or a consumer of these subjects was missing, [`BusError::Unavailable`] if one did not
/// answer. Other streams do not matter.
fn identities(
    state: &TopologyState,
    topology: &Topology,
    service: Service,
) -> Result<BTreeMap<String, StreamIdentity>, BusError> {
    let mut all = BTreeMap::new();
    for (stream, subjects) in outbox_streams(topology, service) {
        for subject in subjects {
            // A limits stream delivers everything to a new consumer from the beginning, so its consumers do not count.
            let readers = topology.consumers.iter().filter(|c| c.stream == stream.name && c.filter == subject);
            let (readers, duplicate_window): (Vec<&str>, _) = match stream.retention {
                Retention::Limits => (Vec::new(), None),
                Retention::Interest | Retention::WorkQueue => {
                    (readers.map(|c| c.durable.as_str()).collect(), Some(stream.duplicate_window))
                }
            };
            let created_at = to_micros(state.created_at(&stream.name, &readers)?);
            all.insert(subject.to_owned(), StreamIdentity { created_at, duplicate_window });
        }
    }
    Ok(all)
}

/// The precision of PostgreSQL.
fn to_micros(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(at.timestamp_micros()).unwrap_or(at)
}

/// Compares the streams with what is stored about them, and publishes again what is missing.
async fn check(
    pool: &Connections,
    platform: &Platform,
    service: Service,
    due: Check,
    stop: &CancellationToken,
) -> Result<RelayOutcome, String> {
    let called_at = Instant::now();
    let observe = async |how| {
        let observation = match how {
            Check::Now => platform.observed_since(called_at).await?,
            Check::Recent => platform.observed_recently().await?,
        };
        let identities = identities(&observation.state, &platform.topology, service)?;
        Ok::<_, BusError>((identities, observation.began_at))
    };
    let (mut identities, observed_at) = observe(due).await.map_err(|e| e.to_string())?;
    let mut stored = Stored::read(pool, &identities).await.map_err(|e| e.to_string())?;
    if observed_at < called_at && !stored.matches(&identities) {
        // Another process may have stored what is newer than this observation. Acted upon, an old observation would take the
        // stream for recreated once more, and publish a day's rows for nothing.
        (identities, _) = observe(Check::Now).await.map_err(|e| e.to_string())?;
        stored = Stored::read(pool, &identities).await.map_err(|e| e.to_string())?;
    }
    let now = platform.world.now();
    let backfills = detect_recreated(pool, &identities, stored, now).await.map_err(|e| e.to_string())?;
    if backfills.is_empty() {
        return Ok(RelayOutcome::All);
    }
    republish(pool, platform, service, &backfills, stop).await.map_err(|e| e.to_string())
}

/// Publishes the rows of `backfills` again, page by page in the order of `seq`. After a crash, the next process continues
/// behind the last whole page.
async fn republish(
    pool: &Connections,
    platform: &Platform,
    service: Service,
    backfills: &[Backfill],
    stop: &CancellationToken,
) -> Result<RelayOutcome, StoreError> {
    let subjects = column(backfills, |b| b.subject.as_str());
    tracing::warn!(
        service = service.name(),
        ?subjects,
        "streams were recreated; what they held is published again from the outbox"
    );
    let mut after = backfills.iter().map(|b| b.after).min().unwrap_or(0);
    let until = backfills.iter().map(|b| b.until).max().unwrap_or(0);
    let mut count = 0_u64;
    while after < until {
        if stop.is_cancelled() {
            return Ok(RelayOutcome::Partly);
        }
        let rows = page(pool, &subjects, after, until).await?;
        let last = if rows.len() == PAGE { rows.last().map_or(until, |row| row.seq) } else { until };
        // Its stream would have deleted an older row by now, so no consumer needs it.
        let now = platform.world.now();
        let is_young = |row: &OutboxRow| {
            let stream = platform.topology.streams.iter().find(|s| s.subjects.contains(&row.subject));
            stream.is_none_or(|s| (now - row.created_at).to_std().unwrap_or_default() < s.max_age)
        };
        let rows: Vec<OutboxRow> = rows.into_iter().filter(is_young).collect();
        let published = rows.len() as u64;
        count += published;
        kill_point::reached("recovery.before_publish");
        for run in runs(rows) {
            for result in platform.publish_all(run.iter().map(|row| row.message(service)).collect()).await {
                if let Err(error) = result {
                    tracing::warn!(%error, service = service.name(), "what a lost stream held is not all published yet");
                    return Ok(RelayOutcome::Partly);
                }
            }
        }
        kill_point::reached("recovery.before_advance");
        advance(pool, backfills, last).await?;
        platform.metrics.published_again.with_label_values(&[service.name()]).inc_by(published);
        after = last;
    }
    tracing::warn!(service = service.name(), count, "what the lost streams held is published again");
    Ok(RelayOutcome::All)
}

/// Splits rows into runs, in order. No key appears twice in a run, so that no row can overtake another of its key when one
/// fails.
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

/// What the service's schema says about the subjects.
struct Stored(Vec<Backfill>);

impl Stored {
    async fn read(pool: &Connections, identities: &BTreeMap<String, StreamIdentity>) -> Result<Self, StoreError> {
        let statement = sqlx::query_as(
            "select subject, made, again_after, again_until, later from outbox_subjects where subject = any($1) order by 1",
        );
        let subjects = column(identities.keys(), String::as_str);
        let mut single = relay_connection(pool).await?;
        let stored = relay_statement(statement.bind(subjects).fetch_all(single.on())).await?;
        relay_statement(single.end()).await?;
        Ok(Self(stored))
    }

    fn matches(&self, identities: &BTreeMap<String, StreamIdentity>) -> bool {
        identities.iter().all(|(subject, identity)| {
            self.0.iter().any(|b| b.subject == *subject && b.created_at == identity.created_at)
        })
    }
}

async fn execute(pool: &Connections, statement: Query<'_, Postgres, PgArguments>) -> Result<(), StoreError> {
    let mut single = relay_connection(pool).await?;
    relay_statement(statement.execute(single.on())).await?;
    relay_statement(single.end()).await
}

/// Stores the identities that changed, and returns what has to be published again.
async fn detect_recreated(
    pool: &Connections,
    identities: &BTreeMap<String, StreamIdentity>,
    mut stored: Stored,
    now: DateTime<Utc>,
) -> Result<Vec<Backfill>, StoreError> {
    let subjects = column(identities.keys(), String::as_str);
    if !stored.matches(identities) {
        // A subject that is seen for the first time has lost nothing: its row begins without a backfill. The second pass
        // waits for two duplicate windows, because the clocks of the database and of the NATS server may differ.
        let statement = sqlx::query(
            "insert into outbox_subjects as known (subject, made) select s, m from \
             unnest($1::text[], $2::timestamptz[]) as u (s, m) order by 1 \
             on conflict (subject) do update set made = excluded.made, again_after = 0, \
             again_until = (select coalesce(max(seq), 0) from outbox), \
             later = (select l from unnest($1::text[], $3::timestamptz[]) as v (s, l) where s = known.subject) \
             where known.made <> excluded.made",
        );
        let created_at = column(identities.values(), |identity| identity.created_at);
        let second_pass_at = column(identities.values(), |identity| {
            identity.duplicate_window.map(|window| identity.created_at + 2 * window)
        });
        execute(pool, statement.bind(&subjects).bind(created_at).bind(second_pass_at)).await?;
        stored = Stored::read(pool, identities).await?;
    }
    if stored.0.iter().any(|b| b.second_pass_at.is_some_and(|at| at <= now)) {
        // The first pass is complete and the stream no longer takes the rows for duplicates: those that were published up
        // to two windows before it was created may be missing in it.
        let statement = sqlx::query(
            "update outbox_subjects set later = null, again_after = coalesce((select min(seq) - 1 from outbox where \
             published_at >= made - (later - made)), again_until) \
             where subject = any($1) and later <= $2 and again_after >= again_until",
        );
        execute(pool, statement.bind(&subjects).bind(now)).await?;
        stored = Stored::read(pool, identities).await?;
    }
    Ok(stored.0.into_iter().filter(|b| b.after < b.until).collect())
}

/// Published rows and unpublished ones: a process that was paused may yet mark a row that it published to the lost stream.
async fn page(pool: &Connections, subjects: &[&str], after: i64, until: i64) -> Result<Vec<OutboxRow>, StoreError> {
    let statement = sqlx::query_as(
        "select seq, message_id, key, subject, body, traceparent, parent_span, occurred_at, created_at from outbox \
         where seq > $1 and seq <= $2 and subject = any($3) order by seq limit $4",
    );
    let mut single = relay_connection(pool).await?;
    let statement = statement.bind(after).bind(until).bind(subjects).bind(PAGE as i64);
    let rows = relay_statement(statement.fetch_all(single.on())).await?;
    relay_statement(single.end()).await?;
    Ok(rows)
}

/// Stores that everything up to `last` is published again, unless a stream was recreated once more meanwhile.
async fn advance(pool: &Connections, backfills: &[Backfill], last: i64) -> Result<(), StoreError> {
    let statement = sqlx::query(
        "update outbox_subjects as known set again_after = $3 from unnest($1::text[], $2::timestamptz[]) as u (subject, made) \
         where known.subject = u.subject and known.made = u.made and known.again_after < $3",
    );
    let subjects = column(backfills, |b| b.subject.as_str());
    let created_at = column(backfills, |b| b.created_at);
    execute(pool, statement.bind(subjects).bind(created_at).bind(last)).await
}

/// See [`super::mark_recovered`].
pub(super) async fn mark_recovered(
    pool: &Connections,
    created_at: &BTreeMap<String, DateTime<Utc>>,
) -> Result<(), StoreError> {
    let statement = sqlx::query(
        "insert into outbox_subjects as known (subject, made) select * from unnest($1::text[], $2::timestamptz[]) order by 1 \
         on conflict (subject) do update set made = excluded.made, again_after = 0, again_until = 0, later = null \
         where known.made <> excluded.made",
    );
    let (subjects, created_at): (Vec<&str>, Vec<_>) =
        created_at.iter().map(|(subject, at)| (subject.as_str(), to_micros(*at))).unzip();
    execute(pool, statement.bind(subjects).bind(created_at)).await
}

#[cfg(test)]
mod tests {
    use streams::Bus;
    use streams::memory::MemoryBus;

    use super::*;

    #[test]
    fn no_key_appears_twice_in_a_run_and_rows_stay_in_order() {
        let row = |seq: i64, key: u128| OutboxRow {
            seq,
            message_id: seq.to_string(),
            key: Uuid::from_u128(key),
            subject: "ride.pickup".to_owned(),
            body: String::new(),
            traceparent: String::new(),
            parent_span: None,
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
    fn each_service_recovers_the_subjects_of_its_outbox() {
        let topology = Topology::rideshare();
        let of = |service| -> Vec<(&str, usize)> {
            outbox_streams(&topology, service)
                .iter()
                .map(|(stream, subjects)| (stream.name.as_str(), subjects.len()))
                .collect()
        };
        assert_eq!(of(Service::Users), [("USER_STREAM", 2), ("MATCH_STREAM", 2), ("ADMIN_STREAM", 7)]);
        assert_eq!(of(Service::Match), [("MATCH_STREAM", 2)]);
        assert_eq!(
            of(Service::Rides),
            [("MATCH_STREAM", 1), ("RIDE_STREAM", 6), ("PAYMENT_STREAM", 1), ("ADMIN_STREAM", 3)]
        );
        assert_eq!(of(Service::Location), [("LOCATION_STREAM", 1)]);
    }

    #[tokio::test]
    async fn only_the_streams_that_a_service_publishes_to_hold_its_relay_back() {
        let topology = Topology::rideshare();
        let bus = Bus::Memory(MemoryBus::new("2026-01-01T00:00:00Z".parse().unwrap(), 10));
        bus.apply(&topology).await.unwrap();
        let whole = bus.observe(&topology).await.unwrap();
        let answers = |state: &TopologyState| Service::ALL.map(|service| identities(state, &topology, service).is_ok());
        assert_eq!(answers(&whole), [true; 4]);
        let silent = |service, stream: &str, durable: Option<&str>| {
            let mut state = whole.clone();
            match durable {
                None => state.set_stream(stream, Err("no answer".to_owned())),
                Some(durable) => state.set_consumer(stream, durable, Err("no answer".to_owned())),
            }
            match identities(&state, &topology, service) {
                Ok(_) => "publishes",
                Err(BusError::Unavailable(_)) => "waits",
                Err(_) => "another error",
            }
        };
        for (service, stream, durable, expected) in [
            (Service::Rides, "PAYMENT_STREAM", None, "waits"),
            (Service::Users, "PAYMENT_STREAM", None, "publishes"),
            (Service::Location, "MATCH_STREAM", None, "publishes"),
            (Service::Users, "USER_STREAM", Some("user_beacon_match"), "waits"),
            (Service::Match, "USER_STREAM", Some("user_beacon_match"), "publishes"),
            // A consumer of another subject, and one of a limits stream.
            (Service::Location, "LOCATION_STREAM", Some("location_update_match"), "publishes"),
            (Service::Rides, "RIDE_STREAM", Some("ride_pickup_users"), "publishes"),
        ] {
            assert_eq!(silent(service, stream, durable), expected, "{service} {stream} {durable:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_after_a_reconnect_or_a_failed_publish_needs_a_new_observation() {
        let start = Instant::now() + Duration::from_secs(60);
        let after = |s: f64| start + Duration::from_secs_f64(s);
        let checked =
            |is_sound, is_suspect| RecoveryState { checked_at: Some(start), reconnects: 1, is_sound, is_suspect };
        assert_eq!(RecoveryState::default().due(start, 0), Some(Check::Now), "before anything is published");
        for (state, at, reconnects, due) in [
            (checked(true, false), 0.1, 1, None),
            (checked(true, false), 0.1, 2, Some(Check::Now)),
            (checked(true, false), 5.0, 1, Some(Check::Recent)),
            (checked(true, true), 0.9, 1, None),
            (checked(true, true), 1.0, 1, Some(Check::Now)),
            (checked(false, false), 0.9, 1, None),
            (checked(false, false), 6.0, 1, Some(Check::Now)),
        ] {
            assert_eq!(state.due(after(at), reconnects), due, "{state:?} after {at} s");
        }
    }
}
