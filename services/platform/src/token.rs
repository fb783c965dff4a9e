//! Access tokens (JWT, HS256), the keys derived from the one secret, and the extractor for the signed-in user.

use std::fmt;

use aws_lc_rs::hmac;
use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use chrono::Duration;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use streams::{RideId, UserId};

use crate::problem::Problem;
use crate::world::World;

/// How long an access token is valid.
pub const ACCESS_TOKEN_S: i64 = 900;

/// Issues and verifies tokens, and derives what two services must both know.
#[derive(Clone)]
pub struct Tokens {
    world: World,
    encoding: EncodingKey,
    decoding: DecodingKey,
    key: hmac::Key,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: UserId,
    iat: i64,
    exp: i64,
}

impl Tokens {
    /// With the secret of `JWT_SECRET`, which is the same in every process.
    ///
    /// # Errors
    /// A sentence if it is shorter than 32 bytes.
    pub fn new(world: &World, secret: &[u8]) -> Result<Self, String> {
        if secret.len() < 32 {
            return Err(format!("JWT_SECRET has {} bytes: at least 32 are needed", secret.len()));
        }
        Ok(Self {
            world: world.clone(),
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
        })
    }

    /// An access token for `user`, valid for [`ACCESS_TOKEN_S`].
    pub fn access(&self, user: UserId) -> String {
        let now = self.world.now();
        let claims =
            Claims { sub: user, iat: now.timestamp(), exp: (now + Duration::seconds(ACCESS_TOKEN_S)).timestamp() };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding).expect("claims are plain JSON")
    }

    /// The user of a token.
    ///
    /// # Errors
    /// A 401 problem if it is malformed, forged or expired.
    pub fn verify(&self, token: &str) -> Result<UserId, Problem> {
        let mut validation = Validation::new(Algorithm::HS256);
        // Expiry is checked below, against the world's clock.
        validation.validate_exp = false;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation)
            .map_err(|_| Problem::unauthorized("the access token is not valid: sign in again"))?
            .claims;
        if claims.exp <= self.world.now().timestamp() {
            return Err(Problem::unauthorized("the access token has expired: refresh it"));
        }
        Ok(claims.sub)
    }

    /// A keyed hash of `value` for one `purpose`. Codes and refresh tokens are stored only as such hashes.
    pub fn keyed_hash(&self, purpose: &str, value: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(value.as_bytes());
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }

    /// The four digits that a passenger tells the driver. users, which shows them, and rides, which checks them, both derive them
    /// from the ride's id; no event carries them.
    pub fn ride_pin(&self, ride: RideId) -> String {
        let hash = self.keyed_hash("ride-pin", &ride.to_string());
        let number = u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]);
        format!("{:04}", number % 10_000)
    }
}

/// The caller of an HTTP route, by the access token in `Authorization: Bearer`. The router's state must yield [`Tokens`] by
/// `FromRef`.
#[derive(Debug, Clone, Copy)]
pub struct SignedIn(pub UserId);

impl<S> FromRequestParts<S> for SignedIn
where
    Tokens: axum::extract::FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        use axum::extract::FromRef;
        let token = parts
            .headers
            .get(AUTHORIZATION)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| Problem::unauthorized("the header `Authorization: Bearer <access token>` is missing"))?;
        Tokens::from_ref(state).verify(token).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_is_valid_until_it_expires_and_for_its_secret_only() {
        let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 1);
        let tokens = Tokens::new(&world, &[7; 32]).unwrap();
        let user: UserId = world.id();
        let token = tokens.access(user);
        assert_eq!(tokens.verify(&token), Ok(user));
        assert!(Tokens::new(&world, &[8; 32]).unwrap().verify(&token).is_err());
        assert!(tokens.verify("a.b.c").is_err());
        tokio::time::advance(std::time::Duration::from_secs(ACCESS_TOKEN_S as u64)).await;
        assert!(tokens.verify(&token).unwrap_err().message.contains("expired"));
    }
}
