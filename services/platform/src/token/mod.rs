//! Access tokens (JWT, HS256), what else is made or checked by the platform's secrets, and the extractors for the signed-in user.
//!
//! `keys` derives a key for each purpose, `ended` knows the sign-ins whose tokens are refused before they expire.

pub mod ended;
mod keys;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{FromRef, FromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use streams::{RideId, SignInId, UserId};

use crate::problem::Problem;
use crate::world::World;
pub use ended::EndedSignIns;
use keys::Keys;

/// How long an access token is valid, in seconds.
pub const ACCESS_TOKEN_S: i64 = 900;
/// `iss` and `aud` of every access token: the platform issues them, and they are for the platform.
const PLATFORM: &str = "rideshare";
/// The header `typ` of an access token (RFC 9068).
const TOKEN_TYPE: &str = "at+jwt";
/// A token is valid from this long before its issue on, in seconds: the clock of the process that verifies it may be behind.
const NOT_BEFORE_S: i64 = 30;
const RIDE_PIN: &str = "ride-pin";

/// Issues and verifies tokens, and derives what two services must both know. Clones share everything.
#[derive(Clone)]
pub struct Tokens {
    world: World,
    keys: Arc<Keys>,
    ended: EndedSignIns,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

/// What a valid access token says. As an extractor it rejects a request without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    pub user: UserId,
    /// `None` in a token that the version before this one issued, or an operator's tool.
    pub sign_in: Option<SignInId>,
    pub expires_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct Claims {
    iss: &'static str,
    aud: &'static str,
    sub: UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<SignInId>,
    iat: i64,
    nbf: i64,
    exp: i64,
}

#[derive(Deserialize)]
struct ReceivedClaims {
    iss: Option<Value>,
    aud: Option<Value>,
    sub: UserId,
    sid: Option<SignInId>,
    #[serde(rename = "iat")]
    _iat: i64,
    nbf: Option<i64>,
    exp: i64,
}

impl Tokens {
    /// With one secret for everything, the same in every process.
    ///
    /// # Errors
    /// A sentence if it is shorter than 32 bytes.
    pub fn new(world: &World, secret: &[u8]) -> Result<Self, String> {
        Self::with_secrets(world, &[secret], &[secret])
    }

    /// With the secrets that sign access tokens, and those that hash what is stored and make PINs. The first of each list makes
    /// what is new; what any of them made is accepted.
    ///
    /// # Errors
    /// A sentence that says which one is missing, or shorter than 32 bytes.
    pub fn with_secrets(world: &World, signing: &[&[u8]], data: &[&[u8]]) -> Result<Self, String> {
        let keys = Arc::new(Keys::new(signing, data)?);
        Ok(Self { world: world.clone(), keys, ended: EndedSignIns::default() })
    }

    /// Those of another process with the same secrets, for simulations and tests: it does not know yet which sign-ins have ended.
    pub fn of_another_process(&self) -> Self {
        Self { ended: EndedSignIns::default(), ..self.clone() }
    }

    /// The sign-ins whose tokens are refused.
    pub fn ended(&self) -> &EndedSignIns {
        &self.ended
    }

    /// An access token for `user` that belongs to no sign-in: for tools and tests.
    pub fn access(&self, user: UserId) -> String {
        self.sign(user, None, self.world.now() + TimeDelta::seconds(ACCESS_TOKEN_S))
    }

    /// An access token of a sign-in, valid until `expires_at`.
    pub fn access_of(&self, user: UserId, sign_in: SignInId, expires_at: DateTime<Utc>) -> String {
        self.sign(user, Some(sign_in), expires_at)
    }

    fn sign(&self, sub: UserId, sid: Option<SignInId>, expires_at: DateTime<Utc>) -> String {
        let iat = self.world.now().timestamp();
        let (nbf, exp) = (iat - NOT_BEFORE_S, expires_at.timestamp());
        let key = &self.keys.signing()[0];
        let (typ, kid) = (Some(TOKEN_TYPE.to_owned()), Some(key.kid.clone()));
        let header = Header { typ, kid, ..Header::new(Algorithm::HS256) };
        let claims = Claims { iss: PLATFORM, aud: PLATFORM, sub, sid, iat, nbf, exp };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&key.key)).expect("claims are plain JSON")
    }

    /// What a token says.
    ///
    /// # Errors
    /// A 401 problem if it is malformed, forged or expired, or if its sign-in has ended.
    pub fn verify(&self, token: &str) -> Result<Access, Problem> {
        let invalid = || Problem::unauthorized("the access token is not valid: sign in again");
        let claims = self.claims(token).ok_or_else(invalid)?;
        let now = self.world.now();
        let expires_at = DateTime::from_timestamp(claims.exp, 0).ok_or_else(invalid)?;
        if expires_at <= now {
            return Err(Problem::unauthorized("the access token has expired: refresh it"));
        }
        if claims.nbf.is_some_and(|nbf| nbf > now.timestamp()) {
            return Err(Problem::unauthorized("the access token is not valid yet"));
        }
        if claims.sid.is_some_and(|sign_in| self.ended.contains(sign_in)) {
            return Err(Problem::unauthorized("the sign-in of the access token has ended: sign in again"));
        }
        Ok(Access { user: claims.sub, sign_in: claims.sid, expires_at })
    }

