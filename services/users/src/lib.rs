//! The users service: accounts and sign-in, and the WebSocket gateway with its mailboxes.
//!
//! A folder for each noun has its rules (`mod.rs`) and its rows (`rows.rs`). `http` has the routes, `gateway` the sockets,
//! `commands` what a client requests over a socket, `handlers` what the service does with events.

mod account;
mod commands;
mod config;
mod context;
mod document;
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod handlers;
mod http;
mod live_ride;
mod mailbox;
mod missed_offers;
mod offer;
mod operators;
mod party;
mod phone_change;
mod presence;
mod push;
mod rate_limit;
mod search;
mod shown;
mod sign_in;
mod signed_text;
mod state;
mod tables;
mod timers;
mod trip;

use futures_util::{Sink, Stream};
use platform::routes::{Route, Routes};
use platform::{CancellationToken, Platform, ServiceTasks, Store, StoreError, Tokens};
use streams::{Service, SignInId, UserId};

pub use account::{DriverApproval, DriverStatus};
pub use config::Config;
use context::Context;
pub use gateway::description::{FrameDescription, client_frames, closes, core_bodies, server_frames};
use gateway::pod_link;
pub use gateway::transport::{Incoming, Outgoing, SocketRequest};
use handlers::EventHandler;
pub use push::config::{ApnsConfig, FcmConfig, PushConfig, VapidConfig};
pub use sign_in::delivery::OtpDelivery;
pub use sign_in::phone::Countries;
pub use tables::Tables;

/// The migrations of the service's own tables.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/users");

/// The service; clones share everything.
#[derive(Debug, Clone)]
pub struct Users(Context);

fn routes() -> Routes<Context> {
    let (devices, sockets) = (push::routes::routes(), gateway::upgrade::routes());
    http::routes().merge(sign_in::routes::routes()).merge(devices).merge(sockets)
}

/// The routes of the service with their operations, without the service.
pub fn operations() -> Vec<Route> {
    routes().into_list()
}

impl Users {
    /// # Errors
    /// [`StoreError`] if the store does not answer.
    pub async fn start(
        platform: &Platform,
        store: &Store<Tables>,
        tokens: Tokens,
        config: Config,
    ) -> Result<Self, StoreError> {
        store.check().await?;
        let context = Context::new(platform, store, tokens, config);
        sign_in::ended::load(&context).await?;
        context.lease.touch(platform, store).await?;
        Ok(Self(context))
    }

    pub fn routes(&self) -> Routes {
        routes().with_state(self.0.clone())
    }

    /// The `type` of every frame that a client may send.
    pub fn frame_types() -> impl Iterator<Item = &'static str> {
        gateway::frame::types()
    }

    /// Serves one signed-in client over any pair of stream and sink, until it goes, is closed, or the pod stops.
    ///
    /// `incoming` ends when the client is gone.
    pub async fn serve_session<S, K>(&self, request: SocketRequest, incoming: S, outgoing: K)
    where
        S: Stream<Item = Incoming> + Unpin + Send,
        K: Sink<Outgoing> + Unpin + Send,
    {
        gateway::session::serve(&self.0, request, incoming, outgoing).await;
    }

    /// Gives a driver another status, as an operator decides: approves, or suspends. A suspended driver's open offer is withdrawn, and a ride
    /// under way ends as usual. Returns the status before; `None` if there is no such driver.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was changed.
    pub async fn set_driver_status(
        &self,
        driver: UserId,
        status: DriverStatus,
    ) -> Result<Option<DriverStatus>, StoreError> {
        account::standing::set_status(&self.0, driver, status).await
    }

    /// Deletes what has served its time, as the running service does every hour.
    ///
    /// # Errors
    /// [`StoreError`]; the next purge deletes what remains.
    pub async fn purge(&self) -> Result<(), StoreError> {
        timers::purge(self.0.clone()).await
    }

    /// Closes the sockets of these sign-ins, which have ended, on this pod.
    pub fn end_sign_ins(&self, ended: &[SignInId]) {
        self.0.sockets.end_sign_ins(ended);
    }

    /// Works until `stop` is cancelled, then drains and returns.
    pub async fn run(self, stop: CancellationToken) {
        let context = self.0;
        let mut tasks = ServiceTasks::start(&context.platform, Service::Users, &context.store, &stop);
        for subjects in handlers::LANES {
            tasks.spawn_worker(subjects, handlers::BATCH_MAX, EventHandler::new(&context));
        }
        tasks.spawn(pod_link::run(context.clone(), stop.clone()));
        tasks.spawn(timers::run(context.clone(), stop.clone()));
        tasks.spawn(commands::search::run(context.clone(), stop.clone()));
        tasks.spawn(push::sender::run(context.clone(), stop.clone()));
        tasks.spawn(push::cleaner::run(context.clone(), stop.clone()));
        tasks.spawn(sign_in::ended::run(context.clone(), stop.clone()));
        tasks.spawn(sign_in::ended::answer(context.clone(), stop.clone()));
        tasks.spawn(party::answer(context.clone(), stop.clone()));
        tasks.spawn(presence::connected::answer(context.clone(), stop.clone()));
        tasks.spawn(operators::answer(context.clone(), stop.clone()));
        tasks.spawn(party::contacts::answer(context.clone(), stop.clone()));
        let purged = context.clone();
        tasks.spawn_purge(move || timers::purge(purged.clone()));
        tasks.until_stop().await;
        // Closing sockets publishes the beacons of drivers who become unavailable. The relay stops after that.
        context.sockets.close().await;
        tasks.drain().await;
    }
}
