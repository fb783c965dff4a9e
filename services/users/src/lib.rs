//! The users service: accounts and sign-in, and the WebSocket gateway with its mailboxes.
//!
//! This file holds what the service is made of and how it runs; it decides nothing about accounts, frames or events.

mod account;
mod commands;
mod gateway;
mod handlers;
mod live_ride;
mod mailbox;
mod offer;
mod presence;
mod search;
mod sign_in;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRef;
use platform::{CancellationToken, Platform, Store, StoreError, Tokens};
use streams::Service;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use gateway::Sockets;
pub use gateway::session::{Incoming, Outgoing};
pub use sign_in::delivery::OtpDelivery;

/// How often rows that nobody needs any more are deleted.
const PURGE_EVERY: Duration = Duration::from_secs(3_600);

/// The migrations of the service's own tables.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/users");

/// The service's tables in memory.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub(crate) accounts: account::Rows,
    pub(crate) sign_in: sign_in::Rows,
    pub(crate) mailbox: mailbox::Rows,
    pub(crate) presence: presence::Rows,
    pub(crate) searches: search::Rows,
    pub(crate) offers: offer::Rows,
    pub(crate) live_rides: live_ride::Rows,
}

/// The service's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// How a one-time code reaches its phone.
    pub otp_delivery: OtpDelivery,
    /// MATCH_REQUEST_TTL_S: how long a search stays open.
    pub request_ttl_s: u32,
    /// Frames a second that one socket may send, over time; four times that in a burst.
    pub frames_per_s: u32,
    /// Sockets of one user, and of all, on this pod.
    pub sockets_per_user: usize,
    /// All sockets on this pod.
    pub sockets_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            otp_delivery: OtpDelivery::default(),
            request_ttl_s: 300,
            frames_per_s: 50,
            sockets_per_user: 5,
            sockets_max: 50_000,
        }
    }
}

/// Publishes of positions that await the stream's word, of all sockets together.
const PUBLISHING_MAX: usize = 1_000;

/// The users service; clones are one.
#[derive(Debug, Clone)]
pub struct Users {
    pub(crate) platform: Platform,
    pub(crate) store: Store<Tables>,
    pub(crate) tokens: Tokens,
    pub(crate) config: Arc<Config>,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) publishing: Arc<Semaphore>,
}

impl FromRef<Users> for Tokens {
    fn from_ref(users: &Users) -> Self {
        users.tokens.clone()
    }
}

impl Users {
    /// The service, ready to serve.
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
            sockets: Arc::default(),
            publishing: Arc::new(Semaphore::new(PUBLISHING_MAX)),
        })
    }

    /// The HTTP routes.
    pub fn router(&self) -> Router {
        account::router().merge(sign_in::router()).merge(gateway::router()).with_state(self.clone())
    }

    /// Works until `stop` has begun, then drains and returns.
    pub async fn run(self, stop: CancellationToken) {
        let relay_stop = CancellationToken::new();
        let mut relay = JoinSet::new();
        relay.spawn(self.store.clone().relay(self.platform.clone(), Service::Users, relay_stop.clone()));
        let mut tasks = JoinSet::new();
        for worker in self.workers() {
            let stop = stop.clone();
            tasks.spawn(async move {
                worker.run(stop).await;
            });
        }
        tasks.spawn(self.clone().timers(stop.clone()));
        tasks.spawn(self.clone().purge_until(stop.clone()));
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            Some(ended) = tasks.join_next() => {
                // A worker that hears of the stop first is no fault.
                if ended.is_err() || !stop.is_cancelled() {
                    tracing::error!(?ended, "a part of users ended by itself");
                }
            }
        }
        // The sockets' goodbyes are events too: the relay is told to stop after them.
        self.sockets.close().await;
        if stop.is_cancelled() {
            while tasks.join_next().await.is_some() {}
        }
        relay_stop.cancel();
        while relay.join_next().await.is_some() {}
    }

    async fn purge_until(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PURGE_EVERY) => {}
            }
            if let Err(error) = self.purge().await {
                tracing::warn!(%error, "old rows could not be deleted; the next hour tries again");
            }
        }
    }

    async fn purge(&self) -> Result<(), StoreError> {
        self.store.purge().await?;
        let now = self.platform.world.now();
        let mut tx = self.store.begin().await?;
        sign_in::purge(&mut tx, now).await?;
        tx.commit().await?;
        self.purge_gateway().await
    }
}