    /// The claims of a token that this platform signed for itself.
    fn claims(&self, token: &str) -> Option<ReceivedClaims> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        let decode = |key: &[u8]| {
            let mut validation = Validation::new(Algorithm::HS256);
            // Expiry is checked against the world's clock, and the audience below, as strictly.
            validation.validate_exp = false;
            validation.validate_aud = false;
            jsonwebtoken::decode::<ReceivedClaims>(token, &DecodingKey::from_secret(key), &validation).ok()
        };
        let mut keys = self.keys.signing().iter();
        let is_ours = |value: &Option<Value>| value.as_ref().is_some_and(is_platform);
        match &header.kid {
            Some(kid) => {
                let claims = decode(&keys.find(|key| key.kid == *kid)?.key)?.claims;
                let typed = header.typ.is_some_and(|typ| typ.eq_ignore_ascii_case(TOKEN_TYPE));
                (typed && is_ours(&claims.iss) && is_ours(&claims.aud)).then_some(claims)
            }
            // The version before this one signed with the secret itself, and had neither `kid` nor `iss` and `aud`.
            None => {
                let claims = keys.find_map(|key| decode(&key.secret))?.claims;
                let typed =
                    header.typ.is_none_or(|typ| ["jwt", TOKEN_TYPE].contains(&typ.to_ascii_lowercase().as_str()));
                let ours = |value: &Option<Value>| value.is_none() || is_ours(value);
                (typed && ours(&claims.iss) && ours(&claims.aud)).then_some(claims)
            }
        }
    }

    /// A keyed hash of `value` for one `purpose`. Codes are stored only as such hashes.
    pub fn keyed_hash(&self, purpose: &str, value: &str) -> [u8; 32] {
        self.keys.hash(purpose, value.as_bytes())
    }

    /// Every keyed hash of `value` that may be stored: by each secret, and as the version before this one made it. The first is
    /// [`keyed_hash`](Self::keyed_hash).
    pub fn keyed_hashes(&self, purpose: &str, value: &str) -> Vec<[u8; 32]> {
        self.keys.hashes(purpose, value.as_bytes())
    }

    /// Whether `hash` is a keyed hash of `value` by any of the secrets, in constant time.
    pub fn is_keyed_hash(&self, purpose: &str, value: &[u8], hash: &[u8]) -> bool {
        self.keys.is_hash(purpose, value, hash)
    }

    /// The keyed hash of bytes, as [`is_keyed_hash`](Self::is_keyed_hash) knows it.
    pub fn keyed_hash_of(&self, purpose: &str, value: &[u8]) -> [u8; 32] {
        self.keys.hash(purpose, value)
    }

    /// The four digits that a passenger tells the driver. users, which shows them, and rides, which checks them, both derive them
    /// from the ride's id; no event carries them. They are made as the version before made them: a ride has one PIN for each secret,
    /// and not two that are right.
    pub fn ride_pin(&self, ride: RideId) -> String {
        self.ride_pins(ride).swap_remove(0)
    }

    /// One for each secret; not empty.
    fn ride_pins(&self, ride: RideId) -> Vec<String> {
        self.keys.raw_hashes(RIDE_PIN, ride.to_string().as_bytes()).map(|hash| pin(&hash)).collect()
    }

    /// Whether `pin` is the ride's, by any of the secrets: one may have changed since the passenger was shown the PIN.
    pub fn is_ride_pin(&self, ride: RideId, presented: &str) -> bool {
        let equals = |right: String| verify_slices_are_equal(right.as_bytes(), presented.as_bytes()).is_ok();
        self.ride_pins(ride).into_iter().any(equals)
    }
}

/// The SHA-256 of a token that is random: stored in its place.
pub fn hash_of(token: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token).as_ref());
    hash
}

/// Whether two hashes are the same, in constant time.
pub fn is_same_hash(a: &[u8; 32], b: &[u8; 32]) -> bool {
    verify_slices_are_equal(a, b).is_ok()
}

fn pin(hash: &[u8; 32]) -> String {
    let number = u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]);
    format!("{:04}", number % 10_000)
}

/// Whether a claim names the platform, alone or in a list (RFC 7519, 4.1.3).
fn is_platform(claim: &Value) -> bool {
    match claim {
        Value::Array(list) => list.iter().any(|one| one == PLATFORM),
        one => one == PLATFORM,
    }
}

/// The caller of an HTTP route, by the access token in `Authorization: Bearer`. The router's state must yield [`Tokens`] by
/// `FromRef`.
#[derive(Debug, Clone, Copy)]
pub struct SignedIn(pub UserId);

impl<S> FromRequestParts<S> for SignedIn
where
    Tokens: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Access::from_request_parts(parts, state).await.map(|access| Self(access.user))
    }
}

impl<S> FromRequestParts<S> for Access
where
    Tokens: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let token = parts
            .headers
            .get(AUTHORIZATION)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| Problem::unauthorized("the header `Authorization: Bearer <access token>` is missing"))?;
        Tokens::from_ref(state).verify(token)
    }
}

#[cfg(test)]
mod tests;
