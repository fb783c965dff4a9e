//! Sign-in: from a phone's code to an access token, and on by refresh tokens, each of which works once.
//!
//! A sign-in is a chain of refresh tokens on one device. A used one that comes again is stolen, or its thief was first:
//! nobody can tell, so the whole sign-in ends. Only keyed hashes are stored; tokens, codes and phones reach no log.

pub(crate) mod delivery;
pub(crate) mod otp;
pub(crate) mod phone;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use chrono::{DateTime, Duration, Utc};
use imbl::OrdMap;
use platform::problem::Json;
use platform::token::ACCESS_TOKEN_S;
use platform::{On, Problem, StoreError, Tokens, Transaction};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use streams::UserId;
use uuid::Uuid;

use crate::account::{self, Profile};
use crate::{OtpDelivery, Tables, Users};
use otp::{Otp, Verdict};
use phone::Phone;

/// The life of a refresh token.
const REFRESH_LIFE_DAYS: i64 = 30;

/// Codes, sign-ins and refresh tokens in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    pub(crate) otps: otp::Rows,
    sign_ins: OrdMap<Uuid, SignInRow>,
    refresh_tokens: OrdMap<[u8; 32], TokenRow>,
}

#[derive(Debug, Clone)]
struct SignInRow {
    user: UserId,
    revoked: bool,
}

#[derive(Debug, Clone)]
struct TokenRow {
    sign_in: Uuid,
    expires_at: DateTime<Utc>,
    used: bool,
}

pub(crate) fn router() -> Router<Users> {
    Router::new()
        .route("/v1/auth/otp", post(ask_code))
        .route("/v1/auth/token", post(sign_in))
        .route("/v1/auth/refresh", post(refresh))
}

#[derive(Deserialize)]
struct CodeAsked {
    phone: String,
}

#[derive(Serialize)]
struct CodeSent {
    expires_in_s: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
}

async fn ask_code(
    State(users): State<Users>,
    Json(asked): Json<CodeAsked>,
) -> Result<(StatusCode, Json<CodeSent>), Problem> {
    let phone = Phone::parse(&asked.phone)?;
    let world = &users.platform.world;
    let (now, request) = (world.now(), world.id::<Uuid>());
    let code = otp::code(world);
    let hash = otp::hash(&users.tokens, &phone, &code);

    let mut tx = users.store.begin().await?;
    otp::replace(&mut tx, &phone, &Otp::new(hash, now)).await?;
    let requests = otp::requests_since(&mut tx, &phone, otp::window(now)).await?;
    if let Some(wait_s) = otp::wait_s(&requests, now) {
        // Dropping the transaction leaves the code that lives.
        return Err(Problem::too_many_requests("too many codes for this phone: use the last one, or wait", wait_s));
    }
    otp::insert_request(&mut tx, &phone, request, now).await?;
    tx.commit().await?;

    if let Err(error) = users.config.otp_delivery.deliver(&phone, &code).await {
        tracing::warn!(error, "a one-time code could not be delivered");
        let mut tx = users.store.begin().await?;
        otp::delete(&mut tx, &phone, &hash).await?;
        otp::delete_request(&mut tx, &phone, request, now).await?;
        tx.commit().await?;
        return Err(Problem::unavailable());
    }
    let code = (users.config.otp_delivery == OtpDelivery::Response).then_some(code);
    Ok((StatusCode::ACCEPTED, Json(CodeSent { expires_in_s: otp::CODE_LIFE_S, code })))
}

#[derive(Deserialize)]
struct CodePresented {
    phone: String,
    code: String,
}

#[derive(Serialize)]
struct SignedInAnswer {
    access_token: String,
    token_type: &'static str,
    expires_in_s: i64,
    refresh_token: String,
    user: Profile,
}

impl SignedInAnswer {
    fn new(tokens: &Tokens, user: UserId, profile: Profile, refresh_token: String) -> Self {
        let access_token = tokens.access(user);
        Self { access_token, token_type: "Bearer", expires_in_s: ACCESS_TOKEN_S, refresh_token, user: profile }
    }
}

async fn sign_in(
    State(users): State<Users>,
    Json(presented): Json<CodePresented>,
) -> Result<Json<SignedInAnswer>, Problem> {
    let phone = Phone::parse(&presented.phone)?;
    let hash = otp::hash(&users.tokens, &phone, presented.code.trim());
    let world = &users.platform.world;
    let now = world.now();

    let mut tx = users.store.begin().await?;
    match otp::of_phone(&mut tx, &phone).await?.map_or(Verdict::Dead, |otp| otp.judge(&hash, now)) {
        Verdict::Dead => return Err(wrong_code()),
        Verdict::Wrong { tries_left } => {
            otp::count_try(&mut tx, &phone, tries_left).await?;
            tx.commit().await?;
            return Err(wrong_code());
        }
        Verdict::Right => otp::delete(&mut tx, &phone, &hash).await?,
    }
    let user = account::of_phone_or_new(&mut tx, &phone, world.id(), now).await?;
    let id = world.id::<Uuid>();
    insert_sign_in(&mut tx, id, user, now).await?;
    let token = new_token(&users);
    insert_token(&mut tx, &refresh_hash(&users.tokens, &token), id, now).await?;
    let profile = account::profile_of(&mut tx, user).await?.ok_or_else(dead_token)?;
    tx.commit().await?;
    Ok(Json(SignedInAnswer::new(&users.tokens, user, profile, token)))
}

