//! The users service: accounts and sign-in, and the WebSocket gateway with its mailboxes.
//!
//! This file holds what the service is made of and how it runs; it decides nothing about accounts, frames or events.

mod account;
#[cfg(test)]
#[path = "../../platform/tests/database.rs"]
mod database;
mod delivery;
mod otp;
mod phone;
mod sign_in;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRef;
use platform::{Platform, Shutdown, Store, StoreError, Tokens};
use streams::Service;
use tokio::task::JoinSet;

pub use delivery::OtpDelivery;

/// How often rows that nobody needs any more are deleted.
const PURGE_EVERY: Duration = Duration::from_secs(3_600);

/// The migrations of the service's own tables.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/users");

/// The service's tables in memory.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub(crate) accounts: account::Rows,
    pub(crate) sign_in: sign_in::Rows,
}

/// The service's settings.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// How a one-time code reaches its phone.
    pub otp_delivery: OtpDelivery,
}

/// The users service; clones are one.
#[derive(Debug, Clone)]
pub struct Users {
    pub(crate) platform: Platform,
    pub(crate) store: Store<Tables>,
    pub(crate) tokens: Tokens,
    pub(crate) config: Arc<Config>,
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
        tokens: &Tokens,
        config: Config,
    ) -> Result<Self, StoreError> {
        store.check().await?;
        Ok(Self { platform: platform.clone(), store: store.clone(), tokens: tokens.clone(), config: Arc::new(config) })
    }

    /// The HTTP routes.
    pub fn router(&self) -> Router {
        account::router().merge(sign_in::router()).with_state(self.clone())
    }

    /// Works until `stop` has begun, then drains and returns.
    pub async fn run(self, stop: Shutdown) {
        let relay_stop = Shutdown::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(self.store.clone().relay(self.platform.clone(), Service::Users, relay_stop.clone()));
        self.purge_until(&stop).await;
        relay_stop.begin();
        while tasks.join_next().await.is_some() {}
    }

    async fn purge_until(&self, stop: &Shutdown) {
        loop {
            tokio::select! {
                biased;
                () = stop.begun() => return,
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
        tx.commit().await
    }
}
