//! Standard Webhooks: how a receiver knows that a message is from this platform, and which one it is. Pure.
//!
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};

/// The header of the message's id, the same on every try: a receiver that knows it has the message already.
pub const ID: &str = "webhook-id";
/// The header of the time of this try, in seconds of Unix time.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// The header of the signatures.
pub const SIGNATURE: &str = "webhook-signature";

/// How old or new a message may be: an older one may be a replay.
pub const TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// The specification wants at least 24 bytes and at most 64.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const SECRET_PREFIX: &str = "whsec_";
/// The most secrets that sign a message at once.
const SECRETS_MAX: usize = 4;

/// The keys that sign, known to both ends: several while a secret changes.
#[derive(Clone)]
pub struct Secret(Vec<hmac::Key>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Reads `whsec_<base64>`, or several with spaces between them; a text without the prefix is the key itself.
    ///
    /// # Errors
    /// What is wrong, without the secret.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let parts: Vec<&str> = text.split(' ').filter(|part| !part.is_empty()).collect();
        if parts.len() < 2 || parts.len() > SECRETS_MAX || !parts.iter().all(|part| part.starts_with(SECRET_PREFIX)) {
            return Self::parse_one(text);
        }
        let keys = parts.into_iter().map(Self::parse_one).collect::<Result<Vec<_>, _>>()?;
        Ok(Self(keys.into_iter().flat_map(|secret| secret.0).collect()))
    }

    fn parse_one(text: &str) -> Result<Self, &'static str> {
        let bytes = match text.strip_prefix(SECRET_PREFIX) {
            Some(coded) => STANDARD
                .decode(coded)
                .or_else(|_| STANDARD_NO_PAD.decode(coded))
                .map_err(|_| "what follows `whsec_` is not base64")?,
            None => text.as_bytes().to_vec(),
        };
        if !SECRET_BYTES.contains(&bytes.len()) {
            return Err("a webhook's secret must have 24 to 64 bytes");
        }
        Ok(Self::of_bytes(&bytes))
    }

    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(vec![hmac::Key::new(hmac::HMAC_SHA256, bytes)])
    }

    /// The text that [`parse`](Self::parse) reads, as the specification writes a secret.
    pub fn text_of(bytes: &[u8]) -> String {
        format!("{SECRET_PREFIX}{}", STANDARD.encode(bytes))
    }

    /// The value of [`SIGNATURE`]: `v1,<base64 of the HMAC-SHA256 of id.timestamp.body>`, one by each key, with spaces between them.
    pub fn sign(&self, id: &str, at: DateTime<Utc>, body: &[u8]) -> String {
        let head = signed_head(id, &at.timestamp().to_string());
        let signatures = self.0.iter().map(|key| {
            let mut context = hmac::Context::with_key(key);
            context.update(head.as_bytes());
            context.update(body);
            format!("v1,{}", STANDARD.encode(context.sign()))
        });
        signatures.collect::<Vec<_>>().join(" ")
    }

    /// Verifies a message by the values of its three headers. Of several signatures, with spaces between them, one must be right.
    ///
    /// # Errors
    /// [`Forged`].
    pub fn verify(
        &self,
        id: &str,
        timestamp: &str,
        signatures: &str,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<(), Forged> {
        let at =
            timestamp.parse().ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0)).ok_or(Forged::Malformed)?;
        if (now - at).abs() > TOLERANCE {
            return Err(Forged::OutOfTime);
        }
        let mut signed = signed_head(id, timestamp).into_bytes();
        signed.extend_from_slice(body);
        let known = signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,"));
        let mut tags = known.filter_map(|coded| STANDARD.decode(coded).ok());
        if tags.any(|tag| self.0.iter().any(|key| hmac::verify(key, &signed, &tag).is_ok())) {
            Ok(())
        } else {
            Err(Forged::Signature)
        }
    }
}

fn signed_head(id: &str, timestamp: &str) -> String {
    format!("{id}.{timestamp}.")
}

