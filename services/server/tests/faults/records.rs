//! What a run has left: all rows, RIDE_STREAM and the dead letters, read directly from PostgreSQL and NATS. It judges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use streams::Bus;
use streams::bus::{ReplayStart, StoredMessage};
use streams::topology::{DEAD_LETTER_STREAM, Topology};

/// The schema of each service, by its name.
pub(crate) const SCHEMAS: [(&str, &str); 4] =
    [("users", "users"), ("match", "matching"), ("rides", "rides"), ("location", "location")];

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct RideRow {
    pub(crate) ride_id: String,
    pub(crate) match_id: String,
    pub(crate) driver_id: String,
    pub(crate) passenger_id: String,
    pub(crate) version: i64,
    pub(crate) status: String,
    pub(crate) last_hash: String,
}

/// A row of `rides.events`.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct EventRow {
    pub(crate) ride_id: String,
    pub(crate) version: i64,
    pub(crate) message_id: String,
    pub(crate) body: String,
}

/// A row of the outbox of `service`.
#[derive(Debug)]
pub(crate) struct OutboxRow {
    pub(crate) service: &'static str,
    pub(crate) message_id: String,
    pub(crate) subject: String,
    pub(crate) body: Value,
    pub(crate) pod: String,
    pub(crate) published: bool,
}

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct LedgerEntry {
    pub(crate) transaction_id: String,
    pub(crate) ride_id: String,
    pub(crate) kind: String,
    pub(crate) account: String,
    pub(crate) amount: i64,
}

#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) rides: Vec<RideRow>,
    pub(crate) events: Vec<EventRow>,
    /// In each service's order of writing.
    pub(crate) outbox: Vec<OutboxRow>,
    /// Consumer and message id, of all services.
    pub(crate) inbox: BTreeSet<(String, String)>,
    pub(crate) ledger: Vec<LedgerEntry>,
    /// RideRow, amount, status.
    pub(crate) payments: Vec<(String, i64, String)>,
    /// Of each user, the last `seq` given out and the acked one.
    pub(crate) mailbox_heads: BTreeMap<String, (u64, u64)>,
    /// User, `seq`, event.
    pub(crate) mailboxes: Vec<(String, u64, String)>,
    pub(crate) ride_stream: Vec<StoredMessage>,
    pub(crate) dead: Vec<StoredMessage>,
}

impl Records {
    pub(crate) async fn read(database: &str, bus: &Bus) -> Self {
        let mut records = Self::default();
        let mut pg = PgConnection::connect(database).await.unwrap();
        for (service, schema) in SCHEMAS {
            records.read_consumer(&mut pg, service, schema).await;
        }
        records.read_rides(&mut pg).await;
        records.read_mailboxes(&mut pg).await;
        records.ride_stream = stored(bus, "RIDE_STREAM").await;
        records.dead = stored(bus, DEAD_LETTER_STREAM).await;
        records
    }

    async fn read_consumer(&mut self, pg: &mut PgConnection, service: &'static str, schema: &str) {
        let rows: Vec<(String, String, String, String, bool)> = sqlx::query_as(AssertSqlSafe(format!(
            "select message_id, subject, body, pod, published_at is not null from {schema}.outbox order by seq"
        )))
        .fetch_all(&mut *pg)
        .await
        .unwrap();
        self.outbox.extend(rows.into_iter().map(|(message_id, subject, body, pod, published)| OutboxRow {
            service,
            message_id,
            subject,
            body: serde_json::from_str(&body).unwrap(),
            pod,
            published,
        }));
        let processed: Vec<(String, String)> =
            sqlx::query_as(AssertSqlSafe(format!("select consumer, message_id from {schema}.inbox")))
                .fetch_all(&mut *pg)
                .await
                .unwrap();
        self.inbox.extend(processed);
    }

