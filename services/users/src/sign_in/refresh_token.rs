//! The text of a refresh token: the id of its sign-in, its number, and a keyed hash of both and the salt of the row. So nobody
//! can make one without the key and the row, and the same row always yields the same text.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use platform::Tokens;
use streams::SignInId;
use uuid::Uuid;

use super::SignIn;

/// Names the key of the hash.
const PURPOSE: &str = "refresh-token";
/// Begins every refresh token of this form.
const PREFIX: &str = "rt1.";

/// A refresh token that a client presents. Its hash is compared once its row is known.
#[derive(Debug)]
pub(crate) struct Presented {
    pub(crate) sign_in: SignInId,
    pub(crate) number: i64,
    hash: [u8; 32],
}

impl Presented {
    /// `None` if the text has another form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        let (id, rest) = bytes.split_first_chunk::<16>()?;
        let (number, hash) = rest.split_first_chunk::<8>()?;
        let (sign_in, number) = (SignInId(Uuid::from_bytes(*id)), i64::from_be_bytes(*number));
        Some(Self { sign_in, number, hash: hash.try_into().ok()? })
    }

    /// Whether a process of the platform made the token for this row, by any of the secrets.
    pub(crate) fn is_of(&self, sign_in: &SignIn, tokens: &Tokens) -> bool {
        tokens.is_keyed_hash(PURPOSE, &hashed(sign_in, self.number), &self.hash)
    }
}

/// The newest refresh token of a sign-in.
pub(crate) fn newest(sign_in: &SignIn, tokens: &Tokens) -> String {
    let mut bytes = sign_in.id.0.as_bytes().to_vec();
    bytes.extend(sign_in.number.to_be_bytes());
    bytes.extend(tokens.keyed_hash_of(PURPOSE, &hashed(sign_in, sign_in.number)));
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

fn hashed(sign_in: &SignIn, number: i64) -> Vec<u8> {
    [&sign_in.salt[..], sign_in.id.0.as_bytes(), &number.to_be_bytes()].concat()
}

/// What the version before this one stored of a refresh token, by each secret that it may have had.
pub(crate) fn previous_version_hashes(tokens: &Tokens, token: &str) -> Vec<Vec<u8>> {
    tokens.keyed_hashes(PURPOSE, token).iter().map(|hash| hash.to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};
    use platform::World;
    use streams::UserId;

    use super::*;

    #[tokio::test]
    async fn a_refresh_token_is_one_sign_ins_and_one_numbers_and_follows_from_the_row() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let tokens = |secrets: &[&[u8]]| Tokens::with_secrets(&World::seeded(now, 1), secrets, secrets).unwrap();
        let (old, new) = (tokens(&[&[1; 32]]), tokens(&[&[2; 32], &[1; 32]]));
        let id = |n| SignInId(Uuid::from_u128(n));
        let row = |n, salt| SignIn::new(id(n), UserId(Uuid::nil()), None, vec![salt; 16], TimeDelta::days(90), now);
        let sign_in = SignIn { number: 7, ..row(1, 1) };

        let token = newest(&sign_in, &old);
        assert_eq!(token, newest(&sign_in, &old));
        let presented = Presented::parse(&token).unwrap();
        assert_eq!((presented.sign_in, presented.number), (id(1), 7));
        assert!(presented.is_of(&sign_in, &old) && presented.is_of(&sign_in, &new));
        assert!(!Presented::parse(&newest(&sign_in, &new)).unwrap().is_of(&sign_in, &old), "another secret");
        for other in [row(1, 2), row(2, 1)] {
            assert!(!presented.is_of(&other, &old), "{other:?}");
        }
        // Any other text is another token, or none.
        for n in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[n] = if changed[n] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let accepted = Presented::parse(&changed).is_some_and(|p| p.sign_in == id(1) && p.is_of(&sign_in, &old));
            assert!(!accepted, "{n}");
        }
        for none in
            ["", "rt1.", "rt1.AAAA", &"0".repeat(64), &token[..token.len() - 1], &format!("{token}A"), &token[4..]]
        {
            assert!(Presented::parse(none).is_none(), "{none}");
        }
        assert!(Presented::parse(&token.to_uppercase()).is_none());
    }
}
