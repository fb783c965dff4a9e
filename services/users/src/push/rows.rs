//! The rows of `push_devices` and `pushes`. Pushes are inserted with the entries of the mailbox, in `mailbox/rows.rs`.

use aws_lc_rs::digest;
use chrono::{DateTime, TimeDelta, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{SignInId, UserId};
use uuid::Uuid;

use super::device::{DEVICES_MAX, PushDevice, PushPlatform, token_hash};
pub(crate) use super::queue::PushKey;
use crate::tables::Tables;

/// A push is sent if no socket took its event in this time.
pub(crate) const SOCKET_WAIT: TimeDelta = TimeDelta::seconds(1);

/// A push that this process is to send now.
#[derive(Debug, Clone)]
pub(crate) struct Claimed {
    pub(crate) user: UserId,
    pub(crate) seq: u64,
    pub(crate) device: Uuid,
    pub(crate) event_id: String,
    pub(crate) message: String,
    pub(crate) urgent: bool,
    pub(crate) topic: Uuid,
    pub(crate) expires_at: DateTime<Utc>,
    /// With this one.
    pub(crate) tries: i32,
    /// `None` if the device is not the user's any more.
    pub(crate) target: Option<(PushPlatform, String)>,
}

impl Claimed {
    pub(crate) fn key(&self) -> PushKey {
        (self.user, self.seq, self.device)
    }

    /// The id of the push: the same on every try, and another one for every device and event.
    pub(crate) fn push_id(&self) -> Uuid {
        let hash = digest::digest(&digest::SHA256, format!("{} {}", self.event_id, self.device).as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_ref()[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }
}

fn to_bigint(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

fn read_device(row: &PgRow) -> Result<PushDevice, StoreError> {
    let name: &str = row.try_get("platform")?;
    let platform = PushPlatform::parse(name).ok_or_else(|| StoreError::Other(format!("unknown platform `{name}`")))?;
    Ok(PushDevice {
        id: row.try_get("device_id")?,
        user: UserId(row.try_get("user_id")?),
        platform,
        token: row.try_get("token")?,
        sign_in: row.try_get::<Option<Uuid>, _>("sign_in_id")?.map(SignInId),
        created_at: row.try_get("created_at")?,
    })
}

/// Registers a device and returns its id: that which it has, if the same user registered it before. Of another user it is the device no
/// longer, and gets a new id. Beyond [`DEVICES_MAX`] the user's oldest goes.
pub(crate) async fn register(tx: &mut Transaction<Tables>, new: PushDevice) -> Result<Uuid, StoreError> {
    let hash = token_hash(new.platform, &new.token);
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "insert into push_devices as d (device_id, user_id, platform, token, token_hash, sign_in_id, created_at) \
                 values ($1, $2, $3, $4, $5, $6, $7) on conflict on constraint push_devices_token_key do update set \
                 device_id = case when d.user_id = excluded.user_id then d.device_id else excluded.device_id end, \
                 user_id = excluded.user_id, token = excluded.token, sign_in_id = excluded.sign_in_id, \
                 created_at = excluded.created_at returning device_id",
            )
            .bind(new.id)
            .bind(new.user.0)
            .bind(new.platform.as_str())
            .bind(&new.token)
            .bind(hash.as_slice())
            .bind(new.sign_in.map(|id| id.0))
            .bind(new.created_at)
            .fetch_one(&mut *pg)
            .await?;
            let id: Uuid = row.try_get("device_id")?;
            sqlx::query(
                "delete from push_devices where device_id in (select device_id from push_devices where user_id = $1 \
                 and device_id <> $2 order by created_at desc, device_id desc offset $3)",
            )
            .bind(new.user.0)
            .bind(id)
            .bind(DEVICES_MAX as i64 - 1)
            .execute(&mut *pg)
            .await?;
            Ok(id)
        }
        On::Memory(tables) => {
            let rows = &mut tables.push;
            let before = rows.tokens.get(&hash).copied();
            let same = before.filter(|id| rows.devices.get(id).is_some_and(|device| device.user == new.user));
            let id = same.unwrap_or(new.id);
            if let (None, Some(before)) = (same, before) {
                rows.remove_device(before);
            }
            rows.of_user.insert((new.user, id));
            rows.tokens.insert(hash, id);
            let user = new.user;
            rows.devices.insert(id, PushDevice { id, ..new });
            let mut others: Vec<_> = rows
                .devices_of(user)
                .filter(|device| device.id != id)
                .map(|device| (device.created_at, device.id))
                .collect();
            others.sort_unstable_by(|a, b| b.cmp(a));
            others.into_iter().skip(DEVICES_MAX - 1).for_each(|(_, id)| _ = rows.remove_device(id));
            Ok(id)
        }
    }
}

/// The devices of a user, the newest first.
pub(crate) async fn of_user(tx: &mut Transaction<Tables>, user: UserId) -> Result<Vec<PushDevice>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows =
                sqlx::query("select * from push_devices where user_id = $1 order by created_at desc, device_id desc")
                    .bind(user.0)
                    .fetch_all(&mut *pg)
                    .await?;
            rows.iter().map(read_device).collect()
        }
        On::Memory(tables) => {
            let mut devices: Vec<PushDevice> = tables.push.devices_of(user).cloned().collect();
            devices.sort_unstable_by_key(|device| std::cmp::Reverse((device.created_at, device.id)));
            Ok(devices)
        }
    }
}

