//! The rows of `mailbox_devices`: the devices of each user, and how far each has read.

use chrono::{DateTime, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::UserId;

use super::{DEVICES_MAX, Device, RETENTION, SEEN_PRECISION};
use crate::tables::{DeviceRow, Tables};

/// The most rows that one purge deletes.
const PURGE_MAX: i64 = 5_000;

/// Records that a socket of `device` has opened. A device that is new has everything up to `has_seq`.
pub(crate) async fn open_device(
    tx: &mut Transaction<Tables>,
    user: UserId,
    device: &Device,
    has_seq: u64,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "insert into mailbox_devices (user_id, device, acked_seq, seen_at) values ($1, $2, $3, $4) \
                 on conflict on constraint mailbox_devices_pkey do update set seen_at = excluded.seen_at \
                 returning xmax = 0 as is_new",
            )
            .bind(user.0)
            .bind(device.as_str())
            .bind(i64::try_from(has_seq).unwrap_or(i64::MAX))
            .bind(now)
            .fetch_one(&mut *pg)
            .await?;
            if row.try_get("is_new")? {
                sqlx::query(
                    "delete from mailbox_devices where user_id = $1 and device in (select device from mailbox_devices \
                     where user_id = $1 and device <> $2 order by seen_at desc, device offset $3)",
                )
                .bind(user.0)
                .bind(device.as_str())
                .bind(DEVICES_MAX - 1)
                .execute(&mut *pg)
                .await?;
            }
        }
        On::Memory(tables) => {
            let rows = &mut tables.mailboxes.devices;
            let new = DeviceRow { acked_seq: has_seq, seen_at: now };
            rows.entry((user, device.clone())).or_insert(new).seen_at = now;
            let of_user = rows.range((user, Device::UNNAMED)..).take_while(|((of, _), _)| *of == user);
            let mut others: Vec<_> =
                of_user.filter(|(key, _)| key.1 != *device).map(|(key, row)| (row.seen_at, key.clone())).collect();
            others.sort_unstable_by(|a, b| (b.0, &a.1).cmp(&(a.0, &b.1)));
            let most = usize::try_from(DEVICES_MAX - 1).unwrap_or(0);
            others.into_iter().skip(most).for_each(|(_, key)| {
                rows.remove(&key);
            });
        }
    }
    Ok(())
}

/// The devices of a user, in the order of their names, with what each has read.
pub(crate) async fn of_user(
    tx: &mut Transaction<Tables>,
    user: UserId,
) -> Result<Vec<(String, DeviceRow)>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select device, acked_seq, seen_at from mailbox_devices where user_id = $1 order by device collate \"C\"",
            )
            .bind(user.0)
            .fetch_all(&mut *pg)
            .await?;
            let read = |row: &PgRow| -> Result<(String, DeviceRow), StoreError> {
                let acked_seq = u64::try_from(row.try_get::<i64, _>("acked_seq")?).unwrap_or(0);
                Ok((row.try_get("device")?, DeviceRow { acked_seq, seen_at: row.try_get("seen_at")? }))
            };
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let rows = tables.mailboxes.devices.range((user, Device::UNNAMED)..);
            let of_user = rows.take_while(|((of, _), _)| *of == user);
            Ok(of_user.map(|((_, device), row)| (device.as_str().to_owned(), *row)).collect())
        }
    }
}

/// Records that these devices are still connected.
pub(crate) async fn touch_devices(
    tx: &mut Transaction<Tables>,
    devices: &[(UserId, Device)],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let before = now - SEEN_PRECISION;
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "with due as (select d.user_id, d.device from mailbox_devices d \
                 join unnest($1::uuid[], $2::text[]) as c (user_id, device) using (user_id, device) \
                 where d.seen_at < $3 order by d.user_id, d.device for update of d) \
                 update mailbox_devices d set seen_at = $4 from due \
                 where d.user_id = due.user_id and d.device = due.device",
            )
            .bind(column(devices, |(user, _)| user.0))
            .bind(column(devices, |(_, device)| device.as_str()))
            .bind(before)
            .bind(now)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            for key in devices {
                if let Some(row) = tables.mailboxes.devices.get_mut(key).filter(|row| row.seen_at < before) {
                    row.seen_at = now;
                }
            }
        }
    }
    Ok(())
}

/// Deletes the marks of devices that nobody waits for any more.
pub(crate) async fn purge_devices(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    let before = now - RETENTION - SEEN_PRECISION;
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "delete from mailbox_devices where (user_id, device) in \
                 (select user_id, device from mailbox_devices where seen_at <= $1 limit $2 for update skip locked)",
            )
            .bind(before)
            .bind(PURGE_MAX)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let rows = &mut tables.mailboxes.devices;
            let old: Vec<_> =
                rows.iter().filter(|(_, row)| row.seen_at <= before).map(|(key, _)| key.clone()).collect();
            old.into_iter().for_each(|key| {
                rows.remove(&key);
            });
        }
    }
    Ok(())
}
