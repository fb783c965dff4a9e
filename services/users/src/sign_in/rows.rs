//! The rows of `user_sign_ins`.

use chrono::{DateTime, TimeDelta, Utc};
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::sign_ins::{EndedSignIn, SIGN_INS_PAGE};
use streams::{SignInId, UserId};

use super::{IDLE_MAX, SIGN_INS_MAX, SignIn};
use crate::push;
use crate::tables::Tables;

/// How long the row of an ended sign-in stays: longer than any access token of it.
const ENDED_KEPT: TimeDelta = TimeDelta::days(1);

/// Which sign-ins of a user end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    One(SignInId),
    /// All but this one.
    AllBut(SignInId),
    All,
}

fn read(row: &PgRow) -> Result<SignIn, StoreError> {
    Ok(SignIn {
        id: SignInId(row.try_get("sign_in_id")?),
        user: UserId(row.try_get("user_id")?),
        device: row.try_get("device")?,
        created_at: row.try_get("created_at")?,
        seen_at: row.try_get("seen_at")?,
        ends_at: row.try_get("ends_at")?,
        ended_at: row.try_get("ended_at")?,
        number: row.try_get("number")?,
        salt: row.try_get("salt")?,
        rotated_at: row.try_get("rotated_at")?,
        repeats: row.try_get("repeats")?,
        repeats_since: row.try_get("repeats_since")?,
    })
}

/// The sign-in, whose row stays locked until the transaction ends: of two clients that present one refresh token, the second
/// waits and finds it used.
pub(crate) async fn lock(tx: &mut Transaction<Tables>, id: SignInId) -> Result<Option<SignIn>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select * from user_sign_ins where sign_in_id = $1 for update")
                .bind(id.0)
                .fetch_optional(&mut *pg)
                .await?;
            row.as_ref().map(read).transpose()
        }
        On::Memory(tables) => Ok(tables.sign_ins.get(id).cloned()),
    }
}

/// Inserts the row, or replaces the columns that change.
pub(crate) async fn put(tx: &mut Transaction<Tables>, sign_in: &SignIn) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into user_sign_ins (sign_in_id, user_id, device, created_at, seen_at, ends_at, ended_at, number, salt, \
                 rotated_at, repeats, repeats_since) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
                 on conflict on constraint user_sign_ins_pkey do update set device = excluded.device, \
                 seen_at = excluded.seen_at, ended_at = excluded.ended_at, number = excluded.number, \
                 rotated_at = excluded.rotated_at, repeats = excluded.repeats, repeats_since = excluded.repeats_since",
            )
            .bind(sign_in.id.0)
            .bind(sign_in.user.0)
            .bind(&sign_in.device)
            .bind(sign_in.created_at)
            .bind(sign_in.seen_at)
            .bind(sign_in.ends_at)
            .bind(sign_in.ended_at)
            .bind(sign_in.number)
            .bind(&sign_in.salt)
            .bind(sign_in.rotated_at)
            .bind(sign_in.repeats)
            .bind(sign_in.repeats_since)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => tables.sign_ins.put(sign_in.clone()),
    }
    Ok(())
}

/// The live sign-ins of a user, those seen last first, [`SIGN_INS_MAX`] at most.
pub(crate) async fn live_of(
    tx: &mut Transaction<Tables>,
    user: UserId,
    now: DateTime<Utc>,
) -> Result<Vec<SignIn>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select * from user_sign_ins where user_id = $1 and ended_at is null and ends_at > $2 and seen_at > $3 \
                 order by seen_at desc, sign_in_id desc limit $4",
            )
            .bind(user.0)
            .bind(now)
            .bind(now - IDLE_MAX)
            .bind(i64::try_from(SIGN_INS_MAX).unwrap_or(i64::MAX))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let mut live: Vec<SignIn> = tables.sign_ins.of(user).filter(|one| !one.is_over(now)).cloned().collect();
            live.sort_by_key(|one| std::cmp::Reverse((one.seen_at, one.id)));
            live.truncate(SIGN_INS_MAX);
            Ok(live)
        }
    }
}

/// All rows of a user, also of sign-ins that ended lately, in the order of their ids.
pub(crate) async fn of_user(tx: &mut Transaction<Tables>, user: UserId) -> Result<Vec<SignIn>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select * from user_sign_ins where user_id = $1 order by sign_in_id")
                .bind(user.0)
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => Ok(tables.sign_ins.of(user).cloned().collect()),
    }
}

/// Erases what the sign-ins of a user say of the person's devices. The rows stay until every process has read that they ended.
pub(crate) async fn erase_devices(tx: &mut Transaction<Tables>, user: UserId) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update user_sign_ins set device = null where user_id = $1 and device is not null")
                .bind(user.0)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            let theirs: Vec<SignIn> = tables.sign_ins.of(user).cloned().collect();
            theirs.into_iter().for_each(|sign_in| tables.sign_ins.put(SignIn { device: None, ..sign_in }));
        }
    }
    Ok(())
}