/// Removes a device of this user, with its pushes. False if the user has no such device.
pub(crate) async fn remove(tx: &mut Transaction<Tables>, user: UserId, id: Uuid) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let removed = sqlx::query("delete from push_devices where device_id = $1 and user_id = $2")
                .bind(id)
                .bind(user.0)
                .execute(&mut *pg)
                .await?;
            sqlx::query("delete from pushes where user_id = $1 and device_id = $2")
                .bind(user.0)
                .bind(id)
                .execute(&mut *pg)
                .await?;
            Ok(removed.rows_affected() > 0)
        }
        On::Memory(tables) => {
            let is_theirs = tables.push.devices.get(&id).is_some_and(|device| device.user == user);
            Ok(is_theirs && tables.push.remove_device(id).is_some())
        }
    }
}

/// Removes a device to which a platform cannot deliver any more, if it still has this token.
pub(crate) async fn remove_gone(tx: &mut Transaction<Tables>, push: &Claimed) -> Result<bool, StoreError> {
    let Some((platform, token)) = &push.target else { return Ok(false) };
    match tx.on() {
        On::Postgres(pg) => {
            let same =
                sqlx::query("select from push_devices where device_id = $1 and user_id = $2 and token = $3 for update")
                    .bind(push.device)
                    .bind(push.user.0)
                    .bind(token)
                    .fetch_optional(&mut *pg)
                    .await?;
            if same.is_none() {
                return Ok(false);
            }
        }
        On::Memory(tables) => {
            let same = |device: &PushDevice| device.platform == *platform && device.token == *token;
            if !tables.push.devices.get(&push.device).is_some_and(same) {
                return Ok(false);
            }
        }
    }
    remove(tx, push.user, push.device).await
}

/// Removes the devices that these sign-ins of a user registered; without a list, all of the user's.
pub(crate) async fn remove_of_sign_ins(
    tx: &mut Transaction<Tables>,
    user: UserId,
    sign_ins: Option<&[SignInId]>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "with removed as (delete from push_devices where user_id = $1 and ($2::uuid[] is null or sign_in_id = any($2)) \
                 returning device_id) delete from pushes where user_id = $1 and device_id in (select device_id from removed)",
            )
            .bind(user.0)
            .bind(sign_ins.map(|ids| column(ids, |id| id.0)))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let is_ended = |device: &&PushDevice| {
                sign_ins.is_none_or(|ids| device.sign_in.is_some_and(|sign_in| ids.contains(&sign_in)))
            };
            let ids: Vec<Uuid> = tables.push.devices_of(user).filter(is_ended).map(|device| device.id).collect();
            ids.into_iter().for_each(|id| _ = tables.push.remove_device(id));
        }
    }
    Ok(())
}

/// Deletes all devices and pushes of `users`.
pub(crate) async fn erase(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            for statement in
                ["delete from push_devices where user_id = any($1)", "delete from pushes where user_id = any($1)"]
            {
                sqlx::query(statement).bind(column(users, |user| user.0)).execute(&mut *pg).await?;
            }
        }
        On::Memory(tables) => {
            for user in users {
                let ids: Vec<Uuid> = tables.push.devices_of(*user).map(|device| device.id).collect();
                ids.into_iter().for_each(|id| _ = tables.push.remove_device(id));
                tables.push.remove_up_to(*user, u64::MAX);
            }
        }
    }
    Ok(())
}

/// Removes the devices whose sign-ins are over by time, and have no row any more.
pub(crate) async fn purge(tx: &mut Transaction<Tables>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "delete from push_devices d where sign_in_id is not null and not exists \
                 (select from user_sign_ins s where s.sign_in_id = d.sign_in_id)",
            )
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let (push, sign_ins) = (&mut tables.push, &tables.sign_ins);
            let is_over = |device: &&PushDevice| device.sign_in.is_some_and(|sign_in| sign_ins.get(sign_in).is_none());
            let ids: Vec<Uuid> = push.devices.values().filter(is_over).map(|device| device.id).collect();
            ids.into_iter().for_each(|id| _ = push.remove_device(id));
        }
    }
    Ok(())
}

