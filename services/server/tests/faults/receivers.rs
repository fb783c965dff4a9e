//! Who receives what the platform sends out: the operators' webhook for calls for help, and the push services of a phone. Each verifies by
//! the keys that it knows at the moment, and refuses what another key signed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use platform::World;
use platform::webhook::{ID, SIGNATURE, Secret, TIMESTAMP};
use serde_json::{Value, json};
use testing::jwt::SigningKey;
use tokio::net::TcpListener;

/// The first secret for calls for help.
pub(crate) const SOS_SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// A key at the console of a push service, by its id.
type Keys = BTreeMap<String, SigningKey>;

/// What all of them know.
#[derive(Default)]
struct Known {
    /// What was received under a path and an id: how often, and the bodies.
    messages: BTreeMap<String, Vec<Value>>,
    /// What signs the messages at a path.
    webhooks: BTreeMap<String, String>,
    fcm: Keys,
    apns: Keys,
    /// The access tokens of FCM, each of the key by which it was requested.
    granted: BTreeMap<String, String>,
    /// Of each phone or browser: the ids of the keys by which pushes came.
    pushes: BTreeMap<String, Vec<String>>,
    refused: Vec<String>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Known>>);

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut Known) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    fn refuse(&self, status: u16, why: String) -> Response {
        let answer = Json(json!({"error": why}));
        self.with(|known| known.refused.push(why));
        (StatusCode::from_u16(status).unwrap(), answer).into_response()
    }

    fn pushed(&self, to: &str, by: String) {
        self.with(|known| known.pushes.entry(to.to_owned()).or_default().push(by));
    }
}

/// All of them, at two addresses: APNs speaks HTTP/2.
pub(crate) struct Receivers {
    address: SocketAddr,
    apns: SocketAddr,
    known: Shared,
}

impl Receivers {
    pub(crate) async fn new() -> Self {
        let known = Shared::default();
        known.with(|known| known.webhooks.insert("/sos".to_owned(), SOS_SECRET.to_owned()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new()
            .route("/token", post(grant))
            .route("/v1/projects/demo/messages:send", post(fcm))
            .route("/browser/{key}/{name}", post(browser))
            .fallback(webhook)
            .with_state(known.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let apns_address = listener.local_addr().unwrap();
        let routes = Router::new().route("/3/device/{token}", post(apns)).with_state(known.clone());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let service = TowerToHyperService::new(routes.clone());
                tokio::spawn(async move { _ = server.serve_connection(TokioIo::new(socket), service).await });
            }
        });
        Self { address, apns: apns_address, known }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What makes a platform send its calls for help and its pushes by webhook here.
    pub(crate) fn settings(&self) -> BTreeMap<&'static str, String> {
        [
            ("PUSH_TO_LOOPBACK", "true".to_owned()),
            ("SOS_WEBHOOK", self.url("/sos")),
            ("SOS_WEBHOOK_SECRET", SOS_SECRET.to_owned()),
        ]
        .into()
    }

    /// What makes it send pushes to phones and browsers here, by these keys.
    pub(crate) fn push_settings(&self, keys: &PushKeys) -> BTreeMap<&'static str, String> {
        let file = |name: &str, text: &str| {
            let path = keys.directory.join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let account = json!({
            "project_id": "demo", "private_key_id": keys.id, "private_key": keys.fcm.pem,
            "client_email": "push@demo.example", "token_uri": self.url("/token"),
        });
        [
            ("FCM_CREDENTIALS_FILE", file("fcm.json", &account.to_string())),
            ("FCM_URL", self.url("")),
            ("APNS_KEY_FILE", file("apns.p8", &keys.apns.pem)),
            ("APNS_KEY_ID", keys.id.clone()),
            ("APNS_TEAM_ID", "TEAMID1234".to_owned()),
            ("APNS_TOPIC", "com.example.rides".to_owned()),
            ("APNS_URL", format!("http://{}", self.apns)),
            ("PUSH_VAPID_KEY_FILE", file("vapid.pem", &keys.vapid.pem)),
            ("PUSH_VAPID_SUBJECT", "mailto:ops@example.com".to_owned()),
        ]
        .into()
    }

    /// From here on the receiver at `path` knows this secret alone.
    pub(crate) fn trust_webhook(&self, path: &str, secret: &str) {
        self.known.with(|known| known.webhooks.insert(path.to_owned(), secret.to_owned()));
    }

    /// From here on the consoles of FCM and APNs have these keys and no others.
    pub(crate) fn trust_push(&self, keys: &[&PushKeys]) {
        self.known.with(|known| {
            known.fcm = keys.iter().map(|keys| (keys.id.clone(), keys.fcm.clone())).collect();
            known.apns = keys.iter().map(|keys| (keys.id.clone(), keys.apns.clone())).collect();
        });
    }

