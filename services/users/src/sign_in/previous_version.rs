//! The rows of `sign_ins` and `refresh_tokens`, where the version before this one stored a row for each refresh token. A token
//! from there is accepted once more: the sign-in goes on as a row of `user_sign_ins`.
//!
//! In memory there are none, because such a store does not outlive its process.

use chrono::{DateTime, TimeDelta, Utc};
use platform::{On, StoreError, Tokens, Transaction};
use sqlx::Row;
use streams::{SignInId, UserId};

use super::{PREVIOUS_VERSION, SignIn, refresh_token, rows};
use crate::tables::Tables;

/// Its tokens are 32 bytes in hex.
const TOKEN_LENGTH: usize = 64;
/// The number of a token that can only be a used one.
const USED: i64 = i64::MIN;

/// A refresh token of the version before, with the row of its sign-in, which is inserted if need be. Both stay locked until the
/// transaction ends. The caller presents the number to the sign-in.
pub(crate) async fn presented(
    tx: &mut Transaction<Tables>,
    tokens: &Tokens,
    text: &str,
    salt: Vec<u8>,
    life: TimeDelta,
    now: DateTime<Utc>,
) -> Result<Option<(SignIn, i64)>, StoreError> {
    if text.len() != TOKEN_LENGTH {
        return Ok(None);
    }
    let On::Postgres(pg) = tx.on() else { return Ok(None) };
    let row = sqlx::query(
        "select sign_in_id, user_id, started_at, used_at, expires_at, revoked_at from refresh_tokens \
         join sign_ins using (sign_in_id) where token_hash = any($1) for update",
    )
    .bind(refresh_token::previous_version_hashes(tokens, text))
    .fetch_optional(&mut *pg)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (id, user) = (SignInId(row.try_get("sign_in_id")?), UserId(row.try_get("user_id")?));
    let used_at: Option<DateTime<Utc>> = row.try_get("used_at")?;
    let revoked_at: Option<DateTime<Utc>> = row.try_get("revoked_at")?;
    let expires_at: DateTime<Utc> = row.try_get("expires_at")?;
    let started_at: DateTime<Utc> = row.try_get("started_at")?;
    let mut sign_in = match rows::lock(tx, id).await? {
        Some(sign_in) => sign_in,
        None => {
            SignIn { created_at: started_at, number: PREVIOUS_VERSION, ..SignIn::new(id, user, None, salt, life, now) }
        }
    };
    sign_in.ended_at = sign_in.ended_at.or(revoked_at);
    let number = match used_at {
        None if expires_at > now => PREVIOUS_VERSION,
        // It would be the newest, but is too old.
        None => i64::MAX,
        // This is the token that was moved over, and its answer may have been lost.
        Some(used_at) if sign_in.number == 0 && used_at == sign_in.rotated_at => PREVIOUS_VERSION,
        Some(_) => USED,
    };
    Ok(Some((sign_in, number)))
}

/// Marks the token as used, for processes of the version before.
pub(crate) async fn set_used(
    tx: &mut Transaction<Tables>,
    tokens: &Tokens,
    text: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if let On::Postgres(pg) = tx.on() {
        sqlx::query("update refresh_tokens set used_at = $2 where token_hash = any($1)")
            .bind(refresh_token::previous_version_hashes(tokens, text))
            .bind(now)
            .execute(&mut *pg)
            .await?;
    }
    Ok(())
}

/// Deletes expired refresh tokens, and sign-ins without any.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    if let On::Postgres(pg) = tx.on() {
        sqlx::query("delete from refresh_tokens where expires_at <= $1").bind(now).execute(&mut *pg).await?;
        sqlx::query(
            "delete from sign_ins where not exists \
             (select from refresh_tokens where refresh_tokens.sign_in_id = sign_ins.sign_in_id)",
        )
        .execute(&mut *pg)
        .await?;
    }
    Ok(())
}

/// Deletes the sign-ins of a user whose account ends.
pub(crate) async fn erase(tx: &mut Transaction<Tables>, user: UserId) -> Result<(), StoreError> {
    if let On::Postgres(pg) = tx.on() {
        for statement in [
            "delete from refresh_tokens using sign_ins \
             where refresh_tokens.sign_in_id = sign_ins.sign_in_id and sign_ins.user_id = $1",
            "delete from sign_ins where user_id = $1",
        ] {
            sqlx::query(statement).bind(user.0).execute(&mut *pg).await?;
        }
    }
    Ok(())
}