/// Deletes the pushes of what sockets took: for each user those up to a `seq`. Returns how many there were.
pub(crate) async fn delete_taken(tx: &mut Transaction<Tables>, taken: &[(UserId, u64)]) -> Result<u64, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let deleted = sqlx::query(
                "delete from pushes p using unnest($1::uuid[], $2::bigint[]) as t (user_id, seq) \
                 where p.user_id = t.user_id and p.seq <= t.seq",
            )
            .bind(column(taken, |(user, _)| user.0))
            .bind(column(taken, |(_, seq)| to_bigint(*seq)))
            .execute(&mut *pg)
            .await?;
            Ok(deleted.rows_affected())
        }
        On::Memory(tables) => Ok(taken.iter().map(|(user, seq)| tables.push.remove_up_to(*user, *seq)).sum()),
    }
}

/// Claims at most `limit` pushes that are due, those due longest first. Nobody else claims them until `until`: a process that dies
/// loses none.
pub(crate) async fn claim(
    tx: &mut Transaction<Tables>,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
    limit: usize,
) -> Result<Vec<Claimed>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "with due as (select user_id, seq, device_id from pushes where due_at <= $1 order by due_at limit $3 \
                 for update skip locked), \
                 claimed as (update pushes p set due_at = $2, tries = tries + 1 from due \
                 where p.user_id = due.user_id and p.seq = due.seq and p.device_id = due.device_id returning p.*) \
                 select c.*, d.platform, d.token from claimed c left join push_devices d \
                 on d.device_id = c.device_id and d.user_id = c.user_id order by c.seq, c.user_id, c.device_id",
            )
            .bind(now)
            .bind(until)
            .bind(limit as i64)
            .fetch_all(&mut *pg)
            .await?;
            let read = |row: &PgRow| -> Result<Claimed, StoreError> {
                let platform: Option<&str> = row.try_get("platform")?;
                let token: Option<String> = row.try_get("token")?;
                Ok(Claimed {
                    user: UserId(row.try_get("user_id")?),
                    seq: u64::try_from(row.try_get::<i64, _>("seq")?).unwrap_or(0),
                    device: row.try_get("device_id")?,
                    event_id: row.try_get("event_id")?,
                    message: row.try_get("message")?,
                    urgent: row.try_get("urgent")?,
                    topic: row.try_get("topic")?,
                    expires_at: row.try_get("expires_at")?,
                    tries: row.try_get("tries")?,
                    target: platform.and_then(PushPlatform::parse).zip(token),
                })
            };
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let rows = &mut tables.push;
            let mut keys: Vec<PushKey> =
                rows.due.iter().take_while(|(due_at, _)| *due_at <= now).take(limit).map(|(_, key)| *key).collect();
            keys.sort_unstable_by_key(|(user, seq, device)| (*seq, *user, *device));
            keys.iter().for_each(|key| rows.set_due(*key, until, 1));
            let claimed = keys.into_iter().filter_map(|key| {
                let row = rows.pushes.get(&key)?;
                let (user, seq, device) = key;
                let target = rows.devices.get(&device).filter(|device| device.user == user);
                Some(Claimed {
                    user,
                    seq,
                    device,
                    event_id: row.event_id.clone(),
                    message: row.notice.message.clone(),
                    urgent: row.notice.urgent,
                    topic: row.notice.topic,
                    expires_at: row.notice.expires_at,
                    tries: row.tries,
                    target: target.map(|device| (device.platform, device.token.clone())),
                })
            });
            Ok(claimed.collect())
        }
    }
}

pub(crate) async fn delete(tx: &mut Transaction<Tables>, keys: &[PushKey]) -> Result<(), StoreError> {
    if keys.is_empty() {
        return Ok(());
    }
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "delete from pushes p using unnest($1::uuid[], $2::bigint[], $3::uuid[]) as k (user_id, seq, device_id) \
                 where p.user_id = k.user_id and p.seq = k.seq and p.device_id = k.device_id",
            )
            .bind(column(keys, |(user, ..)| user.0))
            .bind(column(keys, |(_, seq, _)| to_bigint(*seq)))
            .bind(column(keys, |(.., device)| *device))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => keys.iter().for_each(|key| tables.push.remove(*key)),
    }
    Ok(())
}

/// Ends the claim of pushes, which are due again at `due_at`; `less_tries` of their tries do not count.
pub(crate) async fn put_back(
    tx: &mut Transaction<Tables>,
    keys: &[PushKey],
    due_at: DateTime<Utc>,
    less_tries: i32,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "update pushes p set due_at = $4, tries = tries - $5 \
                 from unnest($1::uuid[], $2::bigint[], $3::uuid[]) as k (user_id, seq, device_id) \
                 where p.user_id = k.user_id and p.seq = k.seq and p.device_id = k.device_id",
            )
            .bind(column(keys, |(user, ..)| user.0))
            .bind(column(keys, |(_, seq, _)| to_bigint(*seq)))
            .bind(column(keys, |(.., device)| *device))
            .bind(due_at)
            .bind(less_tries)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => keys.iter().for_each(|key| tables.push.set_due(*key, due_at, -less_tries)),
    }
    Ok(())
}
