//! The platform as it is run: embedded; one process on NATS and PostgreSQL; or five of them.

use std::net::SocketAddr;

use clap::Parser;
use platform::World;
use server::app::App;
use server::cli::Cli;
use server::settings::Settings;
use streams::Service;

use testing::nats::Server;
use testing::{MustEnd, database};

use super::watcher::Watcher;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// One process, memory bus, memory state.
    Embedded,
    /// One process on NATS and PostgreSQL.
    Nats,
}

pub(crate) fn settings(more: &[&str]) -> Settings {
    let args = ["rideshare", "--http-addr", "127.0.0.1:0", "--log", "warn"];
    Cli::try_parse_from(args.into_iter().chain(more.iter().copied())).unwrap().settings
}

/// Settings for processes that share `nats` and a new database.
pub(crate) async fn shared(nats: &Server, more: &[&str]) -> Settings {
    let (nats, database) = (nats.url.clone(), database::fresh().await);
    let secret = "a secret of thirty-two bytes or more";
    let mut args = vec!["--queue-type", "nats", "--nats-url", &nats, "--database-url", &database];
    args.extend(["--jwt-secret", secret, "--otp-delivery", "response", "--database-connections", "6"]);
    args.extend(more);
    settings(&args)
}

/// A running platform. A test that drops it without [`Running::stop`] fails.
pub(crate) struct Running {
    pub(crate) apps: Vec<App>,
    pub(crate) nats: Option<Server>,
    pub(crate) settings: Settings,
    pub(crate) watcher: Option<Watcher>,
    end: MustEnd,
}

impl Running {
    /// Processes that a test started itself.
    pub(crate) fn of(apps: Vec<App>, nats: Option<Server>, settings: Settings) -> Self {
        let watcher = nats.as_ref().map(|nats| Watcher::new(&nats.url));
        Self { apps, nats, settings, watcher, end: MustEnd::new("Running::stop") }
    }

    pub(crate) async fn start(shape: Shape, more: &[&str]) -> Self {
        let (nats, settings) = match shape {
            Shape::Embedded => (None, settings(more)),
            Shape::Nats => {
                let nats = Server::new().unwrap();
                let settings = shared(&nats, more).await;
                (Some(nats), settings)
            }
        };
        // Before the platform: what a process subscribes to at its start must work beside it as well.
        let watcher = nats.as_ref().map(|nats| Watcher::new(&nats.url));
        let app = App::start(&settings, &Service::ALL, World::real()).await.unwrap();
        let watcher = match watcher {
            None => Some(Watcher::in_memory(&app.platform.bus).await),
            watcher => watcher,
        };
        Self { watcher, ..Self::of(vec![app], nats, settings) }
    }

    /// Two processes of users, one of each other, all in this test's process but each with its own connections.
    pub(crate) async fn split(more: &[&str]) -> Self {
        let nats = Server::new().unwrap();
        let mut settings = shared(&nats, more).await;
        let watcher = Some(Watcher::new(&nats.url));
        let mut apps = Vec::new();
        for (n, service) in
            [Service::Users, Service::Match, Service::Rides, Service::Location, Service::Users].into_iter().enumerate()
        {
            settings.pod_id = Some(format!("pod-{n}"));
            apps.push(App::start(&settings, &[service], World::real()).await.unwrap());
        }
        Self { watcher, ..Self::of(apps, Some(nats), settings) }
    }

    /// What was sent on this subject so far is of the test itself, and not as the documents say.
    pub(crate) fn except_own(&self, subject: &str) {
        let seen = self.watcher.as_ref().map(|watcher| watcher.seen.lock().unwrap());
        seen.into_iter().for_each(|mut seen| seen.faults.retain(|fault| !fault.starts_with(subject)));
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.apps[0].addr
    }

    /// Ends every process, each of which must finish what it has begun.
    pub(crate) async fn stop(mut self) {
        for app in self.apps {
            assert!(app.stop().await, "everything ends in time");
        }
        self.end.reached();
        if let Some(watcher) = self.watcher {
            let faults = std::mem::take(&mut watcher.seen.lock().unwrap().faults);
            assert!(faults.is_empty(), "messages that are not as the documents say:\n{}", faults.join("\n"));
        }
    }
}
