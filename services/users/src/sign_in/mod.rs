//! Sign-in: from a phone's one-time code to an access token, and on by refresh tokens, each of which works once.
//!
//! A sign-in is a chain of refresh tokens on one device. When a used token comes again, either it was stolen or the thief
//! used it first. Nobody can tell which, so the whole sign-in ends. Only keyed hashes of codes and refresh tokens are
//! stored; tokens, codes and phones reach no log.

pub(crate) mod delivery;
pub(crate) mod otp;
pub(crate) mod phone;
pub(crate) mod rows;

use chrono::{DateTime, Duration, Utc};
use platform::{Tokens, World};
use streams::UserId;
use uuid::Uuid;

const REFRESH_TOKEN_LIFE: Duration = Duration::days(30);

/// A stored refresh token with its sign-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefreshToken {
    pub(crate) sign_in: Uuid,
    pub(crate) user: UserId,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) used: bool,
    /// Whether its sign-in has ended.
    pub(crate) revoked: bool,
}

/// What becomes of a refresh token that a client presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenStatus {
    /// The client gets a new pair of tokens.
    Valid,
    /// The sign-in ends.
    Reused,
    /// The client must sign in again.
    Invalid,
}

impl RefreshToken {
    pub(crate) fn status(&self, now: DateTime<Utc>) -> TokenStatus {
        match (self.used, self.revoked || self.expires_at <= now) {
            (true, _) => TokenStatus::Reused,
            (false, true) => TokenStatus::Invalid,
            (false, false) => TokenStatus::Valid,
        }
    }
}

/// 32 random bytes in hex.
pub(crate) fn new_refresh_token(world: &World) -> String {
    hex::encode(world.bytes::<32>())
}

/// What is stored of a refresh token.
pub(crate) fn refresh_token_hash(tokens: &Tokens, token: &str) -> [u8; 32] {
    tokens.keyed_hash("refresh-token", token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_token_ends_its_sign_in_however_old_it_is() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let (later, before) = (now + Duration::seconds(1), now - Duration::seconds(1));
        let cases = [
            (false, false, later, TokenStatus::Valid),
            (false, false, now, TokenStatus::Invalid),
            (false, false, before, TokenStatus::Invalid),
            (false, true, later, TokenStatus::Invalid),
            (true, false, later, TokenStatus::Reused),
            (true, true, later, TokenStatus::Reused),
            (true, false, before, TokenStatus::Reused),
        ];
        for (used, revoked, expires_at, expected) in cases {
            let token = RefreshToken { sign_in: Uuid::nil(), user: UserId(Uuid::nil()), expires_at, used, revoked };
            assert_eq!(token.status(now), expected, "used {used}, revoked {revoked}, expires at {expires_at}");
        }
    }
}
