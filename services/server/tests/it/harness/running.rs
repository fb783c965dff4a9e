//! The platform as it is run: embedded; one process on NATS and PostgreSQL; or five of them.

use std::net::SocketAddr;

use clap::Parser;
use platform::World;
use server::app::App;
use server::cli::Cli;
use server::settings::Settings;
use streams::{Bus, Service};

use testing::{MustEnd, database};

use super::front::Front;
use super::nats::{Nats, as_user};
use super::watcher::Watcher;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// One process, memory bus, memory state.
    Embedded,
    /// On NATS and PostgreSQL: one process, or as `Secured` if this run of the suite is about that.
    Nats,
    /// On PostgreSQL and the nats-server that is shipped: a process for each service, with its own user, behind one address.
    Secured,
}

pub(crate) fn settings(more: &[&str]) -> Settings {
    let args = ["rideshare", "--http-addr", "127.0.0.1:0", "--log", "warn"];
    Cli::try_parse_from(args.into_iter().chain(more.iter().copied())).unwrap().settings
}

/// Settings for processes that share `nats` and a new database.
pub(crate) async fn shared(nats: &Nats, more: &[&str]) -> Settings {
    let database = database::fresh().await;
    let secret = "a secret of thirty-two bytes or more";
    let mut args = vec!["--database-url", &database];
    args.extend(["--jwt-secret", secret, "--otp-delivery", "response", "--database-connections", "6"]);
    args.extend(more);
    nats.settings(&args)
}

/// Starts a process of these services; on a secured server one of each, because a process is one NATS user.
pub(crate) async fn start(settings: &Settings, services: &[Service]) -> Vec<App> {
    if settings.nats.nats_user.is_none() {
        return vec![App::start(settings, services, World::real()).await.unwrap()];
    }
    let mut apps = Vec::new();
    for service in services {
        let settings = as_user(settings, service.name());
        apps.push(App::start(&settings, &[*service], World::real()).await.unwrap());
    }
    apps
}

async fn watch(nats: &Nats) -> Watcher {
    if nats.is_secured() { Watcher::on(&nats.bus().await).await } else { Watcher::new(nats.url()) }
}

/// A running platform. A test that drops it without [`Running::stop`] fails.
pub(crate) struct Running {
    pub(crate) apps: Vec<App>,
    nats: Option<Nats>,
    pub(crate) settings: Settings,
    /// On a secured server that of the administrator, else that of a process.
    bus: Bus,
    front: Option<Front>,
    pub(crate) watcher: Option<Watcher>,
    end: MustEnd,
}

impl Running {
    /// Processes that a test started itself.
    pub(crate) async fn of(apps: Vec<App>, nats: Nats, settings: Settings) -> Self {
        let watcher = watch(&nats).await;
        Self::new(apps, Some(nats), settings, Some(watcher)).await
    }

    async fn new(apps: Vec<App>, nats: Option<Nats>, settings: Settings, watcher: Option<Watcher>) -> Self {
        let bus = match &nats {
            Some(nats) if nats.is_secured() => nats.bus().await,
            _ => apps[0].platform.bus.clone(),
        };
        let watcher = match watcher {
            None => Some(Watcher::on(&bus).await),
            watcher => watcher,
        };
        Self { apps, nats, settings, bus, front: None, watcher, end: MustEnd::new("Running::stop") }
    }

    pub(crate) async fn start(shape: Shape, more: &[&str]) -> Self {
        let nats = match shape {
            Shape::Embedded => {
                let settings = settings(more);
                let apps = Box::pin(start(&settings, &Service::ALL)).await;
                return Box::pin(Self::new(apps, None, settings, None)).await;
            }
            Shape::Nats => Box::pin(Nats::start()).await,
            Shape::Secured => Box::pin(Nats::secured()).await,
        };
        let settings = Box::pin(shared(&nats, more)).await;
        Box::pin(Self::on(nats, settings)).await
    }

    /// All services, on this server and with these settings.
    pub(crate) async fn on(nats: Nats, settings: Settings) -> Self {
        // Before the platform: what a process subscribes to at its start must work beside it as well.
        let watcher = watch(&nats).await;
        let apps = start(&settings, &Service::ALL).await;
        let mut running = Self::new(apps, Some(nats), settings, Some(watcher)).await;
        if running.apps.len() > 1 {
            let front = Front::new().await;
            front.set(&running.apps);
            running.front = Some(front);
        }
        running
    }

    /// Two processes of users, one of each other, all in this test's process but each with its own connections.
    pub(crate) async fn split(more: &[&str]) -> Self {
        let nats = Nats::start().await;
        let mut settings = shared(&nats, more).await;
        let watcher = watch(&nats).await;
        let mut apps = Vec::new();
        for (n, service) in
            [Service::Users, Service::Match, Service::Rides, Service::Location, Service::Users].into_iter().enumerate()
        {
            settings.pod_id = Some(format!("pod-{n}"));
            apps.extend(start(&settings, &[service]).await);
        }
        Self::new(apps, Some(nats), settings, Some(watcher)).await
    }

    /// What is sent on this subject may be of the test itself, and not as the documents say.
    pub(crate) fn except_own(&self, subject: &'static str) {
        let seen = self.watcher.as_ref().map(|watcher| watcher.seen.lock().unwrap());
        seen.into_iter().for_each(|mut seen| seen.of_the_test.push(subject));
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.front.as_ref().map_or(self.apps[0].addr, |front| front.addr)
    }

    /// The process of this service.
    pub(crate) fn app(&self, service: Service) -> &App {
        let place = Service::ALL.into_iter().position(|one| one == service);
        &self.apps[if self.apps.len() == 1 { 0 } else { place.unwrap() }]
    }

    pub(crate) fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The server; a test on the memory bus has none.
    pub(crate) fn nats(&self) -> &Nats {
        self.nats.as_ref().unwrap()
    }

    pub(crate) fn nats_mut(&mut self) -> &mut Nats {
        self.nats.as_mut().unwrap()
    }

    /// Waits until every consumer has handled and acknowledged all that was published.
    pub(crate) async fn settled(&self) {
        super::settled(&self.bus).await;
    }

    /// Ends every process; `start_again` starts them, at the same address if that is a front's.
    pub(crate) async fn pause(&mut self) {
        for app in self.apps.drain(..) {
            assert!(app.stop().await, "everything ends in time");
        }
    }

    pub(crate) async fn start_again(&mut self) {
        self.apps = start(&self.settings, &Service::ALL).await;
        if let Some(front) = &self.front {
            front.set(&self.apps);
        }
    }

    /// Ends every process, each of which must finish what it has begun.
    pub(crate) async fn stop(mut self) {
        for app in self.apps {
            assert!(app.stop().await, "everything ends in time");
        }
        if let Some(nats) = &self.nats {
            nats.assert_nothing_refused();
        }
        self.end.reached();
        if let Some(watcher) = self.watcher {
            let mut seen = watcher.seen.lock().unwrap();
            let (of_the_test, mut faults) = (seen.of_the_test.clone(), std::mem::take(&mut seen.faults));
            faults.retain(|fault| !of_the_test.iter().any(|subject| fault.starts_with(subject)));
            assert!(faults.is_empty(), "messages that are not as the documents say:\n{}", faults.join("\n"));
        }
    }
}
