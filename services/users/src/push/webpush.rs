//! Web Push: the message encrypted for the browser alone (RFC 8291, aes128gcm of RFC 8188), posted to the browser's push service with the
//! signature of this platform (VAPID, RFC 8292). Pure but for the signature.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::hmac;
use axum::http::{HeaderMap, Request, StatusCode, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::device::Subscription;
use super::jwt::SigningKey;
use super::outcome::Outcome;
use super::rows::Claimed;

/// How long a signature is valid; RFC 8292 allows a day.
const SIGNATURE_LIFE: TimeDelta = TimeDelta::hours(12);
/// The size of the one record, as RFC 8291 wants it at least.
const RECORD: u32 = 4_096;

/// By whom push services know this platform.
#[derive(Debug, Clone)]
pub struct VapidConfig {
    key: Arc<SigningKey>,
    /// Whom they write to if something is wrong: `mailto:` or an address.
    subject: String,
}

impl VapidConfig {
    /// # Errors
    /// What is wrong, without the key.
    pub fn new(pem: &str, subject: &str) -> Result<Self, String> {
        if !(subject.starts_with("mailto:") || subject.starts_with("https://")) {
            return Err("the subject must begin with mailto: or https://".to_owned());
        }
        Ok(Self { key: Arc::new(SigningKey::es256(pem)?), subject: subject.to_owned() })
    }

    /// The `applicationServerKey` with which a browser subscribes.
    pub fn public_key(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.key.public_point())
    }
}

/// What must be new for each message.
pub(super) struct Fresh {
    pub(super) private: [u8; 32],
    pub(super) salt: [u8; 16],
}

/// The request for this try; `None` for a subscription that cannot be encrypted for.
pub(super) fn request(
    push: &Claimed,
    token: &str,
    config: &VapidConfig,
    fresh: &Fresh,
    now: DateTime<Utc>,
) -> Option<Result<Request<Bytes>, axum::http::Error>> {
    let subscription: Subscription = serde_json::from_str(token).ok()?;
    let body = encrypt(push.message.as_bytes(), &subscription, fresh)?;
    let endpoint: Uri = subscription.endpoint.parse().ok()?;
    let audience = format!("{}://{}", endpoint.scheme_str()?, endpoint.authority()?);
    let claims = json!({"aud": audience, "exp": (now + SIGNATURE_LIFE).timestamp(), "sub": config.subject});
    let signed = config.key.sign(None, &claims)?;
    let request = Request::post(endpoint)
        .header(header::AUTHORIZATION, format!("vapid t={signed}, k={}", config.public_key()))
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_ENCODING, "aes128gcm")
        .header("ttl", (push.expires_at - now).num_seconds().max(0))
        .header("urgency", if push.urgent { "high" } else { "normal" })
        .header("topic", URL_SAFE_NO_PAD.encode(push.topic.as_bytes()))
        .body(Bytes::from(body));
    Some(request)
}

/// RFC 8030 and RFC 8292.
pub(super) fn outcome(status: StatusCode, headers: &HeaderMap) -> Outcome {
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Outcome::Gone,
        status if status.is_success() => Outcome::Sent,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Outcome::failed_with(status, headers),
        status if status.is_client_error() => Outcome::Refused(format!("answered {status}")),
        status => Outcome::failed_with(status, headers),
    }
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    context.sign().as_ref().try_into().expect("an HMAC-SHA256 has 32 bytes")
}

/// The first block of HKDF-Expand (RFC 5869): 32 bytes are enough for all keys here.
fn expand(pseudo_random_key: &[u8], info: &[&[u8]]) -> [u8; 32] {
    hmac_sha256(pseudo_random_key, &[info, &[&[1]]].concat())
}

/// The message as one record, which only the browser can read. `None` if its key is no point of the curve.
fn encrypt(message: &[u8], subscription: &Subscription, fresh: &Fresh) -> Option<Vec<u8>> {
    let (browser, secret) = subscription.keys.decode()?;
    let private = PrivateKey::from_private_key(&ECDH_P256, &fresh.private).ok()?;
    let public = private.compute_public_key().ok()?;
    let peer = UnparsedPublicKey::new(&ECDH_P256, browser);
    let combined = agree(&private, peer, (), |shared| Ok(hmac_sha256(&secret, &[shared]))).ok()?;
    let key_material = expand(&combined, &[b"WebPush: info\0", &browser, public.as_ref()]);
    let random_key = hmac_sha256(&fresh.salt, &[&key_material]);
    let key = expand(&random_key, &[b"Content-Encoding: aes128gcm\0"]);
    let nonce = expand(&random_key, &[b"Content-Encoding: nonce\0"]);
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key[..16]).ok()?);
    // 2: the last record.
    let mut record = [message, &[2]].concat();
    let nonce = Nonce::try_assume_unique_for_key(&nonce[..12]).ok()?;
    key.seal_in_place_append_tag(nonce, Aad::empty(), &mut record).ok()?;
    let length = u8::try_from(public.as_ref().len()).ok()?;
    Some([&fresh.salt[..], &RECORD.to_be_bytes(), &[length], public.as_ref(), &record].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::device::SubscriptionKeys;

    fn decode<const N: usize>(text: &str) -> [u8; N] {
        URL_SAFE_NO_PAD.decode(text).unwrap().try_into().unwrap()
    }

    #[test]
    fn a_message_is_encrypted_as_in_appendix_a_of_rfc_8291() {
        let keys = SubscriptionKeys {
            p256dh: "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
                .to_owned(),
            auth: "BTBZMqHH6r4Tts7J_aSIgg".to_owned(),
        };
        let subscription = Subscription { endpoint: "https://push.example.net/push".to_owned(), keys };
        let fresh = Fresh {
            private: decode("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"),
            salt: decode("DGv6ra1nlYgDCS1FRnbzlw"),
        };
        let encrypted = encrypt(b"When I grow up, I want to be a watermelon", &subscription, &fresh).unwrap();
        assert_eq!(
            URL_SAFE_NO_PAD.encode(encrypted),
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6\
             cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
        );
        // 65 bytes that are no point of the curve.
        let keys = SubscriptionKeys { p256dh: format!("BA{}", "A".repeat(85)), ..subscription.keys.clone() };
        assert!(encrypt(b"x", &Subscription { keys, ..subscription }, &fresh).is_none());
    }

    #[test]
    fn what_a_push_service_answers() {
        let outcome = |status: u16| outcome(StatusCode::from_u16(status).unwrap(), &HeaderMap::new()).label();
        let labels = [201, 202, 400, 403, 404, 410, 413, 429, 500, 503].map(outcome);
        assert_eq!(
            labels,
            ["sent", "sent", "refused", "refused", "gone", "gone", "refused", "failed", "failed", "failed"]
        );
    }
}
