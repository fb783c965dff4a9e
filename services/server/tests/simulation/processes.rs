//! The processes of the simulation, one service each, and who starts them again when they have died. A process is its tasks:
//! when it dies they are dropped wherever they are, and its handle to bus and stores is closed at that moment. A connection to
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
use platform::consumer::sweeper;
use platform::{CancellationToken, Health, Metrics, Platform, Store, background};
use rides::Rides;
use server::http;
use server::monitor::{self, Check};
use streams::simulation::{Dice, Faults};
use streams::topology::Topology;
use streams::{Bus, Service};
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use users::Users;

use crate::scene::Scene;

/// Bytes that a pipe holds.
const PIPE: usize = 8 * 1024;

/// How a process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// At once.
    Kill,
    /// By SIGTERM.
    Stop,
}

/// A process among others, through all its lives.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) service: Service,
    pub(crate) name: Arc<str>,
    inner: Mutex<Inner>,
    told: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    running: Option<Running>,
    end: Option<End>,
    /// It is not started before that.
    away_until: Option<Instant>,
}

#[derive(Debug)]
struct Running {
    faults: Faults,
    platform: Platform,
    router: Router,
    tasks: JoinSet<()>,
    /// Open connections to it.
    lines: Vec<AbortHandle>,
}

impl Process {
    pub(crate) fn new(service: Service, number: usize) -> Arc<Self> {
        let name = format!("{service}-{number}").into();
        Arc::new(Self { service, name, inner: Mutex::default(), told: Notify::new() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it, and keeps it away until then.
    pub(crate) fn end(&self, end: End, away_until: Option<Instant>) {
        let mut inner = self.inner();
        inner.end = Some(end);
        inner.away_until = away_until;
        drop(inner);
        self.told.notify_one();
    }

    /// The faults that it meets, if it runs.
    pub(crate) fn faults(&self) -> Option<Faults> {
        self.inner().running.as_ref().map(|running| running.faults.clone())
    }

    /// It may start again.
    pub(crate) fn come_back(&self) {
        self.inner().away_until = None;
        self.told.notify_one();
    }

    /// A connection to it, which ends with it.
    pub(crate) fn connect(&self) -> io::Result<DuplexStream> {
        let mut inner = self.inner();
        let running = inner.running.as_mut().ok_or(io::ErrorKind::ConnectionRefused)?;
        let ((here, mut near), (mut far, there)) = (duplex(PIPE), duplex(PIPE));
        let service = TowerToHyperService::new(running.router.clone());
        let served = http1::Builder::new().serve_connection(TokioIo::new(there), service).with_upgrades();
        running.tasks.spawn(async move { drop(served.await) });
        // What is between the two ends goes with the process, or is cut by the nemesis; a session may have left the process's
        // own tasks by then, and sees that nobody is there.
        let line = running.tasks.spawn(async move { drop(copy_bidirectional(&mut near, &mut far).await) });
        running.lines.retain(|line| !line.is_finished());
        running.lines.push(line);
        Ok(here)
    }

    /// Its open connections.
    pub(crate) fn lines(&self) -> Vec<AbortHandle> {
        let lines = self.inner().running.as_ref().map(|running| running.lines.clone()).unwrap_or_default();
        lines.into_iter().filter(|line| !line.is_finished()).collect()
    }

    /// What is broken in it; a process that does not run is broken as a whole.
    pub(crate) fn faulty(&self) -> Vec<String> {
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
                    () = self.told.notified() => {}
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
                    scene.log().wrong(format!("{} does not start in 90 s", self.name));
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
                    () = self.told.notified() => {
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
            // Whatever of it is left somewhere does nothing any more.
            faults.die();
            sleep(dice.millis(200, 4_000)).await;
        }
    }

    async fn start(&self, scene: &Arc<Scene>, faults: &Faults) -> Result<Running> {
        let platform = Platform {
            world: scene.world.clone(),
            bus: Bus::Memory(scene.bus.with_faults(faults)),
            topology: Arc::new(Topology::rideshare()),
            metrics: Arc::new(Metrics::new()),
            health: Arc::new(Health::default()),
            shutdown: CancellationToken::new(),
            pod: self.name.clone(),
        };
        background::apply_topology(&platform).await.map_err(anyhow::Error::msg)?;
        let (stop, pod, tokens) = (platform.shutdown.clone(), &self.name, scene.tokens.clone());
        let (tasks, lines) = (JoinSet::new(), Vec::new());
        let mut running = Running { faults: faults.clone(), platform, router: Router::new(), tasks, lines };
        let platform = running.platform.clone();
        let mut routes = Vec::new();
        match self.service {
            Service::Location => {
                let config = location::Config { max_speed_mps: 600.0, aggregate_every: chrono::Duration::seconds(6) };
                let store = scene.stores.location.with_faults(pod, faults);
                let service = Location::start(&platform, &store, tokens, config).await?;
                routes.push(service.router());
                self.run(scene, &mut running, check(&store), service.run(stop));
            }
            Service::Rides => {
                let store = scene.stores.rides.with_faults(pod, faults);
                let service = Rides::start(&platform, &store, tokens, rides::Config::default()).await?;
                routes.push(service.router());
                self.run(scene, &mut running, check(&store), service.run(stop));
            }
            Service::Match => {
                let config = matching::Config { request_ttl_s: 90, ..Default::default() };
                let store = scene.stores.matching.with_faults(pod, faults);
                let service = Matching::start(&platform, &store, config).await?;
                self.run(scene, &mut running, check(&store), service.run(stop));
            }
            Service::Users => {
                let config = users::Config {
                    otp_delivery: "response".parse().map_err(anyhow::Error::msg)?,
                    request_ttl_s: 90,
                    ..Default::default()
                };
                let store = scene.stores.users.with_faults(pod, faults);
                let service = Users::start(&platform, &store, tokens, config).await?;
                routes.push(service.router());
                self.run(scene, &mut running, check(&store), service.run(stop));
            }
        }
        running.tasks.spawn(sweeper::run(platform.clone()));
        running.router = http::router(&platform, routes);
        Ok(running)
    }

    /// Runs the service; that it ends unasked is wrong whatever the faults.
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
                scene.log().wrong(format!("{name} ended by itself"));
            }
        });
    }
}

/// As the program asks its store whether it answers.
fn check<T: platform::Tables>(store: &Store<T>) -> Check {
    let store = store.clone();
    Box::new(move || {
        let store = store.clone();
        Box::pin(async move { store.check().await })
    })
}