    /// The messages of this ride at `path` of this type: under how many ids, and how many in all.
    pub(crate) fn count(&self, path: &str, kind: &str, ride: &str) -> (usize, usize) {
        self.known.with(|known| {
            let of_kind = known.messages.iter().filter(|(id, bodies)| {
                let named = |body: &Value| body["ride_id"] == ride || body["data"]["ride_id"] == ride;
                let is_of = |body: &Value| body["type"] == kind && named(body);
                id.starts_with(&format!("{path} ")) && bodies.iter().all(is_of)
            });
            of_kind.fold((0, 0), |(ids, all), (_, bodies)| (ids + 1, all + bodies.len()))
        })
    }

    /// The ids of the keys by which pushes came to this phone or browser, in order.
    pub(crate) fn pushed_by(&self, to: &str) -> Vec<String> {
        self.known.with(|known| known.pushes.get(to).cloned().unwrap_or_default())
    }

    /// What came with a signature of a key that its receiver did not know.
    pub(crate) fn refused(&self) -> Vec<String> {
        self.known.with(|known| known.refused.clone())
    }
}

/// The keys of one time.
pub(crate) struct PushKeys {
    pub(crate) id: String,
    fcm: SigningKey,
    apns: SigningKey,
    vapid: SigningKey,
    /// For their files.
    directory: std::path::PathBuf,
}

impl PushKeys {
    pub(crate) fn new(id: &str, directory: std::path::PathBuf) -> Self {
        std::fs::create_dir_all(&directory).unwrap();
        let (fcm, apns, vapid) = (SigningKey::rsa(), SigningKey::p256(), SigningKey::p256());
        Self { id: id.to_owned(), fcm, apns, vapid, directory }
    }

    /// The key with which a browser subscribes.
    pub(crate) fn vapid_public(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.vapid.public)
    }
}

async fn webhook(State(known): State<Shared>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let (id, at, signature) = (header(ID), header(TIMESTAMP), header(SIGNATURE));
    let Some(secret) = known.with(|known| known.webhooks.get(uri.path()).cloned()) else {
        return known.refuse(404, format!("{}: nobody receives here", uri.path()));
    };
    if let Err(error) = Secret::parse(&secret).unwrap().verify(&id, &at, &signature, &body, World::real().now()) {
        return known.refuse(401, format!("{} {id}: {error}", uri.path()));
    }
    let body = serde_json::from_slice(&body).unwrap();
    known.with(|known| known.messages.entry(format!("{} {id}", uri.path())).or_default().push(body));
    StatusCode::NO_CONTENT.into_response()
}

/// The id of the key that has signed this token, if it is one of them.
fn signer(keys: &Keys, token: &str) -> Option<String> {
    keys.iter()
        .find(|(id, key)| key.verify(token).is_some_and(|(header, _)| header["kid"] == **id))
        .map(|(id, _)| id.clone())
}

async fn grant(State(known): State<Shared>, form: String) -> Response {
    let assertion = form.split_once("&assertion=").map(|(_, assertion)| assertion.to_owned()).unwrap_or_default();
    let Some(key) = known.with(|known| signer(&known.fcm, &assertion)) else {
        return known.refuse(400, "FCM: invalid_grant".to_owned());
    };
    let token = known.with(|known| {
        let token = format!("ya29.{}", known.granted.len());
        known.granted.insert(token.clone(), key);
        token
    });
    Json(json!({"access_token": token, "expires_in": 3_599, "token_type": "Bearer"})).into_response()
}

fn authorization<'a>(headers: &'a HeaderMap, scheme: &str) -> &'a str {
    headers["authorization"].to_str().unwrap().strip_prefix(scheme).unwrap_or_default()
}

async fn fcm(State(known): State<Shared>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let token = authorization(&headers, "Bearer ");
    let Some(key) = known.with(|known| known.granted.get(token).cloned()) else {
        return known.refuse(401, "FCM: no such access token".to_owned());
    };
    known.pushed(body["message"]["token"].as_str().unwrap(), key);
    Json(json!({"name": "projects/demo/messages/1"})).into_response()
}

async fn apns(State(known): State<Shared>, Path(device): Path<String>, headers: HeaderMap) -> Response {
    let token = authorization(&headers, "bearer ");
    let Some(key) = known.with(|known| signer(&known.apns, token)) else {
        return known.refuse(403, "APNs: InvalidProviderToken".to_owned());
    };
    known.pushed(&device, key);
    StatusCode::OK.into_response()
}

/// A browser subscribed with a public key, which its address has. What another key signed is 403: no fault of the platform, whose key may
/// have changed since.
async fn browser(
    State(known): State<Shared>,
    Path((subscribed, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> StatusCode {
    let Some((token, key)) = authorization(&headers, "vapid t=").split_once(", k=") else {
        return StatusCode::BAD_REQUEST;
    };
    let Ok(point) = URL_SAFE_NO_PAD.decode(key) else { return StatusCode::BAD_REQUEST };
    if key != subscribed || SigningKey::verifying_p256(point).verify(token).is_none() {
        return StatusCode::FORBIDDEN;
    }
    known.pushed(&name, key.to_owned());
    StatusCode::CREATED
}
