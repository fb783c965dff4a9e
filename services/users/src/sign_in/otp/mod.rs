//! One-time codes: rows, limits, and the decision on a code that is presented. The code itself is nowhere, only its keyed
//! hash; it never touches tokens or users.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use chrono::{DateTime, Duration, Utc};
use imbl::OrdMap;
use platform::{On, StoreError, Tokens, Transaction, World};
use sqlx::Row;
use uuid::Uuid;

use crate::Tables;
use crate::sign_in::phone::Phone;

/// The life of a code.
pub(crate) const CODE_LIFE_S: i64 = 300;
/// Wrong codes until the right one is dead too.
const TRIES: i16 = 5;
/// Codes for one phone in any [`REQUEST_WINDOW_S`].
const REQUESTS_MAX: usize = 5;
const REQUEST_WINDOW_S: i64 = 3_600;

/// Codes in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    live: OrdMap<Phone, Otp>,
    requests: OrdMap<(Phone, DateTime<Utc>, Uuid), ()>,
}

/// The one live code of a phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Otp {
    hash: Vec<u8>,
    tries_left: i16,
    expires_at: DateTime<Utc>,
}

/// What a presented code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The live code.
    Right,
    /// Not the live code, which keeps so many tries.
    Wrong {
        /// To be written down, whatever the answer.
        tries_left: i16,
    },
    /// There is no live code.
    Dead,
}

impl Otp {
    /// A new code, made of `hash`.
    pub(crate) fn new(hash: [u8; 32], now: DateTime<Utc>) -> Self {
        Self { hash: hash.to_vec(), tries_left: TRIES, expires_at: now + Duration::seconds(CODE_LIFE_S) }
    }

    /// What the code with this hash is.
    pub(crate) fn judge(&self, presented: &[u8; 32], now: DateTime<Utc>) -> Verdict {
        if self.tries_left <= 0 || self.expires_at <= now {
            return Verdict::Dead;
        }
        match verify_slices_are_equal(&self.hash, presented) {
            Ok(()) => Verdict::Right,
            Err(_) => Verdict::Wrong { tries_left: self.tries_left - 1 },
        }
    }
}

/// A new code: six digits, all equally likely.
pub(crate) fn code(world: &World) -> String {
    format!("{:06}", world.below(1_000_000))
}

/// What is stored of a code.
pub(crate) fn hash(tokens: &Tokens, phone: &Phone, code: &str) -> [u8; 32] {
    tokens.keyed_hash("otp", &format!("{}:{code}", phone.as_str()))
}

/// The beginning of the window in which requests count.
pub(crate) fn window(now: DateTime<Utc>) -> DateTime<Utc> {
    now - Duration::seconds(REQUEST_WINDOW_S)
}

/// How long, in seconds, until another code may be asked for, after requests at these times, oldest first; none if at once.
pub(crate) fn wait_s(requests: &[DateTime<Utc>], now: DateTime<Utc>) -> Option<u64> {
    let counted: Vec<_> = requests.iter().filter(|at| **at > window(now)).collect();
    let oldest = **counted.get(counted.len().checked_sub(REQUESTS_MAX)?)?;
    let left_ms = (oldest + Duration::seconds(REQUEST_WINDOW_S) - now).num_milliseconds();
    Some(u64::try_from(left_ms).unwrap_or(0).div_ceil(1_000).max(1))
}

/// Makes `otp` the live code of `phone`, in place of any before; the phone's row is held until the transaction ends, so
/// that its requests are counted one after another.
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
        On::Memory(m) => {
            m.sign_in.otps.live.insert(phone.clone(), otp.clone());
        }
    }
    Ok(())
}

/// The code of `phone`, held until the transaction ends: of two who present it, the second waits and finds it gone.
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
        On::Memory(m) => Ok(m.sign_in.otps.live.get(phone).cloned()),
    }
}

