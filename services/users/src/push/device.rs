//! A device that receives pushes, and what a token of each platform looks like. Pure.

use aws_lc_rs::digest;
use axum::http::Uri;
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use platform::Problem;
use platform::http_client::Reach;
use platform::problem::Object;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use streams::{SignInId, UserId};
use uuid::Uuid;

/// The most devices of one user: beyond, the one registered longest ago is removed.
pub(crate) const DEVICES_MAX: usize = 20;
/// The longest token, in bytes.
const TOKEN_MAX: usize = 4_096;
/// The longest address that is posted to, in bytes.
const URL_MAX: usize = 2_048;
/// An APNs token has 32 bytes, and may have up to 100.
const APNS_BYTES: std::ops::RangeInclusive<usize> = 32..=100;
/// An uncompressed point of P-256 begins with this byte, and has 65 of them.
const UNCOMPRESSED: u8 = 4;
const POINT_BYTES: usize = 65;
const AUTH_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PushPlatform {
    Fcm,
    Apns,
    WebPush,
    Webhook,
}

impl PushPlatform {
    pub(crate) const ALL: [Self; 4] = [Self::Fcm, Self::Apns, Self::WebPush, Self::Webhook];

    /// The name on the wire, in the database and in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Fcm => "fcm",
            Self::Apns => "apns",
            Self::WebPush => "webpush",
            Self::Webhook => "webhook",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|platform| platform.as_str() == text)
    }
}

/// A row of `push_devices`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PushDevice {
    pub(crate) id: Uuid,
    pub(crate) user: UserId,
    pub(crate) platform: PushPlatform,
    pub(crate) token: String,
    pub(crate) sign_in: Option<SignInId>,
    pub(crate) created_at: DateTime<Utc>,
}

/// A browser's subscription, as `PushSubscription.toJSON()` has it. What else is in it is ignored.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "BrowserSubscription")]
pub(crate) struct Subscription {
    pub(crate) endpoint: String,
    pub(crate) keys: SubscriptionKeys,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct SubscriptionKeys {
    pub(crate) p256dh: String,
    pub(crate) auth: String,
}

impl SubscriptionKeys {
    /// The browser's public key and its secret.
    pub(crate) fn decode(&self) -> Option<([u8; POINT_BYTES], [u8; AUTH_BYTES])> {
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok();
        let point: [u8; POINT_BYTES] = decode(&self.p256dh)?.try_into().ok()?;
        Some((point, decode(&self.auth)?.try_into().ok()?)).filter(|(point, _)| point[0] == UNCOMPRESSED)
    }
}

/// The token in the form in which it is stored.
///
/// # Errors
/// A problem that names the field `token`, and does not repeat it.
pub(crate) fn parse_token(platform: PushPlatform, token: &Value, reach: Reach) -> Result<String, Problem> {
    let wrong = |message: &str| Problem::field("token", message);
    let text = match (platform, token) {
        (_, Value::String(text)) => text.trim().to_owned(),
        (PushPlatform::WebPush, Value::Object(_)) => token.to_string(),
        (PushPlatform::WebPush, _) => {
            return Err(wrong("must be the subscription of a browser, as an object or as its JSON text"));
        }
        _ => return Err(wrong("must be a text")),
    };
    if text.is_empty() || text.len() > TOKEN_MAX {
        return Err(wrong("must have 1 to 4096 bytes"));
    }
    match platform {
        PushPlatform::Fcm if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-:.".contains(&b)) => Ok(text),
        PushPlatform::Fcm => Err(wrong("is no registration token of FCM: it has letters, digits, and any of -_:.")),
        PushPlatform::Apns => match hex::decode(&text) {
            Ok(bytes) if APNS_BYTES.contains(&bytes.len()) => Ok(hex::encode(bytes)),
            _ => Err(wrong("is no device token of APNs: it has 64 to 200 hexadecimal digits")),
        },
        PushPlatform::WebPush => {
            let subscription: Subscription =
                serde_json::from_str(&text).map(|Object(subscription)| subscription).map_err(|_| {
                    wrong("must have an `endpoint` and `keys` with `p256dh` and `auth`, as a browser gives them")
                })?;
            address(&subscription.endpoint, reach)?;
            if subscription.keys.decode().is_none() {
                return Err(wrong(
                    "has keys that no browser gives: `p256dh` is a point of P-256, `auth` 16 bytes, both base64url",
                ));
            }
            Ok(serde_json::to_string(&subscription).expect("texts are JSON"))
        }
        PushPlatform::Webhook => address(&text, reach).map(|_| text),
    }
}

/// An address that a user may have the platform post to: https, or on this machine http, if `reach` admits that.
fn address(text: &str, reach: Reach) -> Result<Uri, Problem> {
    let wrong = |message: &str| Problem::field("token", message);
    let uri: Uri = text.parse().map_err(|_| wrong("has no address that can be read"))?;
    let host = uri.host().unwrap_or_default();
    let number = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    let is_here =
        host.eq_ignore_ascii_case("localhost") || number.is_ok_and(|address| address.to_canonical().is_loopback());
    if host.is_empty()
        || uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
        || text.len() > URL_MAX
    {
        return Err(wrong("must have an address with a host, without user and password, of at most 2048 bytes"));
    }
    let may_be_here = reach != Reach::Public;
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if is_here && may_be_here => {}
        _ => return Err(wrong("must have an address that begins with https://")),
    }
    if !reach.admits_host(host) || (is_here && !may_be_here) {
        return Err(wrong("has an address that is not public"));
    }
    Ok(uri)
}

/// What makes two registrations the same device: the platform, and what names the device in its token.
pub(crate) fn token_hash(platform: PushPlatform, token: &str) -> [u8; 32] {
    let endpoint = match platform {
        PushPlatform::WebPush => {
            serde_json::from_str(token).ok().map(|subscription: Subscription| subscription.endpoint)
        }
        _ => None,
    };
    let named = format!("{} {}", platform.as_str(), endpoint.as_deref().unwrap_or(token));
    digest::digest(&digest::SHA256, named.as_bytes()).as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

/// The end of a token, by which its owner knows it: who has the whole can send to the device.
pub(crate) fn shown(platform: PushPlatform, token: &str) -> String {
    let named = match platform {
        // The host alone: the rest of an address is a secret.
        PushPlatform::WebPush | PushPlatform::Webhook => {
            let endpoint = serde_json::from_str(token).ok().map(|subscription: Subscription| subscription.endpoint);
            let uri = endpoint.as_deref().unwrap_or(token).parse::<Uri>().ok();
            return uri.and_then(|uri| uri.host().map(|host| format!("{host}/…"))).unwrap_or_default();
        }
        PushPlatform::Fcm | PushPlatform::Apns => token,
    };
    let skipped = named.len().saturating_sub(6.min(named.len() / 2));
    format!("…{}", named.get(skipped..).unwrap_or_default())
}