/// Whether the user has, or had until lately, this sign-in.
pub(crate) async fn is_of(tx: &mut Transaction<Tables>, id: SignInId, user: UserId) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select from user_sign_ins where sign_in_id = $1 and user_id = $2")
                .bind(id.0)
                .bind(user.0)
                .fetch_optional(&mut *pg)
                .await?;
            Ok(row.is_some())
        }
        On::Memory(tables) => Ok(tables.sign_ins.get(id).is_some_and(|one| one.user == user)),
    }
}

/// Ends sign-ins of a user, and removes the devices that they registered for pushes; returns those that were not ended before.
pub(crate) async fn end(
    tx: &mut Transaction<Tables>,
    user_id: UserId,
    ending: Ending,
    now: DateTime<Utc>,
) -> Result<Vec<EndedSignIn>, StoreError> {
    let (one, but) = match ending {
        Ending::One(id) => (Some(id), None),
        Ending::AllBut(id) => (None, Some(id)),
        Ending::All => (None, None),
    };
    let mut ids = match tx.on() {
        On::Postgres(pg) => {
            // The tables of the version before, whose processes may still serve refresh tokens from them.
            sqlx::query(
                "update sign_ins set revoked_at = $3 \
                 where user_id = $1 and ($2::uuid is null or sign_in_id = $2) and sign_in_id is distinct from $4 \
                 and revoked_at is null",
            )
            .bind(user_id.0)
            .bind(one.map(|id| id.0))
            .bind(now)
            .bind(but.map(|id| id.0))
            .execute(&mut *pg)
            .await?;
            let rows = sqlx::query(
                "update user_sign_ins set ended_at = $3 \
                 where user_id = $1 and ($2::uuid is null or sign_in_id = $2) and sign_in_id is distinct from $4 \
                 and ended_at is null returning sign_in_id",
            )
            .bind(user_id.0)
            .bind(one.map(|id| id.0))
            .bind(now)
            .bind(but.map(|id| id.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(SignInId(row.try_get("sign_in_id")?))).collect::<Result<Vec<_>, StoreError>>()?
        }
        On::Memory(tables) => {
            let chosen = |id: SignInId| one.is_none_or(|one| one == id) && but != Some(id);
            let live = tables.sign_ins.of(user_id).filter(|sign_in| sign_in.ended_at.is_none() && chosen(sign_in.id));
            let ended: Vec<SignIn> = live.map(|sign_in| SignIn { ended_at: Some(now), ..sign_in.clone() }).collect();
            let ids = ended.iter().map(|sign_in| sign_in.id).collect();
            ended.into_iter().for_each(|sign_in| tables.sign_ins.put(sign_in));
            ids
        }
    };
    // With all of them go the devices that no sign-in registered.
    let some = one.or(but).map(|_| ids.as_slice());
    push::rows::remove_of_sign_ins(tx, user_id, some).await?;
    ids.sort_unstable();
    Ok(ids.into_iter().map(|sign_in_id| EndedSignIn { sign_in_id, user_id, ended_at: now }).collect())
}

/// Sign-ins that were ended after this one, by time and id, [`SIGN_INS_PAGE`] at most.
pub(crate) async fn ended_after(
    tx: &mut Transaction<Tables>,
    after: (DateTime<Utc>, SignInId),
) -> Result<Vec<EndedSignIn>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select sign_in_id, user_id, ended_at from user_sign_ins \
                 where ended_at is not null and (ended_at, sign_in_id) > ($1, $2) order by ended_at, sign_in_id limit $3",
            )
            .bind(after.0)
            .bind(after.1.0)
            .bind(i64::try_from(SIGN_INS_PAGE).unwrap_or(i64::MAX))
            .fetch_all(&mut *pg)
            .await?;
            let read = |row: &PgRow| {
                let (sign_in_id, user_id) = (SignInId(row.try_get("sign_in_id")?), UserId(row.try_get("user_id")?));
                Ok(EndedSignIn { sign_in_id, user_id, ended_at: row.try_get("ended_at")? })
            };
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => Ok(tables.sign_ins.ended_after(after, SIGN_INS_PAGE)),
    }
}

/// Deletes sign-ins that are over, those that were ended a day later.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    let (idle, ended) = (now - IDLE_MAX, now - ENDED_KEPT);
    match tx.on() {
        On::Postgres(pg) => {
            for (statement, before) in [
                ("delete from user_sign_ins where ends_at <= $1", now),
                ("delete from user_sign_ins where seen_at <= $1", idle),
                ("delete from user_sign_ins where ended_at <= $1", ended),
            ] {
                sqlx::query(statement).bind(before).execute(&mut *pg).await?;
            }
        }
        On::Memory(tables) => {
            let is_old = |one: &SignIn| {
                one.ends_at <= now || one.seen_at <= idle || one.ended_at.is_some_and(|ended_at| ended_at <= ended)
            };
            tables.sign_ins.remove_if(is_old);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
