//! The record in the store: written in the transaction of each step, read in pages, deleted when it is old or too large.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use platform::store::rows::column;
use platform::{On, Store, StoreError};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{Entry, Kind, Recorded, RulesByVersion, RulesVersion, parse_rules};
use crate::tables::{Tables, Tx};

/// An entry is cut into rows of this size.
const PART_BYTES: usize = 512 << 10;
/// The record that is stored at most, whatever MATCH_RECORD_HOURS says: the oldest is deleted. Looked at once an hour.
pub const STORED_BYTES_MAX: i64 = 4 << 30;
/// The same in memory, where it is looked at with every step.
const MEMORY_BYTES_MAX: usize = 64 << 20;
/// Rows deleted in one transaction.
const DELETED_ROWS: i64 = 2_000;
/// Transactions of one purge. What is left then is deleted an hour later.
const DELETIONS_MAX: usize = 5_000;
/// Rules are stored for this long after the last step that used them, whose time is stored to half an hour.
const RULES_GRACE: Duration = Duration::hours(1);

/// An entry by its place in the record: term and number.
pub type At = (i64, i64);

/// Writes what is recorded of a step. Nothing if recording is off.
pub async fn insert(tx: &mut Tx, recorded: &Recorded, now: DateTime<Utc>) -> Result<(), StoreError> {
    if let Some((version, text)) = &recorded.rules {
        insert_rules(tx, *version, text, now).await?;
    }
    if recorded.entries.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            for entry in &recorded.entries {
                // An empty one is one row.
                let parts: Vec<&[u8]> = match entry.bytes.chunks(PART_BYTES).collect::<Vec<_>>() {
                    parts if parts.is_empty() => vec![&[]],
                    parts => parts,
                };
                sqlx::query(
                    "insert into recorded_steps (epoch, number, part, parts, kind, recorded_at, rules_version, bytes, data) \
                     select $1, $2, u.part, $3, $4, $5, $6, octet_length(u.data), u.data \
                     from unnest($7::integer[], $8::bytea[]) as u (part, data)",
                )
                .bind(entry.epoch)
                .bind(entry.number)
                .bind(i32::try_from(parts.len()).unwrap_or(i32::MAX))
                .bind(entry.kind.as_str())
                .bind(entry.at)
                .bind(entry.rules_version.0.cast_signed())
                .bind(column(0..parts.len(), |part| i32::try_from(part).unwrap_or(i32::MAX)))
                .bind(parts)
                .execute(&mut *pg)
                .await?;
            }
        }
        On::Memory(tables) => {
            for entry in &recorded.entries {
                tables.recorded_bytes += entry.bytes.len();
                tables.recorded_steps.insert((entry.epoch, entry.number), entry.clone());
            }
            while tables.recorded_bytes > MEMORY_BYTES_MAX
                && let Some((at, oldest)) = tables.recorded_steps.get_min().cloned()
            {
                tables.recorded_bytes -= oldest.bytes.len();
                tables.recorded_steps.remove(&at);
            }
        }
    }
    Ok(())
}

async fn insert_rules(tx: &mut Tx, version: RulesVersion, text: &str, now: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into recorded_rules (version, rules, used_at) values ($1, $2, $3) \
                 on conflict (version) do update set used_at = excluded.used_at \
                 where recorded_rules.used_at < excluded.used_at - interval '30 minutes'",
            )
            .bind(version.0.cast_signed())
            .bind(text)
            .bind(now)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            tables.recorded_rules.insert(version, (text.into(), now));
        }
    }
    Ok(())
}

/// All rules that are stored.
///
/// # Errors
/// [`StoreError::Other`] if another version of the program wrote some that this one cannot read.
pub async fn rules(tx: &mut Tx) -> Result<RulesByVersion, StoreError> {
    let texts: BTreeMap<RulesVersion, String> = match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select version, rules from recorded_rules order by version").fetch_all(pg).await?;
            let read = |row: &PgRow| Ok((version(row, "version")?, row.try_get("rules")?));
            rows.iter().map(read).collect::<Result<_, StoreError>>()?
        }
        On::Memory(tables) => tables.recorded_rules.iter().map(|(v, (text, _))| (*v, text.to_string())).collect(),
    };
    let parsed = texts.into_iter().map(|(version, text)| Ok((version, parse_rules(&text)?)));
    parsed.collect::<Result<_, String>>().map_err(StoreError::Other)
}

