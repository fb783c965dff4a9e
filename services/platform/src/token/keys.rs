//! The keys that follow from the secrets of the settings, one for each purpose (HKDF-SHA256, RFC 5869). The first secret of a
//! list makes what is new; every secret of it is accepted, so that a secret can change while tokens, codes and PINs of the one
//! before are in use.

use aws_lc_rs::{constant_time, digest, hkdf, hmac};

/// The fewest bytes of a secret.
const SECRET_MIN: usize = 32;
/// The salt of every derivation.
const SALT: &[u8] = b"rideshare";
/// The purpose of the keys that sign access tokens.
const SIGNING: &str = "access-token";

/// One secret. Secrets that sign and secrets that hash are separate lists, see [`Keys`].
pub(super) struct Secret {
    root: hkdf::Prk,
    /// The secret itself as a key: what the version before this one signed and hashed with.
    raw: hmac::Key,
}

impl Secret {
    fn new(secret: &[u8]) -> Self {
        Self {
            root: hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(secret),
            raw: hmac::Key::new(hmac::HMAC_SHA256, secret),
        }
    }

    /// The 32 bytes for one purpose.
    fn derive(&self, purpose: &str) -> [u8; 32] {
        let mut key = [0; 32];
        let info = [purpose.as_bytes()];
        let output = self.root.expand(&info, hkdf::HKDF_SHA256).expect("32 bytes are within the limit of HKDF");
        output.fill(&mut key).expect("the output has the length of its algorithm");
        key
    }

    fn hash(&self, purpose: &str, value: &[u8]) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.derive(purpose));
        bytes(hmac::sign(&key, value))
    }

    /// The hash that the version before this one made.
    fn raw_hash(&self, purpose: &str, value: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.raw);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(value);
        bytes(context.sign())
    }
}

fn bytes(tag: hmac::Tag) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(tag.as_ref());
    out
}

/// A key that signs access tokens.
pub(super) struct SigningKey {
    /// Names the key in a token's header: the first 8 hex digits of the key's SHA-256.
    pub(super) kid: String,
    pub(super) key: [u8; 32],
    /// The secret itself, with which the version before this one signed. Its tokens have no `kid`.
    pub(super) secret: Vec<u8>,
}

/// All keys of a process.
pub(super) struct Keys {
    /// Not empty.
    signing: Vec<SigningKey>,
    /// Not empty.
    data: Vec<Secret>,
}

impl Keys {
    /// From the secrets that sign access tokens, and those that hash what is stored. The first of each list makes what is new.
    ///
    /// # Errors
    /// A sentence that says which list is empty, or has a secret of fewer than 32 bytes.
    pub(super) fn new(signing: &[&[u8]], data: &[&[u8]]) -> Result<Self, String> {
        for (name, secrets) in [("JWT_SECRET", signing), ("DATA_SECRET", data)] {
            let Some(shortest) = secrets.iter().map(|secret| secret.len()).min() else {
                return Err(format!("{name} is missing: at least {SECRET_MIN} bytes are needed"));
            };
            if shortest < SECRET_MIN {
                return Err(format!(
                    "{name} or the one before it has {shortest} bytes: at least {SECRET_MIN} are needed"
                ));
            }
        }
        let signing = distinct(signing).into_iter().map(|secret| {
            let key = Secret::new(secret).derive(SIGNING);
            let digest = digest::digest(&digest::SHA256, &key);
            SigningKey { kid: hex::encode(&digest.as_ref()[..4]), key, secret: secret.to_vec() }
        });
        let data = distinct(data).into_iter().map(Secret::new).collect();
        Ok(Self { signing: signing.collect(), data })
    }

    /// The keys that verify an access token, the one that signs first.
    pub(super) fn signing(&self) -> &[SigningKey] {
        &self.signing
    }

    /// The keyed hash of `value` for `purpose`.
    pub(super) fn hash(&self, purpose: &str, value: &[u8]) -> [u8; 32] {
        self.data[0].hash(purpose, value)
    }

