//! The rows of `mailbox_heads` (a cursor for each user) and `mailbox` (the entries), and what an acknowledgement changes in
//! `mailbox_devices`, whose other rows are in `device_rows`.

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::UserId;

use super::{
    Appended, CUT_EVERY, Device, ENTRIES_MAX, Entry, MailboxCursor, MissedRange, NewEntry, RETENTION, SEEN_PRECISION,
    later_entries_of_same_user, to_be_counted,
};
use crate::push::notice::{self, Notice};
use crate::push::queue::PushRows;
use crate::push::rows::SOCKET_WAIT;
use crate::tables::{DeviceRow, EntryRow, MailboxRows, Tables};

/// The most rows that one purge deletes.
pub(crate) const PURGE_MAX: usize = 5_000;

/// PostgreSQL has no unsigned numbers. A `seq` that does not fit is beyond every mailbox anyway.
fn to_bigint(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

fn read_seq(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
}

/// Appends `entries` to their mailboxes, in their order, with their pushes to the devices of their users, and returns the `seq` of each.
///
/// Call it once in a transaction, as the last operation: it locks the cursors of all users concerned until the transaction
/// ends. One statement locks them in the order of user ids, so that two writers never deadlock.
pub(crate) async fn append(
    tx: &mut Transaction<Tables>,
    entries: &[NewEntry],
    now: DateTime<Utc>,
) -> Result<Vec<Appended>, StoreError> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let appended = insert_all(tx, entries, now).await?;
    for user in to_be_counted(entries, &column(&appended, |one| one.seq)) {
        cut(tx, user).await?;
    }
    Ok(appended)
}

async fn insert_all(
    tx: &mut Transaction<Tables>,
    entries: &[NewEntry],
    now: DateTime<Utc>,
) -> Result<Vec<Appended>, StoreError> {
    let notices = column(entries, notice::of_entry);
    let push_at = now + SOCKET_WAIT;
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "with entries as (select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], \
                 $5::timestamptz[], $6::text[], $8::text[], $9::bool[], $10::uuid[], $11::timestamptz[]) with ordinality \
                 as e (user_id, later, event_id, subject, time, body, message, urgent, topic, expires_at, n)), \
                 heads as (insert into mailbox_heads as h (user_id, last_seq) \
                 select user_id, count(*) from entries group by user_id order by user_id \
                 on conflict on constraint mailbox_heads_pkey do update set last_seq = h.last_seq + excluded.last_seq \
                 returning user_id, last_seq), \
                 inserted as (insert into mailbox (user_id, seq, event_id, subject, time, body, posted_at) \
                 select user_id, last_seq - later, event_id, subject, time, body, $7 \
                 from entries join heads using (user_id)), \
                 pushed as (insert into pushes \
                 (user_id, seq, device_id, event_id, message, urgent, topic, expires_at, due_at, tries) \
                 select user_id, last_seq - later, device_id, event_id, message, urgent, topic, expires_at, $12, 0 \
                 from entries join heads using (user_id) join push_devices using (user_id) where message is not null \
                 returning user_id, seq) \
                 select last_seq - later as seq, \
                 exists (select from pushed p where p.user_id = e.user_id and p.seq = last_seq - later) as is_pushed \
                 from entries e join heads using (user_id) order by n",
            )
            .bind(column(entries, |e| e.user.0))
            .bind(later_entries_of_same_user(entries))
            .bind(column(entries, |e| e.event_id.as_str()))
            .bind(column(entries, |e| e.subject.as_str()))
            .bind(column(entries, |e| e.time))
            .bind(column(entries, |e| e.body.as_str()))
            .bind(now)
            .bind(column(&notices, |notice| notice.as_ref().map(|notice| notice.message.as_str())))
            .bind(column(&notices, |notice| notice.as_ref().map(|notice| notice.urgent)))
            .bind(column(&notices, |notice| notice.as_ref().map(|notice| notice.topic)))
            .bind(column(&notices, |notice| notice.as_ref().map(|notice| notice.expires_at)))
            .bind(push_at)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter()
                .map(|row| Ok(Appended { seq: read_seq(row, "seq")?, is_pushed: row.try_get("is_pushed")? }))
                .collect()
        }
        On::Memory(tables) => {
            let mut insert_with_push = |(entry, notice): (&NewEntry, &Option<Notice>)| {
                let seq = insert(&mut tables.mailboxes, entry, now)?;
                let mut push =
                    |notice| PushRows::insert(&mut tables.push, entry.user, seq, &entry.event_id, notice, push_at);
                Ok(Appended { seq, is_pushed: notice.as_ref().is_some_and(&mut push) })
            };
            entries.iter().zip(&notices).map(&mut insert_with_push).collect()
        }
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

