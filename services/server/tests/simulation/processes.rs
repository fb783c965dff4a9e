//! The processes of the simulation, one service each, and the supervisor that starts them again. A process is its tasks: when it
//! dies they are dropped at whatever point they are, and its handles to bus and stores are closed at that moment. A connection to
//! it is a pipe in memory, over which it speaks HTTP and WebSocket as over a socket.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use futures_util::FutureExt;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use location::Location;
use matching::Matching;
use matching::zones::Partition;
use platform::dead_letters::sweeper;
use platform::limits::{Limiter, Limits};
use platform::token::ended;
use platform::{Platform, Store, background};
use rides::Rides;
use server::monitor::{self, Check};
use server::{admin, http};
use streams::simulation::{Dice, Faults};
use streams::{Bus, Service};
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use users::Users;

use crate::scene::Scene;

/// Bytes that a pipe holds.
const PIPE: usize = 8 * 1024;

/// The settings of the processes.
#[derive(Clone)]
pub(crate) struct Configs {
    pub(crate) location: location::Config,
    pub(crate) rides: rides::Config,
    pub(crate) matching: matching::Config,
    pub(crate) users: users::Config,
    /// Of ENABLE_CORE_NATS.
    pub(crate) core_queue_group: Option<Arc<str>>,
}

impl Configs {
    /// Those of the program, but that codes are in the responses.
    pub(crate) fn of_production() -> Self {
        Self {
            location: location::Config::default(),
            rides: rides::Config::default(),
            matching: matching::Config::default(),
            users: users::Config { otp_delivery: "response".parse().unwrap(), ..Default::default() },
            core_queue_group: Some("rideshare".into()),
        }
    }

    /// For rides that take a quarter of a minute.
    pub(crate) fn of_fast_rides(partition: Partition) -> Self {
        let production = Self::of_production();
        let (max_speed_mps, aggregate_every) = (600.0, chrono::Duration::seconds(6));
        Self {
            location: location::Config { max_speed_mps, aggregate_every, ..production.location },
            rides: rides::Config { max_speed_mps, ..production.rides },
            matching: matching::Config { request_ttl_s: 90, partition, ..production.matching },
            users: users::Config { request_ttl_s: 90, track_max_speed_mps: max_speed_mps, ..production.users },
            core_queue_group: None,
        }
    }
}

/// How a process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// At once.
    Kill,
    /// By SIGTERM.
    Stop,
}

/// A process that is started again and again.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) service: Service,
    pub(crate) name: Arc<str>,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    running: Option<Running>,
    end: Option<End>,
    /// It is not started before then.
    away_until: Option<Instant>,
}

#[derive(Debug)]
struct Running {
    faults: Faults,
    platform: Platform,
    router: Router,
    tasks: JoinSet<()>,
    /// Open connections to it.
    connections: Vec<AbortHandle>,
}