/// Why a message is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    #[error("the timestamp is no number of seconds")]
    Malformed,
    #[error("the message is older or newer than five minutes")]
    OutOfTime,
    #[error("no signature is right")]
    Signature,
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of the specification's own libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn the_signature_is_that_of_the_specification() {
        let secret = Secret::parse(SECRET).unwrap();
        assert_eq!(secret.sign(ID, at(AT), BODY), SIGNATURE);
        assert_eq!(
            Secret::parse(SECRET.trim_start_matches("whsec_")).unwrap().sign(ID, at(AT), BODY).len(),
            SIGNATURE.len()
        );
        let bytes = STANDARD.decode(&SECRET[6..]).unwrap();
        assert_eq!(Secret::text_of(&bytes), SECRET);
    }

    #[test]
    fn what_is_changed_or_out_of_time_is_not_believed() {
        let secret = Secret::parse(SECRET).unwrap();
        let time = AT.to_string();
        let two = format!("v1,AAAA v2,x {SIGNATURE}");
        for (id, time, signatures, body, now, result) in [
            (ID, time.as_str(), SIGNATURE, BODY, AT, Ok(())),
            (ID, &time, SIGNATURE, BODY, AT + 300, Ok(())),
            (ID, &time, SIGNATURE, BODY, AT - 300, Ok(())),
            (ID, &time, &two, BODY, AT, Ok(())),
            (ID, &time, SIGNATURE, BODY, AT + 301, Err(Forged::OutOfTime)),
            (ID, &time, SIGNATURE, BODY, AT - 301, Err(Forged::OutOfTime)),
            (ID, "1614265331", SIGNATURE, BODY, AT, Err(Forged::Signature)),
            (ID, "soon", SIGNATURE, BODY, AT, Err(Forged::Malformed)),
            (ID, "9223372036854775807", SIGNATURE, BODY, AT, Err(Forged::Malformed)),
            ("msg_other", &time, SIGNATURE, BODY, AT, Err(Forged::Signature)),
            (ID, &time, SIGNATURE, b"{}".as_slice(), AT, Err(Forged::Signature)),
            (ID, &time, &SIGNATURE[3..], BODY, AT, Err(Forged::Signature)),
            (ID, &time, "", BODY, AT, Err(Forged::Signature)),
            (ID, &time, "v1,", BODY, AT, Err(Forged::Signature)),
        ] {
            assert_eq!(secret.verify(id, time, signatures, body, at(now)), result, "{id} {time} {signatures} {now}");
        }
        let other = Secret::parse("another secret of 24 bytes.").unwrap();
        assert_eq!(other.verify(ID, &time, SIGNATURE, BODY, at(AT)), Err(Forged::Signature));
    }

    #[test]
    fn while_a_secret_changes_both_sign() {
        let new = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        let both = Secret::parse(&format!("{new} {SECRET}")).unwrap();
        let signed = both.sign(ID, at(AT), BODY);
        for one in [new, SECRET] {
            let one = Secret::parse(one).unwrap();
            assert_eq!(one.verify(ID, &AT.to_string(), &signed, BODY, at(AT)), Ok(()));
            assert_eq!(both.verify(ID, &AT.to_string(), &one.sign(ID, at(AT), BODY), BODY, at(AT)), Ok(()));
        }
        assert!(Secret::parse(&format!("{new} whsec_c2hvcnQ=")).is_err(), "each must be long enough");
        assert!(Secret::parse("two words that are one key of 24 bytes").is_ok());
    }

    #[test]
    fn a_secret_has_24_to_64_bytes() {
        for text in ["", "short", "whsec_", "whsec_c2hvcnQ=", "whsec_!", &"x".repeat(65)] {
            let error = Secret::parse(text).unwrap_err();
            assert!(text.is_empty() || !error.contains(text) || text == "whsec_", "{error}");
        }
        assert_eq!(format!("{:?}", Secret::parse(SECRET).unwrap()), "Secret");
    }
}
