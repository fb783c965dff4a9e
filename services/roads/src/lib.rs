//! How long the ways in a street network take, by an OSRM-compatible server (ROUTING_URL). Legs are stored by
//! cell and hour (`cache.rs`); `osrm.rs` writes requests and reads responses, and is pure, as are the cache and the types in `way.rs`.
//!
//! A caller never waits for longer than [`WAIT`]. What the server did not say by then is `None`: the caller estimates it.

mod cache;
mod osrm;
mod way;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Response, StatusCode, Uri};
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use platform::breaker::Rules;
use platform::http_client::{HttpClient, Protocol, Purpose, Reach};
use platform::telemetry::Health;
use platform::{Metrics, Platform, World};
use streams::Position;
use tokio::time::{Instant, timeout_at};

use crate::cache::Cache;
use crate::osrm::Answer;
pub use crate::way::{Leg, Road, Way, WayKey};

/// The longest wait for road times, for all ways of one call together.
pub const WAIT: Duration = Duration::from_millis(200);
/// Places that begin a way, in one request: with the destination at most 100 coordinates, the default limit of OSRM.
const SOURCES_MAX: usize = 99;
/// Requests of one call at once. The others follow as these are answered, in the order of the ways, until the wait is over.
const REQUESTS_MAX: usize = 16;
/// After so many failures in a row the server is left alone for some seconds.
const CIRCUIT: Rules = Rules { failures_max: 3, open_for: chrono::Duration::seconds(10) };

/// Clones share one cache and one client.
#[derive(Debug, Clone)]
pub struct Roads {
    client: HttpClient,
    /// Of the server, without a slash at its end.
    base: Arc<str>,
    cache: Arc<Mutex<Cache>>,
    world: World,
    metrics: Arc<Metrics>,
    answers: Answers,
}

impl Roads {
    /// # Errors
    /// A sentence on what is wrong with the URL.
    pub fn check_url(url: &str) -> Result<(), String> {
        // The URL is not repeated: it may hold a password.
        let uri: Uri = url.parse().map_err(|error| format!("this is no URL: {error}"))?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        if !is_http || uri.host().is_none_or(str::is_empty) {
            return Err("http:// or https:// and a host are needed, for example http://127.0.0.1:5000".to_owned());
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("a user and a password are not sent: leave them out".to_owned());
        }
        if uri.query().is_some() {
            return Err("no query is possible; the path of the service is appended".to_owned());
        }
        Ok(())
    }

    /// Road times of the server at `url`, which [`Self::check_url`] has accepted.
    pub fn new(platform: &Platform, url: &str) -> Self {
        let purpose = Purpose {
            name: "routing",
            wait: WAIT,
            tries: 1,
            circuit: CIRCUIT,
            reach: Reach::Anywhere,
            protocol: Protocol::Any,
        };
        Self {
            client: HttpClient::new(platform, purpose),
            base: url.trim_end_matches('/').into(),
            cache: Arc::default(),
            world: platform.world.clone(),
            metrics: platform.metrics.clone(),
            answers: Answers::new(platform),
        }
    }

    /// The way from one place to another, now. `None` if it is not known in time.
    pub async fn way(&self, from: Position, to: Position) -> Option<Road> {
        self.ways(&[Way { from, to }]).await.pop().flatten()
    }

    /// The ways, each at the index of the question. Those with the same destination are asked for together.
    pub async fn ways(&self, ways: &[Way]) -> Vec<Option<Road>> {
        let now = self.world.now();
        let mut roads: Vec<Option<Road>> =
            self.with_cache(|cache| ways.iter().map(|way| cache.get(way, now)).collect());
        let unknown: Vec<Way> =
            ways.iter().zip(&roads).filter(|(_, road)| road.is_none()).map(|(way, _)| *way).collect();
        if unknown.is_empty() {
            return roads;
        }
        let until = Instant::now() + WAIT;
        let batches = cache::by_destination(&unknown, SOURCES_MAX);
        let ask = async |(n, batch): (usize, Vec<Way>)| self.ask_until(until, n, &batch, now).await;
        stream::iter(batches.into_iter().enumerate()).for_each_concurrent(REQUESTS_MAX, ask).await;
        self.with_cache(|cache| {
            for (road, way) in roads.iter_mut().zip(ways) {
                *road = road.or_else(|| cache.get(way, now));
            }
        });
        roads
    }

