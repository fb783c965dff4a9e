//! The rows of `otps` and `otp_requests`.

use chrono::{DateTime, Utc};
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use uuid::Uuid;

use super::{Otp, window_start};
use crate::sign_in::phone::Phone;
use crate::tables::Tables;

/// Makes `otp` the live code of `phone`, in place of any before. The phone's row stays locked until the transaction ends,
/// so that concurrent requests of one phone are counted one after another.
pub(crate) async fn replace(tx: &mut Transaction<Tables>, phone: &Phone, otp: &Otp) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into otps (phone, code_hash, tries_left, expires_at) values ($1, $2, $3, $4) \
                 on conflict on constraint otps_pkey do update set code_hash = excluded.code_hash, \
                 tries_left = excluded.tries_left, expires_at = excluded.expires_at",
            )
            .bind(phone.as_str())
            .bind(&otp.hash)
            .bind(otp.tries_left)
            .bind(otp.expires_at)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            tables.otps.live.insert(phone.clone(), otp.clone());
        }
    }
    Ok(())
}

/// The code of `phone`. Its row stays locked until the transaction ends: of two clients that present the code, the second
/// waits and finds it gone.
pub(crate) async fn of_phone(tx: &mut Transaction<Tables>, phone: &Phone) -> Result<Option<Otp>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select code_hash, tries_left, expires_at from otps where phone = $1 for update")
                .bind(phone.as_str())
                .fetch_optional(&mut *pg)
                .await?;
            let Some(row) = row else { return Ok(None) };
            let hash = row.try_get("code_hash")?;
            Ok(Some(Otp { hash, tries_left: row.try_get("tries_left")?, expires_at: row.try_get("expires_at")? }))
        }
        On::Memory(tables) => Ok(tables.otps.live.get(phone).cloned()),
    }
}

pub(crate) async fn set_tries_left(
    tx: &mut Transaction<Tables>,
    phone: &Phone,
    tries_left: i16,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update otps set tries_left = $2 where phone = $1")
                .bind(phone.as_str())
                .bind(tries_left)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            if let Some(otp) = tables.otps.live.get_mut(phone) {
                otp.tries_left = tries_left;
            }
        }
    }
    Ok(())
}

/// Deletes the code of `phone` if it has this hash; a newer code stays.
pub(crate) async fn delete(tx: &mut Transaction<Tables>, phone: &Phone, hash: &[u8; 32]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from otps where phone = $1 and code_hash = $2")
                .bind(phone.as_str())
                .bind(&hash[..])
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            let live = &mut tables.otps.live;
            if live.get(phone).is_some_and(|otp| otp.hash == hash) {
                live.remove(phone);
            }
        }
    }
    Ok(())
}

/// The times after `since` at which `phone` requested a code, oldest first.
pub(crate) async fn requests_since(
    tx: &mut Transaction<Tables>,
    phone: &Phone,
    since: DateTime<Utc>,
) -> Result<Vec<DateTime<Utc>>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select requested_at from otp_requests where phone = $1 and requested_at > $2 order by requested_at",
            )
            .bind(phone.as_str())
            .bind(since)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(row.try_get("requested_at")?)).collect()
        }
        On::Memory(tables) => {
            let from = (phone.clone(), since, Uuid::max());
            let requests = tables.otps.requests.range(from..);
            Ok(requests.take_while(|(of, ..)| of == phone).map(|(_, at, _)| *at).collect())
        }
    }
}

pub(crate) async fn insert_request(
    tx: &mut Transaction<Tables>,
    phone: &Phone,
    id: Uuid,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("insert into otp_requests (otp_request_id, phone, requested_at) values ($1, $2, $3)")
                .bind(id)
                .bind(phone.as_str())
                .bind(now)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            tables.otps.requests.insert((phone.clone(), now, id));
        }
    }
    Ok(())
}

/// Deletes a request whose code could not be delivered: it does not count.
pub(crate) async fn delete_request(
    tx: &mut Transaction<Tables>,
    phone: &Phone,
    id: Uuid,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from otp_requests where otp_request_id = $1 and phone = $2")
                .bind(id)
                .bind(phone.as_str())
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            tables.otps.requests.remove(&(phone.clone(), at, id));
        }
    }
    Ok(())
}

/// Deletes codes that have expired and requests that no longer count.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from otps where expires_at <= $1").bind(now).execute(&mut *pg).await?;
            sqlx::query("delete from otp_requests where requested_at <= $1")
                .bind(window_start(now))
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            let rows = &mut tables.otps;
            let live = rows.live.iter().filter(|(_, otp)| otp.expires_at > now);
            rows.live = live.map(|(phone, otp)| (phone.clone(), otp.clone())).collect();
            rows.requests = rows.requests.iter().filter(|(_, at, _)| *at > window_start(now)).cloned().collect();
        }
    }
    Ok(())
}