    async fn read_rides(&mut self, pg: &mut PgConnection) {
        self.rides = sqlx::query_as(
            "select ride_id::text, match_id::text, driver_id::text, passenger_id::text, \
             version::bigint, status, last_hash from rides.rides order by ride_id",
        )
        .fetch_all(&mut *pg)
        .await
        .unwrap();
        self.events = sqlx::query_as(
            "select ride_id::text, version::bigint, message_id, body from rides.events order by rides.events.ride_id, version",
        )
        .fetch_all(&mut *pg)
        .await
        .unwrap();
        self.ledger = sqlx::query_as(
            "select transaction_id::text, ride_id::text, kind, account, amount from rides.ledger_entries",
        )
        .fetch_all(&mut *pg)
        .await
        .unwrap();
        self.payments = sqlx::query_as("select ride_id::text, amount, status from rides.payments")
            .fetch_all(&mut *pg)
            .await
            .unwrap();
    }

    async fn read_mailboxes(&mut self, pg: &mut PgConnection) {
        let seq = |n: i64| u64::try_from(n).unwrap();
        let mailbox_heads: Vec<(String, i64, i64)> =
            sqlx::query_as("select user_id::text, last_seq, acked_seq from users.mailbox_heads")
                .fetch_all(&mut *pg)
                .await
                .unwrap();
        self.mailbox_heads =
            mailbox_heads.into_iter().map(|(user, last, acked)| (user, (seq(last), seq(acked)))).collect();
        let entries: Vec<(String, i64, String)> =
            sqlx::query_as("select user_id::text, seq, event_id from users.mailbox").fetch_all(&mut *pg).await.unwrap();
        self.mailboxes = entries.into_iter().map(|(user, n, event)| (user, seq(n), event)).collect();
    }
}

/// All messages of a stream.
async fn stored(bus: &Bus, stream: &str) -> Vec<StoredMessage> {
    let count = bus.stream_info(stream).await.unwrap().messages;
    let mut replay = bus.replay(stream, None, ReplayStart::Sequence(1)).await.unwrap();
    let mut all = Vec::new();
    while (all.len() as u64) < count {
        let next = replay.next(Duration::from_secs(10)).await.unwrap();
        all.push(next.unwrap_or_else(|| panic!("{stream}: message {} of {count} does not come", all.len() + 1)));
    }
    all
}

/// What is not at rest yet: events not published, messages not acknowledged, offers and rides that have not ended.
pub(crate) async fn unrest(database: &str, bus: &Bus) -> Vec<String> {
    let mut unrest = Vec::new();
    let mut pg = match PgConnection::connect(database).await {
        Ok(pg) => pg,
        Err(error) => return vec![format!("PostgreSQL: {error}")],
    };
    let mut counts: Vec<(String, String)> = SCHEMAS
        .iter()
        .map(|(service, schema)| {
            let what = format!("events in the outbox of {service}");
            (what, format!("select count(*) from {schema}.outbox where published_at is null"))
        })
        .collect();
    for (what, query) in [
        ("live offers", "select count(*) from matching.offers where ended_at is null"),
        ("live rides in match", "select count(*) from matching.rides where ended_at is null"),
        ("events that wait for zones of match", "select count(*) from matching.zone_inputs"),
        ("open requests in match", "select count(*) from matching.requests where ended_at is null"),
        ("live rides", "select count(*) from rides.rides where status not in ('completed', 'cancelled')"),
        ("pending payments", "select count(*) from rides.payments where status = 'pending'"),
    ] {
        counts.push((what.to_owned(), query.to_owned()));
    }
    for (what, query) in counts {
        match sqlx::query_scalar::<_, i64>(AssertSqlSafe(query)).fetch_one(&mut pg).await {
            Ok(0) => {}
            Ok(count) => unrest.push(format!("{count} {what}")),
            Err(error) => unrest.push(format!("{what}: {error}")),
        }
    }
    for consumer in Topology::rideshare().consumers {
        match bus.consumer_info(&consumer.stream, &consumer.durable).await {
            Ok(info) if info.pending + info.ack_pending == 0 => {}
            Ok(info) => unrest
                .push(format!("{}: {} pending, {} not acknowledged", consumer.durable, info.pending, info.ack_pending)),
            Err(error) => unrest.push(format!("{}: {error}", consumer.durable)),
        }
    }
    unrest
}