impl Process {
    pub(crate) fn new(service: Service, number: usize) -> Arc<Self> {
        let name = format!("{service}-{number}").into();
        Arc::new(Self { service, name, inner: Mutex::default(), changed: Notify::new() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it; it is not started again before `away_until`.
    pub(crate) fn end(&self, end: End, away_until: Option<Instant>) {
        let mut inner = self.inner();
        inner.end = Some(end);
        inner.away_until = away_until;
        drop(inner);
        self.changed.notify_one();
    }

    /// Its faults, if it runs.
    pub(crate) fn faults(&self) -> Option<Faults> {
        self.inner().running.as_ref().map(|running| running.faults.clone())
    }

    /// It may start again.
    pub(crate) fn come_back(&self) {
        self.inner().away_until = None;
        self.changed.notify_one();
    }

    /// A connection to it, which ends with it.
    pub(crate) fn connect(&self) -> io::Result<DuplexStream> {
        let mut inner = self.inner();
        let running = inner.running.as_mut().ok_or(io::ErrorKind::ConnectionRefused)?;
        let ((here, mut near), (mut far, there)) = (duplex(PIPE), duplex(PIPE));
        let service = TowerToHyperService::new(running.router.clone());
        let served = http1::Builder::new().serve_connection(TokioIo::new(there), service).with_upgrades();
        running.tasks.spawn(async move { drop(served.await) });
        // A task between the two ends is dropped with the process, or aborted by the nemesis. A session that runs on in a task of
        // its own then finds its connection closed.
        let connection = running.tasks.spawn(async move { drop(copy_bidirectional(&mut near, &mut far).await) });
        running.connections.retain(|connection| !connection.is_finished());
        running.connections.push(connection);
        Ok(here)
    }

    /// Its open connections.
    pub(crate) fn connections(&self) -> Vec<AbortHandle> {
        let all = self.inner().running.as_ref().map(|running| running.connections.clone()).unwrap_or_default();
        all.into_iter().filter(|connection| !connection.is_finished()).collect()
    }

    /// Its unhealthy parts; a process that does not run is unhealthy as a whole.
    pub(crate) fn unhealthy(&self) -> Vec<String> {
        match &self.inner().running {
            None => vec![format!("{} does not run", self.name)],
            Some(running) => {
                let faults = running.platform.health.faults().into_iter();
                faults.map(|(part, why)| format!("{}: {part}: {why}", self.name)).collect()
            }
        }
    }

    /// Starts it, and again whenever it has ended, for as long as it is polled.
    pub(crate) async fn supervise(self: Arc<Self>, scene: Arc<Scene>, mut dice: Dice) {
        loop {
            loop {
                let away_until = self.inner().away_until.filter(|until| Instant::now() < *until);
                let Some(until) = away_until else { break };
                tokio::select! {
                    biased;
                    () = self.changed.notified() => {}
                    () = sleep_until(until) => {}
                }
            }
            let faults = scene.faults.for_another_process();
            let running = match timeout(Duration::from_secs(90), self.start(&scene, &faults)).await {
                Ok(Ok(running)) => running,
                Ok(Err(error)) => {
                    scene.log().remark(&format!("{} does not start: {error}", self.name));
                    sleep(Duration::from_secs(1)).await;
                    continue;
                }
                Err(_) => {
                    scene.log().violation(format!("{} does not start in 90 s", self.name));
                    continue;
                }
            };
            scene.log().remark(&format!("{} runs", self.name));
            let died = faults.died();
            {
                let mut inner = self.inner();
                inner.running = Some(running);
                inner.end = None;
            }
            let how = loop {
                tokio::select! {
                    biased;
                    () = died.notified() => break End::Kill,
                    () = self.changed.notified() => {
                        if let Some(end) = self.inner().end.take() {
                            break end;
                        }
                    }
                }
            };
            scene.log().remark(&format!("{} ends by {how:?}", self.name));
            let running = self.inner().running.take();
            if let (End::Stop, Some(mut running)) = (how, running) {
                running.platform.shutdown.cancel();
                let all = async { while running.tasks.join_next().await.is_some() {} };
                if timeout(Duration::from_secs(30), all).await.is_err() {
                    scene.log().remark(&format!("{} did not stop in 30 s", self.name));
                }
            }
            // Tasks of it that are left anywhere reach neither bus nor stores from now on.
            faults.die();
            sleep(dice.millis(200, 4_000)).await;
        }
    }

    async fn start(&self, scene: &Arc<Scene>, faults: &Faults) -> Result<Running> {
        let bus = Bus::Memory(scene.bus.with_faults(faults));
        let mut platform = Platform::new(scene.world.clone(), bus, self.name.clone());
        let Configs { location, rides, matching, users, core_queue_group } = scene.configs.clone();
        platform.core_queue_group = core_queue_group;
        // All people of the city have the same address.
        platform.limiter = Arc::new(Limiter::new(Limits::raised().parse().map_err(anyhow::Error::msg)?));
        background::apply_topology(&platform).await.map_err(anyhow::Error::msg)?;
        let (stop, pod, tokens) = (platform.shutdown.clone(), &self.name, scene.tokens.of_another_process());
        // There are none: their routes are there, and ask nobody.
        let shown = (pricing::market::Current::default(), None);
        let nobody = admin::tokens::Current::default();
        let operators = admin::Api::new(&platform, &[self.service], tokens.clone(), nobody, shown);
        let (tasks, connections) = (JoinSet::new(), Vec::new());
        let mut running = Running { faults: faults.clone(), platform, router: Router::new(), tasks, connections };
        let platform = running.platform.clone();
        let mut routes = Vec::new();
        if self.service != Service::Users {
            running.tasks.spawn(ended::follow(platform.clone(), tokens.clone(), stop.clone()));
        }
        match self.service {
            Service::Location => {
                let store = scene.stores.location.with_faults(pod, faults);
                let service = Location::start(&platform, &store, tokens, location).await?;
                routes.push(service.routes());
                self.run(scene, &mut running, check(&store), service.run(stop));
            }
            Service::Rides => {
                let store = scene.stores.rides.with_faults(pod, faults);
                let service = Rides::start(&platform, &store, tokens, rides).await?;
                routes.push(service.routes());
                self.run(scene, &mut running, check(&store), service.run(stop));
            }
            Service::Match => {
                let store = scene.stores.matching.with_faults(pod, faults);
                let service = Matching::start(&platform, &store, matching).await?;
                self.run(scene, &mut running, check(&store), service.run(stop));
            }
            Service::Users => {
                let store = scene.stores.users.with_faults(pod, faults);
                let service = Users::start(&platform, &store, tokens, users).await?;
                routes.push(service.routes());
                self.run(scene, &mut running, check(&store), service.run(stop));
            }
        }
        running.tasks.spawn(sweeper::run(platform.clone(), vec![self.service]));
        running.tasks.spawn(platform::pod::run(platform.clone(), vec![self.service]));
        let listeners = http::Listeners::new(&platform, &[self.service], routes, &operators, false);
        running.router = http::router(listeners.http, &platform);
        Ok(running)
    }

    /// Runs the service; that it ends by itself is a violation whatever the faults.
    fn run(
        &self,
        scene: &Arc<Scene>,
        running: &mut Running,
        check: Check,
        service: impl Future<Output = ()> + Send + 'static,
    ) {
        running.tasks.spawn(monitor::watch(running.platform.clone(), vec![(self.service.name(), check)]));
        let (scene, stop, name) = (scene.clone(), running.platform.shutdown.clone(), self.name.clone());
        running.tasks.spawn(async move {
            let ended = AssertUnwindSafe(service).catch_unwind().await;
            if ended.is_err() || !stop.is_cancelled() {
                scene.log().violation(format!("{name} ended by itself"));
            }
        });
    }
}

/// The check of the store that the program's monitor makes.
fn check<T: platform::Tables>(store: &Store<T>) -> Check {
    let store = store.clone();
    Box::new(move || {
        let store = store.clone();
        Box::pin(async move { store.check().await })
    })
}
