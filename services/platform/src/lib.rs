//! What every service is built on: the store, the transactional consumer, the relay of the outbox, dead letters, the clock and
//! the source of randomness, tokens, limits, problems, telemetry, the responder of core requests, and what a pod says of itself. It
//! knows no service, and decides nothing about rides.

pub mod api;
pub mod asking;
pub mod background;
pub mod breaker;
pub mod connected_drivers;
pub mod consumer;
pub mod dead_letters;
pub mod event_metrics;
pub mod exemplars;
pub mod http_client;
pub mod kill_point;
pub mod limits;
pub mod operators;
pub mod plain_text;
pub mod pod;
pub mod problem;
mod process_metrics;
mod registry;
pub mod relay;
pub mod responder;
pub mod retry;
pub mod routes;
pub mod service;
pub mod spans;
pub mod store;
pub mod telemetry;
pub mod token;
pub mod webhook;
pub mod world;

use std::sync::Arc;

use background::{Observation, TopologyWatch};
use limits::Refused;
use streams::bus::Published;
use streams::topology::Topology;
use streams::{Bus, BusError, Message};
use tokio::time::Instant;

pub use asking::{Asking, Unanswered};
pub use breaker::Breaker;
pub use consumer::{Failure, Handler, Received, WAIT_MAX, Waiting, Worker};
pub use limits::{ClientAddress, Limit, Limiter};
pub use problem::Problem;
pub use responder::Endpoints;
pub use service::ServiceTasks;
pub use spans::Spans;
pub use store::{On, Retry, Store, StoreError, Tables, Transaction};
pub use telemetry::{Health, Metrics};
pub use token::{Access, SignedIn, Tokens};
pub use tokio_util::sync::CancellationToken;
pub use world::{Trace, World};

/// What a process gives to each of its services; clones share it.
#[derive(Clone, Debug)]
pub struct Platform {
    pub world: World,
    pub bus: Bus,
    pub topology: Arc<Topology>,
    /// What the server has of the topology, observed once for the whole process.
    pub topology_watch: Arc<TopologyWatch>,
    pub metrics: Arc<Metrics>,
    /// What is exported to OpenTelemetry; off by default.
    pub spans: Spans,
    pub health: Arc<Health>,
    /// The subjects on which this process answers requests.
    pub endpoints: Arc<Endpoints>,
    /// How often somebody may do something in this process.
    pub limiter: Arc<Limiter>,
    /// The prefix of the queue groups of the fast lane, see `consumer/fast_lane.rs`; without it there is none.
    pub core_queue_group: Option<Arc<str>>,
    /// Cancelled when the process is to stop.
    pub shutdown: CancellationToken,
    /// The id of this process: one token of a subject.
    pub pod: Arc<str>,
}

impl Platform {
    /// With the project's topology, and new metrics and health.
    pub fn new(world: World, bus: Bus, pod: impl Into<Arc<str>>) -> Self {
        Self {
            world,
            bus,
            topology: Arc::new(Topology::rideshare()),
            topology_watch: Arc::default(),
            metrics: Arc::new(Metrics::new()),
            spans: Spans::default(),
            health: Arc::new(Health::default()),
            endpoints: Arc::default(),
            limiter: Arc::default(),
            core_queue_group: None,
            shutdown: CancellationToken::new(),
            pod: pod.into(),
        }
    }

    /// Takes `n` from a bucket of this process.
    ///
    /// # Errors
    /// [`Refused`], which was counted and logged.
    pub fn take(&self, limit: Limit, key: impl Into<limits::Key>, n: u32) -> Result<(), Refused> {
        self.limiter.take(limit, key, n, self.world.now()).inspect_err(|refused| self.limit_reached(refused.limit))
    }

    /// Counts that a limit was reached, and logs it at most once in [`limits::LOG_INTERVAL_S`] for each limit. Whose limit it
    /// was is not logged.
    pub fn limit_reached(&self, limit: Limit) {
        self.metrics.limited.with_label_values(&[limit.name()]).inc();
        if let Some(times) = self.limiter.reached(limit, self.world.now()) {
            tracing::warn!(limit = limit.name(), times, "a limit was reached");
        }
    }

    /// The first span of a new trace.
    pub fn new_trace(&self) -> Trace {
        self.spans.root(&self.world)
    }

    /// Publishes events to their streams, in order, and counts them. Returns one result for each.
    pub async fn publish_all(&self, messages: Vec<Message>) -> Vec<Result<Published, BusError>> {
        let mut sizes: Vec<(String, Vec<usize>)> = Vec::new();
        for message in &messages {
            match sizes.last_mut() {
                Some((subject, bytes)) if *subject == message.subject => bytes.push(message.payload.len()),
                _ => sizes.push((message.subject.clone(), vec![message.payload.len()])),
            }
        }
        let began_at = self.world.now();
        let results = self.bus.publish_all(messages).await;
        let took = (self.world.now() - began_at).to_std().unwrap_or_default();
        let mut left = &results[..];
        for (subject, bytes) in sizes {
            let (of_these, rest) = left.split_at(bytes.len());
            left = rest;
            let stored = of_these.iter().filter(|result| result.is_ok()).count();
            self.metrics.publishes.record(&subject, bytes.into_iter(), stored, took);
        }
        results
    }

    /// What the server had of the topology at most [`background::RECENT`] ago, as this process or another observed it.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub async fn observed_recently(&self) -> Result<Arc<Observation>, BusError> {
        self.topology_watch.observed_recently(&self.bus, &self.topology).await
    }

    /// What the server has of the topology, at `since` or later, as this process observed it.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub async fn observed_since(&self, since: Instant) -> Result<Arc<Observation>, BusError> {
        self.topology_watch.observed_since(&self.bus, &self.topology, since).await
    }
}
