//! A push by webhook, as Standard Webhooks has it: the app's own server receives it, and knows by the signature that the platform sent it.
//! Pure.

use axum::http::{HeaderMap, Request, StatusCode, header};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use platform::Tokens;
use platform::webhook::{ID, SIGNATURE, Secret, TIMESTAMP};
use uuid::Uuid;

use super::outcome::Outcome;
use super::rows::Claimed;

/// The purpose for which a device's secret is derived.
const PURPOSE: &str = "push-webhook";

/// The secret of a device, which the registration returns: derived, so that nothing is stored that could be stolen.
pub(crate) fn secret(tokens: &Tokens, device: Uuid) -> String {
    Secret::text_of(&tokens.keyed_hash(PURPOSE, &device.to_string()))
}

/// The request for this try. While the platform's secrets change it has a signature by each.
pub(super) fn request(
    push: &Claimed,
    token: &str,
    tokens: &Tokens,
    now: DateTime<Utc>,
) -> Result<Request<Bytes>, axum::http::Error> {
    let id = format!("msg_{}", push.push_id().simple());
    let sign = |secret: [u8; 32]| Secret::of_bytes(&secret).sign(&id, now, push.message.as_bytes());
    let secrets = tokens.keyed_hashes(PURPOSE, &push.device.to_string());
    let signatures: Vec<String> = secrets.into_iter().map(sign).collect();
    Request::post(token)
        .header(header::CONTENT_TYPE, "application/json")
        .header(ID, &id)
        .header(TIMESTAMP, now.timestamp())
        .header(SIGNATURE, signatures.join(" "))
        .body(Bytes::from(push.message.clone()))
}

/// The specification: any 2xx is success, 410 ends the endpoint, and everything else is tried again.
pub(super) fn outcome(status: StatusCode, headers: &HeaderMap) -> Outcome {
    match status {
        StatusCode::GONE => Outcome::Gone,
        status if status.is_success() => Outcome::Sent,
        status => Outcome::failed_with(status, headers),
    }
}