#[derive(Deserialize)]
struct TokenPresented {
    refresh_token: String,
}

async fn refresh(
    State(users): State<Users>,
    Json(presented): Json<TokenPresented>,
) -> Result<Json<SignedInAnswer>, Problem> {
    let hash = refresh_hash(&users.tokens, &presented.refresh_token);
    let now = users.platform.world.now();

    let mut tx = users.store.begin().await?;
    let known = of_token(&mut tx, &hash).await?.ok_or_else(dead_token)?;
    match known.judge(now) {
        Standing::Dead => return Err(dead_token()),
        Standing::Reused => {
            revoke(&mut tx, known.sign_in, now).await?;
            tx.commit().await?;
            tracing::warn!(user_id = %known.user, "a refresh token was used twice: its sign-in has ended");
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "token_reused", "used before: sign in again"));
        }
        Standing::Good => {}
    }
    use_up(&mut tx, &hash, now).await?;
    let token = new_token(&users);
    insert_token(&mut tx, &refresh_hash(&users.tokens, &token), known.sign_in, now).await?;
    let profile = account::profile_of(&mut tx, known.user).await?.ok_or_else(dead_token)?;
    tx.commit().await?;
    Ok(Json(SignedInAnswer::new(&users.tokens, known.user, profile, token)))
}

/// One text for all: it tells nobody whether there is a code, or how many tries it has left.
fn wrong_code() -> Problem {
    let message = "the code is wrong, used or expired; after five wrong ones only a new code helps";
    Problem::new(StatusCode::UNAUTHORIZED, "invalid_code", message)
}

fn dead_token() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "invalid_token", "the refresh token is not valid: sign in again")
}

fn new_token(users: &Users) -> String {
    hex::encode(users.platform.world.bytes::<32>())
}

fn refresh_hash(tokens: &Tokens, token: &str) -> [u8; 32] {
    tokens.keyed_hash("refresh-token", token)
}

/// A refresh token with its sign-in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    sign_in: Uuid,
    user: UserId,
    expires_at: DateTime<Utc>,
    used: bool,
    revoked: bool,
}

/// What a refresh token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// A new pair.
    Good,
    /// The end of its sign-in.
    Reused,
    /// Nothing.
    Dead,
}

impl Known {
    fn judge(&self, now: DateTime<Utc>) -> Standing {
        match (self.used, self.revoked || self.expires_at <= now) {
            (true, _) => Standing::Reused,
            (false, true) => Standing::Dead,
            (false, false) => Standing::Good,
        }
    }
}

/// The token with this hash. It and its sign-in are held until the transaction ends: of two who present it, the second
/// waits and finds it used.
async fn of_token(tx: &mut Transaction<Tables>, hash: &[u8; 32]) -> Result<Option<Known>, StoreError> {
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
            Ok(Some(Known {
                sign_in: row.try_get("sign_in_id")?,
                user: UserId(row.try_get("user_id")?),
                expires_at: row.try_get("expires_at")?,
                used: row.try_get("used")?,
                revoked: row.try_get("revoked")?,
            }))
        }
        On::Memory(m) => {
            let rows = &m.sign_in;
            let Some(token) = rows.refresh_tokens.get(hash) else { return Ok(None) };
            let known = |sign_in: &SignInRow| Known {
                sign_in: token.sign_in,
                user: sign_in.user,
                expires_at: token.expires_at,
                used: token.used,
                revoked: sign_in.revoked,
            };
            Ok(rows.sign_ins.get(&token.sign_in).map(known))
        }
    }
}

async fn insert_sign_in(
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
        On::Memory(m) => {
            m.sign_in.sign_ins.insert(id, SignInRow { user, revoked: false });
        }
    }
    Ok(())
}

async fn insert_token(
    tx: &mut Transaction<Tables>,
    hash: &[u8; 32],
    sign_in: Uuid,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let expires_at = now + Duration::days(REFRESH_LIFE_DAYS);
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("insert into refresh_tokens (token_hash, sign_in_id, expires_at) values ($1, $2, $3)")
                .bind(&hash[..])
                .bind(sign_in)
                .bind(expires_at)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(m) => {
            m.sign_in.refresh_tokens.insert(*hash, TokenRow { sign_in, expires_at, used: false });
        }
    }
    Ok(())
}

async fn use_up(tx: &mut Transaction<Tables>, hash: &[u8; 32], now: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update refresh_tokens set used_at = $2 where token_hash = $1")
                .bind(&hash[..])
                .bind(now)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(m) => {
            if let Some(token) = m.sign_in.refresh_tokens.get_mut(hash) {
                token.used = true;
            }
        }
    }
    Ok(())
}

