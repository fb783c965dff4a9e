//! Apple's push service: HTTP/2, with a token that the platform signs and uses for up to an hour.

use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{Request, Response, StatusCode, header};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use platform::http_client::{HttpClient, HttpClientError};
use serde_json::{Value, json};

use super::jwt::SigningKey;
use super::outcome::Outcome;
use super::rows::Claimed;

/// Apple refuses a token that is older than an hour, and one that is renewed more often than each 20 minutes.
const TOKEN_LIFE: TimeDelta = TimeDelta::minutes(40);

/// By whom Apple knows this platform, and its app.
#[derive(Debug, Clone)]
pub struct ApnsConfig {
    url: String,
    key: Arc<SigningKey>,
    key_id: String,
    team_id: String,
    topic: String,
}

impl ApnsConfig {
    /// `pem` is the .p8 file of the key, `topic` the bundle id of the app, `url` the address of APNs.
    ///
    /// # Errors
    /// What is wrong, without the key.
    pub fn new(pem: &str, key_id: &str, team_id: &str, topic: &str, url: &str) -> Result<Self, String> {
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            key: Arc::new(SigningKey::es256(pem)?),
            key_id: key_id.to_owned(),
            team_id: team_id.to_owned(),
            topic: topic.to_owned(),
        })
    }
}

#[derive(Debug)]
pub(super) struct Apns {
    config: ApnsConfig,
    client: HttpClient,
    /// The token, and when it was signed.
    token: Mutex<Option<(String, DateTime<Utc>)>>,
}

impl Apns {
    pub(super) fn new(config: ApnsConfig, client: HttpClient) -> Self {
        Self { config, client, token: Mutex::default() }
    }

    pub(super) async fn send(&self, push: &Claimed, device: &str, now: DateTime<Utc>) -> Outcome {
        let Some(token) = self.token(now) else { return Outcome::failed("its token cannot be signed") };
        let request = Request::post(format!("{}/3/device/{device}", self.config.url))
            .header(header::AUTHORIZATION, format!("bearer {token}"))
            .header("apns-topic", &self.config.topic)
            .header("apns-push-type", "alert")
            .header("apns-id", push.push_id().to_string())
            .header("apns-expiration", push.expires_at.timestamp())
            .header("apns-priority", if push.urgent { 10 } else { 5 })
            .header("apns-collapse-id", push.topic.to_string())
            .body(Bytes::from(payload(push).to_string()));
        let Ok(request) = request else { return Outcome::Refused("its request cannot be made".to_owned()) };
        match self.client.send(request).await {
            Ok(response) => outcome(&response),
            Err(HttpClientError::CircuitOpen) => Outcome::NotTried,
            Err(error) => Outcome::failed(error.to_string()),
        }
    }

    fn token(&self, now: DateTime<Utc>) -> Option<String> {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, signed_at)) = &*token
            && now < *signed_at + TOKEN_LIFE
        {
            return Some(token.clone());
        }
        let claims = json!({"iss": self.config.team_id, "iat": now.timestamp()});
        let new = self.config.key.sign(Some(&self.config.key_id), &claims)?;
        *token = Some((new.clone(), now));
        Some(new)
    }
}

fn payload(push: &Claimed) -> Value {
    let mut payload: Value = serde_json::from_str(&push.message).unwrap_or_default();
    let alert = json!({"title": payload["title"], "body": payload["body"]});
    payload["aps"] = json!({"alert": alert, "sound": "default", "thread-id": push.topic});
    payload
}

/// <https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns>
fn outcome(response: &Response<Bytes>) -> Outcome {
    let status = response.status();
    let body: Value = serde_json::from_slice(response.body()).unwrap_or_default();
    let reason = body["reason"].as_str().unwrap_or_default();
    match (status, reason) {
        (StatusCode::OK, _) => Outcome::Sent,
        (StatusCode::GONE, _) | (StatusCode::BAD_REQUEST, "BadDeviceToken" | "DeviceTokenNotForTopic") => Outcome::Gone,
        (StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::PAYLOAD_TOO_LARGE, _) => {
            Outcome::Refused(format!("answered {status} {reason}"))
        }
        (status, _) => Outcome::failed_with(status, response.headers()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apns_answers() {
        let outcome = |(status, reason): (u16, &str)| {
            let body = Bytes::from(json!({"reason": reason}).to_string());
            outcome(&Response::builder().status(status).body(body).unwrap()).label()
        };
        let cases = [
            (200, ""),
            (400, "BadDeviceToken"),
            (400, "DeviceTokenNotForTopic"),
            (400, "BadTopic"),
            (403, "ExpiredProviderToken"),
            (410, "Unregistered"),
            (410, "ExpiredToken"),
            (413, "PayloadTooLarge"),
            (429, "TooManyRequests"),
            (500, "InternalServerError"),
            (503, "ServiceUnavailable"),
        ];
        let expected =
            ["sent", "gone", "gone", "refused", "failed", "gone", "gone", "refused", "failed", "failed", "failed"];
        assert_eq!(cases.map(outcome), expected);
    }
}
