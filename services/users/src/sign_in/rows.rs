//! The rows of `sign_ins` and `refresh_tokens`.

use chrono::{DateTime, Utc};
use imbl::OrdSet;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use streams::UserId;
use uuid::Uuid;

use super::{REFRESH_TOKEN_LIFE, RefreshToken};
use crate::tables::{RefreshTokenRow, SignInRow, Tables};

/// The refresh token with this hash. The rows of the token and its sign-in stay locked until the transaction ends: of two
/// clients that present the token, the second waits and finds it used.
pub(crate) async fn refresh_token(
    tx: &mut Transaction<Tables>,
    hash: &[u8; 32],
) -> Result<Option<RefreshToken>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select sign_in_id, user_id, expires_at, used_at is not null as used, revoked_at is not null as revoked \
                 from refresh_tokens join sign_ins using (sign_in_id) where token_hash = $1 for update",
            )
            .bind(&hash[..])
            .fetch_optional(&mut *pg)
            .await?;
            let Some(row) = row else { return Ok(None) };
            Ok(Some(RefreshToken {
                sign_in: row.try_get("sign_in_id")?,
                user: UserId(row.try_get("user_id")?),
                expires_at: row.try_get("expires_at")?,
                used: row.try_get("used")?,
                revoked: row.try_get("revoked")?,
            }))
        }
        On::Memory(tables) => {
            let rows = &tables.sign_ins;
            let Some(token) = rows.refresh_tokens.get(hash) else { return Ok(None) };
            let joined = |sign_in: &SignInRow| RefreshToken {
                sign_in: token.sign_in,
                user: sign_in.user,
                expires_at: token.expires_at,
                used: token.used,
                revoked: sign_in.revoked,
            };
            Ok(rows.sign_ins.get(&token.sign_in).map(joined))
        }
    }
}

pub(crate) async fn insert_sign_in(
    tx: &mut Transaction<Tables>,
    id: Uuid,
    user: UserId,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("insert into sign_ins (sign_in_id, user_id, started_at) values ($1, $2, $3)")
                .bind(id)
                .bind(user.0)
                .bind(now)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            tables.sign_ins.sign_ins.insert(id, SignInRow { user, revoked: false });
        }
    }
    Ok(())
}

pub(crate) async fn insert_refresh_token(
    tx: &mut Transaction<Tables>,
    hash: &[u8; 32],
    sign_in: Uuid,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let expires_at = now + REFRESH_TOKEN_LIFE;
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("insert into refresh_tokens (token_hash, sign_in_id, expires_at) values ($1, $2, $3)")
                .bind(&hash[..])
                .bind(sign_in)
                .bind(expires_at)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            let row = RefreshTokenRow { sign_in, expires_at, used: false };
            tables.sign_ins.refresh_tokens.insert(*hash, row);
        }
    }
    Ok(())
}

pub(crate) async fn set_used(
    tx: &mut Transaction<Tables>,
    hash: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update refresh_tokens set used_at = $2 where token_hash = $1")
                .bind(&hash[..])
                .bind(now)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            if let Some(token) = tables.sign_ins.refresh_tokens.get_mut(hash) {
                token.used = true;
            }
        }
    }
    Ok(())
}

/// Ends a sign-in, and with it all of its refresh tokens.
pub(crate) async fn revoke(tx: &mut Transaction<Tables>, sign_in: Uuid, now: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update sign_ins set revoked_at = $2 where sign_in_id = $1 and revoked_at is null")
                .bind(sign_in)
                .bind(now)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            if let Some(row) = tables.sign_ins.sign_ins.get_mut(&sign_in) {
                row.revoked = true;
            }
        }
    }
    Ok(())
}

/// Deletes expired refresh tokens, and sign-ins without any.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from refresh_tokens where expires_at <= $1").bind(now).execute(&mut *pg).await?;
            sqlx::query(
                "delete from sign_ins where not exists \
                 (select from refresh_tokens where refresh_tokens.sign_in_id = sign_ins.sign_in_id)",
            )
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let rows = &mut tables.sign_ins;
            let live = rows.refresh_tokens.iter().filter(|(_, token)| token.expires_at > now);
            rows.refresh_tokens = live.map(|(hash, token)| (*hash, token.clone())).collect();
            let used: OrdSet<Uuid> = rows.refresh_tokens.values().map(|token| token.sign_in).collect();
            let left = rows.sign_ins.iter().filter(|(id, _)| used.contains(*id));
            rows.sign_ins = left.map(|(id, row)| (*id, row.clone())).collect();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chrono::Duration;
    use platform::World;
    use testing::{Backend, on_both_stores};

    use super::*;
    use crate::account;
    use crate::sign_in::otp::{self, Code};
    use crate::sign_in::phone::Phone;

    on_both_stores!(a_purge_deletes_only_what_has_expired);

    async fn a_purge_deletes_only_what_has_expired(backend: Backend) {
        let world = World::seeded(DateTime::UNIX_EPOCH, 1);
        let store = backend.store::<Tables>(&world, "test", "users", &crate::MIGRATIONS).await;
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let phone = |n: u32| Phone::parse(&format!("+1415555013{n}")).unwrap();
        let ids = [1u128, 2].map(Uuid::from_u128);
        let mut tx = store.begin().await.unwrap();
        for (n, started) in [(0, now), (1, now + Duration::seconds(1))] {
            let user = UserId(ids[n]);
            let hash = [u8::try_from(n).unwrap(); 32];
            let phone = phone(u32::try_from(n).unwrap());
            account::rows::get_or_insert(&mut tx, &phone, user, started).await.unwrap();
            let code = Code::new(ids[n], [0; 16], hash, None, started);
            otp::rows::insert(&mut tx, &phone, &code).await.unwrap();
            insert_sign_in(&mut tx, ids[n], user, started).await.unwrap();
            insert_refresh_token(&mut tx, &hash, ids[n], started).await.unwrap();
        }
        let mut left = Vec::new();
        for after in [Duration::seconds(299), Duration::seconds(300), Duration::seconds(301), Duration::days(30)] {
            otp::rows::purge(&mut tx, now + after).await.unwrap();
            purge(&mut tx, now + after).await.unwrap();
            let mut counts = [0; 2];
            for n in 0..2u8 {
                let phone = phone(n.into());
                counts[0] += otp::rows::of_phone(&mut tx, &phone).await.unwrap().len();
                counts[1] += usize::from(refresh_token(&mut tx, &[n; 32]).await.unwrap().is_some());
            }
            left.push(counts);
        }
        assert_eq!(left, [[2, 2], [1, 2], [0, 2], [0, 1]]);
        let sign_ins = match tx.on() {
            On::Postgres(pg) => {
                let row = sqlx::query("select count(*) from sign_ins").fetch_one(&mut *pg).await.unwrap();
                row.get::<i64, _>(0)
            }
            On::Memory(tables) => i64::try_from(tables.sign_ins.sign_ins.len()).unwrap(),
        };
        assert_eq!(sign_ins, 1);
    }
}
