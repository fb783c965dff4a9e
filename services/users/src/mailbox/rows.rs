//! The rows of `mailbox_heads` (a cursor for each user) and `mailbox` (the entries).

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::UserId;

use super::{Entry, MailboxCursor, NewEntry, RETENTION, later_entries_of_same_user};
use crate::tables::{EntryRow, MailboxRows, Tables};

/// The most rows that one purge deletes.
pub(crate) const PURGE_MAX: usize = 5_000;

/// PostgreSQL has no unsigned numbers. A `seq` that does not fit is beyond every mailbox anyway.
fn to_bigint(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

fn read_seq(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
}

/// Appends `entries` to their mailboxes, in their order, and returns the `seq` of each.
///
/// Call it once in a transaction, as the last operation: it locks the cursors of all users concerned until the transaction
/// ends. One statement locks them in the order of user ids, so that two writers never deadlock.
pub(crate) async fn append(
    tx: &mut Transaction<Tables>,
    entries: &[NewEntry],
    now: DateTime<Utc>,
) -> Result<Vec<u64>, StoreError> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "with entries as (select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], \
                 $5::timestamptz[], $6::text[]) with ordinality as e (user_id, later, event_id, subject, time, body, n)), \
                 heads as (insert into mailbox_heads as h (user_id, last_seq) \
                 select user_id, count(*) from entries group by user_id order by user_id \
                 on conflict on constraint mailbox_heads_pkey do update set last_seq = h.last_seq + excluded.last_seq \
                 returning user_id, last_seq), \
                 inserted as (insert into mailbox (user_id, seq, event_id, subject, time, body, posted_at) \
                 select user_id, last_seq - later, event_id, subject, time, body, $7 \
                 from entries join heads using (user_id)) \
                 select last_seq - later as seq from entries join heads using (user_id) order by n",
            )
            .bind(column(entries, |e| e.user.0))
            .bind(later_entries_of_same_user(entries))
            .bind(column(entries, |e| e.event_id.as_str()))
            .bind(column(entries, |e| e.subject.as_str()))
            .bind(column(entries, |e| e.time))
            .bind(column(entries, |e| e.body.as_str()))
            .bind(now)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(read_seq(row, "seq")?)).collect()
        }
        On::Memory(tables) => entries.iter().map(|entry| insert(&mut tables.mailboxes, entry, now)).collect(),
    }
}

fn insert(rows: &mut MailboxRows, entry: &NewEntry, now: DateTime<Utc>) -> Result<u64, StoreError> {
    if rows.event_ids.insert((entry.user, entry.event_id.clone())).is_some() {
        return Err(StoreError::Conflict { constraint: "mailbox_event_key".to_owned() });
    }
    let cursor = rows.cursors.entry(entry.user).or_default();
    cursor.last_seq += 1;
    let seq = cursor.last_seq;
    let (event_id, subject) = (entry.event_id.clone(), entry.subject.as_str().to_owned());
    let stored = Entry { seq, event_id, subject, time: entry.time, body: entry.body.clone() };
    rows.entries.insert((entry.user, seq), EntryRow { entry: stored, posted_at: now });
    Ok(seq)
}

fn remove(rows: &mut MailboxRows, key: (UserId, u64)) {
    if let Some(row) = rows.entries.remove(&key) {
        rows.event_ids.remove(&(key.0, row.entry.event_id));
    }
}

/// At most `limit` entries of `user` after `seq`, in order.
pub(crate) async fn entries_after(
    tx: &mut Transaction<Tables>,
    user: UserId,
    seq: u64,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select seq, event_id, subject, time, body from mailbox where user_id = $1 and seq > $2 \
                 order by seq limit $3",
            )
            .bind(user.0)
            .bind(to_bigint(seq))
            .bind(limit as i64)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter()
                .map(|row| {
                    Ok(Entry {
                        seq: read_seq(row, "seq")?,
                        event_id: row.try_get("event_id")?,
                        subject: row.try_get("subject")?,
                        time: row.try_get("time")?,
                        body: row.try_get("body")?,
                    })
                })
                .collect()
        }
        On::Memory(tables) => {
            let later = tables.mailboxes.entries.range((user, seq.saturating_add(1))..=(user, u64::MAX));
            Ok(later.take(limit).map(|(_, row)| row.entry.clone()).collect())
        }
    }
}