    /// Every keyed hash of `value` for `purpose` that may be stored: by each secret, and as the version before this one made it.
    /// The first is that of [`hash`](Self::hash).
    pub(super) fn hashes(&self, purpose: &str, value: &[u8]) -> Vec<[u8; 32]> {
        let new = self.data.iter().map(|secret| secret.hash(purpose, value));
        new.chain(self.raw_hashes(purpose, value)).collect()
    }

    /// The keyed hashes of `value` for `purpose` as the version before this one made them: by each secret, the first that of the
    /// secret that makes what is new. The purpose is a part of what is hashed.
    pub(super) fn raw_hashes(&self, purpose: &str, value: &[u8]) -> impl Iterator<Item = [u8; 32]> {
        self.data.iter().map(move |secret| secret.raw_hash(purpose, value))
    }

    /// Whether `hash` is the keyed hash of `value` by any of the secrets, in constant time.
    pub(super) fn is_hash(&self, purpose: &str, value: &[u8], hash: &[u8]) -> bool {
        let equal =
            |secret: &Secret| constant_time::verify_slices_are_equal(&secret.hash(purpose, value), hash).is_ok();
        self.data.iter().any(equal)
    }
}

fn distinct<'a>(secrets: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut distinct: Vec<&[u8]> = Vec::new();
    for secret in secrets {
        if !distinct.contains(secret) {
            distinct.push(secret);
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &[u8] = &[1; 32];
    const NEW: &[u8] = &[2; 40];

    #[test]
    fn each_purpose_and_each_secret_has_a_key_of_its_own() {
        let keys = Keys::new(&[OLD, NEW], &[OLD, NEW]).unwrap();
        let mut all = keys.hashes("one", b"value");
        all.extend(keys.hashes("two", b"value"));
        all.extend(keys.signing().iter().map(|signing| signing.key));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!((count, all.len()), (10, 10));
    }

    #[test]
    fn a_new_secret_accepts_what_the_old_one_made() {
        let old = Keys::new(&[OLD], &[OLD]).unwrap();
        let hash = old.hash("purpose", b"value");
        for (data, accepted) in [(vec![NEW, OLD], true), (vec![OLD, NEW], true), (vec![NEW], false)] {
            let keys = Keys::new(&[NEW], &data).unwrap();
            assert_eq!(keys.is_hash("purpose", b"value", &hash), accepted, "{data:?}");
            assert_eq!(keys.hashes("purpose", b"value").contains(&hash), accepted, "{data:?}");
            assert!(!keys.is_hash("purpose", b"other", &hash) && !keys.is_hash("other", b"value", &hash));
        }
    }

    #[test]
    fn hashes_of_the_version_before_are_known() {
        let keys = Keys::new(&[OLD], &[OLD]).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, OLD);
        let before = bytes(hmac::sign(&key, b"refresh-token\0abc"));
        assert_eq!(keys.hashes("refresh-token", b"abc")[1], before);
    }

    #[test]
    fn keys_are_those_of_rfc_5869_and_do_not_change() {
        let keys = Keys::new(&[OLD], &[OLD]).unwrap();
        let signing = &keys.signing()[0];
        // Computed by Python: hmac(hmac(b"rideshare", b"\1" * 32), b"access-token" + b"\1"), all with SHA-256.
        assert_eq!(hex::encode(signing.key), "4301bb2c83ae18a2ee65fbda8540a32d04da359161a5c35d71ca3adfc0c6b232");
        assert_eq!(signing.kid, "5f52cefc");
    }

    #[test]
    fn a_secret_that_comes_twice_counts_once_and_a_short_one_is_refused() {
        assert_eq!(Keys::new(&[OLD, OLD, NEW], &[NEW, NEW]).unwrap().signing().len(), 2);
        let refused = |signing: &[&[u8]], data: &[&[u8]]| Keys::new(signing, data).map(|_| ()).unwrap_err();
        assert!(refused(&[OLD, b"short"], &[OLD]).starts_with("JWT_SECRET or the one before it has 5 bytes"));
        assert!(refused(&[OLD], &[b"short"]).starts_with("DATA_SECRET"));
        assert!(refused(&[], &[OLD]).starts_with("JWT_SECRET is missing"));
    }
}