/// Deletes what is too much in the mailbox of `user`: the oldest beacons first, then the oldest entries.
async fn cut(tx: &mut Transaction<Tables>, user: UserId) -> Result<(), StoreError> {
    let left = ENTRIES_MAX - CUT_EVERY;
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select count(*) as entries from mailbox where user_id = $1")
                .bind(user.0)
                .fetch_one(&mut *pg)
                .await?;
            let excess = read_seq(&row, "entries")?.saturating_sub(left);
            if excess > 0 {
                sqlx::query(
                    "delete from mailbox where user_id = $1 and seq in (select seq from mailbox where user_id = $1 \
                     order by subject <> 'user.beacon', seq limit $2)",
                )
                .bind(user.0)
                .bind(to_bigint(excess))
                .execute(&mut *pg)
                .await?;
            }
        }
        On::Memory(tables) => {
            let rows = &mut tables.mailboxes;
            let all = rows.entries.range((user, 0)..=(user, u64::MAX));
            let mut keys: Vec<(bool, u64)> =
                all.map(|((_, seq), row)| (row.entry.subject != "user.beacon", *seq)).collect();
            keys.sort_unstable();
            let excess = keys.len().saturating_sub(usize::try_from(left).unwrap_or(usize::MAX));
            keys.into_iter().take(excess).for_each(|(_, seq)| remove(rows, (user, seq)));
        }
    }
    Ok(())
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

/// As [`cursor`]; it waits for transactions that append to this mailbox, and they for the end of this one.
pub(crate) async fn lock_cursor(tx: &mut Transaction<Tables>, user: UserId) -> Result<MailboxCursor, StoreError> {
    if let On::Postgres(pg) = tx.on() {
        sqlx::query("select from mailbox_heads where user_id = $1 for share").bind(user.0).execute(&mut *pg).await?;
    }
    cursor(tx, user).await
}

/// The range of the entries of `user` after `seq` and up to `last_seq` that are no longer there; `None` if all are.
pub(crate) async fn missed(
    tx: &mut Transaction<Tables>,
    user: UserId,
    seq: u64,
    last_seq: u64,
) -> Result<Option<MissedRange>, StoreError> {
    if seq >= last_seq {
        return Ok(None);
    }
    let (first, last, count, last_gap) = match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select coalesce(min(seq), 0) as first, coalesce(max(seq), 0) as last, count(*) as entries, \
                 coalesce(max(seq) filter (where seq - 1 <> before), 0) as last_gap from \
                 (select seq, lag(seq, 1, $2) over (order by seq) as before from mailbox \
                 where user_id = $1 and seq > $2 and seq <= $3) as entries",
            )
            .bind(user.0)
            .bind(to_bigint(seq))
            .bind(to_bigint(last_seq))
            .fetch_one(&mut *pg)
            .await?;
            (read_seq(&row, "first")?, read_seq(&row, "last")?, read_seq(&row, "entries")?, read_seq(&row, "last_gap")?)
        }
        On::Memory(tables) => {
            let (mut first, mut before, mut count, mut last_gap) = (0, seq, 0, 0);
            for (_, entry) in tables.mailboxes.entries.range((user, seq + 1)..=(user, last_seq)).map(|(key, _)| *key) {
                first = if count == 0 { entry } else { first };
                last_gap = if entry - 1 == before { last_gap } else { entry };
                (before, count) = (entry, count + 1);
            }
            (first, if count == 0 { 0 } else { before }, count, last_gap)
        }
    };
    if count == last_seq - seq {
        return Ok(None);
    }
    let from = if count == 0 || first > seq + 1 { seq + 1 } else { first_gap(tx, user, seq, last_seq).await? };
    let to = if last < last_seq { last_seq } else { last_gap - 1 };
    Ok(Some(MissedRange { from, to }))
}

/// The first number after `seq` that has no entry, if the entry `seq` + 1 is there and a later one is not.
async fn first_gap(tx: &mut Transaction<Tables>, user: UserId, seq: u64, last_seq: u64) -> Result<u64, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select coalesce(max(seq), $2) + 1 as gap from \
                 (select seq, row_number() over (order by seq) as n from mailbox \
                 where user_id = $1 and seq > $2 and seq <= $3) as entries where seq = $2 + n",
            )
            .bind(user.0)
            .bind(to_bigint(seq))
            .bind(to_bigint(last_seq))
            .fetch_one(&mut *pg)
            .await?;
            Ok(read_seq(&row, "gap")?)
        }
        On::Memory(tables) => {
            let entries = &tables.mailboxes.entries;
            Ok((seq + 1..=last_seq).find(|n| !entries.contains_key(&(user, *n))).unwrap_or(last_seq))
        }
    }
}

