//! How long the ways in a street network take, by an OSRM-compatible server (ROUTING_URL). Legs are stored by
//! cell and hour (`cache.rs`); `osrm.rs` writes requests and reads responses, and is pure, as are the cache and the types in `way.rs`.
//!
//! A caller never waits for longer than [`WAIT`]. What the server did not say by then is `None`: the caller estimates it.

mod cache;
mod osrm;
mod way;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::Uri;
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use platform::breaker::Rules;
use platform::http_client::{HttpClient, Protocol, Purpose, Reach};
use platform::{Platform, World};
use streams::Position;

use crate::cache::Cache;
pub use crate::way::{Leg, Road, Way, WayKey};

/// The longest wait for road times, for all ways of one call together.
pub const WAIT: Duration = Duration::from_millis(200);
/// Places that begin a way, in one request: with the destination at most 100 coordinates, the default limit of OSRM.
const SOURCES_MAX: usize = 99;
/// Requests of one call. What does not fit is not known.
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
        let batches = cache::by_destination(&unknown, SOURCES_MAX);
        join_all(batches.iter().take(REQUESTS_MAX).map(|batch| self.ask(batch, now))).await;
        self.with_cache(|cache| {
            for (road, way) in roads.iter_mut().zip(ways) {
                *road = road.or_else(|| cache.get(way, now));
            }
        });
        roads
    }

    /// Asks for ways with one destination, and stores the answer.
    async fn ask(&self, batch: &[Way], now: DateTime<Utc>) {
        let url = osrm::url(&self.base, batch);
        let request = match axum::http::Request::get(url).body(Default::default()) {
            Ok(request) => request,
            Err(error) => return log_failure(&error.to_string()),
        };
        let answer = match self.client.send(request).await {
            Ok(response) => osrm::read(response.body(), batch),
            Err(error) => Err(error.to_string()),
        };
        match answer {
            Ok(roads) => self.with_cache(|cache| {
                for (way, road) in batch.iter().zip(roads) {
                    cache.put(way, road, now);
                }
            }),
            Err(error) => log_failure(&error),
        }
    }

    fn with_cache<T>(&self, f: impl FnOnce(&mut Cache) -> T) -> T {
        f(&mut self.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The client's metrics count failures, and its circuit breaker is a part of health; the reason is for whoever looks closer.
fn log_failure(error: &str) {
    tracing::debug!(error, "no road times from ROUTING_URL");
}
