//! Where pushes go: a client for each platform, and one try to send.

use axum::http::{HeaderMap, Request, StatusCode, Uri};
use bytes::Bytes;
use platform::breaker::Rules;
use platform::http_client::{HttpClient, HttpClientError, Protocol, Purpose, Reach};
use platform::{Platform, Tokens, World};

use super::apns::Apns;
use super::config::PushConfig;
use super::device::{PushPlatform, Subscription};
use super::fcm::Fcm;
use super::outcome::Outcome;
use super::rows::Claimed;
use super::webhook;
use super::webpush::{self, Fresh, VapidConfig};

/// Each push has tries of its own, in the table.
const TRIES: u32 = 1;
/// A host that answers again has its pushes within seconds.
const CIRCUIT: Rules = Rules { failures_max: 5, open_for: chrono::Duration::seconds(5) };
/// Pushes to one host under way at once: to one that a user named, and to one of the operator's. So a slow host holds up nobody else.
const USERS_HOST_MAX: usize = 8;
const OPERATORS_HOST_MAX: usize = 64;

/// The clients of all platforms that can be used.
#[derive(Debug)]
pub(crate) struct Sinks {
    webhook: HttpClient,
    webpush: Option<(VapidConfig, HttpClient)>,
    fcm: Option<Fcm>,
    apns: Option<Apns>,
}

impl Sinks {
    pub(crate) fn new(platform: &Platform, config: &PushConfig) -> Self {
        let client = |name, reach, protocol| {
            let (wait, tries, circuit) = (config.wait, TRIES, CIRCUIT);
            HttpClient::new(platform, Purpose { name, wait, tries, circuit, reach, protocol })
        };
        let of_user = |name| client(name, config.reach, Protocol::Any);
        let of_operator = |name, protocol| client(name, Reach::Anywhere, protocol);
        Self {
            webhook: of_user("push_webhook"),
            webpush: config.vapid.clone().map(|vapid| (vapid, of_user("push_webpush"))),
            fcm: config.fcm.clone().map(|fcm| Fcm::new(fcm, of_operator("push_fcm", Protocol::Any))),
            apns: config.apns.clone().map(|apns| Apns::new(apns, of_operator("push_apns", Protocol::Http2))),
        }
    }

    /// The host that a push goes to, and how many may be under way to it at once.
    pub(super) fn host(&self, platform: PushPlatform, token: &str) -> (String, usize) {
        let named = |url: &str| url.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
        match platform {
            PushPlatform::Webhook => (named(token).unwrap_or_default(), USERS_HOST_MAX),
            PushPlatform::WebPush => {
                let endpoint = serde_json::from_str(token).ok().map(|subscription: Subscription| subscription.endpoint);
                (endpoint.as_deref().and_then(named).unwrap_or_default(), USERS_HOST_MAX)
            }
            PushPlatform::Fcm | PushPlatform::Apns => (platform.as_str().to_owned(), OPERATORS_HOST_MAX),
        }
    }

    /// Tries once.
    pub(super) async fn send(
        &self,
        push: &Claimed,
        platform: PushPlatform,
        token: &str,
        tokens: &Tokens,
        world: &World,
    ) -> Outcome {
        let now = world.now();
        match (platform, &self.fcm, &self.apns, &self.webpush) {
            (PushPlatform::Webhook, ..) => {
                let request = webhook::request(push, token, tokens, now);
                exchange(&self.webhook, request, webhook::outcome).await
            }
            (PushPlatform::WebPush, .., Some((vapid, client))) => {
                let fresh = Fresh { private: world.bytes(), salt: world.bytes() };
                match webpush::request(push, token, vapid, &fresh, now) {
                    Some(request) => exchange(client, request, webpush::outcome).await,
                    None => Outcome::Refused("its browser's key is none".to_owned()),
                }
            }
            (PushPlatform::Fcm, Some(fcm), ..) => fcm.send(push, token, now).await,
            (PushPlatform::Apns, _, Some(apns), _) => apns.send(push, token, now).await,
            (PushPlatform::WebPush | PushPlatform::Fcm | PushPlatform::Apns, ..) => Outcome::Unconfigured,
        }
    }
}

async fn exchange(
    client: &HttpClient,
    request: Result<Request<Bytes>, axum::http::Error>,
    read: impl FnOnce(StatusCode, &HeaderMap) -> Outcome,
) -> Outcome {
    let request = match request {
        Ok(request) => request,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    match client.send(request).await {
        Ok(response) => read(response.status(), response.headers()),
        Err(HttpClientError::CircuitOpen) => Outcome::NotTried,
        Err(error @ (HttpClientError::NotPublic | HttpClientError::NoHost)) => Outcome::Refused(error.to_string()),
        Err(error) => Outcome::failed(error.to_string()),
    }
}