/// Of each term that lasted beyond `at` the newest snapshot that is not later, else its oldest one; in the order of terms. If there is no
/// such term, of the last one.
pub async fn snapshots_before(tx: &mut Tx, at: DateTime<Utc>) -> Result<Vec<At>, StoreError> {
    let mut terms: Vec<(At, DateTime<Utc>)> = match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select s.epoch, s.number, (select recorded_at from recorded_steps l where l.epoch = s.epoch \
                 order by l.number desc limit 1) as last_at from (select distinct on (epoch) epoch, number \
                 from recorded_steps where kind = 'snapshot' order by epoch, recorded_at > $1, \
                 case when recorded_at > $1 then number else -number end) as s order by s.epoch",
            )
            .bind(at)
            .fetch_all(&mut *pg)
            .await?;
            let read = |row: &PgRow| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?));
            rows.iter().map(read).collect::<Result<_, StoreError>>()?
        }
        On::Memory(tables) => {
            let mut terms: BTreeMap<i64, (At, DateTime<Utc>)> = BTreeMap::new();
            for (place, entry) in &tables.recorded_steps {
                let is_snapshot = entry.kind == Kind::Snapshot;
                match terms.get_mut(&place.0) {
                    None if is_snapshot => _ = terms.insert(place.0, (*place, entry.at)),
                    None => {}
                    Some((newest, last_at)) => {
                        *last_at = entry.at;
                        if is_snapshot && entry.at <= at {
                            *newest = *place;
                        }
                    }
                }
            }
            terms.into_values().collect()
        }
    };
    if terms.iter().any(|(_, last_at)| *last_at >= at) {
        terms.retain(|(_, last_at)| *last_at >= at);
    } else {
        terms = terms.pop().into_iter().collect();
    }
    Ok(terms.into_iter().map(|(place, _)| place).collect())
}

/// Entries from `from` on, in their order: at most `count`, and no more once they have `bytes`. One whose rows are not all there ends
/// the page before it.
pub async fn page(tx: &mut Tx, from: At, count: usize, bytes: usize) -> Result<Vec<Entry>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let mut entries: Vec<Entry> = Vec::new();
            let (mut next, mut total) = (from, 0);
            while entries.len() < count && total < bytes {
                // The sizes first, so that no more is read than fits.
                let sizes = sqlx::query(
                    "select epoch, number, parts, kind, recorded_at, rules_version, sum(bytes) as bytes, count(*) as found \
                     from recorded_steps where (epoch, number) in (select epoch, number from recorded_steps \
                     where (epoch, number, part) >= ($1, $2, 0) order by epoch, number, part limit $3) \
                     group by epoch, number, parts, kind, recorded_at, rules_version order by epoch, number",
                )
                .bind(next.0)
                .bind(next.1)
                .bind(i64::try_from((count - entries.len()).min(256)).unwrap_or(256))
                .fetch_all(&mut *pg)
                .await?;
                let mut of_page: Vec<Entry> = Vec::new();
                let mut is_whole = true;
                for row in &sizes {
                    let (parts, found): (i32, i64) = (row.try_get("parts")?, row.try_get("found")?);
                    let size: i64 = row.try_get("bytes")?;
                    if i64::from(parts) != found {
                        is_whole = false;
                        break;
                    }
                    total += usize::try_from(size).unwrap_or_default();
                    of_page.push(read_head(row)?);
                    if total >= bytes {
                        break;
                    }
                }
                let Some(last) = of_page.last().map(|entry| (entry.epoch, entry.number)) else { break };
                let data = sqlx::query(
                    "select epoch, number, data from recorded_steps where (epoch, number, part) >= ($1, $2, 0) \
                     and (epoch, number) <= ($3, $4) order by epoch, number, part",
                )
                .bind(next.0)
                .bind(next.1)
                .bind(last.0)
                .bind(last.1)
                .fetch_all(&mut *pg)
                .await?;
                let mut bodies: BTreeMap<At, Vec<u8>> = BTreeMap::new();
                for row in &data {
                    let body = bodies.entry((row.try_get(0)?, row.try_get(1)?)).or_default();
                    body.extend_from_slice(row.try_get::<&[u8], _>(2)?);
                }
                for entry in &mut of_page {
                    let body = bodies.remove(&(entry.epoch, entry.number)).unwrap_or_default();
                    entry.bytes = body.into();
                }
                entries.extend(of_page);
                next = (last.0, last.1 + 1);
                if !is_whole {
                    break;
                }
            }
            Ok(entries)
        }
        On::Memory(tables) => {
            let mut total = 0;
            let fits = |entry: &&Entry| {
                let before = total;
                total += entry.bytes.len();
                before < bytes
            };
            Ok(tables.recorded_steps.range(from..).map(|(_, e)| e).take(count).take_while(fits).cloned().collect())
        }
    }
}

