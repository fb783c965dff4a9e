//! Which requests are served at all: limits by address and by user, and what is dropped first when there is too much to do.
//!
//! The order in which requests are dropped, by how many are in progress: from [`ESTIMATES_MAX`] on nearby drivers and estimates,
//! which a client asks for again anyway; from [`ACCOUNTS_MAX`] on also sign-in, profiles and operators; only from [`RIDES_MAX`] on
//! what belongs to a ride. Commands over open sockets are not requests and go on, and health is always answered.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use platform::limits::{Refused, TrustedProxies};
use platform::problem::BODY_MAX;
use platform::{ClientAddress, Limit, Platform, Problem, Tokens};
use tokio::time::sleep;

use super::headers;

/// Requests in progress from which on those of a class are dropped.
const ESTIMATES_MAX: usize = 256;
const ACCOUNTS_MAX: usize = 512;
const RIDES_MAX: usize = 1_024;

/// An address that has used up its requests is answered after so long. A connection has one request in progress at a time, so that
/// refusing a flood costs one answer a second for each connection, and what is refilled meanwhile is there for others behind the
/// same address.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

/// The refusal of its address with which a connection is closed.
const REFUSALS_MAX: usize = 10;

/// The other end of a request's connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    ip: IpAddr,
    /// Requests of this connection that its address's limit refused.
    refusals: Arc<AtomicUsize>,
}

impl Peer {
    pub(super) fn new(ip: IpAddr) -> Self {
        Self { ip, refusals: Arc::default() }
    }
}

/// What requests are worth, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Estimates,
    Accounts,
    Rides,
    Health,
}

impl Class {
    fn of(path: &str) -> Self {
        match path {
            "/v1/drivers/nearby" | "/v1/estimates" | "/v1/quotes" => Self::Estimates,
            "/v1/ws" | "/v1/commands" | "/v1/state" | "/v1/rides" => Self::Rides,
            _ if path.starts_with("/v1/rides/") => Self::Rides,
            _ if path.starts_with("/s/") || path.starts_with("/v1/shares/") => Self::Estimates,
            _ if path.starts_with("/health/") => Self::Health,
            _ => Self::Accounts,
        }
    }

    /// Its name in metrics, and how many requests of all classes may be in progress.
    fn bound(self) -> (&'static str, usize) {
        match self {
            Self::Estimates => ("estimates", ESTIMATES_MAX),
            Self::Accounts => ("accounts", ACCOUNTS_MAX),
            Self::Rides => ("rides", RIDES_MAX),
            Self::Health => ("health", usize::MAX),
        }
    }
}

#[derive(Debug, Clone)]
struct Admission {
    platform: Platform,
    tokens: Tokens,
    proxies: Arc<TrustedProxies>,
    in_progress: Arc<AtomicUsize>,
}

/// A request in progress; dropped when it is answered.
struct InProgress(Arc<AtomicUsize>);

