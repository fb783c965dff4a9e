//! Firebase Cloud Messaging, HTTP v1: an access token by the service account's signature (RFC 7523), then one request a message.

use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{Request, Response, StatusCode, header};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use platform::http_client::{HttpClient, HttpClientError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::jwt::SigningKey;
use super::outcome::Outcome;
use super::rows::Claimed;

const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
/// How long the signature with which a token is requested is valid, in seconds.
const GRANT_S: i64 = 3_600;
/// An access token is renewed so long before its end.
const RENEWED_BEFORE: TimeDelta = TimeDelta::minutes(5);

#[derive(Deserialize)]
struct ServiceAccount {
    project_id: String,
    private_key_id: String,
    private_key: String,
    client_email: String,
    token_uri: String,
}

/// A service account of Firebase.
#[derive(Debug, Clone)]
pub struct FcmConfig {
    /// Where messages are posted.
    url: String,
    key: Arc<SigningKey>,
    key_id: String,
    issuer: String,
    token_uri: String,
}

impl FcmConfig {
    /// `credentials` is the JSON of the service account, as Google's console writes it; `url` is FCM's address.
    ///
    /// # Errors
    /// What is wrong, without the key.
    pub fn new(credentials: &str, url: &str) -> Result<Self, String> {
        let account: ServiceAccount = serde_json::from_str(credentials)
            .map_err(|error| format!("it is no JSON of a service account: {error}"))?;
        let url = url.trim_end_matches('/');
        Ok(Self {
            url: format!("{url}/v1/projects/{}/messages:send", account.project_id),
            key: Arc::new(SigningKey::rs256(&account.private_key)?),
            key_id: account.private_key_id,
            issuer: account.client_email,
            token_uri: account.token_uri,
        })
    }
}

#[derive(Debug)]
pub(super) struct Fcm {
    config: FcmConfig,
    client: HttpClient,
    /// The access token, and until when it is used.
    token: Mutex<Option<(String, DateTime<Utc>)>>,
}

#[derive(Deserialize)]
struct Grant {
    access_token: String,
    expires_in: i64,
}

impl Fcm {
    pub(super) fn new(config: FcmConfig, client: HttpClient) -> Self {
        Self { config, client, token: Mutex::default() }
    }

    pub(super) async fn send(&self, push: &Claimed, device: &str, now: DateTime<Utc>) -> Outcome {
        let token = match self.access_token(now).await {
            Ok(token) => token,
            Err(outcome) => return outcome,
        };
        let request = Request::post(&self.config.url)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Bytes::from(message(push, device, now).to_string()));
        let Ok(request) = request else { return Outcome::Refused("its request cannot be made".to_owned()) };
        match self.client.send(request).await {
            Ok(response) => {
                if response.status() == StatusCode::UNAUTHORIZED {
                    *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                outcome(&response)
            }
            Err(error) => no_answer(&error),
        }
    }

    /// The access token. While there is none, several pushes may each request one, and the last is used.
    async fn access_token(&self, now: DateTime<Utc>) -> Result<String, Outcome> {
        let known = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((token, until)) = known
            && now < until
        {
            return Ok(token);
        }
        let FcmConfig { key, key_id, issuer, token_uri, .. } = &self.config;
        let iat = now.timestamp();
        let claims = json!({"iss": issuer, "scope": SCOPE, "aud": token_uri, "iat": iat, "exp": iat + GRANT_S});
        let refused = || Outcome::failed("an access token cannot be requested");
        let assertion = key.sign(Some(key_id), &claims).ok_or_else(refused)?;
        // A JWT has no characters that a form would escape.
        let form = format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}");
        let request = Request::post(token_uri)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Bytes::from(form))
            .map_err(|_| refused())?;
        // The token is in the body.
        let response = self.client.send_for_whole(request).await.map_err(|error| no_answer(&error))?;
        if !response.status().is_success() {
            return Err(Outcome::failed(format!("the request for an access token was answered {}", response.status())));
        }
        let grant: Grant = serde_json::from_slice(response.body())
            .map_err(|error| Outcome::failed(format!("the answer has no access token: {error}")))?;
        let until = now + TimeDelta::seconds(grant.expires_in.clamp(0, GRANT_S)) - RENEWED_BEFORE;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some((grant.access_token.clone(), until));
        Ok(grant.access_token)
    }
}

fn no_answer(error: &HttpClientError) -> Outcome {
    match error {
        HttpClientError::CircuitOpen => Outcome::NotTried,
        error => Outcome::failed(error.to_string()),
    }
}

/// What is shown also while the app does not run, with the ids for the app.
fn message(push: &Claimed, device: &str, now: DateTime<Utc>) -> Value {
    let data: Value = serde_json::from_str(&push.message).unwrap_or_default();
    json!({"message": {
        "token": device,
        "notification": {"title": data["title"], "body": data["body"]},
        "android": {
            "priority": if push.urgent { "HIGH" } else { "NORMAL" },
            "ttl": format!("{}s", (push.expires_at - now).num_seconds().max(0)),
            "collapse_key": push.topic,
            "notification": {"tag": push.topic},
        },
        "data": data,
    }})
}

/// <https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode>
fn outcome(response: &Response<Bytes>) -> Outcome {
    let status = response.status();
    let body: Value = serde_json::from_slice(response.body()).unwrap_or_default();
    let codes = body["error"]["details"].as_array().into_iter().flatten();
    let codes: Vec<&str> = codes.filter_map(|detail| detail["errorCode"].as_str()).collect();
    match status {
        status if status.is_success() => Outcome::Sent,
        _ if codes.contains(&"UNREGISTERED") || codes.contains(&"SENDER_ID_MISMATCH") => Outcome::Gone,
        StatusCode::NOT_FOUND => Outcome::Gone,
        StatusCode::BAD_REQUEST => Outcome::Refused(format!("answered {status} {}", codes.join(" "))),
        status => Outcome::failed_with(status, response.headers()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fcm_answers() {
        let error = |code: &str| json!({"error": {"details": [{"@type": "x"}, {"errorCode": code}]}}).to_string();
        let outcome = |(status, body): (u16, String)| {
            outcome(&Response::builder().status(status).body(Bytes::from(body)).unwrap()).label()
        };
        let cases = [
            (200, "{}".to_owned()),
            (404, error("UNREGISTERED")),
            (404, String::new()),
            (403, error("SENDER_ID_MISMATCH")),
            (400, error("INVALID_ARGUMENT")),
            (401, error("THIRD_PARTY_AUTH_ERROR")),
            (403, String::new()),
            (429, error("QUOTA_EXCEEDED")),
            (503, error("UNAVAILABLE")),
        ];
        let expected = ["sent", "gone", "gone", "gone", "refused", "failed", "failed", "failed", "failed"];
        assert_eq!(cases.map(outcome), expected);
    }
}
