//! The rows of `phone_changes`.

use chrono::{DateTime, Utc};
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use streams::UserId;

use super::PhoneChange;
use crate::sign_in::phone::Phone;
use crate::tables::Tables;

fn phone(text: &str) -> Result<Phone, StoreError> {
    Phone::parse(text).map_err(|problem| StoreError::Other(format!("a stored phone: {}", problem.message)))
}

/// The change of `user`, locked until the transaction ends.
pub(crate) async fn lock(tx: &mut Transaction<Tables>, user: UserId) -> Result<Option<PhoneChange>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select change_id, old_phone, new_phone, old_hash, new_hash, tries, expires_at, done_at \
                 from phone_changes where user_id = $1 for update",
            )
            .bind(user.0)
            .fetch_optional(&mut *pg)
            .await?;
            let Some(row) = row else { return Ok(None) };
            Ok(Some(PhoneChange {
                user,
                change_id: row.try_get("change_id")?,
                old_phone: phone(row.try_get("old_phone")?)?,
                new_phone: phone(row.try_get("new_phone")?)?,
                old_hash: row.try_get("old_hash")?,
                new_hash: row.try_get("new_hash")?,
                tries: row.try_get("tries")?,
                expires_at: row.try_get("expires_at")?,
                done_at: row.try_get("done_at")?,
            }))
        }
        On::Memory(tables) => Ok(tables.phone_changes.get(&user).cloned()),
    }
}

/// Writes a change in the place of the user's last one.
pub(crate) async fn put(tx: &mut Transaction<Tables>, change: &PhoneChange) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into phone_changes \
                 (user_id, change_id, old_phone, new_phone, old_hash, new_hash, tries, expires_at, done_at) \
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict (user_id) do update set \
                 change_id = excluded.change_id, old_phone = excluded.old_phone, new_phone = excluded.new_phone, \
                 old_hash = excluded.old_hash, new_hash = excluded.new_hash, tries = excluded.tries, \
                 expires_at = excluded.expires_at, done_at = excluded.done_at",
            )
            .bind(change.user.0)
            .bind(change.change_id)
            .bind(change.old_phone.as_str())
            .bind(change.new_phone.as_str())
            .bind(&change.old_hash)
            .bind(&change.new_hash)
            .bind(change.tries)
            .bind(change.expires_at)
            .bind(change.done_at)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            tables.phone_changes.insert(change.user, change.clone());
        }
    }
    Ok(())
}

/// Deletes the change of a user whose codes were not delivered, or whose account ends.
pub(crate) async fn delete(tx: &mut Transaction<Tables>, user: UserId) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from phone_changes where user_id = $1").bind(user.0).execute(&mut *pg).await?;
        }
        On::Memory(tables) => {
            tables.phone_changes.remove(&user);
        }
    }
    Ok(())
}

/// Deletes changes that have expired.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from phone_changes where expires_at <= $1").bind(now).execute(&mut *pg).await?;
        }
        On::Memory(tables) => {
            let live = tables.phone_changes.iter().filter(|(_, change)| change.expires_at > now);
            tables.phone_changes = live.map(|(user, change)| (*user, change.clone())).collect();
        }
    }
    Ok(())
}
