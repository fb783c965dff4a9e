//! The rows of `otp_codes`.

use chrono::{DateTime, Utc};
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use uuid::Uuid;

use super::{Asker, Code, Tries};
use crate::sign_in::phone::Phone;
use crate::tables::Tables;

/// The codes of `phone`, oldest first. Their rows stay locked until the transaction ends: of two clients that present a code, the
/// second waits and finds it gone.
pub(crate) async fn of_phone(tx: &mut Transaction<Tables>, phone: &Phone) -> Result<Vec<Code>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select request_id, asker, code_hash, tries_by_id, tries_by_asker, tries_by_others, requested_at, \
                 expires_at from otp_codes where phone = $1 order by requested_at, request_id for update",
            )
            .bind(phone.as_str())
            .fetch_all(&mut *pg)
            .await?;
            rows.iter()
                .map(|row| {
                    Ok(Code {
                        request_id: row.try_get("request_id")?,
                        asker: row.try_get("asker")?,
                        hash: row.try_get("code_hash")?,
                        tries: Tries {
                            by_id: row.try_get("tries_by_id")?,
                            by_asker: row.try_get("tries_by_asker")?,
                            by_others: row.try_get("tries_by_others")?,
                        },
                        requested_at: row.try_get("requested_at")?,
                        expires_at: row.try_get("expires_at")?,
                    })
                })
                .collect()
        }
        On::Memory(tables) => {
            let of_phone = tables.codes.range((phone.clone(), Uuid::nil())..);
            let mut codes: Vec<Code> =
                of_phone.take_while(|((of, _), _)| of == phone).map(|(_, code)| code.clone()).collect();
            codes.sort_by_key(|code| (code.requested_at, code.request_id));
            Ok(codes)
        }
    }
}

/// The newest code of `phone` that `asker` requested.
pub(crate) async fn newest_of(
    tx: &mut Transaction<Tables>,
    phone: &Phone,
    asker: &Asker,
) -> Result<Option<Code>, StoreError> {
    Ok(of_phone(tx, phone).await?.into_iter().rfind(|code| code.asker == *asker))
}

pub(crate) async fn insert(tx: &mut Transaction<Tables>, phone: &Phone, code: &Code) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into otp_codes (request_id, phone, asker, code_hash, tries_by_id, tries_by_asker, \
                 tries_by_others, requested_at, expires_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .bind(code.request_id)
            .bind(phone.as_str())
            .bind(&code.asker)
            .bind(&code.hash)
            .bind(code.tries.by_id)
            .bind(code.tries.by_asker)
            .bind(code.tries.by_others)
            .bind(code.requested_at)
            .bind(code.expires_at)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            tables.codes.insert((phone.clone(), code.request_id), code.clone());
        }
    }
    Ok(())
}

pub(crate) async fn set_tries(
    tx: &mut Transaction<Tables>,
    phone: &Phone,
    request_id: Uuid,
    tries: Tries,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "update otp_codes set tries_by_id = $3, tries_by_asker = $4, tries_by_others = $5 \
                 where request_id = $1 and phone = $2",
            )
            .bind(request_id)
            .bind(phone.as_str())
            .bind(tries.by_id)
            .bind(tries.by_asker)
            .bind(tries.by_others)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            if let Some(code) = tables.codes.get_mut(&(phone.clone(), request_id)) {
                code.tries = tries;
            }
        }
    }
    Ok(())
}

/// Deletes a code that could not be delivered.
pub(crate) async fn delete(tx: &mut Transaction<Tables>, phone: &Phone, request_id: Uuid) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from otp_codes where request_id = $1 and phone = $2")
                .bind(request_id)
                .bind(phone.as_str())
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            tables.codes.remove(&(phone.clone(), request_id));
        }
    }
    Ok(())
}

/// Deletes all codes of a phone whose owner has signed in, so that none of them works any more.
pub(crate) async fn delete_all(tx: &mut Transaction<Tables>, phone: &Phone) -> Result<(), StoreError> {
    for code in of_phone(tx, phone).await? {
        delete(tx, phone, code.request_id).await?;
    }
    Ok(())
}

/// Deletes all that is stored of codes for a phone whose owner's account ends.
pub(crate) async fn erase(tx: &mut Transaction<Tables>, phone: &Phone) -> Result<(), StoreError> {
    delete_all(tx, phone).await?;
    if let On::Postgres(pg) = tx.on() {
        // Those of processes of the version before.
        for statement in ["delete from otps where phone = $1", "delete from otp_requests where phone = $1"] {
            sqlx::query(statement).bind(phone.as_str()).execute(&mut *pg).await?;
        }
    }
    Ok(())
}

/// Deletes codes that have expired.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from otp_codes where expires_at <= $1").bind(now).execute(&mut *pg).await?;
            // Those of processes of the version before.
            sqlx::query("delete from otps where expires_at <= $1").bind(now).execute(&mut *pg).await?;
            sqlx::query("delete from otp_requests where requested_at <= $1")
                .bind(now - chrono::Duration::hours(1))
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            let live = tables.codes.iter().filter(|(_, code)| code.expires_at > now);
            tables.codes = live.map(|(key, code)| (key.clone(), code.clone())).collect();
        }
    }
    Ok(())
}