/// The cursors of `users`; none for a user who never had an event.
pub(crate) async fn cursors(
    tx: &mut Transaction<Tables>,
    users: &[UserId],
) -> Result<Vec<(UserId, MailboxCursor)>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select user_id, last_seq, acked_seq from mailbox_heads where user_id = any($1)")
                .bind(column(users, |u| u.0))
                .fetch_all(&mut *pg)
                .await?;
            rows.iter()
                .map(|row| {
                    let (last_seq, acked_seq) = (read_seq(row, "last_seq")?, read_seq(row, "acked_seq")?);
                    Ok((UserId(row.try_get("user_id")?), MailboxCursor { last_seq, acked_seq }))
                })
                .collect()
        }
        On::Memory(tables) => {
            let cursors = &tables.mailboxes.cursors;
            Ok(users.iter().filter_map(|user| Some((*user, *cursors.get(user)?))).collect())
        }
    }
}

pub(crate) async fn cursor(tx: &mut Transaction<Tables>, user: UserId) -> Result<MailboxCursor, StoreError> {
    Ok(cursors(tx, &[user]).await?.first().map_or_else(MailboxCursor::default, |(_, cursor)| *cursor))
}

/// Moves the cursor of `user` to `seq` and deletes the entries up to it. Returns false, and changes nothing, if `seq` is
/// beyond the newest entry.
pub(crate) async fn ack(tx: &mut Transaction<Tables>, user: UserId, seq: u64) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let acked = sqlx::query(
                "update mailbox_heads set acked_seq = greatest(acked_seq, $2) where user_id = $1 and last_seq >= $2",
            )
            .bind(user.0)
            .bind(to_bigint(seq))
            .execute(&mut *pg)
            .await?;
            if acked.rows_affected() == 0 {
                return Ok(seq == 0);
            }
            sqlx::query("delete from mailbox where user_id = $1 and seq <= $2")
                .bind(user.0)
                .bind(to_bigint(seq))
                .execute(&mut *pg)
                .await?;
            Ok(true)
        }
        On::Memory(tables) => {
            let rows = &mut tables.mailboxes;
            let Some(cursor) = rows.cursors.get_mut(&user).filter(|cursor| cursor.last_seq >= seq) else {
                return Ok(seq == 0);
            };
            cursor.acked_seq = cursor.acked_seq.max(seq);
            let acked: Vec<_> = rows.entries.range((user, 0)..=(user, seq)).map(|(key, _)| *key).collect();
            acked.into_iter().for_each(|key| remove(rows, key));
            Ok(true)
        }
    }
}

/// Deletes at most [`PURGE_MAX`] entries that have waited for longer than [`RETENTION`], and returns how many.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<usize, StoreError> {
    let before = now - RETENTION;
    match tx.on() {
        On::Postgres(pg) => {
            let deleted = sqlx::query(
                "delete from mailbox where (user_id, seq) in \
                 (select user_id, seq from mailbox where posted_at < $1 limit $2 for update skip locked)",
            )
            .bind(before)
            .bind(PURGE_MAX as i64)
            .execute(&mut *pg)
            .await?;
            Ok(usize::try_from(deleted.rows_affected()).unwrap_or(usize::MAX))
        }
        On::Memory(tables) => {
            let rows = &mut tables.mailboxes;
            let old = rows.entries.iter().filter(|(_, row)| row.posted_at < before);
            let old: Vec<_> = old.take(PURGE_MAX).map(|(key, _)| *key).collect();
            let count = old.len();
            old.into_iter().for_each(|key| remove(rows, key));
            Ok(count)
        }
    }
}