/// Writes down the tries that the code of `phone` has left.
pub(crate) async fn count_try(tx: &mut Transaction<Tables>, phone: &Phone, left: i16) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update otps set tries_left = $2 where phone = $1")
                .bind(phone.as_str())
                .bind(left)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(m) => {
            if let Some(otp) = m.sign_in.otps.live.get_mut(phone) {
                otp.tries_left = left;
            }
        }
    }
    Ok(())
}

/// Ends the code of `phone` that has this hash; one that came after it stays.
pub(crate) async fn delete(tx: &mut Transaction<Tables>, phone: &Phone, hash: &[u8; 32]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from otps where phone = $1 and code_hash = $2")
                .bind(phone.as_str())
                .bind(&hash[..])
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(m) => {
            let live = &mut m.sign_in.otps.live;
            if live.get(phone).is_some_and(|otp| otp.hash == hash) {
                live.remove(phone);
            }
        }
    }
    Ok(())
}

/// When codes were asked for `phone` after `since`, oldest first.
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
            rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
        }
        On::Memory(m) => {
            let from = (phone.clone(), since, Uuid::max());
            let requests = m.sign_in.otps.requests.range(from..);
            Ok(requests.take_while(|((of, ..), ())| of == phone).map(|((_, at, _), ())| *at).collect())
        }
    }
}

/// Notes that a code was asked for `phone`.
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
        On::Memory(m) => {
            m.sign_in.otps.requests.insert((phone.clone(), now, id), ());
        }
    }
    Ok(())
}

/// Forgets a request whose code never left.
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
        On::Memory(m) => {
            m.sign_in.otps.requests.remove(&(phone.clone(), at, id));
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
                .bind(window(now))
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(m) => {
            let rows = &mut m.sign_in.otps;
            rows.live =
                rows.live.iter().filter(|(_, otp)| otp.expires_at > now).map(|(k, v)| (k.clone(), v.clone())).collect();
            let counted = rows.requests.iter().filter(|((_, at, _), ())| *at > window(now));
            rows.requests = counted.map(|(k, ())| (k.clone(), ())).collect();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    #[test]
    fn a_code_lives_five_minutes_and_five_tries() {
        let mut otp = Otp::new([1; 32], at(0));
        assert_eq!(otp.judge(&[1; 32], at(0)), Verdict::Right);
        assert_eq!(otp.judge(&[1; 32], at(CODE_LIFE_S - 1)), Verdict::Right);
        assert_eq!(otp.judge(&[1; 32], at(CODE_LIFE_S)), Verdict::Dead);
        for left in (0..TRIES).rev() {
            assert_eq!(otp.judge(&[2; 32], at(0)), Verdict::Wrong { tries_left: left });
            otp.tries_left = left;
        }
        assert_eq!(otp.judge(&[1; 32], at(0)), Verdict::Dead);
    }

    #[test]
    fn five_requests_an_hour_and_the_wait_says_when_the_next() {
        let requests: Vec<_> = (0..5).map(|n| at(n * 60)).collect();
        assert_eq!(wait_s(&[], at(0)), None);
        assert_eq!(wait_s(&requests[..4], at(300)), None);
        assert_eq!(wait_s(&requests, at(300)), Some(3_300));
        assert_eq!(wait_s(&requests, at(3_599)), Some(1));
        assert_eq!(wait_s(&requests, at(3_600)), None);
        // Six by an old limit: the window must empty down to four.
        let six: Vec<_> = (0..6).map(|n| at(n * 60)).collect();
        assert_eq!(wait_s(&six, at(300)), Some(3_360));
    }

    #[test]
    fn a_code_is_six_digits_and_its_hash_is_the_phones_own() {
        let world = World::seeded(at(0), 7);
        let tokens = Tokens::new(&world, &[7; 32]).unwrap();
        let (one, other) = (Phone::parse("+14155550132").unwrap(), Phone::parse("+14155550133").unwrap());
        for _ in 0..100 {
            let code = code(&world);
            assert!(code.len() == 6 && code.bytes().all(|b| b.is_ascii_digit()), "{code}");
            assert_ne!(hash(&tokens, &one, &code), hash(&tokens, &other, &code));
        }
    }
}