impl InProgress {
    fn begin(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let this = Self(count.clone());
        (count.fetch_add(1, Ordering::Relaxed) < most).then_some(this)
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `router` within the limits. Every answer counts, also 401 and 404.
pub fn limited(router: Router, platform: &Platform, tokens: Tokens, proxies: TrustedProxies) -> Router {
    let admission =
        Admission { platform: platform.clone(), tokens, proxies: Arc::new(proxies), in_progress: Arc::default() };
    router.layer(middleware::from_fn_with_state(admission, admit)).layer(middleware::from_fn(headers::protect))
}

async fn admit(State(admission): State<Admission>, mut request: Request, next: Next) -> Response {
    let class = Class::of(request.uri().path());
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_else(|| Peer::new(ClientAddress::default().0));
    let forwarded = request.headers().get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let address = admission.proxies.client(peer.ip, forwarded);
    request.extensions_mut().insert(address);
    if class == Class::Health {
        return next.run(request).await;
    }
    if let Err(refused) = admission.check_limits(address, &request) {
        let mut response = Problem::from(refused).into_response();
        // A proxy's connection is of many clients, and is neither held up nor closed.
        if refused.limit == Limit::HttpAddress && peer.ip == address.0 {
            // Whoever sends more than any route reads is answered at once, and hyper closes the connection.
            if request.body().size_hint().upper().is_some_and(|bytes| bytes <= BODY_MAX as u64) {
                sleep(REFUSAL_PAUSE).await;
            }
            if peer.refusals.fetch_add(1, Ordering::Relaxed) + 1 >= REFUSALS_MAX {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
        return response;
    }
    let (name, most) = class.bound();
    let Some(_in_progress) = InProgress::begin(&admission.in_progress, most) else {
        admission.platform.metrics.shed.with_label_values(&[name]).inc();
        return Problem::overloaded().into_response();
    };
    next.run(request).await
}

impl Admission {
    fn check_limits(&self, address: ClientAddress, request: &Request) -> Result<(), Refused> {
        self.platform.take(Limit::HttpAddress, address, 1)?;
        if request.uri().path().starts_with("/v1/auth/") {
            self.platform.take(Limit::SignInAddress, address, 1)?;
        }
        // The route verifies the token again and refuses a bad one.
        if let Some(access) = bearer(request.headers()).and_then(|token| self.tokens.verify(token).ok()) {
            self.platform.take(Limit::HttpUser, access.user, 1)?;
        }
        Ok(())
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::routing::get;
    use platform::{Limiter, World};
    use streams::Bus;
    use streams::memory::MemoryBus;
    use tokio::sync::Notify;
    use tower::ServiceExt;

    use super::*;

    /// Routes that are answered at once, and one that is answered when it is released.
    fn app(limits: &str, proxies: &str) -> (Router, Tokens, World, Arc<Notify>) {
        let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 1);
        let bus = Bus::Memory(MemoryBus::new(world.now(), 1));
        let mut platform = Platform::new(world.clone(), bus, "test");
        platform.limiter = Arc::new(Limiter::new(limits.parse().unwrap()));
        let tokens = Tokens::new(&world, &[7; 32]).unwrap();
        let release = Arc::new(Notify::new());
        let held = release.clone();
        let paths = ["/v1/me", "/v1/estimates", "/v1/rides", "/v1/auth/otp", "/health/live"];
        let routes =
            paths.into_iter().fold(Router::new(), |routes, path| Router::route(routes, path, get(async || "ok")));
        let routes = Router::route(routes, "/held", get(async move || held.notified().await));
        let router = limited(routes, &platform, tokens.clone(), proxies.parse().unwrap());
        (router, tokens, world, release)
    }

    async fn call(router: &Router, path: &str, peer: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let mut request = axum::http::Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer::new(peer.parse().unwrap()));
        let response = router.clone().oneshot(request).await.unwrap();
        let (status, retry) = (response.status().as_u16(), response.headers().contains_key("retry-after"));
        assert_eq!(retry, status == 429 || status == 503);
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        (status, problem["limit"].as_str().or(problem["code"].as_str()).unwrap_or_default().to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_limited_by_address_and_by_user() {
        let limits = "http_address=6/1,http_user=4/1,sign_in_address=2/1";
        let (router, tokens, world, _) = app(limits, "10.0.0.0/8");
        let refused = |limit: &str| (429, limit.to_owned());
        for _ in 0..6 {
            assert_eq!(call(&router, "/v1/nothing", "1.1.1.1", &[]).await.0, 404);
        }
        assert_eq!(call(&router, "/v1/nothing", "1.1.1.1", &[]).await, refused("http_address"));
        assert_eq!(call(&router, "/health/live", "1.1.1.1", &[]).await.0, 200);
        // A user from several addresses.
        let token = format!("Bearer {}", tokens.access(world.id()));
        let signed_in = [("authorization", token.as_str())];
        for n in 0..4 {
            assert_eq!(call(&router, "/v1/me", &format!("2.2.2.{n}"), &signed_in).await.0, 200);
        }
        assert_eq!(call(&router, "/v1/me", "2.2.2.9", &signed_in).await, refused("http_user"));
        assert_eq!(call(&router, "/v1/me", "2.2.2.9", &[("authorization", "Bearer x")]).await.0, 200);
        // Several addresses behind one proxy.
        for n in 0..9 {
            let client = format!("6.6.6.6, 3.3.3.{n}");
            assert_eq!(call(&router, "/v1/me", "10.0.0.1", &[("x-forwarded-for", &client)]).await.0, 200);
        }
        for _ in 0..2 {
            assert_eq!(call(&router, "/v1/auth/otp", "4.4.4.4", &[]).await.0, 200);
        }
        assert_eq!(call(&router, "/v1/auth/otp", "4.4.4.4", &[]).await, refused("sign_in_address"));
        assert_eq!(call(&router, "/v1/me", "4.4.4.4", &[]).await.0, 200);
    }

    #[tokio::test]
    async fn estimates_are_dropped_first_and_rides_last() {
        let (router, _, _, release) = app("http_address=100000/1", "");
        let mut held = tokio::task::JoinSet::new();
        let mut begun = 0;
        for (in_progress, dropped) in [(ESTIMATES_MAX, 1), (ACCOUNTS_MAX, 2)] {
            while begun < in_progress {
                begun += 1;
                let router = router.clone();
                held.spawn(async move { call(&router, "/held", "1.1.1.1", &[]).await.0 });
            }
            for _ in 0..in_progress {
                tokio::task::yield_now().await;
            }
            let mut statuses = Vec::new();
            for path in ["/v1/estimates", "/v1/me", "/v1/rides", "/health/live"] {
                statuses.push(call(&router, path, "1.1.1.1", &[]).await);
            }
            for (n, (status, code)) in statuses.into_iter().enumerate() {
                let expected = if n < dropped { (503, "overloaded") } else { (200, "") };
                assert_eq!((status, code.as_str()), expected, "{n} of {in_progress}");
            }
        }
        while begun > 0 {
            release.notify_waiters();
            if let Some(ended) = held.join_next().await {
                assert_eq!(ended.unwrap(), StatusCode::OK.as_u16());
                begun -= 1;
            }
        }
        assert_eq!(call(&router, "/v1/estimates", "1.1.1.1", &[]).await.0, 200);
    }
}
