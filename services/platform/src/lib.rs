//! What every service stands on: the store, the transactional consumer, the outbox, the world's clock and randomness,
//! tokens, problems, telemetry. It knows no service and decides nothing about rides.

pub mod background;
pub mod consumer;
pub mod dead_letters;
pub mod http_client;
pub mod kill_point;
pub mod problem;
pub mod relay;
pub mod retry;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod token;
pub mod world;

use std::sync::Arc;

use streams::Bus;
use streams::topology::Topology;

pub use consumer::{Failure, Handler, Received, Worker};
pub use problem::Problem;
pub use service::ServiceTasks;
// The former path, until every crate uses the new one.
#[doc(hidden)]
pub use relay as outbox;
pub use store::{On, Retry, Store, StoreError, Tables, Transaction};
pub use telemetry::{Health, Metrics};
pub use token::{SignedIn, Tokens};
pub use tokio_util::sync::CancellationToken;
pub use world::{Trace, World};

/// What a service is given at start; clones are one.
#[derive(Clone, Debug)]
pub struct Platform {
    /// Clock and randomness.
    pub world: World,
    /// The bus.
    pub bus: Bus,
    /// Streams and consumers.
    pub topology: Arc<Topology>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What works and what does not.
    pub health: Arc<Health>,
    /// When to stop.
    pub shutdown: CancellationToken,
    /// This process among others.
    pub pod: Arc<str>,
}

impl Platform {
    /// The project's topology on `bus`, with new metrics and health.
    pub fn new(world: World, bus: Bus, pod: impl Into<Arc<str>>) -> Self {
        Self {
            world,
            bus,
            topology: Arc::new(Topology::rideshare()),
            metrics: Arc::new(Metrics::new()),
            health: Arc::new(Health::default()),
            shutdown: CancellationToken::new(),
            pod: pod.into(),
        }
    }
}
