//! The service as its HTTP clients see it: requests in, statuses and JSON out, on either store.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use chrono::{DateTime, Duration, Utc};
use http_body_util::BodyExt;
use platform::{ClientAddress, Platform, Store, Tokens, World};
use serde_json::{Value, json};
use streams::memory::MemoryBus;
use streams::{Bus, UserId};
use testing::Backend;
use tower::ServiceExt;
use users::{Config, MIGRATIONS, OtpDelivery, Tables, Users};

/// The key of every process of a test.
pub(crate) const SECRET: [u8; 32] = [7; 32];

/// One process of the service.
#[derive(Clone)]
pub(crate) struct App {
    started_at: DateTime<Utc>,
    seed: u64,
    store: Store<Tables>,
    delivery: OtpDelivery,
    router: Router,
    /// Where its clients are.
    address: ClientAddress,
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Response {
    /// Status, code and field of a problem, whose form is checked.
    #[track_caller]
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], self.status.as_u16(), "{self:?}");
        assert!(self.body["detail"].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        let field = self.body["field"].as_str().unwrap_or("-");
        format!("{} {} {field}", self.status.as_u16(), self.body["code"].as_str().unwrap_or("-"))
    }

    /// The body of a response that must have this status.
    #[track_caller]
    pub(crate) fn ok(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self.body
    }
}

impl App {
    pub(crate) async fn on(backend: Backend) -> Self {
        let (started_at, seed) = ("2026-01-01T00:00:00Z".parse().unwrap(), 1);
        let store = backend.store(&World::seeded(started_at, seed), "test", "users", &MIGRATIONS).await;
        Self::process(started_at, seed, store, OtpDelivery::Response).await
    }

    async fn process(started_at: DateTime<Utc>, seed: u64, store: Store<Tables>, delivery: OtpDelivery) -> Self {
        let world = World::seeded(started_at, seed);
        let bus = Bus::Memory(MemoryBus::new(world.now(), 1_000));
        let platform = Platform::new(world.clone(), bus, "test");
        let tokens = Tokens::new(&world, &SECRET).unwrap();
        let config = Config { otp_delivery: delivery.clone(), ..Config::default() };
        let users = Users::start(&platform, &store, tokens.clone(), config).await.unwrap();
        let router = platform::problem::with_fallbacks(users.routes().into_router());
        Self { started_at, seed, store, delivery, router, address: ClientAddress::default() }
    }

    /// The same process, as clients at this address see it.
    pub(crate) fn at(&self, address: &str) -> Self {
        Self { address: ClientAddress(address.parse().unwrap()), ..self.clone() }
    }

    /// Another process on the same store, whose clock is this much later. Each needs another time: it seeds its randomness.
    pub(crate) async fn later(&self, by: Duration) -> Self {
        let seed = self.seed + by.num_seconds().unsigned_abs();
        Self::process(self.started_at + by, seed, self.store.clone(), self.delivery.clone()).await
    }

    /// Another process on the same store that delivers codes in this way.
    pub(crate) async fn delivering(&self, delivery: OtpDelivery) -> Self {
        // Each way has a seed of its own: equal seeds would give equal tokens.
        let seed = format!("{delivery:?}").bytes().fold(self.seed, |seed, b| seed.wrapping_mul(31) + u64::from(b));
        Self::process(self.started_at, seed, self.store.clone(), delivery).await
    }

    pub(crate) async fn send(&self, mut request: Request<Body>) -> Response {
        request.extensions_mut().insert(self.address);
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Response { status: parts.status, headers: parts.headers, body }
    }

    /// A request with a JSON body, signed in if there is a token.
    pub(crate) async fn call(&self, method: &str, path: &str, token: Option<&str>, body: Value) -> Response {
        let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Response {
        self.call("POST", path, None, body).await
    }

    pub(crate) async fn me(&self, token: &str) -> Response {
        self.call("GET", "/v1/me", Some(token), Value::Null).await
    }

    /// Requests a code for `phone`.
    pub(crate) async fn code(&self, phone: &str) -> String {
        let sent = self.post("/v1/auth/otp", json!({"phone": phone})).await.ok(202);
        sent["code"].as_str().expect("the response has the code").to_owned()
    }

    pub(crate) async fn sign_in_with(&self, phone: &str, code: &str) -> Response {
        self.post("/v1/auth/token", json!({"phone": phone, "code": code})).await
    }

    /// A whole sign-in: the body of the token response.
    pub(crate) async fn signed_in(&self, phone: &str) -> Value {
        let code = self.code(phone).await;
        self.sign_in_with(phone, &code).await.ok(200)
    }

    pub(crate) async fn refresh(&self, token: &Value) -> Response {
        self.post("/v1/auth/refresh", json!({"refresh_token": token})).await
    }
}

/// A whole sign-in at a running service: the user and the access token.
pub(crate) async fn sign_in_directly(users: &Users, phone: &str) -> (UserId, String) {
    let sent = call(users, "/v1/auth/otp", None, json!({"phone": phone})).await;
    let given = call(users, "/v1/auth/token", None, json!({"phone": phone, "code": sent["code"]})).await;
    let user = given["user"]["id"].as_str().unwrap().parse().unwrap();
    (user, given["access_token"].as_str().unwrap().to_owned())
}

/// Registers the user of this token as the driver of a car.
pub(crate) async fn register_directly(users: &Users, token: &str, plate: &str) {
    call(users, "/v1/drivers", Some(token), json!({"vehicle_type": "car", "plate": plate})).await;
}

async fn call(users: &Users, path: &str, token: Option<&str>, body: Value) -> Value {
    let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Body::from(body.to_string())).unwrap();
    let response = users.routes().into_router().oneshot(request).await.unwrap();
    assert!(response.status().is_success(), "{path}: {}", response.status());
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}