/// Moves the mark of `device` to `seq`, and deletes the entries that every device seen in the last day has acknowledged. As
/// long as a socket without a device was seen, none is deleted: nobody can tell for whom it would speak. What a device has acknowledged is
/// pushed to none. Returns false, and has changed nothing that may be committed, if `seq` is beyond the newest entry.
pub(crate) async fn ack(
    tx: &mut Transaction<Tables>,
    user: UserId,
    device: &Device,
    seq: u64,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let seen_after = now - RETENTION - SEEN_PRECISION;
    match tx.on() {
        On::Postgres(pg) => {
            let acked = sqlx::query(
                "with taken as (delete from pushes where user_id = $1 and seq <= $2) \
                 update mailbox_heads set acked_seq = greatest(acked_seq, $2) where user_id = $1 and last_seq >= $2",
            )
            .bind(user.0)
            .bind(to_bigint(seq))
            .execute(&mut *pg)
            .await?;
            if acked.rows_affected() == 0 {
                return Ok(seq == 0);
            }
            sqlx::query(
                "insert into mailbox_devices as d (user_id, device, acked_seq, seen_at) values ($1, $2, $3, $4) \
                 on conflict on constraint mailbox_devices_pkey do update \
                 set acked_seq = greatest(d.acked_seq, excluded.acked_seq), seen_at = excluded.seen_at",
            )
            .bind(user.0)
            .bind(device.as_str())
            .bind(to_bigint(seq))
            .bind(now)
            .execute(&mut *pg)
            .await?;
            if *device != Device::UNNAMED {
                sqlx::query(
                    "delete from mailbox where user_id = $1 and seq <= (select min(acked_seq) from mailbox_devices \
                     where user_id = $1 and seen_at > $2) and not exists \
                     (select from mailbox_devices where user_id = $1 and device = '' and seen_at > $2)",
                )
                .bind(user.0)
                .bind(seen_after)
                .execute(&mut *pg)
                .await?;
            }
            Ok(true)
        }
        On::Memory(tables) => {
            let rows = &mut tables.mailboxes;
            let Some(cursor) = rows.cursors.get_mut(&user).filter(|cursor| cursor.last_seq >= seq) else {
                return Ok(seq == 0);
            };
            cursor.acked_seq = cursor.acked_seq.max(seq);
            tables.push.remove_up_to(user, seq);
            let mark = rows.devices.entry((user, device.clone())).or_insert(DeviceRow { acked_seq: 0, seen_at: now });
            *mark = DeviceRow { acked_seq: mark.acked_seq.max(seq), seen_at: now };
            let of_user = rows.devices.range((user, Device::UNNAMED)..).take_while(|((of, _), _)| *of == user);
            let seen = of_user.filter(|(_, row)| row.seen_at > seen_after);
            let acked_by_all =
                seen.map(|((_, device), row)| if *device == Device::UNNAMED { 0 } else { row.acked_seq }).min();
            let acked = rows.entries.range((user, 0)..=(user, acked_by_all.unwrap_or(0)));
            let acked: Vec<_> = acked.map(|(key, _)| *key).collect();
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

/// Deletes all that there is of the mailboxes of `users`, with the marks of their devices. As [`append`], the last operation of a
/// transaction.
pub(crate) async fn erase(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            for statement in [
                "delete from mailbox_heads where user_id in \
                 (select user_id from mailbox_heads where user_id = any($1) order by user_id for update)",
                "delete from mailbox where user_id = any($1)",
                "delete from mailbox_devices where user_id = any($1)",
            ] {
                sqlx::query(statement).bind(column(users, |user| user.0)).execute(&mut *pg).await?;
            }
        }
        On::Memory(tables) => {
            let rows = &mut tables.mailboxes;
            for user in users {
                rows.cursors.remove(user);
                let entries: Vec<_> = rows.entries.range((*user, 0)..=(*user, u64::MAX)).map(|(key, _)| *key).collect();
                entries.into_iter().for_each(|key| remove(rows, key));
                let of_user = rows.devices.range((*user, Device::UNNAMED)..).take_while(|((of, _), _)| of == user);
                let devices: Vec<_> = of_user.map(|(key, _)| key.clone()).collect();
                devices.into_iter().for_each(|key| {
                    rows.devices.remove(&key);
                });
            }
        }
    }
    Ok(())
}