    /// Asks for the `n`th batch of a call, if there is still time.
    async fn ask_until(&self, until: Instant, n: usize, batch: &[Way], now: DateTime<Utc>) {
        if n < REQUESTS_MAX {
            // The client has the same wait, and counts what is over it against the server.
            return self.ask(batch, now).await;
        }
        if Instant::now() >= until || timeout_at(until, self.ask(batch, now)).await.is_err() {
            self.metrics.road_ways_left_out.with_label_values(&["time"]).inc_by(batch.len() as u64);
        }
    }

    /// Asks for ways with one destination, and stores the answer.
    async fn ask(&self, batch: &[Way], now: DateTime<Utc>) {
        let url = osrm::url(&self.base, batch);
        let request = match axum::http::Request::get(url).body(Default::default()) {
            Ok(request) => request,
            Err(error) => return log_failure(&error.to_string()),
        };
        // An answer that cannot be used counts in the circuit breaker, as none and an error of the server itself do.
        let read = |response: &Response<Bytes>| {
            self.answers.record(osrm::is_answer(response.body()), response.status());
            osrm::read(response.body(), batch)
        };
        match self.client.send_and_read(request, read).await {
            Ok(Answer::Roads(roads)) => self.with_cache(|cache| {
                for (way, road) in batch.iter().zip(roads) {
                    cache.put(way, road, now);
                }
            }),
            Ok(Answer::Refused(why)) => log_failure(&why),
            Err(error) => log_failure(&error.to_string()),
        }
    }