/// Ends a sign-in: all its tokens are dead.
async fn revoke(tx: &mut Transaction<Tables>, sign_in: Uuid, now: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update sign_ins set revoked_at = $2 where sign_in_id = $1 and revoked_at is null")
                .bind(sign_in)
                .bind(now)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(m) => {
            if let Some(row) = m.sign_in.sign_ins.get_mut(&sign_in) {
                row.revoked = true;
            }
        }
    }
    Ok(())
}

/// Deletes what has expired: codes, requests that no longer count, refresh tokens, sign-ins without any.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<(), StoreError> {
    otp::purge(tx, now).await?;
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
        On::Memory(m) => {
            let rows = &mut m.sign_in;
            let live = rows.refresh_tokens.iter().filter(|(_, token)| token.expires_at > now);
            rows.refresh_tokens = live.map(|(hash, token)| (*hash, token.clone())).collect();
            let used: imbl::OrdSet<Uuid> = rows.refresh_tokens.values().map(|token| token.sign_in).collect();
            let kept = rows.sign_ins.iter().filter(|(id, _)| used.contains(*id));
            rows.sign_ins = kept.map(|(id, row)| (*id, row.clone())).collect();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_token_ends_its_sign_in_however_old_it_is() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let (later, before) = (now + Duration::seconds(1), now - Duration::seconds(1));
        let cases = [
            (false, false, later, Standing::Good),
            (false, false, now, Standing::Dead),
            (false, false, before, Standing::Dead),
            (false, true, later, Standing::Dead),
            (true, false, later, Standing::Reused),
            (true, true, later, Standing::Reused),
            (true, false, before, Standing::Reused),
        ];
        for (used, revoked, expires_at, expected) in cases {
            let known = Known { sign_in: Uuid::nil(), user: UserId(Uuid::nil()), expires_at, used, revoked };
            assert_eq!(known.judge(now), expected, "used {used}, revoked {revoked}, expires at {expires_at}");
        }
    }

    async fn purge_leaves_what_lives(store: platform::Store<Tables>) {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let phone = |n: u32| Phone::parse(&format!("+1415555013{n}")).unwrap();
        let ids = [1u128, 2].map(Uuid::from_u128);
        let mut tx = store.begin().await.unwrap();
        for (n, started) in [(0, now), (1, now + Duration::seconds(1))] {
            let user = UserId(ids[n]);
            let hash = [u8::try_from(n).unwrap(); 32];
            let phone = phone(u32::try_from(n).unwrap());
            account::of_phone_or_new(&mut tx, &phone, user, started).await.unwrap();
            otp::replace(&mut tx, &phone, &Otp::new(hash, started)).await.unwrap();
            otp::insert_request(&mut tx, &phone, ids[n], started).await.unwrap();
            insert_sign_in(&mut tx, ids[n], user, started).await.unwrap();
            insert_token(&mut tx, &hash, ids[n], started).await.unwrap();
        }
        let mut left = Vec::new();
        for after in [Duration::seconds(299), Duration::seconds(300), Duration::hours(1), Duration::days(30)] {
            purge(&mut tx, now + after).await.unwrap();
            let mut counts = [0; 3];
            for n in 0..2u8 {
                let phone = phone(n.into());
                counts[0] += usize::from(otp::of_phone(&mut tx, &phone).await.unwrap().is_some());
                counts[1] += otp::requests_since(&mut tx, &phone, now - Duration::days(1)).await.unwrap().len();
                counts[2] += usize::from(of_token(&mut tx, &[n; 32]).await.unwrap().is_some());
            }
            left.push(counts);
        }
        assert_eq!(left, [[2, 2, 2], [1, 2, 2], [0, 1, 2], [0, 0, 1]]);
        let sign_ins = match tx.on() {
            On::Postgres(pg) => {
                let row = sqlx::query("select count(*) from sign_ins").fetch_one(&mut *pg).await.unwrap();
                row.get::<i64, _>(0)
            }
            On::Memory(m) => i64::try_from(m.sign_in.sign_ins.len()).unwrap(),
        };
        assert_eq!(sign_ins, 1);
    }

    #[tokio::test]
    async fn purge_in_memory_leaves_what_lives() {
        let world = platform::World::seeded(DateTime::UNIX_EPOCH, 1);
        purge_leaves_what_lives(platform::Store::memory(&world, &"test".into())).await;
    }

    #[tokio::test]
    async fn purge_in_postgres_leaves_what_lives() {
        let world = platform::World::seeded(DateTime::UNIX_EPOCH, 1);
        let url = testing::database::fresh().await;
        let pod = "test".into();
        let store = platform::Store::postgres(&world, &pod, &url, "users", &crate::MIGRATIONS, 2);
        purge_leaves_what_lives(store.await.unwrap()).await;
    }
}
