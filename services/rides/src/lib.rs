//! rides: one ride per accepted match, its lifecycle, its fare, the ledger, the capture of payments, and what its parties say of it.
//!
//! It reads match.accepted, location.aggregate and payment.capture, answers ride commands, and is the only writer of ride.* and
//! payment.capture. It knows no socket and no position but those in its events, and touches no schema but `rides`.

pub mod audit;
mod commands;
mod config;
mod debts;
pub mod event_log;
mod handlers;
pub mod hash_chain;
mod http;
pub mod ledger;
mod note;
mod operators;
mod parties;
pub mod payment;
mod person;
mod purge;
mod rating;
pub mod refund;
mod replay;
pub mod ride;
mod share;
pub mod sos;
mod tables;

use std::fmt;
use std::sync::Arc;

use platform::routes::Route;
use platform::{CancellationToken, Platform, ServiceTasks, Store, StoreError, Tokens};
use streams::{Service, Subject};

pub use config::Config;
use share::viewed::Whereabouts;
use sos::sink::Sender;
pub use tables::Tables;
use tokio::sync::Notify;

/// The migrations of the schema `rides`; those of platform come before them.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/rides");

/// The most messages in one transaction.
const BATCH_MAX: usize = 256;

/// The service; clones share its state.
#[derive(Clone)]
pub struct Rides {
    platform: Platform,
    store: Store<Tables>,
    tokens: Tokens,
    config: Arc<Config>,
    whereabouts: Arc<Whereabouts>,
    /// Somebody in this process calls for help.
    raised: Arc<Notify>,
}

impl fmt::Debug for Rides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rides").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The routes of the service with their operations, without the service.
pub fn operations() -> Vec<Route> {
    http::operations()
}

impl Rides {
    /// The service on its store. It caches nothing, so it loads nothing.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer.
    pub async fn start(
        platform: &Platform,
        store: &Store<Tables>,
        tokens: Tokens,
        config: Config,
    ) -> Result<Self, StoreError> {
        store.check().await?;
        Ok(Self {
            platform: platform.clone(),
            store: store.clone(),
            tokens,
            config: Arc::new(config),
            whereabouts: Arc::new(Whereabouts::new(platform)),
            raised: Arc::default(),
        })
    }

    /// The routes `/v1/rides` and those below it, and `/v1/estimates`.
    pub fn routes(&self) -> platform::routes::Routes {
        let Self { platform, store, tokens, config, whereabouts, raised } = self;
        http::routes(platform, store, tokens, config, whereabouts, raised)
    }

    /// Erases what has served its time, as the running service does every hour.
    ///
    /// # Errors
    /// [`StoreError`]; the next purge erases what remains.
    pub async fn purge(&self) -> Result<(), StoreError> {
        purge::run(self.platform.clone(), self.store.clone(), self.config.clone()).await
    }

    /// Runs until `stop`; then finishes the work in hand, publishes what it wrote, and returns.
    pub async fn run(self, stop: CancellationToken) {
        let Self { platform, store, tokens, config, whereabouts, raised } = self;
        let mut tasks = ServiceTasks::start(&platform, Service::Rides, &store, &stop);
        tasks.spawn_worker(&[Subject::MatchAccepted], BATCH_MAX, handlers::AcceptedMatches::new(&platform, &config));
        tasks.spawn_worker(&[Subject::LocationAggregate], BATCH_MAX, handlers::Completions::new(&platform, &config));
        tasks.spawn_worker(&[Subject::PaymentCapture], BATCH_MAX, handlers::Captures::new(&platform, &config));
        let desk = (tokens.clone(), config.clone());
        tasks.spawn(operators::answer(platform.clone(), store.clone(), desk, stop.clone()));
        tasks.spawn(commands::RideCommands::new(&platform, &store, tokens, &config).serve(stop.clone()));
        tasks.spawn(debts::answer(platform.clone(), store.clone(), stop.clone()));
        tasks.spawn(rating::means::answer(platform.clone(), store.clone(), stop.clone()));
        tasks.spawn(person::answer(platform.clone(), store.clone(), stop.clone()));
        if let Some(sink) = &config.sos_sink {
            tasks.spawn(Sender::new(&platform, &store, sink.clone(), whereabouts).run(raised, stop.clone()));
        }
        tasks.spawn_purge(move || purge::run(platform.clone(), store.clone(), config.clone()));
        tasks.until_stop().await;
        tasks.drain().await;
    }
}