fn version(row: &PgRow, column: &str) -> Result<RulesVersion, StoreError> {
    Ok(RulesVersion(row.try_get::<i64, _>(column)?.cast_unsigned()))
}

fn read_head(row: &PgRow) -> Result<Entry, StoreError> {
    let kind: &str = row.try_get("kind")?;
    let kind = Kind::ALL.into_iter().find(|k| k.as_str() == kind);
    Ok(Entry {
        epoch: row.try_get("epoch")?,
        number: row.try_get("number")?,
        // What a later version calls otherwise is nothing that can be run again.
        kind: kind.unwrap_or(Kind::Gap),
        at: row.try_get("recorded_at")?,
        rules_version: version(row, "rules_version")?,
        bytes: [].into(),
    })
}

/// Deletes what is older than `stored_for`, and the oldest of what is more than [`STORED_BYTES_MAX`], in transactions of
/// 2,000 rows.
pub async fn purge(store: &Store<Tables>, now: DateTime<Utc>, stored_for: Duration) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let from = (now - stored_for).max(too_large_until(&mut tx).await?.unwrap_or(DateTime::<Utc>::MIN_UTC));
    drop(tx);
    for _ in 0..DELETIONS_MAX {
        let mut tx = store.begin().await?;
        let deleted = delete_before(&mut tx, from).await?;
        tx.commit().await?;
        if deleted < DELETED_ROWS {
            break;
        }
    }
    let mut tx = store.begin().await?;
    let rules_from = now - stored_for - RULES_GRACE;
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from recorded_rules where used_at < $1").bind(rules_from).execute(&mut *pg).await?;
        }
        On::Memory(tables) => {
            let used = tables.recorded_rules.iter().filter(|(_, (_, used_at))| *used_at >= rules_from);
            tables.recorded_rules = used.map(|(version, rules)| (*version, rules.clone())).collect();
        }
    }
    tx.commit().await
}

/// Up to when the record is to be deleted, because all of it is too large.
async fn too_large_until(tx: &mut Tx) -> Result<Option<DateTime<Utc>>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select recorded_at from (select recorded_at, sum(bytes) over (order by recorded_at desc) as newer \
                 from recorded_steps) as s where newer > $1 order by recorded_at desc limit 1",
            )
            .bind(STORED_BYTES_MAX)
            .fetch_optional(&mut *pg)
            .await?;
            Ok(row.map(|row| row.try_get(0)).transpose()?)
        }
        // Deleted as it is written.
        On::Memory(_) => Ok(None),
    }
}

async fn delete_before(tx: &mut Tx, from: DateTime<Utc>) -> Result<i64, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let done = sqlx::query(
                "delete from recorded_steps where (epoch, number, part) in (select epoch, number, part \
                 from recorded_steps where recorded_at < $1 order by recorded_at limit $2)",
            )
            .bind(from)
            .bind(DELETED_ROWS)
            .execute(&mut *pg)
            .await?;
            Ok(i64::try_from(done.rows_affected()).unwrap_or(i64::MAX))
        }
        On::Memory(tables) => {
            while let Some((at, oldest)) = tables.recorded_steps.get_min().filter(|(_, e)| e.at < from).cloned() {
                tables.recorded_bytes -= oldest.bytes.len();
                tables.recorded_steps.remove(&at);
            }
            Ok(0)
        }
    }
}