    fn with_cache<T>(&self, f: impl FnOnce(&mut Cache) -> T) -> T {
        f(&mut self.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether what answers at ROUTING_URL is a routing server: health says if it is not, and the log once.
#[derive(Debug, Clone)]
struct Answers {
    health: Arc<Health>,
    are_foreign: Arc<AtomicBool>,
}

impl Answers {
    fn new(platform: &Platform) -> Self {
        let answers = Self { health: platform.health.clone(), are_foreign: Arc::default() };
        answers.report(false);
        answers
    }

    fn record(&self, is_answer: bool, status: StatusCode) {
        if self.are_foreign.swap(!is_answer, Ordering::Relaxed) == is_answer {
            self.report(!is_answer);
            if is_answer {
                tracing::info!("a routing server answers at ROUTING_URL");
            } else {
                tracing::warn!(
                    status = status.as_u16(),
                    "what answers at ROUTING_URL is no OSRM-compatible server, or its path is wrong: times are estimated"
                );
            }
        }
    }

    fn report(&self, are_foreign: bool) {
        self.health.set_breaker("routing answers", if are_foreign { "not of a routing server" } else { "closed" });
    }
}

/// The client's metrics count failures, and its circuit breaker is a part of health; the reason is for whoever looks closer.
fn log_failure(error: &str) {
    tracing::debug!(error, "no road times from ROUTING_URL");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use axum::Router;
    use axum::extract::State;
    use axum::routing::get;
    use streams::memory::MemoryBus;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that says of each way that it is a kilometre, and how often it was asked, at `/right`.
    async fn server() -> (String, Arc<AtomicUsize>) {
        async fn route(State(asked): State<Arc<AtomicUsize>>) -> &'static str {
            asked.fetch_add(1, Ordering::Relaxed);
            r#"{"code":"Ok","routes":[{"distance":1000,"duration":100}]}"#
        }
        let asked = Arc::new(AtomicUsize::new(0));
        let router = Router::new().route("/right/route/v1/driving/{way}", get(route)).with_state(asked.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (url, asked)
    }

    fn platform() -> Platform {
        let world = World::real();
        let bus = streams::Bus::Memory(MemoryBus::new(world.now(), 1));
        Platform::new(world, bus, "test")
    }

    /// Ways with as many destinations.
    fn ways(count: u32) -> Vec<Way> {
        let at = |lat: f64| Position { lat, lng: -74.0 };
        (0..count).map(|n| Way { from: at(40.0), to: at(40.1 + 0.01 * f64::from(n)) }).collect()
    }

    #[test]
    fn a_url_with_a_password_is_refused_and_not_repeated() {
        for url in
            ["http://user:secret@osrm:5000", "user:secret@osrm", "https://secret@osrm/path", "htt p://a:secret@b"]
        {
            let why = Roads::check_url(url).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
            assert_eq!(why.contains("password"), url.starts_with("http:") || url.starts_with("https:"), "{why}");
        }
        assert_eq!(Roads::check_url("http://osrm:5000/a@b"), Ok(()));
    }

    #[tokio::test]
    async fn what_does_not_fit_into_the_first_requests_is_asked_for_after_them() {
        let (url, asked) = server().await;
        let count = REQUESTS_MAX + 4;
        let mut most = 0;
        // On a slow machine the wait may be over before.
        for _ in 0..50 {
            let before = asked.load(Ordering::Relaxed);
            let found = Roads::new(&platform(), &format!("{url}/right/")).ways(&ways(count as u32)).await;
            assert_eq!(found.len(), count);
            most = most.max(asked.load(Ordering::Relaxed) - before);
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        assert_eq!(most, count);
    }

    #[tokio::test]
    async fn a_wrong_path_is_in_health_until_a_routing_server_answers() {
        let (url, _) = server().await;
        let platform = platform();
        let state = || platform.health.breakers().into_iter().find(|(name, _)| *name == "routing answers").unwrap().1;
        let (wrong, right) =
            (Roads::new(&platform, &format!("{url}/wrong")), Roads::new(&platform, &format!("{url}/right")));
        assert_eq!(state(), "closed");
        // On a slow machine an answer may come too late.
        let way = ways(1)[0];
        while state() == "closed" {
            assert_eq!(wrong.way(way.from, way.to).await, None);
        }
        assert_eq!(state(), "not of a routing server");
        let right = Roads { answers: wrong.answers.clone(), ..right };
        while right.way(way.from, way.to).await.is_none() {}
        assert_eq!(state(), "closed");
    }
    /// One that hangs after the head, one whose answers cannot be, one that is no routing server, and one that has no road here.
    #[tokio::test]
    async fn whatever_cannot_be_used_opens_the_circuit_and_a_refusal_does_not() {
        let huge = r#"{"code":"Ok","routes":[{"distance":1000,"duration":1e9}]}"#;
        let far = r#"{"code":"NoSegment","message":"Could not find a matching segment for coordinate 0"}"#;
        for (head, body, is_open, is_foreign) in [
            ("200", None, true, false),
            ("200", Some(huge), true, false),
            ("200", Some("<html>hi</html>"), true, true),
            ("404", Some("<html>hi</html>"), true, true),
            ("400", Some(far), false, false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            tokio::spawn(async move {
                let mut open = Vec::new();
                loop {
                    let (mut socket, _) = listener.accept().await.unwrap();
                    let _ = socket.read(&mut [0; 4_096]).await;
                    let length = body.map_or(60, str::len);
                    let text = format!(
                        "HTTP/1.1 {head} x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{}",
                        body.unwrap_or_default()
                    );
                    let _ = socket.write_all(text.as_bytes()).await;
                    // It hangs, and does not close.
                    open.extend(body.is_none().then_some(socket));
                }
            });
            // On a slow machine an answer may come too late, which opens the circuit, too, and says nothing of the server.
            let answers = if is_foreign { "not of a routing server" } else { "closed" };
            let expected = (if is_open { "open" } else { "closed" }, answers);
            let mut found = ("", "");
            for _ in 0..50 {
                let platform = platform();
                let roads = Roads::new(&platform, &url);
                for way in ways(4) {
                    assert_eq!(roads.way(way.from, way.to).await, None, "{body:?}");
                }
                let state = |name| platform.health.breakers().into_iter().find(|(of, _)| *of == name).unwrap().1;
                found = (state("routing"), state("routing answers"));
                if found == expected || is_open && found.0 != "open" {
                    break;
                }
            }
            assert_eq!(found, expected, "{body:?}");
        }
    }
}
